# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The long parts of the gate run beside the other tests, and are looked at when their own turn comes."""

from __future__ import annotations

import subprocess
import time
import typing as t
from pathlib import Path

from tests.gate.tools import BEHIND, PATIENCE, tail


class Job:
    """A command that was started, at the lowest priority, and its output so far.

    :param name: what it is, for messages.
    :param argv: the command.
    :param folder: for its output.
    """

    def __init__(self, name: str, argv: t.Sequence[str], folder: Path, env: t.Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["nice", "-n", str(BEHIND), *argv], cwd=folder, env=dict(env), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end and return its exit status.

        :raises AssertionError: when it has not ended ``seconds`` from now, with what it had said until then.
        """
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, (
                f"{self.name} had not ended after {seconds:.0f} s more; it said:\n{tail(self.output())}"
            )
            time.sleep(0.2)
        return self.process.returncode

    def stop(self) -> None:
        """End it with all its children, if it still runs."""
        if self.process.poll() is None:
            subprocess.run(["kill", "--", f"-{self.process.pid}"], check=False, timeout=10)
            self.process.wait(timeout=30)

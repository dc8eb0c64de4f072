# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program ``gridbox-reconcile`` as it is installed, run beside an engine of the tests' own."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.lab.engine import Dockerd, PodmanService


class Reconciler:
    """The program on an engine's host.

    :param folder: an empty one, for the program and what it remembers.
    """

    def __init__(self, engine: Dockerd | PodmanService, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        (folder / "program").write_bytes(build("reconcile.program", sys.executable))
        (folder / "units").mkdir()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, and return at once."""
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.engine.netns}", sys.executable, str(self.folder / "program"),
             "--engine-url", self.engine.url, "--state", str(self.folder / "run/state.json"),
             "--unit-folder", str(self.folder / "units"), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end: exit status, and what it says to the journal."""
        process = self.start("--wait", "0", *arguments)
        _output, errors = process.communicate(timeout=120)
        return process.returncode, errors

    def findings(self, *arguments: str) -> dict[str, str]:
        """What it would do, by VO-box."""
        output, errors = self.start("--wait", "0", "--dry-run", "--json", *arguments).communicate(timeout=60)
        assert not errors
        return {finding["name"]: finding["action"] for finding in json.loads(output)["findings"]}

    def state(self) -> dict[str, t.Any]:
        """What it remembers."""
        return t.cast("dict[str, t.Any]", json.loads((self.folder / "run/state.json").read_text()))

    def events(self) -> list[tuple[str, str]]:
        """What it has done and what went wrong: the VO-box, and the text."""
        return [(event["name"], event["text"]) for event in self.state()["events"]]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount namespace for an engine and what works with it: what is mounted there nobody else has, and nobody holds."""

from __future__ import annotations

import subprocess
import typing as t
from pathlib import Path


class Mounts:
    """One in which all mounts are shared, as systemd has them on a host. It lives until it is closed."""

    def __init__(self) -> None:
        script = "mount --make-rshared / && echo ready && exec sleep 86400"
        argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", script]
        self._holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None and self._holder.stdout.readline() == b"ready\n"

    def __enter__(self) -> Mounts:
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._holder.stdout is not None
        self._holder.kill()
        self._holder.wait(30)
        self._holder.stdout.close()

    @property
    def pid(self) -> int:
        """A process in it."""
        return self._holder.pid

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that enters it."""
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")

    def run(self, *argv: str) -> str:
        """Run a command in it; what it printed."""
        done = subprocess.run(
            [*self.enter, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def below(self, folder: t.Union[str, Path]) -> list[str]:
        """Where something is mounted below a folder, each as often as it is."""
        return mounted_below(folder, self._holder.pid)


def mounted_below(folder: t.Union[str, Path], pid: int) -> list[str]:
    """Where something is mounted below a folder for a process, each as often as it is."""
    lines = Path(f"/proc/{pid}/mounts").read_text().splitlines()
    return sorted(line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/"))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command that mounts, in namespaces of its own: however it ends, its mounts and its processes end with it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run_alone
from tests.lab.lan import run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount and PID namespaces")

#: Binds the first folder onto the second, starts something that outlives it, and goes on as it is told.
SCRIPT = 'mount --bind "$1" "$2"; setsid sleep "$3" & ls "$2"; '


@pytest.fixture()
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of the host's, with a file in it, and the place in a temporary root that it is bound to."""
    host, root = tmp_path / "host", tmp_path / "root"
    host.mkdir()
    root.mkdir()
    (host / "precious").write_text("data\n")
    return host, root


def command(folders: tuple[Path, Path], mark: str, then: str) -> list[str]:
    return ["sh", "-euc", SCRIPT + then, "sh", *map(str, folders), mark]


def settled(folders: tuple[Path, Path], mark: str) -> None:
    """Nothing is mounted or runs any more, and removing the root leaves what was bound into it."""
    host, root = folders
    assert str(root) not in Path("/proc/self/mounts").read_text()
    assert run("pgrep", "--list-full", "--full", f" {mark}$", check=False).stdout == ""
    shutil.rmtree(root)
    assert (host / "precious").read_text() == "data\n"


@pytest.mark.parametrize(("mark", "expected"), [("7311.5", WaitError), ("7312.5", KeyboardInterrupt)])
def test_a_command_that_is_killed(folders: tuple[Path, Path], mark: str, expected: type[BaseException]) -> None:
    """By its time-out, and because a person interrupts the caller."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(1 if expected is KeyboardInterrupt else 0)
    try:
        with pytest.raises(expected):
            run_alone("Mounting", command(folders, mark, "wait"), timeout=2)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    settled(folders, mark)


def test_a_command_that_ends(folders: tuple[Path, Path]) -> None:
    assert run_alone("Mounting", command(folders, "7313.5", "exit 0"), timeout=20) == "precious\n"
    settled(folders, "7313.5")


def test_a_command_that_fails(folders: tuple[Path, Path]) -> None:
    with pytest.raises(GridboxError, match=r"Mounting failed\. sh ended with 7 and says: no way"):
        run_alone("Mounting", command(folders, "7314.5", "echo no way >&2; exit 7"), timeout=20)
    settled(folders, "7314.5")

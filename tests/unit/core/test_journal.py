# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal: undo newest first, and the guard that undoes when the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal


def nothing() -> None:
    """No connection to drop."""


def test_roll_back_undoes_newest_first_and_goes_on_after_a_failure() -> None:
    undone: list[str] = []

    def undo(name: str, data: t.Mapping[str, t.Any]) -> None:
        if data.get("broken"):
            raise RuntimeError("no such link")
        undone.append(name)

    with Journal(undo, nothing) as journal:
        journal.will_do("remove the network", "first")
        journal.will_do("put back the link", "second", broken=True)
        journal.will_do("start the container", "third")
        outcome = journal.roll_back()
    assert undone == ["third", "first"]
    assert outcome.undone == ["start the container", "remove the network"]
    assert outcome.failed == ["put back the link: no such link"]


def test_settled_entries_are_not_undone() -> None:
    undone: list[str] = []
    with Journal(lambda name, data: undone.append(name), nothing) as journal:
        journal.will_do("a", "a")
        journal.settle()
        journal.will_do("b", "b")
        journal.roll_back()
    assert undone == ["b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
folder = Path(sys.argv[1])
def undo(name, data):
    with (folder / "undone").open("a") as out:
        out.write(name + data["mark"] + "\\n")
with Journal(undo, lambda: (folder / "connections-dropped").touch()) as journal:
    journal.will_do("one", "one", mark="!")
    journal.will_do("two", "two", mark="?")
    if sys.argv[2] == "settle":
        journal.settle()
    if sys.argv[2] == "raise":
        raise KeyboardInterrupt
    if sys.argv[2] != "leave":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_killed(folder: Path, how: str) -> int:
    return subprocess.run([sys.executable, "-c", KILLED, str(folder), how], check=False, timeout=30).returncode


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"the guard wrote no {path.name} within 10 s"
        time.sleep(0.01)


def test_the_guard_undoes_when_the_process_is_killed(tmp_path: Path) -> None:
    assert run_killed(tmp_path, "kill") == -signal.SIGKILL
    wait_for(tmp_path / "undone")
    time.sleep(0.2)
    assert (tmp_path / "undone").read_text() == "two?\none!\n"
    assert (tmp_path / "connections-dropped").exists()


def test_the_guard_undoes_what_an_exception_has_left_written_down(tmp_path: Path) -> None:
    assert run_killed(tmp_path, "raise") != 0
    assert (tmp_path / "undone").read_text() == "two?\none!\n"


@pytest.mark.parametrize("how", ["settle", "leave"])
def test_the_guard_leaves_a_settled_or_finished_apply_alone(tmp_path: Path, how: str) -> None:
    run_killed(tmp_path, how)
    time.sleep(0.3)
    assert not (tmp_path / "undone").exists()


SLOW_COMMAND = """
import os, signal, sys
from ansible_collections.hep.gridbox.plugins.module_utils.host import command
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
made, stays = sys.argv[1], sys.argv[2] == "stays"
def undo(name, data):
    os.rename(made, made + ".undone")
def listen(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)
command._listen = listen
with Journal(undo, lambda: None) as journal:
    journal.will_do("made", "made")
    command.run("Making it", ["sh", "-c", sys.argv[3], "-", made], stays=stays)
"""


@pytest.mark.parametrize(
    ("stays", "script"),
    [
        ("ends", 'sleep 0.5; touch "$1"'),
        # A mount's FUSE server, say: its undo is not to wait for its end, which it brings about itself.
        ("stays", 'touch "$1"; exec sleep 12'),
    ],
)
def test_the_guard_waits_for_a_command_of_the_process_that_was_killed(tmp_path: Path, stays: str, script: str) -> None:
    made = tmp_path / "made"
    if stays == "stays":
        made.touch()
    argv = [sys.executable, "-c", SLOW_COMMAND, str(made), stays, script]
    killed = subprocess.run(argv, check=False, timeout=30, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    wait_for(tmp_path / "made.undone")
    time.sleep(0.2)
    assert not made.exists() or stays == "stays"


def test_the_guard_does_not_hold_the_modules_output(tmp_path: Path) -> None:
    """Ansible reads a module's output to its end; a guard that held it would keep a killed module running for ever."""
    started = time.monotonic()
    slow = KILLED.replace("def undo(name, data):", "def undo(name, data):\n    import time; time.sleep(2)")
    done = subprocess.run(
        [sys.executable, "-c", slow, str(tmp_path), "kill"],
        check=False,
        capture_output=True,
        timeout=30,
        env={**os.environ},
    )
    assert done.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 2
    wait_for(tmp_path / "undone")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock: one run at a time, and none while a killed one's guard is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils import lock
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "folder", lambda: str(tmp_path))
    return tmp_path


def test_the_second_waits_and_names_the_first(folder: Path) -> None:
    with Lock("VO-box vobox1"):
        with Lock("VO-box vobox2", 0):
            pass
        with pytest.raises(WaitError) as refused, Lock("VO-box vobox1", 0.2):
            pass
    said = str(refused.value)
    assert "to leave VO-box vobox1 alone" in said and f"process {os.getpid()} has {folder}/hep.gridbox-" in said
    with Lock("VO-box vobox1", 0):
        pass
    assert list(folder.iterdir()) == []


def test_whether_a_lock_is_held_is_known_without_taking_it(folder: Path) -> None:
    assert not Lock("a").is_held()
    with Lock("a"):
        assert Lock("a").is_held()
        assert not Lock("b").is_held()
        left = next(folder.iterdir())
        (folder / "kept").hardlink_to(left)
    (folder / "kept").rename(left)  # as whoever is killed leaves it
    assert not Lock("a").is_held()


def test_a_lock_whose_file_has_gone_is_let_go_of(folder: Path) -> None:
    with Lock("a"):
        next(folder.iterdir()).unlink()
    with Lock("a", 0):
        pass


KILLED = """
import os, signal, sys, time
from ansible_collections.hep.gridbox.plugins.module_utils import lock
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
lock.folder = lambda: sys.argv[1]
def undo(name, data):
    time.sleep(1)
    open(f"{sys.argv[1]}/undone", "w").close()
with lock.Lock("a") as held, Journal(undo, lambda: None, held.release) as journal:
    journal.will_do("one", "one")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_of_a_killed_run_is_its_guards_until_the_undo_has_ended(folder: Path) -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    with Lock("a", 20):
        assert (folder / "undone").exists()
    assert time.monotonic() - began > 1
    assert {path.name for path in folder.iterdir()} == {"undone"}


AS_SOMEBODY = """
import os, sys
from ansible_collections.hep.gridbox.plugins.module_utils import lock
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
lock.folder = lambda: sys.argv[1]
try:
    with lock.Lock("a", 0.2):
        print("taken")
except GridboxError as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_another_users_lock_is_waited_for_and_its_owner_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write to, as the temporary one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        monkeypatch.setattr(lock, "folder", lambda: folder)
        argv = [sys.executable, "-c", AS_SOMEBODY, folder]
        with Lock("a"):
            (name,) = os.listdir(folder)
            said = subprocess.run(argv, check=True, timeout=30, capture_output=True, text=True).stdout
        assert f"the user root has {folder}/{name}" in said and "Waited 0.2 s" in said
        assert "taken" in subprocess.run(argv, check=True, timeout=30, capture_output=True, text=True).stdout


def test_a_lock_that_cannot_be_made_is_a_sentence(folder: Path) -> None:
    with Lock("a"):
        (path,) = folder.iterdir()
    path.symlink_to("/nowhere")
    with pytest.raises(GridboxError, match=rf"^The lock {path} cannot be made \(.*\)\.$"), Lock("a", 0):
        pass

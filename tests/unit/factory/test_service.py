# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.service import ServiceWork, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.host import background
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Step

START = Step("start", "/a", "it is to run")


def work(tmp_path: Path, script: str) -> ServiceWork:
    """That of a program that does this."""
    program = tmp_path / "gridbox"
    program.write_text(f"#!{sys.executable} -I\n{script}\n")
    program.chmod(0o755)
    (tmp_path / "factory.json").write_text("{}")
    return ServiceWork(
        Wish("started", str(program), str(tmp_path / "factory.json"), str(tmp_path / "log"), wait_timeout=3)
    )


def undone(it: ServiceWork, error: type[GridboxError], said: str) -> tuple[str, ...]:
    """Try to start the daemon; what was put back when that failed."""
    with Journal(it.undo, it.before_guard_undo) as journal:
        with pytest.raises(error, match=said):
            it.do(START, journal)
        rollback = journal.roll_back()
    assert not rollback.failed
    return tuple(rollback.undone)


def test_a_daemon_that_does_not_come_up_is_stopped(tmp_path: Path) -> None:
    it = work(tmp_path, "import time; time.sleep(60)")
    assert undone(it, WaitError, "to write its first report") == ("stopped the daemon that did not come up",)
    assert it.observe() is None


def test_a_daemon_that_somebody_else_has_started_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the factory's lock, so ours ends at once, which is no reason to end that one."""
    it = work(tmp_path, "import sys; sys.exit('the factory is at work already')")
    with subprocess.Popen(["sleep", "60"]) as other:
        found = running.Running(other.pid, background.started(other.pid), ("gridbox",))
        monkeypatch.setattr(running, "find", lambda *_given: found)
        undone(it, GridboxError, "at work already")
        assert other.poll() is None
        other.kill()

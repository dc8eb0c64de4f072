# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory import running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.running import Running
from ansible_collections.hep.gridbox.plugins.module_utils.host import processes
from tests.unit.factory.reports import CONFIGURATION, REPORT

PROGRAM, KEY = REPORT.program_stamp, REPORT.key_stamp
DAEMON = Running(4711, 1, ("gridbox",), REPORT)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"port": 9995}, ["port is 995 in the daemon, and 9995 is wanted"]),
        ({"engine_url": "unix:///x"}, ["engine_url is '' in the daemon, and 'unix:///x' is wanted"]),
        ({"settings": replace(CONFIGURATION.settings, grace_seconds=5)}, []),
        ({"signed_only": True}, []),
        ({"key_file": "/k"}, ["key_file is '' in the daemon, and '/k' is wanted"]),
    ],
)
def test_what_takes_a_restart(change: dict[str, t.Any], reasons: list[str]) -> None:
    wanted = replace(CONFIGURATION, **change)
    assert running.restart_reasons(wanted, DAEMON, PROGRAM, KEY) == reasons
    assert running.restart_reasons(wanted, None, PROGRAM, KEY) == []


def test_another_program_or_key_takes_a_restart() -> None:
    [reason] = running.restart_reasons(CONFIGURATION, DAEMON, "another", KEY)
    assert "another program" in reason
    with_key = replace(CONFIGURATION, key_file="/k")
    daemon = replace(DAEMON, report=replace(REPORT, fixed=with_key.fixed))
    assert running.restart_reasons(with_key, daemon, PROGRAM, KEY) == []
    for stamp in ("another", None):
        assert running.restart_reasons(with_key, daemon, PROGRAM, stamp) == ["the daemon has another key than /k"]


def test_a_daemon_of_another_state_folder_takes_a_restart() -> None:
    [reason] = running.restart_reasons(CONFIGURATION, replace(DAEMON, report=None), PROGRAM, KEY)
    assert "no report in the state folder" in reason


def test_a_daemon_follows_the_file_that_it_has_read_and_uses(tmp_path: Path) -> None:
    file = tmp_path / "factory.json"
    file.write_text("{}")
    read = replace(REPORT, configuration_stamp=reports.stamp(str(file)))
    assert running.follows(replace(DAEMON, report=read), str(file))
    assert not running.follows(replace(DAEMON, report=replace(read, configuration_problem="no")), str(file))
    assert not running.follows(replace(DAEMON, report=None), str(file))
    assert not running.follows(None, str(file))
    file.write_text("{ }")
    assert not running.follows(replace(DAEMON, report=read), str(file))


def test_a_daemon_is_known_by_its_program_and_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gridbox"
    program.write_text(f"#!{sys.executable} -I\nimport sys; sys.stdout.write('up\\n'); sys.stdout.flush(); input()\n")
    program.chmod(0o755)
    argv = [str(program), "--configuration", "/a", "factory", "--log", "/l"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        reports.write(str(tmp_path), replace(REPORT, pid=process.pid))
        found = running.find(str(program), "/a", [str(tmp_path / "none"), str(tmp_path)])
        assert found is not None
        assert (found.pid, found.argv[2:]) == (process.pid, tuple(argv))
        assert found.report is not None
        reports.write(str(tmp_path), replace(REPORT, pid=process.pid + 1))
        other = running.find(str(program), "/a", [str(tmp_path)])
        assert other is not None
        assert other.report is None, "it is of the daemon before"
        assert running.find(str(program), "/b", []) is None
        monkeypatch.setattr(processes, "is_ours", lambda pid: pid != process.pid)
        assert running.find(str(program), "/a", []) is None, "somebody else's"
    finally:
        process.communicate(b"\n")
    assert running.find(str(program), "/a", []) is None

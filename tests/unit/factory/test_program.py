# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command says to whoever is not root: a monitoring system's account, as a rule."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import program
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import write
from tests.unit.factory.reports import REPORT


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def for_root(path: str) -> t.NoReturn:
        raise GridboxError(f"{path} cannot be read (Permission denied).") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(program, "load", for_root)
    monkeypatch.setattr(program, "STATE_FOLDER", str(tmp_path))
    return tmp_path


def test_whether_a_factory_is_well_is_told_to_everybody(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration is root's alone, for it may hold secrets; the report is not."""
    write(str(state), replace(REPORT, written=time.time()))
    assert program.main(["check"]) == 0
    assert capsys.readouterr().out.startswith("OK: Factory ok")
    assert program.main(["metrics"]) == 0
    assert program.main(["explain"]) == 0


def test_who_may_not_read_which_factory_is_meant_is_told_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its state may be elsewhere."""
    assert program.main(["check"]) == 3
    assert "Permission denied" in capsys.readouterr().out
    write(str(state), REPORT)
    assert program.main(["--configuration", "/etc/other.json", "check"]) == 3

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the reconciler remembers, and its command line where no engine is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.decide import Finding, Past
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.memory import Memory, load
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.program import main


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "run/state.json")
    assert load(path) == Memory()
    memory = Memory("2026-11-25T07:00:00Z", {"vb": Past(2, 17.5)}, [Finding("vb", "wait", "why")])
    assert memory.note("2026-11-25T07:00:00Z", "vb", "why")
    memory.save(path)
    assert load(path) == memory


def test_the_same_again_is_no_news_and_old_news_goes() -> None:
    memory = Memory()
    assert memory.note("1", "vb", "waits")
    assert not memory.note("2", "vb", "waits")
    assert memory.note("3", "other", "waits")
    assert not memory.note("4", "vb", "waits")
    assert memory.note("5", "vb", "started")
    assert memory.note("6", "vb", "waits")
    for number in range(100):
        memory.note("7", "vb", str(number))
    assert [event["text"] for event in memory.events] == [str(number) for number in range(50, 100)]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"looked": "", "past": {"vb": {"no": 1}}}'])
def test_what_is_no_state_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text)
    with pytest.raises(GridboxError, match=r"state cannot be read as what the reconciler knows \(.*\)\. Remove it\.$"):
        load(str(tmp_path / "state"))


def test_an_engine_that_is_not_there_is_another_status(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert main(["--engine-url", "unix:///nowhere/docker.sock", "--state", state]) == 3
    assert "there is no socket /nowhere/docker.sock" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_wrong_argument_is_another_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--wait", "long"])
    assert ended.value.code == 2
    assert "--wait" in capsys.readouterr().err

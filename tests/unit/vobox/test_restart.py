# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The note that tells of a restart that was cut short, with an engine that does what a test says."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import restart as module
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import (
    forget,
    noted,
    restart,
    was_cut_short,
)


class Engine:
    """Has one container, and restarts it or is cut short once it has stopped it."""

    url = "unix:///run/docker.sock"

    def __init__(self, cut_short: bool) -> None:
        self.cut_short = cut_short
        self.state = {"Running": True, "StartedAt": "2026-11-30T07:00:00Z"}

    def container(self, _name: str) -> dict[str, t.Any]:
        return {"Id": "c0ffee", "State": dict(self.state)}

    def restart_container(self, _name: str, _grace: int) -> None:
        if self.cut_short:
            self.state["Running"] = False
            raise GridboxError("cut short")
        self.start()

    def start(self) -> None:
        self.state = {"Running": True, "StartedAt": "2026-11-30T07:00:05Z"}

    def was_cut_short(self) -> bool:
        return was_cut_short(self.container("vobox1"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "FOLDER", str(tmp_path / "hep.gridbox"))
    return tmp_path / "hep.gridbox"


def restart_of(engine: t.Any) -> None:
    restart(engine, "vobox1", 10)


def test_a_restart_that_ends_leaves_nothing(folder: Path) -> None:
    engine = Engine(cut_short=False)
    restart_of(engine)
    assert not folder.exists()
    engine.state["Running"] = False  # somebody stops it
    assert not engine.was_cut_short()


def test_one_that_was_cut_short_is_known_until_the_container_is_started() -> None:
    engine = Engine(cut_short=True)
    with pytest.raises(GridboxError):
        restart_of(engine)
    assert engine.was_cut_short()
    engine.start()  # by whomever
    assert not engine.was_cut_short()
    engine.state["Running"] = False
    assert not engine.was_cut_short()


def test_it_can_be_forgotten_and_finished(folder: Path) -> None:
    engine = Engine(cut_short=True)
    with pytest.raises(GridboxError):
        restart_of(engine)
    engine.cut_short = False
    restart_of(engine)
    assert engine.state["Running"]
    engine = Engine(cut_short=True)
    with pytest.raises(GridboxError):
        restart_of(engine)
    (folder / "other").touch()
    forget("c0ffee")
    forget("c0ffee")
    assert not engine.was_cut_short()
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_of_an_engine_elsewhere_nothing_is_noted(folder: Path) -> None:
    engine = Engine(cut_short=True)
    engine.url = "tcp://192.0.2.1:2376"
    with pytest.raises(GridboxError):
        restart_of(engine)
    assert not folder.exists() and noted() == []


@pytest.mark.parametrize("uid", [0, 1000])
def test_who_may_use_the_engine_and_not_the_folder_restarts_without_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    def refused(*_arguments: t.Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "write_file", refused)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    engine = Engine(cut_short=False)
    if uid:
        restart_of(engine)
        assert engine.state["StartedAt"] == "2026-11-30T07:00:05Z"
    else:
        with pytest.raises(GridboxError, match=f"Writing {folder}/restart-c0ffee failed"):
            restart_of(engine)

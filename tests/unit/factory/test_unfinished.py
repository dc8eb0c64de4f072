# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a process leaves that is killed while it writes, and who removes it."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    accounting,
    chosen_engine,
    orders,
    unfinished,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import Pull, PulledImages
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from tests.lab.killed import killed
from tests.unit.factory.reports import CONFIGURATION, ENDED_MACHINE, NOW, REPORT
from tests.unit.factory.test_store import at_replace

PULL = Pull("unix:///e", "registry.example.org/pilot:1", None, ())


@pytest.fixture()
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """One whose daemon wrote its metrics to another file before, whose folder is there and holds another's."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    for name in ("state", "run", "metrics", "before"):
        (tmp_path / name).mkdir()
    made = replace(
        CONFIGURATION, state_folder=str(tmp_path / "state"), metrics_file=str(tmp_path / "metrics" / "gridbox.prom")
    )
    reports.write(made.state_folder, replace(REPORT, metrics_file=str(tmp_path / "before" / "old.prom")))
    return made


def files(folder: Path) -> list[str]:
    """All of a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def writers(configuration: Configuration) -> dict[str, t.Callable[[], object]]:
    """By file, what writes it."""
    state = configuration.state_folder
    return {
        "report.json": lambda: reports.write(state, REPORT),
        "pulled-images.json": lambda: PulledImages(state).note(PULL, "sha256:a", NOW),
        "engine": lambda: chosen_engine.keep(state, "unix:///e"),
        "apel-synced": lambda: accounting.write_due(state, NOW),
        "apel-outgoing": lambda: accounting.write_sync(state, "text", NOW),
        "machine.json": lambda: Store(state).create(ENDED_MACHINE),
        "metrics": lambda: write_atomically(configuration.metrics_file, b"", 0o644),
        "metrics before": lambda: write_atomically(
            configuration.metrics_file.replace("metrics/gridbox", "before/old"), b"", 0o644
        ),
        "orders": lambda: orders.change(state, lambda given: replace(given, draining=True)),
    }


def test_what_was_not_finished_goes_whatever_it_was(factory: Configuration, tmp_path: Path) -> None:
    before = files(tmp_path)
    for name, write in writers(factory).items():
        assert killed(write, at_replace), name
        assert len(files(tmp_path)) == len(before) + 1, name
        unfinished.remove(factory)
        assert files(tmp_path) == before, name


def test_whose_name_is_another_or_who_is_at_work_keeps_his(factory: Configuration, tmp_path: Path) -> None:
    state = tmp_path / "state"
    day = state / "apel-outgoing" / "20261130"
    day.mkdir(parents=True)
    name = Path(orders.path_of(factory.state_folder)).name
    kept = [
        state / "report.json.new", state / "my-report.json.17.1.new", state / "engine.17.new",
        tmp_path / "metrics" / "other.prom.17.1.new", tmp_path / "metrics" / "gridbox.prom.17.1.new~",
        tmp_path / "metrics" / "gridbox-prom.17.1.new", tmp_path / "before" / "gridbox.prom.17.1.new",
        tmp_path / "run" / "orders-0.json.17.1.new", day / "12000000000000",
    ]  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        kept.append(day / f"12000000000000.{other.pid}.1.new")
        given = tmp_path / "run" / f"{name}.{other.pid}.1.new"
        gone = [state / "report.json.17.140000.new", day / f"12000000000000.{os.getpid()}.1.new"]
        for path in (*kept, *gone, given):
            path.write_text("{")
        with Lock(f"the orders to the factory in {os.path.realpath(state)}"):
            unfinished.remove(factory)
        assert given.exists(), "somebody is giving some"
        unfinished.remove(factory)
        other.communicate(b"\n")
    assert [path for path in kept if not path.exists()] == []
    assert [path for path in (*gone, given) if path.exists()] == []


def test_nothing_need_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    unfinished.remove(replace(CONFIGURATION, state_folder=str(tmp_path / "none"), metrics_file="/none/a.prom"))
    assert list(tmp_path.iterdir()) == []

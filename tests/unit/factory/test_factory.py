# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import threading
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import factory as factories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE


def made(tmp_path: Path) -> factories.Factory:
    """A factory that has not asked its engine yet; in a loop."""
    wanted = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"})
    return factories.Factory(wanted, lambda _event, **_facts: None)


def test_a_machine_that_ends_while_it_is_measured_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_pid: int) -> float:
        asked.set()
        assert go_on.wait(10)
        return 7.0

    monkeypatch.setattr(factories, "cpu_seconds", slow)

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines[LIVE.uuid] = LIVE
        factory._pids[LIVE.uuid] = 1
        measuring = asyncio.ensure_future(factory.measure())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        factory.machines[LIVE.uuid] = replace(LIVE, state=ENDED)
        go_on.set()
        await measuring
        assert factory.machines[LIVE.uuid].state == ENDED
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_runs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "cpu_seconds", {1: 7.9}.get)

    async def test() -> None:
        factory = made(tmp_path)
        other = replace(LIVE, uuid="u2")
        factory.machines.update({LIVE.uuid: LIVE, other.uuid: other})
        factory._pids.update({LIVE.uuid: 1, other.uuid: 2})
        await factory.measure()
        assert factory.machines[LIVE.uuid].cpu_seconds == 7
        assert factory.machines[other.uuid] == other
        await factory.close()

    asyncio.run(test())


def test_how_much_room_there_is_is_not_asked_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For LVM that is a command of up to two minutes."""
    asked: list[int] = []

    def room(*_arguments: t.Any) -> int:
        asked.append(threading.get_ident())
        return 1 << 40

    async def test() -> None:
        factory = made(tmp_path)
        monkeypatch.setattr(factory.work_spaces, "free_bytes", room)
        factory.engine_problem = ""
        factory._looked = time.time()
        factory.tick()
        factory.tick()
        await factory.close()
        assert factory.decision is None, "it is closing"
        assert len(asked) == 1
        assert threading.get_ident() not in asked

    asyncio.run(test())


def test_the_last_end_of_a_machinetype_is_kept_while_a_newer_machine_runs(tmp_path: Path) -> None:
    """It is what the other factories are told of."""
    over = replace(
        LIVE, uuid="u0", slot="f1-01.example.org", created=1, started=2, ended=100, state=ENDED, cleaned=True
    )
    older = replace(over, uuid="u3", created=2, ended=50)
    after = replace(LIVE, uuid="u2", slot="f1-01.example.org")

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines = {one.uuid: one for one in (over, older, LIVE, after)}
        factory._trim()
        assert set(factory.machines) == {over.uuid, LIVE.uuid, after.uuid}
        await factory.close()

    asyncio.run(test())

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

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import factory as factories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, STARTING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, RUNS


def made(tmp_path: Path, said: t.Optional[list[str]] = None, **options: t.Any) -> factories.Factory:
    """A factory that has not asked its engine yet; in a loop."""
    wanted = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", **options})
    return factories.Factory(wanted, lambda event, **_facts: said.append(event) if said is not None else None)


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


def test_what_machines_that_run_may_still_write_into_a_folder_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    other = replace(LIVE, uuid="u2", slot="f1-01.example.org", processors=2)
    starting = replace(LIVE, uuid="u3", state=STARTING)

    def free(promised: int = 0) -> int:
        asked.append(promised)
        return 0

    async def test() -> None:
        factory = made(tmp_path, disk_gb_per_processor=10)
        factory.machines = {one.uuid: one for one in (LIVE, other, starting, replace(LIVE, uuid="u4", state=ENDED))}
        monkeypatch.setattr(factory.work_spaces, "free_bytes", free)
        await factory._decide()
        factory._written = {"u1": Written(0, 4 * 10**9), "u2": Written(None, 21 * 10**9)}
        await factory._decide()
        factory.configure(replace(factory.configuration, work_space="file"))
        monkeypatch.setattr(factory.work_spaces, "free_bytes", free)
        await factory._decide()
        await factory.close()

    asyncio.run(test())
    assert asked == [30 * 10**9, 6 * 10**9, 0], "of the one that starts the decision knows itself"


def test_a_machine_that_cannot_be_measured_does_not_hide_what_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    asked: list[list[str]] = []

    def written(machines: t.Sequence[Machine]) -> dict[str, Written]:
        asked.append([one.uuid for one in machines])
        if "u2" in asked[-1]:
            raise GridboxError("no answer")
        return {one.uuid: Written(5) for one in machines}

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.machines = {uuid: replace(LIVE, uuid=uuid) for uuid in ("u1", "u2", "u3")}
        factory._written = {"u2": Written(4), "gone": Written(3)}
        monkeypatch.setattr(factory.life, "written", written)
        await factory._weigh_all()
        assert asked == [["u1", "u2", "u3"], ["u1"], ["u2"], ["u3"]]
        assert factory._written == {"u1": Written(5), "u2": Written(4), "u3": Written(5)}
        assert said == ["measuring_failed"]
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_wrote_too_much_is_told_to_end_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, created=now, started=now, shutdown_time=now + 3600)

    async def test() -> None:
        factory = made(tmp_path, said, root_gb_per_processor=0.001)
        factory.engine_problem, factory._looked = "", time.time()
        monkeypatch.setattr(
            factory.life, "written",
            lambda machines: {one.uuid: Written(1000 * 1000 + (one.uuid == "u2")) for one in machines},
        )  # fmt: skip
        monkeypatch.setattr(factory, "_send_term", lambda machine: machine)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)
        other = replace(live, uuid="u2", slot="f1-01.example.org")
        factory.machines = {one.uuid: one for one in (live, other)}
        for _turn in range(20):
            factory.tick()
            await asyncio.sleep(0.02)
        assert said.count("machine_told_to_end") == 1
        assert factory.machines["u2"].end_code == "disk_limit"
        assert factory.machines["u1"].told is None
        await factory.close()

    asyncio.run(test())

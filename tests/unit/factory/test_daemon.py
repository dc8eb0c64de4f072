# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import sys
import time
import types
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import host_facts, orders
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import REPORT, Daemon, _Listener, end_all
from ansible_collections.hep.gridbox.plugins.module_utils.factory.factory import Factory
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE


def test_a_task_that_swallows_a_cancellation_ends() -> None:
    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def test() -> None:
        tasks = [asyncio.ensure_future(swallows()), asyncio.ensure_future(asyncio.sleep(0))]
        await asyncio.sleep(0.01)
        await asyncio.wait_for(end_all(tasks), 10)
        assert all(task.done() for task in tasks)

    asyncio.run(test())


def test_others_are_told_anew_when_there_is_something_new_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The responder's answers are made with each snapshot."""
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"}))
    now = [1000.0 * REPORT]
    monkeypatch.setattr(time, "time", lambda: now[0])

    async def test() -> None:
        daemon = Daemon(str(path))
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder = Responder(Access())
        daemon._host = host_facts.facts("/")

        def told_anew() -> bool:
            before = daemon.responder.snapshot
            daemon._answer()
            return daemon.responder.snapshot is not before

        assert told_anew()
        now[0] += 1
        assert not told_anew()
        daemon.factory.machines[LIVE.uuid] = LIVE
        assert told_anew()
        assert not told_anew()
        daemon.factory.machines[LIVE.uuid] = replace(LIVE, cpu_seconds=5)
        assert told_anew()
        daemon._host = replace(daemon._host, load_average=77.0)
        assert told_anew()
        daemon.configuration = replace(daemon.configuration, space="vac02.example.org")
        assert told_anew()
        now[0] += REPORT
        assert told_anew(), "the heartbeat is the clock's"
        await daemon.factory.close()

    asyncio.run(test())


def daemon_of(tmp_path: Path, **options: object) -> Daemon:
    """A daemon that does not run."""
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", **options}))
    return Daemon(str(path))


def test_a_daemon_that_begins_with_orders_it_cannot_read_drains_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was ordered may have been that nothing is started any more before a reboot."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    daemon = daemon_of(tmp_path)
    given = Path(orders.path_of(str(tmp_path)))
    given.parent.mkdir()
    given.write_text("{")
    daemon._begin_with_orders()
    assert "holds no orders" in daemon._orders_problem
    assert daemon._with_orders().settings.draining
    assert not daemon._take_orders(), "they still cannot be read"
    assert daemon._with_orders().settings.draining
    given.unlink()
    assert daemon._take_orders()
    assert not daemon._with_orders().settings.draining


def test_a_journal_on_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal may be a file on the file system of the state."""
    daemon, times = daemon_of(tmp_path), []

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def fails() -> None:
        times.append(1)
        if len(times) == 3:
            daemon._stop.set()
        raise GridboxError("the report cannot be written")

    async def test() -> None:
        daemon._stop = asyncio.Event()
        await asyncio.wait_for(daemon._every(0, fails), 10)

    monkeypatch.setattr(sys, "stdout", Full())
    asyncio.run(test())
    assert len(times) == 3


def test_what_nobody_has_thought_of_is_told_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the factory would read no orders any more, or start nothing, and be well by its report."""
    daemon, times = daemon_of(tmp_path), []

    class Broken:
        wake = asyncio.Event()

        def tick(self) -> None:
            self.wake.set()
            fails()

    def fails() -> None:
        times.append(1)
        if len(times) == 3:
            daemon._stop.set()
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        fails()

    async def test() -> None:
        daemon._stop = asyncio.Event()
        await asyncio.wait_for(daemon._every(0, work), 10)
        assert len(times) == 3
        times.clear()
        daemon._stop, daemon.factory = asyncio.Event(), Broken()  # type: ignore[assignment]
        await asyncio.wait_for(daemon._ticks(), 10)
        assert len(times) == 3

    asyncio.run(test())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in events] == ["internal_error"] * 6
    assert "can't start new thread" in events[0]["problem"]


def test_a_machinetype_that_is_gone_is_no_trouble_any_more(tmp_path: Path) -> None:
    async def test() -> None:
        daemon = daemon_of(tmp_path)
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder = Responder(Access())
        daemon.factory.failures = {"a": 3, "gone": 3}
        daemon.factory.catalogue = Catalogue((Machinetype("a"),))
        assert daemon.report().failures_in_a_row == {"a": 3}
        await daemon.factory.close()

    asyncio.run(test())


def test_the_engine_is_listened_to_again_whatever_has_broken() -> None:
    """Apptainer's looks into folders, and makes a pipe; without it nobody kills what is in no machine."""
    told: list[str] = []

    class Engine:
        turns = 0

        def ends(self, _since: float) -> t.Iterator[str]:
            self.turns += 1
            if self.turns == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield "u1"
            time.sleep(3600)

    async def test() -> None:
        factory = types.SimpleNamespace(engine=Engine(), look=lambda: None, ended=told.append)
        listener = _Listener(t.cast("Factory", factory), asyncio.get_running_loop())
        listener.start()
        for _turn in range(100):
            await asyncio.sleep(0.05)
            if told:
                break
        listener.stop()
        assert told == ["u1"]

    asyncio.run(test())

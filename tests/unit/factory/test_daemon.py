# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import host_facts
from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import REPORT, Daemon, end_all
from ansible_collections.hep.gridbox.plugins.module_utils.factory.factory import Factory
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
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

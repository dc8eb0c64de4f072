# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib

from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import end_all


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

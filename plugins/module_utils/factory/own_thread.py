# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that may never end, such as a look at a disk that does not answer, and that nothing else waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import typing as t

_Result = t.TypeVar("_Result")


async def in_own_thread(work: t.Callable[..., _Result], *arguments: t.Any) -> _Result:
    """Do something in a thread that the end of the process does not wait for, as it does for those of a pool."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def tell(result: t.Optional[_Result], problem: t.Optional[Exception]) -> None:
        if done.done():  # nobody waits any more
            return
        if problem is not None:
            done.set_exception(problem)
        else:
            done.set_result(t.cast(_Result, result))

    def run() -> None:
        result, problem = None, None
        try:
            result = work(*arguments)
        except Exception as exc:  # noqa: BLE001  it is raised where it is waited for
            problem = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: the factory has ended
            loop.call_soon_threadsafe(tell, result, problem)

    threading.Thread(target=run, name="gridbox-own", daemon=True).start()
    return await done

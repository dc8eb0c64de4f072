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

    def tell(found: t.Callable[[], None]) -> None:
        if not done.done():  # nobody waits any more
            found()

    def run() -> None:
        try:
            result = work(*arguments)
        except Exception as exc:  # noqa: BLE001  it is raised where it is waited for
            problem = exc
            found: t.Callable[[], None] = lambda: done.set_exception(problem)  # noqa: E731
        else:
            found = lambda: done.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop is closed: the factory has ended
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, name="gridbox-own", daemon=True).start()
    return await done

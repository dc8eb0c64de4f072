# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses of hosts, found beside whatever else is done, so that a name server that hangs holds up nobody.

Names are looked up in a few threads, which end with the process, also while a look-up hangs. What was found is kept for
some minutes, and for longer if it cannot be found again: a factory does not go because the name server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
import typing as t
from dataclasses import dataclass

#: Seconds for which addresses are taken for good, and for which a name that has none is not looked up again.
_KEPT, _FAILURE_KEPT = 300.0, 30.0
#: Seconds after which a thread without work ends.
_IDLE = 5.0

#: Family, and address as text; a link-local one with its zone.
HostAddress = tuple[int, str]


@dataclass(frozen=True)
class Found:
    """Of one name.

    :ivar addresses: in the order in which to try them.
    :ivar trouble: why there are none; with addresses: why they are old.
    """

    addresses: tuple[HostAddress, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class _Kept:
    found: Found
    until: float


def look_up(host: str) -> tuple[HostAddress, ...]:
    """The addresses of a name, in the system's order.

    :raises OSError: if it has none, or nobody can tell.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    families = (socket.AF_INET, socket.AF_INET6)
    return tuple(dict.fromkeys((int(one[0]), str(one[4][0])) for one in found if one[0] in families))


class Resolver:
    """Looks names up, a few at a time.

    :param threads: look-ups at a time.
    :param function: what looks one up.
    """

    def __init__(self, threads: int = 8, function: t.Callable[[str], tuple[HostAddress, ...]] = look_up) -> None:
        self._most, self._function = threads, function
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._kept: dict[str, _Kept] = {}
        self._pending: set[str] = set()
        self._running = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def resolve(self, hosts: t.Iterable[str], seconds: float) -> dict[str, Found]:
        """The addresses of names, and of addresses as text. What is not found in time is still looked up, for the next.

        :param seconds: for all together.
        """
        hosts = list(dict.fromkeys(hosts))
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        end = loop.time() + seconds
        waiter = (loop, ready)
        with self._lock:
            wanted = [host for host in hosts if self._ask(host)]
            self._waiting.append(waiter)
        try:
            while True:
                ready.clear()
                with self._lock:
                    wanted = [host for host in wanted if host in self._pending]
                if not wanted or loop.time() >= end:
                    break
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ready.wait(), end - loop.time())
        finally:
            with self._lock:
                self._waiting.remove(waiter)
        late = f"not found within {seconds:g} s"
        with self._lock:
            return {host: self._told(host, late if host in self._pending else "") for host in hosts}

    def prefer(self, host: str, address: HostAddress) -> None:
        """Try this of its addresses first from now on: it is where an answer came from."""
        with self._lock:
            kept = self._kept.get(host)
            if kept is not None and kept.found.addresses[:1] != (address,) and address in kept.found.addresses:
                rest = tuple(one for one in kept.found.addresses if one != address)
                self._kept[host] = _Kept(Found((address, *rest), kept.found.trouble), kept.until)

    def _told(self, host: str, late: str) -> Found:
        kept = self._kept.get(host)
        if kept is None:
            return Found((), late)
        return Found(kept.found.addresses, late or kept.found.trouble)

    def _ask(self, host: str) -> bool:
        """Have a host looked up if need be; whether there is something to wait for. With the lock held."""
        kept = self._kept.get(host)
        if kept is not None and kept.until > time.monotonic():
            return False
        if host not in self._pending:
            literal = _literal(host)
            if literal is not None:
                self._kept[host] = _Kept(Found((literal,)), float("inf"))
                return False
            self._pending.add(host)
            self._work.put(host)
            if self._running < self._most:
                self._running += 1
                threading.Thread(target=self._thread, name="resolver", daemon=True).start()
        # Old addresses do for now: the new ones come for the next poll.
        return kept is None or not kept.found.addresses

    def _thread(self) -> None:
        while True:
            try:
                host = self._work.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._running -= 1
                        return
                continue
            try:
                found, seconds = Found(self._function(host)), _KEPT
            except (OSError, UnicodeError, ValueError) as exc:  # UnicodeError: no name that DNS could have
                found, seconds = Found((), str(exc.strerror if isinstance(exc, OSError) else exc)), _FAILURE_KEPT
            self._keep(host, found, seconds)

    def _keep(self, host: str, found: Found, seconds: float) -> None:
        with self._lock:
            old = self._kept.get(host)
            if old is not None and not found.addresses:
                found = Found(old.found.addresses, found.trouble)
            elif old is not None and old.found.addresses[:1] and old.found.addresses[0] in found.addresses:
                first = old.found.addresses[0]
                found = Found((first, *(one for one in found.addresses if one != first)), found.trouble)
            self._kept[host] = _Kept(found, time.monotonic() + seconds)
            self._pending.discard(host)
            for loop, ready in self._waiting:
                with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing
                    loop.call_soon_threadsafe(ready.set)


def _literal(host: str) -> t.Optional[HostAddress]:
    """The address, if the text is one; looks nothing up."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return int(found[0][0]), str(found[0][4][0])

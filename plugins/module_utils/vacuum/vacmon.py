# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VacMon: a factory tells monitors how it is, unasked (spec 7.5).

The messages are VacQuery's replies with the cookie ``"0"``. Nobody acknowledges them, so nothing here waits for a
monitor, and what is lost is lost: the next round tells the same again.

Vac's message about a machine's end says that it runs and has no shutdown message, for it is made too early (spec 9.2).
Here it says ``Shut down``, with message and time.
"""

from __future__ import annotations

import socket
import typing as t
from collections import Counter
from dataclasses import dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import dump
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import SHUT_DOWN, MachineStatus, Reply, fit
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Monitor
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Snapshot
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.udp import open_socket

_COOKIE, _PROCESS = "0", "factory"


def status_messages(snapshot: Snapshot, now: float) -> list[bytes]:
    """What monitors are told in each round: the factory, and each of its machinetypes.

    :param now: Unix seconds.
    """
    envelope = snapshot.envelope(_COOKIE, _PROCESS, now)
    count = len(snapshot.machinetypes)
    replies = [Reply(envelope, snapshot.status), *(Reply(envelope, one, count) for one in snapshot.machinetypes)]
    return [dump(fit(reply.as_data())) for reply in replies]


def end_message(
    snapshot: Snapshot, machine: MachineStatus, message: t.Optional[str], ended: float, now: float
) -> bytes:
    """What monitors are told when a machine has ended.

    :param machine: as it was when it ran.
    :param message: its shutdown message; None if it left none.
    :param ended: when it ended, Unix seconds.
    """
    over = replace(machine, state=SHUT_DOWN, shutdown_message=message, shutdown_time=int(ended))
    reply = Reply(snapshot.envelope(_COOKIE, _PROCESS, now), over, max(1, len(snapshot.machines)))
    return dump(fit(reply.as_data()))


@dataclass
class Sent:
    """What has become of what one monitor was to be told.

    :ivar datagrams: that were sent. These two only grow.
    :ivar failed: by reason, datagrams that could not be sent: ``unknown_host``, ``socket_full``, ``unsendable``.
    :ivar problem: why not all of the last ones were sent; empty: they were.
    """

    datagrams: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    problem: str = ""


class Sender:
    """Sends to the monitors, each at the first of its addresses.

    :param changed: is called with a monitor's name and why it cannot be told any more; empty: it can again.
    """

    def __init__(
        self,
        monitors: tuple[Monitor, ...],
        resolver: Resolver,
        changed: t.Callable[[str, str], None] = lambda _monitor, _problem: None,
    ) -> None:
        self.monitors = monitors
        self._sent: dict[str, Sent] = {}
        self._resolver, self._changed = resolver, changed
        self._sockets: dict[int, socket.socket] = {}

    async def send(self, datagrams: t.Sequence[bytes], seconds: float = 5.0) -> None:
        """Send all to each monitor.

        :param seconds: for looking up their names; one that is not found in time gets nothing.
        """
        found = await self._resolver.resolve([monitor.host for monitor in self.monitors], seconds)
        for monitor in self.monitors:
            sent, addresses = self._sent.setdefault(monitor.name, Sent()), found[monitor.host].addresses
            opened = self._socket(addresses[0][0]) if addresses else None
            if opened is None:
                sent.failed["unknown_host"] += len(datagrams)
                trouble = "" if addresses else found[monitor.host].trouble
                problems = [trouble or "it has no address of a family that this host has"]
            else:
                problems = [_send(opened, data, (addresses[0][1], monitor.port), sent) for data in datagrams]
            problem = next(filter(None, problems), "")
            if bool(problem) != bool(sent.problem):
                self._changed(monitor.name, problem)
            sent.problem = problem

    @property
    def sent(self) -> dict[str, Sent]:
        """By the monitors' names; of one that was not told anything yet all is 0."""
        return {monitor.name: self._sent.get(monitor.name, Sent()) for monitor in self.monitors}

    def close(self) -> None:
        """Give the sockets back."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets = {}

    def _socket(self, family: int) -> t.Optional[socket.socket]:
        if family not in self._sockets:
            try:
                self._sockets[family] = open_socket(family, "", 0)
            except RefusedError:
                return None  # a host without that family: counted with the names that are unknown
        return self._sockets[family]


def _send(opened: socket.socket, data: bytes, to: tuple[str, int], sent: Sent) -> str:
    """Send a datagram, and count it. Returns why it could not be."""
    try:
        opened.sendto(data, to)
    except OSError as exc:
        sent.failed["socket_full" if isinstance(exc, BlockingIOError) else "unsendable"] += 1
        return exc.strerror or str(exc)
    sent.datagrams += 1
    return ""

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The responder: answers other factories' questions from a snapshot that its owner keeps up to date.

Vac's reads its configuration for every datagram and closes its socket every hundredth turn, whereby it loses one
request in a hundred, and a datagram that is JSON but no object kills it (spec 7.2, 9.1). This one does nothing but read
a datagram, look at it and send bytes; its sockets stay for as long as it lives.

What does not get an answer, gets silence, and is counted with the reason.
"""

from __future__ import annotations

import asyncio
import socket
import time
import typing as t
from collections import Counter, deque
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access, Buckets, address_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import (
    FRAME,
    DatagramError,
    dump,
    encode,
    load,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    ANSWERS,
    Envelope,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
    Reply,
    Status,
    fit,
    parse_request,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import PORT
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import (
    SIGNATURE,
    Guard,
    is_shaped_as_signed,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.udp import (
    SocketAddress,
    Way,
    ask_for_destinations,
    missing_family,
    open_socket,
    receive,
)

#: Bytes of a request, as Vac reads them. A signed one of ours has some 450.
REQUEST_LIMIT = 1024

#: Datagrams a second to one source, and at once: six rounds of the largest answer are not slowed down.
RATE, BURST = 1000.0, 4000.0

#: Requests a second, and at once, whose signatures are looked at whatever else their sources send: an eighth of a
#: processor's time at most. 1,000 factories ask some dozens a second.
VERIFIED_RATE, VERIFIED_BURST = 2000.0, 4000.0

#: A cookie as long as Vac's and ours. What is made ahead of an answer has room for it.
_COOKIE = "0" * 64

#: All addresses of the host, over IPv6.
_ANY = "::"

#: Datagrams that are read before other tasks of the loop have their turn.
_TURN = 64

#: Datagrams that wait because a socket's buffer is full.
_BACKLOG = 16384


@dataclass(frozen=True)
class Snapshot:
    """What a factory says of itself.

    :ivar factory: FQDN.
    :ivar site: name in the GOCDB, or the domain of the space's name.
    :ivar version: product and version, for instance ``hep.gridbox 0.2.0``.
    :ivar machines: one for each slot, each with another name.
    """

    space: str
    factory: str
    site: str
    version: str
    status: FactoryStatus
    machinetypes: tuple[MachinetypeStatus, ...] = ()
    machines: tuple[MachineStatus, ...] = ()

    def envelope(self, cookie: t.Any, process: str, now: float) -> Envelope:
        """What the replies to one question have in common.

        :param process: who of the factory speaks: ``responder`` or ``factory``.
        """
        return Envelope(cookie, self.space, self.factory, self.site, f"{self.version} {process}", int(now))

    def answer(self, query: str) -> tuple[Status, ...]:
        """The statuses that answer one of ``messages.QUERIES``."""
        wanted = ANSWERS[query]
        if wanted is FactoryStatus:
            return (self.status,)
        return self.machinetypes if wanted is MachinetypeStatus else self.machines


def _tells_the_same(one: Snapshot, other: Snapshot, query: str) -> bool:
    """Whether both have the same answer to a question, but for cookie and time."""
    return one.envelope(None, "", 0) == other.envelope(None, "", 0) and one.answer(query) == other.answer(query)


def _pay(buckets: Buckets, source: t.Hashable) -> None:
    if not buckets.take(source, time.monotonic()):
        raise DatagramError("rate", "More requests than the rate allows.")


class Responder:
    """Answers on one socket for IPv4 and one for IPv6, in an asyncio loop.

    The owner sets ``snapshot``, ``access`` and ``guard`` anew whenever they change; each datagram is answered from what
    they are at that moment. Without a snapshot there are no answers.

    What is signed has a limit of its own for each address. Else payloads whose traffic leaves with their host's address
    make their factory deaf: with some questions a second of theirs, its own are over the rate. Nobody can make it look
    at signatures without end either: over a rate for all sources together, what is shaped as signed has to pay as what
    is not before it is looked at.

    :ivar answered: by message type, requests that got an answer. These three only grow: they are for metrics.
    :ivar dropped: by reason, requests that got none, and replies that could not be sent.
    :ivar sent: datagrams of answers.
    :ivar without_ipv6: why it answers over IPv4 alone, on a host without IPv6; empty: it does not.
    """

    def __init__(
        self,
        access: Access,
        guard: t.Optional[Guard] = None,
        buckets: t.Optional[Buckets] = None,
        request_limit: int = REQUEST_LIMIT,
    ) -> None:
        self.snapshot: t.Optional[Snapshot] = None
        self.access, self.guard = access, guard
        self.buckets = Buckets(RATE, BURST) if buckets is None else buckets  # an empty table is false
        self.signed_buckets = Buckets(self.buckets.rate, self.buckets.burst, self.buckets.sources)
        self.verified = Buckets(VERIFIED_RATE, VERIFIED_BURST, 1)
        self.request_limit = request_limit
        self.answered: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.sent = 0
        self.without_ipv6 = ""
        self._tails: dict[tuple[str, int], list[bytes]] = {}
        self._tails_are_of: t.Optional[Snapshot] = None
        self._sockets: list[socket.socket] = []
        self._loop: t.Optional[asyncio.AbstractEventLoop] = None
        self._backlog: dict[socket.socket, deque[tuple[bytes, SocketAddress, Way]]] = {}

    def answer(self, data: bytes, host: str) -> list[bytes]:
        """The datagrams that answer one from that host; none if it gets no answer. Counts it, and takes its tokens."""
        try:
            query, answer = self._answer(data, host)
        except DatagramError as exc:
            self.dropped[exc.reason] += 1
            return []
        self.answered[query] += 1
        return answer

    def _answer(self, data: bytes, host: str) -> tuple[str, list[bytes]]:
        address = address_of(host)
        if address is None or not self.access.allows(address):
            raise DatagramError("not_allowed", "A request from an address that may not ask.")
        source = self.access.source_of(address)
        looked_at = self.guard is not None and is_shaped_as_signed(data) and self.verified.take("all", time.monotonic())
        buckets = self.signed_buckets if looked_at else self.buckets
        if not looked_at:
            _pay(buckets, source)
        if self.snapshot is None:
            raise DatagramError("not_ready", "A request before the factory knows what it runs.")
        content = load(data, self.request_limit)
        request = parse_request(content)
        if request.space != self.snapshot.space:
            raise DatagramError("wrong_space", "A request of another space.")
        now = time.time()
        key = self.guard.key if self.guard is not None and self.guard.admit(data, content, now) else None
        if looked_at:  # and it is good, or it would not have come here
            _pay(buckets, source)
        statuses = self.snapshot.answer(request.message_type)
        # A question costs what it makes us send: whoever's address is forged is sent no more than the rate.
        buckets.charge(source, len(statuses))
        room = FRAME - SIGNATURE if key else FRAME
        head = encode({"cookie": request.cookie, "time_sent": int(now)})[:-1] + b","
        tails = self._tails_of(self.snapshot, request.message_type, room)
        if all(len(head) + len(tail) <= room for tail in tails):
            replies = [head + tail for tail in tails]
        else:
            envelope = self.snapshot.envelope(request.cookie, "responder", now)
            replies = [dump(fit(Reply(envelope, status, len(statuses)).as_data(), room)) for status in statuses]
        return request.message_type, [key.sign(reply, now) for reply in replies] if key else replies

    def _tails_of(self, snapshot: Snapshot, query: str, room: int) -> list[bytes]:
        """The replies to a question but for cookie and time: made once for a snapshot, for that takes longest.

        :param room: bytes of a reply.
        """
        before = self._tails_are_of
        if before is not snapshot:
            if before is not None:  # what is told as before needs not be made again
                kept = {query for query in ANSWERS if _tells_the_same(before, snapshot, query)}
                self._tails = {key: made for key, made in self._tails.items() if key[0] in kept}
            self._tails_are_of = snapshot
        if (query, room) not in self._tails:
            statuses = snapshot.answer(query)
            envelope = snapshot.envelope(_COOKIE, "responder", time.time())
            replies = (fit(Reply(envelope, status, len(statuses)).as_data(), room) for status in statuses)
            self._tails[query, room] = [
                encode({key: value for key, value in reply.items() if key not in ("cookie", "time_sent")})[1:]
                for reply in replies
            ]
        return self._tails[query, room]

    # -- the sockets

    def open(self, port: int = PORT, ipv4: t.Optional[str] = "", ipv6: t.Optional[str] = _ANY) -> int:
        """Bind. Everything is bound, or nothing; but all IPv6 addresses of a host that has none are nothing to bind.

        :param port: 0: any that is free, the same for both families.
        :param ipv4: address to listen on; empty: all; None: not over IPv4. Likewise ``ipv6``.
        :returns: the port.
        :raises RefusedError: if one cannot be bound.
        """
        try:
            for family, address in ((socket.AF_INET, ipv4), (socket.AF_INET6, ipv6)):
                if address is not None:
                    port = self._bind(family, address, port)
        except BaseException:
            self.close()
            raise
        return port

    def _bind(self, family: int, address: str, port: int) -> int:
        try:
            found = open_socket(family, address, port)
        except RefusedError as exc:
            self.without_ipv6 = missing_family(exc) if address == _ANY and self._sockets else ""
            if not self.without_ipv6:
                raise
            return port
        self._sockets.append(found)
        ask_for_destinations(found)
        return int(found.getsockname()[1])

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from now on, whenever the loop runs. Call it after ``open``, in the loop's thread."""
        self._loop = loop
        for found in self._sockets:
            self._backlog[found] = deque()
            loop.add_reader(found, self._readable, found)

    def close(self) -> None:
        """Answer no more."""
        for found in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(found)
                self._loop.remove_writer(found)
            found.close()
        self._sockets, self._backlog, self._loop = [], {}, None

    def _readable(self, found: socket.socket) -> None:
        for _turn in range(_TURN):
            try:
                # One byte more than may be: so a longer datagram is known from one of exactly that length.
                data, source, way = receive(found, self.request_limit + 1)
            except BlockingIOError:
                return
            except OSError:
                self.dropped["socket_error"] += 1
                return
            for reply in self.answer(data, str(source[0])):
                self._send(found, reply, source, way)

    def _send(self, found: socket.socket, data: bytes, to: SocketAddress, way: Way) -> None:
        backlog = self._backlog[found]
        if not backlog:
            if self._sent(found, data, to, way):
                return
            if self._loop is not None:
                self._loop.add_writer(found, self._writable, found)
        if len(backlog) < _BACKLOG:
            backlog.append((data, to, way))
        else:
            self.dropped["backlog_full"] += 1

    def _writable(self, found: socket.socket) -> None:
        backlog = self._backlog[found]
        for _turn in range(_TURN):
            if not backlog:
                if self._loop is not None:
                    self._loop.remove_writer(found)
                return
            if not self._sent(found, *backlog[0]):
                return
            backlog.popleft()

    def _sent(self, found: socket.socket, data: bytes, to: SocketAddress, way: Way) -> bool:
        """Send it; False if it has to wait. What the kernel refuses is counted; for the asker it is lost."""
        try:
            found.sendmsg([data], way, 0, to)
        except BlockingIOError:
            return False
        except OSError:
            self.dropped["unsendable"] += 1
            return True
        self.sent += 1
        return True

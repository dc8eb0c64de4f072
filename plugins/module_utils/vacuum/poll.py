# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask many factories at once, within a budget of time.

As Vac's clients do (spec 7.4), a factory that has not answered completely is asked again, in up to six rounds. Unlike
theirs, a poll ends as soon as all have answered, never later than its budget, and a factory that was silent the last
time is asked once and not waited for longer than one round.

A real Vac counts all its machinetypes, and since 03.00.02 tells only those of which a machine runs, or has ended in the
last day. What it tells a second time without anything new is all that it has to tell.

An answer counts if it comes with the cookie made for that factory in that poll, and with its name and space. From which
address it comes does not matter, as with Vac's clients: a host with several answers from the one its routes prefer.
Nobody can guess the cookie who cannot read the question, and who reads it can send from any address.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import hmac
import math
import os
import secrets
import socket
import time
import typing as t
from collections import Counter
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import REPLY_LIMIT, DatagramError, dump, load
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    ANSWERS,
    FactoryStatus,
    MachinetypeStatus,
    Reply,
    Request,
    on_our_clock,
    parse_reply,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Found, HostAddress, Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Key
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.udp import (
    SocketAddress,
    ask_for_errors,
    open_socket,
    read_error,
    room,
)

ANSWERED, INCOMPLETE, SILENT, REFUSED, UNKNOWN = "answered", "incomplete", "silent", "refused", "unknown"

#: Replies that one factory's answer has at most: slots or machinetypes.
_MOST_REPLIES = 4096
#: Requests that are sent without a pause, and the pause, s: answers of a thousand factories must not come in one burst.
#: They are fewer where the answers would not fit into the socket's buffer, all together.
_BATCH, _PAUSE = 32, 0.003
#: Replies of one answer as long as nobody has answered, and at most for the others: one that lies slows nothing down.
_FORESEEN, _MOST_FORESEEN = 20, 256
#: Datagrams that are read before other tasks of the loop have their turn.
_TURN = 64
#: Times that a datagram is given to the kernel before its refusal is taken for one of this datagram: among many
#: factories that are away, errors of others come at any moment.
_SENDS = 8
#: How the version of a real Vac begins.
_VAC = "Vac "
#: Refusals of an address after which it is not asked again: one may be of a factory that is just being restarted.
_REFUSALS = 2


@dataclass(frozen=True)
class Budget:
    """How long a poll may take.

    :ivar seconds: in all, with looking up names, which has half of it; after that nobody is listened to. With what it
        takes to say what came of it, a poll of a thousand factories is to be over after two.
    :ivar rounds: how often a factory is asked at most.
    """

    seconds: float = 1.9
    rounds: int = 6


@dataclass(frozen=True)
class Outcome:
    """What came of asking one factory.

    :ivar state: ``answered``: completely; ``incomplete``: some replies of the answer; ``silent``; ``refused``: its host
        says that nobody listens there; ``unknown``: its name has no address.
    :ivar replies: by machine or machinetype; none if they were handed on.
    :ivar seconds: until the answer was complete; None if it was not.
    :ivar since: Unix seconds: when it was first asked in vain, if no reply came. None: it has never been asked in vain.
    :ivar detail: the system's words about it.
    """

    factory: str
    state: str
    # Not in its repr: asyncio.run makes one of the result of what it ran, and throws it away (CPython 3.11).
    replies: tuple[Reply, ...] = field(default=(), repr=False)
    seconds: t.Optional[float] = None
    since: t.Optional[float] = None
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a poll.

    :ivar outcomes: by factory, in the order they were asked.
    :ivar dropped: by reason, datagrams that did not count.
    """

    outcomes: t.Mapping[str, Outcome] = field(repr=False)
    seconds: float
    dropped: t.Mapping[str, int]

    @property
    def silent_since(self) -> dict[str, float]:
        """By factory, since when no reply comes: for the next poll."""
        return {name: one.since for name, one in self.outcomes.items() if one.since is not None}


async def poll(
    message_type: str,
    space: str,
    peers: t.Iterable[Peer],
    resolver: Resolver,
    *,
    budget: Budget = Budget(),
    silent_since: t.Optional[t.Mapping[str, float]] = None,
    key: t.Optional[Key] = None,
    version: str = "hep.gridbox",
    heard: t.Optional[t.Callable[[Reply], None]] = None,
) -> Result:
    """Ask.

    :param message_type: one of ``messages.QUERIES``.
    :param resolver: kept by the caller from poll to poll, as it remembers addresses.
    :param silent_since: of the last poll's result.
    :param key: sign the requests with it. A real Vac does not mind.
    :param version: product and version of the asker.
    :param heard: gets each reply, and the outcomes have none then: those of a thousand factories are some ten thousand,
        of which hardly anybody needs all. A reply may come again.
    :raises RefusedError: if this host has no UDP.
    """
    return await _Poll(message_type, space, peers, resolver, budget, silent_since or {}, key, version, heard).run()


@dataclass
class _Asked:
    """A factory while it is asked.

    :ivar next: place of the address that is asked next.
    :ivar asked: those asked, as sockets name them.
    :ivar due: when it is to be asked again, or to be given up.
    :ivar replies: by machine or machinetype; None: it was handed on.
    :ivar again: of the replies, those that came again since it was asked last.
    :ivar sparing: whether it may count more machinetypes than it tells.
    :ivar nobody: whether its host said last that nobody listens there.
    """

    peer: Peer
    cookie: str
    rounds: int
    addresses: tuple[HostAddress, ...] = ()
    next: int = 0
    asked: dict[tuple[str, int], HostAddress] = field(default_factory=dict)
    refusals: Counter[HostAddress] = field(default_factory=Counter)
    due: float = 0.0
    sent: int = 0
    count: int = 1
    replies: dict[str, t.Optional[Reply]] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    sparing: bool = False
    seconds: t.Optional[float] = None
    over: bool = False
    nobody: bool = False
    detail: str = ""


def _place(address: SocketAddress) -> tuple[str, int]:
    """Host and port, without the link that a link-local address is on."""
    return str(address[0]).partition("%")[0], address[1]


class _Poll:
    def __init__(
        self,
        message_type: str,
        space: str,
        peers: t.Iterable[Peer],
        resolver: Resolver,
        budget: Budget,
        silent_since: t.Mapping[str, float],
        key: t.Optional[Key],
        version: str,
        heard: t.Optional[t.Callable[[Reply], None]],
    ) -> None:
        self.message_type, self.space, self.version = message_type, space, version
        self.resolver, self.budget, self.silent_since, self.key = resolver, budget, silent_since, key
        self.heard = heard
        salt = base64.b64encode(secrets.token_bytes(48)).decode("ascii")
        self.asked: dict[str, _Asked] = {}
        for peer in peers:
            name = peer.factory.lower()
            cookie = hashlib.sha256((salt + name).encode("utf-8", "surrogatepass")).hexdigest()
            rounds = 1 if name in silent_since else budget.rounds
            self.asked.setdefault(name, _Asked(peer, cookie, rounds))
        self.places: dict[tuple[str, int], list[_Asked]] = {}
        self.dropped: Counter[str] = Counter()
        self.sockets: dict[int, socket.socket] = {}
        self.wake = asyncio.Event()
        self.left = len(self.asked)
        self.counts: list[int] = []
        self.room = 1

    async def run(self) -> Result:
        self.loop = asyncio.get_running_loop()
        self.began, self.wall = self.loop.time(), time.time()
        end = self.began + self.budget.seconds
        try:
            hosts = [one.peer.host or name for name, one in self.asked.items()]
            found = await self.resolver.resolve(hosts, self.budget.seconds / 2)
            self._open()
            for name, one in self.asked.items():
                self._addresses(one, found[one.peer.host or name])
            await self._ask_all(end)
        finally:
            for opened in self.sockets.values():
                self.loop.remove_reader(opened)
                opened.close()
        outcomes = {name: self._outcome(name, one) for name, one in self.asked.items()}
        return Result(outcomes, self.loop.time() - self.began, dict(self.dropped))

    def _open(self) -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                opened = open_socket(family, "", 0)
            except RefusedError:
                if family == socket.AF_INET:
                    raise
                continue  # a host without IPv6; factories that have nothing else are told as unknown
            ask_for_errors(opened)
            self.sockets[family] = opened
            self.loop.add_reader(opened, self._readable, opened)
        self.room = min(map(room, self.sockets.values()))

    def _addresses(self, one: _Asked, found: Found) -> None:
        one.addresses = tuple(address for address in found.addresses if address[0] in self.sockets)
        one.rounds = max(one.rounds, len(one.addresses))
        one.detail = found.trouble
        if not one.addresses:
            self._finish(one)
            one.detail = found.trouble or "it has no address of a family that this host has"

    async def _ask_all(self, end: float) -> None:
        quantum = self.budget.seconds / self.budget.rounds
        while True:
            await self._hear_all(end)
            self.wake.clear()
            now = self.loop.time()
            open_ = [one for one in self.asked.values() if not one.over]
            due = [one for one in open_ if one.due <= now]
            for one in due:
                if one.sparing and one.sent > 1 and len(one.again) == len(one.replies):
                    self._complete(one)
                elif one.sent >= one.rounds:
                    self._finish(one)
            if now >= end or self.left == 0:
                return
            due = [one for one in due if not one.over]
            while due:
                size = self._batch()
                batch, due = due[:size], due[size:]
                for one in batch:
                    if not one.over:
                        one.due = self.loop.time() + quantum
                        self._send(one)
                if self.loop.time() >= end:
                    return
                await asyncio.sleep(_PAUSE if due else 0)
                await self._hear_all(end)
            left = [one.due for one in open_ if not one.over]
            if left:
                with contextlib.suppress(asyncio.TimeoutError):
                    # Not for less than the pause: factories that are due one after the other are asked together.
                    pause = max(_PAUSE, min(left) - self.loop.time())
                    await asyncio.wait_for(self.wake.wait(), max(0.0, min(pause, end - self.loop.time())))

    def _batch(self) -> int:
        """How many are asked at once: as many as have room for their answers, by what the others have answered."""
        foreseen = _FORESEEN if ANSWERS[self.message_type] is not FactoryStatus else 1
        if self.counts:
            foreseen = math.ceil(sum(self.counts) / len(self.counts))
        return max(1, min(_BATCH, self.room // foreseen))

    def _send(self, one: _Asked) -> None:
        address = one.addresses[one.next % len(one.addresses)]
        one.next += 1
        one.sent += 1
        one.again.clear()
        request = dump(Request(self.message_type, self.space, one.cookie, self.version).as_data())
        if self.key is not None:
            request = self.key.sign(request, time.time(), one.peer.factory.lower())
        opened, to = self.sockets[address[0]], (address[1], one.peer.port)
        place = _place(to)
        if place not in one.asked:
            one.asked[place] = address
            self.places.setdefault(place, []).append(one)
        number = errno.EIO
        for _time in range(_SENDS):
            try:
                opened.sendto(request, to)
            except BlockingIOError:
                return  # the buffer is full: as good as lost, and asked again
            except OSError as exc:
                # It may be the error of a datagram sent before, to somebody else, which is told once.
                self._errors(opened)
                number = exc.errno or errno.EIO
            else:
                return
        self._refuse(one, address, number)

    async def _hear_all(self, end: float) -> None:
        """Read what has come: nobody is asked again whose answer is here, nor more than we can listen to."""
        for opened in self.sockets.values():
            while self._readable(opened) and self.loop.time() < end:
                await asyncio.sleep(0)

    def _readable(self, opened: socket.socket) -> bool:
        """Read for a turn. Returns whether there may be more."""
        for _turn in range(_TURN):
            try:
                data, source = opened.recvfrom(REPLY_LIMIT + 1)
            except BlockingIOError:
                self._errors(opened)
                return False
            except OSError:
                self._errors(opened)
                continue
            try:
                self._hear(data, source)
            except DatagramError as exc:
                self.dropped[exc.reason] += 1
        return True

    def _hear(self, data: bytes, source: SocketAddress) -> None:
        content = load(data, REPLY_LIMIT)
        factory, cookie = content.get("factory"), content.get("cookie")
        one = self.asked.get(factory.lower()) if isinstance(factory, str) else None
        if one is None:
            raise DatagramError("wrong_factory", "A reply in the name of a factory that was not asked.")
        if not isinstance(cookie, str) or not hmac.compare_digest(
            cookie.encode("utf-8", "surrogatepass"), one.cookie.encode("ascii")
        ):
            raise DatagramError("wrong_cookie", "A reply with another cookie.")
        if one.over:
            return  # an answer to two rounds comes twice
        reply = parse_reply(content)
        if reply.envelope.space != self.space:
            raise DatagramError("wrong_space", "A reply of another space.")
        if not isinstance(reply.status, ANSWERS[self.message_type]):
            raise DatagramError("unknown_type", "A reply to another question.")
        if one.peer.signed or (self.key is not None and "hmac" in content):
            if self.key is None:
                raise DatagramError("unsigned", "A signed reply is demanded, and there is no key to check one.")
            self.key.verify(data, content, time.time())
        if reply.count > _MOST_REPLIES:
            raise DatagramError("too_many", f"A reply that announces more than {_MOST_REPLIES}.")
        reply = on_our_clock(reply, time.time())
        if self.heard is not None:
            self.heard(reply)
        if not one.replies:
            self.counts.append(min(reply.count, _MOST_FORESEEN))
        if isinstance(reply.status, MachinetypeStatus):
            one.sparing = (reply.envelope.daemon_version or "").startswith(_VAC)
        if reply.key in one.replies:
            one.again.add(reply.key)
        one.replies[reply.key] = reply if self.heard is None else None
        one.count = reply.count
        one.due = self.loop.time() + self.budget.seconds / self.budget.rounds
        if len(one.replies) >= one.count:
            address = one.asked.get(_place(source))
            if address is not None:
                self.resolver.prefer(one.peer.host or one.peer.factory.lower(), address)
            self._complete(one)

    def _errors(self, opened: socket.socket) -> None:
        """What the network says of datagrams sent before: that nobody listens there, or that there is no such host."""
        for _turn in range(_TURN):
            error = read_error(opened)
            if error is None:
                return
            number, to = error
            place = _place(to)
            for one in self.places.get(place, ()):
                if not one.over:
                    self._refuse(one, one.asked[place], number)

    def _refuse(self, one: _Asked, address: HostAddress, number: int) -> None:
        one.refusals[address] += 1
        one.detail, one.nobody = os.strerror(number), number == errno.ECONNREFUSED
        if all(one.refusals[other] >= _REFUSALS for other in one.addresses):
            self._finish(one)
        elif one.refusals[address] == 1 and one.refusals[one.addresses[one.next % len(one.addresses)]] == 0:
            one.due = self.loop.time()  # it has another address; no need to wait for this one
            self.wake.set()

    def _complete(self, one: _Asked) -> None:
        """It has told all."""
        one.seconds = self.loop.time() - self.began
        self._finish(one)

    def _finish(self, one: _Asked) -> None:
        """Ask it no more. May be called twice: a datagram that fails at once may leave an error in the queue too."""
        if one.over:
            return
        one.over = True
        self.left -= 1
        if self.left == 0:
            self.wake.set()

    def _outcome(self, name: str, one: _Asked) -> Outcome:
        replies = tuple(reply for reply in one.replies.values() if reply is not None)
        if one.seconds is not None:
            return Outcome(name, ANSWERED, replies, one.seconds)
        if one.replies:
            return Outcome(name, INCOMPLETE, replies, detail=f"{len(one.replies)} of {one.count} replies")
        since = self.silent_since.get(name)
        if one.addresses and not one.sent:
            return Outcome(name, SILENT, since=since, detail="not asked: the time was over before its turn")
        state = UNKNOWN if not one.addresses else REFUSED if one.nobody else SILENT
        return Outcome(name, state, since=self.wall if since is None else since, detail=one.detail)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Polls on the loopback: factories that answer, lose, repeat, lie, are silent, refuse, or cannot be found."""

from __future__ import annotations

import asyncio
import errno
import json
import random
import socket
import threading
import time
import typing as t
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import poll as polls
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import udp
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import Envelope, MachinetypeStatus, Reply
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Budget, Result, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import HostAddress, Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Guard, Key
from tests.unit.vacuum.loopback import SPACE, bind, snapshot

V4, V6 = (int(socket.AF_INET), "127.0.0.1"), (int(socket.AF_INET6), "::1")
NAME = "factory1.example.com"
#: An address of documentation.
NOWHERE = "192.0.2.1"
KEY, OTHER = Key(b"0123456789abcdef" * 4), Key(b"fedcba9876543210" * 4)
QUICK = Budget(0.6, 6)


@dataclass
class Site:
    """Sockets of one test: responders, and peers that do as the test says."""

    responders: list[Responder] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    def factory(self, number: int = 1, guard: Guard | None = None, **more: t.Any) -> int:
        """A factory as it should be; its port."""
        responder = Responder(Access(), guard)
        responder.snapshot = snapshot(number, **more)
        port = bind(responder)
        responder.attach(asyncio.get_running_loop())
        self.responders.append(responder)
        return port

    def peer(self, does: t.Callable[[dict[str, t.Any], int], list[t.Any]], host: str = "127.0.0.1") -> int:
        """A peer that sends what DOES makes of the request and its number: JSON types or bytes; its port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        opened.bind((host, 0))
        self.sockets.append(opened)

        def readable() -> None:
            data, source = opened.recvfrom(65536)
            self.heard.append(data)
            for reply in does(json.loads(data), len(self.heard)):
                opened.sendto(reply if isinstance(reply, bytes) else json.dumps(reply).encode(), source)

        asyncio.get_running_loop().add_reader(opened, readable)
        return int(opened.getsockname()[1])

    def close(self) -> None:
        for responder in self.responders:
            responder.close()
        for opened in self.sockets:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()


def run(test: t.Callable[[Site], t.Coroutine[t.Any, t.Any, t.Any]]) -> Site:
    site = Site()

    async def whole() -> None:
        failures: list[dict[str, t.Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        try:
            await test(site)
        finally:
            site.close()
        assert failures == []

    asyncio.run(whole())
    return site


async def ask(*peers: Peer, query: str = "machines_query", **options: t.Any) -> Result:
    resolver = options.pop("resolver", None) or Resolver()
    return await poll(query, SPACE, peers, resolver, budget=options.pop("budget", QUICK), **options)


def machine(request: dict[str, t.Any], name: str = "m", count: int = 1, **more: t.Any) -> dict[str, t.Any]:
    """The least that a real Vac takes for a machine's status."""
    keys = "uuid created_time started_time heartbeat_time cpu_seconds cpu_percentage hs06 machinetype"
    nulls = dict.fromkeys([*keys.split(), "shutdown_message", "shutdown_time"])
    return {
        "message_type": "machine_status", "cookie": request["cookie"], "space": SPACE, "factory": NAME,
        "num_machines": count, "machine": name, "state": "Shut down", **nulls, **more,
    }  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("query", ["machines_query", "machinetypes_query", "factory_query"])
def test_all_have_answered_and_it_is_over_at_once(host: str, query: str) -> None:
    async def test(site: Site) -> None:
        ports = {f"factory{number}.example.com": site.factory(number) for number in (1, 2, 3)}
        peers = [Peer(name.upper() if "1" in name else name, host, port) for name, port in ports.items()]
        result = await ask(*peers, query=query, budget=Budget(20))
        assert {name: one.state for name, one in result.outcomes.items()} == dict.fromkeys(ports, "answered")
        assert result.seconds < 5
        sizes = {"machines_query": 3, "machinetypes_query": 2, "factory_query": 1}
        assert [len(one.replies) for one in result.outcomes.values()] == [sizes[query]] * 3
        assert {reply.envelope.factory for one in result.outcomes.values() for reply in one.replies} == set(ports)
        assert (result.silent_since, result.dropped) == ({}, {})

    run(test)


def test_nobody_to_ask_is_no_wait() -> None:
    async def test(_site: Site) -> None:
        assert (await ask(budget=Budget(20))).outcomes == {}

    run(test)


def test_silent_and_refusing_peers_cost_no_more_than_the_budget_and_next_time_one_round() -> None:
    async def test(site: Site) -> None:
        silent = Peer("silent.example.com", "127.0.0.1", site.peer(lambda _request, _number: []))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            refusing = Peer("gone.example.com", "127.0.0.1", gone.getsockname()[1])
        good = Peer(NAME, "127.0.0.1", site.factory())
        before = time.time()
        first = await ask(good, refusing, silent)
        assert 0.5 < first.seconds < 1.2
        asked = len(site.heard)
        assert 2 < asked <= 6  # the last rounds are missing where the machine is busy
        assert [one.state for one in first.outcomes.values()] == ["answered", "refused", "silent"]
        assert first.outcomes["gone.example.com"].detail == "Connection refused"
        since = first.silent_since
        assert set(since) == {"silent.example.com", "gone.example.com"}
        assert all(before <= one <= time.time() for one in since.values())

        second = await ask(good, refusing, silent, budget=Budget(6, 6), silent_since=since)
        assert second.seconds < 2.5  # one round of a second
        assert len(site.heard) == asked + 1
        assert [one.state for one in second.outcomes.values()][0::2] == ["answered", "silent"]
        assert second.silent_since == since  # since the first time

    run(test)


def test_a_poll_of_refusing_peers_only_does_not_wait_for_its_end() -> None:
    async def test(_site: Site) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as gone:
            gone.bind(("::1", 0))
            port = gone.getsockname()[1]
        result = await ask(Peer(NAME, "::1", port), budget=Budget(6, 20))
        assert (result.outcomes[NAME].state, result.outcomes[NAME].replies) == ("refused", ())
        assert result.seconds < 2

    run(test)


class Firewalled(socket.socket):
    """A socket of a host whose own firewall rejects what is sent to NOWHERE: at once, and with an ICMP error too, as
    iptables does with ``OUTPUT … -j REJECT``."""

    errors: t.ClassVar[list[tuple[int, t.Any]]] = []

    def sendto(self, data: t.Any, to: t.Any) -> int:  # type: ignore[override]
        if to[0] != NOWHERE:
            return super().sendto(data, to)
        self.errors.append((errno.ECONNREFUSED, to))
        raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_peer_that_the_own_firewall_rejects_does_not_end_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*words: t.Any) -> socket.socket:
        found = udp.open_socket(*words)
        return Firewalled(found.family, found.type, found.proto, found.detach())

    async def test(site: Site) -> None:
        rejected = [Peer(f"rejected{number}.example.com", NOWHERE, 995) for number in (1, 2)]
        slow = Peer("factory2.example.com", "127.0.0.1", site.factory(2))
        result = await ask(*rejected, slow, budget=Budget(5))
        assert {name: one.state for name, one in result.outcomes.items()} == {
            "rejected1.example.com": "silent", "rejected2.example.com": "silent", slow.factory: "answered",
        }  # fmt: skip
        assert result.seconds < 3

    with monkeypatch.context() as patched:
        patched.setattr(polls, "open_socket", opened)
        patched.setattr(polls, "read_error", lambda _socket: Firewalled.errors.pop(0) if Firewalled.errors else None)
        run(test)


def test_no_more_are_asked_at_once_than_there_is_room_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the buffer that Linux gives who has no right to a wide one; those who are asked together answer together."""
    monkeypatch.setattr(udp, "BUFFER", 212992)
    names = [f"factory{number}.example.com" for number in range(100)]

    def answer(name: str, request: dict[str, t.Any], _number: int) -> list[t.Any]:
        return [machine(request, f"m{one}", 20, factory=name, fqan="x" * 400) for one in range(20)]

    async def test(site: Site) -> None:
        peers = [Peer(name, "127.0.0.1", site.peer(partial(answer, name))) for name in names]
        result = await ask(*peers, query="machines_query", budget=Budget(60, 6))
        assert {one.state for one in result.outcomes.values()} == {"answered"}

    assert len(run(test).heard) == len(names), "somebody had to be asked again"


def test_a_factory_that_comes_back_is_heard_and_no_longer_silent() -> None:
    async def test(site: Site) -> None:
        peer = Peer(NAME, "127.0.0.1", site.factory())
        result = await ask(peer, silent_since={NAME: 1.0})
        assert result.outcomes[NAME].state == "answered"
        assert result.silent_since == {}

    run(test)


def test_lost_requests_and_lost_replies_are_asked_for_again() -> None:
    """A third of the requests and a third of the replies go; duplicates come, and the rest in disorder."""
    draw = random.Random(4)

    def lossy(request: dict[str, t.Any], number: int) -> list[t.Any]:
        replies = [machine(request, f"m{one}", 6) for one in range(6) if draw.random() > 1 / 3]
        draw.shuffle(replies)
        return [] if number % 3 == 1 else [*replies, *replies[:2]]

    async def test(site: Site) -> None:
        result = await ask(Peer(NAME, "127.0.0.1", site.peer(lossy)), budget=Budget(2, 20))
        assert result.outcomes[NAME].state == "answered"
        assert {one.key for one in result.outcomes[NAME].replies} == {f"m{one}" for one in range(6)}

    assert 1 < len(run(test).heard) < 20


def test_a_part_of_an_answer_is_given_with_its_number() -> None:
    async def test(site: Site) -> None:
        port = site.peer(lambda request, _number: [machine(request, "m0", 3), machine(request, "m2", 3)])
        outcome = (await ask(Peer(NAME, "127.0.0.1", port))).outcomes[NAME]
        assert (outcome.state, outcome.detail, outcome.since) == ("incomplete", "2 of 3 replies", None)
        assert [one.key for one in outcome.replies] == ["m0", "m2"]

    run(test)


def kind(request: dict[str, t.Any], name: str, count: int, version: str = "Vac 03.00.02 vacd-responder") -> t.Any:
    """A machinetype's status as a real Vac sends it."""
    status = MachinetypeStatus(name, shutdown_message="200 Success")
    envelope = Envelope(request["cookie"], SPACE, NAME, daemon_version=version, time_sent=int(time.time()))
    return Reply(envelope, status, count).as_data()


def test_a_real_vac_tells_less_than_it_counts_and_has_answered_all_the_same() -> None:
    """Since 03.00.02 it counts all its machinetypes, and tells only those of which one runs, or has ended in a day."""

    async def test(site: Site) -> None:
        port = site.peer(lambda request, _number: [kind(request, "a", 3), kind(request, "b", 3)])
        result = await ask(Peer(NAME, "127.0.0.1", port), query="machinetypes_query", budget=Budget(3))
        outcome = result.outcomes[NAME]
        assert (outcome.state, outcome.detail, len(outcome.replies)) == ("answered", "", 2)
        assert outcome.seconds is not None and outcome.seconds < 2

    assert len(run(test).heard) == 2


def test_what_a_real_vac_has_told_again_only_in_part_is_asked_for_once_more() -> None:
    def lossy(request: dict[str, t.Any], number: int) -> list[t.Any]:
        return [kind(request, name, 4) for name in {1: "a", 2: "b", 3: "ab"}.get(number, "abc")]

    async def test(site: Site) -> None:
        port = site.peer(lossy)
        result = await ask(Peer(NAME, "127.0.0.1", port), query="machinetypes_query", budget=Budget(1.5, 6))
        assert result.outcomes[NAME].state == "answered"
        assert [one.key for one in result.outcomes[NAME].replies] == ["a", "b"]

    assert len(run(test).heard) == 3


@pytest.mark.parametrize("version", ["hep.gridbox 0.1.0 responder", None])
def test_anybody_else_tells_all_that_it_counts(version: str) -> None:
    async def test(site: Site) -> None:
        port = site.peer(lambda request, _number: [kind(request, "a", 2, version)])
        result = await ask(Peer(NAME, "127.0.0.1", port), query="machinetypes_query")
        assert (result.outcomes[NAME].state, result.outcomes[NAME].detail) == ("incomplete", "1 of 2 replies")

    run(test)


def test_replies_that_are_handed_on_are_not_kept() -> None:
    async def test(site: Site) -> None:
        whole, part = site.factory(2), site.peer(lambda request, _number: [machine(request, "m0", 3)] * 2)
        heard: list[Reply] = []
        result = await ask(
            Peer("factory2.example.com", "127.0.0.1", whole), Peer(NAME, "127.0.0.1", part), heard=heard.append
        )
        assert [(one.state, one.detail, one.replies) for one in result.outcomes.values()] == [
            ("answered", "", ()), ("incomplete", "1 of 3 replies", ()),
        ]  # fmt: skip
        assert {(one.envelope.factory, one.key) for one in heard} == {
            (NAME, "m0"), *(("factory2.example.com", f"factory2-0{number}.example.com") for number in range(3)),
        }  # fmt: skip

    run(test)


def test_replies_without_end_end_with_the_budget() -> None:
    """Vac has no limit in all while replies come (spec 7.4)."""

    async def test(site: Site) -> None:
        port = site.peer(lambda request, _number: [])
        (opened,) = site.sockets
        loop = asyncio.get_running_loop()
        state: dict[str, t.Any] = {"sent": 0}

        def readable() -> None:
            data, state["to"] = opened.recvfrom(65536)
            state["request"] = json.loads(data)

        async def flood() -> None:
            while True:
                if "to" in state:
                    state["sent"] += 1
                    reply = machine(state["request"], f"m{state['sent']}", 4000)
                    opened.sendto(json.dumps(reply).encode(), state["to"])
                await asyncio.sleep(0.001)

        loop.add_reader(opened, readable)
        task = asyncio.ensure_future(flood())
        result = await ask(Peer(NAME, "127.0.0.1", port))
        task.cancel()
        assert result.seconds < 1.2
        assert result.outcomes[NAME].state == "incomplete"
        assert len(result.outcomes[NAME].replies) > 5

    run(test)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cookie": "0" * 64}, "wrong_cookie"),
        ({"cookie": None}, "wrong_cookie"),
        ({"cookie": "\ud800"}, "wrong_cookie"),
        ({"factory": "factory2.example.com"}, "wrong_factory"),
        ({"factory": ["factory1.example.com"]}, "wrong_factory"),
        ({"space": "vac02.example.com"}, "wrong_space"),
        ({"num_machines": 5000}, "too_many"),
        ({"num_machines": "x"}, "wrong_type"),
        ({"hs06": "x"}, "wrong_type"),
        ({"message_type": "factory_status"}, "unknown_type"),
        ({"message_type": "machines_query"}, "unknown_type"),
        ({"hmac": "0" * 64}, "bad_signature"),
    ],
)
def test_a_reply_that_does_not_fit_is_dropped_and_a_good_one_counts(change: dict[str, t.Any], reason: str) -> None:
    async def test(site: Site) -> None:
        port = site.peer(lambda request, _number: [machine(request, **change), b"[" * 4000, machine(request)])
        result = await ask(Peer(NAME, "127.0.0.1", port), key=KEY)
        assert result.outcomes[NAME].state == "answered"
        assert result.dropped == {reason: 1, "not_json": 1}

    run(test)


@pytest.mark.parametrize(("cookie", "state", "dropped"), [(None, "answered", {}), ("0", "silent", {"wrong_cookie": 6})])
def test_an_answer_may_come_from_another_address_if_it_has_the_cookie(
    cookie: str | None, state: str, dropped: dict[str, int]
) -> None:
    """A real Vac on a host with several addresses answers from the one that its routes prefer."""

    async def test(site: Site) -> None:
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        site.sockets.append(other)
        other.bind(("127.0.0.2", 0))

        def readable() -> None:
            data, source = asked.recvfrom(65536)
            request = json.loads(data)
            other.sendto(json.dumps(machine({**request, "cookie": cookie or request["cookie"]})).encode(), source)

        port = site.peer(lambda _request, _number: [])
        asked = site.sockets[-1]
        asyncio.get_running_loop().add_reader(asked, readable)
        result = await ask(Peer(NAME, "127.0.0.1", port))
        assert result.outcomes[NAME].state == state
        assert result.dropped == dropped

    run(test)


def test_a_factory_cannot_answer_for_another_and_cookies_are_new_each_time() -> None:
    async def test(site: Site) -> None:
        liar = site.peer(lambda request, _number: [machine(request, factory="victim.example.com")])
        victim = site.peer(lambda _request, _number: [])
        peers = Peer("liar.example.com", "127.0.0.1", liar), Peer("victim.example.com", "127.0.0.1", victim)
        for _turn in range(2):
            result = await ask(*peers)
            assert {one.state for one in result.outcomes.values()} == {"silent"}
            assert set(result.dropped) == {"wrong_cookie"}
        cookies = {json.loads(data)["cookie"] for data in site.heard}
        assert len(cookies) == 4  # one for each factory and poll, the same in each round
        assert all(len(cookie) == 64 for cookie in cookies)

    run(test)


def test_two_names_at_one_place_are_told_apart_by_name() -> None:
    async def test(site: Site) -> None:
        port = site.peer(lambda request, number: [machine(request, factory="ab"[number - 1])])
        result = await ask(Peer("a", "127.0.0.1", port), Peer("b", "127.0.0.1", port))
        assert [one.state for one in result.outcomes.values()] == ["answered", "answered"]

    run(test)


def test_a_clock_days_ahead_blocks_nothing() -> None:
    now = int(time.time())

    async def test(site: Site) -> None:
        port = site.factory()
        shown = t.cast(t.Any, site.responders[0].snapshot)
        status = MachinetypeStatus("type0", shutdown_message="300 Nothing to do", shutdown_time=now + 864000)
        site.responders[0].snapshot = replace(shown, machinetypes=(status,))
        (reply,) = (await ask(Peer(NAME, "127.0.0.1", port), query="machinetypes_query")).outcomes[NAME].replies
        assert t.cast(MachinetypeStatus, reply.status).shutdown_time is None

    run(test)


# -- signatures


@pytest.mark.parametrize(
    ("theirs", "ours", "demanded", "state", "reasons"),
    [
        (KEY, KEY, True, "answered", set()),
        (KEY, OTHER, True, "silent", set()),  # their silence: they do not answer what another key has signed
        (KEY, None, False, "silent", set()),
        (None, KEY, False, "answered", set()),  # a real Vac sees keys it does not know
        (None, KEY, True, "silent", {"unsigned"}),
        (None, None, True, "silent", {"unsigned"}),
    ],
)
def test_keys(theirs: Key | None, ours: Key | None, demanded: bool, state: str, reasons: set[str]) -> None:
    async def test(site: Site) -> None:
        port = site.factory(guard=Guard(theirs, NAME) if theirs else None)
        result = await ask(Peer(NAME, "127.0.0.1", port, demanded), key=ours, budget=Budget(0.4, 3))
        assert (result.outcomes[NAME].state, set(result.dropped)) == (state, reasons)

    run(test)


def test_each_round_of_a_signed_poll_is_new_to_the_guard() -> None:
    async def test(site: Site) -> None:
        port = site.factory(guard=Guard(KEY, NAME))
        lossy = site.responders[0]
        real, lost = lossy._sent, []

        def sent(*arguments: t.Any) -> bool:
            lost.append(1)
            return len(lost) <= 6 or real(*arguments)

        lossy._sent = sent  # type: ignore[assignment, method-assign]
        result = await ask(Peer(NAME, "127.0.0.1", port, True), key=KEY)
        assert result.outcomes[NAME].state == "answered"
        assert lossy.answered == {"machines_query": 3}
        assert lossy.dropped == {}

    run(test)


# -- names


def resolver(table: dict[str, t.Any], calls: list[str] | None = None) -> Resolver:
    """One that knows a table: addresses, an error, or an event that has to come first."""

    def function(host: str) -> tuple[HostAddress, ...]:
        if calls is not None:
            calls.append(host)
        found = table.get(host, OSError(-2, "Name or service not known"))
        if isinstance(found, Exception):
            raise found
        if isinstance(found, threading.Event):
            found.wait(20)
            return (V4,)
        return t.cast("tuple[HostAddress, ...]", found)

    return Resolver(4, function)


def test_a_name_server_that_hangs_holds_up_nobody() -> None:
    hung = threading.Event()

    async def test(site: Site) -> None:
        good = Peer(NAME, "good", site.factory())
        late = Peer("factory2.example.com", "late", site.factory(2))
        names = resolver({"good": (V4,), "late": hung})
        result = await ask(late, good, Peer("factory3.example.com", "nowhere"), resolver=names)
        assert result.seconds < 1.2
        assert [one.state for one in result.outcomes.values()] == ["unknown", "answered", "unknown"]
        details = [one.detail for one in result.outcomes.values()]
        assert details == ["not found within 0.3 s", "", "Name or service not known"]
        assert set(result.silent_since) == {"factory2.example.com", "factory3.example.com"}
        # What was looked up too late for this poll is there for the next.
        hung.set()
        await asyncio.sleep(0.1)
        again = await ask(late, resolver=names, silent_since=result.silent_since)
        assert again.outcomes["factory2.example.com"].state == "answered"

    run(test)


def test_more_hanging_names_than_threads_do_not_hold_up_known_ones() -> None:
    hung = threading.Event()
    table: dict[str, t.Any] = {f"hung{number}": hung for number in range(50)}
    calls: list[str] = []

    async def test(site: Site) -> None:
        names = resolver({"good": (V4,), **table}, calls)
        good = Peer(NAME, "good", site.factory())
        await ask(good, resolver=names)
        peers = [Peer(f"{name}.example.com", name) for name in table]
        result = await ask(good, *peers, resolver=names)
        assert result.outcomes[NAME].state == "answered"
        assert result.seconds < 1.2
        assert len(calls) == 1 + 4  # no thread more, and no name twice

    run(test)
    hung.set()


def test_known_addresses_stay_when_the_name_server_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[str, t.Any] = {"good": (V4,)}
    calls: list[str] = []
    names = resolver(table, calls)

    async def test(site: Site) -> None:
        good = Peer(NAME, "good", site.factory())
        assert (await ask(good, resolver=names)).outcomes[NAME].state == "answered"
        assert (await ask(good, resolver=names)).outcomes[NAME].state == "answered"
        assert calls == ["good"]
        del table["good"]
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 301)
        for _turn in range(2):
            assert (await ask(good, resolver=names)).outcomes[NAME].state == "answered"
            await asyncio.sleep(0.1)
        assert calls == ["good", "good"]
        monkeypatch.undo()

    run(test)


def test_the_other_family_is_asked_when_one_refuses_and_first_the_next_time() -> None:
    """A real Vac has IPv4 only, whatever the name server says."""

    async def test(site: Site) -> None:
        names = resolver({"both": (V6, V4)})
        peer = Peer(NAME, "both", site.peer(lambda request, _number: [machine(request)]))
        result = await ask(peer, resolver=names, budget=Budget(12, 6))
        assert result.outcomes[NAME].state == "answered"
        assert result.seconds < 1.5  # without waiting for a round of 2 s
        assert (await names.resolve(["both"], 0.1))["both"].addresses == (V4, V6)

    run(test)


def test_the_other_family_is_asked_in_the_next_round_when_one_is_silent() -> None:
    async def test(site: Site) -> None:
        silent = site.peer(lambda _request, _number: [], "::1")
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("127.0.0.1", silent))
        site.sockets.append(opened)

        def readable() -> None:
            data, source = opened.recvfrom(65536)
            opened.sendto(json.dumps(machine(json.loads(data))).encode(), source)

        asyncio.get_running_loop().add_reader(opened, readable)
        # Even if it was silent before, each of its addresses is asked.
        peer = Peer(NAME, "both", silent)
        result = await ask(peer, resolver=resolver({"both": (V6, V4)}), silent_since={NAME: 1.0})
        assert result.outcomes[NAME].state == "answered"

    run(test)


def test_many_factories_at_once() -> None:
    def answer(name: str, request: dict[str, t.Any], _number: int) -> list[t.Any]:
        return [machine(request, factory=name)]

    async def test(site: Site) -> None:
        names = [f"factory{number}.example.com" for number in range(200)]
        ports = [site.peer(partial(answer, name)) for name in names]
        peers = [Peer(name, "127.0.0.1", port) for name, port in zip(names, ports, strict=True)]
        result = await ask(*peers, budget=Budget(10))
        assert {one.state for one in result.outcomes.values()} == {"answered"}
        assert list(result.outcomes) == names
        assert result.seconds < 3

    assert len(run(test).heard) == 200


def test_who_was_not_asked_for_lack_of_time_is_not_held_for_dead() -> None:
    async def test(site: Site) -> None:
        port = site.peer(lambda _request, _number: [])
        peers = [Peer(f"factory{number}.example.com", "127.0.0.1", port) for number in range(5000)]
        # Sending to all takes half a second because of the pauses; on a busy machine the first may have to wait.
        for seconds in (0.05, 0.1, 0.2, 0.4):
            result = await ask(*peers, budget=Budget(seconds, 1))
            late = [one for one in result.outcomes.values() if one.detail.startswith("not asked")]
            if len(late) < 5000:
                break
        assert 0 < len(late) < 5000
        assert {(one.state, one.since) for one in late} == {("silent", None)}
        assert len(result.silent_since) == 5000 - len(late)

    run(test)

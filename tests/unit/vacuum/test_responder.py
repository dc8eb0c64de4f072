# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The responder on the loopback: who gets what, who gets silence, and that nothing hurts it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import json
import os
import random
import socket
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import responder as responders
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import signature as signatures
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access, Buckets, address_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import (
    FRAME,
    REPLY_LIMIT,
    DatagramError,
    dump,
    load,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import Request, fit
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import WINDOW, Guard, Key, load_key
from tests.unit.vacuum.loopback import SPACE, ask, bind, served, snapshot

REQUEST = Request("machines_query", SPACE, "c1").as_data()
SECRET, OTHER = b"0123456789abcdef" * 4, b"fedcba9876543210" * 4
KEY = Key(SECRET)
ME = "factory1.example.com"


def ready(**options: t.Any) -> Responder:
    responder = Responder(options.pop("access", Access()), **options)
    responder.snapshot = snapshot()
    return responder


def asked(**changes: t.Any) -> bytes:
    return dump({**REQUEST, **changes})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_question_has_its_answer_over_both_families(host: str) -> None:
    responder = ready()
    with served(responder) as port:
        machines = ask(port, asked(), host)
        assert [one["machine"] for one in machines] == [f"factory1-{n:02d}.example.com" for n in range(3)]
        assert {one["num_machines"] for one in machines} == {3}
        types = ask(port, asked(message_type="machinetypes_query"), host)
        assert [one["machinetype"] for one in types] == ["type0", "type1"]
        (factory,) = ask(port, asked(message_type="factory_query"), host)
        assert (factory["max_machines"], factory["total_machines"], factory["os_issue"]) == (3, 3, "Example Linux 1")
        for one in (*machines, *types, factory):
            assert (one["cookie"], one["space"], one["factory"], one["site"]) == ("c1", SPACE, ME, "EXAMPLE")
            assert one["daemon_version"] == one["vac_version"] == "hep.gridbox 1 responder"
            assert abs(one["time_sent"] - time.time()) < 5
    assert responder.answered == {"machines_query": 1, "machinetypes_query": 1, "factory_query": 1}
    assert (responder.dropped, responder.sent) == ({}, 6)


def test_requests_of_a_real_vac_are_answered() -> None:
    with served(ready()) as port:
        for line in (Path(__file__).parent / "captured/requests.jsonl").read_bytes().splitlines():
            replies = ask(port, line)
            assert {one["cookie"] for one in replies} == {json.loads(line)["cookie"]}


def test_a_host_with_several_addresses_answers_from_the_one_that_was_asked() -> None:
    """By the routes of the loopback, an answer to 127.0.0.1 would come from 127.0.0.1."""
    with served(ready(), ipv4="", ipv6="::") as port:
        assert len(ask(port, asked(), "127.0.0.9")) == 3
        assert len(ask(port, asked(), "::1")) == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (asked(space="vac02.example.com"), "wrong_space"),
        (asked(space=None), "wrong_type"),
        (dump({key: value for key, value in REQUEST.items() if key != "cookie"}), "no_cookie"),
        (asked(message_type="reboot"), "unknown_type"),
        (asked(message_type="machine_status"), "unknown_type"),
        (b"", "not_json"),
        (b"[1, 2]", "not_object"),
        (b'"machines_query"', "not_object"),
        (b"[" * 1024, "not_json"),
        (b'{"cookie":' * 100, "not_json"),
        (b'{"cookie": ' + b"[" * 400 + b"]" * 400 + b', "space": "s", "method": "machines"}', "deep_cookie"),
        (b'{"space": "vac01.example.com", "method": "machines", "cookie": 1e999}', "unsendable"),
        (b'{"space": "vac01.example.com", "method": "machines", "cookie": NaN}', "not_json"),
        (b"\xed\xa0\x80", "not_json"),
        (asked(cookie="c" * 1024), "too_long"),
    ],
)  # fmt: skip
def test_what_gets_silence_is_counted_and_the_next_gets_an_answer(data: bytes, reason: str) -> None:
    responder = ready()
    assert responder.answer(data, "127.0.0.1") == []
    assert responder.dropped == {reason: 1}
    assert len(responder.answer(asked(), "127.0.0.1")) == 3


def test_a_request_of_1024_bytes_is_read_over_the_socket_and_one_byte_more_is_not() -> None:
    responder = ready()
    size = len(asked(cookie=""))
    with served(responder) as port:
        assert len(ask(port, asked(cookie="c" * (1024 - size)))) == 3
        assert ask(port, asked(cookie="c" * (1025 - size)), seconds=0.2) == []
    assert responder.dropped == {"too_long": 1}


def test_before_there_is_a_snapshot_there_is_no_answer_and_a_new_one_counts_at_once() -> None:
    responder = Responder(Access())
    assert responder.answer(asked(), "::1") == []
    assert responder.dropped == {"not_ready": 1}
    responder.snapshot = snapshot(2, machines=1)
    assert json.loads(responder.answer(asked(), "::1")[0])["machine"] == "factory2-00.example.com"
    responder.snapshot = snapshot(2, machines=0)
    assert responder.answer(asked(), "::1") == []  # as Vac: nothing to say, and asked all the same


@pytest.mark.parametrize(
    ("access", "host", "allowed"),
    [
        (Access(), "127.0.0.1", True),
        (Access(), "127.8.7.6", True),
        (Access(), "::1", True),
        (Access(), "192.0.2.1", False),
        (Access(), "::ffff:192.0.2.1", False),
        (Access(networks=()), "127.0.0.1", False),
        (Access(networks=(ipaddress.ip_network("192.0.2.0/24"),)), "192.0.2.1", True),
        (Access(networks=(ipaddress.ip_network("192.0.2.0/24"),)), "198.51.100.1", False),
        (Access(networks=(ipaddress.ip_network("192.0.2.0/24"),)), "::ffff:192.0.2.1", True),
        (Access(networks=(ipaddress.ip_network("fe80::/64"),)), "fe80::1%eth0", True),
        (Access(networks=(ipaddress.ip_network("2001:db8::/32"),)), "2001:db9::1", False),
        (Access(addresses=frozenset([ipaddress.ip_address("198.51.100.7")])), "198.51.100.7", True),
        (Access(addresses=frozenset([ipaddress.ip_address("198.51.100.7")])), "198.51.100.8", False),
        (Access(open=True), "198.51.100.8", True),
        (Access(open=True), "nonsense", False),
    ],
)
def test_who_may_ask(access: Access, host: str, allowed: bool) -> None:
    responder = ready(access=access)
    assert bool(responder.answer(asked(), host)) == allowed
    assert responder.dropped == ({} if allowed else {"not_allowed": 1})


def test_only_the_configured_network_gets_answers_over_the_socket() -> None:
    with served(ready(access=Access(networks=(ipaddress.ip_network("127.0.7.0/24"),)))) as port:
        assert ask(port, asked(), source="127.0.6.1", seconds=0.2) == []
        assert len(ask(port, asked(), source="127.0.7.1")) == 3


def test_the_rate_is_one_for_each_address_and_counts_what_is_sent() -> None:
    responder = ready(buckets=Buckets(rate=0.001, burst=8))
    # A question costs one, and each of its three replies one.
    assert [len(responder.answer(asked(), "127.0.0.1")) for _turn in range(3)] == [3, 3, 0]
    assert len(responder.answer(asked(), "127.0.0.2")) == 3
    assert len(responder.answer(asked(), "::1")) == 3
    assert responder.dropped == {"rate": 1}
    for _turn in range(10):
        responder.answer(b"junk", "127.0.0.3")
    assert (responder.dropped["not_json"], responder.dropped["rate"]) == (8, 3)


def test_a_bucket_fills_again_owes_what_was_charged_and_the_table_is_bounded() -> None:
    first = ipaddress.ip_address("192.0.2.1")
    buckets = Buckets(rate=10, burst=2, sources=3)
    assert [buckets.take(first, 0.0) for _turn in range(3)] == [True, True, False]
    assert [buckets.take(first, 0.1) for _turn in range(2)] == [True, False]
    assert buckets.take(first, 100.0)
    buckets.charge(first, 11)  # of 1 that was left: it owes 10
    assert not buckets.take(first, 100.9)
    assert buckets.take(first, 101.2)
    for number in range(10):
        assert buckets.take(ipaddress.ip_address(f"198.51.100.{number}"), 101.2)
    assert len(buckets) == 3
    assert address_of("::ffff:192.0.2.1") == first


def test_a_network_of_ipv6_has_one_limit_but_each_factory_its_own() -> None:
    """A host has as many addresses as it likes in its /64, in which the factories of its site are, too."""
    factories = frozenset(ipaddress.ip_address(f"2001:db8::fac:{number}") for number in (1, 2))
    responder = ready(access=Access(factories, (ipaddress.ip_network("2001:db8::/48"),)), buckets=Buckets(0.001, 8))
    others = [len(responder.answer(asked(), f"2001:db8::{number}")) for number in range(1, 4)]
    assert others == [3, 3, 0]
    assert len(responder.answer(asked(), "2001:db8:0:1::1")) == 3, "another network"
    first = [len(responder.answer(asked(), "2001:db8::fac:1")) for _turn in range(3)]
    assert first == [3, 3, 0], "a factory has no more than a network"
    assert len(responder.answer(asked(), "2001:db8::fac:2")) == 3


def test_an_answer_made_ahead_is_the_one_made_for_this_cookie() -> None:
    """A long cookie leaves no room for the message, which is then cut for this asker only."""
    responder = ready()
    base = snapshot()
    responder.snapshot = replace(base, machines=(replace(base.machines[0], shutdown_message="200 \n" + "x" * 500),))
    short, long = (json.loads(responder.answer(asked(cookie=c), "::1")[0]) for c in ("c", "c" * 500))
    assert short["shutdown_message"] == "200 ?" + "x" * 500
    assert long["shutdown_message"].startswith("200 ?xx")
    assert len(long["shutdown_message"]) < 400
    del short["shutdown_message"], short["cookie"], long["shutdown_message"], long["cookie"]
    assert short == {**long, "time_sent": short["time_sent"]}


@pytest.mark.parametrize("key", [None, KEY])
def test_an_answer_with_long_messages_is_made_ahead_too(monkeypatch: pytest.MonkeyPatch, key: t.Optional[Key]) -> None:
    """It has room for a cookie as long as Vac's and ours; to make one anew takes longer than all the rest."""
    made: list[str] = []

    def noted(reply: dict[str, t.Any], *room: int) -> dict[str, t.Any]:
        made.append(reply["machine"])
        return fit(reply, *room)

    monkeypatch.setattr(responders, "fit", noted)
    responder = guarded(required=False)
    base = snapshot(machines=4)
    responder.snapshot = replace(base, machines=tuple(replace(o, shutdown_message="2" * 999) for o in base.machines))
    for turn in range(3):
        data = asked(cookie=f"{turn:064x}")
        replies = responder.answer(data if key is None else key.sign(data, time.time(), ME), "::1")
        assert [json.loads(one)["cookie"] for one in replies] == [f"{turn:064x}"] * 4
        assert {len(one) <= FRAME for one in replies} == {True}
    assert len(made) == 4


def test_what_a_new_snapshot_tells_as_before_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def noted(reply: dict[str, t.Any], room: int) -> dict[str, t.Any]:
        made.append(reply["message_type"])
        return fit(reply, room)

    monkeypatch.setattr(responders, "fit", noted)
    responder = ready()
    base = snapshot(machines=1, machinetypes=1)

    def ask_all() -> list[str]:
        made.clear()
        for query in ("factory_query", "machines_query", "machinetypes_query"):
            assert len(responder.answer(asked(message_type=query), "::1")) == 1
        return made

    responder.snapshot = base
    assert ask_all() == ["factory_status", "machine_status", "machinetype_status"]
    responder.snapshot = replace(base, status=replace(base.status, factory_heartbeat_time=5))
    assert ask_all() == ["factory_status"]
    responder.snapshot = replace(responder.snapshot, machinetypes=(replace(base.machinetypes[0], running_hs06=7.0),))
    assert ask_all() == ["machinetype_status"]
    assert json.loads(responder.answer(asked(message_type="machinetypes_query"), "::1")[0])["running_hs06"] == 7.0
    responder.snapshot = replace(responder.snapshot, version="hep.gridbox 2")
    assert len(ask_all()) == 3


# -- signatures


def guarded(required: bool = True) -> Responder:
    return ready(guard=Guard(KEY, ME, required))


def signed(key: Key = KEY, to: str = ME, now: float | None = None) -> bytes:
    return key.sign(asked(), time.time() if now is None else now, to)


def check(key: Key, data: bytes, now: float) -> None:
    key.verify(data, load(data, REPLY_LIMIT), now)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (asked, "unsigned"),
        (lambda: asked(hmac=None), "bad_signature"),
        (lambda: asked(hmac=1), "bad_signature"),
        (lambda: asked(hmac="é"), "bad_signature"),
        (lambda: asked(hmac="0" * 64), "bad_signature"),
        (lambda: signed(Key(OTHER)), "bad_signature"),
        (lambda: signed().replace(b'"c1"', b'"c2"'), "bad_signature"),
        (lambda: signed().replace(b'"c1"', b'"c1" '), "bad_signature"),
        (lambda: signed()[:-1] + b',"extra":1}', "bad_signature"),
        (lambda: signed() + b" ", "bad_signature"),
        (lambda: signed()[:-1] + b',"cookie":"c2","hmac":"' + b"0" * 64 + b'"}', "bad_signature"),
        (lambda: signed(to="factory2.example.com"), "not_for_us"),
        (lambda: signed(to=""), "not_for_us"),
        (lambda: signed(now=time.time() - WINDOW - 5), "stale"),
        (lambda: signed(now=time.time() + WINDOW + 5), "stale"),
    ],
)
def test_only_what_is_signed_for_this_factory_just_now_is_answered(data: t.Callable[[], bytes], reason: str) -> None:
    responder = guarded()
    assert responder.answer(data(), "127.0.0.1") == []
    assert responder.dropped == {reason: 1}


@pytest.mark.parametrize("value", [True, None, "1", 1.5, [], 10**400, -(10**400)])
def test_a_member_with_a_strange_time_hurts_nobody(value: t.Any) -> None:
    responder = guarded()
    strange = b',"hmac_time":' + json.dumps(value).encode() + b',"x":'
    # As the key's holder would sign it: the time of the signature itself goes under another name.
    data = KEY.sign(asked(), time.time(), ME).replace(b',"hmac_time":', strange)
    body = data[: data.rindex(b',"hmac":')]
    digest = hmac.new(SECRET, body, hashlib.sha256).hexdigest().encode()
    assert responder.answer(body + b',"hmac":"' + digest + b'"}', "::1") == []
    assert responder.dropped == {"stale": 1}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("flood", [asked, lambda: b"junk", lambda: signed(Key(OTHER))])
def test_who_has_no_key_uses_up_nothing_of_who_has_it(flood: t.Callable[[], bytes], required: bool) -> None:
    """Payloads whose traffic leaves with their host's address are not to make their own factory deaf."""
    responder = ready(guard=Guard(KEY, ME, required), buckets=Buckets(rate=0.001, burst=8))
    for _turn in range(50):
        responder.answer(flood(), "127.0.0.1")
    assert [len(responder.answer(signed(), "127.0.0.1")) for _turn in range(3)] == [3, 3, 0]
    assert len(responder.answer(signed(), "127.0.0.2")) == 3
    assert len(responder.answer(asked(), "127.0.0.3")) == (0 if required else 3)


def test_who_has_the_key_uses_up_nothing_of_who_has_none() -> None:
    responder = ready(guard=Guard(KEY, ME, required=False), buckets=Buckets(rate=0.001, burst=8))
    assert [len(responder.answer(signed(), "::1")) for _turn in range(4)] == [3, 3, 0, 0]
    assert [len(responder.answer(asked(), "::1")) for _turn in range(3)] == [3, 3, 0]
    assert responder.dropped == {"rate": 3}


def test_nobody_makes_it_look_at_signatures_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def digest(secret: bytes, body: bytes) -> bytes:
        nonlocal looked
        looked += 1
        return hmac.new(secret, body, hashlib.sha256).hexdigest().encode()

    responder = ready(guard=Guard(KEY, ME), buckets=Buckets(rate=0.001, burst=8))
    responder.verified = Buckets(rate=0.001, burst=20, sources=1)
    bad = signed(Key(OTHER))
    monkeypatch.setattr(signatures, "_digest", digest)
    for _turn in range(100):
        assert responder.answer(bad, "127.0.0.1") == []
    assert looked == 28, "the rate for all, and then that of its address"
    assert responder.dropped == {"bad_signature": 28, "rate": 72}
    # Others are looked at as ever, by the rate of theirs.
    assert len(responder.answer(signed(), "127.0.0.2")) == 3


def test_a_signed_answer_is_signed_and_an_answer_heard_by_a_real_vac_is_the_same_but_for_that() -> None:
    responder = guarded(required=False)
    now = time.time()
    for with_it, without in zip(
        responder.answer(signed(), "::1"), responder.answer(asked(), "::1"), strict=True
    ):  # fmt: skip
        check(KEY, with_it, now)
        with pytest.raises(DatagramError, match="another key, or changed"):
            check(KEY, with_it.replace(b"Shut down", b"Running"), now)
        found = json.loads(with_it)
        del found["hmac"], found["hmac_time"], found["time_sent"]
        plain = json.loads(without)
        del plain["time_sent"]
        assert found == plain
    # A signature that is wrong is not taken for none.
    assert responder.answer(signed(Key(OTHER)), "::1") == []


def test_a_signed_request_is_answered_once_and_forgotten_when_it_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    responder = guarded()
    first = signed()
    assert responder.answer(first, "::1")
    assert responder.answer(first, "::1") == []
    assert responder.answer(signed(), "::1")
    assert responder.dropped == {"replayed": 1}
    guard = t.cast(Guard, responder.guard)
    assert len(guard._seen) == 2
    later = time.time() + 2 * WINDOW + 1
    last = signed(now=later)
    guard.admit(last, load(last, REPLY_LIMIT), later)
    assert len(guard._seen) == 1


def test_a_signed_reply_still_fits_a_frame() -> None:
    responder = guarded()
    base = snapshot()
    responder.snapshot = replace(base, machines=(replace(base.machines[0], shutdown_message="2" * 5000),))
    for cookie in ("c" * 64, "c" * 200):
        (reply,) = responder.answer(KEY.sign(asked(cookie=cookie), time.time(), ME), "::1")
        assert FRAME - 20 <= len(reply) <= FRAME
    (short,) = responder.answer(signed(), "::1")
    assert len(short) < FRAME


def test_a_key_is_changed_without_a_gap() -> None:
    old, both, new = Key(OTHER), Key(OTHER, SECRET), Key(SECRET)
    now = time.time()
    check(both, signed(old), now)
    check(both, signed(new), now)
    check(old, signed(both), now)
    with pytest.raises(DatagramError):
        check(new, signed(both), now)


def test_a_key_file_is_read_and_shown_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(OTHER + b"\n\n" + SECRET + b"\n")
    path.chmod(0o600)
    key = load_key(str(path))
    check(key, signed(now=1.0), 1.0)
    check(key, signed(Key(OTHER), now=1.0), 1.0)
    with pytest.raises(DatagramError):
        check(key, signed(Key(OTHER + b"x"), now=1.0), 1.0)
    assert repr(key) == str(key) == "Key(<2 secrets>)"


@pytest.mark.parametrize(
    ("mode", "content", "words"),
    [
        (0o640, SECRET, "only its owner can read. Its mode is 0640. Set 0600."),
        (0o604, SECRET, "Its mode is 0604"),
        (0o600, b"", "one secret or more in it"),
        (0o600, b"short\n", "a line of at least 32 characters"),
        (0o600, SECRET + b"\nshort\n", "a line of at least 32 characters"),
    ],
)
def test_a_key_file_that_is_no_good_is_refused(tmp_path: Path, mode: int, content: bytes, words: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(InputError) as caught:
        load_key(str(path))
    assert words in str(caught.value)
    assert "short" not in str(caught.value)
    assert SECRET.decode() not in str(caught.value)


def test_a_key_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SECRET)
    (tmp_path / "key").chmod(0o600)
    load_key(str(tmp_path / "key"))
    (tmp_path / "link").symlink_to("key")
    for path in (tmp_path, tmp_path / "link", tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(InputError, match=r"^vacquery\.key_file: got "):
            load_key(str(path))


# -- hurt it

#: What a JSON parser may stumble over when there is much of it.
WORDS = (b"[", b"{", b'{"a":', b'"', b"\\u", b"\xf0\x9f", b"9", b"-", b"e9", b"NaN,", b"\x00")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_object_hurts_it(data: st.DataObject) -> None:
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    content: dict[str, t.Any] = {**REQUEST, "hmac": "x", "hmac_time": 1, "hmac_to": ME, "hmac_nonce": "n"}
    for key in data.draw(st.lists(st.sampled_from(sorted(content)), max_size=4)):
        content[key] = data.draw(anything)
    for key in data.draw(st.lists(st.sampled_from(sorted(content)), max_size=3, unique=True)):
        del content[key]
    for responder in (ready(), guarded(required=False)):
        responder.answer(json.dumps(content).encode(), "127.0.0.1")
        assert sum(responder.answered.values()) + sum(responder.dropped.values()) == 1


def test_no_bytes_hurt_it_over_the_socket() -> None:
    """Thousands of datagrams, from noise to requests with some bytes changed, cut or doubled; then it still answers."""
    draw = random.Random(20261127)
    good = asked()
    responder = ready(buckets=Buckets(1e9, 1e9), request_limit=2048)
    with served(responder) as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        for number in range(3000):
            data = bytearray(good)
            kind = number % 5
            if kind == 0:
                data = bytearray(draw.randbytes(draw.randrange(3000)))
            elif kind == 1:
                for _turn in range(draw.randrange(1, 6)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            elif kind == 2:
                del data[draw.randrange(len(data)) :]
            elif kind == 3:
                start = draw.randrange(len(data))
                data[start:start] = data[start : start + draw.randrange(60)] * draw.randrange(20)
            else:
                word = draw.choice(WORDS)
                start = draw.randrange(len(data))
                data[start:start] = word * draw.randrange(400)
            client.send(data)
            if number % 50 == 0:  # its socket's buffer is to lose none
                assert len(ask(port, good)) == 3, number
        assert len(ask(port, good)) == 3
    handled = sum(responder.answered.values()) + sum(responder.dropped.values())
    assert handled == 3000 + 60 + 1
    assert responder.dropped["not_json"] > 1500
    assert not {"socket_error", "unsendable", "backlog_full"} & set(responder.dropped)


def test_a_thousand_requests_none_lost() -> None:
    """Of three hundred a real Vac loses three (spec 9.1)."""
    with served(ready(buckets=Buckets(1e9, 1e9))) as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(10)
        for number in range(1000):
            client.send(asked(message_type="factory_query", cookie=number))
            assert json.loads(client.recv(4096))["cookie"] == number


# -- sockets


def test_what_the_buffer_does_not_take_waits_and_is_sent_in_order() -> None:
    responder = ready()
    responder.snapshot = snapshot(machines=3000)

    async def run() -> list[str]:
        port = bind(responder, ipv6=None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            client.connect(("127.0.0.1", port))
            loop = asyncio.get_running_loop()
            responder.attach(loop)
            (server,) = responder._sockets
            # The loopback takes all at once, so the kernel's refusal is played: every tenth try has to wait.
            real, tries = responder._sent, 0

            def sent(*arguments: t.Any) -> bool:
                nonlocal tries
                tries += 1
                return tries % 10 != 0 and real(*arguments)

            responder._sent = sent  # type: ignore[assignment, method-assign]
            client.send(asked())
            found = []
            while len(found) < 3000:
                found.append(json.loads(await asyncio.wait_for(loop.sock_recv(client, 4096), 5))["machine"])
            assert not responder._backlog[server]
        responder.close()
        return found

    assert asyncio.run(run()) == [one.machine for one in snapshot(machines=3000).machines]
    assert responder.sent == 3000


@pytest.mark.parametrize(("call", "number"), [("socket", errno.EAFNOSUPPORT), ("bind", errno.EADDRNOTAVAIL)])
def test_a_host_without_ipv6_is_served_over_ipv4(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """``ipv6.disable=1`` on the kernel's command line, or IPv6 turned off while it runs."""

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, *arguments: t.Any) -> None:
            if call == "socket" and family == socket.AF_INET6:
                raise OSError(number, "no")
            super().__init__(family, *arguments)

        def bind(self, address: t.Any) -> None:
            if call == "bind" and self.family == socket.AF_INET6:
                raise OSError(number, "no")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    responder = ready()
    assert responder.open(0, "127.0.0.1") > 0
    assert [one.family for one in responder._sockets] == [socket.AF_INET]
    assert responder.without_ipv6 == os.strerror(number)
    responder.close()
    # Who names an address of IPv6, or no other family, is not served by half.
    for ipv4, ipv6 in (("127.0.0.1", "::1"), (None, "::")):
        other = ready()
        with pytest.raises(RefusedError, match=os.strerror(number)):
            other.open(0, ipv4, ipv6)
        assert not other._sockets


def test_a_port_that_another_has_over_ipv6_is_refused() -> None:
    first, second = ready(), ready()
    port = first.open(0, None, "::")
    with pytest.raises(RefusedError, match=rf"^UDP \[::\]:{port}: Address already in use"):
        second.open(port, "127.0.0.1")
    assert not second._sockets
    first.close()


def test_a_port_that_is_taken_is_told_and_nothing_stays_bound() -> None:
    first, second = ready(), ready()
    port = bind(first)
    with pytest.raises(RefusedError, match=rf"^UDP 127\.0\.0\.1:{port}: Address already in use\. See with `ss -lunp`"):
        second.open(port, "127.0.0.1", None)
    with pytest.raises(RefusedError, match=rf"^UDP \[::1\]:{port}: Address already in use"):
        second.open(port, "127.0.0.2", "::1")
    assert second.open(port, "127.0.0.2", None) == port
    for one in (first, second):
        one.close()

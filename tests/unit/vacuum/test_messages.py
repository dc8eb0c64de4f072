# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VacQuery's messages, against datagrams of a real Vac (``captured``), and against all that is none."""

from __future__ import annotations

import json
import sys
import typing as t
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import (
    FRAME,
    REPLY_LIMIT,
    DatagramError,
    dump,
    load,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    Envelope,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
    Reply,
    Request,
    fit,
    on_our_clock,
    parse_reply,
    parse_reply_bytes,
    parse_request,
)

CAPTURED = Path(__file__).parent / "captured"
REPLIES = (CAPTURED / "replies.jsonl").read_bytes().splitlines()
REQUESTS = (CAPTURED / "requests.jsonl").read_bytes().splitlines()

#: What a real factory and a real ``vac`` demand of a reply (spec 7.4).
DEMANDED = {
    MachinetypeStatus: "message_type cookie space factory num_machinetypes machinetype running_hs06 num_before_fizzle"
    " shutdown_message shutdown_time shutdown_machine",
    MachineStatus: "message_type cookie space factory num_machines machine state uuid created_time started_time"
    " heartbeat_time cpu_seconds cpu_percentage hs06 machinetype shutdown_message shutdown_time",
    FactoryStatus: "message_type cookie space factory running_cpus total_cpus total_machines vac_version"
    " running_machines load_average root_disk_avail_kb vac_disk_avail_kb mem_used_kb mem_total_kb",
}

ENVELOPE = Envelope("c0", "vac01.example.com", "factory1.example.com", "EXAMPLE", "hep.gridbox 1 responder", 1795187635)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

#: The counters that datagrams can raise, whatever is in them; empty: it is read.
REASONS = ("", "not_json", "not_object", "unknown_type", "missing_key", "wrong_type", "no_cookie", "deep_cookie")


def reason(data: bytes, limit: int = REPLY_LIMIT) -> str:
    with pytest.raises(DatagramError) as caught:
        parse_reply(load(data, limit))
    return caught.value.reason


@pytest.mark.parametrize("data", REPLIES)
def test_a_captured_reply_is_read_and_written_again_the_same(data: bytes) -> None:
    """Every key and every value, the older names too, and nothing beside."""
    reply = parse_reply_bytes(data)
    assert json.loads(dump(reply.as_data())) == json.loads(data)
    assert fit(reply.as_data()) == reply.as_data()


def test_what_the_captured_replies_say() -> None:
    first, second, machine, factory = (parse_reply_bytes(data) for data in REPLIES)
    assert first.status == MachinetypeStatus(
        "exp-dc-prod", 20.0, 0, "200 Success", 1795187492, "factory1-00.example.com", 1, 2.0, 67108864, 3600, 2,
        "/exp/Role=production",
    )  # fmt: skip
    assert (first.count, first.key) == (3, "exp-dc-prod")
    assert isinstance(second.status, MachinetypeStatus)
    assert (second.status.shutdown_time, second.status.fqan, second.count) == (None, None, 1)
    assert isinstance(machine.status, MachineStatus)
    assert (machine.key, machine.count, machine.status.machine_model) == ("factory1-00.example.com", 8, "docker")
    assert isinstance(factory.status, FactoryStatus)
    assert (factory.status.mem_total_kb, factory.status.max_processors, factory.key, factory.count) == (
        24684084,
        8,
        "",
        1,
    )
    assert factory.envelope == Envelope(
        "c0", "vac01.example.com", "factory1.example.com", "UKI-EXAMPLE", "Vac 03.01+pre00 vacd-responder", 1795187635
    )


def test_replies_of_an_older_vac_are_read() -> None:
    """It counts seven machinetypes, and told three; a message without a code, of two lines, is the machine's own."""
    data = (CAPTURED / "replies-03.00.02.jsonl").read_bytes().splitlines()
    machinetype, starting, ended = (parse_reply_bytes(one) for one in data)
    assert machinetype.status == MachinetypeStatus(
        "prod", 32.5, 3, None, None, None, 3, 4.0, 2147483648, 86400, 2, "/exp/Role=production"
    )
    assert machinetype.count == 7
    assert isinstance(starting.status, MachineStatus) and isinstance(ended.status, MachineStatus)
    assert (starting.status.state, starting.status.started_time, starting.status.hs06) == ("Starting", None, 10.5)
    assert ended.status.shutdown_message == "bye bye\ufffdsecond line"


@pytest.mark.parametrize("data", REQUESTS)
def test_a_captured_request_is_read_and_written_again(data: bytes) -> None:
    request = parse_request(load(data, 1024))
    written = request.as_data()
    assert {key: written[key] for key in json.loads(data)} == json.loads(data)
    assert set(written) - set(json.loads(data)) <= {"method"}  # that a factory's own query lacks


@pytest.mark.parametrize("cls", DEMANDED)
def test_a_new_factory_sends_all_that_a_real_vac_demands(cls: type) -> None:
    status = cls("name") if cls is not FactoryStatus else cls()
    written = Reply(ENVELOPE, status, 1).as_data()
    assert not set(DEMANDED[cls].split()) - set(written)


@pytest.mark.parametrize("cls", [MachinetypeStatus, MachineStatus])
def test_the_demanded_keys_are_enough_and_each_is_needed(cls: type) -> None:
    """An independent peer sends no more (spec 7.7)."""
    whole = Reply(ENVELOPE, cls("name"), 2).as_data()
    least = {key: whole[key] for key in DEMANDED[cls].split()}
    assert parse_reply(least).count == 2
    for key in least:
        without = {other: value for other, value in least.items() if other != key}
        assert reason(json.dumps(without).encode()) == ("unknown_type" if key == "message_type" else "missing_key"), key


def test_a_factory_that_says_nothing_of_itself_is_read() -> None:
    reply = parse_reply({"message_type": "factory_status", "cookie": 1, "space": "s", "factory": "f"})
    assert all(getattr(reply.status, one.name) is None for one in fields(reply.status))


def test_a_slot_never_used_is_nulls() -> None:
    written = Reply(ENVELOPE, MachineStatus("factory1-02.example.com"), 8).as_data()
    for key in "uuid machinetype created_time started_time heartbeat_time shutdown_time machine_model".split():
        assert written[key] is None, key
    assert (written["state"], written["num_processors"], written["num_cpus"]) == ("Shut down", 0, 0)
    assert parse_reply(written).status == MachineStatus("factory1-02.example.com")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("running_hs06", "x"),  # of one peer, it crashes every real factory of the space (spec 7.7)
        ("running_hs06", None),
        ("running_hs06", True),
        ("running_hs06", -1),
        ("running_hs06", 1e300),
        ("running_hs06", 10**4000),
        ("num_before_fizzle", [1]),
        ("shutdown_time", "1795187492"),
        ("shutdown_time", -1),
        ("shutdown_message", 200),
        ("shutdown_machine", {}),
        ("running_cpus", "2"),
        ("machinetype", ""),
        ("machinetype", "a" * 256),
        ("machinetype", "a\x1b[2J"),
        ("machinetype", None),
        ("factory", ["factory1.example.com"]),
        ("factory", "\ud800"),
        ("space", 1),
        ("time_sent", "now"),
        ("num_machinetypes", 0),
        ("num_machinetypes", "3"),
        ("fqan", 1),
    ],
)
def test_a_wrong_type_drops_the_datagram(key: str, value: t.Any) -> None:
    data = json.loads(REPLIES[0])
    if key == "running_cpus":
        del data["running_processors"]
    assert reason(json.dumps({**data, key: value}).encode()) == "wrong_type"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [("running_hs06", 20, 20), ("num_before_fizzle", 1.0, 1), ("shutdown_time", 1795187492.7, 1795187492),
     ("running_processors", None, None),
     ("shutdown_message", "300 \x1b[31mNo\n\u202e", "300 \ufffd[31mNo\ufffd\ufffd")],
)  # fmt: skip
def test_what_a_real_vac_may_send_is_read(key: str, value: t.Any, found: t.Any) -> None:
    reply = parse_reply_bytes(json.dumps({**json.loads(REPLIES[0]), key: value, "unknown": [1]}).encode())
    assert getattr(reply.status, key) == found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not_json"), (b"{", "not_json"), (b"\xff\xfe{}", "not_json"), (b"\xef\xbb\xbf{}", "not_json"),
        (b"[" * 5000, "not_json"), (b'{"a":' * 2000, "not_json"), (b"[]", "not_object"), (b"null", "not_object"),
        (b"1", "not_object"), (b"9" * 5000, "not_json"), (b'{"a": NaN}', "not_json"), (b'{"a": 1e999}', "unknown_type"),
        (b'{"a": -Infinity}', "not_json"),
        (b"{}" + b" " * 10240, "too_long"),
        (b"{}", "unknown_type"), (b'{"message_type": ["factory_status"]}', "unknown_type"),
        (b'{"message_type": "factory_query"}', "unknown_type"),
    ],
)  # fmt: skip
def test_what_is_no_reply_has_a_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"message_type": "factory_query", "space": "s"}, "no_cookie"),
        ({"message_type": "factory_query", "cookie": 1}, "wrong_type"),
        ({"message_type": "factory_query", "cookie": 1, "space": ["s"]}, "wrong_type"),
        ({"message_type": "factory_status", "cookie": 1, "space": "s"}, "unknown_type"),
        ({"message_type": {}, "cookie": 1, "space": "s"}, "unknown_type"),
        ({"method": [], "cookie": 1, "space": "s"}, "unknown_type"),
        ({"method": "factory_query", "cookie": 1, "space": "s"}, "unknown_type"),
        ({"cookie": 1, "space": "s"}, "unknown_type"),
        ({"method": "factories", "cookie": json.loads("[" * 20 + "]" * 20), "space": "s"}, "deep_cookie"),
        ({"method": "factories", "cookie": json.loads("[" * 16 + "1" + "]" * 16), "space": "s"}, "deep_cookie"),
    ],
)
def test_what_is_no_request_has_a_reason(data: dict[str, t.Any], expected: str) -> None:
    with pytest.raises(DatagramError) as caught:
        parse_request(data)
    assert caught.value.reason == expected


@pytest.mark.parametrize("cookie", [None, 0, 1.5, True, "", "\ud800", [], {"a": [1, {"b": None}]}, "x" * 800])
def test_any_cookie_comes_back(cookie: t.Any) -> None:
    request = parse_request(load(dump({"method": "machines", "cookie": cookie, "space": "s"}), 1024))
    assert request == Request("machines_query", "s", cookie)
    reply = Reply(replace(ENVELOPE, cookie=request.cookie), MachineStatus("m"), 1)
    assert json.loads(dump(fit(reply.as_data())))["cookie"] == cookie


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert (
        parse_request(load(b'{"method":"x","method":"machines","cookie":1,"cookie":2,"space":"s"}', 1024)).cookie == 2
    )


@pytest.mark.parametrize("char", ["a", '"', "\n", "é", "𝄞", "\ud800"])
def test_a_long_text_is_cut_to_the_frame_and_nothing_else_is(char: str) -> None:
    status = replace(parse_reply_bytes(REPLIES[0]).status, shutdown_message="200 " + char * 5000)
    data = fit(Reply(ENVELOPE, status, 3).as_data())
    assert FRAME - 16 <= len(dump(data)) <= FRAME
    assert data["shutdown_message"][:4] == "200 "
    assert data["shutdown_message"].endswith("...")
    whole = Reply(ENVELOPE, status, 3).as_data()
    assert {key for key in data if data[key] != whole[key]} == {"shutdown_message"}


@given(st.text('a"\\\\', max_size=1000), st.integers(400, FRAME))
def test_no_more_is_cut_than_has_to_be(text: str, room: int) -> None:
    reply = Reply(ENVELOPE, MachineStatus("m", shutdown_message=text), 1).as_data()
    data = fit(reply, room)
    sent = data["shutdown_message"]
    if sent == text:
        assert len(dump(data)) <= room or len(text) <= 3
    else:
        kept = sent[: -len("...")]
        assert sent.endswith("...")
        assert text.startswith(kept)
        assert len(dump({**data, "shutdown_message": text[: len(kept) + 1] + "..."})) > room
        assert len(dump(data)) <= room or not kept


@pytest.mark.parametrize(
    ("text", "sent"),
    [("200 Erfolg ü✓", "200 Erfolg ??"), ("200 one\ttwo\nthree", "200 one?two?three"), ("300 \x1b[31m", "300 ?[31m"),
     ('200 "~"', '200 "~"')],
)  # fmt: skip
def test_free_texts_are_sent_in_ascii(text: str, sent: str) -> None:
    """A real ``vac`` whose output is no terminal ends with a traceback on the first letter that is not."""
    assert fit(Reply(ENVELOPE, MachineStatus("m", shutdown_message=text)).as_data())["shutdown_message"] == sent


def test_system_and_kernel_are_cut_one_after_the_other() -> None:
    status = replace(FactoryStatus(), os_issue="o" * 900, kernel_version="k" * 100)
    data = fit(Reply(ENVELOPE, status).as_data())
    assert (len(dump(data)), data["kernel_version"]) == (FRAME, "k" * 100)
    data = fit(Reply(ENVELOPE, replace(status, kernel_version="k" * 900)).as_data())
    assert (len(dump(data)), data["os_issue"]) == (FRAME, "...")


def test_names_and_cookies_are_never_cut() -> None:
    reply = Reply(
        replace(ENVELOPE, cookie="c" * 900), MachineStatus("m" * 250, uuid="u" * 250, shutdown_message="200 x"), 1
    )
    data = fit(reply.as_data())
    assert len(dump(data)) > FRAME
    assert parse_reply(data) == replace(reply, status=replace(reply.status, shutdown_message="..."))


def test_what_peers_cannot_read_is_not_sent() -> None:
    with pytest.raises(DatagramError, match=r"A message of 102.. bytes; peers read 10240"):
        dump({"cookie": "c" * 10240})
    with pytest.raises(DatagramError, match="cannot be written as JSON"):
        dump({"cookie": float("nan")})


@pytest.mark.parametrize(
    ("sent", "ended", "now", "expected"),
    [
        (1000, 900, 1000, 900),
        (1000, 900, 1030, 900),  # clocks that differ little are taken as they are
        (1000, 1020, 1000, 1000),  # nothing ends in the future
        (865000, 864900, 1000, 900),  # ten days ahead
        (865000, 1000000, 1000, None),  # not even right by its own clock
        (1000, 900, 865000, 864900),  # ten days behind
        (None, 900, 1000, 900),
        (None, 865000, 1000, None),
        (1000, None, 1000, None),
    ],
)
def test_an_end_is_told_on_our_clock(sent: int | None, ended: int | None, now: float, expected: int | None) -> None:
    reply = Reply(replace(ENVELOPE, time_sent=sent), MachinetypeStatus("t", shutdown_time=ended), 1)
    found = on_our_clock(reply, now)
    assert found == replace(reply, status=replace(reply.status, shutdown_time=expected))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_reply_or_a_reason(data: bytes) -> None:
    for parse in (parse_reply, parse_request):
        found = ""
        try:
            parse(load(data, REPLY_LIMIT))
        except DatagramError as exc:
            found = exc.reason
        assert found in REASONS


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(REPLIES), st.data())
def test_a_reply_with_any_value_in_any_key_is_a_reply_or_a_reason(data: bytes, draw: st.DataObject) -> None:
    content = json.loads(data)
    for key in draw.draw(st.lists(st.sampled_from(sorted(content)), max_size=3)):
        content[key] = draw.draw(JSON)
    try:
        reply = parse_reply(load(json.dumps(content).encode(), REPLY_LIMIT))
    except DatagramError:
        return
    again = parse_reply(load(dump(fit(reply.as_data())), sys.maxsize))
    assert again.key == reply.key
    assert again.count == reply.count

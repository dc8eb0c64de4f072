# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of VO-boxes, and the last sentence of a run."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.callback.changes import sentence
from ansible_collections.hep.gridbox.plugins.plugin_utils.status_table import (
    age,
    by_service,
    is_good,
    render,
    summary,
    unseen,
)


def probe(port: int, family: str, up: bool) -> dict[str, t.Any]:
    return {"name": f"s{port}", "port": port, "family": family, "up": up, "seen": "x" if up else "Connection refused"}


def box(name: str, **changed: t.Any) -> dict[str, t.Any]:
    return {
        "name": name, "fqdn": f"{name}.example.org", "state": "running", "health": "healthy", "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1", "mac": "02:00:00:00:00:01", "engine": "docker 20.10.24", "image": "vobox:reference",
        "layers": 1, "age_seconds": 90, "services": [probe(22, "ipv4", True), probe(22, "ipv6", True)], **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "-"),
        (0, "0 s"),
        (59.9, "59 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90061, "1 d 1 h"),
        (86405, "1 d"),
    ],
)
def test_age(seconds: t.Optional[float], text: str) -> None:
    assert age(seconds) == text


def test_a_service_counts_only_if_it_answers_at_each_address() -> None:
    probes = [probe(22, "ipv4", True), probe(22, "ipv6", False), probe(80, "ipv4", True), probe(80, "ipv6", True)]
    assert by_service(probes) == (1, 2, ["s22 port 22 over ipv6: Connection refused"])


UDP_UP = {"name": "monitoring", "port": 22, "protocol": "udp", "up": True, "seen": "listens"}
UDP_DOWN = {**UDP_UP, "up": False, "seen": "nothing listens"}


def test_a_service_of_udp_counts_beside_one_of_tcp_at_the_same_port() -> None:
    tcp = [probe(22, "ipv4", True), probe(22, "ipv6", True)]
    assert by_service([*tcp, UDP_UP]) == (2, 2, [])
    assert by_service([*tcp, UDP_DOWN]) == (1, 2, ["monitoring port 22/udp: nothing listens"])
    with_udp = box("a", services=[*tcp, UDP_UP])
    assert render([with_udp], 200)[2].text.split("up")[0].endswith("2/2 ")
    assert summary([with_udp]).text == (
        "The VO-box runs; every declared service answers over IPv4 and IPv6, or listens where it was not asked from"
        " another machine."
    )
    assert summary([box("a", services=[UDP_UP])]).text == "The VO-box runs; every declared service listens."
    assert summary([box("a", services=[])]).text == "The VO-box runs."


def test_a_host_of_which_nothing_is_known_has_a_line() -> None:
    lines = unseen(["host2", "host3"])
    assert [line.text.partition(":")[0] for line in lines] == ["host2", "host3"]
    assert {line.mood for line in lines} == {"bad"}
    assert unseen([]) == []


@pytest.mark.parametrize("state", ["exited", "created"])
def test_a_vobox_that_is_wanted_stopped_is_well_when_it_is_stopped(state: str) -> None:
    resting = box("b", wanted="stopped", state=state, services=[probe(22, "ipv4", False)])
    lines = render([box("a"), resting], 200)
    assert [line.mood for line in lines[2:]] == ["good", "good"] and lines[3].text.endswith(state)
    assert is_good(resting) and "up" not in lines[3].text
    assert summary([resting]).text == "The VO-box is stopped, as wanted."
    assert summary([box("a"), resting, box("c")]).text == (
        "2 VO-boxes run and 1 is stopped, as wanted; every declared service answers over IPv4 and IPv6."
    )


@pytest.mark.parametrize("state", ["running", "absent", "restarting", "dead"])
def test_a_vobox_that_is_wanted_stopped_needs_a_look_when_it_is_anything_else(state: str) -> None:
    other = box("b", wanted="stopped", state=state)
    assert not is_good(other)
    assert render([other], 200)[-1].text == f"  b: it is {state}, and wanted stopped"


def test_a_vobox_that_is_wanted_started_needs_a_look_when_it_is_stopped() -> None:
    assert not is_good(box("a", wanted="started", state="exited"))


def test_columns_line_up() -> None:
    lines = [line.text for line in render([box("a"), box("a-longer-name")], 200)]
    assert len({line.index("192.0.2.1") for line in lines[2:]} | {lines[0].index("IPv4")}) == 1
    assert "vobox:reference (1)" in lines[2]


def test_a_narrow_terminal_gets_blocks() -> None:
    lines = render([box("a")], 80)
    assert max(len(line.text) for line in lines) <= 80
    assert any("2001:db8::1" in line.text for line in lines)


def test_what_is_missing_is_named_below() -> None:
    sick = box("b", services=[probe(22, "ipv4", False)])
    lines = render([box("a"), sick], 200)
    assert lines[-1].text == "  b: s22 port 22 over ipv4: Connection refused"
    assert [line.mood for line in lines[2:]] == ["good", "bad", "bad"]
    assert summary([box("a"), sick]).text == "1 of 2 VO-boxes need a look."


@pytest.mark.parametrize(
    "changed", [{"state": "exited"}, {"health": "unhealthy"}, {"state": "absent", "ipv4": "", "mac": ""}]
)
def test_what_does_not_run_well_is_said(changed: dict[str, str]) -> None:
    assert render([box("a", **changed)], 200)[2].mood == "bad"


def test_summary_and_empty_table() -> None:
    assert summary([box("a")]).text == "The VO-box runs; every declared service answers over IPv4 and IPv6."
    one_family = box("a", services=[probe(22, "ipv4", True)])
    assert summary([one_family, one_family, one_family]).text == "All 3 VO-boxes run; every declared service answers."
    assert render([], 80)[0].text == "There are no VO-boxes."


@pytest.mark.parametrize(
    ("changed", "troubled", "text"),
    [
        ({"a": 0, "b": 0}, [], "Nothing was changed."),
        ({"a": 1, "b": 0}, [], "a: 1 change."),
        ({"b": 2, "a": 1}, [], "a: 1 change; b: 2 changes."),
        ({"a": 1}, ["a"], "Not finished on a. Changes made: a: 1 change."),
        ({"a": 0}, ["a"], "Not finished on a. Changes made: none."),
    ],
)
def test_the_last_sentence(changed: dict[str, int], troubled: list[str], text: str) -> None:
    assert sentence(changed, troubled) == text

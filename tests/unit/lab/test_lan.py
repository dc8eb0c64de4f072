# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The LAN of namespaces: what is to be made, changed and removed."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.lab import netns
from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import (
    BRIDGE,
    LanWork,
    Link,
    Observed,
    Port,
    Wish,
    plan,
)
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption

A = Port("a", "eth0", ("10.0.0.1/24", "fd00::1/64"))
HERE = Port("", "port0")
WISH = Wish("lan", (A, HERE), 1500, False)


def wish(**changed: t.Any) -> Wish:
    params: dict[str, t.Any] = {
        "name": "lan",
        "ports": [],
        "mtu": 1500,
        "state": "present",
        "vacated": False,
        **changed,
    }
    params["ports"] = [{"netns": "", "addresses": [], **port} for port in params["ports"]]
    return Wish.from_params(params)


def made(*ports: Port, mtu: int = 1500) -> Observed:
    """A LAN with these ports, all as they should be."""
    links: dict[str, dict[str, Link]] = {
        "": {"lo": Link("", True, 65536)},
        "lan": {"lo": Link("", True, 65536, alias=WISH.mark), BRIDGE: Link("bridge", True, mtu)},
    }
    own = {"lan"}
    for port in ports:
        links["lan"][port.bridge_side] = Link("veth", True, mtu, BRIDGE, f"{WISH.mark}: {port}")
        links.setdefault(port.netns, {"lo": Link("", True, 65536, alias=WISH.mark)})
        links[port.netns][port.link] = Link("veth", True, mtu, addresses=port.addresses)
        own |= {port.netns} - {""}
    return Observed(links, frozenset(own))


def actions(wanted: Wish, observed: Observed) -> list[str]:
    return [f"{step.action} {step.target}" for step in plan(wanted, observed).steps]


def test_from_nothing_namespaces_come_first_and_the_bridge_before_its_ports() -> None:
    nothing = Observed({"": {"lo": Link("", True, 65536)}}, frozenset())
    assert actions(WISH, nothing) == [
        "add_namespace lan", "add_namespace a", "add_bridge lan/lan0", "add_port a/eth0", "add_port this machine/port0",
    ]  # fmt: skip


def test_what_is_as_wanted_is_left_alone() -> None:
    result = plan(WISH, made(A, HERE))
    assert result.steps == ()
    assert result.before == result.after


def test_an_address_is_added_and_a_surplus_one_taken_away() -> None:
    moved = Port("a", "eth0", ("10.0.0.2/24", "fd00::1/64"))
    (step,) = plan(Wish("lan", (moved, HERE), 1500, False), made(A, HERE)).steps
    assert (step.action, step.disruption) == ("set_port", Disruption.service)
    assert step.reason == "it lacks 10.0.0.2/24; it has 10.0.0.1/24"


def test_a_port_that_is_not_listed_goes_with_the_namespace_made_for_it() -> None:
    assert actions(Wish("lan", (HERE,), 1500, False), made(A, HERE)) == ["remove_port a/eth0", "remove_namespace a"]


def test_absent_removes_ports_and_own_namespaces_only() -> None:
    observed = made(A, HERE)
    foreign = Observed(observed.links, observed.own - {"a"})
    gone = Wish("lan", (), 1500, True)
    assert actions(gone, foreign) == ["remove_port a/eth0", "remove_port this machine/port0", "remove_namespace lan"]
    assert actions(gone, Observed({"": {}}, frozenset())) == []


def test_another_mtu_is_set_on_the_bridge_and_on_each_link() -> None:
    wanted = Wish("lan", (A, HERE), 9000, False)
    assert actions(wanted, made(A, HERE)) == ["set_bridge lan/lan0", "set_port a/eth0", "set_port this machine/port0"]


def test_names_on_the_bridge_fit_and_differ() -> None:
    names = {Port(f"a-name-that-is-long-{number}", "eth0").bridge_side for number in range(1000)}
    assert len(names) == 1000
    assert max(map(len, names)) <= 15


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "a/b"}, "name: got 'a/b', expected a name"),
        ({"mtu": 1000}, "mtu: got 1000"),
        ({"ports": [{"link": "x" * 16}]}, "ports[0].link: got 'xxxxxxxxxxxxxxxx'"),
        ({"ports": [{"link": "lo"}]}, "ports[0].link: got 'lo'"),
        ({"ports": [{"link": "e", "netns": "lan"}]}, "ports[0].netns: got 'lan', expected another namespace"),
        ({"ports": [{"link": "e"}, {"link": "e"}]}, "ports[1].link: got 'e', expected each link once"),
        ({"ports": [{"link": "e", "addresses": ["10.0.0.1"]}]}, "with its prefix length"),
        ({"ports": [{"link": "e", "addresses": ["10.0.0.300/24"]}]}, "ports[0].addresses: got '10.0.0.300/24'"),
        (
            {"ports": [{"link": "e", "addresses": ["fd00::1/64"]}, {"link": "f", "addresses": ["fd00:0::1/64"]}]},
            "this machine/e has it already",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changed: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        wish(**changed)
    assert sentence in str(refused.value)


def test_a_port_that_goes_by_itself_while_it_is_removed_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes a cable away a moment after the namespace of its other end, between our look and our hand."""

    def refuse(*_arguments: str) -> str:
        raise GridboxError("remove port failed: Cannot find device.")

    monkeypatch.setattr(netns, "ip", refuse)
    monkeypatch.setattr(netns, "links", lambda _name: {"lan0": {}})
    LanWork._delete_link("remove port peer/eth0", "lan", "port1")
    with pytest.raises(GridboxError, match="Cannot find device"):
        LanWork._delete_link("remove bridge", "lan", "lan0")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""macvlan_net and macvlan_net_info on a real engine, with real links and a peer machine on the LAN."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import Port
from tests.integration.macvlan_effects import Job
from tests.integration.macvlan_world import (
    ABSENT,
    BRIDGE,
    CONTAINER_MAC,
    IPV4,
    IPV6,
    NAME,
    SHIM,
    SITE,
    World,
    wait_until,
)
from tests.lab.lab import PARENT, Lab
from tests.lab.lan import in_netns, run
from tests.lab.modules import ModuleFailed
from tests.sampled import sampled

#: A subnet that is none of the LAN's.
FAR = {"subnet": "10.99.0.0/24", "gateway": "10.99.0.254"}


@pytest.fixture()
def world(lab: Lab) -> t.Iterator[World]:
    made = World(lab)
    yield made
    made.clean()


# ---- the nine-step proof --------------------------------------------------------------------------------------------

LABELLED = {**SITE, "labels": {"contact": "grid-admins"}}

#: Name: (before it, the change, containers meanwhile, the actions it takes).
PATHS: dict[str, tuple[dict[str, t.Any], dict[str, t.Any], bool, list[str]]] = {
    "create": (ABSENT, SITE, False, ["create_network"]),
    "create everything": (
        ABSENT,
        {
            **SITE,
            "mode": "bridge",
            "mtu": 1500,
            "ipv4": {**IPV4, "ip_range": "10.213.7.0/24", "reserved": {"printer": "10.213.7.7"}},
            "ipv6": {**IPV6, "ip_range": "fd13:213::7:0/112", "reserved": {"printer": "fd13:213::7:7"}},
            "labels": {"a": "1", "b": "x y"},
            "host_access": "shim",
            "shim": {"name": "tohost", "ipv4": "10.213.0.3", "routes": ["10.213.7.0/24"]},
        },
        False,
        ["create_network", "create_shim"],
    ),
    "IPv4 only": (ABSENT, {"name": NAME, "parent": PARENT, "ipv4": IPV4}, False, ["create_network"]),
    "private": (ABSENT, {**SITE, "mode": "private"}, False, ["create_network"]),
    "anew when unused": (SITE, {**LABELLED, "recreate": "when_unused"}, False, ["remove_network", "create_network"]),
    "labels away": (
        LABELLED,
        {**SITE, "labels": {}, "recreate": "when_unused"},
        False,
        ["remove_network", "create_network"],
    ),
    "anew with containers": (
        SITE,
        {**LABELLED, "recreate": "move_endpoints"},
        True,
        ["detach_endpoint"] * 3 + ["remove_network", "create_network"] + ["attach_endpoint"] * 3,
    ),
    "shim": (SITE, SHIM, True, ["create_shim"]),
    "shim's address": (SHIM, {**SHIM, "shim": {**SHIM["shim"], "ipv4": "10.213.0.4"}}, True, ["change_shim"]),
    "shim's routes": (SHIM, {**SHIM, "shim": {**SHIM["shim"], "routes": ["10.213.0.50"]}}, True, ["change_shim"]),
    "shim's name": (SHIM, {**SHIM, "shim": {**SHIM["shim"], "name": "other"}}, True, ["remove_shim", "create_shim"]),
    "no shim": (SHIM, SITE, True, ["remove_shim"]),
    "bridge": (SITE, BRIDGE, True, ["create_bridge"] + ["attach_to_bridge"] * 3),
    "no bridge": (BRIDGE, SITE, True, ["detach_from_bridge"] * 3 + ["remove_bridge"]),
    "bridge for shim": (SHIM, BRIDGE, True, ["remove_shim", "create_bridge"] + ["attach_to_bridge"] * 3),
    "absent": (SITE, ABSENT, False, ["remove_network"]),
    "absent with shim": (SHIM, ABSENT, False, ["remove_shim", "remove_network"]),
    "absent with bridge": (BRIDGE, ABSENT, False, ["remove_bridge", "remove_network"]),
}


#: The path of a value in a diff, to the value before and after; None where there is none.
Changes = dict[str, tuple[t.Any, t.Any]]


def comes(**values: t.Any) -> Changes:
    return {key.replace("__", "."): (None, value) for key, value in values.items()}


def goes(coming: Changes) -> Changes:
    return {key: (after, before) for key, (before, after) in coming.items()}


NETWORK = {
    "state": ("absent", "present"),
    **comes(parent="site0", mode="bridge", ipv4__subnet="10.213.0.0/16", ipv4__gateway="10.213.0.254"),
}
NETWORK6 = comes(ipv6__subnet="fd13:213::/64", ipv6__gateway="fd13:213::fe")
PLAIN = {**NETWORK, **NETWORK6, **comes(labels={}, ipv4__reserved={}, ipv6__reserved={})}
SHIMS_OWN = comes(labels={}, ipv4__reserved__gridbox_shim="10.213.0.3", ipv6__reserved__gridbox_shim="fd13:213::3")
RESERVES_SHIM = {**NETWORK, **NETWORK6, **SHIMS_OWN}
ROUTES = [f"10.213.0.{last}/32" for last in (50, 51, 52)] + [f"fd13:213::{last}/128" for last in (50, 51, 52)]
WITH_SHIM = {
    f"host_access.{key}": pair
    for key, pair in {
        "kind": ("none", "shim"),
        **comes(shim__name="mv-gbsite", shim__parent="site0", shim__mac="02:0d:3e:a0:ae:75", shim__ipv4="10.213.0.3"),
        **comes(shim__ipv6="fd13:213::3", shim__routes=ROUTES),
    }.items()
}
WITH_BRIDGE = {
    f"host_access.{key}": pair
    for key, pair in {
        "kind": ("none", "bridge"),
        **comes(bridge__name="gbsite-host", bridge__ipv4="172.31.250.0/24", bridge__ipv6="fd31:250::/64"),
        **comes(bridge__containers=["vb1", "vb2", "vb3"]),
    }.items()
}
LABEL = {"labels": ({}, None), **comes(labels__contact="grid-admins")}

#: What the diff of each of the paths above has to tell, all of it.
DIFFS: dict[str, Changes] = {
    "create": PLAIN,
    "create everything": {
        **NETWORK,
        **NETWORK6,
        **comes(ipv4__ip_range="10.213.7.0/24", ipv6__ip_range="fd13:213::7:0/112"),
        **comes(ipv4__reserved__printer="10.213.7.7", ipv6__reserved__printer="fd13:213::7:7"),
        **comes(ipv4__reserved__gridbox_shim="10.213.0.3", labels__a="1", labels__b="x y"),
        **{key: pair for key, pair in WITH_SHIM.items() if not key.endswith("ipv6")},
        "host_access.shim.name": (None, "tohost"),
        "host_access.shim.mac": (None, "02:15:a9:fa:28:08"),
        "host_access.shim.routes": (None, ["10.213.7.0/24"]),
    },
    "IPv4 only": {**NETWORK, **comes(labels={}, ipv4__reserved={})},
    "private": {**PLAIN, "mode": (None, "private")},
    "anew when unused": LABEL,
    "labels away": goes(LABEL),
    "anew with containers": LABEL,
    "shim": WITH_SHIM,
    "shim's address": {
        "host_access.shim.ipv4": ("10.213.0.3", "10.213.0.4"),
        "host_access.shim.mac": ("02:0d:3e:a0:ae:75", "02:8e:5a:28:be:53"),
    },
    "shim's routes": {"host_access.shim.routes": (ROUTES, ["10.213.0.50/32"])},
    "shim's name": {"host_access.shim.name": ("mv-gbsite", "other")},
    "no shim": goes(WITH_SHIM),
    "bridge": WITH_BRIDGE,
    "no bridge": goes(WITH_BRIDGE),
    "bridge for shim": {**goes(WITH_SHIM), **WITH_BRIDGE, "host_access.kind": ("shim", "bridge")},
    "absent": goes(PLAIN),
    "absent with shim": goes({**RESERVES_SHIM, **WITH_SHIM, **comes(host_access__shim__routes=[])}),
    "absent with bridge": goes({**PLAIN, **WITH_BRIDGE, **comes(host_access__bridge__containers=[])}),
}


def changes(diff: dict[str, t.Any]) -> Changes:
    """What differs between the sides of a diff."""
    before, after = (dict(flat(diff[side])) for side in ("before", "after"))
    pairs = {key: (before.get(key), after.get(key)) for key in {*before, *after}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flat(value: t.Any, path: str = "") -> t.Iterator[tuple[str, t.Any]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from flat(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


@pytest.mark.parametrize("path", sampled(PATHS, every=4))
def test_check_mode_tells_what_the_real_run_does(world: World, path: str) -> None:
    before, change, containers, actions = PATHS[path]
    world.module(**before)  # 1: a known state
    if containers:
        world.run_containers()
        world.module(**before)  # host access follows the containers
    seen = world.look()  # 2
    preview = world.module(check=True, **change)  # 3
    assert preview["changed"]  # 4: the diff and the actions name the change
    assert changes(preview["diff"]) == DIFFS[path]
    assert [action["action"] for action in preview["actions"]] == actions
    assert world.look() == seen  # 5: nothing was touched
    same = world.module(check=True, **before)  # 6
    assert not same["changed"], same["actions"]
    done = world.module(**change)  # 7
    assert done["actions"] == preview["actions"]
    assert done["disruption"] == preview["disruption"]
    assert done["diff"] == preview["diff"]
    assert world.without_ids(done) == world.without_ids(preview)
    after = world.look()
    assert after != seen
    for check in (True, False):  # 8: and now there is nothing to do
        again = world.module(check=check, **change)
        assert not again["changed"], again["actions"]
        assert again["actions"] == []
        assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]
        assert again["network"] == done["network"]  # with its id
    assert world.look() == after
    # 9: the fixture cleans up, and looks whether that worked


def test_a_container_moves_with_all_that_is_its_own(world: World) -> None:
    """Static and given addresses, own MAC, aliases, a stopped container; and not one process is touched."""
    world.module(**SITE)
    world.run_containers()
    before = world.attachments()
    pids = world.lab.docker("inspect", "--format", "{{.State.Pid}}", "vb1", "vb2").split()
    assert before["vb2"]["mac"] == CONTAINER_MAC
    assert before["vb1"]["aliases"] == ["alice"]
    done = world.module(**LABELLED, recreate="move_endpoints", max_disruption="service")
    assert done["disruption"] == "service"
    assert world.attachments() == before
    assert world.lab.docker("inspect", "--format", "{{.State.Pid}}", "vb1", "vb2").split() == pids
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.50")
    world.lab.from_peer("ping", "-c1", "-W2", "fd13:213::51")
    world.lab.docker("start", "vb3")  # was attached while it was stopped
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.52")
    world.lab.docker("restart", "--time", "0", "vb2")
    assert world.attachments()["vb2"] == before["vb2"]


def test_moving_costs_a_service_and_says_so(world: World) -> None:
    world.module(**SITE)
    world.run_containers()
    with pytest.raises(ModuleFailed, match=r"max_disruption: none: the change needs detach_endpoint vb1 \(service"):
        world.module(**LABELLED, recreate="move_endpoints", max_disruption="none")


# ---- the host's way (claims A9 and B8) ------------------------------------------------------------------------------


def _host_reaches(world: World, address: str) -> bool:
    return in_netns(world.lab.engine.netns, "ping", "-c1", "-W1", address, check=False).returncode == 0


def _milliseconds(world: World, address: str) -> float:
    out = in_netns(world.lab.engine.netns, "ping", "-c10", "-i0.05", "-W1", address).stdout
    return statistics.median(float(line.split("time=")[1].split()[0]) for line in out.splitlines() if "time=" in line)


def test_a9_only_the_shim_lets_the_host_talk_to_its_containers(world: World, claim: t.Callable[..., None]) -> None:
    world.module(**SITE)
    world.run_containers()
    addresses = ("10.213.0.50", "fd13:213::50", "10.213.0.51")
    assert not any(_host_reaches(world, address) for address in addresses), "the control: the kernel keeps them apart"
    for address in addresses:
        world.lab.from_peer("ping", "-c1", "-W2", address)
    world.module(**SHIM)
    assert all(_host_reaches(world, address) for address in addresses)
    for back in ("10.213.0.3", "fd13:213::3"):
        world.lab.docker("exec", "vb1", "ping", "-c1", "-W2", back)
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.1")  # the host itself is where it was
    milliseconds = _milliseconds(world, addresses[0])
    world.module(**SITE)
    assert not any(_host_reaches(world, address) for address in addresses)
    claim("A9", without_shim="0/3 reached", with_shim="3/3", without_again="0/3", peer="3/3", shim_ms=milliseconds)


def default_routes(world: World) -> list[str]:
    """Of vb1, IPv4 and IPv6."""
    shown = (world.lab.docker("exec", "vb1", "ip", family, "route").splitlines() for family in ("-4", "-6"))
    return ["".join(line for line in lines if line.startswith("default")) for lines in shown]


def test_b8_a_bridge_lets_them_talk_and_the_default_route_stays(world: World, claim: t.Callable[..., None]) -> None:
    world.module(**SITE)
    world.run_containers()
    routes = default_routes(world)
    assert ["10.213.0.254" in routes[0], "fd13:213::fe" in routes[1]] == [True, True]
    done = world.module(**BRIDGE)
    assert done["host_access"]["bridge"]["containers"] == ["vb1", "vb2", "vb3"]
    at_bridge = json.loads(world.lab.docker("inspect", "vb1"))[0]["NetworkSettings"]["Networks"][f"{NAME}-host"]
    assert _host_reaches(world, at_bridge["IPAddress"])
    wait_until(
        lambda: _host_reaches(world, at_bridge["GlobalIPv6Address"]), "both ends to have checked their IPv6 address"
    )
    assert default_routes(world) == routes
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.50")
    assert not _host_reaches(world, "10.213.0.50")
    claim(
        "B8", over_the_bridge="IPv4, IPv6", bridge_ms=_milliseconds(world, at_bridge["IPAddress"]),
        default_routes="on macvlan",
    )  # fmt: skip


def test_boot_commands_make_exactly_the_shim_that_was_asked_for(world: World) -> None:
    world.module(**SITE)
    world.run_containers()
    boot = world.module(**SHIM)["boot"]
    assert boot["by"] == "nothing"  # the lab lives in a namespace of its own
    netns = world.lab.engine.netns
    in_netns(netns, "ip", "link", "delete", "mv-gbsite")
    assert world.module(check=True, **SHIM)["changed"]
    for command in boot["commands"]:
        in_netns(netns, *command)
    again = world.module(check=True, **SHIM)
    assert not again["changed"], again["actions"]
    assert _host_reaches(world, "10.213.0.50")


def test_the_shim_takes_nothing_from_router_advertisements(world: World) -> None:
    world.module(**SHIM)
    for key in ("accept_ra", "autoconf"):
        path = f"/proc/sys/net/ipv6/conf/mv-gbsite/{key}"
        assert in_netns(world.lab.engine.netns, "cat", path).stdout.strip() == "0"


# ---- refusals: each sentence, in check mode and for real, and nothing is touched ------------------------------------

#: What is wrong: (arguments, what the sentence must contain).
BAD_VALUES: dict[str, tuple[dict[str, t.Any], str]] = {
    "gateway outside": (
        {"ipv4": {"subnet": "10.213.0.0/16", "gateway": "10.214.0.1"}},
        "ipv4.gateway: got '10.214.0.1', expected an address of ipv4.subnet 10.213.0.0/16. It lies outside.",
    ),
    "gateway is broadcast": (
        {"ipv4": {"subnet": "10.213.0.0/16", "gateway": "10.213.255.255"}},
        "It is the subnet's broadcast address.",
    ),
    "gateway is the subnet": (
        {"ipv6": {"subnet": "fd13:213::/64", "gateway": "fd13:213::"}},
        "expected an address of ipv6.subnet fd13:213::/64. It is the address of the subnet itself.",
    ),
    "host bits": ({"ipv4": {**IPV4, "subnet": "10.213.0.1/16"}}, "the subnet is 10.213.0.0/16"),
    "wrong family": ({"ipv4": {"subnet": "fd13:213::/64", "gateway": "fd13:213::fe"}}, "This is IPv6."),
    "prefix 129": ({"ipv6": {"subnet": "fd13::/129", "gateway": "fd13::1"}}, "ipv6.subnet: got 'fd13::/129', expected"),
    "ip_range outside": ({"ipv4": {**IPV4, "ip_range": "10.214.0.0/24"}}, "ipv4.ip_range: got '10.214.0.0/24'"),
    "reserved twice": (
        {"ipv4": {**IPV4, "reserved": {"a": "10.213.0.7", "b": "10.213.0.7"}}},
        "ipv4.reserved.b: got '10.213.0.7', expected each address once.",
    ),
    "no subnet": ({"ipv4": None, "ipv6": None}, "ipv4: got None, expected a subnet and a gateway"),
    "shell in the name": ({"name": "x; reboot"}, "name: got 'x; reboot', expected a network name"),
    "shell in the parent": ({"parent": "$(reboot)"}, "parent: got '$(reboot)', expected the name of a link"),
    "loopback": ({"parent": "lo"}, "The loopback link leads nowhere."),
    "label": ({"labels": {"a": ["b"]}}, "labels.a: got ['b'], expected a string."),
    "mtu": ({"mtu": 1000}, "mtu: got 1000, expected a number of bytes from 1280 to 65535."),
    "shim without bridge mode": ({**SHIM, "mode": "vepa"}, "mode: got 'vepa', expected bridge with host_access=shim."),
    "shim without address": ({**SHIM, "shim": {}}, "shim.ipv4: got None, expected a free address of the LAN"),
    "shim is gateway": ({**SHIM, "shim": {"ipv4": "10.213.0.254"}}, "expected an address other than ipv4.gateway"),
    "shim not asked for": ({"shim": {"ipv4": "10.213.0.3"}}, "expected no shim with host_access=none."),
    "route outside": (
        {**SHIM, "shim": {"ipv4": "10.213.0.3", "routes": ["192.0.2.1"]}},
        "shim.routes[0]: got '192.0.2.1', expected an address or a prefix within the subnets.",
    ),
    "bridge overlaps": ({**BRIDGE, "bridge": {"ipv4": "10.213.9.0/24"}}, "'10.213.9.0/24', expected a subnet apart"),
    "IPv6 only": ({"ipv4": None}, "ipv4: none: docker 20.10.24 gives every network an IPv4 subnet"),
    "no such link": ({"parent": "eno9"}, "parent: eno9: there is no such link; the engine's host has site0 (up)"),
    "VLAN that nobody made": ({"parent": "site0.5"}, "The engine would make it by side effect, and delete"),
    "MTU of the parent": ({"mtu": 9000}, "mtu: 9000: the parent site0 has 1500, and that is what containers"),
    "address on the wire": (
        {**SHIM, "shim": {"ipv4": "10.213.0.9"}},
        "on the LAN of site0 has that address. Take a free one",
    ),
    "IPv6 address on the wire": ({**SHIM, "shim": {"ipv6": "fd13:213::9"}}, "fd13:213::9: the machine with the MAC"),
    "the host's own address": (
        {**SHIM, "shim": {"ipv4": "10.213.0.1"}},
        "shim.ipv4: 10.213.0.1: it is the host's own address on the link site0.",
    ),
    "a link of that name": (
        {**SHIM, "shim": {"ipv4": "10.213.0.3", "name": "docker0"}},
        "shim.name: docker0: the host has a link of that name that is not this network's shim (bridge).",
    ),
}  # fmt: skip


def _says(world: World, sentence: str, check: bool, arguments: dict[str, t.Any]) -> None:
    with pytest.raises(ModuleFailed) as failed:
        world.module(check=check, **arguments)
    result = failed.value.result
    assert sentence in result["msg"], result["msg"]
    assert not result["changed"]
    assert "exception" not in result
    assert "\n" not in result["msg"]


def _refused(world: World, sentence: str, **arguments: t.Any) -> None:
    seen = world.look()
    for check in (True, False):
        _says(world, sentence, check, arguments)
    assert world.look() == seen


def test_bad_values_are_refused_with_a_sentence_each(world: World) -> None:
    """In one test: looking at the host before and after each of them would take longer than the module."""
    seen = world.look()
    for (arguments, sentence), check in itertools.product(BAD_VALUES.values(), (True, False)):
        _says(world, sentence, check, {**SITE, **arguments})
    assert world.look() == seen


def test_a_parent_that_is_down_or_a_port_is_refused(world: World) -> None:
    world.add_link("other0", "type", "veth", "peer", "name", "other1")
    _refused(world, "parent: other0: the link is down. Set it up first", **{**SITE, "parent": "other0"})
    world.add_link("br9", "type", "bridge")
    run("ip", "-n", world.lab.engine.netns, "link", "set", "other0", "master", "br9", "up")
    _refused(world, "the link is a port of br9", **{**SITE, "parent": "other0"})


def test_what_is_in_the_way_is_named(world: World) -> None:
    world.network("holder", "--driver", "macvlan", "--opt", f"parent={PARENT}", "--subnet", "10.99.0.0/24")
    _refused(world, f"parent: {PARENT}: the macvlan network holder has it, and docker 20.10", **SITE)
    world.clean()
    world.network("other", "--driver", "ipvlan", "--opt", f"parent={PARENT}", "--subnet", "10.99.0.0/24")
    _refused(world, "the ipvlan network other has it, and the kernel gives a link either", **SITE)
    world.clean()
    world.network("wide", "--subnet", "10.213.128.0/17")
    _refused(world, "ipv4.subnet: 10.213.0.0/16: it overlaps 10.213.128.0/17 of the network wide (bridge).", **SITE)
    world.clean()
    world.network(NAME, "--subnet", "10.99.0.0/24")
    _refused(world, f"name: {NAME}: the engine has a network of that name, with the driver bridge.", **SITE)
    _refused(world, f"name: {NAME}: the engine has a network of that name, with the driver bridge.", **ABSENT)


def test_a_subnet_that_is_on_another_link_is_refused(world: World) -> None:
    world.add_link("other0", "type", "veth", "peer", "name", "other1")
    netns = world.lab.engine.netns
    run("ip", "-n", netns, "address", "add", "10.213.77.1/24", "dev", "other0")
    run("ip", "-n", netns, "link", "set", "other0", "up")
    _refused(world, f"the host has 10.213.77.0/24 on the link other0, not on the parent {PARENT}.", **SITE)


def test_a_bridge_on_the_lan_of_another_link_is_refused(world: World) -> None:
    world.add_link("other0", "type", "veth", "peer", "name", "other1")
    netns = world.lab.engine.netns
    run("ip", "-n", netns, "link", "set", "other0", "up")
    for address, option in (("172.31.250.9/24", "ipv4: 172.31.250.0/24"), ("fd31:250::9/64", "ipv6: fd31:250::/64")):
        run("ip", "-n", netns, "address", "add", address, "dev", "other0", *(["nodad"] if ":" in address else []))
        subnet = option.split()[1]
        _refused(world, f"bridge.{option}: the host has {subnet} on the link other0, and would not reach it", **BRIDGE)
        run("ip", "-n", netns, "address", "delete", address, "dev", "other0")
    assert world.module(**BRIDGE)["changed"]


def test_the_shims_mac_on_the_wire_is_refused(world: World) -> None:
    """Another host with the same shim: its MAC answers although the addresses were taken away from it."""
    mac = world.module(check=True, **SHIM)["host_access"]["shim"]["mac"]
    run(
        "ip",
        "-n",
        world.lab.peer,
        "link",
        "add",
        "twin",
        "link",
        "eth0",
        "address",
        mac,
        "type",
        "macvlan",
        "mode",
        "bridge",
    )
    run("ip", "-n", world.lab.peer, "link", "set", "twin", "up")
    try:
        twin = ("ip", "-n", world.lab.peer, "-6", "address", "show", "dev", "twin")
        wait_until(lambda: "tentative" not in (out := run(*twin).stdout) and "fe80" in out, "its link-local address")
        _refused(world, f"shim.mac: {mac}: a machine on the LAN of {PARENT} has that MAC", **SHIM)
    finally:
        run("ip", "-n", world.lab.peer, "link", "delete", "twin")
    assert world.module(**SHIM)["changed"]


def test_a_containers_address_is_not_given_to_the_shim(world: World) -> None:
    """The wire cannot tell: a host does not see the macvlan links on its own NIC."""
    world.module(**SITE)
    world.run_containers()
    shim = {**SHIM, "shim": {"ipv4": "10.213.0.51"}}
    _refused(world, "shim.ipv4: 10.213.0.51: the container vb2 has that address.", **shim)


def test_drift_is_told_and_left_alone(world: World) -> None:
    world.module(**SITE)
    sentence = "and an engine cannot change a network; nothing is attached to it. Set recreate: when_unused"
    for change, drift in (
        ({"labels": {"a": "b"}}, "labels is {} instead of {'a': 'b'}"),
        ({"mode": "vepa"}, "mode is 'bridge' instead of 'vepa'"),
        ({"ipv4": {**IPV4, "gateway": "10.213.0.253"}}, "ipv4.gateway is '10.213.0.254' instead of '10.213.0.253'"),
        ({"ipv4": {**IPV4, "ip_range": "10.213.1.0/24"}}, "ipv4.ip_range is None instead of '10.213.1.0/24'"),
        ({"ipv4": {**IPV4, "reserved": {"p": "10.213.0.7"}}}, "ipv4.reserved is {} instead of {'p': '10.213.0.7'}"),
        ({"ipv6": None}, "ipv6 is 'fd13:213::/64' instead of None"),
    ):
        _refused(world, f"{drift}), {sentence}", **{**SITE, **change})
    world.run_containers()
    _refused(world, "attached to it: vb1, vb2, vb3. Set recreate: move_endpoints", **LABELLED)
    _refused(world, "attached to it: vb1, vb2, vb3.", **LABELLED, recreate="when_unused")
    _refused(world, f"attached to the network {NAME}: vb1, vb2, vb3 (not running).", **ABSENT)


def test_a_container_that_could_not_be_moved_is_named(world: World) -> None:
    world.module(**SITE)
    world.run_containers()
    smaller = {**LABELLED, "ipv4": {"subnet": "10.213.0.0/27", "gateway": "10.213.0.30"}, "recreate": "move_endpoints"}
    _refused(world, "move_endpoints, vb1: its address 10.213.0.50 is not in ipv4.subnet 10.213.0.0/27.", **smaller)
    gateway = {**SITE, "ipv4": {**IPV4, "gateway": "10.213.0.51"}, "recreate": "move_endpoints"}
    _refused(world, "move_endpoints, vb2: its address 10.213.0.51 is ipv4.gateway.", **gateway)
    world.lab.docker("network", "disconnect", NAME, "vb2")
    world.lab.docker("network", "connect", "--ip", "10.213.0.51", "none", "vb2", check=False)
    identifier = world.lab.docker("network", "inspect", "--format", "{{.Id}}", NAME).strip()
    world.container("vb4", network=identifier, ipv4="10.213.0.54")
    _refused(world, "vb4: the container was made for the network by its id", **LABELLED, recreate="move_endpoints")


def test_a_reserved_address_that_is_missing_is_a_warning(world: World) -> None:
    world.module(**SITE)
    done = world.module(**SHIM)
    assert any("without reserving the shim's address 10.213.0.3" in str(text) for text in done["warnings"])
    world.module(**ABSENT)
    assert "warnings" not in world.module(**SHIM)
    network = json.loads(world.lab.docker("network", "inspect", NAME))[0]
    assert network["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"gridbox_shim": "10.213.0.3"}


# ---- modes, asked of the wire --------------------------------------------------------------------------------------

#: Mode, whether the switch reflects frames to the port they came from, whether two containers then reach each other.
MODES = [("bridge", False, True), ("private", True, False), ("vepa", False, False), ("vepa", True, True)]


@pytest.mark.parametrize(("mode", "reflects", "reached"), MODES)
def test_what_containers_may_do_among_themselves_is_the_mode(
    world: World, mode: str, reflects: bool, reached: bool
) -> None:
    port = Port(world.lab.engine.netns, PARENT).bridge_side
    hairpin = ("bridge", "-n", world.lab.lan.netns, "link", "set", "dev", port, "hairpin")
    world.module(**{**SITE, "mode": mode})
    assert world.mode() == mode
    world.container("vb1", "10.213.0.50", "fd13:213::50")
    world.container("vb2", "10.213.0.51", "fd13:213::51")
    run(*hairpin, "on" if reflects else "off")
    try:
        for address in ("10.213.0.51", "fd13:213::51"):
            assert world.reaches("vb1", address) == reached, address
        for address in ("10.213.0.9", "fd13:213::9"):
            assert world.reaches("vb1", address), f"the LAN itself: {address}"
    finally:
        run(*hairpin, "off")


def test_passthru_gives_the_parent_to_one_container(world: World) -> None:
    """On a link of its own: it lends the container its MAC."""
    world.add_link("one0", "type", "veth", "peer", "name", "one1", "netns", world.lab.peer)
    run("ip", "-n", world.lab.engine.netns, "link", "set", "one0", "up")
    run("ip", "-n", world.lab.peer, "link", "set", "one1", "up")
    run("ip", "-n", world.lab.peer, "address", "add", "10.99.0.9/24", "dev", "one1")
    site = {"name": NAME, "parent": "one0", "mode": "passthru", "ipv4": FAR}
    assert world.module(**site)["changed"]
    assert not world.module(**site)["changed"]
    assert world.mode() == "passthru"
    world.container("vb1", "10.99.0.1")
    assert world.reaches("vb1", "10.99.0.9")
    world.container("vb2", "10.99.0.2", start=False)
    assert world.lab.engine.docker("start", "vb2", check=False).returncode != 0


# ---- the parent is the host's --------------------------------------------------------------------------------------

#: A VLAN link, and one that only has a VLAN link's name, for the engine goes by the name.
PARENTS = {
    "VLAN": ("site0.100", ("link", PARENT, "type", "vlan", "id", "100")),
    "named like one": ("other0.100", ("type", "veth", "peer", "name", "other1")),
}


@pytest.mark.parametrize("kind", PARENTS)
def test_the_parent_outlives_the_network(world: World, kind: str) -> None:
    name, how = PARENTS[kind]
    try:
        world.add_link(name, *how)
    except RuntimeError as exc:
        if "Unknown device type" in str(exc):
            pytest.skip("this machine's kernel has no VLAN links")
        raise
    run("ip", "-n", world.lab.engine.netns, "link", "set", name, "up")
    seen = world.look()
    site = {"name": NAME, "parent": name, "ipv4": FAR}
    assert world.module(**site)["network"]["parent"] == name
    world.container("vb1", "10.99.0.1", start=False)
    world.lab.docker("rm", "vb1")
    assert world.module(**ABSENT)["changed"]
    assert world.look() == seen


# ---- containers that come after the network ------------------------------------------------------------------------


def test_the_run_after_the_containers_came_gives_the_shim_its_routes(world: World) -> None:
    """The order of a role: network, VO-boxes, and the network's task once more."""
    assert world.module(**SHIM)["host_access"]["shim"]["routes"] == []
    world.run_containers()
    assert not any(_host_reaches(world, address) for address in ("10.213.0.50", "fd13:213::51"))
    done = world.module(**SHIM)
    assert [action["action"] for action in done["actions"]] == ["change_shim"]
    again = world.module(**SHIM)
    assert not again["changed"], again["actions"]
    assert all(_host_reaches(world, address) for address in ("10.213.0.50", "fd13:213::51"))


def test_the_run_after_the_containers_came_attaches_them_to_the_bridge(world: World) -> None:
    world.module(**BRIDGE)
    world.run_containers()
    done = world.module(**BRIDGE)
    assert [action["action"] for action in done["actions"]] == ["attach_to_bridge"] * 3
    again = world.module(**BRIDGE)
    assert not again["changed"], again["actions"]
    attached = json.loads(world.lab.docker("inspect", "vb1"))[0]["NetworkSettings"]["Networks"][f"{NAME}-host"]
    assert _host_reaches(world, attached["IPAddress"])


# ---- a login that is not root's ------------------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture()
def open_socket(world: World) -> t.Iterator[str]:
    """The engine's socket, as a login in the group docker has it: the URL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "docker.sock")
        path.touch()
        run("mount", "--bind", str(world.lab.engine.socket), str(path))
        try:
            Path(folder).chmod(0o711)
            os.chown(path, 0, NOBODY)
            yield f"unix://{path}"
        finally:
            os.chown(path, 0, 0)
            run("umount", str(path))


def test_a_login_of_the_group_docker_gets_what_it_may_and_else_a_sentence(world: World, open_socket: str) -> None:
    def run_as_nobody(check: bool = False, module: str = "macvlan_net", **arguments: t.Any) -> dict[str, t.Any]:
        result = Job({"engine_url": open_socket, **arguments}, "", module, check, user=NOBODY).run()
        assert result is not None
        return result

    assert run_as_nobody(**SITE)["changed"]
    world.run_containers()
    (network,) = run_as_nobody(module="macvlan_net_info")["networks"]
    assert [endpoint["container"] for endpoint in network["endpoints"]] == ["vb1", "vb2", "vb3"]
    seen = world.look()
    for check in (True, False):
        with pytest.raises(ModuleFailed) as failed:
            run_as_nobody(check, **SHIM)
        assert failed.value.result["msg"].startswith("create_shim mv-gbsite: the module runs as another user")
        assert "exception" not in failed.value.result
    assert world.look() == seen


# ---- the twin that only reads ---------------------------------------------------------------------------------------


def test_info_tells_networks_endpoints_shim_and_what_is_amiss(world: World) -> None:
    assert world.info()["networks"] == []
    world.module(**SITE)
    world.run_containers()
    world.module(**SHIM)
    seen = world.look()
    (network,) = world.info()["networks"]
    assert network["name"] == NAME
    assert network["parent"] == PARENT
    assert [endpoint["container"] for endpoint in network["endpoints"]] == ["vb1", "vb2", "vb3"]
    assert network["endpoints"][1]["mac"] == CONTAINER_MAC
    assert network["endpoints"][0]["ipv6"] == "fd13:213::50"
    assert network["host_access"]["shim"]["ipv4"] == "10.213.0.3"
    assert network["hints"] == ["Nothing makes the shim mv-gbsite anew at boot."]
    in_netns(world.lab.engine.netns, "ip", "route", "delete", "10.213.0.51/32")
    assert "The shim mv-gbsite has no route to vb2 (10.213.0.51)." in world.info(name=NAME)["networks"][0]["hints"]
    assert world.info(name="nosuch")["networks"] == []
    world.module(**SHIM)
    assert world.look() == seen


def test_info_without_an_engine_is_a_sentence(world: World) -> None:
    with pytest.raises(ModuleFailed, match=r"there is no socket /nowhere/docker.sock"):
        world.info(engine_url="unix:///nowhere/docker.sock")


def test_the_module_finds_the_engines_namespace_by_itself(world: World) -> None:
    """Started elsewhere, it looks for the parent where the engine does."""
    done = subprocess.run(["ip", "link", "show", "dev", PARENT], capture_output=True, check=False)
    if done.returncode == 0:
        pytest.skip(f"this machine has a link {PARENT} of its own")
    assert world.module_from_outside(**SITE)["network"]["parent"] == PARENT

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables of (wish, host, plan)."""

from __future__ import annotations

import copy
import os
import shutil
import typing as t
from dataclasses import replace
from ipaddress import ip_network

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot, decide, info
from ansible_collections.hep.gridbox.plugins.module_utils.network.links import Link, Route, Shim
from ansible_collections.hep.gridbox.plugins.module_utils.network.picture import (
    BRIDGE_LABEL,
    Endpoint,
    endpoint_of,
    network_of_docker,
    network_of_podman,
    range_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import (
    ARGUMENTS,
    Wish,
    default_shim_name,
    wish_from,
)
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption

OLD = Platform("docker", (20, 10, 24), (1, 41))
NEW = Platform("docker", (29, 0, 0), (1, 52))
PODMAN = Platform("podman", (4, 3, 1), (1, 41))
IPV4: dict[str, t.Any] = {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1", "ip_range": None, "reserved": {}}
IPV6: dict[str, t.Any] = {"subnet": "2001:db8:1::/64", "gateway": "2001:db8:1::1", "ip_range": None, "reserved": {}}
LINKS = (
    Link("lo", 1, True, 65536, "00:00:00:00:00:00"),
    Link("eth0", 2, True, 1500, "52:54:00:00:00:01", addresses=("192.0.2.10/24",)),
    Link("eth1", 3, False, 1500, "52:54:00:00:00:02"),
    Link("br0", 4, True, 1500, "52:54:00:00:00:03", kind="bridge"),
    Link("eth2", 5, True, 1500, "52:54:00:00:00:03", master="br0"),
)


def wish(**given: t.Any) -> Wish:
    params: dict[str, t.Any] = {key: copy.deepcopy(spec.get("default")) for key, spec in ARGUMENTS.items()}
    params.update({"name": "site", "parent": "eth0", "ipv4": IPV4, "ipv6": IPV6})
    params.update(given)
    for option in ("ipv4", "ipv6"):
        if params[option] is not None:
            params[option] = {"ip_range": None, "reserved": {}, **params[option]}
    for option, keys in (("shim", ("name", "ipv4", "ipv6", "routes")), ("bridge", ("name", "ipv4", "ipv6"))):
        if params[option] is not None:
            params[option] = {**dict.fromkeys(keys), **params[option]}
    return wish_from(params)


def inspected(name: str = "site", driver: str = "macvlan", **changes: t.Any) -> dict[str, t.Any]:
    """What Docker says about the network that ``wish()`` asks for."""
    return {
        "Name": name,
        "Id": f"id of {name}",
        "Driver": driver,
        "EnableIPv6": True,
        "Internal": False,
        "Options": {"parent": "eth0"},
        "Labels": {},
        "IPAM": {
            "Driver": "default",
            "Config": [
                {"Subnet": "192.0.2.0/24", "Gateway": "192.0.2.1"},
                {"Subnet": "2001:db8:1::/64", "Gateway": "2001:db8:1::1"},
            ],
        },
        **changes,
    }


def host(**given: t.Any) -> decide.Observed:
    return decide.Observed(**{"platform": OLD, "links": LINKS, **given})


SITE = network_of_docker(inspected())
VB1 = Endpoint("vb1", "1" * 64, "running", "192.0.2.31", "2001:db8:1::31", "02:42:c0:00:02:1f", ("alice",), "site")
VB2 = Endpoint("vb2", "2" * 64, "exited", "192.0.2.32", network_mode="site")


def actions(asked: Wish, seen: decide.Observed) -> list[str]:
    return [f"{step.action} {step.target}" for step in decide.make_plan(asked, seen).steps]


def test_nothing_there() -> None:
    plan = decide.make_plan(wish(), host())
    assert [step.action for step in plan.steps] == ["create_network"]
    assert plan.disruption is Disruption.none
    request = plan.steps[0].details["request"]
    assert request["EnableIPv6"] is True
    assert request["IPAM"]["Config"][1] == {"Subnet": "2001:db8:1::/64", "Gateway": "2001:db8:1::1"}
    assert request["Options"] == {"parent": "eth0", "macvlan_mode": "bridge"}


@pytest.mark.parametrize(("platform", "ipv4"), [(OLD, None), (NEW, True)])
def test_the_ipv6_flag_is_always_given_and_the_ipv4_flag_where_there_is_one(platform: Platform, ipv4: t.Any) -> None:
    request = decide.request_of(wish(ipv6=None), platform, {})
    assert request["EnableIPv6"] is False
    assert request.get("EnableIPv4") == ipv4


def test_all_there() -> None:
    plan = decide.make_plan(wish(), host(network=SITE, endpoints=(VB1,)))
    assert plan.steps == ()
    assert plan.before == plan.after


def test_other_spellings_are_no_difference() -> None:
    spelled = {"subnet": "2001:0DB8:0001:0000::/64", "gateway": "2001:db8:1:0:0:0:0:1"}
    assert actions(wish(ipv6=spelled), host(network=SITE)) == []


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"mode": "private"}, "mode"),
        ({"ipv4": {**IPV4, "gateway": "192.0.2.254"}}, "ipv4.gateway"),
        ({"ipv4": {**IPV4, "ip_range": "192.0.2.64/27"}}, "ipv4.ip_range"),
        ({"ipv4": {**IPV4, "reserved": {"printer": "192.0.2.7"}}}, "ipv4.reserved"),
        ({"ipv6": None}, "ipv6"),
        ({"labels": {"a": "b"}}, "labels"),
    ],
)
def test_each_difference_is_named_refused_and_made_anew_when_told(change: dict[str, t.Any], option: str) -> None:
    with pytest.raises(RefusedError, match=rf"the network differs \({option} is .*Set recreate: when_unused"):
        decide.make_plan(wish(**change), host(network=SITE))
    with pytest.raises(RefusedError, match=r"attached to it: vb1, vb2\. Set recreate: move_endpoints"):
        decide.make_plan(wish(**change), host(network=SITE, endpoints=(VB1, VB2)))
    anew = wish(**change, recreate="when_unused")
    assert actions(anew, host(network=SITE)) == ["remove_network site", "create_network site"]
    with pytest.raises(RefusedError, match="attached to it: vb1"):
        decide.make_plan(anew, host(network=SITE, endpoints=(VB1,)))


def test_moving() -> None:
    asked = wish(labels={"a": "b"}, recreate="move_endpoints")
    plan = decide.make_plan(asked, host(network=SITE, endpoints=(VB1, VB2)))
    assert [f"{step.action} {step.target}" for step in plan.steps] == [
        "detach_endpoint vb1",
        "detach_endpoint vb2",
        "remove_network site",
        "create_network site",
        "attach_endpoint vb1",
        "attach_endpoint vb2",
    ]
    assert [step.disruption.name for step in plan.steps] == ["service", "none", "none", "none", "service", "none"]


def test_labels_that_nobody_names_are_kept_when_the_network_is_made_anew() -> None:
    network = network_of_docker(inspected(Labels={"kept": "yes"}))
    plan = decide.make_plan(wish(mode="private", recreate="when_unused"), host(network=network))
    assert plan.steps[1].details["request"]["Labels"] == {"kept": "yes"}
    assert plan.after["labels"] == {"kept": "yes"}


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (replace(VB1, ipv4="198.51.100.1"), "its address 198.51.100.1 is not in ipv4.subnet 192.0.2.0/24"),
        (replace(VB1, ipv4="192.0.2.1"), "its address 192.0.2.1 is ipv4.gateway"),
        (replace(VB1, status="restarting"), "the container is restarting"),
        (replace(VB1, mac="02:42:00:00:00:99"), "could not give it its MAC 02:42:00:00:00:99 again"),
        (replace(VB1, own_mac="02:00:00:00:00:07", mac="02:00:00:00:00:07", network_mode="other"), "could not give it"),
    ],
)
def test_who_cannot_be_moved_is_named(endpoint: Endpoint, sentence: str) -> None:
    asked = wish(labels={"a": "b"}, recreate="move_endpoints")
    with pytest.raises(RefusedError, match=f"vb1: .*{sentence}"):
        decide.make_plan(asked, host(network=SITE, endpoints=(endpoint,)))


def test_a_newer_engine_can_give_any_mac() -> None:
    asked = wish(labels={"a": "b"}, recreate="move_endpoints")
    odd = replace(VB1, mac="02:42:00:00:00:99")
    assert len(actions(asked, host(platform=NEW, network=SITE, endpoints=(odd,)))) == 4


@pytest.mark.parametrize(
    ("asked", "seen", "sentence"),
    [
        ({"parent": "eno9"}, {}, r"there is no such link; the engine's host has eth0 \(up\), eth1 \(down\)"),
        ({"parent": "eth0.5"}, {}, r"ip link add link eth0 name eth0.5 type vlan id 5\)\. The engine would make it"),
        ({"parent": "eth1"}, {}, "the link is down"),
        ({"parent": "eth2"}, {}, "the link is a port of br0.*Set parent to br0"),
        ({"mtu": 9000}, {}, "the parent eth0 has 1500"),
        ({}, {"network": network_of_docker(inspected(driver="bridge"))}, "with the driver bridge"),
        ({}, {"others": (network_of_docker(inspected("other")),)}, "macvlan network other has it, and docker 20.10.24"),
        (
            {"mode": "passthru"},
            {"platform": NEW, "others": (network_of_docker(inspected("other")),)},
            "in mode passthru a parent has one network only",
        ),
        (
            {},
            {"platform": NEW, "others": (network_of_docker(inspected("other")),)},
            r"ipv4.subnet: 192.0.2.0/24: it overlaps 192.0.2.0/24 of the network other",
        ),
        (
            {},
            {"routes": (Route(SITE.subnets[0], "br0"),)},
            "the host has 192.0.2.0/24 on the link br0, not on the parent eth0",
        ),
        ({"ipv4": None}, {}, "gives every network an IPv4 subnet"),
        ({"ipv4": {**IPV4, "reserved": {"p": "192.0.2.7"}}}, {"platform": PODMAN}, "podman 4.3.1 cannot reserve"),
        (
            {"host_access": "shim", "shim": {"ipv4": "192.0.2.10"}},
            {},
            "shim.ipv4: 192.0.2.10: it is the host's own address on the link eth0",
        ),
        (
            {"host_access": "shim", "shim": {"ipv4": "192.0.2.31"}},
            {"taken": {"192.0.2.31": "vb1"}},
            "the container vb1 has that address",
        ),
        ({"host_access": "shim", "shim": {"ipv4": "192.0.2.30", "name": "br0"}}, {}, "not this network's shim"),
    ],
)
def test_what_the_host_forbids(asked: dict[str, t.Any], seen: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence):
        decide.make_plan(wish(**asked), host(**seen))


def test_the_own_route_of_the_parent_and_its_shims_is_no_conflict() -> None:
    shim = Link("old-shim", 9, True, 1500, "02:00:00:00:00:01", kind="macvlan", lower="eth0")
    routes = (Route(SITE.subnets[0], "eth0"), Route(SITE.subnets[0], "old-shim"))
    assert actions(wish(), host(links=(*LINKS, shim), routes=routes)) == ["create_network site"]


SHIM = {"host_access": "shim", "shim": {"ipv4": "192.0.2.30", "ipv6": "2001:db8:1::30"}}


def shim_of(asked: Wish, seen: decide.Observed) -> Shim:
    shim = decide.wanted_shim(asked, seen)
    assert shim is not None
    return shim


def test_the_shims_routes_follow_the_containers() -> None:
    seen = host(network=SITE, endpoints=(VB1, VB2))
    asked = wish(**SHIM)
    shim = shim_of(asked, seen)
    assert [str(route) for route in shim.routes] == ["192.0.2.31/32", "192.0.2.32/32", "2001:db8:1::31/128"]
    assert actions(asked, seen) == ["create_shim mv-site"]
    assert actions(asked, replace(seen, shims=(shim,))) == []
    older = replace(shim, routes=shim.routes[:1])
    assert actions(asked, replace(seen, shims=(older,))) == ["change_shim mv-site"]
    assert actions(wish(), replace(seen, shims=(shim,))) == ["remove_shim mv-site"]


def test_a_shim_comes_and_goes_without_the_network_being_made_anew() -> None:
    """Its reservation counts on neither side."""
    reserved = inspected()
    reserved["IPAM"]["Config"][0]["AuxiliaryAddresses"] = {"gridbox_shim": "192.0.2.99"}
    assert actions(wish(), host(network=network_of_docker(reserved))) == []
    assert actions(wish(**SHIM), host(network=SITE)) == ["create_shim mv-site"]


def test_a_new_network_reserves_its_shims_address() -> None:
    request = decide.make_plan(wish(**SHIM), host()).steps[0].details["request"]
    assert request["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"gridbox_shim": "192.0.2.30"}


@pytest.mark.parametrize("access", [{}, SHIM])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_name_of_the_shims_reservation_is_the_modules_own(access: dict[str, t.Any], family: str) -> None:
    """Two addresses under one name: the engine would get one of them only."""
    given = {"ipv4": {**IPV4, "reserved": {"gridbox_shim": "192.0.2.7"}}} if family == "ipv4" else {
        "ipv6": {**IPV6, "reserved": {"gridbox_shim": "2001:db8:1::7"}}
    }  # fmt: skip
    with pytest.raises(InputError, match=rf"{family}\.reserved\.gridbox_shim: got '\S+', expected another name"):
        wish(**access, **given)


def test_an_address_that_the_operator_has_reserved_is_not_reserved_twice() -> None:
    asked = wish(**SHIM, ipv4={**IPV4, "reserved": {"to-the-host": "192.0.2.30"}})
    request = decide.make_plan(asked, host()).steps[0].details["request"]
    assert request["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"to-the-host": "192.0.2.30"}


def test_the_bridge_and_who_is_attached_to_it() -> None:
    asked = wish(host_access="bridge", bridge={"ipv4": "172.31.0.0/24"})
    seen = host(network=SITE, endpoints=(VB1, VB2))
    assert actions(asked, seen) == ["create_bridge site-host", "attach_to_bridge vb1", "attach_to_bridge vb2"]
    request = decide.make_plan(asked, seen).steps[0].details["request"]
    assert request["Internal"] is True, "so that no default route leaves over it"
    bridge = network_of_docker(
        inspected("site-host", "bridge", IPAM={"Config": [{"Subnet": "172.31.0.0/24"}]}, Labels=request["Labels"])
    )
    there = replace(seen, bridge=bridge, bridge_endpoints=(VB1, VB2))
    assert actions(asked, there) == []
    assert actions(wish(), there) == [
        "detach_from_bridge vb1",
        "detach_from_bridge vb2",
        "remove_bridge site-host",
    ]


OWN = {
    "another LAN": ({"routes": (Route(ip_network("172.31.0.0/16"), "eth9"),)}, "172.31.0.0/16 on the link eth9"),
    "the parent's LAN": ({"routes": (Route(ip_network("172.31.0.0/24"), "eth0"),)}, "172.31.0.0/24 on the link eth0"),
    "an address without a route": (
        {"links": (*LINKS, Link("eth9", 9, True, 1500, "52:54:00:00:00:09", addresses=("172.31.0.7/32",)))},
        "172.31.0.7/32 on the link eth9",
    ),
    "IPv6": ({"routes": (Route(ip_network("fd31::/48"), "eth9"),)}, "fd31::/48 on the link eth9"),
}  # fmt: skip


@pytest.mark.parametrize("own", OWN)
def test_a_bridge_does_not_take_what_the_host_has_on_a_link(own: str) -> None:
    """The bridge's route would be the longer or the newer one, and cut the host off from that LAN."""
    seen, sentence = OWN[own]
    asked = wish(host_access="bridge", bridge={"ipv4": "172.31.0.0/24", "ipv6": "fd31::/64"})
    with pytest.raises(RefusedError, match=rf"bridge\.ipv[46]: \S+: the host has {sentence}.* Choose another subnet"):
        decide.make_plan(asked, host(network=SITE, **seen))


def test_a_bridge_with_another_name_may_keep_the_subnet() -> None:
    """Its route and address are those of the bridge that goes."""
    old = network_of_docker(
        inspected("old", "bridge", IPAM={"Config": [{"Subnet": "172.31.0.0/24"}]}, Labels={BRIDGE_LABEL: "site"})
    )
    link = Link("br-old", 9, True, 1500, "02:42:00:00:00:09", kind="bridge", addresses=("172.31.0.1/24",))
    routes = (Route(ip_network("172.31.0.0/24"), "br-old"),)
    seen = host(network=SITE, links=(*LINKS, link), routes=routes, others=(old,), bridge=old)
    asked = wish(host_access="bridge", bridge={"ipv4": "172.31.0.0/24"})
    assert actions(asked, seen) == ["remove_bridge old", "create_bridge site-host"]


def test_absent() -> None:
    gone = wish(state="absent")
    assert actions(gone, host()) == []
    assert actions(gone, host(network=SITE)) == ["remove_network site"]
    with pytest.raises(RefusedError, match=r"attached to the network site: vb1, vb2 \(not running\)"):
        decide.make_plan(gone, host(network=SITE, endpoints=(VB1, VB2)))
    leaving = wish(state="absent", leaving=["vb1"])
    assert actions(leaving, host(network=SITE, endpoints=(VB1,))) == ["remove_network site"]
    with pytest.raises(RefusedError, match=r"attached to the network site: vb2 \(not running\)"):
        decide.make_plan(leaving, host(network=SITE, endpoints=(VB1, VB2)))


def test_the_prediction_is_a_state_in_which_nothing_is_to_be_done() -> None:
    """For each kind of host access: the plan of the predicted host is empty."""
    for asked in (wish(), wish(**SHIM), wish(labels={"a": "b"}, mtu=1500), wish(state="absent")):
        for seen in (host(), host(boot_host=boot.BootHost(systemd=True, network_manager=True))):
            after = decide.predict(asked, seen)
            assert decide.make_plan(asked, after).steps == ()


# ---- the engine's answers ------------------------------------------------------------------------------------------


def test_podmans_own_answer_has_what_its_docker_like_one_leaves_out() -> None:
    network = network_of_podman(
        {
            "name": "site",
            "id": "89",
            "driver": "macvlan",
            "network_interface": "eth0",
            "subnets": [
                {
                    "subnet": "192.0.2.0/24",
                    "gateway": "192.0.2.1",
                    "lease_range": {"start_ip": "192.0.2.65", "end_ip": "192.0.2.95"},
                },
            ],
            "options": {"mode": "bridge"},
        }
    )
    assert (network.parent, network.mode) == ("eth0", "bridge")
    assert network.ipv4 is not None
    assert str(network.ipv4.ip_range) == "192.0.2.64/27"
    assert network.create["Options"] == {"mode": "bridge", "parent": "eth0"}


def test_a_range_over_the_whole_subnet_is_no_range() -> None:
    subnet = SITE.subnets[0]
    assert range_of({"start_ip": "192.0.2.1", "end_ip": "192.0.2.255"}, subnet) is None
    assert range_of(None, subnet) is None


def test_an_address_that_the_engine_chose_is_kept_like_one_that_was_given() -> None:
    container = {
        "Name": "/vb1",
        "Id": "b0eabd026571" + "0" * 52,
        "State": {"Status": "running", "Pid": 7},
        "Config": {},
    }
    settings = {
        "IPAMConfig": None,
        "IPAddress": "192.0.2.65",
        "GlobalIPv6Address": "",
        "MacAddress": "02:42:c0:00:02:41",
        "Aliases": ["alice", "b0eabd026571"],
    }
    old = endpoint_of(container, settings, OLD)
    assert old.settings == {"IPAMConfig": {"IPv4Address": "192.0.2.65"}, "Aliases": ["alice"]}
    assert endpoint_of(container, settings, NEW).settings["MacAddress"] == "02:42:c0:00:02:41"


# ---- the boot ------------------------------------------------------------------------------------------------------


def test_without_systemd_nothing_is_written_and_the_commands_are_told() -> None:
    asked, seen = wish(**SHIM), host(network=SITE, endpoints=(VB1,))
    assert not any(step.action == "write_file" for step in decide.make_plan(asked, seen).steps)
    told = decide.boot_result(decide.predict(asked, seen))
    assert told["by"] == "nothing"
    assert told["commands"][0][:5] == ["ip", "link", "add", "link", "eth0"]


def test_with_systemd_the_engine_waits_for_the_parent_and_a_unit_makes_the_shim() -> None:
    systemd = boot.BootHost(systemd=True, network_manager=True)
    seen = host(network=SITE, endpoints=(VB1,), boot_host=systemd)
    wanted = boot.files(systemd, "docker", "site", "bond-0.120", shim_of(wish(**SHIM), seen))
    drop_in = wanted["/etc/systemd/system/docker.service.d/gridbox-net-site.conf"]
    assert "After=sys-subsystem-net-devices-bond\\x2d0.120.device" in drop_in
    unit = wanted["/etc/systemd/system/gridbox-shim-mv-site.service"]
    assert "Before=docker.service" in unit
    assert "ExecStart=/usr/sbin/ip route add 192.0.2.31/32 dev mv-site src 192.0.2.30 scope link\n" in unit
    assert "/etc/NetworkManager/conf.d/90-gridbox-mv-site.conf" in wanted
    assert wanted == boot.files(systemd, "docker", "site", "bond-0.120", shim_of(wish(**SHIM), seen))
    steps = actions(wish(**SHIM), seen)
    assert [step.split()[0] for step in steps] == ["create_shim"] + ["write_file"] * 3
    known = replace(seen, boot_files=decide.predict(wish(**SHIM), seen).boot_files)
    assert [step.split()[0] for step in actions(wish(), known)] == ["remove_file"] * 2


def test_without_udev_nothing_waits_for_a_device_that_never_comes() -> None:
    """systemd knows links by udev only; docker.service would wait for its time-out, the shim for ever."""
    host_without = boot.BootHost(systemd=True, udev=False)
    seen = host(network=SITE, endpoints=(VB1,), boot_host=host_without)
    made = boot.files(host_without, "docker", "site", "eth0", shim_of(wish(**SHIM), seen))
    assert sorted(path.rpartition("/")[2] for path in made) == ["gridbox-net-site.conf", "gridbox-shim-mv-site.service"]
    for text in made.values():
        assert ".device" not in text and "BindsTo" not in text
        assert "After=network.target\n" in text
    assert "Before=docker.service\n" in made["/etc/systemd/system/gridbox-shim-mv-site.service"]


@pytest.mark.parametrize("hidden", [False, True])
def test_who_may_not_look_at_the_first_process_is_at_home(monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    """A login in the group docker sees neither its namespaces nor, hence, another one's."""
    stat = os.stat

    def looked_at(path: t.Any, **rest: t.Any) -> os.stat_result:
        if path == "/proc/1/ns/net" and hidden:
            raise PermissionError(13, "Permission denied", path)
        return stat("/proc/self/ns/net" if path == "/proc/1/ns/net" else path, **rest)

    monkeypatch.setattr(os, "stat", looked_at)
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system")
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/run/udev/control")
    assert boot.BootHost.read() == boot.BootHost(systemd=True)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert boot.BootHost.read() == boot.BootHost(systemd=True, udev=False)


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs the command systemctl")
def test_files_are_written_enabled_found_and_removed(tmp_path: t.Any) -> None:
    """With the real systemctl, below another root, so that no systemd has to run."""
    systemd = boot.BootHost(systemd=True, network_manager=False)
    seen = host(network=SITE, endpoints=(VB1,))
    root = str(tmp_path)
    wanted = boot.files(systemd, "docker", "site", "eth0", shim_of(wish(**SHIM), seen))
    boot.set_files(wanted, root)
    assert boot.read_files(systemd, "site", root) == wanted
    assert boot.read_files(systemd, "other", root) == {}
    enabled = tmp_path / "etc/systemd/system/multi-user.target.wants/gridbox-shim-mv-site.service"
    assert enabled.is_symlink()
    boot.set_files(wanted, root)
    boot.set_files(dict.fromkeys(wanted), root)
    assert boot.read_files(systemd, "site", root) == {}
    assert not enabled.is_symlink()
    assert not (tmp_path / "etc/systemd/system/docker.service.d").exists()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs the command systemctl")
def test_a_parent_that_comes_late_or_again_brings_the_shim(tmp_path: t.Any) -> None:
    """The shim's unit is bound to the parent's device, and goes with it; the boot alone would start it once."""
    seen = host(network=SITE, endpoints=(VB1,))

    def wanted(parent: str, udev: bool = True) -> dict[str, str]:
        there = boot.BootHost(systemd=True, udev=udev)
        return boot.files(there, "docker", "site", parent, shim_of(wish(**SHIM), seen))

    def who_wants_it() -> set[str]:
        links = (tmp_path / "etc/systemd/system").glob("*.wants/*")
        return {link.parent.name for link in links if link.name == "gridbox-shim-mv-site.service"}

    boot.set_files(wanted("bond-0.120"), str(tmp_path))
    always = {"multi-user.target.wants"}
    assert who_wants_it() == always | {"sys-subsystem-net-devices-bond\\x2d0.120.device.wants"}
    boot.set_files(wanted("eth0"), str(tmp_path))
    assert who_wants_it() == always | {"sys-subsystem-net-devices-eth0.device.wants"}
    boot.set_files(wanted("eth0", udev=False), str(tmp_path))
    assert who_wants_it() == always
    boot.set_files(wanted("eth0"), str(tmp_path))
    boot.set_files(dict.fromkeys(wanted("eth0")), str(tmp_path))
    assert who_wants_it() == set()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs the command systemctl")
@pytest.mark.parametrize("lost", ["multi-user.target", "sys-subsystem-net-devices-eth0.device"])
def test_a_unit_that_is_not_enabled_is_written_again(tmp_path: t.Any, lost: str) -> None:
    """A power cut may leave the file and take the links, and the boot then makes no shim."""
    systemd = boot.BootHost(systemd=True)
    bare = host(network=SITE, endpoints=(VB1,), boot_host=systemd)
    shim = shim_of(wish(**SHIM), bare)
    unit = f"{boot.UNITS}/gridbox-shim-mv-site.service"

    def seen() -> decide.Observed:
        boot_files = boot.read_files(systemd, "site", str(tmp_path))
        idle = boot.not_enabled(boot_files, str(tmp_path))
        return replace(bare, shims=(shim,), boot_files=boot_files, boot_idle=idle)

    boot.set_files(boot.files(systemd, "docker", "site", "eth0", shim), str(tmp_path))
    assert actions(wish(**SHIM), seen()) == []
    assert info.hints(seen(), {}) == []

    (tmp_path / f"{boot.UNITS[1:]}/{lost}.wants/gridbox-shim-mv-site.service").unlink()
    plan = decide.make_plan(wish(**SHIM), seen())
    assert [(step.action, step.target, step.reason) for step in plan.steps] == [
        ("write_file", unit, "it is not enabled, so the boot does not start it")
    ]
    assert plan.before != plan.after
    assert info.hints(seen(), {}) == ["Nothing makes the shim mv-site anew at boot."]
    assert f"remove_file {unit}" in actions(wish(), seen())

    step = plan.steps[0]
    boot.set_files({step.target: step.details["text"]}, str(tmp_path))
    assert actions(wish(**SHIM), seen()) == []
    boot.set_files({step.target: step.details["before"]}, str(tmp_path))
    assert unit in seen().boot_files, "the undo leaves the unit that was there"


# ---- hints and names -----------------------------------------------------------------------------------------------


def test_hints_name_what_is_amiss() -> None:
    assert info.hints(host(network=SITE, endpoints=(VB1,)), {}) == []
    gone = network_of_docker(inspected(Options={"parent": "eno9"}))
    assert info.hints(host(network=gone), {}) == ["The parent eno9 is gone; no container can start on this network."]
    single = replace(VB1, ipv6="")
    assert info.hints(host(network=SITE, endpoints=(single,)), {}) == ["vb1 runs without an IPv6 address."]
    assert "although the engine lists it" in info.hints(host(network=SITE), {"vb1": "no link"})[0]


def test_a_shims_name_fits_a_link_and_its_mac_is_its_own() -> None:
    assert default_shim_name("site") == "mv-site"
    long = default_shim_name("a-network-with-a-long-name")
    assert len(long) == 15
    first, second = wish(**SHIM).shim, wish(host_access="shim", shim={"ipv4": "192.0.2.31"}).shim
    assert first is not None
    assert second is not None
    assert first.mac.startswith("02:")
    assert first.mac != second.mac


@pytest.mark.parametrize("name", ["", "-x", "a b", "x;y", "a/b", "$(x)", "none", "host", "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name: got"):
        wish(name=name)

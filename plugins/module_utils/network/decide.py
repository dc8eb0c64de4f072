# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to do about a macvlan network: from the wish and the observed host to a plan. Pure."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot
from ansible_collections.hep.gridbox.plugins.module_utils.network.links import Link, Route, Shim, in_order
from ansible_collections.hep.gridbox.plugins.module_utils.network.picture import (
    BRIDGE_LABEL,
    Endpoint,
    Network,
    pool_request,
)
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import (
    SHIM_RESERVATION,
    BridgeWish,
    Family,
    Subnet,
    Wish,
)
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

#: Kinds of links that are ports of another and hence cannot be a macvlan's parent: their frames belong to the master.
_PORT_MASTERS = "bridge, bond or team"


@dataclass(frozen=True)
class Observed:
    """The host as far as it matters to one macvlan network.

    :ivar network: of the wished name, of whatever driver.
    :ivar others: all other networks of the engine.
    :ivar shims: links that this module made for this network.
    :ivar bridge: the bridge network that this module made for it.
    :ivar taken: addresses and MACs of all containers, with the container's name. Those on the same parent cannot be
        asked for over the wire.
    :ivar boot_files: files that this module wrote for it, path to text.
    :ivar boot_idle: those of them that are units and not enabled.
    """

    platform: Platform
    network: t.Optional[Network] = None
    endpoints: tuple[Endpoint, ...] = ()
    others: tuple[Network, ...] = ()
    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    shims: tuple[Shim, ...] = ()
    bridge: t.Optional[Network] = None
    bridge_endpoints: tuple[Endpoint, ...] = ()
    taken: t.Mapping[str, str] = field(default_factory=dict)
    boot_host: boot.BootHost = field(default_factory=boot.BootHost)
    boot_files: t.Mapping[str, str] = field(default_factory=dict)
    boot_idle: frozenset[str] = frozenset()

    def link(self, name: str) -> t.Optional[Link]:
        """The link of that name."""
        return next((link for link in self.links if link.name == name), None)


def make_plan(wish: Wish, seen: Observed) -> Plan:
    """The plan.

    :raises RefusedError: if the host's state forbids the wish.
    """
    if seen.network is not None and seen.network.driver != "macvlan":
        raise RefusedError(
            f"name: {wish.name}",
            f"the engine has a network of that name, with the driver {seen.network.driver}",
            "Choose another name, or remove that network yourself.",
        )
    if not wish.present:
        return _plan_absent(wish, seen)
    wish = for_platform(wish, seen.platform)
    if wish.ipv4 is None and seen.platform.name == "docker" and seen.platform.api < (1, 48):
        raise RefusedError(
            "ipv4: none",
            f"{seen.platform} gives every network an IPv4 subnet, one of its own choice if it is told none",
            "Give the LAN's IPv4 subnet, or upgrade the engine to 28 or later.",
        )
    parent = refuse_bad_parent(wish, seen)
    refuse_bad_mtu(wish, seen, parent)
    steps: list[Step] = []
    differences = compare(wish, seen.network, seen.platform) if seen.network else {}
    shim = wanted_shim(wish, seen)
    steps += _unwanted_access(wish, seen)
    steps += _network_steps(wish, seen, differences)
    if shim is not None:
        steps += _shim_steps(wish, seen, shim)
    if wish.bridge is not None:
        steps += _bridge_steps(wish, wish.bridge, seen)
    steps += _boot_steps(seen, boot.files(seen.boot_host, seen.platform.name, wish.name, wish.parent, shim))
    before, after = describe(seen), describe(predict(wish, seen))
    return Plan(tuple(steps), before if steps else after, after)


def for_platform(wish: Wish, platform: Platform) -> Wish:
    """The wish without what Podman has no notion of.

    :raises RefusedError: if the operator asked for that.
    """
    if platform.name != "podman":
        return wish
    halves: dict[str, t.Any] = {}
    for option, family in (("ipv4", wish.ipv4), ("ipv6", wish.ipv6)):
        asked = [name for name, _address in family.reserved if name != SHIM_RESERVATION] if family else []
        if asked:
            raise RefusedError(
                f"{option}.reserved: {', '.join(asked)}",
                f"{platform} cannot reserve addresses",
                f"Leave them out, and set {option}.ip_range to a part of the subnet that is the containers' alone.",
            )
        halves[option] = replace(family, reserved=()) if family else None
    return replace(wish, **halves)


# ---- the parent --------------------------------------------------------------------------------------------------


def refuse_bad_parent(wish: Wish, seen: Observed) -> Link:
    """The parent link.

    :raises RefusedError: if it is missing, down, or a port of something else.
    """
    parent = seen.link(wish.parent)
    wanted = f"parent: {wish.parent}"
    if parent is None:
        known = ", ".join(str(link) for link in seen.links if link.name != "lo") or "none"
        base, dot, tag = wish.parent.rpartition(".")
        if dot and tag.isdigit() and seen.link(base):
            remedy = (
                f"Make the VLAN link by the host's own network configuration (for a try: ip link add link {base} name"
                f" {wish.parent} type vlan id {tag}). The engine would make it by side effect, and delete it with the"
                " network."
            )
        else:
            remedy = "Set parent to one of them, or make the link first."
        raise RefusedError(wanted, f"there is no such link; the engine's host has {known}", remedy)
    if not parent.up:
        raise RefusedError(wanted, "the link is down", f"Set it up first (ip link set {parent.name} up).")
    if parent.master:
        raise RefusedError(
            wanted,
            f"the link is a port of {parent.master}, and what a {_PORT_MASTERS} receives belongs to that",
            f"Set parent to {parent.master}.",
        )
    return parent


def refuse_bad_mtu(wish: Wish, seen: Observed, parent: Link) -> None:
    """Docker's macvlan links have the parent's MTU, so another cannot be had.

    :raises RefusedError: if the parent has another.
    """
    if wish.mtu is None or wish.mtu == parent.mtu:
        return
    if seen.platform.name == "podman" and wish.mtu < parent.mtu:
        return
    raise RefusedError(
        f"mtu: {wish.mtu}",
        f"the parent {parent.name} has {parent.mtu}, and that is what containers on it get",
        f"Set the MTU of {parent.name} in the host's network configuration, or leave mtu out.",
    )


# ---- the network -------------------------------------------------------------------------------------------------


def request_of(wish: Wish, platform: Platform, labels: t.Mapping[str, str]) -> dict[str, t.Any]:
    """The Engine API's request that makes the network. IPv6 is switched on or off explicitly: 26.1 acts on it.

    :param labels: of the network that is made anew, kept where the operator names none.
    """
    options = {"parent": wish.parent, "macvlan_mode": wish.mode}
    if platform.name == "podman":
        options = {"parent": wish.parent, "mode": wish.mode}
        if wish.mtu is not None:
            options["mtu"] = str(wish.mtu)
    request: dict[str, t.Any] = {
        "Name": wish.name,
        "CheckDuplicate": True,
        "Driver": "macvlan",
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": wish.ipv6 is not None,
        "IPAM": {"Driver": "default", "Config": [pool_request(family) for family in wish.families]},
        "Options": options,
        "Labels": dict(labels if wish.labels is None else wish.labels),
    }
    if platform.api >= (1, 48):
        request["EnableIPv4"] = wish.ipv4 is not None
    if platform.name == "podman":
        del request["IPAM"]["Driver"]
    return request


def compare(wish: Wish, network: Network, platform: Platform) -> dict[str, tuple[t.Any, t.Any]]:
    """What only a new network can mend: option path to the value found and the value wanted."""
    pairs: dict[str, tuple[t.Any, t.Any]] = {
        "parent": (network.parent, wish.parent),
        "mode": (network.mode, wish.mode),
    }
    for option, found, wanted in (("ipv4", network.ipv4, wish.ipv4), ("ipv6", network.ipv6, wish.ipv6)):
        if found is None or wanted is None:
            pairs[option] = (found and str(found.subnet), wanted and str(wanted.subnet))
            continue
        one, other = _comparable(found), _comparable(wanted)
        pairs.update({f"{option}.{key}": (one[key], other[key]) for key in one})
    if wish.ipv6 is not None and network.ipv6 is not None and not network.ipv6_enabled:
        pairs["ipv6"] = ("switched off", "switched on")
    if network.pools:
        pairs["further subnets"] = ([str(pool) for pool in network.pools], [])
    if network.internal:
        pairs["internal"] = (True, False)
    if wish.labels is not None:
        pairs["labels"] = (dict(network.labels), dict(wish.labels))
    if platform.name == "podman" and wish.mtu is not None:
        pairs["mtu"] = (network.mtu, wish.mtu)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _comparable(family: Family) -> dict[str, t.Any]:
    """A half of the network for comparing. The shim's own reservation counts on neither side: a shim that comes or goes
    later is no reason to make the network anew."""
    result = family.as_result()
    result["reserved"] = {name: text for name, text in result["reserved"].items() if name != SHIM_RESERVATION}
    return result


def _network_steps(wish: Wish, seen: Observed, differences: t.Mapping[str, tuple[t.Any, t.Any]]) -> list[Step]:
    request = request_of(wish, seen.platform, seen.network.labels if seen.network else {})
    if seen.network is None:
        refuse_conflicts(wish, seen)
        return [Step("create_network", wish.name, "there is no such network", details={"request": request})]
    if not differences:
        return []
    what = "; ".join(
        f"{key} is {found!r} instead of {wanted!r}" for key, (found, wanted) in sorted(differences.items())
    )
    names = ", ".join(endpoint.container for endpoint in seen.endpoints)
    if wish.recreate == "never":
        attached = f"attached to it: {names}" if names else "nothing is attached to it"
        raise RefusedError(
            f"name: {wish.name}",
            f"the network differs ({what}), and an engine cannot change a network; {attached}",
            "Set recreate: move_endpoints to have it made anew and each container attached again with its addresses."
            if names
            else "Set recreate: when_unused to have it made anew.",
        )
    if wish.recreate == "when_unused" and names:
        raise RefusedError(
            "recreate: when_unused",
            f"the network {wish.name} differs ({what}), and attached to it: {names}",
            "Set recreate: move_endpoints to have each attached again with its addresses, or detach them first.",
        )
    refuse_conflicts(wish, seen)
    refuse_unmovable(wish, seen, seen.network)
    old = {
        "id": seen.network.id,
        "create": dict(seen.network.create),
        "endpoints": [moved(one) for one in seen.endpoints],
    }
    steps = [
        Step(
            "detach_endpoint",
            endpoint.container,
            f"it moves to the new network {wish.name}",
            Disruption.service if endpoint.running else Disruption.none,
            {"old": old, "parent": wish.parent, "container": endpoint.id},
        )
        for endpoint in seen.endpoints
    ]
    steps.append(Step("remove_network", wish.name, what, details={"old": old, "parent": wish.parent}))
    steps.append(Step("create_network", wish.name, what, details={"old": old, "request": request}))
    steps += [
        Step(
            "attach_endpoint",
            endpoint.container,
            "with its own addresses, MAC and aliases",
            Disruption.service if endpoint.running else Disruption.none,
            {"old": old, "endpoint": moved(endpoint)},
        )
        for endpoint in seen.endpoints
    ]
    return steps


def moved(endpoint: Endpoint) -> dict[str, t.Any]:
    """An attachment as JSON types: how to make it, and what it must then look like."""
    return {
        "container": endpoint.container,
        "id": endpoint.id,
        "running": endpoint.running,
        "settings": dict(endpoint.settings),
        "ipv4": endpoint.ipv4,
        "ipv6": endpoint.ipv6,
        "mac": endpoint.mac,
        "aliases": list(endpoint.aliases),
    }


def refuse_conflicts(wish: Wish, seen: Observed) -> None:
    """What the engine would refuse when the network is made, or take and regret.

    :raises RefusedError: naming who is in the way.
    """
    shared_parents = seen.platform.name == "podman" or seen.platform.version >= (27,)
    for other in seen.others:
        why = ""
        if other.parent == wish.parent and other.driver == "ipvlan":
            why = "and the kernel gives a link either macvlan or ipvlan"
        elif other.parent == wish.parent and other.driver == "macvlan":
            if not shared_parents:
                why = f"and {seen.platform} gives each macvlan network a parent of its own"
            elif "passthru" in (wish.mode, other.mode):
                why = "and in mode passthru a parent has one network only"
        if why:
            raise RefusedError(
                f"parent: {wish.parent}",
                f"the {other.driver} network {other.name} has it, {why}",
                f"Use the network {other.name}, or remove it first, or give this one a VLAN link of its own.",
            )
        for option, family in (("ipv4", wish.ipv4), ("ipv6", wish.ipv6)):
            for subnet in other.subnets:
                if family is not None and overlap(subnet, family.subnet):
                    raise RefusedError(
                        f"{option}.subnet: {family.subnet}",
                        f"it overlaps {subnet} of the network {other.name} ({other.driver})",
                        f"Remove {other.name} first if nothing needs it, or choose another subnet for it.",
                    )
    near = {link.name for link in seen.links if link.lower == wish.parent and link.kind in ("macvlan", "ipvlan")}
    for route in seen.routes:
        if route.link in (wish.parent, "lo") or route.link in near:
            continue
        for option, family in (("ipv4", wish.ipv4), ("ipv6", wish.ipv6)):
            if family is not None and overlap(route.destination, family.subnet):
                raise RefusedError(
                    f"{option}.subnet: {family.subnet}",
                    f"the host has {route.destination} on the link {route.link}, not on the parent {wish.parent}",
                    f"Set parent to {route.link} if that is the LAN meant, or correct the subnet.",
                )


def overlap(one: t.Any, other: t.Any) -> bool:
    """Whether two subnets have an address in common; those of different families have not."""
    return one.version == other.version and bool(one.overlaps(other))


def refuse_unmovable(wish: Wish, seen: Observed, network: Network) -> None:
    """An attachment that could not be made again as it is.

    :raises RefusedError: naming the container and why.
    """
    for endpoint in seen.endpoints:
        wanted = f"recreate: move_endpoints, {endpoint.container}"
        if endpoint.status in ("restarting", "removing", "dead"):
            raise RefusedError(wanted, f"the container is {endpoint.status}", "Wait until it runs or has stopped.")
        if len(endpoint.network_mode) >= 12 and network.id.startswith(endpoint.network_mode):
            raise RefusedError(
                wanted,
                f"the container was made for the network by its id {endpoint.network_mode[:12]}, which goes with it",
                "Make the container anew with the network's name.",
            )
        for address in endpoint.addresses:
            option = f"ipv{address.version}"
            family = wish.ipv4 if address.version == 4 else wish.ipv6
            if family is None or address not in family.subnet:
                raise RefusedError(
                    wanted,
                    f"its address {address} is not in {option}.subnet {family.subnet if family else '(none)'}",
                    "Give the container an address of the new subnet first, or detach it.",
                )
            taken = {family.gateway: f"{option}.gateway"} if family.gateway else {}
            taken.update({reserved: f"{option}.reserved.{name}" for name, reserved in family.reserved})
            if address in taken:
                raise RefusedError(
                    wanted, f"its address {address} is {taken[address]}", "Choose another for one of them."
                )
        if endpoint.running and seen.platform.api < (1, 44) and seen.platform.name == "docker":
            by_address = "02:42:" + ipaddress.ip_address(endpoint.ipv4).packed.hex(":") if endpoint.ipv4 else ""
            by_container = endpoint.own_mac if endpoint.network_mode == network.name else ""
            if endpoint.mac != (by_container or by_address):
                raise RefusedError(
                    wanted,
                    f"{seen.platform} could not give it its MAC {endpoint.mac} again",
                    "Detach it yourself, or upgrade the engine to 25 or later.",
                )


# ---- the host's way ----------------------------------------------------------------------------------------------


def wanted_shim(wish: Wish, seen: Observed) -> t.Optional[Shim]:
    """The shim as it shall be; its default routes follow from what is attached."""
    if wish.shim is None:
        return None
    versions = {address.version for address in wish.shim.addresses}
    routes = wish.shim.routes
    if routes is None:
        attached = (address for endpoint in seen.endpoints for address in endpoint.addresses)
        routes = in_order(ipaddress.ip_network(address) for address in attached if address.version in versions)
    return Shim(
        name=wish.shim.name,
        parent=wish.parent,
        network=wish.name,
        mac=wish.shim.mac,
        mode="bridge",
        up=True,
        addresses=in_order(wish.shim.addresses),
        routes=routes,
    )


def _shim_steps(wish: Wish, seen: Observed, shim: Shim) -> list[Step]:
    found = next((one for one in seen.shims if one.name == shim.name), None)
    foreign = seen.link(shim.name)
    if found is None and foreign is not None:
        raise RefusedError(
            f"shim.name: {shim.name}",
            f"the host has a link of that name that is not this network's shim ({foreign.kind or 'hardware'})",
            "Choose another name, or remove that link if it is yours to remove.",
        )
    for link in seen.links:
        for text in link.addresses:
            address = ipaddress.ip_interface(text).ip
            if address in shim.addresses and link.name not in [one.name for one in seen.shims]:
                raise RefusedError(
                    f"shim.ipv{address.version}: {address}",
                    f"it is the host's own address on the link {link.name}",
                    "The shim needs an address of its own; take a free one.",
                )
    for address in shim.addresses:
        if str(address) in seen.taken:
            raise RefusedError(
                f"shim.ipv{address.version}: {address}",
                f"the container {seen.taken[str(address)]} has that address",
                "Take a free one.",
            )
    if found == shim:
        return []
    details = {"shim": shim, "before": found, "parent": wish.parent}
    if found is None:
        return [Step("create_shim", shim.name, "the host has no way to the containers", details=details)]
    changes = [
        f"{key} is {_shown(getattr(found, key))} instead of {_shown(getattr(shim, key))}"
        for key in ("parent", "mac", "mode", "up", "addresses", "routes")
        if getattr(found, key) != getattr(shim, key)
    ]
    return [Step("change_shim", shim.name, "; ".join(changes), details=details)]


def _shown(value: t.Any) -> str:
    return ", ".join(str(item) for item in value) or "none" if isinstance(value, tuple) else str(value)


def _bridge_steps(wish: Wish, bridge: BridgeWish, seen: Observed) -> list[Step]:
    steps: list[Step] = []
    if seen.bridge is None or seen.bridge.name != bridge.name:
        for other in seen.others:
            if other.name == bridge.name:
                raise RefusedError(
                    f"bridge.name: {bridge.name}",
                    f"the engine has a network of that name that is not the way to this one ({other.driver})",
                    "Choose another name.",
                )
            for option, wanted in (("ipv4", bridge.ipv4), ("ipv6", bridge.ipv6)):
                for subnet in other.subnets:
                    if wanted is not None and overlap(subnet, wanted) and other != seen.bridge:
                        raise RefusedError(
                            f"bridge.{option}: {wanted}",
                            f"it overlaps {subnet} of the network {other.name} ({other.driver})",
                            "Choose another subnet.",
                        )
        for option, wanted in (("ipv4", bridge.ipv4), ("ipv6", bridge.ipv6)):
            if wanted is not None:
                _refuse_on_a_link(f"bridge.{option}", wanted, seen)
        pools = [{"Subnet": str(subnet)} for subnet in (bridge.ipv4, bridge.ipv6) if subnet is not None]
        request: dict[str, t.Any] = {
            "Name": bridge.name,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": True,
            "EnableIPv6": bridge.ipv6 is not None,
            "Labels": {BRIDGE_LABEL: wish.name},
        }
        if pools:
            request["IPAM"] = {"Config": pools}
        steps.append(
            Step("create_bridge", bridge.name, "the host has no way to the containers", details={"request": request})
        )
        attached: set[str] = set()
    else:
        for option, found, wanted in (
            ("ipv4", seen.bridge.ipv4, bridge.ipv4),
            ("ipv6", seen.bridge.ipv6, bridge.ipv6),
        ):
            if (wanted is not None or option == "ipv6") and (found and found.subnet) != wanted:
                raise RefusedError(
                    f"bridge.{option}: {wanted}",
                    f"the bridge network {bridge.name} has {found.subnet if found else 'none'}",
                    "Run with host_access: none once, which takes it away, and then as you want it.",
                )
        attached = {endpoint.id for endpoint in seen.bridge_endpoints}
    steps += [
        Step(
            "attach_to_bridge",
            endpoint.container,
            f"the host reaches it over {bridge.name}",
            details={"bridge": bridge.name, "container": endpoint.id},
        )
        for endpoint in seen.endpoints
        if endpoint.id not in attached
    ]
    return steps


def _refuse_on_a_link(option: str, wanted: Subnet, seen: Observed) -> None:
    """A new bridge brings a route of its own, which would cut the host off from what it reaches over another link.

    :raises RefusedError: naming that link. What belongs to the bridge that goes, and to shims, is none.
    """
    going = seen.bridge.subnets if seen.bridge else ()
    on_links = [(str(route.destination), route.destination, route.link) for route in seen.routes]
    for link in seen.links:
        on_links += [
            (text, ipaddress.ip_network(ipaddress.ip_interface(text).ip), link.name) for text in link.addresses
        ]
    for shown, subnet, name in on_links:
        leaves = any(overlap(subnet, one) for one in going) or name in [shim.name for shim in seen.shims]
        if overlap(subnet, wanted) and not leaves:
            raise RefusedError(
                f"{option}: {wanted}",
                f"the host has {shown} on the link {name}, and would not reach it any more",
                "Choose another subnet, which nothing else uses.",
            )


def _unwanted_access(wish: Wish, seen: Observed) -> list[Step]:
    """What there is of host access that shall not be."""
    steps: list[Step] = []
    for shim in seen.shims:
        if wish.shim is None or shim.name != wish.shim.name:
            reason = "host access of this kind is not wanted" if wish.shim is None else "the shim has another name"
            steps.append(Step("remove_shim", shim.name, reason, details={"shim": None, "before": shim}))
    if seen.bridge is not None and (wish.bridge is None or wish.bridge.name != seen.bridge.name):
        reason = "host access of this kind is not wanted" if wish.bridge is None else "the bridge has another name"
        steps += [
            Step(
                "detach_from_bridge",
                endpoint.container,
                reason,
                details={"bridge": seen.bridge.name, "endpoint": moved(endpoint)},
            )
            for endpoint in seen.bridge_endpoints
        ]
        steps.append(
            Step(
                "remove_bridge",
                seen.bridge.name,
                reason,
                details={"old": {"id": seen.bridge.id, "create": dict(seen.bridge.create), "endpoints": []}},
            )
        )
    return steps


def _boot_steps(seen: Observed, wanted: t.Mapping[str, str]) -> list[Step]:
    steps = [
        Step(
            "write_file",
            path,
            _why_written(seen.boot_files.get(path), text),
            details={"text": text, "before": seen.boot_files.get(path)},
        )
        for path, text in sorted(wanted.items())
        if seen.boot_files.get(path) != text or path in seen.boot_idle
    ]
    steps += [
        Step("remove_file", path, "nothing needs it at boot", details={"text": None, "before": text})
        for path, text in sorted(seen.boot_files.items())
        if path not in wanted
    ]
    return steps


def _why_written(found: t.Optional[str], wanted: str) -> str:
    if found is None:
        return "what the network needs at boot"
    return "it differs" if found != wanted else "it is not enabled, so the boot does not start it"


def _plan_absent(wish: Wish, seen: Observed) -> Plan:
    staying = [one for one in seen.endpoints if one.container not in wish.leaving]
    if staying:
        names = ", ".join(f"{one.container}{'' if one.running else ' (not running)'}" for one in staying)
        raise RefusedError(
            "state: absent",
            f"attached to the network {wish.name}: {names}",
            "Remove or detach these containers first; nothing was touched.",
        )
    steps = _unwanted_access(wish, seen)
    if seen.network is not None:
        old = {"id": seen.network.id, "create": dict(seen.network.create), "endpoints": []}
        steps.append(Step("remove_network", wish.name, "it is not wanted", details={"old": old}))
    steps += _boot_steps(seen, {})
    return Plan(tuple(steps), describe(seen), describe(predict(wish, seen)))


# ---- what the operator sees --------------------------------------------------------------------------------------


def predict(wish: Wish, seen: Observed) -> Observed:
    """The host after the plan. Equal to ``seen`` where the plan changes nothing."""
    if not wish.present:
        gone: dict[str, t.Any] = {
            "network": None, "endpoints": (), "shims": (), "bridge": None, "bridge_endpoints": (), "boot_files": {},
            "boot_idle": frozenset(),
        }  # fmt: skip
        return replace(seen, **gone)
    wish = for_platform(wish, seen.platform)
    network = seen.network
    if network is None or compare(wish, network, seen.platform):
        network = Network(
            name=wish.name,
            id="",
            driver="macvlan",
            parent=wish.parent,
            mode=wish.mode,
            mtu=wish.mtu,
            ipv4=wish.ipv4,
            ipv6=wish.ipv6,
            ipv6_enabled=wish.ipv6 is not None,
            labels=wish.labels if wish.labels is not None else network.labels if network else {},
        )
    shim = wanted_shim(wish, seen)
    bridge = None
    bridge_endpoints: tuple[Endpoint, ...] = ()
    if wish.bridge is not None:
        same = seen.bridge is not None and seen.bridge.name == wish.bridge.name
        bridge = seen.bridge if same else _predicted_bridge(wish, wish.bridge)
        kept = seen.bridge_endpoints if same else ()
        known = {endpoint.id for endpoint in kept}
        new = [Endpoint(one.container, one.id, one.status) for one in seen.endpoints if one.id not in known]
        bridge_endpoints = tuple(sorted((*kept, *new), key=lambda one: one.container))
    files = boot.files(seen.boot_host, seen.platform.name, wish.name, wish.parent, shim)
    changed: dict[str, t.Any] = {
        "network": network, "shims": (shim,) if shim else (), "bridge": bridge, "bridge_endpoints": bridge_endpoints,
        "boot_files": files, "boot_idle": frozenset(),
    }  # fmt: skip
    return replace(seen, **changed)


def _predicted_bridge(wish: Wish, bridge: BridgeWish) -> Network:
    halves = [Family(subnet, None) if subnet is not None else None for subnet in (bridge.ipv4, bridge.ipv6)]
    return Network(
        bridge.name, "", "bridge", ipv4=halves[0], ipv6=halves[1], internal=True, labels={BRIDGE_LABEL: wish.name}
    )


def describe(seen: Observed) -> dict[str, t.Any]:
    """The observed values by option, for the diff."""
    if seen.network is None:
        described: dict[str, t.Any] = {"state": "absent"}
    else:
        network = seen.network
        described = {
            "state": "present",
            "parent": network.parent,
            "mode": network.mode,
            "ipv4": network.ipv4.as_result() if network.ipv4 else None,
            "ipv6": network.ipv6.as_result() if network.ipv6 else None,
            "labels": dict(network.labels),
        }
    access = host_access(seen)
    # A unit that is not enabled provides for nothing.
    files = {path: text for path, text in seen.boot_files.items() if path not in seen.boot_idle}
    return {**described, "host_access": access, "boot_files": files}


def host_access(seen: Observed) -> dict[str, t.Any]:
    """The host's way as it stands in a module's result."""
    shim = seen.shims[0] if seen.shims else None
    kind = "shim" if shim else "bridge" if seen.bridge else "none"
    shown: dict[str, t.Any] = {"kind": kind, "shim": None, "bridge": None}
    if shim is not None:
        by_version = {address.version: str(address) for address in shim.addresses}
        shown["shim"] = {
            "name": shim.name,
            "parent": shim.parent,
            "mac": shim.mac,
            "ipv4": by_version.get(4),
            "ipv6": by_version.get(6),
            "routes": [str(route) for route in shim.routes],
        }
    if seen.bridge is not None:
        halves = {4: seen.bridge.ipv4, 6: seen.bridge.ipv6}
        shown["bridge"] = {
            "name": seen.bridge.name,
            **{f"ipv{version}": str(half.subnet) if half else None for version, half in halves.items()},
            "containers": [endpoint.container for endpoint in seen.bridge_endpoints],
        }
    return shown


def boot_result(seen: Observed) -> dict[str, t.Any]:
    """What brings the network's needs back at boot, as it stands in a module's result."""
    shim = seen.shims[0] if seen.shims else None
    return {
        "by": "systemd" if seen.boot_host.systemd else "nothing",
        "files": sorted(seen.boot_files),
        "commands": [list(command) for command in boot.commands(shim)] if shim else [],
    }


def network_result(seen: Observed) -> t.Optional[dict[str, t.Any]]:
    """The network as it stands in a module's result."""
    network = seen.network
    if network is None:
        return None
    parent = seen.link(network.parent or "")
    return {
        "name": network.name,
        "id": network.id or None,
        "driver": network.driver,
        "parent": network.parent,
        "mode": network.mode,
        "ipv4": network.ipv4.as_result() if network.ipv4 else None,
        "ipv6": network.ipv6.as_result() if network.ipv6 else None,
        "labels": dict(network.labels),
        "mtu": network.mtu or (parent.mtu if parent else None),
        "endpoints": [endpoint.as_result() for endpoint in seen.endpoints],
    }

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the operator asks of a macvlan network: the argument spec, and the checks that need no host."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import Address, mac_text

Subnet = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

_FAMILY: dict[str, t.Any] = {
    "type": "dict",
    "options": {
        "subnet": {"type": "str", "required": True},
        "gateway": {"type": "str", "required": True},
        "ip_range": {"type": "str"},
        "reserved": {"type": "dict", "default": {}},
    },
}

MODES = ("bridge", "private", "vepa", "passthru")

#: Matches the module's documentation.
ARGUMENTS: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "parent": {"type": "str"},
    "mode": {"type": "str", "choices": list(MODES), "default": "bridge"},
    "ipv4": _FAMILY,
    "ipv6": _FAMILY,
    "labels": {"type": "dict"},
    "mtu": {"type": "int"},
    "host_access": {"type": "str", "choices": ["none", "shim", "bridge"], "default": "none"},
    "shim": {
        "type": "dict",
        "options": {
            "name": {"type": "str"},
            "ipv4": {"type": "str"},
            "ipv6": {"type": "str"},
            "routes": {"type": "list", "elements": "str"},
        },
    },
    "bridge": {
        "type": "dict",
        "options": {"name": {"type": "str"}, "ipv4": {"type": "str"}, "ipv6": {"type": "str"}},
    },
    "recreate": {"type": "str", "choices": ["never", "when_unused", "move_endpoints"], "default": "never"},
    "probe_seconds": {"type": "float", "default": 1.0},
    "leaving": {"type": "list", "elements": "str", "default": []},
}

#: The name under which a network reserves its shim's address.
SHIM_RESERVATION = "gridbox_shim"

_LINK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Family:
    """The IPv4 or the IPv6 half of a network.

    :ivar gateway: None only for a network that somebody else made without one.
    :ivar reserved: name to address, ordered by name.
    """

    subnet: Subnet
    gateway: t.Optional[Address]
    ip_range: t.Optional[Subnet] = None
    reserved: tuple[tuple[str, Address], ...] = ()

    def as_result(self) -> dict[str, t.Any]:
        """As it stands in a module's result."""
        return {
            "subnet": str(self.subnet),
            "gateway": str(self.gateway) if self.gateway else None,
            "ip_range": str(self.ip_range) if self.ip_range else None,
            "reserved": {name: str(address) for name, address in self.reserved},
        }


@dataclass(frozen=True)
class ShimWish:
    """The host's macvlan link. ``routes`` None: one for each address on the network."""

    name: str
    mac: str
    ipv4: t.Optional[Address]
    ipv6: t.Optional[Address]
    routes: t.Optional[tuple[Subnet, ...]]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those it has, IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


@dataclass(frozen=True)
class BridgeWish:
    """The internal bridge network."""

    name: str
    ipv4: t.Optional[Subnet]
    ipv6: t.Optional[Subnet]


@dataclass(frozen=True)
class Wish:
    """The options, checked and in canonical form.

    :ivar leaving: names of containers that are not in the way, for they will be gone by then.
    """

    name: str
    present: bool
    parent: str = ""
    mode: str = "bridge"
    ipv4: t.Optional[Family] = None
    ipv6: t.Optional[Family] = None
    labels: t.Optional[t.Mapping[str, str]] = None
    mtu: t.Optional[int] = None
    shim: t.Optional[ShimWish] = None
    bridge: t.Optional[BridgeWish] = None
    recreate: str = "never"
    probe_seconds: float = 1.0
    leaving: frozenset[str] = frozenset()

    @property
    def families(self) -> tuple[Family, ...]:
        """Those it has, IPv4 first."""
        return tuple(family for family in (self.ipv4, self.ipv6) if family is not None)


def wish_from(params: t.Mapping[str, t.Any]) -> Wish:
    """Check a module's parameters.

    :raises InputError: for the first value that cannot be right, with its option path.
    """
    name = params["name"]
    if not _NETWORK.fullmatch(name) or name in ("none", "host", "bridge", "default"):
        raise InputError(
            "name", name, "a network name: letters, digits, '_', '.' and '-', and not one the engine has itself"
        )
    if params["state"] == "absent":
        return Wish(name, present=False, leaving=frozenset(params["leaving"]))
    parent = _link("parent", params["parent"])
    if parent == "lo":
        raise InputError("parent", parent, "a link to a LAN", "The loopback link leads nowhere.")
    if params["ipv4"] is None and params["ipv6"] is None:
        raise InputError("ipv4", None, "a subnet and a gateway in ipv4, in ipv6 or in both")
    ipv4 = _family("ipv4", params["ipv4"], 4)
    ipv6 = _family("ipv6", params["ipv6"], 6)
    shim = _shim(params, name, parent, ipv4, ipv6)
    mtu = params["mtu"]
    least = 1280 if ipv6 else 68
    if mtu is not None and not least <= mtu <= 65535:
        raise InputError("mtu", mtu, f"a number of bytes from {least} to 65535", "IPv6 needs 1280." if ipv6 else "")
    if not 0 <= params["probe_seconds"] <= 60:
        raise InputError("probe_seconds", params["probe_seconds"], "a number of seconds from 0 to 60")
    return Wish(
        name=name,
        present=True,
        parent=parent,
        mode=params["mode"],
        ipv4=_reserve(ipv4, shim.ipv4 if shim else None),
        ipv6=_reserve(ipv6, shim.ipv6 if shim else None),
        labels=_labels(params["labels"]),
        mtu=mtu,
        shim=shim,
        bridge=_bridge(params, name, ipv4, ipv6),
        recreate=params["recreate"],
        probe_seconds=params["probe_seconds"],
    )


def _link(option: str, name: t.Any) -> str:
    if not isinstance(name, str) or not _LINK.fullmatch(name):
        raise InputError(option, name, "the name of a link: up to 15 letters, digits, '_', '.', ':' and '-'")
    return name


def _subnet(option: str, text: str, version: int) -> Subnet:
    example = "192.0.2.0/24" if version == 4 else "2001:db8:1::/64"
    expected = f"an IPv{version} subnet such as {example}"
    if "/" not in text:
        raise InputError(option, text, f"{expected}, with its prefix length")
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InputError(option, text, expected) from None
    if loose.version != version:
        raise InputError(option, text, expected, f"This is IPv{loose.version}.")
    if loose.network_address != ipaddress.ip_interface(text).ip:
        raise InputError(option, text, expected, f"The address has bits beyond its prefix; the subnet is {loose}.")
    if loose.is_multicast or loose.is_loopback or loose.prefixlen == 0:
        raise InputError(option, text, expected, "This one is not for machines on a LAN.")
    return loose


def _address(option: str, text: t.Any, within: Subnet, subnet_option: str) -> Address:
    """An address that a machine of the subnet can have."""
    expected = f"an address of {subnet_option} {within}"
    try:
        if not isinstance(text, str):
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InputError(option, text, expected) from None
    if address not in within:
        raise InputError(option, text, expected, "It lies outside.")
    if address == within.network_address:
        raise InputError(option, text, expected, "It is the address of the subnet itself.")
    if address.version == 4 and address == within.broadcast_address:
        raise InputError(option, text, expected, "It is the subnet's broadcast address.")
    return address


def _family(option: str, given: t.Optional[t.Mapping[str, t.Any]], version: int) -> t.Optional[Family]:
    if given is None:
        return None
    subnet_option = f"{option}.subnet"
    subnet = _subnet(subnet_option, given["subnet"], version)
    if subnet.num_addresses < 4:
        raise InputError(
            subnet_option, given["subnet"], "a subnet with room for a router and a container", "Use a shorter prefix."
        )
    gateway = _address(f"{option}.gateway", given["gateway"], subnet, subnet_option)
    ip_range = None
    if given["ip_range"] is not None:
        ip_range = _subnet(f"{option}.ip_range", given["ip_range"], version)
        if not (ip_range.network_address in subnet and ip_range.broadcast_address in subnet):
            raise InputError(
                f"{option}.ip_range", given["ip_range"], f"a part of {subnet_option} {subnet}", "It lies outside."
            )
    reserved: dict[str, Address] = {}
    for name, text in given["reserved"].items():
        path = f"{option}.reserved.{name}"
        if name == SHIM_RESERVATION:
            raise InputError(path, text, "another name", "Under this one the module reserves the shim's own address.")
        address = _address(path, text, subnet, subnet_option)
        if address == gateway:
            raise InputError(
                path, text, "an address that is not the gateway", "The gateway is reserved anyway; leave it out."
            )
        if address in reserved.values():
            raise InputError(path, text, "each address once")
        reserved[str(name)] = address
    return Family(subnet, gateway, ip_range, tuple(sorted(reserved.items())))


def _reserve(family: t.Optional[Family], address: t.Optional[Address]) -> t.Optional[Family]:
    """The family with the shim's address reserved, unless the operator has done so."""
    if family is None or address is None or address in dict(family.reserved).values():
        return family
    reserved = tuple(sorted((*family.reserved, (SHIM_RESERVATION, address))))
    return Family(family.subnet, family.gateway, family.ip_range, reserved)


def _labels(given: t.Optional[t.Mapping[t.Any, t.Any]]) -> t.Optional[dict[str, str]]:
    if given is None:
        return None
    for key, value in given.items():
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise InputError(f"labels.{key}", value, "a string", "Put it in quotes.")
    return {str(key): str(value) for key, value in sorted(given.items())}


def _shim(
    params: t.Mapping[str, t.Any], name: str, parent: str, ipv4: t.Optional[Family], ipv6: t.Optional[Family]
) -> t.Optional[ShimWish]:
    given = params["shim"]
    if params["host_access"] != "shim":
        if given is not None:
            raise InputError(
                "shim", given, f"no shim with host_access={params['host_access']}", "Set host_access: shim."
            )
        return None
    if params["mode"] != "bridge":
        raise InputError(
            "mode", params["mode"], "bridge with host_access=shim", "In the other modes the kernel keeps links apart."
        )
    if given["ipv4"] is None and given["ipv6"] is None:
        raise InputError("shim.ipv4", None, "a free address of the LAN for the host in shim.ipv4, shim.ipv6 or both")
    addresses: list[t.Optional[Address]] = []
    for option, family in (("ipv4", ipv4), ("ipv6", ipv6)):
        text, path = given[option], f"shim.{option}"
        if text is None:
            addresses.append(None)
            continue
        if family is None:
            raise InputError(
                path, text, f"nothing, for there is no {option}.subnet", f"Give {option}, or leave {path} out."
            )
        address = _address(path, text, family.subnet, f"{option}.subnet")
        if address == family.gateway:
            raise InputError(path, text, f"an address other than {option}.gateway", "Take a free one.")
        addresses.append(address)
    link = _link("shim.name", given["name"]) if given["name"] is not None else default_shim_name(name)
    if link == parent:
        raise InputError("shim.name", link, "a name other than the parent's")
    routes = None
    if given["routes"] is not None:
        routes = tuple(_route(index, text, addresses, (ipv4, ipv6)) for index, text in enumerate(given["routes"]))
        routes = tuple(sorted(set(routes), key=lambda one: (one.version, one.network_address, one.prefixlen)))
    return ShimWish(link, shim_mac(*addresses), addresses[0], addresses[1], routes)


def _route(
    index: int, text: str, addresses: t.Sequence[t.Optional[Address]], families: t.Sequence[t.Optional[Family]]
) -> Subnet:
    path = f"shim.routes[{index}]"
    try:
        route = ipaddress.ip_network(text)
    except ValueError as exc:
        raise InputError(path, text, "an address or a prefix within the subnets", f"({exc})") from None
    which = 0 if route.version == 4 else 1
    family, address = families[which], addresses[which]
    if family is None or route.network_address not in family.subnet or route.broadcast_address not in family.subnet:
        raise InputError(path, text, "an address or a prefix within the subnets", "It lies outside.")
    if address is None:
        option = f"shim.ipv{route.version}"
        raise InputError(path, text, "a route of a family in which the shim has an address", f"Give {option} too.")
    if family.gateway in route:
        raise InputError(
            path, text, "a route without the gateway in it", "The host would reach its router through the shim."
        )
    if address in route and route.num_addresses == 1:
        raise InputError(path, text, "the address of a container", "This is the shim's own.")
    return route


def _bridge(
    params: t.Mapping[str, t.Any], name: str, ipv4: t.Optional[Family], ipv6: t.Optional[Family]
) -> t.Optional[BridgeWish]:
    given = params["bridge"]
    if params["host_access"] != "bridge":
        if given is not None:
            raise InputError(
                "bridge", given, f"no bridge with host_access={params['host_access']}", "Set host_access: bridge."
            )
        return None
    given = given or {"name": None, "ipv4": None, "ipv6": None}
    own = given["name"] if given["name"] is not None else f"{name}-host"
    if not _NETWORK.fullmatch(own) or own == name:
        raise InputError("bridge.name", own, "a network name other than that of the macvlan network")
    subnets: list[t.Optional[Subnet]] = []
    for version, family in ((4, ipv4), (6, ipv6)):
        path, text = f"bridge.ipv{version}", given[f"ipv{version}"]
        subnet = _subnet(path, text, version) if text is not None else None
        if subnet is not None and family is not None and subnet.overlaps(family.subnet):
            raise InputError(path, text, f"a subnet apart from ipv{version}.subnet {family.subnet}")
        subnets.append(subnet)
    return BridgeWish(own, subnets[0], subnets[1])


def default_shim_name(network: str) -> str:
    """``mv-`` and the network's name; if that is too long for a link (15 characters), a digest of the name."""
    name = f"mv-{network}"
    return name if len(name) <= 15 else f"mv-{hashlib.sha256(network.encode()).hexdigest()[:12]}"


def shim_mac(ipv4: t.Optional[Address], ipv6: t.Optional[Address]) -> str:
    """A locally administered MAC that follows from the addresses: the same at every boot, and as unique as they are."""
    digest = hashlib.sha256(f"hep.gridbox shim {ipv4} {ipv6}".encode()).digest()
    return mac_text(bytes([0x02, *digest[:5]]))

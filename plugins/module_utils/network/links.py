# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's links and routes, read and made through the kernel's netlink interface by ``pyroute2``.

Written for pyroute2 0.5 to 0.9. Links are made in the network namespace of this process.
"""

from __future__ import annotations

import errno
import ipaddress
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.netlink import refusal, with_plain_deletions
from ansible_collections.hep.gridbox.plugins.module_utils.network import wire
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import Address
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import Subnet

_IFF_UP = 1
_MAIN_TABLE, _SCOPE_LINK, _PROTO_KERNEL, _UNICAST = 254, 253, 2, 1
_IFA_F_NODAD = 0x02
_INET, _INET6 = 2, 10

#: Begins the alias of a link that is a shim; the network's name follows.
SHIM_ALIAS = "hep.gridbox.macvlan_net:"


@dataclass(frozen=True)
class Link:
    """One link of the host.

    :ivar kind: ``macvlan``, ``bridge``, ``veth`` …; empty for hardware.
    :ivar master: name of the bridge or bond it is a port of; empty if of none.
    :ivar lower: name of the link it sits on, in the same namespace; empty if on none.
    :ivar addresses: with their prefix lengths, link-local ones left out.
    """

    name: str
    index: int
    up: bool
    mtu: int
    mac: str
    kind: str = ""
    master: str = ""
    lower: str = ""
    macvlan_mode: str = ""
    alias: str = ""
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({'up' if self.up else 'down'})"


@dataclass(frozen=True)
class Route:
    """One route of the main table that needs no router: what the host takes to be on a link."""

    destination: Subnet
    link: str


@dataclass(frozen=True)
class Shim:
    """The host's macvlan link, as wanted or as found.

    :ivar routes: through it; host routes, mostly.
    """

    name: str
    parent: str
    network: str
    mac: str
    mode: str
    up: bool
    addresses: tuple[Address, ...]
    routes: tuple[Subnet, ...]

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types, for the journal."""
        return {
            **self.__dict__,
            "addresses": [str(address) for address in self.addresses],
            "routes": [str(route) for route in self.routes],
        }

    @classmethod
    def from_data(cls, data: t.Mapping[str, t.Any]) -> Shim:
        """The inverse of :meth:`as_data`."""
        return cls(
            **{
                **data,
                "addresses": tuple(ipaddress.ip_address(address) for address in data["addresses"]),
                "routes": tuple(ipaddress.ip_network(route) for route in data["routes"]),
            }
        )


def _netlink() -> t.Any:
    try:
        from pyroute2 import IPRoute
    except ImportError as exc:
        raise GridboxError(
            "The Python library pyroute2 is missing on this host. Install the package python3-pyroute2"
            f" (Debian, Ubuntu, EPEL) or pyroute2 from PyPI for the interpreter in use. ({exc})"
        ) from exc
    return with_plain_deletions(IPRoute())


def read_links() -> tuple[Link, ...]:
    """All links of the namespace, in the kernel's order."""
    with _netlink() as netlink:
        messages = list(netlink.get_links())
        addresses: dict[int, list[str]] = {}
        for message in netlink.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text and not ipaddress.ip_address(text).is_link_local:
                addresses.setdefault(message["index"], []).append(f"{text}/{message['prefixlen']}")
    names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
    return tuple(_link(message, names, tuple(addresses.get(message["index"], ()))) for message in messages)


def _link(message: t.Any, names: t.Mapping[int, str], addresses: tuple[str, ...]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "macvlan" else None
    elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        up=bool(message["flags"] & _IFF_UP),
        mtu=message.get_attr("IFLA_MTU"),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        kind=kind,
        master=names.get(message.get_attr("IFLA_MASTER") or 0, ""),
        lower="" if elsewhere else names.get(message.get_attr("IFLA_LINK") or 0, ""),
        macvlan_mode=(data.get_attr("IFLA_MACVLAN_MODE") if data else None) or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        addresses=addresses,
    )


def read_routes(links: t.Sequence[Link]) -> tuple[Route, ...]:
    """What the host takes to be on its links: unicast routes of the main table without a router."""
    names = {link.index: link.name for link in links}
    found: list[Route] = []
    with _netlink() as netlink:
        for family in (_INET, _INET6):
            for message in netlink.get_routes(family=family, table=_MAIN_TABLE):
                destination, link = message.get_attr("RTA_DST"), names.get(message.get_attr("RTA_OIF") or 0)
                direct = message["type"] == _UNICAST and not message.get_attr("RTA_GATEWAY")
                if not destination or link is None or not direct:
                    continue
                subnet = ipaddress.ip_network(f"{destination}/{message['dst_len']}")
                if not subnet.is_link_local and not subnet.is_multicast:
                    found.append(Route(subnet, link))
    return tuple(found)


def shim_of(link: Link, routes: t.Sequence[Route]) -> Shim:
    """A link of the host as a shim."""
    addresses = tuple(ipaddress.ip_interface(address) for address in link.addresses)
    own = {ipaddress.ip_network(address.ip) for address in addresses}
    return Shim(
        name=link.name,
        parent=link.lower,
        network=link.alias[len(SHIM_ALIAS) :] if link.alias.startswith(SHIM_ALIAS) else "",
        mac=link.mac,
        mode=link.macvlan_mode,
        up=link.up,
        addresses=in_order(address.ip for address in addresses),
        routes=in_order(
            route.destination for route in routes if route.link == link.name and route.destination not in own
        ),
    )


def in_order(items: t.Iterable[t.Any]) -> tuple[t.Any, ...]:
    """Addresses or subnets, each once, IPv4 first."""
    return tuple(sorted(set(items), key=lambda one: (one.version, one)))


def lacking_inside(pid: int, mac: str, addresses: t.Sequence[Address]) -> str:
    """What the network namespace of a process lacks of an attachment, in words; empty if it has it.

    The engine's word is not enough: 20.10 goes on to list an attachment that failed, or that was going when it died.

    :raises GridboxError: if the process is gone.
    """
    with wire.inside(f"/proc/{pid}/ns/net"):
        found = read_links()
    link = next((one for one in found if one.mac == mac), None)
    if link is None:
        return f"no link with the MAC {mac}"
    have = {ipaddress.ip_interface(text).ip for text in link.addresses}
    missing = [str(address) for address in addresses if address not in have]
    return f"no address {', '.join(missing)}" if missing else ""


def set_shim(name: str, wanted: t.Optional[Shim]) -> None:
    """Bring the link ``name`` to the wanted state, or away. What is right already is not touched; idempotent.

    :raises GridboxError: if the kernel refuses, in its own words.
    """
    links = read_links()
    found = next((link for link in links if link.name == name), None)
    now = shim_of(found, read_routes(links)) if found else None
    parent = next((link for link in links if wanted and link.name == wanted.parent), None)
    if wanted and parent is None:
        raise GridboxError(f"The link {wanted.parent} is not there any more.")
    with _netlink() as netlink:
        try:
            if found and (now is None or wanted is None or _other_link(now, wanted)):
                netlink.link("del", index=found.index)
                found = now = None
            if wanted is None or parent is None:
                return
            if found is None:
                netlink.link(
                    "add", ifname=name, kind="macvlan", link=parent.index, macvlan_mode=wanted.mode, address=wanted.mac
                )
            index = found.index if found else netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, ifalias=SHIM_ALIAS + wanted.network)
            _ignore_routers(name)
            _set_addresses(netlink, index, now.addresses if now else (), wanted.addresses)
            netlink.link("set", index=index, state="up")
            # An address that went took its routes along, so ask again.
            links = read_links()
            now = shim_of(next(link for link in links if link.index == index), read_routes(links))
            _set_routes(netlink, index, now.routes, wanted)
        except Exception as exc:
            code = refusal(exc)
            if not code:
                raise
            raise GridboxError(
                f"The kernel refuses the link {name} ({errno.errorcode.get(code, code)}: {exc})."
            ) from exc


def _other_link(now: Shim, wanted: Shim) -> bool:
    return (now.parent, now.mode, now.mac, now.network) != (wanted.parent, wanted.mode, wanted.mac, wanted.network)


def _ignore_routers(name: str) -> None:
    """Keep router advertisements from giving the link an address and routes for the whole LAN."""
    for key in ("accept_ra", "autoconf"):
        try:
            with open(f"/proc/sys/net/ipv6/conf/{name}/{key}", "w", encoding="ascii") as setting:
                setting.write("0")
        except FileNotFoundError:
            return  # a kernel without IPv6


def _set_addresses(netlink: t.Any, index: int, now: t.Sequence[Address], wanted: t.Sequence[Address]) -> None:
    for address in now:
        if address not in wanted:
            netlink.addr("del", index=index, address=str(address), prefixlen=address.max_prefixlen)
    for address in wanted:
        if address not in now:
            # No duplicate address detection by the kernel: the module has asked the LAN itself, and a tentative address
            # would keep the routes from using it for a second.
            flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
            netlink.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, **flags)


def _set_routes(netlink: t.Any, index: int, now: t.Sequence[Subnet], wanted: Shim) -> None:
    own = {address.version: str(address) for address in wanted.addresses}
    for route in now:
        if route not in wanted.routes:
            netlink.route("del", oif=index, **_destination(route))
    for route in wanted.routes:
        if route not in now:
            netlink.route("add", oif=index, prefsrc=own[route.version], **_destination(route))


def _destination(route: Subnet) -> dict[str, t.Any]:
    # The kernel takes IPv4 routes of different scopes for different routes; IPv6 knows no scopes.
    scope = {"scope": _SCOPE_LINK} if route.version == 4 else {}
    return {"dst": str(route), "family": _INET if route.version == 4 else _INET6, **scope}

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A macvlan link of our own in a container's network namespace: it carries a VO-box's addresses while the engine moves
the endpoint, which takes it a quarter of a second.

The link has a MAC of its own, for a parent carries each MAC once. Its addresses are host addresses (/32, /128) and its
routes lie in a routing table of their own, because the engine refuses to connect a namespace whose main table has a
route that overlaps its subnet (libnetwork, ``checkRouteConflict``). Two rules lead there: what is sent *from* the
addresses goes over the interim link before the main table is asked, so that answers do not leave by the engine's link
before that is up; everything else after it, so that the engine finds its own link when it looks for its gateway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.netlink import refusal, with_plain_deletions
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import inside
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity

#: The link's name in the container's namespace, and its routing table. The rules' priorities: main is asked at 32766.
LINK = "gridbox-interim"
TABLE = 20180
RULE_OF_ANSWERS = 20180
RULE_OF_THE_REST = 40180

#: Seconds for a link to carry traffic.
LINK_SECONDS = 5.0

_NODAD_NOPREFIXROUTE = 0x02 | 0x200
_RT_SCOPE_LINK = 253
_HOST_PREFIX = {4: 32, 6: 128}
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6 on Linux


@dataclass(frozen=True)
class Parent:
    """The link that a macvlan network lies on, as the engine's network says.

    :ivar mode: the macvlan mode; the interim link gets the same, so that it reaches who the network reaches.
    """

    link: str
    mode: str = "bridge"

    @classmethod
    def of(cls, network: t.Mapping[str, t.Any]) -> t.Optional[Parent]:
        """The parent of a network; None if no second macvlan link can be made beside the network's own.

        :raises RefusedError: if the parent is not on this host.
        """
        options = network.get("Options") or {}
        link = options.get("parent", "")
        mode = options.get("macvlan_mode", "bridge")
        # In passthru mode a parent carries one macvlan link only (kernel: drivers/net/macvlan.c).
        if network.get("Driver") != "macvlan" or not link or mode == "passthru":
            return None
        # Not by /sys, which shows the links of the namespace it was mounted in. And by netlink, so that its library is
        # known to be there, and is loaded, before the service is touched.
        with NamespaceLinks() as host:
            there = host.names()
        if link not in there:
            raise RefusedError(
                f"network: {network.get('Name')}",
                f"its parent link {link} is not on this host, which has {', '.join(there)}",
                "Bring the link back, or run the task on the engine's host.",
            )
        return cls(link, mode)


def interim_macs(mac: str, taken: t.Container[str] = ()) -> list[str]:
    """MACs for the interim link, best first: the VO-box's own with one bit flipped, locally administered, unicast.

    :param taken: MACs in use on the network.
    """
    octets = [int(octet, 16) for octet in mac.split(":")]
    octets[0] = (octets[0] | 0x02) & 0xFE
    found = []
    for position in (3, 2, 4):
        for bit in (0x80, 0x40, 0x20, 0x10):
            flipped = [octet ^ bit if place == position else octet for place, octet in enumerate(octets)]
            text = ":".join(f"{octet:02x}" for octet in flipped)
            if text not in taken:
                found.append(text)
    return found


def netns_of(pid: int) -> str:
    """Path of a process's network namespace."""
    return f"/proc/{pid}/ns/net"


class NamespaceLinks:
    """Links, addresses, routes and rules of one network namespace, over netlink.

    :param netns: path of the namespace; None: ours.
    """

    def __init__(self, netns: t.Optional[str] = None) -> None:
        # Imported on first use: it costs a fifth of a second.
        try:
            from pyroute2 import IPRoute, NetNS
        except ImportError as exc:
            raise GridboxError(
                "The Python library pyroute2 is missing on this host. Install the package python3-pyroute2 (Debian,"
                f" Ubuntu, EPEL) or pyroute2 from PyPI for the interpreter in use. ({exc})"
            ) from exc
        self.netns = netns
        try:
            # pyroute2 0.7 runs NetNS in a process of its own, where our descriptors mean nothing.
            self.netlink = with_plain_deletions(NetNS(netns, flags=0) if netns else IPRoute())
        except OSError as exc:
            raise GridboxError(
                f"The links in {netns or 'the host'} cannot be asked for ({exc.strerror or exc})."
                " Is what they belong to still running?"
            ) from exc

    def __enter__(self) -> NamespaceLinks:
        return self

    def __exit__(self, _kind: object, exc: t.Optional[BaseException], _traceback: object) -> None:
        self.netlink.close()
        if exc is not None and refusal(exc):
            raise GridboxError(
                f"The kernel refused a change of links in {self.netns or 'the host'}: {exc.args[-1]}."
            ) from exc

    def names(self) -> list[str]:
        """Of all links."""
        return [str(link.get_attr("IFLA_IFNAME")) for link in self.netlink.get_links()]

    def index_of(self, link: str) -> t.Optional[int]:
        """The index of a link, or None."""
        found = list(self.netlink.link_lookup(ifname=link))
        return int(found[0]) if found else None

    def mac_of(self, link: str) -> t.Optional[str]:
        """The MAC of a link, or None if there is none of that name."""
        for found in self.netlink.get_links():
            if found.get_attr("IFLA_IFNAME") == link:
                return str(found.get_attr("IFLA_ADDRESS")).lower()
        return None

    def link_with(self, mac: str) -> t.Optional[tuple[str, bool]]:
        """Name of the link that has this MAC, and whether it carries traffic; None if there is none."""
        for link in self.netlink.get_links():
            if str(link.get_attr("IFLA_ADDRESS")).lower() == mac.lower():
                return str(link.get_attr("IFLA_IFNAME")), link.get_attr("IFLA_OPERSTATE") == "UP"
        return None

    def add_address(self, index: int, address: str) -> None:
        """A host address without prefix route and without duplicate address detection; fine if it is there."""
        version = 6 if ":" in address else 4
        flags = {"flags": _NODAD_NOPREFIXROUTE} if version == 6 else {}
        with _fine_if(errno.EEXIST):
            self.netlink.addr(
                "add", index=index, address=address, prefixlen=_HOST_PREFIX[version], family=_FAMILY[version], **flags
            )

    def drop_address(self, index: int, address: str) -> None:
        """Take a host address away; fine if it is not there."""
        version = 6 if ":" in address else 4
        with _fine_if(errno.EADDRNOTAVAIL):
            self.netlink.addr(
                "del", index=index, address=address, prefixlen=_HOST_PREFIX[version], family=_FAMILY[version]
            )


class InterimLink:
    """The interim link of one container.

    :param netns: path of the container's network namespace.
    :param identity: whose addresses it carries.
    :param macs: one of them is taken, see :func:`interim_macs`.
    :ivar mac: its own, once it is up.
    """

    def __init__(self, netns: str, identity: Identity, macs: t.Sequence[str]) -> None:
        self.netns = netns
        self.identity = identity
        self.mac = ""
        self._macs = macs

    def put_up(self, parent: Parent, seconds: float) -> None:
        """Make the link, with addresses, routes and rules, and wait until it carries traffic.

        From here on the namespace can serve; nobody on the LAN has been told yet. A link of an earlier try is kept if
        it is whole, and replaced if not.

        :raises WaitError: if it does not carry traffic in time.
        """
        if self._is_whole():
            return
        self.take_down()
        enable_ipv6(self.netns)
        with NamespaceLinks() as host, NamespaceLinks(self.netns) as inner:
            parent_index = host.index_of(parent.link)
            if parent_index is None:
                raise GridboxError(f"The parent link {parent.link} of network {self.identity.network} is gone.")
            descriptor = os.open(self.netns, os.O_RDONLY)
            try:
                host.netlink.link(
                    "add", ifname=LINK, kind="macvlan", link=parent_index, macvlan_mode=parent.mode,
                    net_ns_fd=descriptor,
                )  # fmt: skip
            finally:
                os.close(descriptor)
            index = t.cast(int, inner.index_of(LINK))
            # The engine's link is about to carry the same IPv6 address: neither may take the other for a duplicate.
            switches = ("accept_dad", "dad_transmits", "accept_ra")
            set_sysctls(self.netns, {f"ipv6/conf/{LINK}/{switch}": 0 for switch in switches})
            self._raise(inner, index)
            me = self.identity
            for address, subnet, gateway in (
                (me.ipv4, me.subnet4, me.gateway4),
                (me.ipv6, me.subnet6, me.gateway6),
            ):
                if not address:
                    continue
                version = 6 if ":" in address else 4
                family, whole = _FAMILY[version], _HOST_PREFIX[version]
                inner.add_address(index, address)
                scope = {"scope": _RT_SCOPE_LINK} if version == 4 else {}
                inner.netlink.route(
                    "add", dst=subnet, oif=index, table=TABLE, family=family, prefsrc=address, **scope
                )  # fmt: skip
                if gateway:
                    anywhere = "::/0" if version == 6 else "0.0.0.0/0"
                    inner.netlink.route(
                        "add", dst=anywhere, gateway=gateway, oif=index, table=TABLE, family=family, prefsrc=address
                    )  # fmt: skip
                inner.netlink.rule(
                    "add", table=TABLE, priority=RULE_OF_ANSWERS, family=family, src=address, src_len=whole
                )  # fmt: skip
                inner.netlink.rule("add", table=TABLE, priority=RULE_OF_THE_REST, family=family)
        # A link that is "up" drops what it is given until the kernel's link watch has run, which may take a second.
        wait_until_it_carries(self.netns, self.mac, seconds)

    def _raise(self, inner: NamespaceLinks, index: int) -> None:
        """Set the link up with the first MAC that is free on the parent."""
        for mac in self._macs:
            try:
                inner.netlink.link("set", index=index, address=mac)
                inner.netlink.link("set", index=index, state="up")
            except Exception as exc:
                # On the way back the link of the way forth is still there; and a link whose namespace has gone stays
                # until the kernel comes to clear it, which takes seconds on a busy machine.
                if refusal(exc) != errno.EADDRINUSE or mac == self._macs[-1]:
                    raise
            else:
                self.mac = mac
                return

    def _is_whole(self) -> bool:
        with NamespaceLinks(self.netns) as inner:
            self.mac = inner.mac_of(LINK) or ""
            if not self.mac or inner.link_with(self.mac) != (LINK, True):
                return False
            # They are made last.
            return all(
                any(
                    rule.get_attr("FRA_PRIORITY") == RULE_OF_THE_REST for rule in inner.netlink.get_rules(family=family)
                )
                for family, address in ((_FAMILY[4], self.identity.ipv4), (_FAMILY[6], self.identity.ipv6))
                if address
            )

    def leave_to_main(self) -> None:
        """From here on everything is sent as the main routing table says; the link still receives."""
        with NamespaceLinks(self.netns) as inner:
            self._drop_rules(inner)

    def take_down(self) -> None:
        """Remove link, routes and rules; fine if they are not there."""
        with NamespaceLinks(self.netns) as inner:
            self._drop_rules(inner)
            index = inner.index_of(LINK)
            if index is not None:
                inner.netlink.link("del", index=index)

    @staticmethod
    def _drop_rules(inner: NamespaceLinks) -> None:
        for family in _FAMILY.values():
            for rule in list(inner.netlink.get_rules(family=family)):
                if rule.get_attr("FRA_PRIORITY") in (RULE_OF_ANSWERS, RULE_OF_THE_REST):
                    address = rule.get_attr("FRA_SRC")
                    source = {"src": address, "src_len": rule["src_len"]} if address else {}
                    inner.netlink.rule(
                        "del", table=TABLE, priority=rule.get_attr("FRA_PRIORITY"), family=family, **source
                    )  # fmt: skip


def wait_until_it_carries(netns: str, mac: str, seconds: float) -> str:
    """Wait until the link with this MAC carries traffic (operational state UP), and return its name."""
    deadline = time.monotonic() + seconds
    with NamespaceLinks(netns) as inner:
        while True:
            found = inner.link_with(mac)
            if found and found[1]:
                return found[0]
            if time.monotonic() > deadline:
                state = f"{found[0]} is not operational" if found else "there is no such link"
                raise WaitError(f"a link with MAC {mac} that carries traffic", seconds, state)
            time.sleep(0.002)


def lend_addresses(netns: str, identity: Identity) -> None:
    """Put a VO-box's addresses on the loopback link, so that services can bind them before the LAN is theirs."""
    enable_ipv6(netns)
    with NamespaceLinks(netns) as inner:
        for address in identity.addresses:
            inner.add_address(1, address)


def return_addresses(netns: str, identity: Identity) -> None:
    """Take them off the loopback link again. Sockets bound to them stay: the addresses are on another link by now."""
    with NamespaceLinks(netns) as inner:
        for address in identity.addresses:
            inner.drop_address(1, address)


def enable_ipv6(netns: str) -> None:
    """The engine disables IPv6 in a namespace that has no IPv6 endpoint."""
    set_sysctls(netns, {"ipv6/conf/all/disable_ipv6": 0, "ipv6/conf/default/disable_ipv6": 0})


def set_sysctls(netns: str, values: t.Mapping[str, int]) -> None:
    """Write sysctls below ``net`` in a namespace; those the kernel does not have (no IPv6) are left out."""
    with inside(netns):
        for key, value in values.items():
            path = Path("/proc/sys/net", key)
            if path.exists() and path.read_text().strip() != str(value):
                path.write_text(f"{value}\n")


@contextlib.contextmanager
def _fine_if(code: int) -> t.Iterator[None]:
    """Within the block this refusal (errno) of netlink means that it is so already."""
    try:
        yield
    except Exception as exc:
        if refusal(exc) != code:
            raise

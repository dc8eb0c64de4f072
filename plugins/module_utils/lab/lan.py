# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A LAN on one machine: a bridge in a network namespace of its own, with a virtual cable to each "machine" on it.

A machine is a network namespace, named or the one of this process. The bridge has a namespace to itself because an
engine's packet filter (policy DROP for forwarded packets, which bridges see through br_netfilter) would drop what a
bridge in the engine's own namespace carries.

What the LAN made is marked in the kernel itself: the alias of ``lo`` in each namespace that it made, and of each of the
bridge's ports, names the LAN. So it is found again by its name alone, and no state is kept anywhere else.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import typing as t
import zlib
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.lab import netns
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

#: The bridge's name in its namespace.
BRIDGE = "lan0"
#: What the mark of a LAN begins with; its name follows.
MARK = "hep.gridbox.lab_lan "


@dataclass(frozen=True)
class Port:
    """A machine's link on the LAN.

    :ivar netns: name of the machine's network namespace; empty for the one of this process.
    :ivar link: name of the link there.
    :ivar addresses: with prefix length, as the kernel writes them.
    """

    netns: str
    link: str
    addresses: tuple[str, ...] = ()

    @property
    def bridge_side(self) -> str:
        """The name of the cable's other end, on the bridge: at most 15 bytes, the same in every run."""
        return f"port{zlib.crc32(f'{self.netns}/{self.link}'.encode()):08x}"

    def __str__(self) -> str:
        return f"{self.netns or 'this machine'}/{self.link}"


@dataclass(frozen=True)
class Wish:
    """The LAN as it is wanted.

    :ivar name: of the LAN, and of the namespace of its bridge.
    :ivar mtu: of the bridge and of every link on it, in bytes.
    :ivar vacated: processes in its namespaces are not in the way of a removal.
    """

    name: str
    ports: tuple[Port, ...]
    mtu: int
    absent: bool
    vacated: bool = False

    @property
    def mark(self) -> str:
        """What marks what this LAN made."""
        return f"{MARK}{self.name}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The named namespaces it needs, the bridge's first."""
        return tuple(dict.fromkeys([self.name, *(port.netns for port in self.ports if port.netns)]))

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        _check_name("name", params["name"])
        if not 1280 <= params["mtu"] <= 65535:
            raise InputError("mtu", params["mtu"], "a number of bytes from 1280, which IPv6 needs, to 65535")
        ports: list[Port] = []
        for index, given in enumerate(params["ports"]):
            option = f"ports[{index}]"
            name = given["netns"] or ""
            if name:
                _check_name(f"{option}.netns", name)
            if name == params["name"]:
                raise InputError(
                    f"{option}.netns", name, "another namespace than the bridge's own, which has the LAN's name"
                )
            # IFNAMSIZ, and what dev_valid_name() of the kernel refuses.
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", given["link"]) or given["link"] == "lo":
                raise InputError(
                    f"{option}.link", given["link"], "a link's name: up to 15 letters, digits, dots, - or _"
                )
            addresses = tuple(_address(f"{option}.addresses", text) for text in given["addresses"])
            port = Port(name, given["link"], tuple(dict.fromkeys(addresses)))
            if any((port.netns, port.link) == (other.netns, other.link) for other in ports):
                raise InputError(f"{option}.link", given["link"], f"each link once; {port} is there already")
            ports.append(port)
        holders: dict[str, Port] = {}
        for index, port in enumerate(ports):
            for text in port.addresses:
                host = text.split("/")[0]
                if host in holders:
                    raise InputError(
                        f"ports[{index}].addresses", text, f"each address once; {holders[host]} has it already"
                    )
                holders[host] = port
        return cls(params["name"], tuple(ports), params["mtu"], params["state"] == "absent", params["vacated"])


def _check_name(option: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InputError(option, name, "a name of up to 64 letters, digits, dots, - or _")


def _address(option: str, text: str) -> str:
    try:
        if "/" not in text:
            raise ValueError
        return str(ipaddress.ip_interface(text))
    except ValueError:
        raise InputError(option, text, "an address with its prefix length, such as 192.0.2.1/24") from None


@dataclass(frozen=True)
class Link:
    """One link as it is.

    :ivar kind: of the link, for instance ``veth``; empty for hardware.
    :ivar alias: its mark.
    :ivar addresses: with prefix length; link-local ones left out.
    """

    kind: str
    up: bool
    mtu: int
    master: str = ""
    alias: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What there is of the LAN.

    :ivar links: of every namespace concerned that exists, by namespace and name; this process's under the empty name.
    :ivar own: namespaces with this LAN's mark.
    :ivar busy: processes in them, by namespace; looked for only where they might be removed.
    """

    links: t.Mapping[str, t.Mapping[str, Link]]
    own: frozenset[str]
    busy: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to make, change and remove. Pure."""
    before = _picture(wish, observed)
    if wish.absent:
        return Plan(tuple(_steps_away(wish, observed)), before, {"namespaces": [], "ports": {}})
    steps: list[Step] = []
    wanted_sides = {port.bridge_side for port in wish.ports}
    wanted_names = set(wish.namespaces)
    bridge_links = observed.links.get(wish.name, {})
    for side, link in bridge_links.items():
        if link.alias.startswith(f"{wish.mark}: ") and side not in wanted_sides:
            steps.append(
                Step(
                    "remove_port",
                    link.alias.split(": ", 1)[1],
                    "not wanted any more",
                    Disruption.service,
                    {"side": side},
                )
            )
    steps += [
        Step("remove_namespace", name, "no port is in it any more", Disruption.service)
        for name in sorted(observed.own - wanted_names)
    ]
    steps += [Step("add_namespace", name, "there is none") for name in wish.namespaces if name not in observed.links]
    bridge = bridge_links.get(BRIDGE)
    if bridge is None:
        steps.append(Step("add_bridge", f"{wish.name}/{BRIDGE}", "there is none"))
    elif not bridge.up or bridge.mtu != wish.mtu:
        steps.append(Step("set_bridge", f"{wish.name}/{BRIDGE}", f"it is to be up with an MTU of {wish.mtu}"))
    for port in wish.ports:
        steps += _port_steps(wish, port, observed)
    after = {
        "namespaces": sorted(wanted_names),
        "ports": {str(port): {"addresses": sorted(port.addresses), "mtu": wish.mtu, "up": True} for port in wish.ports},
    }
    return Plan(tuple(steps), before, after if steps else before)


def _port_steps(wish: Wish, port: Port, observed: Observed) -> list[Step]:
    side = observed.links.get(wish.name, {}).get(port.bridge_side)
    link = observed.links.get(port.netns, {}).get(port.link)
    details = {"port": port}
    if side is None or link is None:
        return [Step("add_port", str(port), "it is not plugged in", details=details)]
    wrong = []
    if not (side.up and link.up) or side.master != BRIDGE:
        wrong.append("it is down")
    if side.mtu != wish.mtu or link.mtu != wish.mtu:
        wrong.append(f"its MTU is {link.mtu}")
    missing = sorted(set(port.addresses) - set(link.addresses))
    surplus = sorted(set(link.addresses) - set(port.addresses))
    if missing:
        wrong.append(f"it lacks {', '.join(missing)}")
    if surplus:
        wrong.append(f"it has {', '.join(surplus)}")
    if not wrong:
        return []
    disruption = Disruption.service if surplus else Disruption.none
    return [
        Step("set_port", str(port), "; ".join(wrong), disruption, {**details, "missing": missing, "surplus": surplus})
    ]


def _steps_away(wish: Wish, observed: Observed) -> list[Step]:
    bridge_links = observed.links.get(wish.name, {}) if wish.name in observed.own else {}
    steps = [
        Step("remove_port", link.alias.split(": ", 1)[1], "the LAN goes", Disruption.service, {"side": side})
        for side, link in sorted(bridge_links.items())
        if link.alias.startswith(f"{wish.mark}: ")
    ]
    return steps + [
        Step("remove_namespace", name, "the LAN made it", Disruption.service) for name in sorted(observed.own)
    ]


def _picture(wish: Wish, observed: Observed) -> dict[str, t.Any]:
    """The state as options, for the diff."""
    ports: dict[str, t.Any] = {}
    for link in observed.links.get(wish.name, {}).values():
        if not link.alias.startswith(f"{wish.mark}: "):
            continue
        title = link.alias.split(": ", 1)[1]
        place, _slash, name = title.rpartition("/")
        there = observed.links.get("" if place == "this machine" else place, {}).get(name)
        if there is not None:
            ports[title] = {"addresses": sorted(there.addresses), "mtu": there.mtu, "up": there.up and link.up}
    there_already = set(wish.namespaces) & set(observed.links)
    return {"namespaces": sorted(observed.own | (set() if wish.absent else there_already)), "ports": ports}


class LanWork:
    """The work of the module ``lab_lan``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"the LAN {wish.name}"
        if shutil.which("ip", path=SYSTEM_PATH) is None:
            raise GridboxError("The command ip is missing on this host. Install the package iproute2.")

    def observe(self) -> Observed:
        wish = self.wish
        links: dict[str, dict[str, Link]] = {}
        for name in netns.names():
            try:
                links[name] = read_links(name)
            except GridboxError:
                if netns.exists(name):
                    raise
                # It was somebody else's and has gone since it was listed.
        own = frozenset(name for name, found in links.items() if "lo" in found and found["lo"].alias == wish.mark)
        concerned = own | set(wish.namespaces)
        kept = {name: found for name, found in links.items() if name in concerned}
        kept[""] = read_links("")
        leaving = own if wish.absent else own - set(wish.namespaces)
        if wish.absent and wish.vacated:
            leaving = frozenset()
        return Observed(kept, own, {name: netns.staying_in(name) for name in sorted(leaving)})

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        wish = self.wish
        if plan.steps and os.geteuid() != 0:
            raise RefusedError(f"name: {wish.name}", "making network namespaces needs root", "Use become: true.")
        for step in plan.steps:
            busy = observed.busy.get(step.target) if step.action == "remove_namespace" else None
            if busy:
                raise RefusedError(
                    f"removing network namespace {step.target}",
                    f"processes are in it: {', '.join(busy)}",
                    "End them first.",
                )
            if step.action == "add_port":
                port = step.details["port"]
                there = observed.links.get(port.netns, {}).get(port.link)
                if there is not None and not (
                    there.kind == "veth" and port.bridge_side in observed.links.get(wish.name, {})
                ):
                    raise RefusedError(
                        f"ports: {port}",
                        "a link of that name is there, and it is no port of this LAN",
                        "Choose another name.",
                    )
        if not wish.absent and wish.name in observed.links and wish.name not in observed.own:
            raise RefusedError(
                f"name: {wish.name}",
                "a network namespace of that name is there, and this LAN did not make it",
                "Choose another name, or remove that namespace (ip netns delete).",
            )

    def do(self, step: Step, journal: Journal) -> None:
        wish = self.wish
        what = f"{step.action.replace('_', ' ')} {step.target}"
        if step.action == "remove_port":
            self._delete_link(what, wish.name, step.details["side"])
        elif step.action == "remove_namespace":
            netns.delete(step.target)
            netns.forget_folder()
        elif step.action == "add_namespace":
            journal.will_do(f"removed namespace {step.target}", "remove_namespace", netns=step.target)
            netns.add(step.target)
            netns.ip(what, step.target, "link", "set", "lo", "alias", wish.mark)
        elif step.action == "add_bridge":
            journal.will_do(f"removed bridge {step.target}", "remove_link", netns=wish.name, link=BRIDGE)
            # Without snooping: neighbour discovery is multicast, and no querier would keep its groups alive.
            netns.ip(what, wish.name, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
            self._set_bridge(what)
        elif step.action == "set_bridge":
            self._set_bridge(what)
        else:
            self._do_port(what, step, journal)

    def _set_bridge(self, what: str) -> None:
        netns.ip(what, self.wish.name, "link", "set", BRIDGE, "mtu", str(self.wish.mtu), "up")

    def _do_port(self, what: str, step: Step, journal: Journal) -> None:
        wish, port = self.wish, step.details["port"]
        missing, surplus = step.details.get("missing", port.addresses), step.details.get("surplus", ())
        if step.action == "add_port":
            journal.will_do(f"unplugged {port}", "remove_link", netns=wish.name, link=port.bridge_side)
            # An end without its other end cannot be: what is left of an older cable goes with this.
            self.undo("remove_link", {"netns": wish.name, "link": port.bridge_side})
            target = netns.path_of(port.netns) if port.netns else f"/proc/{os.getpid()}/ns/net"
            netns.ip(
                what, wish.name, "link", "add", port.bridge_side, "mtu", str(wish.mtu), "type", "veth",
                "peer", "name", port.link, "mtu", str(wish.mtu), "netns", target,
            )  # fmt: skip
            netns.ip(what, wish.name, "link", "set", port.bridge_side, "alias", f"{wish.mark}: {port}")
        netns.ip(what, wish.name, "link", "set", port.bridge_side, "mtu", str(wish.mtu), "master", BRIDGE, "up")
        if not port.addresses:
            # A mere parent: it must not speak on the LAN for itself, nor get an address from it.
            netns.ip(what, port.netns, "link", "set", port.link, "addrgenmode", "none")
        for address in surplus:
            netns.ip(what, port.netns, "address", "delete", address, "dev", port.link)
        for address in missing:
            # The LAN is ours and each address is given once, so there is nothing to wait for.
            nodad = ("nodad",) if ":" in address else ()
            netns.ip(what, port.netns, "address", "add", address, "dev", port.link, *nodad)
        netns.ip(what, port.netns, "link", "set", port.link, "mtu", str(wish.mtu), "up")

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "remove_namespace":
            netns.delete(data["netns"])
        elif netns.exists(data["netns"]) and data["link"] in netns.links(data["netns"]):
            self._delete_link(f"Removing {data['link']}", data["netns"], data["link"])

    @staticmethod
    def _delete_link(what: str, name: str, link: str) -> None:
        """Delete a link; fine if it goes by itself meanwhile, as it does a moment after its other end's namespace."""
        try:
            netns.ip(what, name, "link", "delete", link)
        except GridboxError:
            if link in netns.links(name):
                raise

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        return {"namespaces": list(plan.after["namespaces"]), "ports": dict(plan.after["ports"])}


def read_links(name: str) -> dict[str, Link]:
    """The links of one namespace."""
    return {
        link: Link(
            kind=found.get("linkinfo", {}).get("info_kind", ""),
            up="UP" in found["flags"],
            mtu=found["mtu"],
            master=found.get("master", ""),
            alias=found.get("ifalias", ""),
            addresses=tuple(
                str(ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}"))
                for address in found.get("addr_info", [])
                if address.get("scope") != "link" and "local" in address
            ),
        )
        for link, found in netns.links(name).items()
    }

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's networks and what is attached to them, as plain data."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json, Platform
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import Address
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import Family, Subnet

#: Marks the bridge network of a macvlan network's host access; the macvlan network's name is the value.
BRIDGE_LABEL = "hep.gridbox.host_access_of"


@dataclass(frozen=True)
class Network:
    """A network of the engine.

    :ivar parent: None for a network that has none; as ``mode`` and ``mtu``.
    :ivar pools: subnets beyond the first of each family, which this module never makes.
    :ivar create: the request that makes this network anew.
    """

    name: str
    id: str
    driver: str
    parent: t.Optional[str] = None
    mode: t.Optional[str] = None
    mtu: t.Optional[int] = None
    ipv4: t.Optional[Family] = None
    ipv6: t.Optional[Family] = None
    ipv6_enabled: bool = False
    internal: bool = False
    labels: t.Mapping[str, str] = field(default_factory=dict)
    pools: tuple[Subnet, ...] = ()
    create: t.Mapping[str, t.Any] = field(default_factory=dict)

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """All of them."""
        return (*(family.subnet for family in (self.ipv4, self.ipv6) if family), *self.pools)


@dataclass(frozen=True)
class Endpoint:
    """A container's attachment to a network, running or not.

    :ivar status: the container's, as the engine words it: ``running``, ``exited`` …
    :ivar network_mode: which network the container was made for.
    :ivar own_mac: the MAC that the container was made with; empty if with none.
    :ivar pid: of the container's first process; 0 if it does not run.
    :ivar settings: the Engine API's ``EndpointConfig`` that attaches it again with its own addresses and aliases.
    """

    container: str
    id: str
    status: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    network_mode: str = ""
    own_mac: str = ""
    settings: t.Mapping[str, t.Any] = field(default_factory=dict)
    pid: int = 0

    @property
    def running(self) -> bool:
        """Whether it has a link at present."""
        return self.status in ("running", "paused", "restarting")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those it has, or asks for when it starts."""
        return tuple(ipaddress.ip_address(text) for text in (self.ipv4, self.ipv6) if text)

    def as_result(self) -> dict[str, t.Any]:
        """As it stands in a module's result."""
        return {
            "container": self.container,
            "running": self.running,
            "ipv4": self.ipv4 or None,
            "ipv6": self.ipv6 or None,
            "mac": self.mac or None,
            "aliases": list(self.aliases),
        }


def read_networks(engine: DockerApi) -> tuple[Network, ...]:
    """All networks of the engine."""
    if engine.platform.name == "podman":
        # Podman's Docker-compatible answer leaves parent, mode and range out; its own has them (seen with 4.3.1).
        answer = engine.call("Listing networks", "GET", "/libpod/networks/json")
        return tuple(network_of_podman(one) for one in answer)
    return tuple(network_of_docker(one) for one in engine.networks())


def network_of_docker(answer: Json) -> Network:
    """A network out of the Docker Engine API's answer (20.10 to 29)."""
    options = answer.get("Options") or {}
    ipam = answer.get("IPAM") or {}
    halves: dict[int, Family] = {}
    pools: list[Subnet] = []
    for pool in ipam.get("Config") or []:
        if not pool.get("Subnet"):
            continue
        family = Family(
            ipaddress.ip_network(pool["Subnet"], strict=False),
            _address(pool.get("Gateway")),
            ipaddress.ip_network(pool["IPRange"], strict=False) if pool.get("IPRange") else None,
            tuple(
                sorted(
                    (name, ipaddress.ip_address(text)) for name, text in (pool.get("AuxiliaryAddresses") or {}).items()
                )
            ),
        )
        if family.subnet.version in halves:
            pools.append(family.subnet)
        else:
            halves[family.subnet.version] = family
    kept = ("Name", "Driver", "EnableIPv4", "EnableIPv6", "Internal", "Attachable", "Options", "Labels")
    create = {key: answer[key] for key in kept if key in answer}
    create["IPAM"] = {key: ipam[key] for key in ("Driver", "Options", "Config") if ipam.get(key)}
    create["CheckDuplicate"] = True
    return Network(
        name=answer["Name"],
        id=answer["Id"],
        driver=answer["Driver"],
        parent=options.get("parent") or None,
        mode=options.get("macvlan_mode") or ("bridge" if answer["Driver"] == "macvlan" else None),
        ipv4=halves.get(4),
        ipv6=halves.get(6),
        ipv6_enabled=bool(answer.get("EnableIPv6")),
        internal=bool(answer.get("Internal")),
        labels=answer.get("Labels") or {},
        pools=tuple(pools),
        create=create,
    )


def network_of_podman(answer: Json) -> Network:
    """A network out of Podman's own answer (4.x, 5.x): the same facts under other names."""
    halves: dict[int, Family] = {}
    pools: list[Subnet] = []
    for pool in answer.get("subnets") or []:
        subnet = ipaddress.ip_network(pool["subnet"], strict=False)
        family = Family(subnet, _address(pool.get("gateway")), range_of(pool.get("lease_range"), subnet))
        if subnet.version in halves:
            pools.append(subnet)
        else:
            halves[subnet.version] = family
    options = answer.get("options") or {}
    driver = answer["driver"]
    parent = answer.get("network_interface") if driver in ("macvlan", "ipvlan") else None
    mtu = options.get("mtu") or ""
    labels = answer.get("labels") or {}
    network = Network(
        name=answer["name"],
        id=answer["id"],
        driver=driver,
        parent=parent or None,
        mode=options.get("mode") or ("bridge" if driver == "macvlan" else None),
        mtu=int(mtu) if mtu.isdigit() else None,
        ipv4=halves.get(4),
        ipv6=halves.get(6),
        ipv6_enabled=bool(answer.get("ipv6_enabled")),
        internal=bool(answer.get("internal")),
        labels=labels,
        pools=tuple(pools),
    )
    given = {**options, "parent": parent or ""}
    create = {
        "Name": network.name,
        "Driver": driver,
        "Internal": network.internal,
        "EnableIPv6": network.ipv6_enabled,
        "Labels": dict(labels),
        "Options": {key: value for key, value in given.items() if value},
        "IPAM": {"Config": [pool_request(half) for half in halves.values()]},
        "CheckDuplicate": True,
    }
    return Network(**{**network.__dict__, "create": create})


def range_of(lease: t.Optional[t.Mapping[str, str]], subnet: Subnet) -> t.Optional[Subnet]:
    """The smallest prefix around Podman's first and last address of a range; None if that is the whole subnet."""
    if not lease or not (lease.get("start_ip") and lease.get("end_ip")):
        return None
    first, last = (ipaddress.ip_address(lease[key]) for key in ("start_ip", "end_ip"))
    prefix = subnet.max_prefixlen - (int(first) ^ int(last)).bit_length()
    # Podman leaves the first address of a range out, which is that of the prefix.
    around = ipaddress.ip_network(f"{first}/{prefix}", strict=False)
    return around if around.prefixlen > subnet.prefixlen else None


def pool_request(family: Family) -> dict[str, t.Any]:
    """One entry of the Engine API's ``IPAM.Config``."""
    request: dict[str, t.Any] = {"Subnet": str(family.subnet)}
    if family.gateway is not None:
        request["Gateway"] = str(family.gateway)
    if family.ip_range is not None:
        request["IPRange"] = str(family.ip_range)
    if family.reserved:
        request["AuxiliaryAddresses"] = {name: str(address) for name, address in family.reserved}
    return request


def _address(text: t.Optional[str]) -> t.Optional[Address]:
    # A gateway that the engine chose itself comes with its prefix length (20.10).
    return ipaddress.ip_address(text.split("/")[0]) if text else None


def read_endpoints(engine: DockerApi, network: t.Optional[Network]) -> tuple[Endpoint, ...]:
    """What is attached to a network, ordered by name: running containers, and others that will be when they start."""
    if network is None:
        return ()
    found: list[Endpoint] = []
    for short in engine.containers():
        attached = (short.get("NetworkSettings") or {}).get("Networks") or {}
        if attachment(attached, network) is None:
            continue
        container = engine.container(short["Id"])
        settings = container and attachment(container["NetworkSettings"].get("Networks") or {}, network)
        if container is not None and settings is not None:
            found.append(endpoint_of(container, settings, engine.platform))
    return tuple(sorted(found, key=lambda one: one.container))


def attachment(attached: t.Mapping[str, Json], network: Network) -> t.Optional[Json]:
    """What a container's networks say about this one; None if it is not among them."""
    for key, settings in attached.items():
        if settings and (key in (network.name, network.id) or settings.get("NetworkID") == network.id):
            return settings
    return None


def endpoint_of(container: Json, settings: Json, platform: Platform) -> Endpoint:
    """An attachment out of the engine's answer about its container.

    :param platform: Docker from API 1.44 on and Podman can be told an attachment's MAC.
    """
    asked = settings.get("IPAMConfig") or {}
    ipv4 = settings.get("IPAddress") or asked.get("IPv4Address") or ""
    ipv6 = settings.get("GlobalIPv6Address") or asked.get("IPv6Address") or ""
    # The engine adds the short id to the aliases by itself (until 25.0 it showed it among them).
    aliases = tuple(alias for alias in settings.get("Aliases") or () if alias != container["Id"][:12])
    addresses = {"IPv4Address": ipv4, "IPv6Address": ipv6, "LinkLocalIPs": asked.get("LinkLocalIPs")}
    again: dict[str, t.Any] = {"IPAMConfig": {key: value for key, value in addresses.items() if value}}
    if aliases:
        again["Aliases"] = list(aliases)
    for key in ("Links", "DriverOpts", "GwPriority"):
        if settings.get(key):
            again[key] = settings[key]
    mac = settings.get("MacAddress") or ""
    own_mac = (container.get("Config") or {}).get("MacAddress") or ""
    if mac and (platform.name == "podman" or platform.api >= (1, 44)):
        again["MacAddress"] = mac
    return Endpoint(
        container=container["Name"].lstrip("/"),
        id=container["Id"],
        status=(container.get("State") or {}).get("Status") or "",
        ipv4=ipv4,
        ipv6=ipv6,
        mac=mac or own_mac,
        aliases=aliases,
        network_mode=(container.get("HostConfig") or {}).get("NetworkMode") or "",
        own_mac=own_mac,
        settings=again,
        pid=int((container.get("State") or {}).get("Pid") or 0),
    )

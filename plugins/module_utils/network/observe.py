# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the engine and its host's links, for one macvlan network or all."""

from __future__ import annotations

import ipaddress
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.peer import listening_pid
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot, links, picture, wire
from ansible_collections.hep.gridbox.plugins.module_utils.network.decide import Observed
from ansible_collections.hep.gridbox.plugins.module_utils.network.links import Link, Route


@dataclass(frozen=True)
class Host:
    """One reading of the engine and its host, from which each network's picture is taken."""

    engine: DockerApi
    networks: tuple[picture.Network, ...]
    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    taken: t.Mapping[str, str]
    boot_host: boot.BootHost

    @classmethod
    def read(cls, engine: DockerApi) -> Host:
        """Read now, in the engine's network namespace, where this process then stays."""
        enter_namespace_of(engine)
        all_links = links.read_links()
        return cls(
            engine=engine,
            networks=picture.read_networks(engine),
            links=all_links,
            routes=links.read_routes(all_links),
            taken=_taken(engine),
            boot_host=boot.BootHost.read(),
        )

    def seen_for(self, name: str) -> Observed:
        """The picture for the network ``name``, whether it exists or not."""
        network = next((one for one in self.networks if one.name == name), None)
        bridge = next((one for one in self.networks if one.labels.get(picture.BRIDGE_LABEL) == name), None)
        alias = links.SHIM_ALIAS + name
        boot_files = boot.read_files(self.boot_host, name)
        return Observed(
            platform=self.engine.platform,
            network=network,
            endpoints=picture.read_endpoints(self.engine, network),
            others=tuple(one for one in self.networks if one is not network),
            links=self.links,
            routes=self.routes,
            shims=tuple(links.shim_of(link, self.routes) for link in self.links if link.alias == alias),
            bridge=bridge,
            bridge_endpoints=picture.read_endpoints(self.engine, bridge),
            taken=self.taken,
            boot_host=self.boot_host,
            boot_files=boot_files,
            boot_idle=boot.not_enabled(boot_files),
        )


def _taken(engine: DockerApi) -> dict[str, str]:
    """Addresses and MACs of the engine's containers, with the container's name."""
    taken: dict[str, str] = {}
    for short in engine.containers():
        name = (short.get("Names") or ["/?"])[0].lstrip("/")
        for settings in ((short.get("NetworkSettings") or {}).get("Networks") or {}).values():
            asked = (settings or {}).get("IPAMConfig") or {}
            for key in ("IPAddress", "GlobalIPv6Address", "MacAddress"):
                if (settings or {}).get(key):
                    taken[settings[key]] = name
            for key in ("IPv4Address", "IPv6Address"):
                if asked.get(key):
                    # In the spelling that the engine was given, whichever.
                    taken[str(ipaddress.ip_address(asked[key]))] = name
    return taken


def enter_namespace_of(engine: DockerApi) -> None:
    """Move this process into the network namespace in which the engine listens, if that is another.

    A parent is a link that the engine sees. Its namespace is that of the process behind its socket;
    for an engine that is reached over the network nothing is done.

    :raises EngineError: if nobody listens at the socket.
    """
    scheme, _separator, path = engine.url.partition("://")
    if scheme != "unix":
        return
    namespace = f"/proc/{listening_pid(path, engine.timeout)}/ns/net"
    try:
        elsewhere = os.stat(namespace).st_ino != os.stat("/proc/self/ns/net").st_ino
    except (PermissionError, FileNotFoundError):
        # Nothing can be said: the engine lives in a pid namespace that this process does not see (pid 0), or a
        # container runtime hides the process that listens for it (systemd, with socket activation).
        return
    if elsewhere:
        wire.enter(namespace)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work of macvlan_net_info: macvlan networks as they are, and what is not as it should be."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot, decide, links, picture
from ansible_collections.hep.gridbox.plugins.module_utils.network.observe import Host


def collect(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Read one or all macvlan networks; the documented return values."""
    host = Host.read(engine_from(params))
    names = sorted(one.name for one in host.networks if one.driver == "macvlan")
    wanted = params.get("name")
    return {"networks": [_one(host.seen_for(name)) for name in names if wanted in (None, name)]}


def _one(seen: decide.Observed) -> dict[str, t.Any]:
    return {
        **(decide.network_result(seen) or {}),
        "host_access": decide.host_access(seen),
        "boot": decide.boot_result(seen),
        "hints": hints(seen, _lacking_inside(seen.endpoints)),
    }


def _lacking_inside(endpoints: t.Iterable[picture.Endpoint]) -> dict[str, str]:
    """What running containers lack of what the engine says they have, by name."""
    lacking = {
        endpoint.container: links.lacking_inside(endpoint.pid, endpoint.mac, endpoint.addresses)
        for endpoint in endpoints
        if endpoint.pid and os.path.exists(f"/proc/{endpoint.pid}/ns/net")
    }
    return {name: what for name, what in lacking.items() if what}


def hints(seen: decide.Observed, lacking_inside: t.Mapping[str, str]) -> list[str]:
    """Sentences about what is not as it should be. Pure."""
    network = seen.network
    if network is None:
        return []
    said = [
        f"Inside {name} there is {lacking}, although the engine lists it." for name, lacking in lacking_inside.items()
    ]
    parent = seen.link(network.parent or "")
    if network.parent and parent is None:
        said.append(f"The parent {network.parent} is gone; no container can start on this network.")
    elif parent is not None and not parent.up:
        said.append(f"The parent {parent.name} is down; the containers are cut off.")
    if network.ipv6_enabled and network.ipv6 is None:
        said.append("The network has IPv6 switched on, but no IPv6 subnet.")
    for version, family in ((4, network.ipv4), (6, network.ipv6)):
        if family is None:
            continue
        if family.gateway is None:
            said.append(f"The network has no IPv{version} gateway; engines from 29 on infer none.")
        said += [
            f"{endpoint.container} runs without an IPv{version} address."
            for endpoint in seen.endpoints
            if endpoint.running and not getattr(endpoint, f"ipv{version}")
        ]
    for shim in seen.shims:
        versions = {address.version for address in shim.addresses}
        if not shim.up:
            said.append(f"The shim {shim.name} is down.")
        for endpoint in seen.endpoints:
            said += [
                f"The shim {shim.name} has no route to {endpoint.container} ({address})."
                for address in endpoint.addresses
                if address.version in versions and not any(address in route for route in shim.routes)
            ]
        if f"{boot.UNITS}/{boot.unit_name(shim.name)}" not in seen.boot_files.keys() - seen.boot_idle:
            said.append(f"Nothing makes the shim {shim.name} anew at boot.")
    return said

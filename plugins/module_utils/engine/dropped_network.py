# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Macvlan networks that Docker lists and whose driver does not know them.

When it starts, the driver drops a network whose parent link is missing, with a warning in the daemon's log. It looks
again only when it starts. The engine's own record of the network is as ever; what tells is why a container could not
start.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi

_DROPPED = re.compile(r'on network (\S+): network id "[0-9a-f]+" not found')


def dropped_network(error: str) -> t.Optional[str]:
    """The network that a container could not start without, by its ``State.Error``; None if it was something else."""
    found = _DROPPED.search(error)
    return found[1] if found else None


def dropped_networks(engine: DockerApi) -> dict[str, list[str]]:
    """Such networks, each with the containers that the engine is to run and cannot start without it."""
    dropped: dict[str, list[str]] = {}
    for record in engine.containers({"status": ["created", "exited"]}):
        container = engine.container(record["Id"]) or {}
        network = dropped_network((container.get("State") or {}).get("Error") or "")
        policy = ((container.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
        if network and policy != "no":
            dropped.setdefault(network, []).append(container["Name"].lstrip("/"))
    return dropped

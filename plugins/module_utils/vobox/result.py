# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documented return values of a VO-box, found or predicted."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Values, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import grantable, profile_of

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import Decision


def found(seen: Observed) -> dict[str, t.Any]:
    """What is."""
    container = seen.container
    if container is None:
        return {"container": {}}
    state = container["State"]
    managed = bool(seen.values["init_script"])
    running = bool(state.get("Running"))
    return {
        "container": {
            "name": container["Name"].lstrip("/"),
            "id": container["Id"],
            "state": state.get("Status"),
            "pid": state.get("Pid") or 0,
            "image": container["Config"].get("Image"),
            "image_id": container["Image"],
            "created": container.get("Created"),
            "started_at": state.get("StartedAt"),
            "health": (state.get("Health") or {}).get("Status") or "none",
        },
        "init_script": {
            "managed": managed,
            "sha256": seen.files.content if managed else None,
            "active_sha256": seen.launch.version if managed and running else None,
            "state": (seen.launch.state if running else "stopped") if managed else None,
            "drift": seen.files.drift,
            "previous_sha256": seen.files.previous if managed else None,
        },
        **_of_values(seen.values, _grantable(seen)),
    }


def predicted(wish: Wish, seen: Observed, decision: Decision) -> dict[str, t.Any]:
    """What will be when the plan has been carried out; None for what only the engine can know."""
    if not decision.values:
        return {"container": {}}
    now = found(seen)
    actions = {step.action for step in decision.plan.steps}
    new = bool(actions & {"create_container", "swap_container"})
    starts = bool(actions & {"start_container", "restart_container"})
    goes = wish.state == "started" or (wish.state == "present" and (seen.running or seen.cut_short))
    container = dict(now["container"])
    if new or starts or not seen.container:
        for key in ("pid", "started_at", "health", *(("id", "created") if new else ())):
            container[key] = None
    container.update(
        {
            "name": wish.name,
            "state": "running" if goes else ("created" if new else "exited"),
            "image": wish.image or container.get("image"),
            "image_id": decision.image,
        }
    )
    if not goes:
        container["pid"] = 0
    managed = bool(decision.values.get("init_script"))
    return {
        "container": container,
        "init_script": {
            "managed": managed,
            "sha256": decision.script if managed else None,
            "active_sha256": decision.script if managed and goes else None,
            "state": (None if goes else "stopped") if managed else None,
            "drift": seen.files.drift,
            "previous_sha256": decision.previous if managed else None,
        },
        **_of_values(decision.values, _grantable(seen)),
    }


def _grantable(seen: Observed) -> t.Optional[frozenset[str]]:
    if seen.process is None:
        return None
    return grantable(seen.process.capabilities, seen.platform.name, seen.platform.version)


def _of_values(values: Values, can_grant: t.Optional[frozenset[str]]) -> dict[str, t.Any]:
    limits = {}
    for name in ("nofile", "nproc", "core", "memlock"):
        pair = values.get(f"limits.{name}")
        limits[name] = f"{pair[0]}:{pair[1]}" if pair else None
    for name in ("pids", "memory", "memory_swap", "cpus", "shm_size"):
        limits[name] = values.get(f"limits.{name}")
    return {
        "identity": {
            "hostname": values.get("hostname"),
            "network": values.get("network.name"),
            "ipv4": values.get("network.ipv4"),
            "ipv6": values.get("network.ipv6"),
            "mac": values.get("network.mac"),
        },
        "limits": limits,
        "privileges": {
            "profile": profile_of(values, can_grant),
            "capabilities": list(values["privileges.capabilities"]),
            "devices": list(values["privileges.devices"]),
        },
    }

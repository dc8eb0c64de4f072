# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put a container that was being replaced back into service, whatever state it and the new one are in.

All that is needed is in a *record*, made before anything is touched: plain data, that the journal and a label of the
new container hold.
"""

from __future__ import annotations

import json
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json, Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import (
    LINK_SECONDS,
    InterimLink,
    Parent,
    netns_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.take_over import (
    announce_engines_link,
    give,
    is_on,
    take_over,
)

#: The label of a container that was made to replace another one: its record, as JSON. It is in the engine's store from
#: the same moment on as the container, so it outlives a power cut at any step.
REPLACES_LABEL = "hep.gridbox.replaces"

#: How long to go on trying to put a container back.
PUT_BACK_SECONDS: float = 30

NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}


def endpoints_move(platform: Platform) -> tuple[bool, str]:
    """Whether an endpoint can be moved between containers with its MAC; if not, why not."""
    if platform.name != "docker":
        # Nor does it tell the parent of a network, which the interim link needs.
        return False, f"{platform} does not tell whether a container is connected to a network"
    if platform.version >= (25,):
        # moby/moby#48192, seen with 26.1 and in the source of 29: the MAC of an endpoint is heeded at creation only.
        return False, f"{platform} ignores the MAC when it connects a container to a network"
    return True, ""


def policies_change(platform: Platform) -> bool:
    """Whether a living container's restart policy can be changed. Podman 4.3 has no such request."""
    return platform.name == "docker"


def next_name(name: str) -> str:
    """Name of the new container until it is found well."""
    return f"{name}.next"


def stand_in_name(name: str) -> str:
    """Name of the stand-in, see :mod:`.stand_in`."""
    return f"{name}.stand-in"


def previous_name(name: str) -> str:
    """Name of the replaced container."""
    return f"{name}.previous"


def make_record(engine: DockerApi, old: Json, name: str, network: str, keep: bool, stop: int) -> Json:
    """What is needed to put ``old`` back, or to retire it.

    :param old: its ``docker inspect``.
    :param network: name of the network whose endpoint is handed over.
    :param keep: whether it is kept once it is retired.
    :param stop: seconds between SIGTERM and SIGKILL.
    """
    movable, _why_not = endpoints_move(engine.platform)
    identity = Identity.of(old, network)
    host_config = old["HostConfig"]
    return {
        "name": name,
        "old_id": old["Id"],
        "network": network,
        "endpoint": endpoint_of(old, network) if movable else None,
        "identity": identity.as_data() if identity else None,
        # The engine refuses to change the policy of a container that it removes by itself.
        "policy": host_config.get("RestartPolicy")
        if policies_change(engine.platform) and not host_config.get("AutoRemove")
        else None,
        "running": bool(old["State"]["Running"]),
        "keep": keep,
        "stop": stop,
    }


def record_in(container: t.Optional[Json]) -> t.Optional[Json]:
    """The record in a container's label, or None."""
    text = (((container or {}).get("Config") or {}).get("Labels") or {}).get(REPLACES_LABEL)
    return t.cast(Json, json.loads(text)) if text else None


def endpoint_of(container: Json, network: str) -> t.Optional[Json]:
    """The ``EndpointConfig`` with which a container gets back what it has on a network; None if it is not on it."""
    now = container["NetworkSettings"]["Networks"].get(network)
    if now is None:
        return None
    asked = now.get("IPAMConfig") or {}
    wanted = {
        "IPv4Address": now.get("IPAddress") or asked.get("IPv4Address"),
        "IPv6Address": now.get("GlobalIPv6Address") or asked.get("IPv6Address"),
    }
    endpoint: Json = {"IPAMConfig": {key: value for key, value in wanted.items() if value}}
    # The engine adds the short id by itself.
    aliases = [alias for alias in now.get("Aliases") or [] if alias != container["Id"][:12]]
    if aliases:
        endpoint["Aliases"] = aliases
    if now.get("DriverOpts"):
        endpoint["DriverOpts"] = now["DriverOpts"]
    # The MAC is the container's own (Config.MacAddress), and goes with the network that its NetworkMode names.
    return endpoint


def put_back(engine: DockerApi, record: t.Mapping[str, t.Any]) -> None:
    """Put the old container back into service and remove the new one, whatever state both are in.

    Looks, mends, and looks again until nothing is to be mended twice in a row: a request of a module that was killed
    may still be at work in the engine.
    """
    if engine.container(record["old_id"]) is None:
        raise GridboxError(f"The container that {record['name']} was before, {record['old_id'][:12]}, is gone.")
    deadline = time.monotonic() + PUT_BACK_SECONDS
    quiet = 0
    while quiet < 2:
        refused: t.Optional[GridboxError] = None
        try:
            mended = _mend(engine, record)
        except GridboxError as exc:
            # For one that passes, such as an address that is taken for a moment.
            mended, refused = True, exc
        if time.monotonic() > deadline:
            raise refused or WaitError(f"{record['name']} to stay as it was", PUT_BACK_SECONDS)
        quiet = 0 if mended else quiet + 1
        if refused or not mended:
            time.sleep(0.3)


def silence(container: Json, identity: Identity) -> None:
    """Take the interim link of a container away, if it has one.

    That is not left to the container's end: its network namespace may outlive it by many seconds on a busy machine, and
    answers the LAN's questions for the addresses as long as it is there (Linux clears namespaces one after another).
    """
    if container["State"].get("Pid"):
        InterimLink(netns_of(container["State"]["Pid"]), identity, ()).take_down()


def _mend(engine: DockerApi, record: t.Mapping[str, t.Any]) -> bool:
    """One round of :func:`put_back`. Returns whether there was something to do."""
    name, network_name = record["name"], record["network"]
    old = engine.container(record["old_id"])
    if old is None:
        raise GridboxError(f"The container that {name} was before, {record['old_id'][:12]}, is gone.")
    ours = {
        called: made
        for called in (next_name(name), name, stand_in_name(name))
        for made in (engine.container(called),)
        if made and (record_in(made) or {}).get("old_id") == record["old_id"]
    }
    new = ours.get(next_name(name)) or ours.get(name)
    stand_in = ours.get(stand_in_name(name))
    mended = announced = False
    identity = Identity(**record["identity"]) if record["identity"] else None
    if record["endpoint"] is not None and not is_on(old, network_name):
        mended = True
        if old["State"]["Running"] and identity:
            network = engine.network(network_name)
            if network is None:
                raise GridboxError(f"The network {network_name} is gone.")
            giver = new["Id"] if new else None
            parent = Parent.of(network)
            take_over(engine, network, parent, identity, record["endpoint"], giver, old["Id"], LINK_SECONDS)
            announced = True
        else:
            give(engine, network_name, new["Id"] if new else None)
            engine.connect(network_name, old["Id"], record["endpoint"])
    if record["running"] and not old["State"]["Running"]:
        mended = True
        if new:
            engine.stop_container(new["Id"], 0)
        engine.start_container(old["Id"])
    if (new or stand_in) and record["running"] and identity and not announced:
        # The LAN may have been told of the new one; unless it is told otherwise, it goes on asking there for a while.
        announce_engines_link(engine, old["Id"], identity, LINK_SECONDS)
        if stand_in:
            silence(stand_in, identity)
            announce_engines_link(engine, old["Id"], identity, LINK_SECONDS)
    if record["policy"] and old["HostConfig"]["RestartPolicy"] != record["policy"]:
        mended = True
        engine.update_container(old["Id"], {"RestartPolicy": record["policy"]})
    if new and new["Name"].lstrip("/") == name:
        mended = True
        engine.rename_container(new["Id"], next_name(name))
    if old["Name"].lstrip("/") != name:
        mended = True
        engine.rename_container(old["Id"], name)
    if stand_in:
        mended = True
        engine.remove_container(stand_in["Id"], force=True, volumes=True)
    if new:
        # Last, for its label is what a later look has to go by.
        mended = True
        engine.remove_container(new["Id"], force=True, volumes=True)
    return mended


def retire(engine: DockerApi, record: t.Mapping[str, t.Any]) -> None:
    """Stop the replaced container, and remove it unless it is kept."""
    old = engine.container(record["old_id"])
    if old is None:
        return
    if record["policy"] and old["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no"):
        engine.update_container(old["Id"], {"RestartPolicy": NO_RESTART})
    engine.stop_container(old["Id"], record["stop"])
    if not record["keep"] and not old["HostConfig"].get("AutoRemove"):
        engine.remove_container(old["Id"], force=True)


def is_retired(previous: Json, record: t.Mapping[str, t.Any]) -> bool:
    """Whether nothing is left to do for :func:`retire`."""
    return bool(record["keep"]) and not previous["State"]["Running"]

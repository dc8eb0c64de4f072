# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the VO-boxes of an engine, and of the host what those need that do not run. Changes nothing."""

from __future__ import annotations

import glob
import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.units import UNIT_FOLDER, point_of
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.network.links import read_links
from ansible_collections.hep.gridbox.plugins.module_utils.network.observe import enter_namespace_of
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.decide import Box, Cvmfs, Network
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import NAME_LABEL
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import CVMFS_TARGET
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import made_by_a_swap


def observe(engine: DockerApi, unit_folder: str = UNIT_FOLDER, only: t.Optional[str] = None) -> tuple[Box, ...]:
    """All VO-boxes that bear this collection's label, by name.

    :param only: the name of the one to look at.
    """
    names = {record["Names"][0].lstrip("/"): record["Labels"][NAME_LABEL] for record in _labelled(engine)}
    found = []
    for name in sorted(name for name, label in names.items() if name == label and only in (None, name)):
        container = engine.container(name)
        if container is not None:  # it may have been removed meanwhile
            found.append(_box(engine, container, names, unit_folder))
    return tuple(found)


def _labelled(engine: DockerApi) -> list[Json]:
    return [record for record in engine.containers({"label": [NAME_LABEL]}) if record.get("Names")]


def _box(engine: DockerApi, container: Json, names: t.Container[str], unit_folder: str) -> Box:
    name, state = container["Name"].lstrip("/"), container["State"]
    idle = not state.get("Running")
    grace = container["Config"].get("StopTimeout")
    return Box(
        name=name,
        id=container["Id"],
        status=state["Status"],
        policy=(container["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no",
        error=state.get("Error") or "",
        health=((state.get("Health") or {}).get("Status")) or "none",
        grace=10 if grace is None else grace,
        leftovers=tuple(made for made in made_by_a_swap(name) if made in names),
        # What a VO-box needs is asked only where that decides something.
        networks=_networks(engine, container) if idle else (),
        lacking=tuple(sorted(source for source in _sources(container) if not os.path.exists(source))) if idle else (),
        cvmfs=_cvmfs(container, unit_folder) if idle else None,
    )


def _networks(engine: DockerApi, container: Json) -> tuple[Network, ...]:
    found = []
    for name in sorted((container.get("NetworkSettings") or {}).get("Networks") or {}):
        network = engine.network(name)
        parent = ((network or {}).get("Options") or {}).get("parent") or ""
        found.append(Network(name, network is not None, parent, _state_of(engine, parent) if parent else "up"))
    return tuple(found)


def _state_of(engine: DockerApi, link: str) -> str:
    enter_namespace_of(engine)  # a parent is a link that the engine sees
    states = {one.name: "up" if one.up else "down" for one in read_links()}
    return states.get(link, "missing")


def _sources(container: Json) -> list[str]:
    return [mount["Source"] for mount in container.get("Mounts") or () if mount.get("Type") == "bind"]


def _cvmfs(container: Json, unit_folder: str) -> t.Optional[Cvmfs]:
    for mount in container.get("Mounts") or ():
        if mount.get("Destination") == CVMFS_TARGET and mount.get("Type") == "bind":
            root = mount["Source"]
            mounts = mount_table.read()
            missing = [point for point in _promised(root, unit_folder) if mount_table.at(mounts, point) is None]
            follows = (mount.get("Propagation") or "rprivate") not in ("private", "rprivate")
            return Cvmfs(root, follows, tuple(missing))
    return None


def _promised(root: str, unit_folder: str) -> list[str]:
    """Where this host is to have mounts, at a folder and below it, by the units of ``cvmfs_mounts``.

    One that nobody wants at boot was there before the site dropped its repository.
    """
    promised = []
    for name in {os.path.basename(path) for path in glob.glob(f"{glob.escape(unit_folder)}/*.wants/*.mount")}:
        path = f"{unit_folder}/{name}"
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            point = point_of(text)
            if point is not None and (point == root or point.startswith(f"{root}/")):
                promised.append(point)
    return sorted(promised)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the VO-boxes of an engine, and of the host what those need that do not run. Changes nothing."""

from __future__ import annotations

import glob
import json
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
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import find_leftovers, made_by_a_swap
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import REPLACES_LABEL, previous_name
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import was_cut_short


def observe(engine: DockerApi, unit_folder: str = UNIT_FOLDER, only: t.Optional[str] = None) -> tuple[Box, ...]:
    """All VO-boxes that bear this collection's label, or of which an interrupted swap has left something, by name.

    :param only: the name of the one to look at.
    """
    # All of them: what a swap replaces need not have been made by this collection.
    there = {record["Names"][0].lstrip("/"): record for record in engine.containers() if record.get("Names")}
    records = _records(there)
    swapped = {record["name"] for made, record in records.items() if made in made_by_a_swap(record["name"])}
    labelled = {name for name, record in there.items() if (record.get("Labels") or {}).get(NAME_LABEL) == name}
    found = []
    for name in sorted(swapped | labelled):
        if only in (None, name):
            box = _box(engine, name, there, records, unit_folder)
            if box is not None:
                found.append(box)
    return tuple(found)


def _records(there: t.Mapping[str, Json]) -> dict[str, Json]:
    """By name of a container that a swap has made: what it was made to replace."""
    labels = {name: (record.get("Labels") or {}).get(REPLACES_LABEL) for name, record in there.items()}
    return {name: json.loads(label) for name, label in labels.items() if label}


def _box(
    engine: DockerApi, name: str, there: t.Mapping[str, Json], all_records: t.Mapping[str, Json], unit_folder: str
) -> t.Optional[Box]:
    """One VO-box; None if it has gone since the containers were listed."""
    records = {made: record for made, record in all_records.items() if record["name"] == name}
    # What has such a name and was made by no swap is left alone.
    family = {one: record for one, record in there.items() if one in records or one not in made_by_a_swap(name)}
    left, _kept = find_leftovers(name, family)
    leftovers = tuple(made for made in made_by_a_swap(name) if made in left)
    before = records[leftovers[0]] if leftovers else None
    container = engine.container(before["old_id"] if before else name)
    if container is None:
        return Box(name, "", "gone", "no", leftovers=leftovers) if before else None
    state = container["State"]
    idle = not state.get("Running")
    grace = container["Config"].get("StopTimeout")
    networks = set((container.get("NetworkSettings") or {}).get("Networks") or {})
    if before:
        networks.add(before["network"])  # the swap may have taken it off
    return Box(
        name=name,
        id=container["Id"],
        status=state["Status"],
        policy=(container["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no",
        error=state.get("Error") or "",
        health=((state.get("Health") or {}).get("Status")) or "none",
        grace=10 if grace is None else grace,
        cut_short=was_cut_short(container),
        leftovers=leftovers,
        unretired=previous_name(name) if previous_name(name) in left else None,
        # What a VO-box needs is asked only where that decides something.
        networks=_networks(engine, networks) if idle or before else (),
        lacking=tuple(sorted(source for source in _sources(container) if not os.path.exists(source))) if idle else (),
        cvmfs=_cvmfs(container, unit_folder) if idle else None,
    )


def _networks(engine: DockerApi, names: t.Iterable[str]) -> tuple[Network, ...]:
    found = []
    for name in sorted(names):
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

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the host has of a VO-box now. Few requests: this is all that a run without a change costs."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json, Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import values_of
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import (
    CERTIFICATE_TARGET,
    KEY_TARGET,
    Values,
    Wish,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import Folder, HostFiles, Launch, read_launch
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import EngineProcess
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import was_cut_short
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.runner import STATE_FOLDER


@dataclass(frozen=True)
class Observed:
    """One VO-box as it is.

    :ivar container: its inspect; None if there is none.
    :ivar image: the inspect of the image it was made from; empty if there is no container or its image is gone.
    :ivar wished_image: the inspect of the image asked for; None if none is asked for, or it is not on the host.
    :ivar values: option values of the container; empty without one.
    :ivar leftovers: names of containers that an interrupted swap left and that must be dealt with.
    :ivar kept: name of a replaced container that was kept on purpose.
    :ivar launch: what the container's runner says.
    :ivar renewed: files of the host certificate that were replaced on the host since the container started.
    :ivar cut_short: whether the container is stopped because a restart of it was cut short.
    :ivar process: what the engine can grant; None if nothing asked depends on it.
    """

    platform: Platform
    container: t.Optional[Json] = None
    image: Json = field(default_factory=dict)
    wished_image: t.Optional[Json] = None
    values: Values = field(default_factory=dict)
    files: HostFiles = HostFiles()
    leftovers: tuple[str, ...] = ()
    kept: t.Optional[str] = None
    launch: Launch = Launch()
    renewed: tuple[str, ...] = ()
    cut_short: bool = False
    process: t.Optional[EngineProcess] = None

    @property
    def running(self) -> bool:
        """Whether the container runs; one that the engine restarts again and again does not."""
        state = (self.container or {}).get("State") or {}
        return bool(state.get("Running")) and not state.get("Restarting")

    @property
    def restarting(self) -> bool:
        """Whether the engine restarts it again and again."""
        return bool(((self.container or {}).get("State") or {}).get("Restarting"))


def folder_of(files: str, name: str) -> str:
    """The folder of a VO-box's files on the host."""
    return f"{files}/{name}"


def observe(engine: DockerApi, wish: Wish) -> Observed:
    """Look at the VO-box that is asked for.

    :raises RefusedError: if the container is in a state that nothing here can change.
    """
    name = wish.name
    platform = engine.platform
    there = {record["Names"][0].lstrip("/"): record for record in _family(engine, name)}
    leftovers, kept = find_leftovers(name, there)
    container = engine.container(name) if name in there else None
    interrupted = [there[made] for made in made_by_a_swap(name) if made in leftovers]
    if interrupted:
        container = _the_one_before(engine, interrupted[0]) or container
    if container and container["State"].get("Paused"):
        raise RefusedError(f"name: {name}", "the container is paused", "Unpause it (docker unpause) and run again.")
    image: Json = (engine.image(container["Image"]) or {}) if container else {}
    wished_image = None
    if wish.image is not None and wish.state != "absent":
        same = container is not None and wish.image == container["Image"]
        wished_image = image if same and image else engine.image(wish.image)
    depends = container is None or (wish.privileges is not None and wish.privileges.profile != "least")
    return Observed(
        platform=platform,
        container=container,
        image=image,
        wished_image=wished_image,
        values=values_of(container, image, platform.name) if container else {},
        files=Folder(folder_of(wish.files, name)).read(),
        leftovers=leftovers,
        kept=kept,
        launch=read_launch(launch_folder(container)) if container else Launch(),
        renewed=_renewed(container) if container else (),
        cut_short=was_cut_short(container) if container else False,
        process=EngineProcess.read(engine.url) if depends and wish.state != "absent" else None,
    )


def subject_of(engine: DockerApi, name: str) -> str:
    """What a lock on a VO-box is taken on, by whoever changes it."""
    return f"VO-box {name} of {engine.url}"


def launch_folder(container: t.Optional[Json]) -> t.Optional[str]:
    """The folder on the host in which the container's runner tells how it goes; None if it has none."""
    for mount in (container or {}).get("Mounts") or ():
        if mount.get("Destination") == STATE_FOLDER:
            return str(mount["Source"])
    return None


def made_by_a_swap(name: str) -> tuple[str, str]:
    """Names that containers have while a swap is under way, and after it only if it was interrupted."""
    return f"{name}.next", f"{name}.stand-in"


def _family(engine: DockerApi, name: str) -> list[Json]:
    """The short records of the container, and of those that a swap makes and leaves."""
    names = (name, *made_by_a_swap(name), f"{name}.previous")
    found = engine.containers({"name": [f"^/?{other.replace('.', '[.]')}$" for other in names]})
    return [record for record in found if record["Names"][0].lstrip("/") in names]


def find_leftovers(name: str, there: t.Mapping[str, Json]) -> tuple[tuple[str, ...], t.Optional[str]]:
    """What an interrupted swap left, and what was kept on purpose."""
    # Only when there is something to look at: the swap's code is long.
    if not there.keys() - {name}:
        return (), None
    from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import REPLACES_LABEL

    left = []
    kept = None
    for made in made_by_a_swap(name):
        if made in there:
            if REPLACES_LABEL not in (there[made].get("Labels") or {}):
                raise RefusedError(
                    f"name: {name}",
                    f"there is a container {made} that no swap has made",
                    "Rename or remove it; a swap needs the name.",
                )
            left.append(made)
    previous = there.get(f"{name}.previous")
    if previous:
        record = _record(there.get(name), REPLACES_LABEL)
        ours = record is not None and record["old_id"] == previous["Id"]
        if ours and record is not None and (not record["keep"] or previous["State"] == "running"):
            left.append(f"{name}.previous")
        elif not left:
            kept = f"{name}.previous"
    return tuple(left), kept


def _record(container: t.Optional[Json], label: str) -> t.Optional[Json]:
    text = ((container or {}).get("Labels") or {}).get(label)
    if not text:
        return None
    import json

    return t.cast(Json, json.loads(text))


def _the_one_before(engine: DockerApi, upcoming: Json) -> t.Optional[Json]:
    """The container that an interrupted swap will be taken back to, as it will be then."""
    from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import REPLACES_LABEL

    record = _record(upcoming, REPLACES_LABEL)
    container = engine.container(record["old_id"]) if record else None
    if record is None or container is None:
        return None
    networks = container["NetworkSettings"]["Networks"]
    if record["endpoint"] is not None and record["network"] not in networks:
        networks[record["network"]] = record["endpoint"]
    container["State"]["Running"] = record["running"]
    if record["policy"] is not None:
        container["HostConfig"]["RestartPolicy"] = record["policy"]
    return container


def _renewed(container: Json) -> tuple[str, ...]:
    """A file that was replaced by a rename is another inode; the container's mount holds on to the old one."""
    pid = (container["State"].get("Running") and container["State"].get("Pid")) or 0
    renewed = []
    for mount in container.get("Mounts") or ():
        if pid and mount.get("Destination") in (CERTIFICATE_TARGET, KEY_TARGET):
            try:
                here = os.stat(mount["Source"])
                inside = os.stat(f"/proc/{pid}/root{mount['Destination']}")
            except FileNotFoundError:
                continue  # gone on the host: the preflight of the next start will say so
            if (here.st_dev, here.st_ino) != (inside.st_dev, inside.st_ino):
                renewed.append(str(mount["Source"]))
    return tuple(renewed)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes that are logical volumes, linear or of a thin pool.

A volume of ours has the tag ``hep.gridbox``, and a name that tells the factory, by its state folder, and the machine.
All others of the group, tagged or not, are somebody else's and never touched. So the group has to be this host's alone:
on another host that shares it there may be a factory with the same state folder.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import UUID, Room, Volume
from ansible_collections.hep.gridbox.plugins.module_utils.host import command, holders

PROGRAMS = ("vgs", "lvs", "lvchange", "lvcreate", "lvremove")
TAG = "hep.gridbox"

#: Seconds for one command: it waits for others that change the group, and for udev.
_SECONDS = 120
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options")
_GROUP_FIELDS = "vg_name,vg_attr,vg_free,vg_extent_size"
_VOLUME_FIELDS = "vg_name,lv_name,lv_tags,lv_attr,lv_size,pool_lv,data_percent,lv_kernel_major,lv_kernel_minor"


@dataclass(frozen=True)
class Group:
    """A volume group.

    :ivar attributes: six letters, see vgs(8).
    """

    name: str
    attributes: str
    free: int
    extent: int


@dataclass(frozen=True)
class Logical:
    """A logical volume, whosever.

    :ivar attributes: ten letters, see lvs(8).
    :ivar used: of a thin pool, or a volume in one: bytes of data in it; None: not known, or it is neither.
    :ivar device: ``MAJOR:MINOR``; empty: it is not active.
    """

    group: str
    name: str
    tags: tuple[str, ...]
    attributes: str
    size: int
    pool: str = ""
    used: t.Optional[int] = None
    device: str = ""


def parse_groups(report: str) -> list[Group]:
    """Volume groups by what vgs(8) writes. Pure."""
    return _read(
        report,
        "vg",
        lambda row: Group(row["vg_name"], row["vg_attr"], int(row["vg_free"]), int(row["vg_extent_size"])),
    )


def parse_volumes(report: str) -> list[Logical]:
    """Logical volumes by what lvs(8) writes. Pure."""

    def logical(row: t.Mapping[str, str]) -> Logical:
        size, share, major = int(row["lv_size"]), row["data_percent"], int(row["lv_kernel_major"])
        return Logical(
            row["vg_name"], row["lv_name"], tuple(filter(None, row["lv_tags"].split(","))), row["lv_attr"], size,
            row["pool_lv"], int(size * float(share) / 100) if share else None,
            f"{major}:{row['lv_kernel_minor']}" if major >= 0 else "",
        )  # fmt: skip

    return _read(report, "lv", logical)


_Row = t.TypeVar("_Row")


def _read(report: str, kind: str, made: t.Callable[[t.Mapping[str, str]], _Row]) -> list[_Row]:
    try:
        return [made(row) for part in json.loads(report)["report"] for row in part[kind]]
    except (ValueError, KeyError, TypeError) as exc:
        raise GridboxError(f"LVM's report is not what it was asked for ({exc!r}): {report[:200]}") from exc


def prefix_of(state_folder: str) -> str:
    """What the names of a factory's volumes begin with: letters that LVM allows, and of a length that it has for any
    volume group."""
    return f"{TAG}-{hashlib.sha256(os.fsencode(state_folder)).hexdigest()[:8]}-"


def volumes_of(prefix: str, found: t.Iterable[Logical]) -> list[Volume]:
    """Those of the factory. Pure."""
    pattern = re.compile(rf"{re.escape(prefix)}({UUID})")
    known = [(pattern.fullmatch(one.name), one) for one in found if TAG in one.tags]
    return [
        Volume(match.group(1), f"{one.group}/{one.name}", (one.device,) if one.device else ())
        for match, one in known
        if match
    ]


def room_of(group: Group, found: t.Iterable[Logical], prefix: str, thin_pool: str) -> Room:
    """Room in a volume group, or in a thin pool of it. Pure.

    In a pool a volume has only what was written to it; what ours may still come to need is not free. What others have
    promised themselves nobody can know.

    :raises GridboxError: if there is no such pool, or it is not active, so that nobody knows how full it is.
    """
    here = [one for one in found if one.group == group.name]
    ours = [one for one in here if TAG in one.tags and one.name.startswith(prefix) and one.pool == thin_pool]
    taken = sum(one.size for one in ours)
    if not thin_pool:
        return Room(group.free, taken, group.extent)
    pool = next((one for one in here if _is_pool(one, group.name, thin_pool)), None)
    if pool is None:
        pools = ", ".join(one.name for one in here if one.attributes.startswith("t")) or "none"
        raise RefusedError(
            f"thin_pool is {thin_pool}", f"the volume group {group.name} has no such thin pool; it has {pools}",
            "Make it with lvcreate --type thin-pool, or leave thin_pool out.",
        )  # fmt: skip
    if pool.used is None:
        raise RefusedError(
            f"thin_pool is {thin_pool}", "it is not active, so nobody knows how full it is",
            f"Activate it: lvchange --activate y {group.name}/{thin_pool}.",
        )  # fmt: skip
    growth = sum(one.size - (one.used or 0) for one in ours)
    return Room(pool.size - pool.used - growth, taken, group.extent)


def _is_pool(volume: Logical, group: str, name: str) -> bool:
    return (volume.group, volume.name) == (group, name) and volume.attributes.startswith("t")


class LogicalVolumes:
    """The volumes of a factory; see ``volume.Volumes``.

    :param volume_group: empty: none are made; those that are there are found as far as they are active.
    :param thin_pool: empty: linear volumes.
    """

    def __init__(self, state_folder: str, volume_group: str, thin_pool: str) -> None:
        self._prefix = prefix_of(os.path.realpath(state_folder))
        self._group = volume_group
        self._pool = thin_pool

    def check(self) -> None:
        group = self._observed_group()
        for place, letters, what in (
            (0, "r", "may only be read"), (2, "x", "is exported"), (3, "p", "lacks a physical volume"),
            (5, "cs", "is shared with other hosts, whose volumes this factory cannot tell from its own"),
        ):  # fmt: skip
            if group.attributes[place] in letters:
                remedy = "Give the factory another volume group, or put this one in order."
                raise RefusedError(f"volume_group is {self._group}", f"this volume group {what}", remedy)
        room_of(group, self._observed_volumes(), self._prefix, self._pool)

    def activate(self) -> None:
        """Have the thin pool active, if there is such a one.

        Debian 12's initramfs activates a volume group without its pools where ``thin_check`` is not installed, and
        systemd takes the group for complete then: after a boot nobody else would do it.
        """
        if not self._pool:
            return
        pool = next((one for one in self._observed_volumes() if _is_pool(one, self._group, self._pool)), None)
        if pool is not None and pool.used is None:
            name = f"{self._group}/{self._pool}"
            self._run(f"Activating the thin pool {name}", "lvchange", "--activate", "y", name)

    def room(self) -> Room:
        return room_of(self._observed_group(), self._observed_volumes(), self._prefix, self._pool)

    def make(self, uuid: str, size: int) -> str:
        name = f"{self._prefix}{uuid}"
        sectors = f"{size // 512}s"
        if self._pool:
            how = ["--thin", "--virtualsize", sectors, "--name", name, f"{self._group}/{self._pool}"]
        else:
            # Whatever lay there before is no file system of this machine's.
            how = ["--wipesignatures", "y", "--zero", "y", "--size", sectors, "--name", name, self._group]
        self._run(f"Making the volume {name}", "lvcreate", "--yes", "--addtag", TAG, *how)
        return f"/dev/{self._group}/{name}"

    def find(self) -> list[Volume]:
        # A host with other kinds of volumes need not have LVM, nor wait for it.
        escaped = self._prefix.replace("-", "--")
        if not self._group and not glob.glob(f"/dev/mapper/*-{glob.escape(escaped)}*"):
            return []
        return volumes_of(self._prefix, self._observed_volumes())

    def remove(self, volume: Volume) -> None:
        try:
            self._try_to_remove(volume)
        except GridboxError:
            # A thin volume whose lvcreate was killed may have a device without a table. LVM 2.03 takes that away first,
            # says that the pool is in use, and removes the volume the next time.
            try:
                self._try_to_remove(volume)
            except GridboxError as exc:
                held = f" Who holds it: {holders.told(volume.devices[0])}." if volume.devices else ""
                raise GridboxError(f"{exc}{held}") from exc

    def _try_to_remove(self, volume: Volume) -> None:
        try:
            self._run(f"Removing the volume {volume.name}", "lvremove", "--yes", volume.name)
        except GridboxError:
            # Somebody else may have been quicker: a command that a killed factory had begun.
            if volume.name in {one.name for one in self.find()}:
                raise

    def _observed_group(self) -> Group:
        report = self._run(f"Looking at the volume group {self._group}", "vgs", *_REPORT, _GROUP_FIELDS, self._group)
        return parse_groups(report)[0]

    def _observed_volumes(self) -> list[Logical]:
        return parse_volumes(self._run("Looking at the logical volumes", "lvs", *_REPORT, _VOLUME_FIELDS))

    @staticmethod
    def _run(request: str, *argv: str) -> str:
        # It complains of descriptors that it inherits.
        return command.run(request, argv, _SECONDS, environment={"LVM_SUPPRESS_FD_WARNINGS": "1"})

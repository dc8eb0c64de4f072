# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work space of a machine (spec 6.3): a file system of its own at ``mnt`` in its folder, of a size that holds.

What there is of it, a volume and mounts of it, is always read from the host: nothing is written down elsewhere, so
nothing that was killed half-way is forgotten. A volume is scratch. It is made for one machine and goes with it, so it
has no journal where that can be had, and after a crash nobody repairs it.

The engine has to see the mounts. A unit that runs this must not have a mount namespace of its own, which systemd makes
for ``PrivateMounts=``, ``PrivateTmp=``, ``ProtectSystem=`` and others like them: a file system that is mounted in there
is not in the containers, and cannot be unmounted for them. And the state folder has to be on a shared mount, as systemd
makes all of them: else every mount namespace that somebody makes meanwhile keeps the volume until it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import volume as volumes
from ansible_collections.hep.gridbox.plugins.module_utils.factory import work_space_file, work_space_lvm
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import Volume
from ansible_collections.hep.gridbox.plugins.module_utils.host import command, holders, mount_table, processes
from ansible_collections.hep.gridbox.plugins.module_utils.host.trees import remove_tree
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import disk_bytes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

#: Where machines' folders are, in the state folder.
MACHINES = "machines"

#: How a file system is made: at once, whatever its size. Nothing is discarded, for a new file or thin volume has
#: nothing, and inode tables are not written before they are needed.
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}
#: Without noinit_itable the kernel writes the inode tables afterwards: a hundredth of a sparse file, of each machine.
_OPTIONS = {"ext4": "nosuid,nodev,noinit_itable", "xfs": "nosuid,nodev"}

#: Seconds for mkfs, mount and umount; the last writes what is not on the disk yet.
_SECONDS = 120
#: Seconds for whoever looks into a work space to leave it, before it is in use.
_BUSY_SECONDS = 2
#: Seconds that LVM's word counts how much room there is, while this factory makes and removes nothing.
_KNOWN_SECONDS = 60

#: Programs that go on when the factory which has started them is killed, and may make or hold something meanwhile.
_BEGUN = frozenset(("mount", "umount", "losetup", "lvcreate", "lvremove", *(argv[0] for argv in _MAKE.values())))


def promised(
    configuration: Configuration,
    machinetypes: t.Iterable[Machinetype],
    machines: t.Iterable[Machine],
    written: t.Mapping[str, int],
) -> int:
    """Where work spaces are folders: bytes that machines which run may still write. Of all others the room that is free
    is without what volumes may grow to; of those that start a decision knows itself. Pure.

    :param written: by uuid, bytes in their work spaces.
    """
    if configuration.work_space != "folder":
        return 0
    kinds = {one.name: one for one in machinetypes}
    return sum(
        max(
            0,
            one.processors * (disk_bytes(configuration.settings, kinds.get(one.machinetype)) or 0)
            - written.get(one.uuid, 0),
        )
        for one in machines
        if one.state == RUNNING
    )


@dataclass(frozen=True)
class LeftOver:
    """What is there of a machine that is not alive.

    :ivar folder: the machine's; empty: not known, and nothing is in it.
    :ivar uuid: the machine's; empty: there is only a folder.
    :ivar what: for people.
    """

    folder: str
    uuid: str
    what: str


class WorkSpaces:
    """The work spaces of a factory. For several threads, each with another machine."""

    def __init__(self, configuration: Configuration) -> None:
        self._kind = configuration.work_space
        self._file_system, self._least = configuration.file_system, configuration.settings.least_disk_bytes
        self._state_folder = os.path.realpath(configuration.state_folder)
        self._files = work_space_file.FileVolumes(configuration.state_folder)
        self._logical = work_space_lvm.LogicalVolumes(
            configuration.state_folder,
            configuration.volume_group if self._kind == "lvm" else "",
            configuration.thin_pool,
        )
        # From the look how much is free until it is taken.
        self._taking = threading.Lock()
        # Another one whenever a volume may have come or gone, and what room there was then, and when that was.
        self._turn = object()
        self._known: t.Optional[tuple[object, float, volumes.Room]] = None

    @property
    def _volumes(self) -> t.Optional[volumes.Volumes]:
        """The kind that is made now. Those of the other kind are from before the configuration was changed."""
        made: dict[str, volumes.Volumes] = {"file": self._files, "lvm": self._logical}
        return made.get(self._kind)

    # ---- before anything is made ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Whether work spaces can be made; nothing is touched.

        :raises GridboxError: if not, with what is missing.
        """
        kind = self._volumes
        if kind is None:
            return
        wanted = f"work_space is {self._kind}"
        if os.geteuid() != 0:
            raise RefusedError(wanted, "only root can mount a file system", "Run the factory as root.")
        missing = self.missing_programs()
        if missing:
            packages = "util-linux, lvm2, and e2fsprogs or xfsprogs"
            remedy = f"Install what has them ({packages})."
            raise RefusedError(wanted, f"this host has no {', no '.join(missing)}", remedy)
        kind.check()

    def activate(self) -> None:
        """Have active what work spaces are made in; after a boot it may not be. What is missing, ``check`` says.

        :raises GridboxError: if that fails.
        """
        if self._kind == "lvm" and not self.missing_programs():
            self._logical.activate()

    def missing_programs(self) -> list[str]:
        """What this host has not of the programs that work spaces take."""
        if self._volumes is None:
            return []
        own = work_space_lvm.PROGRAMS if self._kind == "lvm" else work_space_file.PROGRAMS
        programs = ["mount", "umount", _MAKE[self._file_system][0], *own]
        return [program for program in programs if not shutil.which(program, path=command.SYSTEM_PATH)]

    def room_bytes(self, promised: int = 0) -> tuple[int, int]:
        """Room for further work spaces; and that of which a machine's is its processors' share where nothing is said of
        its size. Both of one look: of two, what others write in between would be missing for the last share.

        :param promised: bytes to be left for machines that have no volume yet; where work spaces are folders, what all
            machines may still write.
        """
        room = self._room()
        return max(0, room.free - promised), max(0, room.whole - promised)

    def _room(self) -> volumes.Room:
        """Of a file system it is asked each time. LVM runs two commands for it, and its groups change with what is made
        and removed here; what others do is seen a little later."""
        with _told(_LOOKING):
            if self._volumes is None:
                about = os.statvfs(self._state_folder)
                return volumes.Room(about.f_bavail * about.f_frsize, 0, 1)
            if self._kind != "lvm":
                return self._volumes.room()
            turn, known = self._turn, self._known
            if known is not None and known[0] is turn and time.monotonic() < known[1] + _KNOWN_SECONDS:
                return known[2]
            asked = time.monotonic()
            room = self._volumes.room()
            self._known = (turn, asked, room)
            return room

    def size_for(
        self, processors: int, disk_bytes_per_processor: t.Optional[int], total_processors: int
    ) -> t.Optional[int]:
        """Bytes of a machine's work space; None: it has no limit, for it is a folder.

        :param disk_bytes_per_processor: what is fixed; None: the processors' share of all that the factory has.
        """
        if self._volumes is None:
            return None
        with _told(_LOOKING):
            room = self._volumes.room()
        return volumes.size_for(room, processors, disk_bytes_per_processor, total_processors)

    def share(self, processors: int, disk_bytes_per_processor: t.Optional[int], total_processors: int) -> int:
        """Bytes that a machine may count on where nothing limits its work space: what is fixed, else its processors'
        share of what is free now."""
        if disk_bytes_per_processor is not None:
            return processors * disk_bytes_per_processor
        with _told(_LOOKING):
            return shutil.disk_usage(self._state_folder).free * processors // total_processors

    # ---- make and remove --------------------------------------------------------------------------------------------

    def make(self, machine: Machine, folder: str, size: t.Optional[int]) -> str:
        """Make a machine's work space, and return where it is mounted.

        :param folder: the machine's.
        :param size: bytes; not used for a folder.
        :raises GridboxError: if it cannot be made; nothing of it is left then, or the error says what.
        """
        point = f"{folder}/mnt"
        if mount_table.at(mount_table.read(), os.path.realpath(point)):
            raise GridboxError(
                f"The machine {machine.uuid} has its work space already: something is mounted at {point}."
            )
        try:
            with _told(f"Making the work space of the machine {machine.uuid}"):
                os.makedirs(point, mode=0o755, exist_ok=True)
                if self._volumes is not None:
                    device = self._take(self._volumes, machine.uuid, size or 0)
                    self._turn = object()
                    self._mount(device, point)
        except BaseException as exc:
            try:
                self.remove(folder, machine.uuid)
            except GridboxError as left:
                raise GridboxError(f"{exc} And what had been made of it could not be removed. {left}") from exc
            raise
        return point

    def _take(self, kind: volumes.Volumes, uuid: str, size: int) -> str:
        with self._taking:
            free = max(0, kind.room().free)
            what = f"The work space of the machine {uuid} is to have {size} bytes"
            if not 0 < size <= free:
                self._turn = object()  # whoever decided this was told of more
                raise volumes.NoRoomError(f"{what}, and {free} are free.")
            if size < self._least:  # a share that was rounded down
                raise volumes.NoRoomError(f"{what}, and {self._file_system} takes {self._least} at least.")
            return kind.make(uuid, size)

    def _mount(self, device: str, point: str) -> None:
        command.run(f"Making a file system in {device}", [*_MAKE[self._file_system], device], _SECONDS)
        options = _OPTIONS[self._file_system] + (",loop" if self._kind == "file" else "")
        command.run(f"Mounting {device}", ["mount", "-t", self._file_system, "-o", options, device, point], _SECONDS)

    def places(self, folder: str, machine_uuid: str) -> list[str]:
        """Files and folders that a machine's work space takes room with; those that are not there are of another kind.

        :param folder: the machine's.
        """
        return [f"{folder}/mnt", self._files.path(machine_uuid)]

    def empty(self, folder: str) -> None:
        """Remove what a machine that has ended has in its work folders; fine if that is nothing.

        :raises GridboxError: if that fails.
        """
        with _told(f"Emptying the work folders in {folder}"):
            _empty(f"{folder}/mnt/tmp")

    def remove(self, folder: str, machine_uuid: str) -> None:
        """Remove whatever there is of a machine's work space; fine if that is nothing. The machine has ended.

        :param folder: the machine's; empty: not known.
        :param machine_uuid: empty: not known, only the folder is.
        :raises GridboxError: if something is still in use, with by whom.
        """
        with _told(f"Removing the work space of the machine {machine_uuid or folder}"):
            # First mounts, then devices: the other way round another volume might have taken the device in between.
            mounts = mount_table.read()
            for kind in (self._files, self._logical):
                for volume in kind.find():
                    if volume.uuid == machine_uuid:
                        _unmount(volume, mounts)
                        kind.remove(volume)
                        self._turn = object()
            if folder:
                _empty(f"{folder}/mnt")

    # ---- after a factory was killed ---------------------------------------------------------------------------------

    def left_over(self, alive: t.Iterable[tuple[str, str]]) -> list[LeftOver]:
        """What this factory made for machines that are not alive. For the start of a factory, before it makes anything.

        Waits for commands that a factory which was killed had begun.

        :param alive: folders and UUIDs of the machines whose work space is to stay; the first eight characters of a
            UUID are enough.
        :raises WaitError: if such a command does not end.
        """
        with _told("Looking for work spaces that are left over"):
            return self._left_over(alive)

    def _left_over(self, alive: t.Iterable[tuple[str, str]]) -> list[LeftOver]:
        _wait_for_what_was_begun(self._state_folder, work_space_lvm.prefix_of(self._state_folder))
        kept = [(os.path.realpath(folder), uuid) for folder, uuid in alive]
        uuids, folders = {uuid for _folder, uuid in kept}, {folder for folder, _uuid in kept}
        found = [
            LeftOver("", volume.uuid, f"the volume {volume.name} of a machine that is not alive")
            for volume in [*self._files.find(), *self._logical.find()]
            if volume.uuid not in uuids and volume.uuid[:8] not in uuids
        ]
        machines = f"{self._state_folder}/{MACHINES}"
        names = sorted(os.listdir(machines)) if os.path.isdir(machines) else []
        return found + [
            LeftOver(f"{machines}/{name}", "", f"the folder {machines}/{name}/mnt of a machine that is not alive")
            for name in names
            if f"{machines}/{name}" not in folders and os.path.lexists(f"{machines}/{name}/mnt")
        ]

    def remove_left_over(self, one: LeftOver) -> None:
        """Remove one of them, in the order in which they were found.

        :raises GridboxError: as ``remove``.
        """
        self.remove(one.folder, one.uuid)


_LOOKING = "Looking how much room there is for work spaces"


@contextlib.contextmanager
def _told(request: str) -> t.Iterator[None]:
    """What the kernel refuses, as a sentence."""
    try:
        yield
    except OSError as exc:
        raise GridboxError(f"{request} failed ({exc}).") from exc


def _unmount(volume: Volume, mounts: t.Sequence[mount_table.Mount]) -> None:
    """Unmount a volume wherever it is mounted. What is in use stays as it is: a lazy unmount would hide it only."""
    for point in [mount.point for mount in reversed(mounts) if mount.device in volume.devices]:
        seen = mount_table.at(mount_table.read(), point)
        if seen and seen.device not in volume.devices:
            raise GridboxError(
                f"The work space {point} is not removed: {seen.source} is mounted over it. Unmount that."
            )
        deadline = time.monotonic() + _BUSY_SECONDS
        while not _is_unmounted(volume, point, deadline):
            time.sleep(0.1)


def _is_unmounted(volume: Volume, point: str, deadline: float) -> bool:
    """Try it; False: it is in use, and who uses it may be about to leave.

    :raises GridboxError: if it is in use after the deadline, with by whom.
    """
    try:
        command.run(f"Unmounting {point}", ["umount", "--", point], _SECONDS)
    except GridboxError as exc:
        seen = mount_table.at(mount_table.read(), point)
        if seen and seen.device in volume.devices:
            if time.monotonic() < deadline:
                return False
            who = holders.told(seen.device)
            raise GridboxError(f"The work space {point} is not removed, for it is in use: {who}. {exc}") from exc
    return True


def _empty(point: str) -> None:
    """Remove a folder that nothing is mounted in, with what is in it."""
    if not os.path.lexists(point):
        return
    real = os.path.realpath(point)
    inside = [one for one in mount_table.read() if one.is_below(real)]
    if inside:
        # What a bind mount shows would be removed where it really is.
        raise GridboxError(f"{point} is not removed: {inside[0].source} is mounted at {inside[0].point}. Unmount it.")
    remove_tree(point)


def _wait_for_what_was_begun(state_folder: str, prefix: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        left = begun(_processes(), (f"{state_folder}/", prefix))
        if not left:
            return
        if time.monotonic() > deadline:
            raise WaitError("commands that a killed factory had begun to end", _SECONDS, "; ".join(left))
        time.sleep(0.05)


def begun(seen: t.Iterable[tuple[int, t.Sequence[str]]], marks: tuple[str, ...]) -> list[str]:
    """Those of the processes that are at work on a factory's volumes. Pure.

    :param seen: their numbers and command lines.
    :param marks: what is in a command line that names a volume of the factory.
    """
    return [
        f"process {number}: {' '.join(argv)}"
        for number, argv in seen
        if os.path.basename(argv[0]) in _BEGUN and any(mark in word for word in argv[1:] for mark in marks)
    ]


def _processes() -> t.Iterator[tuple[int, list[str]]]:
    """Our own: a machine's payload may call itself mount, and would keep the daemon from starting again."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
                argv = file.read().rstrip("\0").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if processes.is_ours(int(name)):
            yield int(name), argv

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes that are sparse files, for hosts without a volume group: ``volumes/UUID.img`` in the factory's state folder.

A file is mounted through a loop device that the kernel frees with the last mount of it, so a volume has no other state
than its file and its mounts.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import UUID, Room, Volume
from ansible_collections.hep.gridbox.plugins.module_utils.host import command, holders

PROGRAMS = ("losetup",)

_UNIT = 1 << 20
#: Of the file system's free space, that is kept where nobody has said how large a volume is to be: the host's own logs
#: and images grow there as well, and a file that cannot grow gives the machine errors that it does not understand.
_KEPT = 10
#: Seconds until a loop device is given back; whoever looks what is on a new device, as udev does, delays it.
_SECONDS = 10.0
_MOMENT = 1.0


@dataclass(frozen=True)
class Loop:
    """A loop device in use.

    :ivar name: ``loop3``.
    :ivar device: ``7:3``.
    :ivar file: what it shows.
    :ivar freed: whether the kernel frees it with its last user.
    """

    name: str
    device: str
    file: str
    freed: bool


def read_loops(folder: str = "/sys/block") -> list[Loop]:
    """The host's loop devices that are in use, by sysfs."""
    found = []
    for path in sorted(glob.glob(f"{folder}/loop*/loop/backing_file")):
        about = os.path.dirname(os.path.dirname(path))
        try:
            file, device, freed = (_line(f"{about}/{name}") for name in ("loop/backing_file", "dev", "loop/autoclear"))
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV):
                continue  # freed meanwhile
            raise
        # So the kernel marks a file whose name is gone.
        found.append(Loop(os.path.basename(about), device, re.sub(r" \(deleted\)$", "", file), freed == "1"))
    return found


def volumes_of(folder: str, names: t.Iterable[str], loops: t.Sequence[Loop]) -> list[Volume]:
    """The volumes that these names in the folder, and these loop devices, are. Pure."""
    files = {f"{folder}/{name}" for name in names} | {loop.file for loop in loops}
    pattern = re.compile(rf"{re.escape(folder)}/({UUID})\.img")
    known = [(match.group(1), match.group(0)) for match in map(pattern.fullmatch, sorted(files)) if match]
    return [Volume(uuid, file, tuple(loop.device for loop in loops if loop.file == file)) for uuid, file in known]


class FileVolumes:
    """The volumes of a factory; see ``volume.Volumes``."""

    def __init__(self, state_folder: str) -> None:
        # As the kernel says it of a loop device's file.
        self._folder = f"{os.path.realpath(state_folder)}/volumes"

    def check(self) -> None:
        try:
            node = command.run("Looking for a free loop device", ["losetup", "--find"]).strip()
        except GridboxError as exc:
            raise RefusedError(
                "work_space is file", f"there is no loop device: {exc}", f"Load the module loop, or {_OTHERWISE}"
            ) from exc
        if not os.path.exists(node):
            raise RefusedError("work_space is file", f"the loop device {node} has no file", f"Make it, or {_OTHERWISE}")

    def room(self) -> Room:
        about = os.statvfs(self._existing())
        free, taken = about.f_bavail * about.f_frsize, 0
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                file = os.lstat(f"{self._folder}/{name}")
                taken += file.st_size
                free -= max(0, file.st_size - file.st_blocks * 512)
        return Room(free, taken, _UNIT, kept=max(0, free + taken) // _KEPT)

    def path(self, uuid: str) -> str:
        """The file that a machine's volume is, if there is one."""
        return f"{self._folder}/{uuid}.img"

    def make(self, uuid: str, size: int) -> str:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = self.path(uuid)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)
        return path

    def find(self) -> list[Volume]:
        return volumes_of(self._folder, self._names(), read_loops())

    def remove(self, volume: Volume) -> None:
        start = time.monotonic()
        while True:
            loops = [loop for loop in read_loops() if loop.file == volume.name]
            if not loops:
                break
            waited = time.monotonic() - start
            if waited > _SECONDS:
                first = loops[0]
                raise GridboxError(
                    f"The volume {volume.name} is still in use as /dev/{first.name}: {holders.told(first.device)}."
                )
            for loop in loops:
                # Ours are freed by the kernel. One that is not was made by hand, or by a mount(8) killed in between.
                if waited > _MOMENT and not loop.freed:
                    command.run(f"Freeing {loop.name}", ["losetup", "--detach", f"/dev/{loop.name}"], ok=(0, 1))
            time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(volume.name)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _existing(self) -> str:
        """The folder, or the one above that is there: the same file system, if nobody mounts one in between."""
        folder = self._folder
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return folder


_OTHERWISE = "set work_space to lvm, or to folder, which limits nobody."


def _line(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().rstrip("\n")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What volumes of both kinds, files and logical volumes, have in common: names, room and shares of it. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import work_space_bytes

#: The part of a volume's name that tells the machine: a UUID as text.
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class NoRoomError(GridboxError):
    """The host has no room for what a machine needs. Its machinetype is not to blame."""


@dataclass(frozen=True)
class Volume:
    """A volume of a machine of this factory, in whatever state a kill has left it.

    :ivar uuid: of the machine.
    :ivar name: the file's path, or the logical volume's name with its group's.
    :ivar devices: block devices that it is at present, ``MAJOR:MINOR``: none, or one; two if somebody helped.
    """

    uuid: str
    name: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Room:
    """Bytes for volumes.

    :ivar free: that no volume has, or may still come to need.
    :ivar taken: that the volumes of this factory may have at most, all together.
    :ivar unit: of which a volume's size has to be a multiple.
    :ivar kept: that no volume gets where its size is not fixed.
    """

    free: int
    taken: int
    unit: int
    kept: int = 0

    @property
    def whole(self) -> int:
        """What all volumes together get where their size is not fixed."""
        return max(0, self.free + self.taken - self.kept)


class Volumes(t.Protocol):
    """One kind of volumes."""

    def check(self) -> None:
        """Whether volumes can be made.

        :raises GridboxError: if they cannot, with what is missing.
        """

    def room(self) -> Room:
        """What there is."""

    def make(self, uuid: str, size: int) -> str:
        """Make a volume without a file system, and return the path for the program that makes one."""

    def find(self) -> list[Volume]:
        """All volumes of this factory."""

    def remove(self, volume: Volume) -> None:
        """Remove one that is not mounted.

        :raises GridboxError: if it is held, with by whom.
        """


def size_for(room: Room, processors: int, disk_bytes_per_processor: t.Optional[int], total_processors: int) -> int:
    """The size of a machine's volume: what is fixed, else its processors' share of all there is (spec 6.3)."""
    size = work_space_bytes(disk_bytes_per_processor, room.whole, processors, total_processors)
    return size // room.unit * room.unit

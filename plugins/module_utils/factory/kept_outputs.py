# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept of machines that have ended, what they printed and left in joboutputs: how much there is room for.

It is for people who look what went wrong, and the host's disk is for more than that: the oldest goes first. Records of
machines stay for their days, for decisions and the accounting depend on them.
"""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store

#: Of the state folder's file system, that all kept outputs may have.
_MOST = 10
#: Of the same, below which it is short of room: a part of it, and no more than so many bytes, for the rest of a large
#: one may be somebody else's cache that is meant to be full. Then outputs go until twice as much is free.
_SHORT, _SHORT_BYTES = 20, 10 << 30
#: Seconds for which they stay all the same: where work spaces have the rest of the disk it is always short of room.
_FRESH = 3600


@dataclass(frozen=True)
class Disk:
    """Bytes of a file system, and of those that are free."""

    size: int
    free: int

    @property
    def short(self) -> int:
        """Bytes below which it is short of room."""
        return min(self.size // _SHORT, _SHORT_BYTES)

    @property
    def is_short(self) -> bool:
        """Whether it is short of room."""
        return self.free < self.short


@dataclass(frozen=True)
class Outputs:
    """What is kept of a machine.

    :ivar size: bytes on the disk.
    """

    machine: Machine
    size: int


def disk_of(store: Store) -> Disk:
    """The file system of the machines' folders."""
    path = store.root if os.path.isdir(store.root) else os.path.dirname(store.root)
    about = os.statvfs(path)
    return Disk(about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize)


def find(store: Store, machines: t.Iterable[Machine]) -> list[Outputs]:
    """What is kept of those machines that have ended and are cleaned away."""
    over = (one for one in machines if one.state == ENDED and one.cleaned)
    found = (Outputs(one, sum(map(_size, store.outputs_kept(one)))) for one in over)
    return [one for one in found if one.size]


def to_go(kept: t.Sequence[Outputs], disk: Disk, now: int) -> list[Outputs]:
    """Those for which there is no room, oldest first. Pure.

    :param now: Unix seconds.
    """
    excess = sum(one.size for one in kept) - disk.size // _MOST
    lacking = 2 * disk.short - disk.free if disk.is_short else 0
    go = []
    for one in sorted(kept, key=_ended):
        if excess <= 0 and (lacking <= 0 or 0 <= now - _ended(one) < _FRESH):
            break
        go.append(one)
        excess, lacking = excess - one.size, lacking - one.size
    return go


def _ended(one: Outputs) -> int:
    return one.machine.ended or one.machine.created


def make_room(store: Store, machines: t.Iterable[Machine]) -> tuple[list[Outputs], list[tuple[Machine, str]]]:
    """Remove the oldest outputs for which there is no room. Those that cannot be removed keep no other from going.

    :returns: those that are gone; and machines whose outputs stay, with a sentence why.
    """
    gone, stay = [], []
    for one in to_go(find(store, machines), disk_of(store), int(time.time())):
        try:
            store.forget_outputs(one.machine)
            gone.append(one)
        except (GridboxError, OSError) as exc:
            stay.append((one.machine, str(exc)))
    return gone, stay


def _size(path: str) -> int:
    """Bytes that a file, or the files in a folder, have on the disk; 0 of what is gone, or cannot be looked at."""
    try:
        with os.scandir(path) as inside:
            return sum(one.stat(follow_symlinks=False).st_blocks * 512 for one in inside)
    except NotADirectoryError:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0

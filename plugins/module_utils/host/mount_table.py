# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mounts as the kernel sees them: /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass


@dataclass(frozen=True)
class Mount:
    """One line of the table.

    :ivar point: where it is mounted.
    :ivar kind: type of the file system, for instance ``fuse.squashfuse`` or ``autofs``.
    :ivar source: what the file system says it comes from.
    :ivar shared: whether mounts below it propagate to its peers; without that nothing reaches a container.
    :ivar device: the file system's device, ``MAJOR:MINOR``.
    :ivar options: of the file system, for instance ``prjquota``.
    :ivar number: of the mount, as ``/proc/PID/fdinfo`` has it of an open file.
    """

    point: str
    kind: str
    source: str
    shared: bool
    device: str = ""
    number: int = 0
    options: tuple[str, ...] = ()

    def is_below(self, folder: str) -> bool:
        """Whether it is mounted at a folder or below."""
        return f"{self.point}/".startswith(f"{folder}/")


def parse(table: str) -> list[Mount]:
    """All mounts, in the order in which they were made. Pure."""
    found = []
    # Only a line feed ends a line: the kernel escapes that, and leaves all else a name may hold as it is.
    for line in filter(None, table.split("\n")):
        fields = line.split(" ")
        separator = fields.index("-", 6)
        found.append(
            Mount(
                point=_plain(fields[4]),
                kind=fields[separator + 1],
                source=_plain(fields[separator + 2]),
                shared=any(tag.startswith("shared:") for tag in fields[6:separator]),
                device=fields[2],
                number=int(fields[0]),
                options=tuple(fields[separator + 3].split(",")),
            )
        )
    return found


def read(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of this process's namespace, names as Python has them in paths, whatever their bytes."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return parse(file.read())


def at(mounts: t.Sequence[Mount], point: str) -> t.Optional[Mount]:
    """What is seen at ``point``: the last mount made there; None if there is none. Pure."""
    return next((mount for mount in reversed(mounts) if mount.point == point), None)


def _plain(field: str) -> str:
    """A field without the kernel's octal escapes (blank, tab, line feed, backslash)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What machines have written where nothing limits it, as it is on the disk."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.host import command

#: Seconds for looking at all of it: a million files that are not in the cache.
_SECONDS = 60


@dataclass(frozen=True)
class Written:
    """Bytes that a machine has written.

    :ivar outside: its work space; None: nobody knows.
    :ivar inside: its work space, where that is a folder without a limit; else 0.
    """

    outside: t.Optional[int] = None
    inside: int = 0


@dataclass(frozen=True)
class Outside:
    """Where a machine writes outside its mounts.

    :ivar paths: files and folders on this host.
    :ivar told: bytes that the engine has measured itself.
    """

    paths: tuple[str, ...] = ()
    told: int = 0


def on_disk(paths: t.Iterable[str]) -> dict[str, int]:
    """Bytes of each of these files and folders, with all that is in it on the same file system; 0 of one that is gone.

    One process looks at all of them: to start one costs more than to look at what a machine writes as a rule. And it is
    a process of its own, which does not hold up whatever else this one does. What vanishes meanwhile is fine.

    :raises GridboxError: if it cannot be told.
    """
    found = dict.fromkeys(paths, 0)
    if found:
        argv = ["du", "-s", "-x", "-0", "--block-size=1", "--", *found]
        told = command.run(f"Measuring what is in {next(iter(found))} and others", argv, _SECONDS, ok=(0, 1))
        for record in told.split("\0"):
            size, _tab, path = record.partition("\t")
            if path in found:
                found[path] = int(size)
    return found

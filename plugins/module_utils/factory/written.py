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


def on_disk(paths: t.Sequence[str]) -> int:
    """Bytes of these files and folders, with all that is in them on the same file system.

    A process of its own looks: it does not hold up whatever else this one does. What vanishes meanwhile is fine.

    :raises GridboxError: if it cannot be told.
    """
    if not paths:
        return 0
    argv = ["du", "-s", "-x", "--block-size=1", "--", *paths]
    return _sum(command.run(f"Measuring what is in {paths[0]}", argv, _SECONDS, ok=(0, 1)))


def _sum(told: str) -> int:
    """Of the lines that du(1) writes."""
    return sum(int(line.split("\t")[0]) for line in told.splitlines() if line.split("\t")[0].isdigit())

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines whose record cannot be read: damaged, or on a disk that fails. What is known of one, its folder's name says.

It may run, and whoever cannot tell ends nothing: until a person decides, or the record can be read, its container is no
stray, its work space is not left over, and no other machine is started in its slot.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import OwnMachine

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine

#: As ``Machine.folder`` makes it. A copy that somebody has made beside it has a longer one.
_NAME = re.compile(r"(?P<created>[0-9]{1,12})_(?P<machinetype>[^_]+)_(?P<slot>[^_]+)_(?P<mark>[0-9A-Za-z-]{1,8})")


@dataclass(frozen=True)
class Unreadable:
    """A folder with a record that cannot be read.

    :ivar folder: its path.
    :ivar problem: why the record cannot be, in a sentence.
    :ivar mark: how the machine's uuid begins; empty: the folder has no machine's name.
    :ivar processors: that it has, by its job features.
    """

    folder: str
    problem: str
    slot: str = ""
    machinetype: str = ""
    created: int = 0
    mark: str = ""
    processors: int = 1

    @property
    def sentence(self) -> str:
        """For whoever has to decide."""
        return (
            f"{self.problem} Its machine may run: nothing of it is touched, and none is started in its place. Put the"
            " file right; or, when nothing of that machine runs, move its folder away."
        )

    def is_of(self, uuid: str) -> bool:
        """Whether it may be the record of that machine."""
        return bool(self.mark) and uuid[:8] == self.mark

    def own(self) -> OwnMachine:
        """As decisions see it. What its time limit is nobody knows, so no other machine is to end with it."""
        return OwnMachine(self.slot, self.machinetype, self.processors, "unknown", self.created, self.created)


def unreadable(folder: str, problem: str) -> Unreadable:
    """What is known of a machine by its folder.

    :param problem: why its record cannot be read, in a sentence.
    """
    name = _NAME.fullmatch(os.path.basename(folder))
    if name is None:
        return Unreadable(folder, problem)
    return Unreadable(
        folder, problem, name["slot"], name["machinetype"], int(name["created"]), name["mark"], _processors(folder)
    )


def occupying(found: t.Iterable[Unreadable], machines: t.Iterable[Machine]) -> list[OwnMachine]:
    """Those that may be in their slots, as decisions see them. Pure."""
    return [one.own() for one in in_slots(found, machines).values()]


def in_slots(found: t.Iterable[Unreadable], machines: t.Iterable[Machine]) -> dict[str, Unreadable]:
    """By slot, those that may be in it. Pure. What was made in a slot before another machine had ended by then.

    :param machines: those whose records can be read.
    """
    last: dict[str, int] = {}
    for machine in machines:
        last[machine.slot] = max(machine.created, last.get(machine.slot, 0))
    newest: dict[str, Unreadable] = {}
    for one in found:
        if one.slot and one.created >= max(last.get(one.slot, 0), newest.get(one.slot, one).created):
            newest[one.slot] = one
    return newest


def _processors(folder: str) -> int:
    try:
        with open(os.path.join(folder, "jobfeatures", "allocated_cpu"), encoding="ascii") as file:
            return max(1, int(file.read(20)))
    except (OSError, ValueError):
        return 1  # the least: more than it has might keep others from being started for nothing

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Superslots: which machinetype fits where, and how large a machine it gets (spec 4.5). Pure.

A superslot is no object: it is the machines of a factory that end at the same second. It is complete when its
processors are a multiple of ``processors_per_superslot``. What an incomplete one lacks is kept for machines that end
with it, so that they leave together a room in which a multiprocessor machine can start.

They are told to end in the same second and are gone one by one. Vac kills them all before it decides. Here each end is
followed by a decision, so what such a superslot has freed is held until it is all there: else a machine of one
processor would start in each processor as it gets free, with a new end, and there never was room for one of several.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import Means, occupied
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    OwnMachine,
    Refusal,
)

#: Seconds after its last KILL for which a superslot's room is held: as long as the factory may take to find out that a
#: machine has ended. One that cannot be ended holds it no longer.
MARGIN = 60


@dataclass(frozen=True)
class Fit:
    """A machine that fits.

    :ivar shutdown_time: its time limit, Unix seconds.
    """

    machinetype: str
    processors: int
    shutdown_time: int


@dataclass(frozen=True)
class Gap:
    """What an incomplete superslot lacks: until its end for machines that end with it, then for nobody until it is
    gone.

    :ivar end: when its machines are told to end, Unix seconds.
    :ivar until: when all of them ought to be gone.
    """

    end: int
    processors: int
    until: int

    def text(self, now: int) -> str:
        """For people."""
        if now < self.end:
            return f"{self.processors} for a superslot that ends in {self.end - now} s"
        return f"{self.processors} held for the superslot until its machines are gone, {self.until - now} s at most"


@dataclass(frozen=True)
class Room:
    """Free processors.

    :ivar gaps: of incomplete superslots, earliest end first.
    :ivar free: processors that no superslot keeps.
    """

    gaps: tuple[Gap, ...]
    free: int


def limit_of(factory: FactorySettings, machine: OwnMachine) -> int:
    """When a machine is told to end: its own time limit, or the factory's ``last_limit`` if that comes first."""
    if factory.last_limit is None:
        return machine.shutdown_time
    return min(machine.shutdown_time, factory.last_limit)


def room(factory: FactorySettings, own: t.Sequence[OwnMachine], now: int) -> Room:
    """What is free, and for whom. Nobody waits for a machine that should be gone, nor, after its end, for one whose
    state is not known: it is not ended."""
    size = factory.processors_per_superslot
    free = max(0, factory.total_processors - occupied(own))
    members: dict[int, list[OwnMachine]] = {}
    for machine in own:
        if machine.occupies:
            members.setdefault(limit_of(factory, machine), []).append(machine)
    gaps = []
    for end, machines in sorted(members.items()):
        gap = min(free, -occupied(machines) % size)
        told = [max(end, machine.told or end) for machine in machines if machine.state != "unknown"]
        until = max(told, default=end) + factory.grace_seconds + MARGIN
        if gap and (now < end or (told and now < until)):
            gaps.append(Gap(end, gap, until))
            free -= gap
    return Room(tuple(gaps), free)


def place(
    factory: FactorySettings,
    order: t.Sequence[Machinetype],
    space: Room,
    means: Means,
    now: int,
) -> tuple[t.Optional[Fit], dict[str, Refusal]]:
    """The first machinetype of the order that fits; without one, why each does not.

    :param order: machinetypes that may be started.
    :param space: what :func:`room` finds.
    """
    size = factory.processors_per_superslot
    limit = {machinetype.name: means.most(machinetype) for machinetype in order}
    for gap in space.gaps:
        for machinetype in order if now < gap.end else ():
            processors = min(gap.processors, machinetype.max_processors, size, limit[machinetype.name])
            in_time = machinetype.min_wallclock_seconds <= gap.end - now <= machinetype.max_wallclock_seconds
            if processors >= max(1, machinetype.min_processors) and in_time:
                return Fit(machinetype.name, processors, gap.end), {}
    for machinetype in order:
        processors = min(space.free, machinetype.max_processors, size, limit[machinetype.name])
        if processors >= max(1, machinetype.min_processors):
            end = now + machinetype.max_wallclock_seconds
            if factory.last_limit is not None:
                end = min(end, factory.last_limit)
            return Fit(machinetype.name, processors, end), {}
    return None, {machinetype.name: _why_not(machinetype, space, means, now) for machinetype in order}


def _why_not(machinetype: Machinetype, space: Room, means: Means, now: int) -> Refusal:
    if means.most(machinetype) < machinetype.min_processors:
        return Refusal("resources", means.lack(machinetype))
    kept = "".join(f", {gap.text(now)}" for gap in space.gaps)
    times = f"{machinetype.min_wallclock_seconds} to {machinetype.max_wallclock_seconds} s"
    needs = f"it needs at least {machinetype.min_processors}, for {times}"
    return Refusal("no_room", f"{space.free} processors are free{kept}; {needs}")

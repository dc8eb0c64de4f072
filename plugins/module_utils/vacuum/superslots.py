# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Superslots: which machinetype fits where, and how large a machine it gets (spec 4.5). Pure.

A superslot is no object: it is the machines of a factory that end at the same second. It is complete when its
processors are a multiple of ``processors_per_superslot``. What an incomplete one lacks is kept for machines that end
with it, so that they leave together a room in which a multiprocessor machine can start.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import occupied
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    OwnMachine,
    Refusal,
)


@dataclass(frozen=True)
class Fit:
    """A machine that fits.

    :ivar shutdown_time: its time limit, Unix seconds.
    """

    machinetype: str
    processors: int
    shutdown_time: int


@dataclass(frozen=True)
class Room:
    """Free processors.

    :ivar gaps: incomplete superslots, earliest first: end, and processors that are kept for it.
    :ivar free: processors that no superslot keeps.
    """

    gaps: tuple[tuple[int, int], ...]
    free: int


def limit_of(factory: FactorySettings, machine: OwnMachine) -> int:
    """When a machine is told to end: its own time limit, or the factory's ``last_limit`` if that comes first."""
    if factory.last_limit is None:
        return machine.shutdown_time
    return min(machine.shutdown_time, factory.last_limit)


def room(factory: FactorySettings, own: t.Sequence[OwnMachine], now: int) -> Room:
    """What is free, and for whom. A superslot whose end is past waits for nobody."""
    size = factory.processors_per_superslot
    free = max(0, factory.total_processors - occupied(own))
    ends: dict[int, int] = {}
    for machine in own:
        if machine.occupies:
            end = limit_of(factory, machine)
            ends[end] = ends.get(end, 0) + machine.processors
    gaps = []
    for end in sorted(ends):
        gap = min(free, -ends[end] % size)
        if gap and end > now:
            gaps.append((end, gap))
            free -= gap
    return Room(tuple(gaps), free)


def place(
    factory: FactorySettings,
    order: t.Sequence[Machinetype],
    space: Room,
    most: t.Callable[[Machinetype], int],
    now: int,
) -> tuple[t.Optional[Fit], dict[str, Refusal]]:
    """The first machinetype of the order that fits; without one, why each does not.

    :param order: machinetypes that may be started.
    :param space: what :func:`room` finds.
    :param most: processors that there is memory and disk for.
    """
    size = factory.processors_per_superslot
    limit = {machinetype.name: most(machinetype) for machinetype in order}
    for end, gap in space.gaps:
        for machinetype in order:
            processors = min(gap, machinetype.max_processors, size, limit[machinetype.name])
            in_time = machinetype.min_wallclock_seconds <= end - now <= machinetype.max_wallclock_seconds
            if processors >= max(1, machinetype.min_processors) and in_time:
                return Fit(machinetype.name, processors, end), {}
    for machinetype in order:
        processors = min(space.free, machinetype.max_processors, size, limit[machinetype.name])
        if processors >= max(1, machinetype.min_processors):
            end = now + machinetype.max_wallclock_seconds
            if factory.last_limit is not None:
                end = min(end, factory.last_limit)
            return Fit(machinetype.name, processors, end), {}
    return None, {machinetype.name: _why_not(machinetype, space, limit[machinetype.name], now) for machinetype in order}


def _why_not(machinetype: Machinetype, space: Room, most: int, now: int) -> Refusal:
    if most < machinetype.min_processors:
        needs = f"its min_processors is {machinetype.min_processors}"
        return Refusal("resources", f"memory and disk do for {most} processors, and {needs}")
    kept = "".join(f", {gap} for a superslot that ends in {end - now} s" for end, gap in space.gaps)
    times = f"{machinetype.min_wallclock_seconds} to {machinetype.max_wallclock_seconds} s"
    needs = f"it needs at least {machinetype.min_processors}, for {times}"
    return Refusal("no_room", f"{space.free} processors are free{kept}; {needs}")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Slots for which somebody has ordered a machinetype: what is started in them, and what makes room for it. Pure.

A machine of another type there ends when, and only when, the ordered one could be started in its room at this moment:
a job that runs is not lost for what does not come to run.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import (
    Means,
    forced_slots,
    veto,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End, replaced
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import unfit
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    Forced,
    HostLoad,
    OwnMachine,
    Refusal,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.superslots import Fit, Room, place, room
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import CLOCK_TOLERANCE


@dataclass(frozen=True)
class Turn:
    """What comes of the empty slots that something was ordered for.

    :ivar slot: that is filled next; empty: none can be.
    :ivar fit: with what.
    :ivar waiting: slots that come before it and cannot be filled, each with the reason.
    """

    slot: str = ""
    fit: t.Optional[Fit] = None
    waiting: tuple[tuple[str, Refusal], ...] = ()


@dataclass(frozen=True)
class Exchange:
    """What comes of the slots in which a machine of another type runs than was ordered.

    :ivar ends: machines that make room.
    :ivar waiting: slots whose machine goes on, each with the reason.
    """

    ends: tuple[End, ...] = ()
    waiting: tuple[tuple[str, Refusal], ...] = ()


def next_ordered(means: Means, away: t.Mapping[str, Refusal], space: Room, now: int) -> Turn:
    """The first empty slot that can be filled with what was ordered for it.

    :param away: why no machine of the other machinetypes can be made here, by name.
    :param space: what :func:`room` finds.
    """
    waiting: list[tuple[str, Refusal]] = []
    for slot in forced_slots(means.factory, means.own):
        found = _ordered(slot, means, away, space, now)
        if isinstance(found, Fit):
            return Turn(slot, found, tuple(waiting))
        waiting.append((slot, found))
    return Turn(waiting=tuple(waiting))


def exchange(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    away: t.Mapping[str, Refusal],
    own: t.Sequence[OwnMachine],
    host: HostLoad,
    now: int,
) -> Exchange:
    """Which machines end for what was ordered for their slots, and why the others go on.

    Each counts as ended when the next is judged, and what was ordered as started in its place.

    :param machinetypes: those of which machines can be made here now.
    :param away: why none of the others can be, by name.
    """
    running = {one.slot: one for one in own if one.state == "running"}
    known = {machinetype.name: machinetype for machinetype in machinetypes}
    machines, made, waiting = tuple(own), [], []
    for slot in factory.slots:
        machine, forced = running.get(slot), factory.forced.get(slot)
        if machine is None or forced is None or slot in factory.closed_slots:
            continue
        if forced.machinetype == machine.machinetype:
            continue
        roomier = Means(factory, machines, host, known).host_without([machine])
        without = [replace(one, state="ended", ended=now) if one is machine else one for one in machines]
        filled = _filled(slot, Means(factory, without, roomier, known), away, now)
        if isinstance(filled, Refusal):
            waiting.append((slot, Refusal(filled.code, f"{machine.machinetype} goes on there: {filled.text}")))
        else:
            machines, host = filled, roomier
            made.append(replaced(machine, forced.machinetype))
    return Exchange(tuple(made), tuple(waiting))


def _filled(
    slot: str, means: Means, away: t.Mapping[str, Refusal], now: int
) -> t.Union[tuple[OwnMachine, ...], Refusal]:
    """The machines once a slot is filled with what was ordered for it; why it would not be, if it would not. What other
    empty slots wait for may take the room before."""
    factory, host = means.factory, means.host
    wanted = factory.forced[slot].machinetype
    while True:
        against = veto(factory, means.own, host, now)
        if against is not None:
            return Refusal(against.code, f"{wanted} was ordered for it, and not now: {against.text}")
        turn = next_ordered(means, away, room(factory, means.own, now), now)
        if turn.fit is None:
            taken = Refusal("no_slot", f"{wanted} was ordered for it, and not now: another machine may run there")
            return dict(turn.waiting).get(slot, taken)
        fit = turn.fit
        begun = OwnMachine(turn.slot, fit.machinetype, fit.processors, "starting", now, fit.shutdown_time)
        means = Means(factory, (*means.own, begun), host, means.known)
        if turn.slot == slot:
            return means.own


def _ordered(slot: str, means: Means, away: t.Mapping[str, Refusal], space: Room, now: int) -> t.Union[Fit, Refusal]:
    """The machine that was ordered for a slot; why not, if it cannot be started now."""
    factory = means.factory
    forced = factory.forced[slot]
    machinetype = means.known.get(forced.machinetype)
    if machinetype is None:
        why = away[forced.machinetype].text if forced.machinetype in away else "the factory knows no such machinetype"
        return Refusal("not_startable", f"{forced.machinetype} cannot be started here: {why}")
    against = unfit(factory, machinetype, now) or _failed_there(slot, forced, machinetype, means.own, now)
    if against is None:
        fit, lacking = place(factory, [machinetype], space, means, now)
        if fit is not None:
            return fit
        against = lacking[machinetype.name]
    return Refusal(against.code, f"{machinetype.name} was ordered for it, and not now: {against.text}")


def _failed_there(
    slot: str, forced: Forced, machinetype: Machinetype, own: t.Sequence[OwnMachine], now: int
) -> t.Optional[Refusal]:
    """An order is no reason to start what fails again and again without a pause: after an abort there, since then,
    its own ``backoff_seconds`` pass. An order that lies ahead is of a clock that was set back: nobody knows what was
    before it."""
    since = forced.since if forced.since <= now + CLOCK_TOLERANCE else 0
    ends = [
        end
        for machine in own
        if machine.slot == slot and machine.machinetype == machinetype.name and machine.created >= since
        for end in [outcome(machine, machinetype)]
        if end is not None and end.time <= now + CLOCK_TOLERANCE
    ]
    last = max(ends, key=lambda end: end.time, default=None)
    if last is None or not last.abort or now > last.time + machinetype.backoff_seconds:
        return None
    left = max(1, last.time + machinetype.backoff_seconds - now)
    return Refusal("backing_off", f'backing off there for {left} s more after "{last.message}"')

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines have to end now, and why (spec 4.6), or because somebody has ordered it. Pure.

Draining ends none. One whose state is not known is never ended; nor is one that only starts, which is its maker's.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, OwnMachine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.superslots import limit_of

#: Code and shutdown message of a machine that was ended by order. 100 to 199 is the host's doing (spec 4.7).
STOPPED, STOPPED_MESSAGE = "stopped", "100 Stopped by order"


@dataclass(frozen=True)
class End:
    """A machine that has to end.

    :ivar code: ``stopped``, ``time_limit``, ``shutdown_time``, ``heartbeat_missing``, ``heartbeat_old`` or
        ``disk_limit``.
    :ivar reason: for people, with the figures.
    :ivar message: its shutdown message, if it leaves none itself. 100 to 199 is an end that the host asks for and no
        abort; 700 is one.
    """

    slot: str
    machinetype: str
    code: str
    reason: str
    message: str


def lowered(factory: FactorySettings, own: t.Iterable[OwnMachine]) -> dict[str, int]:
    """New time limits by slot, of machines that the factory's ``shutdown_time`` ends earlier than they know."""
    limits = {machine.slot: (machine, limit_of(factory, machine)) for machine in own if machine.occupies}
    return {slot: limit for slot, (machine, limit) in limits.items() if limit < machine.shutdown_time}


def ends(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    own: t.Iterable[OwnMachine],
    heartbeats: t.Mapping[str, t.Optional[int]],
    now: int,
    watching_since: int,
) -> tuple[End, ...]:
    """Machines that have to end now. One that is being ended already is named until it has.

    :param heartbeats: by slot, when the heartbeat file was written last; None: there is none. A slot that is not in it
        could not be looked at, and its heartbeat is not judged.
    :param watching_since: when the factory began to look; machines get ``fizzle_seconds`` from then on, too.
    """
    known = {machinetype.name: machinetype for machinetype in machinetypes}
    found = []
    for machine in own:
        if machine.state != "running":
            continue
        end = _by_order(factory, machine) or _by_time(factory, machine, now)
        machinetype = known.get(machine.machinetype)
        if end is None and machinetype is not None and machine.slot in heartbeats:
            end = _by_heartbeat(machinetype, machine, heartbeats[machine.slot], now, watching_since)
        if end is not None:
            found.append(end)
    return tuple(found)


def wrote_too_much(
    own: t.Iterable[OwnMachine], written: t.Mapping[str, int], bytes_per_processor: int
) -> tuple[End, ...]:
    """Machines that have to end for what they wrote outside their work space, where the engine has no limit for that.

    :param written: bytes by slot; of a slot that is not in it nobody knows.
    """
    return tuple(
        End(
            machine.slot, machine.machinetype, "disk_limit",
            f"it wrote {written[machine.slot]} bytes outside its work space; it may write"
            f" {machine.processors * bytes_per_processor}", "700 Disk limit reached",
        )
        for machine in own
        if machine.state == "running" and written.get(machine.slot, 0) > machine.processors * bytes_per_processor
    )  # fmt: skip


def _by_order(factory: FactorySettings, machine: OwnMachine) -> t.Optional[End]:
    forced = factory.forced.get(machine.slot)
    if machine.slot in factory.stopped_slots:
        reason = "its slot was stopped by order"
    elif forced is not None and forced.machinetype != machine.machinetype:
        reason = f"{forced.machinetype} was ordered for its slot"
    else:
        return None
    return End(machine.slot, machine.machinetype, STOPPED, reason, STOPPED_MESSAGE)


def _by_time(factory: FactorySettings, machine: OwnMachine, now: int) -> t.Optional[End]:
    limit = limit_of(factory, machine)
    if now < limit:
        return None
    # A machine that has been told of an earlier shutdown_time has it for its own limit, and ends because of it.
    if factory.shutdown_time == limit:
        reason = f"the factory's shutdown_time was {now - limit} s ago"
        return End(machine.slot, machine.machinetype, "shutdown_time", reason, "100 Factory shutdown_time reached")
    reason = f"its time limit, {limit - machine.created} s after it was made, was {now - limit} s ago"
    return End(machine.slot, machine.machinetype, "time_limit", reason, "100 Time limit reached")


def _by_heartbeat(
    machinetype: Machinetype, machine: OwnMachine, written: t.Optional[int], now: int, watching_since: int
) -> t.Optional[End]:
    patience = machinetype.fizzle_seconds
    if not machinetype.heartbeat_file or patience <= 0 or machine.started is None:
        return None
    if now <= max(machine.started, watching_since) + patience:
        return None
    name, largest = machinetype.heartbeat_file, machinetype.heartbeat_seconds
    if written is None:
        reason = f"heartbeat file {name} is not there {now - machine.started} s after the start"
        message = "700 Heartbeat file not created"
        return End(
            machine.slot, machine.machinetype, "heartbeat_missing", f"{reason} (fizzle_seconds {patience})", message
        )
    if largest > 0 and now - written > largest:
        reason = f"heartbeat file {name} is {now - written} s old (heartbeat_seconds {largest})"
        return End(machine.slot, machine.machinetype, "heartbeat_old", reason, "700 Heartbeat file not updated")
    return None

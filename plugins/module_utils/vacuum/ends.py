# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines have to end now, and why (spec 4.6), or because somebody has ordered it. Pure.

Draining ends none. One whose state is not known is never ended; nor is one that only starts, which is its maker's.
Which make room for another machinetype that was ordered, ``ordered.py`` knows.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, OwnMachine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.superslots import limit_of

#: Code and shutdown message of a machine that was ended by order. 100 to 199 is the host's doing (spec 4.7).
STOPPED, STOPPED_MESSAGE = "stopped", "100 Stopped by order"

#: Measurements in a row that may take too long until a machine has to end for it.
UNMEASURED = 5


@dataclass(frozen=True)
class End:
    """A machine that has to end.

    :ivar code: ``stopped``, ``time_limit``, ``shutdown_time``, ``heartbeat_missing``, ``heartbeat_old``,
        ``disk_limit`` or ``disk_unknown``.
    :ivar reason: for people, with the figures.
    :ivar message: its shutdown message, if it leaves none itself. 100 to 199 is an end that the host asks for and no
        abort; 700 is one.
    """

    slot: str
    machinetype: str
    code: str
    reason: str
    message: str


@dataclass(frozen=True)
class Heartbeat:
    """The file by which a machine shows that it works, with what was said of it when the machine was made.

    :ivar file: its name in joboutputs.
    :ivar written: when it was written last, Unix seconds; None: it is not there.
    :ivar patience: seconds from the start in which it need not be there: ``fizzle_seconds``; 0: it need never be.
    :ivar largest: its largest age in seconds: ``heartbeat_seconds``; 0: it has to be there, however old.
    :ivar looked: when that was looked for, Unix seconds; None: just now. It is judged as of then.
    """

    file: str
    written: t.Optional[int]
    patience: int
    largest: int
    looked: t.Optional[int] = None

    def ageing_since(self, at: int) -> Heartbeat:
        """The same where nobody can tell how old the file is, for the clock was set then or the host was suspended: it
        was written then, unless it has been since.

        :param at: Unix seconds.
        """
        known = self.written is None or at <= self.written <= (self.looked or self.written)
        return self if known else replace(self, written=at)


def lowered(factory: FactorySettings, own: t.Iterable[OwnMachine]) -> dict[str, int]:
    """New time limits by slot, of machines that the factory's ``shutdown_time`` ends earlier than they know."""
    limits = {machine.slot: (machine, limit_of(factory, machine)) for machine in own if machine.occupies}
    return {slot: limit for slot, (machine, limit) in limits.items() if limit < machine.shutdown_time}


def ends(
    factory: FactorySettings,
    own: t.Iterable[OwnMachine],
    heartbeats: t.Mapping[str, Heartbeat],
    now: int,
    watching_since: int,
) -> tuple[End, ...]:
    """Machines that have to end now. One that is being ended already is named until it has.

    :param heartbeats: by slot, of machines that have to have one. One that could not be looked at is not in it, and is
        not judged by it.
    :param watching_since: when the factory began to look; machines get ``fizzle_seconds`` from then on, too.
    """
    found = []
    for machine in own:
        if machine.state != "running":
            continue
        is_stopped = machine.slot in factory.stopped_slots
        end = _by_order(machine, "its slot was stopped by order") if is_stopped else _by_time(factory, machine, now)
        if end is None and machine.slot in heartbeats:
            end = _by_heartbeat(machine, heartbeats[machine.slot], now, watching_since)
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


def not_measured(own: t.Iterable[OwnMachine], in_a_row: t.Mapping[str, int]) -> tuple[End, ...]:
    """Machines that have to end for what they wrote outside their work space takes too long to measure, time and again:
    so many files are one way round the limit.

    :param in_a_row: by slot, how often.
    """
    return tuple(
        End(
            machine.slot, machine.machinetype, "disk_unknown",
            f"what it wrote outside its work space could not be measured in time, {in_a_row[machine.slot]} times in a"
            " row", "700 Disk use cannot be measured",
        )
        for machine in own
        if machine.state == "running" and in_a_row.get(machine.slot, 0) >= UNMEASURED
    )  # fmt: skip


def replaced(machine: OwnMachine, machinetype: str) -> End:
    """The end of a machine that makes room for another one. Whether that can be started is not asked here.

    :param machinetype: that was ordered for its slot.
    """
    return _by_order(machine, f"{machinetype} was ordered for its slot")


def _by_order(machine: OwnMachine, reason: str) -> End:
    return End(machine.slot, machine.machinetype, STOPPED, reason, STOPPED_MESSAGE)


def _by_time(factory: FactorySettings, machine: OwnMachine, now: int) -> t.Optional[End]:
    limit = limit_of(factory, machine)
    if now < limit:
        return None
    # A machine that has been told of an earlier shutdown_time has it for its own limit, and ends because of it.
    if factory.last_limit == limit:
        reason = factory.shutdown_text(now)
        return End(machine.slot, machine.machinetype, "shutdown_time", reason, "100 Factory shutdown_time reached")
    reason = f"its time limit, {limit - machine.created} s after it was made, was {now - limit} s ago"
    return End(machine.slot, machine.machinetype, "time_limit", reason, "100 Time limit reached")


def _by_heartbeat(machine: OwnMachine, heartbeat: Heartbeat, now: int, watching_since: int) -> t.Optional[End]:
    name, written, patience, largest = heartbeat.file, heartbeat.written, heartbeat.patience, heartbeat.largest
    now = now if heartbeat.looked is None else min(now, heartbeat.looked)
    if patience <= 0 or machine.started is None or now <= max(machine.started, watching_since) + patience:
        return None
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

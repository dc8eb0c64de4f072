# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has become of machines: the records and the engine's containers compared. Pure.

It is asked when an end is announced, now and then in between, and after every start of the factory, of the engine and
of the host, each of which may have been killed at any instant. Only what the engine says counts; when it says nothing,
nobody asks.
"""

from __future__ import annotations

import signal
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    BY_ITSELF,
    ENDED,
    NETWORK_LOST,
    REBOOTED,
    RUNNING,
    START_FAILED,
    STARTING,
    VANISHED,
    Machine,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import FATAL, SOME, Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import STOPPED
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort, outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import CLOCK_TOLERANCE

#: Shutdown messages that the factory gives (spec 4.7): 100 to 199 are the host's doing, and no aborts; 500 is what is
#: wrong with the host, and each machine that is started on it would have.
REBOOTED_MESSAGE = "100 Host was rebooted"
VANISHED_MESSAGE = "100 Container was removed by somebody else"
KILLED_MESSAGE = "100 Machine was killed by somebody else"
NETWORK_MESSAGE = "500 Machine lost its network"
MEMORY_MESSAGE = "700 Memory limit reached"

#: Exit codes of a machine that a signal has ended; and Docker's word for one of which it does not know how it ended.
_KILLED, _LOST = frozenset(128 + number for number in FATAL), 255
_KILL = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Heard:
    """What the engine's events have told of a machine that has not been told to end.

    :ivar signal: that somebody else has sent it; ``SOME``: nobody knows which one; None: none.
    :ivar deaf: when nobody heard the engine: from and until, Unix seconds.
    """

    signal: t.Optional[int] = None
    deaf: tuple[tuple[float, float], ...] = ()


NOTHING = Heard()


@dataclass(frozen=True)
class Found:
    """What the comparison found.

    :ivar running: machines that run, as they are now to be written down.
    :ivar over: machines that have ended, each with its container if there still is one.
    :ivar unborn: machines that a killed factory had begun to make: they never ran, and are taken away without a trace.
    :ivar strays: containers of no machine that is to have one.
    """

    running: tuple[Machine, ...] = ()
    over: tuple[tuple[Machine, t.Optional[Container]], ...] = ()
    unborn: tuple[Machine, ...] = ()
    strays: tuple[Container, ...] = ()


def compare(
    machines: t.Iterable[Machine],
    containers: t.Iterable[Container],
    in_flight: t.Container[str],
    now: int,
    clock: Clock,
    unread: t.Collection[Unreadable] = (),
) -> Found:
    """Compare.

    :param machines: all that are written down; those that have ended are only looked at for their containers.
    :param containers: of this factory; all of them, or those of the machines given.
    :param in_flight: uuids of machines that are being made or taken away at this moment: their workers look after them.
    :param clock: the host's.
    :param unread: records that cannot be read: a container that may be of one of them is no stray.
    """
    by_uuid: dict[str, list[Container]] = {}
    for one in containers:
        by_uuid.setdefault(one.uuid, []).append(one)
    running: list[Machine] = []
    over: list[tuple[Machine, t.Optional[Container]]] = []
    unborn: list[Machine] = []
    for known in machines:
        machine = _set_back(known, now)
        container = next((one for one in by_uuid.pop(machine.uuid, ()) if one.is_of(machine)), None)
        if machine.uuid in in_flight or machine.state == ENDED:
            continue
        if container is not None and container.alive:
            machine = seen_to_run(machine, now, clock)
            started = machine.started or container.started or machine.seen
            running.append(replace(machine, state=RUNNING, container=container.id, started=started))
        elif container is not None and container.over:
            over.append((machine, container))
        elif machine.state == STARTING:
            unborn.append(machine)
        else:
            over.append((machine, container))
    strays = [
        container
        for containers_of_one in by_uuid.values()
        for container in containers_of_one
        if container.is_machines
        and container.uuid not in in_flight
        and not any(one.is_of(container.uuid) for one in unread)
    ]
    return Found(tuple(running), tuple(over), tuple(unborn), tuple(strays))


def clock_of(machines: t.Iterable[Machine], clock: Clock) -> Clock:
    """The clock, to the second that of the machines which have not ended, unless it was set since."""
    same = (
        machine.booted
        for machine in machines
        if machine.boot and machine.boot == clock.boot and machine.state != ENDED
        and not clock.ahead(machine.boot, machine.booted)
    )  # fmt: skip
    return replace(clock, booted=next(same, clock.booted))


def by_its_clock(machine: Machine, now: int, clock: Clock) -> int:
    """Now, by the clock of a machine's times: what is set among them while the others are still by the old clock."""
    return now - clock.ahead(machine.boot, machine.booted)


def seen_to_run(machine: Machine, now: int, clock: Clock) -> Machine:
    """A machine that runs now. Its times stay by their clock; of one that an older version has written down it is known
    from now on which that is."""
    machine = _set_back(machine, now)
    if machine.boot != clock.boot:
        machine = replace(machine, boot=clock.boot, booted=clock.booted)
    return replace(machine, seen=by_its_clock(machine, now, clock))


def by_the_clock(machine: Machine, now: int, clock: Clock) -> Machine:
    """A machine that has not ended, with its times by the clock as it is now, however that was set since it was made.

    It has lived for as long as before, and has as much time left. By its old times one that has just started would have
    run for years, or not have begun yet, and its end would be at once, or when the clock is where it was.
    """
    ahead = clock.ahead(machine.boot, machine.booted)
    if machine.state == ENDED or not ahead:
        return machine
    started, seen, told = (
        None if at is None else min(at + ahead, now) for at in (machine.started, machine.seen, machine.told)
    )
    return replace(
        machine, started=started, seen=seen, told=told, shutdown_time=machine.shutdown_time + ahead,
        booted=clock.booted, set_by=machine.set_by + ahead, set_at=now,
    )  # fmt: skip


def _set_back(machine: Machine, now: int) -> Machine:
    """The same of a machine of which an older version has not written down by which clock its times are: one that was
    seen later than now was seen before the clock was set back."""
    back = (machine.seen or 0) - now
    if machine.boot or machine.state == ENDED or back <= CLOCK_TOLERANCE:
        return machine
    started, told = (None if at is None else at - back for at in (machine.started, machine.told))
    return replace(machine, seen=now, started=started, told=told)


def _finished(at: int, seen: int, now: int, ahead: int) -> int:
    """When a machine ended, by the clock as it is now. The engine's word is by the clock as it was then.

    :param at: by the engine's word.
    :param seen: when it was last known to run.
    :param ahead: by how much the clock was set since.
    """
    for one in (at, at + ahead):
        if seen - CLOCK_TOLERANCE <= one <= now + CLOCK_TOLERANCE:
            return one
    return max(min(at, now), seen)


def ended(
    machine: Machine,
    container: t.Optional[Container],
    message: t.Optional[str],
    clock: Clock,
    now: int,
    heard: Heard = NOTHING,
) -> Machine:
    """A machine that has ended, as it is written down.

    :param container: its container; None: it is gone.
    :param message: the shutdown message it left; None: none.
    :param clock: the host's.
    :param heard: by who listens to the engine.
    """
    at = container.finished if container is not None and container.finished is not None else now
    ahead = clock.ahead(machine.boot, machine.booted)
    machine = by_the_clock(_set_back(machine, at), now, clock)
    rebooted = machine.is_of_another_boot(clock)
    seen = machine.seen or machine.started or machine.made
    started = machine.started or (container.started if container is not None else None)
    if rebooted:
        # No machine outlives its host, whatever it was to end for, and whenever that was noticed.
        at = at if seen <= at < clock.booted else seen
    elif machine.boot:
        seen = min(seen, now)
        at = _finished(at, seen, now, ahead)
    code, reason, given = machine.end_code, machine.end_reason, machine.shutdown_message
    if not code and rebooted:
        code, reason, given = REBOOTED, "the host was rebooted", REBOOTED_MESSAGE
    elif not code and container is None:
        code, reason, given = VANISHED, "its container was removed by somebody else", VANISHED_MESSAGE
        at = seen
    elif not code and container is not None and container.exit_code is None:
        # Apptainer's: who looked after it has not lived to see its end.
        code, reason, given = VANISHED, "what looked after it was killed", KILLED_MESSAGE
    elif not code and container is not None and container.problem and not container.out_of_memory:
        code, reason, given = NETWORK_LOST, container.problem, NETWORK_MESSAGE
    elif not code:
        code, reason = BY_ITSELF, "it ended by itself"
        outside = _from_outside(container, message, heard) if container is not None else ""
        if outside:
            reason = outside
            if message is None:
                code, given = VANISHED, KILLED_MESSAGE
        elif container is not None and container.out_of_memory:
            reason, given = "it ended itself after it had reached its memory limit", MEMORY_MESSAGE
        elif container is not None and container.exit_code == _KILL:
            # Docker's containerd (1.6.20) watches a container's memory a moment after it has started it: what the
            # kernel kills before that is told by nobody.
            reason = "it ended by itself after a SIGKILL, its own or its memory limit's; the engine told of none"
    elif code == STOPPED and is_abort(message):
        # Whatever it says of an end that was not its own, its machinetype is not to blame.
        reason, message = f'{reason}; it said "{message}"', None
    at = max(at, started or machine.made)
    used = container.cpu_seconds if container is not None else None
    over = replace(
        machine, state=ENDED, started=started, ended=at, seen=max(seen, at), shutdown_message=message or given,
        end_code=code, end_reason=reason, exit_code=container.exit_code if container is not None else None,
        cpu_seconds=machine.cpu_seconds if used is None else int(used),
    )  # fmt: skip
    verdict = outcome(over.own(), Machinetype(machine.machinetype, fizzle_seconds=machine.fizzle_seconds))
    return replace(over, shutdown_message=verdict.message if verdict is not None else over.shutdown_message)


def _from_outside(container: Container, message: t.Optional[str], heard: Heard) -> str:
    """How a machine was ended by somebody else; empty: nobody knows of anything. A machine may kill itself, and its
    memory limit kills it too, so its exit code alone says nothing."""
    if container.out_of_memory:
        return ""
    killed, finished = container.exit_code in _KILLED, container.finished
    if heard.signal is not None and (heard.signal != SOME or killed):
        name = signal.Signals(heard.signal).name if heard.signal != SOME else "a signal"
        return f"it ended after somebody else had sent it {name}"
    unheard = finished is not None and any(int(begin) <= finished <= end for begin, end in heard.deaf)
    if unheard and (killed or container.exit_code == _LOST or message is not None):
        return "it ended while the engine was away"
    return ""


def not_started(machine: Machine, reason: str, now: int) -> Machine:
    """A machine that could not be made, as it is written down: an abort, so that its machinetype backs off."""
    return replace(
        machine, state=ENDED, ended=now, failed_start=True, end_code=START_FAILED, end_reason=reason,
        shutdown_message="500 Machine did not start",
    )  # fmt: skip

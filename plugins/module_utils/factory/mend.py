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
    unread: t.Collection[Unreadable] = (),
) -> Found:
    """Compare.

    :param machines: all that are written down; those that have ended are only looked at for their containers.
    :param containers: of this factory; all of them, or those of the machines given.
    :param in_flight: uuids of machines that are being made or taken away at this moment: their workers look after them.
    :param unread: records that cannot be read: a container that may be of one of them is no stray.
    """
    by_uuid = {container.uuid: container for container in containers}
    running: list[Machine] = []
    over: list[tuple[Machine, t.Optional[Container]]] = []
    unborn: list[Machine] = []
    for known in machines:
        machine = by_the_clock(known, now)
        container = by_uuid.pop(machine.uuid, None)
        if machine.uuid in in_flight or machine.state == ENDED:
            continue
        if container is not None and container.alive:
            started = machine.started or container.started or now
            running.append(replace(machine, state=RUNNING, container=container.id, started=started, seen=now))
        elif container is not None and container.over:
            over.append((machine, container))
        elif machine.state == STARTING:
            unborn.append(machine)
        else:
            over.append((machine, container))
    strays = [
        container
        for container in by_uuid.values()
        if container.uuid not in in_flight and not any(one.is_of(container.uuid) for one in unread)
    ]
    return Found(tuple(running), tuple(over), tuple(unborn), tuple(strays))


def by_the_clock(machine: Machine, now: int) -> Machine:
    """A machine that has not ended, with what it has lived and the grace it has had, whatever happened to the clock.

    One that was seen later than now was seen before the clock was set back. By its old times it would not have begun
    yet: its end would be a fizzle, for which the whole space backs off, and KILL would wait for as long as the clock
    was set back by.
    """
    back = (machine.seen or 0) - now
    if machine.state == ENDED or back <= CLOCK_TOLERANCE:
        return machine
    started, told = (None if at is None else at - back for at in (machine.started, machine.told))
    return replace(machine, seen=now, started=started, told=told)


def ended(
    machine: Machine,
    container: t.Optional[Container],
    message: t.Optional[str],
    boot_time: int,
    now: int,
    heard: Heard = NOTHING,
) -> Machine:
    """A machine that has ended, as it is written down.

    :param container: its container; None: it is gone.
    :param message: the shutdown message it left; None: none.
    :param boot_time: of the host, by its clock as it is now.
    :param heard: by who listens to the engine.
    """
    at = container.finished if container is not None and container.finished is not None else now
    machine = by_the_clock(machine, at)
    seen = machine.seen or machine.started or machine.created
    started = machine.started or (container.started if container is not None else None)
    if seen < boot_time <= at:
        at = seen  # no machine outlives its host, whatever it was to end for, and whenever that was noticed
    code, reason, given = machine.end_code, machine.end_reason, machine.shutdown_message
    if not code and seen < boot_time:
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
    at = max(at, started or machine.created)
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

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine of this factory: what is written down of it, from before it is made until its folder goes. Pure.

All that a factory has to know after a restart is in the file ``machine.json`` of the machine's folder: what was in the
pipe when it was made counts for it, whatever is in the pipe now.
"""

from __future__ import annotations

import json
import typing as t
import uuid
from dataclasses import asdict, dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.json_types import read
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, OwnMachine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import CLOCK_TOLERANCE

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start

STARTING, RUNNING, ENDED = "starting", "running", "ended"

#: Why a machine has ended, beside the codes of ``vacuum.ends``.
BY_ITSELF = "by_itself"
START_FAILED = "start_failed"
VANISHED = "vanished"
NETWORK_LOST = "network_lost"
REBOOTED = "rebooted"


@dataclass(frozen=True)
class Machine:
    """A machine. Times are Unix seconds.

    :ivar uuid: of this machine; also in its container's label, by which it is known.
    :ivar slot: the slot's name, and the machine's host name.
    :ivar shutdown_time: its time limit.
    :ivar memory_bytes: that it may use.
    :ivar hs06: of its processors; None: the factory does not count.
    :ivar started: when its container came to run; None: it has not, yet.
    :ivar seen: when it was last known to run.
    :ivar ended: when it ended, by the engine's word.
    :ivar cpu_percentage: of a processor that it used lately, when that was last measured.
    :ivar shutdown_message: the one it left, or, once it has ended, the one the factory gave it; None: none.
    :ivar told: when it was told to end (TERM); None: it has not been.
    :ivar end_code: why it ended: by itself, or what the factory ended it for. Set before it is told to end.
    :ivar end_reason: the same, for people.
    :ivar failed_start: it never came to run.
    :ivar cleaned: it has ended, and its container and its work space are gone.
    :ivar boot: of the host, by its mark, in which it runs; empty: an older version has written that down.
    :ivar booted: when that was by the clock of its times, but for ``created``, which is in its folder's name.
    :ivar set_by: seconds by which the clock was set forward since it was made, back if they are negative.
    :ivar set_at: when that was last known, by that clock; 0: it was not set. The times of files before are by another.
    """

    uuid: str
    slot: str
    machinetype: str
    machine_model: str
    processors: int
    created: int
    shutdown_time: int
    memory_bytes: int
    root_image: str
    fizzle_seconds: int
    hs06: t.Optional[float] = None
    accounting_fqan: t.Optional[str] = None
    cvmfs_repositories: tuple[str, ...] = ()
    heartbeat_file: t.Optional[str] = None
    heartbeat_seconds: int = 0
    state: str = STARTING
    container: str = ""
    started: t.Optional[int] = None
    seen: t.Optional[int] = None
    told: t.Optional[int] = None
    ended: t.Optional[int] = None
    cpu_seconds: int = 0
    cpu_percentage: float = 0.0
    exit_code: t.Optional[int] = None
    shutdown_message: t.Optional[str] = None
    end_code: str = ""
    end_reason: str = ""
    failed_start: bool = False
    cleaned: bool = False
    boot: str = ""
    booted: int = 0
    set_by: int = 0
    set_at: int = 0

    @property
    def container_name(self) -> str:
        """The name of its container. The slot's alone would be taken until the machine before is cleaned away."""
        return f"{self.slot}_{self.uuid[:8]}"

    @property
    def folder(self) -> str:
        """The name of its folder: Vac's, and the beginning of the uuid, for two can be made in one second."""
        return f"{self.created}_{self.machinetype}_{self.slot}_{self.uuid[:8]}"

    @property
    def made(self) -> int:
        """When it was made, by the clock of its other times."""
        return self.created + self.set_by

    def is_of_another_boot(self, clock: Clock) -> bool:
        """Whether the host was booted since. Its clock may have been wrong before or after, so its times tell that only
        where nothing else does."""
        if self.boot:
            return self.boot != clock.boot
        return (self.seen or self.started or self.created) < clock.booted

    def is_alive_in(self, listed: t.Iterable[Container]) -> bool:
        """Whether it runs, by what the engine lists."""
        return any(one.alive and one.is_of(self) for one in listed)

    def own(self, can_tell: bool = True) -> OwnMachine:
        """As decisions see it.

        :param can_tell: whether the engine can be asked; what ran then is ``unknown`` while it cannot.
        """
        return OwnMachine(
            self.slot, self.machinetype, self.processors,
            "unknown" if self.state == RUNNING and not can_tell else self.state,
            self.made, self.shutdown_time, self.started, self.ended, self.shutdown_message, self.failed_start,
            self.told,
        )  # fmt: skip

    def as_json(self) -> str:
        """The text of ``machine.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"


def planned(start: Start, machinetype: Machinetype, settings: FactorySettings, now: int, clock: Clock) -> Machine:
    """The machine that a decision wants, as it is written down before anything of it is made.

    :param now: Unix seconds.
    :param clock: by which that is.
    """
    return Machine(
        uuid=str(uuid.uuid4()), slot=start.slot, machinetype=machinetype.name,
        machine_model=machinetype.machine_model, processors=start.processors, created=now,
        shutdown_time=start.shutdown_time, memory_bytes=start.processors * settings.mb_per_processor << 20,
        root_image=machinetype.root_image, fizzle_seconds=machinetype.fizzle_seconds,
        hs06=settings.usage(start.processors) if settings.hs06_per_processor is not None else None,
        accounting_fqan=machinetype.accounting_fqan, cvmfs_repositories=machinetype.repositories,
        heartbeat_file=machinetype.heartbeat_file, heartbeat_seconds=machinetype.heartbeat_seconds,
        boot=clock.boot, booted=clock.booted,
    )  # fmt: skip


def last_in_slots(machines: t.Iterable[Machine]) -> dict[str, Machine]:
    """By slot, the machine that is in it, else the one that was made last in it."""
    last: dict[str, Machine] = {}
    for machine in machines:
        other = last.get(machine.slot)
        if other is None or (machine.state != ENDED, machine.created) >= (other.state != ENDED, other.created):
            last[machine.slot] = machine
    return last


def with_former(slots: t.Sequence[str], machines: t.Iterable[Machine], others: t.Iterable[str] = ()) -> tuple[str, ...]:
    """The slots that a factory has, in its order; and after them, by name, those that it had before its configuration
    was changed, whose machines have not ended: they go on, and who drains the host, stops it or looks at it means them.

    :param slots: that are configured.
    :param others: where something else is that has to do with a slot: a record that cannot be read, or an order.
    """
    former = {one.slot for one in machines if one.state != ENDED}.union(others)
    return (*slots, *sorted(former.difference(slots)))


def last_ended(machines: t.Iterable[Machine], now: float) -> dict[str, Machine]:
    """By machinetype, the machine that ended last: what others are told of, and back off from (spec 7.3).

    :param now: Unix seconds. An end that lies ahead is of a clock that was set back: any other is later.
    """

    def ended(machine: Machine) -> int:
        at = machine.ended or 0
        return at if at <= now + CLOCK_TOLERANCE else 0

    last: dict[str, Machine] = {}
    for machine in machines:
        other = last.get(machine.machinetype)
        if machine.state == ENDED and (other is None or ended(other) <= ended(machine)):
            last[machine.machinetype] = machine
    return last


def from_json(text: t.Union[str, bytes], where: str) -> Machine:
    """A machine from its file.

    :param where: the file, for the error.
    :raises GridboxError: if it is none.
    """
    try:
        made = t.cast("Machine", read(Machine, json.loads(text)))
        if made.state not in (STARTING, RUNNING, ENDED):
            raise ValueError(f"{made.state!r:.60} is no state of a machine")
    except (ValueError, TypeError, RecursionError) as exc:
        raise GridboxError(f"{where} is not a machine's record ({exc}).") from exc
    return made

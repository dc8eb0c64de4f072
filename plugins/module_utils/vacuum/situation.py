# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory decides from: its settings, its machines, what the others run, its load. Frozen, with Vac's names."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Forced:
    """The machinetype that somebody wants in a slot, whatever shares and back-off say.

    :ivar since: when that was said, Unix seconds: what ended before does not count against it.
    """

    machinetype: str
    since: int = 0


@dataclass(frozen=True)
class FactorySettings:
    """Settings of a factory (spec 2.2), validated.

    :ivar name: its host name with the domain, as it answers VacQuery.
    :ivar slots: names of its slots; the first free one is filled.
    :ivar total_processors: processors that all machines together may have.
    :ivar processors_per_superslot: size of a superslot, and of the largest machine; 1: no superslots.
    :ivar mb_per_processor: MiB of memory for each processor of a machine.
    :ivar hs06_per_processor: HS06 of a processor; None: usage is counted in processors.
    :ivar overload_per_processor: load per processor above which nothing is started.
    :ivar shutdown_time: when all machines have to be gone, Unix seconds; None: never.
    :ivar grace_seconds: from telling a machine to end (TERM) to killing it.
    :ivar draining: start nothing, let what runs end by itself.
    :ivar disk_bytes_per_processor: work space for each processor; None: a machine has its processors' share of all
        there is, unless its machinetype says how much it wants.
    :ivar least_disk_bytes: the smallest work space that can be made.
    :ivar closed_slots: slots in which nothing is started: drained and stopped ones.
    :ivar stopped_slots: those of them whose machine has to end.
    :ivar forced: by slot, the only machinetype that is started there.
    """

    name: str
    slots: tuple[str, ...]
    total_processors: int
    processors_per_superslot: int = 1
    mb_per_processor: int = 2048
    hs06_per_processor: t.Optional[float] = None
    overload_per_processor: float = 1.25
    shutdown_time: t.Optional[int] = None
    grace_seconds: int = 0
    draining: bool = False
    disk_bytes_per_processor: t.Optional[int] = None
    least_disk_bytes: int = 1 << 20
    closed_slots: frozenset[str] = frozenset()
    stopped_slots: frozenset[str] = frozenset()
    forced: t.Mapping[str, Forced] = field(default_factory=dict)

    @property
    def last_limit(self) -> t.Optional[int]:
        """The latest time limit that a machine can have, Unix seconds; None: there is none.

        At its limit a machine is told to end, and killed after its grace: so that it is gone by ``shutdown_time``.
        """
        return None if self.shutdown_time is None else self.shutdown_time - self.grace_seconds

    def shutdown_text(self, now: int) -> str:
        """When ``shutdown_time`` is, for people."""
        left = (self.shutdown_time or 0) - now
        when = f"is in {left} s" if left > 0 else f"was {-left} s ago"
        return f"the factory's shutdown_time {when} (grace_seconds {self.grace_seconds})"

    def usage(self, processors: int) -> float:
        """What so many processors count: HS06, or 1.0 for each where HS06 is not set, as Vac has it."""
        return processors * (self.hs06_per_processor or 1.0)


@dataclass(frozen=True)
class OwnMachine:
    """A machine of this factory, or one that has ended here. Times are Unix seconds.

    :ivar state: ``starting``, ``running``, ``ended``, or ``unknown``: the engine could not be asked.
    :ivar shutdown_time: its time limit.
    :ivar started: when it ran first; None: not yet, or never.
    :ivar shutdown_message: what it left, or what the factory left for it; None: nothing.
    :ivar failed_start: it was made and never came to run.
    :ivar told: when it was told to end; None: it has not been.
    """

    slot: str
    machinetype: str
    processors: int
    state: str
    created: int
    shutdown_time: int
    started: t.Optional[int] = None
    ended: t.Optional[int] = None
    shutdown_message: t.Optional[str] = None
    failed_start: bool = False
    told: t.Optional[int] = None

    @property
    def occupies(self) -> bool:
        """Whether its slot, processors, memory and disk are not free: unless it is known to have ended.

        An engine that does not answer says nothing about a machine, so it is neither ended nor replaced (spec 9.1, 2).
        """
        return self.state != "ended"

    @property
    def end_time(self) -> int:
        """When it ended, Unix seconds; when it was made, if it never ran and has no such time. Only of one that has."""
        return self.created if self.ended is None else self.ended


class PeerUsage(t.NamedTuple):
    """What another factory says about one machinetype, of its ``machinetype_status`` (spec 7.3). A tuple, for there are
    some ten thousand in a large space.

    :ivar running_hs06: HS06 of its machines; 0 beside running processors: it does not count in HS06.
    :ivar num_before_fizzle: machines that start, or have not run for ``fizzle_seconds`` yet.
    :ivar shutdown_message: of its newest ended machine; None: it had none, or no number.
    :ivar shutdown_time: when that was, by the peer's clock.
    :ivar clock_ahead: seconds that the peer's clock is ahead of ours: its ``time_sent`` less the time of arrival.
    """

    factory: str
    machinetype: str
    running_hs06: float = 0.0
    running_processors: float = 0
    num_before_fizzle: int = 0
    shutdown_message: t.Optional[str] = None
    shutdown_time: t.Optional[int] = None
    clock_ahead: int = 0


@dataclass(frozen=True)
class HostLoad:
    """The host at this moment.

    :ivar processors: that the host has.
    :ivar load_averages: over 1, 5 and 15 minutes.
    :ivar memory_total_mb: MiB; None: not known, so not judged. The same with the others.
    :ivar memory_available_mb: MiB that could be had without swapping (``MemAvailable``).
    :ivar disk_free_bytes: work space that is not promised to a machine that runs.
    :ivar disk_whole_bytes: work space of which a machine has its processors' share where nothing is said of its size;
        None: all that is free.
    :ivar shortage: what was lacking when a machine was to be started a moment ago, in a sentence without its full stop;
        empty: nothing.
    """

    processors: int
    load_averages: tuple[float, float, float] = (0.0, 0.0, 0.0)
    memory_total_mb: t.Optional[int] = None
    memory_available_mb: t.Optional[int] = None
    disk_free_bytes: t.Optional[int] = None
    disk_whole_bytes: t.Optional[int] = None
    shortage: str = ""


#: Codes of refusals, of machinetypes of which no machine can be made: it is not for this factory; something is wrong
#: with it; something is said of it, and its pipe does not bring it, or has never been read; it has no share, and so it
#: is not got ready; one of its repositories does not answer; its image is not here.
NOT_HERE, DROPPED, NOT_BROUGHT, PIPE_UNREAD, NO_SHARE, NO_REPOSITORY, NO_IMAGE = (
    "not_here", "dropped", "not_brought", "pipe_unread", "no_share", "no_repository", "no_image",
)  # fmt: skip

#: And of machinetypes that are judged, and too large for every superslot.
TOO_LARGE = "too_large"


@dataclass(frozen=True)
class Refusal:
    """Why not.

    :ivar code: one word for programs.
    :ivar text: for people, with the figures.
    """

    code: str
    text: str

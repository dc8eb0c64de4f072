# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the host has room for another machine, and of how many processors. Pure.

The load rules are Vac's (spec 4.4): the largest of the three averages may not exceed ``overload_per_processor`` for
each processor that machines have, if those are more than four, nor for each that the host has. One thing differs. The
averages reach back 15 minutes, so a machine that has just ended still is in them; its processors are counted for as
long. With Vac's rule a factory of two machines of eight processors could not refill the slot of one that ended until
the average had come down.

Memory and disk Vac does not judge. Memory has two rules: what all machines may take fits the host's memory with
:data:`MEMORY_TOLERANCE`, and what the new one and those that start may take is available now. Of disk, the work space
that the new one would be given has to be free. A start that lacks room would fail, and that means back-off in the whole
space; what a host lacks is no other's business.
"""

from __future__ import annotations

import functools
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
    Refusal,
)

#: How far the host's own memory figure may be exceeded: a host sold with 2 GiB for each processor shows some per cent
#: less, for kernel and firmware keep it, and is to have all its slots.
MEMORY_TOLERANCE = 1.05

#: Seconds that a machine which ended is still in the load averages.
LOAD_WINDOW = 900

#: Fewer processors than this are not compared with the load: what else the host does would be most of it.
FEW_PROCESSORS = 4


def occupied(own: t.Iterable[OwnMachine]) -> int:
    """Processors that are not free."""
    return sum(machine.processors for machine in own if machine.occupies)


def free_slots(factory: FactorySettings, own: t.Iterable[OwnMachine]) -> list[str]:
    """Slots without a machine in which any machinetype may be started, in the factory's order."""
    return [slot for slot in _empty_slots(factory, own) if slot not in factory.forced]


def forced_slots(factory: FactorySettings, own: t.Iterable[OwnMachine]) -> list[str]:
    """Slots without a machine in which one certain machinetype may be started, in the factory's order."""
    return [slot for slot in _empty_slots(factory, own) if slot in factory.forced]


def _empty_slots(factory: FactorySettings, own: t.Iterable[OwnMachine]) -> list[str]:
    taken = {machine.slot for machine in own if machine.occupies} | factory.closed_slots
    return [slot for slot in factory.slots if slot not in taken]


def veto(factory: FactorySettings, own: t.Sequence[OwnMachine], host: HostLoad, now: int) -> t.Optional[Refusal]:
    """Why this factory starts nothing at all; None: it may. The first that holds."""
    if factory.last_limit is not None and now >= factory.last_limit:
        return Refusal("shutdown_time", factory.shutdown_text(now))
    if factory.draining:
        return Refusal("draining", "the factory is draining")
    running = occupied(own)
    if running >= factory.total_processors:
        return Refusal("full", f"{running} of {factory.total_processors} processors are taken")
    if not _empty_slots(factory, own):
        closed = sum(slot in factory.closed_slots for slot in factory.slots)
        drained = f", or drained or stopped by order, as {closed} are" if closed else ""
        return Refusal("no_slot", f"all {len(factory.slots)} slots are taken{drained}")
    if host.shortage:
        return Refusal("shortage", host.shortage)
    return _overload(factory, own, host, running, now) or _memory(factory, own, host)


def _overload(
    factory: FactorySettings, own: t.Sequence[OwnMachine], host: HostLoad, running: int, now: int
) -> t.Optional[Refusal]:
    load, limit = max(host.load_averages), factory.overload_per_processor
    lately = sum(m.processors for m in own if m.ended is not None and not m.occupies and now < m.ended + LOAD_WINDOW)
    counted = min(factory.total_processors, running + lately)
    if counted > FEW_PROCESSORS and load > limit * counted:
        whose, processors = "that machines have or had in the last 15 minutes", counted
    elif load > limit * host.processors:
        whose, processors = "of the host", host.processors
    else:
        return None
    return Refusal(
        "load",
        f"the load is {load:g}, and the limit for the {processors} processors {whose} is {limit * processors:g}"
        f" (overload_per_processor {limit:g})",
    )


def _memory(factory: FactorySettings, own: t.Sequence[OwnMachine], host: HostLoad) -> t.Optional[Refusal]:
    if processors_by_memory(factory, own, host) > 0:
        return None
    starting = sum(machine.processors for machine in own if machine.state == "starting")
    return Refusal(
        "memory",
        f"a processor needs {factory.mb_per_processor} MiB; the {occupied(own)} that are taken may use"
        f" {occupied(own) * factory.mb_per_processor} of {host.memory_total_mb}, and {host.memory_available_mb} are"
        f" available, of which those that start will use {starting * factory.mb_per_processor}",
    )


def processors_by_memory(factory: FactorySettings, own: t.Iterable[OwnMachine], host: HostLoad) -> int:
    """Processors that there is memory for."""
    machines = [machine for machine in own if machine.occupies]
    most = factory.total_processors
    if host.memory_total_mb is not None:
        most = int(host.memory_total_mb * MEMORY_TOLERANCE) // factory.mb_per_processor - occupied(machines)
    if host.memory_available_mb is not None:
        starting = sum(machine.processors for machine in machines if machine.state == "starting")
        most = min(most, host.memory_available_mb // factory.mb_per_processor - starting)
    return max(0, most)


class Means:
    """What memory and disk do for, at one decision.

    :ivar own: machines of the factory.
    :ivar known: by name, the machinetypes of which machines can be made here.
    :ivar by_memory: processors that there is memory for.
    """

    def __init__(
        self,
        factory: FactorySettings,
        own: t.Iterable[OwnMachine],
        host: HostLoad,
        known: t.Mapping[str, Machinetype],
    ) -> None:
        self.factory, self.host, self.known = factory, host, known
        self.own = tuple(own)
        self.by_memory = processors_by_memory(factory, self.own, host)

    def most(self, machinetype: Machinetype) -> int:
        """Processors of a machinetype that there is memory and work space for."""
        free, whole, total = self._free, self._whole, self.factory.total_processors
        if free is None or whole is None:
            return self.by_memory
        each = disk_bytes(self.factory, machinetype)
        if each:
            return min(self.by_memory, free // each)
        # The largest number whose share is no more than that.
        return min(self.by_memory, ((free + 1) * total - 1) // whole if self._is_enough(whole // total) else 0)

    def lack(self, machinetype: Machinetype) -> str:
        """Why there is not enough, for people."""
        text = f"memory and disk do for {self.most(machinetype)} processors"
        text = f"{text}, and its min_processors is {machinetype.min_processors}"
        if self.by_memory >= machinetype.min_processors:
            size = _gb(self.work_space(machinetype, 1))
            share = "" if disk_bytes(self.factory, machinetype) else ", its share of all there is"
            if share and not self._is_enough(self.work_space(machinetype, 1)):
                share = f"{share}, where {_gb(self.factory.least_disk_bytes)} is the least"
            text = f"{text}: a processor's work space is {size}{share}, and {_gb(self._free or 0)} are free"
        return text

    def host_without(self, machines: t.Iterable[OwnMachine]) -> HostLoad:
        """The host when these machines have ended and their work spaces are gone. Nobody knows how much memory
        that gives back, so none is counted."""
        if self.host.disk_free_bytes is None:
            return self.host
        freed = sum(
            self.work_space(self.known[machine.machinetype], machine.processors)
            for machine in machines
            if machine.machinetype in self.known  # of another nobody knows the size any more
        )
        return replace(self.host, disk_free_bytes=self.host.disk_free_bytes + freed)

    def work_space(self, machinetype: t.Optional[Machinetype], processors: int) -> int:
        """Bytes of the work space that a machine would be given."""
        each = disk_bytes(self.factory, machinetype)
        return work_space_bytes(each, self._whole or 0, processors, self.factory.total_processors)

    def _is_enough(self, share: int) -> bool:
        """Whether a processor's share of all there is does for a work space."""
        return share >= self.factory.least_disk_bytes

    @functools.cached_property
    def _whole(self) -> t.Optional[int]:
        whole = self.host.disk_whole_bytes
        return whole if whole is not None else self.host.disk_free_bytes

    @functools.cached_property
    def _free(self) -> t.Optional[int]:
        """What is free, less what those that start take: they may not have it yet."""
        if self.host.disk_free_bytes is None:
            return None
        promised = sum(
            self.work_space(self.known.get(machine.machinetype), machine.processors)
            for machine in self.own
            if machine.state == "starting"
        )
        return max(0, self.host.disk_free_bytes - promised)


def _gb(size: int) -> str:
    return f"{round(size / 10**9, 3):g} GB"


def work_space_bytes(each: t.Optional[int], whole: int, processors: int, total_processors: int) -> int:
    """The work space of a machine: what is fixed for each processor, else its processors' share of all there is (spec
    6.3)."""
    return processors * each if each else processors * whole // total_processors


def disk_bytes(factory: FactorySettings, machinetype: t.Optional[Machinetype]) -> t.Optional[int]:
    """Work space of each processor: the machinetype's if that is smaller, or the factory's is not set (spec 2.3)."""
    wanted = machinetype.disk_gb_per_processor if machinetype is not None else None
    given = [size for size in (factory.disk_bytes_per_processor, wanted and wanted * 10**9) if size]
    return min(given) if given else None

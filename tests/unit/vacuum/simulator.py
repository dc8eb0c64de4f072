# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A space of factories in simulated time, each of which takes the real decisions. Used by tests and by the bench."""

from __future__ import annotations

import heapq
import random
import typing as t
from collections import Counter
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start, decide
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Abort, Space, Usage

IDLE = HostLoad(processors=10_000)


@dataclass(frozen=True)
class Workload:
    """What the machines of a machinetype do.

    :ivar seconds: how long one lives, from and to.
    :ivar idle: from and to when its queue is empty: machines that start then end after a minute, with code 300.
    """

    seconds: tuple[int, int] = (3600, 7200)
    idle: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Started:
    """A start as it happened."""

    at: int
    factory: str
    start: Start


class Simulation:
    """Factories that start, end and report machines.

    :param lag: seconds for which the factories see the same sums; 0: each sees what is.
    :param sick: by number of a factory, from and to when it is sick: no machine that is started there comes to run.
    :param superslot: processors of one.
    :param late: how long machines take to be gone after their time limit, from and to.
    :ivar started: all starts.
    :ivar aborted: all aborts: time, machinetype.
    :ivar occupancy: processor seconds of each machinetype since :meth:`reset`.
    """

    def __init__(
        self,
        factories: int,
        slots: int,
        machinetypes: t.Sequence[Machinetype],
        workloads: t.Mapping[str, Workload],
        lag: int = 0,
        seed: int = 1,
        sick: t.Optional[t.Mapping[int, tuple[int, int]]] = None,
        superslot: int = 1,
        late: tuple[int, int] = (0, 0),
    ) -> None:
        self.machinetypes, self.workloads, self.lag, self.sick = tuple(machinetypes), workloads, lag, sick or {}
        self.random, self.late = random.Random(seed), late
        self.settings = [
            FactorySettings(
                f"f{n}.example.com", tuple(f"f{n}-{slot:02}.example.com" for slot in range(slots)), slots,
                processors_per_superslot=superslot, grace_seconds=60,
            )
            for n in range(factories)
        ]  # fmt: skip
        self.now = 0
        self.machines: list[dict[str, OwnMachine]] = [{} for _turn in self.settings]
        # Of each machinetype the newest abort, or all failures since a machine of it worked.
        self.aborts: list[dict[str, list[OwnMachine]]] = [{} for _turn in self.settings]
        self.newest: dict[str, Abort] = {}
        self.running: Counter[str] = Counter()
        self.due: list[tuple[int, int, str]] = []  # end, factory, slot
        self.started: list[Started] = []
        self.aborted: list[tuple[int, str]] = []
        self.occupancy: Counter[str] = Counter()
        self.seen_at = -1
        self.seen: dict[str, Usage] = {}
        self.seen_own: list[tuple[Counter[str], Counter[str]]] = []

    def run(self, until: int, step: int, each: t.Callable[[], None] = lambda: None, at_ends: bool = False) -> None:
        """To a time, in steps; ``each`` is called after every one.

        :param at_ends: steps are shorter where a machine ends, and factories decide there as well.
        """
        while self.now < until:
            self._end()
            self._start()
            length = min(step, max(1, self.due[0][0] - self.now)) if at_ends and self.due else step
            for name, count in self.running.items():
                self.occupancy[name] += count * length
            each()
            self.now += length

    def part(self, name: str) -> float:
        """A machinetype's part of all processor seconds."""
        return self.occupancy[name] / sum(self.occupancy.values())

    def reset(self) -> None:
        """Begin to count anew."""
        self.occupancy.clear()
        self.started.clear()

    def _end(self) -> None:
        known = {machinetype.name: machinetype for machinetype in self.machinetypes}
        while self.due and self.due[0][0] <= self.now:
            _at, number, slot = heapq.heappop(self.due)
            machine = self.machines[number].pop(slot)
            self.running[machine.machinetype] -= machine.processors
            idle = self.workloads[machine.machinetype].idle
            message = "300 Nothing to do" if idle[0] <= machine.created < idle[1] else "200 Success"
            if machine.started is None:
                message = "500 Machine did not start"
            machine = replace(machine, state="ended", ended=self.now, shutdown_message=message)
            end = outcome(machine, known[machine.machinetype])
            assert end is not None
            before = self.aborts[number].setdefault(machine.machinetype, [])
            if machine.started is not None and (
                end.abort or machine.created > max((one.created for one in before), default=0)
            ):
                before.clear()
            if end.abort:
                before.append(machine)
                self.newest[machine.machinetype] = Abort(end.time, message, self.settings[number].name)
                self.aborted.append((self.now, machine.machinetype))

    def _start(self) -> None:
        order = [n for n, factory in enumerate(self.settings) if len(self.machines[n]) < len(factory.slots)]
        self.random.shuffle(order)
        for number in order:
            factory, space = self.settings[number], self._space(number)
            while len(self.machines[number]) < len(factory.slots):
                ended = [machine for aborts in self.aborts[number].values() for machine in aborts]
                own = [*self.machines[number].values(), *ended]
                start = decide(factory, self.machinetypes, own, space, IDLE, self.now, self.random.random).start
                if start is None:
                    break
                self._begin(number, start)

    def _begin(self, number: int, start: Start) -> None:
        assert start.slot not in self.machines[number]
        self.started.append(Started(self.now, self.settings[number].name, start))
        since, until = self.sick.get(number, (0, 0))
        fails = since <= self.now < until
        self.machines[number][start.slot] = OwnMachine(
            start.slot, start.machinetype, start.processors, "starting" if fails else "running", self.now,
            start.shutdown_time, None if fails else self.now,
        )  # fmt: skip
        self.running[start.machinetype] += start.processors
        workload = self.workloads[start.machinetype]
        idle = workload.idle[0] <= self.now < workload.idle[1]
        end = self.now + (60 if idle or fails else self.random.randint(*workload.seconds))
        if end >= start.shutdown_time:
            end = start.shutdown_time + self.random.randint(*self.late)
        heapq.heappush(self.due, (end, number, start.slot))

    def _space(self, number: int) -> Space:
        """What the other factories have, as a factory knows it: all that was seen, less its own part of it."""
        if self.seen_at < 0 or self.now >= self.seen_at + max(1, self.lag) or not self.lag:
            self._look()
        running, young = self.seen_own[number]
        usage = {
            name: Usage(seen.hs06 - running[name], seen.before_fizzle - young[name], seen.abort)
            for name, seen in self.seen.items()
        }
        return Space(usage, len(self.settings) - 1)

    def _look(self) -> None:
        fizzle = {machinetype.name: machinetype.fizzle_seconds for machinetype in self.machinetypes}
        self.seen_own = []
        all_running: Counter[str] = Counter()
        all_young: Counter[str] = Counter()
        for machines in self.machines:
            running: Counter[str] = Counter()
            for machine in machines.values():
                running[machine.machinetype] += machine.processors
            young = Counter(m.machinetype for m in machines.values() if self.now < m.created + fizzle[m.machinetype])
            self.seen_own.append((running, young))
            all_running += running
            all_young += young
        self.seen = {name: Usage(all_running[name], all_young[name], self.newest.get(name)) for name in fizzle}
        self.seen_at = self.now

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A simulated space in which every factory takes the real decisions, with two ways to choose. Needs only the checkout.

ours      the order is drawn over the horizon (``plugins/module_utils/vacuum/ranking.py``)
lowest    the lowest score comes first, as in Vac: the same code with a horizon of next to nothing

empty     all factories fill at once; how far the worst machinetype is from its share then
steady    hours later, machines ending one by one: the worst of the machinetypes' mean parts, and the worst at any time
reboot    all machines of half of the factories end at once; the worst after the refill, and an hour later

Figures are deviations from the share, in per cent of the share. All factories see the same sums, up to ``--lag``
seconds old. Machinetypes have shares of 1 to 4, and machines that live an hour and a half on average; those of the
machinetypes with a share of 1 live 1/6 of that.

Run it from the checkout, in its environment: ``.venv/bin/python -m bench.vacuum_space --help``.
"""

from __future__ import annotations

import argparse
import heapq
import os
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import decision
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import horizon
from tests.unit.vacuum.simulator import Simulation, Workload

STEP, HOUR = 20, 3600
WARM = 2  # hours until the machines end one by one
SHORT, LONG = (600, 1200), (3600, 7200)


def lowest(*_: t.Any) -> float:
    """A horizon within which only equal scores are."""
    return 1e-9


WAYS: dict[str, t.Callable[..., float]] = {"ours": horizon, "lowest": lowest}


def simulated(factories: int, slots: int, kinds: int, lag: int) -> Simulation:
    """An empty space."""
    types = [
        Machinetype(f"t{n}", target_share=1.0 + n % 4, min_wallclock_seconds=0, backoff_seconds=600)
        for n in range(kinds)
    ]
    work = {one.name: Workload(LONG if n % 4 else SHORT) for n, one in enumerate(types)}
    return Simulation(factories, slots, types, work, lag=lag)


def off(space: Simulation) -> float:
    """How far the worst machinetype is from its share now, in per cent of it."""
    shares = sum(one.target_share for one in space.machinetypes)
    running = sum(space.running.values())
    return (
        max(abs(space.running[one.name] / running * shares / one.target_share - 1) for one in space.machinetypes) * 100
    )


def measure(way: str, factories: int, slots: int, kinds: int, lag: int, hours: int) -> None:
    vars(decision)["horizon"] = WAYS[way]
    space = simulated(factories, slots, kinds, lag)
    types = space.machinetypes
    begun = time.process_time()
    space.run(STEP, STEP)
    full, fill = sum(space.running.values()), time.process_time() - begun
    if full != factories * slots:
        raise SystemExit(f"{full} slots are filled, not {factories * slots}")
    empty = off(space)
    space.run(WARM * HOUR, STEP)
    decisions = len(space.started)
    space.reset()
    worst: list[float] = []
    space.run((WARM + hours) * HOUR, STEP, lambda: worst.append(off(space)))
    decisions += len(space.started)
    shares = sum(one.target_share for one in types)
    mean = max(abs(space.part(one.name) * shares / one.target_share - 1) for one in types) * 100
    space.due = [(space.now if number % 2 else end, number, slot) for end, number, slot in space.due]
    heapq.heapify(space.due)
    space.run(space.now + STEP, STEP)
    reboot = off(space)
    decisions += full // 2
    space.run(space.now + HOUR, STEP)
    print(
        f"{way:8}{empty:8.1f}{mean:10.1f}{max(worst):10.1f}{reboot:10.1f}{off(space):10.1f}{decisions:11}"
        f"{fill / full * 1e6:12.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--factories", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--machinetypes", type=int, default=8)
    parser.add_argument("--lag", type=int, default=60, help="seconds")
    parser.add_argument("--hours", type=int, default=1, help="of the steady state")
    options = parser.parse_args()
    print(
        f"{options.factories} factories x {options.slots} slots, {options.machinetypes} machinetypes, sums up to"
        f" {options.lag} s old; deviation in % of the share"
    )
    print(
        f"{'':8}{'empty':>8}{'steady':>10}{'worst':>10}{'reboot':>10}{'1 h later':>10}{'decisions':>11}{'us each':>12}"
    )
    for way in WAYS:
        measure(way, options.factories, options.slots, options.machinetypes, options.lag, options.hours)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")


if __name__ == "__main__":
    main()

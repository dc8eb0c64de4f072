# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CPU time of a factory's decisions in a large space. Needs nothing but the checkout.

sum       the answers of all factories about all machinetypes are summed, once after each poll
decide    one decision of a factory whose slots are all taken but one, on that sum
both      what a decision costs when the poll has just come back; the goal is at most 50 ms
fill      an empty factory is filled in one call
explain   a decision's sentences and its JSON, which only ``gridbox explain`` wants

Run it from the checkout, in its environment: ``.venv/bin/python -m bench.vacuum_decision --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide, decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
    PeerUsage,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import of_space

NOW = 1_800_000_000
GOAL_MS = 50


def milliseconds(work: t.Callable[[], object], rounds: int) -> list[float]:
    """CPU time of each round."""
    taken = []
    for _turn in range(rounds):
        begun = time.process_time()
        work()
        taken.append((time.process_time() - begun) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--factories", type=int, default=1000)
    parser.add_argument("--machinetypes", type=int, default=20)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    luck = random.Random(1)  # noqa: S311 -- a space that is the same in each run
    slots = tuple(f"f0-{number:02}.example.com" for number in range(options.slots))
    factory = FactorySettings("f0.example.com", slots, options.slots, hs06_per_processor=10.0)
    types = [
        Machinetype(f"t{n}", target_share=1.0 + n % 5, machinegroup=f"g{n % 7}", backoff_seconds=600)
        for n in range(options.machinetypes)
    ]
    # One in twenty machinetypes of a factory ended with an abort, at some time of the last day.
    peers = [
        PeerUsage(
            f"f{n}.example.com", one.name, luck.randint(0, 6) * 10.0, 1.0, luck.randint(0, 1),
            luck.choice(["200 Success"] * 19 + ["300 Nothing to do"]), NOW - luck.randint(3000, 86400),
        )
        for n in range(options.factories)
        for one in types
    ]  # fmt: skip
    host = HostLoad(options.slots, memory_total_mb=10**7, memory_available_mb=10**7)
    own = [
        OwnMachine(slot, luck.choice(types).name, 1, "running", NOW - 5000, NOW + 50000, NOW - 5000)
        for slot in slots[1:]
    ]
    space = of_space(peers, factory.name, NOW)
    decision = decide(factory, types, own, space, host, NOW, luck.random)
    filled = decide_all(factory, types, [], space, host, NOW, luck.random)
    if decision.start is None or sum(one.start is not None for one in filled) != options.slots:
        raise SystemExit(f"not what is to be measured: {decision.reasons}, {filled[-1].reasons}")

    print(f"{options.factories} factories, {len(types)} machinetypes, {options.slots} slots; CPU time in ms")
    print(f"{'':10}{'median':>10}{'worst':>10}")
    works: dict[str, t.Callable[[], object]] = {
        "sum": lambda: of_space(peers, factory.name, NOW),
        "decide": lambda: decide(factory, types, own, space, host, NOW, luck.random),
        "both": lambda: decide(factory, types, own, peers, host, NOW, luck.random),
        "fill": lambda: decide_all(factory, types, [], space, host, NOW, luck.random),
        "explain": lambda: (decision.reasons, json.dumps(decision.as_data())),
    }
    medians = {}
    for name, work in works.items():
        taken = milliseconds(work, options.rounds)
        medians[name] = statistics.median(taken)
        print(f"{name:10}{medians[name]:10.2f}{max(taken):10.2f}")
    print(f"goal: both <= {GOAL_MS} ms: {'met' if medians['both'] <= GOAL_MS else 'missed'}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")


if __name__ == "__main__":
    main()

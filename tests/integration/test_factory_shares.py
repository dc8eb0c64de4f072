# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines a factory makes on a real engine: by their shares, and of one and of several processors."""

from __future__ import annotations

import re
import typing as t
from collections import Counter

from tests.lab.factory import LabFactory, kind_of

Make = t.Callable[..., LabFactory]

WAITS = "trap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM; while :; do sleep 0.1; done"
WORKS = "sleep 0.5; echo 200 Success >$JOBOUTPUTS/shutdown_message"


def test_slots_are_filled_and_refilled_by_share(make_factory: Make) -> None:
    kinds = {"two": {"script": WORKS, "target_share": 2}, "one": {"script": WORKS, "target_share": 1}}
    factory = make_factory(kinds, total_processors=3)
    factory.start()

    def at_once() -> Counter[str]:
        return Counter(one["machinetype"] for one in factory.records() if one["state"] == "running")

    factory.wait("two thirds of the slots, and one", lambda: at_once() == {"two": 2, "one": 1})
    factory.wait("thirty ends", lambda: len(factory.events("machine_ended")) >= 30)
    factory.stop()
    made = Counter(one["machinetype"] for one in factory.records()[:30])
    # A share is of what runs, and theirs end at different times: never are they off by more than a slot's machine each.
    assert 18 <= made["two"] <= 22, made


def test_a_machine_of_several_processors_has_its_turn_when_a_superslot_has_ended(make_factory: Make) -> None:
    """Told in one second, the machines of one processor end two seconds apart: what the first frees is no room for one
    of two, and nobody else gets it."""
    last = "case $(hostname) in f1-01*) sleep 2.5;; esac"
    script = f"trap '{last}; echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM; while :; do sleep 0.1; done"
    single = {"script": script, "min_wallclock_seconds": 1, "max_wallclock_seconds": 10}
    pair = {"script": WAITS, "min_processors": 2, "max_processors": 2, "min_wallclock_seconds": 1}
    factory = make_factory({"single": single}, total_processors=2, processors_per_superslot=2, grace_seconds=20)
    factory.start()
    first = factory.wait("two of one processor", lambda: len(r := factory.running()) == 2 and r)[0]
    assert first["HostConfig"]["NanoCpus"] == 10**9

    # From now on the other has a share, too: three fourths of the turns are its.
    factory.kinds({"single": single, "pair": {**pair, "target_share": 3}})
    factory.wait("one of two processors", lambda: (r := factory.running()) and kind_of(r[0]) == "pair", 240)
    [found] = factory.running()
    assert found["HostConfig"]["NanoCpus"] == 2 * 10**9
    assert found["HostConfig"]["Memory"] == 2 * first["HostConfig"]["Memory"]
    shown = factory.run("machines").stdout
    assert re.search(r"^f1-00 +pair +Running +2 ", shown, re.MULTILINE), shown
    factory.stop()
    records = factory.records()
    for limit in {one["shutdown_time"] for one in records if one["machinetype"] == "single"}:
        begin, end = sorted(one["ended"] for one in records if one["shutdown_time"] == limit)
        assert begin < end
        assert not [one for one in records if begin <= one["created"] < end], "in less room than for any of them"

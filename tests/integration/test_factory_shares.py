# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines a factory makes on a real engine: by their shares, and of one and of several processors."""

from __future__ import annotations

import re
import time
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


def test_a_machine_of_several_processors_has_them_and_does_not_start_in_less_room(make_factory: Make) -> None:
    hour = {"min_wallclock_seconds": 1, "max_wallclock_seconds": 3600}
    kinds = {
        "single": {"script": WAITS, **hour},
        "pair": {"script": WAITS, "min_processors": 2, "max_processors": 2, "target_share": 0, **hour},
    }
    factory = make_factory(kinds, total_processors=2, processors_per_superslot=2)
    factory.start()
    first, second = factory.wait("two of one processor", lambda: len(r := factory.running()) == 2 and r)
    assert {one["HostConfig"]["NanoCpus"] for one in (first, second)} == {10**9}

    # From now on only the other has a share. One processor gets free, which is no room for it.
    factory.kinds({"single": {**kinds["single"], "target_share": 0}, "pair": {**kinds["pair"], "target_share": 1}})
    factory.wait("the new configuration", lambda: factory.events("configuration_read"))
    factory.lab.docker("stop", "--time", "10", first["Id"])
    factory.wait("the end", lambda: len(factory.events("machine_ended")) == 1)
    time.sleep(2)
    assert [one["Id"] for one in factory.running()] == [second["Id"]]
    factory.lab.docker("stop", "--time", "10", second["Id"])
    [pair] = factory.wait("one of two processors", lambda: (r := factory.running()) and kind_of(r[0]) == "pair" and r)
    assert pair["HostConfig"]["NanoCpus"] == 2 * 10**9
    assert pair["HostConfig"]["Memory"] == 2 * first["HostConfig"]["Memory"]
    shown = factory.run("machines").stdout
    assert re.search(r"^f1-00 +pair +Running +2 ", shown, re.MULTILINE), shown

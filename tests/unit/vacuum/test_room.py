# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Room for a machine: what the factory forbids, load, memory, disk, superslots, time. Tables."""

from __future__ import annotations

import random
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad
from tests.unit.vacuum.cases import BIG, FACTORY, HOST, NOW, SLOTS, A, decided, ended, first, machine, refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"draining": True}, "draining"),
        ({"shutdown_time": NOW}, "shutdown_time"),
        ({"total_processors": 1}, "full"),
        ({"slots": SLOTS[:1]}, "no_slot"),
        ({}, None),
    ],
)
def test_the_factory_as_a_whole(changes: dict[str, t.Any], code: t.Optional[str]) -> None:
    decision = decided(own=[machine()], factory=replace(FACTORY, **changes))
    assert (decision.veto.code if decision.veto else None) == code
    assert (decision.start is None) == (code is not None)
    assert len(decision.candidates) == 1  # explained all the same


@pytest.mark.parametrize(
    ("running", "lately", "load", "vetoed"),
    [
        (0, 0, 10.0, False),  # the limit of the host's 8 processors
        (0, 0, 10.1, True),
        (4, 0, 9.9, False),
        (5, 0, 6.25, False),  # the limit of five running ones
        (5, 0, 6.3, True),
        (5, 2, 8.7, False),  # two that ended a minute ago are still in the averages
        (5, 2, 8.8, True),
    ],
)
def test_load(running: int, lately: int, load: float, vetoed: bool) -> None:
    own = [machine(slot) for slot in range(running)] + [ended(slot=7, shutdown_message="200 Success")] * lately
    for averages in ((load, 0.0, 0.0), (0.0, load, 0.0), (0.0, 0.0, load)):
        decision = decided(own=own, host=replace(HOST, load_averages=averages))
        assert (decision.veto is not None and decision.veto.code == "load") == vetoed, decision.factory


def test_what_ended_long_ago_is_not_in_the_load() -> None:
    own = [machine(slot) for slot in range(5)] + [ended(slot=7, ago=901, shutdown_message="200 Success")]
    assert decided(own=own, host=replace(HOST, load_averages=(7.0, 0.0, 0.0))).veto is not None


@pytest.mark.parametrize(
    ("total", "available", "starting", "start"),
    [
        (16384, 16384, 0, True),
        (15900, 16384, 0, True),  # what the kernel keeps does not cost a slot
        (8192, 16384, 0, False),  # seven run and may use all that they were promised
        (16384, 2047, 0, False),
        (16384, 2048, 0, True),
        (16384, 4095, 1, False),  # what starts will take its own
        (16384, 4096, 1, True),
        (None, None, 0, True),
    ],
)
def test_memory(total: t.Optional[int], available: t.Optional[int], starting: int, start: bool) -> None:
    own = [machine(slot) for slot in range(7 - starting)]
    own += [machine(6 - slot, state="starting", started=None) for slot in range(starting)]
    decision = decided(
        [replace(A, fizzle_seconds=0)], own, host=HostLoad(8, memory_total_mb=total, memory_available_mb=available)
    )
    assert (decision.start is not None) == start, decision.factory
    assert start or (decision.veto is not None and decision.veto.code == "memory")


@pytest.mark.parametrize(
    ("factory_disk", "own_disk", "free", "start"),
    [
        (40 * 10**9, None, 40 * 10**9, True),
        (40 * 10**9, None, 40 * 10**9 - 1, False),
        (40 * 10**9, 20, 20 * 10**9, True),  # smaller: the machinetype's
        (40 * 10**9, 60, 40 * 10**9, True),  # larger: the factory's
        (None, 60, 40 * 10**9, False),
        (None, None, 0, True),
        (40 * 10**9, None, None, True),
    ],
)
def test_disk(factory_disk: t.Optional[int], own_disk: t.Optional[int], free: t.Optional[int], start: bool) -> None:
    factory = replace(FACTORY, disk_bytes_per_processor=factory_disk)
    decision = decided(
        [replace(A, disk_gb_per_processor=own_disk)], factory=factory, host=replace(HOST, disk_free_bytes=free)
    )
    assert (decision.start is not None) == start
    assert refused(decision) == (None if start else "resources")


def test_disk_promised_to_what_starts_is_not_promised_again() -> None:
    factory, host = replace(FACTORY, disk_bytes_per_processor=10), replace(HOST, disk_free_bytes=35)
    made = decide_all(factory, [A], [], [], host, NOW, random.Random(1).random)
    assert len([one for one in made if one.start]) == 3


def test_a_machine_is_as_large_as_memory_allows() -> None:
    flexible = replace(BIG, min_processors=2)
    factory = replace(FACTORY, processors_per_superslot=8)
    start = decided([flexible], factory=factory, host=HostLoad(8, memory_available_mb=5 * 2048)).start
    assert start is not None
    assert start.processors == 5
    assert (
        refused(decided([BIG], factory=factory, host=HostLoad(8, memory_available_mb=5 * 2048)), "big") == "resources"
    )


# --- superslots and time


def test_a_machine_joins_the_superslot_that_lacks_one() -> None:
    factory = replace(FACTORY, processors_per_superslot=4)
    end = NOW + 40000
    start = decided(own=[machine(0, shutdown_time=end)], factory=factory).start
    assert start is not None
    assert (start.processors, start.shutdown_time) == (1, end)


def test_the_superslot_that_ends_first_is_completed_first() -> None:
    factory = replace(FACTORY, processors_per_superslot=4)
    own = [machine(0, shutdown_time=NOW + 50000), machine(1, shutdown_time=NOW + 40000)]
    start = decided([replace(A, max_processors=8)], own, factory=factory).start
    assert start is not None
    assert (start.processors, start.shutdown_time) == (3, NOW + 40000)


@pytest.mark.parametrize("left", [3599, 86401])
def test_a_superslot_that_ends_too_soon_or_too_late_keeps_its_room(left: int) -> None:
    factory = replace(FACTORY, processors_per_superslot=8)
    decision = decided(own=[machine(0, shutdown_time=NOW + left)], factory=factory)
    assert first(decision) is None
    assert f"0 processors are free, 7 for a superslot that ends in {left} s" in decision.candidates[0].text


def test_complete_superslots_keep_nothing() -> None:
    factory = replace(FACTORY, processors_per_superslot=4)
    start = decided(own=[machine(0, processors=4, shutdown_time=NOW + 40000)], factory=factory).start
    assert start is not None
    assert start.shutdown_time == NOW + A.max_wallclock_seconds


def test_a_superslot_that_should_be_gone_keeps_nothing() -> None:
    factory = replace(FACTORY, processors_per_superslot=8)
    start = decided(own=[machine(0, state="unknown", shutdown_time=NOW - 5)], factory=factory).start
    assert start is not None
    assert start.shutdown_time == NOW + A.max_wallclock_seconds


def test_a_multiprocessor_machine_gets_what_it_can_have() -> None:
    factory = replace(FACTORY, processors_per_superslot=8)
    start = decided([BIG], factory=factory).start
    assert start is not None
    assert start.processors == 8
    assert refused(decided([BIG]), "big") == "too_large"
    decision = decided([BIG], [machine()], factory=replace(factory, processors_per_superslot=8, slots=SLOTS))
    assert refused(decision, "big") == "no_room"


def test_one_that_does_not_fit_lets_the_next_one_have_the_slot() -> None:
    factory = replace(FACTORY, processors_per_superslot=8)
    types = [replace(BIG, target_share=1000.0), A]
    assert first(decided(types, [machine(0)], factory=factory)) == "a"


@pytest.mark.parametrize(("left", "start"), [(3599, False), (3600, True), (86400, True), (90000, True)])
def test_the_factorys_shutdown_time_limits_a_machine_from_the_beginning(left: int, start: bool) -> None:
    decision = decided(factory=replace(FACTORY, shutdown_time=NOW + left))
    if start:
        assert decision.start is not None
        assert decision.start.shutdown_time == NOW + min(left, A.max_wallclock_seconds)
    else:
        assert refused(decision) == "shutdown_time"


def test_a_machine_has_its_grace_before_the_factorys_shutdown_time() -> None:
    factory = replace(FACTORY, shutdown_time=NOW + 3660, grace_seconds=60)
    start = decided(factory=factory).start
    assert start is not None
    assert start.shutdown_time == NOW + 3600, "its min_wallclock_seconds, and what it has after TERM"
    assert refused(decided(factory=replace(factory, shutdown_time=NOW + 3659))) == "shutdown_time"
    near = decided(factory=replace(factory, shutdown_time=NOW + 60))
    assert near.veto is not None and near.veto.text == "the factory's shutdown_time is in 60 s (grace_seconds 60)"


def test_superslots_that_shutdown_time_ends_together_are_one() -> None:
    factory = replace(FACTORY, processors_per_superslot=4, shutdown_time=NOW + 7200)
    own = [machine(0, shutdown_time=NOW + 40000), machine(1, shutdown_time=NOW + 50000)]
    start = decided([replace(A, max_processors=8)], own, factory=factory).start
    assert start is not None
    assert (start.processors, start.shutdown_time) == (2, NOW + 7200)

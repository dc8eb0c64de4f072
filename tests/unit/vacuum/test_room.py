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
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad, OwnMachine
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
        (None, None, 0, False),
        (None, None, (8 << 20) - 1, False),  # no MiB for each of the eight processors that there may be
        (None, None, 8 << 20, True),
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


@pytest.mark.parametrize(
    ("free", "whole", "starting", "processors"),
    [
        (20, 100, 0, 0),  # two that have 40 run: a fourth of all there is would be 25
        (25, 100, 0, 1),
        (74, 100, 0, 2),
        (100, 100, 0, 4),
        (100, 90, 0, 4),  # a tenth of a file system is kept
        (49, 100, 1, 0),  # what starts will take its own
        (50, 100, 1, 1),
    ],
)
def test_the_work_space_of_a_machine_that_says_no_size_is_its_share_of_all_there_is(
    free: int, whole: int, starting: int, processors: int
) -> None:
    """A start with less room would fail."""
    factory = replace(FACTORY, total_processors=4, slots=SLOTS[:4], processors_per_superslot=1 if starting else 4)
    host = replace(HOST, disk_free_bytes=free * 10**9, disk_whole_bytes=whole * 10**9)
    own = [machine(slot, state="starting", started=None) for slot in range(starting)]
    decision = decided([replace(A, max_processors=8, fizzle_seconds=0)], own, factory=factory, host=host)
    assert (decision.start.processors if decision.start else 0) == processors, decision.reasons
    if not processors:
        assert "memory and disk do for 0 processors, and its min_processors is 1" in decision.candidates[0].text
        told = f"a processor's work space is {whole / 4:g} GB, its share of all there is, and"
        assert f"{told} {free - whole / 4 * starting:g} GB are free" in decision.candidates[0].text


def test_after_a_start_that_found_no_room_nothing_is_started() -> None:
    decision = decided(host=replace(HOST, shortage="the disk is full"))
    assert decision.veto is not None and decision.veto.code == "shortage"
    assert decision.factory == "f1.example.com starts nothing: the disk is full"


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


# What a superslot has freed after its end, until the last of its machines is gone.
END = NOW - 20
EIGHT = replace(FACTORY, processors_per_superslot=8, grace_seconds=60)


def late(slots: t.Iterable[int], **changes: t.Any) -> list[OwnMachine]:
    """Machines that were told to end when their superslot did."""
    return [machine(slot, **{"shutdown_time": END, "told": END, **changes}) for slot in slots]


@pytest.mark.parametrize("left", [1, 4, 7])
def test_what_a_superslot_frees_when_it_ends_is_for_one_decision(left: int) -> None:
    """Else a machine of one processor would start in each processor as it gets free, and none of eight ever."""
    types = [A, replace(BIG, target_share=1000.0)]
    decision = decided(types, late(range(left)), factory=EIGHT)
    assert first(decision) is None
    held = f"0 processors are free, {8 - left} held for the superslot until its machines are gone, 100 s at most"
    for candidate in decision.candidates:
        assert held in candidate.text
    assert first(decided(types, factory=EIGHT)) == "big"


@pytest.mark.parametrize(
    ("own", "start"),
    [
        (late([0], shutdown_time=NOW, told=None), None),  # told in this second
        (late([0], shutdown_time=NOW - 119, told=None), None),
        (late([0], shutdown_time=NOW - 120, told=None), "a"),  # it cannot be ended
        (late([0], shutdown_time=NOW - 9000, told=NOW - 119), None),  # no daemon was there to tell it earlier
        (late([0], shutdown_time=NOW - 9000, told=NOW - 120), "a"),
        (late([0], told=NOW - 9000), None),  # it was told before the others
        (late([0], state="starting", started=None), None),
        (late([0], state="unknown"), "a"),  # nobody can end it, nor say when it is gone
        ([*late([0], state="unknown"), *late([1])], None),
    ],
)
def test_what_a_superslot_has_freed_is_held_no_longer_than_its_machines_can_take(
    own: list[OwnMachine], start: t.Optional[str]
) -> None:
    decision = decided([replace(A, fizzle_seconds=0, min_wallclock_seconds=0)], own, factory=EIGHT)
    assert first(decision) == start, decision.reasons
    if decision.start is not None:
        assert decision.start.shutdown_time == NOW + A.max_wallclock_seconds


def test_one_superslot_that_ends_does_not_keep_the_room_of_another() -> None:
    """Sixteen processors: of the first eight one is left, the other eight run on, less one that ended early."""
    slots = tuple(f"f1-{number:02}.example.com" for number in range(16))
    factory = replace(EIGHT, slots=slots, total_processors=16)
    others = [replace(machine(), slot=slots[8 + number], shutdown_time=NOW + 40000) for number in range(7)]
    start = decided([A], [*late([0]), *others], factory=factory).start
    assert start is not None
    assert (start.processors, start.shutdown_time) == (1, NOW + 40000)
    full = [*others, replace(machine(), slot=slots[15], shutdown_time=NOW + 40000)]
    assert decided([A], [*late([0]), *full], factory=factory).start is None


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

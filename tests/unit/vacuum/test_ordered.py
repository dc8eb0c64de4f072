# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decisions and ends where somebody has ordered something of slots."""

from __future__ import annotations

import json
import random
import typing as t
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import ends
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ordered import Exchange, exchange
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    Forced,
    HostLoad,
    OwnMachine,
    PeerUsage,
    Refusal,
)
from tests.unit.vacuum.cases import BIG, FACTORY, HOST, NOW, SLOTS, A, B, decided, ended, first, machine, refused
from tests.unit.vacuum.test_decision_properties import (
    HOSTS,
    NAMES,
    PEERS,
    STEADY,
    factories,
    machinetypes,
    own_machines,
)
from tests.unit.vacuum.test_decision_properties import SLOTS as SIX

NONE_OF_IT = replace(A, name="c", target_share=0.0)


def closed(*numbers: int, **more: t.Any) -> FactorySettings:
    return replace(FACTORY, closed_slots=frozenset(SLOTS[number] for number in numbers), **more)


def forced(machinetype: str = "b", slot: int = 3, since: int = NOW - 10, **more: t.Any) -> FactorySettings:
    return replace(FACTORY, forced={SLOTS[slot]: Forced(machinetype, since)}, **more)


def test_a_drained_slot_gets_no_machine() -> None:
    start = decided(factory=closed(0, 2)).start
    assert start is not None and start.slot == SLOTS[1]
    none = decided(factory=closed(*range(8)))
    assert none.veto is not None and none.veto.code == "no_slot"
    assert none.veto.text == "all 8 slots are taken, or drained or stopped by order, as 8 are"


def test_a_slot_that_a_machinetype_was_ordered_for_is_filled_first_and_with_nothing_else() -> None:
    # It has no share, and somebody has just had an abort of it.
    peers = [PeerUsage("f2", "c", 90.0, 90, shutdown_message="700 Failed", shutdown_time=NOW - 1)]
    decision = decided([A, NONE_OF_IT], peers=peers, factory=forced("c"))
    assert decision.start is not None
    assert (decision.start.slot, decision.start.machinetype) == (SLOTS[3], "c")
    assert "c (share 0, usage 90): is next, for it was ordered for the slot" in decision.reasons
    assert refused(decision, "c") is None
    made = decide_all(forced("c"), [A, NONE_OF_IT], [], peers, HOST, NOW, random.Random(1).random)
    starts = {one.start.slot: one.start.machinetype for one in made if one.start is not None}
    assert starts == {slot: "c" if slot == SLOTS[3] else "a" for slot in SLOTS}


@pytest.mark.parametrize(
    ("factory", "host", "code"),
    [
        (forced(draining=True), HOST, "draining"),
        (forced(shutdown_time=NOW - 1), HOST, "shutdown_time"),
        (forced(), HostLoad(8, memory_available_mb=100), "memory"),
        (forced(), HostLoad(8, (100.0, 1.0, 1.0)), "load"),
    ],
)
def test_an_order_does_not_precede_what_protects_the_host(factory: FactorySettings, host: HostLoad, code: str) -> None:
    decision = decided([A, B], factory=factory, host=host)
    assert decision.start is None
    assert decision.veto is not None and decision.veto.code == code


@pytest.mark.parametrize(
    ("machinetype", "changes", "told"),
    [
        ("nowhere", {}, "nowhere cannot be started here: the factory knows no such machinetype"),
        ("big", {}, "big was ordered for it, and not now: its min_processors is 8, and the largest machine here has 1"),
        ("b", {"shutdown_time": NOW + 60}, "b was ordered for it, and not now: the factory's shutdown_time is in 60 s"),
    ],
)
def test_why_an_order_waits_is_told(machinetype: str, changes: dict[str, t.Any], told: str) -> None:
    factory = forced(machinetype, **changes)
    decision = decided([A, B, BIG], own=[machine(n) for n in range(8) if n != 3], factory=factory)
    assert decision.start is None
    [(slot, why)] = decision.waiting
    assert slot == SLOTS[3] and why.text.startswith(told)
    assert any(line.startswith(f"{SLOTS[3]} is not filled as ordered: {told}") for line in decision.reasons)
    # Nothing else takes the slot meanwhile, and everybody is told why not.
    assert refused(decision, "a") == ("shutdown_time" if changes else "no_slot")
    assert json.loads(json.dumps(decision.as_data()))["waiting"][0]["refusal"] == why.code


def test_an_order_is_no_reason_to_start_what_fails_without_a_pause() -> None:
    factory = forced("a", slot=0, since=NOW - 100)
    before = ended(after=5, ago=120, shutdown_message="700 Failed")
    assert first(decided([A], own=[before], factory=factory)) == "a", "it ended before the order"
    since = replace(before, created=NOW - 50, started=NOW - 50, ended=NOW - 40)
    decision = decided([A], own=[since], factory=factory)
    assert dict(decision.waiting)[SLOTS[0]].code == "backing_off"
    elsewhere = replace(since, slot=SLOTS[1])
    assert first(decided([A], own=[elsewhere], factory=factory)) == "a"
    # Its own backoff_seconds, no more.
    later = replace(since, created=NOW - 700, started=NOW - 700, ended=NOW - 601)
    assert first(decided([A], own=[later], factory=forced("a", slot=0, since=NOW - 800))) == "a"
    # Ordered before the clock was set back: what fails since is not started again without a pause.
    decision = decided([A], own=[since], factory=forced("a", slot=0, since=NOW + 86400))
    assert dict(decision.waiting)[SLOTS[0]].code == "backing_off"
    ahead = replace(since, created=NOW + 86400, started=NOW + 86400, ended=NOW + 86500)
    assert first(decided([A], own=[ahead], factory=factory)) == "a"


@st.composite
def ordered(draw: t.Any) -> FactorySettings:
    slots = draw(st.permutations(SIX))
    closed_, forced_ = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    made: FactorySettings = draw(factories())
    return replace(
        made,
        closed_slots=frozenset(slots[:closed_]),
        # Some of those that are closed have been ordered a machinetype as well: closed precedes.
        forced={
            slot: Forced(draw(st.sampled_from([*NAMES, "gone"])), NOW - 2000)
            for slot in slots[closed_ - 1 : closed_ + forced_]
        },
    )


@STEADY
@given(ordered(), machinetypes(), own_machines(), PEERS, HOSTS, st.integers(0, 9))
def test_whatever_is_ordered_slots_are_filled_as_ordered_or_not_at_all(
    factory: FactorySettings,
    types: list[Machinetype],
    own: list[OwnMachine],
    peers: list[PeerUsage],
    host: HostLoad,
    seed: int,
) -> None:
    made = decide_all(factory, types, own, peers, host, NOW, random.Random(seed).random)
    starts = [one.start for one in made if one.start is not None]
    kept = [one for one in own if one.state != "ended"]
    slots = [one.slot for one in kept] + [start.slot for start in starts]
    assert len(slots) == len(set(slots))
    assert not {start.slot for start in starts} & factory.closed_slots
    shares = {one.name: one.target_share for one in types}
    for start in starts:
        if start.slot in factory.forced:
            assert start.machinetype == factory.forced[start.slot].machinetype
        else:
            assert shares[start.machinetype] > 0
    if starts:
        new = sum(start.processors for start in starts)
        assert new + sum(one.processors for one in kept) <= factory.total_processors
        assert host.memory_available_mb is None or new * factory.mb_per_processor <= host.memory_available_mb
    for decision in made:
        assert all(one.refusal is None for one in decision.candidates if one.chosen)
        assert sum(one.chosen for one in decision.candidates) == (decision.start is not None)
    # The last one says of each slot that was ordered something for and is empty, why it is.
    last, empty = made[-1], set(SIX) - set(slots) - factory.closed_slots
    assert last.veto is not None or {slot for slot, _why in last.waiting} == empty & set(factory.forced)
    assert last.veto is not None or all(one.refusal is not None for one in last.candidates)


# --- ends


def test_a_stopped_slots_machine_ends_and_that_is_no_abort() -> None:
    factory = closed(0, 1, stopped_slots=frozenset([SLOTS[0]]))
    [end] = ends(factory, [machine(0), machine(1)], {}, NOW, NOW)
    assert (end.slot, end.code, end.message) == (SLOTS[0], "stopped", "100 Stopped by order")
    assert not is_abort(end.message)


@pytest.mark.parametrize("state", ["unknown", "starting", "ended"])
def test_only_what_is_known_to_run_is_stopped(state: str) -> None:
    factory = closed(0, stopped_slots=frozenset([SLOTS[0]]))
    assert ends(factory, [machine(0, state=state)], {}, NOW, NOW) == ()
    assert exchanged(forced("b", slot=0), [machine(0, state=state)]) == Exchange()


# --- a machine of another type than was ordered


def exchanged(
    factory: FactorySettings,
    own: t.Sequence[OwnMachine] = (machine(0),),
    types: t.Sequence[Machinetype] = (A, B),
    host: HostLoad = HOST,
    **away: Refusal,
) -> Exchange:
    return exchange(factory, types, away, own, host, NOW)


def test_a_machine_of_another_type_makes_room_for_the_one_that_was_ordered() -> None:
    assert exchanged(forced("a", slot=0)) == Exchange()
    # All is full, and what was ordered has no share.
    made = exchanged(forced("c", slot=0), [machine(n) for n in range(8)], [A, NONE_OF_IT])
    [end] = made.ends
    assert (end.slot, end.code, end.reason) == (SLOTS[0], "stopped", "c was ordered for its slot")
    assert (end.message, is_abort(end.message), made.waiting) == ("100 Stopped by order", False, ())
    # It has been stopped, or drained, as well.
    assert exchanged(replace(forced("b", slot=0), closed_slots=frozenset([SLOTS[0]]))) == Exchange()


@pytest.mark.parametrize(
    ("factory", "host", "away", "told"),
    [
        (forced("nowhere", slot=0), HOST, {}, "nowhere cannot be started here: the factory knows no such machinetype"),
        (forced("c", slot=0), HOST, {"c": Refusal("no_image", "not now: x")}, "c cannot be started here: not now: x"),
        (forced("big", slot=0), HOST, {}, "big was ordered for it, and not now: its min_processors is 8"),
        (forced("b", slot=0, draining=True), HOST, {}, "b was ordered for it, and not now: the factory is draining"),
        (forced("b", slot=0, shutdown_time=NOW + 9), HOST, {}, "b was ordered for it, and not now: the factory's shut"),
        (forced("b", slot=0), HostLoad(8, (100.0, 1.0, 1.0)), {}, "b was ordered for it, and not now: the load is 100"),
        (forced("b", slot=0), HostLoad(8, memory_available_mb=9), {}, "b was ordered for it, and not now: a proc"),
        (
            forced("b", slot=0, disk_bytes_per_processor=10), HostLoad(8, disk_free_bytes=-1), {},
            "b was ordered for it, and not now: memory and disk do for 0 processors",
        ),
    ],
)  # fmt: skip
def test_a_machine_goes_on_for_as_long_as_what_was_ordered_could_not_be_started(
    factory: FactorySettings, host: HostLoad, away: dict[str, Refusal], told: str
) -> None:
    made = exchanged(factory, [machine(0), machine(1)], [A, B, BIG], host, **away)
    assert made.ends == ()
    [(slot, why)] = made.waiting
    assert slot == SLOTS[0] and why.text.startswith(f"a goes on there: {told}")


def test_what_has_failed_there_since_it_was_ordered_costs_no_machine_before_its_back_off_is_over() -> None:
    failed = replace(ended(after=5, ago=40, shutdown_message="700 Failed"), machinetype="b", created=NOW - 50)
    made = exchanged(forced("b", slot=0, since=NOW - 100), [failed, machine(0)])
    assert made.ends == () and made.waiting[0][1].code == "backing_off"
    assert exchanged(forced("b", slot=0), [failed, machine(0)]).ends != (), "it ended before the order"


def test_the_room_that_machines_leave_is_given_once() -> None:
    wide = replace(B, min_processors=2, max_processors=2)
    factory = replace(
        FACTORY, processors_per_superslot=2, disk_bytes_per_processor=10,
        forced={slot: Forced("b", NOW) for slot in SLOTS[:3]},
    )  # fmt: skip
    running = [machine(n, shutdown_time=NOW + 7200 + n) for n in range(3)]
    # There is disk for 2 processors; each machine that ends leaves that of one, and what comes has that of 2.
    made = exchanged(factory, running, [A, wide], HostLoad(8, disk_free_bytes=20))
    assert [end.slot for end in made.ends] == [SLOTS[0], SLOTS[1]]
    [(slot, why)] = made.waiting
    assert (slot, why.code) == (SLOTS[2], "resources")
    # What waits in an empty slot comes first, and takes what would become free.
    factory = replace(FACTORY, processors_per_superslot=8, forced={slot: Forced("big", NOW) for slot in SLOTS[:2]})
    made = exchanged(factory, [machine(1)], [A, BIG])
    assert made.ends == () and made.waiting[0][1].code == "full"


@STEADY
@given(ordered(), machinetypes(), own_machines(), HOSTS)
def test_a_machine_ends_for_what_is_started_in_its_slot_then(
    factory: FactorySettings, types: list[Machinetype], own: list[OwnMachine], host: HostLoad
) -> None:
    made = exchange(factory, types, {}, own, host, NOW)
    over = {end.slot for end in made.ends}
    others = {
        one.slot
        for one in own
        if one.state == "running" and factory.forced.get(one.slot, Forced(one.machinetype)).machinetype
        != one.machinetype
    }  # fmt: skip
    assert over | {slot for slot, _why in made.waiting} == others - factory.closed_slots
    own = [replace(one, state="ended", ended=NOW) if one.slot in over and one.occupies else one for one in own]
    if host.disk_free_bytes is not None:
        host = replace(host, disk_free_bytes=host.disk_free_bytes + 10**15)
    starts = [one.start for one in decide_all(factory, types, own, [], host, NOW, random.Random(1).random)]
    found = {start.slot: start.machinetype for start in starts if start is not None}
    assert {slot: factory.forced[slot].machinetype for slot in over}.items() <= found.items()

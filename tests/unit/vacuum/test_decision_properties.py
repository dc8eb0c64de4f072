# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every decision, and what follows from thousands of them in a simulated space."""

from __future__ import annotations

import random
import typing as t
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import poured
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
    PeerUsage,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import of_space
from tests.unit.vacuum.simulator import Simulation, Workload

NOW = 1_800_000_000
SLOTS = tuple(f"f1-{number:02}.example.com" for number in range(6))
NAMES = ("a", "b", "c")
MESSAGES = (None, "200 Success", "300 Nothing to do", "700 Failed", "oops")

#: The same runs each time and no deadline: what is slow here is the machine.
STEADY = settings(deadline=None, derandomize=True, max_examples=60, database=None)


@st.composite
def machinetypes(draw: t.Any) -> list[Machinetype]:
    made = []
    for name in NAMES:
        least = draw(st.integers(1, 4))
        wall = draw(st.integers(60, 90000))
        made.append(
            Machinetype(
                name,
                target_share=draw(st.sampled_from([0.0, 0.5, 1.0, 7.0])),
                machinegroup=draw(st.sampled_from(["", "g"])),
                min_processors=least,
                max_processors=draw(st.integers(least, 8)),
                min_wallclock_seconds=draw(st.integers(1, wall)),
                max_wallclock_seconds=wall,
                backoff_seconds=draw(st.integers(0, 1200)),
                fizzle_seconds=draw(st.integers(0, 1200)),
                disk_gb_per_processor=draw(st.sampled_from([None, 10, 40])),
            )
        )
    return made


@st.composite
def own_machines(draw: t.Any) -> list[OwnMachine]:
    made = []
    for slot in draw(st.sets(st.sampled_from(SLOTS))):
        state = draw(st.sampled_from(["starting", "running", "ended", "ended", "unknown"]))
        created = NOW - draw(st.one_of(st.integers(1, 600), st.integers(1, 5000)))
        over = state == "ended"
        failed = over and draw(st.booleans())
        made.append(
            OwnMachine(
                slot,
                draw(st.sampled_from([*NAMES, "removed"])),
                draw(st.integers(1, 3)),
                state,
                created,
                NOW + draw(st.sampled_from([-10, 100, 5000, 80000])),
                started=None if failed or state == "starting" else created,
                # Of one that never came to run nobody may know when it was given up.
                ended=NOW - draw(st.integers(0, NOW - created))
                if over and not (failed and draw(st.booleans()))
                else None,
                shutdown_message=draw(st.sampled_from(MESSAGES)) if over else None,
                failed_start=failed and draw(st.booleans()),
            )
        )
    return made


@st.composite
def factories(draw: t.Any) -> FactorySettings:
    return FactorySettings(
        "f1.example.com",
        SLOTS,
        draw(st.integers(1, 12)),
        processors_per_superslot=draw(st.sampled_from([1, 2, 4, 8])),
        hs06_per_processor=draw(st.sampled_from([None, 10.0])),
        shutdown_time=draw(st.sampled_from([None, NOW + 50, NOW + 4000, NOW + 10**6])),
        disk_bytes_per_processor=draw(st.sampled_from([None, 20 * 10**9])),
    )


PEERS = st.lists(
    st.builds(
        PeerUsage,
        factory=st.sampled_from(["f1.example.com", "f2", "f3"]),
        machinetype=st.sampled_from([*NAMES, "theirs"]),
        running_hs06=st.floats(),
        running_processors=st.integers(0, 100),
        num_before_fizzle=st.integers(-1, 3),
        shutdown_message=st.sampled_from(MESSAGES),
        shutdown_time=st.one_of(st.none(), st.integers(NOW - 3000, NOW + 3000)),
        clock_ahead=st.sampled_from([0, 0, 1000]),
    ),
    max_size=8,
)
HOSTS = st.builds(
    HostLoad,
    processors=st.just(12),
    memory_total_mb=st.one_of(st.none(), st.integers(0, 40000)),
    memory_available_mb=st.one_of(st.none(), st.integers(0, 40000)),
    disk_free_bytes=st.one_of(st.none(), st.integers(0, 10**11)),
    disk_whole_bytes=st.one_of(st.none(), st.integers(0, 10**12)),
)


@STEADY
@given(factories(), machinetypes(), own_machines(), PEERS, HOSTS, st.integers(0, 9))
def test_whatever_is_there_nothing_is_given_twice(
    factory: FactorySettings,
    types: list[Machinetype],
    own: list[OwnMachine],
    peers: list[PeerUsage],
    host: HostLoad,
    seed: int,
) -> None:
    made = decide_all(factory, types, own, peers, host, NOW, random.Random(seed).random)
    starts = [decision.start for decision in made if decision.start is not None]
    known = {machinetype.name: machinetype for machinetype in types}
    kept = [machine for machine in own if machine.state != "ended"]
    slots = [machine.slot for machine in kept] + [start.slot for start in starts]
    assert len(slots) == len(set(slots))
    new = sum(start.processors for start in starts)
    if starts:
        assert new + sum(machine.processors for machine in kept) <= factory.total_processors
        assert host.memory_available_mb is None or new * factory.mb_per_processor <= host.memory_available_mb
    if host.disk_free_bytes is not None:
        given_away, whole = 0, host.disk_free_bytes if host.disk_whole_bytes is None else host.disk_whole_bytes
        for start in starts:
            wanted = known[start.machinetype].disk_gb_per_processor
            sizes = [size for size in (wanted and wanted * 10**9, factory.disk_bytes_per_processor) if size]
            share = start.processors * whole // factory.total_processors
            given_away += start.processors * min(sizes) if sizes else share
        assert given_away <= host.disk_free_bytes
    for start in starts:
        machinetype = known[start.machinetype]
        assert machinetype.target_share > 0
        largest = min(machinetype.max_processors, factory.processors_per_superslot)
        assert machinetype.min_processors <= start.processors <= largest
        assert machinetype.min_wallclock_seconds <= start.shutdown_time - NOW <= machinetype.max_wallclock_seconds
        assert factory.shutdown_time is None or start.shutdown_time <= factory.shutdown_time
    # Each decision names every machinetype once, and what is refused is not started.
    for decision in made:
        assert sorted(one.standing.machinetype.name for one in decision.candidates) == sorted(NAMES)
        assert all(one.refusal is None for one in decision.candidates if one.chosen)
        assert sum(one.chosen for one in decision.candidates) == (decision.start is not None)
    assert made[-1].start is None
    assert made[-1].veto is not None or all(one.refusal is not None for one in made[-1].candidates)


@settings(STEADY, max_examples=150)
@given(factories(), machinetypes(), own_machines(), PEERS, st.integers(0, 9))
def test_nothing_starts_while_it_backs_off(
    factory: FactorySettings, types: list[Machinetype], own: list[OwnMachine], peers: list[PeerUsage], seed: int
) -> None:
    """The rule, written once more and without the sums. There is room for all, or nothing would start as it is."""
    slots = (*SLOTS, "f1-06.example.com", "f1-07.example.com")
    factory = replace(factory, slots=slots, total_processors=64, processors_per_superslot=8, shutdown_time=None)
    made = decide_all(factory, types, own, peers, HostLoad(64), NOW, random.Random(seed).random)
    for machinetype in types:
        ends = []
        for machine in own:
            if machine.state != "ended" or machine.machinetype != machinetype.name:
                continue
            at = machine.created if machine.ended is None else machine.ended
            said = machine.shutdown_message or "oops"
            # A start that failed is an abort, whatever it says.
            fizzled = machine.started is None or (said == "oops" and at < machine.started + machinetype.fizzle_seconds)
            if fizzled or said[:1] in ("3", "7"):
                ends.append(at)
        newest = {peer.factory: peer for peer in peers if peer.machinetype == machinetype.name}
        for name, peer in newest.items():
            if name != factory.name and peer.shutdown_time and (peer.shutdown_message or "")[:1] in ("3", "7"):
                at = peer.shutdown_time - peer.clock_ahead
                if at <= NOW + 60:
                    ends.append(at)
        started = [one.start for one in made if one.start and one.start.machinetype == machinetype.name]
        if ends and max(ends) + machinetype.backoff_seconds >= NOW:
            assert not started
        elif ends and max(ends) + machinetype.backoff_seconds + machinetype.fizzle_seconds >= NOW:
            assert len(started) <= 1


@STEADY
@given(PEERS, st.integers(0, 9))
def test_the_order_of_answers_changes_no_sum(peers: list[PeerUsage], seed: int) -> None:
    answers = list({(peer.factory, peer.machinetype): peer for peer in peers}.values())
    mixed = random.Random(seed).sample(answers, len(answers))
    one, other = of_space(answers, "f1", NOW), of_space(mixed, "f1", NOW)
    assert one.others == other.others
    assert {name: abort.time for name, abort in one.aborts.items()} == {
        name: abort.time for name, abort in other.aborts.items()
    }
    for name, usage in one.usage.items():
        assert usage.hs06 == pytest.approx(other.usage[name].hs06)
        assert usage.before_fizzle == other.usage[name].before_fizzle


@STEADY
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e3)), min_size=1, max_size=20),
    st.floats(1e-2, 1e6),
)
def test_all_is_poured_and_onto_the_lowest(candidates: list[tuple[float, float]], amount: float) -> None:
    parts = poured(candidates, amount)
    assert sum(parts) == pytest.approx(amount, rel=1e-6, abs=1e-6)
    levels = [(usage + part) / share for (usage, share), part in zip(candidates, parts) if part > 1e-6]
    assert max(levels) == pytest.approx(min(levels), rel=1e-3, abs=1e-3)
    assert all((usage + part) / share >= max(levels) * 0.999 - 1e-3 for (usage, share), part in zip(candidates, parts))


# --- thousands of decisions


def kind(name: str, share: float, **changes: t.Any) -> Machinetype:
    """A machinetype whose machines may be as short as they are here."""
    return replace(
        Machinetype(name, target_share=share, min_wallclock_seconds=0, backoff_seconds=600, fizzle_seconds=600),
        **changes,
    )


def test_shares_are_met_over_ten_thousand_decisions() -> None:
    """Usage over time, machinetypes of which some live eight times as long as others."""
    types = [kind("a", 1.0), kind("b", 2.0), kind("c", 3.0), kind("d", 4.0)]
    seconds = {"a": (900, 1800), "b": (3600, 7200), "c": (3600, 7200), "d": (7200, 14400)}
    work = {name: Workload(lives) for name, lives in seconds.items()}
    space = Simulation(12, 8, types, work, lag=60)
    space.run(14400, 60)
    space.reset()
    while len(space.started) < 10_000:
        space.run(space.now + 14400, 60)
    for machinetype in types:
        due = machinetype.target_share / 10
        assert space.part(machinetype.name) == pytest.approx(due, rel=0.05), machinetype.name


@pytest.mark.parametrize("members", [2, 5])
def test_a_group_has_what_a_single_machinetype_of_its_share_has(members: int) -> None:
    """With Vac's sum of ratios the group gets about 1/members of its due."""
    types = [kind(f"g{number}", 1.0 / members, machinegroup="g") for number in range(members)] + [kind("alone", 1.0)]
    work = {machinetype.name: Workload() for machinetype in types}
    space = Simulation(4, 8, types, work, lag=60)
    space.run(14400, 60)
    space.reset()
    space.run(250_000, 60)
    assert space.part("alone") == pytest.approx(0.5, abs=0.02)
    for number in range(members):
        assert space.part(f"g{number}") == pytest.approx(0.5 / members, rel=0.1)


def test_nobody_with_a_share_starves() -> None:
    """A share that is due a third of a machine: it has at least that, and less than the one machine that Vac gives."""
    types = [kind("small", 0.02), kind("a", 0.49), kind("b", 0.49)]
    work = {machinetype.name: Workload() for machinetype in types}
    space = Simulation(2, 8, types, work, lag=60)
    space.run(14400, 60)
    space.reset()
    space.run(500_000, 60)
    assert 0.018 < space.part("small") < 0.9 / 16
    times = [one.at for one in space.started if one.start.machinetype == "small"]
    assert max(later - earlier for earlier, later in zip(times, times[1:])) < 50_000


@pytest.mark.parametrize(("late", "shortest"), [((0, 0), 7200), ((0, 1), 7200), ((0, 60), 7200), ((0, 60), 600)])
def test_no_machinetype_of_several_processors_starves(late: tuple[int, int], shortest: int) -> None:
    """Those of one processor end with their superslot, one by one within the grace that they have; or earlier, and
    others fill what they leave as long as there is time."""
    limits = {"min_wallclock_seconds": 600, "max_wallclock_seconds": 7200}
    types = [
        kind("single", 1.0, **limits),
        kind("pair", 1.0, min_processors=2, max_processors=2, **limits),
        kind("eight", 2.0, min_processors=8, max_processors=8, **limits),
    ]
    work = {machinetype.name: Workload((shortest, 7200)) for machinetype in types}
    work["eight"] = Workload((7200, 7200))
    space = Simulation(4, 16, types, work, superslot=8, late=late)
    space.run(28_800, 600, at_ends=True)
    space.reset()
    space.run(28_800 + 3 * 86_400, 600, at_ends=True)
    for machinetype in types:
        due = machinetype.target_share / 4
        assert space.part(machinetype.name) == pytest.approx(due, abs=0.05), machinetype.name
    # It costs little to wait for the last of a superslot, and for what fits.
    assert sum(space.occupancy.values()) > 0.98 * 4 * 16 * 3 * 86_400


def test_an_empty_queue_costs_few_machines_and_gets_its_share_back() -> None:
    """One of two has no work for four hours. The other has its room meanwhile; then it comes back by itself."""
    types = [kind("a", 1.0), kind("b", 1.0)]
    idle = (20_000, 34_400)
    space = Simulation(20, 8, types, {"a": Workload(), "b": Workload(idle=idle)}, lag=60)
    space.run(20_000, 60)
    parts: list[tuple[int, float]] = []
    space.run(60_000, 60, lambda: parts.append((space.now, space.running["b"] / sum(space.running.values()))))
    tries = [one for one in space.started if one.start.machinetype == "b" and idle[0] <= one.at < idle[1]]
    # 24 times the back-off fits in; the first minutes' starts came before the first abort was known.
    assert 10 < len(tries) < 150
    assert max(part for at, part in parts if idle[0] + 9000 < at < idle[1]) < 0.1
    assert 0.45 < sum(part for at, part in parts if at > 50_000) / sum(at > 50_000 for at, _part in parts) < 0.55
    # In the meantime all slots were in use.
    assert sum(space.running.values()) == 160


def test_no_start_while_backing_off_in_a_space_without_lag() -> None:
    types = [kind("a", 1.0), kind("b", 1.0)]
    work = {"a": Workload(), "b": Workload(idle=(5000, 60_000))}
    space = Simulation(6, 4, types, work)
    space.run(60_000, 60)
    aborts = [at for at, name in space.aborted if name == "b"]
    assert len(aborts) > 10
    for one in space.started:
        before = [at for at in aborts if at <= one.at]
        if one.start.machinetype == "b" and before:
            assert one.at > max(before) + 600


def test_half_of_a_space_that_ends_at_once_is_refilled_by_share() -> None:
    """All see the same old sums. Were the lowest score taken, one machinetype would get nearly all of the slots."""
    types = [kind("a", 1.0), kind("b", 2.0), kind("c", 3.0), kind("d", 4.0)]
    work = {machinetype.name: Workload() for machinetype in types}
    space = Simulation(60, 8, types, work, lag=60)
    space.run(20_000, 20)
    space.due = sorted((space.now if number % 2 else end, number, slot) for end, number, slot in space.due)
    space.run(space.now + 20, 20)
    assert sum(space.running.values()) == 480
    for machinetype in types:
        due = machinetype.target_share / 10
        assert space.running[machinetype.name] / 480 == pytest.approx(due, rel=0.35), machinetype.name


def in_use(space: Simulation, until: int, factories: t.Collection[int]) -> list[float]:
    """The part of the slots of some factories that is in use, at each step up to a time."""
    slots = sum(len(space.settings[number].slots) for number in factories)
    parts: list[float] = []
    space.run(until, 60, lambda: parts.append(sum(len(space.machines[number]) for number in factories) / slots))
    return parts


@pytest.mark.parametrize("backoff", [10, 600])
def test_a_factory_on_which_no_machine_starts_does_not_keep_the_others_from_it(backoff: int) -> None:
    """Each of its tries makes all back off. If it tried as often as the others, two thirds of their slots would be in
    use with the longer back-off, and with the shorter one, after which it tries sooner, less than a third."""
    work = {"a": Workload((900, 1800))}
    space = Simulation(20, 8, [kind("a", 1.0, backoff_seconds=backoff)], work, lag=60, sick={0: (10_000, 10**9)})
    space.run(10_000 + 14_400, 60)
    tried = len(space.aborted)
    parts = in_use(space, space.now + 86_400, range(1, 20))
    assert sum(parts) / len(parts) > 0.96
    # It goes on trying, some times a day.
    assert 3 <= len(space.aborted) - tried <= 8


def test_a_factory_that_was_sick_for_a_day_fills_its_slots_again() -> None:
    work = {"a": Workload((900, 1800)), "b": Workload((900, 1800))}
    space = Simulation(10, 8, [kind("a", 1.0), kind("b", 1.0)], work, lag=60, sick={0: (0, 86_400)})
    space.run(86_400, 60)
    parts = in_use(space, 86_400 + 6 * 3600 + 1800, [0])
    assert parts[-1] == 1.0
    # As any other from then on.
    assert min(in_use(space, space.now + 14_400, [0])) == 1.0
    taken = {one.start.machinetype for one in space.started if one.at > 86_400 and one.factory == "f0.example.com"}
    assert taken == {"a", "b"}


@pytest.mark.parametrize("factories", [1, 20])
def test_what_fails_everywhere_for_two_hours_runs_again_soon_afterwards(factories: int) -> None:
    """A pilot that is broken. The hosts are well, and wait no longer than it took."""
    sick = dict.fromkeys(range(factories), (10_000, 17_200))
    space = Simulation(factories, 8, [kind("a", 1.0)], {"a": Workload((900, 1800))}, lag=60, sick=sick)
    space.run(17_200, 60)
    assert in_use(space, 17_200 + 7200, range(factories))[-1] == 1.0

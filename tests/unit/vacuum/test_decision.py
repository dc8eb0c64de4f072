# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory starts, and why that or why nothing: tables of a situation and what follows."""

from __future__ import annotations

import json
import random
import typing as t
from collections import Counter
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Unstartable, decide, decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import code_of, is_abort, outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import horizon, poured
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    OwnMachine,
    PeerUsage,
    Refusal,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space, Usage, of_space
from tests.unit.vacuum.cases import FACTORY, HOST, NOW, SLOTS, A, B, decided, ended, first, machine, refused

# --- shares


def test_the_first_free_slot_gets_a_machine_for_its_whole_time() -> None:
    start = decided(own=[machine(0), machine(2)]).start
    assert start is not None
    assert (start.slot, start.machinetype, start.processors) == (SLOTS[1], "a", 1)
    assert start.shutdown_time == NOW + A.max_wallclock_seconds


def test_who_is_far_behind_its_share_is_next_whatever_the_luck() -> None:
    peers = [PeerUsage("f2", "a", 100.0, 100), PeerUsage("f2", "b", 180.0, 180)]
    types = [A, replace(B, target_share=2.0)]
    assert {first(decided(types, peers=peers, seed=seed)) for seed in range(50)} == {"b"}


def test_a_factory_that_is_alone_gives_equal_shares_one_machine_each_before_a_second() -> None:
    types = [replace(A, name=f"type{number}") for number in range(len(SLOTS))]
    for seed in range(50):
        made = decide_all(FACTORY, types, [], [], HOST, NOW, random.Random(seed).random)
        assert len({one.start.machinetype for one in made if one.start is not None}) == len(SLOTS)


def test_with_nothing_running_the_choice_follows_the_shares() -> None:
    types = [A, replace(B, target_share=3.0)]
    taken = Counter(first(decided(types, seed=seed)) for seed in range(2000))
    assert 0.71 < taken["b"] / 2000 < 0.79  # four standard deviations


def test_usage_is_hs06_and_processors_where_that_is_zero() -> None:
    peers = [PeerUsage("f2", "a", 40.0, 4), PeerUsage("f3", "a", 0.0, 4)]
    factory = replace(FACTORY, hs06_per_processor=10.0)
    (candidate,) = decided(own=[machine(processors=2)], peers=peers, factory=factory).candidates
    assert candidate.standing.usage.hs06 == 40 + 4 + 20


def test_the_own_factory_in_the_answers_is_not_counted_twice() -> None:
    peers = [PeerUsage("F1.example.com", "a", 50.0, 50, 50, "300 Nothing to do", NOW), PeerUsage("f2", "a", 3.0, 3)]
    (candidate,) = decided(own=[machine(0), machine(1)], peers=peers).candidates
    assert (candidate.standing.usage.hs06, candidate.standing.usage.before_fizzle) == (5.0, 0)
    assert candidate.refusal is None


def test_an_answer_that_came_twice_counts_once() -> None:
    peers = [PeerUsage("f2", "a", 3.0, 3, 1), PeerUsage("f2", "a", 5.0, 5, 2)]
    assert of_space(peers, "f1", NOW).usage["a"] == Usage(5.0, 2)


@pytest.mark.parametrize("hs06", [float("nan"), float("inf"), -1.0, 1e308])
def test_an_impossible_usage_is_told_and_not_taken(hs06: float) -> None:
    decision = decided(peers=[PeerUsage("f2", "a", hs06, 4)])
    assert decision.candidates[0].standing.usage.hs06 == 0
    assert "f2 says that a has" in decision.reasons[-1]


def test_of_very_many_impossible_usages_the_first_are_told_and_the_number_of_the_others() -> None:
    """One peer is heard on 4,096 machinetypes, and what it says is in each report."""
    names = [f"{number:04}" + "\N{PILE OF POO}" * 250 for number in range(4096)]
    for said in ({"running_hs06": 1e300}, {"shutdown_message": "300 No", "shutdown_time": NOW + 864000}):
        decision = decided(peers=[PeerUsage("f2", name, **said) for name in names])
        assert len(json.dumps(decision.as_data())) < 100000
        assert [f"says that {name}" in told for name, told in zip(names, decision.ignored)] == [True] * 20 + [False]
        assert decision.ignored[-1] == "factories say 4076 more things that cannot be"
    assert len(decided(peers=[PeerUsage("f2", name, 1e300) for name in names[:20]]).ignored) == 20


def test_a_peers_message_is_not_told_at_any_length() -> None:
    decision = decided(peers=[PeerUsage("f2", "a", shutdown_message="300 " + "x" * 9000, shutdown_time=NOW)])
    assert refused(decision) == "backing_off"
    assert "300 xxx" in decision.reasons[-1]
    assert len(decision.reasons[-1]) < 1200


@pytest.mark.parametrize("machines", [-5, 10**400])
def test_an_impossible_number_of_machines_is_not_taken(machines: int) -> None:
    decision = decided(peers=[PeerUsage("f2", "a", 1.0, 1, machines)])
    assert decision.candidates[0].standing.usage.before_fizzle == 0
    assert first(decision) == "a"


def test_a_group_is_compared_by_its_sums() -> None:
    """Two members with 10 each for a share of 2 are as one with 10 for 1; Vac takes them for twice as much."""
    types = [replace(A, machinegroup="g"), replace(B, machinegroup="g"), replace(A, name="c")]
    peers = [PeerUsage("f2", name, 10.0, 10) for name in "abc"]
    standings = {one.standing.machinetype.name: one.standing for one in decided(types, peers=peers).candidates}
    assert {name: one.groupscore for name, one in standings.items()} == {"a": 10.0, "b": 10.0, "c": 10.0}
    assert standings["c"].chance == pytest.approx(1 / 3)


NO_IMAGE = Refusal("no_image", "not now: its image is not here yet")


@pytest.mark.parametrize(
    ("away", "peers", "own", "usage", "share"),
    [
        ([], {"a": 10}, [], 10, 1),
        # The group is judged by what all of it has in the space, whatever of it can be made here.
        ([Unstartable("b", 3.0, NO_IMAGE, "g")], {"a": 10, "b": 50}, [], 60, 4),
        ([Unstartable("b", 3.0, NO_IMAGE, "g")], {"a": 10}, [], 10, 4),
        # What runs here was started while it could be.
        ([Unstartable("b", 3.0, NO_IMAGE, "g")], {"b": 5}, [machine(1, "b"), machine(2, "b", "ended")], 6, 4),
        # Not of those without a share, of other groups, of groups that nobody knows.
        ([Unstartable("b", 0.0, NO_IMAGE, "g")], {"a": 10, "b": 50}, [], 10, 1),
        ([Unstartable("b", None, NO_IMAGE, "g")], {"a": 10, "b": 50}, [], 10, 1),
        ([Unstartable("b", 3.0, NO_IMAGE, "h")], {"a": 10, "b": 50}, [], 10, 1),
        ([Unstartable("b", 3.0, NO_IMAGE)], {"a": 10, "b": 50}, [], 10, 1),
        # Each name once: the site's own machinetype precedes what a pipe says of the name.
        ([Unstartable("a", 3.0, NO_IMAGE, "g")], {"a": 10}, [], 10, 1),
        ([Unstartable("b", 3.0, NO_IMAGE, "g")] * 2, {"b": 5}, [], 5, 4),
    ],
)
def test_members_of_which_no_machine_can_be_made_here_count_in_the_groups_sums(
    away: list[Unstartable], peers: dict[str, int], own: list[OwnMachine], usage: float, share: float
) -> None:
    answers = [PeerUsage("f2", name, hs06, hs06) for name, hs06 in peers.items()]
    decision = decided([replace(A, machinegroup="g")], own, answers, unstartable=away)
    (candidate,) = decision.candidates
    standing = candidate.standing
    assert (standing.group_usage, standing.group_share) == (usage, share)
    assert standing.groupscore == usage / share
    assert first(decision) == "a"
    assert decision.unstartable == tuple(away)


def test_a_group_that_has_its_share_by_members_of_other_hosts_is_not_next() -> None:
    """The group has 120 for a share of 4, the other 20 for 1. By its member here alone it would have 10 for 3."""
    types = [replace(A, machinegroup="g", target_share=3.0), replace(B, target_share=1.0)]
    away = [Unstartable("c", 1.0, NO_IMAGE, "g")]
    peers = [PeerUsage("f2", "a", 10.0), PeerUsage("f2", "b", 20.0), PeerUsage("f2", "c", 110.0)]
    assert {first(decided(types, peers=peers, seed=seed)) for seed in range(20)} == {"a"}
    assert {first(decided(types, peers=peers, seed=seed, unstartable=away)) for seed in range(20)} == {"b"}


def test_a_member_without_a_share_adds_nothing_to_its_group() -> None:
    """Machines of it run because they were ordered, or it had a share before: other hosts do not count them either."""
    types = [replace(A, machinegroup="g"), replace(B, machinegroup="g", target_share=0.0)]
    peers = [PeerUsage("f2", "a", 10.0), PeerUsage("f2", "b", 50.0)]
    assert {(one.standing.group_usage, one.standing.group_share) for one in decided(types, peers=peers).candidates} == {
        (10.0, 1.0)
    }


def test_the_group_goes_by_the_fqan_where_none_is_named() -> None:
    types = [replace(A, accounting_fqan="/exp/Role=production"), replace(B, accounting_fqan="/exp/Role=production")]
    assert {one.standing.group for one in decided(types).candidates} == {"/exp/Role=production"}


def test_within_a_group_the_one_behind_is_next() -> None:
    types = [replace(A, machinegroup="g"), replace(B, machinegroup="g")]
    peers = [PeerUsage("f2", "a", 50.0, 50), PeerUsage("f2", "b", 10.0, 10)]
    assert {first(decided(types, peers=peers, seed=seed)) for seed in range(20)} == {"b"}


def test_a_member_that_backs_off_leaves_the_groups_share_to_the_others() -> None:
    types = [replace(A, machinegroup="g"), replace(B, machinegroup="g"), replace(A, name="c")]
    peers = [PeerUsage("f2", "b", 50.0, 50), PeerUsage("f2", "c", 100.0, 100)]
    own = [ended(shutdown_message="300 Nothing to do")]
    assert {first(decided(types, own, peers, seed=seed)) for seed in range(20)} == {"b"}


def test_without_a_share_it_is_never_started() -> None:
    decision = decided([replace(A, target_share=0.0)])
    assert (first(decision), refused(decision)) == (None, "no_share")


@pytest.mark.parametrize(
    ("candidates", "amount", "result"),
    [
        ([(0, 1), (0, 3)], 4, [1, 3]),  # nothing runs: by share
        ([(10, 1), (0, 1)], 4, [0, 4]),  # one far behind: all
        ([(2, 1), (0, 1)], 4, [1, 3]),  # until the scores are equal, then by share
        ([(30, 3), (10, 1)], 4, [3, 1]),
        ([(5, 1)], 4, [4]),
        ([], 4, []),
    ],
)
def test_what_is_poured_makes_scores_equal(
    candidates: list[tuple[float, float]], amount: float, result: list[float]
) -> None:
    assert poured(candidates, amount) == pytest.approx(result)


@pytest.mark.parametrize(
    ("before_fizzle", "others", "at_once", "result"),
    [(0, 0, 8, 10.0), (1000, 0, 8, 10.0), (0, 99, 1, 10.0), (1000, 99, 1, 210.0), (0, 99, 3, 1990.0), (0, 99, 0, 10.0)],
)
def test_the_horizon_is_what_the_others_start_unseen(
    before_fizzle: int, others: int, at_once: int, result: float
) -> None:
    factory = replace(FACTORY, hs06_per_processor=10.0)
    assert horizon(factory, {"a": Usage(5.0, before_fizzle)}, others, at_once) == pytest.approx(result)


# --- back-off


@pytest.mark.parametrize(
    ("message", "code", "abort"),
    [
        (None, None, False), ("", None, False), ("Success", None, False), ("99 short", None, False),
        ("100 No time left for slot", 100, False), ("200 Success", 200, False), ("299", 299, False),
        ("300 Nothing to do", 300, True), ("700 Failed", 700, True), ("999 Other", 999, True),
        ("²00 not ASCII", None, False), ("-30 negative", None, False),
    ],
)  # fmt: skip
def test_codes_of_shutdown_messages(message: t.Optional[str], code: t.Optional[int], abort: bool) -> None:
    assert (code_of(message), is_abort(message)) == (code, abort)


@pytest.mark.parametrize(
    ("end", "message", "abort"),
    [
        (ended(shutdown_message="200 Success"), "200 Success", False),
        (ended(after=5, shutdown_message="200 Success"), "200 Success", False),
        (ended(shutdown_message="600 Matcher Failed"), "600 Matcher Failed", True),
        (ended(), None, False),
        (ended(after=600), None, False),
        (ended(after=599), "300 Ended after 599 s without a message, fizzle_seconds is 600", True),
        (ended(after=5, shutdown_message="oops"), "300 Ended after 5 s without a message, fizzle_seconds is 600", True),
        (machine(state="ended", started=None, failed_start=True), "500 Machine did not start", True),
        (machine(state="ended", started=None), "500 Machine did not start", True),
        (
            machine(state="ended", started=None, failed_start=True, shutdown_message="500 No such image"),
            "500 No such image",
            True,
        ),
    ],
)
def test_outcomes(end: OwnMachine, message: t.Optional[str], abort: bool) -> None:
    found = outcome(end, A)
    assert found is not None
    assert (found.message, found.abort) == (message, abort)


@pytest.mark.parametrize("state", ["starting", "running", "unknown"])
def test_what_has_not_ended_has_no_outcome(state: str) -> None:
    assert outcome(machine(state=state), A) is None


@pytest.mark.parametrize(
    ("ago", "before_fizzle", "start"),
    [(600, 0, None), (601, 0, "a"), (601, 1, None), (1200, 1, None), (1201, 1, "a"), (0, 0, None)],
)
def test_after_an_abort_one_may_try_and_the_rest_wait(ago: int, before_fizzle: int, start: t.Optional[str]) -> None:
    own = [ended(ago=ago, shutdown_message="300 Nothing to do")]
    own += [machine(slot, state="starting", started=None) for slot in range(1, 1 + before_fizzle)]
    assert first(decided(own=own)) == start


@pytest.mark.parametrize("own", [[ended(after=5)], [machine(state="ended", ended=NOW - 9, failed_start=True)]])
def test_a_fizzle_and_a_failed_start_mean_back_off(own: list[OwnMachine]) -> None:
    assert refused(decided(own=own)) == "backing_off"


def test_the_sentence_tells_how_long_and_why() -> None:
    peers = [PeerUsage("factory3", "a", shutdown_message="600 Matcher Failed", shutdown_time=NOW - 288)]
    sentence = decided(peers=peers).candidates[0].text
    assert 'backing off for 312 s more after "600 Matcher Failed" on factory3' in sentence.replace("'", '"')
    assert "share 1, usage 0, score 0" in sentence


def test_an_own_success_does_not_hide_an_older_abort() -> None:
    own = [ended(ago=300, shutdown_message="500 Broken"), ended(ago=30, shutdown_message="200 Success")]
    assert refused(decided(own=own)) == "backing_off"
    assert refused(decided(own=own[::-1])) == "backing_off"
    assert refused(decided(own=own[1:])) is None


def test_the_newest_of_the_own_aborts_counts() -> None:
    own = [ended(ago=5000, shutdown_message="500 Old"), ended(ago=300, shutdown_message="600 New")]
    for order in (own, own[::-1]):
        assert 'backing off for 300 s more after "600 New" on f1.example.com' in decided(own=order).candidates[0].text


def test_a_peers_success_does_not_hide_the_abort_seen_before() -> None:
    before = of_space([PeerUsage("f2", "a", 0, 0, 0, "500 Broken", NOW - 300)], "f1", NOW - 100)
    success = [PeerUsage("f2", "a", 0, 0, 0, "200 Success", NOW - 30)]
    assert of_space(success, "f1", NOW).aborts == {}
    after = of_space(success, "f1", NOW, before.aborts)
    assert after.aborts == before.aborts
    assert first(decide(FACTORY, [A], [], after, HOST, NOW, random.Random(1).random)) is None


def test_the_newest_abort_of_the_space_counts() -> None:
    peers = [
        PeerUsage("f2", "a", shutdown_message="300 Old", shutdown_time=NOW - 5000),
        PeerUsage("f3", "a", shutdown_message="400 New", shutdown_time=NOW - 50),
        PeerUsage("f4", "a", shutdown_message="500 Middle", shutdown_time=NOW - 500),
    ]
    assert of_space(peers, "f1", NOW).aborts["a"].message == "400 New"


def test_a_wrong_clock_elsewhere_stops_nothing() -> None:
    ahead = PeerUsage("f2", "a", shutdown_message="300 Nothing to do", shutdown_time=NOW + 864000)
    decision = decided(peers=[ahead])
    assert first(decision) == "a"
    assert decision.reasons[-1] == "f2 says that a aborted 864000 s from now, which cannot be"
    known = ahead._replace(clock_ahead=864000)  # so it was just now
    assert refused(decided(peers=[known])) == "backing_off"


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    """Of what was noted while it was ahead nobody knows when it was."""
    ahead = NOW + 864000
    seen = of_space([PeerUsage("f2", "a", shutdown_message="500 Broken", shutdown_time=ahead)], "f1", ahead)
    assert seen.aborts["a"].time == ahead
    # The own machines are asked each second, the others each half a minute: with the sum from before, and a new one.
    for space in (seen, of_space([], "f1", NOW, seen.aborts)):
        decision = decide(FACTORY, [A], [], space, HOST, NOW, random.Random(1).random)
        assert first(decision) == "a", decision.reasons
    assert of_space([], "f1", NOW, seen.aborts).aborts == {}
    failed = ended(ago=-864000, shutdown_message="500 Broken")
    assert first(decided(own=[failed])) == "a"
    # An abort that is known to be of now is not hidden by it.
    assert refused(decided(own=[ended(shutdown_message="500 Broken"), failed])) == "backing_off"
    recent = PeerUsage("f3", "a", shutdown_message="500 Broken", shutdown_time=NOW - 60)
    again = of_space([recent], "f1", NOW, seen.aborts)
    assert refused(decide(FACTORY, [A], [], again, HOST, NOW, random.Random(1).random)) == "backing_off"


def test_machines_of_a_clock_that_was_set_back_were_not_started_just_now() -> None:
    """Else this factory would be taken for one that has just been rebooted, for as long as the clock was ahead."""
    behind = PeerUsage("f2", "b", running_hs06=30.0)
    space = of_space([behind], "f1", NOW)
    old = [machine(slot, created=NOW + 864000, started=NOW - 3600) for slot in range(4)]
    just_now = [replace(one, created=NOW) for one in old]
    assert _chance("b", just_now, space) > 0
    assert _chance("b", old, space) == 0, "a is far behind"


def _chance(name: str, own: list[OwnMachine], space: Space) -> float:
    many, factory = replace(space, others=1000), replace(FACTORY, total_processors=5)
    decision = decide(factory, [A, B], own, many, HOST, NOW, random.Random(1).random)
    (found,) = [one.standing for one in decision.candidates if one.standing.machinetype.name == name]
    return found.chance


def test_factories_do_not_all_try_again_at_the_same_second() -> None:
    """One second after the back-off; with Vac all 200 would try."""
    peers = [PeerUsage(f"p{n}", "a", shutdown_message="300 Nothing to do", shutdown_time=NOW - 601) for n in range(200)]
    space = of_space(peers, "nobody", NOW)
    names = [replace(FACTORY, name=f"p{n}") for n in range(200)]
    trying = [f for f in names if decide(f, [A], [], space, HOST, NOW, random.Random(1).random).start]
    assert len(trying) < 10
    later = [f for f in names if decide(f, [A], [], space, HOST, NOW + 600, random.Random(1).random).start]
    assert len(later) == 200  # at most one back-off later all may


# --- several at once, unknown machines, the explanation


@pytest.mark.parametrize("state", ["starting", "running", "unknown", "Paused"])
def test_what_is_not_known_to_have_ended_keeps_its_place(state: str) -> None:
    own = [machine(slot, state=state) for slot in range(7)]
    made = decide_all(FACTORY, [replace(A, fizzle_seconds=0)], own, [], HOST, NOW, random.Random(1).random)
    assert [one.start.slot for one in made if one.start] == [SLOTS[7]]


def test_all_free_slots_are_filled_in_one_call() -> None:
    made = decide_all(FACTORY, [A, B], [], [], HOST, NOW, random.Random(1).random)
    starts = [one.start for one in made if one.start]
    assert tuple(start.slot for start in starts) == SLOTS
    assert Counter(start.machinetype for start in starts) == {"a": 4, "b": 4}
    assert made[-1].veto is not None and made[-1].veto.code == "full"


def test_as_many_as_may_start_at_once() -> None:
    made = decide_all(FACTORY, [A], [], [], HOST, NOW, random.Random(1).random, at_most=3)
    assert [one.start is not None for one in made] == [True] * 3


def test_after_back_off_one_call_makes_one_try() -> None:
    own = [ended(ago=700, shutdown_message="300 Nothing to do")]
    made = decide_all(FACTORY, [A], own, [], HOST, NOW, random.Random(1).random)
    assert [first(one) for one in made] == ["a", None]
    assert "of those started 1 have not run for fizzle_seconds yet" in made[-1].candidates[0].text


def test_a_decision_can_be_repeated() -> None:
    assert decided([A, B], seed=7) == decided([A, B], seed=7)


def test_the_explanation_is_in_the_order_of_the_choice_and_is_json() -> None:
    types = [replace(A, name="zero", target_share=0.0), A, replace(B, machinegroup="g"), replace(A, name="c")]
    decision = decided(types, peers=[PeerUsage("f2", "a", 90.0, 90), PeerUsage("f2", "c", 40.0, 40)])
    names = [one.standing.machinetype.name for one in decision.candidates]
    assert names == ["b", "c", "a", "zero"]
    assert decision.reasons[0] == (
        "f1.example.com starts b in f1-00.example.com with 1 processor for 86400 s; 0 of 8 processors are taken"
    )
    assert decision.reasons[1].startswith(
        "b (share 1, usage 0, score 0, group g with share 1, usage 0, score 0): is next"
    )
    assert decision.reasons[4] == "zero (share 0, usage 0): not now: its target_share is 0"
    data = json.loads(json.dumps(decision.as_data()))
    assert [one["machinetype"] for one in data["machinetypes"]] == names
    assert [one["chosen"] for one in data["machinetypes"]] == [True, False, False, False]
    assert (data["start"]["slot"], data["veto"], data["machinetypes"][3]["refusal"]) == (SLOTS[0], None, "no_share")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory on which nothing of a machinetype works tries less and less often; no other one does."""

from __future__ import annotations

import random
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Decision, decide_all
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.history import histories, works_here
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Forced, OwnMachine, PeerUsage
from tests.unit.vacuum.cases import FACTORY, HOST, NOW, SLOTS, A, B, decided, ended, first, machine, refused


def failed(ago: int, after: int = 5, slot: int = 0, **changes: t.Any) -> OwnMachine:
    """One that was made ``after`` seconds before it failed to start, so long ago."""
    at = NOW - ago
    made: dict[str, t.Any] = {
        "state": "ended", "created": at - after, "started": None, "ended": at, "failed_start": True,
        "shutdown_message": "500 Machine did not start",
    }  # fmt: skip
    return machine(slot, **{**made, **changes})


def row(tries: int, ago: int, every: int = 1000) -> list[OwnMachine]:
    """So many tries that failed, the last so long ago."""
    return [failed(ago + turn * every) for turn in range(tries)]


@pytest.mark.parametrize(
    ("one", "works"),
    [
        (machine(), True),
        (machine(started=NOW - 600), True),
        (machine(started=NOW - 599), None),
        (machine(state="starting", started=None), None),
        (machine(state="unknown"), None),
        (machine(started=NOW + 5), None),
        (failed(60), False),
        (failed(60, failed_start=False), False),
        (failed(60, ended=None), False),
        (ended(after=600), True),
        (ended(after=599), False),
        (ended(after=5, shutdown_message="oops"), False),
        (ended(after=5, shutdown_message="200 Success"), True),
        # The queue is empty: for that the host is not to blame.
        (ended(after=60, shutdown_message="300 Nothing to do"), True),
        (ended(after=5, shutdown_message="300 Ended after 5 s without a message, fizzle_seconds is 600"), False),
        (ended(after=60, shutdown_message="400 Banned"), False),
        (ended(after=60, shutdown_message="500 Certificate/proxy not acceptable"), False),
        (ended(after=60, shutdown_message="600 Matcher Failed"), None),
        (ended(after=60, shutdown_message="700 Memory limit reached"), False),
        (ended(after=60, shutdown_message="100 Stopped by order"), None),
        (ended(after=6000, shutdown_message="100 No time left for slot"), True),
        (ended(after=6000, shutdown_message="700 Failed"), True),
    ],
)
def test_what_a_machine_shows_of_its_host(one: OwnMachine, works: t.Optional[bool]) -> None:
    assert works_here(one, 600, NOW) is works


def test_a_fizzle_that_is_written_down_is_one() -> None:
    found = outcome(ended(after=5), A)
    assert found is not None
    assert works_here(ended(after=5, shutdown_message=found.message), 600, NOW) is False


@pytest.mark.parametrize(
    ("own", "tries", "last"),
    [
        (row(3, 60), 3, NOW - 60),
        # All slots were filled at once, and none came to run: that is one try, however long each took to fail.
        ([failed(60, slot=slot) for slot in range(8)], 1, NOW - 60),
        ([failed(60 + slot, 100 + slot, slot) for slot in range(8)], 1, NOW - 60),
        ([failed(60, 500), failed(500, 5)], 1, NOW - 60),
        ([failed(60, 500), failed(500, 5), failed(590, 5), failed(1000, 20)], 3, NOW - 60),
        # One second, and no back-off.
        ([failed(60, 0), failed(60, 0)], 1, NOW - 60),
        ([failed(60, ended=None), failed(70, ended=None)], 2, NOW - 65),
        # Of another clock.
        ([*row(3, 60), failed(-5000), failed(60, ended=NOW + 5000)], 3, NOW - 60),
        ([*row(3, 60), machine(created=NOW + 5000)], 3, NOW - 60),
        # What works ends the row, if it was made after it.
        ([*row(3, 60), machine(created=NOW - 3000, started=NOW - 3000)], 3, NOW - 60),
        ([*row(3, 60), machine(created=NOW - 1500, started=NOW - 1500)], 2, NOW - 60),
        ([*row(3, 1060), machine(created=NOW - 700, started=NOW - 700)], 0, 0),
        ([*row(3, 1060), machine(created=NOW - 500, started=NOW - 500)], 3, NOW - 1060),
        ([*row(3, 1060), ended(after=60, ago=5, shutdown_message="200 Success")], 0, 0),
        ([*row(3, 1060), ended(after=60, ago=5, shutdown_message="600 Matcher Failed")], 3, NOW - 1060),
        ([machine()], 0, 0),
    ],
)
def test_tries_in_a_row(own: list[OwnMachine], tries: int, last: int) -> None:
    for order in (own, own[::-1]):
        found = histories([(one, 600) for one in order], NOW, NOW + 60)["a"]
        assert (found.tries, found.last) == (tries, last)


def waits(decision: Decision) -> int:
    """Seconds of the first machinetype's back-off; 0: it does not back off."""
    refusal = decision.candidates[0].refusal
    return int(refusal.text.split()[3]) if refusal is not None else 0


@pytest.mark.parametrize(
    ("tries", "backoff", "seconds"),
    [
        (1, 600, 600), (2, 600, 600), (3, 600, 1200), (4, 600, 2400), (7, 600, 19_200), (8, 600, 21_600),
        (99, 600, 21_600), (3, 10, 20), (14, 10, 21_600), (5, 86_400, 86_400), (9, 0, 0),
    ],
)  # fmt: skip
def test_the_factory_waits_twice_as_long_after_each_failure(tries: int, backoff: int, seconds: int) -> None:
    kind = replace(A, backoff_seconds=backoff)
    every = 100_000
    assert waits(decided([kind], row(tries, 0, every))) == max(1, seconds)
    assert first(decided([kind], row(tries, seconds, every))) is None
    assert first(decided([kind], row(tries, seconds + 1, every))) == "a"


def test_the_sentence_tells_of_the_tries_or_of_the_space_whichever_is_longer() -> None:
    peer = PeerUsage("f2", "a", shutdown_message="600 Matcher Failed", shutdown_time=NOW - 100)
    decision = decided(own=row(5, 60), peers=[peer])
    assert refused(decision) == "backing_off"
    assert decision.candidates[0].text == (
        "a (share 1, usage 0, score 0): not now: backing off for 4740 s more after 5 tries in a row that failed on this"
        " factory: it waits longer after each"
    )
    decision = decided(own=row(3, 1150), peers=[peer])
    assert 'backing off for 500 s more after "600 Matcher Failed" on f2' in decision.candidates[0].text


@pytest.mark.parametrize(
    "own",
    [
        # So many machines at once, failures of another machinetype, an empty queue, what is wrong everywhere.
        [failed(700, slot=slot) for slot in range(8)],
        [replace(one, machinetype="b") for one in row(9, 700)],
        [ended(after=60, ago=700 + 1000 * turn, shutdown_message="300 Nothing to do") for turn in range(9)],
        [ended(after=60, ago=700 + 1000 * turn, shutdown_message="600 Matcher Failed") for turn in range(9)],
        [*row(9, 2000), machine(1, created=NOW - 700, started=NOW - 700)],
        [*row(9, 2000), ended(after=60, ago=5, shutdown_message="200 Success")],
    ],
)
def test_what_says_nothing_against_this_host_makes_it_wait_no_longer(own: list[OwnMachine]) -> None:
    assert first(decided([A, replace(B, target_share=0.0)], own)) == "a"


def test_the_failures_of_others_make_this_host_wait_no_longer() -> None:
    peers = [PeerUsage(f"f{n}", "a", 0, 0, 0, "500 Machine did not start", NOW - 1201 - n) for n in range(2, 9)]
    assert first(decided(own=row(2, 1300), peers=peers)) == "a"


def test_other_machinetypes_are_started_meanwhile() -> None:
    made = decide_all(FACTORY, [A, B], row(9, 700), [], HOST, NOW, random.Random(1).random)
    assert [first(one) for one in made] == ["b"] * 8 + [None]


@pytest.mark.parametrize("ago", [1201, 50_000])
def test_afterwards_one_machine_tries_until_it_works(ago: int) -> None:
    """However long the wait has been over: the host may have had no room before."""
    own = row(3, ago)
    made = decide_all(FACTORY, [A], own, [], HOST, NOW, random.Random(1).random)
    assert [first(one) for one in made] == ["a", None]
    assert "backing off for 600 s more after 3 tries" in made[-1].candidates[0].text
    assert "and the next has not run for fizzle_seconds yet" in made[-1].candidates[0].text
    trying = machine(1, created=NOW - 599, started=NOW - 599)
    assert first(decided(own=[*own, trying])) is None
    works = machine(1, created=NOW - 600, started=NOW - 600)
    made = decide_all(FACTORY, [A], [*own, works], [], HOST, NOW, random.Random(1).random)
    assert [first(one) for one in made] == ["a"] * 7 + [None], "as on any host"


def test_a_machine_of_which_nobody_can_tell_does_not_keep_others_from_trying_for_ever() -> None:
    lost = OwnMachine(SLOTS[1], "a", 1, "unknown", NOW - 700, NOW - 700)
    ahead = replace(lost, slot=SLOTS[2], created=NOW + 5000)
    assert first(decided(own=[*row(3, 1201), lost, ahead])) == "a"


def test_an_order_does_not_wait() -> None:
    factory = replace(FACTORY, forced={SLOTS[3]: Forced("a", NOW - 10)})
    start = decided(own=row(9, 700), factory=factory).start
    assert start is not None
    assert (start.slot, start.machinetype) == (SLOTS[3], "a")

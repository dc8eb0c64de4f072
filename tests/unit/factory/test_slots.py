# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wish, what there is, plan."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import by_hand, info, mend, orders, slots_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.look import Look
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import Orders, SlotOrder
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import ImageStatus, Report, stamp
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots import (
    Chances,
    Mending,
    Observed,
    Tried,
    Wish,
    filling,
    plan,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots_work import SlotsWork
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import Heartbeat
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space
from tests.unit.factory.reports import REPORT
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, OVER, RUNS

NOW = 10_000
CONFIGURATION = parse({**SMALL, "total_processors": 3, "mb_per_processor": 4, "overload_per_processor": 1000})
FIRST, SECOND, THIRD = CONFIGURATION.settings.slots
A = Machinetype("a", 1.0, root_image="image:a", min_wallclock_seconds=1)
B = Machinetype("b", 1.0, root_image="image:b", min_wallclock_seconds=1)
NOTHING = Orders()
CHANCES = Chances((A, B), {"image:a": "id"}, Space(), HostLoad(4))


def live(slot: str = FIRST, machinetype: str = "a", **changes: t.Any) -> Machine:
    return replace(LIVE, slot=slot, machinetype=machinetype, uuid=f"{slot}-{machinetype}", **changes)


def seen(*machines: Machine, by_hand: bool = True, orders: Orders = NOTHING, **more: t.Any) -> Observed:
    return Observed(orders, machines, NOW, Mending() if by_hand else None, **more)


def wish(state: str = "running", *slots: str, machinetype: str = "") -> Wish:
    return Wish(slots or CONFIGURATION.settings.slots, state, machinetype)


def steps(made: Plan) -> list[tuple[str, str]]:
    return [(step.action, step.target.partition("_")[0]) for step in made.steps]


@pytest.mark.parametrize("written", [None, NOW - 61, NOW - 60])
def test_a_machine_without_a_heartbeat_ends(written: t.Optional[int]) -> None:
    machine = live(FIRST, started=NOW - 900, shutdown_time=NOW + 3600)
    beats = Mending(heartbeats={FIRST: Heartbeat("alive", written, 600, 60)})
    made = plan(wish("drained", FIRST), CONFIGURATION, replace(seen(machine), mending=beats))
    ends = [(step.details["end"].code, step.reason) for step in made.steps if step.action == "stop_machine"]
    old = [("heartbeat_old", "its heartbeat file is too old")]
    missing = [("heartbeat_missing", "its heartbeat file is not there")]
    assert ends == ([] if written == NOW - 60 else old if written else missing)


def test_slots_that_run_are_enough() -> None:
    machines = [live(slot) for slot in CONFIGURATION.settings.slots]
    for by_hand_ in (True, False):
        made = plan(wish(), CONFIGURATION, seen(*machines, by_hand=by_hand_))
        assert made.steps == ()
        assert made.before == made.after


def test_without_a_daemon_empty_slots_are_filled_images_that_are_missing_last() -> None:
    made = plan(wish(), CONFIGURATION, seen(chances=CHANCES))
    starts = [step for step in made.steps if step.action == "start_machine"]
    assert sorted(step.target for step in starts) == [FIRST, SECOND, THIRD]
    kinds = [step.details["start"].machinetype for step in starts]
    assert kinds == sorted(kinds) and set(kinds) == {"a", "b"}
    pull = [step.action for step in made.steps].index("pull_image")
    assert made.steps[pull].target == "image:b"
    assert all(step.details["start"].machinetype == "a" for step in made.steps[:pull])
    assert made.disruption is Disruption.none
    assert {one["machine"] for one in made.after.values()} == {"a", "b"}
    again = plan(wish(), CONFIGURATION, replace(seen(chances=CHANCES), now=NOW + 7))
    assert again.steps[0].as_result() == made.steps[0].as_result(), "check mode says what the run does"


def test_without_a_daemon_what_failed_again_and_again_waits_longer_too() -> None:
    """A run reads all records, so the decision can count the failures in them."""
    over = live(FIRST, state=ENDED, started=None, failed_start=True, cleaned=True)
    failures = [replace(over, uuid=f"u{n}", created=at, ended=at + 1) for n, at in enumerate((1000, 3000, 6000, 9000))]
    kinds = replace(CHANCES, machinetypes=(replace(A, backoff_seconds=600),))
    filled = filling(wish(), CONFIGURATION, seen(*failures, chances=kinds))
    assert filled.starts == ()
    assert "backing off for 1401 s more after 4 tries in a row that failed on this factory" in filled.why_empty(FIRST)
    filled = filling(wish(), CONFIGURATION, seen(*failures[2:], chances=kinds))
    assert [one.machinetype for one in filled.starts] == ["a"]


def test_what_was_ordered_of_slots_holds_for_a_run_that_orders_nothing() -> None:
    """Drained, stopped or for one machinetype: a run each few minutes does what a daemon would."""
    given = Orders(slots={FIRST: SlotOrder("drained"), SECOND: SlotOrder("stopped"), THIRD: SlotOrder("", "c")})
    kinds = replace(CHANCES, machinetypes=(A, replace(B, name="c")), images={"image:a": "id", "image:b": "id"})
    made = plan(wish("ordered"), CONFIGURATION, seen(orders=given, chances=kinds))
    assert steps(made) == [("start_machine", THIRD)]
    assert made.steps[0].details["start"].machinetype == "c"
    assert {slot: one["machine"] for slot, one in made.after.items()} == {FIRST: "empty", SECOND: "empty", THIRD: "c"}
    machines = [live(slot) for slot in CONFIGURATION.settings.slots]
    made = plan(wish("ordered"), CONFIGURATION, seen(*machines, orders=given))
    assert steps(made) == [("stop_machine", SECOND)], "one of another machinetype goes on until it ends"
    assert plan(wish("ordered"), CONFIGURATION, seen(*machines, orders=given, by_hand=False)).steps == ()
    assert sorted(steps(plan(wish("ordered"), CONFIGURATION, seen(chances=CHANCES))))[-3:] == [
        ("start_machine", slot) for slot in CONFIGURATION.settings.slots
    ]
    draining = Orders(draining=True)
    assert plan(wish("ordered"), CONFIGURATION, seen(orders=draining, chances=CHANCES)).steps == ()


def test_only_the_slots_that_are_wanted_are_filled() -> None:
    made = plan(wish("running", SECOND), CONFIGURATION, seen(live(FIRST), chances=CHANCES))
    assert [one for one in steps(made) if one[0] == "start_machine"] == [("start_machine", SECOND)]


def test_a_machine_of_another_type_makes_room_for_the_one_that_is_ordered() -> None:
    made = plan(wish("running", FIRST, machinetype="a"), CONFIGURATION, seen(live(FIRST, "b"), chances=CHANCES))
    assert steps(made) == [("give_order", FIRST), ("stop_machine", FIRST), ("start_machine", FIRST)]
    assert [step.disruption.name for step in made.steps] == ["none", "container", "none"]
    assert made.before == {FIRST: {"machine": "b", "order": ""}}
    assert made.after == {FIRST: {"machine": "a", "order": "only a"}}


def test_nothing_is_touched_before_the_image_of_a_machinetype_that_is_wanted_is_here() -> None:
    observed = seen(live(FIRST, "a"), chances=CHANCES)
    observed = replace(observed, mending=Mending(uncleaned=(live(THIRD, state=ENDED),)))
    made = plan(wish("running", FIRST, SECOND, machinetype="b"), CONFIGURATION, observed)
    assert [action for action, _target in steps(made)] == [
        "pull_image", "clean_machine", "give_order", "give_order", "stop_machine", "start_machine", "start_machine",
    ]  # fmt: skip


def test_what_was_ordered_of_another_slot_ends_no_machine_there_for_it_is_not_filled_now() -> None:
    given = Orders(slots={FIRST: SlotOrder("", "b", 5)})
    made = plan(wish("running", SECOND), CONFIGURATION, seen(live(FIRST, "a"), orders=given, chances=CHANCES))
    assert [one for one in steps(made) if one[0] != "pull_image"] == [("start_machine", SECOND)]


@pytest.mark.parametrize("each", [1 << 20, None])
def test_the_disk_of_a_machine_that_ends_is_there_for_the_next(each: t.Optional[int]) -> None:
    """All of a volume group may be in machines, whether or not it was said how much each has."""
    settings = replace(CONFIGURATION.settings, disk_bytes_per_processor=each)
    full = replace(CHANCES, host=HostLoad(4, disk_free_bytes=0, disk_whole_bytes=4 << 20))
    observed = seen(live(FIRST, "b"), chances=full)
    filled = filling(wish("running", FIRST, machinetype="a"), replace(CONFIGURATION, settings=settings), observed)
    assert [one.slot for one in filled.starts] == [FIRST]
    filled = filling(wish("running", SECOND, machinetype="a"), replace(CONFIGURATION, settings=settings), observed)
    assert filled.starts == ()


@pytest.mark.parametrize(
    ("state", "expected", "cost"),
    [
        ("drained", [("give_order", FIRST), ("give_order", SECOND)], "none"),
        ("stopped", [("give_order", FIRST), ("give_order", SECOND), ("stop_machine", FIRST)], "container"),
        (
            "absent",
            [("give_order", FIRST), ("give_order", SECOND), ("stop_machine", FIRST), ("remove_folders", FIRST),
             ("remove_folders", SECOND)],
            "container",
        ),
    ],
)  # fmt: skip
def test_slots_are_emptied(state: str, expected: list[tuple[str, str]], cost: str) -> None:
    machines = [live(FIRST), live(SECOND, state=ENDED, cleaned=True, ended=NOW)]
    made = plan(wish(state, FIRST, SECOND), CONFIGURATION, seen(*machines))
    assert steps(made) == expected
    assert made.disruption.name == cost
    asked = plan(wish(state, FIRST, SECOND), CONFIGURATION, seen(*machines, by_hand=False))
    assert steps(asked) == [one for one in expected if one[0] != "stop_machine"], "the daemon stops it"
    assert asked.disruption.name == cost


def test_a_machine_that_a_daemon_begins_before_it_reads_the_order_leaves_no_folder_either() -> None:
    """Whoever orders waits for that, also in a slot that is empty; once it is ordered, there is nothing to do."""
    assert steps(plan(wish("absent", FIRST), CONFIGURATION, seen())) == [("give_order", FIRST)]
    asked = plan(wish("absent", FIRST), CONFIGURATION, seen(by_hand=False))
    assert steps(asked) == [("give_order", FIRST), ("remove_folders", FIRST)]
    given = Orders(slots={FIRST: SlotOrder("stopped", since=5)})
    assert steps(plan(wish("absent", FIRST), CONFIGURATION, seen(by_hand=False, orders=given))) == []


#: Slots that the factory has no more.
FORMER, OTHER = "f1-07.example.org", "f1-08.example.org"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (wish("running", FIRST, FORMER, OTHER, machinetype="a"), [("give_order", FIRST), ("give_order", OTHER)]),
        (wish("ordered", FIRST, FORMER, OTHER), [("stop_machine", OTHER)]),
        (wish("drained", FIRST, FORMER, OTHER), [("give_order", FIRST), ("give_order", OTHER)]),
        (
            wish("stopped", FORMER, OTHER),
            [("give_order", FORMER), ("stop_machine", FORMER), ("stop_machine", OTHER)],
        ),
    ],
)
def test_in_a_slot_that_is_no_more_a_machine_is_ended_by_order_and_none_is_started(
    wanted: Wish, expected: list[tuple[str, str]]
) -> None:
    """Nor is one ended for another machinetype: it could not be started there. No order but an end says anything."""
    given = Orders(slots={OTHER: SlotOrder("stopped", since=5)})
    machines = [live(FIRST), live(FORMER, "b"), live(OTHER, "b")]
    observed = seen(*machines, orders=given, chances=replace(CHANCES, images={"image:a": "1", "image:b": "2"}))
    wanted = replace(wanted, former=(FORMER, OTHER))
    made = plan(wanted, CONFIGURATION, observed)
    assert sorted(steps(made)) == sorted(expected)
    asked = plan(wanted, CONFIGURATION, replace(observed, mending=None, chances=None))
    assert sorted(steps(asked)) == sorted(one for one in expected if one[0] == "give_order")
    given = Orders().changed(
        {one: order for step in made.steps for one, order in step.details.get("wanted", {}).items()}
    )
    assert given.slots.get(FORMER) in (None, SlotOrder("stopped", since=NOW))
    # When they have ended there is nothing to fill.
    gone = plan(wanted, CONFIGURATION, seen(live(FIRST), orders=given, chances=CHANCES))
    assert [one for one in steps(gone) if one[0] == "start_machine"] == []


def test_an_order_that_is_given_stays_as_it_is() -> None:
    given = Orders(slots={FIRST: SlotOrder("stopped", since=5), SECOND: SlotOrder("", "a", 5)})
    made = plan(wish("stopped"), CONFIGURATION, seen(orders=given))
    assert steps(made) == [("give_order", SECOND), ("give_order", THIRD)]
    wanted = made.steps[0].details["wanted"]
    assert wanted[FIRST].since == 5
    assert wanted[SECOND] == SlotOrder("stopped", "", NOW)
    back = plan(wish(), CONFIGURATION, seen(by_hand=False, orders=given))
    assert [step.reason for step in back.steps] == [
        "it is to run what is next, and was stopped", "it is to run what is next, and was only a",
    ]  # fmt: skip


def test_what_has_ended_does_not_count_when_the_slots_are_filled() -> None:
    """An end that is not written down yet: its slot is free, and its abort means back-off."""
    young = replace(live(FIRST), started=9_990)
    over = mend.ended(young, replace(OVER, started=9_990), "700 Failed", Clock("", 1), NOW)
    chances = replace(CHANCES, machinetypes=(replace(A, backoff_seconds=600),))
    observed = replace(seen(over, chances=chances), mending=Mending(over=((over, OVER),)))
    made = plan(wish(), CONFIGURATION, observed)
    assert steps(made) == [("end_machine", FIRST)]
    why = filling(wish(), CONFIGURATION, observed).why_empty(FIRST)
    assert "starts nothing: no machinetype can be started now" in why
    assert "backing off for" in why and '"700 Failed" on f1.example.org' in why


def test_without_a_daemon_machines_whose_time_is_over_are_ended_wherever_they_are() -> None:
    over, late = live(FIRST, shutdown_time=NOW - 5), live(SECOND, shutdown_time=NOW + 500)
    until = Orders(shutdown_time=NOW + 100)
    observed = seen(over, late, orders=until, chances=CHANCES)
    made = plan(wish("running", FIRST), CONFIGURATION, observed)
    assert [(action, target) for action, target in steps(made) if action != "pull_image"] == [
        ("stop_machine", FIRST), ("lower_limit", SECOND), ("start_machine", FIRST),
    ]  # fmt: skip
    assert made.steps[0].reason == "its time limit is over"
    assert made.steps[0].details["end"].message == "100 Time limit reached"
    assert made.steps[1].details["limit"] == NOW + 100 - 60, "grace_seconds before it"
    assert steps(plan(wish("running", SECOND), CONFIGURATION, replace(observed, mending=None, chances=None))) == []


def test_after_the_run_what_was_started_is_not_started_again_and_what_failed_is_told() -> None:
    failed = mend.not_started(live(SECOND), "no such program", NOW)
    tried = Tried({FIRST: live(FIRST), SECOND: failed}, {THIRD: "The registry is gone."})
    chances = replace(CHANCES, machinetypes=())
    made = plan(wish(), CONFIGURATION, seen(failed, chances=chances), tried)
    assert [(step.target, step.reason) for step in made.steps] == [
        (SECOND, "a did not start: no such program"),
        (THIRD, "it is not running. The registry is gone."),
    ]


# --- the work


def params(tmp_path: Path, **changes: t.Any) -> dict[str, t.Any]:
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path / "state")}))
    return {
        "slots": ["all"], "state": "running", "machinetype": None, "wait": True, "wait_timeout": 600,
        "configuration": str(path), **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": "drained", "machinetype": "a"}, "machinetype: got 'a', expected no machinetype"),
        ({"machinetype": "A b"}, "machinetype: got 'A b', expected a machinetype's name"),
        ({"state": "absent", "wait": False}, "wait: got False, expected true with state: absent"),
        ({"wait_timeout": 0}, "wait_timeout: got 0"),
        ({"slots": ["9"]}, "slots: got '9'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_host_is_looked_at(
    changes: dict[str, t.Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as found:
        SlotsWork.from_params(params(tmp_path, **changes), False, contextlib.ExitStack())
    assert str(found.value).startswith(told)


def test_a_host_without_a_factory_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="Configure the factory first"):
        SlotsWork.from_params(params(tmp_path, configuration="/no/such"), False, contextlib.ExitStack())


def test_one_that_fails_does_not_keep_the_others_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = SlotsWork.from_params(params(tmp_path), False, contextlib.ExitStack())
    done: list[str] = []

    def carry_out(step: Step) -> None:
        if step.target == "two":
            raise GridboxError("It is in use.")
        if step.target == "four":
            raise EngineError("Asking", "no answer")
        done.append(step.target)

    monkeypatch.setattr(work, "_one", carry_out)
    made = [Step("clean_machine", target, "") for target in ("one", "two", "three")] + [Step("end_machine", "four", "")]
    work._plan = Plan(tuple(made))
    with Journal(lambda _name, _data: None, lambda: None) as journal:
        for step in made[:3]:
            work.do(step, journal)
        assert sorted(done) == ["one", "three"]
        assert work._troubles == {"two": "It is in use."}
        with pytest.raises(EngineError):
            work.do(made[3], journal)


@pytest.mark.parametrize("cut_short", [False, True])
def test_what_was_finished_when_the_engine_fell_silent_is_told(
    cut_short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines are ended several at a time: others are through when one fails, or when the run is told to end while it
    waits for that one."""
    work = SlotsWork.from_params(params(tmp_path), False, contextlib.ExitStack())
    begun = threading.Semaphore(0)

    def carry_out(step: Step) -> None:
        begun.release()
        if step.target == "two":
            raise GridboxError("It is in use.")
        if step.target == "one":
            for _ in range(3):  # the others are at work by then
                assert begun.acquire(timeout=30)
            time.sleep(0.2)
            if not cut_short:
                raise EngineError("Asking", "no answer")
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)

    monkeypatch.setattr(work, "_one", carry_out)
    made = tuple(Step("stop_machine", target, "") for target in ("one", "two", "three"))
    work._plan = Plan((*made, Step("start_machine", "four", "")))
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        expected = pytest.raises(KeyboardInterrupt if cut_short else EngineError)
        with Journal(lambda _name, _data: None, lambda: None) as journal, expected:
            work.do(made[0], journal)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [one.target for one in journal.beside] == (["one", "three"] if cut_short else ["three"])


def test_a_pull_that_fails_ends_the_run_for_one_machinetype_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: t.Any = None
    for machinetype in ("b", None):
        work = SlotsWork.from_params(params(tmp_path, machinetype=machinetype), False, contextlib.ExitStack())

        def refuse(_step: Step) -> None:
            raise EngineError("Pulling r:1", "no such image", 404)

        monkeypatch.setattr(work, "_one", refuse)
        step = Step("pull_image", "r:1", "")
        work._plan = Plan((step,))
        if machinetype:
            with pytest.raises(GridboxError, match="The engine says: no such image Nothing was touched"):
                work.do(step, journal)
        else:
            work.do(step, journal)
            assert list(work._troubles) == ["r:1"]


def test_no_machine_is_begun_before_its_image_is_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others can be started before."""
    work = SlotsWork.from_params(params(tmp_path), False, contextlib.ExitStack())
    here = {"a"}

    def carry_out(step: Step) -> None:
        if step.action == "pull_image":
            time.sleep(0.1)
            here.add(step.target)
        elif step.details["of"] not in here:
            raise GridboxError("its image is not here")

    monkeypatch.setattr(work, "_one", carry_out)
    wanted = (("start_machine", "one", "a"), ("pull_image", "b", ""), ("start_machine", "two", "b"))
    work._plan = Plan(tuple(Step(action, target, "", details={"of": kind}) for action, target, kind in wanted))
    journal: t.Any = None
    for step in work._plan.steps:
        work.do(step, journal)
    assert work._troubles == {}


#: What a daemon says of machinetypes.
JUDGED: dict[str, t.Any] = {
    "machinetypes": [
        {"machinetype": "a", "refusal": "no_image", "reason": "a: not now: its image is not here yet: gone"},
        {"machinetype": "b", "refusal": "not_here", "reason": "b: not for this factory"},
        {"machinetype": "c", "refusal": "no_share", "reason": "c: its target_share is 0"},
    ]
}


def asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machinetype: str, told: Report, **changes: t.Any
) -> SlotsWork:
    """A run on a host whose daemon has written a report a minute ago, with the machinetypes ``a``, ``b`` and ``c``."""
    given = params(tmp_path, machinetype=machinetype, slots=["0"])
    kind = {"root_image": "docker://image:1", "user_data": "run", "target_share": 1.0, "min_wallclock_seconds": 60}
    path = Path(given["configuration"])
    kinds = {"a": kind, "b": kind, "c": kind}
    path.write_text(json.dumps({**json.loads(path.read_text()), "machinetypes": kinds, **changes}))
    os.utime(path, (time.time() - 900, time.time() - 900))
    made = SlotsWork.from_params(given, True, contextlib.ExitStack())
    now = time.time()
    known = {"configuration_stamp": stamp(str(path)), "pid": os.getpid(), "written": now, "decided": now - 60}
    monkeypatch.setattr(made, "_told", lambda: replace(told, **{**known, "orders": NOTHING}))
    return made


TOLD = replace(
    REPORT, name="f1.example.org", decision=JUDGED, images={"a": ImageStatus(False, "It is gone.", 5.0)}, pipes={}
)


@pytest.mark.parametrize(
    ("machinetype", "changes", "told"),
    [
        ("a", {}, "machinetype: a: its image is not here yet: It is gone. Nothing was touched."),
        ("b", {}, "machinetype: b: b: not for this factory. Nothing was touched."),
        ("c", {"draining": True}, "machinetype: c: the factory is draining. Nothing was touched."),
        ("c", {"shutdown_time": 12_030}, "machinetype: c: the factory's shutdown_time is in 30 s"),
    ],
)
def test_a_daemon_is_not_asked_for_what_it_says_it_cannot_start(
    machinetype: str, changes: dict[str, t.Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = asked(tmp_path, monkeypatch, machinetype, TOLD, grace_seconds=0, **changes)
    observed = replace(seen(live(FIRST, "z"), by_hand=False), now=12_000)
    with pytest.raises(RefusedError) as found:
        work.preflight(work.plan(observed), observed)
    assert str(found.value).startswith(told)
    # One that runs there may do so.
    observed = replace(observed, machines=(live(FIRST, machinetype),))
    work.preflight(work.plan(observed), observed)


def test_whoever_orders_nothing_does_not_wait_for_what_runs_in_drained_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is for whoever has drained them; until the others run it waits all the same."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    with contextlib.ExitStack() as held:
        work = SlotsWork.from_params(params(tmp_path, state="ordered"), False, held)
        work._looked = True  # a daemon works
        Store(str(tmp_path / "state")).create(LIVE)
        orders.save(str(tmp_path / "state"), Orders(slots={LIVE.slot: SlotOrder("drained", since=5)}))
        assert work._left([LIVE.slot, SECOND]) == ({SECOND: "it is empty"}, {})
        orders.save(str(tmp_path / "state"), Orders(slots={LIVE.slot: SlotOrder("stopped", since=5)}))
        assert f"{LIVE.machinetype} runs, until" in work._left([LIVE.slot])[0][LIVE.slot]


def test_a_slot_that_is_no_more_is_meant_where_its_machine_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    Store(str(tmp_path / "state")).create(replace(LIVE, slot=FORMER))

    def work(**changes: t.Any) -> SlotsWork:
        made = SlotsWork.from_params(params(tmp_path, **changes), False, contextlib.ExitStack())
        made._looked = True  # a daemon works
        return made

    for state in ("drained", "stopped", "absent", "ordered"):
        assert work(slots=["7"], state=state).wish == Wish((FORMER,), state, "", (FORMER,))
    with pytest.raises(InputError, match=r"slots: got '7', expected a slot of f1\.example\.org: .* or 0 to 1; or all"):
        work(slots=["7"])
    everything = (FIRST, SECOND, FORMER)
    assert work().wish == Wish(everything, "running", "", (FORMER,))
    # Only who wants it to end waits for that.
    assert FORMER not in work()._left(everything)[0]
    assert FORMER not in work(state="ordered")._left(everything)[0]
    assert FORMER in work(state="drained")._left(everything)[0]
    assert FORMER in work(state="stopped")._left(everything)[0]


def test_a_record_that_cannot_be_read_keeps_nobody_from_ordering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the slot is told of it; its machine may run."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    with contextlib.ExitStack() as held:
        work = SlotsWork.from_params(params(tmp_path, state="drained", wait=False), False, held)
        (Path(Store(str(tmp_path / "state")).create(LIVE)) / "machine.json").write_text("{")
        work._looked = True  # a daemon works
        observed = work.observe()
        made = work.plan(observed)
        assert {step.action for step in made.steps} == {"give_order"}
        told = work.result(observed, made, applied=True)
        assert told["slots"][0]["state"] == "unknown"
        assert "machine.json" in told["warnings"][0]
        left, _why = work._left([LIVE.slot])
        assert "machine.json" in left[LIVE.slot]


def test_a_daemon_is_asked_for_what_may_come_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = asked(tmp_path, monkeypatch, "c", TOLD)
    observed = seen(by_hand=False)
    work.preflight(work.plan(observed), observed)
    work = asked(tmp_path, monkeypatch, "a", replace(TOLD, images={"a": ImageStatus(False)}))
    work.preflight(work.plan(observed), observed)


def test_a_report_that_is_older_than_the_configuration_keeps_nobody_from_ordering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration has just been put right: the next report is waited for."""
    work = asked(tmp_path, monkeypatch, "b", TOLD)
    told: t.Any = work._told()
    good = replace(told, decision={"machinetypes": []})
    reports = [told, good]
    monkeypatch.setattr(work, "_told", lambda: reports.pop(0) if len(reports) > 1 else reports[0])
    path = Path(work._asked.path)
    path.write_text(path.read_text())
    observed = seen(by_hand=False)
    work.preflight(work.plan(observed), observed)
    # Or for as long as it takes a daemon that hangs.
    reports[:] = [told]
    monkeypatch.setattr(slots_work, "_FRESH", 0)
    work.preflight(work.plan(observed), observed)


def test_what_comes_up_during_a_run_is_no_failure_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that ends meanwhile, or a folder that has had its days, is the next run's; nor was it announced."""
    given = params(tmp_path)
    small = {**SMALL, "total_processors": 3, "mb_per_processor": 4, "overload_per_processor": 1000}
    Path(given["configuration"]).write_text(json.dumps({**small, "state_folder": str(tmp_path / "state")}))
    work = SlotsWork.from_params(given, False, contextlib.ExitStack())
    ends, stays = live(FIRST), live(SECOND)
    began = seen(ends, stays, chances=replace(CHANCES, machinetypes=(A,)))
    planned = work.plan(began)
    assert steps(planned) == [("start_machine", THIRD)]
    monkeypatch.setattr(work, "_one", lambda step: work._started.update({THIRD: live(THIRD)}))
    journal: t.Any = None
    work.do(planned.steps[0], journal)
    over = replace(ends, state=ENDED, ended=NOW)
    old = replace(live(SECOND), uuid="old", state=ENDED, ended=1, cleaned=True)
    mending = Mending(over=((over, OVER),), expired=(old,))
    after = replace(began, machines=(over, stays, old, live(THIRD)), mending=mending)
    assert work.plan(after).steps == ()
    work._started.clear()
    work._troubles[THIRD] = "The registry is gone."
    assert steps(work.plan(replace(after, machines=(over, stays, old)))) == [("start_machine", THIRD)]


def test_a_run_that_waits_for_drained_slots_lets_others_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no machine's time limit would end it, no other slot be filled, and no daemon start, for a day maybe."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    state, listed = str(tmp_path / "state"), [replace(RUNS, uuid=LIVE.uuid)]
    store = Store(state)
    store.create(LIVE)
    monkeypatch.setattr(Look, "look", lambda _self, _now: (store.load()[0], Mending(), []))
    monkeypatch.setattr(slots_work, "_PAUSE", 0.01)
    looks: list[t.Any] = []

    def look() -> list[t.Any]:
        looks.append(1)
        if len(looks) == 2:  # another run
            with at_work(state):
                listed.clear()
                store.save(replace(LIVE, state=ENDED, ended=NOW, cleaned=True))
        return listed

    with contextlib.ExitStack() as held:
        work = SlotsWork.from_params(params(tmp_path, slots=["0"], state="drained"), False, held)
        observed = work.observe()
        with pytest.raises(WaitError), at_work(state):
            pass
        look_now: t.Any = work._look
        monkeypatch.setattr(look_now, "engine", SimpleNamespace(listed=look))
        told = work.result(observed, Plan(), applied=False)
    assert (told["daemon"], told["slots"][0]["state"]) == (False, "empty")
    assert len(looks) == 2


def test_what_somebody_runs_from_a_machine_that_was_committed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the machine's labels, and may run for ever."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    Store(str(tmp_path / "state")).create(LIVE)
    listed = [replace(RUNS, uuid=LIVE.uuid, id=str(LIVE.container))]
    with contextlib.ExitStack() as held:
        work = SlotsWork.from_params(params(tmp_path, slots=["0"], state="drained"), False, held)
        look: t.Any = Look(work.configuration)
        monkeypatch.setattr(look, "engine", SimpleNamespace(listed=lambda: listed))
        work._looked, work._look = True, look
        assert LIVE.slot in work._left([LIVE.slot])[0]
        listed[0] = replace(listed[0], id="another", name="look")
        assert work._left([LIVE.slot])[0] == {}
    monkeypatch.setattr(info, "engine_of", lambda _configuration: look.engine)
    last = {LIVE.slot: LIVE}
    assert (info._without_daemon(work.configuration, last), last[LIVE.slot].state) == ("", ENDED)


def test_what_is_configured_counts_when_the_run_has_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may have been waited for, and the configuration changed meanwhile."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(Look, "look", lambda _self, _now: ([], Mending(), []))
    given = params(tmp_path, state="drained")
    path = Path(given["configuration"])
    before = json.loads(path.read_text())
    for changes, refused in (
        ({"draining": True, "total_processors": 1}, ""),
        ({"state_folder": str(tmp_path / "other")}, f"the factory is in {tmp_path}/other now. Nothing was touched"),
        (None, r"factory\.json cannot be read .* Configure the factory first"),
    ):
        path.write_text(json.dumps(before))
        with contextlib.ExitStack() as held:
            work = SlotsWork.from_params(given, False, held)
            assert work.wish.slots == (FIRST, SECOND)
            if changes is None:
                path.unlink()
            else:
                path.write_text(json.dumps({**before, **changes}))
            if refused:
                with pytest.raises(RefusedError, match=refused):
                    work.observe()
                continue
            work.observe()
            assert work.configuration.settings.draining
            assert list(work.wish.slots) == [FIRST]


@pytest.mark.parametrize("what", ["factory", "vacuum_factory"])
def test_whoever_is_at_work_is_waited_for_unless_it_is_a_daemon(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run gives its place, for instance when it has taken the factory away; it reads no orders."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(Look, "look", lambda _self, _now: ([], Mending(), []))
    state = str(tmp_path / "state")
    code = (
        "import sys, time\n"
        f"from {at_work.__module__} import at_work\n"
        "with at_work(sys.argv[1]):\n    print('', flush=True)\n    sys.stdin.read(1)\n    time.sleep(0.2)\n"
    )
    argv = [sys.executable, "-c", code, state, what]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with contextlib.ExitStack() as held:
        other = held.enter_context(
            subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        work = SlotsWork.from_params(params(tmp_path, state="drained", wait=False), False, held)
        if what == "vacuum_factory":
            other.stdin.write(b"x")
            other.stdin.flush()
        told = work.result(work.observe(), Plan(), applied=False)
        other.stdin.close()
    assert told["daemon"] is (what == "factory")
    # This one has not said anything yet.
    assert [one for one in told["warnings"] if "has not reported yet" not in one] == []
    assert bool(told["warnings"]) is (what == "factory")


def test_who_keeps_being_at_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_work, "SECONDS", 0)
    with contextlib.ExitStack() as held, at_work(str(tmp_path / "state")):
        work = SlotsWork.from_params(params(tmp_path), False, held)
        with pytest.raises(WaitError, match=rf"to leave .*/state alone, in vain.*process {os.getpid()} is at work"):
            work.observe()


def test_a_daemon_that_has_not_reported_for_long_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    work = SlotsWork.from_params(params(tmp_path, wait=False), False, contextlib.ExitStack())
    work._looked = True  # a daemon works
    for age, told in ((5, []), (3600, ["The factory's daemon has not reported for 3600 s, so nobody can tell"])):
        report = replace(REPORT, written=time.time() - age, pid=os.getpid())
        monkeypatch.setattr(work, "_told", lambda report=report: report)
        found = work.result(work.observe(), Plan(), applied=False)["warnings"]
        assert [one[: len(sentence)] for one, sentence in zip(found, told)] == told
        assert len(found) == len(told)


# --- by hand


def test_looking_is_one_listing_and_says_what_is_to_be_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = replace(CONFIGURATION, state_folder=str(tmp_path))
    hand = by_hand.ByHand(configuration)
    machines = {
        name: replace(LIVE, uuid=name, created=9_000 + number, **changes)
        for number, (name, changes) in enumerate(
            {
                "runs": {}, "adopted": {"state": "starting"}, "gone": {}, "unborn": {"state": "starting"},
                "unclean": {"state": ENDED, "ended": 9_500}, "old": {"state": ENDED, "ended": 1, "cleaned": True},
            }.items()
        )
    }  # fmt: skip
    for machine in machines.values():
        hand.store.create(machine)
    found = [
        *(replace(RUNS, uuid=one, name=f"f1-00_{one}") for one in ("runs", "adopted", "nobodys")),
        replace(OVER, uuid="old"),
    ]
    monkeypatch.setattr(hand.engine, "listed", lambda: found)
    monkeypatch.setattr(hand.engine, "folder", lambda _identity: "")
    now = 400_000
    there, mending, problems = hand.look(now)
    assert problems == []
    assert {one.uuid: one.state for one in there} == {
        "runs": "running", "adopted": "running", "gone": ENDED, "unclean": ENDED, "old": ENDED,
    }  # fmt: skip
    assert [one.uuid for one in mending.adopted] == ["adopted"]
    assert [one.uuid for one, _container in mending.over] == ["gone"]
    assert [one.uuid for one in mending.unborn] == ["unborn"]
    assert [one.uuid for one in mending.uncleaned] == ["unclean"]
    assert [one.uuid for one in mending.expired] == ["old"]
    assert [one.uuid for one in mending.strays] == ["nobodys"]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    STARTING,
    Machine,
    from_json,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.mend import Found, compare, ended, not_started

NOW, BOOT = 10_000, 1_000
NEW = Machine("u1", "f1-00.example.org", "a", "docker", 1, 9_000, 20_000, 1 << 20, "image:1", 600)
LIVE = replace(NEW, state=RUNNING, container="c1", started=9_001, seen=9_900)
RUNS = Container("c1", "f1-00_u1", "u1", "running", started=9_001, pid=7)
OVER = Container("c1", "f1-00_u1", "u1", "exited", started=9_001, finished=9_950, exit_code=0)
MADE = Container("c1", "f1-00_u1", "u1", "created")


@pytest.mark.parametrize(
    ("machine", "container", "expected"),
    [
        (LIVE, RUNS, Found(running=(replace(LIVE, seen=NOW),))),
        (LIVE, OVER, Found(over=((LIVE, OVER),))),
        (LIVE, None, Found(over=((LIVE, None),))),
        # A start that a killed factory had begun: whatever it had come to.
        (NEW, RUNS, Found(running=(replace(NEW, state=RUNNING, container="c1", started=9_001, seen=NOW),))),
        (NEW, OVER, Found(over=((NEW, OVER),))),
        (NEW, MADE, Found(unborn=(NEW,))),
        (NEW, None, Found(unborn=(NEW,))),
        # A paused machine is one that runs.
        (LIVE, replace(RUNS, state="paused"), Found(running=(replace(LIVE, seen=NOW),))),
        (replace(LIVE, state=ENDED), OVER, Found()),
        (None, RUNS, Found(strays=(RUNS,))),
    ],
)
def test_compare(machine: t.Optional[Machine], container: t.Optional[Container], expected: Found) -> None:
    machines = [machine] if machine is not None else []
    assert compare(machines, [container] if container is not None else [], (), NOW) == expected


def test_what_a_worker_has_in_hand_is_left_to_it() -> None:
    assert compare([LIVE], [OVER], {"u1"}, NOW) == Found()
    assert compare([], [RUNS], {"u1"}, NOW) == Found()


def end(machine: Machine, container: t.Optional[Container], message: t.Optional[str] = None) -> Machine:
    return ended(machine, container, message, BOOT, NOW)


def test_a_machine_of_which_nobody_has_seen_the_end_is_not_to_blame() -> None:
    unseen = replace(OVER, state="dead", finished=None, exit_code=None)
    over = end(LIVE, unseen)
    assert (over.end_code, over.shutdown_message) == ("vanished", "100 Machine was killed by somebody else")
    assert over.ended == NOW
    # What it was told to end for, and a reboot, explain more.
    assert end(replace(LIVE, end_code="time_limit", shutdown_message="100 x"), unseen).end_code == "time_limit"
    assert ended(LIVE, unseen, None, 9_950, NOW).end_code == "rebooted"
    assert end(LIVE, unseen, "200 Success").shutdown_message == "200 Success"


def test_an_end_with_a_message() -> None:
    over = end(LIVE, OVER, "200 Success")
    assert (over.state, over.ended, over.shutdown_message, over.end_code) == (ENDED, 9_950, "200 Success", "by_itself")
    assert over.exit_code == 0


def test_an_end_without_a_message() -> None:
    assert end(LIVE, OVER).shutdown_message is None, "it ran for longer than fizzle_seconds"
    early = end(replace(LIVE, started=9_800), replace(OVER, started=9_800))
    assert early.shutdown_message == "300 Ended after 150 s without a message, fizzle_seconds is 600"


def test_what_the_factory_ended_it_for_is_its_message_if_it_leaves_none() -> None:
    told = replace(LIVE, told=9_940, end_code="time_limit", end_reason="r", shutdown_message="100 Time limit reached")
    assert end(told, OVER).shutdown_message == "100 Time limit reached"
    assert end(told, OVER, "200 Done").shutdown_message == "200 Done"
    assert end(told, OVER, "200 Done").end_code == "time_limit"


def test_a_machine_that_was_stopped_by_order_is_no_abort_whatever_it_says() -> None:
    told = replace(
        LIVE, started=9_900, told=9_940, end_code="stopped", end_reason="r", shutdown_message="100 Stopped by order"
    )
    assert end(told, OVER).shutdown_message == "100 Stopped by order", "nor is it a fizzle"
    assert end(told, OVER, "200 Done").shutdown_message == "200 Done"
    blamed = end(told, OVER, "700 Killed")
    assert (blamed.shutdown_message, blamed.end_reason) == ("100 Stopped by order", 'r; it said "700 Killed"')


def test_a_reboot_is_no_abort() -> None:
    gone = ended(replace(LIVE, started=9_890), replace(OVER, finished=9_950), None, 9_920, NOW)
    assert (gone.end_code, gone.shutdown_message, gone.ended) == ("rebooted", "100 Host was rebooted", 9_900)


def test_a_container_that_somebody_removed_is_no_abort() -> None:
    gone = end(LIVE, None)
    assert (gone.end_code, gone.ended) == ("vanished", 9_900)
    assert str(gone.shutdown_message).startswith("100 ")


def test_the_memory_limit_is_told() -> None:
    assert end(LIVE, replace(OVER, out_of_memory=True)).shutdown_message == "700 Memory limit reached"
    assert end(LIVE, replace(OVER, out_of_memory=True), "600 Mine").shutdown_message == "600 Mine"


def test_a_clock_that_was_set_back_makes_no_negative_life() -> None:
    assert end(LIVE, replace(OVER, finished=5_000)).ended == 9_001


def test_not_started() -> None:
    failed = not_started(NEW, "no such program", NOW)
    assert (failed.state, failed.failed_start, failed.end_reason) == (ENDED, True, "no such program")
    assert failed.own().failed_start


def test_an_engine_that_is_silent_makes_what_runs_unknown() -> None:
    assert LIVE.own(can_tell=False).state == "unknown"
    assert NEW.own(can_tell=False).state == STARTING
    assert LIVE.own(can_tell=False).occupies


def test_a_record_comes_back() -> None:
    assert from_json(LIVE.as_json(), "f") == LIVE
    known = replace(LIVE, cvmfs_repositories=("a.example.org",))
    assert from_json(known.as_json(), "f") == known
    later = LIVE.as_json().replace('"uuid"', '"of_a_later_version": 1,\n "uuid"')
    assert from_json(later, "f") == LIVE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"uuid": "u"}', "{" * 10000])
def test_what_is_no_record_is_a_sentence(text: str) -> None:
    with pytest.raises(GridboxError, match="f is not a machine's record"):
        from_json(text, "f")


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (None, 900),
        # Apptainer's, that nobody has seen the end of; and Docker's, which it tells as of its own start.
        (replace(OVER, finished=None, exit_code=None), 900),
        (replace(OVER, finished=NOW - 10), 900),
        (replace(OVER, finished=905), 905),
    ],
)
def test_a_machine_that_was_told_to_end_has_ended_when_the_host_went_down(
    container: t.Optional[Container], expected: int
) -> None:
    told = replace(LIVE, created=10, started=11, seen=900, told=899, end_code="shutdown_time", shutdown_message="100 x")
    over = end(told, container)
    assert (over.ended, over.end_code, over.shutdown_message) == (expected, "shutdown_time", "100 x")

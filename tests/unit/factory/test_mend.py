# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import signal
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    STARTING,
    Machine,
    from_json,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import SOME, Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.mend import (
    Found,
    Heard,
    by_the_clock,
    clock_of,
    compare,
    ended,
    not_started,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.history import works_here
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort

NOW, BOOT = 10_000, Clock("", 1_000)
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
        # A paused machine is one that runs; so is one that Podman has told to end, and one that nobody can tell of.
        *(
            (LIVE, replace(RUNS, state=state), Found(running=(replace(LIVE, seen=NOW),)))
            for state in ("paused", "restarting", "stopping", "unknown")
        ),
        # One whose process has ended, whatever has become of its container yet.
        *(
            (machine, replace(OVER, state=state), Found(over=((machine, replace(OVER, state=state)),)))
            for machine in (NEW, LIVE)
            for state in ("stopped", "dead", "removing")
        ),
        # Podman has it ready, and it has not run.
        (NEW, replace(MADE, state="initialized"), Found(unborn=(NEW,))),
        (replace(LIVE, state=ENDED), OVER, Found()),
        (None, RUNS, Found(strays=(RUNS,))),
    ],
)
def test_compare(machine: t.Optional[Machine], container: t.Optional[Container], expected: Found) -> None:
    machines = [machine] if machine is not None else []
    assert compare(machines, [container] if container is not None else [], (), NOW, BOOT) == expected


def test_what_somebody_runs_from_an_image_of_a_machine_is_no_machine_and_his_own() -> None:
    """An image that was committed from a container has its labels."""
    copy = replace(RUNS, id="c7", name="what-was-it")
    assert compare([], [copy], (), NOW, BOOT) == Found()
    both = Found(running=(replace(LIVE, seen=NOW),))
    for containers in ([RUNS, replace(copy, state="exited")], [replace(copy, state="exited"), RUNS]):
        assert compare([LIVE], containers, (), NOW, BOOT) == both
    assert compare([LIVE], [copy], (), NOW, BOOT) == Found(over=((LIVE, None),))
    assert compare([NEW], [copy], (), NOW, BOOT) == Found(unborn=(NEW,))
    # One that somebody has given another name is known by its id.
    assert compare([LIVE], [replace(RUNS, name="renamed")], (), NOW, BOOT) == both
    # Nor is what has the factory's label alone.
    assert compare([], [replace(RUNS, name="x_", uuid="")], (), NOW, BOOT) == Found()


def test_what_a_worker_has_in_hand_is_left_to_it() -> None:
    assert compare([LIVE], [OVER], {"u1"}, NOW, BOOT) == Found()
    assert compare([], [RUNS], {"u1"}, NOW, BOOT) == Found()


def end(machine: Machine, container: t.Optional[Container], message: t.Optional[str] = None) -> Machine:
    return ended(machine, container, message, BOOT, NOW)


def test_a_machine_of_which_nobody_has_seen_the_end_is_not_to_blame() -> None:
    unseen = replace(OVER, state="dead", finished=None, exit_code=None)
    over = end(LIVE, unseen)
    assert (over.end_code, over.shutdown_message) == ("vanished", "100 Machine was killed by somebody else")
    assert over.ended == NOW
    # What it was told to end for, and a reboot, explain more.
    assert end(replace(LIVE, end_code="time_limit", shutdown_message="100 x"), unseen).end_code == "time_limit"
    assert ended(LIVE, unseen, None, Clock("", 9_950), NOW).end_code == "rebooted"
    assert end(LIVE, unseen, "200 Success").shutdown_message == "200 Success"


def test_a_machine_that_lost_its_network_is_an_abort_and_a_failure_of_this_host() -> None:
    lost = replace(OVER, exit_code=137, problem="pasta, which carries its traffic, has ended")
    over = end(replace(LIVE, started=9_940), lost)
    assert (over.end_code, over.shutdown_message) == ("network_lost", "500 Machine lost its network")
    assert (over.end_reason, over.exit_code) == ("pasta, which carries its traffic, has ended", 137)
    assert is_abort(over.shutdown_message)
    assert works_here(over.own(), over.fizzle_seconds, NOW) is False
    assert ended(LIVE, lost, None, BOOT, NOW, Heard(deaf=((9_000, 10_000),))).end_code == "network_lost"
    # Its memory limit, what it was told to end for, and its own words explain more.
    assert end(LIVE, replace(lost, out_of_memory=True)).shutdown_message == "700 Memory limit reached"
    assert end(replace(LIVE, end_code="time_limit", shutdown_message="100 x"), lost).shutdown_message == "100 x"
    assert end(LIVE, lost, "200 Success").shutdown_message == "200 Success"


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
    gone = ended(replace(LIVE, started=9_890), replace(OVER, finished=9_950), None, Clock("", 9_920), NOW)
    assert (gone.end_code, gone.shutdown_message, gone.ended) == ("rebooted", "100 Host was rebooted", 9_900)


def test_a_container_that_somebody_removed_is_no_abort() -> None:
    gone = end(LIVE, None)
    assert (gone.end_code, gone.ended) == ("vanished", 9_900)
    assert str(gone.shutdown_message).startswith("100 ")


def test_the_memory_limit_is_told() -> None:
    assert end(LIVE, replace(OVER, out_of_memory=True)).shutdown_message == "700 Memory limit reached"
    assert end(LIVE, replace(OVER, out_of_memory=True), "600 Mine").shutdown_message == "600 Mine"


def test_a_sigkill_that_nobody_tells_of_is_named() -> None:
    untold = end(LIVE, replace(OVER, exit_code=137))
    assert (untold.end_code, untold.shutdown_message) == ("by_itself", end(LIVE, OVER).shutdown_message)
    assert untold.end_reason == (
        "it ended by itself after a SIGKILL, its own or its memory limit's; the engine told of none"
    )
    assert end(LIVE, replace(OVER, exit_code=1)).end_reason == "it ended by itself"


KILLED = ("vanished", "100 Machine was killed by somebody else")
YOUNG = replace(LIVE, started=9_800)
FIZZLE = ("by_itself", "300 Ended after 150 s without a message, fizzle_seconds is 600")


def exited(code: int, **more: t.Any) -> Container:
    return replace(OVER, started=9_800, exit_code=code, **more)


@pytest.mark.parametrize(
    ("heard", "code", "expected"),
    [
        (signal.SIGKILL, 137, KILLED),
        (signal.SIGTERM, 143, KILLED),
        # It ended as it was asked to, or has its own way to.
        (signal.SIGTERM, 0, KILLED),
        (signal.SIGHUP, 1, KILLED),
        # Podman does not say which signal it was. It may have been one that says something.
        (SOME, 137, KILLED),
        (SOME, 0, FIZZLE),
        # A payload may kill itself.
        (None, 137, FIZZLE),
        (None, 143, FIZZLE),
    ],
)
def test_a_machine_that_somebody_else_killed_is_no_abort(
    heard: t.Optional[int], code: int, expected: tuple[str, str]
) -> None:
    over = ended(YOUNG, exited(code), None, BOOT, NOW, Heard(heard))
    assert (over.end_code, over.shutdown_message) == expected


def test_what_a_machine_says_that_somebody_else_ended_counts() -> None:
    over = ended(YOUNG, exited(0), "200 Done", BOOT, NOW, Heard(signal.SIGTERM))
    assert (over.end_code, over.shutdown_message) == ("by_itself", "200 Done")
    assert over.end_reason == "it ended after somebody else had sent it SIGTERM"
    unknown = ended(YOUNG, exited(143), "200 Done", BOOT, NOW, Heard(SOME))
    assert unknown.end_reason == "it ended after somebody else had sent it a signal"


def test_what_explains_more_than_a_signal_of_somebody_else() -> None:
    heard = Heard(signal.SIGKILL, ((0, math.inf),))
    told = replace(YOUNG, told=9_940, end_code="time_limit", end_reason="r", shutdown_message="100 Time limit reached")
    over = ended(told, exited(137), None, BOOT, NOW, heard)
    assert (over.end_code, over.end_reason, over.shutdown_message) == ("time_limit", "r", "100 Time limit reached")
    assert ended(YOUNG, exited(137), None, Clock("", 9_920), NOW, heard).end_code == "rebooted"
    memory = ended(YOUNG, exited(137, out_of_memory=True), None, BOOT, NOW, heard)
    assert (memory.end_code, memory.shutdown_message) == ("by_itself", "700 Memory limit reached")
    assert ended(YOUNG, None, None, BOOT, NOW, heard).end_reason == "its container was removed by somebody else"


@pytest.mark.parametrize(
    ("deaf", "container", "expected"),
    [
        # The engine came back and ended what it found, or had lost it; the clock of its events has parts of a second.
        (((9_950.7, 9_960.0),), exited(143), KILLED),
        (((9_940.0, 9_950.2),), exited(137), KILLED),
        (((100.0, 200.0), (9_940.0, math.inf)), exited(255), KILLED),
        # What it is told then, a machine may have done itself.
        (((9_940.0, math.inf),), exited(0), FIZZLE),
        (((9_940.0, math.inf),), exited(3), FIZZLE),
        (((9_940.0, math.inf),), exited(137, out_of_memory=True), ("by_itself", "700 Memory limit reached")),
        (((100.0, 9_940.0), (9_951.0, math.inf)), exited(137), FIZZLE),
    ],
)
def test_a_machine_that_was_killed_while_nobody_heard_the_engine_is_no_abort(
    deaf: tuple[tuple[float, float], ...], container: Container, expected: tuple[str, str]
) -> None:
    over = ended(YOUNG, container, None, BOOT, NOW, Heard(deaf=deaf))
    assert (over.end_code, over.shutdown_message) == expected


def test_a_machine_that_left_a_message_while_nobody_heard_the_engine_keeps_it() -> None:
    over = ended(YOUNG, exited(0), "100 told", BOOT, NOW, Heard(deaf=((9_940.0, math.inf),)))
    assert (over.end_code, over.shutdown_message) == ("by_itself", "100 told")
    assert over.end_reason == "it ended while the engine was away"


def test_a_clock_that_was_set_back_makes_no_negative_life() -> None:
    over = end(LIVE, replace(OVER, finished=5_000))
    assert (over.started, over.ended) == (4_101, 5_000), "it was seen to run for 899 s"
    assert end(replace(LIVE, seen=9_002), replace(OVER, finished=8_990)).ended == 9_001


@pytest.mark.parametrize("back", [3_000, 500_000])
def test_a_clock_that_was_set_back_takes_nothing_from_what_a_machine_has_lived(back: int) -> None:
    """It has run for 899 seconds, and been told to end 30 seconds ago, when the clock is set back."""
    told = replace(LIVE, created=9_000 + back, started=9_001 + back, seen=9_900 + back, told=9_870 + back)
    (seen,) = compare([told], [RUNS], (), 9_901, BOOT).running
    assert (seen.started, seen.told, seen.seen) == (9_002, 9_871, 9_901)
    assert compare([seen], [RUNS], (), 9_903, BOOT).running == (replace(seen, seen=9_903),), "once"
    # Whether anybody has looked meanwhile or not, it is no fizzle: it would block its machinetype in the whole space.
    for machine in (told, seen):
        over = end(machine, OVER)
        assert (over.shutdown_message, over.ended) == (None, 9_950)
        assert over.started is not None and 899 <= 9_950 - over.started <= 950


@pytest.mark.parametrize("ahead", [500_000, -8_000])
@pytest.mark.parametrize("before", [True, False])
def test_how_long_a_machine_ran_is_known_when_it_ended_while_no_daemon_ran_and_the_clock_was_set(
    ahead: int, before: bool
) -> None:
    """It was last seen after 899 s, and ended 100 s later; before the clock was set, or since."""
    marked = replace(LIVE, created=19_000, started=19_001, seen=19_900, boot="b1", booted=10_000)
    finished, now = 20_000, 20_500 + ahead
    container = replace(OVER, finished=finished if before else finished + ahead)
    over = ended(marked, container, None, Clock("b1", 10_000 + ahead), now)
    assert (over.started, over.ended) == (19_001 + ahead, 20_000 + ahead)
    assert (over.end_code, over.booted, over.set_by) == ("by_itself", 10_000 + ahead, ahead)
    assert over.made == 19_000 + ahead and over.folder == marked.folder
    again = ended(by_the_clock(marked, now, Clock("b1", 10_000 + ahead)), None, None, Clock("b1", 10_000 + ahead), now)
    assert again.ended == 19_900 + ahead, "of one that is gone, when it was last seen"


def test_a_boot_is_told_by_its_mark_and_only_without_one_by_times() -> None:
    marked = replace(LIVE, boot="b1", booted=1_000)
    for booted in (1_000, 9_950, 500_000):
        gone = ended(marked, OVER, None, Clock("b2", booted), NOW)
        assert (gone.end_code, gone.started) == ("rebooted", LIVE.started)
        assert gone.ended == (9_950 if booted > 9_950 else 9_900), "by the clock of its times"
        assert ended(marked, OVER, None, Clock("b1", 1_030), NOW).end_code == "by_itself"


def test_machines_that_end_together_do_so_ever_after() -> None:
    """The clock's small corrections make no difference between them: a superslot ends at one second."""
    first = replace(LIVE, boot="b1", booted=1_000)
    then = clock_of([replace(first, state=ENDED, booted=990), replace(first, boot="b0"), first], Clock("b1", 1_007))
    assert then == Clock("b1", 1_000)
    second = replace(first, uuid="u2", booted=then.booted)
    later = clock_of([first, second], Clock("b1", 99_000))
    assert {by_the_clock(one, NOW, later).shutdown_time for one in (first, second)} == {20_000 + 98_000}


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


@pytest.mark.parametrize(("told", "expected"), [(None, 17), (0.4, 0), (19.9, 19)])
def test_what_was_used_to_the_end_counts_where_it_is_known(told: float | None, expected: int) -> None:
    """Else the last measurement."""
    over = ended(replace(LIVE, cpu_seconds=17), replace(OVER, cpu_seconds=told), None, BOOT, NOW)
    assert over.cpu_seconds == expected

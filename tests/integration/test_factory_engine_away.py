# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory while its engine is away and its machines run on: nobody can tell, so nothing is done (spec 9.1)."""

from __future__ import annotations

import json
import os
import signal
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import PodmanService
from tests.lab.factory import LabFactory, PodmanLab, kind_of
from tests.lab.lab import Lab

Make = t.Callable[..., LabFactory]

#: Ends by itself when it is allowed to, and when it is told to.
WAITS = (
    "trap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM\n"
    "while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done\necho 200 Success >$JOBOUTPUTS/shutdown_message"
)
#: What would be done to machines. An end is noticed by events; without, a look at all of them would take a minute.
DONE = ("machine_told_to_end", "machine_killed", "machine_ended", "unborn_removed", "stray_removed", "machine_started")
AT_ONCE = 20.0


def processes(factory: LabFactory) -> dict[str, tuple[str, int]]:
    """By machinetype, the machines that run: uuid and process."""
    return {
        kind_of(one): (one["Config"]["Labels"]["hep.gridbox.machine"], one["State"]["Pid"]) for one in factory.running()
    }


def started(factory: LabFactory, count: int) -> dict[str, tuple[str, int]]:
    """The machines, one of each type, when all of them run and the engine has answered that they do.

    A process is there before that answer is.
    """
    running = factory.wait("one of each", lambda: len(p := processes(factory)) == count and p)
    factory.wait("the word of that", lambda: len(factory.events("machine_started")) == count)
    return t.cast("dict[str, tuple[str, int]]", running)


def outputs(factory: LabFactory, uuid: str) -> Path:
    return next(factory.state.glob(f"machines/*_{uuid[:8]}/mnt/joboutputs"))


def told_silent(factory: LabFactory) -> int:
    """The factory has noticed that its engine is away, and says so; how much it has done to machines until then."""
    factory.wait("the silence", lambda: factory.events("engine_silent"))
    done = len(factory.events(*DONE))
    red = factory.wait("a red check", lambda: (c := factory.run("check")).returncode == 2 and c)
    assert "The engine does not answer" in red.stdout
    return done


def ends_at_once(factory: LabFactory, uuid: str) -> None:
    """A machine is allowed to end, and that is noticed by the engine's word."""
    (outputs(factory, uuid) / "go").touch()
    began = time.monotonic()
    ended = factory.wait(
        "its end", lambda: [one for one in factory.events("machine_ended") if one["machine"] == uuid], AT_ONCE
    )
    assert (ended[0]["message"], ended[0]["code"]) == ("200 Success", "by_itself"), time.monotonic() - began


def test_machines_outlive_an_engine_that_is_killed_and_comes_back(make_factory: Make) -> None:
    kinds = {
        "stays": {"script": WAITS},
        "ends": {"script": WAITS},
        "late": {"script": WAITS, "max_wallclock_seconds": 20},
    }
    factory = make_factory(kinds, total_processors=3, slots=4)
    engine = factory.lab.engine
    engine.config.write_text(json.dumps({"live-restore": True}))
    os.kill(engine.pid, signal.SIGHUP)
    factory.wait("live restore", lambda: "true" in factory.lab.docker("info", "--format", "{{.LiveRestoreEnabled}}"))
    factory.start()
    before = started(factory, 3)
    shutdown_time = {one["uuid"]: one["shutdown_time"] for one in factory.records()}[before["late"][0]]

    engine.kill()
    done = told_silent(factory)
    # One ends, the time of one is over, and there is room for one more.
    (outputs(factory, before["ends"][0]) / "go").touch()
    factory.write(total_processors=4)
    factory.wait("that to be read", lambda: factory.events("configuration_read"))
    factory.wait("the limit", lambda: time.time() > shutdown_time + factory.settings["grace_seconds"] + 2)
    assert len(factory.events(*DONE)) == done
    states = {one["uuid"]: one["state"] for one in factory.records()}
    assert states == {uuid: "running" for uuid, _pid in before.values()}
    for name in ("stays", "late"):
        assert os.path.exists(f"/proc/{before[name][1]}")

    engine.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    ends = factory.wait(
        "both ends", lambda: len(e := {one["machine"]: one for one in factory.events("machine_ended")}) == 2 and e
    )
    assert (ends[before["ends"][0]]["message"], ends[before["ends"][0]]["code"]) == ("200 Success", "by_itself")
    assert (ends[before["late"][0]]["message"], ends[before["late"][0]]["code"]) == ("100 told", "time_limit")
    factory.wait("all slots to be filled", lambda: len(factory.running()) == 4)
    stays = [one for one in factory.running() if one["Config"]["Labels"]["hep.gridbox.machine"] == before["stays"][0]]
    assert [one["State"]["Pid"] for one in stays] == [before["stays"][1]]
    assert not factory.events("stray_removed", "unborn_removed", "internal_error")
    ends_at_once(factory, before["stays"][0])


@pytest.mark.parametrize(
    ("armed", "patience"),
    [({"timeout": 2, "look": 3}, 60.0), pytest.param(None, 240.0, marks=pytest.mark.fleet)],
    ids=["hasty", "as-it-is"],
)
def test_an_engine_that_does_not_answer_for_a_while_costs_no_machine(
    make_factory: Make, armed: t.Optional[dict[str, t.Any]], patience: float
) -> None:
    """A stopped engine takes requests, and answers none until it goes on; then it does what it was asked long ago."""
    factory = make_factory({"a": {"script": WAITS}}, total_processors=1, slots=2)
    factory.armed = armed
    factory.start()
    before = started(factory, 1)["a"]
    engine = factory.lab.engine
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        factory.write(total_processors=2)  # so that something is asked
        silent = factory.wait("the silence", lambda: factory.events("engine_silent"), patience)
        assert "timed out" in silent[0]["problem"]
        # The report of its start, which comes before the first answer, may be the last one still.
        red = factory.wait(
            "a red check", lambda: (c := factory.run("check")).returncode == 2 and "timed out" in c.stdout and c
        )
        assert "The engine does not answer" in red.stdout
        time.sleep(3)  # it is asked again and again
        assert len(factory.events(*DONE)) == 1, "it has begun with the one that runs"
        assert os.path.exists(f"/proc/{before[1]}")
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    factory.wait("two machines, and nothing else", lambda: len(factory.running()) == 2 == len(factory.containers()))
    assert before in [
        (one["Config"]["Labels"]["hep.gridbox.machine"], one["State"]["Pid"]) for one in factory.running()
    ]
    assert not factory.events("machine_ended", "machine_told_to_end", "machine_killed", "internal_error")
    factory.wait("the records of these two", lambda: [one["state"] for one in factory.records()] == ["running"] * 2)
    ends_at_once(factory, before[0])


@pytest.mark.fleet  # a service of its own
def test_machines_of_podman_outlive_its_service(podman: PodmanService, tmp_path: Path) -> None:
    factory = LabFactory(t.cast(Lab, PodmanLab(podman)), tmp_path, network="podman", total_processors=2)
    factory.kinds({"stays": {"script": WAITS}, "ends": {"script": WAITS}})
    try:
        factory.start()
        before = started(factory, 2)
        podman.kill()
        done = told_silent(factory)
        (outputs(factory, before["ends"][0]) / "go").touch()
        factory.wait("its end", lambda: not os.path.exists(f"/proc/{before['ends'][1]}"))
        assert len(factory.events(*DONE)) == done
        podman.start()
        end = factory.wait("that to be noticed", lambda: factory.events("machine_ended"))[0]
        assert (end["machine"], end["message"]) == (before["ends"][0], "200 Success")
        factory.wait("the next one", lambda: len(factory.running()) == 2)
        assert before["stays"] in [
            (one["Config"]["Labels"]["hep.gridbox.machine"], one["State"]["Pid"]) for one in factory.running()
        ]
        ends_at_once(factory, before["stays"][0])
        assert not factory.events("stray_removed", "unborn_removed", "machine_told_to_end", "internal_error")
    finally:
        podman.start()
        factory.remove()

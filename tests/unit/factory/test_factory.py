# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
import socket
import threading
import time
import typing as t
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import catalogue, features, host_facts
from ansible_collections.hep.gridbox.plugins.module_utils.factory import factory as factories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.image_store import Image
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, RUNNING, STARTING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.mend import not_started
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pull_order import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import of_slots, write
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import LeftOver
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import FIZZLE
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Forced, HostLoad
from tests.unit.factory.reports import CONFIGURATION, REPORT
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, RUNS


def made(tmp_path: Path, said: t.Optional[list[str]] = None, **options: t.Any) -> factories.Factory:
    """A factory that has not asked its engine yet; in a loop."""
    wanted = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", **options})
    return factories.Factory(wanted, lambda event, **_facts: said.append(event) if said is not None else None)


async def idle(factory: factories.Factory) -> None:
    """Wait until all that was begun is through, with what follows from it."""
    while factory._tasks:
        await asyncio.wait(list(factory._tasks))


def test_a_machine_that_ends_while_it_is_measured_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_pid: int) -> float:
        asked.set()
        assert go_on.wait(10)
        return 7.0

    monkeypatch.setattr(factories, "cpu_seconds", slow)

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines[LIVE.uuid] = LIVE
        factory._pids[LIVE.uuid] = 1
        measuring = asyncio.ensure_future(factory.measure())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        factory.machines[LIVE.uuid] = replace(LIVE, state=ENDED)
        go_on.set()
        await measuring
        assert factory.machines[LIVE.uuid].state == ENDED
        await factory.close()

    asyncio.run(test())


def test_no_decision_is_taken_with_the_machinetypes_of_an_older_configuration(tmp_path: Path) -> None:
    async def test() -> None:
        factory = made(tmp_path, machinetypes={"old": KINDS["own"]})
        await factory.read_catalogue()
        reading = asyncio.ensure_future(factory.read_catalogue())
        await asyncio.sleep(0)  # it has begun, with the older one
        factory.configure(made(tmp_path, machinetypes={"new": KINDS["own"]}).configuration)
        await factory._decide()
        assert [one.name for one in factory.catalogue.machinetypes] == ["new"]
        await reading
        assert [one.name for one in factory.catalogue.machinetypes] == ["new"]
        await factory.close()

    asyncio.run(test())


@contextlib.contextmanager
def hanging() -> t.Iterator[tuple[str, t.Callable[[], int]]]:
    """The URL of a server that takes connections and never answers, and how many it has taken."""
    taken: list[socket.socket] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/pipe", lambda: len(taken)
        server.shutdown(socket.SHUT_RDWR)
        for one in taken:
            one.close()
        thread.join()


async def until(true: t.Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    while not true():
        await asyncio.sleep(0.01)


def test_an_order_lets_no_pipe_be_read_again(tmp_path: Path) -> None:
    """While one is being read that hangs, as is done each ten seconds then."""

    async def test(url: str, taken: t.Callable[[], int]) -> None:
        factory = made(tmp_path, machinetypes={"a": KINDS["own"]}, vacuum_pipes={"p": {"vacuum_pipe_url": url}})
        before = factory.catalogue = catalogue.at_hand(factory.configuration, {}, 1.0)
        reading = asyncio.ensure_future(factory.read_catalogue())
        await until(lambda: taken() == 1)
        settings = factory.configuration.settings
        ordered = replace(settings, closed_slots=frozenset(settings.slots[:1]))
        factory.configure(replace(factory.configuration, settings=ordered))
        await asyncio.wait_for(factory._decide(), 10)
        assert not factory.host_problem
        assert factory.catalogue is before and not factory._tasks and not reading.done()
        reading.cancel()

    with hanging() as (url, taken):
        asyncio.run(test(url, taken))


def test_a_pipe_that_answers_comes_before_the_copy_of_it(tmp_path: Path) -> None:
    """What it has withdrawn while the daemon was away is not started for hours."""

    def publish(*suffixes: str) -> None:
        kinds = [{**KINDS["other"], "suffix": one, "machine_model": "docker"} for one in suffixes]
        (tmp_path / "pipe").write_text(json.dumps({"machinetypes": kinds}))

    async def names() -> list[str]:
        pipes = {"p": {"vacuum_pipe_path": str(tmp_path / "pipe"), "target_share": 2}}
        factory = made(tmp_path, vacuum_pipes=pipes)
        await factory.begin()
        await factory.close()
        return [one.name for one in factory.catalogue.machinetypes]

    publish("x", "y")
    assert asyncio.run(names()) == ["p-x", "p-y"]
    publish("x")
    assert asyncio.run(names()) == ["p-x"]
    (tmp_path / "pipe").write_text("{")
    assert asyncio.run(names()) == ["p-x"]


def test_a_pipe_that_hangs_keeps_no_other_machinetype_waiting(tmp_path: Path) -> None:
    """Another configuration is gone on with at once: with what it says itself, and what is known of its pipes. Nothing
    of what it does not want any more is left."""
    published = json.dumps({"machinetypes": [{**KINDS["other"], "suffix": "x", "machine_model": "docker"}]})
    (tmp_path / "pipe").write_text(published)
    known = {"vacuum_pipe_path": str(tmp_path / "pipe"), "target_share": 2}

    async def test(url: str, taken: t.Callable[[], int]) -> None:
        hangs = {"vacuum_pipe_url": url, "target_share": 1}
        old, new = {"a": KINDS["own"], "old": KINDS["own"]}, {"a": KINDS["own"], "new": KINDS["own"]}
        factory = made(tmp_path, machinetypes=old, vacuum_pipes={"p": known, "gone": known})
        await factory.read_catalogue()
        assert [one.name for one in factory.catalogue.machinetypes] == ["a", "gone-x", "old", "p-x"]
        pipes = {"p": known, "h": hangs}
        factory.configure(made(tmp_path, machinetypes=new, vacuum_pipes=pipes).configuration)
        await asyncio.wait_for(factory._decide(), 10)
        assert not factory.host_problem
        await until(lambda: taken() == 1)  # it is being read beside
        assert [one.name for one in factory.catalogue.machinetypes] == ["a", "new", "p-x"]
        # And once more, while that is read: its reading must not bring back what is not wanted any more then.
        factory.configure(made(tmp_path, machinetypes={"last": KINDS["own"]}, vacuum_pipes=pipes).configuration)
        await asyncio.wait_for(factory._decide(), 10)
        assert [one.name for one in factory.catalogue.machinetypes] == ["last", "p-x"]
        assert taken() == 1
        answers.close()
        while factory._tasks:
            await asyncio.wait(list(factory._tasks), timeout=60)
        assert [one.name for one in factory.catalogue.machinetypes] == ["last", "p-x"]
        assert factory.catalogue.pipes["h"].problem
        await factory.close()

    with contextlib.ExitStack() as answers:
        asyncio.run(test(*answers.enter_context(hanging())))


def test_an_engine_that_does_not_answer_from_the_start_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_arguments: t.Any) -> t.NoReturn:
        raise EngineError("Listing containers", "no answer")

    async def test() -> None:
        said: list[str] = []
        factory = made(tmp_path)
        factory.say = lambda event, **_more: said.append(event)
        monkeypatch.setattr(factory.engine, "listed", silent)
        for _look in range(2):
            await factory._look()
        assert factory.engine_since is not None
        monkeypatch.setattr(factory.engine, "listed", lambda *_arguments: [])
        for _look in range(2):
            await factory._look()
        assert factory.can_tell
        assert said == ["engine_silent", "engine_answers"]
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_runs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "cpu_seconds", {1: 7.9}.get)

    async def test() -> None:
        factory = made(tmp_path)
        other = replace(LIVE, uuid="u2")
        factory.machines.update({LIVE.uuid: LIVE, other.uuid: other})
        factory._pids.update({LIVE.uuid: 1, other.uuid: 2})
        await factory.measure()
        assert factory.machines[LIVE.uuid].cpu_seconds == 7
        assert factory.machines[other.uuid] == other
        # The clock was set back by a day: what it has lived is not lost because of a measurement.
        ahead = replace(LIVE, started=int(time.time()) + 86000, seen=int(time.time()) + 86400)
        factory.machines[LIVE.uuid] = ahead
        await factory.measure()
        after = factory.machines[LIVE.uuid]
        assert (after.seen or 0) - (after.started or 0) == 400
        await factory.close()

    asyncio.run(test())


def test_what_a_machine_uses_now_is_told_and_not_what_it_used_since_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was busy for an hour, and then it idles."""
    now, used = [50_000.0], {1: 3600.0}
    monkeypatch.setattr(factories, "cpu_seconds", used.get)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines[LIVE.uuid] = LIVE
        factory._pids[LIVE.uuid] = 1

        async def measured(seconds: float, of_them: float) -> float:
            now[0] += seconds
            used[1] += of_them
            await factory.measure()
            return factory.machines[LIVE.uuid].cpu_percentage

        assert await measured(0, 0) == 0, "nobody can tell yet"
        assert await measured(5, 10) == 200
        assert await measured(0.1, 0.2) == 200, "too little for a figure of its own"
        for _turn in range(11):
            await measured(5, 10)
        assert await measured(5, 0) == 183.4, "110.2 s of the last 60.1 s"
        for _turn in range(11):
            await measured(5, 0.05)
        assert factory.machines[LIVE.uuid].cpu_percentage == 0.9
        assert len(factory._used[LIVE.uuid]) == 13
        factory._have_ended(replace(factory.machines[LIVE.uuid], state=ENDED))
        assert factory._used == {}
        monkeypatch.undo()
        await factory.close()

    asyncio.run(test())


def test_how_much_room_there_is_is_not_asked_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For LVM that is a command of up to two minutes."""
    asked: list[int] = []

    def room(*_arguments: t.Any) -> tuple[int, int]:
        asked.append(threading.get_ident())
        return 1 << 40, 1 << 40

    async def test() -> None:
        factory = made(tmp_path)
        monkeypatch.setattr(factory.work_spaces, "room_bytes", room)
        factory.engine_problem = ""
        factory._looked = time.monotonic()
        factory.tick()
        factory.tick()
        await factory.close()
        assert factory.decision is None, "it is closing"
        assert len(asked) == 1
        assert threading.get_ident() not in asked

    asyncio.run(test())


def test_a_clock_that_is_set_back_puts_off_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    async def test() -> None:
        factory = made(tmp_path)
        factory.engine_problem = ""
        monkeypatch.setattr(factory, "look", lambda: looks.append(1))
        factory.tick()
        factory._looked = time.monotonic() - factories.LOOK
        hour_ago = time.time() - 3600
        monkeypatch.setattr(time, "time", lambda: hour_ago)
        factory.tick()
        await factory.close()

    asyncio.run(test())
    assert looks == [1, 1]


def test_a_clock_that_was_set_right_is_no_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the host booted is another time then, also for a factory that works since before."""
    now = int(time.time())
    live = replace(LIVE, created=now - 101, started=now - 100, seen=now - 50)
    over = replace(RUNS, state="exited", started=now - 100, finished=now - 40, exit_code=0)

    async def stays(_machine: Machine) -> None:
        """Its container is none that can be removed."""

    async def test() -> None:
        monkeypatch.setattr(host_facts, "clock", lambda: Clock("", now - 10))  # the clock is ahead
        factory = made(tmp_path)
        monkeypatch.setattr(host_facts, "clock", lambda: Clock("", now - 600))
        factory.store.create(live)
        factory.machines[live.uuid] = live
        monkeypatch.setattr(factory, "_clean", stays)
        await factory._over(live, over)
        assert factory.machines[live.uuid].end_code == "by_itself"
        assert str(factory.machines[live.uuid].shutdown_message).startswith(FIZZLE)
        await factory.close()

    asyncio.run(test())


def test_the_last_end_of_a_machinetype_is_kept_while_a_newer_machine_runs(tmp_path: Path) -> None:
    """It is what the other factories are told of."""
    over = replace(
        LIVE, uuid="u0", slot="f1-01.example.org", created=1, started=2, ended=100, state=ENDED, cleaned=True
    )
    older = replace(over, uuid="u3", created=2, ended=50)
    after = replace(LIVE, uuid="u2", slot="f1-01.example.org")

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines = {one.uuid: one for one in (over, older, LIVE, after)}
        factory._trim()
        assert set(factory.machines) == {over.uuid, LIVE.uuid, after.uuid}
        await factory.close()

    asyncio.run(test())


def failure(turn: int) -> Machine:
    """A start that failed days ago, the next a quarter of a day later."""
    over = replace(LIVE, state=STARTING, started=None, uuid=f"u-{turn}", created=1_000_000 + turn * 21_600)
    return replace(not_started(over, "It broke.", over.created + 5), cleaned=True)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ("500 Machine did not start", 3), (f"{FIZZLE}5 s without a message", 3), ("700 Memory limit reached", 3),
        ("300 Nothing to do", 0), ("200 Success", 0),
        ("600 Grid-wide trouble", 2), ("100 Stopped by order", 2),
    ],
)  # fmt: skip
def test_a_failure_is_what_this_host_may_be_to_blame_for(tmp_path: Path, message: str, count: int) -> None:
    """An experiment without work is not; its queue was a red check on every host."""

    async def test() -> None:
        factory = made(tmp_path)
        factory.failures = {LIVE.machinetype: 2}
        factory._count_failure(
            replace(LIVE, state=ENDED, started=100, ended=105, fizzle_seconds=600, shutdown_message=message)
        )
        assert factory.failures == {LIVE.machinetype: count}
        await factory.close()

    asyncio.run(test())


def test_failures_in_a_row_are_remembered_and_found_again_until_a_machine_works(tmp_path: Path) -> None:
    """The decision counts them, however long they are ago: a factory on which nothing works tries a few times a day."""
    failures = [failure(turn) for turn in range(5)]
    older = replace(failures[0], uuid="u-older", created=900_000, ended=900_005)
    worked = replace(
        LIVE, uuid="worked", state=ENDED, cleaned=True, created=950_000, started=950_000, ended=960_000
    )  # fmt: skip
    with_them = [older, worked, *failures]

    async def test() -> None:
        factory = made(tmp_path)
        for one in with_them:
            factory.store.create(one)
        factory.recover()
        factory._trim()
        assert set(factory.machines) == {one.uuid for one in (worked, *failures)}
        factory.catalogue = Catalogue((Machinetype("a", 1.0, backoff_seconds=3600, root_image="image:1"),))
        factory.engine_problem = ""
        factory.images.here = {"image:1": Image("id", 0.0)}
        factory._fill(HostLoad(8), (failures[-1].ended or 0) + 20_000)
        assert factory.decision is not None and factory.decision.start is None
        assert (
            "a (share 1, usage 0, score 0): not now: backing off for 1600 s more after 5 tries in a row"
            in "\n".join(factory.decision.reasons)
        )
        # Another one works now.
        now = int(time.time())
        factory.machines["new"] = replace(LIVE, uuid="new", created=now - 3600, started=now - 3600)
        factory._trim()
        # The last end of the machinetype is what others are told of.
        assert set(factory.machines) == {failures[-1].uuid, "new"}
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("pipe", ["read when the daemon begins", "not read until it has cleaned up after a machine"])
def test_a_machinetype_that_backs_off_does_so_after_a_restart(tmp_path: Path, pipe: str) -> None:
    """A restart does not know its machinetypes yet, and took the abort for one of long ago.

    It is nobody's last end here, neither the slot's nor the machinetype's, and no failure of the host either.
    """
    now = int(time.time())
    nothing = replace(
        LIVE, uuid="u-a", slot="f1-00.example.org", created=now - 6000, started=now - 6000, state=ENDED, cleaned=True,
        ended=now - 1500, shutdown_message="300 Nothing to do",
    )  # fmt: skip
    well = replace(
        nothing, uuid="u-b", slot="f1-01.example.org", created=now - 5000, started=now - 5000, ended=now - 1400,
        shutdown_message="200 Success",
    )  # fmt: skip
    another = replace(
        LIVE, uuid="u-c", machinetype="other", slot="f1-00.example.org", created=now - 1490, started=now - 1490
    )  # fmt: skip

    async def test() -> None:
        factory = made(tmp_path)
        for one in (nothing, well, another):
            factory.store.create(one)
        factory.recover()
        if pipe != "read when the daemon begins":
            factory._trim()
        factory.catalogue = Catalogue((Machinetype(LIVE.machinetype, 1.0, backoff_seconds=3600, root_image="image:1"),))
        factory.engine_problem = ""
        factory.images.here = {"image:1": Image("id", 0.0)}
        factory._trim()
        factory._fill(HostLoad(8), now)
        assert factory.decision is not None and factory.decision.start is None
        assert "backing off for 2100 s more" in "\n".join(factory.decision.reasons)
        await factory.close()

    asyncio.run(test())


def test_of_very_many_failures_in_a_row_the_newest_are_remembered(tmp_path: Path) -> None:
    async def test() -> None:
        factory = made(tmp_path)
        factory.machines = {one.uuid: one for one in map(failure, range(factories.FAILURES_KEPT + 20))}
        factory._trim()
        assert list(factory.machines) == [failure(turn).uuid for turn in range(20, factories.FAILURES_KEPT + 20)]
        await factory.close()

    asyncio.run(test())


def test_what_machines_that_run_may_still_write_into_a_folder_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    other = replace(LIVE, uuid="u2", slot="f1-01.example.org", processors=2)
    starting = replace(LIVE, uuid="u3", state=STARTING)

    def free(promised: int = 0) -> tuple[int, int]:
        asked.append(promised)
        return 0, 0

    async def test() -> None:
        factory = made(tmp_path, disk_gb_per_processor=10)
        factory.machines = {one.uuid: one for one in (LIVE, other, starting, replace(LIVE, uuid="u4", state=ENDED))}
        monkeypatch.setattr(factory.work_spaces, "room_bytes", free)
        await factory._decide()
        factory._written = {"u1": Written(0, 4 * 10**9), "u2": Written(None, 21 * 10**9)}
        await factory._decide()
        factory.configure(replace(factory.configuration, work_space="file"))
        monkeypatch.setattr(factory.work_spaces, "room_bytes", free)
        await factory._decide()
        await factory.close()

    asyncio.run(test())
    assert asked == [30 * 10**9, 6 * 10**9, 0], "of the one that starts the decision knows itself"


def test_a_machine_that_cannot_be_measured_does_not_hide_what_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    asked: list[list[str]] = []

    def written(machines: t.Sequence[Machine]) -> dict[str, Written]:
        asked.append([one.uuid for one in machines])
        if "u2" in asked[-1]:
            raise GridboxError("no answer")
        return {one.uuid: Written(5) for one in machines}

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.machines = {uuid: replace(LIVE, uuid=uuid) for uuid in ("u1", "u2", "u3")}
        factory._written = {"u2": Written(4), "gone": Written(3)}
        monkeypatch.setattr(factory.life, "written", written)
        await factory._weigh_all()
        assert asked == [["u1", "u2", "u3"], ["u1"], ["u2"], ["u3"]]
        assert factory._written == {"u1": Written(5), "u2": Written(4), "u3": Written(5)}
        assert said == ["measuring_failed"]
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_wrote_too_much_is_told_to_end_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, created=now, started=now, shutdown_time=now + 3600)

    async def test() -> None:
        factory = made(tmp_path, said, root_gb_per_processor=0.001)
        factory.engine_problem, factory._looked = "", time.monotonic()
        monkeypatch.setattr(
            factory.life, "written",
            lambda machines: {one.uuid: Written(1000 * 1000 + (one.uuid == "u2")) for one in machines},
        )  # fmt: skip
        monkeypatch.setattr(factory, "_send_term", lambda machine: machine)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)
        other = replace(live, uuid="u2", slot="f1-01.example.org")
        factory.machines = {one.uuid: one for one in (live, other)}
        for _turn in range(20):
            factory.tick()
            await asyncio.sleep(0.02)
        assert said.count("machine_told_to_end") == 1
        assert factory.machines["u2"].end_code == "disk_limit"
        assert factory.machines["u1"].told is None
        await factory.close()

    asyncio.run(test())


def test_a_heartbeat_counts_by_what_was_said_when_the_machine_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that drops its machinetype, or says something else of it, says nothing of machines that run."""
    now = int(time.time())
    live = replace(LIVE, created=now - 900, started=now - 900, shutdown_time=now + 3600, fizzle_seconds=600)
    told: list[tuple[str, str]] = []

    async def tell(machine: Machine, end: End, _now: int) -> None:
        told.append((machine.uuid, end.code))

    async def test() -> None:
        factory = made(tmp_path)
        factory.engine_problem, factory.watching_since = "", now - 900
        monkeypatch.setattr(factory, "_tell", tell)
        asked = replace(live, uuid="asked", slot="f1-01.example.org", heartbeat_file="alive", heartbeat_seconds=60)
        factory.machines = {one.uuid: one for one in (live, asked)}
        assert factory.catalogue.machinetypes == ()
        factory._limits(now)
        await asyncio.sleep(0.05)
        factory._limits(now)
        await asyncio.sleep(0.05)
        await factory.close()

    asyncio.run(test())
    assert told == [("asked", "heartbeat_missing")]


def test_a_work_space_that_does_not_answer_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that dies. Of its machine nobody knows whether it has a heartbeat, so it is not ended for that."""
    now = int(time.time())
    hangs = replace(
        LIVE, created=now - 900, started=now - 900, shutdown_time=now + 3600, heartbeat_file="alive", uuid="hangs"
    )
    other = replace(hangs, uuid="other", slot="f1-01.example.org")
    told: list[str] = []
    go_on = threading.Event()

    async def tell(machine: Machine, _end: End, _now: int) -> None:
        told.append(machine.uuid)

    async def test() -> None:
        factory = made(tmp_path)
        factory.engine_problem, factory.watching_since = "", now - 900
        monkeypatch.setattr(factory, "_tell", tell)
        look, asked = factory.store.heartbeats, []

        def slow(machines: t.Iterable[Machine]) -> t.Any:
            wanted = list(machines)
            if hangs in wanted:
                asked.append(1)
                go_on.wait(5)
            return look(wanted)

        monkeypatch.setattr(factory.store, "heartbeats", slow)
        factory.machines = {one.uuid: one for one in (hangs, other)}
        began = time.monotonic()
        for _turn in range(3):
            factory._limits(now)
            await asyncio.sleep(0.05)
        await factory.close()
        assert time.monotonic() - began < 4
        assert asked == [1], "nobody looks again before that look is over"
        assert set(told) == {"other"}

    try:
        asyncio.run(test())
    finally:
        go_on.set()


def test_a_machine_that_cannot_be_measured_in_time_ends_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many files would be a way round the limit. That the engine does not answer is not the machine's doing."""
    now = int(time.time())
    live = {uuid: replace(LIVE, uuid=uuid, slot=f"f1-0{uuid[1]}.example.org", created=now, shutdown_time=now + 3600)
            for uuid in ("u1", "u2")}  # fmt: skip
    trouble: list[GridboxError] = []
    told: list[tuple[str, str]] = []

    def written(machines: t.Sequence[Machine]) -> dict[str, Written]:
        if "u2" in [one.uuid for one in machines]:
            raise trouble[0]
        return {one.uuid: Written(5) for one in machines}

    async def tell(machine: Machine, end: End, _now: int) -> None:
        told.append((machine.uuid, end.code))

    async def test() -> None:
        factory = made(tmp_path)
        factory.engine_problem, factory.machines = "", dict(live)
        monkeypatch.setattr(factory.life, "written", written)
        monkeypatch.setattr(factory, "_tell", tell)

        async def weigh(problem: GridboxError, times: int) -> None:
            trouble[:] = [problem]
            for _turn in range(times):
                await factory._weigh_all()
            factory._limits(now)
            await asyncio.sleep(0.05)

        slow, silent = WaitError("du to end", 60), EngineError("Looking", "no answer")
        await weigh(silent, 9)
        assert factory.unmeasured == {}
        await weigh(slow, 3)
        await weigh(silent, 3)
        await weigh(slow, 1)
        assert factory.unmeasured == {"f1-02.example.org": 4}
        assert told == []
        monkeypatch.setattr(factory.life, "written", lambda machines: {one.uuid: Written(5) for one in machines})
        await weigh(slow, 1)
        assert factory.unmeasured == {}, "in a row"
        monkeypatch.setattr(factory.life, "written", written)
        await weigh(slow, 5)
        assert told == [("u2", "disk_unknown")]
        await factory.close()

    asyncio.run(test())


class Images(MachineEngine):
    """An engine that has images, by reference; of nothing else."""

    where = "unix:///e"

    def __init__(self, **here: str) -> None:
        super().__init__(self.where, "f1.example.org")
        self.here, self.asked = here, t.cast("list[str]", [])
        self.silent = False
        self.looked, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def images(self) -> dict[str, tuple[str, ...]]:
        self.looked.set()
        assert self.go_on.wait(10)
        if self.silent:
            raise EngineError("Listing images", "no answer")
        return {identity: (name,) for name, identity in self.here.items()}

    def image(self, reference: str) -> t.Optional[str]:
        return self.here.get(reference)

    def pull(self, reference: str) -> None:
        self.asked.append(f"pull {reference}")
        self.here[reference] = f"sha256:{reference}"

    def remove_image(self, name: str) -> None:
        self.asked.append(f"remove {name}")
        del self.here[name]


#: By name, machinetypes of the images of the same names.
KINDS = {name: {"root_image": f"docker://{name}", "user_data": "run", "target_share": 1.0} for name in ("own", "other")}


def use(factory: factories.Factory, engine: MachineEngine) -> None:
    """Let it have another engine, which answers."""
    factory.engine, factory.images.engine, factory.engine_problem = engine, engine, ""


def pull(factory: factories.Factory) -> None:
    """Let it begin to pull what it wants."""
    factory.images.pull(factory.images_to_have(), time.monotonic())


def tidy(factory: factories.Factory) -> None:
    """Let it begin to look for what nobody wants."""
    factory.images.tidy(factory._wanted_images, lambda: 7, time.monotonic())


async def with_images(tmp_path: Path, engine: MachineEngine, said: list[str], **kinds: t.Any) -> factories.Factory:
    """A factory that knows its machinetypes, and has pulled an image ``own`` long ago."""
    factory = made(tmp_path, said, machinetypes=kinds)
    use(factory, engine)
    factory.images.pulled.change(lambda _kept: (PulledImage("unix:///e", "own", "sha256:own", 1),))
    await factory.read_catalogue()
    return factory


async def pulled(factory: factories.Factory) -> None:
    """Wait until what is pulled is here; a factory that closes gives it up."""
    while factory.images._pulling:
        await asyncio.sleep(0.01)


async def tidied(factory: factories.Factory) -> None:
    """Wait until the look for unwanted images is over; a factory that closes removes none any more."""
    while factory.images._tidying:
        await asyncio.sleep(0.01)


def test_what_the_factory_pulls_is_its_own_and_what_was_there_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Images(other="sha256:other")
        factory = await with_images(tmp_path, engine, [], **KINDS)
        pull(factory)
        await pulled(factory)
        await factory.close()
        assert engine.asked == ["pull own"]
        assert [(one.reference, one.wanted > 1) for one in factory.images.pulled.load()] == [("own", True)]

    asyncio.run(test())


def test_an_image_that_nobody_wants_is_removed_and_is_not_here_from_then_on(tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images(own="sha256:own", other="sha256:other")
        factory = await with_images(tmp_path, engine, said, other=KINDS["other"])
        factory.images.here = {
            "own": Image("sha256:own"), "other": Image("sha256:other"),
            "own@sha256:d": Image("sha256:own"),
        }  # fmt: skip
        tidy(factory)
        pull(factory)
        assert not factory.images._pulling, "it could find the image that is going"
        await tidied(factory)
        await factory.close()
        assert (engine.asked, list(factory.images.here), factory.images.pulled.load()) == (
            ["remove own"],
            ["other"],
            (),
        )

    asyncio.run(test())
    assert "image_removed" in said


def test_no_image_is_removed_while_images_are_pulled(tmp_path: Path) -> None:
    async def test() -> None:
        factory = await with_images(tmp_path, Images(own="sha256:own"), [])
        factory.images._pulling[Wish("other")] = asyncio.create_task(asyncio.sleep(0))
        tidy(factory)
        assert not factory.images._tidying
        await factory.close()

    asyncio.run(test())


def test_an_image_that_is_wanted_again_meanwhile_stays(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Images(own="sha256:own")
        engine.go_on.clear()
        factory = await with_images(tmp_path, engine, [])
        tidy(factory)
        while not engine.looked.is_set():
            await asyncio.sleep(0.01)
        factory.configure(
            replace(factory.configuration, machinetypes=parse({**SMALL, "machinetypes": KINDS}).machinetypes)
        )
        engine.go_on.set()
        await tidied(factory)
        await factory.close()
        assert engine.asked == []
        assert len(factory.images.pulled.load()) == 1


def test_a_machine_that_is_younger_than_a_listing_has_not_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start may begin and come through while an engine that has much to do still lists what there was before."""
    asked, go_on = threading.Event(), threading.Event()
    said: list[str] = []
    begun = replace(LIVE, uuid="u2", slot="f1-01.example.org", state=STARTING, container="", started=None)

    def slow(_unless: t.Container[str]) -> list[Container]:
        asked.set()
        assert go_on.wait(10)
        return [RUNS]

    async def test() -> None:
        factory = made(tmp_path, said)
        monkeypatch.setattr(factory.engine, "listed", slow)
        monkeypatch.setattr(factory.engine, "output", lambda *_arguments: None)
        monkeypatch.setattr(factory.engine, "remove", lambda _container: None)
        factory.machines = {LIVE.uuid: LIVE, begun.uuid: begun}
        factory._busy.add(begun.uuid)
        looking = asyncio.ensure_future(factory._look())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        young = replace(LIVE, uuid="u3", slot="f1-02.example.org", container="c3")
        for one in (replace(begun, state=RUNNING, container="c2", started=9_001), young):
            factory.store.create(one)
            factory.machines[one.uuid] = one
        factory._busy.discard(begun.uuid)
        go_on.set()
        await looking
        await factory.close()
        assert [one.state for one in factory.machines.values()] == [RUNNING] * 3
        assert "machine_ended" not in said

    asyncio.run(test())


def test_a_machine_that_is_made_in_the_turn_in_which_a_look_begins_has_not_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look may have its first step after the decision and before the first step of the start."""
    started, said = threading.Event(), t.cast("list[str]", [])

    def slow(_unless: t.Container[str]) -> list[Container]:
        assert started.wait(10)
        time.sleep(0.1)
        return []  # what there was when it was asked

    def start(machine: Machine, *_arguments: t.Any) -> Machine:
        made = replace(machine, state=RUNNING, container="c1", started=machine.created)
        factory_store.create(made)
        started.set()
        return made

    factory_store = Store(str(tmp_path))

    async def test() -> None:
        factory = made(tmp_path, said, machinetypes={"a": KINDS["own"]})
        kind = factory.configuration.machinetypes[0]
        factory.catalogue, factory.images.here = Catalogue((kind,)), {kind.root_image: Image("id")}
        monkeypatch.setattr(factory.engine, "listed", slow)
        monkeypatch.setattr(factory.engine, "container", lambda _name: replace(RUNS, uuid=next(iter(factory.machines))))
        monkeypatch.setattr(factory.life, "start", start)
        monkeypatch.setattr(factory.life, "clean", lambda machine: replace(machine, cleaned=True))
        factory.look()
        now = int(time.time())
        factory._begin(Start("f1-00.example.org", kind.name, 1, now + 3600), now)
        await factory.close()
        assert [one.state for one in factory.machines.values()] == [RUNNING]
        assert "machine_ended" not in said

    asyncio.run(test())


@pytest.mark.parametrize("gone", [{}, {"own": Image(None, problem="It leads elsewhere.")}])
def test_a_start_whose_image_has_gone_since_it_was_decided_has_never_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: dict[str, Image]
) -> None:
    said: list[str] = []

    async def test() -> None:
        factory = made(tmp_path, said, machinetypes={"a": KINDS["own"]})
        kind = factory.configuration.machinetypes[0]
        factory.catalogue = Catalogue((kind,))
        use(factory, Images())
        monkeypatch.setattr(factory.life.engine, "remove", lambda _name: None)
        factory.images.here = gone
        factory._begin(Start("f1-00.example.org", kind.name, 1, int(time.time()) + 3600), int(time.time()))
        await idle(factory)
        await factory.close()
        assert (said, factory._busy, factory.machines) == (["image_gone", "unborn_removed"], set(), {})

    asyncio.run(test())


@pytest.mark.parametrize(("image", "order"), [("here", True), ("away", True), ("removed", True), ("here", False)])
def test_a_machine_makes_room_for_what_was_ordered_when_that_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, order: bool
) -> None:
    async def test() -> None:
        options = {"mb_per_processor": 4, "overload_per_processor": 1000, "total_processors": 1}
        factory = made(tmp_path, machinetypes={"own": {**KINDS["own"], "min_wallclock_seconds": 1}}, **options)
        use(factory, Images(**({"own": "sha256:own"} if image == "here" else {})))
        await factory.read_catalogue()
        if image != "away":
            factory.images.here["own"] = Image("sha256:own")
        if order:
            forced = {LIVE.slot: Forced("own", 1)}
            wanted = replace(factory.configuration, settings=replace(factory.configuration.settings, forced=forced))
            factory.configure(wanted)
        told: list[tuple[str, str]] = []

        async def tell(machine: Machine, end: End, _now: int) -> None:
            told.append((machine.uuid, end.reason))

        monkeypatch.setattr(factory, "_tell", tell)
        machine = replace(LIVE, machinetype="z", shutdown_time=int(time.time()) + 3600)
        factory.machines = {machine.uuid: machine}
        factory._limits(int(time.time()))
        factory._fill(HostLoad(8), int(time.time()))
        assert factory.decision is not None
        waits = [(slot, why.text) for slot, why in factory.decision.waiting]
        await factory.close()
        ends = [(machine.uuid, "own was ordered for its slot")]
        assert told == (ends if (image, order) == ("here", True) else [])
        why = "z goes on there: own cannot be started here: not now: its image is not here yet"
        assert waits == ([(machine.slot, why)] if image == "away" else [])

    asyncio.run(test())


def test_a_machine_that_is_told_to_end_is_not_told_of_an_earlier_limit_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two who change one record the later would take back what the first has written: why the machine ends."""
    now = int(time.time())
    live = replace(LIVE, created=now - 100, started=now - 99, shutdown_time=now + 3600)
    lowering = threading.Event()

    def slowly(machine: Machine, limit: int) -> Machine:
        lowering.set()
        time.sleep(0.2)
        machine = replace(machine, shutdown_time=limit)
        Store(str(tmp_path)).save(machine)
        return machine

    async def test() -> None:
        factory = made(tmp_path)
        factory.store.create(live)
        factory.engine_problem, factory._looked = "", time.monotonic()
        factory.machines = {live.uuid: live}
        monkeypatch.setattr(factory.engine, "signal", lambda *_arguments: True)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)
        monkeypatch.setattr(factory.engine, "listed", lambda *_arguments: [RUNS])
        settings = replace(factory.configuration.settings, shutdown_time=now + 60, stopped_slots=frozenset([live.slot]))
        factory.configure(replace(factory.configuration, settings=settings))
        monkeypatch.setattr(factory.life, "lower", slowly)
        factory._limits(now)
        for _turn in range(40):
            await asyncio.sleep(0.02)
        assert factory.machines[live.uuid].end_code == "stopped"
        assert factory.store.load()[0][0].end_code == "stopped"
        for _turn in range(40):
            factory._limits(now)
            await asyncio.sleep(0.02)
        assert factory.machines[live.uuid].end_code == "stopped"
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_has_ended_is_not_told_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may be found between a look at its limit and what follows from that; it would run again by its record."""
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, seen=now - 2, shutdown_time=now - 1)

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.store.create(live)
        factory.engine_problem, factory._looked = "", time.monotonic()
        factory.machines = {live.uuid: live}
        monkeypatch.setattr(factory.engine, "signal", lambda *_arguments: False)
        monkeypatch.setattr(factory.engine, "output", lambda *_arguments: None)
        monkeypatch.setattr(factory.engine, "remove", lambda _container: None)
        monkeypatch.setattr(factory.engine, "container", lambda _name: None)
        factory.spawn(factory._over(live, replace(RUNS, state="exited", finished=now - 2, exit_code=0)))
        factory._limits(now)
        await factory.close()
        assert said.count("machine_ended") == 1
        assert "machine_told_to_end" not in said
        assert factory.machines[live.uuid].end_code == "by_itself"

    asyncio.run(test())


def test_how_a_machine_has_ended_is_known_until_it_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container may have been removed for room, and nobody could tell then."""
    said: list[str] = []
    there = [replace(RUNS, state="exited", finished=int(time.time()) - 2, exit_code=7)]

    async def test() -> None:
        factory = made(tmp_path, said)
        live = replace(LIVE, created=int(time.time()) - 50, started=int(time.time()) - 50, seen=int(time.time()) - 2)
        factory.store.create(live)
        factory.machines = {live.uuid: live}
        monkeypatch.setattr(factory.engine, "listed", lambda _unless: list(there))
        monkeypatch.setattr(factory.engine, "container", lambda _name: there[0] if there else None)
        monkeypatch.setattr(factory.engine, "remove", lambda _name: there.clear())
        monkeypatch.setattr(factory.engine, "output", lambda *_arguments: None)
        monkeypatch.setattr(factory.life, "_fills", lambda _paths: True)
        monkeypatch.setattr(factory.engine, "outside", lambda _name: None)

        def full(_machine: Machine) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        async def look() -> None:
            await factory._look()
            await idle(factory)

        with monkeypatch.context() as patched:
            patched.setattr(factory.store, "save", full)
            await look()
            await look()
        assert there == []
        assert said.count("record_not_written") == 2
        assert factory.machines[live.uuid].state == RUNNING, "its slot stays taken"
        await look()
        over = factory.machines[live.uuid]
        assert (over.end_code, over.exit_code, over.cleaned) == ("by_itself", 7, True)
        assert said.count("machine_ended") == 1
        await factory.close()

    asyncio.run(test())


def test_a_machine_whose_folder_somebody_has_removed_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its slot would be taken until the daemon is restarted."""
    said: list[str] = []
    there = [replace(RUNS, state="exited", finished=int(time.time()) - 2, exit_code=0)]

    async def test() -> None:
        factory = made(tmp_path, said)
        live = replace(LIVE, created=int(time.time()) - 50, started=int(time.time()) - 50, seen=int(time.time()) - 2)
        factory.machines = {live.uuid: live}
        monkeypatch.setattr(factory.engine, "listed", lambda _unless: list(there))
        monkeypatch.setattr(factory.engine, "container", lambda _name: there[0] if there else None)
        monkeypatch.setattr(factory.engine, "remove", lambda _name: there.clear())
        monkeypatch.setattr(factory.engine, "output", lambda _name, path, _limit: Path(path).write_text("printed"))
        await factory._look()
        await idle(factory)
        over = factory.machines[live.uuid]
        assert (over.state, over.end_code, over.cleaned) == (ENDED, "by_itself", True)
        assert there == []
        assert said == ["engine_answers", "machine_ended"]
        assert not factory.store.has(live)
        await factory.close()

    asyncio.run(test())


KILLED = ("vanished", "100 Machine was killed by somebody else")
FIZZLED = ("by_itself", "300 Ended after 48 s without a message, fizzle_seconds is 600")


def end_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: t.Callable[[factories.Factory, Machine], t.Any],
    exit_code: int = 137,
) -> tuple[str, t.Optional[str]]:
    """What is made of a young machine that ended two seconds ago, after something else had happened."""
    now = int(time.time())

    async def test() -> Machine:
        factory = made(tmp_path)
        factory._answers()
        live = replace(LIVE, created=now - 50, started=now - 50, seen=now - 3)
        factory.store.create(live)
        factory.machines = {live.uuid: live}
        over = replace(RUNS, state="exited", started=now - 50, finished=now - 2, exit_code=exit_code)
        monkeypatch.setattr(factory.engine, "container", lambda _name: over)
        monkeypatch.setattr(factory.engine, "signal", lambda *_arguments: True)
        monkeypatch.setattr(factory.life, "clean", lambda machine: replace(machine, cleaned=True))
        told = before(factory, live)
        if told is not None:
            await told
        factory.ended(live.uuid)
        await idle(factory)
        await factory.close()
        assert factory._signals == {}
        return factory.machines[live.uuid]

    over = asyncio.run(test())
    return over.end_code, over.shutdown_message


def test_a_signal_that_somebody_else_sent_explains_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of(tmp_path, monkeypatch, lambda factory, live: factory.signalled(live.uuid, 9)) == KILLED


def test_a_signal_to_another_machine_explains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of(tmp_path, monkeypatch, lambda factory, _live: factory.signalled("u2", 9)) == FIZZLED


def test_a_signal_of_the_factory_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine tells of both alike, maybe after the request has failed: nobody knows then that it was told."""

    async def tell(factory: factories.Factory, live: Machine) -> None:
        def silent(*_arguments: str) -> bool:
            raise EngineError("Sending a signal", "no answer")

        end = End(live.slot, live.machinetype, "time_limit", "r", "100 Time limit reached")
        with monkeypatch.context() as patched:
            for name in ("signal", "container"):
                patched.setattr(factory.engine, name, silent)
            await factory._tell(live, end, int(time.time()))
        factory.signalled(live.uuid, 15)

    assert end_of(tmp_path, monkeypatch, tell) == FIZZLED


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([], FIZZLED),
        ([(-10, None)], KILLED),
        ([(-10, -1)], KILLED),
        # A try to listen that fails is no new time.
        ([(-10, None), (-1, -1)], KILLED),
        ([(-10, -5)], FIZZLED),
        ([(-10, -1), (0, None)], KILLED),
    ],
)
def test_an_end_that_nobody_could_hear_may_be_the_engines_doing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gaps: list[tuple[int, t.Optional[int]]],
    expected: tuple[str, str],
) -> None:
    now = int(time.time())

    def away(factory: factories.Factory, _live: Machine) -> None:
        for begin, end in gaps:
            factory.deaf(now + begin)
            if end is not None:
                factory.hears(now + end)

    assert end_of(tmp_path, monkeypatch, away, 143) == expected


def test_a_machine_whose_folder_could_not_be_made_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it. It was tried to be cleaned away each minute until the daemon was restarted."""
    said: list[str] = []

    def fails(_machine: Machine) -> str:
        raise OSError(errno.EIO, "Input/output error")

    async def test() -> None:
        factory = made(tmp_path, said, machinetypes={"a": KINDS["own"]})
        kind = factory.configuration.machinetypes[0]
        factory.images.here = {kind.root_image: Image("id")}
        monkeypatch.setattr(factory.store, "create", fails)
        monkeypatch.setattr(factory.engine, "image", lambda _reference: "id")
        monkeypatch.setattr(factory.engine, "remove", lambda _name: None)
        machine = replace(LIVE, state=STARTING, container="", started=None)
        factory.machines = {machine.uuid: machine}
        await factory._start(machine, kind)
        await factory.close()
        over = factory.machines[machine.uuid]
        assert (over.state, over.end_code, over.cleaned) == (ENDED, "start_failed", True)
        assert said == ["machine_ended"]

    asyncio.run(test())


def test_an_image_that_cannot_be_written_down_is_not_asked_for_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk that was a loop without a pause."""
    said: list[str] = []
    asked: list[str] = []

    def full(reference: str) -> None:
        asked.append(reference)
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test() -> None:
        factory = made(tmp_path, said, machinetypes={"a": {"root_image": "docker://a:1", "user_data": "run"}})
        factory._looked = time.monotonic()
        kind = replace(factory.configuration.machinetypes[0], target_share=1.0)
        factory.catalogue = Catalogue((kind,))
        use(factory, Images())
        monkeypatch.setattr(factory.engine, "pull", full)
        for _turn in range(20):
            pull(factory)
            await asyncio.sleep(0.01)
        assert asked == ["a:1"]
        assert "No space left" in factory.images.here["a:1"].problem
        assert said == ["image_wanted", "image_missing"]
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("told", [None, 1])
def test_what_cannot_be_ended_is_no_loop_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: t.Optional[int]
) -> None:
    """A process that waits for a file system which does not answer survives KILL; and an engine may refuse TERM."""
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, seen=now, shutdown_time=now - 100, told=told)

    def signal(*_arguments: str) -> bool:
        if told is None:
            raise EngineError("Signalling", "it cannot be", 500)
        return True

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.store.create(live)
        factory.engine_problem, factory._looked, factory._weighed = "", time.monotonic(), time.monotonic()
        factory.machines = {live.uuid: live}
        factory._had_term = {live.uuid} if told else set()
        monkeypatch.setattr(factory.engine, "signal", signal)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # as the daemon does
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(factory.wake.wait(), 0.2)
            factory.wake.clear()
            factory.tick()
        await factory.close()
        assert said.count("machine_killed" if told else "machine_told_to_end") == 1
        assert factory.machines[live.uuid].told is not None, "after its grace it is killed"

    asyncio.run(test())


def test_a_machine_that_outlives_kill_is_told_of_and_gets_it_each_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, seen=now, shutdown_time=now - 100, told=now - 100, end_code="time_limit")
    later, there = [0.0], [True]
    times = SimpleNamespace(time=lambda: now + later[0], monotonic=lambda: 1000 + later[0])

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.store.create(live)
        factory.engine_problem, factory.machines, factory._had_term = "", {live.uuid: live}, {live.uuid}
        monkeypatch.setattr(factory.engine, "signal", lambda *_arguments: True)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS if there[0] else None)
        monkeypatch.setattr(factories, "time", times)
        found = {}
        for later[0] in range(180):
            factory._limits(int(now + later[0]))
            await idle(factory)
            found[later[0]] = factory.outliving
        assert said.count("machine_killed") == 1
        assert said.count("machine_outlives_kill") == 3, "after half a minute, and then each minute"
        assert found[29] == {} and found[30] == found[179] == {live.slot: now}
        assert factory.machines[live.uuid].state == RUNNING, "its slot is taken"
        there[0] = False
        await factory._look_at(live.uuid)
        await idle(factory)
        assert factory.outliving == {}
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("refused", [False, True])
def test_a_machine_of_which_nobody_knows_whether_it_had_term_gets_it_before_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """That it was told is written down before the signal is sent: the daemon may have been killed in between, or the
    engine has not answered. Its grace begins with the signal."""
    sent: list[str] = []
    now = int(time.time())
    told = replace(LIVE, seen=now, shutdown_time=now - 4000, told=now - 3600, end_code="time_limit")
    silent = [True]

    def signal(_container: str, name: str) -> bool:
        sent.append(name)
        if silent[0] or refused:
            raise EngineError("Signalling", "nothing", None if silent[0] else 500)
        return True

    async def test() -> None:
        factory = made(tmp_path, grace_seconds=600)
        factory.store.create(told)
        factory.machines = {told.uuid: told}
        monkeypatch.setattr(factory.engine, "signal", signal)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)

        async def turn() -> None:
            factory.engine_problem = ""
            factory._limits(int(time.time()))
            await idle(factory)
            factory._resting.clear()

        await turn()
        assert sent == ["SIGTERM"]
        silent[0] = False
        for _turn in range(3):
            await turn()
        assert sent == ["SIGTERM", "SIGTERM"]
        machine = factory.machines[told.uuid]
        assert (machine.told or 0) >= now and machine.end_code == "time_limit"
        factory.machines[told.uuid] = replace(machine, told=now - 601)
        await turn()
        assert sent == ["SIGTERM", "SIGTERM", "SIGKILL"]
        await factory.close()

    asyncio.run(test())


def test_how_a_machine_was_last_seen_is_known_after_a_restart(tmp_path: Path) -> None:
    """Its record is as old as its start. After a reboot nobody else can tell how long it ran, and what it used."""
    said: list[str] = []
    live = replace(LIVE, seen=LIVE.started)
    later = replace(live, seen=50_000, cpu_seconds=38_000)
    known = replace(CONFIGURATION.settings, slots=(live.slot,))
    told = replace(REPORT, slots=of_slots(known.slots, [later]))

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.store.create(live)
        factory.recover()
        assert factory.machines == {live.uuid: live}, "there is no report yet"
        write(str(tmp_path), told)
        factory.recover()
        assert factory.machines == {live.uuid: later}
        (tmp_path / "report.json").write_text("{")
        factory.recover()
        assert factory.machines == {live.uuid: live}
        assert said == ["report_unreadable"]
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("here", [True, False])
def test_an_image_that_somebody_has_removed_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """One with a digest is fetched once, so until a restart no machine of it could start. But that a start fails is
    as a rule no reason to fetch: then the next look for a newer one must not be put off."""
    reference = f"a@sha256:{'0' * 64}"
    looked_at = Image("id", "", None, 7.0)

    async def test() -> None:
        factory = made(tmp_path, machinetypes={"a": {"root_image": f"docker://{reference}", "user_data": "run"}})
        kind = factory.configuration.machinetypes[0]
        factory.engine_problem, factory._looked = "", time.monotonic()
        factory.images.here = {reference: looked_at}
        machine = replace(LIVE, state=STARTING)
        factory.store.create(machine)
        monkeypatch.setattr(factory.life, "start", lambda *_arguments: not_started(machine, "no such image", 10_000))
        monkeypatch.setattr(factory.life, "clean", lambda machine: replace(machine, cleaned=True))
        monkeypatch.setattr(factory.engine, "image", lambda _reference: "id" if here else None)
        factory.machines = {machine.uuid: machine}
        await factory._start(machine, kind)
        assert factory.images.here == ({reference: looked_at} if here else {})
        await factory.close()

    asyncio.run(test())


def test_a_start_whose_image_somebody_has_removed_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole space would back off; here it is fetched, and the machine is made."""
    said: list[str] = []

    async def test() -> None:
        factory, engine = with_one(tmp_path, said)
        engine.here.clear()

        def gone(*_arguments: t.Any) -> t.NoReturn:
            raise EngineError("Creating it", "no such image", 404)

        monkeypatch.setattr(engine, "create", gone)
        monkeypatch.setattr(engine, "remove", lambda _container: None)
        monkeypatch.setattr(factory.life, "_fill", lambda *_arguments: None)
        now = int(time.time())
        factory.catalogue = Catalogue(factory.configuration.machinetypes)
        factory._begin(Start("f1-00.example.org", "own", 1, now + 3600), now)
        await idle(factory)
        assert factory.machines == {} and factory.store.load()[0] == []
        assert said == ["image_gone", "unborn_removed"]
        pull(factory)
        await pulled(factory)
        assert factory.images.here["own"].id == "sha256:own"
        await factory.close()

    asyncio.run(test())


def test_images_are_looked_for_again_when_the_engine_is_listened_to_again(tmp_path: Path) -> None:
    """It may have lost them. One that could not be fetched is not tried sooner for that."""
    missing = Image(None, "No such image.", 1.0, 2.0, 3)

    async def test() -> None:
        factory = made(tmp_path)
        use(factory, Images(kept="sha256:kept"))
        known = {"kept": Image("sha256:kept"), "lost": Image("sha256:lost"), "missing": missing}
        factory.images.here = dict(known)
        factory.hears(1.0)
        await asyncio.sleep(0)
        assert not factory._tasks, "nobody has been deaf"
        factory.deaf(2.0)
        factory.hears(3.0)
        await idle(factory)
        assert factory.images.here == {"kept": known["kept"], "missing": missing}
        await factory.close()

    asyncio.run(test())


def test_cleaning_up_that_takes_its_time_keeps_nothing_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work space may have millions of files, or be on a disk that hangs. Limits and the report cannot wait for it."""
    go_on = threading.Event()

    def slow(machine: Machine) -> Machine:
        assert go_on.wait(10)
        return replace(machine, cleaned=True)

    async def test() -> None:
        factory = made(tmp_path)
        over = [replace(LIVE, uuid=f"u{number}", state=ENDED, ended=9_950) for number in range(40)]
        factory.machines = {one.uuid: one for one in over}
        monkeypatch.setattr(factory.life, "account", lambda _machine: None)
        monkeypatch.setattr(factory.life, "clean", slow)
        for one in over:
            factory.spawn(factory._clean(one))
        await asyncio.sleep(0.1)
        try:
            assert await asyncio.wait_for(factory.in_thread(lambda: 7), 2) == 7
        finally:
            go_on.set()
        await factory.close()
        assert all(one.cleaned for one in factory.machines.values())

    asyncio.run(test())


def test_what_is_left_over_and_in_use_keeps_no_factory_from_its_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    removed: list[str] = []

    def remove(one: LeftOver) -> None:
        if one.uuid == "u8":
            raise GridboxError("The work space is in use: process 7 (bash).")
        removed.append(one.uuid)

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.store.create(LIVE)
        left = [LeftOver("", uuid, f"the volume {uuid}") for uuid in ("u8", "u9")]
        monkeypatch.setattr(factory.work_spaces, "left_over", lambda _alive: left)
        monkeypatch.setattr(factory.work_spaces, "remove_left_over", remove)
        factory.recover()
        assert factory.machines == {LIVE.uuid: LIVE}
        assert removed == ["u9"]
        assert said == ["left_over_not_removed", "left_over_removed"]
        await factory.close()

    asyncio.run(test())


def test_a_host_that_cannot_be_looked_at_is_a_problem_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started then, for instance while a thin pool is not active."""
    said: list[str] = []

    def unknown(_promised: int = 0) -> tuple[int, int]:
        raise GridboxError("thin_pool is p: it is not active.")

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.engine_problem = ""
        with monkeypatch.context() as patched:
            patched.setattr(factory.work_spaces, "room_bytes", unknown)
            await factory._decide()
            await factory._decide()
        assert factory.host_problem == "thin_pool is p: it is not active."
        assert said == ["host_unreadable"], "once, not with each try"
        await factory._decide()
        assert factory.host_problem == ""
        await factory.close()

    asyncio.run(test())


def test_several_machines_are_started_at_a_time_and_the_others_as_these_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that starts one is no reason not to ask it for the next; all at once would only make each of them slow.
    One that hangs keeps one place, and no more."""
    at_work, hangs, go_on = threading.Semaphore(0), threading.Event(), threading.Event()

    async def test() -> None:
        factory = made(tmp_path, total_processors=10, machinetypes={"a": KINDS["own"]})

        def start(machine: Machine, *_arguments: t.Any) -> Machine:
            at_work.release()
            assert (hangs if machine.slot == slots[0] else go_on).wait(10)
            return replace(machine, state=RUNNING, started=int(time.time()))

        async def begun(many: int) -> set[str]:
            """The slots of those that are being made by now."""
            for _one in range(many):
                assert await factory.in_thread(at_work.acquire, True, 10)
            await asyncio.sleep(0)
            return {one.slot for one in factory.machines.values() if one.state == STARTING}

        slots = factory.configuration.settings.slots

        async def is_there(_identity: str) -> None:
            """It is looked at after its start, and runs."""

        monkeypatch.setattr(factory.life, "start", start)
        monkeypatch.setattr(factory, "_look_at", is_there)
        factory.catalogue = Catalogue(factory.configuration.machinetypes)
        use(factory, Images())
        factory.images.here = {"own": Image("id", 0.0)}
        factory._fill(HostLoad(10), int(time.time()))
        assert await begun(4) == set(slots[:4])
        factory._fill(HostLoad(10), int(time.time()))
        assert not at_work.acquire(blocking=False), "no more than these"
        go_on.set()
        while sum(one.state == RUNNING for one in factory.machines.values()) < 3:
            await asyncio.sleep(0.01)
        factory._fill(HostLoad(10), int(time.time()))
        await begun(3)
        hangs.set()
        await idle(factory)
        assert {one.slot for one in factory.machines.values()} == set(slots[:7])
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_start_that_finds_no_room_is_no_end_and_the_next_waits_for_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """As one the whole space would back off from the machinetype."""
    said: list[str] = []

    def remove(_container: str) -> None:
        if not forgotten:
            raise GridboxError("no answer")

    async def test() -> None:
        factory = made(tmp_path, said)

        def lacks_room(machine: Machine, *_arguments: t.Any) -> Machine:
            factory.store.create(machine)
            raise NoRoomError("No room for it.")

        monkeypatch.setattr(factory.life, "start", lacks_room)
        monkeypatch.setattr(factory.engine, "remove", remove)
        factory.catalogue = Catalogue((Machinetype("a", 1.0, backoff_seconds=3600, root_image="image:1"),))
        factory.engine_problem = ""
        factory.images.here = {"image:1": Image("id", 0.0)}
        factory._fill(HostLoad(8), int(time.time()))
        await idle(factory)
        assert said.count("no_room") == said.count("unborn_removed" if forgotten else "cleaning_failed") > 0
        assert "machine_ended" not in said
        # What cannot be taken away is a machine that never came to be, for the next look.
        assert {one.state for one in factory.machines.values()} == (set() if forgotten else {STARTING})
        assert bool(factory.store.load()[0]) == (not forgotten)
        factory.machines.clear()
        factory._fill(HostLoad(8), int(time.time()))
        assert factory.decision is not None and factory.decision.veto is not None
        assert factory.decision.veto.text == "a start found no room, and the next is tried in 60 s: No room for it"
        factory._shortage = (time.monotonic() - factories.SHORTAGE, "what was lacking")
        factory._fill(HostLoad(8), int(time.time()))
        assert factory.decision.veto is None or factory.decision.veto.code == "full"
        assert factory.machines
        await factory.close()

    asyncio.run(test())


def test_repositories_of_what_cannot_be_started_here_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe has machinetypes for other factories too. The host need not have what those want, and is well without."""
    asked: list[str] = []

    async def touch(names: t.Iterable[str]) -> dict[str, Finding]:
        asked.extend(names)
        return {}

    async def test() -> None:
        factory = made(tmp_path)
        image = "/cvmfs/cernvm-prod.cern.ch/cvm4"
        factory.catalogue = Catalogue(
            (
                Machinetype("a", 1.0, cvmfs_repositories=("lhcb.cern.ch",)),
                Machinetype("b", 1.0, machine_model="apptainer", root_image=image),
            )
        )
        monkeypatch.setattr(factory._repositories, "touch", touch)
        await factory.touch_repositories()
        assert asked == ["lhcb.cern.ch"]
        await factory.close()

    asyncio.run(test())


def test_a_look_into_what_is_not_in_use_any_more_hides_no_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer has half a minute, and the configuration may have dropped it meanwhile."""
    hung = asyncio.Event()

    async def touch(names: t.Iterable[str]) -> dict[str, Finding]:
        found = {name: Finding(name != "old.example.org") for name in names}
        if not all(one.ok for one in found.values()):
            await hung.wait()
        return found

    def uses(*names: str) -> Catalogue:
        return Catalogue((Machinetype("a", 1.0, cvmfs_repositories=names),))

    async def test() -> None:
        said: list[str] = []
        factory = made(tmp_path, said)
        monkeypatch.setattr(factory._repositories, "touch", touch)
        factory.catalogue = uses("old.example.org")
        looking = asyncio.ensure_future(factory.touch_repositories())
        await asyncio.sleep(0)
        factory.catalogue = uses("new.example.org")
        await factory.touch_repositories()
        hung.set()
        await looking
        assert factory.cvmfs == {"new.example.org": Finding(True)}
        assert said == []
        factory.catalogue = uses("old.example.org")
        await factory.touch_repositories()
        assert factory.cvmfs == {"old.example.org": Finding(False)}
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("damaged", [False, True])
def test_who_cannot_tell_removes_nothing_and_says_so(damaged: bool, tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images(own="sha256:own")
        factory = await with_images(tmp_path, engine, said)
        engine.silent = not damaged
        if damaged:
            Path(factory.images.pulled.path).write_text("{")
        tidy(factory)
        await tidied(factory)
        await factory.close()
        assert engine.asked == []

    asyncio.run(test())
    assert "images_not_tidied" in said


def test_a_pull_that_cannot_be_written_down_has_succeeded_all_the_same(tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images()
        factory = await with_images(tmp_path, engine, said, own=KINDS["own"])
        Path(factory.images.pulled.path).write_text("{")
        pull(factory)
        await pulled(factory)
        await factory.close()
        assert factory.images.here["own"].id == "sha256:own"

    asyncio.run(test())
    assert "image_not_recorded" in said and "image_missing" not in said


def test_a_factory_that_ends_does_not_wait_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one takes longer than whoever stops the daemon waits."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(_reference: str) -> None:
        asked.set()
        go_on.wait(10)

    async def test() -> None:
        kind = {"root_image": "docker://a:1", "user_data": "run", "target_share": 1}
        factory = made(tmp_path, machinetypes={"a": kind})
        factory._looked = time.monotonic()
        factory.catalogue = Catalogue(factory.configuration.machinetypes)
        use(factory, Images())
        monkeypatch.setattr(factory.engine, "pull", slow)
        pull(factory)
        assert await asyncio.to_thread(asked.wait, 10)
        begun = time.monotonic()
        await factory.close()
        assert time.monotonic() - begun < 5

    asyncio.run(test())
    go_on.set()


YEARS = 10 * 365 * 86400


class Runs(Images):
    """An engine with one container, which runs until somebody says otherwise; and what it was told."""

    def __init__(self, **here: str) -> None:
        super().__init__(**here)
        self.only = replace(RUNS, started=None)
        self.signals: list[str] = []

    def container(self, _identity: str) -> Container:
        return self.only

    def create(self, machine: Machine, *_arguments: t.Any) -> str:
        self.only = replace(self.only, uuid=machine.uuid)
        return self.only.id

    def start(self, _container: str) -> None:
        """It runs."""

    def signal(self, _container: str, signal: str) -> bool:
        self.signals.append(signal)
        return True


class Clocks:
    """The host's clocks as a test has them: one that is set by so many seconds, and a boot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.slept, self.boot = 0.0, 0.0, "b1"
        now, since = time.time, time.clock_gettime
        monkeypatch.setattr(time, "time", lambda: now() + self.ahead)
        monkeypatch.setattr(
            time, "clock_gettime", lambda clock: since(clock) + self.slept * (clock == time.CLOCK_BOOTTIME)
        )
        monkeypatch.setattr(host_facts, "boot_mark", lambda: self.boot, raising=False)

    def sleep(self, seconds: float) -> None:
        """The host is suspended for so long."""
        self.ahead, self.slept = self.ahead + seconds, self.slept + seconds


def with_one(tmp_path: Path, said: list[str], heartbeat: t.Optional[str] = None) -> tuple[factories.Factory, Runs]:
    """A factory whose engine answers, and runs the only machine there will be."""
    kind = {**KINDS["own"], **({"heartbeat_file": heartbeat, "heartbeat_seconds": 300} if heartbeat else {})}
    factory = made(tmp_path, said, machinetypes={"own": {**kind, "fizzle_seconds": 600}}, grace_seconds=30)
    engine = Runs(own="sha256:own")
    use(factory, engine)
    factory.life.engine = engine
    factory.images.here = {"own": Image("sha256:own", tried=time.monotonic())}
    return factory, engine


async def turn(factory: factories.Factory) -> None:
    """One that looks at no list, weighs nothing, and starts nothing."""
    factory._looked = factory._weighed = factory._considered = time.monotonic()
    factory._changed = False
    factory.tick()
    await idle(factory)


async def started(factory: factories.Factory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Start the machine, with an hour to live; its uuid."""

    def fill(machine: Machine, _kind: Machinetype, folder: str) -> None:
        features.write(folder, features.features(machine, factory.configuration, 30, 1, int(time.time())))

    monkeypatch.setattr(factory.life, "_fill", fill)
    now = int(time.time())
    factory.catalogue = Catalogue(factory.configuration.machinetypes)
    factory._begin(Start("f1-00.example.org", "own", 1, now + 3600), now)
    await idle(factory)
    [machine] = factory.machines.values()
    assert machine.state == RUNNING
    return machine.uuid


def told_of(factory: factories.Factory, machine: Machine) -> dict[str, int]:
    """Times that the machine finds."""
    folder = Path(factory.store.folder(machine))
    names = ("jobfeatures/jobstart_secs", "jobfeatures/shutdowntime_job", "machinefeatures/shutdowntime")
    return {name: int((folder / name).read_text()) for name in names}


def seconds_of(told: t.Mapping[str, int]) -> list[int]:
    """The same, as seconds from its start."""
    return [at - told["jobfeatures/jobstart_secs"] for at in told.values()]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead", [YEARS, 7200, -7200, -YEARS])
def test_a_clock_that_is_set_changes_no_machines_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, restarted: bool
) -> None:
    """As by NTP, after a boot with the clock behind or ahead; also while no daemon works."""
    said: list[str] = []
    clocks = Clocks(monkeypatch)

    async def test() -> None:
        factory, engine = with_one(tmp_path, said)
        identity = await started(factory, monkeypatch)
        before = factory.machines[identity]
        await turn(factory)
        clocks.ahead = ahead
        if restarted:
            await factory.close()
            factory, second = with_one(tmp_path, said)
            second.only, second.signals = engine.only, engine.signals
            engine = second
            factory.recover()
        await turn(factory)
        after = factory.machines[identity]
        assert engine.signals == [] and after.told is None
        moved_by = after.shutdown_time - before.shutdown_time
        assert abs(moved_by - ahead) < 5
        assert (after.started or 0) - (before.started or 0) == moved_by or (after.started or 0) >= int(time.time()) - 1
        assert after.folder == before.folder and after.own().created == before.created + moved_by
        [recorded] = factory.store.load()[0]
        assert (recorded.started, recorded.shutdown_time) == (after.started, after.shutdown_time)
        start, limit, same = seconds_of(told_of(factory, after))
        assert start == 0 and limit == same and abs(limit - 3600) <= 2, "the machine is told, too"
        assert said.count("machine_times_moved") == 1
        await turn(factory)
        assert factory.machines[identity].shutdown_time == after.shutdown_time, "once"
        # It ends in time: at its limit, not at the old one.
        clocks.sleep(3590)
        await turn(factory)
        assert engine.signals == []
        clocks.sleep(20)
        await turn(factory)
        assert engine.signals == ["SIGTERM"]
        await turn(factory)
        clocks.sleep(31)
        await turn(factory)
        assert engine.signals == ["SIGTERM", "SIGKILL"]
        await factory.close()

    asyncio.run(test())


def test_nothing_is_started_by_times_that_are_not_the_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new machine of a superslot would end by the old clock, and it would be the others' never again."""
    clocks = Clocks(monkeypatch)

    async def test() -> None:
        factory, _engine = with_one(tmp_path, [])
        await started(factory, monkeypatch)
        factory.engine_problem, factory.decision = "", None
        clocks.ahead = -3600
        decided = []
        for _time in range(2):
            factory._fill(HostLoad(8), int(time.time()))
            decided.append(factory.decision is not None)
            await turn(factory)
        assert decided == [False, True]
        await factory.close()

    asyncio.run(test())


def test_an_engine_that_comes_and_goes_is_asked_for_its_images_once_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def test() -> None:
        factory, go_on = made(tmp_path), asyncio.Event()

        async def look_again() -> None:
            asked.append(1)
            await go_on.wait()

        monkeypatch.setattr(factory.images, "look_again", look_again)
        for number in range(5):
            factory.deaf(number)
            factory.hears(number + 0.5)
            await asyncio.sleep(0)
        assert len(asked) == 1
        go_on.set()
        await asyncio.sleep(0.01)
        factory.deaf(9)
        factory.hears(9.5)
        await asyncio.sleep(0.01)
        assert len(asked) == 2
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("ahead", [YEARS, -YEARS])
def test_a_fizzle_is_one_whatever_the_clock_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, looked: bool
) -> None:
    """Seconds of life are neither years for the accounting, nor a success; whoever has noticed what first."""
    clocks = Clocks(monkeypatch)

    async def test() -> None:
        factory, engine = with_one(tmp_path, [])
        identity = await started(factory, monkeypatch)
        clocks.sleep(25)
        await turn(factory)
        clocks.ahead += ahead
        if looked:
            await turn(factory)
        # The engine has its own word for when it ended, by either clock.
        finished = int(time.time()) - (0 if looked else ahead)
        engine.only = replace(engine.only, state="exited", finished=finished, exit_code=0)
        monkeypatch.setattr(engine, "remove", lambda _container: None)
        factory.ended(identity)
        await idle(factory)
        over = factory.machines[identity]
        assert over.state == ENDED and 24 <= (over.ended or 0) - (over.started or 0) <= 27
        assert abs((over.ended or 0) - time.time()) < 5
        assert str(over.shutdown_message).startswith(FIZZLE)
        await factory.close()

    asyncio.run(test())


def test_a_machine_of_another_boot_was_ended_by_that_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A battery is empty: the host boots with a clock that is behind, and its machinetype is not to blame."""
    clocks = Clocks(monkeypatch)

    async def test() -> None:
        factory, engine = with_one(tmp_path, [])
        identity = await started(factory, monkeypatch)
        ran = factory.machines[identity]
        clocks.ahead, clocks.boot = -YEARS, "b2"
        await factory.close()
        factory, second = with_one(tmp_path, [])
        second.only = replace(engine.only, state="exited", finished=int(time.time()), exit_code=255)
        monkeypatch.setattr(second, "remove", lambda _container: None)
        factory.recover()
        await factory._look_at(identity)
        await idle(factory)
        over = factory.machines[identity]
        assert (over.end_code, over.shutdown_message) == ("rebooted", "100 Host was rebooted")
        assert (over.started, over.ended) == (ran.started, ran.seen)
        await factory.close()

    asyncio.run(test())


def test_what_runs_that_an_older_version_has_written_down_is_told_of_a_clock_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch)

    async def test() -> None:
        factory, _engine = with_one(tmp_path, [])
        identity = await started(factory, monkeypatch)
        factory.machines[identity] = replace(factory.machines[identity], boot="", booted=0)
        await factory._look_at(identity)
        before = factory.machines[identity]
        clocks.ahead = YEARS
        await turn(factory)
        assert factory.machines[identity].shutdown_time == before.shutdown_time + YEARS
        await factory.close()

    asyncio.run(test())


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("what", ["suspended", "forward", "back", "forward, no daemon", "back, no daemon"])
def test_a_heartbeat_does_not_grow_old_while_the_host_sleeps_or_its_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, hangs: bool
) -> None:
    """No machine could write its file meanwhile; one that hangs is found out all the same, after its time."""
    clocks = Clocks(monkeypatch)

    async def looked(factory: factories.Factory) -> None:
        """Two turns with a look for the file between them."""
        factory._beats = {uuid: (-math.inf, beat) for uuid, (_at, beat) in factory._beats.items()}
        for _turn in range(2):
            await turn(factory)
            while factory._beat_looks:
                await asyncio.sleep(0.01)

    async def test() -> None:
        factory, engine = with_one(tmp_path, [], "alive")
        identity = await started(factory, monkeypatch)
        outputs = Path(factory.store.folder(factory.machines[identity])) / "mnt" / "joboutputs"
        outputs.mkdir(parents=True)
        file = outputs / "alive"
        file.touch()

        def beat() -> None:
            os.utime(file, (time.time(), time.time()))

        clocks.sleep(700)
        beat()
        await looked(factory)
        if what == "suspended":
            clocks.sleep(1800)
        else:
            clocks.ahead += 1800 if what.startswith("forward") else -1800
        if what.endswith("no daemon"):
            await factory.close()
            factory, second = with_one(tmp_path, [], "alive")
            second.only = engine.only
            engine = second
            factory.recover()
        await looked(factory)
        assert engine.signals == []
        for _minute in range(11):
            clocks.ahead += 55
            clocks.slept += 55
            factory._clock = factory.clock  # a minute in which it was awake
            if not hangs:
                beat()
            await looked(factory)
        assert engine.signals == (["SIGTERM"] if hangs else [])
        await factory.close()

    asyncio.run(test())

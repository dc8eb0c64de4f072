# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import types
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders, running, service, take_away
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage
from ansible_collections.hep.gridbox.plugins.module_utils.factory.running import Running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.take_away import (
    Observed,
    TakeAwayWork,
    Wish,
    plan,
    refuse_live,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host import background
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Step
from tests.unit.factory.reports import CONFIGURATION, ENDED_MACHINE, RUNNING_MACHINE
from tests.unit.factory.test_configuration import SMALL

WISH = Wish("/etc/hep.gridbox/factory.json", "vacuum_factory")
DAEMON = Running(4711, 1, ())
ALIVE = frozenset([RUNNING_MACHINE.uuid])
STRAY = Container("c" * 64, "f1-00.example.org_12345678", "u", "running")

IMAGE = PulledImage("unix:///e", "registry.example.org/pilot:1", "sha256:a", 1)


@pytest.mark.parametrize(
    ("observed", "actions"),
    [
        (Observed(), []),
        (Observed(CONFIGURATION), ["remove_configuration"]),
        (Observed(CONFIGURATION, original=True), ["put_back"]),
        (Observed(CONFIGURATION, False, DAEMON), ["stop_daemon", "remove_configuration"]),
        (
            Observed(CONFIGURATION, False, DAEMON, (ENDED_MACHINE, RUNNING_MACHINE), ALIVE, (STRAY,)),
            ["stop_daemon", "clean_machine", "end_machine", "remove_container", "remove_configuration"],
        ),
        (
            Observed(CONFIGURATION, machines=(ENDED_MACHINE,), images=(IMAGE,)),
            ["clean_machine", "remove_image", "remove_configuration"],
        ),
        (Observed(CONFIGURATION, metrics="/n/g.prom"), ["remove_metrics", "remove_configuration"]),
        # It has ended, and no daemon was there to write that down.
        (Observed(CONFIGURATION, machines=(RUNNING_MACHINE,)), ["clean_machine", "remove_configuration"]),
    ],
)
def test_what_goes(observed: Observed, actions: list[str]) -> None:
    assert [step.action for step in plan(WISH, observed).steps] == actions


def test_the_end_of_a_machine_costs_a_container() -> None:
    assert plan(WISH, Observed(CONFIGURATION, False, DAEMON)).disruption.name == "reload"
    assert plan(WISH, Observed(CONFIGURATION, machines=(RUNNING_MACHINE,), alive=ALIVE)).disruption.name == "container"


def test_check_mode_tells_whose_containers_would_leave() -> None:
    """Those of machines that have ended and are not cleaned away, too: a later task of the run finds them."""
    observed = Observed(CONFIGURATION, False, DAEMON, (ENDED_MACHINE, RUNNING_MACHINE), ALIVE, (STRAY,))
    with contextlib.ExitStack() as held:
        told = TakeAwayWork(WISH, held).result(observed, plan(WISH, observed), applied=False)
        gone = TakeAwayWork(WISH, held).result(Observed(), plan(WISH, Observed()), applied=True)
    names = {ENDED_MACHINE.container_name, RUNNING_MACHINE.container_name, STRAY.name}
    assert (told["factory"], told["leaving"]) == (CONFIGURATION.settings.name, sorted(names))
    assert (gone["factory"], gone["leaving"]) == ("", [])


def test_machines_that_run_are_named() -> None:
    with pytest.raises(RefusedError) as refused:
        refuse_live(Observed(CONFIGURATION, False, DAEMON, (ENDED_MACHINE, RUNNING_MACHINE), ALIVE, (STRAY,)))
    assert f"{RUNNING_MACHINE.slot} (exp-dc-prod, {RUNNING_MACHINE.uuid}), {STRAY.name}" in str(refused.value)
    assert ENDED_MACHINE.uuid not in str(refused.value)
    refuse_live(Observed(CONFIGURATION, False, DAEMON, (ENDED_MACHINE,)))


@pytest.mark.parametrize(
    ("state", "daemon", "actions"),
    [
        ("started", None, ["start"]),
        ("started", DAEMON, []),
        ("restarted", None, ["start"]),
        ("restarted", DAEMON, ["stop", "start"]),
        ("stopped", None, []),
        ("stopped", DAEMON, ["stop"]),
    ],
)
def test_a_daemon_is_started_and_stopped(state: str, daemon: t.Optional[Running], actions: list[str]) -> None:
    wish = service.Wish(state, "/p", "/c", "/l", 10)
    assert [step.action for step in service.plan(wish, daemon).steps] == actions
    assert wish.argv == ("/p", "--configuration", "/c", "factory", "--log", "/l")


@pytest.mark.parametrize(
    "wrong", [{"program": "gridbox"}, {"path": "/a/"}, {"log_file": "/"}, {"wait_timeout": 0}, {"netns": "../a"}]
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, t.Any]) -> None:
    right = {"state": "started", "program": "/p", "path": "/c", "log_file": "/l", "wait_timeout": 1, "netns": "a"}
    assert service.Wish.from_params(right).argv[:3] == ("nsenter", "--net=/run/netns/a", "/p")
    assert service.Wish.from_params({**right, "netns": None}).argv[0] == "/p"
    with pytest.raises(InputError, match=next(iter(wrong))):
        service.Wish.from_params({**right, **wrong})


def test_what_was_ordered_of_a_factory_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one on the host would be drained, and nobody would know why."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(TakeAwayWork, "observe", lambda _self: Observed())
    state, path = str(tmp_path / "state"), tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": state}))
    orders.save(state, orders.Orders(draining=True))
    journal = types.SimpleNamespace(settle=lambda: None)
    with contextlib.ExitStack() as held:
        work = TakeAwayWork(Wish(str(path)), held)
        work.do(Step("remove_configuration", str(path), ""), t.cast(Journal, journal))
    assert not path.exists()
    assert orders.load(state) == orders.Orders()


@pytest.fixture()
def configured(tmp_path: Path) -> tuple[str, str]:
    """A factory that could go: the path of its configuration, and its state folder."""
    state, path = str(tmp_path / "state"), tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": state}))
    return str(path), state


def test_machines_of_another_name_are_not_taken_for_gone(configured: tuple[str, str]) -> None:
    """Their containers are not among this factory's, and they would be removed as what has ended."""
    path, state = configured
    Store(state).create(replace(RUNNING_MACHINE, slot="f2-00.example.org", seen=int(time.time())))
    with contextlib.ExitStack() as held, pytest.raises(RefusedError, match=r"machines of f2\.example\.org may run"):
        TakeAwayWork(Wish(path), held).observe()


def test_what_somebody_runs_from_an_image_of_a_machine_stays(
    configured: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = configured
    Store(state).create(replace(ENDED_MACHINE, cleaned=False))
    copies = [
        Container("c7", "what-was-it", "12345678-0", "running"),
        Container("c8", "and-that", ENDED_MACHINE.uuid, "running"),
    ]
    stray = replace(STRAY, uuid="12345678-0")
    monkeypatch.setattr(
        take_away, "engine_of", lambda _configuration: types.SimpleNamespace(containers=lambda: [*copies, stray])
    )
    with contextlib.ExitStack() as held:
        observed = TakeAwayWork(Wish(path), held).observe()
    assert (observed.strays, observed.alive) == ((stray,), frozenset())


NO_JOURNAL = t.cast(Journal, types.SimpleNamespace(settle=lambda: None, will_do=lambda *_title, **_data: None))
END = Step("end_machine", "f1-00 (a)", "its factory goes", details={"uuid": RUNNING_MACHINE.uuid})


def test_nothing_is_taken_away_while_somebody_makes_machines(
    configured: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of vacuum_slot would start a machine whose record has just been removed."""
    path, state = configured
    ended: list[str] = []
    monkeypatch.setattr(TakeAwayWork, "_end", lambda _self, uuid: ended.append(uuid))
    with at_work(state), contextlib.ExitStack() as held, pytest.raises(WaitError, match=f"the factory in {state}"):
        TakeAwayWork(Wish(path, remove_machines=True, wait_timeout=1), held).do(END, NO_JOURNAL)
    assert ended == []
    with contextlib.ExitStack() as held:
        work = TakeAwayWork(Wish(path, remove_machines=True), held)
        work.do(END, NO_JOURNAL)
        work.do(END, NO_JOURNAL)
        assert len(ended) == 2
        with pytest.raises(WaitError), at_work(state):
            pass


@pytest.mark.parametrize("action", ["clean_machine", "stop_daemon", "remove_configuration"])
def test_a_machine_that_was_made_meanwhile_is_seen(
    configured: tuple[str, str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    path, state = configured
    alive: list[str] = []
    monkeypatch.setattr(running, "find", lambda *_arguments: None)
    monkeypatch.setattr(TakeAwayWork, "_end", lambda _self, _uuid: pytest.fail("it is not to be ended"))
    monkeypatch.setattr(
        TakeAwayWork, "observe",
        lambda _self: Observed(CONFIGURATION, machines=(RUNNING_MACHINE,), alive=frozenset(alive)),
    )  # fmt: skip
    with contextlib.ExitStack() as other, contextlib.ExitStack() as held:
        other.enter_context(at_work(state))

        def made() -> None:
            alive.append(RUNNING_MACHINE.uuid)
            other.close()

        timer = threading.Timer(0.3, made)
        timer.start()
        with pytest.raises(RefusedError, match=RUNNING_MACHINE.uuid):
            TakeAwayWork(Wish(path), held).do(Step(action, path, "", details={"uuid": "u"}), NO_JOURNAL)
        timer.join()
    assert Path(path).exists()


def test_the_daemon_that_is_started_again_finds_its_lock_free(
    configured: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = configured
    started: list[str] = []
    monkeypatch.setattr(running, "find", lambda *_arguments: None)
    monkeypatch.setattr(TakeAwayWork, "observe", lambda _self: Observed())

    def start_again(unit: str, *_arguments: t.Any) -> None:
        with at_work(state):
            started.append(unit)

    monkeypatch.setattr(service, "start_again", start_again)
    with contextlib.ExitStack() as held:
        work = TakeAwayWork(Wish(path), held)
        work.do(Step("stop_daemon", path, ""), NO_JOURNAL)
        work.undo("start_again", {"unit": "gridbox-factory.service", "argv": []})
    assert started == ["gridbox-factory.service"]


#: A daemon that takes its time to end, or never does.
_SLOW = """#!{python} -I
import os, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
open({log!r}, "a").write(f"{{os.getpid()}}\\n")
while not told or time.monotonic() < told[0] + {seconds}:
    time.sleep(0.05)
"""


@pytest.fixture()
def slow(tmp_path: Path, configured: tuple[str, str]) -> t.Iterator[t.Callable[[float], t.Callable[[], list[int]]]]:
    """Starts one as its argument says, at ``program``; the processes that it has been until now."""
    log = tmp_path / "pids"

    def started() -> list[int]:
        return [int(line) for line in log.read_text().splitlines()] if log.exists() else []

    def start(seconds: float) -> t.Callable[[], list[int]]:
        program = tmp_path / "program"
        program.write_text(_SLOW.format(python=sys.executable, log=str(log), seconds=seconds))
        program.chmod(0o755)
        background.start(running.arguments(str(program), configured[0]), os.devnull)
        until(lambda: len(started()) == 1)
        return started

    yield start
    for pid in started():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def until(good: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("goes", [False, True])
@pytest.mark.parametrize("seconds", [1.6, 3600])
def test_a_daemon_that_ends_late_is_started_again_when_it_has_ended(
    goes: bool, seconds: float, slow: t.Callable[[float], t.Callable[[], list[int]]], configured: tuple[str, str]
) -> None:
    """It still runs when the run gives up: left alone it would end a moment later, and nothing work on the host."""
    started, path = slow(seconds), configured[0]
    program = str(Path(path).parent / "program")
    written: list[tuple[str, dict[str, t.Any]]] = []
    journal = types.SimpleNamespace(will_do=lambda _title, name, **data: written.append((name, data)))
    with contextlib.ExitStack() as held:
        work: t.Any
        if goes:
            work = TakeAwayWork(Wish(path, program=program, wait_timeout=1), held)
        else:
            work = service.ServiceWork(service.Wish("stopped", program, path, os.devnull, 1))
        with pytest.raises(WaitError, match="to end after SIGTERM"):
            work.do(Step("stop_daemon" if goes else "stop", path, ""), t.cast(Journal, journal))
        [(name, data)] = json.loads(json.dumps(written))
        if seconds < 60:
            work.undo(name, data)
            until(lambda: len(started()) == 2)
            work.undo(name, data)
        else:
            with pytest.raises(
                GridboxError, match=r"it still runs\. It was told to end, and nothing was started again"
            ):
                work.undo(name, data)
    assert len(started()) == (2 if seconds < 60 else 1)

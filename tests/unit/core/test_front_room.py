# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The front room: what a module's result says in every way a run can end."""

from __future__ import annotations

import json
import os
import signal
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils import front_room, lock
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step


@pytest.fixture(autouse=True)
def locks_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "folder", lambda: str(tmp_path))


PAINT = Step("paint", "wall", "colour is grey", Disruption.service)
VARNISH = Step("varnish", "wall", "coat is missing", Disruption.none)


class Wall:
    """A work whose host is a dict in memory: the decision under test is the front room's."""

    subject = "the wall"

    def __init__(self, **faults: t.Any) -> None:
        self.faults = faults
        self.state: dict[str, t.Any] = {"colour": "grey", "coat": False}
        self.seen: list[str] = []

    def observe(self) -> dict[str, t.Any]:
        return dict(self.state)

    def plan(self, observed: dict[str, t.Any]) -> Plan:
        steps = []
        if observed["colour"] != "blue":
            steps.append(PAINT)
        if not observed["coat"]:
            steps.append(VARNISH)
        return Plan(tuple(steps), observed, {"colour": "blue", "coat": True})

    def preflight(self, plan: Plan, observed: t.Any) -> None:
        if self.faults.get("no_paint"):
            raise RefusedError("colour: blue", "there is no blue paint", "Buy some.")

    def do(self, step: Step, journal: Journal) -> None:
        self.seen.append(step.action)
        journal.will_do(f"un{step.action} the wall", step.action)
        if step is PAINT:
            self.state["colour"] = "blue"
        if step is VARNISH:
            if self.faults.get("signal"):
                os.kill(os.getpid(), signal.SIGTERM)
            journal.beside.extend(self.faults.get("beside", ()))
            if self.faults.get("error"):
                raise self.faults["error"]
            if not self.faults.get("lazy"):
                self.state["coat"] = True

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if self.faults.get("signals_meanwhile"):
            os.kill(os.getpid(), signal.SIGHUP)
        if self.faults.get("dry"):
            raise RuntimeError("the paint is dry")
        before: dict[str, dict[str, t.Any]] = {"paint": {"colour": "grey"}, "varnish": {"coat": False}}
        self.state.update(before[name])

    def before_guard_undo(self) -> None:
        pass

    def result(self, observed: t.Any, plan: Plan, applied: bool) -> dict[str, t.Any]:
        if self.faults.get("mute"):
            raise EngineError("Looking at the wall", "no light")
        return {"wall": observed if applied else dict(plan.after)}


def run(
    wall: t.Union[Wall, Exception],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    check: bool = False,
    **params: t.Any,
) -> dict[str, t.Any]:
    """Run the module on a wall; with an exception, that is what making the work ends in."""

    def make_work(_params: dict[str, t.Any]) -> Wall:
        if isinstance(wall, Exception):
            raise wall
        return wall

    arguments = {"ANSIBLE_MODULE_ARGS": {"_ansible_check_mode": check, "_ansible_diff": True, **params}}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    module = AnsibleModule(argument_spec=front_room.PLAN_ARGUMENTS, supports_check_mode=True)
    with pytest.raises(SystemExit) as end:
        front_room.run(module, make_work)
    result = t.cast("dict[str, t.Any]", json.loads(capfd.readouterr().out))
    assert bool(end.value.code) == bool(result.get("failed"))
    return result


def test_check_mode_predicts_the_actions_and_the_result_of_the_real_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall()
    predicted = run(wall, monkeypatch, capfd, check=True)
    assert wall.seen == []
    real = run(wall, monkeypatch, capfd)
    assert {**predicted, "invocation": 0} == {**real, "invocation": 0}
    assert [action["action"] for action in real["actions"]] == ["paint", "varnish"]
    assert real["disruption"] == "service"
    assert real["diff"] == {"before": {"colour": "grey", "coat": False}, "after": {"colour": "blue", "coat": True}}
    assert run(wall, monkeypatch, capfd)["changed"] is False


@pytest.mark.parametrize("check", [True, False])
def test_a_plan_above_max_disruption_is_refused_and_its_step_named(
    check: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall()
    result = run(wall, monkeypatch, capfd, check=check, max_disruption="reload")
    assert result["failed"] and not result["changed"] and wall.seen == []
    assert result["msg"] == (
        "max_disruption: reload: the change needs paint wall (service: colour is grey). "
        "Nothing was touched. Allow it with max_disruption: service, or change what you ask for."
    )


@pytest.mark.parametrize("check", [True, False])
def test_a_preflight_refusal_touches_nothing(
    check: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall(no_paint=True)
    result = run(wall, monkeypatch, capfd, check=check)
    assert result["msg"] == "colour: blue: there is no blue paint. Buy some."
    assert not result["changed"] and wall.seen == []


NO_ENGINE = RefusedError("engine: auto", "no engine listens here", "Install one.")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("wall", [Wall(no_paint=True), NO_ENGINE], ids=["host", "bare host"])
def test_options_alone_are_checked_without_a_look_at_the_host(
    wall: t.Union[Wall, Exception], check: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(wall, monkeypatch, capfd, check=check, options_only=True)
    assert not result["changed"] and result["actions"] == [] and "failed" not in result
    assert isinstance(wall, Exception) or wall.state == {"colour": "grey", "coat": False}


def test_options_that_cannot_be_right_are_refused_on_a_bare_host_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(InputError("colour", "loud", "a colour"), monkeypatch, capfd, options_only=True)
    assert result["failed"] and result["msg"] == "colour: got 'loud', expected a colour."


def test_a_host_that_is_not_ready_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "no engine listens here" in run(NO_ENGINE, monkeypatch, capfd)["msg"]


def test_a_failing_step_is_undone_and_the_result_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall(error=EngineError("Varnishing", "no varnish"))
    result = run(wall, monkeypatch, capfd)
    assert wall.state == {"colour": "grey", "coat": False}
    assert result["failed"] and result["changed"]
    assert [action["action"] for action in result["actions"]] == ["paint"]
    assert result["failed_action"]["action"] == "varnish"
    assert result["rolled_back"] == ["unvarnish the wall", "unpaint the wall"]
    assert result["not_rolled_back"] == []
    assert "Put back: unvarnish the wall; unpaint the wall." in result["msg"]
    assert "exception" not in result


def test_what_was_done_beside_the_step_that_failed_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = Step("varnish", "door", "coat is missing")
    result = run(Wall(error=EngineError("Varnishing", "no varnish"), beside=[other]), monkeypatch, capfd)
    assert [(action["action"], action["target"]) for action in result["actions"]] == [
        ("paint", "wall"), ("varnish", "door"),
    ]  # fmt: skip
    assert result["failed_action"]["target"] == "wall"


def test_a_failing_undo_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    result = run(Wall(error=EngineError("Varnishing", "no varnish"), dry=True), monkeypatch, capfd)
    assert result["not_rolled_back"] == ["unvarnish the wall: the paint is dry", "unpaint the wall: the paint is dry"]
    assert "Not put back: " in result["msg"]


def test_an_unforeseen_exception_is_undone_and_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall(error=ZeroDivisionError("division by zero"))
    result = run(wall, monkeypatch, capfd)
    assert wall.state["colour"] == "grey"
    assert result["msg"].startswith("varnish wall: unforeseen ZeroDivisionError: division by zero. Put back: ")


def test_being_told_to_end_unwinds_through_the_undo(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall(signal=True)
    result = run(wall, monkeypatch, capfd)
    assert wall.state == {"colour": "grey", "coat": False}
    assert "SIGTERM" in result["msg"]


@pytest.mark.parametrize("why", [{"signal": True}, {"error": EngineError("Varnishing", "no varnish")}])
def test_who_is_told_to_end_while_it_undoes_undoes_all(
    why: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall(signals_meanwhile=True, **why)
    result = run(wall, monkeypatch, capfd)
    assert wall.state == {"colour": "grey", "coat": False}
    assert result["rolled_back"] == ["unvarnish the wall", "unpaint the wall"]


def test_a_host_that_still_differs_afterwards_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(Wall(lazy=True), monkeypatch, capfd)
    assert result["failed"] and result["changed"]
    assert result["msg"].endswith("the host still differs: varnish wall: coat is missing")


@pytest.mark.parametrize("check", [True, False])
def test_a_result_that_cannot_be_told_does_not_hide_what_was_done(
    check: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run(Wall(mute=True), monkeypatch, capfd, check=check)
    assert result["failed"] and "no light" in result["msg"]
    assert result["changed"] is not check
    assert [action["action"] for action in result["actions"]] == ([] if check else ["paint", "varnish"])


def test_bad_input_is_a_sentence() -> None:
    error = InputError("network.ipv4", "10.0.0", "an IPv4 address such as 10.0.0.5", "Correct the inventory.")
    assert str(error) == "network.ipv4: got '10.0.0', expected an IPv4 address such as 10.0.0.5. Correct the inventory."


def test_nothing_is_looked_at_while_another_run_is_at_work_on_the_same_thing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(front_room, "Lock", lambda thing: lock.Lock(thing, 0))
    wall = Wall()
    with lock.Lock("the wall"):
        result = run(wall, monkeypatch, capfd)
    assert result["failed"] and not result["changed"] and wall.seen == []
    assert "to leave the wall alone" in result["msg"]


@pytest.mark.parametrize("check", [True, False])
def test_a_result_that_is_waited_for_keeps_no_other_run_out(
    check: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wall = Wall()
    told = wall.result

    def result(*arguments: t.Any) -> dict[str, t.Any]:
        with lock.Lock("the wall", 0):
            return told(*arguments)

    monkeypatch.setattr(wall, "result", result)
    assert run(wall, monkeypatch, capfd, check=check)["wall"] == {"colour": "blue", "coat": True}

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import types
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders, service
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage
from ansible_collections.hep.gridbox.plugins.module_utils.factory.running import Running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.take_away import (
    Observed,
    TakeAwayWork,
    Wish,
    plan,
    refuse_live,
)
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
        # It has ended, and no daemon was there to write that down.
        (Observed(CONFIGURATION, machines=(RUNNING_MACHINE,)), ["clean_machine", "remove_configuration"]),
    ],
)
def test_what_goes(observed: Observed, actions: list[str]) -> None:
    assert [step.action for step in plan(WISH, observed).steps] == actions


def test_the_end_of_a_machine_costs_a_container() -> None:
    assert plan(WISH, Observed(CONFIGURATION, False, DAEMON)).disruption.name == "reload"
    assert plan(WISH, Observed(CONFIGURATION, machines=(RUNNING_MACHINE,), alive=ALIVE)).disruption.name == "container"


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
    TakeAwayWork(Wish(str(path))).do(Step("remove_configuration", str(path), ""), t.cast(Journal, journal))
    assert not path.exists()
    assert orders.load(state) == orders.Orders()

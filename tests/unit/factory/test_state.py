# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import host_facts, views
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine, last_ended
from ansible_collections.hep.gridbox.plugins.module_utils.factory.state import snapshot
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import LOOPBACK, Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import Reply, Request
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder, Snapshot
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, NEW, NOW

KIND = Machinetype("a", fizzle_seconds=600, max_wallclock_seconds=3600, max_processors=4, accounting_fqan="/a")


def told(*machines: Machine, newest: Machine | None = None) -> Snapshot:
    configuration = parse({**SMALL, "hs06_per_processor": 10.0, "mb_per_processor": 100})
    slots = {machine.slot: machine for machine in machines}
    newest_of = {newest.machinetype: newest} if newest is not None else {}
    return snapshot(configuration, [KIND], slots, newest_of, host_facts.facts("/"), "hep.gridbox 1", NOW)


def test_a_factory_without_machines() -> None:
    made = told()
    assert made.status.running_machines == 0
    assert (made.status.max_machines, made.status.max_processors, made.status.max_hs06) == (2, 2, 20.0)
    assert [one.machine for one in made.machines] == ["f1-00.example.org", "f1-01.example.org"]
    assert [one.state for one in made.machines] == ["Shut down", "Shut down"]
    assert made.machines[0].machinetype is None
    [kind] = made.machinetypes
    assert (kind.running_hs06, kind.num_before_fizzle, kind.shutdown_message) == (0.0, 0, None)
    assert kind.bytes_per_processor == 100 << 20
    assert made.site == "example.org"


def test_a_machine_that_runs() -> None:
    made = told(replace(LIVE, cpu_seconds=450, cpu_percentage=3.5, hs06=10.0))
    [kind] = made.machinetypes
    assert (kind.running_machines, kind.running_processors, kind.running_hs06) == (1, 1, 10.0)
    assert kind.num_before_fizzle == 0, "it has run for longer than fizzle_seconds"
    shown = made.machines[0]
    assert (shown.state, shown.started_time, shown.heartbeat_time) == ("Running", 9_001, 9_900)
    assert (shown.cpu_seconds, shown.cpu_percentage) == (450, 3.5), "what it uses now, not since its start"
    assert shown.shutdown_message is None
    young = told(replace(LIVE, started=NOW - 10))
    assert young.machinetypes[0].num_before_fizzle == 1


def test_a_machine_that_starts_is_its_machinetypes_and_no_running_one_of_the_factory() -> None:
    """Spec 7.3: others count it where they share, and `vac factories` shows what runs."""
    made = told(LIVE, replace(NEW, uuid="u2", slot="f1-01.example.org"))
    [kind] = made.machinetypes
    assert (kind.running_machines, kind.running_processors, kind.running_hs06) == (2, 2, 20.0)
    assert kind.num_before_fizzle == 1
    status = made.status
    assert (status.running_machines, status.running_processors, status.running_hs06) == (1, 1, 10.0)
    assert [one.state for one in made.machines] == ["Running", "Starting"]


def test_a_machine_in_a_slot_that_is_no_more_is_told_until_it_has_ended() -> None:
    """The factory's machines are those that run and those that can: Vac counts the messages."""
    former = replace(LIVE, uuid="u2", slot="f1-07.example.org")
    made = told(former, replace(LIVE, uuid="u3", slot="f1-06.example.org", state=ENDED, ended=9_950))
    assert [one.machine for one in made.machines] == ["f1-00.example.org", "f1-01.example.org", "f1-07.example.org"]
    assert (made.machines[2].state, made.machines[2].uuid) == ("Running", "u2")
    assert (made.status.running_machines, made.status.max_machines) == (1, 2)
    responder = Responder(Access(networks=LOOPBACK))
    responder.snapshot = made
    asked = json.dumps(Request("machines_query", made.space, "c").as_data()).encode()
    answers = [json.loads(one) for one in responder.answer(asked, "127.0.0.1")]
    assert [one["num_machines"] for one in answers] == [3, 3, 3]


@pytest.mark.parametrize(
    ("model", "told_as", "shown"),
    [("docker", "docker", "DC"), ("podman", "docker", "DC"), ("apptainer", "singularity", "SC")],
)
def test_models_are_told_in_vacs_words(model: str, told_as: str, shown: str) -> None:
    """Spec 2.3, 8.4: `vac machines` shows ?? for a model that it does not know."""
    made = told(replace(LIVE, machine_model=model))
    status = made.machines[0]
    assert status.machine_model == told_as
    reply = Reply(made.envelope("c", "responder", NOW), status)
    table = views.machines([Outcome("f1.example.org", "answered", (reply,))], NOW)
    assert table.splitlines()[1].split()[4] == shown


def test_a_machine_that_is_told_to_end_still_runs() -> None:
    made = told(replace(LIVE, told=9_950, shutdown_message="100 Time limit reached"))
    assert made.machines[0].state == "Running"
    assert made.machines[0].shutdown_message is None


def test_an_end_from_before_the_clock_was_set_back_is_not_the_last() -> None:
    """The others do not believe it, and would not hear of an abort."""
    over = replace(LIVE, state=ENDED, ended=9_950)
    ahead = replace(over, uuid="u2", ended=500_000)
    assert last_ended([over, ahead], 10_000) == last_ended([ahead, over], 10_000) == {"a": over}
    assert last_ended([ahead], 10_000) == {"a": ahead}
    assert last_ended([over, ahead], 500_000) == {"a": ahead}


def test_the_last_end_is_what_the_others_back_off_from() -> None:
    over = replace(LIVE, state=ENDED, ended=9_990, shutdown_message="300 Nothing to do")
    made = told(over, newest=over)
    [kind] = made.machinetypes
    assert (kind.shutdown_message, kind.shutdown_time, kind.shutdown_machine) == (
        "300 Nothing to do", 9_990, "f1-00.example.org",
    )  # fmt: skip
    assert kind.running_machines == 0
    assert (made.machines[0].state, made.machines[0].shutdown_message) == ("Shut down", "300 Nothing to do")

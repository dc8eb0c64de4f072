# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command ``gridbox`` prints of a space and of a decision."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import ImageStatus, PipeStatus
from ansible_collections.hep.gridbox.plugins.module_utils.factory.views import (
    as_data,
    explain,
    factories,
    machines,
    machinetypes,
    silent,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Unstartable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    Envelope,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
    Reply,
    Status,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Refusal
from tests.unit.factory.reports import DECISION, NOW, REPORT


def answered(factory: str, *statuses: Status, state: str = "answered", detail: str = "") -> Outcome:
    envelope = Envelope("c", "vac01.example.com", factory, "S", "hep.gridbox 0.2 responder", NOW)
    replies = tuple(Reply(envelope, status, len(statuses)) for status in statuses)
    return Outcome(factory, state, replies, 0.1 if state == "answered" else None, detail=detail)


SILENT = Outcome("factory9.example.com", "silent", since=NOW - 3600)

SLOTS = (
    MachineStatus(
        "factory1-00.example.com", "Running", "exp-dc-prod", "u", NOW - 200, NOW - 180, NOW - 58, 3, 1.6, 20.0,
        machine_model="docker", num_processors=2.0,
    ),
    MachineStatus(
        "factory1-01.example.com", "Shut down", "exp-dc-idle", "u", 1, 2, 3, 4, 0, 10.0, "300 Nothing to do", 5,
        "docker", 1,
    ),
    MachineStatus("factory1-02.example.com"),
    MachineStatus(
        "factory1-03.example.com", "Starting", "sc", "u", NOW - 90, machine_model="singularity", num_processors=8
    ),
)  # fmt: skip


def test_machines_as_vac_lists_them() -> None:
    assert machines([SILENT, answered("factory1.example.com", *reversed(SLOTS))], NOW) == (
        "Machine      Machinetype  State      Processors  Model      For   CPU  CPU now  Last end\n"
        "factory1-00  exp-dc-prod  Running             2  DC      0.05 h  2.5%     1.6%\n"
        'factory1-01  exp-dc-idle  Shut down           1  DC           -     -        -  "300 Nothing to do"\n'
        "factory1-02  -            Shut down           0  ??           -     -        -  -\n"
        "factory1-03  sc           Starting            8  SC     1.5 min     -        -\n"
        "\n"
        "factory9.example.com does not answer since 2026-11-20 14:15:00 UTC.\n"
    )


def test_a_machine_of_which_little_is_known_has_a_line() -> None:
    status = MachineStatus("m.example.com", "Running", None, cpu_seconds=None, cpu_percentage=None, num_processors=None)
    assert machines([answered("f", status)], NOW).splitlines()[1].split() == [
        "m",
        "-",
        "Running",
        *"- ?? - - -".split(),
    ]
    just_started = replace(status, started_time=NOW, heartbeat_time=NOW, cpu_seconds=0)
    assert "0.00 h" in machines([answered("f", just_started)], NOW)


def test_names_keep_their_domains_where_these_differ() -> None:
    told = machines([answered("f", MachineStatus("m-00.a.org"), MachineStatus("m-00.b.org"))], NOW)
    assert [line.split()[0] for line in told.splitlines()[1:]] == ["m-00.a.org", "m-00.b.org"]


TYPES = (
    answered(
        "factory2.example.com",
        MachinetypeStatus("exp", 40.0, 0, "300 Nothing to do", NOW - 60, "m", 2, 4.0),
        MachinetypeStatus("local", 1.5, 1, running_machines=None, running_processors=None),
    ),
    answered("factory1.example.com", MachinetypeStatus("exp", 20.0, 1, "200 Success", NOW - 600, "m", 1, 2)),
)


def test_machinetypes_of_the_space_are_summed_and_the_newest_end_is_told() -> None:
    assert machinetypes(TYPES) == (
        "Machinetype  Factories  Machines  Processors  HS06  Unproven  Last end                 Message\n"
        'exp                  2         3           6  60.0         1  2026-11-20 15:14:00 UTC  "300 Nothing to do"\n'
        "local                1         0           0   1.5         1  -                        -\n"
    )


def test_one_machinetype_by_factory() -> None:
    assert machinetypes((*TYPES, SILENT), "exp") == (
        "Factory   Machines  Processors  HS06  Unproven  Last end                 Message\n"
        'factory1         1           2  20.0         1  2026-11-20 15:05:00 UTC  "200 Success"\n'
        'factory2         2           4  40.0         0  2026-11-20 15:14:00 UTC  "300 Nothing to do"\n'
        "\n"
        "factory9.example.com does not answer since 2026-11-20 14:15:00 UTC.\n"
    )
    assert machinetypes(TYPES, "other").splitlines() == [
        "Factory  Machines  Processors  HS06  Unproven  Last end  Message"
    ]


def test_factories() -> None:
    status = FactoryStatus(
        1, 2.0, 20.0, 8, 8, root_disk_avail_kb=72018088, daemon_disk_avail_kb=1 << 20, load_average=2.3571,
        mem_used_kb=9742612, mem_total_kb=24684084,
    )  # fmt: skip
    little = FactoryStatus(*[None] * 22)
    assert factories([answered("factory2.example.com", little), answered("Factory1.example.com", status)]) == (
        "Factory   Processors  Machines  Load  Root free GiB  State free GiB  Memory GiB  Version\n"
        'Factory1         2/8       1/8  2.36           68.7             1.0    9.3/23.5  "hep.gridbox 0.2 responder"\n'
        'factory2         -/-       -/-     -              -               -         -/-  "hep.gridbox 0.2 responder"\n'
    )


def test_who_is_missing_is_named_with_since_when_and_why() -> None:
    outcomes = [
        Outcome("e", "unknown", since=NOW, detail="Name or service not known"),
        Outcome("d", "refused", since=NOW, detail="Connection refused"),
        Outcome("c", "silent", detail="not asked: the time was over before its turn"),
        answered("b", MachineStatus("m"), state="incomplete", detail="1 of 8 replies"),
        answered("a", MachineStatus("m")),
    ]
    assert silent(outcomes) == [
        "b has answered incompletely (1 of 8 replies).",
        "c does not answer (not asked: the time was over before its turn).",
        "d runs no factory since 2026-11-20 15:15:00 UTC (Connection refused).",
        "e has no address since 2026-11-20 15:15:00 UTC (Name or service not known).",
    ]


@pytest.mark.parametrize("view", [lambda found: machines(found, NOW), machinetypes, factories])
def test_an_empty_space_is_a_line_of_titles(view: t.Callable[[t.Sequence[Outcome]], str]) -> None:
    assert view([]).count("\n") == 1
    assert view([SILENT]).splitlines()[1:] == ["", *silent([SILENT])]


def test_a_time_that_no_calendar_has_is_told_as_it_came() -> None:
    assert explain(replace(REPORT, written=1e300)).splitlines()[0].endswith(", as of 1e+300 s")


def test_as_data_is_json_with_the_names_of_the_protocol() -> None:
    data = json.loads(json.dumps(as_data([answered("factory1.example.com", SLOTS[0]), SILENT])))
    assert [one["state"] for one in data] == ["answered", "silent"]
    assert data[1] == {
        "factory": "factory9.example.com", "state": "silent", "since": NOW - 3600, "detail": "", "replies": [],
    }  # fmt: skip
    (reply,) = data[0]["replies"]
    assert (reply["message_type"], reply["machine"], reply["num_machines"]) == ("machine_status", SLOTS[0].machine, 1)
    assert "cookie" not in reply


def test_a_decision_is_explained() -> None:
    report = replace(REPORT, failures_in_a_row={}, pipes={})
    assert explain(report) == (
        "factory1.example.com in the space vac01.example.com, as of 2026-11-20 15:14:57 UTC\n"
        "By order, drained: factory1-02.example.com.\n"
        "\n"
        "Decided on 2026-11-20 15:14:30 UTC:\n"
        "factory1.example.com starts nothing: no machinetype can be started now; 2 of 8 processors are taken\n"
        '  exp-dc-prod (share 2, usage 20): not now: backing off for 50 s more after "300 Nothing to do"\n'
        "  exp-dc-idle (share 0, usage 0): not now: its target_share is 0\n"
        "  local (share 1.5, usage 0.25): could be started\n"
        "factory9.example.com says that local has -1 HS06, which cannot be\n"
    )


#: A pipe of which all is told.
PIPE = PipeStatus(
    NOW, "Its source is down.", (), ("exp-a is dropped: x.",), 0.5, ("exp-b is dropped: y.",),
    ("exp-vm is not for this factory: cernvm3 is a virtual machine.",),
    ("exp-c is not brought by the vacuum pipe exp.",),
    ("exp: 'colour' in the document is no key of a vacuum pipe, and is ignored.",),
)  # fmt: skip


def test_once_it_is_decided_machinetypes_that_are_not_started_are_told_in_one_place() -> None:
    pipe = Unstartable("exp-a", 2.0, Refusal("dropped", "dropped: x"))
    decision = {**DECISION, "machinetypes": [*DECISION["machinetypes"], pipe.as_data()]}
    told = explain(replace(REPORT, pipes={"exp": PIPE}, decision=decision))
    assert told.count("exp-a") == 1
    assert "\n  exp-a (share 2): dropped: x\n" in told


def test_what_keeps_it_from_deciding_is_told_first() -> None:
    report = replace(
        REPORT, engine_problem="Connection refused.", engine_since=NOW - 60.0, decision=None,
        configuration_problem="space: got ''.", configuration_since=NOW - 120.0, host_problem="No pool.",
        pipes={"exp": PIPE},
        cvmfs={"a.org": Finding(False, "Empty.", NOW - 60.0), "b.org": Finding(True)},
        images={"a": ImageStatus(False, "No such image."), "b": ImageStatus(False), "c": ImageStatus(True)},
    )  # fmt: skip
    assert explain(report).splitlines()[1:] == [
        "The engine does not answer since 2026-11-20 15:14:00 UTC: Connection refused.",
        "What the host has room for is not known, and nothing is started: No pool.",
        "The configuration is refused since 2026-11-20 15:13:00 UTC, and the one before is in use: space: got ''.",
        "By order, drained: factory1-02.example.com.",
        "Vacuum pipe exp: Its source is down.",
        "Vacuum pipe exp: 'colour' in the document is no key of a vacuum pipe, and is ignored.",
        "Vacuum pipe exp: 0.5 of its share is of machinetypes not started here.",
        "CVMFS repository a.org, since 2026-11-20 15:14:00 UTC: Empty. Machinetypes that want it are not started.",
        "local: its last 2 machines fizzled or did not start.",
        "",
        "Nothing has been decided yet.",
        "  exp-a is dropped: x.",
        "  exp-b is dropped: y.",
        "  exp-vm is not for this factory: cernvm3 is a virtual machine.",
        "  exp-c is not brought by the vacuum pipe exp.",
        "  a: its image is not here: No such image.",
        "  b: its image is not here.",
    ]


def test_what_a_payload_wrote_does_not_reach_the_terminal_raw() -> None:
    decision = {"factory": "x", "machinetypes": [{"reason": "a \x1b[2J"}], "ignored": []}
    assert "\x1b" not in explain(replace(REPORT, decision=decision))


def test_what_cannot_be_measured_is_explained_before_it_has_to_end() -> None:
    told = explain(replace(REPORT, unmeasured={"f1-00": 3}))
    assert "f1-00: what its machine has written outside its work space could not be measured in time, 3 in" in told
    assert "After 5 it has to end." in told


def test_a_machine_that_outlives_kill_is_explained() -> None:
    told = explain(replace(REPORT, outliving={"f1-00": NOW}))
    assert "f1-00: its machine outlives KILL since 20" in told
    assert "It keeps its slot until then." in told

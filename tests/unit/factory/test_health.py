# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The health check: red and yellow in the cases in which Vac's stayed green (spec 9.1)."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.health import (
    CRITICAL,
    OK,
    UNKNOWN,
    WARNING,
    health,
    unreadable,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import Orders, SlotOrder
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import (
    ImageStatus,
    PipeStatus,
    Report,
    of_slots,
)
from tests.unit.factory.reports import DECISION, NOW, REPORT, RUNNING_MACHINE, SLOTS

#: As the plugin interface wants it: text without |, then figures 'label'=value[unit];[warn];[crit];[min];[max].
_FIGURE = r"[a-z]+=[0-9]+s?;[0-9]*;[0-9]*;[0-9]*;[0-9]*"
OUTPUT = re.compile(rf"(OK|WARNING|CRITICAL|UNKNOWN): [^|\n]+( \| {_FIGURE}( {_FIGURE})*)?")


def candidates(*refusals: t.Optional[str], veto: t.Optional[str] = None) -> dict[str, t.Any]:
    return {**DECISION, "veto": veto, "machinetypes": [{"machinetype": "a", "refusal": one} for one in refusals]}


def ordered(state: str, *slots: str) -> Orders:
    return Orders(slots={slot: SlotOrder(state) for slot in slots})


def test_a_factory_that_is_well() -> None:
    found = health(REPORT, NOW)
    assert found.status == OK
    assert found.output == "OK: Factory ok (1/3 2/8) | machines=1;;;0;3 processors=2;;;0;8 age=3s;;600;0;"


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"written": NOW - 599}, OK, "Factory ok"),
        ({"written": NOW - 3600}, CRITICAL, "No heartbeat of the factory's daemon in 1.00 hours"),
        ({"written": NOW + 3600}, CRITICAL, "1.00 hours ahead of this host's clock"),
        ({"written": NOW + 30}, OK, "Factory ok"),
        (
            {"engine_problem": "Connection refused.", "engine_since": NOW - 300},
            CRITICAL,
            "The engine does not answer for 5 min: Connection refused (",
        ),
        ({"engine_problem": "no"}, CRITICAL, "The engine does not answer: no ("),
        (
            {"host_problem": "thin_pool is p: it is not active."},
            CRITICAL,
            "Nothing is started, for what the host has room for is not known: thin_pool is p: it is not active (",
        ),
        (
            {"configuration_problem": "space: got ''", "configuration_since": NOW - 7200},
            CRITICAL,
            "The configuration is refused for 2.00 hours, the one before is in use: space: got ''",
        ),
        (
            {"outliving": {"f1-01.example.org": NOW - 300}},
            WARNING,
            "The machine in slot f1-01.example.org outlives KILL for 5 min, and keeps its slot: a process of it waits ",
        ),
        (
            {"metrics_problem": "metrics_file: /n/g.prom cannot be written (No such file)."},
            WARNING,
            "metrics_file: /n/g.prom cannot be written (No such file) (",
        ),
        (
            {"pipes": {"exp": PipeStatus(NOW - 7100, "Down since then.", cache_seconds=3600)}},
            WARNING,
            "Vacuum pipe exp: Down since then (",
        ),
        (
            {"pipes": {"exp": PipeStatus(NOW - 9000, "Down since then.", cache_seconds=3600)}},
            CRITICAL,
            "Vacuum pipe exp, and its copy is in use for 2.50 hours: Down since then (",
        ),
        # By its own word a copy of it is good for a day.
        (
            {"pipes": {"exp": PipeStatus(NOW - 90036, "Down.", cache_seconds=86400)}},
            CRITICAL,
            "Vacuum pipe exp, and its copy is in use for 25.01 hours: Down (",
        ),
        (
            {"pipes": {"exp": PipeStatus(NOW - 89000, "Down.", cache_seconds=86400)}},
            WARNING,
            "Vacuum pipe exp: Down (",
        ),
        ({"pipes": {"exp": PipeStatus(NOW - 90000)}}, OK, "Factory ok"),
        ({"decided": NOW - 600}, OK, "Factory ok"),
        ({"decided": NOW - 1200}, CRITICAL, "The daemon works, but has decided nothing for 20 min: see its journal ("),
        ({"decided": NOW - 1200, "host_problem": "x"}, CRITICAL, "Nothing is started, for what the host"),
        ({"decided": None, "started": NOW - 1200}, CRITICAL, "The daemon works, but has decided nothing for 20 min"),
        ({"decided": None, "started": NOW - 500}, OK, "Factory ok"),
        (
            {"pipes": {"exp": PipeStatus(None, "No route.")}},
            CRITICAL,
            "Vacuum pipe exp has never been read: No route (",
        ),
        ({"pipes": {"exp": PipeStatus()}}, CRITICAL, "Vacuum pipe exp has never been read ("),
        ({"pipes": {"exp": PipeStatus()}, "started": NOW - 500}, OK, "Factory ok"),
        ({"pipes": {"exp": PipeStatus(awaited=NOW - 500)}}, OK, "Factory ok"),
        ({"pipes": {"exp": PipeStatus(awaited=NOW - 1200)}}, CRITICAL, "Vacuum pipe exp has never been read ("),
        ({"pipes": {"exp": PipeStatus(NOW, dropped=("exp-a is dropped: x.",))}}, WARNING, "exp-a is dropped: x ("),
        ({"pipes": {"exp": PipeStatus(NOW, dropped_without_share=("exp-a is dropped: x.",))}}, OK, "Factory ok"),
        (
            {"pipes": {"exp": PipeStatus(NOW, not_brought=("exp-a is not brought.",))}},
            WARNING,
            "exp-a is not brought (",
        ),
        ({"pipes": {"exp": PipeStatus(NOW, not_here=("exp-a is not for",), warnings=("exp: x",))}}, OK, "Factory ok"),
        (
            {"images": {"a": ImageStatus(False, "No such image.", NOW - 60)}},
            CRITICAL,
            "The image of a is missing for 1 min: No such image (",
        ),
        ({"images": {"a": ImageStatus(True, "Down.")}}, WARNING, "The image of a could not be renewed: Down ("),
        ({"images": {"a": ImageStatus(False, since=NOW - 30)}}, OK, "Factory ok"),
        ({"images": {"a": ImageStatus(False, since=NOW - 900)}}, WARNING, "The image of a is being fetched for 15 min"),
        ({"failures_in_a_row": {"a": 2}}, OK, "Factory ok"),
        ({"failures_in_a_row": {"a": 3}}, CRITICAL, "The last 3 machines of a fizzled or did not start ("),
        (
            {
                "failures_in_a_row": {"a": 3},
                "slots": (
                    {"slot": "1", "machinetype": "a", "ended": 1, "shutdown_message": "200 Ok", "end_reason": "x"},
                    {
                        "slot": "2",
                        "machinetype": "a",
                        "ended": 2,
                        "shutdown_message": "500 No",
                        "end_reason": "It broke.",
                    },
                    {"slot": "3", "machinetype": "a", "ended": None, "shutdown_message": None, "end_reason": ""},
                    {"slot": "4"},
                ),
            },
            CRITICAL,
            "The last 3 machines of a fizzled or did not start. Of the last one: 500 No; It broke (",
        ),
        (
            {"cvmfs": {"lhcb.cern.ch": Finding(False, "It hangs.", NOW - 120)}},
            CRITICAL,
            "CVMFS repository lhcb.cern.ch does not answer for 2 min: It hangs (",
        ),
        ({"decision": candidates("backing_off", "no_share")}, WARNING, "All machinetypes are backing off"),
        ({"decision": candidates("backing_off", None)}, OK, "Factory ok"),
        ({"decision": candidates("backing_off", "too_large")}, OK, "Factory ok"),
        ({"decision": candidates("backing_off", veto="draining")}, OK, "Factory ok"),
        (
            {"decision": candidates("backing_off", "not_here", "dropped", "no_image")},
            WARNING,
            "All machinetypes are back",
        ),
        (
            {"decision": candidates("no_share", "no_share", "dropped")},
            CRITICAL,
            "started here, and the factory is not drained: its machinetypes are 2 without a share, 1 dropped (",
        ),
        (
            {"decision": candidates("not_here", "too_large", "not_brought")},
            CRITICAL,
            "its machinetypes are 1 not for this factory, 1 not brought by a pipe, 1 too large for it (",
        ),
        ({"decision": candidates()}, CRITICAL, "and the factory is not drained: it has no machinetype ("),
        ({"decision": candidates("no_share", veto="load")}, CRITICAL, "Nothing can be started here"),
        ({"decision": candidates("no_share", veto="draining")}, OK, "Factory ok"),
        ({"decision": candidates("no_share", veto="shutdown_time")}, OK, "Factory ok"),
        ({"decision": candidates("no_share"), "orders": ordered("drained", *SLOTS)}, OK, "Factory ok"),
        ({"decision": candidates("no_share"), "orders": ordered("drained", *SLOTS[1:])}, CRITICAL, "Nothing can be"),
        ({"decision": candidates("no_share"), "orders": Orders(slots={"x": SlotOrder("", "a")})}, OK, "Factory ok"),
        (
            {"decision": candidates("dropped"), "orders": Orders(slots={"x": SlotOrder("", "a")})},
            CRITICAL,
            "Nothing can",
        ),
        ({"decision": candidates("pipe_unread"), "pipes": {"exp": PipeStatus()}, "started": NOW}, OK, "Factory ok"),
        ({"decision": candidates(), "pipes": {"exp": PipeStatus()}, "started": NOW}, OK, "Factory ok"),
        ({"decision": candidates("no_share", "no_image")}, OK, "Factory ok"),
        ({"decision": candidates("no_share", None)}, OK, "Factory ok"),
        ({"decision": None}, OK, "Factory ok"),
    ],
)
def test_each_trouble_has_its_colour_and_its_words(changes: dict[str, t.Any], status: int, text: str) -> None:
    found = health(replace(REPORT, **changes), NOW)
    assert (found.status, text in f"{found.text}") == (status, True), found.text
    assert found.text.endswith(" (1/3 2/8)")
    assert OUTPUT.fullmatch(found.output)


def test_a_file_system_that_is_full_is_told_before_what_an_old_report_says() -> None:
    full = health(replace(REPORT, written=NOW - 3600), NOW, room=4096)
    assert full.status == CRITICAL
    told = "4 KiB are left on the file system of the factory's state: it can write nothing down"
    assert full.text.startswith(f"{told}; No heartbeat")
    assert health(REPORT, NOW, room=1 << 20).status == OK


def test_a_factory_of_which_all_slots_are_drained_may_be_empty_whatever_goes_on_in_a_slot_that_is_no_more() -> None:
    former = of_slots(SLOTS, [replace(RUNNING_MACHINE, slot="factory1-07.example.com")])
    told = replace(REPORT, slots=former, decision=candidates("no_share"), orders=ordered("drained", *SLOTS))
    assert health(told, NOW).status == OK
    assert health(replace(told, orders=Orders()), NOW).status == CRITICAL


def test_no_report_and_one_that_cannot_be_read() -> None:
    assert health(None, NOW).output == "CRITICAL: The factory's daemon has never written a report"
    found = unreadable("/x/report.json is not a factory's report (x | y).")
    assert (found.status, found.output) == (UNKNOWN, "UNKNOWN: /x/report.json is not a factory's report (x / y)")


def test_of_a_dead_daemon_nothing_else_is_told_for_it_is_old() -> None:
    found = health(replace(REPORT, written=NOW - 601, engine_problem="gone", failures_in_a_row={"a": 9}), NOW)
    assert found.text == "No heartbeat of the factory's daemon in 0.17 hours (1/3 2/8)"
    assert health(replace(REPORT, written=NOW - 601), NOW, limit=700).status == OK


def many_troubles() -> Report:
    dropped = tuple(f"exp-{number} is dropped: got '|\n\x1b[31m{'x' * 900}'." for number in range(9))
    return replace(REPORT, pipes={"exp": PipeStatus(NOW, dropped=dropped)}, failures_in_a_row={"a": 5})


def test_the_worst_is_told_first_and_the_rest_is_counted_on_one_line() -> None:
    found = health(many_troubles(), NOW)
    assert found.status == CRITICAL
    assert found.text.startswith("The last 5 machines of a fizzled or did not start; exp-0 is dropped: got '/ [31mxxx")
    assert found.text.endswith("...; and 6 more (1/3 2/8)")
    assert OUTPUT.fullmatch(found.output)
    assert len(found.output) < 4096

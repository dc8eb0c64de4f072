# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file in which a factory tells how it is."""

from __future__ import annotations

import json
import typing as t
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import (
    Counts,
    Report,
    from_json,
    load,
    of_slots,
    write,
)
from tests.unit.factory.reports import (
    ENDED_MACHINE,
    NOW,
    REPORT,
    RUNNING_MACHINE,
    SETTINGS,
    SLOTS,
)


def test_a_report_is_written_and_read_again_the_same() -> None:
    assert from_json(REPORT.to_json(), "f") == REPORT


def test_the_report_of_the_tests_says_something_in_every_field_that_is_not_trouble() -> None:
    trouble = {"engine_problem", "engine_since", "configuration_problem", "configuration_since", "orders_problem"}
    trouble |= {"host_problem", "metrics_problem", "records_unreadable", "unmeasured", "outliving"}
    empty = {one.name for one in fields(Report) if not getattr(REPORT, one.name)}
    assert empty == trouble


def test_trouble_is_written_and_read_again() -> None:
    report = replace(REPORT, engine_problem="gone", engine_since=1.5, configuration_problem="wrong", decision=None)
    assert from_json(report.to_json(), "f") == report


def test_a_key_of_a_later_version_is_passed_over() -> None:
    data = json.loads(REPORT.to_json())
    data["later"] = [1]
    data["pipes"]["exp"]["later"] = {}
    data["counts"]["later"] = None
    assert from_json(json.dumps(data), "f") == REPORT


def test_a_key_of_an_earlier_version_is_not_missed() -> None:
    needed = {"version", "name", "space", "written", "started", "pid"}
    data = {key: value for key, value in json.loads(REPORT.to_json()).items() if key in needed}
    assert from_json(json.dumps(data), "f").pipes == {}
    for key in needed:
        with pytest.raises(GridboxError, match=f"is not a factory's report .*{key}"):
            from_json(json.dumps({other: value for other, value in data.items() if other != key}), "f")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}", "[" * 5000, '{"written": NaN}'])
def test_what_is_no_report_is_a_sentence(text: str) -> None:
    with pytest.raises(GridboxError, match=r"^/x/report\.json is not a factory's report \("):
        from_json(text, "/x/report.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("written", "now"), ("written", True), ("written", None), ("written", float("inf")), ("written", 10**400),
        ("pid", 1.5), ("name", 1), ("engine_problem", None), ("engine_since", "x"), ("pipes", []), ("pipes", {"a": 1}),
        ("pipes", {"a": {"machinetypes": "b"}}), ("pipes", {"a": {"machinetypes": [1]}}), ("images", {"a": {}}),
        ("images", {"a": {"present": 1}}), ("slots", {}), ("slots", [1]), ("counts", 1), ("counts", {"slots": "2"}),
        ("decision", []), ("answered", {"a": "1"}), ("failures_in_a_row", {"a": None}), ("peers", {"a": {}}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_sentence(key: str, value: t.Any) -> None:
    with pytest.raises(GridboxError, match=r"^f is not a factory's report \("):
        from_json(json.dumps({**json.loads(REPORT.to_json()), key: value}), "f")


@given(st.data())
def test_whatever_stands_in_it_is_a_report_or_a_sentence(draw: st.DataObject) -> None:
    data = json.loads(REPORT.to_json())
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(sorted(data)), inner, max_size=2),
        max_leaves=5,
    )
    key = draw.draw(st.sampled_from(sorted(data)))
    try:
        report = from_json(json.dumps({**data, key: draw.draw(values)}), "f")
    except GridboxError:
        return
    assert replace(report, **{key: getattr(REPORT, key)}) == REPORT


def test_a_report_lies_where_everybody_finds_it(tmp_path: Path) -> None:
    assert load(str(tmp_path)) is None
    for report in (REPORT, replace(REPORT, written=NOW)):
        write(str(tmp_path), report)
        assert load(str(tmp_path)) == report
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("report.json", 0o644)]


def test_what_cannot_be_read_or_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff\xfe")
    with pytest.raises(GridboxError, match=r"^The factory's report .*report\.json cannot be read"):
        load(str(tmp_path))
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()
    with pytest.raises(GridboxError, match="cannot be read"):
        load(str(tmp_path))
    with pytest.raises(GridboxError, match=r"cannot be written \(No such file or directory\)"):
        write(str(tmp_path / "missing"), REPORT)


def test_a_slot_tells_of_the_machine_in_it_else_of_the_last() -> None:
    older = replace(ENDED_MACHINE, uuid="older", created=ENDED_MACHINE.created - 100)
    # A machine that runs is told, even if the clock was set back when the one before was made.
    running = replace(RUNNING_MACHINE, created=100)
    later = replace(ENDED_MACHINE, uuid="later", slot=SLOTS[1], created=200)
    told = of_slots(SLOTS, [ENDED_MACHINE, older, running, later])
    assert [one.get("uuid") for one in told] == [ENDED_MACHINE.uuid, running.uuid, None]
    assert told[2] == {"slot": SLOTS[2]}
    assert told[0]["shutdown_message"] == "200 Success"
    assert "root_image" not in told[0]


def test_slots_that_are_no_more_come_after_the_others_while_their_machines_go_on() -> None:
    former = replace(RUNNING_MACHINE, uuid="former", slot="factory1-0001.example.com")
    told = of_slots(SLOTS, [replace(former, slot="z", state="ended"), former, ENDED_MACHINE])
    assert [one["slot"] for one in told] == [*SLOTS, former.slot]
    assert told[3]["uuid"] == "former"
    assert replace(REPORT, slots=told).configured == SLOTS


def test_counts_are_of_what_runs() -> None:
    starting = replace(RUNNING_MACHINE, state="starting", slot=SLOTS[2])
    assert Counts.of(SETTINGS, [ENDED_MACHINE, RUNNING_MACHINE, starting]) == Counts(1, 3, 2, 8)

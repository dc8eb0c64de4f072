# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines have to end, and why."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import (
    UNMEASURED,
    End,
    Heartbeat,
    ends,
    lowered,
    not_measured,
    wrote_too_much,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, OwnMachine

NOW = 1_800_000_000
FACTORY = FactorySettings("f1.example.com", ("s0", "s1"), 2)
BEATS = Heartbeat("heartbeat", NOW, 600, 300)
MISSING = replace(BEATS, written=None)
RUNNING = OwnMachine("s0", "a", 1, "running", NOW - 3600, NOW + 3600, NOW - 3600)


def found(
    machine: OwnMachine = RUNNING,
    factory: FactorySettings = FACTORY,
    heartbeat: t.Optional[Heartbeat] = BEATS,
    watching_since: int = NOW - 86400,
) -> t.Optional[End]:
    beats = {"s0": heartbeat} if heartbeat is not None else {}
    made = ends(factory, [machine], beats, NOW, watching_since)
    assert len(made) <= 1
    return made[0] if made else None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        (NOW - 900, NOW - 300),
        (NOW - 299, NOW - 299),
        # By the clock before it was set back.
        (NOW + 7000, NOW - 300),
    ],
)
def test_a_file_has_not_grown_old_before_its_age_can_be_told(
    written: t.Optional[int], expected: t.Optional[int]
) -> None:
    seen = replace(BEATS, written=written, looked=NOW)
    assert seen.ageing_since(NOW - 300) == replace(seen, written=expected)


@pytest.mark.parametrize(("left", "over"), [(1, False), (0, True), (-100, True)])
def test_the_time_limit(left: int, over: bool) -> None:
    end = found(replace(RUNNING, shutdown_time=NOW + left))
    assert (end is not None) == over
    if end is not None:
        assert end.code == "time_limit"
        assert f"was {-left} s ago" in end.reason
        assert not is_abort(end.message)


def test_the_factorys_shutdown_time() -> None:
    end = found(factory=replace(FACTORY, shutdown_time=NOW - 5))
    assert end == End(
        "s0", "a", "shutdown_time", "the factory's shutdown_time was 5 s ago (grace_seconds 0)",
        "100 Factory shutdown_time reached",
    )  # fmt: skip
    assert found(factory=replace(FACTORY, shutdown_time=NOW + 5)) is None
    told = found(replace(RUNNING, shutdown_time=NOW - 5), replace(FACTORY, shutdown_time=NOW - 5))
    assert told is not None and told.code == "shutdown_time"
    own = found(replace(RUNNING, shutdown_time=NOW - 9), replace(FACTORY, shutdown_time=NOW - 5))
    assert own is not None and own.code == "time_limit"


@pytest.mark.parametrize(("left", "over"), [(61, False), (60, True), (0, True)])
def test_a_machine_is_told_early_enough_to_be_gone_by_the_factorys_shutdown_time(left: int, over: bool) -> None:
    """KILL comes ``grace_seconds`` after TERM."""
    factory = replace(FACTORY, shutdown_time=NOW + left, grace_seconds=60)
    for machine in (RUNNING, replace(RUNNING, shutdown_time=NOW + left - 60)):  # as it was told
        end = found(machine, factory)
        assert (end is not None) == over
        if end is not None:
            assert end.code == "shutdown_time"
            assert "(grace_seconds 60)" in end.reason


def test_draining_ends_nothing() -> None:
    assert found(factory=replace(FACTORY, draining=True)) is None


@pytest.mark.parametrize("state", ["unknown", "starting", "ended"])
def test_only_what_is_known_to_run_is_ended(state: str) -> None:
    machine = replace(RUNNING, state=state, shutdown_time=NOW - 100)
    assert found(machine, heartbeat=MISSING) is None


@pytest.mark.parametrize(
    ("written", "code", "message"),
    [
        (None, "heartbeat_missing", "700 Heartbeat file not created"),
        (NOW - 301, "heartbeat_old", "700 Heartbeat file not updated"),
        (NOW - 300, None, None),
        (NOW + 100, None, None),
    ],
)
def test_the_heartbeat_file(written: t.Optional[int], code: t.Optional[str], message: t.Optional[str]) -> None:
    end = found(heartbeat=replace(BEATS, written=written))
    assert (end.code if end else None, end.message if end else None) == (code, message)
    assert end is None or is_abort(end.message)


def test_the_reason_has_the_figures() -> None:
    old, missing = found(heartbeat=replace(BEATS, written=NOW - 400)), found(heartbeat=MISSING)
    assert old is not None and missing is not None
    assert old.reason == "heartbeat file heartbeat is 400 s old (heartbeat_seconds 300)"
    assert missing.reason == "heartbeat file heartbeat is not there 3600 s after the start (fizzle_seconds 600)"


@pytest.mark.parametrize("patience", [0, 3600])
def test_when_no_heartbeat_is_asked_for(patience: int) -> None:
    assert found(heartbeat=replace(MISSING, patience=patience)) is None


def test_any_age_will_do_without_heartbeat_seconds() -> None:
    assert found(heartbeat=replace(BEATS, largest=0, written=NOW - 9999)) is None


def test_what_could_not_be_looked_at_is_not_judged() -> None:
    assert found(heartbeat=None) is None


@pytest.mark.parametrize(("since", "judged"), [(600, False), (601, True)])
def test_a_factory_that_just_began_to_look_gives_time(since: int, judged: bool) -> None:
    assert (found(heartbeat=MISSING, watching_since=NOW - since) is not None) == judged


def test_limits_that_shutdown_time_lowers() -> None:
    later = replace(RUNNING, slot="s1", shutdown_time=NOW + 9000)
    assert lowered(replace(FACTORY, shutdown_time=NOW + 5000), [RUNNING, later]) == {"s1": NOW + 5000}
    assert lowered(replace(FACTORY, shutdown_time=NOW + 5000, grace_seconds=60), [later]) == {"s1": NOW + 4940}
    assert lowered(FACTORY, [RUNNING, later]) == {}
    assert lowered(replace(FACTORY, shutdown_time=NOW), [replace(RUNNING, state="ended")]) == {}


@pytest.mark.parametrize(
    ("machine", "written", "over"),
    [
        (RUNNING, {"s0": 1000}, False),
        (RUNNING, {"s0": 1001}, True),
        (RUNNING, {}, False),
        (replace(RUNNING, processors=2), {"s0": 2000}, False),
        (replace(RUNNING, processors=2), {"s0": 2001}, True),
        (replace(RUNNING, state="unknown"), {"s0": 5000}, False),
        (replace(RUNNING, state="starting"), {"s0": 5000}, False),
        (replace(RUNNING, state="ended"), {"s0": 5000}, False),
    ],
)
def test_what_is_written_outside_the_work_space(machine: OwnMachine, written: dict[str, int], over: bool) -> None:
    made = wrote_too_much([machine], written, 1000)
    assert len(made) == over
    if over:
        wrote, may = written["s0"], machine.processors * 1000
        assert made[0].reason == f"it wrote {wrote} bytes outside its work space; it may write {may}"
        assert is_abort(made[0].message)


@pytest.mark.parametrize(
    ("state", "times", "over"),
    [
        ("running", UNMEASURED, True),
        ("running", UNMEASURED - 1, False),
        ("running", None, False),
        ("unknown", UNMEASURED, False),
        ("starting", UNMEASURED, False),
    ],
)
def test_what_takes_too_long_to_measure_time_and_again_has_to_end(
    state: str, times: t.Optional[int], over: bool
) -> None:
    machine = OwnMachine("s", "a", 1, state, 1, 1000, 2)
    made = not_measured([machine], {} if times is None else {"s": times})
    assert [(one.code, one.message) for one in made] == [("disk_unknown", "700 Disk use cannot be measured")] * over
    assert all(f"{times} times in a row" in one.reason for one in made)


def test_a_heartbeat_is_judged_as_of_the_look_at_it() -> None:
    """What has come since nobody knows."""
    assert found(heartbeat=replace(BEATS, written=NOW - 310, looked=NOW - 20)) is None
    assert found(heartbeat=replace(BEATS, written=NOW - 310, looked=NOW - 5)) is not None
    assert found(heartbeat=replace(BEATS, written=NOW - 310, looked=NOW + 86400)) is not None, "the clock was set back"

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines have to end, and why."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End, ends, lowered, wrote_too_much
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, OwnMachine

NOW = 1_800_000_000
FACTORY = FactorySettings("f1.example.com", ("s0", "s1"), 2)
TYPE = Machinetype("a", target_share=1.0, heartbeat_file="heartbeat", heartbeat_seconds=300)
RUNNING = OwnMachine("s0", "a", 1, "running", NOW - 3600, NOW + 3600, NOW - 3600)


def found(
    machine: OwnMachine = RUNNING,
    factory: FactorySettings = FACTORY,
    machinetypes: t.Sequence[Machinetype] = (TYPE,),
    heartbeats: t.Optional[t.Mapping[str, t.Optional[int]]] = None,
    watching_since: int = NOW - 86400,
) -> t.Optional[End]:
    beats = {"s0": NOW} if heartbeats is None else heartbeats
    made = ends(factory, machinetypes, [machine], beats, NOW, watching_since)
    assert len(made) <= 1
    return made[0] if made else None


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
        "s0", "a", "shutdown_time", "the factory's shutdown_time was 5 s ago", "100 Factory shutdown_time reached"
    )
    assert found(factory=replace(FACTORY, shutdown_time=NOW + 5)) is None
    told = found(replace(RUNNING, shutdown_time=NOW - 5), replace(FACTORY, shutdown_time=NOW - 5))
    assert told is not None and told.code == "shutdown_time"
    own = found(replace(RUNNING, shutdown_time=NOW - 9), replace(FACTORY, shutdown_time=NOW - 5))
    assert own is not None and own.code == "time_limit"


def test_draining_ends_nothing() -> None:
    assert found(factory=replace(FACTORY, draining=True)) is None


@pytest.mark.parametrize("state", ["unknown", "starting", "ended"])
def test_only_what_is_known_to_run_is_ended(state: str) -> None:
    machine = replace(RUNNING, state=state, shutdown_time=NOW - 100)
    assert found(machine, heartbeats={"s0": None}) is None


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
    end = found(heartbeats={"s0": written})
    assert (end.code if end else None, end.message if end else None) == (code, message)
    assert end is None or is_abort(end.message)


def test_the_reason_has_the_figures() -> None:
    old, missing = found(heartbeats={"s0": NOW - 400}), found(heartbeats={"s0": None})
    assert old is not None and missing is not None
    assert old.reason == "heartbeat file heartbeat is 400 s old (heartbeat_seconds 300)"
    assert missing.reason == "heartbeat file heartbeat is not there 3600 s after the start (fizzle_seconds 600)"


@pytest.mark.parametrize(
    "changes", [{"heartbeat_file": None}, {"fizzle_seconds": 0}, {"fizzle_seconds": 3600}, {"name": "other"}]
)
def test_when_no_heartbeat_is_asked_for(changes: dict[str, t.Any]) -> None:
    assert found(machinetypes=[replace(TYPE, **changes)], heartbeats={"s0": None}) is None


def test_any_age_will_do_without_heartbeat_seconds() -> None:
    assert found(machinetypes=[replace(TYPE, heartbeat_seconds=0)], heartbeats={"s0": NOW - 9999}) is None


def test_what_could_not_be_looked_at_is_not_judged() -> None:
    assert found(heartbeats={}) is None


@pytest.mark.parametrize(("since", "judged"), [(600, False), (601, True)])
def test_a_factory_that_just_began_to_look_gives_time(since: int, judged: bool) -> None:
    assert (found(heartbeats={"s0": None}, watching_since=NOW - since) is not None) == judged


def test_limits_that_shutdown_time_lowers() -> None:
    later = replace(RUNNING, slot="s1", shutdown_time=NOW + 9000)
    assert lowered(replace(FACTORY, shutdown_time=NOW + 5000), [RUNNING, later]) == {"s1": NOW + 5000}
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

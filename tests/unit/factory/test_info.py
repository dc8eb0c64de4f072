# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders, report
from ansible_collections.hep.gridbox.plugins.module_utils.factory.info import collect
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, STARTING
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import is_at_work, of_slots
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Unstartable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Refusal
from tests.unit.factory.reports import DECISION
from tests.unit.factory.reports import REPORT as OTHER
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE
from tests.unit.factory.test_views import PIPE

#: Of the factory that is asked.
REPORT = replace(OTHER, name="f1.example.org")
NOW = REPORT.written
MADE = replace(LIVE, state=STARTING, started=None)


@pytest.fixture()
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, t.Any]:
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    path = tmp_path / "factory.json"
    kind = {"root_image": "docker://image:1", "user_data": "run", "target_share": 2.0}
    settings = {**SMALL, "state_folder": str(tmp_path), "machinetypes": {"b": kind}}
    settings["engine_url"] = f"unix://{tmp_path}/none.sock"
    path.write_text(json.dumps(settings))
    return {"configuration": str(path), "space": False, "timeout": 1.0}


@pytest.mark.parametrize(
    ("written", "lives", "works"),
    [(NOW, True, True), (NOW - 61, True, False), (NOW + 61, True, False), (NOW, False, False)],
)
def test_whether_a_daemon_works(written: float, lives: bool, works: bool) -> None:
    pid = os.getpid() if lives else 1 << 30
    assert is_at_work(replace(REPORT, written=written, pid=pid), NOW) is works
    assert not is_at_work(None, NOW)


def test_a_host_where_nothing_has_ever_run(params: dict[str, t.Any]) -> None:
    found = collect(params)
    assert [one["state"] for one in found["slots"]] == ["empty", "empty"]
    assert (found["factory"]["daemon"], found["factory"]["health"], found["space"]) == (False, None, None)
    assert [(one["name"], one["target_share"]) for one in found["machinetypes"]] == [("b", 2.0)]
    assert found["warnings"] == []
    with pytest.raises(InputError, match="timeout: got 0"):
        collect({**params, "timeout": 0})


def test_without_daemon_and_engine_nobody_can_tell_and_that_is_said(params: dict[str, t.Any], tmp_path: Path) -> None:
    Store(str(tmp_path)).create(LIVE)
    found = collect(params)
    assert found["slots"][0]["state"] == "running"
    assert found["factory"]["engine_problem"]
    assert "nobody can tell what runs" in found["warnings"][0]


def test_a_daemon_of_another_name_is_not_taken_for_this_factorys(params: dict[str, t.Any], tmp_path: Path) -> None:
    """The configuration was changed by hand: no slot that it names would ever have a machine."""
    other = replace(REPORT, written=time.time(), pid=os.getpid(), name="f2.example.org")
    report.write(str(tmp_path), other)
    with pytest.raises(RefusedError, match=r"the daemon works under the name f2\.example\.org"):
        collect(params)
    report.write(str(tmp_path), replace(other, pid=1 << 30))
    collect(params)


def test_a_record_that_cannot_be_read_costs_its_own_slot_only(params: dict[str, t.Any], tmp_path: Path) -> None:
    """Its machine may run, so nobody is told that the slot is empty; and a drain does not end."""
    store, second = Store(str(tmp_path)), replace(LIVE, slot="f1-01.example.org", state=ENDED, ended=9_950)
    (Path(store.create(LIVE)) / "machine.json").write_text("{")
    store.create(second)
    report.write(str(tmp_path), replace(REPORT, written=time.time(), decided=time.time(), pid=os.getpid()))
    found = collect(params)
    assert [(one["state"], one["machinetype"]) for one in found["slots"]] == [
        ("unknown", LIVE.machinetype),
        ("empty", ""),
    ]
    assert found["slots"][0]["since"] == LIVE.created
    assert found["factory"]["running_machines"] == 1
    [warning] = found["warnings"]
    assert "machine.json" in warning and "Its machine may run" in warning


def test_machines_in_slots_that_are_no_more_are_told_until_they_have_ended(
    params: dict[str, t.Any], tmp_path: Path
) -> None:
    """Who reboots the host when nothing runs any more would end them."""
    for number, changes in ((2, {}), (3, {"state": ENDED, "ended": 9_950}), (4, {})):
        Store(str(tmp_path)).create(replace(LIVE, slot=f"f1-0{number}.example.org", **changes))
    [broken] = tmp_path.glob("machines/*_f1-04*")
    (broken / "machine.json").write_text("{")
    report.write(str(tmp_path), replace(REPORT, written=time.time(), decided=time.time(), pid=os.getpid()))
    found = collect(params)
    assert [(one["slot"].partition(".")[0], one["state"]) for one in found["slots"]] == [
        ("f1-00", "empty"), ("f1-01", "empty"), ("f1-02", "running"), ("f1-04", "unknown"),
    ]  # fmt: skip
    assert found["factory"]["running_machines"] == 2
    assert "Its machine may run" in found["warnings"][0]
    assert {one["name"]: one["running_machines"] for one in found["machinetypes"]}["a"] == 2


def test_with_a_daemon_its_report_counts_and_the_engine_is_not_asked(params: dict[str, t.Any], tmp_path: Path) -> None:
    Store(str(tmp_path)).create(replace(LIVE, slot="f1-01.example.org"))
    Store(str(tmp_path)).create(replace(LIVE, state=ENDED, ended=9_950, shutdown_message="200 Success"))
    report.write(str(tmp_path), replace(REPORT, written=time.time(), decided=time.time(), pid=os.getpid()))
    orders.save(str(tmp_path), orders.Orders(slots={LIVE.slot: orders.SlotOrder("drained", since=5)}))
    found = collect(params)
    assert (found["factory"]["daemon"], found["factory"]["engine_problem"]) == (True, "")
    assert found["factory"]["health"]["status"] == "ok"
    first, second = found["slots"]
    assert (first["state"], first["order"], first["last_end"]["message"]) == ("empty", "drained", "200 Success")
    assert (second["state"], second["since"]) == ("running", LIVE.started)
    told = {one["name"]: one for one in found["machinetypes"]}
    assert sorted(told) == ["a", "b", "exp-dc-idle", "exp-dc-prod", "lhcb-dc-prod", "local"]
    assert told["exp-dc-prod"]["backing_off"] is True
    assert told["a"]["running_machines"] == 1


@pytest.mark.parametrize("age", [10, 3600])
def test_a_daemon_that_is_gone_is_told_by_its_last_report(params: dict[str, t.Any], tmp_path: Path, age: float) -> None:
    """Whoever has only died may have written that all is well a moment before."""
    report.write(str(tmp_path), replace(REPORT, written=time.time() - age, decided=time.time() - age, pid=1 << 30))
    found = collect(params)["factory"]
    assert (found["daemon"], found["health"]["status"]) == (False, "critical")
    assert found["health"]["text"].startswith("No heartbeat of the factory's daemon in ")
    assert found["explanation"] == []


def test_orders_are_taken_when_the_daemon_says_so(params: dict[str, t.Any], tmp_path: Path) -> None:
    """Until then it may start something."""

    def taken(**changes: t.Any) -> bool:
        report.write(str(tmp_path), replace(REPORT, written=time.time(), pid=os.getpid(), slots=(), **changes))
        return t.cast(bool, collect(params)["factory"]["orders_taken"])

    given = orders.Orders(slots={LIVE.slot: orders.SlotOrder("drained", since=5)})
    orders.save(str(tmp_path), given)
    assert collect(params)["factory"]["orders_taken"] is True, "nobody starts anything"
    with at_work(str(tmp_path)):
        assert collect(params)["factory"]["orders_taken"] is False, "a daemon that has just been started"
        assert not taken(orders=orders.Orders())
        assert taken(orders=given)
        begun = replace(REPORT, written=time.time(), pid=os.getpid(), orders=given, slots=of_slots([LIVE.slot], [MADE]))
        report.write(str(tmp_path), begun)
        assert collect(params)["factory"]["orders_taken"] is False, "it has begun to make a machine"
        Store(str(tmp_path)).create(MADE)
        found = collect(params)["factory"]
        assert (found["orders_taken"], found["running_machines"]) == (True, 1)
        orders.save(str(tmp_path), orders.Orders())
    assert collect(params)["factory"]["orders_taken"] is True


def test_pipes_are_told_with_what_of_them_is_not_for_this_factory(params: dict[str, t.Any], tmp_path: Path) -> None:
    path = Path(params["configuration"])
    url = "https://pipes.example.org/exp.pipe"
    pipes = {"exp": {"vacuum_pipe_url": url}, "new": {"vacuum_pipe_path": "/x"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "vacuum_pipes": pipes}))
    nothing: dict[str, t.Any] = {
        "prefix": "new", "source": "/x", "fetched_at": None, "problem": "", "machinetypes": [],
        "not_for_this_factory": [], "dropped": [], "not_brought": [], "unused_share": 0.0, "remarks": [],
    }  # fmt: skip
    assert collect(params)["pipes"] == [{**nothing, "prefix": "exp", "source": url}, nothing]
    bad = Unstartable("exp-a", 2.0, Refusal("dropped", "dropped: x")).as_data()
    told = replace(
        REPORT,
        written=time.time(),
        decided=time.time(),
        pid=os.getpid(),
        pipes={"exp": PIPE},
        decision={**DECISION, "machinetypes": [bad]},
    )
    report.write(str(tmp_path), told)
    found = collect(params)
    assert found["pipes"] == [
        {
            "prefix": "exp", "source": url, "fetched_at": PIPE.fetched_at, "problem": "Its source is down.",
            "machinetypes": [], "not_for_this_factory": list(PIPE.not_here),
            "dropped": ["exp-a is dropped: x.", "exp-b is dropped: y."], "not_brought": list(PIPE.not_brought),
            "unused_share": 0.5, "remarks": list(PIPE.warnings),
        },
        nothing,
    ]  # fmt: skip
    [kind] = [one for one in found["machinetypes"] if one["name"] == "exp-a"]
    assert (kind["target_share"], kind["refusal"], kind["problem"]) == (2.0, "dropped", "exp-a (share 2): dropped: x")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import stat
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders, program
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import NONE, Orders, SlotOrder, slots_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Forced
from tests.unit.factory.reports import SETTINGS, SLOTS
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE

FIRST, SECOND, THIRD = SLOTS
SOME = Orders(
    slots={FIRST: SlotOrder("drained", since=5), SECOND: SlotOrder("stopped", since=6), THIRD: SlotOrder("", "a", 7)}
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not the host's own."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    return tmp_path / "run"


def test_orders_lie_over_the_settings() -> None:
    seen = SOME.over(SETTINGS)
    assert seen.closed_slots == {FIRST, SECOND}
    assert seen.stopped_slots == {SECOND}
    assert seen.forced == {THIRD: Forced("a", 7)}
    assert Orders().over(SETTINGS) == SETTINGS


@pytest.mark.parametrize(
    ("configured", "ordered", "draining", "until"),
    [
        ({"draining": True}, {}, True, None),
        ({}, {"draining": True}, True, None),
        ({"shutdown_time": 50}, {}, False, 50),
        ({"shutdown_time": 50}, {"shutdown_time": 70}, False, 70),
    ],
)
def test_draining_and_shutdown_time(
    configured: dict[str, t.Any], ordered: dict[str, t.Any], draining: bool, until: t.Optional[int]
) -> None:
    seen = Orders(**ordered).over(replace(SETTINGS, **configured))
    assert (seen.draining, seen.shutdown_time) == (draining, until)


def test_they_come_back_for_root_alone_and_nothing_ordered_is_no_file(folder: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert orders.load(state) == Orders()
    orders.save(state, SOME)
    path = Path(orders.path_of(state))
    assert path.parent == folder
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert orders.load(state) == SOME
    assert orders.load(str(tmp_path / "other")) == Orders()
    orders.save(state, SOME.with_slots(SLOTS, NONE))
    assert list(folder.iterdir()) == []


def test_one_file_for_a_folder_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert orders.path_of(str(tmp_path / "link")) == orders.path_of(str(tmp_path / "state"))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"draining": 1}', '{"slots": {"a": {"state": "gone"}}}', '{"shutdown_time": "x"}', "{" * 9999]
)
def test_what_is_no_order_is_a_sentence(text: str, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    Path(orders.path_of(str(tmp_path))).write_text(text)
    with pytest.raises(GridboxError, match="holds no orders to a factory"):
        orders.load(str(tmp_path))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["all"], SLOTS),
        (["0"], [FIRST]),
        (["02", "00"], [FIRST, THIRD]),
        (["factory1-01"], [SECOND]),
        (["FACTORY1-01.example.com", "1"], [SECOND]),
    ],
)
def test_slots_by_name_and_number(given: list[str], meant: t.Sequence[str]) -> None:
    assert slots_of(SETTINGS, given) == tuple(meant)


@pytest.mark.parametrize("given", [["3"], ["all", "0"], ["-1"], ["factory2-00"], [], ["²"]])
def test_slots_that_are_none(given: list[str]) -> None:
    with pytest.raises(InputError, match=r"slots: got .* expected .*slot"):
        slots_of(SETTINGS, given)


def test_slots_that_the_factory_has_no_more() -> None:
    """They come after those that it has, and one that it has is meant by a number before them."""
    former = ["factory1-0001.example.com", "factory1-05.example.com"]
    assert slots_of(SETTINGS, ["all"], former=former) == (*SLOTS, *former)
    assert slots_of(SETTINGS, ["5", "1"], former=former) == (SECOND, former[1])
    assert slots_of(SETTINGS, ["factory1-0001"], former=former) == (former[0],)
    with pytest.raises(
        InputError, match=r"or 0 to 2; factory1-0001\.example\.com, factory1-05\.example\.com, which it"
    ):
        slots_of(SETTINGS, ["4"], former=former)


# --- the commands


@pytest.fixture()
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> t.Callable[..., t.Any]:
    """Runs the command; what it printed, and its status."""
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path / "state")}))

    def command(*arguments: str) -> tuple[int, str]:
        status = program.main(["--configuration", str(path), *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


def test_the_commands_order_and_take_back(run: t.Callable[..., t.Any], tmp_path: Path) -> None:
    assert run("drain", "0") == (0, "By order, drained: f1-00.example.org.\n")
    assert run("stop", "1", "f1-00") == (0, "By order, stopped: f1-00.example.org, f1-01.example.org.\n")
    assert run("drain") == (
        0, "By order, the factory is draining.\nBy order, stopped: f1-00.example.org, f1-01.example.org.\n",
    )  # fmt: skip
    assert run("stop", "all", "--undo") == (0, "By order, the factory is draining.\n")
    assert run("drain", "--undo") == (0, "Nothing is ordered.\n")
    assert orders.load(str(tmp_path / "state")) == Orders()


def test_a_shutdown_time_is_still_to_come(run: t.Callable[..., t.Any], tmp_path: Path) -> None:
    assert run("shutdown-time", "2100-01-01T08:00+00:00")[0] == 0
    assert orders.load(str(tmp_path / "state")).shutdown_time == 4102473600
    for wrong in ("1000", "tomorrow", "2020-01-01T08:00", "9" * 30, "²"):
        status, told = run("shutdown-time", wrong)
        assert status == 1
        assert told.startswith(f"TIME: got {wrong!r}, expected none, Unix seconds, or a time")
    assert run("shutdown-time", "none") == (0, "Nothing is ordered.\n")


def test_of_a_slot_that_is_no_more_an_end_can_be_ordered_and_nothing_else(
    run: t.Callable[..., t.Any], tmp_path: Path
) -> None:
    """Nothing is started there anyway; an order would only lie in wait until there is such a slot again."""
    store = Store(str(tmp_path / "state"))
    for number, changes in ((3, {}), (4, {"state": ENDED}), (5, {})):
        store.create(replace(LIVE, uuid=f"u{number}", slot=f"f1-0{number}.example.org", **changes))
    [broken] = (tmp_path / "state/machines").glob("*_f1-05*")
    (broken / "machine.json").write_text("{")
    assert run("drain", "all")[1] == "By order, drained: f1-00.example.org, f1-01.example.org.\n"
    assert run("drain", "4")[1].startswith("SLOT: got '4'")
    told = "f1-00.example.org, f1-01.example.org, f1-03.example.org, f1-05.example.org"
    assert run("stop", "all")[1] == f"By order, stopped: {told}.\n", "one whose record cannot be read may run"
    store.save(replace(LIVE, uuid="u3", slot="f1-03.example.org", state=ENDED))
    assert run("drain", "3")[1] == f"By order, stopped: {told.replace(' f1-03.example.org,', '')}.\n"
    assert run("stop", "all", "--undo") == (0, "Nothing is ordered.\n")


def test_a_slot_that_is_none_is_refused(run: t.Callable[..., t.Any]) -> None:
    status, told = run("drain", "7")
    assert (status, told.partition(",")[0]) == (1, "SLOT: got '7'")

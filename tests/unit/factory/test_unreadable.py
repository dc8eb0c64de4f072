# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine whose record cannot be read may run: nobody touches it, and its slot stays taken."""

from __future__ import annotations

import asyncio
import errno
import os
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import work_space
from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.health import CRITICAL, health
from ansible_collections.hep.gridbox.plugins.module_utils.factory.image_store import Image
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import Orders
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots import Chances, Observed, Wish, filling
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable, occupying, unreadable
from ansible_collections.hep.gridbox.plugins.module_utils.factory.views import explain
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import Volume
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad, OwnMachine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space
from tests.unit.factory.reports import NOW, REPORT
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_factory import KINDS, made
from tests.unit.factory.test_mend import LIVE, RUNS

UUID = "0b0f6f4e-7a53-4a8e-9d55-0c5d3c1f6a01"
LOST = replace(LIVE, uuid=UUID)
CONTAINER = replace(RUNS, name=LOST.container_name, uuid=UUID)


def damaged(tmp_path: Path, machine: Machine = LOST) -> Path:
    """A machine that runs, whose record is none any more; its folder."""
    folder = Path(Store(str(tmp_path)).create(machine))
    (folder / "mnt/joboutputs").mkdir(parents=True)
    (folder / "machine.json").write_bytes(b"\0" * 512)
    return folder


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("9000_a_f1-00.example.org_0b0f6f4e", ("f1-00.example.org", "a", 9000, "0b0f6f4e")),
        ("9000_a_f1-00.example.org_0b0f6f4e.bak", ("", "", 0, "")),
        ("9000_a_f1-00.example.org", ("", "", 0, "")),
        ("broken", ("", "", 0, "")),
    ],
)
def test_what_the_name_of_a_folder_says(name: str, known: tuple[str, str, int, str]) -> None:
    found = unreadable(f"/state/machines/{name}", "It is none.")
    assert (found.slot, found.machinetype, found.created, found.mark) == known
    assert found.is_of(UUID) == bool(known[3])
    assert found.sentence.startswith("It is none. Its machine may run")
    assert not found.is_of("11111111-7a53-4a8e-9d55-0c5d3c1f6a01")


def test_processors_are_those_that_the_machine_was_told(tmp_path: Path) -> None:
    folder = damaged(tmp_path)
    assert unreadable(str(folder), "").own() == OwnMachine(LOST.slot, "a", 1, "unknown", 9_000, 9_000)
    (folder / "jobfeatures").mkdir()
    (folder / "jobfeatures/allocated_cpu").write_text("8")
    assert unreadable(str(folder), "").processors == 8


def test_only_the_last_machine_of_a_slot_may_be_in_it() -> None:
    lost = Unreadable("/f", "", "s1", "a", 100, "0b0f6f4e", 4)
    older, unnamed = replace(lost, created=50), Unreadable("/g", "")
    after = replace(LIVE, slot="s1", created=101, state=ENDED)
    assert occupying([older, lost, unnamed], [replace(after, created=99), replace(after, slot="s2")]) == [lost.own()]
    assert occupying([lost], [after]) == []
    assert lost.own().occupies


def test_records_that_cannot_be_read_are_told_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    folder, well = damaged(tmp_path), replace(LIVE, uuid="u2", slot="f1-01.example.org")
    store.create(well)
    machines, [found] = store.read()
    assert machines == [well]
    assert (found.folder, found.mark) == (str(folder), UUID[:8])
    monkeypatch.setattr("builtins.open", failing(str(folder)))
    machines, [found] = store.read()
    assert machines == [well]
    assert "Input/output error" in found.sentence
    last, unread = store.last([LOST.slot, well.slot])
    assert (last, unread) == ({well.slot: well}, {LOST.slot: found})


def failing(folder: str) -> t.Callable[..., t.Any]:
    """``open`` on a disk that does not give back what is in a folder."""
    well = open

    def fails(path: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
        if str(path).startswith(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return well(path, *arguments, **options)

    return fails


def test_its_work_space_is_not_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = damaged(tmp_path)
    spaces = work_space.WorkSpaces(parse({**SMALL, "state_folder": str(tmp_path), "work_space": "file"}))
    other = UUID.replace("0b0f6f4e", "11111111")
    monkeypatch.setattr(spaces._files, "find", lambda: [Volume(UUID, "v1"), Volume(other, "v2")])
    monkeypatch.setattr(spaces._logical, "find", list)
    kept = [(one.folder, one.mark) for one in Store(str(tmp_path)).read()[1]]
    assert [one.uuid for one in spaces.left_over(kept)] == [other]
    assert str(folder) in [one.folder for one in spaces.left_over([])]


def test_a_factory_leaves_it_alone_until_its_record_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    removed: list[str] = []
    there = [CONTAINER, replace(RUNS, id="c9", uuid="99999999-0", name="f1-00.example.org_99999999")]

    async def test() -> None:
        folder = damaged(tmp_path)
        factory = made(tmp_path, said, machinetypes={"a": KINDS["own"]}, slots=1, total_processors=2)
        kind = replace(factory.configuration.machinetypes[0], target_share=1.0)
        factory.catalogue, factory.images.here = Catalogue((kind,)), {kind.root_image: Image("id")}
        monkeypatch.setattr(factory.engine, "listed", lambda _unless: list(there))
        monkeypatch.setattr(factory.engine, "folder", lambda _identity: str(folder))
        monkeypatch.setattr(factory.engine, "remove", removed.append)
        factory.recover()
        assert said == ["record_unreadable"]
        assert (folder / "mnt/joboutputs").is_dir()
        await factory._look()
        await asyncio.sleep(0.1)
        assert removed == ["c9"], "a stray goes, and nothing else"

        factory._fill(HostLoad(8), int(time.time()))
        assert factory.machines == {}
        assert factory.decision is not None
        assert "slot" in factory.decision.factory

        (folder / "machine.json").write_text(LOST.as_json())  # as a disk that answers again
        await factory._look()
        assert factory.machines[UUID].state == RUNNING
        assert factory.unreadable == []
        assert "record_readable" in said
        await factory.close()
        assert removed == ["c9", "c9"]

    asyncio.run(test())


def test_what_a_person_has_moved_away_is_no_machine_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    async def test() -> None:
        folder = damaged(tmp_path)
        factory = made(tmp_path)
        factory.recover()
        monkeypatch.setattr(factory.engine, "listed", lambda _unless: [CONTAINER])
        monkeypatch.setattr(factory.engine, "folder", lambda _identity: str(folder))
        monkeypatch.setattr(factory.engine, "remove", removed.append)
        folder.rename(tmp_path / "away")
        await factory._look()
        await factory.close()
        assert factory.unreadable == []
        assert removed == [CONTAINER.id]

    asyncio.run(test())


def test_by_hand_it_is_left_alone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = damaged(tmp_path)
    hand = ByHand(parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", "factories": []}))
    monkeypatch.setattr(hand.engine, "listed", lambda: [CONTAINER])
    monkeypatch.setattr(hand.engine, "folder", lambda _identity: str(folder))
    machines, mending, unread = hand.look(10_000)
    assert (machines, mending.strays) == ([], ())
    assert hand.chances(hand.configuration.settings, machines, 10_000, unread).left_over == ()
    assert [one.folder for one in hand.chances(hand.configuration.settings, [], 10_000).left_over] == [str(folder)]


def test_by_hand_its_slot_is_not_filled(tmp_path: Path) -> None:
    wanted = {**SMALL, "slots": 1, "machinetypes": {"a": KINDS["own"]}, "state_folder": str(tmp_path)}
    configuration = parse(wanted)
    damaged(tmp_path, replace(LOST, slot=configuration.settings.slots[0]))
    kinds = configuration.machinetypes
    chances = Chances(kinds, {one.root_image: "id" for one in kinds}, Space(), HostLoad(8))
    empty = Observed(Orders(), (), 10_000, chances=chances)
    wish = Wish(configuration.settings.slots, RUNNING)
    assert len(filling(wish, configuration, empty).starts) == 1
    lost = replace(empty, unreadable=tuple(Store(str(tmp_path)).read()[1]))
    assert filling(wish, configuration, lost).starts == ()


def test_it_is_critical_and_told_with_what_to_do(tmp_path: Path) -> None:
    folder = damaged(tmp_path)
    [lost] = Store(str(tmp_path)).read()[1]
    told = replace(REPORT, records_unreadable=(lost.sentence,))
    found = health(told, NOW)
    assert found.status == CRITICAL
    for text in (found.text, explain(told)):
        assert f"{folder}/machine.json is not a machine's record" in text
        assert "move its folder away" in text

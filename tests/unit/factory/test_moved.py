# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import factory_of, parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, STARTING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.moved import check_name
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import unreadable
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_factory import made
from tests.unit.factory.test_mend import BOOT, LIVE, RUNS

OTHER = parse({**SMALL, "name": "f2.example.org"})


@pytest.mark.parametrize("name", ["f1.example.org", "f-1.example.org", "f1-00.example.org", "a.b-01.org"])
@pytest.mark.parametrize("slots", [2, 101])
def test_a_slot_says_whose_it_is(name: str, slots: int) -> None:
    found = parse({**SMALL, "name": name, "slots": slots}).settings.slots
    assert {factory_of(slot) for slot in found} == {name}


@pytest.mark.parametrize(
    ("machine", "refused"),
    [
        (LIVE, True),
        (replace(LIVE, state=STARTING, started=None, seen=None), True),
        (replace(LIVE, state=ENDED), False),
        # The host has booted since: none of them runs.
        (replace(LIVE, created=10, started=11, seen=BOOT.booted - 1), False),
        # Made before the clock was set right, which is when the host seems to have booted since.
        (replace(LIVE, created=10, started=11, seen=BOOT.booted + 1), True),
        # With fewer slots than before they are its own all the same.
        (replace(LIVE, slot="f2-77.example.org"), False),
    ],
)
def test_a_name_that_is_not_the_machines_is_refused(machine: Machine, refused: bool) -> None:
    if not refused:
        check_name(OTHER, [machine], (), BOOT)
        return
    with pytest.raises(RefusedError, match=r'f1-00\.example\.org\. .*Give "name": "f1\.example\.org"'):
        check_name(OTHER, [machine], (), BOOT)


def test_a_record_that_cannot_be_read_may_be_of_a_machine_of_another_name() -> None:
    lost = unreadable("/state/machines/9000_a_f1-00.example.org_0b0f6f4e", "It is none.")
    with pytest.raises(RefusedError, match="machines of f1"):
        check_name(OTHER, (), [lost], BOOT)
    check_name(OTHER, (), [lost], Clock("", 9_001))
    check_name(OTHER, (), [unreadable("/state/machines/broken", "It is none.")], BOOT)


def test_a_factory_of_another_name_does_not_begin_and_no_run_without_one(tmp_path: Path) -> None:
    Store(str(tmp_path)).create(replace(LIVE, seen=int(time.time())))
    wanted = {**SMALL, "state_folder": str(tmp_path), "work_space": "folder", "name": "f2.example.org"}

    async def test() -> None:
        factory = made(tmp_path, name="f2.example.org")
        with pytest.raises(RefusedError, match="machines of f1"):
            factory.recover()
        await factory.close()

    asyncio.run(test())
    with pytest.raises(RefusedError, match="machines of f1"):
        ByHand(parse(wanted)).look(int(time.time()))


def test_machines_of_another_state_folder_are_left_alone_and_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until they are gone. What is left of one that has ended goes, as all that is of no machine."""
    removed: list[str] = []
    over = replace(RUNS, id="c2", uuid="u2", name="f1-00_u2", state="exited", finished=9_500)
    found = [RUNS, over]

    def prepared(engine: t.Any, folder: str) -> None:
        monkeypatch.setattr(engine, "listed", lambda *_unless: list(found))
        monkeypatch.setattr(engine, "folder", lambda _identity: folder)
        monkeypatch.setattr(engine, "remove", removed.append)

    async def test() -> None:
        factory = made(tmp_path)
        prepared(factory.engine, "/elsewhere/machines/m")
        await factory._look()
        assert "made in the state folder /elsewhere" in factory.engine_problem
        assert RUNS.name in factory.engine_problem
        found.remove(RUNS)
        await factory._look()
        assert factory.can_tell
        found.append(RUNS)
        prepared(factory.engine, f"{tmp_path}/machines/m")
        await factory._look()
        assert factory.can_tell
        await factory.close()

    asyncio.run(test())
    assert removed == ["c2", "c2", "c1"], "of this folder's machines one that is not written down is nobody's"
    hand = ByHand(parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"}))
    prepared(hand.engine, "/elsewhere/machines/m")
    with pytest.raises(RefusedError, match="made in the state folder /elsewhere"):
        hand.look(10_000)

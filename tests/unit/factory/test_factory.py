# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import threading
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import factory as factories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, STARTING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, RUNS


def made(tmp_path: Path, said: t.Optional[list[str]] = None, **options: t.Any) -> factories.Factory:
    """A factory that has not asked its engine yet; in a loop."""
    wanted = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", **options})
    return factories.Factory(wanted, lambda event, **_facts: said.append(event) if said is not None else None)


def test_a_machine_that_ends_while_it_is_measured_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_pid: int) -> float:
        asked.set()
        assert go_on.wait(10)
        return 7.0

    monkeypatch.setattr(factories, "cpu_seconds", slow)

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines[LIVE.uuid] = LIVE
        factory._pids[LIVE.uuid] = 1
        measuring = asyncio.ensure_future(factory.measure())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        factory.machines[LIVE.uuid] = replace(LIVE, state=ENDED)
        go_on.set()
        await measuring
        assert factory.machines[LIVE.uuid].state == ENDED
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_runs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "cpu_seconds", {1: 7.9}.get)

    async def test() -> None:
        factory = made(tmp_path)
        other = replace(LIVE, uuid="u2")
        factory.machines.update({LIVE.uuid: LIVE, other.uuid: other})
        factory._pids.update({LIVE.uuid: 1, other.uuid: 2})
        await factory.measure()
        assert factory.machines[LIVE.uuid].cpu_seconds == 7
        assert factory.machines[other.uuid] == other
        await factory.close()

    asyncio.run(test())


def test_how_much_room_there_is_is_not_asked_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For LVM that is a command of up to two minutes."""
    asked: list[int] = []

    def room(*_arguments: t.Any) -> int:
        asked.append(threading.get_ident())
        return 1 << 40

    async def test() -> None:
        factory = made(tmp_path)
        monkeypatch.setattr(factory.work_spaces, "free_bytes", room)
        factory.engine_problem = ""
        factory._looked = time.time()
        factory.tick()
        factory.tick()
        await factory.close()
        assert factory.decision is None, "it is closing"
        assert len(asked) == 1
        assert threading.get_ident() not in asked

    asyncio.run(test())


def test_the_last_end_of_a_machinetype_is_kept_while_a_newer_machine_runs(tmp_path: Path) -> None:
    """It is what the other factories are told of."""
    over = replace(
        LIVE, uuid="u0", slot="f1-01.example.org", created=1, started=2, ended=100, state=ENDED, cleaned=True
    )
    older = replace(over, uuid="u3", created=2, ended=50)
    after = replace(LIVE, uuid="u2", slot="f1-01.example.org")

    async def test() -> None:
        factory = made(tmp_path)
        factory.machines = {one.uuid: one for one in (over, older, LIVE, after)}
        factory._trim()
        assert set(factory.machines) == {over.uuid, LIVE.uuid, after.uuid}
        await factory.close()

    asyncio.run(test())


def test_what_machines_that_run_may_still_write_into_a_folder_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    other = replace(LIVE, uuid="u2", slot="f1-01.example.org", processors=2)
    starting = replace(LIVE, uuid="u3", state=STARTING)

    def free(promised: int = 0) -> int:
        asked.append(promised)
        return 0

    async def test() -> None:
        factory = made(tmp_path, disk_gb_per_processor=10)
        factory.machines = {one.uuid: one for one in (LIVE, other, starting, replace(LIVE, uuid="u4", state=ENDED))}
        monkeypatch.setattr(factory.work_spaces, "free_bytes", free)
        await factory._decide()
        factory._written = {"u1": Written(0, 4 * 10**9), "u2": Written(None, 21 * 10**9)}
        await factory._decide()
        factory.configure(replace(factory.configuration, work_space="file"))
        monkeypatch.setattr(factory.work_spaces, "free_bytes", free)
        await factory._decide()
        await factory.close()

    asyncio.run(test())
    assert asked == [30 * 10**9, 6 * 10**9, 0], "of the one that starts the decision knows itself"


def test_a_machine_that_cannot_be_measured_does_not_hide_what_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    asked: list[list[str]] = []

    def written(machines: t.Sequence[Machine]) -> dict[str, Written]:
        asked.append([one.uuid for one in machines])
        if "u2" in asked[-1]:
            raise GridboxError("no answer")
        return {one.uuid: Written(5) for one in machines}

    async def test() -> None:
        factory = made(tmp_path, said)
        factory.machines = {uuid: replace(LIVE, uuid=uuid) for uuid in ("u1", "u2", "u3")}
        factory._written = {"u2": Written(4), "gone": Written(3)}
        monkeypatch.setattr(factory.life, "written", written)
        await factory._weigh_all()
        assert asked == [["u1", "u2", "u3"], ["u1"], ["u2"], ["u3"]]
        assert factory._written == {"u1": Written(5), "u2": Written(4), "u3": Written(5)}
        assert said == ["measuring_failed"]
        await factory.close()

    asyncio.run(test())


def test_a_machine_that_wrote_too_much_is_told_to_end_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = int(time.time())
    live = replace(LIVE, created=now, started=now, shutdown_time=now + 3600)

    async def test() -> None:
        factory = made(tmp_path, said, root_gb_per_processor=0.001)
        factory.engine_problem, factory._looked = "", time.time()
        monkeypatch.setattr(
            factory.life, "written",
            lambda machines: {one.uuid: Written(1000 * 1000 + (one.uuid == "u2")) for one in machines},
        )  # fmt: skip
        monkeypatch.setattr(factory, "_send_term", lambda machine: machine)
        monkeypatch.setattr(factory.engine, "container", lambda _name: RUNS)
        other = replace(live, uuid="u2", slot="f1-01.example.org")
        factory.machines = {one.uuid: one for one in (live, other)}
        for _turn in range(20):
            factory.tick()
            await asyncio.sleep(0.02)
        assert said.count("machine_told_to_end") == 1
        assert factory.machines["u2"].end_code == "disk_limit"
        assert factory.machines["u1"].told is None
        await factory.close()

    asyncio.run(test())


class Images(MachineEngine):
    """An engine that has images, by reference; of nothing else."""

    where = "unix:///e"

    def __init__(self, **here: str) -> None:
        super().__init__(self.where, "f1.example.org")
        self.here, self.asked = here, t.cast("list[str]", [])
        self.silent = False
        self.looked, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def images(self) -> dict[str, tuple[str, ...]]:
        self.looked.set()
        assert self.go_on.wait(10)
        if self.silent:
            raise EngineError("Listing images", "no answer")
        return {identity: (name,) for name, identity in self.here.items()}

    def image(self, reference: str) -> t.Optional[str]:
        return self.here.get(reference)

    def pull(self, reference: str) -> None:
        self.asked.append(f"pull {reference}")
        self.here[reference] = f"sha256:{reference}"

    def remove_image(self, name: str) -> None:
        self.asked.append(f"remove {name}")
        del self.here[name]


#: By name, machinetypes of the images of the same names.
KINDS = {name: {"root_image": f"docker://{name}", "user_data": "run", "target_share": 1.0} for name in ("own", "other")}


async def with_images(tmp_path: Path, engine: MachineEngine, said: list[str], **kinds: t.Any) -> factories.Factory:
    """A factory that knows its machinetypes, and has pulled an image ``own`` long ago."""
    factory = made(tmp_path, said, machinetypes=kinds)
    factory.engine, factory.engine_problem = engine, ""
    factory._pulled.change(lambda _kept: (PulledImage("unix:///e", "own", "sha256:own", 1),))
    await factory.read_catalogue()
    return factory


async def tidied(factory: factories.Factory) -> None:
    """Wait until the look for unwanted images is over; a factory that closes removes none any more."""
    while factory._tidying:
        await asyncio.sleep(0.01)


def test_what_the_factory_pulls_is_its_own_and_what_was_there_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Images(other="sha256:other")
        factory = await with_images(tmp_path, engine, [], **KINDS)
        factory._pull(time.time())
        await factory.close()
        assert engine.asked == ["pull own"]
        assert [(one.reference, one.wanted > 1) for one in factory._pulled.load()] == [("own", True)]

    asyncio.run(test())


def test_an_image_that_nobody_wants_is_removed_and_is_not_here_from_then_on(tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images(own="sha256:own", other="sha256:other")
        factory = await with_images(tmp_path, engine, said, other=KINDS["other"])
        factory.images = {
            "own": factories.Image("sha256:own"), "other": factories.Image("sha256:other"),
            "own@sha256:d": factories.Image("sha256:own"),
        }  # fmt: skip
        factory._tidy(time.time())
        factory._pull(time.time())
        assert not factory._pulling, "it could find the image that is going"
        await tidied(factory)
        await factory.close()
        assert (engine.asked, list(factory.images), factory._pulled.load()) == (["remove own"], ["other"], ())

    asyncio.run(test())
    assert "image_removed" in said


def test_no_image_is_removed_while_images_are_pulled(tmp_path: Path) -> None:
    async def test() -> None:
        factory = await with_images(tmp_path, Images(own="sha256:own"), [])
        factory._pulling.add("other")
        factory._tidy(time.time())
        assert not factory._tidying
        await factory.close()

    asyncio.run(test())


def test_an_image_that_is_wanted_again_meanwhile_stays(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Images(own="sha256:own")
        engine.go_on.clear()
        factory = await with_images(tmp_path, engine, [])
        factory._tidy(time.time())
        while not engine.looked.is_set():
            await asyncio.sleep(0.01)
        factory.configure(
            replace(factory.configuration, machinetypes=parse({**SMALL, "machinetypes": KINDS}).machinetypes)
        )
        engine.go_on.set()
        await tidied(factory)
        await factory.close()
        assert engine.asked == []
        assert len(factory._pulled.load()) == 1

    asyncio.run(test())


@pytest.mark.parametrize("damaged", [False, True])
def test_who_cannot_tell_removes_nothing_and_says_so(damaged: bool, tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images(own="sha256:own")
        factory = await with_images(tmp_path, engine, said)
        engine.silent = not damaged
        if damaged:
            Path(factory._pulled.path).write_text("{")
        factory._tidy(time.time())
        await tidied(factory)
        await factory.close()
        assert engine.asked == []

    asyncio.run(test())
    assert "images_not_tidied" in said


def test_a_pull_that_cannot_be_written_down_has_succeeded_all_the_same(tmp_path: Path) -> None:
    said: list[str] = []

    async def test() -> None:
        engine = Images()
        factory = await with_images(tmp_path, engine, said, own=KINDS["own"])
        Path(factory._pulled.path).write_text("{")
        factory._pull(time.time())
        await factory.close()
        assert factory.images["own"].id == "sha256:own"

    asyncio.run(test())
    assert "image_not_recorded" in said and "image_missing" not in said

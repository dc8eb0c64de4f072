# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images of a factory whose registries misbehave."""

from __future__ import annotations

import asyncio
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.image_store import PULL_NEWER, Image, ImageStore
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import MachineEngine

GOOD = "zz.example.org/good:1"


class Registries(MachineEngine):
    """An engine whose registries hang, but for that of the good image."""

    where = "unix:///e"

    def __init__(self) -> None:
        super().__init__(self.where, "f1.example.org")
        self.here: set[str] = set()
        self.over = threading.Event()

    def images(self) -> dict[str, tuple[str, ...]]:
        return {}

    def image(self, reference: str) -> t.Optional[str]:
        return "sha256:a" if reference in self.here else None

    def pull(self, reference: str) -> None:
        if reference != GOOD:
            self.over.wait(30)
            raise EngineError("Pulling", "it does not answer", 504)
        self.here.add(reference)


class Owner:
    """Of an ``ImageStore``; without a journal."""

    def say(self, _event: str, /, **_facts: t.Any) -> None:
        pass

    def changed(self) -> None:
        pass

    async def in_thread(self, work: t.Callable[..., t.Any], *arguments: t.Any) -> t.Any:
        return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)

    def spawn(self, work: t.Coroutine[t.Any, t.Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


@pytest.mark.parametrize(
    "hanging",
    [
        {f"aa.example.org/{number}:1": frozenset[str]() for number in range(20)},
        {f"a{number}.example.org/x:1": frozenset({"bad"}) for number in range(20)},
    ],
    ids=["one registry", "one pipe"],
)
def test_images_that_hang_keep_no_other_from_being_pulled(tmp_path: Path, hanging: dict[str, frozenset[str]]) -> None:
    engine = Registries()

    async def test() -> None:
        store = ImageStore(engine, str(tmp_path), Owner())
        wanted = {**hanging, GOOD: frozenset({"good"})}
        end = time.monotonic() + 20
        while store.missing([GOOD]) and time.monotonic() < end:
            store.pull(wanted, time.monotonic())
            await asyncio.sleep(0.01)
        assert not store.missing([GOOD])
        assert len(store._pulling) == 2, "the others go on"
        store.close()
        engine.over.set()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("image", "seconds"),
    [
        (Image(), 0),
        (Image(None, "No.", 1.0, 100.0, 1), 60),
        (Image(None, "No.", 1.0, 100.0, 3), 240),
        (Image("sha256:a", tried=100.0), PULL_NEWER),
        (Image("sha256:a", "No.", 1.0, 100.0, 3), PULL_NEWER),
    ],
)
def test_when_an_image_is_due(image: Image, seconds: float) -> None:
    assert image.is_due("a:1", 100.0 + seconds)
    assert seconds == 0 or not image.is_due("a:1", 99.0 + seconds)
    assert image.is_due(f"a@sha256:{'0' * 64}", 100.0 + seconds) == (image.id is None)


def test_an_image_that_fails_again_and_again_has_a_longer_pause(tmp_path: Path) -> None:
    engine = Registries()
    engine.over.set()

    async def test() -> None:
        store = ImageStore(engine, str(tmp_path), Owner())
        for failures in (1, 2, 3):
            store.pull({"a:1": frozenset()}, time.monotonic() + 3600)
            while store._pulling:
                await asyncio.sleep(0.01)
            assert store.here["a:1"].failures == failures
        store.pull({"a:1": frozenset()}, time.monotonic() + 200)
        assert not store._pulling
        store.close()

    asyncio.run(test())


class Day(Registries):
    """An engine that has all it is asked for, and whose registries move their tags with each pull.

    :ivar pulls: what was pulled.
    """

    def __init__(self, *here: str, alone: bool = False) -> None:
        super().__init__()
        self.ids = dict.fromkeys(here, "sha256:0")
        self.pulls: list[str] = []
        self.alone = alone

    def images(self) -> dict[str, tuple[str, ...]]:
        return {identity: (reference,) for reference, identity in self.ids.items()}

    def foreign_images(self) -> t.Collection[str]:
        return () if self.alone else self.images().keys()

    def image(self, reference: str) -> t.Optional[str]:
        return self.ids.get(reference)

    def pull(self, reference: str) -> None:
        self.pulls.append(reference)
        self.ids[reference] = f"sha256:{len(self.pulls)}"


def pulls(store: ImageStore, engine: Day, reference: str, days: int) -> list[str]:
    """What is pulled in so many days after the first look for an image."""

    async def test() -> list[str]:
        for day in range(days + 1):
            store.pull({reference: frozenset()}, time.monotonic() + day * (PULL_NEWER + 60))
            while store._pulling:
                await asyncio.sleep(0.01)
        assert (store.here[reference].id, store.here[reference].problem) == (engine.ids[reference], "")
        return engine.pulls

    return asyncio.run(test())


def test_an_image_that_the_factory_has_pulled_is_renewed_each_day(tmp_path: Path) -> None:
    engine = Day()
    assert pulls(ImageStore(engine, str(tmp_path), Owner()), engine, GOOD, 2) == [GOOD] * 3
    # Also by a factory that was started later.
    assert pulls(ImageStore(engine, str(tmp_path), Owner()), engine, GOOD, 1) == [GOOD] * 4


def test_an_image_that_was_here_is_the_sites_and_is_never_renewed(tmp_path: Path) -> None:
    """The factory's own bootstrap image too: no registry has it, or a wrong one."""
    engine = Day("hep.gridbox/bootstrap:1")
    assert pulls(ImageStore(engine, str(tmp_path), Owner()), engine, "hep.gridbox/bootstrap:1", 3) == []
    # Nor is one that the site has put in the place of one that the factory had pulled.
    store = ImageStore(engine, str(tmp_path), Owner())
    assert pulls(store, engine, GOOD, 0) == [GOOD]
    engine.ids[GOOD] = "sha256:site"
    assert pulls(store, engine, GOOD, 2) == [GOOD]


def test_what_only_the_factory_can_have_fetched_is_renewed(tmp_path: Path) -> None:
    """Apptainer's images, of which an earlier version has written nothing down."""
    engine = Day(GOOD, alone=True)
    assert pulls(ImageStore(engine, str(tmp_path), Owner()), engine, GOOD, 1) == [GOOD]


@pytest.mark.parametrize(
    ("now", "known"),
    [
        ({}, None),
        ({GOOD: "/cvmfs/a/v8"}, None),  # the one that it stood for may be gone
        ({GOOD: "/cvmfs/a/v7"}, "/cvmfs/a/v7"),
    ],
    ids=["removed", "another one", "the same"],
)
def test_an_image_that_is_another_one_by_now_is_looked_for_again(
    tmp_path: Path, now: dict[str, str], known: t.Optional[str]
) -> None:
    engine = Day()
    engine.ids = now
    store = ImageStore(engine, str(tmp_path), Owner())
    store.here[GOOD] = Image("/cvmfs/a/v7", tried=time.monotonic())
    asyncio.run(store.look_for(GOOD))
    assert store.here.get(GOOD, Image()).id == known
    asyncio.run(store.look_for("another:1"))


class Refusing(Day):
    """An engine that refuses an image which it had: it leads out of its repository by now."""

    def image(self, reference: str) -> t.Optional[str]:
        raise RefusedError(f"root_image: {reference}", "it leads out of /cvmfs, to /", "Name another one.")


@pytest.mark.parametrize("look", ["daily", "again"])
def test_an_image_that_is_refused_is_not_here_any_more(tmp_path: Path, look: str) -> None:
    async def test() -> None:
        store = ImageStore(Refusing(), str(tmp_path), Owner())
        store.here[GOOD] = Image("/cvmfs/a/v7", tried=time.monotonic())
        if look == "again":
            await store.look_again()
            assert store.missing([GOOD])
        store.pull({GOOD: frozenset()}, time.monotonic() + PULL_NEWER)
        while store._pulling:
            await asyncio.sleep(0.01)
        assert "leads out of /cvmfs" in store.missing([GOOD])[GOOD]

    asyncio.run(test())


def test_an_image_whose_renewal_fails_stays_here(tmp_path: Path) -> None:
    engine = Day(GOOD, alone=True)

    def refuse(reference: str) -> None:
        raise RefusedError(f"Pulling {reference}", "this host has no apptainer", "Install it.")

    engine.pull = refuse  # type: ignore[method-assign]

    async def test() -> None:
        store = ImageStore(engine, str(tmp_path), Owner())
        store.here[GOOD] = Image("sha256:0", tried=time.monotonic())
        store.pull({GOOD: frozenset()}, time.monotonic() + PULL_NEWER)
        while store._pulling:
            await asyncio.sleep(0.01)
        assert (store.here[GOOD].id, store.here[GOOD].failures) == ("sha256:0", 1)

    asyncio.run(test())

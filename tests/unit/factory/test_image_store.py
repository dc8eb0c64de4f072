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

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError
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

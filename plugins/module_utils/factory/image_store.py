# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that a factory's machines are made from: pulled before a machine needs one, removed when nobody wants it.

All is known by one thread, the loop's; whatever may wait for the engine, a disk or a registry is done in others.
"""

from __future__ import annotations

import asyncio
import math
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import unwanted_images
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.own_thread import in_own_thread
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pull_order import Wish, next_pulls, pause
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import (
    PulledImage,
    PulledImages,
    about_to,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unwanted_images import Wanted

#: Seconds: until an image that was pulled by a tag, which may have moved, is pulled again; between two looks for images
#: that nobody wants.
PULL_NEWER, TIDY = 86400, 3600


@dataclass(frozen=True)
class Image:
    """An image that machines are made from.

    :ivar id: None: it is not here.
    :ivar problem: why not, in a sentence.
    :ivar since: since when it is not.
    :ivar tried: when it was last pulled, or found, or when that failed, by :func:`time.monotonic`.
    :ivar failures: how often in a row it was to be here and is not.
    """

    id: t.Optional[str] = None
    problem: str = ""
    since: t.Optional[float] = None
    tried: float = -math.inf
    failures: int = 0

    def is_due(self, reference: str, now: float) -> bool:
        """Whether it is to be looked for now, and pulled if it is not here or may be renewed."""
        if self.id is None:
            return self.failures == 0 or now - self.tried >= pause(self.failures)
        return "@sha256:" not in reference and now - self.tried >= PULL_NEWER


class Owner(t.Protocol):
    """Whoever the images are for."""

    def say(self, event: str, /, **facts: t.Any) -> None:
        """Tell an event and its facts, for the journal."""

    def changed(self) -> None:
        """Something has changed that a decision may depend on."""

    async def in_thread(self, work: t.Callable[..., t.Any], *arguments: t.Any) -> t.Any:
        """Do something that may wait."""

    def spawn(self, work: t.Coroutine[t.Any, t.Any, None]) -> asyncio.Task[None]:
        """Have something done."""


class ImageStore:
    """The images of a factory.

    :ivar here: by reference, what is known of each that was wanted.
    :ivar pulled: what is written down of those that the factory has pulled.
    """

    def __init__(self, engine: Engine, state_folder: str, owner: Owner) -> None:
        self.engine, self.pulled = engine, PulledImages(state_folder)
        self.here: dict[str, Image] = {}
        self._owner = owner
        self._pulling: dict[Wish, asyncio.Task[None]] = {}
        self._tidied = -math.inf
        self._tidying = self._closing = False

    def missing(self, references: t.Iterable[str]) -> dict[str, str]:
        """Of these, those that are not here, and why not."""
        found = ((reference, self.here.get(reference, Image())) for reference in references)
        return {reference: image.problem for reference, image in found if image.id is None}

    def close(self) -> None:
        """Begin nothing more. A pull may take an hour, and is given up."""
        self._closing = True
        for task in self._pulling.values():
            task.cancel()

    # ---- pulls ---------------------------------------------------------------------------------------------------

    def pull(self, wanted: t.Mapping[str, frozenset[str]], now: float) -> None:
        """Have images here before a machine needs them.

        :param wanted: by reference, prefixes of the pipes that name the image; empty: the site itself does.
        """
        if self._closing or self._tidying:
            return
        known = {reference: self.here.get(reference, Image()) for reference in wanted}
        due = [
            Wish(reference, wanted[reference], image.tried)
            for reference, image in known.items()
            if image.is_due(reference, now) and all(reference != one.reference for one in self._pulling)
        ]
        for wish in next_pulls(due, self._pulling):
            self._pulling[wish] = self._owner.spawn(self._fetch(wish, known[wish.reference]))

    async def _fetch(self, wish: Wish, before: Image) -> None:
        reference, now, begun = wish.reference, time.time(), time.monotonic()
        known = before.id
        try:
            try:
                found = await self._owner.in_thread(self.engine.image, reference)
            except RefusedError:
                known = None  # nor may what it was be used any more
                raise
            # The site's own is left as it is: a registry may have nothing by its name, or another image.
            if found is None or (
                before.id is not None
                and await self._owner.in_thread(self.pulled.has_pulled, self.engine, reference, found)
            ):
                self._owner.say("image_wanted", image=reference)
                found = await self._fetch_now(reference, found)
            failures = before.failures + 1 if found is None else 0
            self.here[reference] = Image(found, "", None if found else before.since or now, begun, failures)
            self._owner.changed()
        except (GridboxError, OSError) as exc:
            failures = before.failures + 1
            self.here[reference] = Image(known, str(exc), before.since or now, time.monotonic(), failures)
            self._owner.say("image_missing", image=reference, problem=str(exc))
        finally:
            self._pulling.pop(wish, None)

    async def _fetch_now(self, reference: str, named: t.Optional[str]) -> t.Optional[str]:
        """Pull an image, and write down that it is the factory's if it was not here."""
        pull = await self._owner.in_thread(about_to, self.engine, reference, named)
        await in_own_thread(self.engine.pull, reference)
        found: t.Optional[str] = await self._owner.in_thread(self.engine.image, reference)
        self._owner.say("image_pulled", image=reference, id=found)
        try:
            await self._owner.in_thread(self.pulled.note, pull, found, int(time.time()))
        except GridboxError as exc:
            self._owner.say("image_not_recorded", image=reference, problem=str(exc))
        return found

    async def look_for(self, reference: str) -> None:
        """Forget an image that somebody has removed, or put another one in the place of, or that is refused by now, so
        that it is looked for again: a digest is not asked for twice."""
        found: t.Optional[str] = None
        try:
            found = await self._owner.in_thread(self.engine.image, reference)
        except RefusedError:
            pass  # why it is, whoever looks for it again is told
        except GridboxError:
            return  # nobody can tell, so it may be here
        known = self.here.get(reference)
        if known is not None and (found is None or known.id != found):
            del self.here[reference]

    async def look_again(self) -> None:
        """The same for all that are here."""
        for reference in [reference for reference, image in self.here.items() if image.id is not None]:
            await self.look_for(reference)

    # ---- images that nobody wants --------------------------------------------------------------------------------

    def tidy(self, wanted: t.Callable[[], t.Optional[Wanted]], days: t.Callable[[], int], now: float) -> None:
        """Have an image removed that nobody wants; not while images are pulled: a pull could find one that is going.

        :param wanted: what is wanted when it is called; None: nobody can tell.
        :param days: for how long nobody has wanted it by then, when it is called; 0: none goes.
        """
        if self._closing or self._tidying or self._pulling or now - self._tidied < TIDY:
            return
        self._tidied, self._tidying = now, True
        self._owner.spawn(self._remove_unwanted(wanted, days))

    async def _remove_unwanted(self, now_wanted: t.Callable[[], t.Optional[Wanted]], days: t.Callable[[], int]) -> None:
        """Write down which images are wanted, and remove one that has not been for long; the others one after it."""
        wanted, now = now_wanted(), int(time.time())
        try:
            kept, seen = await self._owner.in_thread(unwanted_images.survey, self.engine, self.pulled, wanted, now)
            image = unwanted_images.next_to_go(kept, seen, wanted, now, days())
            if image is None:
                return
            self._tidied = -math.inf
            if now_wanted() == wanted and not self._closing:  # else it may be this one that is wanted now
                await self._remove(image, unwanted_images.name_of(image, seen), now)
        except (GridboxError, OSError) as exc:
            self._tidied = time.monotonic()
            self._owner.say("images_not_tidied", problem=str(exc))
        finally:
            self._tidying = False

    async def _remove(self, image: PulledImage, name: str, now: int) -> None:
        # From this moment on it is not here: who wants it again waits until it is pulled.
        self.here = {reference: one for reference, one in self.here.items() if reference != name and one.id != image.id}
        problem = await self._owner.in_thread(unwanted_images.remove, self.engine, self.pulled, image, name, now)
        facts = {"image": image.reference, "id": image.id, "wanted": image.wanted}
        if problem:
            self._owner.say("image_not_removed", problem=problem, **facts)
        else:
            self._owner.say("image_removed", **facts)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that a factory has pulled and nobody wants any more: which they are, and how they go.

Only what the factory has pulled itself may go (``pulled_images.py``). Who cannot tell whether an image is wanted takes
it for wanted; who cannot ask the engine removes nothing.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage, PulledImages

DAY = 86400


@dataclass(frozen=True)
class Wanted:
    """References of images that are wanted.

    :ivar machinetypes: by machinetypes: what the reference is now.
    :ivar machines: by machines that are not cleaned away: whatever the reference was when they were made.
    """

    machinetypes: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()

    @property
    def all(self) -> frozenset[str]:
        """All of them."""
        return self.machinetypes | self.machines


@dataclass(frozen=True)
class Seen:
    """The images that an engine has.

    :ivar engine: where it has them.
    :ivar tags: by id, the tags that name an image.
    :ivar named: by reference that is fetched, what it is; None: it is not here.
    """

    engine: str
    tags: t.Mapping[str, t.Collection[str]]
    named: t.Mapping[str, t.Optional[str]]


def wanted(configuration: Configuration, found: Catalogue, machines: t.Iterable[Machine]) -> t.Optional[Wanted]:
    """What is wanted; None: nobody can tell, for a pipe could not be read, and there is no copy of it. Pure.

    A pipe of which there is a copy wants what the copy says. A machinetype without a share counts: it may get one.
    """
    for source in configuration.pipes:
        state = found.pipes.get(source.section.prefix)
        if state is None or state.pipe is None:
            return None
    kinds = (*found.machinetypes, *configuration.machinetypes)
    return Wanted(
        frozenset(one.root_image for one in kinds), frozenset(one.root_image for one in machines if not one.cleaned)
    )


def refreshed(
    kept: tuple[PulledImage, ...], seen: Seen, wanted: t.Optional[Wanted], now: int
) -> tuple[PulledImage, ...]:
    """What is written down from now on: what is wanted now, and no image that somebody else has removed. Pure."""
    return tuple(
        replace(one, wanted=now) if one.engine == seen.engine and _is_wanted(one, seen, wanted) else one
        for one in kept
        if one.engine != seen.engine or one.id in seen.tags
    )


def _is_wanted(image: PulledImage, seen: Seen, wanted: t.Optional[Wanted]) -> bool:
    """An image of which the tag has moved is wanted by no machinetype any more, but by machines made from it."""
    if wanted is None or image.reference in wanted.machines:
        return True
    return image.id in {seen.named.get(reference) for reference in wanted.all}


def next_to_go(
    kept: t.Iterable[PulledImage], seen: Seen, wanted: t.Optional[Wanted], now: int, days: int
) -> t.Optional[PulledImage]:
    """The image that goes next, of those that were not wanted for so many days; None: none goes. Pure.

    :param kept: what is written down, refreshed.
    :param days: 0: none goes ever.
    """
    due = [
        one
        for one in kept
        if days > 0
        and now - one.wanted >= days * DAY
        and now - one.tried >= DAY
        and not _is_wanted(one, seen, wanted)
        and name_of(one, seen)
    ]
    return min(due, key=lambda one: (one.wanted, one.reference, one.id), default=None)


def name_of(image: PulledImage, seen: Seen) -> str:
    """By what an image is removed; empty: it is not, for only others name it, or it is gone. Pure.

    The reference: an image that others have tagged stays theirs then. If that is another image now, what was pulled has
    no name of the factory's any more, and is removed by its id if it has none at all.
    """
    if image.engine != seen.engine or image.id not in seen.tags:
        return ""
    if seen.named.get(image.reference) == image.id:
        return image.reference
    return "" if seen.tags[image.id] else image.id


# ---- the engine ----------------------------------------------------------------------------------------------------


def look(engine: Engine, kept: t.Iterable[PulledImage], wanted: t.Optional[Wanted] = None) -> Seen:
    """The images that an engine has, and what is known by these names.

    :raises EngineError: if it does not answer.
    """
    references = {one.reference for one in kept} | (wanted.all if wanted is not None else frozenset())
    fetched = sorted(one for one in references if engine.fetches(one))
    return Seen(engine.where, engine.images(), {one: engine.image(one) for one in fetched})


def survey(
    engine: Engine, images: PulledImages, wanted: t.Optional[Wanted], now: int
) -> tuple[tuple[PulledImage, ...], Seen]:
    """Look which images there are, and write down which are wanted now.

    :returns: what is written down, and what was seen.
    :raises GridboxError: if the engine does not answer, or the file cannot be used.
    """
    seen = look(engine, images.load(), wanted)
    return images.change(lambda kept: refreshed(kept, seen, wanted, now)), seen


def remove(engine: Engine, images: PulledImages, image: PulledImage, name: str, now: int) -> str:
    """Remove an image without force, and write down what has become of it.

    :param name: see :func:`name_of`.
    :returns: why the engine has refused to, for instance because a container uses it; empty: it is gone.
    :raises EngineError: if the engine does not answer.
    """
    try:
        engine.remove_image(name)
    except EngineError as exc:
        if exc.status is None:
            raise
        images.change(lambda kept: tuple(replace(one, tried=now) if one.is_same(image) else one for one in kept))
        return str(exc)
    images.change(lambda kept: tuple(one for one in kept if not one.is_same(image)))
    return ""

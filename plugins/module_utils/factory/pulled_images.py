# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which images a factory has pulled itself, in a file of its state folder.

An image that was on the host before the factory asked for it is never in there: it is the site's, and is neither
removed nor renewed. A factory that is killed between a pull and this file forgets that the image is its own: the image
stays as it is then, which costs room, and nobody an image.
"""

from __future__ import annotations

import json
import os
import threading
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.json_types import read
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically

FILE = "pulled-images.json"

_MODE = 0o644


@dataclass(frozen=True)
class PulledImage:
    """An image that the factory has pulled. Times are Unix seconds.

    :ivar engine: where the engine listens that has it, for Apptainer the folder: another one may have the same image
        from somebody else.
    :ivar reference: what was asked for.
    :ivar id: what that was then; a tag may have moved since.
    :ivar wanted: when it was last known to be wanted.
    :ivar tried: when the engine last refused to remove it; 0: it never did.
    """

    engine: str
    reference: str
    id: str
    wanted: int
    tried: int = 0

    def is_same(self, other: PulledImage) -> bool:
        """Whether the other is this one, at another time."""
        return (self.engine, self.reference, self.id) == (other.engine, other.reference, other.id)


@dataclass(frozen=True)
class _Content:
    """The file's."""

    images: tuple[PulledImage, ...] = ()


@dataclass(frozen=True)
class Pull:
    """A pull.

    :ivar before: what the reference was before it; None: nothing.
    :ivar there: ids of all images that the engine had before it and that may be somebody else's.
    :ivar id: what the reference is after it; empty: it has not been done yet.
    """

    engine: str
    reference: str
    before: t.Optional[str]
    there: t.Collection[str]
    id: str = ""


def about_to(engine: Engine, reference: str, named: t.Optional[str]) -> t.Optional[Pull]:
    """A pull that is about to be done; None: nothing is written down of it, for nothing is fetched.

    :param named: what the reference is now; None: nothing.
    :raises EngineError: if the engine does not answer.
    """
    if not engine.fetches(reference):
        return None
    return Pull(engine.where, reference, named, engine.foreign_images())


def noted(kept: tuple[PulledImage, ...], pull: Pull, now: int) -> tuple[PulledImage, ...]:
    """What is written down after a pull. Pure.

    The image is the factory's if it was not on the host. If it was, it is the factory's under this name only if the
    name was not there, and the factory has it under another already.
    """
    names = {one.reference for one in kept if (one.engine, one.id) == (pull.engine, pull.id)}
    is_own = pull.id not in pull.there or pull.reference in names or (bool(names) and pull.before is None)
    if not is_own:
        return kept
    new = PulledImage(pull.engine, pull.reference, pull.id, now)
    return (*(one for one in kept if not one.is_same(new)), new)


class PulledImages:
    """The file. For several threads of one process; the factory's lock keeps others away.

    :param state_folder: the factory's.
    """

    def __init__(self, state_folder: str) -> None:
        self.path = os.path.join(state_folder, FILE)
        self._lock = threading.Lock()

    def load(self) -> tuple[PulledImage, ...]:
        """What is written down.

        :raises GridboxError: if that cannot be told: then no image is known to be the factory's.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                return t.cast(_Content, read(_Content, json.load(file))).images
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise GridboxError(f"{self.path} cannot be read ({exc.strerror}).") from exc
        except (ValueError, TypeError, RecursionError) as exc:
            remedy = "Look what it is, and move it away; images that it named have to be removed by hand then."
            raise GridboxError(f"{self.path} does not tell which images were pulled ({exc}). {remedy}") from exc

    def has_pulled(self, engine: Engine, reference: str, identity: str) -> bool:
        """Whether the factory has pulled what a reference is now.

        :raises GridboxError: if that cannot be told, or the engine does not answer.
        """
        if not engine.fetches(reference):
            return False
        known = ((one.engine, one.reference, one.id) for one in self.load())
        return (engine.where, reference, identity) in known or identity not in engine.foreign_images()

    def note(self, pull: t.Optional[Pull], identity: t.Optional[str], now: int) -> None:
        """Write down what was pulled, if it is the factory's.

        :param pull: see :func:`about_to`.
        :param identity: what the reference is after it; None: nothing.
        :raises GridboxError: if it cannot be.
        """
        if pull is not None and identity is not None:
            done = replace(pull, id=identity)
            self.change(lambda kept: noted(kept, done, now))

    def change(
        self, changed: t.Callable[[tuple[PulledImage, ...]], tuple[PulledImage, ...]]
    ) -> tuple[PulledImage, ...]:
        """Write down something else; nothing is written where nothing changes.

        :param changed: makes what is to be written down from what is.
        :returns: what is written down now.
        :raises GridboxError: if it cannot be read, or written.
        """
        with self._lock:
            before = self.load()
            after = changed(before)
            if after == before:
                return after
            try:
                os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
                write_atomically(self.path, (json.dumps(asdict(_Content(after)), indent=1) + "\n").encode(), _MODE)
            except OSError as exc:
                raise GridboxError(f"{self.path} cannot be written ({exc.strerror}).") from exc
            return after

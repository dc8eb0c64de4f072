# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machinetypes a factory has: the operator's own, and those of its pipes, however these are doing.

What the operator says of a machinetype that a pipe brings is part of how the pipe is read (``Section.machinetypes``).
What he says of one that has a pipe's prefix, and that the pipe does not bring, makes a machinetype by itself if it is
complete, as Vac has it; but only once the pipe has been read: before, nobody can tell.
"""

from __future__ import annotations

import os
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import (
    Configuration,
    Override,
    PipeSource,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import folder_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import Pipe
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_source import from_copy, from_path, from_url
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings

#: Pipes that are read at a time.
_AT_ONCE = 8


@dataclass(frozen=True)
class PipeState:
    """A pipe, as a factory has it.

    :ivar pipe: None: it has never been read.
    :ivar problem: what is wrong now, in a sentence; empty: nothing.
    :ivar source: what it was read from, and what the site said of it then.
    :ivar awaited: of one that is being read for the first time, Unix s: since when.
    """

    pipe: t.Optional[Pipe] = None
    fetched_at: t.Optional[float] = None
    problem: str = ""
    source: t.Optional[PipeSource] = None
    awaited: t.Optional[float] = None


@dataclass(frozen=True)
class Catalogue:
    """What a factory may start.

    :ivar machinetypes: each by another name; what the operator says of one precedes what a pipe does (spec 2.4).
    :ivar pipes: by prefix.
    :ivar not_brought: what the operator says of machinetypes that their pipes do not bring, and that makes none.
    """

    machinetypes: tuple[Machinetype, ...] = ()
    pipes: t.Mapping[str, PipeState] = field(default_factory=dict)
    not_brought: tuple[Override, ...] = ()


def meant(found: Catalogue, settings: FactorySettings) -> list[Machinetype]:
    """Machinetypes that machines may be made of: those with a share, and those that were ordered for a slot."""
    ordered = {one.machinetype for one in settings.forced.values()}
    return [one for one in found.machinetypes if one.target_share > 0 or one.name in ordered]


def images(found: Catalogue, kinds: t.Iterable[Machinetype]) -> dict[str, frozenset[str]]:
    """By reference, prefixes of pipes that name an image in these machinetypes; none: the site itself does. Pure."""
    owners = {
        one.name: prefix for prefix, state in found.pipes.items() if state.pipe for one in state.pipe.machinetypes
    }
    named: dict[str, set[str]] = {}
    for kind in kinds:
        named.setdefault(kind.root_image, set()).add(owners.get(kind.name, ""))
    return {reference: frozenset() if "" in pipes else frozenset(pipes) for reference, pipes in named.items()}


def news(
    before: t.Mapping[str, PipeState], after: t.Mapping[str, PipeState]
) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    """What the journal is told of pipes: events, with their facts. Pure."""
    for prefix, now in after.items():
        then = before.get(prefix, PipeState())
        if bool(now.problem) != bool(then.problem):
            yield "pipe", {"name": prefix, "ok": not now.problem, "problem": now.problem}
        known = {one.sentence for one in then.pipe.dropped} if then.pipe is not None else set()
        for one in now.pipe.dropped if now.pipe is not None else ():
            if one.sentence not in known:
                yield "machinetype_dropped", {"pipe": prefix, "problem": one.sentence}


def problems(found: Catalogue) -> list[str]:
    """What is wrong with pipes and what they bring, and costs machinetypes that have a share: a sentence each. Pure."""
    told = []
    for prefix, state in found.pipes.items():
        if state.problem:
            told.append(state.problem if state.pipe is not None else f"The vacuum pipe {prefix}: {state.problem}")
        told += [one.sentence for one in state.pipe.dropped if one.has_share] if state.pipe is not None else []
    return told + [one.sentence for one in found.not_brought]


def read(configuration: Configuration, before: t.Mapping[str, PipeState], keep: bool = True) -> Catalogue:
    """Read what the configuration names. A pipe that cannot be read costs its own machinetypes only.

    :param before: pipes as they were: one that was read and is gone stays as it was, if it is to be the same.
    :param keep: False: copies of pipes are not written.
    """
    prefixes = [source.section.prefix for source in configuration.pipes]
    # All at once: where the way out of the site is down, each of them takes as long as it may.
    with ThreadPoolExecutor(_AT_ONCE, "gridbox-pipe") as pool:
        was = (before.get(prefix, PipeState()) for prefix in prefixes)
        pipes = dict(zip(prefixes, pool.map(partial(_read, configuration, keep), configuration.pipes, was)))
    return _of(configuration, pipes)


def made_from(configuration: Configuration) -> tuple[object, ...]:
    """All of a configuration that a catalogue depends on: an order changes none of it. Pure."""
    return configuration.machinetypes, configuration.overrides, configuration.pipes, configuration.ca_path


def at_hand(configuration: Configuration, before: t.Mapping[str, PipeState], now: float) -> Catalogue:
    """What is known of what the configuration names before its pipes are read; no server is asked, nor a file that may
    be on one. Nothing is in it that the configuration does not want, or wants to be another way.

    :param before: pipes as they were.
    """
    return _of(
        configuration,
        {
            source.section.prefix: _at_hand(configuration, source, before.get(source.section.prefix), now)
            for source in configuration.pipes
        },
    )


def _at_hand(configuration: Configuration, source: PipeSource, before: t.Optional[PipeState], now: float) -> PipeState:
    if before is not None and before.source == source:
        return before
    copy = from_copy(source.url or source.path, source.section, _copies(configuration))
    if copy is None:
        return PipeState(source=source, awaited=now)
    return PipeState(copy.pipe, copy.fetched_at, "", source)  # whether the source is down the reading will tell


def _copies(configuration: Configuration) -> str:
    return os.path.join(configuration.state_folder, "pipes")


def _of(configuration: Configuration, pipes: t.Mapping[str, PipeState]) -> Catalogue:
    found = {one.name: one for state in pipes.values() if state.pipe for one in state.pipe.machinetypes}
    found.update({one.name: one for one in configuration.machinetypes})
    not_brought = [one for one in configuration.overrides if _is_not_brought(one, pipes)]
    found.update({one.name: one.alone for one in not_brought if isinstance(one.alone, Machinetype)})
    return Catalogue(
        tuple(_placed(found[name], configuration) for name in sorted(found)), pipes,
        tuple(one for one in not_brought if not isinstance(one.alone, Machinetype)),
    )  # fmt: skip


def _is_not_brought(override: Override, pipes: t.Mapping[str, PipeState]) -> bool:
    pipe = pipes[override.prefix].pipe
    return pipe is not None and override.name not in pipe.names


def _placed(machinetype: Machinetype, configuration: Configuration) -> Machinetype:
    """An image that is a file of the site's, by its path."""
    image = machinetype.root_image
    if machinetype.machine_model != "apptainer" or "/" in image:
        return machinetype
    path = os.path.join(os.path.realpath(folder_of(machinetype, configuration)), "files", image)
    return replace(machinetype, root_image=path)


def _read(configuration: Configuration, keep: bool, source: PipeSource, before: PipeState) -> PipeState:
    try:
        copies = _copies(configuration)
        if source.path:
            reading = from_path(source.path, source.section, copies, keep=keep)
        else:
            reading = from_url(source.url, source.section, Transfer(configuration.ca_path), copies, keep=keep)
    except (GridboxError, OSError) as exc:
        known = before if before.source == source else PipeState()
        return PipeState(known.pipe, known.fetched_at, str(exc), source)
    return PipeState(reading.pipe, reading.fetched_at, " ".join(reading.problems), source)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of which machinetypes a factory can make machines now, and why not of each of the others. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Unstartable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    DROPPED,
    NO_IMAGE,
    NO_REPOSITORY,
    NO_SHARE,
    NOT_BROUGHT,
    NOT_HERE,
    PIPE_UNREAD,
    FactorySettings,
    Refusal,
)


def startable(
    found: Catalogue,
    configuration: Configuration,
    settings: FactorySettings,
    cvmfs: t.Mapping[str, Finding],
    missing: t.Mapping[str, str],
) -> tuple[list[Machinetype], list[Unstartable]]:
    """All that a factory knows: those of which machines can be made, and the others.

    :param settings: with the orders over them: what is ordered for a slot needs no share.
    :param cvmfs: repositories that were looked into.
    :param missing: by reference, images that are not here, with what is wrong; empty: nothing has gone wrong.
    """
    ordered = {one.machinetype for one in settings.forced.values()}
    can: list[Machinetype] = []
    cannot: list[Unstartable] = []
    for one in found.machinetypes:
        why = _lacks(one, cvmfs, missing)
        if one.machine_model not in configuration.models:
            engine = " or ".join(configuration.models) if configuration.engine == "auto" else configuration.engine
            text = f"not for this factory: machine_model {one.machine_model}, the engine is {engine}"
            why = Refusal(NOT_HERE, text)
        elif why is not None and one.target_share <= 0 and one.name not in ordered:
            why = Refusal(NO_SHARE, "no share: its target_share is 0")
        if why is None:
            can.append(one)
        else:
            cannot.append(Unstartable(one.name, one.target_share, why, one.group))
    return can, sorted([*cannot, *_none(found, configuration)], key=lambda one: one.machinetype)


def _lacks(
    machinetype: Machinetype, cvmfs: t.Mapping[str, Finding], missing: t.Mapping[str, str]
) -> t.Optional[Refusal]:
    """What is not here that its machines need."""
    for name in machinetype.repositories:
        seen = cvmfs.get(name)
        if seen is None:
            return Refusal(NO_REPOSITORY, f"not now: nobody has looked into the CVMFS repository {name} yet")
        if not seen.ok:
            text = f"not now: the CVMFS repository {name} does not answer: {_bare(seen.problem)}"
            return Refusal(NO_REPOSITORY, text)
    problem = missing.get(machinetype.root_image)
    if problem is None:
        return None
    return Refusal(NO_IMAGE, f"not now: its image is not here yet{': ' * bool(problem)}{_bare(problem)}")


def _none(found: Catalogue, configuration: Configuration) -> t.Iterator[Unstartable]:
    """What stands in a pipe or in the configuration, and makes no machinetype here."""
    for state in found.pipes.values():
        if state.pipe is None:
            continue
        for away in state.pipe.not_here:
            yield Unstartable(away.name, away.target_share, Refusal(NOT_HERE, _without_name(away.name, away.reason)))
        for bad in state.pipe.dropped:
            yield Unstartable(bad.name, bad.target_share, Refusal(DROPPED, _without_name(bad.name, bad.sentence)))
    for one in configuration.overrides:
        share = one.values.get("target_share")
        source = found.pipes.get(one.prefix)
        if source is None or source.pipe is None:
            text = f"not now: its vacuum pipe {one.prefix} has never been read"
            yield Unstartable(one.name, share, Refusal(PIPE_UNREAD, text))
        elif one in found.not_brought:
            yield Unstartable(one.name, share, Refusal(NOT_BROUGHT, _without_name(one.name, one.sentence)))


def _without_name(name: str, sentence: str) -> str:
    """What a sentence that begins with a name says of it."""
    return _bare(sentence[len(f"{name} is ") :])


def _bare(sentence: str) -> str:
    """A sentence as the end of another one."""
    return sentence.rstrip(". ")

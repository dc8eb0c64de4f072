# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines that a factory would not know for its own, since its name or its state folder is another one than theirs.

Containers are found by the factory's name, and known by the records in its state folder. Of machines of another name
it would take the containers for removed, and of another state folder the machines for nobody's: it would kill them.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, factory_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import Report

#: Machines that are named in a sentence.
_SOME = 5


def check_name(
    configuration: Configuration, machines: t.Iterable[Machine], unread: t.Iterable[Unreadable], clock: Clock
) -> None:
    """Refuse a name that is not the one of machines that may run. Pure.

    :param machines: all that are written down, as they were last seen.
    :param clock: the host's: no machine outlives a boot.
    :raises RefusedError: naming them, and the name that they have.
    """
    name = configuration.settings.name
    live = [one.slot for one in machines if one.state != ENDED and not one.is_of_another_boot(clock)]
    live += [one.slot for one in unread if one.slot and one.created >= clock.booted]
    others = sorted(slot for slot in live if factory_of(slot) != name)
    if others:
        theirs = factory_of(others[0])
        raise RefusedError(
            f"name: {name}",
            f"machines of {theirs} may run, and the factory would not know them any more: {_told(others)}",
            f"Nothing was touched. {_to_have(theirs)}",
        )


def check_daemon(configuration: Configuration, told: Report) -> None:
    """Refuse a name that is not the one of the daemon that works: it would read what is ordered, and have other slots.
    Pure.

    :param told: its report.
    :raises RefusedError: naming both.
    """
    name = configuration.settings.name
    if told.name != name:
        raise RefusedError(
            f"name: {name}",
            f"the daemon works under the name {told.name}, and its slots and machines have that one",
            _to_have(told.name),
        )


def check_folder(configuration: Configuration, engine: Engine, strays: t.Iterable[Container]) -> None:
    """Refuse a state folder that is not the one in which machines that run are written down.

    :param strays: containers of the factory's name that run, of machines that are not written down here.
    :raises RefusedError: naming them, and their state folder.
    :raises EngineError: if the engine does not answer.
    """
    here = os.path.realpath(configuration.state_folder)
    found: dict[str, list[str]] = {}
    for one in strays:
        folder = engine.folder(one.id)
        # STATE_FOLDER/machines/NAME
        theirs = os.path.dirname(os.path.dirname(os.path.realpath(folder))) if folder else here
        if theirs != here:
            found.setdefault(theirs, []).append(one.name)
    for theirs, names in found.items():
        raise RefusedError(
            f"state_folder: {configuration.state_folder}",
            f"machines run that this factory has made in the state folder {theirs}, and it would not know them any"
            f" more: {_told(names)}",
            f"Nothing is started, and nothing ended, until they are gone. Give {theirs} as state_folder again and"
            " restart the factory, or end these containers yourself.",
        )


def _to_have(name: str) -> str:
    """What to do where machines have another name than the configuration.

    :param name: theirs.
    """
    return (
        f'Give "name": "{name}" in the configuration. To have another name, drain the factory first ("draining": true),'
        " and restart it when they have ended."
    )


def _told(names: t.Sequence[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return f"{', '.join(names[:_SOME])}{more}"

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The factories of a space, asked by whoever knows them: by a factory's configuration, by its report, by name."""

from __future__ import annotations

import asyncio
import os
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, peers_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import MachinetypeStatus, Reply
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import PORT, Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import (
    ANSWERED,
    SILENT,
    Budget,
    Outcome,
    Result,
    poll,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import load_key
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import PeerUsage

_FACTORY, _MACHINETYPES = "factory_query", "machinetypes_query"


@dataclass(frozen=True)
class Known:
    """What somebody who has no factory's configuration knows of a space.

    :ivar factories: those that he can ask.
    """

    space: str
    factories: tuple[Peer, ...] = ()
    key_file: str = ""


def own(configuration: Configuration) -> Peer:
    """The factory itself, which is asked on the loopback."""
    return Peer(configuration.settings.name, "127.0.0.1", configuration.port, configuration.signed_only)


def of(configuration: Configuration) -> Known:
    """A space, as a configuration has it. On a host that is no factory the configuration tells of others only: the host
    is not among them, and no daemon has ever worked there."""
    itself = own(configuration)
    listed = itself.factory in [one.factory for one in configuration.factories]
    has_worked = os.path.exists(os.path.join(configuration.state_folder, report.NAME))
    here = (itself,) if listed or has_worked or not configuration.others else ()
    return Known(configuration.space, (*here, *configuration.others), configuration.key_file)


def ask(
    known: t.Union[Known, Configuration], queries: t.Sequence[str], wanted: t.Iterable[Peer], seconds: float
) -> dict[str, list[Outcome]]:
    """Ask factories, all questions at once. Waits for at most so many seconds.

    One that sends no machinetypes and answers for itself has none: by the protocol there is nothing to send then.

    :param queries: of ``messages.QUERIES``.
    :returns: by query, what came of each factory.
    :raises GridboxError: if the key cannot be read, or this host has no UDP.
    """
    # Only root can read the key; others ask as a real Vac does.
    if any(one.signed for one in known.factories) and os.geteuid() != 0:
        found = "signed_only is true in the configuration, and only root can read the key that they are signed with"
        raise RefusedError("Asking the factories of the space", found, "Ask as root.")
    key = load_key(known.key_file) if known.key_file and os.geteuid() == 0 else None
    asked, resolver = tuple(wanted), Resolver()
    polled = dict.fromkeys((*queries, _FACTORY) if _MACHINETYPES in queries else queries)

    async def all_of_them() -> list[Result]:
        polls = (
            poll(query, known.space, asked, resolver, budget=Budget(seconds), key=key, version=PRODUCT)
            for query in polled
        )
        return await asyncio.gather(*polls)

    results = asyncio.run(all_of_them())
    told = {query: list(result.outcomes.values()) for query, result in zip(polled, results)}
    if _MACHINETYPES in told:
        there = {one.factory for one in told[_FACTORY] if one.state == ANSWERED}
        told[_MACHINETYPES] = [
            replace(one, state=ANSWERED, since=None) if one.state == SILENT and one.factory in there else one
            for one in told[_MACHINETYPES]
        ]
    return {query: told[query] for query in queries}


class Usages:
    """What factories say of machinetypes, for decisions: little of each reply, and what many say alike once."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], PeerUsage] = {}
        self._texts: dict[str, str] = {}

    def add(self, reply: Reply) -> None:
        """Take in what one says; a later reply about the same machinetype counts."""
        status = reply.status
        if isinstance(status, MachinetypeStatus):
            one = PeerUsage(
                self._once(reply.envelope.factory.lower()), self._once(status.machinetype), float(status.running_hs06),
                float(status.running_processors or 0), status.num_before_fizzle,
                status.shutdown_message and self._once(status.shutdown_message), status.shutdown_time,
            )  # fmt: skip
            self._said[one.factory, one.machinetype] = one

    def __iter__(self) -> t.Iterator[PeerUsage]:
        return iter(self._said.values())

    def _once(self, text: str) -> str:
        return self._texts.setdefault(text, text)


def usages(outcomes: t.Iterable[Outcome]) -> Usages:
    """What is in their replies, for decisions."""
    said = Usages()
    for reply in (reply for one in outcomes for reply in one.replies):
        said.add(reply)
    return said


def named(known: Known, only: t.Sequence[str]) -> list[Peer]:
    """Factories of the space by their names, with or without the domain.

    :param only: empty: all.
    :raises GridboxError: if there is none of them.
    """
    found = {one.factory: one for one in known.factories}
    wanted = [peer for name, peer in found.items() if not only or name in only or name.partition(".")[0] in only]
    if not wanted:
        raise GridboxError(
            f"No factory of the space is called {', '.join(only)}. There are {', '.join(sorted(found))}."
        )
    return wanted


def given(space: str, factories: t.Sequence[str]) -> Known:
    """A space that somebody names, with the factories that are to be asked.

    :param factories: ``FQDN`` or ``FQDN:PORT`` each.
    :raises InputError: if there is none, or one is no factory's name.
    """
    expected = "the FQDNs of the factories to ask, with :PORT behind where it is another one than 995"
    if not factories:
        raise InputError("FACTORY", "", expected)
    found: list[Peer] = []
    for text in factories:
        name, colon, port = text.lower().partition(":")
        try:
            found += peers_of([{"factory": name, "port": int(port) if colon else PORT}])
        except (ValueError, InputError):
            raise InputError("FACTORY", text, expected) from None
    return Known(space, tuple(dict.fromkeys(found)))

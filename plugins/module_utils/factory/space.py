# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The factories of a space, asked by whoever has a factory's configuration."""

from __future__ import annotations

import asyncio
import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import MachinetypeStatus
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Budget, Outcome, Result, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import load_key
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import PeerUsage


def peers(configuration: Configuration) -> dict[str, Peer]:
    """The factories of the space by name; this one is asked on the loopback."""
    own = configuration.settings.name
    found = {own: Peer(own, "127.0.0.1", configuration.port)}
    found.update({one.factory: one for one in configuration.others})
    return found


def ask(
    configuration: Configuration, queries: t.Sequence[str], wanted: t.Iterable[Peer], seconds: float
) -> dict[str, list[Outcome]]:
    """Ask factories, all questions at once. Waits for at most so many seconds.

    :param queries: of ``messages.QUERIES``.
    :returns: by query, what came of each factory.
    :raises GridboxError: if the key cannot be read, or this host has no UDP.
    """
    # Only root can read the key; others ask as a real Vac does.
    key = load_key(configuration.key_file) if configuration.key_file and os.geteuid() == 0 else None
    asked, resolver = tuple(wanted), Resolver()

    async def all_of_them() -> list[Result]:
        polls = (
            poll(query, configuration.space, asked, resolver, budget=Budget(seconds), key=key, version=PRODUCT)
            for query in queries
        )
        return await asyncio.gather(*polls)

    results = asyncio.run(all_of_them())
    return {query: list(result.outcomes.values()) for query, result in zip(queries, results)}


def usages(outcomes: t.Iterable[Outcome]) -> list[PeerUsage]:
    """What the factories say of machinetypes, for decisions."""
    return [
        PeerUsage(
            one.factory, reply.status.machinetype, float(reply.status.running_hs06),
            float(reply.status.running_processors or 0), reply.status.num_before_fizzle,
            reply.status.shutdown_message, reply.status.shutdown_time,
        )
        for one in outcomes
        for reply in one.replies
        if isinstance(reply.status, MachinetypeStatus)
    ]  # fmt: skip


def named(configuration: Configuration, only: t.Sequence[str]) -> list[Peer]:
    """Factories of the space by their names, with or without the domain.

    :param only: empty: all.
    :raises GridboxError: if there is none of them.
    """
    found = peers(configuration)
    wanted = [peer for name, peer in found.items() if not only or name in only or name.partition(".")[0] in only]
    if not wanted:
        raise GridboxError(
            f"No factory of the space is called {', '.join(only)}. There are {', '.join(sorted(found))}."
        )
    return wanted

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every machinetype has of the space, and its newest abort: all peers' answers and the own machines, summed. Pure.

The answers are summed once (:func:`of_space`), when they are there; each decision adds the own machines
(:func:`with_own`), which change in between. 1,000 factories with 20 machinetypes are 20,000 answers.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.history import histories
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import is_abort, outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    OwnMachine,
    PeerUsage,
)

#: Seconds that an abort may lie in the future. One further ahead is a wrong clock or a lie and is not taken: with Vac
#: one such answer stopped a machinetype in the whole space for as long as it lay ahead (spec 9.1, item 6). Likewise
#: what was noted here before the own clock was set back.
CLOCK_TOLERANCE = 60

#: HS06 or machines of one machinetype on one factory that are still believed; a thousand times what any host has.
LARGEST = 10**8

#: Of what was not taken, those that get a sentence each; of the others there is the number. The sentences are in each
#: report of the factory, and one bad peer can answer for thousands of machinetypes.
_IGNORED_TOLD = 20
#: Characters of a peer's message of an abort that are kept, as many as our own have. It is in reports too.
_MESSAGE_KEPT = 1000


@dataclass(frozen=True)
class Abort:
    """An end that means back-off.

    :ivar time: by our clock, Unix seconds.
    :ivar factory: where.
    """

    time: int
    message: str
    factory: str


@dataclass(frozen=True)
class Row:
    """Tries in a row that failed on this factory.

    :ivar last: when the last failed, Unix seconds.
    :ivar under_way: when the newest machine of it was made that has not run for ``fizzle_seconds`` yet; None: there is
        none.
    """

    tries: int
    last: int
    under_way: t.Optional[int] = None


@dataclass(frozen=True)
class Usage:
    """What a machinetype has.

    :ivar hs06: HS06, or processors in a space that does not count in HS06.
    :ivar before_fizzle: machines that start, or have not run for ``fizzle_seconds`` yet.
    :ivar abort: the newest.
    :ivar row: of this factory alone; None: the last try did not fail.
    """

    hs06: float = 0.0
    before_fizzle: int = 0
    abort: t.Optional[Abort] = None
    row: t.Optional[Row] = None


@dataclass(frozen=True)
class Space:
    """What the other factories have, by machinetype.

    :ivar others: other factories that have answered.
    :ivar ignored: what was not taken, one sentence each; of many the first, and the number of the others.
    """

    usage: t.Mapping[str, Usage] = field(default_factory=dict)
    others: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def aborts(self) -> t.Mapping[str, Abort]:
        """By machinetype."""
        return {name: usage.abort for name, usage in self.usage.items() if usage.abort is not None}

    def aborts_of(self, names: t.Container[str]) -> t.Mapping[str, Abort]:
        """Those of the machinetypes named, to be given to the next :func:`of_space`. Others mean nothing to a factory,
        and a peer could make up new ones for ever."""
        return {name: abort for name, abort in self.aborts.items() if name in names}


def of_space(
    peers: t.Iterable[PeerUsage], own_factory: str, now: int, remembered: t.Optional[t.Mapping[str, Abort]] = None
) -> Space:
    """The peers' answers, summed.

    :param peers: in the order they came; of two answers of one factory about one machinetype the later counts.
    :param own_factory: its own answer is left out, for the own machines are counted from what is known here.
    :param remembered: ``aborts_of`` the sum before. An answer tells the newest end only, so a success that came after
        an abort would hide it (spec 4.7). Those of a clock that was set back since are forgotten.
    """
    answers = {(peer.factory, peer.machinetype): peer for peer in peers}
    own = own_factory.lower()
    others: set[str] = set()
    amount: dict[str, float] = {}
    unproven: dict[str, int] = {}
    aborts = {name: abort for name, abort in (remembered or {}).items() if abort.time <= now + CLOCK_TOLERANCE}
    ignored: list[str] = []
    for (factory, name), peer in answers.items():
        if factory.lower() == own:
            continue
        others.add(factory)
        # Vac counts 1.0 HS06 for a processor where HS06 is not set; a peer that sends 0 means the same.
        hs06 = peer.running_hs06 or peer.running_processors
        if 0 <= hs06 <= LARGEST:
            amount[name] = amount.get(name, 0.0) + hs06
        else:
            ignored.append(f"{factory} says that {name} has {hs06} HS06, which cannot be")
        if 0 < peer.num_before_fizzle <= LARGEST:
            unproven[name] = unproven.get(name, 0) + peer.num_before_fizzle
        message = peer.shutdown_message
        # The first character alone is asked first: most of many answers are no aborts, and time is short.
        if peer.shutdown_time is None or not message or message[0] < "3" or not is_abort(message):
            continue
        at = peer.shutdown_time - peer.clock_ahead
        if at > now + CLOCK_TOLERANCE:
            ignored.append(f"{factory} says that {name} aborted {at - now} s from now, which cannot be")
        elif name not in aborts or at > aborts[name].time:
            aborts[name] = Abort(at, message[:_MESSAGE_KEPT], factory)
    if len(ignored) > _IGNORED_TOLD:
        ignored[_IGNORED_TOLD:] = [f"factories say {len(ignored) - _IGNORED_TOLD} more things that cannot be"]
    names = {**amount, **unproven, **aborts}
    usage = {name: Usage(amount.get(name, 0.0), unproven.get(name, 0), aborts.get(name)) for name in names}
    return Space(usage, len(others), tuple(ignored))


def with_own(
    space: Space, factory: FactorySettings, machinetypes: t.Sequence[Machinetype], own: t.Sequence[OwnMachine], now: int
) -> dict[str, Usage]:
    """What each of the machinetypes has in the whole space. Machinetypes that only others have are left out."""
    known = {machinetype.name: machinetype for machinetype in machinetypes}
    history = histories(
        ((one, known[one.machinetype].fizzle_seconds) for one in own if one.machinetype in known),
        now,
        now + CLOCK_TOLERANCE,
    )
    amount = dict.fromkeys(known, 0.0)
    unproven = dict.fromkeys(known, 0)
    under_way: dict[str, int] = {}
    aborts: dict[str, Abort] = {}
    for machine in own:
        machinetype = known.get(machine.machinetype)
        if machinetype is None:
            continue
        if machine.occupies:
            amount[machinetype.name] += factory.usage(machine.processors)
            young = machine.started is None or now < machine.started + machinetype.fizzle_seconds
            unproven[machinetype.name] += young
            if young and machine.created <= now + CLOCK_TOLERANCE:
                under_way[machinetype.name] = max(machine.created, under_way.get(machinetype.name, 0))
            continue
        end = outcome(machine, machinetype)
        newest = aborts.get(machinetype.name)
        if end is None or not end.abort or end.time > now + CLOCK_TOLERANCE:
            continue
        if newest is None or end.time > newest.time:
            aborts[machinetype.name] = Abort(end.time, str(end.message), factory.name)
    total = {}
    nothing = Usage()
    for name in known:
        peers = space.usage.get(name, nothing)
        both = [one for one in (peers.abort, aborts.get(name)) if one is not None and one.time <= now + CLOCK_TOLERANCE]
        newest = max(both, key=lambda abort: abort.time) if both else None
        row = None
        if name in history and history[name].failed:
            row = Row(history[name].tries, history[name].last, under_way.get(name))
        total[name] = Usage(peers.hs06 + amount[name], peers.before_fizzle + unproven[name], newest, row)
    return total

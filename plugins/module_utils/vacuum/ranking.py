# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machinetypes may be started at all, and in which order. Pure.

The order is by what a machinetype's group has for its share, then by what it has itself (spec 4.3, 4.5). The score of a
group is the *ratio of the sums*, usage of its members by their shares. All members with a share count, also those that
may not be started or cannot be made on this host: so it is the same on every host. Vac sums the ratios, by which a
group of k machinetypes seems to have k times as much and gets 1/k of its due (spec 9.2).

All factories see about the same sums at the same time. If all took the one with the lowest score, N free slots would
all go to it. So the order is drawn: some amount of usage, the *horizon*, is poured over the groups as water would be,
lowest score first, and each one's chance to be first is what it would get of it. Where nothing runs that is its share.
Where one is further behind than the horizon, it alone is first. The rest follow by score. Among members of a group the
same.

The horizon is what is likely started in the space without being seen yet: one processor; a part of the machines that
are not proven, for they tell how fast machines come; and where this factory fills several processors at once, as after
a reboot of the space, as many for each of the others. A larger one lets machinetypes of short-lived machines lag
behind, by that much at most; a smaller one lets factories run after each other. A factory that is alone knows of all
starts: its horizon is one processor, so that of equal shares each has its first machine before one has its second.

Measured by ``bench/vacuum_space.py``, 1,000 factories of 64 slots: all machines of half of the factories end at once
and their slots are filled again from sums up to a minute old. The worst of eight machinetypes is then 1.5 % from its
share; with the lowest score first 310 %. Machines are whole: a machinetype whose share is due a third of one in all the
space has more than that, and less than one.

After an abort all factories back off (spec 4.5). So a host on which no machine of a type works would keep the space
from it, and waits longer by itself. In ``tests/unit/vacuum/simulator.py``, with lives of 15 to 30 minutes,
``backoff_seconds`` and ``fizzle_seconds`` of 600, and a host of 8 slots on which each start fails, 148 of the 152 slots
of 19 other hosts are in use on a day; without that wait 105.
"""

from __future__ import annotations

import math
import typing as t
import zlib
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    NO_SHARE,
    TOO_LARGE,
    FactorySettings,
    Refusal,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Usage

#: The part of the machines that are not proven which other factories have not heard of.
IN_FLIGHT = 0.02

#: Failures in a row from which on a factory waits longer than the others: twice ``backoff_seconds``, and twice as long
#: after each further one. And seconds that it waits at most, unless ``backoff_seconds`` is more: four tries a day, each
#: of which costs the space its back-off, and no host that is well again stands aside for longer.
PATIENT, LONGEST = 3, 6 * 3600

#: Seconds until a start is known to the others.
UNSEEN = 60

#: A source of random numbers of at least 0 and less than 1, as ``random.Random(seed).random``.
Tie = t.Callable[[], float]


@dataclass(frozen=True)
class Standing:
    """Where a machinetype stands.

    :ivar score: its usage by its share; None without a share.
    :ivar groupscore: its group's usage by its group's share; None without a share.
    :ivar chance: to be the first in order, 0 to 1.
    :ivar refusal: why it may not be started now; None: it may.
    """

    machinetype: Machinetype
    group: str
    usage: Usage
    score: t.Optional[float]
    group_usage: float
    group_share: float
    groupscore: t.Optional[float]
    chance: float = 0.0
    refusal: t.Optional[Refusal] = None


@dataclass(frozen=True)
class Member:
    """A machinetype in the sums of its group.

    :ivar hs06: what it has of the space.
    """

    group: str
    target_share: float
    hs06: float


def horizon(factory: FactorySettings, usage: t.Mapping[str, Usage], others: int, at_once: int) -> float:
    """How much is likely started in the space without being seen yet, in the unit of usage.

    :param usage: by machinetype, the own machines included.
    :param others: other factories in the space.
    :param at_once: processors of this factory that are free, or were filled less than :data:`UNSEEN` seconds ago.
    """
    if not others:
        return factory.usage(1)
    unproven = IN_FLIGHT * sum(one.before_fizzle for one in usage.values())
    return factory.usage(1) * (1 + max(unproven, (at_once - 1) * others))


def rank(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    usage: t.Mapping[str, Usage],
    amount: float,
    others: int,
    now: int,
    tie: Tie,
    absent: t.Iterable[Member] = (),
) -> list[Standing]:
    """All machinetypes: those that may be started in the order in which they are tried, then the others by name.

    :param usage: by machinetype, the own machines included.
    :param amount: the horizon, in the unit of usage.
    :param others: other factories in the space.
    :param absent: machinetypes that are none of these, and count in the sums of their groups (spec 4.3).
    """
    group_usage = dict.fromkeys((machinetype.group for machinetype in machinetypes), 0.0)
    group_share = dict(group_usage)
    here = [Member(one.group, one.target_share, usage[one.name].hs06) for one in machinetypes]
    for member in (*here, *absent):
        if member.target_share > 0 and member.group in group_usage:
            group_usage[member.group] += member.hs06
            group_share[member.group] += member.target_share
    eligible: dict[str, dict[str, Machinetype]] = {}
    refusals: dict[str, Refusal] = {}
    for machinetype in machinetypes:
        against = refusal(factory, machinetype, usage[machinetype.name], others, now)
        if against is None:
            eligible.setdefault(machinetype.group, {})[machinetype.name] = machinetype
        else:
            refusals[machinetype.name] = against

    def standing(machinetype: Machinetype, chance: float) -> Standing:
        group, own, share = machinetype.group, usage[machinetype.name], machinetype.target_share
        whole, due = group_usage[group], group_share[group]
        return Standing(
            machinetype,
            group,
            own,
            own.hs06 / share if share > 0 else None,
            whole,
            due,
            whole / due if due > 0 else None,
            chance,
            refusals.get(machinetype.name),
        )

    order = []
    for group, chance in _draw([(g, group_usage[g], group_share[g]) for g in eligible], amount, tie):
        members = eligible[group]
        parts = [(name, usage[name].hs06, one.target_share) for name, one in members.items()]
        order += [standing(members[name], chance * part) for name, part in _draw(parts, amount, tie)]
    refused = [standing(one, 0.0) for one in machinetypes if one.name in refusals]
    return order + sorted(refused, key=lambda one: one.machinetype.name)


def refusal(
    factory: FactorySettings, machinetype: Machinetype, usage: Usage, others: int, now: int
) -> t.Optional[Refusal]:
    """Why a machinetype may not be started now, whatever room there is; None: it may (spec 4.5)."""
    if machinetype.target_share <= 0:
        return Refusal(NO_SHARE, "its target_share is 0")
    return unfit(factory, machinetype, now) or _backing_off(factory, machinetype, usage, others, now)


def unfit(factory: FactorySettings, machinetype: Machinetype, now: int) -> t.Optional[Refusal]:
    """Why a machine of this type can not be one of this factory now, whoever wants it; None: it can."""
    largest = min(factory.processors_per_superslot, factory.total_processors)
    if machinetype.min_processors > largest:
        return Refusal(
            TOO_LARGE,
            f"its min_processors is {machinetype.min_processors}, and the largest machine here has {largest}"
            f" (processors_per_superslot {factory.processors_per_superslot},"
            f" total_processors {factory.total_processors})",
        )
    if factory.last_limit is not None and now + machinetype.min_wallclock_seconds > factory.last_limit:
        return Refusal(
            "shutdown_time",
            f"{factory.shutdown_text(now)}, and its min_wallclock_seconds is {machinetype.min_wallclock_seconds}",
        )
    return None


def _backing_off(
    factory: FactorySettings, machinetype: Machinetype, usage: Usage, others: int, now: int
) -> t.Optional[Refusal]:
    """Until the later of two times, of which each has its reason."""
    waits = [
        wait
        for wait in (_space_waits(factory, machinetype, usage, others, now), _factory_waits(machinetype, usage, now))
        if wait is not None and now <= wait[0]
    ]
    if not waits:
        return None
    until, after = max(waits)
    return Refusal("backing_off", f"backing off for {max(1, until - now)} s more {after}")


def _space_waits(
    factory: FactorySettings, machinetype: Machinetype, usage: Usage, others: int, now: int
) -> t.Optional[tuple[int, str]]:
    """Until when all wait after an abort, wherever it was, and why."""
    abort = usage.abort
    if abort is None:
        return None
    after = f'after "{abort.message}" on {abort.factory}'
    until = abort.time + machinetype.backoff_seconds
    if now > until:
        if usage.before_fizzle:
            until += machinetype.fizzle_seconds
            after += f", for of those started {usage.before_fizzle} have not run for fizzle_seconds yet"
        else:
            until += _spread(factory.name, machinetype, abort.time, others)
            after += ", the factories' tries being spread"
    return until, after


def _factory_waits(machinetype: Machinetype, usage: Usage, now: int) -> t.Optional[tuple[int, str]]:
    """Until when this factory waits after its own failures, and why: each of its tries costs the space a back-off. Then
    one machine at a time may try, until one works."""
    row = usage.row
    if row is None or row.tries < PATIENT:
        return None
    backoff = machinetype.backoff_seconds
    until = row.last + max(backoff, min(backoff << min(row.tries - 2, 32), LONGEST))
    after = f"after {row.tries} tries in a row that failed on this factory: it waits longer after each"
    if now > until and row.under_way is not None:
        until = row.under_way + machinetype.fizzle_seconds
        after += ", and the next has not run for fizzle_seconds yet"
    return until, after


def _spread(factory: str, machinetype: Machinetype, at: int, others: int) -> int:
    """Seconds, up to another back-off, that one of several factories waits longer before the first try.

    All factories know of an abort and would all try at the same second; so the earliest tries, and the others see a
    machine that is not proven.
    """
    fraction = zlib.crc32(f"{factory}/{machinetype.name}/{at}".encode()) / 2**32
    return int(machinetype.backoff_seconds * fraction * others / (others + 1))


def _draw(candidates: t.Sequence[tuple[str, float, float]], amount: float, tie: Tie) -> list[tuple[str, float]]:
    """Names in the order drawn, with the chance that each had to be first.

    :param candidates: name, usage and share of each; shares are above 0.
    """
    weights = poured([(usage, share) for _name, usage, share in candidates], amount)
    drawn = []
    for (name, usage, share), weight in zip(candidates, weights):
        luck = -math.log(1.0 - tie())  # the smallest of exponentials with these rates is the first by weight
        key = (0, luck / weight, 0.0) if weight > 0 else (1, usage / share, luck)
        drawn.append((key, name, weight / amount))
    return [(name, chance) for _key, name, chance in sorted(drawn)]


def poured(candidates: t.Sequence[tuple[float, float]], amount: float) -> list[float]:
    """How an amount is shared out so that the lowest scores rise together.

    :param candidates: usage and share of each; shares are above 0.
    :returns: what each gets, in the candidates' order; together the amount.
    """
    level = shares = usages = 0.0
    for usage, share in sorted(candidates, key=lambda candidate: candidate[0] / candidate[1]):
        if shares and usage / share >= level:
            break
        shares, usages = shares + share, usages + usage
        level = (usages + amount) / shares
    return [max(0.0, share * level - usage) for usage, share in candidates]

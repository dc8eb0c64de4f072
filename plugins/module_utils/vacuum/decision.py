# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory starts next, and why that or why nothing (spec 4). Pure.

:func:`decide` takes one decision, :func:`decide_all` as many as there is room for. The result holds the explanation:
one sentence about the factory and one about each machinetype, in the order in which they were tried.

Where it differs from Vac: usage of groups is a ratio of sums; a fizzle and a failed start mean back-off; a factory on
which a machinetype fails again and again waits longer than the others (``history.py``); an empty space follows shares;
the order is drawn, so that factories which look at the same time do not all take the same (``ranking.py``); memory and
disk are judged (``admission.py``); the factory's ``shutdown_time`` limits a machine from the beginning; the own
machines are counted once, from what is known here; a wrong clock elsewhere stops nothing here.

A slot for which somebody has ordered a machinetype is filled first, and with nothing else. Shares and back-off do not
count for it; what protects the host does.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import (
    Means,
    free_slots,
    occupied,
    veto,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ordered import next_ordered
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import (
    UNSEEN,
    Member,
    Standing,
    Tie,
    horizon,
    rank,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
    PeerUsage,
    Refusal,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.superslots import place, room
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space, of_space, with_own


@dataclass(frozen=True)
class Start:
    """A machine to start.

    :ivar shutdown_time: its time limit, Unix seconds.
    """

    slot: str
    machinetype: str
    processors: int
    shutdown_time: int


@dataclass(frozen=True)
class Candidate:
    """A machinetype as it was judged.

    :ivar chosen: whether it is the one to start.
    :ivar refusal: why it can not be; None: it could.
    :ivar ordered: it is the one because it was ordered for the slot.
    """

    standing: Standing
    chosen: bool = False
    refusal: t.Optional[Refusal] = None
    ordered: bool = False

    @property
    def text(self) -> str:
        """One sentence for people."""
        standing = self.standing
        machinetype = standing.machinetype
        figures = f"share {machinetype.target_share:g}, usage {standing.usage.hs06:g}"
        if standing.score is not None:
            figures += f", score {standing.score:.4g}"
        if standing.group != machinetype.name:
            figures += f", group {standing.group} with share {standing.group_share:g}, usage {standing.group_usage:g}"
            if standing.groupscore is not None:
                figures += f", score {standing.groupscore:.4g}"
        if self.refusal is not None:
            return f"{machinetype.name} ({figures}): not now: {self.refusal.text}"
        if self.ordered:
            return f"{machinetype.name} ({figures}): is next, for it was ordered for the slot"
        verdict = "is next" if self.chosen else "could be started"
        return f"{machinetype.name} ({figures}): {verdict}; its chance to be first was {standing.chance:.0%}"

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types."""
        standing = self.standing
        return {
            "machinetype": standing.machinetype.name,
            "target_share": standing.machinetype.target_share,
            "usage": standing.usage.hs06,
            "score": standing.score,
            "machinegroup": standing.group,
            "group_usage": standing.group_usage,
            "group_share": standing.group_share,
            "groupscore": standing.groupscore,
            "num_before_fizzle": standing.usage.before_fizzle,
            "chance": standing.chance,
            "chosen": self.chosen,
            "refusal": self.refusal.code if self.refusal is not None else None,
            "reason": self.text,
        }


@dataclass(frozen=True)
class Unstartable:
    """A machinetype of which no machine can be made here now, whatever room there is: it is not judged, but named.

    :ivar target_share: None: not known.
    :ivar group: its machinegroup, in whose sums it counts all the same; empty: not known.
    """

    machinetype: str
    target_share: t.Optional[float]
    refusal: Refusal
    group: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        share = f" (share {self.target_share:g})" if self.target_share is not None else ""
        return f"{self.machinetype}{share}: {self.refusal.text}"

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types, with the keys of a candidate."""
        nothing = ("usage", "score", "machinegroup", "group_usage", "group_share", "groupscore", "num_before_fizzle")
        return {
            "machinetype": self.machinetype,
            "target_share": self.target_share,
            **dict.fromkeys(nothing),
            "chance": 0.0,
            "chosen": False,
            "refusal": self.refusal.code,
            "reason": self.text,
        }


@dataclass(frozen=True)
class Decision:
    """What to start, and why that or why nothing.

    :ivar start: None: nothing.
    :ivar veto: why the factory as a whole starts nothing; None: it may.
    :ivar factory: one sentence about the factory.
    :ivar candidates: machinetypes in the order in which they were tried; then those that may not be started.
    :ivar ignored: what peers said and cannot be, one sentence each; of many the first, and the number of the others.
    :ivar waiting: slots that a machinetype was ordered for and cannot be started in, each with the reason. Whoever
        decides adds those in which a machine of another type goes on, by ``ordered.exchange``.
    :ivar unstartable: the other machinetypes that the factory knows, each with the reason.
    """

    start: t.Optional[Start]
    veto: t.Optional[Refusal]
    factory: str
    candidates: tuple[Candidate, ...]
    ignored: tuple[str, ...] = ()
    waiting: tuple[tuple[str, Refusal], ...] = ()
    unstartable: tuple[Unstartable, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The whole explanation, line by line."""
        waiting = (f"{slot} is not filled as ordered: {why.text}" for slot, why in self.waiting)
        return (self.factory, *waiting, *(one.text for one in self.machinetypes), *self.ignored)

    @property
    def machinetypes(self) -> tuple[t.Union[Candidate, Unstartable], ...]:
        """All that the factory knows."""
        return (*self.candidates, *self.unstartable)

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types."""
        return {
            "start": dict(self.start.__dict__) if self.start is not None else None,
            "veto": self.veto.code if self.veto is not None else None,
            "factory": self.factory,
            "machinetypes": [one.as_data() for one in self.machinetypes],
            "ignored": list(self.ignored),
            "waiting": [{"slot": slot, "refusal": why.code, "reason": why.text} for slot, why in self.waiting],
        }


def decide(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    own: t.Sequence[OwnMachine],
    peers: t.Union[Space, t.Iterable[PeerUsage]],
    host: HostLoad,
    now: int,
    tie: Tie,
    unstartable: t.Sequence[Unstartable] = (),
) -> Decision:
    """What to start next.

    :param machinetypes: those of which machines can be made here now; their names differ.
    :param own: machines of this factory, and those that have ended and could still mean back-off.
    :param peers: the other factories' answers, or their sum, which is better where there are many of them.
    :param now: Unix seconds.
    :param tie: random numbers; ``random.Random(seed).random`` for a decision that can be repeated.
    :param unstartable: the other machinetypes that the factory knows.
    """
    space = peers if isinstance(peers, Space) else of_space(peers, factory.name, now)
    usage = with_own(space, factory, machinetypes, own, now)
    known = {machinetype.name: machinetype for machinetype in machinetypes}
    means = Means(factory, own, host, known)
    room_here = room(factory, own, now)
    at_once = min(room_here.free, means.by_memory) + sum(
        machine.processors for machine in own if machine.occupies and abs(now - machine.created) < UNSEEN
    )
    amount = horizon(factory, usage, space.others, at_once)
    absent = _absent(factory, machinetypes, own, space, unstartable)
    ranked = rank(factory, machinetypes, usage, amount, space.others, now, tie, absent)
    against = veto(factory, own, host, now)
    start: t.Optional[Start] = None
    waiting: tuple[tuple[str, Refusal], ...] = ()
    lacking: dict[str, Refusal] = {}
    if against is None:
        away = {one.machinetype: one.refusal for one in unstartable}
        turn = next_ordered(means, away, room_here, now)
        waiting = turn.waiting
        if turn.fit is not None:
            start = Start(turn.slot, turn.fit.machinetype, turn.fit.processors, turn.fit.shutdown_time)
        free, order = free_slots(factory, own), [s.machinetype for s in ranked if s.refusal is None]
        if start is None and free:
            fit, lacking = place(factory, order, room_here, means, now)
            if fit is not None:
                start = Start(free[0], fit.machinetype, fit.processors, fit.shutdown_time)
        elif start is None:
            kept = Refusal("no_slot", "the free slots are kept for what was ordered for them")
            lacking = {machinetype.name: kept for machinetype in order}
    candidates = tuple(
        Candidate(standing, True, None, start.slot in factory.forced)
        if start is not None and standing.machinetype.name == start.machinetype
        else Candidate(standing, False, standing.refusal or lacking.get(standing.machinetype.name))
        for standing in ranked
    )
    text = _factory_text(factory, own, start, against, now)
    return Decision(start, against, text, candidates, space.ignored, waiting, tuple(unstartable))


def _absent(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    own: t.Sequence[OwnMachine],
    space: Space,
    unstartable: t.Sequence[Unstartable],
) -> list[Member]:
    """What machinetypes of which no machine can be made here have and are due. Other hosts make them, and this one may
    have before: without them a group would have another balance here than in the space."""
    known = {machinetype.name for machinetype in machinetypes}
    members = {one.machinetype: one for one in unstartable if one.group and one.machinetype not in known}
    usage = {name: space.usage[name].hs06 if name in space.usage else 0.0 for name in members}
    for machine in own if members else ():
        if machine.occupies and machine.machinetype in usage:
            usage[machine.machinetype] += factory.usage(machine.processors)
    return [Member(one.group, one.target_share or 0.0, usage[name]) for name, one in members.items()]


def decide_all(
    factory: FactorySettings,
    machinetypes: t.Sequence[Machinetype],
    own: t.Sequence[OwnMachine],
    peers: t.Union[Space, t.Iterable[PeerUsage]],
    host: HostLoad,
    now: int,
    tie: Tie,
    at_most: t.Optional[int] = None,
    unstartable: t.Sequence[Unstartable] = (),
) -> tuple[Decision, ...]:
    """What to start in all the room there is: each choice counts as a machine that starts when the next is made.

    :param at_most: starts; None: no limit.
    :returns: the starts in order, and last, if the limit did not come first, the decision that says why no more.
    """
    space = peers if isinstance(peers, Space) else of_space(peers, factory.name, now)
    machines = list(own)
    made: list[Decision] = []
    while at_most is None or len(made) < at_most:
        decision = decide(factory, machinetypes, machines, space, host, now, tie, unstartable)
        made.append(decision)
        start = decision.start
        if start is None:
            break
        machines.append(
            OwnMachine(start.slot, start.machinetype, start.processors, "starting", now, start.shutdown_time)
        )
    return tuple(made)


def _factory_text(
    factory: FactorySettings,
    own: t.Sequence[OwnMachine],
    start: t.Optional[Start],
    against: t.Optional[Refusal],
    now: int,
) -> str:
    if against is not None:
        return f"{factory.name} starts nothing: {against.text}"
    taken = f"{occupied(own)} of {factory.total_processors} processors are taken"
    if start is None:
        return f"{factory.name} starts nothing: no machinetype can be started now; {taken}"
    size = f"{start.processors} processor{'s' if start.processors > 1 else ''}"
    return (
        f"{factory.name} starts {start.machinetype} in {start.slot} with {size}"
        f" for {start.shutdown_time - now} s; {taken}"
    )

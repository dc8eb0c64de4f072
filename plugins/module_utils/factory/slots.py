# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Slots as desired state: the wish, what there is, and the plan between the two. Pure.

Where a daemon works, the plan is what to order of it. Where none does, the plan is all that a factory would do: write
down what has ended and clean up after it, end machines, make machines.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    STARTING,
    Machine,
    last_in_slots,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import (
    DRAINED,
    NONE,
    STOPPED,
    Orders,
    SlotOrder,
)
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import Means
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End, Heartbeat, ends, lowered, replaced

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import LeftOver
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Decision, Start, Unstartable
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space

ABSENT, ORDERED = "absent", "ordered"

#: The state of a slot whose machine's record cannot be read.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Wish:
    """What is wanted of slots.

    :ivar slots: their names, in the factory's order.
    :ivar state: ``running``, ``drained``, ``stopped``, ``absent``, or ``ordered``: as was ordered of each slot.
    :ivar machinetype: the one that is to run; empty: the factory chooses.
    :ivar former: those of the slots that the factory has no more: a machine may end there, none is started.
    """

    slots: tuple[str, ...]
    state: str
    machinetype: str = ""
    former: tuple[str, ...] = ()

    def order(self, slot: str, given: SlotOrder, now: int) -> SlotOrder:
        """What has to be ordered of a slot.

        :param given: what is; it stays as it is if it says the same.
        """
        if self.state == ORDERED:
            return given
        state = {DRAINED: DRAINED, STOPPED: STOPPED, ABSENT: STOPPED}.get(self.state, "")
        wanted = SlotOrder(state, self.machinetype, now) if state or self.machinetype else NONE
        wanted = wanted.of_former if slot in self.former else wanted
        return given if (given.state, given.machinetype) == (wanted.state, wanted.machinetype) else wanted

    def state_of(self, slot: str, given: SlotOrder) -> str:
        """The state that is wanted of a slot.

        :param given: what is ordered of it.
        """
        state = given.state or RUNNING if self.state == ORDERED else self.state
        return DRAINED if state == RUNNING and slot in self.former else state

    def waits_for(self, slot: str, given: SlotOrder) -> bool:
        """Whether the wish is fulfilled only when what runs in a slot has ended. Of one that is drained by an order, or
        that is no more, that is so for who drains it now.

        :param given: what is ordered of the slot.
        """
        return self.state == DRAINED or self.state_of(slot, given) != DRAINED

    def content_with(self, slot: str, machine: t.Optional[Machine], given: SlotOrder) -> bool:
        """Whether what is in a slot, or nothing, is what is wanted.

        :param machine: that runs or starts there; None: none does.
        :param given: what is ordered of the slot.
        """
        state = self.state_of(slot, given)
        if state == RUNNING:
            return machine is not None and self.machinetype in ("", machine.machinetype)
        return machine is None or state == DRAINED


@dataclass(frozen=True)
class Mending:
    """What has to be put right before anything else, where no daemon does it.

    :ivar adopted: machines that run, and are not written down as they are.
    :ivar over: machines that have ended, as they are to be written down, with the containers that are left of them.
    :ivar unborn: machines that whoever was killed had begun to make.
    :ivar uncleaned: machines that are written down as ended, and were not cleaned away.
    :ivar expired: machines whose folders have been kept for long enough.
    :ivar strays: containers of no machine.
    :ivar heartbeats: by slot, of the machines that have to have one.
    """

    adopted: tuple[Machine, ...] = ()
    over: tuple[tuple[Machine, t.Optional[Container]], ...] = ()
    unborn: tuple[Machine, ...] = ()
    uncleaned: tuple[Machine, ...] = ()
    expired: tuple[Machine, ...] = ()
    strays: tuple[Container, ...] = ()
    heartbeats: t.Mapping[str, Heartbeat] = field(default_factory=dict)


@dataclass(frozen=True)
class Chances:
    """What a decision is made from, beside the machines.

    :ivar machinetypes: those of which machines can be made here, if their images are.
    :ivar images: by reference, the ids of those that are here.
    :ivar left_over: work spaces of no machine: whoever made them was killed.
    :ivar unstartable: the machinetypes of which no machines can be made here, each with the reason.
    :ivar problems: what is wrong with pipes, and costs machinetypes: a sentence each.
    """

    machinetypes: tuple[Machinetype, ...]
    images: t.Mapping[str, str]
    space: Space
    host: HostLoad
    left_over: tuple[LeftOver, ...] = ()
    unstartable: tuple[Unstartable, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What there is.

    :ivar machines: as they are now, the ends counted that are not written down yet.
    :ivar now: Unix seconds.
    :ivar mending: None: a daemon works, and does that.
    :ivar chances: None: nothing is to be started, or the daemon does it.
    :ivar unreadable: records that cannot be read. Their machines may run.
    """

    orders: Orders
    machines: tuple[Machine, ...]
    now: int
    mending: t.Optional[Mending] = None
    chances: t.Optional[Chances] = None
    unreadable: tuple[Unreadable, ...] = ()

    def live(self) -> dict[str, Machine]:
        """By slot, the machine that runs or starts there."""
        return {slot: one for slot, one in last_in_slots(self.machines).items() if one.state != ENDED}


@dataclass(frozen=True)
class Filling:
    """How slots are filled that are to run.

    :ivar starts: in the order in which they were decided.
    :ivar last: the decision that starts no more, and why; None: there is nothing to fill, or nobody here decides.
    """

    starts: tuple[Start, ...] = ()
    last: t.Optional[Decision] = None

    def why_empty(self, slot: str) -> str:
        """Why a slot is not filled."""
        if self.last is None:
            return ""
        waiting = dict(self.last.waiting)
        if slot in waiting:
            return waiting[slot].text
        reasons = [one.refusal.text for one in self.last.candidates if one.refusal is not None]
        return "; ".join([self.last.factory, *sorted(set(reasons))[:3]])


@dataclass(frozen=True)
class Tried:
    """What the run has done already, when it looks again at the end.

    :ivar started: by slot, the machine that was made there.
    :ivar troubles: by target, what could not be done with it, and why.
    """

    started: t.Mapping[str, Machine] = field(default_factory=dict)
    troubles: t.Mapping[str, str] = field(default_factory=dict)


def ending(wish: Wish, configuration: Configuration, observed: Observed) -> dict[str, End]:
    """By slot, why its machine has to end: by order, its time, or its heartbeat. Where a daemon works, that is its.

    A machine makes room for another machinetype only in a slot that this run fills with it.
    """
    if observed.mending is None:
        return {}
    settings = ordered(wish, observed).over(configuration.settings)
    live = {slot: one.own() for slot, one in observed.live().items()}
    found = {
        slot: replaced(live[slot], wish.machinetype)
        for slot in wish.slots
        if slot in live
        and live[slot].state == RUNNING
        and wish.machinetype not in ("", live[slot].machinetype)
        and slot not in wish.former
    }
    timely = ends(settings, live.values(), observed.mending.heartbeats, observed.now, 0)
    return {**{one.slot: one for one in timely}, **found}


def to_fill(wish: Wish, configuration: Configuration, observed: Observed, tried: Tried = Tried()) -> set[str]:
    """Slots that are wanted running, and in which nothing runs that may stay."""
    given = observed.orders
    wanted = {one for one in wish.slots if wish.state_of(one, given.of(one)) == RUNNING and one not in tried.started}
    if not wanted:
        return set()
    live, over = observed.live(), ending(wish, configuration, observed)
    return {slot for slot in wanted if slot in over or not wish.content_with(slot, live.get(slot), given.of(slot))}


def filling(wish: Wish, configuration: Configuration, observed: Observed, tried: Tried = Tried()) -> Filling:
    """How the slots that are wanted running are filled, by the decision that a factory takes.

    The lot is drawn the same way for the same machines: so check mode says what the run does, and factories differ.
    """
    chances = observed.chances
    if chances is None:
        return Filling()
    # Imported when there is something to fill: most runs find all as it should be, and end sooner without.
    import random

    from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import occupying
    from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide_all

    empty, over = to_fill(wish, configuration, observed, tried), ending(wish, configuration, observed)
    settings = ordered(wish, observed).over(configuration.settings)
    others = frozenset(slot for slot in settings.slots if slot not in empty)
    settings = replace(settings, closed_slots=settings.closed_slots | others)
    own = [
        replace(one, state=ENDED, ended=observed.now, shutdown_message=over[one.slot].message).own()
        if one.slot in over and one.state != ENDED
        else one.own()
        for one in observed.machines
    ]
    own += occupying(observed.unreadable, observed.machines)
    means = Means(settings, own, chances.host, {one.name: one for one in chances.machinetypes})
    host = means.host_without(one.own() for slot, one in observed.live().items() if slot in over)
    lot = random.Random(" ".join([settings.name, *sorted(one.uuid for one in observed.machines)]))  # noqa: S311
    made = decide_all(
        settings, chances.machinetypes, own, chances.space, host, observed.now, lot.random,
        unstartable=chances.unstartable,
    )  # fmt: skip
    return Filling(tuple(one.start for one in made if one.start is not None), made[-1])


def plan(wish: Wish, configuration: Configuration, observed: Observed, tried: Tried = Tried()) -> Plan:
    """What has to be done.

    :param tried: what this run has done already: a machine that it has started may have ended since, and is not
        started again.
    """
    live, last = observed.live(), last_in_slots(observed.machines)
    filled = filling(wish, configuration, observed, tried)
    pulls = _pulls(filled, observed.chances) if observed.chances is not None else []
    # Where one machinetype is wanted nothing is touched before its image is there, and no machine ended for it.
    steps, pulls = (pulls, []) if wish.machinetype else ([], pulls)
    if observed.mending is not None:
        steps += _mend(observed.mending, configuration)
    steps += _order(wish, observed, live)
    steps += [_stop(live[slot], end) for slot, end in ending(wish, configuration, observed).items()]
    steps += _lower(wish, configuration, observed)
    if wish.state == ABSENT:
        steps += _remove(wish, observed)
    if observed.chances is not None:
        steps += _fill(filled, observed.chances, pulls)
    for slot, machine in tried.started.items():
        if machine.failed_start:
            steps.append(Step("start_machine", slot, f"{machine.machinetype} did not start: {machine.end_reason}"))
    told = {step.target for step in steps}
    steps += [
        Step("start_machine", slot, "it is not running")
        for slot in wish.slots
        if wish.state_of(slot, observed.orders.of(slot)) == RUNNING and slot in tried.troubles and slot not in told
    ]
    steps = [_with_trouble(step, tried) for step in steps]
    before = {slot: _shown(last.get(slot), observed.orders.of(slot)) for slot in wish.slots}
    after = dict(before)
    if steps:
        after = _after(wish, configuration, observed, filled)
    return Plan(tuple(steps), before, after)


def ordered(wish: Wish, observed: Observed) -> Orders:
    """All orders, as they are wanted."""
    given = observed.orders
    return given.changed({slot: wish.order(slot, given.of(slot), observed.now) for slot in wish.slots})


def _mend(mending: Mending, configuration: Configuration) -> list[Step]:
    days = f"it ended more than {configuration.machines_days:g} days ago"
    return [
        *(
            Step("adopt_machine", _name(one), "it runs, and was not written down so", details={"machine": one})
            for one in mending.adopted
        ),
        *(
            Step("end_machine", _name(one), one.end_reason, details={"machine": one})
            for one, _container in mending.over
        ),
        *(
            Step("clean_machine", _name(one), "it has ended, and was not cleaned away", details={"machine": one})
            for one in mending.uncleaned
        ),
        *(
            Step("forget_machine", _name(one), "whoever made it was killed", details={"machine": one})
            for one in mending.unborn
        ),
        *(
            Step("remove_stray", one.name, "it is the container of no machine", details={"container": one})
            for one in mending.strays
        ),
        *(Step("remove_folder", one.folder, days, details={"machine": one}) for one in mending.expired),
    ]


def _order(wish: Wish, observed: Observed, live: t.Mapping[str, Machine]) -> list[Step]:
    steps = []
    wanted = ordered(wish, observed)
    for slot in wish.slots:
        given, order = observed.orders.of(slot), wanted.of(slot)
        if given == order:
            continue
        text = f"it is to be {order.text}" if order.state else f"it is to run {order.machinetype or 'what is next'}"
        text = "the factory has it no more" if order == NONE and slot in wish.former else text
        reason = f"{text}, and was {given.text}" if given.text else text
        machine, cost = live.get(slot), Disruption.none
        if observed.mending is None and machine is not None and not wish.content_with(slot, machine, given):
            reason, cost = f"{reason}; the daemon ends {_name(machine)}", Disruption.container
        steps.append(Step("give_order", slot, reason, cost, {"wanted": {one: wanted.of(one) for one in wish.slots}}))
    return steps


#: Why machines end, without the figures, which are others a second later, when check mode has told them already.
_WITHOUT_FIGURES = {
    "time_limit": "its time limit is over",
    "shutdown_time": "the factory's shutdown_time has come",
    "heartbeat_missing": "its heartbeat file is not there",
    "heartbeat_old": "its heartbeat file is too old",
}


def _stop(machine: Machine, end: End) -> Step:
    reason = _WITHOUT_FIGURES.get(end.code, end.reason)
    return Step("stop_machine", _name(machine), reason, Disruption.container, {"machine": machine, "end": end})


def _lower(wish: Wish, configuration: Configuration, observed: Observed) -> list[Step]:
    """Time limits that the factory's ``shutdown_time`` has made earlier than machines know."""
    if observed.mending is None:
        return []
    live, over = observed.live(), ending(wish, configuration, observed)
    found = lowered(ordered(wish, observed).over(configuration.settings), [one.own() for one in live.values()])
    reason = "the factory's shutdown_time comes before its time limit"
    return [
        Step("lower_limit", _name(live[slot]), reason, details={"machine": live[slot], "limit": limit})
        for slot, limit in sorted(found.items())
        if slot not in over
    ]


def _remove(wish: Wish, observed: Observed) -> list[Step]:
    """The folders that an absent slot leaves. Those of machines which end in this run are among them, and of one that
    the daemon may have begun to make before it reads the order."""
    expired = {one.uuid for one in observed.mending.expired} if observed.mending is not None else set()
    steps = []
    for slot in wish.slots:
        given = observed.orders.of(slot)
        is_ordered = wish.order(slot, given, observed.now) != given
        count = sum(one.slot == slot and one.uuid not in expired for one in observed.machines)
        if count:
            reason = f"{count} machine{'s' if count > 1 else ''} that ended there left a folder"
            steps.append(Step("remove_folders", slot, reason))
        elif observed.mending is None and is_ordered and slot not in wish.former:
            reason = "a machine that the daemon has begun when it reads the order leaves a folder"
            steps.append(Step("remove_folders", slot, reason))
    return steps


def _pulls(filled: Filling, chances: Chances) -> list[Step]:
    wanted = {start.machinetype for start in filled.starts}
    kinds = [one for one in chances.machinetypes if one.name in wanted and one.root_image not in chances.images]
    names: dict[str, list[str]] = {}
    for kind in kinds:
        names.setdefault(kind.root_image, []).append(kind.name)
    return [
        Step("pull_image", reference, f"{', '.join(sorted(names[reference]))} needs it, and it is not here")
        for reference in sorted(names)
    ]


def _fill(filled: Filling, chances: Chances, pulls: t.Sequence[Step]) -> list[Step]:
    """What is started, the pulls that are not done yet before what waits for them."""
    known = {one.name: one for one in chances.machinetypes}
    steps = [
        Step("remove_left_over", one.uuid or one.folder, f"it is {one.what}", details={"left": one})
        for one in chances.left_over
        if filled.starts
    ]
    wanted = [(start, known[start.machinetype]) for start in filled.starts]
    here = [one for one in wanted if one[1].root_image in chances.images]
    away = [one for one in wanted if one[1].root_image not in chances.images]
    steps += [_start(start, kind) for start, kind in here]
    return [*steps, *pulls, *(_start(start, kind) for start, kind in away)]


def _start(start: Start, kind: Machinetype) -> Step:
    size = f"{start.processors} processor{'s' if start.processors > 1 else ''}"
    reason = f"the slot is empty, and {kind.name} is next, with {size}"
    return Step("start_machine", start.slot, reason, details={"start": start, "machinetype": kind})


def _with_trouble(step: Step, tried: Tried) -> Step:
    trouble = tried.troubles.get(step.target)
    return replace(step, reason=f"{step.reason}. {trouble}") if trouble else step


def _name(machine: Machine) -> str:
    """A machine as people are told of it: its container's name, which says where and which, and its type."""
    return f"{machine.container_name} ({machine.machinetype})"


def _shown(machine: t.Optional[Machine], order: SlotOrder) -> dict[str, str]:
    """A slot, for the diff."""
    shown = machine.machinetype if machine is not None and machine.state != ENDED else "empty"
    return {"machine": shown, "order": order.text}


def _after(wish: Wish, configuration: Configuration, observed: Observed, filled: Filling) -> dict[str, t.Any]:
    live, orders = observed.live(), ordered(wish, observed)
    starts = {start.slot: start.machinetype for start in filled.starts}
    after, over = {}, ending(wish, configuration, observed)
    for slot in wish.slots:
        given = observed.orders.of(slot)
        kept = slot in live and slot not in over and wish.content_with(slot, live[slot], given)
        machine = live[slot].machinetype if kept else starts.get(slot, "empty")
        if wish.state_of(slot, given) == RUNNING and observed.mending is None and not kept:
            machine = wish.machinetype or "what the daemon starts"
        after[slot] = {"machine": machine, "order": orders.of(slot).text}
    return after


def facts(
    slot: str,
    machine: t.Optional[Machine],
    order: SlotOrder,
    why: str = "",
    unread: t.Optional[Unreadable] = None,
) -> dict[str, t.Any]:
    """A slot as modules return it.

    :param machine: that is or was last in it.
    :param why: why nothing is in it that should be.
    :param unread: a machine that may be in it, whose record cannot be read.
    """
    told: dict[str, t.Any] = {
        "slot": slot, "state": "empty", "machinetype": "", "uuid": "", "processors": 0, "since": None,
        "shutdown_time": None, "order": order.state, "ordered_machinetype": order.machinetype, "reason": why,
        "last_end": None,
    }  # fmt: skip
    if unread is not None:
        told.update(
            state=UNKNOWN, machinetype=unread.machinetype, processors=unread.processors, since=unread.created,
            reason=unread.sentence,
        )  # fmt: skip
    elif machine is not None and machine.state in (STARTING, RUNNING):
        told.update(
            state=machine.state, machinetype=machine.machinetype, uuid=machine.uuid, processors=machine.processors,
            since=machine.started or machine.made, shutdown_time=machine.shutdown_time,
        )  # fmt: skip
    elif machine is not None:
        told["last_end"] = {
            "machinetype": machine.machinetype, "uuid": machine.uuid, "time": machine.ended,
            "message": machine.shutdown_message or "", "code": machine.end_code, "reason": machine.end_reason,
        }  # fmt: skip
    return told

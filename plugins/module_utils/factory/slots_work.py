# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work behind ``vacuum_slot``: orders for the daemon where one works, else the factory's own work, by hand.

Which of the two it is, the daemon's lock tells: who gets it, works himself, and keeps it until his work is done, so
that no daemon starts meanwhile. Another run without a daemon is waited for first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders, slots
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.look import Look
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    STARTING,
    Machine,
    last_in_slots,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots import ABSENT, ORDERED, Observed, Tried, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable, in_slots
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.lock import SECONDS, Lock
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.utc import utc
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import veto
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, HostLoad

if t.TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from ansible_collections.hep.gridbox.plugins.module_utils.factory import report
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand

#: Of each action, how many are done at a time. Who stops a machine waits, mostly.
_AT_A_TIME = {"stop_machine": 32, "pull_image": 2}
_STARTS = 4

#: Seconds between two looks at what the daemon has done.
_PAUSE = 0.5

#: Seconds: from a change of the configuration until the daemon has surely decided with it; for which a report is waited
#: for that comes after that, where the one that there is keeps a machinetype from being ordered.
_SEEN, _FRESH = 5, 20

#: What to do if a machinetype that is wanted cannot be started.
_REMEDY = "Nothing was touched. See what keeps it from starting, or leave the choice to the factory."


@dataclass(frozen=True)
class Patience:
    """Whether the run waits until slots are as wanted, and for how many seconds."""

    wait: bool = True
    seconds: int = 600


@dataclass(frozen=True)
class Asked:
    """What the module is asked for; the slots and what is in them depend on the configuration.

    :ivar path: of the configuration.
    """

    path: str
    slots: tuple[str, ...]
    state: str
    machinetype: str

    def configuration(self) -> Configuration:
        """The factory's, as it is now.

        :raises InputError: for what cannot be right.
        :raises RefusedError: if there is none.
        """
        try:
            return load(self.path)
        except InputError:
            raise
        except GridboxError as exc:
            raise RefusedError("configuration", str(exc).rstrip("."), "Configure the factory first.") from exc

    def wish(self, configuration: Configuration) -> Wish:
        """What is wanted of this factory's slots.

        :raises InputError: for slots that it has not.
        :raises GridboxError: if what is ordered cannot be read.
        """
        former = orders.former_slots(configuration)
        # Nobody can have one of these filled; of all slots, what was ordered of them is taken back.
        can_be_meant = former if self.state != RUNNING or self.slots == ("all",) else ()
        meant = orders.slots_of(configuration.settings, self.slots, former=can_be_meant)
        return Wish(meant, self.state, self.machinetype, tuple(slot for slot in meant if slot in former))


class SlotsWork:
    """The work of the module ``vacuum_slot``; see ``front_room.Work``.

    :param check_mode: that slots are as wanted is not waited for then.
    :param held: gets the daemon's lock, if nobody has it.
    """

    def __init__(
        self,
        asked: Asked,
        patience: Patience,
        configuration: Configuration,
        check_mode: bool,
        held: contextlib.ExitStack,
    ) -> None:
        self._asked, self.patience, self.configuration = asked, patience, configuration
        self.wish = asked.wish(configuration)
        self._factory = f"the factory in {os.path.realpath(configuration.state_folder)}"
        self.subject = f"slots of {self._factory}: {', '.join(self.wish.slots)}"
        self._check_mode, self._held = check_mode, held
        self._store = Store(configuration.state_folder)
        self._look: t.Optional[Look] = None
        self._hand: t.Optional[ByHand] = None
        self._looked = False
        self._plan = Plan()
        self._applied = False
        self._started: dict[str, Machine] = {}
        self._troubles: dict[str, str] = {}
        self._problems: tuple[str, ...] = ()
        self._pool: t.Optional[ThreadPoolExecutor] = None
        self._doing: dict[int, Future[None]] = {}
        self._began = time.time()

    @classmethod
    def from_params(
        cls, params: t.Mapping[str, t.Any], check_mode: bool, held: contextlib.ExitStack
    ) -> SlotsWork:  # fmt: skip
        """From a module's arguments.

        :raises InputError: for what cannot be right.
        :raises RefusedError: if the host has no factory's configuration.
        """
        state, machinetype = params["state"], params["machinetype"] or ""
        if machinetype and state != RUNNING:
            raise InputError("machinetype", machinetype, "no machinetype", f"With state: {state} nothing is started.")
        if not re.fullmatch(r"(?:[a-z0-9][a-z0-9-]*)?", machinetype):
            raise InputError("machinetype", machinetype, "a machinetype's name: lower-case letters, digits, hyphens")
        if state == ABSENT and not params["wait"]:
            raise InputError("wait", False, "true with state: absent", "Folders go when the machine has ended.")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "seconds, at least 1")
        asked = Asked(params["configuration"], tuple(params["slots"]), state, machinetype)
        patience = Patience(params["wait"], params["wait_timeout"])
        return cls(asked, patience, asked.configuration(), check_mode, held)

    # ---- observe, plan, preflight --------------------------------------------------------------------------------

    def observe(self) -> Observed:
        if not self._looked:
            self._looked = True
            self._take_the_daemons_place()
        given, now = orders.load(self.configuration.state_folder), int(time.time())
        if self._look is None:
            found, unread = self._records()
            return Observed(given, tuple(found), now, unreadable=tuple(unread))
        machines, mending, unread = self._look.look(now)
        seen = Observed(given, tuple(machines), now, mending, None, tuple(unread))
        if not slots.to_fill(self.wish, self.configuration, seen, Tried(self._started)):
            return seen
        settings = slots.ordered(self.wish, seen).over(self.configuration.settings)
        keep = not self._check_mode
        chances = self._hands().chances(settings, [*machines, *mending.unborn], now, unread, keep)
        self._problems = chances.problems
        return Observed(given, seen.machines, now, mending, chances, seen.unreadable)

    def _take_the_daemons_place(self) -> None:
        """Get the daemon's lock, if no daemon has it; somebody else who has it is waited for."""
        with contextlib.ExitStack() as turn:
            turn.enter_context(Lock(f"vacuum_slot on {self._factory}"))
            deadline = time.monotonic() + SECONDS
            while True:
                lock = at_work(self.configuration.state_folder)
                try:
                    turn.enter_context(lock)
                    break
                except WaitError:
                    from ansible_collections.hep.gridbox.plugins.module_utils.factory import running

                    if running.is_daemon(lock.holder()):
                        return
                    if time.monotonic() > deadline:
                        awaited = f"another run to leave {self._factory} alone"
                        raise WaitError(awaited, SECONDS, f"process {lock.holder()} is at work") from None
                time.sleep(_PAUSE)
            self._read_again()
            self._look = Look(self.configuration)
            self._held.push(turn.pop_all())

    def _read_again(self) -> None:
        """What is configured by now, when nobody else is at work any more: whoever was waited for may have changed it,
        or taken the factory away.

        :raises RefusedError: if there is no factory any more, or one in another place.
        """
        now = self._asked.configuration()
        if os.path.realpath(now.state_folder) != os.path.realpath(self.configuration.state_folder):
            raise RefusedError(
                f"configuration: {self._asked.path}",
                f"it was changed while this run waited for another; the factory is in {now.state_folder} now",
                "Nothing was touched. Run again.",
            )
        self.configuration, self.wish = now, self._asked.wish(now)

    def _hands(self) -> ByHand:
        """What makes machines and takes them away."""
        if self._hand is None:
            # Imported when there is something to do: it takes longer than to find that there is nothing.
            from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand

            self._hand = ByHand(self.configuration)
        return self._hand

    def _records(self) -> tuple[t.Iterable[Machine], t.Iterable[Unreadable]]:
        """The records that count: all of a slot that is to be absent, else the last of each; and those that cannot be
        read."""
        if self.wish.state == ABSENT:
            found, unread = self._store.read()
            return [one for one in found if one.slot in self.wish.slots], unread
        last, lost = self._store.last(self.wish.slots)
        return last.values(), lost.values()

    def plan(self, observed: Observed) -> Plan:
        made = slots.plan(self.wish, self.configuration, observed, Tried(self._started, self._troubles))
        if not self._applied:
            self._plan = made
            return made
        # What has come up since is the next run's. A farm does not stand still: machines end while others are started.
        announced = {(step.action, step.target) for step in self._plan.steps}
        return replace(made, steps=tuple(step for step in made.steps if (step.action, step.target) in announced))

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if plan.steps and self._look is None:
            self._check_daemon()
        if not self.wish.machinetype:
            return
        if observed.mending is None:
            self._can_be_asked_for(observed)
        if observed.chances is None:
            return
        filled = slots.filling(self.wish, self.configuration, observed)
        starts = {one.slot for one in filled.starts}
        for slot in sorted(slots.to_fill(self.wish, self.configuration, observed) - starts):
            raise RefusedError(f"{self.wish.machinetype} in {slot}", filled.why_empty(slot), _REMEDY)

    def _can_be_asked_for(self, observed: Observed) -> None:
        """The daemon says which machinetypes it has, and which of them cannot be started here. One that it is to start
        and that cannot be now, for lack of room or a repository, is waited for, and costs no machine meanwhile."""
        machinetype = self.wish.machinetype
        if slots.to_fill(self.wish, self.configuration, observed):
            settings = slots.ordered(self.wish, observed).over(self.configuration.settings)
            why = self._forbidden(settings, observed.now) or self._told_against(machinetype)
            if why:
                raise RefusedError(f"machinetype: {machinetype}", why.rstrip(". "), _REMEDY)
        self._is_known(machinetype, self._told())

    def _forbidden(self, settings: FactorySettings, now: int) -> str:
        """Why the factory may start nothing, or none of this type, by what is configured and ordered; empty: it may."""
        from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ranking import unfit

        # The load and the like pass: of these the daemon knows.
        against = veto(settings, (), HostLoad(settings.total_processors), now)
        for one in self.configuration.machinetypes:
            if against is None and one.name == self.wish.machinetype:
                against = unfit(settings, one, now)
        return against.text if against is not None else ""

    def _told_against(self, machinetype: str) -> str:
        """Why a machinetype cannot be started here, by a report of what is configured now; empty: nothing is known."""
        deadline = time.time() + _FRESH
        while True:
            told = self._told()
            why = told.cannot_start(machinetype) if told is not None else ""
            if told is None or not why or self._is_of_now(told):
                return why
            if time.time() > deadline:  # whoever orders in vain loses nothing
                return ""
            time.sleep(_PAUSE)

    def _check_daemon(self) -> None:
        """That what is ordered is read by who has these slots.

        :raises RefusedError: if the daemon that works has another name.
        """
        from ansible_collections.hep.gridbox.plugins.module_utils.factory import moved, report

        told = self._told()
        if told is not None and report.is_at_work(told, time.time()):
            moved.check_daemon(self.configuration, told)

    def _is_of_now(self, told: report.Report) -> bool:
        """Whether a report is of the daemon that works, and of a decision with the configuration as it is."""
        from ansible_collections.hep.gridbox.plugins.module_utils.factory import report

        try:
            changed = os.stat(self._asked.path).st_mtime
        except OSError:
            return False
        is_read = told.configuration_stamp == report.stamp(self._asked.path) and (told.decided or 0) > changed + _SEEN
        return is_read and report.is_at_work(told, time.time())

    def _is_known(self, machinetype: str, told: t.Optional[report.Report]) -> None:
        pipes = told.pipes.values() if told is not None else ()
        known = {one.name for one in self.configuration.machinetypes}
        known.update(name for pipe in pipes for name in pipe.machinetypes)
        known.update(one.name for one in self.configuration.overrides if not isinstance(one.alone, tuple))
        if machinetype not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InputError("machinetype", machinetype, f"one that the factory has: {names}")

    def _told(self) -> t.Optional[report.Report]:
        """What the daemon says of itself."""
        from ansible_collections.hep.gridbox.plugins.module_utils.factory import report

        return report.load(self.configuration.state_folder)

    def _unheard(self) -> list[str]:
        """A sentence if the daemon does not tell how slots are: what is written down may have passed."""
        from ansible_collections.hep.gridbox.plugins.module_utils.factory import report

        told, now = self._told(), time.time()
        if report.is_at_work(told, now):
            return []
        since = f"for {now - told.written:.0f} s" if told is not None else "yet"
        unsure = "so nobody can tell what runs: the slots are as they were written down last."
        return [f"The factory's daemon has not reported {since}, {unsure}"]

    # ---- apply ---------------------------------------------------------------------------------------------------

    def do(self, step: Step, journal: Journal) -> None:
        """Steps of one action are done several at a time; one that fails does not keep the others from being done, and
        is told at the end. Nothing is undone: each slot's machine is one of its own."""
        self._applied = True
        if step.action == "give_order":
            wanted: t.Mapping[str, orders.SlotOrder] = step.details["wanted"]
            # Those of all slots, with the first of them.
            orders.change(self.configuration.state_folder, lambda given: given.changed(wanted))
            return
        try:
            if id(step) not in self._doing:
                self._begin(step)
            self._doing[id(step)].result()
        except GridboxError as exc:
            if _silent(exc):
                self._end_all(step, journal)
                raise
            if step.action == "pull_image" and self.wish.machinetype:
                raise GridboxError(f"{exc} Nothing was touched.") from exc
            self._troubles[step.target] = str(exc)
        except BaseException:
            self._end_all(step, journal)
            raise

    def _begin(self, step: Step) -> None:
        """Begin a step, and those of its action that come right after it. The others come after something else: a
        machine, for instance, after its image is pulled."""
        coming = itertools.dropwhile(lambda one: one is not step, self._plan.steps)
        steps = list(itertools.takewhile(lambda one: one.action == step.action, coming))
        if self._pool is not None:
            self._pool.shutdown()
        from concurrent.futures import ThreadPoolExecutor

        self._hands()  # before the threads, which share it
        if self._look is not None and not self._doing:
            from ansible_collections.hep.gridbox.plugins.module_utils.factory import unfinished

            unfinished.remove(self.configuration)
        self._pool = ThreadPoolExecutor(_AT_A_TIME.get(step.action, _STARTS), "vacuum_slot")
        for one in steps:
            self._doing[id(one)] = self._pool.submit(self._carry_out, one)

    def _end_all(self, step: Step, journal: Journal) -> None:
        """What is begun is finished, and nothing else begun.

        :param step: the one that is waited for: those before it are told of, those after it may have come through.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for one in itertools.dropwhile(lambda other: other is not step, self._plan.steps):
            doing = self._doing.get(id(one))
            if doing is not None and not doing.cancelled() and doing.exception() is None:
                journal.beside.append(one)

    def _carry_out(self, step: Step) -> None:
        try:
            self._one(step)
        except OSError as exc:
            raise GridboxError(f"The host says: {exc}.") from exc

    def _one(self, step: Step) -> None:
        hand = self._hands()
        machine: t.Any = step.details.get("machine")
        if step.action == "remove_folders":
            if self._look is None:
                self._wait({step.target})
            hand.remove_folders(step.target)
        elif self._look is None:
            raise GridboxError(f"{step.action} is the daemon's.")
        elif step.action == "adopt_machine":
            hand.adopt(machine)
        elif step.action == "end_machine":
            hand.end(machine)
        elif step.action == "clean_machine":
            hand.clean(machine)
        elif step.action == "forget_machine":
            hand.forget(machine)
        elif step.action == "remove_folder":
            hand.store.forget(machine)
        elif step.action == "remove_stray":
            hand.engine.remove(step.details["container"].id)
        elif step.action == "stop_machine":
            hand.stop(machine, step.details["end"])
        elif step.action == "lower_limit":
            hand.lower(machine, step.details["limit"])
        elif step.action == "remove_left_over":
            hand.work_spaces.remove_left_over(step.details["left"])
        elif step.action == "pull_image":
            hand.pull(step.target)
        else:
            self._started[step.target] = hand.start(step.details["start"], step.details["machinetype"])

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        """Nothing is written to the journal."""

    def before_guard_undo(self) -> None:
        """Nothing is shared."""

    # ---- the wait ------------------------------------------------------------------------------------------------

    def _wait(self, wanted: t.Collection[str]) -> dict[str, str]:
        """Wait until slots are as wanted.

        :returns: by slot, why it is empty although it is to run: the daemon has decided so.
        :raises WaitError: naming the slots, and what was last seen of them.
        """
        deadline = self._began + self.patience.seconds
        while True:
            left, why = self._left(wanted)
            if not left:
                return why
            if time.time() > deadline:
                state = {ABSENT: "stopped", ORDERED: "as ordered"}.get(self.wish.state, self.wish.state)
                some = ", ".join(sorted(left)[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
                seen = "; ".join(f"{slot}: {left[slot]}" for slot in sorted(left)[:5])
                raise WaitError(f"{some} to be {state}", self.patience.seconds, seen)
            time.sleep(_PAUSE)

    def _left(self, wanted: t.Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
        """By slot, what is not yet as wanted; and of those that stay empty, why."""
        folder = self.configuration.state_folder
        listed = self._look.engine.listed() if self._look is not None else None
        last, unread = self._store.last(wanted)
        told = self._told() if self._look is None else None
        given = orders.load(folder)
        obeyed = self._look is not None or (told is not None and told.orders == given)
        settled = told is not None and obeyed and self._has_decided(told)
        begun = told.begun if told is not None else {}
        left: dict[str, str] = {}
        why: dict[str, str] = {}
        for slot in wanted:
            machine = recorded = last.get(slot)
            if machine is not None and (
                machine.state == ENDED or (listed is not None and not machine.is_alive_in(listed))
            ):
                machine = None
            order = given.of(slot)
            state = self.wish.state_of(slot, order)
            if slot in self.wish.former and not self.wish.waits_for(slot, order):
                continue
            if slot in unread:
                # It is somebody's to put right: whoever wants the others filled does not wait for that.
                (why if state == RUNNING else left)[slot] = unread[slot].problem
                continue
            if state == RUNNING:
                if machine is not None and machine.state == RUNNING and self.wish.content_with(slot, machine, order):
                    continue
                reason = _why(told, slot) if machine is None else ""
                if settled and machine is None and not self.wish.machinetype:
                    why[slot] = reason
                else:
                    kept = told.waits(slot) if told is not None and machine is not None else ""
                    runs = f"{machine.machinetype} is {machine.state}" if machine is not None else "it is empty"
                    left[slot] = reason or kept or runs
            elif machine is not None:
                if not self.wish.waits_for(slot, order):
                    continue
                left[slot] = f"{machine.machinetype} runs, until {utc(machine.shutdown_time)} at the latest"
            elif not obeyed:
                left[slot] = "the daemon has not read the order"
            elif slot in begun and (recorded is None or recorded.uuid != begun[slot]):
                left[slot] = "the daemon had just begun to make a machine"
            elif self.wish.state == ABSENT and recorded is not None and not recorded.cleaned:
                left[slot] = f"what {recorded.machinetype} had is being cleaned away"
        return left, why

    def _has_decided(self, told: report.Report) -> bool:
        """Whether the daemon has decided since it was asked, starts nothing now, and waits for no image."""
        starting = any(one.get("state") == STARTING for one in told.slots)
        fetching = any(not one.present and not one.problem for one in told.images.values())
        nothing = told.decision is not None and told.decision.get("start") is None
        return nothing and not starting and not fetching and (told.decided or 0) > self._began

    # ---- result --------------------------------------------------------------------------------------------------

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        why: dict[str, str] = {}
        waits = self.patience.wait and not self._check_mode
        if waits and (self._look is None or self.wish.state == orders.DRAINED):
            # It takes hours, maybe. Meanwhile a daemon may start, and other runs end machines and fill other slots.
            self._held.close()
            why = self._wait(self.wish.slots)
            observed = self.observe()
        elif observed.chances is not None:
            filled = slots.filling(self.wish, self.configuration, observed, Tried(self._started))
            starts = {one.slot for one in filled.starts}
            empty = slots.to_fill(self.wish, self.configuration, observed, Tried(self._started)) - starts
            why = {slot: filled.why_empty(slot) for slot in sorted(empty)}
        last, given = last_in_slots(observed.machines), observed.orders
        unread = in_slots(observed.unreadable, observed.machines)
        told = {
            one: slots.facts(one, last.get(one), given.of(one), why.get(one, ""), unread.get(one))
            for one in self.wish.slots
        }
        warnings = [*(one.sentence for one in observed.unreadable), *self._problems]
        warnings += self._unheard() if self._look is None else ()
        if why:
            reasons = sorted(set(why.values()))
            warnings.append(f"{len(why)} of {len(self.wish.slots)} slots stay empty: {'; '.join(reasons)}")
        return {
            "daemon": self._look is None,
            "slots": list(told.values()),
            "warnings": warnings,
        }


def _why(told: t.Optional[report.Report], slot: str) -> str:
    """Why a slot is empty, by the daemon's last decision."""
    if told is None:
        return ""
    if told.engine_problem:
        return f"the engine does not answer: {told.engine_problem}"
    return told.waits(slot) or str((told.decision or {}).get("factory") or "nothing has been decided yet")


def _silent(problem: GridboxError) -> bool:
    """Whether the engine did not answer, so that there is no sense in going on."""
    return isinstance(problem, EngineError) and problem.status is None

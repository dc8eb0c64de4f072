# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory at work: it fills its slots, sees its machines end, and fills them again.

One thread, the loop's, knows the machines and decides; whatever may wait for the engine, a disk or a server is done in
worker threads, several at a time, each with a machine of its own. Nothing is polled that the engine announces: an end
is an event of its, and the slot is filled when it comes. In between, now and then, everything is looked at as if for
the first time, for an announcement may be lost.

An engine that does not answer says nothing about machines: they are neither ended nor replaced nor forgotten, and
nothing is started, until it answers again (spec 9.1, item 2).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
import typing as t
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    catalogue,
    host_facts,
    mend,
    moved,
    recent_cpu,
    unwanted_images,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding, Repositories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.image_store import ImageStore
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import ImageGoneError, Life
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    STARTING,
    Machine,
    last_ended,
    last_in_slots,
    planned,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, cpu_seconds
from ansible_collections.hep.gridbox.plugins.module_utils.factory.own_thread import in_own_thread
from ansible_collections.hep.gridbox.plugins.module_utils.factory.startable import startable
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable, occupying
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces, promised
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import LOAD_WINDOW
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import (
    Decision,
    Start,
    Unstartable,
    decide_all,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import (
    End,
    Heartbeat,
    ends,
    lowered,
    not_measured,
    wrote_too_much,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.history import histories, works_here
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ordered import exchange
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import CLOCK_TOLERANCE, Space

#: Starts at a time. An engine takes about as long for several as for one after the other; more only wait in it.
STARTS = 4
#: The second are for what machines leave behind. That may take long, and nothing else is to wait for it.
WORKERS, CLEANERS = 12, 12

#: Seconds: between two looks at all containers; between two decisions where nothing has changed; between two
#: measurements of what machines have written; until a machine that outlives KILL, or that nothing could be done with,
#: has its turn.
LOOK, DECIDE, WEIGH, AGAIN = 60, 5, 60, 5
#: Seconds after the first KILL from which on it is told that a machine outlives it; and between two of the later ones.
OUTLIVES, KILL_AGAIN = 30, 60
#: Seconds between two looks for a machine's heartbeat.
BEAT = 5
#: Seconds that pipes have for an answer before the first decision.
FIRST_READ = 5
#: Seconds for which nothing is started after a start that found no room, although a decision had seen some.
SHORTAGE = 60
#: Seconds for which ends count of machinetypes that are not known now. Their pipe may be read again, and then they
#: still back off; for longer than a day few do.
_UNKNOWN_MATTERS = 86400
#: Failures of a machinetype in a row, on which decisions depend, that are remembered.
FAILURES_KEPT = 100
#: Machines that are measured by one process, if it took no more than these seconds for all of them the last time.
WEIGH_TOGETHER, SOON = 32, 5

Say = t.Callable[..., None]


class Factory:
    """The machines of this host.

    :param say: tells an event and its facts, for the journal.
    :ivar space: what the other factories have; its owner sets it.
    :ivar wake: set whenever something may have to be done.
    """

    def __init__(self, configuration: Configuration, say: Say) -> None:
        self.say = say
        self.store = Store(configuration.state_folder)
        self.engine = engine_of(configuration, say)
        self.catalogue = Catalogue()
        self.images = ImageStore(self.engine, configuration.state_folder, self)
        self.machines: dict[str, Machine] = {}
        self.unreadable: list[Unreadable] = []
        self.failures: dict[str, int] = {}
        self.space = Space()
        self.cvmfs: dict[str, Finding] = {}
        self.engine_problem = "The engine has not been asked yet."
        self.engine_since: t.Optional[float] = None
        self.host_problem = ""
        self.decision: t.Optional[Decision] = None
        self.decided: t.Optional[float] = None
        self.wake, self._reading = asyncio.Event(), asyncio.Lock()
        # What the catalogue was made from.
        self._catalogue_of: tuple[object, ...] = catalogue.made_from(configuration)
        # Since when machines have had their time to show that they work; and since when what shows it grows old, if
        # that is not for as long as it says.
        self.watching_since, self._ageing_since = int(time.time()), t.cast(t.Optional[int], None)
        # That by which live machines' times are. It is kept while the clock is not set: those that are to end together
        # end at the same second ever after.
        self._clock = host_facts.clock()
        self.on_end: t.Optional[t.Callable[[Machine], None]] = None
        self._repositories = Repositories(configuration.cvmfs_root)
        # When the look was begun by which ``cvmfs`` goes, by the clock that nobody sets.
        self._touched = -math.inf
        self._tie = random.SystemRandom().random
        self._pool = ThreadPoolExecutor(WORKERS, "gridbox")
        self._cleaners = ThreadPoolExecutor(CLEANERS, "gridbox-clean")
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pids: dict[str, int] = {}
        self._used: dict[str, tuple[recent_cpu.Used, ...]] = {}
        # By machine, the first fatal signal that its container was sent: None if it was the factory's own.
        self._signals: dict[str, t.Optional[int]] = {}
        # By machine, its heartbeat and when that was last found, by the clock that nobody sets; and looks for it.
        self._beats: dict[str, tuple[float, t.Optional[Heartbeat]]] = {}
        self._beat_looks: dict[str, asyncio.Task[None]] = {}
        # Machines for which the engine has taken TERM, or refused it, since this process was.
        self._had_term: set[str] = set()
        # By machine, when it was first sent KILL, by the clock that nobody sets.
        self._killed: dict[str, float] = {}
        # Who looks whether the images are here still that were.
        self._look_again: t.Optional[asyncio.Task[None]] = None
        # When nobody heard the engine.
        self._deaf: deque[tuple[float, float]] = deque(maxlen=16)
        # By machine, how it has ended, until that is written down.
        self._unwritten: dict[str, Machine] = {}
        # When a start last found no room, by the clock that nobody sets, and what it lacked.
        self._shortage = (-math.inf, "")
        # By machine, until when it is left alone, by the clock that nobody sets.
        self._resting: dict[str, float] = {}
        self._changed = True
        self._written: dict[str, Written] = {}
        # By machine, how often in a row what it has written took too long to measure.
        self._in_vain: dict[str, int] = {}
        # When what is done time and again was last done, by a clock that nobody sets.
        self._looked = self._considered = self._weighed = -math.inf
        self._looking = self._deciding = self._weighing = False
        self._weighed_together = WEIGH_TOGETHER
        self._closing = False
        self.configure(configuration)

    # ---- what its owner does -------------------------------------------------------------------------------------

    def configure(self, configuration: Configuration) -> None:
        """Go on with another configuration; machines that run are left alone."""
        self.configuration = configuration
        self.work_spaces = WorkSpaces(configuration)
        self.life = Life(configuration, self.store, self.engine, self.work_spaces, self.say)
        self.changed()

    def changed(self) -> None:
        """Something has changed that a decision may depend on."""
        self._changed = True
        self.wake.set()

    async def in_thread(self, work: t.Callable[..., t.Any], *arguments: t.Any) -> t.Any:
        """Do something that may wait."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _in_cleaner(self, work: t.Callable[..., t.Any], *arguments: t.Any) -> t.Any:
        return await asyncio.get_running_loop().run_in_executor(self._cleaners, work, *arguments)

    def recover(self) -> None:
        """Read what there was before this process was. Before anything else; may wait.

        :raises RefusedError: if machines are of another name than the factory's; then nothing was touched.
        """
        machines, self.unreadable = self.store.read()
        for unread in self.unreadable:
            self.say("record_unreadable", problem=unread.sentence)
        try:
            machines = reports.as_last_seen(machines, reports.load(self.configuration.state_folder))
        except GridboxError as exc:
            self.say("report_unreadable", problem=str(exc))
        moved.check_name(self.configuration, machines, self.unreadable, self._clock)
        self._clock = mend.clock_of(machines, self._clock)
        self.work_spaces.activate()
        self.work_spaces.check()
        self.machines = {machine.uuid: machine for machine in machines}
        for left in self.work_spaces.left_over(self.store.with_work_space(machines, self.unreadable)):
            try:
                self.work_spaces.remove_left_over(left)
                self.say("left_over_removed", what=left.what)
            except GridboxError as exc:  # the machines that there are cannot wait until nobody uses it any more
                self.say("left_over_not_removed", what=left.what, problem=str(exc))
        for machine in machines:
            if machine.state == ENDED:
                self._count_failure(machine)

    async def read_catalogue(self) -> None:
        """Read the configuration's machinetypes, and the pipes that are due."""
        async with self._reading:  # two would write the same copies
            if self._closing:
                return
            configuration = self.configuration
            found = await self.in_thread(catalogue.read, configuration, self.catalogue.pipes)
            source = catalogue.made_from(configuration)
            if not self._is_current(source):
                return  # another reading is for that
            for event, facts in catalogue.news(self.catalogue.pipes, found.pipes):
                self.say(event, **facts)
            self._know(found, source)

    async def begin(self) -> None:
        """Know what is known before the pipes are read, which is done beside. Before the first decision.

        They have a moment to answer, for what is started first is started for hours, and a copy may be old.
        """
        self._catalogue_of = ()
        reading = await self._take_over()
        if reading is not None:
            await asyncio.wait([reading], timeout=FIRST_READ)

    async def _take_over(self) -> t.Optional[asyncio.Task[None]]:
        """Go on with what is known of what another configuration names. Its pipes are read beside: a server that does
        not answer must not keep the factory from what others want.

        :returns: who reads them; None: somebody else does.
        """
        source = catalogue.made_from(self.configuration)
        found = await self.in_thread(catalogue.at_hand, self.configuration, self.catalogue.pipes, time.time())
        if source != self._catalogue_of and self._is_current(source):  # nobody was quicker
            self._know(found, source)
            return self.spawn(self.read_catalogue())
        return None

    def _is_current(self, source: tuple[object, ...]) -> bool:
        """Whether a catalogue that is made from this is one of the configuration as it is now."""
        return source == catalogue.made_from(self.configuration)

    def _know(self, found: Catalogue, source: tuple[object, ...]) -> None:
        self._catalogue_of = source
        if found != self.catalogue:
            self.catalogue = found
            self.changed()
            self.spawn(self.touch_repositories())

    def meant(self) -> list[Machinetype]:
        """Machinetypes that machines are made of here, once all is there that they need."""
        kinds = catalogue.meant(self.catalogue, self.configuration.settings)
        return [one for one in kinds if one.machine_model in self.configuration.models]

    def images_to_have(self) -> dict[str, frozenset[str]]:
        """By reference, the images of those, each with the pipes that name it."""
        return catalogue.images(self.catalogue, self.meant())

    async def touch_repositories(self) -> None:
        """Keep the repositories in use mounted, and see which of them answer."""
        kinds = self.meant()
        live = [machine for machine in self.machines.values() if machine.state != ENDED]
        names = {name for one in kinds for name in one.repositories}
        names.update(name for machine in live for name in machine.cvmfs_repositories)
        begun = time.monotonic()
        found = await self._repositories.touch(sorted(names))
        if begun < self._touched:  # a look that was begun later is over: by then others may have been in use
            return
        self._touched = begun
        if found != self.cvmfs:
            for name, one in found.items():
                if one.ok != self.cvmfs.get(name, Finding(True)).ok:
                    self.say("repository", name=name, ok=one.ok, problem=one.problem)
            self.cvmfs = found
            self.changed()

    def tick(self) -> None:
        """Do what is due. Called whenever ``wake`` is set, and about each second."""
        self._mind_the_clock(int(time.time()))
        now = time.monotonic()
        if now - self._looked >= LOOK or (self.engine_problem and now - self._looked >= 1):
            self.look()
        self._limits(int(time.time()))
        self._weigh(now)
        if self.can_tell and not self._closing:
            self.images.pull(self.images_to_have(), now)
            self.images.tidy(self._wanted_images, lambda: self.configuration.images_days, now)
        due = self._changed or now - self._considered >= DECIDE
        if due and self.can_tell and not self._closing and not self._deciding:
            self._deciding = True
            self.spawn(self._decide())

    def ended(self, identity: str) -> None:
        """The engine says that a machine's container has ended."""
        if identity in self.machines:
            self.spawn(self._look_at(identity))

    def signalled(self, identity: str, signal: int) -> None:
        """The engine says that somebody has sent a signal to a machine's container: the factory, or somebody else."""
        machine = self.machines.get(identity)
        if machine is not None and machine.state != ENDED:
            self._signals.setdefault(identity, signal)

    def deaf(self, since: float) -> None:
        """Nobody hears what the engine says, from then on."""
        if not self._deaf or self._deaf[-1][1] < math.inf:
            self._deaf.append((since, math.inf))

    def hears(self, since: float) -> None:
        """What the engine says is heard, from then on. It may have other images than it had before."""
        if self._deaf and self._deaf[-1][1] == math.inf:
            self._deaf[-1] = (self._deaf[-1][0], since)
            self._look_again = self._look_again or self.spawn(self._look_for_images())

    async def _look_for_images(self) -> None:
        try:
            await self.images.look_again()
        finally:
            self._look_again = None

    def look(self) -> None:
        """Look at all containers, unless that is being done."""
        self._looked = time.monotonic()
        if not self._looking:
            self._looking = True
            self.spawn(self._look())

    async def measure(self) -> None:
        """What machines have used of processors until now. After the end Docker and Podman cannot tell any more."""
        for identity, used in (await self.in_thread(_used, dict(self._pids))).items():
            machine = self.machines.get(identity)
            if machine is not None and machine.state == RUNNING:  # it may have ended meanwhile
                now, kept = int(time.time()), recent_cpu.noted(self._used.get(identity, ()), used)
                self._used[identity] = kept
                self.machines[identity] = replace(
                    mend.seen_to_run(machine, now, self.clock), cpu_seconds=int(used.seconds),
                    cpu_percentage=recent_cpu.percentage(kept),
                )  # fmt: skip

    async def close(self) -> None:
        """Finish what is being done, and leave the machines alone."""
        self._closing = True
        for look in list(self._beat_looks.values()):  # one that does not answer is not waited for
            look.cancel()
        self.images.close()
        self._repositories.close()  # first: a look into one that does not answer is not waited for
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._pool.shutdown(wait=True)
        self._cleaners.shutdown(wait=True)

    @property
    def can_tell(self) -> bool:
        """Whether the engine answers."""
        return not self.engine_problem

    # ---- what has become of machines -----------------------------------------------------------------------------

    async def _read_again(self) -> None:
        """A disk may answer again, and a person may have put a record right, or moved it away."""
        names = [os.path.basename(one.folder) for one in self.unreadable]
        machines, self.unreadable = await self.in_thread(self.store.read, names)
        for machine in machines:
            self.say("record_readable", slot=machine.slot, machine=machine.uuid)
            self.machines[machine.uuid] = machine
        if len(self.unreadable) < len(names):
            self.changed()

    async def _look(self) -> None:
        try:
            if self.unreadable:
                await self._read_again()
            # Of others the list may be older than what is known: one whose start comes through meanwhile is not in it.
            settled = self.machines.keys() - self._busy
            # Whose process is known is not asked for it again: of hundreds of machines that would be most of the work.
            unknown = frozenset(uuid for uuid in self.machines if uuid not in self._pids)
            containers = await self.in_thread(self._listed, unknown, settled | self._busy)
        except GridboxError as exc:
            self._silent(exc)
            return
        finally:
            self._looking = False
        self._answers()
        in_flight = self._busy | (self.machines.keys() - settled)
        found = mend.compare(
            self.machines.values(), containers, in_flight, int(time.time()), self.clock, self.unreadable
        )
        self._take(found, containers)
        for stray in found.strays:
            self.say("stray_removed", container=stray.name, machine=stray.uuid)
            self.spawn(self._remove_stray(stray))
        for machine in list(self.machines.values()):
            if machine.state == ENDED and not machine.cleaned and machine.uuid not in self._busy:
                self.spawn(self._clean(machine))

    def _listed(self, unless: t.Container[str], known: t.Container[str]) -> list[Container]:
        """Containers of this factory's machines.

        :param known: uuids of machines that are known.
        :raises GridboxError: if the engine does not answer, or if it cannot be told whose they are.
        """
        found = self.engine.listed(unless)
        moved.check_folder(
            self.configuration, self.engine, [one for one in found if one.alive and one.uuid not in known]
        )
        return found

    async def _look_at(self, identity: str) -> None:
        machine = self.machines.get(identity)
        if machine is None or identity in self._busy:
            return
        try:
            container = await self.in_thread(self.engine.container, machine.container or machine.container_name)
        except GridboxError as exc:
            self._silent(exc)
            return
        containers = [container] if container is not None else []
        machine = self.machines.get(identity)
        if machine is not None:
            self._take(mend.compare([machine], containers, self._busy, int(time.time()), self.clock), containers)

    def _take(self, found: mend.Found, containers: t.Iterable[Container]) -> None:
        for one in containers:
            machine = self.machines.get(one.uuid)
            if one.alive and one.pid and machine is not None and one.is_of(machine):
                self._pids[one.uuid] = one.pid
        for machine in found.running:
            before = self.machines[machine.uuid]
            self.machines[machine.uuid] = replace(
                machine, cpu_seconds=before.cpu_seconds, cpu_percentage=before.cpu_percentage
            )
            if before.state != RUNNING:
                self.say("machine_adopted", slot=machine.slot, machine=machine.uuid)
                self.spawn(self._save(machine))
        for machine, container in found.over:
            self.spawn(self._over(machine, container))
        for machine in found.unborn:
            self.spawn(self._forget(machine))

    async def _over(self, machine: Machine, container: t.Optional[Container]) -> None:
        """A machine has ended: its slot is free as soon as that is written down."""
        if self._is_done_with(machine):
            return
        self._busy.add(machine.uuid)
        try:
            over = self._unwritten.get(machine.uuid)
            if over is None:
                heard = mend.Heard(self._signals.get(machine.uuid), tuple(self._deaf))
                over = await self.in_thread(self.life.over, machine, container, heard)
                # What it was found out from may go, for room, before it is written down.
                self._unwritten[machine.uuid] = over
            over = await self.in_thread(self.life.record_end, over)
            del self._unwritten[machine.uuid]
            self._have_ended(over)
        except OSError as exc:
            # What is not written down has not happened: its slot stays taken until there is room.
            self._not_recorded(machine, exc)
            self._looked = min(self._looked, time.monotonic() - LOOK + DECIDE)
            return
        finally:
            self._busy.discard(machine.uuid)
        await self._clean(over)

    def _have_ended(self, machine: Machine) -> None:
        self.machines[machine.uuid] = machine
        self._pids.pop(machine.uuid, None)
        self._used.pop(machine.uuid, None)
        self._signals.pop(machine.uuid, None)
        self._had_term.discard(machine.uuid)
        self._killed.pop(machine.uuid, None)
        self._beats.pop(machine.uuid, None)
        self._resting.pop(machine.uuid, None)
        self._count_failure(machine)
        self.say(
            "machine_ended", slot=machine.slot, machine=machine.uuid, machinetype=machine.machinetype,
            message=machine.shutdown_message, code=machine.end_code, reason=machine.end_reason,
            seconds=(machine.ended or 0) - (machine.started or machine.ended or 0), cpu_seconds=machine.cpu_seconds,
        )  # fmt: skip
        if self.on_end is not None:
            self.on_end(machine)
        self.changed()

    def _is_done_with(self, machine: Machine) -> bool:
        """Whether a worker has it in hand, or it has ended, since it was found that something is to be done with it."""
        known = self.machines.get(machine.uuid)
        return machine.uuid in self._busy or known is None or known.state == ENDED

    async def _clean(self, machine: Machine) -> None:
        known = self.machines.get(machine.uuid)
        if machine.uuid in self._busy or known is None or known.cleaned:
            return
        self._busy.add(machine.uuid)
        try:
            self.machines[machine.uuid] = await self._in_cleaner(self.life.clean, machine)
        except (GridboxError, OSError) as exc:
            self.say("cleaning_failed", slot=machine.slot, machine=machine.uuid, problem=str(exc))
        finally:
            self._busy.discard(machine.uuid)
        self._trim()

    async def _forget(self, machine: Machine) -> None:
        if self._is_done_with(machine):
            return
        self._busy.add(machine.uuid)
        try:
            await self._in_cleaner(self.life.forget, machine)
            del self.machines[machine.uuid]
            self.say("unborn_removed", slot=machine.slot, machine=machine.uuid)
            self.changed()
        except (GridboxError, OSError) as exc:
            self.say("cleaning_failed", slot=machine.slot, machine=machine.uuid, problem=str(exc))
        finally:
            self._busy.discard(machine.uuid)

    async def _remove_stray(self, container: Container) -> None:
        try:
            await self._in_cleaner(self.engine.remove, container.id)
        except GridboxError as exc:
            self.say("cleaning_failed", container=container.name, problem=str(exc))

    async def _save(self, machine: Machine) -> None:
        await self.in_thread(self._write_down, machine)

    def _write_down(self, machine: Machine) -> None:
        """Save a record; if that cannot be, the one before stays. What happens to the machine does not depend on it,
        and a factory that starts with the older record finds out what has become of the machine."""
        try:
            self.store.save(machine)
        except OSError as exc:
            self._not_recorded(machine, exc)

    def _not_recorded(self, machine: Machine, problem: OSError) -> None:
        self.say("record_not_written", slot=machine.slot, machine=machine.uuid, problem=str(problem))

    def _silent(self, problem: GridboxError) -> None:
        if self.engine_since is None:  # at the first look of all, too
            self.say("engine_silent", problem=str(problem))
            self.engine_since = time.time()
        self.engine_problem = str(problem)

    def _answers(self) -> None:
        if self.engine_problem:
            self.say("engine_answers")
            self.changed()
        self.engine_problem, self.engine_since = "", None

    def _count_failure(self, machine: Machine) -> None:
        """How often in a row machines of a type have not worked here, for whoever watches. That there is nothing to do
        for them is no failure."""
        worked = works_here(machine.own(), machine.fizzle_seconds, int(time.time()))
        if worked is not None:
            self.failures[machine.machinetype] = 0 if worked else self.failures.get(machine.machinetype, 0) + 1

    def _trim(self) -> None:
        """Forget machines that no decision and no answer depends on any more. Their folders stay for their days."""
        now = time.time()
        matters = {
            one.name: max(one.backoff_seconds + one.fizzle_seconds, LOAD_WINDOW) for one in self.catalogue.machinetypes
        }
        machines = self.machines.values()
        keep = {one.uuid for one in (*last_in_slots(machines).values(), *last_ended(machines, now).values())}
        for machine in self.machines.values():
            over = machine.state == ENDED and machine.cleaned
            if not over or (machine.ended or 0) > now - matters.get(machine.machinetype, _UNKNOWN_MATTERS):
                keep.add(machine.uuid)
        own = {machine.own(): machine for machine in self.machines.values()}
        shown = ((one, machine.fizzle_seconds) for one, machine in own.items())
        for history in histories(shown, int(now), int(now) + CLOCK_TOLERANCE).values():
            keep.update(own[one].uuid for one in history.failed[-FAILURES_KEPT:])
            if history.worked is not None:
                keep.add(own[history.worked].uuid)
        self.machines = {identity: machine for identity, machine in self.machines.items() if identity in keep}

    # ---- the clock -----------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The host's clock; while it is not set, the same."""
        found = host_facts.clock()
        return found if found.ahead(self._clock.boot, self._clock.booted) else replace(self._clock, slept=found.slept)

    def _mind_the_clock(self, now: int) -> None:
        """Have machines that run told of a clock that was set, by NTP after a boot or by a person. Until that is done
        with one, it is not judged by its limits; nor is it by what it could not write while the host was suspended."""
        before, self._clock = self._clock, self.clock
        ahead, slept = self._clock.ahead(before.boot, before.booted), self._clock.slept - before.slept
        if ahead:
            self.say("clock_set", seconds=ahead)
        if slept > CLOCK_TOLERANCE:
            self.say("host_suspended", seconds=slept)
        if ahead or slept > CLOCK_TOLERANCE:
            self.watching_since = self._ageing_since = now
        for machine in self._behind(self._clock):
            if machine.uuid not in self._busy and not self._closing:
                self._busy.add(machine.uuid)  # from now on, or its limits would be judged in this turn
                self.spawn(self._at_work(machine, self._move, machine, self._clock))

    def _behind(self, clock: Clock) -> list[Machine]:
        """Machines that run, and whose times are not by the clock any more."""
        live = (one for one in self.machines.values() if one.state == RUNNING)
        return [one for one in live if clock.ahead(one.boot, one.booted)]

    def _move(self, machine: Machine, clock: Clock) -> Machine:
        """Write down a machine's times by the clock as it is now, and tell it. They count even if that cannot be."""
        moved_to = mend.by_the_clock(machine, int(time.time()), clock)
        facts = {"slot": machine.slot, "machine": machine.uuid, "seconds": clock.ahead(machine.boot, machine.booted)}
        self.say("machine_times_moved", **facts, shutdown_time=moved_to.shutdown_time)
        try:
            self.life.move(moved_to)
        except OSError as exc:
            self._not_recorded(machine, exc)
        return moved_to

    # ---- limits --------------------------------------------------------------------------------------------------

    def _limits(self, now: int) -> None:
        if not self.can_tell:
            return
        live = [machine for machine in self.machines.values() if machine.state == RUNNING]
        own = [machine.own() for machine in live]
        slots = {one.slot: one for one in live if one.uuid not in self._busy and not self._rests(one)}
        heartbeats = self._heartbeats(live)
        written = {one.slot: self._written[one.uuid].outside or 0 for one in live if one.uuid in self._written}
        settings = self.configuration.settings
        found = {end.slot: end for end in wrote_too_much(own, written, self.configuration.root_bytes_per_processor)}
        found.update((end.slot, end) for end in not_measured(own, self.unmeasured))
        found.update((end.slot, end) for end in ends(settings, own, heartbeats, now, self.watching_since))
        for end in found.values():
            machine = slots.get(end.slot)
            if machine is not None and machine.told is None:
                self.spawn(self._tell(machine, end, now))
        for machine in slots.values():
            if machine.told is None:
                continue
            if machine.uuid not in self._had_term:
                self.spawn(self._tell_again(machine, now))
            elif now >= machine.told + self.configuration.grace_seconds:
                self.spawn(self._kill(machine))
        # Last: of two that are begun here for one machine the second does nothing, and the end must not wait.
        for slot, limit in lowered(settings, own).items():
            if slot in slots:
                self.spawn(self._lower(slots[slot], limit))

    def _heartbeats(self, live: t.Iterable[Machine]) -> dict[str, Heartbeat]:
        """By slot, heartbeats as they were last found. They are looked for beside, each by itself: a work space on a
        disk that does not answer must hold up nothing, and its machine is not judged by what nobody could see."""
        now, found = time.monotonic(), {}
        for machine in live:
            looked, beat = self._beats.get(machine.uuid, (-math.inf, None))
            if beat is not None:
                since = max((self._ageing_since or 0, machine.set_at))
                found[machine.slot] = beat.ageing_since(since) if since else beat
            due = now - looked >= BEAT and machine.uuid not in self._beat_looks and not self._closing
            if machine.heartbeat_file and due:
                look = asyncio.get_running_loop().create_task(self._look_for_heartbeat(machine))
                self._beat_looks[machine.uuid] = look
        return found

    async def _look_for_heartbeat(self, machine: Machine) -> None:
        try:
            found = await in_own_thread(self.store.heartbeats, [machine])
            known = self.machines.get(machine.uuid)
            if known is not None and known.state == RUNNING:
                self._beats[machine.uuid] = (time.monotonic(), found.get(machine.slot))
        finally:
            self._beat_looks.pop(machine.uuid, None)

    @property
    def unmeasured(self) -> dict[str, int]:
        """By slot, how often in a row what its machine has written took too long to measure."""
        return {self.machines[uuid].slot: times for uuid, times in self._in_vain.items() if uuid in self.machines}

    def _weigh(self, now: float) -> None:
        """Measure what machines have written where nothing limits it, unless that is being done."""
        if self.can_tell and not self._closing and not self._weighing and now - self._weighed >= WEIGH:
            self._weighed, self._weighing = now, True
            self.spawn(self._weigh_all())

    async def _weigh_all(self) -> None:
        """One after the other, for it is the disk that they wait for; some at once while that has an answer soon."""
        written: dict[str, Written] = {}
        in_vain: dict[str, int] = {}
        begun, together = time.monotonic(), self._weighed_together
        left = [one for one in self.machines.values() if one.state == RUNNING]
        try:
            while left and not self._closing:
                these, left = left[:together], left[together:]
                try:
                    written.update(await self.in_thread(self.life.written, these))
                except (GridboxError, OSError) as exc:
                    if together > 1:  # whose fault it is will be seen
                        left, together = these + left, 1
                        continue
                    [machine] = these
                    # That an engine does not answer says nothing about the machine.
                    times = self._in_vain.get(machine.uuid, 0) + isinstance(exc, WaitError)
                    if times:
                        in_vain[machine.uuid] = times
                    self.say(
                        "measuring_failed", slot=machine.slot, machine=machine.uuid, problem=str(exc), in_a_row=times
                    )
                    if machine.uuid in self._written:
                        written[machine.uuid] = self._written[machine.uuid]
            self._weighed_together = WEIGH_TOGETHER if time.monotonic() - begun < SOON else 1
            self._written, self._in_vain = written, in_vain
            self.wake.set()
        finally:
            self._weighing = False

    async def _lower(self, machine: Machine, limit: int) -> None:
        if self._is_done_with(machine):
            return
        await self._at_work(machine, self.life.lower, machine, limit)

    async def _tell(self, machine: Machine, end: End, now: int) -> None:
        if self._is_done_with(machine):
            return
        told = replace(
            machine, told=now, end_code=end.code, end_reason=end.reason, shutdown_message=end.message
        )  # fmt: skip
        self._signals.setdefault(machine.uuid, None)
        self.say("machine_told_to_end", slot=machine.slot, machine=machine.uuid, code=end.code, reason=end.reason)
        await self._at_work(told, self._send_term, told)

    async def _tell_again(self, machine: Machine, now: int) -> None:
        """TERM for a machine of which it is written down that it was told to end: before the signal, so that whoever
        wrote that may have been killed in between, or have had no answer."""
        if self._is_done_with(machine):
            return
        self._signals.setdefault(machine.uuid, None)
        self.say("machine_told_again", slot=machine.slot, machine=machine.uuid, reason=machine.end_reason)
        told = replace(machine, told=now)
        await self._at_work(told, self._send_term, told)

    def _send_term(self, machine: Machine) -> Machine:
        self._write_down(machine)  # first, or after a crash it would have ended by itself
        try:
            self.engine.signal(machine.container, "SIGTERM")
        except EngineError as exc:
            if exc.status is not None:
                self._had_term.add(machine.uuid)
            raise
        self._had_term.add(machine.uuid)
        # It may have taken a while, and the grace begins now.
        return replace(machine, told=mend.by_its_clock(machine, int(time.time()), host_facts.clock()))

    async def _kill(self, machine: Machine) -> None:
        if self._is_done_with(machine):
            return
        if machine.uuid not in self._killed:
            self._killed[machine.uuid] = time.monotonic()
            self.say("machine_killed", slot=machine.slot, machine=machine.uuid, grace=self.configuration.grace_seconds)
        elif self._outlives(machine.uuid):
            seconds = int(time.monotonic() - self._killed[machine.uuid])
            self.say("machine_outlives_kill", slot=machine.slot, machine=machine.uuid, seconds=seconds)
        self._rest(machine)
        await self._at_work(machine, self._send_kill, machine)

    def _outlives(self, identity: str) -> bool:
        """Whether a machine has been sent KILL, and is there still: a process of it waits for a file system that does
        not answer, and nobody can end it. It keeps its slot, for what it has is not free."""
        return time.monotonic() - self._killed.get(identity, math.inf) >= OUTLIVES

    @property
    def outliving(self) -> dict[str, float]:
        """By slot, since when a machine there outlives KILL, Unix seconds."""
        live = [one for one in self.machines.values() if one.state == RUNNING and self._outlives(one.uuid)]
        return {one.slot: time.time() - (time.monotonic() - self._killed[one.uuid]) for one in live}

    def _send_kill(self, machine: Machine) -> Machine:
        self.engine.signal(machine.container, "SIGKILL")
        return machine

    def _rest(self, machine: Machine) -> None:
        """Do nothing with a machine for some time: each end of a task is a turn, so that would be without a pause."""
        self._resting[machine.uuid] = time.monotonic() + (KILL_AGAIN if self._outlives(machine.uuid) else AGAIN)

    def _rests(self, machine: Machine) -> bool:
        return time.monotonic() < self._resting.get(machine.uuid, -math.inf)

    async def _at_work(self, machine: Machine, work: t.Callable[..., Machine], *arguments: t.Any) -> None:
        self._busy.add(machine.uuid)
        try:
            self.machines[machine.uuid] = await self.in_thread(work, *arguments)
        except EngineError as exc:
            if exc.status is None:
                self._silent(exc)
            else:
                self.say("engine_refused", slot=machine.slot, machine=machine.uuid, problem=str(exc))
                self.machines[machine.uuid] = machine  # that it was told counts: after its grace comes KILL
                self._rest(machine)
        except (GridboxError, OSError) as exc:
            self.say("step_failed", slot=machine.slot, machine=machine.uuid, problem=str(exc))
            self._rest(machine)
        finally:
            self._busy.discard(machine.uuid)
        await self._look_at(machine.uuid)

    # ---- starts --------------------------------------------------------------------------------------------------

    def startable(self) -> tuple[list[Machinetype], list[Unstartable]]:
        """Machinetypes whose machines can be made here, now; and the others, with the reason."""
        missing = self.images.missing(one.root_image for one in self.catalogue.machinetypes)
        return startable(self.catalogue, self.configuration, self.configuration.settings, self.cvmfs, missing)

    async def _decide(self) -> None:
        """Fill slots by what the host has now; for LVM's word about that commands are run, which may wait."""
        self._changed, self._considered = False, time.monotonic()
        try:
            if not self._is_current(self._catalogue_of):
                await self._take_over()
            written = {uuid: one.inside for uuid, one in self._written.items()}
            kept = promised(self.configuration, self.catalogue.machinetypes, self.machines.values(), written)
            host = await self.in_thread(lambda: host_facts.load(*self.work_spaces.room_bytes(kept)))
            self.host_problem = ""
            self._fill(host, int(time.time()))
        except (GridboxError, OSError) as exc:
            if not self.host_problem:
                self.say("host_unreadable", problem=str(exc))
            self.host_problem = str(exc)
        finally:
            self._deciding = False

    def _fill(self, host: HostLoad, now: int) -> None:
        if not self.can_tell or self._closing:  # since it was asked
            return
        if self._behind(self.clock):
            return  # a new machine's times would be by another clock than theirs
        if not self._is_current(self._catalogue_of):  # what the configuration does not want any more must not start
            return
        at, shortage = self._shortage
        left = at + SHORTAGE - time.monotonic()
        if left > 0:
            text = f"a start found no room, and the next is tried in {math.ceil(left)} s: {shortage}"
            host = replace(host, shortage=text)
        settings = self.configuration.settings
        free = STARTS - sum(machine.state == STARTING for machine in self.machines.values())
        own = [machine.own() for machine in self.machines.values()]
        can, cannot = self.startable()
        own += occupying(self.unreadable, self.machines.values())
        made = decide_all(settings, can, own, self.space, host, now, self._tie, max(free, 0) or 1, cannot)
        for decision in made:
            self.decision, self.decided = decision, time.time()
            if decision.start is not None and free > 0:
                self._begin(decision.start, now)
        self._exchange(host, can, cannot, now)

    def _exchange(self, host: HostLoad, can: list[Machinetype], cannot: list[Unstartable], now: int) -> None:
        """Have machines end for what was ordered for their slots, if it can be started in their room, by what the host
        has now."""
        settings, machines = self.configuration.settings, self.machines.values()
        own = [*(machine.own() for machine in machines), *occupying(self.unreadable, machines)]
        made = exchange(settings, can, {one.machinetype: one.refusal for one in cannot}, own, host, now)
        if self.decision is not None and made.waiting:
            self.decision = replace(self.decision, waiting=(*self.decision.waiting, *made.waiting))
        images = {one.name: one.root_image for one in can}
        running = {one.slot: one for one in machines if one.state == RUNNING}
        for end in made.ends:
            machine = running[end.slot]
            if machine.told is None and not self._rests(machine):
                image = images[settings.forced[end.slot].machinetype]
                self.spawn(self._make_room(machine.uuid, end, image, now))

    async def _make_room(self, identity: str, end: End, image: str, now: int) -> None:
        """Tell a machine to end for one that is made from this image, unless somebody has removed the image by hand."""
        await self.images.look_for(image)
        machine = self.machines.get(identity)
        if machine is not None and machine.told is None and not self.images.missing([image]):
            await self._tell(machine, end, now)

    def _begin(self, start: Start, now: int) -> None:
        kind = next(one for one in self.catalogue.machinetypes if one.name == start.machinetype)
        machine = planned(start, kind, self.configuration.settings, now, self.clock)
        self.machines[machine.uuid] = machine
        # From now on, not from the first step of its task: a look that begins in between would take it for settled.
        self._busy.add(machine.uuid)
        self.spawn(self._start(machine, kind))

    async def _start(self, machine: Machine, kind: Machinetype) -> None:
        try:
            image = self.images.here.get(kind.root_image)
            if image is None or image.id is None:  # since it was decided
                raise ImageGoneError(f"The image {kind.root_image} was removed meanwhile.")
            machine = await self.in_thread(self.life.start, machine, kind, image.id)
        except NoRoomError as exc:
            self._shortage = (time.monotonic(), str(exc).rstrip("."))
            self.say("no_room", slot=machine.slot, machine=machine.uuid, problem=str(exc))
            self.spawn(self._forget(machine))  # when it is not busy any more
            return
        except ImageGoneError as exc:
            self.say("image_gone", slot=machine.slot, machine=machine.uuid, problem=str(exc))
            await self.images.look_for(kind.root_image)
            self.spawn(self._forget(machine))  # likewise
            return
        except GridboxError as exc:
            self._silent(exc)  # nobody can tell whether it runs: the next look will
            return
        except OSError as exc:
            machine = mend.not_started(machine, f"Making it failed ({exc}).", int(time.time()))
            if self.store.has(machine):
                await self._save(machine)
        finally:
            self._busy.discard(machine.uuid)
        self.machines[machine.uuid] = machine
        if machine.state == ENDED:
            self._have_ended(machine)
            await self._clean(machine)
            await self.images.look_for(kind.root_image)
            return
        self.say("machine_started", slot=machine.slot, machine=machine.uuid, machinetype=machine.machinetype)
        self.changed()
        await self._look_at(machine.uuid)  # it may be over already

    def _wanted_images(self) -> t.Optional[unwanted_images.Wanted]:
        return unwanted_images.wanted(self.configuration, self.catalogue, self.machines.values())

    def spawn(self, work: t.Coroutine[t.Any, t.Any, None]) -> asyncio.Task[None]:
        """Have something done; the factory does not close before it is, and tells if it fails."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.say("internal_error", problem=repr(task.exception()))
        self.wake.set()


def _used(pids: t.Mapping[str, int]) -> dict[str, recent_cpu.Used]:
    """What machines have used of processors, of those that can be asked. Waits for the kernel."""
    found = ((identity, cpu_seconds(pid), time.monotonic()) for identity, pid in pids.items())
    return {identity: recent_cpu.Used(at, used) for identity, used, at in found if used is not None}

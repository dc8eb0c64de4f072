# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The factory's daemon: a factory at work, the others of its space, and whoever wants to know.

It runs in the foreground; systemd or a person ends it with TERM or INT. Machines are left alone then, and found again
by the next one. Its configuration and what operators order (``orders.py``) are read again when their files change, and
on HUP; a file that is wrong is told and not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import threading
import time
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    accounting,
    host_facts,
    kept_outputs,
    metrics,
    orders,
    space,
    state,
    unfinished,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import PipeState
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import (
    WHERE_MACHINES_ARE,
    Configuration,
    Override,
    load,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.events import journal_line
from ansible_collections.hep.gridbox.plugins.module_utils.factory.factory import Factory
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine, last_ended, last_in_slots
from ansible_collections.hep.gridbox.plugins.module_utils.factory.own_thread import in_own_thread
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import at_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import LOOPBACK, Access, address_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED, SILENT, Budget, Result, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder, Snapshot
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Guard, Key, load_key
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Space, of_space
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.vacmon import Sender, end_message, status_messages

#: Seconds: between polls of the space, reads of what pipes are due, reports, messages to monitors, looks whether the
#: configuration or the orders have changed, looks into repositories, removals of old folders, looks whether there is
#: room for what is kept of machines, files of metrics, and looks whether sync records of the accounting are due.
POLL, PIPES, REPORT, MONITORS, CONFIGURATION, CVMFS, EXPIRE, ROOM, METRICS, APEL = (
    30, 10, 5, 60, 2, 60, 3600, 60, 60, 300,
)  # fmt: skip

#: For the question whether those are there that were silent before: over before the poll is.
_THERE = Budget(0.6, 2)


def say(event: str, **facts: t.Any) -> None:
    """A line of the journal, on standard output. What cannot be told there has no room, and must not stop anything."""
    with contextlib.suppress(OSError):
        sys.stdout.write(journal_line(event, **facts) + "\n")
        sys.stdout.flush()


def _monitor(name: str, problem: str) -> None:
    """Tell that a monitor cannot be told any more what the factory does, or can again."""
    if problem:
        say("monitor_not_told", monitor=name, problem=problem)
    else:
        say("monitor_told_again", monitor=name)


class Daemon:
    """A factory's daemon.

    :param path: of the configuration.
    :raises GridboxError: if the configuration cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp, self._program = reports.stamp(path), reports.stamp(sys.argv[0])
        self._given = self.configuration = load(path)
        self._problem, self._problem_since = "", t.cast(t.Optional[float], None)
        self.orders, self._orders_problem = orders.Orders(), ""
        self._orders_stamp = ""
        self._started = time.time()
        self._key: t.Optional[Key] = None
        self._key_stamp = ""
        self._result: t.Optional[Result] = None
        # When the poll was begun by which it is known who may ask, and what they run, by the clock that nobody sets.
        self._polled = -math.inf
        self._there: set[str] = set()
        self._told: tuple[t.Any, ...] = ()
        self._metrics_file, self._metrics_problem = "", ""

    async def run(self) -> None:
        """Work until told to end.

        :raises GridboxError: if it cannot begin: another one runs, the port is taken, work spaces cannot be made.
        """
        loop = asyncio.get_running_loop()
        # First: what is to be read again is read when there is a factory, and to begin may take minutes.
        self._stop, self._hung_up = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        os.makedirs(self.configuration.state_folder, mode=0o755, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(_alone(self.configuration.state_folder))
            unfinished.remove(self.configuration)
            self._remember()
            self._begin_with_orders()
            self.configuration = self._with_orders()
            self._key_stamp = reports.stamp(self.configuration.key_file) if self.configuration.key_file else ""
            self._key = load_key(self.configuration.key_file) if self.configuration.key_file else None
            configuration = self.configuration
            guard = Guard(self._key, configuration.settings.name, configuration.signed_only) if self._key else None
            self.resolver = Resolver()
            self.factory = Factory(self.configuration, say)
            self.responder = Responder(Access(networks=(*LOOPBACK, *self.configuration.networks)), guard)
            self.responder.open(self.configuration.port)
            held.callback(self.responder.close)
            if self.responder.without_ipv6:
                say("without_ipv6", problem=self.responder.without_ipv6)
            self.monitors = Sender(self.configuration.vacmon, self.resolver, _monitor)
            held.callback(self.monitors.close)
            if not await self._recover():
                say("factory_stopped", factory=self.configuration.settings.name)
                return
            self.factory.on_end = self._tell_end
            say("factory_started", factory=self.configuration.settings.name, version=PRODUCT)
            await self._try(self.factory.begin)
            await self._look_at_host()
            self._answer()
            self.responder.attach(loop)
            # Before the first decision: else it would be one for an empty space.
            await self._try(self._poll)
            listener = _Listener(self.factory, loop)
            listener.start()
            tasks = [loop.create_task(self._ticks()), loop.create_task(self._hang_ups())] + [
                loop.create_task(self._every(seconds, work, wait))
                for seconds, work, wait in (
                    (POLL, self._poll, POLL), (PIPES, self.factory.read_catalogue, PIPES), (REPORT, self._tell, 0),
                    (MONITORS, self._tell_monitors, 0), (CONFIGURATION, self._look_at_file, 0),
                    (CVMFS, self.factory.touch_repositories, 0), (EXPIRE, self._expire, 0),
                    (ROOM, self._look_at_room, ROOM), (METRICS, self._tell_metrics, REPORT),
                    (APEL, self._tell_apel, APEL),
                )
            ]  # fmt: skip
            await self._stop.wait()
            await end_all(tasks)
            listener.stop()
            await self.factory.close()
            await self._try(self._tell_last)
            say("factory_stopped", factory=self.configuration.settings.name)

    async def _recover(self) -> bool:
        """Read what there was before this process was. Returns whether that is done: if it is to end meanwhile, nobody
        waits for it, for it may wait itself for what a daemon before had begun."""
        recovering = asyncio.ensure_future(in_own_thread(self.factory.recover))
        told = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([recovering, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not recovering.done():
            recovering.cancel()
            return False
        await recovering
        return True

    async def _ticks(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.factory.wake.wait(), 1.0)
            self.factory.wake.clear()
            await self._try(self._turn)

    async def _turn(self) -> None:
        self.factory.tick()
        self._answer()

    async def _every(self, seconds: float, work: t.Callable[[], t.Awaitable[None]], wait: float = 0) -> None:
        await asyncio.sleep(wait)
        while not self._stop.is_set():
            await self._try(work)
            await asyncio.sleep(seconds)

    async def _try(self, work: t.Callable[[], t.Awaitable[None]]) -> None:
        """Do something that may fail now and do better the next time."""
        try:
            await work()
        except (GridboxError, OSError) as exc:
            say("step_failed", step=work.__name__.strip("_"), problem=str(exc))
        except Exception as exc:  # noqa: BLE001  a task that ends is missed by nobody, and the report would go on
            say("internal_error", step=work.__name__.strip("_"), problem=repr(exc))

    # ---- configuration -------------------------------------------------------------------------------------------

    async def _look_at_file(self) -> None:
        self._read_again(False)
        if reports.stamp(orders.path_of(self.configuration.state_folder)) != self._orders_stamp:
            await self._obey()

    async def _hang_ups(self) -> None:
        while not self._stop.is_set():
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._try(self._hang_up)

    async def _hang_up(self) -> None:
        self._read_again(True)
        await self._obey()

    async def _obey(self) -> None:
        """Read what is ordered now, and tell at once that it was read: somebody waits for that."""
        if self._take_orders():
            self._use()
        await self._tell()

    def _begin_with_orders(self) -> None:
        """Nobody knows what was obeyed before: with orders that cannot be read nothing is started until they can."""
        self._take_orders()
        if self._orders_problem:
            self.orders = orders.Orders(draining=True)

    def _take_orders(self) -> bool:
        """Read what is ordered. Returns whether that has changed."""
        folder, before = self.configuration.state_folder, self.orders
        self._orders_stamp = reports.stamp(orders.path_of(folder))
        try:
            self.orders = orders.load(folder)
        except GridboxError as exc:
            self._orders_problem = str(exc)
            say("orders_refused", problem=self._orders_problem)
            return False
        self._orders_problem = ""
        if self.orders != before:
            say("orders_read", **self.orders.as_data())
        return self.orders != before

    def _with_orders(self) -> Configuration:
        return replace(self._given, settings=self.orders.over(self._given.settings))

    def _use(self) -> None:
        """Go on with the configuration and the orders as they are now."""
        self.configuration = self._with_orders()
        self.factory.configure(self.configuration)
        if self.responder.guard is not None:  # the same one: it remembers what came before
            self.responder.guard.required = self.configuration.signed_only
        self.monitors.monitors = self.configuration.vacmon

    def _read_again(self, asked: bool) -> None:
        stamp = reports.stamp(self._path)
        if stamp == self._stamp and not asked:
            return
        self._stamp = stamp
        try:
            wanted = load(self._path)
            fixed = [name for name, value in wanted.fixed.items() if value != self.configuration.fixed[name]]
            if fixed:
                found = f"{', '.join(fixed)} cannot change while the factory runs"
                raise RefusedError(f"The configuration {self._path}", found, _to_change(fixed))
        except GridboxError as exc:
            self._problem, self._problem_since = str(exc), self._problem_since or time.time()
            say("configuration_refused", problem=self._problem)
            return
        self._problem, self._problem_since = "", None
        if wanted != self._given:
            metrics_moved = wanted.metrics_file != self._given.metrics_file
            self._given = wanted
            self._use()
            if metrics_moved:
                self.factory.spawn(self._try(self._tell_metrics))
            say("configuration_read")
            self.factory.spawn(self._try(self._poll))  # who may ask, and who is asked, are others now

    # ---- the space -----------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Ask the others what they run; and let those ask us that are named, wherever their names point now."""
        begun = time.monotonic()
        configuration, own = self.configuration, self.configuration.settings.name
        peers = configuration.others
        names = [one.host or one.factory for one in peers]
        resolved = await self.resolver.resolve(names, 2.0) if names else {}
        if not self._is_newest(begun):
            return
        addresses = {address_of(address[1]) for found in resolved.values() for address in found.addresses}
        self.responder.access = Access(
            frozenset(one for one in addresses if one is not None),
            (*LOOPBACK, *configuration.networks), configuration.open,
        )  # fmt: skip
        if not peers:  # any more: what the last one had is nothing to this factory now
            if self._result is not None:
                self._result, self.factory.space = None, Space()
                self.factory.changed()
            return
        silent = self._result.silent_since if self._result is not None else {}
        answers = space.Usages()
        result, there = await asyncio.gather(
            poll(
                "machinetypes_query", configuration.space, peers, self.resolver,
                silent_since=silent, key=self._key, version=PRODUCT, heard=answers.add,
            ),
            # One without machinetypes has nothing to send, as a real Vac of which nothing has run for a day.
            poll(
                "factory_query", configuration.space, [one for one in peers if one.factory.lower() in silent],
                self.resolver, budget=_THERE, key=self._key, version=PRODUCT,
            ),
        )  # fmt: skip
        if not self._is_newest(begun):
            return
        self._result = result
        self._there = {name for name, one in there.outcomes.items() if one.state == ANSWERED}
        known = {one.name for one in self.factory.catalogue.machinetypes}
        self.factory.space = of_space(answers, own, int(time.time()), self.factory.space.aborts_of(known))
        self.factory.changed()

    def _is_newest(self, begun: float) -> bool:
        """Whether what came of a poll counts: nothing does yet of one that was begun later, by the configuration as it
        was then."""
        newest = begun >= self._polled
        self._polled = max(begun, self._polled)
        return newest

    def _snapshot(self) -> Snapshot:
        machines, now = self.factory.machines.values(), int(time.time())
        return state.snapshot(
            self.configuration, self.factory.catalogue.machinetypes, last_in_slots(machines), last_ended(machines, now),
            self._host, PRODUCT, now,
        )  # fmt: skip

    def _answer(self) -> None:
        """From now on others are told what is. The responder's answers are made anew with it, so it is only when there
        is something new to tell: beside what is compared here, answers have the factory's heartbeat, and count the
        machines that are younger than ``fizzle_seconds``; for these two, seconds of the clock are enough."""
        factory = self.factory
        told = (
            self.configuration, factory.catalogue.machinetypes, tuple(factory.machines.values()), self._host,
            int(time.time()) // REPORT,
        )  # fmt: skip
        if told != self._told:
            self._told, self.responder.snapshot = told, self._snapshot()

    async def _tell_monitors(self) -> None:
        if self.configuration.vacmon:
            await self.monitors.send(status_messages(self._snapshot(), time.time()))

    def _tell_end(self, machine: Machine) -> None:
        if not self.configuration.vacmon or machine.started is None:
            return
        status = state.machine_status(machine.slot, machine)
        ended = float(machine.ended or time.time())
        data = end_message(self._snapshot(), status, machine.shutdown_message, ended, time.time())
        self.factory.spawn(self.monitors.send([data]))

    # ---- whoever wants to know -----------------------------------------------------------------------------------

    async def _look_at_host(self) -> None:
        self._host = await self.factory.in_thread(host_facts.facts, self.configuration.state_folder)

    async def _tell(self) -> None:
        await self._look_at_host()
        await self.factory.measure()
        await self.factory.in_thread(reports.write, self.configuration.state_folder, self.report())

    async def _tell_apel(self) -> None:
        """Tell APEL once a day how many records it should have. Not at once: of machines that have ended while no
        daemon ran the records are about to be written."""
        if accounting.is_outgoing(self.configuration):
            folder = self.configuration.state_folder
            for path in await self.factory.in_thread(accounting.write_due, folder, time.time()):
                say("apel_sync_written", file=path)

    def _remember(self) -> None:
        """What the daemon before has left that is to go when it is not wanted any more."""
        with contextlib.suppress(GridboxError):  # a report that is damaged is about to be replaced
            last = reports.load(self.configuration.state_folder)
            self._metrics_file = last.metrics_file if last is not None else ""

    async def _tell_metrics(self) -> None:
        await self.factory.in_thread(self._write_metrics, self.configuration.metrics_file, self.report())

    def _write_metrics(self, wanted: str, report: reports.Report) -> None:
        """Put the metrics where Prometheus' node_exporter reads them, if that is wanted. A file that was written under
        another name goes: its figures would be told for ever."""
        problem = ""
        try:
            if self._metrics_file not in ("", wanted):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._metrics_file)
            self._metrics_file = wanted
            if wanted:
                write_atomically(wanted, metrics.exposition(report).encode(), 0o644)
        except OSError as exc:
            what = "written" if self._metrics_file == wanted else "removed"
            problem = f"metrics_file: {self._metrics_file} cannot be {what} ({exc.strerror}). Look at its folder."
            say("metrics_not_written", problem=problem)
        self._metrics_problem = problem

    async def _tell_last(self) -> None:
        reports.write(self.configuration.state_folder, self.report())

    def report(self) -> reports.Report:
        """The factory at this moment."""
        factory, settings = self.factory, self.configuration.settings
        known = {one.name for one in factory.catalogue.machinetypes}
        outcomes = self._result.outcomes if self._result is not None else {}
        pipes = {
            prefix: _pipe_status(prefix, one, factory.catalogue.not_brought)
            for prefix, one in factory.catalogue.pipes.items()
        }
        # Of one that has no share any more nobody misses the image.
        wanted = {one.name for one in factory.meant()}
        images = {
            one.name: reports.ImageStatus(image.id is not None, image.problem, image.since)
            for one in factory.catalogue.machinetypes
            for image in [factory.images.here.get(one.root_image)]
            if image is not None and (one.name in wanted or image.id is not None)
        }
        return reports.Report(
            version=PRODUCT, name=settings.name, space=self.configuration.space, written=time.time(),
            started=self._started, pid=os.getpid(), engine_problem=factory.engine_problem,
            engine_since=factory.engine_since, host_problem=factory.host_problem,
            cvmfs=factory.cvmfs, configuration_problem=self._problem,
            configuration_since=self._problem_since, pipes=pipes, images=images,
            slots=reports.of_slots(settings.slots, factory.machines.values()),
            counts=reports.Counts.of(settings, factory.machines.values()),
            decision=factory.decision.as_data() if factory.decision is not None else None, decided=factory.decided,
            peers={
                name: reports.PeerStatus(ANSWERED)
                if one.state == SILENT and name in self._there
                else reports.PeerStatus(one.state, one.since)
                for name, one in outcomes.items()
            },
            answered=dict(self.responder.answered), unanswered=dict(self.responder.dropped), sent=self.responder.sent,
            monitors={
                name: reports.MonitorStatus(one.datagrams, dict(one.failed), one.problem)
                for name, one in self.monitors.sent.items()
            },
            failures_in_a_row={one: number for one, number in factory.failures.items() if one in known},
            orders=self.orders, orders_problem=self._orders_problem,
            factories=(space.own(self.configuration), *self.configuration.others),
            metrics_file=self._metrics_file, metrics_problem=self._metrics_problem,
            records_unreadable=tuple(one.sentence for one in factory.unreadable), unmeasured=factory.unmeasured,
            outliving=factory.outliving, fixed=self.configuration.fixed,
            configuration_stamp=self._stamp, program_stamp=self._program, key_stamp=self._key_stamp,
        )  # fmt: skip

    async def _expire(self) -> None:
        machines, _problems = await self.factory.in_thread(self.factory.store.load)
        days = self.configuration.machines_days
        stay = await self.factory.in_thread(self.factory.store.expire, machines, int(time.time()), days)
        _say_what_stays(stay)
        await self._make_room(machines)

    async def _look_at_room(self) -> None:
        """Machines that end every minute fill a disk before the hour is over."""
        if (await self.factory.in_thread(kept_outputs.disk_of, self.factory.store)).is_short:
            machines, _problems = await self.factory.in_thread(self.factory.store.load)
            await self._make_room(machines)

    async def _make_room(self, machines: t.Sequence[Machine]) -> None:
        """Have the oldest outputs of machines removed for which there is no room."""
        gone, stay = await self.factory.in_thread(kept_outputs.make_room, self.factory.store, machines)
        if gone:
            last = max(one.machine.ended or 0 for one in gone)
            say("outputs_removed", machines=len(gone), bytes=sum(one.size for one in gone), ended_until=last)
        _say_what_stays(stay)


def _say_what_stays(stay: t.Iterable[tuple[Machine, str]]) -> None:
    """Of machines whose folder, or what is kept in it, could not be removed."""
    for machine, problem in stay:
        say("folder_not_removed", slot=machine.slot, machine=machine.uuid, problem=problem)


async def end_all(tasks: t.Collection[asyncio.Task[t.Any]]) -> None:
    """Cancel tasks until they have ended. Once is not enough: before Python 3.12 ``wait_for`` may swallow a
    cancellation that comes as its future is done (bpo-37658), and the daemon would not end."""
    while True:
        left = [task for task in tasks if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.2)


def _to_change(options: t.Iterable[str]) -> str:
    """What to do to change options that a running daemon keeps."""
    if not any(one in WHERE_MACHINES_ARE for one in options):
        return "Restart it; its machines go on."
    return (
        "Its machines would not be found any more: set that back. Or drain it first, and restart it with the change"
        " when they have ended."
    )


def _pipe_status(prefix: str, state: PipeState, not_brought: t.Iterable[Override]) -> reports.PipeStatus:
    """A pipe as the report has it."""
    pipe = state.pipe
    if pipe is None:
        return reports.PipeStatus(state.fetched_at, state.problem, awaited=state.awaited)
    return reports.PipeStatus(
        state.fetched_at, state.problem,
        tuple(one.name for one in pipe.machinetypes),
        tuple(one.sentence for one in pipe.dropped if one.has_share),
        pipe.unused_share,
        tuple(one.sentence for one in pipe.dropped if not one.has_share),
        tuple(one.reason for one in pipe.not_here),
        tuple(one.sentence for one in not_brought if one.prefix == prefix),
        pipe.warnings,
        pipe.cache_seconds,
    )  # fmt: skip


class _Listener:
    """Listens to the engine's events in a thread of its own, for as long as the factory works."""

    def __init__(self, factory: Factory, loop: asyncio.AbstractEventLoop) -> None:
        self._factory, self._loop = factory, loop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="gridbox-events", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Hear no more. The thread may be in a read that ends with the process."""
        self._stopped.set()

    def _listen(self) -> None:
        since, told = time.time(), ""
        while not self._stopped.is_set():
            try:
                # All that happened while nobody listened is looked at, not only what the engine still remembers.
                self._call(self._factory.look)
                events = self._factory.engine.events(since)
                self._call(self._factory.hears, time.time())
                for event in events:
                    since, told = time.time(), ""
                    if event.signal is None:
                        self._call(self._factory.ended, event.uuid)
                    else:
                        self._call(self._factory.signalled, event.uuid, event.signal)
                    if self._stopped.is_set():
                        return
            except Exception as exc:  # noqa: BLE001  else nobody would listen any more
                self._call(self._factory.deaf, time.time())
                self._call(self._factory.look)  # which finds out whether the engine answers, and says so
                problem = str(exc) if isinstance(exc, GridboxError) else repr(exc)
                if not isinstance(exc, EngineError) and problem != told:  # it may last for days
                    say("events_failed", problem=problem)
                    told = problem
            self._stopped.wait(0.5)

    def _call(self, what: t.Callable[..., None], *arguments: t.Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the factory has ended
            self._loop.call_soon_threadsafe(what, *arguments)


@contextlib.contextmanager
def _alone(state_folder: str) -> t.Iterator[None]:
    """Nobody else works in the same folder."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(at_work(state_folder))
        except WaitError:
            raise RefusedError(
                f"state_folder: {state_folder}", "another factory's daemon works in it, or a run of vacuum_slot",
                "Stop that one first.",
            ) from None  # fmt: skip
        yield

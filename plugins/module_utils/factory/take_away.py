# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory goes: its daemon, its machines if they may be ended, the images that it pulled, its configuration. What it
kept of machines stays."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    host_facts,
    moved,
    orders,
    running,
    service,
    unfinished,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configure import is_brought, original_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImage, PulledImages
from ansible_collections.hep.gridbox.plugins.module_utils.factory.running import Running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unwanted_images import look, name_of, remove
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import STOPPED, End

#: What a machine that is ended here has as its shutdown message, if it left none: the host's doing, no abort.
MESSAGE = "100 The factory was removed"


@dataclass(frozen=True)
class Wish:
    """What is to go.

    :ivar path: of the configuration.
    :ivar record: the role whose record tells whether the configuration is ours; empty: it is.
    :ivar remove_machines: end those that run, instead of refusing.
    :ivar wait_timeout: seconds for the daemon to end, and for a run without one.
    """

    path: str
    record: str = ""
    program: str = running.PROGRAM
    remove_machines: bool = False
    wait_timeout: int = 60

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        for option in ("path", "program"):
            if not params[option].startswith("/") or os.path.normpath(params[option]) != params[option]:
                raise InputError(option, params[option], "an absolute path without .. or a trailing slash")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        return cls(
            params["path"], params["record"] or "", params["program"], params["remove_machines"], params["wait_timeout"]
        )


@dataclass(frozen=True)
class Observed:
    """What there is.

    :ivar configuration: the factory's; None: there is none of ours.
    :ivar original: another configuration was there before.
    :ivar machines: whose container or work space is there; they run, or are not cleaned away yet.
    :ivar alive: uuids of those that run, by the engine's word.
    :ivar strays: containers of this factory's that are written down nowhere.
    :ivar images: that the factory has pulled, and nobody else names.
    :ivar metrics: the file of its metrics; empty: there is none.
    """

    configuration: t.Optional[Configuration] = field(default=None, repr=False)
    original: bool = False
    daemon: t.Optional[Running] = None
    machines: tuple[Machine, ...] = ()
    alive: frozenset[str] = frozenset()
    strays: tuple[Container, ...] = ()
    images: tuple[PulledImage, ...] = ()
    metrics: str = ""

    @property
    def live(self) -> tuple[Machine, ...]:
        """The machines that run."""
        return tuple(one for one in self.machines if one.uuid in self.alive)


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide. Pure."""
    there = observed.configuration is not None
    before = {"configuration": there, "running": observed.daemon is not None, "machines": len(observed.live)}
    steps = []
    if observed.daemon is not None:
        steps.append(Step("stop_daemon", wish.path, "the factory is not wanted", Disruption.reload))
    for one in observed.machines:
        live = one.uuid in observed.alive
        steps.append(
            Step(
                "end_machine" if live else "clean_machine",
                f"{one.slot} ({one.machinetype})",
                "its factory goes",
                Disruption.container if live else Disruption.none,
                {"uuid": one.uuid},
            )
        )
    steps += [
        Step("remove_container", one.name, "it is of no machine", Disruption.container) for one in observed.strays
    ]
    reason = "the factory pulled it; it stays if a container of somebody else's uses it"
    steps += [Step("remove_image", one.reference, reason, details={"image": one}) for one in observed.images]
    if observed.metrics:
        steps.append(Step("remove_metrics", observed.metrics, "nobody writes it any more"))
    if there:
        reason = "another one was there before" if observed.original else "the factory is not wanted"
        steps.append(Step("put_back" if observed.original else "remove_configuration", wish.path, reason))
    return Plan(tuple(steps), before, {"configuration": False, "running": False, "machines": 0} if steps else before)


class TakeAwayWork:
    """The work of the module ``vacuum_factory`` with ``state: absent``; see ``front_room.Work``.

    :param held: gets the lock of whoever makes machines and takes them away, from the first step on.
    """

    def __init__(self, wish: Wish, held: contextlib.ExitStack) -> None:
        self.wish, self._held = wish, held
        self._alone = False
        self.subject = f"the factory of {wish.path}"

    def observe(self) -> Observed:
        wish = self.wish
        if not os.path.exists(wish.path) or not is_brought(wish.record, wish.path):
            return Observed()
        configuration = load(wish.path)
        known, problems = Store(configuration.state_folder).load()
        if problems:
            raise GridboxError(
                f"What machines there are cannot be told: {' '.join(problems)} Look what it is, and move it away."
            )
        moved.check_name(configuration, known, (), host_facts.clock())
        machines = tuple(machine for machine in known if not machine.cleaned)
        images: tuple[PulledImage, ...] = ()
        try:
            found = engine_of(configuration).containers()
            images = _pulled(configuration)
        except (EngineError, RefusedError):
            if machines:
                raise
            found = []  # an engine that is gone has no machines
        uuids = {machine.uuid for machine in machines}
        strays = tuple(one for one in found if one.uuid not in uuids and one.is_machines)
        alive = frozenset(machine.uuid for machine in machines if machine.is_alive_in(found))
        return Observed(
            configuration, bool(wish.record) and os.path.exists(original_of(wish.record)),
            running.find(wish.program, wish.path, [configuration.state_folder]), machines, alive, strays,
            images, configuration.metrics_file if os.path.exists(configuration.metrics_file) else "",
        )  # fmt: skip

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if not self.wish.remove_machines:
            refuse_live(observed)

    def do(self, step: Step, journal: Journal) -> None:
        wish = self.wish
        if step.action == "stop_daemon":
            daemon = running.find(wish.program, wish.path, ())
            if daemon is not None:
                journal.will_do("started the daemon again", "start_again", **service.undo_data(daemon))
                service.stop(daemon, wish.wait_timeout)
        self._take_the_daemons_place()
        if step.action == "stop_daemon":
            return
        if step.action in ("end_machine", "clean_machine"):
            self._end(step.details["uuid"])
        elif step.action == "remove_container":
            observed = self.observe()
            for stray in observed.strays:
                if stray.name == step.target and observed.configuration is not None:
                    engine_of(observed.configuration).remove(stray.id)
        elif step.action == "remove_image":
            self._remove_image(step.details["image"])
        elif step.action == "remove_metrics":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(step.target)
        else:
            self._sweep()
            journal.settle()  # no machine is there any more, and the daemon without its file would not start
            # What was ordered of this factory is not for the next one, which would wonder why it starts nothing.
            orders.change(load(wish.path).state_folder, lambda _given: orders.Orders())
            if step.action == "put_back":
                os.replace(original_of(wish.record), wish.path)
            else:
                os.unlink(wish.path)

    def _take_the_daemons_place(self) -> None:
        """Nobody makes machines from now on: neither a daemon, nor a run without one, which is waited for."""
        if self._alone:
            return
        self._held.enter_context(at_work(load(self.wish.path).state_folder, self.wish.wait_timeout))
        self._alone = True
        unfinished.remove(load(self.wish.path))
        if not self.wish.remove_machines:
            refuse_live(self.observe())  # whoever was at work may have started one meanwhile

    def _remove_image(self, image: PulledImage) -> None:
        """Remove an image that the factory has pulled; if the engine refuses to, it stays, and is written down so."""
        configuration = load(self.wish.path)
        engine = engine_of(configuration)
        name = name_of(image, look(engine, [image]))
        if name:
            remove(engine, PulledImages(configuration.state_folder), image, name, int(time.time()))

    def _sweep(self) -> None:
        """What has come since the look, before the daemon had ended."""
        observed = self.observe()
        if observed.configuration is None:
            return
        for machine in observed.machines:
            self._end(machine.uuid)
        for stray in observed.strays:
            engine_of(observed.configuration).remove(stray.id)
        spaces = WorkSpaces(observed.configuration)
        if os.path.isdir(observed.configuration.state_folder):
            for left in spaces.left_over([]):
                spaces.remove_left_over(left)

    def _end(self, uuid: str) -> None:
        """End a machine as the factory would: TERM, its grace, KILL; and clean it away."""
        observed = self.observe()
        machine = next((one for one in observed.machines if one.uuid == uuid), None)
        if machine is None or observed.configuration is None:
            return
        hands = ByHand(observed.configuration)
        if machine.state == ENDED:
            hands.clean(machine)
        elif machine.uuid in observed.alive:
            hands.stop(machine, End(machine.slot, machine.machinetype, STOPPED, "its factory was removed", MESSAGE))
        else:
            container = hands.engine.container(machine.container or machine.container_name)
            if container is None and machine.started is None:
                hands.forget(machine)
            else:
                hands.clean(hands.life.end(machine, container))

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        self._held.close()  # the daemon wants the lock
        daemon = running.find(self.wish.program, self.wish.path, ())
        service.run_again(daemon, data, os.devnull, self.wish.wait_timeout)

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died: each step has an engine's connection of its own."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        gone = applied or not plan.steps
        machines = [one.container_name for one in observed.machines]
        return {
            "running": not gone and observed.daemon is not None, "restart_needed": [], "check": "", "warnings": [],
            "factory": observed.configuration.settings.name if observed.configuration is not None else "",
            "leaving": sorted({*machines, *(one.name for one in observed.strays)}),
        }  # fmt: skip


def _pulled(configuration: Configuration) -> tuple[PulledImage, ...]:
    """The images that the factory has pulled and that can be removed. None goes if none ever does."""
    if not configuration.images_days:
        return ()
    kept = PulledImages(configuration.state_folder).load()
    if not kept:
        return ()
    seen = look(engine_of(configuration), kept)
    return tuple(one for one in kept if name_of(one, seen))


def refuse_live(observed: Observed) -> None:
    """Refuse while machines run.

    :raises RefusedError: naming them.
    """
    live = [f"{one.slot} ({one.machinetype}, {one.uuid})" for one in observed.live]
    live += [one.name for one in observed.strays if one.alive]
    if live:
        raise RefusedError(
            "Removing the factory",
            f"machines run: {', '.join(live)}",
            'Drain it ("draining": true) and run again when they have ended, or end them with remove_machines: true'
            " (vacuum_factory_remove_machines in the role).",
        )

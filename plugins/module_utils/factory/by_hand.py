# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory does, done once by whoever asks for it: for sites without the daemon.

The same life of machines (``life.py``), the same comparison of records and containers (``mend.py``), the same files:
a daemon that is started afterwards goes on from here, and the other way round. Whoever works has the daemon's lock.
"""

from __future__ import annotations

import asyncio
import time
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import catalogue, host_facts, mend, space
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding, Repositories
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import ImageGoneError, Life
from ansible_collections.hep.gridbox.plugins.module_utils.factory.look import Look
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, RUNNING, Machine, planned
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, cpu_seconds
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImages, about_to
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots import Chances
from ansible_collections.hep.gridbox.plugins.module_utils.factory.startable import startable
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces, promised
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import on_disk
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, HostLoad
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import of_space

#: Seconds: that the other factories of the space have for their answers; after KILL, until a machine is given up.
POLL, KILLED = 2.0, 30.0


class ByHand(Look):
    """The machines of this host. For several threads, each with another machine."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self.work_spaces = WorkSpaces(configuration)
        self._pulled = PulledImages(configuration.state_folder)
        self.life = Life(configuration, self.store, self.engine, self.work_spaces)

    def chances(
        self,
        settings: FactorySettings,
        machines: t.Sequence[Machine],
        now: int,
        unread: t.Sequence[Unreadable] = (),
        keep: bool = True,
    ) -> Chances:
        """What can be started here: pipes, images, repositories, the space and the host are asked.

        :param settings: with the orders over them.
        :param unread: records that cannot be read.
        :param keep: False: nothing is written, not even copies of pipes.
        """
        self.work_spaces.check()
        found = catalogue.read(self.configuration, {}, keep)
        kinds = [one for one in catalogue.meant(found, settings) if one.machine_model in self.configuration.models]
        names = sorted({name for one in kinds for name in one.repositories})
        cvmfs = _repositories(self.configuration.cvmfs_root, names)
        can, _cannot = startable(found, self.configuration, settings, cvmfs, {})
        images, refused = self._images({one.root_image for one in kinds if one in can})
        can, cannot = startable(found, self.configuration, settings, cvmfs, refused)
        kinds = [one for one in kinds if one in can]
        others, query = self.configuration.others, "machinetypes_query"
        answers = space.ask(self.configuration, [query], others, POLL)[query] if others else []
        return Chances(
            tuple(kinds), images,
            of_space(space.usages(answers), settings.name, now), self._host(found, machines),
            tuple(self.work_spaces.left_over(self.store.with_work_space(machines, unread))), tuple(cannot),
            tuple(catalogue.problems(found)),
        )  # fmt: skip

    def _images(self, references: t.Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """By reference, the ids of those that are here; and of those that may not be used, why. The others are pulled
        when one is needed."""
        here: dict[str, str] = {}
        refused: dict[str, str] = {}
        for reference in references:
            try:
                found = self.engine.image(reference)
            except RefusedError as exc:
                refused[reference] = str(exc)
                continue
            if found is not None:
                here[reference] = found
        return here, refused

    def _host(self, found: Catalogue, machines: t.Sequence[Machine]) -> HostLoad:
        written: dict[str, int] = {}
        if self.configuration.work_space == "folder":
            places = {one.uuid: f"{self.store.folder(one)}/mnt" for one in machines if one.state == RUNNING}
            sizes = on_disk(places.values())
            written = {uuid: sizes[path] for uuid, path in places.items()}
        kept = promised(self.configuration, found.machinetypes, machines, written)
        return host_facts.load(*self.work_spaces.room_bytes(kept))

    # ---- what has become of machines -----------------------------------------------------------------------------

    def adopt(self, machine: Machine) -> None:
        """Write down that a machine runs, and its times where the clock was set meanwhile."""
        if machine.set_by:
            self.life.move(machine)
        else:
            self.store.save(machine)

    def end(self, machine: Machine) -> None:
        """Write down that a machine has ended, and clean up after it.

        :param machine: as it is to be written down.
        """
        self.clean(self.life.record_end(machine))

    def clean(self, machine: Machine) -> None:
        """Take away what an ended machine had."""
        self.life.clean(machine)

    def forget(self, machine: Machine) -> None:
        """Take away a machine that never came to be."""
        self.life.forget(machine)

    def stop(self, machine: Machine, end: End) -> None:
        """End a machine: TERM, after ``grace_seconds`` KILL, also if TERM was refused; and clean up after it.

        :param end: why.
        :raises EngineError: if the engine refuses KILL, or does not answer.
        :raises WaitError: if it outlives that.
        """
        container = self._seen(machine)
        if container is None or not container.alive:  # since it was looked at, for instance while an image was pulled
            self.clean(self.life.end(machine, container))
            return
        now = int(time.time())
        machine = replace(
            machine, told=machine.told or now, end_code=end.code, end_reason=end.reason, shutdown_message=end.message
        )
        self.store.save(machine)  # first, or after a crash it would have ended by itself
        if container.pid:
            used = cpu_seconds(container.pid)  # after the end Docker and Podman cannot tell any more
            machine = replace(machine, cpu_seconds=int(used)) if used is not None else machine
        for signal, seconds in (("SIGTERM", float(self.configuration.grace_seconds)), ("SIGKILL", KILLED)):
            if container is not None and container.alive:
                try:
                    self.engine.signal(container.id, signal)
                except EngineError:
                    if signal == "SIGKILL":
                        raise
                container = self._gone(machine, seconds)
        if container is not None and container.alive:
            raise WaitError(f"the machine {machine.container_name} to end after KILL", KILLED, container.state)
        self.clean(self.life.end(machine, container))

    def _seen(self, machine: Machine) -> t.Optional[Container]:
        return self.engine.container(machine.container or machine.container_name)

    def _gone(self, machine: Machine, seconds: float) -> t.Optional[Container]:
        """Wait for a machine to end; its container then, or after the time."""
        deadline = time.monotonic() + seconds
        while True:
            container = self._seen(machine)
            if container is None or not container.alive or time.monotonic() > deadline:
                return container
            time.sleep(0.1)

    def lower(self, machine: Machine, limit: int) -> None:
        """Tell a machine of an earlier time limit."""
        self.life.lower(machine, limit)

    def remove_folders(self, slot: str) -> None:
        """Remove the folders of the machines that have ended in a slot.

        :raises GridboxError: if one of them is not cleaned away.
        """
        for machine in self.store.load()[0]:
            if machine.slot == slot and machine.state == ENDED:
                if not machine.cleaned:
                    raise GridboxError(f"{machine.folder} stays: what the machine had was not cleaned away.")
                self.store.forget(machine)

    # ---- starts --------------------------------------------------------------------------------------------------

    def pull(self, reference: str) -> None:
        """Pull an image, and write down that it is the factory's if it was not here: who removes images wants to know.

        :raises EngineError: if it cannot be had.
        """
        pull = about_to(self.engine, reference, self.engine.image(reference))
        self.engine.pull(reference)
        self._pulled.note(pull, self.engine.image(reference), int(time.time()))

    def start(self, start: Start, kind: Machinetype) -> Machine:
        """Make a machine and start it.

        :returns: the machine: running, or ended because it could not be started.
        :raises EngineError: if the engine does not answer.
        :raises NoRoomError: if the host has no room for it.
        :raises ImageGoneError: if its image has gone meanwhile.
        """
        image = self.engine.image(kind.root_image)
        now = int(time.time())
        machine = planned(start, kind, self.configuration.settings, now, host_facts.clock())
        if image is None:
            raise GridboxError(f"{kind.name} was not started: its image {kind.root_image} is not here.")
        try:
            machine = self.life.start(machine, kind, image)
        except (NoRoomError, ImageGoneError):
            self.forget(machine)
            raise
        except OSError as exc:
            machine = mend.not_started(machine, f"Making it failed ({exc}).", int(time.time()))
            if self.store.has(machine):
                self.store.save(machine)
        if machine.state == ENDED:
            self.clean(machine)
        return machine


def _repositories(root: str, names: t.Sequence[str]) -> dict[str, Finding]:
    async def touch() -> dict[str, Finding]:
        looks = Repositories(root)
        try:
            return await looks.touch(names)
        finally:
            looks.close()

    return asyncio.run(touch()) if names else {}

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The life of a machine, step by step on a real host: made, started, ended, cleaned away.

All of it may take a while, and runs in worker threads. Each step is written down before or after it such that a factory
that is killed finds, when it starts again, what there is (``mend.py``): the record comes before the folder is filled,
the work space and the container carry the machine's uuid, and a record says ``cleaned`` only when both are gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
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
    features,
    host_facts,
    mend,
    user_data,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import work_folder
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine, silently
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.proxy import make as make_proxy
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import OUTPUT, Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import folder_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import load as load_user_data
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written, on_disk
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import disk_bytes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer

#: Bytes that have to be had from what a machine leaves for it to be given up for room. With less it is not this machine
#: that has filled the disk.
_WORTH = 64 << 10

#: What a file system says that has no room, be it for bytes or for files.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = tuple(os.strerror(code).lower() for code in _FULL)


class ImageGoneError(GridboxError):
    """The image that a machine was to be made from is not here any more. Its machinetype is not to blame."""


class Life:
    """Makes machines and takes them away.

    :param say: tells an event and its facts, for the journal.
    """

    def __init__(
        self,
        configuration: Configuration,
        store: Store,
        engine: Engine,
        work_spaces: WorkSpaces,
        say: t.Callable[..., None] = silently,
    ) -> None:
        self.configuration = configuration
        self.store, self.engine, self.work_spaces, self.say = store, engine, work_spaces, say

    def start(self, machine: Machine, machinetype: Machinetype, image: str) -> Machine:
        """Make a machine and start it.

        :param image: the id of the image that ``root_image`` stands for.
        :returns: the machine: running, or ended because it could not be started.
        :raises EngineError: without a status, if the engine does not answer: nobody can tell what there is now.
        :raises NoRoomError: if the host has no room for it. What has been made is left for :meth:`forget`: such a
            machine has never been, for an end of its own would have the whole space back off.
        :raises ImageGoneError: if somebody has removed the image, or put another one in its place. Likewise.
        """
        try:
            folder = self.store.create(machine)
            self._fill(machine, machinetype, folder)
            made = self.engine.create(machine, machinetype, self.configuration, folder, image)
            machine = replace(machine, container=made)
            self.engine.start(made)
        except (GridboxError, OSError) as exc:
            if isinstance(exc, EngineError) and exc.status is None:
                raise
            if _lacks_room(exc):
                raise NoRoomError(str(exc)) from exc
            if isinstance(exc, OSError):
                raise
            if isinstance(exc, EngineError) and not self._is_here(machinetype.root_image, image):
                text = f"The image {machinetype.root_image} was removed meanwhile, or replaced: {exc}"
                raise ImageGoneError(text) from exc
            machine = mend.not_started(machine, str(exc), int(time.time()))
            self.store.save(machine)
            return machine
        # The clock may have been set since it was planned: that is seen to when it is known (``Factory.tick``).
        now = mend.by_its_clock(machine, int(time.time()), host_facts.clock())
        machine = replace(machine, state=RUNNING, started=now, seen=now)
        try:
            self.store.save(machine)
        except OSError as exc:
            # It runs, which a later factory finds out by the record before. The next change is written down anew.
            self.say("record_not_written", slot=machine.slot, machine=machine.uuid, problem=str(exc))
        return machine

    def _is_here(self, reference: str, image: str) -> bool:
        """Whether a reference is still that of an image, as far as the engine can tell.

        :raises EngineError: without a status, if it does not answer.
        """
        try:
            return self.engine.image(reference) == image
        except RefusedError:  # it leads out of its repository by now
            return False
        except GridboxError as exc:
            if isinstance(exc, EngineError) and exc.status is None:
                raise
            return True

    def _fill(self, machine: Machine, machinetype: Machinetype, folder: str) -> None:
        """All that the machine finds when it starts."""
        configuration = self.configuration
        content = load_user_data(machinetype, configuration, Transfer(configuration.ca_path))
        each = disk_bytes(configuration.settings, machinetype)
        total = configuration.settings.total_processors
        size = self.work_spaces.size_for(machine.processors, each, total)
        mounted = self.work_spaces.make(machine, folder, size)
        # Sticky and for all, as /tmp is: the pilot may give its payload another account.
        for path in ("joboutputs", "tmp", *(f"tmp/{work_folder(one)}" for one in machinetype.tmp_binds)):
            os.mkdir(os.path.join(mounted, path))
            os.chmod(os.path.join(mounted, path), 0o755 if path in ("joboutputs", "tmp") else 0o1777)
        scratch = size if size is not None else self.work_spaces.share(machine.processors, each, total)
        made = features.features(machine, configuration, configuration.grace_seconds, scratch, int(time.time()))
        features.write(folder, made)
        if content is not None:
            proxy = ""
            if machinetype.user_data_proxy:
                source = folder_of(machinetype, configuration)
                proxy = make_proxy(source, machinetype.name, machine.shutdown_time, folder, machinetype.legacy_proxy)
            values = user_data.values(machine, configuration, machinetype, content, PRODUCT, proxy=proxy)
            mode = user_data.mode_of(content.template, values, configuration.engine)
            user_data.write(os.path.join(folder, "user_data"), user_data.substitute(content.template, values), mode)

    def lower(self, machine: Machine, shutdown_time: int) -> Machine:
        """Tell a machine that runs of an earlier time limit."""
        features.lower(self.store.folder(machine), shutdown_time)
        machine = replace(machine, shutdown_time=shutdown_time)
        self.store.save(machine)
        return machine

    def move(self, machine: Machine) -> None:
        """Tell a machine its times by a clock that was set, and write them down: in this order, for who is killed in
        between is followed by one who tells it the same again."""
        try:
            features.move(self.store.folder(machine), machine.shutdown_time, machine.started or machine.made)
        except GridboxError as exc:
            self.say("features_not_written", slot=machine.slot, machine=machine.uuid, problem=str(exc))
        self.store.save(machine)

    def written(self, machines: t.Sequence[Machine]) -> dict[str, Written]:
        """What machines that run have written where nothing limits it, by uuid. May take a while.

        :raises GridboxError: if it cannot be told of one of them.
        :raises WaitError: if what one of them has outside its work space takes too long to look at, or of several all.
        """
        outside = {one.uuid: self.engine.outside(one.container) for one in machines}
        limited = self.configuration.work_space != "folder"
        inside = {} if limited else {one.uuid: f"{self.store.folder(one)}/mnt" for one in machines}
        places = [path for one in outside.values() if one is not None for path in one.paths]
        try:
            sizes = on_disk([*places, *inside.values()])
        except WaitError:
            if len(machines) > 1 or not inside:
                raise
            # It may be its work space that has so many files, and that is not what is limited here.
            sizes = {**on_disk(places), **dict.fromkeys(inside.values(), 0)}
        return {
            uuid: Written(
                None if seen is None else seen.told + sum(sizes[path] for path in seen.paths),
                sizes[inside[uuid]] if inside else 0,
            )
            for uuid, seen in outside.items()
        }

    def over(self, machine: Machine, container: t.Optional[Container], heard: mend.Heard = mend.NOTHING) -> Machine:
        """A machine that has ended, as it is to be written down: with all that its container, its work space and the
        engine's events say."""
        message, clock = self.store.shutdown_message(machine), host_facts.clock()
        return mend.ended(machine, container, message, clock, int(time.time()), heard)

    def end(self, machine: Machine, container: t.Optional[Container]) -> Machine:
        """Write down that a machine has ended. Its slot is free from now on."""
        return self.record_end(self.over(machine, container))

    def record_end(self, machine: Machine) -> Machine:
        """The same, of one that :meth:`over` has found out all about.

        On a full disk it may be the machine that has filled it, and nobody else makes room. So what it had there goes
        then, until there is: first what nobody would keep, last what says how it ended, for whoever is killed in
        between and has only that. Without container and record it would be one that somebody else has removed: ended
        all the same, and once.

        :raises OSError: if there is no room all the same, or for another reason.
        """
        folder = self.store.folder(machine)
        making_room: tuple[tuple[t.Callable[[], bool], t.Callable[[], None]], ...] = (
            (lambda: True, lambda: self.work_spaces.empty(folder)),
            (lambda: self._fills(self._outside(machine)), lambda: self.engine.remove(machine.container)),
            (
                lambda: self._fills(self.work_spaces.places(folder, machine.uuid)),
                lambda: self.work_spaces.remove(folder, machine.uuid),
            ),
        )
        problem = self._save(machine)
        for is_worth_it, make_room in making_room:
            if problem is None:
                break
            try:
                if is_worth_it():
                    make_room()
            except GridboxError as exc:
                self.say("cleaning_failed", slot=machine.slot, machine=machine.uuid, problem=str(exc))
            problem = self._save(machine)
        if problem is not None:
            raise problem
        return machine

    def _outside(self, machine: Machine) -> t.Sequence[str]:
        seen = self.engine.outside(machine.container) if machine.container else None
        return seen.paths if seen is not None else ()

    def _fills(self, paths: t.Sequence[str]) -> bool:
        """Whether there is much in these files and folders, on the file system of the records."""
        device = os.stat(self.store.root).st_dev
        here = [path for path in paths if os.path.lexists(path) and os.lstat(path).st_dev == device]
        try:
            return sum(on_disk(here).values()) >= _WORTH
        except WaitError:
            return True  # so many files

    def _save(self, machine: Machine) -> t.Optional[OSError]:
        """Write a record, unless somebody has removed the machine's folder: there is none then, now or later. Returns
        what the file system says if it has no room for it."""
        try:
            self.store.save(machine)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and not self.store.has(machine):
                return None
            if not _is_full(exc):
                raise
            return exc
        return None

    def account(self, machine: Machine) -> None:
        """Write the accounting's record of an ended machine, if there is one of it."""
        text = accounting.record(machine, self.configuration)
        if text is not None:
            outgoing = accounting.is_outgoing(self.configuration)
            accounting.write(self.configuration.state_folder, text, machine, outgoing)

    def clean(self, machine: Machine) -> Machine:
        """Account for an ended machine, take away what it had, and keep what is kept of it. A full disk costs what is
        to be kept, for it may be this machine that has filled it."""
        folder = self.store.folder(machine)
        accounted = self._kept(machine, "", self.account, machine)
        # If it is gone since an earlier try, what it has printed was kept then. Without a folder nothing is kept.
        if machine.container and self.store.has(machine) and self.engine.container(machine.container) is not None:
            path, limit = os.path.join(folder, OUTPUT), self.configuration.output_bytes
            if not self._kept(machine, "what it printed", self.engine.output, machine.container, path, limit):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        self.engine.remove(machine.container or machine.container_name)
        self._kept(machine, "what it left in joboutputs", self.store.keep_outputs, machine)
        self.work_spaces.remove(folder, machine.uuid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "user_data"))  # it may hold secrets, and nobody needs it any more
        if not accounted:
            self.account(machine)
        machine = replace(machine, cleaned=True)
        if self.store.has(machine):  # else it was never made, or somebody has removed it
            self.store.save(machine)
        return machine

    def _kept(self, machine: Machine, what: str, keep: t.Callable[..., None], *arguments: t.Any) -> bool:
        """Keep something of a machine. Returns whether there was room.

        :param what: it is, if it is lost then.
        """
        try:
            keep(*arguments)
        except (GridboxError, OSError) as exc:
            if not _is_full(exc):
                raise
            if what:
                self.say("not_kept", slot=machine.slot, machine=machine.uuid, what=what, problem=str(exc))
            return False
        return True

    def forget(self, machine: Machine) -> None:
        """Take away a machine that never came to be."""
        self.engine.remove(machine.container or machine.container_name)
        self.work_spaces.remove(self.store.folder(machine), machine.uuid)
        self.store.forget(machine)


def _lacks_room(problem: BaseException) -> bool:
    """Whether it is the host's room that was lacking, for a work space or on a disk; also by another program's word."""
    if isinstance(problem, NoRoomError) or _is_full(problem):
        return True
    return any(text in str(problem).lower() for text in _FULL_TEXTS)


def _is_full(problem: BaseException) -> bool:
    """Whether there was no room, in a sentence or not."""
    cause = problem.__cause__ if isinstance(problem, GridboxError) else problem
    return isinstance(cause, OSError) and cause.errno in _FULL

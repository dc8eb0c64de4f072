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
import os
import time
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting, features, mend, user_data
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import work_folder
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import Engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.proxy import make as make_proxy
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import folder_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import load as load_user_data
from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Written, on_disk
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import disk_bytes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer

OUTPUT = "output.log"


class Life:
    """Makes machines and takes them away."""

    def __init__(self, configuration: Configuration, store: Store, engine: Engine, work_spaces: WorkSpaces) -> None:
        self.configuration = configuration
        self.store, self.engine, self.work_spaces = store, engine, work_spaces

    def start(self, machine: Machine, machinetype: Machinetype, image: str) -> Machine:
        """Make a machine and start it.

        :param image: the id of the image that ``root_image`` stands for.
        :returns: the machine: running, or ended because it could not be started.
        :raises EngineError: without a status, if the engine does not answer: nobody can tell what there is now.
        """
        folder = self.store.create(machine)
        try:
            self._fill(machine, machinetype, folder)
            made = self.engine.create(machine, machinetype, self.configuration, folder, image)
            machine = replace(machine, container=made)
            self.engine.start(made)
        except GridboxError as exc:
            if isinstance(exc, EngineError) and exc.status is None:
                raise
            machine = mend.not_started(machine, str(exc), int(time.time()))
            self.store.save(machine)
            return machine
        now = int(time.time())
        machine = replace(machine, state=RUNNING, started=now, seen=now)
        self.store.save(machine)
        return machine

    def _fill(self, machine: Machine, machinetype: Machinetype, folder: str) -> None:
        """All that the machine finds when it starts."""
        configuration = self.configuration
        content = load_user_data(machinetype, configuration, Transfer(configuration.ca_path))
        each = disk_bytes(configuration.settings, machinetype)
        size = self.work_spaces.size_for(machine.processors, each, configuration.settings.total_processors)
        mounted = self.work_spaces.make(machine, folder, size)
        # Sticky and for all, as /tmp is: the pilot may give its payload another account.
        for path in ("joboutputs", "tmp", *(f"tmp/{work_folder(one)}" for one in machinetype.tmp_binds)):
            os.mkdir(os.path.join(mounted, path))
            os.chmod(os.path.join(mounted, path), 0o755 if path in ("joboutputs", "tmp") else 0o1777)
        made = features.features(machine, configuration, configuration.grace_seconds, size, int(time.time()))
        features.write(folder, made)
        if content is not None:
            proxy = ""
            if machinetype.user_data_proxy:
                source = folder_of(machinetype, configuration)
                proxy = make_proxy(source, machinetype.name, machine.shutdown_time, machinetype.legacy_proxy)
            values = user_data.values(machine, configuration, machinetype, content, PRODUCT, proxy=proxy)
            user_data.write(os.path.join(folder, "user_data"), user_data.substitute(content.template, values))

    def lower(self, machine: Machine, shutdown_time: int) -> Machine:
        """Tell a machine that runs of an earlier time limit."""
        features.lower(self.store.folder(machine), shutdown_time)
        machine = replace(machine, shutdown_time=shutdown_time)
        self.store.save(machine)
        return machine

    def written(self, machines: t.Sequence[Machine]) -> dict[str, Written]:
        """What machines that run have written where nothing limits it, by uuid. May take a while.

        :raises GridboxError: if it cannot be told of one of them.
        """
        outside = {one.uuid: self.engine.outside(one.container) for one in machines}
        limited = self.configuration.work_space != "folder"
        inside = {} if limited else {one.uuid: f"{self.store.folder(one)}/mnt" for one in machines}
        places = [path for one in outside.values() if one is not None for path in one.paths]
        sizes = on_disk([*places, *inside.values()])
        return {
            uuid: Written(
                None if seen is None else seen.told + sum(sizes[path] for path in seen.paths),
                sizes[inside[uuid]] if inside else 0,
            )
            for uuid, seen in outside.items()
        }

    def end(self, machine: Machine, container: t.Optional[Container], boot_time: int) -> Machine:
        """Write down that a machine has ended. Its slot is free from now on."""
        machine = mend.ended(
            machine, container, self.store.shutdown_message(machine), boot_time, int(time.time())
        )  # fmt: skip
        self.store.save(machine)
        return machine

    def account(self, machine: Machine) -> None:
        """Write the accounting's record of an ended machine, if there is one of it."""
        text = accounting.record(machine, self.configuration)
        if text is not None:
            outgoing = accounting.is_outgoing(self.configuration)
            accounting.write(self.configuration.state_folder, text, machine, outgoing)

    def clean(self, machine: Machine) -> Machine:
        """Take away what an ended machine had, and keep what is kept of it."""
        folder = self.store.folder(machine)
        # If it is gone since an earlier try, what it has printed was kept then.
        if machine.container and self.engine.container(machine.container) is not None:
            self.engine.output(machine.container, os.path.join(folder, OUTPUT), self.configuration.output_bytes)
        self.engine.remove(machine.container or machine.container_name)
        self.store.keep_outputs(machine)
        self.work_spaces.remove(folder, machine.uuid)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "user_data"))  # it may hold secrets, and nobody needs it any more
        machine = replace(machine, cleaned=True)
        self.store.save(machine)
        return machine

    def forget(self, machine: Machine) -> None:
        """Take away a machine that never came to be."""
        self.engine.remove(machine.container or machine.container_name)
        self.work_spaces.remove(self.store.folder(machine), machine.uuid)
        self.store.forget(machine)

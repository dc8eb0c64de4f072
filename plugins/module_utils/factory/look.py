# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the machines of this host are, where no daemon knows: the records, and one listing of the engine's containers.

Apart from what makes machines and takes them away (``by_hand.py``), for that takes longer to import than this to look,
and a run that finds all as it should be needs no more.
"""

from __future__ import annotations

from ansible_collections.hep.gridbox.plugins.module_utils.factory import host_facts, mend, moved
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots import Mending
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, expired
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable


class Look:
    """Where the machines of this host are written down, and where they run."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.store = Store(configuration.state_folder)
        self.engine = engine_of(configuration)

    def look(self, now: int) -> tuple[list[Machine], Mending, list[Unreadable]]:
        """The machines as they are, what has to be put right, and the records that cannot be read.

        :raises GridboxError: if the engine does not answer: nobody can tell then.
        :raises RefusedError: if machines are of another name, or of another state folder.
        """
        recorded, unread = self.store.read()
        clock = mend.clock_of(recorded, host_facts.clock())
        # An ended machine's container is no stray: it goes with the machine.
        moved.check_name(self.configuration, recorded, unread, clock)
        containers, machines = self.engine.listed(), {one.uuid: one for one in recorded}
        strays = [one for one in containers if one.alive and one.uuid not in machines]
        moved.check_folder(self.configuration, self.engine, strays)
        found = mend.compare(recorded, containers, (), now, clock, unread)
        running = [mend.by_the_clock(one, now, clock) for one in found.running]
        adopted = tuple(
            one for one, seen in zip(running, found.running) if one != seen or machines[one.uuid].state != RUNNING
        )
        over = tuple(
            (mend.ended(one, container, self.store.shutdown_message(one), clock, now), container)
            for one, container in found.over
        )
        ended = [one for one in recorded if one.state == ENDED]
        machines.update({one.uuid: one for one in (*running, *(one for one, _container in over))})
        for one in found.unborn:
            del machines[one.uuid]
        mending = Mending(
            adopted, over, found.unborn, tuple(one for one in ended if not one.cleaned),
            tuple(one for one in ended if expired(one, now, self.configuration.machines_days)), found.strays,
            self.store.heartbeats(one for one in machines.values() if one.state == RUNNING),
        )  # fmt: skip
        return list(machines.values()), mending, unread

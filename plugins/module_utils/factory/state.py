# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory answers when others ask: its machines in VacQuery's words (spec 7.3). Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.host_facts import HostFacts
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    RUNNING,
    Machine,
    with_former,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    RUNNING as SAYS_RUNNING,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    SHUT_DOWN,
    STARTING,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Snapshot

#: Vac's words for the models of machines that it does not know by ours. What `vac` shows as ?? says nothing.
_MODELS = {"podman": "docker", "apptainer": "singularity"}


def snapshot(
    configuration: Configuration,
    machinetypes: t.Sequence[Machinetype],
    slots: t.Mapping[str, Machine],
    newest: t.Mapping[str, Machine],
    host: HostFacts,
    version: str,
    now: int,
) -> Snapshot:
    """What the factory is now.

    :param slots: by slot, the machine in it, or that was last in it.
    :param newest: by machinetype, the machine that ended last.
    """
    settings = configuration.settings
    machines = [machine for machine in slots.values() if machine.state != ENDED]
    # Of the factory those that run only; of a machinetype those that start as well (spec 7.3).
    running = [machine for machine in machines if machine.state == RUNNING]
    processors = sum(machine.processors for machine in running)
    status = FactoryStatus(
        running_machines=len(running),
        running_processors=processors,
        running_hs06=settings.usage(processors),
        max_machines=len(settings.slots),
        max_processors=settings.total_processors,
        max_hs06=settings.usage(settings.total_processors),
        root_disk_avail_kb=host.root_disk[0],
        root_disk_avail_inodes=host.root_disk[1],
        daemon_disk_avail_kb=host.state_disk[0],
        daemon_disk_avail_inodes=host.state_disk[1],
        load_average=host.load_average,
        kernel_version=host.kernel_version,
        os_issue=host.os_issue,
        boot_time=host.boot_time,
        factory_heartbeat_time=now,
        responder_heartbeat_time=now,
        mjf_heartbeat_time=now,
        metadata_heartbeat_time=now,
        swap_used_kb=host.swap_used,
        swap_free_kb=host.swap_free,
        mem_used_kb=host.memory_used,
        mem_total_kb=host.memory_total,
    )
    return Snapshot(
        configuration.space,
        settings.name,
        configuration.site_name,
        version,
        status,
        tuple(_machinetype(configuration, one, machines, newest.get(one.name), now) for one in machinetypes),
        tuple(machine_status(slot, slots.get(slot)) for slot in with_former(settings.slots, machines)),
    )


def _machinetype(
    configuration: Configuration,
    machinetype: Machinetype,
    machines: t.Sequence[Machine],
    last: t.Optional[Machine],
    now: int,
) -> MachinetypeStatus:
    own = [machine for machine in machines if machine.machinetype == machinetype.name]
    processors = sum(machine.processors for machine in own)
    young = [one for one in own if one.started is None or now < one.started + machinetype.fizzle_seconds]
    return MachinetypeStatus(
        machinetype=machinetype.name,
        running_hs06=configuration.settings.usage(processors),
        num_before_fizzle=len(young),
        shutdown_message=last.shutdown_message if last is not None else None,
        shutdown_time=last.ended if last is not None else None,
        shutdown_machine=last.slot if last is not None else None,
        running_machines=len(own),
        running_processors=processors,
        bytes_per_processor=configuration.settings.mb_per_processor << 20,
        max_wallclock_seconds=machinetype.max_wallclock_seconds,
        max_processors=machinetype.max_processors,
        fqan=machinetype.accounting_fqan,
    )


def machine_status(slot: str, machine: t.Optional[Machine]) -> MachineStatus:
    """What is told of a slot.

    :param machine: that is or was last in it; None: there was none.
    """
    if machine is None:
        return MachineStatus(machine=slot)
    over = machine.state == ENDED
    return MachineStatus(
        machine=slot,
        state=SHUT_DOWN if over else SAYS_RUNNING if machine.state == RUNNING else STARTING,
        machinetype=machine.machinetype,
        uuid=machine.uuid,
        created_time=machine.made,
        started_time=machine.started,
        heartbeat_time=machine.seen,
        cpu_seconds=machine.cpu_seconds,
        cpu_percentage=machine.cpu_percentage,
        hs06=machine.hs06 if machine.hs06 is not None else float(machine.processors),
        shutdown_message=machine.shutdown_message if over else None,
        shutdown_time=machine.ended if over else None,
        machine_model=_MODELS.get(machine.machine_model, machine.machine_model),
        num_processors=machine.processors,
        fqan=machine.accounting_fqan,
    )

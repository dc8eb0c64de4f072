# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machine/Job Features: what a machine is told of itself, one value a file (HSF-TN-2016-02; spec 5.3).

Beside all that Vac writes there is what the note demands and Vac lacks: how much time a machine has at least when its
limit is lowered (``grace_secs``, ``grace_secs_job``), that there is no swap, and how large its work space is. No value
ends with a newline; with Vac ``allocated_cpu`` does. ``job_id`` is the machine's uuid, which is known before the start:
so a machine finds it, which a container of Vac's may not.

The note knows HS06 only, and for HEPScore23 no pilot or batch system that we know of has a key. Where a factory counts
in that, the keys are ``hepscore23`` and ``hepscore23_job``: names of ours, in the spelling of accounting records.
``hs06`` is not written then, for the value would be another benchmark's.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine

MACHINEFEATURES, JOBFEATURES = "machinefeatures", "jobfeatures"


@dataclass(frozen=True)
class Features:
    """The two folders, each by file name."""

    machinefeatures: t.Mapping[str, str]
    jobfeatures: t.Mapping[str, str]


def features(
    machine: Machine, configuration: Configuration, grace_seconds: int, scratch_bytes: int, now: int
) -> Features:
    """What a machine is told that is about to start. Pure.

    :param grace_seconds: that it has at least, whenever it is told of an earlier time limit.
    :param scratch_bytes: the size of its work space; where nobody limits it, what it may count on.
    :param now: Unix seconds; the machine's time is counted from here.
    """
    processors = str(machine.processors)
    end, grace = str(machine.shutdown_time), str(grace_seconds)
    wall = max(machine.shutdown_time - now, 0)
    cpu = wall * machine.processors
    about_machine = {
        "total_cpu": processors,
        "grace_secs": grace,
        # Of the note's predecessor: the machine is the only job here, and nobody knows which processors are threads.
        "jobslots": "1",
        "phys_cores": processors,
        "log_cores": processors,
    }
    about_job = {
        "allocated_cpu": processors,
        "shutdowntime_job": end,
        "grace_secs_job": grace,
        "jobstart_secs": str(now),
        "job_id": machine.uuid,
        "wall_limit_secs": str(wall),
        "cpu_limit_secs": str(cpu),
        "max_rss_bytes": str(machine.memory_bytes),
        "max_swap_bytes": "0",
        "scratch_limit_bytes": str(scratch_bytes),
        # Of the note's predecessor.
        "wall_limit_secs_lrms": str(wall),
        "cpu_limit_secs_lrms": str(cpu),
        "cpufactor_lrms": "1.0",
        "mem_limit_MB": str(machine.memory_bytes // 10**6),
        "allocated_CPU": processors,
    }
    if machine.hs06 is not None:
        power = str(round(float(machine.hs06), 6))
        about_machine[configuration.benchmark] = power
        about_job[f"{configuration.benchmark}_job"] = power
    # The operator's values count more than ours, as with Vac, but for the limit that the factory acts by.
    return Features({**about_machine, **configuration.machinefeatures_options, "shutdowntime": end}, about_job)


def write(folder: str, made: Features) -> None:
    """Write the two folders into a machine's folder, readable for every account that the machine may have.

    :raises GridboxError: if they cannot be written.
    """
    for kind, values in ((MACHINEFEATURES, made.machinefeatures), (JOBFEATURES, made.jobfeatures)):
        path = os.path.join(folder, kind)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            os.chmod(path, 0o755)  # noqa: S103  the umask may have taken from it
        except OSError as exc:
            raise GridboxError(f"{path} could not be made ({exc.strerror}).") from exc
        for name, text in values.items():
            _put(folder, kind, name, text)


def lower(folder: str, shutdown_time: int, clock: t.Callable[[], float] = time.time) -> None:
    """Tell a machine that runs of an earlier time limit.

    It was promised ``grace_secs_job`` from the moment it is told, so it is never told less; that is true as long as so
    much time is between telling a machine to end and killing it. It is never told of a later limit than it knows.

    :param shutdown_time: Unix seconds.
    :raises GridboxError: if the machine's features cannot be read or written.
    """
    known, grace = (_number(folder, JOBFEATURES, name) for name in ("shutdowntime_job", "grace_secs_job"))
    _put_limit(folder, min(known, max(shutdown_time, int(clock()) + grace)))


def move(folder: str, shutdown_time: int, started: int) -> None:
    """Tell a machine that runs its times by the clock that was set meanwhile; how much time it has is the same.

    It is the machine's clock, too, and by the old times a job would end itself at once, or be killed in the midst of
    its work: jobs read the files whenever they want to know. The other values are no times, or how much of it there is.

    :param shutdown_time: its time limit, Unix seconds.
    :param started: when it came to run.
    :raises GridboxError: if the machine's features cannot be written.
    """
    _put(folder, JOBFEATURES, "jobstart_secs", str(started))
    _put_limit(folder, shutdown_time)


def _put_limit(folder: str, shutdown_time: int) -> None:
    _put(folder, JOBFEATURES, "shutdowntime_job", str(shutdown_time))
    _put(folder, MACHINEFEATURES, "shutdowntime", str(shutdown_time))


def _put(folder: str, kind: str, name: str, text: str) -> None:
    """Put a file into its place in one go, so that whoever reads it has the old value or the new one.

    It is made in the machine's folder, of which the machine sees nothing, on the same file system as the folders that
    are mounted in the machine: so nothing unfinished is ever seen there, nor left there by a process that was killed.
    Nothing is forced onto the disk, for a machine does not outlive a power cut.
    """
    new, path = os.path.join(folder, f".{kind}.{name}.new"), os.path.join(folder, kind, name)
    try:
        with open(new, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.replace(new, path)
    except OSError as exc:
        raise GridboxError(f"{path} could not be written ({exc.strerror}).") from exc


def _number(folder: str, kind: str, name: str) -> int:
    path = os.path.join(folder, kind, name)
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except OSError as exc:
        raise GridboxError(f"{path} could not be read ({exc.strerror}).") from exc
    except ValueError as exc:
        raise GridboxError(f"{path} does not hold a number.") from exc

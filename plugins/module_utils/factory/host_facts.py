# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory reads of its host: load, memory, disks, boot."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.host.boot_mark import boot_mark
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import HostLoad


@dataclass(frozen=True)
class HostFacts:
    """What a factory says of its host beside its machines. Memory, swap and disks in KiB, times in Unix seconds."""

    load_average: float
    boot_time: int
    kernel_version: str
    os_issue: str
    root_disk: tuple[int, int]
    state_disk: tuple[int, int]
    memory_total: int
    memory_used: int
    swap_used: int
    swap_free: int


def memory() -> dict[str, int]:
    """``/proc/meminfo``, KiB by name."""
    with open("/proc/meminfo", encoding="ascii") as file:
        pairs = (line.split(":", 1) for line in file)
        return {name: int(value.split()[0]) for name, value in pairs}


def clock() -> Clock:
    """The host's clock at this moment. Costs next to nothing: a daemon asks each second.

    CLOCK_BOOTTIME counts what the host was suspended for, CLOCK_MONOTONIC does not; nobody sets either.
    """
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    slept = since_boot - time.clock_gettime(time.CLOCK_MONOTONIC)
    return Clock(boot_mark(), int(time.time() - since_boot), int(slept))


def load(disk_free_bytes: t.Optional[int], disk_whole_bytes: t.Optional[int] = None) -> HostLoad:
    """The host at this moment, for decisions.

    :param disk_free_bytes: room for further work spaces.
    :param disk_whole_bytes: room for all of them, where nothing is said of their size.
    """
    found = memory()
    return HostLoad(
        processors=os.cpu_count() or 1,
        load_averages=os.getloadavg(),
        memory_total_mb=found["MemTotal"] >> 10,
        memory_available_mb=found["MemAvailable"] >> 10,
        disk_free_bytes=disk_free_bytes,
        disk_whole_bytes=disk_whole_bytes,
    )


def facts(state_folder: str) -> HostFacts:
    """The host at this moment, for others."""
    found = memory()
    return HostFacts(
        load_average=round(os.getloadavg()[2], 2),
        boot_time=clock().booted,
        kernel_version=platform.release(),
        os_issue=_system(),
        root_disk=_disk("/"),
        state_disk=_disk(state_folder),
        memory_total=found["MemTotal"],
        # As VacQuery has it (spec 7.3): what caches hold counts as used. Decisions go by what is available.
        memory_used=found["MemTotal"] - found["MemFree"],
        swap_used=found["SwapTotal"] - found["SwapFree"],
        swap_free=found["SwapFree"],
    )


def _disk(path: str) -> tuple[int, int]:
    """Free KiB and inodes of a file system."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize >> 10, found.f_favail


def _system() -> str:
    """The distribution's own name for itself, from the file that Vac reads (spec 7.3), or the one that others have."""
    for path in ("/etc/redhat-release.vac", "/etc/redhat-release"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            pairs = dict(line.strip().split("=", 1) for line in file if "=" in line)
        return pairs["PRETTY_NAME"].strip("\"'")
    except (OSError, KeyError):
        return platform.system()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Control groups of Apptainer machines, of version 1, of version 2, and where a host has both.

A machine has a group of its own at ``hep.gridbox/NAME`` in each hierarchy, so that in none it is in the daemon's unit.
Only root can leave such a group: whatever a machine starts, however it detaches itself, is found there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.processes import kill

#: The folder of all our groups in a hierarchy, and the one in it of those who look after machines.
OURS, SUPERVISORS = "hep.gridbox", "supervisors"

#: What limits a machine.
LIMITING = ("cpu", "memory", "pids")
#: Of version 1, the only one that takes nobody into a group that was just made.
_LEFT_OUT = "cpuset"

#: A tenth of a second: what a quota of processor time is counted in, microseconds.
_PERIOD = 100000


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy of control groups.

    :ivar point: where it is mounted.
    :ivar controllers: that it has, of those that limit.
    """

    point: str
    version: int
    controllers: tuple[str, ...]

    def group(self, name: str) -> str:
        """The folder of a group of ours."""
        return f"{self.point}/{OURS}/{name}"


@dataclass(frozen=True)
class Limits:
    """What a machine may use."""

    processors: int
    memory_bytes: int
    pids: int


def hierarchies(mounts: t.Iterable[mount_table.Mount], offered: t.Callable[[str], str]) -> list[Hierarchy]:
    """The hierarchies that a machine is put into. Pure but for ``offered``.

    :param offered: the content of ``cgroup.controllers`` of version 2, by mount point.
    """
    found: dict[str, Hierarchy] = {}
    for mount in mounts:
        if mount.kind == "cgroup" and _LEFT_OUT not in mount.options:
            version, words = 1, list(mount.options)
        elif mount.kind == "cgroup2":
            version, words = 2, offered(mount.point).split()
        else:
            continue
        controllers = tuple(one for one in LIMITING if one in words)
        found.setdefault(mount.device, Hierarchy(mount.point, version, controllers))
    return list(found.values())


def read() -> list[Hierarchy]:
    """This host's.

    :raises RefusedError: if they cannot hold a machine to its limits.
    """

    def offered(point: str) -> str:
        with open(f"{point}/cgroup.controllers", encoding="ascii") as file:
            return file.read()

    found = hierarchies(mount_table.read(), offered)
    missing = set(LIMITING).difference(*(one.controllers for one in found))
    if missing:
        raise RefusedError(
            "A control group for an Apptainer machine",
            f"this host has no controller {', no '.join(sorted(missing))}",
            "Switch it on, on the kernel's command line, or where this container is made.",
        )
    return found


def settings(hierarchy: Hierarchy, limits: Limits) -> dict[str, str]:
    """What is written to the files of a machine's group. Pure. A file that the kernel was built without is no error if
    its name ends with a question mark: that is how swap is counted."""
    quota = limits.processors * _PERIOD
    memory = str(limits.memory_bytes)
    if hierarchy.version == 2:
        wanted = {
            "cpu": {"cpu.max": f"{quota} {_PERIOD}", "cpu.weight": str(min(limits.processors * 100, 10000))},
            "memory": {"memory.max": memory, "memory.swap.max?": "0"},
            "pids": {"pids.max": str(limits.pids)},
        }
    else:
        wanted = {
            "cpu": {
                "cpu.cfs_period_us": str(_PERIOD),
                "cpu.cfs_quota_us": str(quota),
                "cpu.shares": str(min(limits.processors * 1024, 262144)),
            },
            # In this order: memory and swap together are never less than memory.
            "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes?": memory},
            "pids": {"pids.max": str(limits.pids)},
        }
    return {
        file: value for one in LIMITING if one in hierarchy.controllers for file, value in wanted[one].items()
    }  # fmt: skip


def make(found: t.Iterable[Hierarchy], name: str, limits: t.Optional[Limits] = None) -> list[str]:
    """Make a group in each hierarchy; their folders. Fine if it is there.

    :raises GridboxError: if the kernel refuses.
    """
    folders = []
    try:
        for hierarchy in found:
            folder = hierarchy.group(name)
            if hierarchy.version == 2:
                _delegate(hierarchy)
            os.makedirs(folder, exist_ok=True)
            for file, value in settings(hierarchy, limits).items() if limits is not None else ():
                with contextlib.ExitStack() as may_fail:
                    if file.endswith("?"):
                        may_fail.enter_context(contextlib.suppress(FileNotFoundError, PermissionError))
                    _write(f"{folder}/{file.rstrip('?')}", value)
            folders.append(folder)
    except OSError as exc:
        raise GridboxError(f"Making the control group {name} failed ({exc}).") from exc
    return folders


def _delegate(hierarchy: Hierarchy) -> None:
    """Have version 2's controllers in the groups of ours: each folder above hands them down."""
    os.makedirs(f"{hierarchy.point}/{OURS}", exist_ok=True)
    wanted = [one for one in LIMITING if one in hierarchy.controllers]
    for above in (hierarchy.point, f"{hierarchy.point}/{OURS}"):
        with open(f"{above}/cgroup.subtree_control", encoding="ascii") as file:
            there = file.read().split()
        for one in wanted:
            if one not in there:
                _write(f"{above}/cgroup.subtree_control", f"+{one}")


def enter(folders: t.Iterable[str]) -> None:
    """Put this process into groups."""
    for folder in folders:
        _write(f"{folder}/cgroup.procs", "0")


def members(folders: t.Iterable[str]) -> set[int]:
    """The processes in groups."""
    found: set[int] = set()
    for folder in folders:
        # ENODEV: it is being removed.
        with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", encoding="ascii") as file:
            found.update(int(line) for line in file)
    return found


def empty(folders: t.Sequence[str], seconds: float) -> bool:
    """Kill all that is in groups, until nothing is; False: something is left after the time. However short that is,
    all that is found there is killed once."""
    deadline = time.monotonic() + seconds
    while True:
        for folder in folders:
            # The first of version 2, from Linux 5.14 on. The second: nobody can start another process any more.
            for file, value in (("cgroup.kill", "1"), ("pids.max", "0")):
                if os.path.exists(f"{folder}/{file}"):
                    with contextlib.suppress(OSError):
                        _write(f"{folder}/{file}", value)
        left = members(folders)
        if not left:
            return True
        for pid in left:
            kill(pid, lambda one: one in members(folders))
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def remove(folders: t.Iterable[str]) -> None:
    """Remove groups that nothing is in; fine if they are gone.

    :raises GridboxError: if something is.
    """
    for folder in folders:
        deadline = time.monotonic() + 5
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError as exc:
                # A process is counted for a moment after it has gone from the list.
                if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise GridboxError(f"The control group {folder} is not removed ({exc.strerror}).") from exc
                time.sleep(0.01)
            else:
                break


def memory_was_short(folders: t.Iterable[str]) -> bool:
    """Whether the kernel has killed something in a group because of its memory limit."""
    for folder in folders:
        for file in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{file}", encoding="ascii") as content:
                if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in content):
                    return True
    return False


def cpu_seconds(folders: t.Iterable[str]) -> t.Optional[float]:
    """What all that is or was in groups has used of processors; None if none of them tells.

    ``cpuacct.usage`` of version 1 counts nanoseconds, ``cpu.stat`` of version 2 microseconds.
    """
    for folder in folders:
        with contextlib.suppress(OSError), open(f"{folder}/cpuacct.usage", encoding="ascii") as file:
            return int(file.read()) / 1e9
        # Version 1 has a file of this name too, with other figures.
        with contextlib.suppress(OSError, KeyError), open(f"{folder}/cpu.stat", encoding="ascii") as file:
            return int(dict(line.split() for line in file)["usage_usec"]) / 1e6
    return None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)

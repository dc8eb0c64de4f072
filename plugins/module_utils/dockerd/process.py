# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dockerd's processes, and its containerd's: find them, end one.

Each writes its own pidfile; a process counts only if that pid is such a program, and lives.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.host import background


@dataclass(frozen=True)
class Process:
    """A running daemon.

    :ivar start: when it started, in clock ticks after the boot; with the pid it names one process for good.
    :ivar netns: inode of its network namespace.
    """

    pid: int
    start: int
    flags: tuple[str, ...]
    netns: int


def find_process(pidfile: str, program: str = "dockerd") -> t.Optional[Process]:
    """The ``program`` that a pidfile names; None if there is no such process, or it is something else."""
    try:
        with open(pidfile, encoding="ascii") as file:
            pid = int(file.read().strip())
    except (FileNotFoundError, ValueError):
        return None
    return process_of(pid, program)


def process_of(pid: int, program: str = "dockerd") -> t.Optional[Process]:
    """The process ``pid`` if it is a ``program`` that lives, else None."""
    process = background.look(pid)
    if process is None or os.path.basename(process.argv[0]) != program:
        return None
    try:
        return Process(pid, process.start, process.argv[1:], os.stat(f"/proc/{pid}/ns/net").st_ino)
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes() -> list[Process]:
    """All dockerd processes that this process sees."""
    found = (process_of(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def stop(pid: int, start: int, seconds: float) -> None:
    """Ask one daemon to end and wait for it; containers go on if live restore is enabled.

    :param start: its start time, so that no other process of the same pid is hit.
    :raises WaitError: if it still runs after ``seconds``.
    """
    background.stop("dockerd", pid, start, seconds)


def flag_value(flags: t.Sequence[str], name: str) -> str:
    """The value of ``--name value`` or ``--name=value`` among a daemon's arguments; empty if it is not there."""
    for index, flag in enumerate(flags):
        if flag == name and index + 1 < len(flags):
            return flags[index + 1]
        if flag.startswith(f"{name}="):
            return flag.split("=", 1)[1]
    return ""

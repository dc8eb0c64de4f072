# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running containers and their processes on the host."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi

#: States in which a container has processes.
ALIVE = ("running", "paused")


@dataclass(frozen=True)
class Running:
    """A running container.

    :ivar pid: its first process, as the host sees it.
    :ivar start: when that process started, in clock ticks after the boot. Pid and start name one process for good.
    :ivar terminal: whether it has a terminal in place of pipes.
    :ivar log_driver: who writes down what it prints.
    :ivar log_drops: whether the daemon throws away what the driver is too slow for (``mode=non-blocking``).
    """

    name: str
    id: str
    pid: int
    start: int
    terminal: bool
    log_driver: str = "json-file"
    log_drops: bool = False

    def as_result(self) -> dict[str, t.Any]:
        """As it stands in a module's ``processes``."""
        return {"container": self.name, "id": self.id, "pid": self.pid, "start": self.start}


def running(engine: DockerApi) -> tuple[Running, ...]:
    """All running containers, by name. One that ends while they are looked at is left out."""
    found: list[Running] = []
    for record in engine.containers({"status": ALIVE}):
        details = engine.container(record["Id"])
        if details is None or details["State"]["Status"] not in ALIVE:
            continue
        pid = int(details["State"]["Pid"])
        start = started(pid)
        if start is not None:
            log = details["HostConfig"].get("LogConfig") or {}
            drops = (log.get("Config") or {}).get("mode") == "non-blocking"
            name, terminal = details["Name"].lstrip("/"), bool(details["Config"]["Tty"])
            found.append(Running(name, details["Id"], pid, start, terminal, log.get("Type") or "json-file", drops))
    return tuple(sorted(found, key=lambda container: container.name))


def started(pid: int) -> t.Optional[int]:
    """When a process started, in clock ticks after the boot (field 22, proc(5)); None if it has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def parent(pid: int) -> t.Optional[int]:
    """The parent of a process; None if the process has ended."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _stat(pid: int) -> list[str]:
    """``/proc/PID/stat`` from the state on, past the program's name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Daemons where no service manager looks after them: start one, recognise its process, end it."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH

#: What a daemon started here keeps of the caller's environment: its way out to registries and servers.
KEPT_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Process:
    """A process that lives.

    :ivar start: when it started, in clock ticks after the boot; with the pid it names one process for good.
    """

    pid: int
    start: int
    argv: tuple[str, ...]


def look(pid: int) -> t.Optional[Process]:
    """A process by its number; None if there is none, or it has ended and nobody has buried it yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = tuple(os.fsdecode(part) for part in file.read().split(b"\0")[:-1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(fields[19]), argv) if fields[0] != "Z" and argv else None


def started(pid: int) -> int:
    """When a process started that is there, be it one of ours that has ended and that nobody has buried: in clock ticks
    after the boot. :func:`look` may not see one that has just been started, for the kernel gives it its arguments a
    moment later."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def stop(name: str, pid: int, start: int, seconds: float) -> None:
    """Ask a daemon to end (SIGTERM), and wait for it.

    :param name: of it, for the error.
    :param start: its start time, so that no other process of the same pid is hit.
    :raises WaitError: if it still runs after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    process = look(pid)
    if process is None or process.start != start:
        return
    os.kill(pid, signal.SIGTERM)
    while True:
        process = look(pid)
        if process is None or process.start != start:
            return
        if time.monotonic() > deadline:
            raise WaitError(f"{name} (process {pid}) to end after SIGTERM", seconds, "it still runs")
        time.sleep(0.1)


def start(argv: t.Sequence[str], log_file: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a daemon in a session of its own: it outlives Ansible's connection, and no terminal's signal reaches it.

    :param log_file: what it writes goes to the end of this file.
    :returns: the process, and where in the log its words begin.
    """
    environment = {key: value for key, value in os.environ.items() if key in KEPT_VARIABLES}
    environment["PATH"] = SYSTEM_PATH
    with open(log_file, "ab") as log:
        if stat.S_ISREG(os.fstat(log.fileno()).st_mode):  # /dev/null is everybody's
            os.fchmod(log.fileno(), 0o640)
        begin = log.tell()
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
            preexec_fn=_raise_nofile,  # noqa: PLW1509 (a module has one thread)
        )
    return child, begin


def words(log_file: str, begin: int) -> list[str]:
    """The lines that a daemon has written since it was started."""
    with open(log_file, "rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace").strip().splitlines()


def _raise_nofile() -> None:
    """In the child: as many open files as this process may allow."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

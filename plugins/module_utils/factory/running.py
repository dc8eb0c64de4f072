# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The factory's daemon as it runs on this host: its process, its report, whether it follows its configuration."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import Report
from ansible_collections.hep.gridbox.plugins.module_utils.host import background, command, processes

PROGRAM = "/usr/local/sbin/gridbox"

#: Of systemd, in which a process is: the hierarchy ``name=systemd`` of version 1, the only one of version 2.
_UNIT = re.compile(r"^(?:0:|\d+:name=systemd):.*/([^/]+\.service)$", re.MULTILINE)


def arguments(program: str, configuration: str) -> tuple[str, ...]:
    """By what the daemon of a configuration is started; more may follow."""
    return (program, "--configuration", configuration, "factory")


@dataclass(frozen=True)
class Running:
    """A factory's daemon.

    :ivar report: its own; None: it has not written one yet, or it works in another state folder.
    :ivar unit: the systemd unit that it is the main process of; empty: none.
    """

    pid: int
    start: int
    argv: tuple[str, ...]
    report: t.Optional[Report] = None
    unit: str = ""


def find(program: str, configuration: str, state_folders: t.Iterable[str]) -> t.Optional[Running]:
    """The daemon that works by a configuration's file; None if there is none.

    :param program: path of the command that it was started from.
    :param configuration: path of the file.
    :param state_folders: where its report may be.
    :raises GridboxError: if a report cannot be read.
    """
    wanted = arguments(program, configuration)
    for name in filter(str.isdigit, os.listdir("/proc")):
        process = background.look(int(name))
        # By its first line, #!, the kernel has put the interpreter and -I before it.
        if process is None or process.argv[2:6] != wanted or not processes.is_ours(process.pid):
            continue
        found = (reports.load(folder) for folder in state_folders)
        own = next((one for one in found if one is not None and one.pid == process.pid), None)
        return Running(process.pid, process.start, process.argv, own, _unit_of(process.pid))
    return None


def is_daemon(pid: t.Optional[int]) -> bool:
    """Whether a process that has the lock of a factory (``store.at_work``) is a daemon, however it was started. Others
    that may have it are runs of modules.

    :param pid: None: it is not known which has it.
    """
    process = background.look(pid) if pid is not None else None
    return process is not None and "factory" in process.argv


def follows(daemon: t.Optional[Running], configuration: str) -> bool:
    """Whether the daemon has read the file as it is now, and uses it."""
    report = daemon.report if daemon is not None else None
    return (
        report is not None
        and report.configuration_stamp == reports.stamp(configuration)
        and not report.configuration_problem
    )


def restart_reasons(
    wanted: Configuration, daemon: t.Optional[Running], program_stamp: str, key_stamp: t.Optional[str]
) -> list[str]:
    """Why the daemon has to be restarted to be as it is wanted; empty if it need not, or if there is none. Pure.

    :param program_stamp: of the program on the disk.
    :param key_stamp: of the space's key on the disk; None: it is about to be another one.
    """
    if daemon is None:
        return []
    report = daemon.report
    if report is None:
        return [f"process {daemon.pid} has no report in the state folder {wanted.state_folder}"]
    reasons = [
        f"{option} is {report.fixed.get(option)!r} in the daemon, and {value!r} is wanted"
        for option, value in wanted.fixed.items()
        if report.fixed.get(option) != value
    ]
    if report.program_stamp != program_stamp:
        reasons.append("the daemon was started from another program than is installed")
    if wanted.key_file and (key_stamp is None or report.key_stamp != key_stamp):
        reasons.append(f"the daemon has another key than {wanted.key_file}")
    return reasons


def _unit_of(pid: int) -> str:
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return ""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            found = _UNIT.search(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if not found:
        return ""
    # A daemon that somebody started by hand is in the unit of what he came by, which is not the daemon's.
    argv = ["systemctl", "show", "--property=MainPID", "--value", "--", found[1]]
    main = command.run(f"Asking systemd about {found[1]}", argv, timeout=20).strip()
    return found[1] if main == str(pid) else ""

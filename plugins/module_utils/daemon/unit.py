# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The systemd unit that runs the daemon, and what it does to containers when it stops."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run

#: A unit's name as systemd allows it (systemd.unit(5)); it cannot begin like an option.
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.service")

#: KillMode values with which containers outlive the stop of their daemon. ``control-group`` and ``mixed`` send SIGKILL
#: to all that is left in the unit's control group (systemd.kill(5)).
KEEPS_CONTAINERS = ("process", "none")


@dataclass(frozen=True)
class Unit:
    """What is known of the daemon's unit.

    :ivar name: None where systemd does not run the daemon.
    :ivar finding: a sentence about what is wrong with it; empty if nothing is.
    """

    name: t.Optional[str] = None
    kill_mode: t.Optional[str] = None
    finding: str = ""


def check_name(name: t.Optional[str]) -> None:
    """Refuse what cannot be the name of a service unit.

    :raises InputError: for such a name.
    """
    if name is not None and not _UNIT_NAME.fullmatch(name):
        raise InputError("unit", name, "the name of a systemd service, such as docker.service")


def unit_of(cgroups: str) -> t.Optional[str]:
    """The service unit in which a process is, from its ``/proc/PID/cgroup``; None if it is in none. Pure.

    systemd tracks units in its own hierarchy: ``name=systemd`` with cgroup v1, the only one (``0::``) with v2.
    """
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "name=systemd" or (number == "0" and not controllers):
            name = path.rpartition("/")[2]
            if _UNIT_NAME.fullmatch(name):
                return name
    return None


def judge(name: str, asked: bool, shown: str, pid: int) -> Unit:
    """Decide from ``systemctl show`` whether the unit lets containers live. Pure.

    :param asked: whether the operator named the unit; else it was found by the daemon's control group.
    :param shown: the output of ``systemctl show -p LoadState -p MainPID -p KillMode``.
    :param pid: the daemon.
    """
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if properties.get("LoadState") == "not-found":
        return Unit(name, None, f"systemd knows no unit {name}; correct the option unit, or leave it out")
    if properties.get("MainPID") != str(pid):
        if not asked:
            return Unit()  # started by hand from within some other service
        main = properties.get("MainPID", "0")
        runs = "runs no process" if main == "0" else f"runs process {main}"
        return Unit(
            name, None, f"{name} {runs}, but the daemon is process {pid}; correct the option unit, or leave it out"
        )
    mode = properties.get("KillMode", "")
    if mode in KEEPS_CONTAINERS:
        return Unit(name, mode)
    return Unit(
        name,
        mode,
        f"{name} has KillMode={mode}, so systemd kills the containers with the daemon; set KillMode=process in the"
        f" [Service] section of a drop-in (systemctl edit {name}) and run systemctl daemon-reload",
    )


def observe(asked: t.Optional[str], pid: int) -> Unit:
    """Ask systemd about the daemon's unit; nothing where systemd does not run (sd_booted(3))."""
    if not os.path.isdir("/run/systemd/system"):
        return Unit()
    name = asked
    if name is None:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            name = unit_of(file.read())
    if name is None:
        return Unit()
    argv = ["systemctl", "show", "-p", "LoadState", "-p", "MainPID", "-p", "KillMode", "--", name]
    return judge(name, asked is not None, run(f"Asking systemd about {name}", argv, timeout=20), pid)

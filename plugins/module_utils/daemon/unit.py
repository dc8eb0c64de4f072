# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The systemd units that live restore depends on, and what they do to containers when they stop."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run

#: A unit's name as systemd allows it (systemd.unit(5)); it cannot begin like an option.
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.service")

#: KillMode values with which containers outlive the stop of a unit. ``control-group`` and ``mixed`` send SIGKILL to all
#: that is left in the unit's control group (systemd.kill(5)).
KEEPS_CONTAINERS = ("process", "none")


@dataclass(frozen=True)
class Unit:
    """A service unit of systemd on which live restore depends.

    :ivar name: for instance ``docker.service``.
    :ivar kill_mode: its effective KillMode.
    :ivar holds: what containers need of it, in words: ``containerd``, ``the shims of 2 containers``; empty for a unit
        that runs the daemon only. A container's own processes have control groups apart from all units.
    :ivar daemon: whether it is the one that runs the daemon.
    """

    name: str
    kill_mode: str
    holds: tuple[str, ...] = ()
    daemon: bool = False

    @property
    def finding(self) -> str:
        """What is wrong with it, in a sentence; empty if containers outlive it.

        Measured with systemd 252 and Docker 20.10: with a containerd of its own unit, as packages have it, the end of
        docker.service leaves containers alone whatever its KillMode; the end of containerd.service does not. A dockerd
        that starts its own containerd has the shims in its own unit.
        """
        if self.kill_mode in KEEPS_CONTAINERS or not self.holds:
            return ""
        return (
            f"{self.name} has KillMode={self.kill_mode} and holds {' and '.join(self.holds)}, which systemd kills with"
            f" it; set KillMode=process in the [Service] section of a drop-in (systemctl edit {self.name})"
        )


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


def check_asked(name: str, shown: t.Mapping[str, str], pid: int) -> None:
    """Refuse a unit that the operator named if it is not the one that runs the daemon. Pure.

    :param shown: what systemd says about it.
    :raises RefusedError: saying which process it runs.
    """
    wanted, remedy = f"unit: {name}", "Correct the option, or leave it out."
    if shown.get("LoadState") == "not-found":
        raise RefusedError(wanted, "systemd knows no such unit", remedy)
    main = shown.get("MainPID", "0")
    if main != str(pid):
        runs = "no process" if main == "0" else f"process {main}"
        raise RefusedError(wanted, f"it runs {runs}, but the daemon is process {pid}", remedy)


def observe(
    asked: t.Optional[str], daemon: int, containerd: t.Optional[int], shims: t.Collection[int]
) -> tuple[Unit, ...]:
    """Ask systemd about the units in which these processes are; none where systemd does not run (sd_booted(3)).

    :raises RefusedError: as :func:`check_asked`.
    """
    if not os.path.isdir("/run/systemd/system"):
        return ()
    if asked is not None:
        check_asked(asked, _show(asked), daemon)
    daemons = asked or _unit_of_process(daemon)
    holds: dict[str, list[str]] = {daemons: []} if daemons else {}
    containerds = _unit_of_process(containerd) if containerd is not None else None
    if containerds:
        holds.setdefault(containerds, []).append("containerd")
    of_shims = [_unit_of_process(shim) for shim in shims]
    for name in sorted({name for name in of_shims if name}):
        number = of_shims.count(name)
        holds.setdefault(name, []).append(
            f"the shim{'s' if number > 1 else ''} of {number} container{'s' if number > 1 else ''}"
        )
    return tuple(
        Unit(name, _show(name).get("KillMode", ""), tuple(held), name == daemons) for name, held in holds.items()
    )


def _unit_of_process(pid: int) -> t.Optional[str]:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return unit_of(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def _show(name: str) -> dict[str, str]:
    argv = ["systemctl", "show", "-p", "LoadState", "-p", "MainPID", "-p", "KillMode", "--", name]
    return parse_shown(run(f"Asking systemd about {name}", argv, timeout=20))


def parse_shown(text: str) -> dict[str, str]:
    """The output of ``systemctl show``. Pure."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

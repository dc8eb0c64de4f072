# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controls: what the role sees to, each with an id, a reason, and a switch. Pure data."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError


@dataclass(frozen=True)
class Control:
    """One control.

    :ivar id: what switches and reports call it.
    :ivar title: what is to be.
    :ivar reason: why.
    :ivar reported: whether it is looked at only, and the host left as it is.
    """

    id: str
    title: str
    reason: str
    reported: bool = False


CONTROLS = (
    Control("nofile", "Open files per process", "VO-box services with 1024 open files stop answering under load"),
    Control("nproc", "Processes per user", "all containers count as one user, and fork fails for all of them at once"),
    Control("inotify", "inotify instances and watches", "128 instances per user are used up by a few VO-boxes"),
    Control("file_max", "Open files of the whole host", "it bounds all VO-boxes together"),
    Control("pid_max", "Processes of the whole host", "it bounds all VO-boxes together"),
    Control("keys", "Kernel keys per user", "each container start takes one; past the quota none starts"),
    Control("neighbours", "Neighbour tables", "all namespaces share one; when it is full, peers become unreachable"),
    Control("systemd_limits", "Open files of systemd's services", "limits.d is for logins only; services take these"),
    Control(
        "forwarding", "Forwarding is left to the engine", "a hardening that switches it off cuts containers off", True
    ),
    Control("user_namespaces", "User namespaces are available", "unprivileged pilots (Apptainer) need them", True),
    Control("autofs", "autofs is off", "what it mounts on demand, containers do not see"),
    Control("time_sync", "The clock is synchronised", "tokens and certificates are refused by a clock that is wrong"),
    Control("sshd_passwords", "No ssh login by password", "it is guessed from the whole world"),
    Control("sshd_root", "No ssh login of root by password", "it is guessed from the whole world"),
    Control("sshd_sessions", "Few tries, no empty passwords, no X11", "each makes an attack easier and helps nobody"),
    Control("sshd_agent", "No forwarding of ssh agents", "root of the host could use the operators' keys"),
    Control("sshd_log", "sshd logs the key of each login", "else nobody can tell whose key opened an account"),
    Control("core_dumps", "No core dumps of logins", "they hold keys and proxies, and fill the disk"),
    Control("kernel_modules", "Protocols and buses that nobody uses are not loaded", "users can have them loaded"),
)

IDS = tuple(control.id for control in CONTROLS)

#: Settings of sshd by control. Lower-case names, as sshd -T prints them.
SSHD = {
    "sshd_passwords": {"PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no"},
    "sshd_root": {"PermitRootLogin": "prohibit-password"},
    "sshd_sessions": {"PermitEmptyPasswords": "no", "MaxAuthTries": "4", "LoginGraceTime": "30", "X11Forwarding": "no"},
    "sshd_agent": {"AllowAgentForwarding": "no"},
    "sshd_log": {"LogLevel": "VERBOSE"},
}

#: Values of settings of sshd, the laxest first, as sshd -T prints them. More in the log is on the safe side here.
_NO = ("yes", "no")
_ORDERS = {
    "PasswordAuthentication": _NO,
    "KbdInteractiveAuthentication": _NO,
    "PermitRootLogin": ("yes", "prohibit-password", "forced-commands-only", "no"),
    "PermitEmptyPasswords": _NO,
    "X11Forwarding": _NO,
    "AllowAgentForwarding": _NO,
    "LogLevel": ("QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"),
}

#: sshd -T prints prohibit-password by its old name.
_SAME = {"without-password": "prohibit-password"}

#: What is kept from being loaded. Not sctp, which containers may publish ports of; not usb-storage, by which the remote
#: console of a server brings its rescue medium.
MODULES = ("dccp", "rds", "tipc", "firewire-core")


def strictness(name: str, value: str) -> float:
    """How strict a value of a setting of sshd is: the stricter, the higher. One that is not known is the laxest of all.

    >>> strictness("PermitRootLogin", "no") > strictness("PermitRootLogin", "without-password")
    True
    """
    order = _ORDERS.get(name)
    if order is not None:
        value = _SAME.get(value, value)
        return order.index(value) if value in order else float("-inf")
    # The others are numbers of which less is stricter; no grace time at all is no limit (sshd_config(5)).
    if not value.isdigit() or (name == "LoginGraceTime" and int(value) == 0):
        return float("-inf")
    return -int(value)


def waivers(switches: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The controls that are switched off, with the reason (empty if none is given).

    :param switches: id to ``true``, ``false``, or the reason for which it is off.
    :raises InputError: for an unknown id, or another kind of value.
    """
    off: dict[str, str] = {}
    for name, value in switches.items():
        if name not in IDS:
            raise InputError("controls", name, f"one of {', '.join(IDS)}")
        if isinstance(value, bool):
            if not value:
                off[name] = ""
        elif isinstance(value, str) and value.strip():
            off[name] = value.strip()
        else:
            raise InputError(f"controls.{name}", value, "true, false, or the reason for which it is off")
    return off

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a VO-box may do, and what the engine is able to grant on this host."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.peer import listening_pid
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError

#: By number, linux/capability.h of Linux 5.9 and later.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

#: What sshd (privilege separation: SETUID, SETGID, SYS_CHROOT; login records: AUDIT_WRITE), squid and cron (SETUID,
#: SETGID, KILL), ports below 1024, ping (NET_RAW) and an init script that prepares folders need.
LEAST = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW", "SETGID",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip

#: What an engine grants unless told otherwise.
ENGINE_DEFAULT = {
    "docker": frozenset({
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    }),
    "podman": frozenset({
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
        "SETUID", "SYS_CHROOT",
    }),
}  # fmt: skip

#: The engine's own protections are off.
UNCONFINED = ("apparmor=unconfined", "seccomp=unconfined")

#: From this version on ``--privileged`` asks only for capabilities that exist; before, such a container cannot start
#: where one is missing ("unable to apply caps").
FIRST_DOCKER_WITH_PRIVILEGED_AS_AVAILABLE = (23,)


#: Docker before that version refuses the names of capabilities after this one ("unknown capability").
LAST_OF_OLD_DOCKER = "AUDIT_READ"


def grantable(bounding: frozenset[str], platform: str, version: tuple[int, ...]) -> frozenset[str]:
    """What an engine can grant: what it has itself and knows by name."""
    if platform == "docker" and version < FIRST_DOCKER_WITH_PRIVILEGED_AS_AVAILABLE:
        return bounding & frozenset(CAPABILITIES[: CAPABILITIES.index(LAST_OF_OLD_DOCKER) + 1])
    return bounding


@dataclass(frozen=True)
class Privileges:
    """What is asked for. ``capabilities`` is the complete list of profile ``least``."""

    profile: str
    capabilities: tuple[str, ...] = LEAST
    devices: tuple[str, ...] = ()

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Privileges:
        """
        :raises InputError: for a capability nobody knows, a list beside another profile, or a device that is no path.
        """
        given = params["capabilities"]
        if given is not None and params["profile"] != "least":
            raise InputError(
                "privileges.capabilities",
                given,
                "no list beside this profile, for it grants all",
                "Leave it out, or set profile: least.",
            )
        names = []
        for position, name in enumerate(LEAST if given is None else given):
            plain = plain_name(name)
            if plain not in CAPABILITIES:
                raise InputError(
                    f"privileges.capabilities[{position}]",
                    name,
                    "a Linux capability such as NET_ADMIN, see capabilities(7)",
                )
            names.append(plain)
        for position, device in enumerate(params["devices"]):
            if not os.path.isabs(device) or ":" in device:
                raise InputError(
                    f"privileges.devices[{position}]", device, "the path of a device file, such as /dev/fuse"
                )
        return cls(params["profile"], tuple(sorted(set(names))), tuple(sorted(set(params["devices"]))))

    def values(self, grantable: frozenset[str]) -> dict[str, t.Any]:
        """The option values this amounts to on a host whose engine can grant these capabilities."""
        least = self.profile == "least"
        everything = tuple(sorted(grantable))
        return {
            "privileges.privileged": self.profile == "full",
            "privileges.capabilities": self.capabilities if least else everything,
            "privileges.security_opt": () if least else UNCONFINED,
            "privileges.masked_paths": least,
            "privileges.devices": self.devices,
        }


@dataclass(frozen=True)
class EngineProcess:
    """What the engine's own process can hand on.

    :ivar capabilities: its bounding set.
    :ivar hard_limits: by the kernel's name of the limit (``Max open files``); None is no limit.
    """

    capabilities: frozenset[str]
    hard_limits: t.Mapping[str, t.Optional[int]]

    @property
    def raises_limits(self) -> bool:
        """Whether it may set limits above its own."""
        return "SYS_RESOURCE" in self.capabilities

    @classmethod
    def read(cls, url: str) -> EngineProcess:
        """Look at the process behind the engine's socket."""
        process = Path("/proc", str(_engine_pid(url)))
        return cls(bounding_set((process / "status").read_text()), hard_limits((process / "limits").read_text()))


def plain_name(name: str) -> str:
    """``cap_net_admin`` is ``NET_ADMIN``."""
    return name.upper().removeprefix("CAP_")


def effective(host_config: t.Mapping[str, t.Any], platform: str) -> tuple[str, ...]:
    """The capabilities that an engine makes of its ``CapAdd`` and ``CapDrop``, sorted; ``ALL`` is every known one."""

    def named(key: str) -> set[str]:
        return {plain_name(name) for name in host_config.get(key) or ()}

    add, drop = named("CapAdd"), named("CapDrop")
    granted = set() if "ALL" in drop else set(ENGINE_DEFAULT[platform])
    if "ALL" in add:
        granted = set(CAPABILITIES)
    return tuple(sorted((granted | (add - {"ALL"})) - (drop - {"ALL"})))


def profile_of(values: t.Mapping[str, t.Any], grantable: t.Optional[frozenset[str]]) -> str:
    """Which profile the values of a container are; ``other`` if none."""
    if values["privileges.privileged"]:
        return "full"
    if tuple(values["privileges.security_opt"]) == UNCONFINED and not values["privileges.masked_paths"]:
        held = set(values["privileges.capabilities"])
        missing_nothing = held >= grantable if grantable is not None else len(held) > len(CAPABILITIES) // 2
        return "near_full" if missing_nothing else "other"
    return "least" if not values["privileges.security_opt"] and values["privileges.masked_paths"] else "other"


def refuse_ungrantable(wish: Privileges, engine: EngineProcess, platform: str, version: tuple[int, ...]) -> None:
    """
    :raises RefusedError: if the engine cannot start a container with these privileges.
    """
    missing = sorted(set(CAPABILITIES[: _last_capability() + 1]) - engine.capabilities)
    if (
        wish.profile == "full"
        and missing
        and platform == "docker"
        and version < FIRST_DOCKER_WITH_PRIVILEGED_AS_AVAILABLE
    ):
        raise RefusedError(
            "privileges.profile: full",
            f"this engine ({platform} {'.'.join(map(str, version))}) has not got {', '.join(missing)} itself, so it"
            " cannot start a privileged container",
            "Set profile: near_full, which works: it grants every capability that the engine has.",
        )
    ungrantable = sorted(set(wish.capabilities) - grantable(engine.capabilities, platform, version))
    if wish.profile == "least" and ungrantable:
        raise RefusedError(
            f"privileges.capabilities: {', '.join(ungrantable)}",
            "the engine has not got this itself, or does not know it, so it cannot grant it",
            "Take it from the list, or run the engine where it has it.",
        )
    for position, device in enumerate(wish.devices):
        if not os.path.exists(device):
            raise RefusedError(
                f"privileges.devices[{position}]: {device}",
                "there is no such file on the host",
                "Correct the path, or load the driver first.",
            )


def bounding_set(status: str) -> frozenset[str]:
    """The names in ``CapBnd`` of a ``/proc/<pid>/status``. Numbers newer than our list are left out."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for number, name in enumerate(CAPABILITIES) if bits >> number & 1)
    return frozenset()


def hard_limits(limits: str) -> dict[str, t.Optional[int]]:
    """The hard limits in a ``/proc/<pid>/limits``, by name; None is unlimited."""
    found: dict[str, t.Optional[int]] = {}
    for line in limits.splitlines()[1:]:
        # Fixed columns: 25 characters of name, then soft, hard, unit.
        name, columns = line[:25].strip(), line[25:].split()
        if len(columns) >= 2:
            found[name] = None if columns[1] == "unlimited" else int(columns[1])
    return found


def _last_capability() -> int:
    return min(int(Path("/proc/sys/kernel/cap_last_cap").read_text()), len(CAPABILITIES) - 1)


def _engine_pid(url: str) -> t.Union[int, str]:
    """The engine's process: who listens at the socket, unless that is a service manager that listens for it."""
    scheme, _separator, path = url.partition("://")
    if scheme == "unix":
        pid = listening_pid(path)
        if pid and _comm(pid) in ("dockerd", "podman"):
            return pid
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _comm(int(entry.name)) == "dockerd":
            return int(entry.name)
    # Nothing better to go by: whatever confines this host confines the engine too.
    return "self"


def _comm(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:  # it has ended, or is in a pid namespace we do not see
        return ""

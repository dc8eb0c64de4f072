# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the host is like: everything the controls look at, read once. Changes nothing."""

from __future__ import annotations

import glob
import os
import pwd
import re
import resource
import shutil
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.hardening import controls, limits
from ansible_collections.hep.gridbox.plugins.module_utils.host import automounts, mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run
from ansible_collections.hep.gridbox.plugins.module_utils.host.text_file import read_text

SYSCTL_FILE = "/etc/sysctl.d/90-hep.gridbox.conf"
LIMITS_FILE = "/etc/security/limits.d/90-hep.gridbox.conf"
SYSTEMD_FILE = "/etc/systemd/system.conf.d/90-hep.gridbox.conf"
#: Before what other drop-ins say: sshd takes the first value it finds (sshd_config(5)).
SSHD_FILE = "/etc/ssh/sshd_config.d/01-hep.gridbox.conf"
MODULES_FILE = "/etc/modprobe.d/90-hep.gridbox.conf"
FILES = (SYSCTL_FILE, LIMITS_FILE, SYSTEMD_FILE, SSHD_FILE, MODULES_FILE)

#: Of our files after which others may be read: the folders of that kind. A file hides those of its name in folders that
#: follow.
FOLDERS = {
    SYSCTL_FILE: tuple(f"{top}/sysctl.d" for top in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
    LIMITS_FILE: ("/etc/security/limits.d",),
    SYSTEMD_FILE: tuple(f"{top}/systemd/system.conf.d" for top in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
}

#: What is read after all of a kind: at boot if a file among them is a link to it, else by ``sysctl --system``.
LAST = {SYSCTL_FILE: "/etc/sysctl.conf"}

#: More than any limit.
UNLIMITED = 2**63 - 1

#: What a change of sshd leaves here until it is kept (way_back.py).
WAY_BACK = "/run/hep.gridbox-way-back"

#: The connection for which sshd's settings are asked: Match blocks may give others for other connections.
CONNECTION = "user=root,host=peer.example.org,addr=192.0.2.1,laddr=192.0.2.2,lport=22"

#: Where VO-boxes look for repositories.
REPOSITORIES = "/cvmfs"

#: Bit of CAP_SYS_RESOURCE in the capability sets (capability.h).
CAP_SYS_RESOURCE = 24


@dataclass(frozen=True)
class Host:
    """The host.

    :ivar sysctls: values now; a name that this kernel or this namespace does not have is missing.
    :ivar read_only: those of them that cannot be written here.
    :ivar files: text of :data:`FILES`; None if there is none.
    :ivar later: by those of ours in :data:`FOLDERS`: path and text of the files that are read after it, in their order.
    :ivar nr_open: the kernel's bound of a limit of open files.
    :ivar hard_nofile: the hard limit of this process.
    :ivar may_raise: whether this host may raise hard limits (CAP_SYS_RESOURCE).
    :ivar systemd: whether systemd is PID 1.
    :ivar default_nofile: soft and hard limit that systemd gives its services; None without systemd.
    :ivar forwarding_off: files that switch forwarding off.
    :ivar userns: what keeps user namespaces from being made, in words; empty if nothing does.
    :ivar userns_confined: what lets only programs with an AppArmor profile for it make them, in words; empty likewise.
    :ivar autofs: ``LoadState/ActiveState`` of autofs; empty if it is not installed or there is no systemd.
    :ivar automount: whether an automount daemon runs.
    :ivar automounts: folders in which it serves somebody (:func:`..host.automounts.served`).
    :ivar clock: what tells about the clock.
    :ivar sshd: effective settings, lower-case names; None if there is no sshd.
    :ivar sshd_without: the same without our drop-in, and outside of all ``Match`` blocks.
    :ivar sshd_includes: whether sshd reads drop-ins.
    :ivar keys: accounts that can log in with a key.
    :ivar loaded: kernel modules that the control ``kernel_modules`` forbids and that are loaded.
    :ivar unproved: whether an earlier run's change of sshd waits to be kept.
    """

    sysctls: t.Mapping[str, int] = field(default_factory=dict)
    read_only: frozenset[str] = frozenset()
    files: t.Mapping[str, t.Optional[str]] = field(default_factory=dict)
    later: t.Mapping[str, t.Sequence[tuple[str, str]]] = field(default_factory=dict)
    nr_open: int = 1048576
    hard_nofile: int = 1048576
    may_raise: bool = True
    systemd: bool = True
    default_nofile: t.Optional[tuple[int, int]] = None
    forwarding_off: tuple[str, ...] = ()
    userns: str = ""
    userns_confined: str = ""
    autofs: str = ""
    automount: bool = False
    automounts: tuple[str, ...] = ()
    clock: t.Mapping[str, t.Any] = field(default_factory=dict)
    sshd: t.Optional[t.Mapping[str, str]] = None
    sshd_without: t.Mapping[str, str] = field(default_factory=dict)
    sshd_includes: bool = False
    keys: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    unproved: bool = False


def sysctl_path(name: str) -> str:
    """Where the kernel shows a sysctl."""
    return "/proc/sys/" + name.replace(".", "/")


def read_host() -> Host:
    """Look at this host.

    :raises GridboxError: if something that is there cannot be read.
    """
    systemd = os.path.isdir("/run/systemd/system")
    automount = _runs("automount")
    values = {name: _number(sysctl_path(name)) for name in limits.all_names()}
    known = {name: value for name, value in values.items() if value is not None}
    return Host(
        sysctls=known,
        read_only=frozenset(name for name in known if not os.access(sysctl_path(name), os.W_OK)),
        files={path: read_text(path) for path in FILES},
        later={path: tuple(read_after(path, folders, LAST.get(path, ""))) for path, folders in FOLDERS.items()},
        nr_open=_number("/proc/sys/fs/nr_open") or 1048576,
        hard_nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        may_raise=_capable(),
        systemd=systemd,
        default_nofile=_systemd_nofile() if systemd else None,
        forwarding_off=tuple(_forwarding_off()),
        userns=_first_set({"user.max_user_namespaces": "0", "kernel.unprivileged_userns_clone": "0"}),
        # Ubuntu sets it, from 23.10 on.
        userns_confined=_first_set({"kernel.apparmor_restrict_unprivileged_userns": "1"}),
        autofs=_autofs() if systemd else "",
        automount=automount,
        automounts=tuple(automounts.served(mount_table.read(), REPOSITORIES)) if automount else (),
        clock=_clock(),
        sshd=sshd_settings("/etc/ssh/sshd_config"),
        sshd_without=_sshd_without(),
        sshd_includes=sshd_reads_drop_ins(read_text("/etc/ssh/sshd_config") or ""),
        keys=tuple(_accounts_with_keys()),
        loaded=tuple(name for name in controls.MODULES if os.path.exists(f"/sys/module/{name.replace('-', '_')}")),
        unproved=os.path.exists(WAY_BACK),
    )


def read_after(ours: str, folders: t.Sequence[str], last: str = "") -> t.Iterator[tuple[str, str]]:
    """Path and text of the files that are read after ours: those whose names come later, whatever their folder.

    :param last: a file that is read after all of them, unless one of them is a link to it.
    """
    by_name = {os.path.basename(path): path for folder in reversed(folders) for path in glob.glob(f"{folder}/*.conf")}
    paths = [by_name[name] for name in sorted(by_name) if name > os.path.basename(ours)]
    if last and last not in map(os.path.realpath, paths):
        paths.append(last)
    for path in paths:
        yield path, read_text(path) or ""


def sshd_settings(config: str, connection: t.Optional[str] = CONNECTION) -> t.Optional[dict[str, str]]:
    """sshd's effective settings with a configuration file; None if there is no sshd.

    :param connection: the connection for which they are asked; None for those outside of all ``Match`` blocks.
    :raises GridboxError: with sshd's words, if it does not take the file.
    """
    program = shutil.which("sshd", path=SYSTEM_PATH)
    if program is None or not os.path.exists(config):
        return None
    os.makedirs("/run/sshd", 0o755, exist_ok=True)  # sshd refuses even to check a configuration without it
    asked = ["-C", connection] if connection else []
    lines = run(f"Checking {config}", [program, "-T", *asked, "-f", config]).splitlines()
    return {name.lower(): value for name, _blank, value in (line.partition(" ") for line in lines)}


def sshd_settings_of(text: str, connection: t.Optional[str] = CONNECTION) -> dict[str, str]:
    """As :func:`sshd_settings`, of a main configuration that is in no place yet."""
    with tempfile.NamedTemporaryFile("w", prefix="sshd_config.", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        return sshd_settings(file.name, connection) or {}


def sshd_text_without_ours() -> str:
    """sshd's main configuration, with the drop-ins beside ours named one by one in the place of their folder.

    What the host would have without our drop-in is not in its effective settings once the drop-in counts.
    """
    text = read_text("/etc/ssh/sshd_config", "surrogateescape") or ""
    return "".join(f"{_include_others(line)}\n" for line in text.splitlines())


def _include_others(line: str) -> str:
    """A line of the main configuration; one that includes our drop-in includes the others of the folder instead."""
    words = line.split()
    if not words or words[0].lower() != "include":
        return line
    paths: list[str] = []
    for word in words[1:]:
        found = sorted(glob.glob(word.strip('"')))
        paths += [f'"{path}"' for path in found if path != SSHD_FILE] if SSHD_FILE in found else [word]
    return f"Include {' '.join(paths)}" if paths else ""


def _sshd_without() -> dict[str, str]:
    if not os.path.exists("/etc/ssh/sshd_config"):
        return {}
    # Outside of Match blocks: what is stricter in one of them for this connection is not so for all others.
    return sshd_settings_of(sshd_text_without_ours(), None)


def sshd_reads_drop_ins(text: str) -> bool:
    """Whether a main configuration includes the folder of drop-ins before it sets anything. Pure."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        return words[0].lower() == "include" and "/etc/ssh/sshd_config.d/*.conf" in words[1:]
    return False


def switches_forwarding_off(text: str) -> bool:
    """Whether a sysctl file switches IPv4 or IPv6 forwarding off. Pure."""
    return any(
        re.match(
            r"-?net[./](ipv4[./](ip_forward|conf[./]all[./]forwarding)|ipv6[./]conf[./]all[./]forwarding)\s*=\s*0\b",
            line,
        )
        for line in map(str.strip, text.splitlines())
    )


def _number(path: str) -> t.Optional[int]:
    text = read_text(path)
    return int(text.split()[0]) if text and text.strip() else None


def _capable() -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", read_text("/proc/self/status") or "", re.MULTILINE)
    return bool(match and int(match.group(1), 16) >> CAP_SYS_RESOURCE & 1)


def _systemd_nofile() -> tuple[int, int]:
    names = "--property=DefaultLimitNOFILE,DefaultLimitNOFILESoft"
    shown = dict(line.split("=", 1) for line in run("Asking systemd", ["systemctl", "show", names]).splitlines())
    soft, hard = shown["DefaultLimitNOFILESoft"], shown["DefaultLimitNOFILE"]
    return (limit(soft), limit(hard))


def limit(text: str) -> int:
    """A limit in systemd's words: a number, with a suffix for its power of 1024, or ``infinity``.

    >>> limit("64K")
    65536

    :raises ValueError: if it is none.
    """
    if text == "infinity":
        return UNLIMITED
    power = "KMGTPE".find(text[-1:]) + 1 if text else 0
    return int(text[:-1] if power else text) << 10 * power


def _forwarding_off() -> t.Iterator[str]:
    folders = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d")
    for path in ["/etc/sysctl.conf", *(path for folder in folders for path in sorted(glob.glob(f"{folder}/*.conf")))]:
        if switches_forwarding_off(read_text(path) or ""):
            yield path


def _first_set(bad: t.Mapping[str, str]) -> str:
    """The first sysctl that has the value given, in words; empty if none has."""
    for name, value in bad.items():
        if (read_text(sysctl_path(name)) or "").strip() == value:
            return f"{name} is {value}"
    return ""


def _autofs() -> str:
    argv = ["systemctl", "show", "--property=LoadState,ActiveState", "autofs.service"]
    shown = dict(line.split("=", 1) for line in run("Asking systemd for autofs", argv).splitlines())
    return "" if shown["LoadState"] == "not-found" else f"{shown['LoadState']}/{shown['ActiveState']}"


def _runs(program: str) -> bool:
    here = os.stat("/proc/self/ns/pid").st_ino
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    # Not one of a container's: those have a PID namespace of their own.
                    if file.read().strip() == program and os.stat(f"/proc/{name}/ns/pid").st_ino == here:
                        return True
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    return False


def _clock() -> dict[str, t.Any]:
    """From chrony, if it runs: stratum and offset in seconds."""
    if shutil.which("chronyc", path=SYSTEM_PATH) is None:
        return {"service": ""}
    if not _runs("chronyd"):
        return {"service": "chrony is installed and does not run"}
    # chronyc -c: reference id, name, stratum, reference time, system time offset, ... (chronyc(1), "tracking").
    fields = run("Asking chrony for the clock", ["chronyc", "-n", "-c", "tracking"], 15).strip().split(",")
    return {"service": "chrony", "stratum": int(fields[2]), "offset": abs(float(fields[4]))}


def _accounts_with_keys() -> t.Iterator[str]:
    for account in pwd.getpwall():
        if account.pw_shell.rsplit("/", 1)[-1] in ("nologin", "false", "sync", ""):
            continue
        try:
            text = read_text(f"{account.pw_dir}/.ssh/authorized_keys") or ""
        except GridboxError:
            continue  # a home that root cannot read (a network file system) proves no key
        if any(line.strip() and not line.strip().startswith("#") for line in text.splitlines()):
            yield account.pw_name

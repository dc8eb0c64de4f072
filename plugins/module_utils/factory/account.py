# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The account of Apptainer machines. Its processes are the factory's: what is in no machine is killed on sight.

A container of somebody else on the host may have processes of the same number, for numbers of system accounts are those
that images use too. They are not the account's, and are left alone.
"""

from __future__ import annotations

import os
import pwd
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import cgroups
from ansible_collections.hep.gridbox.plugins.module_utils.host.processes import kill, status

#: Shells of accounts that nobody logs in to.
_NO_SHELLS = ("nologin", "false")
#: Looks of one sweep: whatever starts others faster than it is killed is found again by the next one.
_ROUNDS = 50


@dataclass(frozen=True)
class Account:
    """An account of this host, by numbers."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Process:
    """A process that lives.

    :ivar uids: real, effective, saved and of the file system.
    :ivar groups: paths of its control groups.
    :ivar contained: it is in a container that root has made.
    """

    pid: int
    name: str
    uids: frozenset[int]
    groups: tuple[str, ...]
    contained: bool = False


def find(name: str) -> Account:
    """An account by name. All accounts of the host are looked at, which may take long where they are in LDAP.

    :raises RefusedError: if it cannot be that of machines.
    """
    own = entry(name)
    return judge(name, [*([own] if own is not None else []), *pwd.getpwall()])


def entry(name: str) -> t.Optional[pwd.struct_passwd]:
    """What the host says of an account; None: there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def judge(name: str, known: t.Sequence[pwd.struct_passwd]) -> Account:
    """The same from the host's accounts. Pure."""
    found = next((one for one in known if one.pw_name == name), None)
    if found is None:
        remedy = f"Make it: useradd --system --no-create-home --shell /usr/sbin/nologin {name}"
        raise RefusedError(f"apptainer_account: {name}", "this host has no such account", remedy)
    others = sorted({one.pw_name for one in known if one.pw_uid == found.pw_uid} - {name})
    problem = ""
    if found.pw_uid == 0:
        problem = "it is root"
    elif others:
        problem = f"its number {found.pw_uid} is {', '.join(others)}'s as well"
    elif os.path.basename(found.pw_shell) not in _NO_SHELLS:
        problem = f"somebody can log in to it, for its shell is {found.pw_shell or '/bin/sh'}"
    if problem:
        remedy = "Name an account that is for these machines only: all its other processes are killed."
        raise RefusedError(f"apptainer_account: {name}", problem, remedy)
    return Account(name, found.pw_uid, found.pw_gid)


def become(uid: int, gid: int) -> list[str]:
    """The command that runs another one as an account, and that can become nobody else."""
    words = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]
    return ["setpriv", *words, "--"]


def processes(uid: int) -> list[Process]:
    """The processes that have anything of an account."""
    numbers = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = (look(pid) for pid in numbers)
    return [one for one in found if one is not None and uid in one.uids]


def look(pid: int) -> t.Optional[Process]:
    """A process; None if there is none, or it has ended and nobody has buried it yet."""
    about = status(pid)
    if about is None:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            groups = tuple(line.rstrip("\n").split(":", 2)[2] for line in file)
        contained = _is_contained(pid, about)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if about["State"].split()[0] in "ZX":
        return None
    return Process(pid, about["Name"].strip(), frozenset(map(int, about["Uid"].split())), groups, contained)


def _is_contained(pid: int, about: t.Mapping[str, str]) -> bool:
    """Whether a process is in a namespace of process numbers below ours, and in our namespace of users.

    Only root has put it there. To make or to enter one of process numbers takes CAP_SYS_ADMIN in the namespace of users
    that it belongs to; who has that without being root has it in one that he has made, and does not come back out of
    that (user_namespaces(7)). So nothing that the account does, in a machine or outside, leads there.
    """
    if len(about["NSpid"].split()) == 1:  # a number in each namespace (proc(5))
        return False
    try:
        return os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user")
    except PermissionError:  # without CAP_SYS_PTRACE: we are in a container ourselves, where nobody else has any
        return False


def is_astray(process: Process, uid: int, live: t.Collection[str]) -> bool:
    """Whether a process is the account's, and in no machine that lives. Pure.

    In a container of somebody else's it is not the account's, though it has its number. What is in a group of ours, in
    any hierarchy, is never that: with version 1 or 2, groups are root's files, so whoever was put into one stays in it.

    :param live: names of the machines' groups.
    """
    ours = [f"{path}/" for path in process.groups if f"/{cgroups.OURS}/" in f"{path}/"]
    if uid not in process.uids or (process.contained and not ours):
        return False
    return not any(f"/{cgroups.OURS}/{name}/" in path for path in ours for name in live)


def sweep(uid: int, live: t.Callable[[], t.Collection[str]]) -> list[Process]:
    """Kill every process of the account that is in no machine that lives, until there is none.

    :param live: asked after the processes were read, so that one that is just being started is not hit.
    :returns: those that were found.
    """
    swept: dict[int, Process] = {}
    for _round in range(_ROUNDS):
        seen = processes(uid)
        alive = live() if seen else ()
        astray = [one for one in seen if is_astray(one, uid, alive)]
        if not astray:
            break
        for process in astray:
            swept[process.pid] = process
            kill(process.pid, lambda pid: _still(pid, uid, live()))
    return list(swept.values())


def _still(pid: int, uid: int, live: t.Collection[str]) -> bool:
    process = look(pid)
    return process is not None and is_astray(process, uid, live)

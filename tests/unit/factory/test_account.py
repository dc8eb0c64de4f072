# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import (
    Account,
    Process,
    is_astray,
    judge,
    look,
)

LIVE = {"f1-00.example.org_0123abcd", "image-0123.sif"}


def entry(name: str, uid: int, shell: str = "/usr/sbin/nologin") -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid + 1, "", "/nonexistent", shell))


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/sbin/nologin", "/bin/false"])
def test_an_account_that_nobody_logs_in_to(shell: str) -> None:
    assert judge("vacsing", [entry("root", 0), entry("vacsing", 990, shell)]) == Account("vacsing", 990, 991)


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ([], "apptainer_account: vacsing: this host has no such account. Make it: useradd --system"),
        ([entry("vacsing", 0)], "it is root. Name an account that is for these machines only"),
        ([entry("vacsing", 990), entry("alice", 990)], "its number 990 is alice's as well."),
        ([entry("vacsing", 990, "/bin/bash")], "somebody can log in to it, for its shell is /bin/bash."),
        ([entry("vacsing", 990, "")], "for its shell is /bin/sh."),
    ],
)
def test_an_account_that_cannot_be_machines(known: list[pwd.struct_passwd], told: str) -> None:
    with pytest.raises(RefusedError) as found:
        judge("vacsing", known)
    assert told in str(found.value)


@pytest.mark.parametrize(
    ("uids", "groups", "astray"),
    [
        ({990}, ("/hep.gridbox/f1-00.example.org_0123abcd", "/"), False),
        # A hierarchy that it was not put into says nothing.
        ({990}, ("/", "/hep.gridbox/image-0123.sif"), False),
        # A group below its own, and a factory in a container.
        ({990}, ("/lxc/f1/hep.gridbox/f1-00.example.org_0123abcd/own",), False),
        ({990}, ("/user.slice/user-990.slice/session-3.scope",), True),
        ({990}, ("/",), True),
        ({990}, (), True),
        # A machine that is over, and names that only begin or end alike.
        ({990}, ("/hep.gridbox/f1-01.example.org_ffffffff",), True),
        ({990}, ("/hep.gridbox/f1-00.example.org_0123abcde",), True),
        ({990}, ("/x/hep.gridbox-f1-00.example.org_0123abcd",), True),
        ({990}, ("/hep.gridbox/supervisors",), True),
        # Any of its numbers makes it the account's; none makes it somebody else's.
        ({0, 990}, ("/",), True),
        ({0, 991}, ("/",), False),
    ],
)
def test_who_is_in_no_machine(uids: set[int], groups: tuple[str, ...], astray: bool) -> None:
    assert is_astray(Process(7, "sleep", frozenset(uids), groups), 990, LIVE) == astray


@pytest.mark.parametrize(
    ("groups", "astray"),
    [
        # Docker's and Podman's, with control groups of version 1, of 2, and of both.
        (("/docker/0123", "/docker/0123", "/"), False),
        (("/system.slice/docker-0123.scope",), False),
        (("/machine.slice/libpod-0123.scope", "/"), False),
        (("/",), False),
        # Of a machine that is over, in whichever hierarchy that is to be seen.
        (("/hep.gridbox/f1-01.example.org_ffffffff",), True),
        (("/", "/hep.gridbox/f1-01.example.org_ffffffff", "/"), True),
        (("/lxc/f1/hep.gridbox/f1-01.example.org_ffffffff/own", "/"), True),
        (("/hep.gridbox/f1-00.example.org_0123abcd", "/"), False),
    ],
)
def test_a_container_of_somebody_else_may_have_the_same_number(groups: tuple[str, ...], astray: bool) -> None:
    assert is_astray(Process(7, "redis-server", frozenset({990}), groups, contained=True), 990, LIVE) == astray


@contextlib.contextmanager
def grandchild(*argv: str) -> t.Iterator[int]:
    """A process that a command starts, by its number here."""
    child = subprocess.Popen([*argv, "sleep", "600"], stdin=subprocess.DEVNULL)
    try:
        found = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        deadline = time.monotonic() + 10
        while "sleep" not in [Path(f"/proc/{one}/comm").read_text().strip() for one in found.read_text().split()]:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        [pid] = map(int, found.read_text().split())
        yield pid
        os.kill(pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces")
@pytest.mark.parametrize(
    ("words", "contained"),
    [
        (("unshare", "--pid", "--fork"), True),
        (("unshare", "--mount", "--fork"), False),
        # Whoever has made his own namespace of users, as each account can, has made the others by that.
        (("unshare", "--user", "--map-root-user", "--pid", "--fork"), False),
    ],
)
def test_only_root_puts_a_process_into_a_container(words: tuple[str, ...], contained: bool) -> None:
    with grandchild(*words) as pid:
        found = look(pid)
    assert found is not None and (found.name, found.contained) == ("sleep", contained)


def test_a_process_as_the_kernel_has_it() -> None:
    own = look(os.getpid())
    assert own is not None and own.uids == {os.getuid()} and own.groups and not own.contained
    assert look(2**22 + 1) is None


def test_a_process_that_has_ended_is_none() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert look(child) is None  # nobody has buried it yet
    os.waitpid(child, 0)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pwd

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


def test_a_process_as_the_kernel_has_it() -> None:
    own = look(os.getpid())
    assert own is not None and own.uids == {os.getuid()} and own.groups
    assert look(2**22 + 1) is None


def test_a_process_that_has_ended_is_none() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert look(child) is None  # nobody has buried it yet
    os.waitpid(child, 0)

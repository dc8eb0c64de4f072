# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network namespaces as options name them, and how a program is started in one."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError

#: Where iproute2 keeps the names (ip-netns(8)).
FOLDER = "/run/netns"


def from_option(value: t.Optional[str]) -> str:
    """The path that the option ``netns`` means; empty: the namespace Ansible runs in.

    :raises InputError: if it is neither a name nor an absolute path.
    """
    netns = f"{FOLDER}/{value}" if value and "/" not in value else value or ""
    if netns and not netns.startswith("/"):
        raise InputError("netns", value, f"a name below {FOLDER}, or an absolute path")
    return netns


def missing(netns: str) -> RefusedError:
    """The refusal of a namespace that is not there."""
    return RefusedError(
        f"netns: {netns}", "there is no such network namespace", "Make it first (ip netns add), or leave netns out."
    )


def way_in(netns: str) -> tuple[str, ...]:
    """What comes before a program that is to run in a namespace; nothing for this one.

    nsenter execs, so the process keeps its pid; unlike "ip netns exec" it leaves /sys and the cgroups alone.
    """
    return ("nsenter", f"--net={netns}") if netns else ()

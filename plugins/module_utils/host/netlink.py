# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests to the kernel's netlink that every version of pyroute2 gets right."""

from __future__ import annotations

import typing as t

#: NLM_F_REQUEST and NLM_F_ACK of linux/netlink.h.
PLAIN = 0x1 | 0x4

#: RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE and RTM_DELRULE of linux/rtnetlink.h.
DELETIONS = (17, 21, 25, 33)


def refusal(exc: BaseException) -> int:
    """The kernel's number in an exception of pyroute2; 0 for any other.

    Asked for by name: 0.6 has the class twice, in ``pyroute2`` and in ``pr2modules``, and raises the other one.
    """
    code = getattr(exc, "code", None)
    named = any(family.__name__ == "NetlinkError" for family in type(exc).__mro__)
    return code if named and isinstance(code, int) else 0


def with_plain_deletions(netlink: t.Any) -> t.Any:
    """Have requests to delete carry no flags of a creation; returns the same IPRoute or NetNS.

    pyroute2 before 0.7 (EPEL 9 and Ubuntu 22.04 have such) sends them with NLM_F_EXCL. The kernel took no notice until
    5.19, where the same bit in a deletion means NLM_F_BULK; since then it answers "Operation not supported".
    """
    send = netlink.nlm_request

    def request(*arguments: t.Any, **options: t.Any) -> t.Any:
        if options.get("msg_type") in DELETIONS:
            options["msg_flags"] = PLAIN
        return send(*arguments, **options)

    netlink.nlm_request = request
    return netlink

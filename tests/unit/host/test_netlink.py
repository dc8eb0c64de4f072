# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Flags of requests to netlink, as pyroute2 0.5 and 0.6 would send them."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.host.netlink import refusal, with_plain_deletions

CREATE_EXCLUSIVELY = 0x400 | 0x200


class Recorder:
    """Stands where pyroute2 hands a request over."""

    def __init__(self) -> None:
        self.sent: list[dict[str, t.Any]] = []

    def nlm_request(self, message: str, **options: t.Any) -> str:
        self.sent.append(options)
        return f"answer to {message}"


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (17, 0x5), (21, 0x5), (25, 0x5), (33, 0x5),  # a link, an address, a route and a rule go
        (16, 0x5 | CREATE_EXCLUSIVELY), (20, 0x5 | CREATE_EXCLUSIVELY),  # a link and an address come
    ],
)  # fmt: skip
def test_only_a_creation_has_the_flags_of_a_creation(kind: int, flags: int) -> None:
    recorder = Recorder()
    answer = with_plain_deletions(recorder).nlm_request("it", msg_type=kind, msg_flags=0x5 | CREATE_EXCLUSIVELY)
    assert answer == "answer to it"
    assert recorder.sent == [{"msg_type": kind, "msg_flags": flags}]


class NetlinkError(Exception):
    """As pyroute2 has it, in one of its two places."""

    def __init__(self, code: t.Any) -> None:
        super().__init__(code, "in words")
        self.code = code


class NetlinkDumpInterrupted(NetlinkError):
    """A kind of it."""


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NetlinkError(17), 17),
        (NetlinkDumpInterrupted(4), 4),
        (NetlinkError(None), 0),
        (OSError(17, "File exists"), 0),
        (SystemExit(17), 0),
    ],
)
def test_the_kernels_refusal_is_known_wherever_its_class_is_from(error: BaseException, number: int) -> None:
    assert refusal(error) == number

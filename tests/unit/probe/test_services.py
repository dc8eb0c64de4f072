# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which answer is a service's sign."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.probe.services import Service, Wish, judge

SSH = Service("sshd", "10.0.0.1", 1975, "ssh", "/", ())
HTTP = Service("squid", "fd00::1", 3128, "http", "/", (200, 400))


@pytest.mark.parametrize(
    ("service", "received", "up"),
    [
        (SSH, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", True),
        (SSH, b"Welcome to the site\r\nSSH-2.0-x\r\n", True),
        (SSH, b"Welcome to the site\r\n", None),
        (SSH, b"SSH-2.0-Open", None),
        (SSH, b"x" * 5000, False),
        (HTTP, b"HTTP/1.1 400 Bad Request\r\n", True),
        (HTTP, b"HTTP/1.1 404 Not Found\r\n", False),
        (HTTP, b"HTTP/1.1 4", None),
        (HTTP, b"SSH-2.0-x\r\n", False),
        (HTTP, b"\xff\xfe\x00\n", False),
    ],
)
def test_judge(service: Service, received: bytes, up: t.Optional[bool]) -> None:
    answer = judge(service, received)
    assert (answer and answer.up) == up


def test_the_family_follows_from_the_address() -> None:
    assert (SSH.family, HTTP.family) == ("ipv4", "ipv6")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"address": "vobox1"}, "services[0].address: got 'vobox1', expected an IPv4 or IPv6 address."),
        ({"port": 0}, "services[0].port: got 0"),
        ({"path": "x"}, "services[0].path: got 'x'"),
        ({"path": "/a b\r\nX: y"}, "services[0].path"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changed: dict[str, t.Any], sentence: str) -> None:
    service = {"name": "s", "address": "10.0.0.1", "port": 1, "sign": "http", "path": "/", "statuses": [], **changed}
    with pytest.raises(InputError) as refused:
        Wish.from_params({"services": [service], "netns": None, "timeout": 1, "wait": 0, "required": True})
    assert sentence in str(refused.value)

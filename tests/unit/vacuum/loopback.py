# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A responder on the loopback, in a loop of a thread of its own, so that a test may wait for its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder, Snapshot

SPACE = "vac01.example.com"


def snapshot(number: int = 1, machines: int = 3, machinetypes: int = 2) -> Snapshot:
    """What factory NUMBER says of itself."""
    factory = f"factory{number}.example.com"
    return Snapshot(
        SPACE, factory, "EXAMPLE", "hep.gridbox 1", FactoryStatus(max_machines=machines, os_issue="Example Linux 1"),
        tuple(MachinetypeStatus(f"type{n}", float(n), shutdown_message="200 Success") for n in range(machinetypes)),
        tuple(MachineStatus(f"factory{number}-{n:02d}.example.com") for n in range(machines)),
    )  # fmt: skip


def bind(responder: Responder, port: int = 0, ipv4: str | None = "127.0.0.1", ipv6: str | None = "::1") -> int:
    """Open it on a port that is free for both families."""
    for _turn in range(20):
        with contextlib.suppress(RefusedError):
            return responder.open(port, ipv4, ipv6)
    raise AssertionError("no port is free for both families")


@contextlib.contextmanager
def served(responder: Responder, **where: t.Any) -> t.Iterator[int]:
    """Let it answer; gives its port."""
    port = bind(responder, **where)
    loop = asyncio.new_event_loop()
    failures: list[dict[str, t.Any]] = []
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    loop.call_soon(responder.attach, loop)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(responder.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
    assert not thread.is_alive()
    assert failures == []


def ask(
    port: int, data: bytes, host: str = "127.0.0.1", source: str = "", seconds: float = 2.0
) -> list[dict[str, t.Any]]:
    """Send one datagram; the replies, as many as the first announces. None within the time: none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    replies: list[dict[str, t.Any]] = []
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        if source:
            client.bind((source, 0))
        client.connect((host, port))  # only what comes from the address that was asked is heard
        client.settimeout(seconds)
        client.send(data)
        with contextlib.suppress(TimeoutError):
            while not replies or len(replies) < replies[0].get("num_machines", replies[0].get("num_machinetypes", 1)):
                replies.append(json.loads(client.recv(65536)))
    return replies

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A pipe's server that takes connections and never answers: a factory gives it half a minute each time, and its slots
do not wait for that."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import typing as t

import pytest

from tests.integration.test_factory_shares import WAITS
from tests.lab.factory import LabFactory, kind_of

PORT = 8765
_LISTEN = f"""
import socket
with socket.create_server(("127.0.0.1", {PORT}), backlog=64):
    print("ready", flush=True)
    input()
"""


@contextlib.contextmanager
def hanging(netns: str) -> t.Iterator[str]:
    """The URL of such a server on the loopback of a network namespace."""
    argv = ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", _LISTEN]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{PORT}/pipe"
        process.kill()


@pytest.mark.fleet
def test_a_start_does_not_wait_for_a_pipe_that_hangs(make_factory: t.Callable[..., LabFactory]) -> None:
    factory = make_factory({"own": {"script": WAITS}}, total_processors=1)
    with hanging(factory.netns) as url:
        factory.write(vacuum_pipes={"p": {"vacuum_pipe_url": url, "target_share": 1}})
        factory.start()
        factory.wait("a machine", factory.running)
        assert not factory.events("pipe"), (
            "it has been read in vain, which takes 30 s: the start may have waited for that"
        )
        factory.wait("that it cannot be read", lambda: "p has never been read: " in factory.run("check").stdout)


def test_slots_do_not_wait_for_a_pipe_that_hangs(make_factory: t.Callable[..., LabFactory]) -> None:
    """Neither after a change of the configuration nor after an order; and what is not wanted any more never starts."""
    factory = make_factory({"old": {"script": WAITS}}, total_processors=2, draining=True)
    factory.start()
    factory.wait("a decision", lambda: "draining" in factory.run("explain").stdout)
    factory.run("drain", "0")
    factory.wait("the order", lambda: factory.events("orders_read"))
    with hanging(factory.netns) as url:
        factory.settings.update(draining=False, vacuum_pipes={"p": {"vacuum_pipe_url": url, "target_share": 1}})
        factory.kinds({"new": {"script": WAITS}})
        factory.wait("a machine", lambda: len(factory.running()) == 1)
        factory.run("drain", "--undo", "0")
        machines = factory.wait("another", lambda: len(found := factory.running()) == 2 and found)
        assert {kind_of(one) for one in machines} == {"new"}
        assert not factory.events("pipe"), "it has been read in vain, which takes 30 s: they may have waited for that"
        factory.wait("that it cannot be read", lambda: "p has never been read: " in factory.run("check").stdout)
    assert {one["machinetype"] for one in factory.events("machine_started")} == {"new"}

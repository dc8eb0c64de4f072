# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What monitors are told, and that it reaches them."""

from __future__ import annotations

import asyncio
import json
import socket
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import FRAME
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    MachineStatus,
    Reply,
    parse_reply_bytes,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Monitor, parse_monitors
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.vacmon import (
    Sender,
    end_message,
    status_messages,
)
from tests.unit.vacuum.loopback import snapshot

RAN = MachineStatus(
    "factory1-00.example.com", "Running", "type0", "7cdc", 1795187270, 1795187272, 1795187400, 120, 98.5, 10.0,
    machine_model="docker", num_processors=1,
)  # fmt: skip


def test_a_round_tells_of_the_factory_and_then_of_each_machinetype() -> None:
    told = [json.loads(data) for data in status_messages(snapshot(), 1795187635.9)]
    assert [one["message_type"] for one in told] == ["factory_status", "machinetype_status", "machinetype_status"]
    assert [one.get("machinetype") for one in told] == [None, "type0", "type1"]
    for one in told:
        assert (one["cookie"], one["daemon_version"], one["time_sent"]) == ("0", "hep.gridbox 1 factory", 1795187635)
    assert len(status_messages(snapshot(machinetypes=0), 0.0)) == 1


@pytest.mark.parametrize("message", ["200 Success", "700 " + "x" * 5000, None])
def test_a_machine_that_has_ended_is_told_as_shut_down(message: str | None) -> None:
    """Vac says Running, and no message (spec 9.2)."""
    data = end_message(snapshot(), RAN, message, 1795187500.5, 1795187501.0)
    assert len(data) <= FRAME
    reply = parse_reply_bytes(data)
    status = t.cast(MachineStatus, reply.status)
    assert status == replace(
        RAN, state="Shut down", shutdown_time=1795187500, shutdown_message=status.shutdown_message
    )  # fmt: skip
    assert (status.shutdown_message or "")[:9] == (message or "")[:9]
    assert (status.shutdown_message is None) == (message is None)
    assert reply == Reply(snapshot().envelope("0", "factory", 1795187501.0), status, 3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("vacmon.example.com:8884", (Monitor("vacmon.example.com", 8884),)),
        (" 192.0.2.1:1  [2001:db8::1]:65535\n", (Monitor("192.0.2.1", 1), Monitor("2001:db8::1", 65535))),
    ],
)
def test_monitors_are_read(text: str, found: tuple[Monitor, ...]) -> None:
    assert parse_monitors(text) == found


@pytest.mark.parametrize(
    "word", ["host", "host:", ":8884", "host:0", "host:65536", "Host:8884", "host:8884,", "a;b:1", "::1:8884", "h:٣"]
)
def test_what_is_no_monitor_is_told(word: str) -> None:
    with pytest.raises(InputError, match=r"^vacmon_hostport: got '.*', expected HOST:PORT in lower case"):
        parse_monitors(f"good.example.com:8884 {word}")


def test_all_monitors_over_both_families_are_told_and_none_is_waited_for() -> None:
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four, socket.socket(
            socket.AF_INET6, socket.SOCK_DGRAM
        ) as six, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:  # fmt: skip
            for opened, host in ((four, "127.0.0.1"), (six, "::1"), (gone, "127.0.0.1")):
                opened.bind((host, 0))
                opened.settimeout(5)
            monitors = (
                Monitor("nowhere.invalid", 8884),
                Monitor("127.0.0.1", gone.getsockname()[1]),
                Monitor("127.0.0.1", four.getsockname()[1]),
                Monitor("::1", six.getsockname()[1]),
            )
            gone.close()

            def look_up(host: str) -> t.NoReturn:
                raise OSError(-2, "Name or service not known")

            said: list[tuple[str, str]] = []
            sender = Sender(
                monitors, Resolver(function=look_up), lambda monitor, problem: said.append((monitor, problem))
            )
            assert set(sender.sent) == {one.name for one in monitors}
            told = status_messages(snapshot(), 1795187635.0)
            for _turn in range(2):
                await sender.send(told, seconds=2)
                for opened in (four, six):
                    assert [opened.recv(4096) for _turn in told] == told
            assert [(one.datagrams, one.failed) for one in sender.sent.values()] == [
                (0, {"unknown_host": 6}), (6, {}), (6, {}), (6, {}),
            ]  # fmt: skip
            assert said == [("nowhere.invalid:8884", "Name or service not known")], "once"
            sender.close()

    asyncio.run(run())


def test_a_monitor_that_cannot_be_told_is_news_and_so_is_that_it_can_again() -> None:
    """A name that does not resolve would be silent for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        monitor = Monitor("vacmon.example.com", opened.getsockname()[1])
        answers: list[tuple[int, str] | None] = [None]

        def look_up(_host: str) -> tuple[tuple[int, str], ...]:
            if answers[0] is None:
                raise OSError(-2, "Name or service not known")
            return (answers[0],)

        async def run() -> None:
            said: list[tuple[str, str]] = []
            sender = Sender((monitor,), Resolver(), lambda monitor, problem: said.append((monitor, problem)))
            name = f"vacmon.example.com:{monitor.port}"
            for answer in (
                (socket.AF_INET, "127.0.0.1"), None, None, (socket.AF_INET, "127.0.0.1"),
                (socket.AF_INET, "255.255.255.255"),
            ):  # fmt: skip
                answers[0] = answer
                sender._resolver = Resolver(function=look_up)  # one that remembers nothing
                await sender.send([b"{}", b"{}"], seconds=20)
            assert said == [
                (name, "Name or service not known"), (name, ""), (name, "Permission denied"),
            ]  # fmt: skip
            assert sender.sent[name].problem == "Permission denied"
            assert sender.sent[name].failed == {"unknown_host": 4, "unsendable": 2}
            assert sender.sent[name].datagrams == 4
            sender.monitors = ()
            assert sender.sent == {}
            sender.close()

        asyncio.run(run())


@pytest.mark.parametrize("name", ["vacmon.example.com:8884", "192.0.2.1:1", "[2001:db8::1]:65535"])
def test_a_monitor_is_named_as_it_is_configured(name: str) -> None:
    assert [one.name for one in parse_monitors(name)] == [name]

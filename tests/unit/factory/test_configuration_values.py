# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever stands in a factory's configuration, it is refused in a sentence, or the daemon works with it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import catalogue, host_facts
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import body
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.features import features
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import planned
from ansible_collections.hep.gridbox.plugins.module_utils.factory.state import snapshot
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import KEYS
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Budget, poll
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.vacmon import status_messages
from tests.unit.factory.options import options_of_the_code
from tests.unit.factory.test_configuration import SMALL

#: JSON of every type, and texts that have stopped others.
VALUES: tuple[t.Any, ...] = (
    None, True, False, 0, 1, -1, 5, 995.0, 1.5, -0.0, 1e308, 10**400, math.nan, math.inf, "", "x", "5", "a b", "/",
    "/a", "a/b", "/a\x00b", "/a\ud800", "/a\nb", "unix:///a\x00b", "unix:///a\ud800", "unix:///" + 200 * "a", "\x00",
    "\ud800", "é", "..", "a..b", "::1", "x:1", "x" * 70000, [], [None], [5], [1.5], [True], ["x"], ["f2.example.org"],
    [["x"]], [{}], {}, {"x": None}, {"x": 5}, {"x": "y"}, {"x": "\x00"}, {"x": "\ud800"}, {"x": []}, {"x": {}},
    {"": ""}, {"\ud800": {}}, {"x": {"\ud800": 1}}, {"f2.example.org": 1},
)  # fmt: skip
NOW = 1_800_000_000
KIND = {"root_image": "docker://example.org/a:1", "user_data": "run", "target_share": 1}
PIPE = {"vacuum_pipe_path": "/no/such/pipe", "target_share": 1}
PEER = {"factory": "f2.example.org", "host": "localhost", "port": 995}


OPTIONS = list(options_of_the_code())
ADDRESSES = {"localhost": ((int(socket.AF_INET), "127.0.0.1"),)}


def works(made: Configuration, folder: Path) -> None:
    """Do what the daemon does with a configuration, as far as that takes no host."""
    for path in (made.state_folder, made.key_file, made.cvmfs_root, made.ca_path, made.engine_url):
        os.path.lexists(path)
    made = replace(made, state_folder=str(folder))
    engine_of(made, lambda *_arguments, **_facts: None)
    if made.engine_url:
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match=r"No such file|too long|refused"):
            client.connect(made.engine_url.partition("://")[2])
    found = catalogue.read(made, {})
    told = snapshot(made, found.machinetypes, {}, {}, host_facts.facts(str(folder)), "", NOW)
    assert status_messages(told, NOW)
    for kind in found.machinetypes:
        start = Start(made.settings.slots[0], kind.name, 1, NOW + 3600)
        machine = planned(start, kind, made.settings, NOW, Clock("", 1_000))
        machine.as_json().encode()
        json.dumps(body(machine, kind, made, str(folder), "sha256:a", "")).encode()
        told_it = features(machine, made, made.grace_seconds, 40 * 10**9, NOW)
        for text in {**told_it.machinefeatures, **told_it.jobfeatures}.values():
            assert text.encode().count(b"\n") == 0
    budget = Budget(0.05)
    asyncio.run(poll("machinetypes_query", made.space, made.others, Resolver(function=_look_up), budget=budget))


def _look_up(host: str) -> tuple[tuple[int, str], ...]:
    host.encode("idna")
    return ADDRESSES["localhost"]


def refused_or_works(options: dict[str, t.Any], folder: Path) -> None:
    try:
        made = parse({**SMALL, **options})
    except InputError as exc:
        str(exc).encode()  # it goes into the journal, and to a terminal
        return
    works(made, folder)


@pytest.fixture(autouse=True)
def _no_web(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(url: str, *_arguments: t.Any) -> t.NoReturn:
        assert isinstance(url, str)
        raise GridboxError("it is down")

    monkeypatch.setattr(catalogue, "from_url", down)


def test_options_are_found() -> None:
    assert {"name", "factories", "shutdown_time", "vacuum_pipes", "user_data_options", "engine_url"} <= set(OPTIONS)
    assert len(OPTIONS) == len(set(OPTIONS)) > 35


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_refused_or_works_whatever_its_value(option: str, tmp_path: Path) -> None:
    started = {"machinetypes": {"a": KIND}, "vacuum_pipes": {"p": PIPE}}
    for value in VALUES:
        refused_or_works({**started, option: value}, tmp_path)


@pytest.mark.parametrize("key", sorted(PEER))
def test_a_peer_is_refused_or_asked_whatever_is_said_of_it(key: str, tmp_path: Path) -> None:
    for value in VALUES:
        refused_or_works({"factories": [{**PEER, key: value}]}, tmp_path)


@pytest.mark.parametrize("key", [*sorted(KEYS), "user_data_option_x", "user_data_file_x", "\ud800"])
def test_a_machinetype_is_refused_or_works_whatever_its_value(key: str, tmp_path: Path) -> None:
    for value in VALUES:
        refused_or_works({"machinetypes": {"a": {**KIND, key: value}}}, tmp_path)
        refused_or_works({"vacuum_pipes": {"p": {**PIPE, key: value}}}, tmp_path)


@pytest.mark.parametrize("key", ["vacuum_pipe_path", "vacuum_pipe_url"])
def test_a_pipe_is_refused_or_read_whatever_its_source(key: str, tmp_path: Path) -> None:
    for value in VALUES:
        refused_or_works({"vacuum_pipes": {"p": {key: value}}}, tmp_path)
        refused_or_works({"vacuum_pipes": {"p": {**PIPE, key: value}}}, tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"vacuum_pipes": {"p": {"vacuum_pipe_path": ["/a"]}}},
            "vacuum_pipes.p.vacuum_pipe_path: got ['/a'], expected an absolute path",
        ),
        (
            {"vacuum_pipes": {"p": {"vacuum_pipe_path": 5}}},
            "vacuum_pipes.p.vacuum_pipe_path: got 5, expected an absolute",
        ),
        ({"vacuum_pipes": {"p": {"vacuum_pipe_path": "a"}}}, "vacuum_pipes.p.vacuum_pipe_path: got 'a'"),
        ({"vacuum_pipes": {"p": {"vacuum_pipe_path": "/a\x00"}}}, "vacuum_pipes.p.vacuum_pipe_path: got '/a\\x00'"),
        ({"vacuum_pipes": {"p": {**PIPE, "vacuum_pipe_url": []}}}, "vacuum_pipes.p.vacuum_pipe_url: got []"),
        (
            {"factories": [{**PEER, "port": 995.0}]},
            "factories[0].port: got 995.0, expected a whole number from 1 to 65535",
        ),
        ({"factories": ["f2.example.org", {**PEER, "port": True}]}, "factories[1].port: got True"),
        ({"factories": [{**PEER, "host": 5}]}, "factories[0].host: got 5, expected a host's name or an address"),
        ({"factories": [{**PEER, "host": "a b"}]}, "factories[0].host: got 'a b'"),
        ({"factories": {"f2.example.org": 995}}, "factories: got {'f2.example.org': 995}, expected a list"),
        ({"networks": [True]}, "networks: got [True]"),
        ({"engine_url": "unix:///a\x00"}, "engine_url: got 'unix:///a\\x00'"),
        ({"machinefeatures_options": {"x": "\ud800"}}, "machinefeatures_options: got {'x': '\\ud800'}"),
    ],
)
def test_what_the_daemon_would_fall_over_is_a_sentence(options: dict[str, t.Any], told: str) -> None:
    with pytest.raises(InputError) as found:
        parse({**SMALL, **options})
    assert told in str(found.value)


@pytest.mark.parametrize(
    "host", ["", "f2", "F2.example.org", "f_2.example.org", "192.0.2.1", "2001:db8::1", "fe80::1%eth0"]
)
def test_hosts_of_peers(host: str) -> None:
    (peer,) = parse({**SMALL, "factories": [{**PEER, "host": host}]}).factories
    assert peer.host == host

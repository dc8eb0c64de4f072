# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon's configuration and its process: what is decided."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd import config, daemon, pending
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import Process, flag_value
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError

CONFIG: dict[str, t.Any] = {
    "config_file": "/etc/docker/daemon.json",
    "keys": {},
    "absent": [],
    "record": None,
    "pidfile": "/run/docker.pid",
    "socket": "/run/docker.sock",
    "wait_timeout": 5,
}
DAEMON: dict[str, t.Any] = {
    "state": "started",
    "executable": "dockerd",
    "config_file": "/etc/docker/daemon.json",
    "socket": "/run/docker.sock",
    "data_root": "/var/lib/docker",
    "exec_root": "/run/docker",
    "pidfile": "/run/docker.pid",
    "log_file": "/var/log/dockerd.log",
    "extra_arguments": [],
    "netns": None,
    "wait_timeout": 5,
}


def observed(text: str | None, daemon_runs: bool = True) -> config.Observed:
    return config.Observed(text, config.keys_of("f", text), (100, 5) if daemon_runs else None, {})


@pytest.mark.parametrize(
    ("text", "keys", "absent", "after"),
    [
        (None, {"debug": True}, [], '{\n  "debug": true\n}\n'),
        ("", {"debug": True}, [], '{\n  "debug": true\n}\n'),
        ('{ "a":1,  "b":  2 }', {"b": 3}, [], '{ "a":1,  "b":  3 }'),
        ('{\n\t"a": 1\n}\n', {"b": [1]}, [], '{\n\t"a": 1,\n\t"b": [1]\n}\n'),
        ('{"a": 1, "b": 2}', {}, ["a"], '{"b": 2}'),
        ('{"a": 1.0}', {"a": 1.0}, [], '{"a": 1.0}'),
    ],
)
def test_only_what_is_asked_for_changes(
    text: str | None, keys: dict[str, t.Any], absent: list[str], after: str
) -> None:
    wish = config.Wish.from_params({**CONFIG, "keys": keys, "absent": absent})
    assert config.merged(wish, text, config.keys_of("f", text)) == after


@pytest.mark.parametrize(
    ("text", "keys", "runs", "actions"),
    [
        ('{"debug": true}', {"debug": True}, True, []),
        ('{"debug": true}', {"debug": False}, True, ["write_config", "reload"]),
        ('{"debug": true}', {"debug": False}, False, ["write_config"]),
        ("{}", {"log-driver": "local"}, True, ["write_config"]),
        (None, {}, True, []),
    ],
)
def test_a_running_daemon_is_reloaded_only_for_what_that_brings_in(
    text: str | None, keys: dict[str, t.Any], runs: bool, actions: list[str]
) -> None:
    plan = config.plan(config.Wish.from_params({**CONFIG, "keys": keys}), observed(text, runs))
    assert [step.action for step in plan.steps] == actions


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', "nonsense", '{"a": NaN}'])
def test_a_broken_file_is_left_alone(text: str) -> None:
    with pytest.raises(RefusedError, match="left alone"):
        config.keys_of("/etc/docker/daemon.json", text)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keys": {"labels": "x"}}, r"keys\.labels: got 'x', expected a list"),
        ({"keys": {"max-concurrent-downloads": True}}, "expected a number"),
        ({"keys": {"debug": 1}}, "expected true or false"),
        ({"keys": {"a": 1}, "absent": ["a"]}, "absent: got 'a', expected no key that is in keys"),
        ({"config_file": "etc/daemon.json"}, "config_file: got 'etc/daemon.json', expected an absolute path"),
        ({"wait_timeout": 0}, "wait_timeout: got 0"),
        ({"record": "../x"}, "record: got '../x', expected a role's name"),
    ],
)
def test_wrong_values_of_the_configuration(changes: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        config.Wish.from_params({**CONFIG, **changes})


def test_what_waits_for_a_restart() -> None:
    first = pending.merge({}, {"a": 1}, {"a": 2, "debug": True}, config.RELOADABLE)
    assert first == {"a": 1}
    assert pending.merge(first, {"a": 2}, {"a": 3}, config.RELOADABLE) == {"a": 1}
    assert pending.merge(first, {"a": 2}, {"a": 1}, config.RELOADABLE) == {}
    assert pending.merge({}, {"a": 1}, {}, config.RELOADABLE) == {"a": 1}


@pytest.mark.parametrize(
    ("key", "value", "info", "left"),
    [
        ("debug", True, {"Debug": True}, []),
        ("debug", True, {"Debug": False}, ["debug"]),
        ("labels", ["b", "a"], {"Labels": ["a", "b"]}, []),
        ("registry-mirrors", ["http://m"], {"RegistryConfig": {"Mirrors": ["http://m/"]}}, []),
        ("insecure-registries", ["10.0.0.0/8"], {"RegistryConfig": {"InsecureRegistryCIDRs": ["10.0.0.0/8"]}}, []),
        ("insecure-registries", ["r:5000"], {"RegistryConfig": {"IndexConfigs": {"r:5000": {"Secure": True}}}},
         ["insecure-registries"]),
        ("shutdown-timeout", 5, {}, []),
    ],
)  # fmt: skip
def test_what_the_daemon_shows_of_a_reload(key: str, value: t.Any, info: dict[str, t.Any], left: list[str]) -> None:
    assert config.seen_in_info({key: value}, [key], info) == left


def looked_at(wish: daemon.Wish, **changes: t.Any) -> daemon.Observed:
    values: dict[str, t.Any] = {
        "process": Process(100, 5, wish.flags(), 42),
        "wanted_netns": 42,
        "running_version": "20.10.24",
        "installed_version": "20.10.24",
        "pending": (),
    }
    return daemon.Observed(**{**values, **changes})


@pytest.mark.parametrize(
    ("state", "runs", "actions"),
    [
        ("started", True, []),
        ("started", False, ["start"]),
        ("stopped", True, ["stop"]),
        ("stopped", False, []),
        ("restarted", True, ["stop", "start"]),
        ("restarted", False, ["start"]),
    ],
)
def test_start_and_stop(state: str, runs: bool, actions: list[str]) -> None:
    wish = daemon.Wish.from_params({**DAEMON, "state": state})
    plan = daemon.plan(wish, looked_at(wish) if runs else looked_at(wish, process=None))
    assert [step.action for step in plan.steps] == actions


def test_a_daemon_that_differs_is_left_running_and_told_about() -> None:
    wish = daemon.Wish.from_params(DAEMON)
    other = Process(100, 5, ("--data-root", "/elsewhere"), 43)
    seen = looked_at(wish, process=other, installed_version="26.1.5", pending=("log-driver was changed",))
    assert daemon.plan(wish, seen).steps == ()
    reasons = " | ".join(daemon.restart_reasons(wish, seen))
    for part in (
        "/elsewhere",
        "another network namespace",
        "26.1.5 is installed, 20.10.24 runs",
        "log-driver was changed",
    ):
        assert part in reasons
    [reason] = daemon.restart_reasons(None, looked_at(wish, dropped={"site": ["vobox1", "vobox2"]}))
    assert reason.startswith("it dropped the network site") and "vobox1, vobox2 cannot start" in reason
    assert daemon.restart_reasons(wish, looked_at(wish)) == []
    assert daemon.restart_reasons(None, looked_at(wish, process=other)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"socket": "/" + "s" * 120}, "at most 107 bytes"),
        ({"data_root": "/var/../lib"}, "data_root: got '/var/../lib'"),
        ({"extra_arguments": ["--host=tcp://0.0.0.0"]}, "extra_arguments: got '--host=tcp://0.0.0.0'"),
        ({"netns": "a/b"}, "netns: got 'a/b'"),
        ({"wait_timeout": 0}, "wait_timeout: got 0"),
    ],
)
def test_wrong_values_of_the_daemon(changes: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        daemon.Wish.from_params({**DAEMON, **changes})


def test_flags() -> None:
    assert flag_value(["--data-root", "/a", "--debug"], "--data-root") == "/a"
    assert flag_value(["--data-root=/a"], "--data-root") == "/a"
    assert flag_value(["--data-root"], "--data-root") == ""

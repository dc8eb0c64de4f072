# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What live_restore decides."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.config_file import ConfigFile
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.listener import live_restore_flag
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.live_restore import (
    Daemon,
    Observed,
    Wish,
    contradictions,
    objections,
    plan,
    value_in,
)
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.unit import Unit
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.validation import without_config_file
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption

FILE = "/etc/docker/daemon.json"
PARAMS: dict[str, t.Any] = {
    "state": "present",
    "config_file": FILE,
    "pidfile": "/var/run/docker.pid",
    "unit": None,
    "wait_timeout": 10,
    "budget_window": 0,
}


def _wish(**params: t.Any) -> Wish:
    return Wish.from_params({**PARAMS, **params})


def _seen(text: str | None, enabled: bool = False, flag: bool | None = None, **daemon: t.Any) -> Observed:
    known = {"config_file": FILE, "swarm": "inactive", **daemon}
    return Observed(Daemon(812, 1, flag, enabled=enabled, **known), ConfigFile(FILE, text), value_in(FILE, text))


def _steps(state: str, observed: Observed) -> list[t.Any]:
    made = plan(_wish(state=state), observed)
    return [step.details["text"] if step.action == "write_config" else step.action for step in made.steps]


ON, OFF, NONE = '{"live-restore": true}', '{"live-restore": false}', "{}"
RELOAD = "reload_daemon"


@pytest.mark.parametrize(
    ("text", "enabled", "present", "absent"),
    [
        (ON, True, [], [OFF, RELOAD, NONE]),
        (ON, False, [RELOAD], [NONE]),
        (OFF, True, [ON], [RELOAD, NONE]),
        (OFF, False, [ON, RELOAD], [NONE]),
        (NONE, True, [ON], [OFF, RELOAD, NONE]),
        (NONE, False, [ON, RELOAD], []),
        ('{"live-restore": null}', False, [ON, RELOAD], [NONE]),
        ('{"live-restore": 1}', False, [ON, RELOAD], [NONE]),
        (None, False, ['{\n  "live-restore": true\n}\n', RELOAD], []),
        (None, True, ['{\n  "live-restore": true\n}\n'], ['{\n  "live-restore": false\n}\n', RELOAD, None]),
        ("", False, ['{\n  "live-restore": true\n}\n', RELOAD], []),
        (" \n", True, ['{\n  "live-restore": true\n}\n'], ['{\n  "live-restore": false\n}\n', RELOAD, " \n"]),
    ],
)
def test_the_plan(text: str | None, enabled: bool, present: list[t.Any], absent: list[t.Any]) -> None:
    observed = _seen(text, enabled)
    assert _steps("present", observed) == present
    assert _steps("absent", observed) == absent


@pytest.mark.parametrize("text", [ON, OFF, NONE, None])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_plan_carried_out_leaves_nothing_to_do(text: str | None, enabled: bool, state: str) -> None:
    made = plan(_wish(state=state), _seen(text, enabled))
    for step in made.steps:
        if step.action == "write_config":
            text = step.details["text"]
        else:
            enabled = {ON: True, OFF: False}.get((text or "").replace("\n", "").replace("{  ", "{"), enabled)
    assert not plan(_wish(state=state), _seen(text, enabled)).steps
    assert enabled is (state == "present")
    assert made.disruption in (Disruption.none, Disruption.reload)


def test_on_by_the_flag_there_is_nothing_to_do() -> None:
    assert not plan(_wish(), _seen(NONE, True, flag=True)).steps


def test_nothing_objects_to_an_ordinary_daemon() -> None:
    assert objections(_seen(NONE)) == [] == contradictions(_wish(), _seen(NONE))


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        (
            _seen(NONE, swarm="active"),
            (
                "state: present: the engine is in swarm mode (active). The daemon would accept the reload, and fail at"
                " its next start. Leave the swarm (docker swarm leave), or do without live restore."
            ),
        ),
        (
            _seen(NONE, flag=False),
            (
                "state: present: the daemon was started with --live-restore=false, and refuses a configuration file"
                " that says it too. Take the flag off its command line and restart it in a maintenance window."
            ),
        ),
        (
            _seen(NONE, units=(Unit("docker.service", "mixed", ("containerd",), True),)),
            (
                "state: present: docker.service has KillMode=mixed and holds containerd, which systemd kills with it;"
                " set KillMode=process in the [Service] section of a drop-in (systemctl edit docker.service). Then run"
                " systemctl daemon-reload; it restarts nothing."
            ),
        ),
    ],
)
def test_what_keeps_live_restore_from_working(observed: Observed, sentence: str) -> None:
    assert [str(refusal) for refusal in objections(observed)] == [sentence]


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        (
            _seen(NONE, config_file="/srv/daemon.json"),
            (
                "config_file: /etc/docker/daemon.json: the running daemon (process 812) reads /srv/daemon.json."
                " Set config_file to that one."
            ),
        ),
        (
            _seen(ON, True, flag=True),
            (
                "config_file: /etc/docker/daemon.json: it sets live-restore, and the daemon was started with"
                " --live-restore. It refuses to be told twice, at a reload and at its next start. Take one of them"
                " away: the key with an editor now, or the flag with the next restart."
            ),
        ),
    ],
)
def test_where_the_file_and_the_daemon_are_two_things(observed: Observed, sentence: str) -> None:
    assert [str(refusal) for refusal in contradictions(_wish(), observed)] == [sentence]


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], None),
        (["--debug", "-H", "unix:///x"], None),
        (["--live-restore"], True),
        (["--live-restore=true"], True),
        (["--live-restore=1"], True),
        (["--live-restore=false"], False),
        (["--live-restore", "--live-restore=false"], False),
        (["--live-restored"], None),
    ],
)
def test_the_flag_on_the_command_line(flags: list[str], value: bool | None) -> None:
    assert live_restore_flag(flags) is value


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ([], []),
        (["-H", "fd://", "--config-file", "/a", "--debug"], ["-H", "fd://", "--debug"]),
        (["--config-file=/a", "--debug"], ["--debug"]),
    ],
)
def test_the_daemons_flags_are_checked_with_another_file(flags: list[str], kept: list[str]) -> None:
    assert without_config_file(flags) == kept


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("config_file", "daemon.json"),
        ("config_file", "/etc/docker/"),
        ("config_file", "/etc/\0docker"),
        ("config_file", ""),
        ("pidfile", "docker.pid"),
        ("unit", "docker"),
        ("unit", ""),
        ("wait_timeout", 0),
        ("wait_timeout", 3601),
        ("budget_window", -1),
        ("budget_window", 3601),
    ],
)
def test_values_that_cannot_be_right(option: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        _wish(**{option: value})
    assert caught.value.option == option
    assert repr(value) in str(caught.value)


def test_a_broken_file_is_named_with_line_and_column() -> None:
    with pytest.raises(GridboxError) as caught:
        value_in(FILE, '{\n  "debug": true,\n}\n')
    assert str(caught.value) == (
        "config_file: /etc/docker/daemon.json, line 3, column 1: expecting a key in double quotes. The daemon reads one"
        " JSON object. The file was left alone; repair it first."
    )

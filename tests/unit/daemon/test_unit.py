# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the daemon's systemd unit means for its containers, over recorded output of systemd 252 and 257."""

from __future__ import annotations

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.unit import check_name, judge, unit_of
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/docker.service\n", "docker.service"),
        (
            "4:cpu,cpuacct:/\n1:name=systemd:/system.slice/docker.service\n0::/system.slice/docker.service\n",
            "docker.service",
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service\n", "docker.service"),
        ("0::/system.slice/system-docker.slice/docker@two.service\n", "docker@two.service"),
        ("0::/user.slice/user-0.slice/session-4.scope\n", None),
        ("0::/docker/3d9a1f\n", None),
        ("9:pids:/docker.service\n0::/\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_is_found_by_the_control_group(cgroups: str, unit: str | None) -> None:
    assert unit_of(cgroups) == unit


def _shown(kill_mode: str = "process", main_pid: int = 812, load_state: str = "loaded") -> str:
    return f"LoadState={load_state}\nMainPID={main_pid}\nKillMode={kill_mode}\n"


@pytest.mark.parametrize("kill_mode", ["process", "none"])
def test_a_unit_that_leaves_the_containers_alone(kill_mode: str) -> None:
    unit = judge("docker.service", False, _shown(kill_mode), 812)
    assert (unit.name, unit.kill_mode, unit.finding) == ("docker.service", kill_mode, "")


@pytest.mark.parametrize("kill_mode", ["control-group", "mixed"])
def test_a_unit_that_would_kill_the_containers(kill_mode: str) -> None:
    unit = judge("docker.service", False, _shown(kill_mode), 812)
    assert unit.kill_mode == kill_mode
    assert unit.finding == (
        f"docker.service has KillMode={kill_mode}, so systemd kills the containers with the daemon; set"
        " KillMode=process in the [Service] section of a drop-in (systemctl edit docker.service) and run"
        " systemctl daemon-reload"
    )


def test_a_unit_that_does_not_exist() -> None:
    unit = judge("dokcer.service", True, _shown("control-group", 0, "not-found"), 812)
    assert unit.finding == "systemd knows no unit dokcer.service; correct the option unit, or leave it out"


@pytest.mark.parametrize(("main_pid", "words"), [(0, "runs no process"), (99, "runs process 99")])
def test_a_named_unit_that_runs_something_else(main_pid: int, words: str) -> None:
    unit = judge("docker.service", True, _shown("process", main_pid), 812)
    assert unit.finding == (
        f"docker.service {words}, but the daemon is process 812; correct the option unit, or leave it out"
    )


def test_a_daemon_started_by_hand_within_a_service_has_no_unit() -> None:
    unit = judge("ssh.service", False, _shown("control-group", 99), 812)
    assert (unit.name, unit.kill_mode, unit.finding) == (None, None, "")


@pytest.mark.parametrize("name", ["docker.service", "docker@two.service", "snap.docker.dockerd.service", None])
def test_names_of_units(name: str | None) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "docker", "--all.service", "a b.service", "docker.service;reboot", "../x.service"]
)
def test_what_is_no_name_of_a_unit(name: str) -> None:
    with pytest.raises(InputError, match=r"unit: got .*, expected the name of a systemd service"):
        check_name(name)

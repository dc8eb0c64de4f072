# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd's units mean for containers, over recorded output of systemd 252."""

from __future__ import annotations

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.unit import (
    Unit,
    check_asked,
    check_name,
    parse_shown,
    unit_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError


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


def _shown(main_pid: int = 812, load_state: str = "loaded") -> dict[str, str]:
    return parse_shown(f"LoadState={load_state}\nMainPID={main_pid}\nKillMode=process\n")


@pytest.mark.parametrize(
    ("kill_mode", "holds", "finding"),
    [
        ("process", ("containerd", "the shims of 2 containers"), ""),
        ("none", ("containerd",), ""),
        ("control-group", (), ""),  # the daemon alone: measured, see Unit.finding
        (
            "control-group",
            ("containerd", "the shims of 2 containers"),
            (
                "containerd.service has KillMode=control-group and holds containerd and the shims of 2 containers,"
                " which systemd kills with it; set KillMode=process in the [Service] section of a drop-in (systemctl"
                " edit containerd.service)"
            ),
        ),
        (
            "mixed",
            ("the shim of 1 container",),
            (
                "containerd.service has KillMode=mixed and holds the shim of 1 container, which systemd kills with it;"
                " set KillMode=process in the [Service] section of a drop-in (systemctl edit"
                " containerd.service)"
            ),
        ),
    ],
)
def test_a_unit_is_at_fault_if_it_would_take_what_containers_need(
    kill_mode: str, holds: tuple[str, ...], finding: str
) -> None:
    assert Unit("containerd.service", kill_mode, holds).finding == finding


@pytest.mark.parametrize(
    ("shown", "sentence"),
    [
        (_shown(0, "not-found"), "systemd knows no such unit"),
        (_shown(0), "it runs no process, but the daemon is process 812"),
        (_shown(99), "it runs process 99, but the daemon is process 812"),
    ],
)
def test_a_named_unit_that_does_not_run_the_daemon(shown: dict[str, str], sentence: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_asked("docker.service", shown, 812)
    assert str(caught.value) == f"unit: docker.service: {sentence}. Correct the option, or leave it out."


def test_a_named_unit_that_runs_it() -> None:
    check_asked("docker.service", _shown(), 812)


@pytest.mark.parametrize("name", ["docker.service", "docker@two.service", "snap.docker.dockerd.service", None])
def test_names_of_units(name: str | None) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "docker", "--all.service", "a b.service", "docker.service;reboot", "../x.service"]
)
def test_what_is_no_name_of_a_unit(name: str) -> None:
    with pytest.raises(InputError, match=r"unit: got .*, expected the name of a systemd service"):
        check_name(name)

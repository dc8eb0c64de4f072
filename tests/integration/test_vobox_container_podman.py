# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_container on Podman 4.3 through its Docker-compatible socket."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import PodmanService
from tests.lab.lan import in_netns
from tests.lab.modules import ModuleFailed, run_module

WEB = "#!/bin/sh\nhttpd -p 80 -h /www\n"


def test_a_vobox_on_podman(podman: PodmanService, podman_site: str, tmp_path: Path) -> None:
    """Created, known again by a second run, its script changed in place, swapped, stopped, started, removed."""
    wish: dict[str, t.Any] = {
        "engine_url": podman.url,
        "name": "vcpod",
        "image": "busybox:test",
        "hostname": "vcpod.example.org",
        "network": {"name": "site", "ipv4": "10.213.1.20", "ipv6": "fd13:213::1:20"},
        "init_script": WEB,
        "services": [{"name": "web", "port": 80}],
        "limits": {"nofile": "4096:8192"},
        "stop_timeout": 5,
        "files": str(tmp_path / "voboxes"),
    }

    def run(check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        return run_module("vobox_container", {**wish, **changes}, netns=podman.netns, check=check)

    def actions(result: dict[str, t.Any]) -> list[str]:
        return [step["action"] for step in result["actions"]]

    def page() -> str:
        return in_netns(podman_site, "curl", "-sS", "--max-time", "5", "http://10.213.1.20/").stdout

    made = run()
    try:
        assert page() == "here I am\n"
        assert run()["changed"] is False
        inside = podman.podman("exec", "vcpod", "cat", "/proc/1/limits").stdout
        assert [line.split()[3:5] for line in inside.splitlines() if line.startswith("Max open files")] == [
            ["4096", "8192"]
        ]
        wish["init_script"] = WEB + "httpd -p 81 -h /www\n"
        preview = run(check=True)
        changed = run(max_disruption="service")
        assert actions(changed) == actions(preview) == ["write_init_script", "restart_services"]
        assert changed["container"]["id"] == made["container"]["id"]
        assert changed["init_script"]["active_sha256"] != made["init_script"]["active_sha256"]

        wish["restart_policy"] = "always"
        swapped = run()
        assert actions(swapped) == ["swap_container"], "no limits or policies are changed in place here"
        assert swapped["identity"] == made["identity"]
        assert page() == "here I am\n"
        assert run()["changed"] is False

        assert actions(run(state="stopped")) == ["stop_container"]
        assert run(state="stopped")["changed"] is False
        assert actions(run()) == ["start_container"]
        assert page() == "here I am\n"

        with pytest.raises(ModuleFailed) as failed:
            run(check=True, log={"driver": "local"})
        assert "log.driver: local: the engine has json-file" in failed.value.result["msg"]
    finally:
        run(state="absent")
    assert "vcpod" not in podman.podman("ps", "--all", "--format", "{{.Names}}").stdout

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection built, installed from its tarball, and run from there: what a site does, without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.gate.tools import Controller, build
from tests.integration.conftest import PARENT, SUBNET4, SUBNET6, Lab
from tests.lab.playbook import play

#: Where the demo has its engine, its network namespaces and its files.
DEMO = ("/run/gridbox-demo", "/etc/gridbox-demo", "/var/lib/gridbox-demo", "/var/log/gridbox-demo")


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("tarball")
    return Controller.with_tarball(build(folder), folder)


def used(printed: str) -> set[str]:
    """Files of modules and tasks that Ansible says, with -vvv, that it used, without Ansible's own."""
    paths = set(re.findall(r"(?m)^(?:Using module file|task path:) (/[^\n:]+)", printed))
    return {path for path in paths if "/ansible/modules/" not in path}


def test_a_network_and_a_vobox_by_name(
    lab: Lab, controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in controller.variables().items():
        monkeypatch.setenv(name, value)
    tasks: list[dict[str, t.Any]] = [
        {
            "hep.gridbox.macvlan_net": {
                "name": "tarball", "parent": PARENT, "ipv4": {"subnet": SUBNET4, "gateway": "10.213.0.254"},
                "ipv6": {"subnet": SUBNET6, "gateway": "fd13:213::fe"},
            }
        },
        {
            "hep.gridbox.vobox_container": {
                "name": "fromtar", "image": "busybox:test", "hostname": "fromtar.example.org",
                "network": {"name": "tarball", "ipv4": "10.213.3.1", "ipv6": "fd13:213::3:1"},
                "init_script": "#!/bin/sh\nhttpd -p 80 -h /www\n", "services": [{"name": "web", "port": 80}],
                "limits": {"nofile": "1024:4096"}, "stop_timeout": 1, "files": str(tmp_path / "voboxes"),
            }
        },
    ]  # fmt: skip
    defaults = {"group/hep.gridbox.gridbox": {"engine_url": lab.engine.url}}

    def run() -> str:
        return play(lab.engine.netns, tmp_path, "-vvv", module_defaults=defaults, tasks=tasks)

    try:
        first = run()
        assert "changed=2 " in first
        modules = {str(controller.collection / f"plugins/modules/{next(iter(task)).rpartition('.')[2]}.py")
                   for task in tasks}  # fmt: skip
        assert used(first) - {str(tmp_path / "play.yml")} == modules
        network = json.loads(lab.docker("network", "inspect", "tarball"))[0]
        assert (network["Driver"], network["Options"]["parent"]) == ("macvlan", PARENT)
        vobox = json.loads(lab.docker("inspect", "fromtar"))[0]
        assert vobox["State"]["Running"] is True
        assert vobox["NetworkSettings"]["Networks"]["tarball"]["IPAddress"] == "10.213.3.1"
        assert lab.from_peer("curl", "-sS", "--max-time", "5", "http://10.213.3.1/").stdout == "here I am\n"
        assert "changed=0 " in run()
        assert json.loads(lab.docker("inspect", "fromtar"))[0]["Id"] == vobox["Id"]
    finally:
        lab.docker("rm", "--force", "--volumes", "fromtar", check=False)
        lab.docker("network", "rm", "tarball", check=False)


def demo_traces() -> dict[str, object]:
    """What the demo would make on this machine, as the machine tells it."""
    packages = subprocess.run(["dpkg-query", "--show"], capture_output=True, text=True, check=True, timeout=60).stdout
    return {
        "namespaces": sorted(path.name for path in Path("/run/netns").glob("gridbox-*")),
        "files": [path for path in DEMO if os.path.exists(path)],
        "packages": packages,
    }


@pytest.mark.fleet  # from a checkout the demo is in each run
def test_the_demo_in_check_mode(controller: Controller) -> None:
    """``hep.gridbox.site`` with its roles, and the demo's inventory, all from the tarball."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the demo makes network namespaces and starts an engine")
    before = demo_traces()
    printed = controller.run(
        "ansible-playbook", "-i", str(controller.collection / "inventories/demo"), "hep.gridbox.site", "--check",
        "--diff", "-vvv",
    )  # fmt: skip
    assert re.search(r"(?m)^demo +: ok=\d+ .* failed=0 ", printed), printed[-3000:]
    assert demo_traces() == before
    paths = used(printed)
    assert any("/roles/vobox/tasks/" in path for path in paths)
    assert [path for path in paths if not path.startswith(f"{controller.collection}/")] == []

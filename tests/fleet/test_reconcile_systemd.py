# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reconciler as the role vobox installs it on a host with systemd, over power cuts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.fleet.test_sites import changed_tasks
from tests.lab.booted import booted
from tests.lab.fleet import IMAGE, NETWORK, Fleet
from tests.lab.playbook import kept_in
from tests.lab.unread import OF_BEFORE, description, leave_unread

pytestmark = pytest.mark.fleet

SERVICE, TIMER = "gridbox-reconcile.service", "gridbox-reconcile.timer"
PROGRAM = "/usr/local/sbin/gridbox-reconcile"
REGISTRY = "10.213.0.9:5000"
VARIABLES: dict[str, t.Any] = {
    "docker_engine_config": {"insecure-registries": [REGISTRY]},
    "vobox_image_pull": f"{REGISTRY}/{IMAGE}",
    "vobox_image_flatten": False,
    "vobox_network": NETWORK,
    "vobox_list": [{"name": "vobox1", "fqdn": "vobox1.example.org", "ipv4": "10.213.1.1", "ipv6": "fd13:213::1:1"}],
    "vobox_services": [{"name": "web", "port": 80}],
    "vobox_health": {"test": ["true"]},
    "vobox_init_template": "web.sh.j2",
}  # fmt: skip


class Site:
    """One host, and the play of its operator."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder

    def play(
        self, *tasks: dict[str, t.Any], roles: t.Sequence[str] = (), options: t.Sequence[str] = (), **variables: t.Any
    ) -> str:
        play = {
            "hosts": "fleet", "gather_facts": False, "vars": {**VARIABLES, **variables},
            "roles": [f"hep.gridbox.{role}" for role in roles], "tasks": list(tasks),
        }  # fmt: skip
        (self.folder / "templates").mkdir(exist_ok=True)
        (self.folder / "templates/web.sh.j2").write_text("#!/bin/sh\nhttpd -p 80 -h /www\n")
        (self.folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.fleet.inventory()))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml", *options],
            cwd=self.folder, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, **kept_in(self.folder / "ansible"), "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.fleet.machine("host1").run(*argv, check=check)

    def vobox(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", json.loads(self.run("docker", "inspect", "vobox1").stdout)[0])

    def identity(self) -> tuple[str, ...]:
        endpoint = self.vobox()["NetworkSettings"]["Networks"]["site"]
        return tuple(endpoint[key] for key in ("MacAddress", "IPAddress", "GlobalIPv6Address"))

    def wait_for_the_web(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.fleet.from_peer("curl", "-s", "-m", "1", "http://10.213.1.1/", check=False).returncode:
            assert time.monotonic() < deadline, self.vobox()["State"]
            time.sleep(0.3)

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={SERVICE}").stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """A host with engine and VO-box, by the roles."""
    with booted("r", "host1=native:bookworm") as fleet:
        made = Site(fleet, tmp_path_factory.mktemp("site"))
        made.play(roles=["docker_engine", "vobox"])
        yield made


def test_the_role_installs_it(site: Site) -> None:
    assert site.run("systemctl", "is-active", TIMER).stdout == "active\n"
    assert site.run("systemctl", "is-enabled", TIMER).stdout == "enabled\n"
    site.run("systemctl", "start", SERVICE)
    assert site.run(PROGRAM, "--dry-run").stdout == "vobox1: none\n"
    # An engine that somebody has stopped is not started through its socket; live restore keeps the VO-box.
    site.run("systemctl", "stop", "docker.service")
    site.run("systemctl", "start", SERVICE)
    assert site.run("systemctl", "is-active", "docker.service", check=False).stdout == "inactive\n"
    site.run("systemctl", "start", "docker.service")


@pytest.mark.parametrize("unit", [SERVICE, TIMER])
def test_a_run_that_ended_before_systemd_read_the_units_is_made_up_for(site: Site, unit: str) -> None:
    leave_unread(site.fleet.machine("host1"), unit)
    foreseen = changed_tasks(site.play(roles=["vobox"], options=["--check"]), "host1")
    assert description(site.fleet.machine("host1"), unit) == OF_BEFORE
    assert changed_tasks(site.play(roles=["vobox"]), "host1") == foreseen
    assert foreseen == ["Have it run after the boot and every two minutes"]
    assert description(site.fleet.machine("host1"), unit) != OF_BEFORE
    assert changed_tasks(site.play(roles=["vobox"]), "host1") == []


def test_after_a_power_cut_all_is_back(site: Site) -> None:
    known = site.identity()
    site.fleet.cut_power("host1")
    site.fleet.power_on("host1")
    site.wait_for_the_web()
    assert site.identity() == known
    site.run("systemctl", "start", SERVICE)
    # No udev here: no unit waits for a device.
    assert ".device" not in site.run("systemctl", "cat", "docker.service").stdout


def test_a_boot_without_the_link_is_told_and_mended(site: Site) -> None:
    known = site.identity()
    site.fleet.cut_power("host1")
    site.fleet.power_on("host1", degraded=True, plugged=False)
    assert site.run(PROGRAM, "--dry-run", "--wait", "0", check=False).stdout == (
        "vobox1: wait: it waits for the link lan0, which is not there\n"
    )
    site.fleet.plug()  # the link comes late
    assert site.run("systemctl", "start", SERVICE, check=False).returncode == 1
    assert "The engine dropped the network site when it started" in site.journal()
    status = {"ansible.builtin.include_role": {"name": "hep.gridbox.vobox", "tasks_from": "status"}}
    assert "The engine dropped the network site when it started" in site.play(status)
    site.run("systemctl", "restart", "docker.service")
    site.wait_for_the_web()
    site.run("systemctl", "start", SERVICE)
    assert site.identity() == known


def test_what_the_engine_gave_up_on_at_boot_is_started_by_the_timer(site: Site) -> None:
    """A file that is mounted in it comes late. The engine has tried once, as it came up, and tries no more."""
    known = site.identity()
    late = next(mount["Source"] for mount in site.vobox()["Mounts"] if mount["Type"] == "bind")
    site.run("mv", late, f"{late}.late")
    site.fleet.cut_power("host1")
    site.fleet.power_on("host1", degraded=True)
    state = site.vobox()["State"]
    assert not state["Running"] and late in state["Error"], state
    site.run("mv", f"{late}.late", late)
    site.wait_for_the_web(300)
    assert site.identity() == known
    assert "vobox1" in site.journal()


def test_remove_takes_it_away(site: Site) -> None:
    site.play({"ansible.builtin.include_role": {"name": "hep.gridbox.vobox", "tasks_from": "remove"}})
    assert site.run("systemctl", "list-unit-files", "--no-legend", "gridbox-*", check=False).stdout == ""
    left = site.run("find", "/etc/systemd", "/usr/local/sbin", "/run", "-name", "*gridbox*").stdout.split()
    assert left == []

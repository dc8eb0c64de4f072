# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hep.gridbox.site over several hosts: check mode foresees it, and a host that is dead takes none along."""

from __future__ import annotations

import os
import re
import typing as t

import pytest

from tests.lab.booted import booted
from tests.lab.site import Site, common, recap, voboxes

# The scenario site has two hosts as well; this one runs it nine times over them.
pytestmark = pytest.mark.fleet

HOSTS = {"host1": 1, "host2": 2}

#: Says when a host's engine was started, in microseconds since the boot.
BEGAN = "systemctl show --value --property=InactiveExitTimestampMonotonic docker.service"

#: Tasks that only predict, where the engine that would be asked is not there yet, and what the real run does instead.
PREDICTS = {
    "Predict the image on a host that has no engine yet": "Pull the image",
    "Predict the network on a host that has no engine yet": "The VO-boxes' network: make it on the site LAN",
    "Predict VO-boxes whose image or network is yet to be made": "VO-box by VO-box: bring it up",
    "In check mode, predict that their volumes go": "Remove their volumes, with keys, state and logs",
    "In check mode, predict the kernel's values": "Put the kernel's values back",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """Two bare hosts, of two Debians."""
    with booted("sites", "host1=native:bookworm", "host2=native:trixie") as fleet:
        yield Site(fleet, tmp_path_factory.mktemp("site"))


def changed_tasks(output: str, host: str) -> list[str]:
    """The tasks that changed something on a host, in their order, each once."""
    tasks: dict[str, None] = {}
    for block in re.split(r"^(?=TASK \[)", output, flags=re.MULTILINE):
        if re.search(rf"^changed: \[{host}\]", block, re.MULTILINE):
            tasks[re.sub(r".* : ", "", block[6 : block.index("] *")])] = None
    return list(tasks)


def greets(site: Site, number: int) -> bool:
    """Whether the VO-box of a host answers the peer over IPv4 and IPv6."""
    [box] = voboxes(number)
    return [site.greeting(box[family]) for family in ("ipv4", "ipv6")] == [box["fqdn"]] * 2


def test_one_dead_host_does_not_take_the_others_along(site: Site) -> None:
    foreseen = site.run("hep.gridbox.site", "--check")
    assert site.fleet.machine("host2").run("sh", "-c", "command -v dockerd", check=False).returncode != 0
    site.fleet.cut_power("host1")
    done = site.run("hep.gridbox.site", check=False)
    counts = recap(done.stdout)
    assert done.returncode == 4, done.stdout[-3000:]  # Ansible's code for hosts that could not be reached
    assert (counts["host1"]["unreachable"], counts["host2"]["unreachable"], counts["host2"]["failed"]) == (1, 0, 0)
    assert greets(site, 2)
    # What check mode announced on the bare host is what was done there.
    announced = [PREDICTS.get(task, task) for task in changed_tasks(foreseen.stdout, "host2")]
    assert sorted(announced) == sorted(changed_tasks(done.stdout, "host2"))


def test_limit_brings_up_one_host_and_touches_no_other(site: Site) -> None:
    site.fleet.power_on("host1")
    done = site.run("hep.gridbox.site", "--limit", "host1,peer")
    assert "host2" not in recap(done.stdout)
    assert greets(site, 1)
    assert greets(site, 2)


def test_a_second_run_changes_nothing_on_any_host(site: Site) -> None:
    counts = recap(site.run("hep.gridbox.site").stdout)
    assert {host: counts[host]["changed"] for host in HOSTS} == dict.fromkeys(HOSTS, 0)


def test_a_failure_stops_the_roll_and_the_next_hosts_keep_what_they_have(site: Site) -> None:
    """``serial``: one after the other by default; after one that fails no other VO-box is touched."""
    nobody = [{"name": "nobody", "port": 81}]
    site.write(vobox_init={"greeting": "newer"}, vobox_services=nobody, vobox_verify_wait=2)
    done = site.run("hep.gridbox.vobox", check=False)
    assert done.returncode == 2
    assert recap(done.stdout)["host1"]["failed"] == 1
    assert changed_tasks(done.stdout, "host2") == []
    assert greets(site, 1)  # the new init script, with which not all services answered, was taken back
    assert greets(site, 2)


def test_serial_takes_as_many_at_a_time_as_it_says(site: Site) -> None:
    site.write(vobox_init={"greeting": "new"})
    done = site.run("hep.gridbox.vobox", "-e", "gridbox_serial=2")
    assert done.stdout.count("PLAY [VO-boxes]") == 1  # one batch
    for number in HOSTS.values():
        [box] = voboxes(number)
        assert site.greeting(box["ipv4"]) == "new"


def test_engines_are_restarted_host_by_host(site: Site) -> None:
    """Without live restore each restart takes the host's VO-boxes away: those of one host are back before the next."""
    config = {**common()["docker_engine_config"], "live-restore": False, "userland-proxy": False}
    site.write(vobox_init={"greeting": "new"}, docker_engine_live_restore=False, docker_engine_config=config)
    done = site.run("hep.gridbox.site", "-e", "docker_engine_restart=always")
    began, back = {}, {}
    for host, number in HOSTS.items():
        assert "Restart the daemon with systemd, as allowed" in changed_tasks(done.stdout, host)
        [box] = voboxes(number)
        asked = f"docker inspect --format '{{{{.State.Pid}}}}' {box['name']}"
        # Seconds since the boot, of one clock: the hosts are namespaces of this machine.
        shell = site.fleet.machine(host).run("sh", "-ec", f"cat /proc/$({asked})/stat; {BEGAN}").stdout.splitlines()
        back[host] = int(shell[0].rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        began[host] = int(shell[1]) / 1e6
        assert back[host] > began[host]  # it went with its engine
        assert site.greeting(box["ipv4"]) == "new"
    assert back["host1"] < began["host2"]
    site.write(vobox_init={"greeting": "new"})


def test_the_hosts_are_given_back_as_foreseen(site: Site) -> None:
    foreseen = site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes", "--check")
    assert site.greeting(voboxes(1)[0]["ipv4"]) == "new" and site.greeting(voboxes(2)[0]["ipv4"]) == "new"
    done = site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes")
    for host in HOSTS:
        announced = [PREDICTS.get(task, task) for task in changed_tasks(foreseen.stdout, host)]
        assert announced == changed_tasks(done.stdout, host)
        assert site.fleet.machine(host).run("sh", "-c", "command -v dockerd", check=False).returncode != 0


def test_bare_hosts_are_brought_up_all_at_once(site: Site) -> None:
    site.write()
    done = site.run("hep.gridbox.site", "-e", "gridbox_serial=100%")
    assert done.stdout.count("PLAY [VO-boxes]") == 1  # one batch
    assert all(greets(site, number) for number in HOSTS.values())

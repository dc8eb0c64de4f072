# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with VO-boxes is rebooted, and its power is cut in the midst of a change.

After the boot mounts, parent link, shim and VO-boxes are back by themselves with their addresses and MACs: what is left
of a swap the reconciler takes back or finishes. What else was cut short is repaired by the next run of site. A virtual
machine loses by a cut what was not on its disk yet, and takes two hours for all of it; a native host loses its
processes and mounts only, in a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.booted import booted
from tests.lab.fleet import IMAGE
from tests.lab.site import Site, recap, voboxes

pytestmark = pytest.mark.fleet

HOST = "host1"
BOXES = {box["name"]: box for box in voboxes(1, count=2)}
REPOSITORY = "grid-tools.example.org"
#: Not every few seconds as in the other fleets: with an emulated processor one look takes seconds of it.
HEALTH = {"test": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1/greeting"], "interval": 30}
#: Seconds after a boot until the VO-boxes have to answer; the reconciler looks half a minute after it, and waits.
BACK_SECONDS = 240

INSPECT = (
    "{{.Name}} {{.Id}} {{(index .NetworkSettings.Networks \"site\").MacAddress}}"
    " {{(index .NetworkSettings.Networks \"site\").IPAddress}}"
    " {{(index .NetworkSettings.Networks \"site\").GlobalIPv6Address}}"
)  # fmt: skip

#: Not every host has curl.
READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


@pytest.fixture(scope="module", params=["native", "vm"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """One host with two VO-boxes, a shim, and a repository that both see."""
    with booted("power", f"{HOST}={request.param}:bookworm:engine") as fleet:
        source = f"/srv/cvmfs/{REPOSITORY}"
        fleet.machine(HOST).run("sh", "-c", f"mkdir -p {source} && echo here >{source}/sentinel")
        made = Site(
            fleet, tmp_path_factory.mktemp("site"), count=2, vobox_health=HEALTH, gridbox_cvmfs=True,
            cvmfs_repositories=[
                {"repository": REPOSITORY, "source": "directory", "path": source, "sentinel": "sentinel"}
            ],
            vobox_cvmfs={"repositories": [REPOSITORY]},
        )  # fmt: skip
        made.run("hep.gridbox.site")
        yield made


def identities(site: Site) -> dict[str, list[str]]:
    """Of each container that runs, by its name: its id, MAC, IPv4 and IPv6, as the engine has them."""
    machine = site.fleet.machine(HOST)
    names = machine.run("docker", "ps", "--format", "{{.Names}}").stdout.split()
    seen = machine.run("docker", "inspect", "--format", INSPECT, *names).stdout if names else ""
    return {line.split()[0].lstrip("/"): line.split()[1:] for line in seen.splitlines()}


def wait_for_voboxes(site: Site) -> float:
    """Wait until the peer has an answer of each VO-box over IPv4 and IPv6; how many seconds that took."""
    start = time.monotonic()
    wanted = {box[family]: box["fqdn"] for box in BOXES.values() for family in ("ipv4", "ipv6")}
    while True:
        silent = [address for address, fqdn in wanted.items() if site.greeting(address) != fqdn]
        if not silent:
            return time.monotonic() - start
        if time.monotonic() - start > BACK_SECONDS:
            look = "docker ps -a; journalctl -b -u gridbox-reconcile -u docker --no-pager | tail -40; ip -br a"
            state = site.fleet.machine(HOST).run("sh", "-c", look, check=False).stdout
            raise AssertionError(f"waited {BACK_SECONDS} s after the boot for {silent}; on the host:\n{state}")
        time.sleep(1)


def look_at_the_host(site: Site) -> None:
    """What has to be there beside the VO-boxes: the mount, in them as well, the shim, and no unit that failed."""
    machine = site.fleet.machine(HOST)
    assert machine.run("cat", f"/cvmfs/{REPOSITORY}/sentinel").stdout == "here\n"
    for name in identities(site):
        assert machine.run("docker", "exec", name, "cat", f"/cvmfs/{REPOSITORY}/sentinel").stdout == "here\n"
    for box in BOXES.values():
        for address in (box["ipv4"], f"[{box['ipv6']}]"):  # by the shim
            seen = machine.run("python3", "-c", READ, f"http://{address}/greeting").stdout
            assert seen.strip() == box["fqdn"]
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


def active_since(site: Site, unit: str) -> int:
    """When a unit became active in this boot, in microseconds since its begin."""
    shown = site.fleet.machine(HOST).run(
        "systemctl", "show", "--value", "--property", "ActiveEnterTimestampMonotonic", unit
    )
    return int(shown.stdout)


def started_at(site: Site, unit: str) -> int:
    """When a unit's program was started in this boot, in microseconds since its begin."""
    shown = site.fleet.machine(HOST).run(
        "systemctl", "show", "--value", "--property", "ExecMainStartTimestampMonotonic", unit
    )
    return int(shown.stdout)


def look_at_the_order(site: Site) -> None:
    """At a boot the mounts and the shim come before the engine, which starts VO-boxes."""
    units = site.fleet.machine(HOST).run("sh", "-c", "ls /etc/systemd/system").stdout.split()
    [mount] = [unit for unit in units if unit.startswith("cvmfs-") and unit.endswith(".mount")]
    [shim] = [unit for unit in units if unit.startswith("gridbox-shim-") and unit.endswith(".service")]
    engine = started_at(site, "docker.service")
    assert 0 < active_since(site, mount) <= engine
    assert 0 < active_since(site, shim) <= engine


def test_a_reboot(site: Site) -> None:
    before = identities(site)
    site.fleet.reboot(HOST)
    wait_for_voboxes(site)
    assert identities(site) == before
    look_at_the_host(site)
    look_at_the_order(site)


#: Seconds that a change may take until the moment comes at which it is cut.
MOMENT_SECONDS = 1200


def wait_for_moment(watching: subprocess.Popen[str], changing: subprocess.Popen[str], pattern: str) -> None:
    """Return as soon as a line is printed by a command that watches, or by the change itself.

    :raises AssertionError: if the change has ended without it, or takes too long.
    """

    def give_up() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            changing.wait(MOMENT_SECONDS)
        time.sleep(5)  # for what is still under way
        watching.kill()

    threading.Thread(target=give_up, daemon=True).start()
    assert watching.stdout is not None
    seen = []
    for line in watching.stdout:
        seen.append(line)
        if re.search(pattern, line):
            print("".join(seen))
            return
    raise AssertionError(f"{pattern} did not come, in {MOMENT_SECONDS} s or at all:\n{''.join(seen)[-3000:]}")


def watch(site: Site, command: str) -> subprocess.Popen[str]:
    """Run a command on the host that prints what happens there."""
    return subprocess.Popen(
        [*site.fleet.ssh(HOST), command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


EVENTS = "docker events --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.container}}'"
#: Prints a line when live restore is in the daemon's file, and is not asked for anything else before.
IN_FILE = "until grep -q live-restore /etc/docker/daemon.json; do sleep 0.01; done; echo written; sleep 60"
#: What the play prints when a task begins.
TASK = r"^TASK \[.*{}"

#: Stands for the id of the container that is replaced.
OLD = "OLD"

#: By what is run, in the order in which they come: the moments, each with who watches and what is seen.
CUTS: dict[str, dict[str, tuple[str | None, str]]] = {
    "site": {
        "repositories": (None, TASK.format("Mount the repositories")),
        "network": (EVENTS, "^network create site"),
        "reconciler": (None, TASK.format("Write its units")),
        "VO-box created": (EVENTS, "^container create vobox11"),
        "VO-box started": (EVENTS, "^container start vobox12"),
    },
    "swap": {
        "new one created": (EVENTS, "^container create vobox11.next"),
        # Not any disconnect: the new one is made on the network, and taken off it first.
        "address taken": (EVENTS, f"^network disconnect site {OLD}"),
        "renamed": (EVENTS, "^container rename"),
    },
    "sequential swap": {"old one stopped": (EVENTS, "^container stop vobox11 ")},
    "flatten": {"imported": (EVENTS, "^image import"), "tagged": (EVENTS, "^image tag")},
    "live_restore": {"written": (IN_FILE, "^written"), "reloaded": (EVENTS, "^daemon reload")},
}

#: Those that replace vobox11, and how.
SWAPS = {"swap": "overlap", "sequential swap": "sequential"}

#: Makes an image with a layer more.
LAYERED = """docker create --name layers "$1" true
docker cp /etc/hostname layers:/layer
docker commit layers vobox:layers
docker rm layers"""

PLAYS = {
    "flatten": [
        {"hep.gridbox.flatten_image": {"source": "vobox:layers", "tag": "vobox:flat"}}
    ],
    "live_restore": [{"hep.gridbox.live_restore": {}}],
}  # fmt: skip


def prepare(site: Site, what: str) -> tuple[str, list[str]]:
    """Bring the host to where the change begins, or goes on after a cut; the playbook that makes it, and options."""
    machine = site.fleet.machine(HOST)
    if what == "site":
        return "hep.gridbox.site", []
    if what in SWAPS:
        # A limit that the engine does not change in place.
        asked = '{{range .HostConfig.Ulimits}}{{if eq .Name "nofile"}}{{.Hard}}{{end}}{{end}}'
        now = machine.run("docker", "inspect", "--format", asked, "vobox11").stdout.strip()
        limits = {"nofile": "4096:8192" if now != "8192" else "4096:8191"}
        asked_for = {"vobox_limits": limits, "vobox_options": {"swap": {"strategy": SWAPS[what]}}}
        return "hep.gridbox.site", ["-e", json.dumps(asked_for)]
    if what == "flatten":
        machine.run("docker", "image", "rm", "--force", "vobox:flat", check=False)
        machine.run("sh", "-ec", LAYERED, "sh", f"{site.fleet.registry.address}/{IMAGE}")
    if what == "live_restore":
        site.run(play(site, "live_restore_off", [{"hep.gridbox.live_restore": {"state": "absent"}}]))
    return play(site, what, PLAYS[what]), []


def wait_for_the_reconciler(site: Site) -> None:
    """Wait until nothing is left of a swap, and the reconciler has said so: site has not been run again."""
    machine = site.fleet.machine(HOST)
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        there = machine.run("docker", "ps", "--all", "--format", "{{.Names}} {{.State}}", check=False).stdout
        # Not the journal: a native host shares the kernel, so to journalctl all its boots are one.
        said = machine.run("cat", "/run/hep.gridbox-reconcile.json", check=False).stdout
        if sorted(there.splitlines()) == [f"{name} running" for name in sorted(BOXES)] and "recovered" in said:
            print(said)
            assert re.search("recovered: An interrupted swap of vobox11 was (taken back|finished)", said)
            return
        assert time.monotonic() < deadline, f"waited {BACK_SECONDS} s after the boot; there are:\n{there}\n{said}"
        time.sleep(1)


def play(site: Site, name: str, tasks: list[dict[str, t.Any]]) -> str:
    """A playbook with these tasks."""
    file = site.folder / f"{name}.yml"
    file.write_text(json.dumps([{"hosts": "voboxes", "gather_facts": False, "tasks": tasks}]))
    return str(file)


def test_a_power_cut_while_packages_come(tmp_path: Path) -> None:
    """On a bare host, with what its file system had not written yet."""
    with booted("packages", f"{HOST}=vm:bookworm") as fleet:
        site = Site(fleet, tmp_path, count=2, vobox_health=HEALTH)
        cut_in_the_midst(site, "hep.gridbox.site", [], "tail -F /var/log/dpkg.log", "status half-configured docker.io")
        repaired = site.run("hep.gridbox.site")
        print(repaired.stdout[-3000:])
        assert "package manager was cut short" in " ".join(f"{repaired.stdout} {repaired.stderr}".split())
        wait_for_voboxes(site)
        machine = fleet.machine(HOST)
        assert machine.run("dpkg", "--audit").stdout == ""
        assert machine.run("ls", "/usr/sbin/policy-rc.d", check=False).returncode
        assert recap(site.run("hep.gridbox.site").stdout)[HOST]["changed"] == 0


def kill_with_its_children(process: subprocess.Popen[str]) -> None:
    """A worker of Ansible's that is left goes on with the next item of its loop as soon as the host is back."""
    doomed = [process.pid]
    for pid in doomed:  # grows
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            doomed += [int(child) for child in task.read_text().split()]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cut_in_the_midst(site: Site, playbook: str, options: list[str], watcher: str | None, pattern: str) -> None:
    """Run a playbook, cut the host's power at a moment of it, and boot the host again."""
    argv, environment = site.command(playbook, *options)
    watching = watch(site, watcher) if watcher else None
    with (site.folder / "cut.log").open("w") as log:
        changing = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, text=True, stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE if watching is None else log,
        )  # fmt: skip
    try:
        wait_for_moment(watching or changing, changing, pattern)
        site.fleet.cut_power(HOST)
    finally:
        kill_with_its_children(changing)
        changing.communicate(timeout=60)
        if watching is not None:
            watching.kill()
            watching.communicate(timeout=60)
    site.fleet.power_on(HOST, degraded=True)


@pytest.mark.parametrize("what", CUTS)
def test_power_cuts(site: Site, what: str, request: pytest.FixtureRequest) -> None:
    """One after the other: what goes on after a cut is cut again, a little later, and then repaired."""
    if what == "site":
        site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes", "-e", "vobox_remove_volumes=true")
        assert identities(site) == {}
    for moment, (watcher, pattern) in CUTS[what].items():
        playbook, options = prepare(site, what)
        before = identities(site)
        # Before the first site there is none to be replaced.
        old = before["vobox11"][0] if what in SWAPS else ""
        cut_in_the_midst(site, playbook, options, watcher, pattern.replace(OLD, old))
        print(f"{what}: cut when {moment}; there were {', '.join(before) or 'no VO-boxes'}")
        if what == "site":
            continue
        # Whatever the change was, what was there serves again.
        if what in SWAPS:
            wait_for_the_reconciler(site)
        wait_for_voboxes(site)
        after = identities(site)
        there = site.fleet.machine(HOST).run("docker", "ps", "--all").stdout
        assert {name: seen[1:] for name, seen in after.items()} == {n: seen[1:] for n, seen in before.items()}, there
        assert after["vobox12"] == before["vobox12"], there
        look_at_the_host(site)
        look_at_the_order(site)
    if what == "flatten":
        site.run(playbook)
        images = site.fleet.machine(HOST).run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        assert "vobox:flat" in images
        # A native host shares the kernel, so nobody there can tell that it was booted.
        assert request.node.callspec.params["site"] == "native" or not [i for i in images if "gridbox/flatten" in i]
    print(site.run("hep.gridbox.site").stdout[-3000:])
    wait_for_voboxes(site)
    look_at_the_host(site)
    names = site.fleet.machine(HOST).run("docker", "ps", "--all", "--format", "{{.Names}}").stdout.split()
    assert sorted(names) == sorted(BOXES)  # nothing is left of what was cut short


def test_after_all_cuts_site_has_no_more_to_do(site: Site) -> None:
    assert recap(site.run("hep.gridbox.site").stdout)[HOST]["changed"] == 0

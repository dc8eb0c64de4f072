# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From bare hosts to VO-boxes that answer, and a run that has nothing to do. Needs root and community.docker.

Two fleets of the same hosts, systemd in namespaces, reached over SSH; on one ``hep.gridbox.site``, on the other a
playbook of as many tasks as it takes with community.docker's modules: packages, daemon.json, service, image, network,
init script, container, and the answer of its service over IPv4 and IPv6. Both prepare all hosts at once, and bring up
VO-boxes on as many hosts at a time. In each round both fleets are made anew, and the other one goes first:

bare      seconds until all VO-boxes answer, and how much of it is the package manager's and the engine's
again     seconds of a run that changes nothing; tasks, commands over SSH and SSH connections per host

Run it from the checkout, in its environment: ``.venv/bin/python -m bench.site --help``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import tempfile
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.gate.tools import ROOT
from tests.lab.fleet import PEER, Fleet, parse
from tests.lab.site import Site, recap, voboxes

OURS, THEIRS = "hep.gridbox.site", "community.docker"
PACKAGES = ("docker.io", "python3-docker")

#: Whose work the tasks with these actions are; all others are Ansible's and the collection's.
PACKAGE_MANAGER = ("hep.gridbox.host_packages", "ansible.builtin.apt")
ENGINE = (
    "hep.gridbox.vobox_image", "ansible.builtin.systemd_service", "hep.gridbox.dockerd", "ansible.builtin.service",
    "community.docker.docker_image_pull",
)  # fmt: skip


def theirs(site: Site, serial: str) -> Path:
    """The same with community.docker's modules."""
    image = f"{site.fleet.registry.address}/site/vobox:1"
    config = json.dumps({"live-restore": True, "insecure-registries": [site.fleet.registry.address]})
    curl = ["nsenter", f"--net=/run/netns/{site.fleet.peer}", "curl", "-sSf", "-g", "-m", "5"]
    prepare: list[dict[str, t.Any]] = [
        {"ansible.builtin.apt": {"name": list(PACKAGES), "update_cache": True, "cache_valid_time": 3600,
                                 "install_recommends": False}},
        {"ansible.builtin.copy": {"dest": "/etc/docker/daemon.json", "content": config, "mode": "0644"},
         "register": "config"},
        {"ansible.builtin.service": {"name": "docker", "enabled": True,
                                     "state": "{{ 'restarted' if config is changed else 'started' }}"}},
    ]  # fmt: skip
    boxes: list[dict[str, t.Any]] = [
        {"community.docker.docker_image_pull": {"name": image, "pull": "not_present"}},
        {"community.docker.docker_network": {
            "name": "site", "driver": "macvlan", "driver_options": {"parent": "{{ lan_link }}"}, "enable_ipv6": True,
            "ipam_config": [
                {"subnet": "10.213.0.0/16", "gateway": f"10.213.0.{PEER}"},
                {"subnet": "fd13:213::/64", "gateway": f"fd13:213::{PEER:x}"},
            ]}},
        {"ansible.builtin.copy": {
            "dest": "/etc/vobox-init.sh", "mode": "0755",
            "content": "#!/bin/sh\necho {{ item.fqdn }} >/www/greeting\nhttpd -p 80 -h /www\nsleep 999999999\n"},
         "loop": "{{ vobox_list }}"},
        {"community.docker.docker_container": {
            "name": "{{ item.name }}", "image": image, "hostname": "{{ item.fqdn }}", "command": ["/etc/init.sh"],
            "volumes": ["/etc/vobox-init.sh:/etc/init.sh:ro"], "network_mode": "site",
            "networks": [{"name": "site", "ipv4_address": "{{ item.ipv4 }}", "ipv6_address": "{{ item.ipv6 }}"}],
            "ulimits": ["nofile:4096:8192"], "restart_policy": "unless-stopped", "pull": "never"},
         "loop": "{{ vobox_list }}"},
        *(
            {"ansible.builtin.command": {"argv": [*curl, f"http://{url}/greeting"]}, "delegate_to": "peer",
             "loop": "{{ vobox_list }}", "changed_when": False, "register": "seen", "until": "seen.rc == 0",
             "retries": 30, "delay": 1}
            for url in ("{{ item.ipv4 }}", "[{{ item.ipv6 }}]")
        ),
    ]  # fmt: skip
    file = site.folder / "theirs.yml"
    play = {"hosts": "voboxes", "gather_facts": False}
    plays = [{**play, "tasks": prepare}, {**play, "serial": serial, "tasks": boxes}]
    file.write_text(yaml.safe_dump(plays, sort_keys=False))
    return file


def timed(site: Site, playbook: str, *options: str) -> tuple[float, dict[str, float], str]:
    """Run a playbook: seconds in all, seconds by whose work the tasks are, and its output."""
    log = site.folder / "timings"
    log.unlink(missing_ok=True)
    argv, environment = site.command(playbook, *options)
    environment |= {
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/lab/callback"), "ANSIBLE_CALLBACKS_ENABLED": "timings",
        "GRIDBOX_TIMINGS": str(log),
    }  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{playbook}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    shares = {"packages": 0.0, "engine": 0.0}
    for line in log.read_text().splitlines():
        timing = json.loads(line)
        if timing["action"] in PACKAGE_MANAGER:
            shares["packages"] += timing["seconds"]
        elif timing["action"] in ENGINE:
            shares["engine"] += timing["seconds"]
    return seconds, shares, done.stdout


def sent(site: Site, playbook: str, options: t.Sequence[str], host: str) -> tuple[int, int]:
    """How many commands a run sends to a host over SSH, and how many connections the host's sshd accepts for them.

    Commands share a connection: Ansible keeps it open for a minute (ControlPersist). None of before is there.
    """
    argv, environment = site.command(playbook, "-vvv", *options)
    with tempfile.TemporaryDirectory(prefix="gbb") as sockets:
        environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = sockets
        before = accepted(site, host)
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=1800, check=False)
        connections = accepted(site, host) - before
    lines = done.stdout.splitlines()
    return sum(f"<{site.fleet.name}-{host}> SSH: EXEC" in line for line in lines), connections


def accepted(site: Site, host: str) -> int:
    """How many connections the host's sshd has accepted since its boot."""
    log = site.fleet.machine(host).run("journalctl", "--boot", "--quiet", "--output=cat", "--identifier=sshd",
                                       "--identifier=sshd-session").stdout  # fmt: skip
    return log.count("Accepted publickey")


def main() -> None:
    options = argparse.ArgumentParser(description="hep.gridbox.site against the same with community.docker's modules.")
    options.add_argument("--hosts", type=int, default=3, help="of each fleet (default 3)")
    options.add_argument("--rounds", type=int, default=3, help="each from bare hosts (default 3)")
    options.add_argument("--runs", type=int, default=1, help="of each round that have nothing to do (default 1)")
    options.add_argument("--serial", default="1", help="hosts at a time for the VO-boxes, of both (default 1; 100%%)")
    given = options.parse_args()
    if importlib.util.find_spec("ansible_collections.community") is None:
        raise SystemExit("community.docker is not in this environment: scripts/bootstrap collections puts it there.")
    figures = Figures()
    for number in range(given.rounds):
        fleets = [Fleet(f"bench{os.getpid()}-{side}") for side in ("ours", "theirs")]
        with tempfile.TemporaryDirectory() as name:
            try:
                for fleet in fleets:
                    fleet.start(parse(f"host{each}=native:bookworm" for each in range(1, given.hosts + 1)))
                ours, other = (Site(fleet, Path(name) / fleet.name) for fleet in fleets)
                plays = [
                    Plays(OURS, ours, "hep.gridbox.site", ("-e", f"gridbox_serial={given.serial}")),
                    Plays(THEIRS, other, str(theirs(other, given.serial))),
                ]
                measure(plays[::-1] if number % 2 else plays, given.runs, figures)
            finally:
                for fleet in fleets:
                    fleet.stop()
    figures.show(given)


@dataclass(frozen=True)
class Plays:
    """One of the two: a fleet, and what is run over it."""

    title: str
    site: Site
    playbook: str
    options: tuple[str, ...] = ()


@dataclass
class Figures:
    """What was measured, by whose it is."""

    bare: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    again: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def show(self, given: argparse.Namespace) -> None:
        """Print the medians."""
        print(f"{given.hosts} hosts, VO-boxes on {given.serial} at a time; medians")
        print(f"from bare, {given.rounds} rounds")
        print(f"{'':18} {'seconds':>8} {'packages':>9} {'engine':>8} {'rest':>8}   from, to")
        for title, runs in sorted(self.bare.items(), reverse=True):
            whole = [seconds for seconds, _packages, _engine in runs]
            packages, engine = (statistics.median(run[part] for run in runs) for part in (1, 2))
            rest = statistics.median(seconds - others - own for seconds, others, own in runs)
            spread = f"{min(whole):.1f}, {max(whole):.1f}"
            print(f"{title:18} {statistics.median(whole):8.1f} {packages:9.1f} {engine:8.1f} {rest:8.1f}   {spread}")
        print(f"\nnothing to do, {given.rounds * given.runs} runs")
        print(
            f"{'':18} {'seconds':>8} {'tasks':>6} {'commands over SSH':>18} {'connections':>12}   of a host; from, to"
        )
        for title, again in sorted(self.again.items(), reverse=True):
            tasks, commands, connections = self.counts[title]
            spread = f"{min(again):.1f}, {max(again):.1f}"
            print(f"{title:18} {statistics.median(again):8.1f} {tasks:6} {commands:18} {connections:12}   {spread}")
        bare = {title: [run[0] for run in runs] for title, runs in self.bare.items()}
        for name, seconds in (("from bare", bare), ("nothing to do", self.again)):
            ratio = statistics.median(seconds[OURS]) / statistics.median(seconds[THEIRS])
            print(f"ratio of the seconds, {name}: {ratio:.2f}")


def measure(plays: t.Sequence[Plays], runs: int, figures: Figures) -> None:
    """One round: bring both up, then run both again, alternately."""
    for play in plays:
        seconds, shares, _output = timed(play.site, play.playbook, *play.options)
        figures.bare.setdefault(play.title, []).append((seconds, shares["packages"], shares["engine"]))
        print(f"{play.title}: from bare in {seconds:.1f} s", flush=True)
        for host in play.site.fleet.hosts:
            for box in voboxes(host.number):
                if play.site.greeting(box["ipv6"]) != box["fqdn"]:
                    raise SystemExit(f"{play.title}: {box['name']} does not answer")
    for turn in range(runs):
        for play in plays[::-1] if turn % 2 else plays:
            seconds, _shares, output = timed(play.site, play.playbook, *play.options)
            counts = recap(output)
            if any(count["changed"] for count in counts.values()):
                raise SystemExit(f"{play.title}: the second run changes something:\n{output[-3000:]}")
            figures.again.setdefault(play.title, []).append(seconds)
            print(f"{play.title}: nothing to do in {seconds:.1f} s", flush=True)
            if play.title not in figures.counts:
                commands, connections = sent(play.site, play.playbook, play.options, "host1")
                figures.counts[play.title] = counts["host1"]["ok"], commands, connections


if __name__ == "__main__":
    main()

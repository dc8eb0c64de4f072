# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From bare hosts to VO-boxes that answer, and a run that has nothing to do. Needs root and community.docker.

Two fleets of the same hosts, systemd in namespaces, reached over SSH; on one ``hep.gridbox.site``, on the other a
playbook of as many tasks as it takes with community.docker's modules: packages, daemon.json, service, image, network,
init script, container, and the answer of its service over IPv4 and IPv6. Alternately in one run:

bare      seconds until all VO-boxes answer, and how much of it is the package manager's and the engine's
again     seconds of a run that changes nothing; tasks and SSH commands per host

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


def theirs(site: Site) -> Path:
    """The same with community.docker's modules."""
    image = f"{site.fleet.registry.address}/site/vobox:1"
    config = json.dumps({"live-restore": True, "insecure-registries": [site.fleet.registry.address]})
    curl = ["nsenter", f"--net=/run/netns/{site.fleet.peer}", "curl", "-sSf", "-g", "-m", "5"]
    tasks: list[dict[str, t.Any]] = [
        {"ansible.builtin.apt": {"name": list(PACKAGES), "update_cache": True, "cache_valid_time": 3600,
                                 "install_recommends": False}},
        {"ansible.builtin.copy": {"dest": "/etc/docker/daemon.json", "content": config, "mode": "0644"},
         "register": "config"},
        {"ansible.builtin.service": {"name": "docker", "enabled": True,
                                     "state": "{{ 'restarted' if config is changed else 'started' }}"}},
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
    file.write_text(yaml.safe_dump([{"hosts": "voboxes", "gather_facts": False, "tasks": tasks}], sort_keys=False))
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


def commands(site: Site, playbook: str, host: str) -> int:
    """How many commands a run sends to a host over SSH."""
    argv, environment = site.command(playbook, "-vvv")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    return sum(f"<{site.fleet.name}-{host}> SSH: EXEC" in line for line in done.stdout.splitlines())


def main() -> None:
    options = argparse.ArgumentParser(description="hep.gridbox.site against the same with community.docker's modules.")
    options.add_argument("--hosts", type=int, default=3, help="of each fleet (default 3)")
    options.add_argument("--runs", type=int, default=3, help="that have nothing to do (default 3)")
    options.add_argument("--serial", default="1", help="how many hosts at a time hep.gridbox.site takes (default 1)")
    given = options.parse_args()
    if importlib.util.find_spec("ansible_collections.community") is None:
        raise SystemExit("community.docker is not in this environment: scripts/bootstrap collections puts it there.")
    fleets = [Fleet(f"bench{os.getpid()}-{side}") for side in ("ours", "theirs")]
    with tempfile.TemporaryDirectory() as name:
        try:
            for fleet in fleets:
                fleet.start(parse(f"host{number}=native:bookworm" for number in range(1, given.hosts + 1)))
            sites = [Site(fleet, Path(name) / fleet.name) for fleet in fleets]
            measure(*sites, given.runs, given.serial)
        finally:
            for fleet in fleets:
                fleet.stop()


def measure(ours: Site, other: Site, runs: int, serial: str) -> None:
    """Bring both up, then run both again, alternately."""
    plays = [
        (OURS, ours, "hep.gridbox.site", ("-e", f"gridbox_serial={serial}")),
        (THEIRS, other, str(theirs(other)), ()),
    ]
    hosts = len(ours.fleet.hosts)
    print(f"{hosts} hosts, from bare to VO-boxes that answer")
    print(f"{'':18} {'seconds':>8} {'packages':>9} {'engine':>8} {'rest':>8}")
    for title, site, playbook, extra in plays:
        seconds, shares, _output = timed(site, playbook, *extra)
        rest = seconds - sum(shares.values())
        print(f"{title:18} {seconds:8.1f} {shares['packages']:9.1f} {shares['engine']:8.1f} {rest:8.1f}", flush=True)
        for host in site.fleet.hosts:
            for box in voboxes(host.number):
                if site.greeting(box["ipv6"]) != box["fqdn"]:
                    raise SystemExit(f"{title}: {box['name']} does not answer")
    again: dict[str, list[float]] = {OURS: [], THEIRS: []}
    tasks = {}
    for _turn in range(runs):
        for title, site, playbook, extra in plays:
            seconds, _shares, output = timed(site, playbook, *extra)
            counts = recap(output)["host1"]
            if any(count["changed"] for count in recap(output).values()):
                raise SystemExit(f"{title}: the second run changes something:\n{output[-3000:]}")
            again[title].append(seconds)
            tasks[title] = counts["ok"]
    print("\na run that has nothing to do (medians)")
    print(f"{'':18} {'seconds':>8} {'a host':>8} {'tasks':>6} {'commands over SSH, a host':>26}")
    for title, site, playbook, _extra in plays:
        median = statistics.median(again[title])
        sent = commands(site, playbook, "host1")
        print(f"{title:18} {median:8.1f} {median / hosts:8.1f} {tasks[title]:6} {sent:26}")
    ratio = statistics.median(again[OURS]) / statistics.median(again[THEIRS])
    print(f"ratio of the seconds: {ratio:.2f}")


if __name__ == "__main__":
    main()

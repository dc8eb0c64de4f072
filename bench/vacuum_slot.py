# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long do all slots of a host take that are as they should be? Needs root, dockerd, and community.docker.

A factory without a daemon, all of whose slots run, and as many containers of the same kind, on an engine of the
script's own; alternately in one playbook, what each task takes:

hep.gridbox.vacuum_slot               one task for all slots
community.docker.docker_container     one task in a loop over the containers
ansible.builtin.ping                  what any task takes that does nothing

The first task of a kind takes longer in a run: Ansible packs its module then, and keeps the packed file for the others
and for the other hosts.

Run it from the checkout, in its environment: ``.venv/bin/python -m bench.vacuum_slot --help``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import typing as t
from pathlib import Path

from bench.idempotent import run_process, task_seconds
from bench.vacuum_refill import KIND, OPTIONS, STAYS
from tests.lab.factory import LabFactory
from tests.lab.lab import Lab, make_lab, remove_lab

OURS, THEIRS, NOTHING = "hep.gridbox.vacuum_slot", "community.docker.docker_container", "ansible.builtin.ping"


def theirs(lab: Lab, folder: Path, name: str) -> dict[str, t.Any]:
    """A container like a machine, with a file and a folder mounted into it."""
    return {
        "docker_host": lab.engine.url, "name": name, "image": "busybox:test", "pull": "never",
        "hostname": "slot.example.org", "command": ["sleep", "3600"], "memory": "16m", "memory_swap": "16m", "cpus": 1,
        "pids_limit": 1024, "network_mode": "bridge", "init": True, "cap_drop": ["ALL"],
        "security_opts": ["no-new-privileges"], "ulimits": ["nofile:4096:4096"], "labels": {"slot": name},
        "volumes": [f"{folder}:/var/spool/joboutputs", f"{folder}/run:/user_data:ro"],
    }  # fmt: skip


def measure(lab: Lab, folder: Path, slots: int, runs: int) -> None:
    """Fill both, then measure what changes nothing, alternately."""
    factory = LabFactory(
        lab, folder, total_processors=slots, machinetypes={"a": KIND}, **OPTIONS
    )  # fmt: skip
    factory.file("a", "run", STAYS)
    shared = folder / "shared"
    shared.mkdir()
    (shared / "run").write_text(STAYS)
    names = [f"slot{number:02}" for number in range(slots)]
    ours = {"configuration": str(factory.configuration), "state": "running"}
    try:
        for module, given in ((OURS, [ours]), (THEIRS, [theirs(lab, shared, name) for name in names])):
            for one in given:
                _seconds, said = run_process(lab, module, one)
                if said.get("failed") or not said["changed"]:
                    raise SystemExit(f"{module}: {said.get('msg')}")
        if len(factory.running()) != slots:
            raise SystemExit(f"{len(factory.running())} machines run, of {slots}")
        tasks = {
            OURS: {"name": "All slots", OURS: ours},
            THEIRS: {"name": "All containers", THEIRS: theirs(lab, shared, "{{ item }}"), "loop": names},
            NOTHING: {"name": "Nothing", NOTHING: {}},
        }
        first: dict[str, list[float]] = {module: [] for module in tasks}
        later: dict[str, list[float]] = {module: [] for module in tasks}
        for _playbook in range(runs):
            # The first task of a playbook takes up the connection.
            played = task_seconds(lab, folder, tasks[NOTHING], *(list(tasks.values()) * 3))[1:]
            for number, (module, (_name, seconds)) in enumerate(zip(list(tasks) * 3, played, strict=True)):
                (first if number < len(tasks) else later)[module].append(seconds)
        print(f"{slots} slots that are as they should be, seconds, medians of {runs} playbooks")
        for heading, taken in (("The first task of its kind in a playbook", first), ("Those after it", later)):
            print(f"{heading}:")
            one, many, nothing = (statistics.median(taken[module]) for module in tasks)
            print(f"{OURS:36} {one:8.2f}")
            print(f"{THEIRS:36} {many:8.2f}   {many / one:.1f} x")
            print(f"{NOTHING:36} {nothing:8.2f}   {many / nothing:.1f} x")
    finally:
        factory.remove()
        for name in names:
            lab.docker("rm", "--force", name, check=False)


def main() -> None:
    """Entry point."""
    options = argparse.ArgumentParser(description="All slots of a host by one task, and as many containers by a loop.")
    options.add_argument("--slots", type=int, default=24)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    if importlib.util.find_spec("ansible_collections.community") is None:
        raise SystemExit("community.docker is not in this environment: scripts/bootstrap collections puts it there.")
    with tempfile.TemporaryDirectory(prefix="gbb") as name:
        folder = Path(name)
        lab = make_lab(folder / "e", "gbb-slot")
        try:
            measure(lab, folder, given.slots, given.runs)
        finally:
            remove_lab(lab)


if __name__ == "__main__":
    main()

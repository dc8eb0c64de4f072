# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long does a run take that has nothing to do? Needs root, dockerd, and community.docker in the environment.

One VO-box and one container of the same kind, on an engine of the script's own; alternately in one run:

hep.gridbox.vobox_container           whole VO-box: container, image, init script, certificate, leftovers, services
community.docker.docker_container     the options it has for the same

Each as the module's process (interpreter, imports and work) and as a task of an ansible-playbook run, less an empty
one. Then what starting costs: the process of either module with an argument that is refused at once.
Run it from the checkout, in its environment: ``.venv/bin/python -m bench.idempotent --help``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import yaml

from bench.task_seconds import VARIABLE
from tests.lab.lab import PARENT, Lab, make_lab, remove_lab

OURS, THEIRS = "hep.gridbox.vobox_container", "community.docker.docker_container"

_START = """
import json, runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


def arguments(lab: Lab, folder: Path) -> dict[str, dict[str, t.Any]]:
    """The same container in both modules' words."""
    return {
        OURS: {
            "engine_url": lab.engine.url,
            "files": str(folder / "voboxes"),
            "name": "ours",
            "image": "busybox:test",
            "hostname": "ours.example.org",
            "network": {"name": "site", "ipv4": "10.213.1.10", "ipv6": "fd13:213::1:10"},
            "init_script": "#!/bin/sh\nhttpd -p 80 -h /www\n",
            "services": [{"name": "web", "port": 80}],
            "limits": {"nofile": "4096:8192", "memory": "64m"},
            "volumes": [{"source": "state", "target": "/state"}],
            "restart_policy": "unless-stopped",
            "environment": {"SITE": "here"},
            "labels": {"site": "here"},
        },
        THEIRS: {
            "docker_host": lab.engine.url,
            "name": "theirs",
            "image": "busybox:test",
            "pull": "never",
            "hostname": "theirs.example.org",
            "networks": [{"name": "site", "ipv4_address": "10.213.1.11", "ipv6_address": "fd13:213::1:11"}],
            "network_mode": "site",
            "command": ["httpd", "-f", "-p", "80", "-h", "/www"],
            "ulimits": ["nofile:4096:8192"],
            "memory": "64m",
            "volumes": ["state:/state"],
            "restart_policy": "unless-stopped",
            "env": {"SITE": "here"},
            "labels": {"site": "here"},
        },
    }


def run_process(lab: Lab, module: str, given: dict[str, t.Any]) -> tuple[float, dict[str, t.Any]]:
    """One run of a module in a process of its own: seconds, and what it said."""
    namespace, collection, name = module.split(".")
    began = time.perf_counter()
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{lab.engine.netns}", sys.executable, "-c", _START,
         f"ansible_collections.{namespace}.{collection}.plugins.modules.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode(), capture_output=True, timeout=180, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return seconds, t.cast("dict[str, t.Any]", json.loads(done.stdout))


def run_playbook(lab: Lab, folder: Path, *tasks: dict[str, t.Any]) -> float:
    """One ansible-playbook with these tasks, which have nothing to do; seconds."""
    return _play(lab, folder, tasks, {})


def task_seconds(lab: Lab, folder: Path, *tasks: dict[str, t.Any]) -> list[tuple[str, float]]:
    """One ansible-playbook with these tasks, which have nothing to do; the name of each, and its seconds."""
    told = folder / "seconds"
    _play(lab, folder, tasks, {
        VARIABLE: str(told), "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent),
        "ANSIBLE_CALLBACKS_ENABLED": "task_seconds",
    })  # fmt: skip
    return [(str(name), float(seconds)) for name, seconds in json.loads(told.read_text())]


def _play(lab: Lab, folder: Path, tasks: t.Sequence[dict[str, t.Any]], environment: dict[str, str]) -> float:
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{lab.engine.netns} {sys.executable} "$@"\n')
    python.chmod(0o755)
    play = {
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars": {"ansible_python_interpreter": str(python)},
        "tasks": list(tasks),
    }  # fmt: skip
    playbook = folder / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    began = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(playbook)],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode or (tasks and "changed=0" not in done.stdout):
        raise SystemExit(f"Not idempotent, or failed:\n{done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description="An idempotent run of vobox_container and of docker_container.")
    options.add_argument("--runs", type=int, default=15, help="of each, as a process (default 15)")
    options.add_argument("--plays", type=int, default=5, help="of each, as a playbook of ten tasks (default 5)")
    given = options.parse_args()
    if importlib.util.find_spec("ansible_collections.community") is None:
        raise SystemExit("community.docker is not in this environment: scripts/bootstrap collections puts it there.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lab = make_lab(folder / "engine", "bench-idempotent")
        try:
            lab.docker(
                "network", "create", "--driver", "macvlan", "--opt", f"parent={PARENT}", "--ipv6",
                "--subnet", "10.213.0.0/16", "--gateway", "10.213.0.1",
                "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", "site",
            )  # fmt: skip
            measure(lab, folder, given.runs, given.plays)
        finally:
            remove_lab(lab)


def measure(lab: Lab, folder: Path, runs: int, plays: int) -> None:
    """Make both containers, then measure what changes nothing, alternately."""
    asked = arguments(lab, folder)
    seconds: dict[tuple[str, str], list[float]] = {}
    for module in (OURS, THEIRS):
        _seconds, said = run_process(lab, module, asked[module])
        if said.get("failed") or not said["changed"]:
            raise SystemExit(f"{module}: {said.get('msg')}")
    for _turn in range(runs):
        for module in (OURS, THEIRS):
            took, said = run_process(lab, module, asked[module])
            if said.get("failed") or said["changed"]:
                raise SystemExit(f"{module} is not idempotent: {said.get('msg') or said.get('actions')}")
            seconds.setdefault(("process", module), []).append(took)
            refused, said = run_process(lab, module, {**asked[module], "name": "", "state": "nonsense"})
            if not said.get("failed"):
                raise SystemExit(f"{module} took nonsense")
            seconds.setdefault(("start only", module), []).append(refused)
    empty = []
    for _turn in range(plays):
        empty.append(run_playbook(lab, folder))
        for module in (OURS, THEIRS):
            took = run_playbook(
                lab, folder, *({"name": f"Run {number}", module: asked[module]} for number in range(10))
            )
            seconds.setdefault(("task", module), []).append(took)
    base = statistics.median(empty)
    print(f"{'':12} {'ours':>8} {'theirs':>8}   ratio    (seconds, medians)")
    for kind in ("start only", "process", "task"):
        ours, theirs = (statistics.median(seconds[kind, module]) for module in (OURS, THEIRS))
        if kind == "task":
            ours, theirs = (ours - base) / 10, (theirs - base) / 10
        print(f"{kind:12} {ours:8.3f} {theirs:8.3f}   {ours / theirs:.2f}")


if __name__ == "__main__":
    main()

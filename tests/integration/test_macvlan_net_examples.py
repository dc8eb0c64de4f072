# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of macvlan_net and macvlan_net_info, run by Ansible as they stand, on the lab's addresses."""

from __future__ import annotations

import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.modules import macvlan_net, macvlan_net_info
from tests.integration.macvlan_world import World
from tests.lab.lab import PARENT, Lab

#: The documentation's names, and the lab's.
NAMES = {"bond0.120": PARENT, "192.0.2.": "10.213.2.", "2001:db8:1::": "fd13:213::"}


@pytest.fixture()
def world(lab: Lab) -> t.Iterator[World]:
    made = World(lab)
    yield made
    made.clean()


def _tasks(text: str) -> list[dict[str, t.Any]]:
    for documented, ours in NAMES.items():
        text = text.replace(documented, ours)
    return t.cast("list[dict[str, t.Any]]", yaml.safe_load(text))


def test_the_examples_run(world: World, tmp_path: Path) -> None:
    plain, shim, bridge, labelled, absent = _tasks(macvlan_net.EXAMPLES)
    client = ["docker", "--host", world.lab.engine.url]
    address = ["--network", "site", "--ip", "10.213.2.31"]
    run = {
        "name": "A VO-box",
        "ansible.builtin.command": {
            "argv": [*client, "run", "--detach", "--name", "vobox1", *address, "busybox:test", "sleep", "300"]
        },
    }
    remove = {"name": "No VO-box", "ansible.builtin.command": {"argv": [*client, "rm", "--force", "vobox1"]}}
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{world.lab.engine.netns} {sys.executable} "$@"\n')
    python.chmod(0o755)
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "module_defaults": {"group/hep.gridbox.gridbox": {"engine_url": world.lab.engine.url}},
        "vars": {"ansible_python_interpreter": str(python)},
        "tasks": [plain, shim, bridge, run, labelled, *_tasks(macvlan_net_info.EXAMPLES), remove, absent],
    }
    playbook = tmp_path / "examples.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    ansible = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [str(ansible), "-i", "localhost,", str(playbook)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed=0" in done.stdout
    assert "10.213.2.31" in done.stdout, "the twin's last example tells the addresses"
    changed = {"macvlan_net": done.stdout.count("changed: [localhost]")}
    assert changed == {"macvlan_net": 5 + 2}, done.stdout

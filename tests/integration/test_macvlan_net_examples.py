# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of macvlan_net and macvlan_net_info, run by Ansible as they stand, on the lab's addresses."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.modules import macvlan_net, macvlan_net_info
from tests.integration.macvlan_world import World
from tests.lab.lab import PARENT, Lab
from tests.lab.playbook import play

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
    printed = play(
        world.lab.engine.netns, tmp_path,
        module_defaults={"group/hep.gridbox.gridbox": {"engine_url": world.lab.engine.url}},
        tasks=[plain, shim, bridge, run, labelled, *_tasks(macvlan_net_info.EXAMPLES), remove, absent],
    )  # fmt: skip
    assert "failed=0" in printed
    assert "10.213.2.31" in printed, "the twin's last example tells the addresses"
    assert printed.count("changed: [localhost]") == 5 + 2, printed

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of vobox_container and vobox_info, run by Ansible as they stand."""

from __future__ import annotations

import typing as t
from pathlib import Path

import yaml

from ansible_collections.hep.gridbox.plugins.modules import vobox_container, vobox_info
from tests.integration.conftest import Lab
from tests.lab.playbook import play


def test_the_examples_run(own_lab: Lab, tmp_path: Path) -> None:
    lab = own_lab
    lab.docker(
        "network", "create", "--driver", "macvlan", "--opt", "parent=site0", "--ipv6", "--subnet", "10.213.0.0/16",
        "--gateway", "10.213.0.1", "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", "site",
    )  # fmt: skip
    make, change, back, stop, absent = yaml.safe_load(vobox_container.EXAMPLES)
    reach: dict[str, t.Any] = {
        "name": "Reach it",
        "ansible.builtin.command": {
            "argv": ["nsenter", f"--net=/run/netns/{lab.peer}", "curl", "-sS", "http://[fd13:213::1:10]/"]
        },
    }
    defaults = {"engine_url": lab.engine.url, "files": str(tmp_path / "voboxes")}
    printed = play(
        lab.engine.netns, tmp_path,
        module_defaults={f"hep.gridbox.{module}": defaults for module in ("vobox_container", "vobox_info")},
        tasks=[make, reach, change, back, *yaml.safe_load(vobox_info.EXAMPLES), stop, absent],
    )  # fmt: skip
    assert "vobox1: []" in printed, "the twin's last example names the services that are down"
    assert "ok=8    changed=6" in printed, printed
    assert lab.docker("ps", "--all", "--quiet") == ""
    assert lab.docker("volume", "ls", "--quiet") == "vobox1-state\n"

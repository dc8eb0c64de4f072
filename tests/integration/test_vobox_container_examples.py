# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of vobox_container and vobox_info, run by Ansible as they stand."""

from __future__ import annotations

import subprocess
import sys
import typing as t
from pathlib import Path

import yaml

from ansible_collections.hep.gridbox.plugins.modules import vobox_container, vobox_info
from tests.integration.conftest import Lab


def test_the_examples_run(own_lab: Lab, tmp_path: Path) -> None:
    lab = own_lab
    lab.docker(
        "network", "create", "--driver", "macvlan", "--opt", "parent=site0", "--ipv6", "--subnet", "10.213.0.0/16",
        "--gateway", "10.213.0.1", "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", "site",
    )  # fmt: skip
    make, change, back, stop, absent = yaml.safe_load(vobox_container.EXAMPLES)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{lab.engine.netns} {sys.executable} "$@"\n')
    python.chmod(0o755)
    reach: dict[str, t.Any] = {
        "name": "Reach it",
        "ansible.builtin.command": {
            "argv": ["nsenter", f"--net=/run/netns/{lab.peer}", "curl", "-sS", "http://[fd13:213::1:10]/"]
        },
    }
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "module_defaults": {
            "hep.gridbox.vobox_container": {"engine_url": lab.engine.url, "files": str(tmp_path / "voboxes")},
            "hep.gridbox.vobox_info": {"engine_url": lab.engine.url, "files": str(tmp_path / "voboxes")},
        },
        "vars": {"ansible_python_interpreter": str(python)},
        "tasks": [make, reach, change, back, *yaml.safe_load(vobox_info.EXAMPLES), stop, absent],
    }
    playbook = tmp_path / "examples.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    ansible = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [str(ansible), "-i", "localhost,", str(playbook)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vobox1: []" in done.stdout, "the twin's last example names the services that are down"
    assert "ok=8    changed=6" in done.stdout, done.stdout
    assert lab.docker("ps", "--all", "--quiet") == ""
    assert lab.docker("volume", "ls", "--quiet") == "vobox1-state\n"

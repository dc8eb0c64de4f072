# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each part of the role ``vacuum_factory`` by its tag alone, in check mode: what it goes by is looked at with that tag.

No engine is needed, and nothing is left on this machine.
"""

from __future__ import annotations

import re
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import ROOT, environment, run_tool
from tests.lab.playbook import kept_in

#: As the role's README has them.
TAGS = re.findall(
    r"`(\w+)`", (ROOT / "roles/vacuum_factory/README.md").read_text().partition("\nTags: ")[2].partition("\n\n")[0]
)


def check(folder: Path, *options: str) -> str:
    """What Ansible prints of the role in check mode, on a host that is no factory yet.

    :raises AssertionError: if it failed, with its output.
    """
    factory = {
        "name": "f1.example.org", "space": "vac01.example.org", "work_space": "folder", "draining": True,
        "state_folder": f"{folder}/state", "engine_url": f"unix://{folder}/nowhere",
    }  # fmt: skip
    variables: dict[str, t.Any] = {
        "ansible_python_interpreter": sys.executable, "ansible_become": False, "vacuum_factory_configuration": factory,
        "vacuum_factory_file": f"{folder}/factory.json", "vacuum_factory_log_file": f"{folder}/log",
        "vacuum_factory_supervisor": "none", "vacuum_factory_install": False,
    }  # fmt: skip
    play = {
        "hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables,
        "roles": ["hep.gridbox.vacuum_factory"],
    }  # fmt: skip
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = run_tool(
        "ansible-playbook", str(folder / "play.yml"), "--check", *options,
        seconds=300, env=environment(**kept_in(folder / "ansible")),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_readme_has_all_tags() -> None:
    parts = yaml.safe_load((ROOT / "roles/vacuum_factory/tasks/main.yml").read_text())
    assert set(TAGS) == {tag for part in parts for tag in part["tags"]}


@pytest.mark.parametrize("tag", TAGS)
def test_a_part_needs_no_other_one_in_the_same_run(tmp_path: Path, tag: str) -> None:
    check(tmp_path, "--tags", tag)

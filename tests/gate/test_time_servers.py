# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The site's time servers: an empty list is what the distribution configures, also where the role had written some."""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import demand, environment
from tests.lab.playbook import kept_in

#: Nothing but the time is looked at, and that in check mode.
OFF = (
    "nofile", "nproc", "inotify", "file_max", "pid_max", "keys", "neighbours", "systemd_limits", "core_dumps",
    "kernel_modules", "sshd_passwords", "sshd_root", "sshd_sessions", "sshd_agent", "sshd_log",
)  # fmt: skip


def foresee(folder: Path, sources: Path, config: str, servers: list[str]) -> list[str]:
    """What Ansible prints in check mode of each task that is about chrony."""
    variables: dict[str, t.Any] = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
        "host_hardening_controls": dict.fromkeys(OFF, False), "host_hardening_time_servers": servers,
        "__host_hardening_chrony_sources": str(sources), "__host_hardening_chrony_config": config,
    }  # fmt: skip
    task = {"ansible.builtin.include_role": {"name": "hep.gridbox.host_hardening", "tasks_from": "configure"}}
    play = {"hosts": "all", "gather_facts": False, "vars": variables, "tasks": [task]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    said = demand(
        "ansible-playbook", "-i", "host1,", "--check", str(folder / "play.yml"),
        env=environment(**kept_in(folder / "ansible")),
    )  # fmt: skip
    return [task for task in said.split("TASK [") if "Set limits and make sshd safe]" not in task]


@pytest.mark.parametrize(("servers", "changed"), [([], True), (["192.0.2.1"], False)])
def test_servers_of_before_go_with_the_list(tmp_path: Path, servers: list[str], changed: bool) -> None:
    sources = tmp_path / "chrony" / "hep.gridbox.sources"
    sources.parent.mkdir()
    sources.write_text("# Written by hep.gridbox (role host_hardening).\nserver 192.0.2.1 iburst\n")
    sources.chmod(0o644)
    chrony = foresee(tmp_path, sources, "", servers)
    assert any("changed: [host1]" in task for task in chrony) == changed


@pytest.mark.parametrize("there", [False, True])
def test_what_the_package_is_yet_to_bring_is_foreseen(tmp_path: Path, there: bool) -> None:
    """On a host of the EL family, where chrony's one file of configuration is given a line."""
    config = tmp_path / "chrony.conf"
    if there:
        config.write_text("# the distribution's\n")
    chrony = foresee(tmp_path, tmp_path / "chrony.d" / "hep.gridbox.sources", str(config), ["192.0.2.1"])
    changes = [task for task in chrony if "changed: [host1]" in task]
    assert sum("Have chrony read the folder]" in task for task in changes) == 1, chrony
    assert config.exists() == there

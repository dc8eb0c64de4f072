# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A site of a fleet's hosts: its inventory, and playbooks run over it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml

from tests.gate.tools import ROOT
from tests.lab.fleet import Fleet
from tests.lab.playbook import kept_in

#: Where what is the same for all fleets' sites stands, for Molecule's scenarios as well.
COMMON = ROOT / ".config/molecule/config.yml"


def voboxes(number: int, count: int = 1) -> list[dict[str, t.Any]]:
    """The VO-boxes of the host with this number: ``vobox11`` and ``vobox12`` of host 1, with 10.213.1.1 and .2."""
    return [
        {
            "name": f"vobox{number}{k}", "fqdn": f"vobox{number}{k}.example.org",
            "ipv4": f"10.213.{number}.{k}", "ipv6": f"fd13:213::{number:x}:{k}",
        }
        for k in range(1, count + 1)
    ]  # fmt: skip


def common() -> dict[str, t.Any]:
    """Variables of the group ``voboxes`` that are the same for every fleet."""
    config = yaml.safe_load(COMMON.read_text().replace("${MOLECULE_PROJECT_DIRECTORY}", str(ROOT)))
    return t.cast("dict[str, t.Any]", config["provisioner"]["inventory"]["group_vars"]["voboxes"])


class Site:
    """A fleet with what hep.gridbox.site wants to know about it.

    :param folder: for its inventory and what Ansible would keep in a person's home.
    :param variables: of the group ``voboxes``, beside those that are the same for every fleet.
    :param count: of VO-boxes on each host.
    """

    def __init__(self, fleet: Fleet, folder: Path, count: int = 1, **variables: t.Any) -> None:
        self.fleet, self.folder, self.count = fleet, folder, count
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(**variables)

    def write(self, **variables: t.Any) -> None:
        """Write its inventory, with these variables."""
        given = {**common(), "lab_peer": self.fleet.peer, **variables}
        inventory = self.fleet.inventory()
        for host in self.fleet.hosts:
            inventory["fleet"]["hosts"][host.name].update(
                number=host.number, vobox_list=voboxes(host.number, self.count)
            )
        inventory["voboxes"] = {"children": {"fleet": {}}, "vars": given}
        peer = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory["others"] = {"hosts": {"peer": peer}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))

    def command(self, playbook: str, *options: str) -> tuple[list[str], dict[str, str]]:
        """The command that runs a playbook (``hep.gridbox.site``, or a file) over it, and its environment."""
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts.yml")]
        environment = {
            **os.environ, **kept_in(self.folder / "ansible"), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_REMOTE_TMP": "~/.ansible/tmp", "ANSIBLE_ASYNC_DIR": "~/.ansible_async",
            "ANSIBLE_CALLBACKS_ENABLED": "hep.gridbox.changes",
        }  # fmt: skip
        return [*argv, playbook, *options], environment

    def run(
        self, playbook: str, *options: str, check: bool = True, seconds: float = 1200
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook and wait for its end.

        :raises AssertionError: if it failed and ``check`` is set, with its output.
        """
        argv, environment = self.command(playbook, *options)
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        return done

    def greeting(self, address: str) -> str:
        """What a VO-box says to the peer; empty if it does not answer."""
        host = f"[{address}]" if ":" in address else address
        asked = self.fleet.from_peer("curl", "-sS", "-g", "-m", "5", f"http://{host}/greeting", check=False)
        return asked.stdout.strip()


def recap(output: str) -> dict[str, dict[str, int]]:
    """What ansible-playbook counted for each host."""
    lines = output.partition("PLAY RECAP")[2].splitlines()
    found = (re.match(r"(\S+)\s+: (ok=.*)", line) for line in lines)
    return {
        line[1]: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line[2])} for line in found if line
    }

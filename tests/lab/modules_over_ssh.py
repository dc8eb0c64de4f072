# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run modules on a host of a fleet as Ansible runs them at a site: over SSH, one play for several of them. And shell
commands that read something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.lab.fleet import Fleet
from tests.lab.playbook import kept_in


@dataclass(frozen=True)
class Call:
    """One module with its options.

    :ivar check: in check mode.
    :ivar fails: whether it is to fail; a call that does otherwise is an error of the test.
    """

    module: str
    options: dict[str, t.Any] = field(default_factory=dict)
    check: bool = False
    fails: bool = False


def call(fleet: Fleet, host: str, folder: Path, *calls: Call, seconds: float = 600) -> list[dict[str, t.Any]]:
    """Run modules of the collection one after the other, and return what each said.

    :param folder: for the play, and for what Ansible would keep in a person's home.
    :raises AssertionError: if one failed, or did not where it should have.
    """
    results = folder / "results"
    results.unlink(missing_ok=True)
    tasks: list[dict[str, t.Any]] = [
        {
            f"hep.gridbox.{one.module}": one.options, "check_mode": one.check, "diff": True,
            "register": f"result{number}", "ignore_errors": True,
        }
        for number, one in enumerate(calls)
    ]  # fmt: skip
    content = "{{ [" + ", ".join(f"result{number}" for number in range(len(calls))) + "] | to_json }}"
    tasks.append({"ansible.builtin.copy": {"content": content, "dest": str(results)}, "delegate_to": "localhost"})
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": host, "gather_facts": False, "tasks": tasks}]))
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {**fleet.inventory(), "here": {"hosts": {"localhost": here}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "hosts.yml"),
         str(folder / "play.yml")],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False,
        env={**os.environ, **kept_in(folder / "ansible"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_REMOTE_TMP": "~/.ansible/tmp"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    said: list[dict[str, t.Any]] = json.loads(results.read_text())
    for one, result in zip(calls, said):
        assert result["failed"] == one.fails, result
    return said


def feed(fleet: Fleet, host: str, command: str, data: bytes, seconds: float = 60) -> None:
    """Run a command of a host's shell that reads this.

    :raises AssertionError: if it failed, with its output.
    """
    argv = [*fleet.ssh(host), command]
    done = subprocess.run(argv, input=data, capture_output=True, timeout=seconds, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:].decode(errors="replace")

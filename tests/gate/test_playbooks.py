# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Playbooks of the operator's day, where hosts cannot be reached, only root may look, or a day passes.

No engine is needed, and no factory: what they do on hosts that have one is in tests/integration.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import ROOT, environment, run_tool
from tests.lab.playbook import kept_in

HERE: dict[str, t.Any] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
#: Nothing listens there.
DEAD: dict[str, t.Any] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}

#: In the place of the two modules: as many turns as are wanted pass in no time. With half of the depth that Python
#: allows by itself a drain that goes deeper with each turn fails in half of the turns, which take Ansible their time.
COUNTING = """
import sys
from pathlib import Path

from ansible.plugins.action import ActionBase

sys.setrecursionlimit(500)


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        if "state" in self._task.args:
            return result
        file = Path(task_vars["turns_file"])
        left = int(file.read_text())
        file.write_text(str(max(0, left - 1)))
        slot = {"state": "running" if left else "empty", "shutdown_time": 1800000000}
        factory = {"name": "f1.example.org", "running_machines": left, "orders_taken": True}
        result.update(factory=factory, slots=[slot] * max(1, left))
        return result
"""


def run(
    folder: Path, playbook: str, hosts: t.Mapping[str, t.Any], *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    inventory = folder / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": dict(hosts)}}, sort_keys=False))
    return run_tool(
        "ansible-playbook", playbook, "-i", str(inventory), "-e", "gridbox_hosts=all", *options,
        seconds=600, env=environment(**kept_in(folder / "ansible"), **variables),
    )  # fmt: skip


@pytest.mark.fleet  # a minute of Ansible's turns
def test_a_drain_has_the_patience_that_it_promises(tmp_path: Path) -> None:
    """It looks once a minute, for a day. After 4 hours Ansible used to be at its wits' end."""
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/counting.py").write_text(COUNTING)
    shutil.copytree(ROOT / "playbooks/tasks", tmp_path / "tasks")
    shutil.copy(ROOT / "playbooks/drain.yml", tmp_path)
    for path in (tmp_path / "drain.yml", *(tmp_path / "tasks").iterdir()):
        text = re.sub(r"hep\.gridbox\.vacuum_(slot|info):", "counting:", path.read_text())
        path.write_text(re.sub(r"(retries|delay): \d+", r"\1: 0", text))
    turns = tmp_path / "turns"
    turns.write_text("130")
    done = run(tmp_path, str(tmp_path / "drain.yml"), {"f1": HERE}, "-e", f"turns_file={turns}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "130 of 130 slots still run, the last until 2027-01-15 08:00:00 UTC at the latest" in done.stdout
    assert done.stdout.count("slots still run") == 130
    assert done.stdout.count("nothing runs any more") == 1, "and then it is over"
    assert turns.read_text() == "0"


@pytest.mark.parametrize(
    ("playbook", "found"),
    [
        ("slots", "f1: CRITICAL: There is no factory here, for there is no /no/such/factory.json"),
        ("status", "alice   alice.example.org"),
    ],
)
def test_a_table_names_the_hosts_that_it_lacks(tmp_path: Path, playbook: str, found: str) -> None:
    """The first host too, on which what is done once would be done."""
    boxes = {
        "vobox_list": [{"name": "alice", "fqdn": "alice.example.org", "ipv4": "192.0.2.31"}],
        "vobox_network": {"name": "site", "parent": "eno1", "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"}},
        "vobox_engine_url": f"unix://{tmp_path}/nowhere", "vacuum_factory_file": "/no/such/factory.json",
    }  # fmt: skip
    hosts = {"dead": {**DEAD, **boxes}, "f1": {**HERE, **boxes}}
    done = run(tmp_path, f"hep.gridbox.{playbook}", hosts)
    assert " ".join(found.split()) in " ".join(done.stdout.split())
    assert "dead: nothing is known of it: unreachable, or the look at it failed\n" in done.stdout
    alone = run(tmp_path, f"hep.gridbox.{playbook}", hosts, "--limit", "f1")
    assert (alone.returncode, "nothing is known" in alone.stdout) == (0, False)
    required = run(tmp_path, f"hep.gridbox.{playbook}", hosts, "-e", "gridbox_required=true")
    assert re.search(r"need a look: [a-z0-9, ]*dead\. The table above", required.stdout)


def test_the_space_is_asked_for_at_the_first_host_that_can_be_reached(tmp_path: Path) -> None:
    hosts = {"dead": DEAD, "f1": {**HERE, "vacuum_factory_file": "/no/such/factory.json"}, "f2": HERE}
    asked = run(tmp_path, "hep.gridbox.space_status", hosts)
    assert re.search(r"fatal: \[f1\]: FAILED!.*configuration /no/such/factory\.json cannot be read", asked.stdout)
    nobody = run(tmp_path, "hep.gridbox.space_status", {"dead": DEAD})
    assert nobody.returncode == 2
    assert "None of dead can be reached. Name a host that can with --limit." in nobody.stdout


@pytest.mark.parametrize("playbook", ["drain", "slots", "space_status"])
def test_whoever_may_become_root_may_drain_and_look(tmp_path: Path, playbook: str) -> None:
    """The factory's file is root's alone."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\necho >>{tmp_path}/used\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n')
    sudo.chmod(0o755)
    host = {**HERE, "ansible_become_exe": str(sudo), "vacuum_factory_file": "/no/such/factory.json"}
    done = run(tmp_path, f"hep.gridbox.{playbook}", {"f1": host}, ANSIBLE_BECOME_ALLOW_SAME_USER="true")
    assert "/no/such/factory.json" in done.stdout, "the file that the role's variable names"
    assert (tmp_path / "used").exists(), done.stdout


def test_a_factory_does_not_go_with_records_that_were_not_sent(tmp_path: Path) -> None:
    """APEL has them from nowhere else. Machines that are ended with the factory leave some, too."""
    unsent = {"ansible.builtin.include_role": {"name": "hep.gridbox.vacuum_factory", "tasks_from": "unsent"}}
    playbook = tmp_path / "unsent.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [unsent]}]))
    state = tmp_path / "state"
    record = state / "apel-outgoing/20261130/12000000000000"
    host = {"f1": {**HERE, "ansible_become": False, "__vacuum_factory_record": {"trees": [str(state)]}}}
    assert run(tmp_path, str(playbook), host).returncode == 0, "there is no such folder"
    record.parent.mkdir(parents=True)
    assert run(tmp_path, str(playbook), host).returncode == 0
    record.touch()
    for check in ((), ("--check",)):
        refused = run(tmp_path, str(playbook), host, *check)
        assert refused.returncode == 2
        assert f"1 records of the accounting below {state}/apel-outgoing were not sent" in refused.stdout
        assert "vacuum_factory_remove_unsent_records" in refused.stdout
    allowed = run(tmp_path, str(playbook), host, "-e", "vacuum_factory_remove_unsent_records=true")
    assert allowed.returncode == 0

    tasks = yaml.safe_load((ROOT / "roles/vacuum_factory/tasks/remove.yml").read_text())
    names = [one.get("ansible.builtin.include_tasks") or one["name"] for one in tasks]
    first, second = (at for at, name in enumerate(names) if name == "unsent.yml")
    assert names[first + 1] == "End the factory"
    assert names[second + 1] == "Remove the files and folders that the role brought"


#: Variables of a host on which the role cvmfs may replace an autofs.
CVMFS_SERVICE: dict[str, t.Any] = {
    "gridbox_cvmfs": True, "cvmfs_max_disruption": "service", "cvmfs_repositories": [{"repository": "alice.cern.ch"}],
    "cvmfs_http_proxies": ["DIRECT"],
}  # fmt: skip


def prepare(folder: Path, hosts: t.Sequence[str], *options: str, **costly: t.Any) -> str:
    """What ``hep.gridbox.site`` prints of the preparation in check mode; on the first host it fails at once."""
    network = {"name": "site", "parent": "eno1", "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"}}
    found: dict[str, dict[str, t.Any]] = {}
    for name in hosts:
        (folder / name).mkdir()
        found[name] = {
            **(DEAD if name == "dead" else HERE), "ansible_become": False, "vobox_list": [], "vobox_network": network,
            "docker_engine_supervisor": "none", "docker_engine_config_file": f"{folder}/{name}/daemon.json",
            "docker_engine_socket": f"{folder}/{name}/socket", "docker_engine_pidfile": f"{folder}/{name}/pid",
            "docker_engine_data_root": f"{folder}/{name}/data", "docker_engine_exec_root": f"{folder}/{name}/exec",
        }  # fmt: skip
    first = next(name for name in hosts if name != "dead")
    (folder / first / "daemon.json").write_text("{")
    found[hosts[-1]].update(costly)
    said = run(folder, "hep.gridbox.site", found, "--check", *options).stdout
    assert f"fatal: [{first}]: FAILED!" in said, said[-3000:]
    return said[said.index("PLAY [Prepare the hosts]") :]


def test_hosts_are_prepared_at_once_and_one_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    said = prepare(tmp_path, ["host1", "host2"], "-e", "gridbox_serial=1")
    assert said.count("PLAY [Prepare the hosts]") == 1
    assert "ok: [host2]" in said[said.index("fatal: [host1]") :]
    assert "PLAY [VO-boxes]" in said


@pytest.mark.parametrize(
    ("hosts", "costly", "serial"),
    [
        (["dead", "host1", "host2"], {"docker_engine_restart": "always"}, ""),
        (["host1", "host2", "host3"], CVMFS_SERVICE, "2"),
    ],
    ids=["engine", "cvmfs, two at a time"],
)
def test_what_may_cost_a_service_is_done_host_by_host(
    tmp_path: Path, hosts: list[str], costly: dict[str, t.Any], serial: str
) -> None:
    """Also when it is the last host alone that allows it. The engines of all hosts used to be restarted at once."""
    said = prepare(tmp_path, hosts, *(("-e", f"gridbox_serial={serial}") if serial else ()), **costly)
    assert ("ok: [host2]" in said) == bool(serial)
    assert f"[{hosts[-1]}]" not in said[: said.index("PLAY RECAP")]
    assert "[dead]" not in said[: said.index("PLAY RECAP")]
    assert "PLAY [VO-boxes]" not in said

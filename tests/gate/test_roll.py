# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``hep.gridbox.vobox`` over several VO-boxes and hosts: where it stops, and a part of it by its tag.

No engine is needed: what stands at the place of its socket answers nobody, so the first VO-box that is touched fails.
"""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import yaml

from tests.gate.tools import environment, run_tool
from tests.lab import first_site
from tests.lab.playbook import kept_in

NETWORK = {"name": "site", "parent": "eno1", "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"}}


def box(name: str, address: str) -> dict[str, t.Any]:
    return {"name": name, "fqdn": f"{name}.example.org", "ipv4": address}


def roll(folder: Path, hosts: t.Mapping[str, t.Any], *options: str) -> str:
    """What Ansible prints of the playbook."""
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "vobox_network": NETWORK}
    inventory = {"voboxes": {"hosts": dict(hosts), "vars": common}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    done = run_tool(
        "ansible-playbook", "hep.gridbox.vobox", "-i", str(folder / "hosts.yml"), *options,
        seconds=300, env=environment(**kept_in(folder / "ansible")),
    )  # fmt: skip
    return done.stdout


def test_after_a_vobox_that_fails_no_other_one_of_the_host_is_touched(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    host = {
        "vobox_engine_url": f"unix://{tmp_path}/socket",
        "vobox_list": [box("alice", "192.0.2.31"), box("bob", "192.0.2.32"), box("carol", "192.0.2.33")],
    }
    said = roll(tmp_path, {"host1": host}, "--tags", "vobox_service")
    said = said[said.index("VO-box by VO-box: bring it up") :]
    assert "failed: [host1] (item=alice (alice.example.org))" in said
    for name in ("bob", "carol"):
        assert f"skipping: [host1] => (item={name} ({name}.example.org))" in said


def test_after_a_host_that_fails_no_other_batch_begins(tmp_path: Path) -> None:
    bare = f"unix://{tmp_path}/nowhere"
    hosts: dict[str, dict[str, t.Any]] = {
        name: {"vobox_engine_url": bare, "vobox_list": [box(f"{name}-box", "192.0.2.31")]}
        for name in ("host1", "host2", "host3")
    }
    hosts["host1"]["vobox_list"] = [box("host1-box", "banana")]
    said = roll(tmp_path, hosts, "--check", "-e", "gridbox_serial=2")
    assert "got 'banana'" in said
    said = said[said.index("PLAY [VO-boxes]") :]
    assert "ok: [host2]" in said
    assert "[host3]" not in said


def test_the_reconciler_is_there_before_a_vobox_is_touched_and_goes_after_the_last(tmp_path: Path) -> None:
    """After one that fails those in service must have it, and a power cut in a swap must not meet that of before."""
    said = roll(tmp_path, {"host1": {}}, "--list-tasks")
    tasks = [line.strip().partition("\t")[0].rpartition(" : ")[2] for line in said.splitlines()]
    order = [
        "Put the program in place", "Have it run after the boot and every two minutes",
        "Remove VO-boxes that are not wanted any more", "Remove program, units and state",
    ]  # fmt: skip
    assert [task for task in dict.fromkeys(tasks) if task in order] == order


def test_with_the_guides_inventory_no_host_is_proved_by_a_dead_one(tmp_path: Path) -> None:
    """The first host is away: another one is asked, always the same. Also where the roll is asked for by a tag."""
    first_site.write(tmp_path, first_site.guide())
    written = yaml.safe_load((tmp_path / "mysite/group_vars/voboxes.yml").read_text())
    bare: dict[str, t.Any] = {
        "vobox_engine_url": f"unix://{tmp_path}/nowhere",
        "vobox_verify_from": written["vobox_verify_from"],
        "vobox_verify_wait": 0,
        "vobox_services": [{"name": "nobody", "port": 1}],
    }
    hosts: dict[str, dict[str, t.Any]] = {
        f"host{number}": {**bare, "vobox_list": [box("alice", f"192.0.2.3{number}")]} for number in (1, 2, 3)
    }
    # With one host there is nobody to ask, and the roll goes on.
    said = roll(tmp_path, {"host1": hosts["host1"]}, "--tags", "vobox_verify")
    said = said[said.index("Reach every declared TCP service") :]
    assert "skipping: [host1]" in said and "failed=0 " in said, said
    hosts["host1"].update(ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
    for options, asked in (
        ((), "host2 -> host3"),
        (("--limit", "host3"), "host3 -> host1"),
        (("--limit", "host2,host3", "-e", "gridbox_serial=2"), "host3 -> host2"),
    ):
        said = roll(tmp_path, hosts, "--tags", "vobox_verify", *options)
        assert f"[{asked}" in said[said.index("Reach every declared TCP service") :]

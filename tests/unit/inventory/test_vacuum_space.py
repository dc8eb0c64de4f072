# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory of a space on the loopback, as ``ansible-inventory`` shows it."""

from __future__ import annotations

import json
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import MachineStatus
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from tests.gate.tools import BIN, environment
from tests.unit.vacuum.loopback import SPACE, served, snapshot

NAME = "factory1.example.com"
SILENT = "factory2.example.com"


def listed(folder: Path, failing: bool = False, **settings: t.Any) -> t.Any:
    """What ``ansible-inventory --list`` says of a space; if it is to fail, its words."""
    path = folder / "vacuum_space.yml"
    path.write_text(yaml.safe_dump({"plugin": "hep.gridbox.vacuum_space", "space": SPACE, **settings}))
    done = subprocess.run(
        [str(BIN / "ansible-inventory"), "-i", str(path), "--list"], capture_output=True, text=True, timeout=60,
        env=environment(ANSIBLE_INVENTORY_UNPARSED_FAILED="true", ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FATAL="true"),
        check=False, cwd=folder,
    )  # fmt: skip
    assert (done.returncode != 0) == failing, done.stderr
    return done.stderr if failing else json.loads(done.stdout)


def peers(port: int) -> list[dict[str, t.Any]]:
    closed = {"factory": SILENT, "host": "127.0.0.1", "port": 9}
    return [{"factory": NAME, "host": "127.0.0.1", "port": port}, closed]


def test_a_space_is_factories_groups_and_variables(tmp_path: Path) -> None:
    responder = Responder(Access())
    made = snapshot(machines=2, machinetypes=1)
    responder.snapshot = replace(
        made, machines=(*made.machines, MachineStatus("localhost"), MachineStatus("factory2-00.example.com"))
    )
    options: dict[str, t.Any] = {
        "slots_as_hosts": True, "compose": {"os": "vacuum_factory.os_issue | default('none')"},
        "groups": {"lost": "vacuum_state is defined and vacuum_state != 'answered'"},
        "keyed_groups": [{"prefix": "max", "key": "vacuum_factory.max_machines | default('no') | string"}],
        "cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache"),
    }  # fmt: skip
    with served(responder) as port:
        seen = listed(tmp_path, factories=peers(port), **options)
    cached = listed(tmp_path, factories=peers(port), **options)  # now nobody answers
    assert cached == seen
    assert seen["vac01_example_com"]["hosts"] == [NAME, SILENT]
    assert seen["vacuum_answered"]["hosts"] == [NAME]
    assert seen["vacuum_refused"]["hosts"] == seen["lost"]["hosts"] == [SILENT]
    assert seen["max_2"]["hosts"] == [NAME]
    # A factory may speak of its own slots only.
    assert seen["vacuum_slots"]["hosts"] == ["factory1-00.example.com", "factory1-01.example.com"]
    variables = seen["_meta"]["hostvars"][NAME]
    assert variables["os"] == {"__ansible_unsafe": "Example Linux 1"}
    assert variables["vacuum_machinetypes"]["type0"]["shutdown_message"] == {"__ansible_unsafe": "200 Success"}
    assert seen["_meta"]["hostvars"][SILENT]["vacuum_slots"] == {}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"factories": ["short"]}, "factories: got ['short'], expected a list of FQDNs"),
        ({"factories": [{"factory": NAME, "port": "x"}]}, "factories[0].port: got 'x', expected a whole number"),
        ({"factories": [NAME], "timeout": 0}, "timeout: got 0.0, expected seconds, more than 0"),
        ({"factories": [NAME], "key_file": "/no/such/key"}, "/no/such/key"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, settings: dict[str, t.Any], told: str) -> None:
    assert told in " ".join(listed(tmp_path, failing=True, **settings).split())

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From Vac to the role: what ``gridbox migrate`` writes into an inventory, the role takes as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.factory.role_variables import documents
from ansible_collections.hep.gridbox.plugins.module_utils.factory.vac_conf import Converted
from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.lab.playbook import kept_in
from tests.unit.factory.test_role_variables import AWKWARD
from tests.unit.factory.test_vac_conf import OWN, SITE

#: Files as Vac reads them, by path.
SITES = {
    "pipes": {path: text for path, text in SITE if path.startswith("/etc/")},
    "own": {"/etc/vac.conf": OWN},
    "awkward": {"/etc/vac.d/a.conf": AWKWARD, "/etc/vac.conf": "[settings]\nmb_per_processor = 3000\n"},
}

TOLD = "{{ vacuum_factory_files | length }} files, {{ vacuum_factory_user_data_options | default('') }}"

PLAY = [
    {
        "hosts": "factories", "connection": "local", "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "hep.gridbox.vacuum_factory", "tasks_from": "validate"}},
            {"ansible.builtin.debug": {"msg": TOLD}},
        ],
    }
]  # fmt: skip


@pytest.mark.parametrize("site", SITES)
def test_the_role_takes_what_comes_of_vacs_files(site: str, tmp_path: Path) -> None:
    program, inventory = tmp_path / "gridbox", tmp_path / "inventory"
    program.write_bytes(build("factory.program", sys.executable))
    program.chmod(0o755)
    for path, text in SITES[site].items():
        file = tmp_path / "vac" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    etc, into = tmp_path / "vac/etc", inventory / "group_vars/factories"
    asked = [str(program), "migrate", "--host", "wn001.example.com", "--into", str(into), str(etc / "vac.conf")]
    asked += [str(etc / "vac.d")] if (etc / "vac.d").exists() else []
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(into / "vacuum_factory.yml"), str(into / "vacuum_factory_vault.yml")]

    (inventory / "hosts").write_text("[factories]\nwn001.example.com\n")
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(tmp_path / "play.yml")]
    environment = {**os.environ, **kept_in(tmp_path / "ansible"), "ANSIBLE_NOCOLOR": "1"}
    environment["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable

    def play() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=200, stdin=subprocess.DEVNULL, env=environment
        )

    if site == "own":
        missing = play()
        assert missing.returncode != 0, "the files for machinetypes are not there yet"
        assert ".machinetypes/" in missing.stdout + missing.stderr
    vault = (into / "vacuum_factory_vault.yml").read_text()
    names = [line.split(":")[0].strip().strip('"') for line in vault.splitlines() if "lookup('ansible.builtin" in line]
    assert names
    for name in names:
        kept = inventory / ".machinetypes" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("#!/bin/sh\n")
    played = play()
    assert played.returncode == 0, played.stdout[-4000:] + played.stderr[-1000:]
    assert f"{len(names)} files" in played.stdout
    if site == "awkward":
        assert "{{ lookup('pipe', 'id') }} and {% raw %}" in played.stdout, "a site's text is nobody's template"


def test_files_for_machinetypes_are_not_read_as_an_inventory(tmp_path: Path) -> None:
    """What a machine runs as user_data would be run here as an inventory's script, and a text's lines be hosts."""
    inventory, ran = tmp_path / "inventory", tmp_path / "ran"
    made = documents(
        Converted({"name": "wn001.example.com"}, (), {"a/files/run": "/there", "a/files/pilot.txt": "/there"})
    )
    where = set(re.findall(r"inventory_dir ~ '/(\S+)/a/files/", made.vault))
    assert len(where) == 1
    files = inventory / where.pop() / "a/files"
    files.mkdir(parents=True)
    (files / "run").write_text(f"#!/bin/sh\ntouch {ran}\necho '{{}}'\n")
    (files / "run").chmod(0o755)
    (files / "pilot.txt").write_text("nohost.example.com\n")
    (inventory / "hosts").write_text("[factories]\nwn001.example.com\n")
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(inventory), "--list"]
    environment = {**os.environ, **kept_in(tmp_path / "ansible")}
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert not ran.exists(), "a machine's user_data was run on the controller"
    assert json.loads(told.stdout)["factories"]["hosts"] == ["wn001.example.com"]
    assert "nohost" not in told.stdout

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guide to factories: what it has an operator type is what configuration, roles, modules and plugins take."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import typing as t

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.factory import program
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from tests.gate.tools import ROOT

GUIDE = (ROOT / "docs/factory.md").read_text()
JSON, YAML = (re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE) for kind in ("json", "yaml"))


def options(role: str) -> set[str]:
    """Variables that a role takes."""
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    return set(specs["argument_specs"]["main"]["options"])


def documented(kind: str, name: str) -> set[str]:
    """Options of a module or plugin."""
    found = importlib.import_module(f"ansible_collections.hep.gridbox.plugins.{kind}.{name}")
    return set(yaml.safe_load(found.DOCUMENTATION)["options"])


def test_it_has_the_examples_that_are_looked_at_here() -> None:
    assert (len(JSON), len(YAML)) == (2, 3)


@pytest.mark.parametrize("text", JSON)
def test_a_configuration_is_one(text: str) -> None:
    assert parse(json.loads(text)).settings.name == "wn001.example.org"


def test_the_inventory_is_one_for_the_roles() -> None:
    given: dict[str, t.Any] = yaml.safe_load(YAML[0])["factories"]["vars"]
    assert given.keys() <= options("vacuum_factory") | options("cvmfs") | {"gridbox_cvmfs"}
    hosts = ["wn001.example.org", "wn002.example.org"]
    own = {**given["vacuum_factory_configuration"], "name": hosts[0], "factories": hosts}
    made = parse({**own, "vacuum_pipes": given["vacuum_factory_pipes"]})
    assert [one.section.prefix for one in made.pipes] == ["lhcb"]


def test_the_task_and_the_inventory_plugin_take_what_they_are_given() -> None:
    [task] = yaml.safe_load(YAML[1])
    assert task["hep.gridbox.vacuum_slot"].keys() <= documented("modules", "vacuum_slot")
    inventory = yaml.safe_load(YAML[2])
    fragment = {"plugin", "groups", "compose", "keyed_groups", "strict"}  # Ansible's own, of constructed inventories
    assert inventory.keys() <= documented("inventory", "vacuum_space") | fragment
    assert inventory["plugin"] == "hep.gridbox.vacuum_space"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`gridbox ([^`]+)`", GUIDE))))
def test_each_command_that_it_names_is_one(command: str) -> None:
    """Of the program, with arguments that it takes."""
    program._parser().parse_args(shlex.split(command))


def test_each_playbook_that_it_names_is_there() -> None:
    playbooks = set(re.findall(r"ansible-playbook hep\.gridbox\.([a-z_]+)", GUIDE))
    assert playbooks and {one for one in playbooks if not (ROOT / f"playbooks/{one}.yml").exists()} == set()

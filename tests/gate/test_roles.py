# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles: what argument_specs.yml says and what defaults/main.yml sets are the same thing."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import ROOT

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


def load(path: Path) -> dict[str, t.Any]:
    """A YAML file that may be missing or empty."""
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def options_of(role: Path) -> dict[str, dict[str, t.Any]]:
    """Every option of every entry point."""
    found: dict[str, dict[str, t.Any]] = {}
    for entry_point in load(role / "meta/argument_specs.yml").get("argument_specs", {}).values():
        found.update(entry_point.get("options") or {})
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_arguments_are_the_defaults(role: Path) -> None:
    """A variable without a default is a required one; all others are set, and to what the documentation says."""
    options = options_of(role)
    defaults = load(role / "defaults/main.yml")
    optional = {name for name, option in options.items() if not option.get("required")}
    assert options, "the role has no meta/argument_specs.yml"
    wrong = optional ^ set(defaults)
    assert not wrong, f"in argument_specs.yml or in defaults/main.yml, but not in both: {', '.join(sorted(wrong))}"
    for name, option in options.items():
        if "default" in option and "{{" not in str(defaults[name]):
            assert option["default"] == defaults[name], f"{name}: argument_specs.yml and defaults/main.yml differ"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variables_carry_the_name_of_the_role(role: Path) -> None:
    wrong = [name for name in options_of(role) if not name.startswith(f"{role.name}_")]
    assert not wrong


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_hides_no_failure_and_uses_no_shell(role: Path) -> None:
    for path in sorted(role.rglob("*.yml")):
        text = path.read_text()
        for forbidden in (r"ignore_errors:", r"\bshell:", r"\braw:", r"failed_when:\s*false"):
            found = re.search(rf"^[\s-]*(ansible\.builtin\.)?{forbidden}", text, re.MULTILINE)
            assert not found, f"{path.relative_to(ROOT)}: {found and found.group().strip()}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_facts_are_read_from_ansible_facts(role: Path) -> None:
    """Injected facts can be switched off by the site, and hide typing errors."""
    names = (
        "all_ipv4_addresses all_ipv6_addresses architecture date_time default_ipv4 default_ipv6 distribution env fqdn "
        "hostname interfaces kernel memtotal_mb os_family pkg_mgr processor_vcpus service_mgr"
    )
    injected = re.compile(rf"\bansible_({'|'.join(names.split())})\b")
    for path in sorted(role.rglob("*")):
        if path.suffix in {".yml", ".j2"}:
            found = injected.search(path.read_text())
            assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"


def tasks_in(found: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """The tasks of a file, with those in blocks."""
    for task in found or ():
        yield task
        yield from tasks_in(task.get("block"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_whether_systemd_has_read_a_unit_is_asked_of_systemd(role: Path) -> None:
    """That a task has written it is not known to the next run, if this one ends before systemd is told."""
    for path in sorted((role / "tasks").glob("*.yml")):
        tasks = list(tasks_in(yaml.safe_load(path.read_text())))
        writes = [
            task for task in tasks if "/systemd/system/" in task.get("ansible.builtin.template", {}).get("dest", "")
        ]
        asked = [task for task in tasks if "NeedDaemonReload" in str(task.get("ansible.builtin.command"))]
        assert len(writes) == len(asked), f"{path.relative_to(ROOT)}: ask for NeedDaemonReload after writing a unit"
        for task in asked:
            (known,) = [
                name
                for name, value in load(role / "vars/main.yml").items()
                if task["register"] in str(value) and writes[0]["register"] in str(value)
            ]
            loads = [one.get("ansible.builtin.systemd_service", {}).get("daemon_reload") for one in tasks]
            assert f"{{{{ {known} }}}}" in loads


def included(playbook: str, tasks_from: str) -> list[tuple[str, str]]:
    """The roles that a playbook includes by an entry point, in their order, and when."""
    found = []
    for play in yaml.safe_load((ROOT / "playbooks" / playbook).read_text()):
        for task in play.get("tasks", ()):
            role = task.get("ansible.builtin.include_role", {})
            if role and role.get("tasks_from", "main") == tasks_from:
                found.append((role["name"], task.get("when", "")))
        if tasks_from == "main":
            found += [(role["role"], "") for role in play.get("roles", ())]
    return found


#: What brings a host to what it is to be: the first of the playbooks checks all that they apply.
BRINGING = {"VO-boxes": ("site.yml", "vobox.yml"), "factories": ("factory.yml",)}


@pytest.mark.parametrize("playbooks", BRINGING.values(), ids=BRINGING)
def test_what_is_applied_is_checked_first_and_removed_in_the_end(playbooks: tuple[str, ...]) -> None:
    # A role that is applied on a condition first and without one in the end is applied in any case.
    applied = list(dict(role for playbook in playbooks for role in included(playbook, "main")).items())
    assert included(playbooks[0], "validate") == applied
    first = yaml.safe_load((ROOT / "playbooks" / playbooks[0]).read_text())[0]["tasks"][: len(applied)]
    assert all(task["ansible.builtin.include_role"]["tasks_from"] == "validate" for task in first)
    removed = dict(included("remove.yml", "remove"))
    names = [name for name, _when in applied]
    assert [name for name in removed if name in names] == names[::-1]
    # What came under a condition that may be another one by then goes whenever it is there.
    assert all(removed[name] in ("", when) for name, when in applied)


def test_each_role_is_applied_and_removed() -> None:
    applied = {role for playbooks in BRINGING.values() for playbook in playbooks for role in included(playbook, "main")}
    assert {f"hep.gridbox.{role.name}" for role in ROLES} == {name for name, _when in applied}
    removed = included("remove.yml", "remove")
    assert set(removed) <= applied
    assert sorted(name for name, _when in removed) == sorted({name for name, _when in applied})


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_variables_are_checked_with_every_tag(role: Path) -> None:
    """What a part goes by is looked at there: the engine's socket, systemd, what is particular to the distribution."""
    first, *parts = yaml.safe_load((role / "tasks/main.yml").read_text())
    assert first["ansible.builtin.import_tasks"] == "validate.yml"
    assert set(first["tags"]) == {tag for part in parts for tag in part["tags"]}


def options_of_type(*types: str) -> set[str]:
    """Of all roles."""
    found = {
        name
        for specs in ROOT.glob("roles/*/meta/argument_specs.yml")
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values()
        for name, option in (entry.get("options") or {}).items()
        if option.get("type") in types
    }
    assert found
    return found


def lines_with(pattern: re.Pattern[str]) -> t.Iterator[tuple[str, str]]:
    """Of what roles do: where a line is that has it, and the line."""
    for folder in ("tasks", "vars", "templates"):
        for path in sorted(ROOT.glob(f"roles/*/{folder}/*")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if pattern.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: ", line.strip()


def test_a_number_from_the_command_line_is_one() -> None:
    """``-e vobox_reconcile_wait=30`` is a string: it can neither be compared with a number nor be added to one."""
    options = options_of_type("int", "float")
    bare = re.compile(rf"(?<![\w.])({'|'.join(sorted(options))})\b\s*([<>+*/%]|//|- |[=!]= *\d)")
    found = [place + line for place, line in lines_with(bare)]
    assert not found, "a number without | int:\n" + "\n".join(found)


def test_a_bool_from_the_command_line_is_one() -> None:
    """``-e vobox_remove_volumes=true`` is a string: ansible-core 2.19 refuses it as a condition, and to one before
    ``false`` is true beside another condition."""
    options = options_of_type("bool")
    bare = re.compile(rf"(?<![\w.])({'|'.join(sorted(options))})\b(?!\s*\|\s*bool)(?!\s*:)")
    found = [place + line for place, line in lines_with(bare) if not line.startswith("#") and "tags:" not in line]
    assert not found, "a bool option without | bool:\n" + "\n".join(found)

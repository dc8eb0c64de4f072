# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation: what ansible-doc shows, and that it is true where a tool can tell."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import BIN, NAME, NAMESPACE, PATIENCE, ROOT, demand, environment, run_tool, tail

COLLECTION = f"{NAMESPACE}.{NAME}"
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())

#: What the first release promises (the other modules serve the roles).
PROMISED_MODULES = {"flatten_image", "live_restore", "macvlan_net", "vobox_container"}
PROMISED_ROLES = {"cvmfs", "docker_engine", "host_hardening", "vacuum_factory", "vobox"}

ATTRIBUTES = {"check_mode", "diff_mode", "idempotent", "platform"}


def ansible_doc(*arguments: str) -> dict[str, t.Any]:
    """What ansible-doc knows, as data. A warning is a failure."""
    argv = [str(BIN / "ansible-doc"), "--json", *arguments]
    done = subprocess.run(
        argv, check=False, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}\n{tail(done.stderr)}"
    assert not done.stderr.strip(), f"{' '.join(argv)} has something to say:\n{tail(done.stderr)}"
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


@pytest.fixture(scope="module")
def documented() -> dict[str, t.Any]:
    """Module name to its documentation."""
    found = ansible_doc("--type", "module", *(f"{COLLECTION}.{name}" for name in MODULES))
    return {name.rpartition(".")[2]: documentation for name, documentation in found.items()}


def test_the_promised_modules_and_roles_are_there() -> None:
    missing = (PROMISED_MODULES - set(MODULES)) | (PROMISED_ROLES - set(ROLES))
    assert not missing, f"missing: {', '.join(sorted(missing))}"


def test_every_module_is_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    listed = runtime["action_groups"][NAME]
    wrong = set(listed) ^ set(MODULES)
    assert not wrong, f"in plugins/modules or in meta/runtime.yml, but not in both: {', '.join(sorted(wrong))}"
    assert listed == sorted(listed)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_documented_whole(module: str, documented: dict[str, t.Any]) -> None:
    page = documented[module]
    missing = ATTRIBUTES - set(page["doc"].get("attributes", {}))
    assert not missing, f"attributes not stated: {', '.join(sorted(missing))}"
    assert page["doc"]["version_added"] == "0.1.0"
    assert page["return"], "RETURN is empty"
    if "max_disruption" in page["doc"]["options"]:
        assert {"actions", "disruption"} <= set(page["return"]), "a module that plans documents actions and disruption"
    for key, value in page["return"].items():
        assert value.get("returned"), f"RETURN {key}: says not when it is returned"


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_tasks_with_its_options(module: str, documented: dict[str, t.Any]) -> None:
    tasks = yaml.safe_load(documented[module]["examples"])
    assert isinstance(tasks, list), "EXAMPLES is a list of tasks"
    assert any(f"{COLLECTION}.{module}" in task for task in tasks), "no example uses the module by its full name"
    for task in tasks:
        assert task.get("name"), f"an example without a name: {task}"
        arguments = task.get(f"{COLLECTION}.{module}") or {}
        assert_known(arguments, documented[module]["doc"].get("options", {}), task["name"])


def assert_known(arguments: dict[str, t.Any], options: dict[str, t.Any], where: str) -> None:
    """Every argument is an option; a value in a fixed set is one of it; and so on inside."""
    for name, value in arguments.items():
        option = options.get(name) or next((o for o in options.values() if name in o.get("aliases", ())), None)
        assert option, f"{where}: there is no option {name}"
        if option.get("choices") and "{{" not in str(value):
            assert value in option["choices"], f"{where}: {name}: {value} is none of {option['choices']}"
        inner = value if isinstance(value, list) else [value]
        for item in inner:
            if isinstance(item, dict) and option.get("suboptions"):
                assert_known(item, option["suboptions"], f"{where}: {name}")
    for name, option in options.items():
        if option.get("required"):
            given = {name, *option.get("aliases", ())} & set(arguments)
            assert given, f"{where}: the required option {name} is missing"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_documented(role: str) -> None:
    entry_points = ansible_doc("--type", "role", f"{COLLECTION}.{role}")[f"{COLLECTION}.{role}"]["entry_points"]
    assert "main" in entry_points
    for name, entry_point in entry_points.items():
        assert entry_point.get("short_description"), f"entry point {name} has no short_description"
        for option, about in entry_point.get("options", {}).items():
            assert about.get("description"), f"entry point {name}: {option} has no description"
            assert about.get("type"), f"entry point {name}: {option} has no type"
    for name in ("README.md", "meta/main.yml", "tasks/main.yml"):
        assert (ROOT / "roles" / role / name).is_file(), f"the role has no {name}"


def test_the_documentation_builds(tmp_path: Path) -> None:
    done = run_tool(
        "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--skip-rstcheck", ".",
        env=environment(HOME=str(tmp_path)),  # where it writes a log
    )  # fmt: skip
    assert done.returncode == 0, re.sub(rf"\S+/ansible_collections/{NAMESPACE}/{NAME}/", "", tail(done.stdout))


def test_changelog_fragments_are_right() -> None:
    demand("antsibull-changelog", "lint")

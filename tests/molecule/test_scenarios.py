# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every Molecule scenario, from create to destroy, as a site's own tests would run it."""

from __future__ import annotations

import itertools
import os
import re
import typing as t
from pathlib import Path

import pytest

from tests.gate.tools import ROOT, environment, run_tool, tail

SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))

#: What must have a scenario: the modules and the roles that an operator uses by name.
PROMISED = {
    "cvmfs", "docker_engine", "flatten_image", "host_hardening", "live_restore", "macvlan_net", "vacuum_factory",
    "vobox", "vobox_container",
}  # fmt: skip

#: How scenarios run on other hosts as well, by the suffix of their id; their platforms have FLEET_* in molecule.yml.
VARIANTS = {"trixie": {"FLEET_SUITE": "trixie"}, "vm": {"FLEET_KIND": "vm"}}
VARIED = ("cvmfs", "docker_engine", "host_hardening", "vacuum_factory")
#: Those that have their own Debian: both of them, and 13.
VIRTUAL = ("site", "vobox_host")

#: What ``make test`` takes along (Debian 13 is in the scenario site), for its minutes are counted: ``vobox`` does on a
#: lab what ``vobox_host`` does on a host. ``make test-fleet`` runs all that are on a fleet's hosts, these too.
QUICK = set(SCENARIOS) - {"vobox_host"}
FLEET = {name for name in SCENARIOS if "fleet_create.yml" in (ROOT / f"molecule/{name}/molecule.yml").read_text()}

#: Seconds that a scenario may take. A virtual machine is an emulated one, and the package manager alone takes minutes.
NATIVE_SECONDS, VIRTUAL_SECONDS = 1800, 3600

#: Not the word that there is no scenario named default.
FAILED = re.compile(r"^(fatal: |failed: |\[ERROR\]|CRITICAL (?!'molecule/default))")
RECAP_FAILED = re.compile(r"\s(failed|unreachable)=[1-9]")


def test_every_module_and_role_has_a_scenario() -> None:
    missing = PROMISED - set(SCENARIOS)
    assert not missing, f"missing: {', '.join(sorted(missing))}"


def case(scenario: str, suffix: str = "") -> t.Any:
    """A scenario as it stands, or one of its variants."""
    name = f"{scenario}-{suffix}" if suffix else scenario
    marks = [] if name in QUICK else [pytest.mark.fleet]
    if scenario in FLEET:
        marks.append(pytest.mark.hosts)
    return pytest.param(scenario, VARIANTS.get(suffix, {}), id=name, marks=marks)


CASES = [
    *(case(scenario) for scenario in SCENARIOS),
    *(case(*both) for both in itertools.product(VARIED, VARIANTS)),
    *(case(scenario, "vm") for scenario in VIRTUAL),
]


def test_every_scenario_on_hosts_runs_on_virtual_machines() -> None:
    """The one about a power cut is on one as it stands."""
    virtual = {case.values[0] for case in CASES if case.values[1].get("FLEET_KIND") == "vm"}
    assert virtual == FLEET - {"power"}


@pytest.mark.parametrize(("scenario", "variables"), CASES)
def test_scenario(scenario: str, variables: dict[str, str], tmp_path: Path) -> None:
    for playbook in ("converge.yml", "verify.yml"):
        assert (ROOT / "molecule" / scenario / playbook).is_file(), f"the scenario has no {playbook}"
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")
    env = environment(
        MOLECULE_GLOB="molecule/*/molecule.yml",
        MOLECULE_EPHEMERAL_DIRECTORY=str(tmp_path),  # what another run left does not count
        LAB_NUMBER=str(os.getpid()),
        **variables,
    )
    virtual = variables.get("FLEET_KIND") == "vm" or scenario == "power"
    seconds = VIRTUAL_SECONDS if virtual else NATIVE_SECONDS
    done = None
    try:
        done = run_tool(
            "molecule", "test", "--scenario-name", scenario, "--no-command-borders", seconds=seconds, env=env
        )
    finally:
        if done is None or done.returncode:  # ended from outside, or by a failure of its cleanup, it has left its hosts
            run_tool("molecule", "destroy", "--scenario-name", scenario, seconds=120, env=env)
    assert done.returncode == 0, first_failure(done.stdout)


def first_failure(output: str) -> str:
    """The task that failed first and was not rescued, with what came before it. After it the scenario cleans up."""
    lines = output.splitlines()
    end = next((number for number, line in enumerate(lines) if RECAP_FAILED.search(line)), len(lines))
    failed = next((number for number in reversed(range(end)) if FAILED.search(lines[number])), end)
    return tail("\n".join(lines[:end]), end - failed + 20)


def test_what_is_shown_of_a_failure() -> None:
    """A refusal that a scenario asks for is none, nor is what fails while it is cleaned up."""
    rescued = ["TASK [Refuse]", "fatal: [host1]: FAILED! => no", "host1 : ok=3 failed=0 rescued=1"]
    failed = ["TASK [Compare]", "fatal: [host1]: FAILED! => other", "host1 : ok=1 unreachable=0 failed=1 rescued=0"]
    cleaned = ["TASK [Remove]", "fatal: [host1]: FAILED! => gone", "host1 : ok=1 unreachable=0 failed=1 rescued=0"]
    shown = first_failure("\n".join([*rescued, *["ok"] * 30, *failed, *cleaned]))
    assert shown.splitlines() == [*["ok"] * 19, *failed[:2]]
    assert first_failure("nothing\nCRITICAL the schema") == "nothing\nCRITICAL the schema"

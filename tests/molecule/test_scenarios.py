# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every Molecule scenario, from create to destroy, as a site's own tests would run it."""

from __future__ import annotations

import os

import pytest

from tests.gate.tools import ROOT, demand, environment

SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))

#: What must have a scenario: the modules and the roles that an operator uses by name.
PROMISED = {
    "cvmfs", "docker_engine", "flatten_image", "host_hardening", "live_restore", "macvlan_net", "vobox",
    "vobox_container",
}  # fmt: skip


def test_every_module_and_role_has_a_scenario() -> None:
    assert set(SCENARIOS) >= PROMISED


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    for playbook in ("converge.yml", "verify.yml"):
        assert (ROOT / "molecule" / scenario / playbook).is_file(), f"the scenario has no {playbook}"
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")
    env = environment(MOLECULE_GLOB="molecule/*/molecule.yml", LAB_NUMBER=str(os.getpid()), ANSIBLE_FORCE_COLOR="0")
    try:
        demand("molecule", "test", "--scenario-name", scenario, "--no-command-borders", seconds=420, env=env)
    except BaseException:
        # Ended from outside, it could not clean up; after an ordinary failure there is nothing left to do.
        demand("molecule", "destroy", "--scenario-name", scenario, seconds=120, env=env)
        raise

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example in a role's README is the play that its Molecule scenario runs."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("role", ["cvmfs", "docker_engine", "host_hardening", "vacuum_factory"])
def test_the_example_is_what_the_scenario_runs(role: str) -> None:
    play = (ROOT / "molecule" / role / "converge.yml").read_text().rstrip()
    assert f"```yaml\n{play}\n```" in (ROOT / "roles" / role / "README.md").read_text()

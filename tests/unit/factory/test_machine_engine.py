# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import cpu_seconds


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("4:cpu,cpuacct:/docker/c1\n0::/\n", 3.0),
        ("0::/docker/c1\n", 2.5),
        # One that has ended and was not reaped yet: the host's own figures are no machine's.
        ("4:cpu,cpuacct:/\n0::/\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_what_a_machine_has_used(groups: str, expected: t.Optional[float], tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(groups)
    for folder, share in (("docker/c1", 1), ("", 1000)):
        first, second = tmp_path / "cpu,cpuacct" / folder, tmp_path / folder
        for one in (first, second):
            one.mkdir(parents=True, exist_ok=True)
        (first / "cpuacct.usage").write_text(f"{share * 3 * 10**9}\n")
        (second / "cpu.stat").write_text(f"usage_usec {share * 2500000}\nuser_usec 1\n")
    assert cpu_seconds(7, str(tmp_path), str(tmp_path)) == expected

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory says of its host, as VacQuery has it (spec 7.3)."""

from __future__ import annotations

import builtins
import io
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import host_facts

OS_RELEASE = 'ID=x\nPRETTY_NAME="Example Linux 1"\n'


def test_what_caches_hold_counts_as_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"MemTotal": 100, "MemFree": 10, "MemAvailable": 60, "SwapTotal": 9, "SwapFree": 4}
    monkeypatch.setattr(host_facts, "memory", lambda: found)
    facts = host_facts.facts("/")
    assert (facts.memory_total, facts.memory_used, facts.swap_used, facts.swap_free) == (100, 90, 5, 4)
    assert host_facts.load(None).memory_available_mb == 0  # 60 KiB: decisions go by what is available


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"/etc/redhat-release.vac": "Mine\n", "/etc/redhat-release": "R 9\n", "/etc/os-release": OS_RELEASE}, "Mine"),
        ({"/etc/redhat-release": "R 9 (C)\nmore\n", "/etc/os-release": OS_RELEASE}, "R 9 (C)"),
        ({"/etc/os-release": OS_RELEASE}, "Example Linux 1"),
        ({}, "Linux"),
    ],
)
def test_the_name_of_the_system(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], said: str) -> None:
    real = builtins.open

    def play(path: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
        if not str(path).startswith("/etc/"):
            return real(path, *arguments, **options)
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(builtins, "open", play)
    assert host_facts.facts("/").os_issue == said

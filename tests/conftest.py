# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of a whole run, and a word on what takes long."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from tests.gate.tools import ROOT

#: Quick answers first; last what has been running in the background since the start.
ORDER = ("gate", "unit", "integration", "molecule", "slow gate")

#: Parts whose tests take long enough, one by one, that a person wants to know which is running.
ANNOUNCED = ("molecule", "slow gate")


def part_of(item: pytest.Item) -> str:
    part = item.path.relative_to(ROOT / "tests").parts[0]
    return "slow gate" if part == "gate" and item.get_closest_marker("slow") else part


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(part_of(item)))


class Progress:
    """Says which part begins, and in the slow ones which test."""

    def __init__(self, reporter: t.Any, items: list[pytest.Item]) -> None:
        self.reporter = reporter
        self.parts = {item.nodeid: part_of(item) for item in items}
        self.current = ""

    def _say(self, line: str) -> None:
        self.reporter.ensure_newline()
        self.reporter.write_line(line)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        part = self.parts[nodeid]
        if part != self.current:
            self.current = part
            self._say(f"--- {part}: {list(self.parts.values()).count(part)} tests")
        if part in ANNOUNCED:
            self._say(f"    {nodeid.rpartition('::')[2]}")


def pytest_collection_finish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and not session.config.option.collectonly:
        session.config.pluginmanager.register(Progress(reporter, session.items), "progress")


LEFT_BEHIND = pytest.StashKey[list[str]]()


def left_behind(config: pytest.Config) -> list[str]:
    """What this run made and did not remove: network namespaces by their names, mounts by their folder."""
    number = str(os.getpid())
    scratch = str(config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    found = [f"network namespace {path.name}" for path in Path("/run/netns").glob("*") if number in path.name]
    for line in Path("/proc/mounts").read_text().splitlines():
        point = line.split()[1]
        if point.startswith(f"{scratch}/"):
            found.append(f"mount {point}")
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that leaves something on the machine has failed, whatever its tests say."""
    left = left_behind(session.config)
    session.config.stash[LEFT_BEHIND] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: t.Any, config: pytest.Config) -> None:
    left = config.stash.get(LEFT_BEHIND, [])
    if left:
        terminalreporter.section("left behind: the run has failed", red=True)
        for line in left:
            terminalreporter.write_line(line)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of a whole run, what runs beside what, and a word on what takes long.

Much of a run is waiting for engines, so workers (pytest-xdist) can share it: ``--numprocesses 4 --dist loadscope
--no-loadscope-reorder``. A file's tests stay together, for they share a lab. The demo compares the whole machine before
and after, so while it is there nothing else that starts engines on this machine runs: the others wait for it.
"""

from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.gate.tools import ROOT

# The shell that ssh runs its way in with (ProxyCommand). Its stdin is a socket there, so bash takes itself for a remote
# login and reads the person's .bashrc, which may take seconds; and what it has begun is killed with the connection.
os.environ["SHELL"] = "/bin/sh"

#: The same examples in each run, and no word on seconds, which are the machine's.
#: ``--hypothesis-profile explore`` draws new ones.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None)
settings.load_profile("same")

#: The demo first, for others wait for it; then quick answers. Last what runs in the background since the start.
ORDER = ("demo", "gate", "unit", "integration", "molecule", "fleet", "slow gate")

#: What takes minutes: started first, so that no worker ends long after the others. The rest goes by name.
LONGEST = (
    "test_scenario[power]", "test_scenario[site]", "test_macvlan_net.py", "test_scenario[docker_engine]",
    "test_vobox_container.py", "test_factory.py", "test_scenario[vacuum_factory]", "test_factory_faults.py",
    "test_scenario[host_hardening]", "test_handover.py", "test_factory_apptainer.py", "test_host_hardening.py",
    "test_live_restore.py", "test_scenario[cvmfs]", "test_vacuum_slot.py", "test_engines.py", "test_cvmfs_boot.py",
    "test_flatten_image_faults.py", "test_flatten_image.py", "test_claims_autofs.py", "test_scenario[vobox]",
    "test_vobox_container_killed.py", "test_claims_vobox.py", "test_macvlan_net_faults.py", "test_reconcile.py",
    "test_dockerd.py", "test_vacuum_factory.py", "test_scenario[macvlan_net]", "test_vobox_container_podman.py",
    "test_scenario[live_restore]", "test_scenario[flatten_image]", "test_scenario[vobox_container]",
)  # fmt: skip

#: Parts that make namespaces and start engines.
ON_HOSTS = ("integration", "molecule", "fleet")

#: Those of them that the demo does not see: the kernel of a virtual machine is its own. They fill the time that the
#: demo spends waiting.
BESIDE_THE_DEMO = ("test_scenario[power]",)

#: Parts whose tests take long enough, one by one, that a person wants to know which is running.
ANNOUNCED = ("demo", "molecule", "fleet", "slow gate")

#: Seconds that the demo may take, on a slow machine.
DEMO_SECONDS = 2400


def part_of(nodeid: str, slow: bool = False) -> str:
    """The part of the run that a test belongs to, by its path."""
    parts = nodeid.partition("::")[0].split("/")
    if parts[-1] == "test_demo.py":
        return "demo"
    return "slow gate" if slow else parts[1]


def _part(item: pytest.Item) -> str:
    return part_of(item.nodeid, item.get_closest_marker("slow") is not None)


def _turn(item: pytest.Item) -> tuple[int, int]:
    """What the order of a run goes by. Integration and scenarios share their place when there are workers."""
    part = _part(item)
    if not hasattr(item.config, "workerinput") or part not in ON_HOSTS:
        return ORDER.index(part), 0
    where = next((place for place, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))
    return ORDER.index("integration"), where


def _together(nodeid: str) -> str:
    """Tests with the same answer run in one worker, in their order."""
    part = part_of(nodeid)
    if part == "molecule":
        return nodeid
    path = nodeid.partition("::")[0]
    if part == "integration" and "podman: PodmanService" in (ROOT / path).read_text():
        return "podman"  # its locks are shared memory of the whole machine, whatever its folders
    return part if part in ("gate", "unit") else path


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> t.Any:
    # By a scheduler of our own: xdist 3.8 marks groups in a field of pytest's that 9.2 does not have any more.
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    return Together(config, log)


# ---- the demo has the machine to itself --------------------------------------------------------------------------


def _demo_pending(config: pytest.Config) -> Path | None:
    """A file that is there until the demo has been taken down; None without workers: then tests run one by one."""
    if not hasattr(config, "workerinput"):
        return None
    base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return base.parent / "demo-pending"


def pytest_collection_finish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and not session.config.option.collectonly:
        session.config.pluginmanager.register(Progress(reporter), "progress")
    pending = _demo_pending(session.config)
    if pending and any(_part(item) == "demo" for item in session.items):
        pending.touch()  # by each worker, before any of them is told to run a test


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Wait for the demo before any fixture is made, for a lab's engine would be seen by it."""
    pending = _demo_pending(item.config)
    deadline = time.monotonic() + DEMO_SECONDS
    waits = _part(item) in ON_HOSTS and item.name not in BESIDE_THE_DEMO
    while pending and waits and pending.exists():
        assert time.monotonic() < deadline, f"waited {DEMO_SECONDS} s for the demo to be over, in vain"
        time.sleep(0.5)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    pending = _demo_pending(item.config)
    if pending and _part(item) == "demo" and (nextitem is None or _part(nextitem) != "demo"):
        pending.unlink()


# ---- what a person sees ------------------------------------------------------------------------------------------


class Progress:
    """Says which part begins, and in the slow ones which test."""

    def __init__(self, reporter: t.Any) -> None:
        self.reporter = reporter
        self.begun: set[str] = set()

    def _say(self, line: str) -> None:
        self.reporter.ensure_newline()
        self.reporter.write_line(line)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        part = part_of(nodeid)
        if part not in self.begun:
            self.begun.add(part)
            self._say(f"--- {part}")
        if part in ANNOUNCED:
            self._say(f"    {nodeid.rpartition('::')[2]}")


#: The names of properties that are figures of the papers' claims.
CLAIM = "CLAIM "


def _claims(reporter: t.Any) -> list[str]:
    reports = [report for reports in reporter.stats.values() for report in reports]
    properties = [one for report in reports for one in getattr(report, "user_properties", ())]
    return sorted({f"{name}: {figures}" for name, figures in properties if name.startswith(CLAIM)})


LEFT_BEHIND = pytest.StashKey[list[str]]()


def left_behind(config: pytest.Config) -> list[str]:
    """What this process made and did not remove: network namespaces by their names, mounts by their folder."""
    number = str(os.getpid())
    scratch = str(config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    found = [f"network namespace {path.name}" for path in Path("/run/netns").glob("*") if number in path.name]
    for line in Path("/proc/mounts").read_text().splitlines():
        point = line.split()[1]
        if point.startswith(f"{scratch}/"):
            found.append(f"mount {point}")
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: t.Any) -> None:
    """A worker has ended: what it left behind is this run's."""
    node.config.stash.setdefault(LEFT_BEHIND, []).extend(getattr(node, "workeroutput", {}).get("left_behind", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that leaves something on the machine has failed, whatever its tests say."""
    left = session.config.stash.setdefault(LEFT_BEHIND, [])
    left += [line for line in left_behind(session.config) if line not in left]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_behind"] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: t.Any, config: pytest.Config) -> None:
    claims = _claims(terminalreporter)
    if claims:
        terminalreporter.section("claims of the papers, as measured in this run")
        for line in claims:
            terminalreporter.write_line(line)
    left = config.stash.get(LEFT_BEHIND, [])
    if left:
        terminalreporter.section("left behind: the run has failed", red=True)
        for line in left:
            terminalreporter.write_line(line)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon of a factory with Apptainer killed at each moment of a machine's life."""

from __future__ import annotations

import typing as t

import pytest

from tests.integration.test_factory_apptainer import APPTAINER, groups
from tests.integration.test_factory_killed import PARTS, SETTINGS, Killed, Moment, kill_at, moments_of
from tests.lab.apptainer import HostFactory, add_loop_devices
from tests.lab.hosts import Machine
from tests.lab.mounts import mounted_below

pytestmark = pytest.mark.fleet


class ApptainerKilled(Killed):
    """The factory is on a host of its own, where systemd runs it; what is seen from here has other paths."""

    factory: HostFactory

    def __init__(self, factory: HostFactory) -> None:
        super().__init__(factory, kind=APPTAINER)

    def _end(self) -> None:
        self.factory.machine.run("systemctl", "stop", "gridbox-factory")

    def _term(self, container: t.Mapping[str, t.Any]) -> None:
        self.factory.machine.run("kill", "-TERM", str(container["running"]["keeper"]), check=False)

    def _identity(self, container: t.Mapping[str, t.Any]) -> tuple[t.Any, ...]:
        return container["running"]["keeper"], container["running"]["pid"]

    def _started(self, began: float) -> set[str]:
        """What runs: nobody but the factory remembers what ran."""
        return {one["request"]["uuid"] for one in self.factory.running()}

    def _nothing_is_left(self, told: t.Sequence[t.Any]) -> None:
        super()._nothing_is_left(told)
        factory = self.factory
        names = {one["request"]["name"] for one in factory.running()}
        locks = factory.machine.run("ls", "/run/hep.gridbox.apptainer").stdout.split()
        assert set(locks) == {"machine", *(f"{name}.lock" for name in names)}  # where machines see their folders
        assert {path.name for path in groups(factory)} == names
        assert {path.name for path in (factory.state / "apptainer").glob("f1-*")} == names

    def _mounted(self) -> list[str]:
        found = mounted_below("/srv/factory/state", self.factory.machine.pid)
        return sorted(str(self.factory.machine.root / path[1:]) for path in found)

    def _attached(self) -> list[str]:
        files = self.factory.machine.run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").stdout.split()
        return sorted(str(self.factory.machine.root / one[1:]) for one in files if one.startswith("/srv/factory/"))


@pytest.fixture(scope="module")
def killed(apptainer_host: Machine) -> t.Iterator[ApptainerKilled]:
    """A factory with Apptainer, and one machine that lives through all of it."""
    add_loop_devices(apptainer_host)
    factory = HostFactory(apptainer_host, **SETTINGS)
    for name in ("precious", "a"):
        factory.image(name)
    try:
        yield ApptainerKilled(factory)
    finally:
        factory.remove()


@pytest.fixture(scope="module")
def moments(killed: ApptainerKilled) -> list[Moment]:
    """Those of the life of a machine."""
    return moments_of(killed)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_daemon_that_is_killed_leaves_nothing_and_loses_no_machine(
    killed: ApptainerKilled, moments: list[Moment], part: int
) -> None:
    kill_at(killed, moments, part)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host goes down while packages are being installed; the next run finishes what had begun."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.hosts import Machine
from tests.lab.modules_over_ssh import Call, call

HOST = "host1"
POLICY = "/usr/sbin/policy-rc.d"
RECORD = "/var/lib/hep.gridbox/docker_engine.json"
INSTALL = Call("host_packages", {"names": ["docker.io", "iptables", "python3-docker"], "record": "docker_engine"})


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    with booted("cut", f"{HOST}=native:bookworm") as made:
        yield made


#: After which line of dpkg's log the power is cut.
MOMENTS = ["status half-configured docker.io", "status half-installed docker.io"]


@pytest.mark.fleet
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_next_run_finishes_it(fleet: Fleet, tmp_path: Path, moment: str) -> None:
    machine = t.cast(Machine, fleet.machine(HOST))
    before = packages(machine)
    log = machine.root / "var/log/dpkg.log"
    begin = log.stat().st_size if log.exists() else 0
    installing = threading.Thread(target=cut_run, args=(fleet, tmp_path))
    installing.start()
    try:
        wait_for_line(log, begin, moment)
        fleet.cut_power(HOST)
    finally:
        installing.join(120)
    fleet.power_on(HOST)
    assert machine.run("dpkg", "--audit").stdout
    assert POLICY in machine.run("ls", POLICY).stdout

    check, repaired, again = call(
        fleet, HOST, tmp_path, Call(INSTALL.module, INSTALL.options, check=True), INSTALL, INSTALL
    )
    assert check["actions"] == repaired["actions"]
    assert [step["action"] for step in repaired["actions"]] == ["finish_packages", "install_packages"]
    assert "docker.io" in repaired["actions"][0]["target"]
    for run, told in ((check, "would be"), (repaired, "was")):
        [warning] = [one for one in run["warnings"] if "package manager" in one]
        assert warning.startswith(
            f"A run of the package manager was cut short; what it had begun {told} finished first: "
        )
        assert "docker.io" in warning
    assert not again["changed"] and "warnings" not in again
    assert machine.run("dpkg", "--audit").stdout == ""
    assert machine.run("ls", POLICY, check=False).returncode
    record = json.loads(machine.run("cat", RECORD).stdout)
    assert set(record["packages"]) == packages(machine) - before  # all that came, also before the cut
    assert record["installing"] == []

    call(fleet, HOST, tmp_path, Call("host_packages", {"record": "docker_engine", "state": "absent"}))
    assert packages(machine) == before


def cut_run(fleet: Fleet, folder: Path) -> None:
    """Its host goes away under it."""
    try:
        call(fleet, HOST, folder, INSTALL, seconds=110)
    except (AssertionError, subprocess.TimeoutExpired):
        return
    raise RuntimeError("the installation came to its end")


def wait_for_line(log: Path, begin: int, line: str) -> None:
    deadline = time.monotonic() + 100
    while not log.exists() or line not in log.read_text()[begin:]:
        assert time.monotonic() < deadline, f"waited 100 s for dpkg to say: {line}"
        time.sleep(0.005)


def packages(machine: Machine) -> set[str]:
    """What dpkg knows in any state but gone."""
    shown = machine.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n").stdout
    return {name for state, name in map(str.split, shown.splitlines()) if state != "not-installed"}

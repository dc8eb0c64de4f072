# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hep.gridbox.factory on a bare host, and hep.gridbox.remove after it."""

from __future__ import annotations

import typing as t

import pytest

from tests.fleet.test_sites import changed_tasks
from tests.lab.booted import booted
from tests.lab.site import Site, recap
from tests.lab.unread import OF_BEFORE, description, leave_unread

ON_THE_FLEET = ("-e", "gridbox_hosts=fleet")
SECRET = "nobody is to see this"
LOOK = (
    "command -v dockerd gridbox; ls -d /etc/hep.gridbox /var/lib/hep.gridbox /var/lib/docker"
    " /etc/systemd/system/gridbox-* 2>/dev/null"
)


pytestmark = pytest.mark.fleet  # what of it a scenario does not show as well takes minutes


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """A bare host, and a factory whose time is over: so that it is well with slots that stay empty."""
    with booted("factory", "host1=native:trixie") as fleet:
        configuration = {
            "name": "wn001.example.org", "space": "vac01.example.org", "total_processors": 2, "work_space": "folder",
            "shutdown_time": 1,
        }  # fmt: skip
        yield Site(
            fleet, tmp_path_factory.mktemp("site"), vacuum_factory_configuration=configuration,
            vacuum_factory_user_data_options={"token": SECRET},
        )  # fmt: skip


def left(site: Site) -> str:
    return site.fleet.machine("host1").run("sh", "-c", LOOK, check=False).stdout


def test_a_bare_host_becomes_a_factory_as_foreseen(site: Site) -> None:
    foreseen = site.run("hep.gridbox.factory", *ON_THE_FLEET, "--check")
    assert left(site) == ""
    done = site.run("hep.gridbox.factory", *ON_THE_FLEET)
    assert sorted(changed_tasks(foreseen.stdout, "host1")) == sorted(changed_tasks(done.stdout, "host1"))
    assert "host1: OK: Factory ok (0/2 0/2)" in done.stdout
    assert "wn001-01.example.org  -            empty" in done.stdout
    machine = site.fleet.machine("host1")
    assert machine.run("systemctl", "is-enabled", "gridbox-factory").stdout == "enabled\n"
    assert machine.run("gridbox", "factories").stdout.count("wn001") == 1


def test_a_second_run_changes_nothing_and_no_run_shows_a_secret(site: Site) -> None:
    done = site.run("hep.gridbox.factory", *ON_THE_FLEET, "--diff", "-vvv")
    assert recap(done.stdout)["host1"]["changed"] == 0
    assert SECRET in site.fleet.machine("host1").run("cat", "/etc/hep.gridbox/factory.json").stdout
    assert SECRET not in done.stdout + done.stderr
    changed = site.run(
        "hep.gridbox.factory", *ON_THE_FLEET, "--diff", "-vvv", "--check",
        "-e", '{"vacuum_factory_user_data_options": {"token": "another"}}',
    )  # fmt: skip
    assert recap(changed.stdout)["host1"]["changed"] == 1
    assert SECRET not in changed.stdout + changed.stderr


def test_a_run_that_ended_before_systemd_read_the_unit_is_made_up_for(site: Site) -> None:
    machine, unit = site.fleet.machine("host1"), "gridbox-factory.service"

    def process() -> str:
        return machine.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout

    before = process()
    leave_unread(machine, unit)
    foreseen = changed_tasks(site.run("hep.gridbox.factory", *ON_THE_FLEET, "--check").stdout, "host1")
    assert description(machine, unit) == OF_BEFORE
    done = changed_tasks(site.run("hep.gridbox.factory", *ON_THE_FLEET).stdout, "host1")
    assert foreseen == done == ["Run the daemon with systemd"]
    assert description(machine, unit) != OF_BEFORE
    assert process() not in (before, "0\n")


def test_the_host_is_given_back(site: Site) -> None:
    site.run("hep.gridbox.remove", *ON_THE_FLEET, "-e", "gridbox_remove=yes")
    assert left(site) == ""
    again = recap(site.run("hep.gridbox.remove", *ON_THE_FLEET, "-e", "gridbox_remove=yes").stdout)
    assert again["host1"]["changed"] == 0


def test_the_same_without_a_service_manager(site: Site) -> None:
    asked = (*ON_THE_FLEET, "-e", "vacuum_factory_supervisor=none")
    foreseen = site.run("hep.gridbox.factory", *asked, "--check")
    done = site.run("hep.gridbox.factory", *asked)
    assert sorted(changed_tasks(foreseen.stdout, "host1")) == sorted(changed_tasks(done.stdout, "host1"))
    assert "host1: OK: Factory ok (0/2 0/2)" in done.stdout
    machine = site.fleet.machine("host1")
    assert '"factory_started"' in machine.run("cat", "/var/log/gridbox-factory.log").stdout
    assert recap(site.run("hep.gridbox.factory", *asked).stdout)["host1"]["changed"] == 0


@pytest.mark.parametrize("supervisor", ["systemd", "none"])
def test_another_takes_over_its_supervision(site: Site, supervisor: str) -> None:
    asked = (*ON_THE_FLEET, "-e", f"vacuum_factory_supervisor={supervisor}")
    foreseen = site.run("hep.gridbox.factory", *asked, "--check")
    done = site.run("hep.gridbox.factory", *asked)
    assert sorted(changed_tasks(foreseen.stdout, "host1")) == sorted(changed_tasks(done.stdout, "host1"))
    assert "host1: OK: Factory ok (0/2 0/2)" in done.stdout
    machine = site.fleet.machine("host1")
    [pid] = machine.run("pgrep", "-f", "gridbox.*factory").stdout.split()
    unit = machine.run("systemctl", "show", "--property=MainPID,UnitFileState", "gridbox-factory").stdout.split()
    assert sorted(unit) == (
        [f"MainPID={pid}", "UnitFileState=enabled"] if supervisor == "systemd" else ["MainPID=0", "UnitFileState="]
    )
    assert recap(site.run("hep.gridbox.factory", *asked).stdout)["host1"]["changed"] == 0


def test_without_a_service_manager_the_host_is_given_back(site: Site) -> None:
    asked = (*ON_THE_FLEET, "-e", "vacuum_factory_supervisor=none")
    site.run("hep.gridbox.remove", *asked, "-e", "gridbox_remove=yes")
    assert left(site) == ""
    machine = site.fleet.machine("host1")
    assert machine.run("pgrep", "-f", "gridbox.*factory", check=False).stdout == ""
    assert machine.run("ls", "/var/log/gridbox-factory.log", check=False).stdout == ""

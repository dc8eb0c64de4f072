# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules vacuum_factory and vacuum_factory_daemon, without a service manager: a whole life of a factory."""

from __future__ import annotations

import json
import os
import signal
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.integration.test_factory import WORKS
from tests.lab.factory import KIND, LabFactory
from tests.lab.modules import ModuleFailed, run_module


class Host:
    """A host that is to be a factory; its files are in a folder."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.factory = LabFactory(lab, folder, machinetypes={"a": KIND})
        self.factory.configuration.unlink()
        self.settings = dict(self.factory.settings)
        self.log = folder / "log"
        self.place = {"program": str(self.factory.program), "path": str(self.factory.configuration)}

    def module(self, name: str, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        given = {**self.place, "wait_timeout": 30, **arguments}
        return run_module(name, given, netns=self.factory.lab.engine.netns, check=check)

    def configure(self, check: bool = False, wait: str = "followed", **settings: t.Any) -> dict[str, t.Any]:
        """The configuration, changed from now on."""
        if not check:
            self.settings.update(settings)
        data = json.dumps({**self.settings, **settings})
        return self.module("vacuum_factory", check, configuration=data, files={"a/files/run": WORKS}, wait=wait)

    def daemon(self, state: str, check: bool = False) -> dict[str, t.Any]:
        return self.module("vacuum_factory_daemon", check, state=state, log_file=str(self.log))

    def remove(self, check: bool = False, machines: bool = False) -> dict[str, t.Any]:
        return self.module("vacuum_factory", check, state="absent", remove_machines=machines)

    @property
    def pids(self) -> dict[str, int]:
        """Machines by their containers' id, with the pid."""
        return {one["Id"]: one["State"]["Pid"] for one in self.factory.running()}


@pytest.fixture()
def host(own_lab: Lab, tmp_path: Path) -> t.Iterator[Host]:
    made = Host(own_lab, tmp_path)
    yield made
    made.daemon("stopped")
    made.factory.remove()


def targets(result: dict[str, t.Any]) -> list[str]:
    return [one["action"] for one in result["actions"]]


def test_a_factory_comes_changes_and_goes(host: Host) -> None:
    factory = host.factory
    with pytest.raises(ModuleFailed, match="total_processors: got 'x', expected a whole number"):
        host.configure(check=True, total_processors="x")
    predicted = host.configure(check=True, user_data_options={"token": "very secret"})
    assert not factory.configuration.exists()
    done = host.configure(user_data_options={"token": "very secret"})
    assert predicted["actions"] == done["actions"]
    assert targets(done) == ["write_file", "write_configuration"]
    assert "very secret" not in json.dumps([predicted, done])
    assert not done["running"]
    again = host.configure()
    assert (again["changed"], again["restart_needed"]) == (False, [])

    with pytest.raises(ModuleFailed, match=r"Waited 1 s for the factory to be well, in vain.*no daemon runs"):
        host.module("vacuum_factory", configuration=json.dumps(host.settings), wait="well", wait_timeout=1)
    assert host.daemon("started", check=True)["pid"] is None
    pid = host.daemon("started")["pid"]
    assert not host.daemon("started")["changed"]
    assert host.configure(wait="well")["check"].startswith("OK: ")
    before = factory.wait("two machines", lambda: len(p := host.pids) == 2 and p)

    # What is taken over while it runs, and what is not.
    metrics = factory.folder / "gridbox.prom"
    assert host.configure(grace_seconds=3, metrics_file=str(metrics))["restart_needed"] == []
    factory.wait("the metrics", metrics.exists)
    asked = {"port": 9950}
    announced = host.configure(check=True, **asked)["restart_needed"]
    assert host.configure(**asked)["restart_needed"] == announced == ["port is 995 in the daemon, and 9950 is wanted"]
    assert host.configure()["restart_needed"] == announced, "it does not forget"
    assert host.daemon("restarted")["pid"] != pid
    assert host.configure(wait="well")["restart_needed"] == []
    assert host.pids == before
    factory.program.write_bytes(factory.program.read_bytes())
    assert "another program" in host.configure()["restart_needed"][0]

    # Nothing that would leave machines behind, and no removal while they run.
    for settings in ({"name": "f2.example.org"}, {"state_folder": f"{factory.state}2"}):
        with pytest.raises(ModuleFailed, match=r"would not know its machines any more: f1-0"):
            host.configure(check=True, **settings)
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"machines run: f1-0\d.example.org \(a, "):
            host.remove(check)
    assert host.daemon("started", check=True)["changed"] is False, "it was left alone"
    assert host.pids == before

    left = metrics.with_name("gridbox.prom.17.140000.new")
    left.touch()  # by a daemon that was killed
    predicted = host.remove(check=True, machines=True)
    assert host.pids == before
    assert left.exists()
    done = host.remove(machines=True)
    assert predicted["actions"] == done["actions"]
    assert targets(done) == ["stop_daemon", "end_machine", "end_machine", "remove_metrics", "remove_configuration"]
    assert not metrics.exists()
    assert not left.exists()
    assert factory.containers() == []
    assert not factory.configuration.exists()
    assert {(one["end_code"], one["shutdown_message"], one["cleaned"]) for one in factory.records()} == {
        ("stopped", "100 told", True)
    }
    assert not host.remove()["changed"]


def test_a_daemon_that_does_not_come_up_says_why(host: Host) -> None:
    host.configure()
    with pytest.raises(ModuleFailed, match=r"there is no such program"):
        host.module("vacuum_factory_daemon", True, program=str(host.factory.folder / "none"))
    host.factory.configuration.write_text("{")
    with pytest.raises(ModuleFailed, match=r"Starting the factory's daemon failed. It says: .*a file that is not JSON"):
        host.daemon("started")
    host.factory.configuration.unlink()
    with pytest.raises(ModuleFailed, match=r"there is no such file"):
        host.daemon("started", check=True)


def test_what_ended_while_no_daemon_ran_is_cleaned_away_with_the_factory(host: Host) -> None:
    host.configure()
    pid = host.daemon("started")["pid"]
    # Killed before it has written down that a machine was started, nobody could tell later that it ever ran.
    host.factory.wait("two machines", lambda: len([one for one in host.factory.records() if one["started"]]) == 2)
    before = host.pids
    assert len(before) == 2
    os.kill(pid, signal.SIGKILL)
    host.factory.wait("the daemon to be gone", lambda: host.daemon("started", check=True)["changed"])
    first, second = before
    host.factory.lab.docker("rm", "--force", first)
    host.factory.lab.docker("stop", second)
    done = host.remove()  # no machine runs, so nothing is refused
    assert targets(done) == ["clean_machine", "clean_machine", "remove_configuration"]
    assert host.factory.containers() == []
    assert {one["end_code"] for one in host.factory.records()} == {"vanished", "by_itself"}

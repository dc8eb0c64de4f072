# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Slots by hand, on a real engine: without a daemon, and with one that is asked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import at_work
from tests.gate.tools import BIN, ROOT, environment
from tests.integration.conftest import Lab
from tests.integration.test_factory import WORKS
from tests.lab.factory import KIND, LabFactory
from tests.lab.modules import ModuleFailed, run_module, start_module
from tests.lab.playbook import kept_in

SLOTS = [f"f1-0{number}.example.org" for number in range(3)]


class Site:
    """A factory, and the modules as a playbook calls them on its host."""

    def __init__(self, factory: LabFactory) -> None:
        self.factory = factory

    def slot(self, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        return self._run("vacuum_slot", check, wait_timeout=60, **arguments)

    def info(self, **arguments: t.Any) -> dict[str, t.Any]:
        return self._run("vacuum_info", False, **arguments)

    def _run(self, module: str, check: bool, **arguments: t.Any) -> dict[str, t.Any]:
        given = {"configuration": str(self.factory.configuration), **arguments}
        return run_module(module, given, netns=self.factory.lab.engine.netns, check=check)

    def proved(self, **arguments: t.Any) -> dict[str, t.Any]:
        """Predict it, see that this touched nothing, do it, see that it was as predicted, and that it is enough."""
        before = self.world()
        predicted = self.slot(check=True, **arguments)
        assert self.world() == before
        done = self.slot(**arguments)
        assert predicted["actions"] == done["actions"]
        assert predicted["diff"] == done["diff"]
        assert done["changed"] == bool(done["actions"])
        again = self.slot(**arguments)
        assert (again["changed"], again["actions"]) == (False, [])
        return done

    def world(self) -> t.Any:
        path = Path(orders.path_of(str(self.factory.state)))
        containers = sorted((one["Id"], one["State"]["Status"]) for one in self.factory.containers())
        return containers, self.factory.records(), path.read_text() if path.exists() else ""


@pytest.fixture()
def site(lab: Lab, tmp_path: Path) -> t.Iterator[Site]:
    """A factory of three slots with the machinetypes ``a``, ``b``, and ``c``, which has no share."""
    kinds = {name: {**KIND, "target_share": share} for name, share in (("a", 1.0), ("b", 1.0), ("c", 0.0))}
    factory = LabFactory(lab, tmp_path, total_processors=3, machinetypes=kinds)
    for name in kinds:
        factory.file(name, "run", WORKS)
    yield Site(factory)
    factory.remove()
    Path(orders.path_of(str(factory.state))).unlink(missing_ok=True)


def actions(result: dict[str, t.Any]) -> list[tuple[str, str]]:
    return [(one["action"], one["target"].partition(" ")[0].partition("_")[0]) for one in result["actions"]]


def states(result: dict[str, t.Any]) -> list[str]:
    return [one["state"] for one in result["slots"]]


def test_the_whole_life_without_a_daemon(site: Site) -> None:
    filled = site.proved()
    assert filled["daemon"] is False
    assert sorted(actions(filled)) == [("start_machine", slot) for slot in SLOTS]
    assert states(filled) == ["running"] * 3
    assert len(site.factory.running()) == 3
    seen = site.info()
    assert (seen["factory"]["daemon"], seen["factory"]["running_machines"]) == (False, 3)
    assert [one["uuid"] for one in seen["slots"]] == [one["uuid"] for one in filled["slots"]]

    # A machine that ends by itself is written down, cleaned away and followed by another.
    [first] = [one for one in site.factory.running() if one["Config"]["Hostname"] == SLOTS[0]]
    site.factory.lab.docker("kill", "--signal", "TERM", first["Id"])
    site.factory.wait("its end", lambda: len(site.factory.running()) == 2)
    assert site.info()["factory"]["running_machines"] == 2
    # Nor is what a run left that was killed while it wrote.
    left = [site.factory.state / f"{name}.17.140000.new" for name in ("engine", "pulled-images.json")]
    for path in left:
        path.touch()
    site.slot(check=True)
    assert all(path.exists() for path in left)
    filled = site.proved()
    assert not any(path.exists() for path in left)
    assert actions(filled) == [("end_machine", SLOTS[0]), ("start_machine", SLOTS[0])]
    assert [one["shutdown_message"] for one in site.factory.records()].count("100 told") == 1

    # Drained: it runs on, and nothing comes after it.
    site.slot(slots=["f1-00"], state="drained", wait=False)
    assert len(site.factory.running()) == 3
    with pytest.raises(ModuleFailed) as late:
        site._run("vacuum_slot", False, slots=["0"], state="drained", wait_timeout=1)
    assert "f1-00.example.org to be drained, in vain. Last seen: f1-00.example.org: " in late.value.result["msg"]
    assert late.value.result["changed"] is False

    stopped = site.proved(slots=["0", "1"], state="stopped")
    assert ("stop_machine", SLOTS[0]) in actions(stopped)
    assert stopped["disruption"] == "container"
    assert len(site.factory.running()) == 1
    ended = [one for one in site.factory.records() if one["end_code"] == "stopped"]
    assert {one["shutdown_message"] for one in ended} == {"100 told"}
    # One that was stopped does not back off; slots that were not asked for stay as they are.
    assert sorted(actions(site.slot(slots=["1"]))) == [("give_order", SLOTS[1]), ("start_machine", SLOTS[1])]
    assert len(site.factory.running()) == 2

    site.proved(state="absent")
    assert site.factory.containers() == []
    assert site.factory.records() == []


def test_a_machine_without_a_heartbeat_is_ended_and_its_machinetype_backs_off(site: Site) -> None:
    asked = {**KIND, "heartbeat_file": "alive", "fizzle_seconds": 2}
    site.factory.write(machinetypes={"a": asked}, total_processors=1)
    site.factory.file("a", "run", "#!/bin/sh\nwhile :; do sleep 0.2; done\n")
    assert states(site.slot(slots=["0"])) == ["running"]  # once: by the next call it is late already
    time.sleep(3)
    left = site.proved(slots=["0"])
    assert actions(left) == [("stop_machine", SLOTS[0])]
    assert states(left) == ["empty"]
    assert "backing off" in left["slots"][0]["reason"]
    [record] = site.factory.records()
    assert (record["end_code"], record["shutdown_message"]) == ("heartbeat_missing", "700 Heartbeat file not created")


def test_no_daemon_starts_while_slots_are_worked_on_and_another_run_waits_for_its_turn(site: Site) -> None:
    with at_work(str(site.factory.state)):
        assert "or a run of vacuum_slot" in site.factory.run("factory").stderr
    arguments = {"configuration": str(site.factory.configuration)}
    netns = site.factory.lab.engine.netns
    runs = [start_module("vacuum_slot", {**arguments, "slots": [slot]}, netns) for slot in ("0", "1", "2")]
    results = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    assert [(one["daemon"], states(one)) for one in results] == [(False, ["running"])] * 3
    assert len(site.factory.running()) == 3


def test_who_waits_for_drained_slots_keeps_nobody_from_ending_what_runs_there(site: Site) -> None:
    site.slot()
    arguments = {"configuration": str(site.factory.configuration), "slots": ["0"], "state": "drained"}
    waits = start_module("vacuum_slot", {**arguments, "wait_timeout": 100}, site.factory.lab.engine.netns)
    path = Path(orders.path_of(str(site.factory.state)))
    site.factory.wait("the order", path.exists)
    # The run every few minutes, and one of the same slots.
    assert states(site.slot(state="ordered")) == ["running"] * 3
    site.slot(slots=["0"], state="drained", wait=False)
    assert waits.poll() is None
    site.slot(slots=["0"], state="stopped")
    told = json.loads(waits.communicate(timeout=60)[0])
    assert (told["daemon"], told["changed"], states(told)) == (False, True, ["empty"])


def test_a_machinetype_is_forced_or_the_call_is_refused(site: Site) -> None:
    before = site.world()
    with pytest.raises(ModuleFailed) as refused:
        site.slot(check=True, machinetype="d")
    assert "d in f1-00.example.org: d cannot be started here" in refused.value.result["msg"]
    assert site.world() == before

    forced = site.proved(slots=["2"], machinetype="c")
    assert ("start_machine", SLOTS[2]) in actions(forced)
    assert forced["slots"][0]["machinetype"] == "c"
    # Another one in its place costs the machine that runs there.
    with pytest.raises(ModuleFailed) as refused:
        site.slot(slots=["2"], machinetype="a", max_disruption="none")
    assert "stop_machine" in refused.value.result["msg"]
    other = site.proved(slots=["2"], machinetype="a")
    assert [one for one, _target in actions(other)] == ["give_order", "stop_machine", "start_machine"]
    assert other["slots"][0]["machinetype"] == "a"
    # Left to the factory again, what runs there stays.
    free = site.proved(slots=["2"])
    assert actions(free) == [("give_order", SLOTS[2])]
    assert free["slots"][0]["uuid"] == other["slots"][0]["uuid"]


def test_what_a_killed_run_left_is_put_right(site: Site) -> None:
    site.slot()
    [first, second, third] = site.factory.records()
    # Its start was cut off before, and after the container was made; and one container is of nobody.
    site.factory.lab.docker("rm", "--force", first["container"])
    for record in (first, second):
        path = next(site.factory.state.glob(f"machines/*{record['uuid'][:8]}")) / "machine.json"
        text = path.read_text().replace('"state": "running"', '"state": "starting"')
        path.write_text(text.replace(f'"started": {record["started"]}', '"started": null'))
    shutil.rmtree(next(site.factory.state.glob(f"machines/*{third['uuid'][:8]}")))
    mended = site.proved()
    assert sorted({one for one, _target in actions(mended)}) == [
        "adopt_machine", "forget_machine", "remove_stray", "start_machine",
    ]  # fmt: skip
    assert {one["uuid"] for one in site.factory.records()} & {first["uuid"], second["uuid"], third["uuid"]} == {
        second["uuid"]
    }


def test_a_machine_that_does_not_start_is_told(site: Site) -> None:
    (site.factory.state / "machinetypes/c/files/run").unlink()
    with pytest.raises(ModuleFailed) as failed:
        site.slot(slots=["0"], machinetype="c")
    assert "the host still differs: start_machine f1-00.example.org: c did not start" in failed.value.result["msg"]
    assert failed.value.result["changed"] is True
    assert site.factory.containers() == []
    # After a failure there it is refused for a while, in check mode too.
    with pytest.raises(ModuleFailed) as failed:
        site.slot(check=True, slots=["0"], machinetype="c")
    assert "backing off there" in failed.value.result["msg"]


def test_the_daemon_is_asked_where_one_works(site: Site) -> None:
    factory = site.factory
    factory.start()
    filled = site.slot()
    assert (filled["daemon"], filled["changed"], states(filled)) == (True, False, ["running"] * 3)

    stopped = site.proved(slots=["0"], state="stopped")
    assert actions(stopped) == [("give_order", SLOTS[0])]
    assert stopped["disruption"] == "container"
    assert factory.events("orders_read")[-1]["slots"][SLOTS[0]]["state"] == "stopped"
    [end] = factory.events("machine_ended")
    assert (end["code"], end["message"]) == ("stopped", "100 told")
    assert len(factory.running()) == 2

    forced = site.proved(slots=["0", "1"], machinetype="c")
    assert [one["machinetype"] for one in forced["slots"]] == ["c", "c"]
    with pytest.raises(ModuleFailed) as refused:
        site.slot(slots=["0"], machinetype="nowhere")
    assert "machinetype: got 'nowhere', expected one that the factory has: a, b, c" in refused.value.result["msg"]
    absent = site.proved(slots=["2"], state="absent")
    assert actions(absent) == [("give_order", SLOTS[2]), ("remove_folders", SLOTS[2])]
    assert not list(factory.state.glob(f"machines/*_{SLOTS[2]}_*"))
    seen = site.info(space=True)
    assert seen["factory"]["daemon"] is True
    assert [one["order"] for one in seen["slots"]] == ["", "", "stopped"]
    assert seen["space"]["factories"]["f1.example.org"]["factory"][0]["running_machines"] == 2
    assert {one["name"]: one["running_machines"] for one in seen["machinetypes"]} == {"a": 0, "b": 0, "c": 2}

    # A restart of the daemon does not take back what was ordered.
    factory.stop()
    factory.start()
    factory.wait("a decision", lambda: "By order, stopped: f1-02.example.org." in factory.run("explain").stdout)
    assert factory.run("drain", "1").returncode == 0
    assert "1 of 3 slots" not in factory.run("drain", "9").stdout
    done = factory.run("stop", "f1-01", "0")
    assert done.stdout == "By order, stopped: f1-00.example.org, f1-01.example.org, f1-02.example.org.\n"
    factory.wait("their ends", lambda: not factory.running())
    assert factory.run("shutdown-time", str(int(time.time()) + 900)).returncode == 0
    assert factory.run("stop", "all", "--undo").stdout.startswith("By order, shutdown_time is 2")
    factory.wait("them to work again", lambda: len(factory.running()) == 3)
    limits = [one["shutdown_time"] for one in factory.records() if one["state"] == "running"]
    assert max(limits) < time.time() + 899, "grace_seconds before it"
    assert factory.run("shutdown-time", "none").stdout == "Nothing is ordered.\n"
    assert not Path(orders.path_of(str(factory.state))).exists()
    assert factory.run("drain").stdout == "By order, the factory is draining.\n"
    factory.wait("the word", lambda: "is draining" in factory.run("explain").stdout)


#: An image that nobody can pull, for nothing listens there.
GONE = "docker://127.0.0.1:1/gone:1"


@pytest.fixture()
def unfit(site: Site) -> Site:
    """The same with machinetypes that cannot be started: ``gone``, without its image, ``later``, which has no share in
    addition, and ``other``, which is of another engine."""
    kinds = {"a": KIND, "gone": {**KIND, "root_image": GONE}, "later": {**KIND, "root_image": GONE, "target_share": 0}}
    kinds["other"] = {**KIND, "machine_model": "apptainer", "root_image": "/cvmfs/images.example.org/a"}
    for name in kinds:
        site.factory.file(name, "run", WORKS)
    site.factory.write(machinetypes=kinds)
    return site


def processes(site: Site) -> dict[str, int]:
    """By machine, its process, as the engine knows it."""
    return {one["Id"]: one["State"]["Pid"] for one in site.factory.running()}


def test_without_a_daemon_a_machinetype_that_cannot_be_started_costs_no_machine(unfit: Site) -> None:
    assert states(unfit.slot(slots=["0"], machinetype="a")) == ["running"]
    before, working = unfit.world(), processes(unfit)
    for check in (True, False):
        with pytest.raises(ModuleFailed) as refused:
            unfit.slot(check, slots=["0", "1"], machinetype="other")
        assert "other cannot be started here: not for this factory" in refused.value.result["msg"]
    announced = unfit.slot(check=True, slots=["0", "1"], machinetype="gone")
    assert [one for one, _target in actions(announced)] == [
        "pull_image", "give_order", "give_order", "stop_machine", "start_machine", "start_machine",
    ]  # fmt: skip
    with pytest.raises(ModuleFailed) as failed:
        unfit.slot(slots=["0", "1"], machinetype="gone")
    assert failed.value.result["failed_action"] == announced["actions"][0]
    assert failed.value.result["actions"] == [], "nothing was done before the image was there"
    assert "Nothing was touched" in failed.value.result["msg"]
    assert (unfit.world(), processes(unfit)) == (before, working)


@pytest.mark.fleet
def test_a_daemon_ends_no_machine_for_a_machinetype_that_cannot_be_started(unfit: Site) -> None:
    factory = unfit.factory
    factory.start()
    unfit.slot(slots=["0"], machinetype="a")
    factory.wait("the machines", lambda: len(factory.running()) == 3)
    factory.wait("the word of a pull in vain", lambda: (seen := load(str(factory.state))) and "gone" in seen.images)
    before, working = unfit.world(), processes(unfit)
    for check in (True, False):
        for kind, why in (
            ("gone", "its image is not here yet: "),
            ("other", "not for this factory: machine_model apptainer, the engine is docker or podman"),
        ):
            with pytest.raises(ModuleFailed) as refused:
                unfit.slot(check, slots=["0", "1"], machinetype=kind)
            assert f"machinetype: {kind}: " in refused.value.result["msg"]
            assert why in refused.value.result["msg"]
    assert unfit.world() == before

    # Nobody knows yet whether this image can be had: it is ordered, and the machine goes on for as long as it cannot.
    with pytest.raises(ModuleFailed) as late:
        unfit._run("vacuum_slot", False, slots=["0"], machinetype="later", wait_timeout=15)
    told = "f1-00.example.org: a goes on there: later cannot be started here: not now: its image is not here yet"
    assert told in late.value.result["msg"]
    assert processes(unfit) == working
    assert unfit.info()["slots"][0]["reason"].startswith("a goes on there")
    assert told in factory.run("explain").stdout
    assert not factory.events("machine_told_to_end")
    # The image has come by another way: now the machine makes room.
    factory.write(machinetypes={**factory.settings["machinetypes"], "later": {**KIND, "target_share": 0}})
    replaced = unfit.slot(slots=["0"], machinetype="later")
    assert (replaced["slots"][0]["machinetype"], states(replaced)) == ("later", ["running"])
    [end] = factory.events("machine_told_to_end")
    assert (end["slot"], end["reason"]) == (SLOTS[0], "later was ordered for its slot")


def test_a_host_is_drained_when_its_daemon_has_read_the_order(site: Site) -> None:
    """All slots may be empty for a moment, and a machine be started in the next."""
    site.factory.start()
    site.slot(state="stopped")
    process = site.factory.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # from now on it reads nothing
    try:
        site.slot(wait=False)
        late = " ".join(playbook(site, "drain", "-e", "gridbox_timeout=4", status=2).split())
    finally:
        process.send_signal(signal.SIGCONT)
    assert "nothing runs any more" not in late
    assert "Waited 4 s for f1.example.org to run nothing, in vain. Its daemon has not read the order" in late
    assert "nothing runs any more" in playbook(site, "drain")
    assert site.info()["factory"]["orders_taken"] is True
    # Without a daemon nobody has to read it, whatever the last report says.
    site.factory.stop()
    assert "nothing runs any more" in playbook(site, "drain", "-e", "gridbox_stop=true")
    assert site.info()["factory"]["orders_taken"] is True


def test_the_playbooks_drain_a_host_give_it_back_and_show_the_space(site: Site) -> None:
    factory = site.factory
    factory.write(machinetypes={"a": KIND}, factories=["f1.example.org", "f2.example.invalid"])
    factory.file("a", "run", "#!/bin/sh\nsleep 5\necho 200 Success >$JOBOUTPUTS/shutdown_message\n")
    factory.start()
    factory.wait("machines", lambda: len(factory.running()) == 3)

    drained = playbook(site, "drain")
    assert "3 of 3 slots still run, the last until 2" in drained or "nothing runs any more" in drained
    assert factory.running() == []
    assert {one["order"] for one in site.info()["slots"]} == {"drained"}

    factory.file("a", "run", WORKS)
    playbook(site, "drain", "-e", "undo=true")
    assert {one["order"] for one in site.info()["slots"]} == {""}
    factory.wait("machines again", lambda: len(factory.running()) == 3)
    # The first host of the inventory is down.
    shown = playbook(site, "space_status", first=DEAD)
    assert "Factory  Processors  Machines" in shown
    assert "f0: nothing is known of it: unreachable, or the look at it failed" in shown
    assert "f2.example.invalid has no address" in shown
    late = playbook(site, "drain", "-e", "gridbox_timeout=1", status=2)
    assert "Waited 1 s for f1.example.org to run nothing, in vain." in " ".join(late.split())
    assert "nothing runs any more" in playbook(site, "drain", "-e", "gridbox_stop=true")


def test_without_a_daemon_a_drain_holds_until_it_is_taken_back(site: Site) -> None:
    """The run that a site without daemons makes every few minutes comes while the host is in maintenance."""
    assert states(site.slot(state="ordered")) == ["running"] * 3
    assert "nothing runs any more" in playbook(site, "drain", "-e", "gridbox_stop=true")
    idle = site.proved(state="ordered")
    assert (actions(idle), states(idle), site.factory.running()) == ([], ["empty"] * 3, [])
    assert {one["order"] for one in idle["slots"]} == {"stopped"}
    assert site.info()["factory"]["orders_taken"] is True
    playbook(site, "drain", "-e", "undo=true")
    assert {one["order"] for one in site.info()["slots"]} == {""}
    assert len(site.factory.running()) == 3


def test_machines_in_slots_that_are_no_more_are_seen_and_stopped(site: Site) -> None:
    """A host is given fewer slots while machines run: they go on, and who drains it has to wait for them."""
    factory = site.factory
    factory.start()
    factory.wait("the machines", lambda: len(factory.running()) == 3)
    factory.write(total_processors=1)
    factory.wait("the daemon to read it", lambda: bool(factory.events("configuration_read")))
    factory.wait("its answer", lambda: len(told_of(site)) == 3)
    assert [one["machine"] for one in told_of(site)] == SLOTS
    assert {one["num_machines"] for one in told_of(site)} == {3}
    seen = site.info()
    assert (states(seen), seen["factory"]["running_machines"]) == (["running"] * 3, 3)
    factory.wait("its report", lambda: "(3/1 3/1)" in factory.run("check").stdout)
    assert all(slot in factory.run("machines").stdout for slot in ("f1-00", "f1-01", "f1-02"))
    # Nothing more is wanted of them by whoever fills slots; nor can anything be started there.
    assert (actions(site.proved()), len(factory.running())) == ([], 3)
    with pytest.raises(ModuleFailed) as refused:
        site.slot(slots=["2"])
    assert "slots: got '2', expected a slot of f1.example.org" in refused.value.result["msg"]

    # Longer than the daemon may take to read the order.
    late = " ".join(playbook(site, "drain", "-e", "gridbox_timeout=10", status=2).split())
    assert "It is drained, and 3 machines still run" in late
    assert set(site.info()["orders"]["slots"]) == {SLOTS[0]}, "where nothing is started no order has to say so"
    stopped = site.proved(slots=["1"], state="stopped")
    assert (actions(stopped), states(stopped)) == ([("give_order", SLOTS[1])], ["empty"])
    assert len(factory.running()) == 2
    assert factory.run("drain", "1").stdout == f"By order, drained: {SLOTS[0]}.\n", "there is nothing to stop any more"
    assert f"stopped: {SLOTS[2]}" in factory.run("stop", "2").stdout
    factory.wait("its end", lambda: len(factory.running()) == 1)
    assert "nothing runs any more" in playbook(site, "drain", "-e", "gridbox_stop=true")
    assert factory.running() == []
    assert [one["slot"] for one in site.info()["slots"]] == SLOTS[:1]
    playbook(site, "drain", "-e", "undo=true")
    assert site.info()["orders"]["slots"] == {}
    factory.wait("a machine in the slot that there is", lambda: len(factory.running()) == 1)


def told_of(site: Site) -> list[dict[str, t.Any]]:
    """What the factory says of its machines when it is asked."""
    machines = site.info(space=True)["space"]["factories"]["f1.example.org"]["machines"]
    return sorted(machines, key=lambda one: str(one["machine"]))


def test_without_a_daemon_machines_in_slots_that_are_no_more_are_seen_and_stopped(site: Site) -> None:
    site.slot()
    site.factory.write(total_processors=1)
    seen = site.info()
    assert (states(seen), seen["factory"]["running_machines"]) == (["running"] * 3, 3)
    for state in ("running", "ordered"):
        assert (actions(site.proved(state=state)), len(site.factory.running())) == ([], 3)
    drained = site.slot(state="drained", wait=False)
    assert (actions(drained), states(drained)) == ([("give_order", SLOTS[0])], ["running"] * 3)
    stopped = site.proved(slots=["f1-02"], state="stopped")
    assert actions(stopped) == [("give_order", SLOTS[2]), ("stop_machine", SLOTS[2])]
    # One that ends by itself leaves no slot behind.
    [second] = [one for one in site.factory.running() if one["Config"]["Hostname"] == SLOTS[1]]
    site.factory.lab.docker("kill", "--signal", "TERM", second["Id"])
    site.factory.wait("its end", lambda: len(site.factory.running()) == 1)
    assert [one["slot"] for one in site.info()["slots"]] == SLOTS[:1]
    site.slot()
    assert site.info()["orders"]["slots"] == {}
    site.proved(state="absent")
    assert site.factory.running() == []


def test_without_a_daemon_a_dead_pipe_is_told(site: Site) -> None:
    """The slots are full of the site's own, so nothing else shows it."""
    pipe = {"vacuum_pipe_url": "http://127.0.0.1:9/lhcb.pipe", "target_share": 3}
    site.factory.write(machinetypes={"a": KIND}, vacuum_pipes={"lhcb": pipe})
    for check in (True, False):
        told = site.slot(check=check)
        assert "The vacuum pipe lhcb: http://127.0.0.1:9/lhcb.pipe" in str(told["warnings"])
    assert states(told) == ["running"] * 3


def test_who_gives_slots_back_is_told_that_the_factory_drains_by_another_order(site: Site) -> None:
    orders.save(str(site.factory.state), orders.Orders(draining=True))
    told = " ".join(playbook(site, "drain", "-e", "undo=true", status=2).split())
    assert "f1.example.org is still draining" in told
    assert "gridbox drain --undo" in told
    assert site.info()["orders"]["draining"] is True, "whoever has ordered it takes it back"


#: A host of which nothing answers.
DEAD = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def playbook(site: Site, name: str, *options: str, status: int = 0, first: t.Mapping[str, t.Any] | None = None) -> str:
    """Run a playbook of the collection on the factory's host; what it printed.

    :param first: variables of another host, ``f0``, before it.
    """
    folder, netns = site.factory.folder, site.factory.lab.engine.netns
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{netns} {sys.executable} "$@"\n')
    python.chmod(0o755)
    host = {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"factories": {"hosts": {**({"f0": dict(first)} if first else {}), "f1": host}}}))
    extra = ["-e", f"vacuum_factory_file={site.factory.configuration}"]
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", str(inventory), *extra, *options, str(ROOT / f"playbooks/{name}.yml")],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
        env=environment(**kept_in(folder / "ansible")),
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reconciler as it is installed, on an engine that gives up on VO-boxes as engines do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import Repository, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.units import comes_up_at_boot, units
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.integration.conftest import PARENT, Lab
from tests.integration.test_vobox_container import NETWORK, Box, make_certificate, make_network
from tests.lab.lab import make_lab, remove_lab
from tests.lab.lan import in_netns, run
from tests.lab.modules import COLLECTION, run_module
from tests.lab.playbook import play
from tests.lab.reconciler import Reconciler

MISSING_LINK = "the requested parent interface site0 was not found on the Docker host"


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    """One for the tests of this file, which take its link away and kill its daemon."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")
    made = make_lab(tmp_path_factory.mktemp("own") / "engine", f"gbt{os.getpid()}-rec")
    make_network(made)
    yield made
    remove_lab(made)


@pytest.fixture()
def reconciler(own_lab: Lab, tmp_path: Path) -> t.Iterator[Reconciler]:
    yield Reconciler(own_lab.engine, tmp_path)
    own_lab.lan.plug_in([])
    left = own_lab.docker("ps", "--all", "--quiet").split()
    if left:
        own_lab.docker("rm", "--force", "--volumes", *left)


def state(box: Box) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", box.inspect("{{json .State}}"))


def identity(box: Box) -> dict[str, t.Any]:
    endpoint = box.inspect("{{json .NetworkSettings.Networks}}")[NETWORK]
    return {key: endpoint[key] for key in ("IPAddress", "GlobalIPv6Address", "MacAddress")}


def wait_for(what: t.Callable[[], t.Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.1)


def give_up_on(box: Box, lab: Lab) -> None:
    """Have the engine give up on a VO-box: it ends while the link is away, which then comes back."""
    in_netns(lab.engine.netns, "ip", "link", "delete", PARENT)
    os.kill(state(box)["Pid"], 9)
    wait_for(lambda: state(box)["Error"])
    lab.lan.plug_in([])


def restart_needed(lab: Lab) -> list[str]:
    """Why the role docker_engine would restart the daemon, or says that it has to be."""
    engine = lab.engine
    arguments = {"socket": str(engine.socket), "pidfile": str(engine.folder / "pid"), "config_file": str(engine.config)}
    return t.cast("list[str]", run_module("dockerd_info", arguments, netns=engine.netns)["restart_needed"])


def test_what_the_engine_gave_up_on_comes_back(own_lab: Lab, reconciler: Reconciler, tmp_path: Path) -> None:
    box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
    box.run()
    at_rest = Box(own_lab, "vobox2", 22, tmp_path / "voboxes")
    at_rest.run(restart_policy="always")
    own_lab.docker("stop", "--time", "1", "vobox2")
    known, container = identity(box), box.id
    assert reconciler.run() == (0, "")

    # The link goes, the VO-box ends: the engine tries once to start it again, in vain.
    in_netns(own_lab.engine.netns, "ip", "link", "delete", PARENT)
    os.kill(state(box)["Pid"], 9)
    wait_for(lambda: state(box)["Error"])
    assert state(box)["Error"] == MISSING_LINK
    status, said = reconciler.run()
    assert (status, said) == (
        1, "vobox1: not in service: it waits for the link site0, which is not there; waited 0 s\n"
    )  # fmt: skip
    assert reconciler.findings() == {"vobox1": "wait", "vobox2": "none"}

    # The link comes while it waits.
    waiting = reconciler.start("--wait", "30")
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == (
        "vobox1: it waits for the link site0, which is not there; looking again for up to 30 s\n"
    )
    own_lab.lan.plug_in([])
    _output, said = waiting.communicate(timeout=40)
    assert waiting.returncode == 0
    assert said == f"vobox1: started: the engine could not start it, and does not try again: {MISSING_LINK}\n"
    assert (identity(box), box.id, state(box)["Status"]) == (known, container, "running")
    wait_for(lambda: own_lab.from_peer("curl", "-s", "-m", "2", f"http://{box.address4}/", check=False).stdout)
    assert box.page() == "here I am\n"

    # What a person has stopped stays stopped, whatever its policy; a second run has nothing to do or to say.
    assert state(at_rest)["Status"] == "exited"
    assert reconciler.run() == (0, "")
    assert [(name, text.split(":")[0]) for name, text in reconciler.events()] == [
        ("vobox1", "not in service"), ("vobox1", "started"),
    ]  # fmt: skip
    assert all(finding["well"] for finding in reconciler.state()["findings"])


def test_it_keeps_off_what_others_are_at_and_what_it_is_told_to_leave(
    own_lab: Lab, reconciler: Reconciler, tmp_path: Path
) -> None:
    box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
    box.run()
    give_up_on(box, own_lab)
    with Lock(f"VO-box vobox1 of {own_lab.engine.url}"):
        assert reconciler.run() == (0, "vobox1: another run, or the undo of one, is at work on it\n")
        assert reconciler.findings() == {"vobox1": "start"}  # it would, but for the other run
    assert reconciler.run("--leave", "vobox1") == (0, "")
    assert state(box)["Status"] == "exited"
    own_lab.docker("rename", "vobox1", "vobox1.next")
    own_lab.docker("create", "--name", "vobox1", "--label", "hep.gridbox.vobox=vobox1", "busybox:test", "true")
    assert reconciler.run() == (0, "")  # one that was made and never started
    own_lab.docker("rm", "vobox1")
    own_lab.docker("rename", "vobox1.next", "vobox1")
    assert reconciler.run()[0] == 0
    assert state(box)["Status"] == "running"


def test_a_network_that_the_engine_dropped_is_told_with_its_cure(
    own_lab: Lab, reconciler: Reconciler, tmp_path: Path
) -> None:
    """A boot without the link: the engine lists the network, and its driver does not know it."""
    box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
    box.run()
    known, pid = identity(box), state(box)["Pid"]
    own_lab.engine.kill()
    os.kill(pid, 9)
    in_netns(own_lab.engine.netns, "ip", "link", "delete", PARENT)
    own_lab.engine.start()
    wait_for(lambda: state(box)["Error"])
    own_lab.lan.plug_in([])
    daemon = own_lab.engine.pid
    status, said = reconciler.run()
    assert status == 1
    assert said.startswith("vobox1: start failed: Starting container ")
    assert f"The engine dropped the network {NETWORK} when it started" in said
    assert "systemctl restart docker" in said
    assert own_lab.engine.pid == daemon
    assert [reason.split(",")[0] for reason in restart_needed(own_lab)] == [
        f"it dropped the network {NETWORK} when it started"
    ]
    # It is not tried over and over.
    status, said = reconciler.run()
    assert status == 1
    assert "next try in 5" in said or "next try in 60 s" in said
    assert "after 1 that failed" in said
    own_lab.engine.kill()
    own_lab.engine.start()
    wait_for(lambda: state(box)["Running"])
    assert reconciler.run() == (0, "")
    assert identity(box) == known
    assert restart_needed(own_lab) == []


def test_cvmfs_is_waited_for(own_lab: Lab, reconciler: Reconciler, tmp_path: Path) -> None:
    root = tmp_path / "cvmfs"
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/file").touch()
    repository = Repository("alice.cern.ch", "directory", str(tmp_path / "repository"))
    for name, text in units(Wish(str(root), (repository,), "", "systemd", 10)).items():
        (tmp_path / "units" / name).write_text(text)
        if name.endswith(".mount") and comes_up_at_boot(text):
            (tmp_path / "units/multi-user.target.wants").mkdir(exist_ok=True)
            (tmp_path / "units/multi-user.target.wants" / name).symlink_to(tmp_path / "units" / name)
    point = root / "alice.cern.ch"
    root.mkdir()

    def mount_root() -> None:
        run("mount", "--bind", str(root), str(root))
        run("mount", "--make-rshared", str(root))
        point.mkdir(exist_ok=True)

    mount_root()
    try:
        box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
        box.run(cvmfs={"path": str(root), "propagation": "rslave"})
        give_up_on(box, own_lab)
        run("umount", str(root))
        status, said = reconciler.run()
        assert (status, said) == (
            1, f"vobox1: not in service: it waits for {root}, {point}, which is not mounted; waited 0 s\n"
        )  # fmt: skip
        # With the root there a missing repository comes in later; so it is waited for, but not for ever.
        mount_root()
        assert reconciler.findings("--wait", "5") == {"vobox1": "wait"}
        status, said = reconciler.run()
        assert status == 0
        assert said.endswith(f"; without {point}, which it gets when mounted\n")
        run("mount", "--bind", str(tmp_path / "repository"), str(point))
        assert own_lab.docker("exec", "vobox1", "ls", "/cvmfs/alice.cern.ch") == "file\n"
    finally:
        run("umount", "--recursive", str(root), check=False)


def test_an_unhealthy_vobox_is_restarted_if_that_is_wished(
    own_lab: Lab, reconciler: Reconciler, tmp_path: Path
) -> None:
    box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
    box.run(health={"test": ["test", "!", "-e", "/tmp/ill"], "interval": 1, "timeout": 5, "retries": 1})
    own_lab.docker("exec", "vobox1", "touch", "/tmp/ill")
    wait_for(lambda: state(box)["Health"]["Status"] == "unhealthy")
    pid = state(box)["Pid"]
    assert reconciler.run() == (0, "vobox1: it is unhealthy; restarting such VO-boxes is switched off\n")
    assert state(box)["Pid"] == pid
    assert reconciler.run("--restart-unhealthy") == (0, "vobox1: restarted: its health check finds it unhealthy\n")
    assert state(box)["Pid"] not in (0, pid)
    wait_for(lambda: state(box)["Health"]["Status"] == "unhealthy")  # the file is still there
    status, said = reconciler.run("--restart-unhealthy")
    assert (status, said.split(";")[0]) == (1, "vobox1: it is unhealthy")


def cut_short(box: Box, start: t.Callable[[], subprocess.Popen[str]]) -> None:
    """Have the power fail while a process restarts a VO-box, which has been told to stop and has not done so yet."""
    pid = state(box)["Pid"]
    os.kill(pid, signal.SIGSTOP)
    process = start()
    asked = 1 << (signal.SIGTERM - 1)
    pending = re.compile("ShdPnd:\t(.*)")
    wait_for(lambda: int(pending.findall(Path(f"/proc/{pid}/status").read_text())[0], 16) & asked)
    box.lab.engine.kill()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for one in (*map(int, children), process.pid, pid):
        os.kill(one, signal.SIGKILL)
    process.communicate(timeout=20)
    box.lab.engine.start()
    wait_for(lambda: state(box)["Status"] == "exited")


def renew_certificate(box: Box, **given: t.Any) -> subprocess.Popen[str]:
    """The module, started as Ansible does it."""
    payload = {"engine_url": box.lab.engine.url, **box.arguments, **given}
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{box.lab.engine.netns}", sys.executable, "-c", RUN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": payload}))
    process.stdin.close()
    process.stdin = None
    return process


RUN = f"""
import runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module("{COLLECTION}.vobox_container", run_name="__main__", alter_sys=True)
"""


def test_a_restart_that_a_power_cut_has_cut_short_is_finished(
    own_lab: Lab, reconciler: Reconciler, tmp_path: Path
) -> None:
    """Nothing tells the engine so: to it the VO-box is one that somebody has stopped."""
    box = Box(own_lab, "vobox1", 21, tmp_path / "voboxes")
    certificate, key = make_certificate(tmp_path / "pki", "vobox1.example.org")
    given = {
        "host_certificate": {"certificate": str(certificate), "key": str(key)}, "stop_timeout": 60,
        "health": {"test": ["test", "!", "-e", "/tmp/ill"], "interval": 1, "timeout": 5, "retries": 1},
    }  # fmt: skip
    box.run(**given)
    known = box.id
    finished = "a restart of it was cut short"

    # The module's, finished by the reconciler; then by the module's next run, whatever state that wishes.
    for by in ("reconciler", "started", "present"):
        make_certificate(tmp_path / "pki", "vobox1.example.org")
        cut_short(box, lambda: renew_certificate(box, **given))
        if by == "reconciler":
            assert reconciler.findings() == {"vobox1": "start"}
            assert reconciler.run() == (0, f"vobox1: started: {finished}\n")
        else:
            foreseen = box.run(check=True, state=by, **given)
            done = box.run(state=by, **given)
            assert [(step["action"], step["reason"]) for step in done["actions"]] == [("restart_container", finished)]
            assert foreseen["actions"] == done["actions"]
            assert "A restart of vobox1 was cut short; it is in service again." in str(done["warnings"])
        assert (box.id, state(box)["Running"]) == (known, True)
        assert box.run(**given)["changed"] is False
        assert reconciler.run() == (0, "")

    # One that has only failed, of a VO-box that runs on: when somebody stops it, it stays so.
    note = Path(f"/var/lib/hep.gridbox/restart-{known}")
    note.parent.mkdir(exist_ok=True)
    note.write_text(state(box)["StartedAt"])
    assert reconciler.run() == (0, "")
    own_lab.docker("stop", "vobox1")
    assert reconciler.run() == (0, "")
    assert not state(box)["Running"] and not note.exists()
    box.run(state="started", **given)
    note.parent.mkdir(exist_ok=True)
    note.write_text(state(box)["StartedAt"])
    box.run(state="stopped", **given)
    assert reconciler.run() == (0, "")
    assert not state(box)["Running"] and not note.exists()
    box.run(state="started", **given)

    # The reconciler's own.
    own_lab.docker("exec", "vobox1", "touch", "/tmp/ill")
    wait_for(lambda: state(box)["Health"]["Status"] == "unhealthy")
    cut_short(box, lambda: reconciler.start("--restart-unhealthy"))
    # What is wanted stopped by now is not started.
    assert reconciler.run("--leave", "vobox1") == (0, "")
    stopped = box.run(state="stopped", **given)
    assert "A restart of vobox1 was cut short; it stays stopped." in str(stopped["warnings"])
    assert reconciler.run() == (0, "")
    assert box.run(state="stopped", **given)["changed"] is False
    assert not list(Path("/var/lib/hep.gridbox").glob(f"restart-{known}"))


def test_the_module_installs_it_and_changes_it_with_its_content_only(own_lab: Lab, tmp_path: Path) -> None:
    program = tmp_path / "program"

    def put(python: str, **more: t.Any) -> dict[str, t.Any]:
        arguments = {"name": "gridbox-reconcile", "dest": str(program), "python": python}
        return {"hep.gridbox.host_program": arguments, **more}

    words = "python: got 'python3', expected an absolute path."
    printed = play(
        own_lab.engine.netns, tmp_path, "--diff",
        tasks=[
            put(sys.executable, check_mode=True, register="foreseen"),
            {"ansible.builtin.stat": {"path": str(program)}, "register": "there"},
            put(sys.executable, register="made"),
            put(sys.executable, register="again"),
            put("/usr/bin/python3.99", check_mode=True, register="other"),
            put("python3", register="refused", ignore_errors=True),
            {
                "ansible.builtin.assert": {
                    "that": [
                        "foreseen is changed", "not there.stat.exists", "made is changed", "again is not changed",
                        "foreseen.sha256 == made.sha256", "other is changed", "words in refused.msg",
                    ]
                },
                "vars": {"words": words},
            },
        ],
    )  # fmt: skip
    assert re.search(r"^\+gridbox-reconcile [0-9a-f]{64}$", printed, re.MULTILINE)
    assert program.read_bytes() == build("reconcile.program", sys.executable)
    done = subprocess.run(
        [str(program), "--engine-url", own_lab.engine.url, "--state", str(tmp_path / "state"), "--wait", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_container, killed by SIGKILL before and after each request and signal that changes something: the state before
or the state after, and a next run that makes it right. (What a killed swap does is in test_handover.py.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.integration.test_vobox_container import (  # noqa: F401  # pylint: disable=unused-import
    WEB,
    Box,
    make_certificate,
    network,
)
from tests.lab.modules import COLLECTION
from tests.sampled import sampled

# Runs the module and kills its process at one of its requests or signals; the guard, another process, is spared. With
# the name of a signal as when, that signal comes within the request, a second after it has begun.
_START = """
import os, runpy, signal, sys, threading
from ansible.module_utils import basic
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
die_at, when, log = int(sys.argv[2]), sys.argv[3], sys.argv[4]
me, count = os.getpid(), 0

def effect(name, do, *arguments, **more):
    global count
    if os.getpid() != me:
        return do(*arguments, **more)
    count += 1
    with open(log, "a") as out:
        print(name, file=out)
    if count == die_at and when == "before":
        os.kill(me, signal.SIGKILL)
    if count == die_at and when.startswith("SIG"):
        threading.Timer(1, os.kill, (me, signal.Signals[when])).start()
    answer = do(*arguments, **more)
    if count == die_at and when == "after":
        os.kill(me, signal.SIGKILL)
    return answer

def send(self, request, method, path, **more):
    if method == "GET" or "exec" in path:
        return real_send(self, request, method, path, **more)
    return effect(request, real_send, self, request, method, path, **more)

real_send, DockerApi.send = DockerApi.send, send
real_signal = signal.pidfd_send_signal
signal.pidfd_send_signal = lambda *given: effect("Sending a signal", real_signal, *given)
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


def run_and_die(box: Box, arguments: dict[str, t.Any], die_at: int, when: str, log: Path) -> int:
    return run_to_its_end(box, arguments, die_at, when, log).returncode


def run_to_its_end(
    box: Box, arguments: dict[str, t.Any], die_at: int, when: str, log: Path
) -> subprocess.CompletedProcess[bytes]:
    payload = {"engine_url": box.lab.engine.url, **arguments, "_ansible_check_mode": False, "_ansible_diff": False}
    return subprocess.run(
        [
            "nsenter", f"--net=/run/netns/{box.lab.engine.netns}", sys.executable, "-c", _START,
            f"{COLLECTION}.vobox_container", str(die_at), when, str(log),
        ],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": payload}).encode(), capture_output=True, timeout=120,
        env={key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}, check=False,
    )  # fmt: skip


def picture(box: Box, known: str | None) -> dict[str, t.Any]:
    """The state, without what differs from run to run."""
    there = box.containers()
    try:
        return {"containers": there, **details(box, known, box.name in there)}
    except (RuntimeError, FileNotFoundError):
        # The guard takes it away while we look: neither before nor after, so it will be looked at again.
        return {"going": True}


def details(box: Box, known: str | None, there: bool) -> dict[str, t.Any]:
    """What a picture shows beside the names of the containers."""
    shown: dict[str, t.Any] = {"files": sorted(path.name for path in box.files.glob("*/*"))}
    if there:
        inspect = box.inspect()
        current = box.files / box.name / "init" / "current"
        shown["same"] = inspect["Id"] == known
        shown["running"] = inspect["State"]["Running"]
        shown["policy"] = inspect["HostConfig"]["RestartPolicy"]["Name"]
        shown["environment"] = [line for line in inspect["Config"]["Env"] or () if line.startswith("A=")]
        shown["script"] = os.readlink(current) if current.is_symlink() else None
        if shown["running"]:
            states = [path.read_text().split() for path in (box.files / box.name / "run").glob("*/state")]
            shown["launched"] = states
    return shown


Scenario = tuple[dict[str, t.Any], dict[str, t.Any]]

SCENARIOS: dict[str, Scenario | None] = {
    "create": ({"state": "absent"}, {}),
    "update": ({}, {"restart_policy": "always"}),
    "init script": ({}, {"init_script": WEB + "httpd -p 81 -h /www\n"}),
    "replace a stopped one": ({"state": "present"}, {"environment": {"A": "1"}}),
    "stop": ({}, {"state": "stopped"}),
    "start": ({"state": "present"}, {}),
    "absent": ({}, {"state": "absent"}),
}


@pytest.fixture()
def box(lab: Lab, network: str, tmp_path: Path, request: pytest.FixtureRequest) -> t.Iterator[Box]:  # noqa: F811
    number = list(SCENARIOS).index(request.node.callspec.params["scenario"]) + 230
    made = Box(lab, f"killed{number}", number, tmp_path / "voboxes")
    made.arguments["wire_check"] = False
    yield made
    if made.containers():
        lab.docker("rm", "--force", "--volumes", *made.containers())


@pytest.mark.parametrize("scenario", sampled(SCENARIOS, every=3))
def test_a_killed_run_ends_before_or_after(box: Box, scenario: str, tmp_path: Path) -> None:
    first, second = t.cast("Scenario", SCENARIOS[scenario])

    def begin() -> str | None:
        box.bare(state="absent")
        if first.get("state") != "absent":
            box.run(**first)
        return box.id if box.name in box.containers() else None

    known = begin()
    before = picture(box, known)
    log = tmp_path / "requests"
    assert run_and_die(box, {**box.arguments, **second}, 0, "never", log) == 0
    after = picture(box, known)
    assert after != before
    requests = log.read_text().splitlines()
    assert requests
    for number, request in enumerate(requests, 1):
        for when in ("before", "after"):
            known = begin()
            assert run_and_die(box, {**box.arguments, **second}, number, when, log) == -9, (request, when)
            deadline = time.monotonic() + 30
            while (now := picture(box, known)) not in (before, after):
                assert time.monotonic() < deadline, f"killed {when} {request}: {now} is neither {before} nor {after}"
                time.sleep(0.2)
            print(f"{scenario}: killed {when} {request}: the state {'before' if now == before else 'after'}")
    box.run(**second)
    assert picture(box, known) in (after, {**after, "same": True})


def test_a_killed_restart_leaves_a_vobox_that_runs_and_that_can_be_stopped(
    lab: Lab,
    network: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The note that tells of a restart cut short goes with the undo: who stops the VO-box later is not taken for it."""
    box = Box(lab, "killed-restart", 229, tmp_path / "voboxes")
    certificate, key = make_certificate(tmp_path / "pki", "killed-restart.example.org")
    given = {"host_certificate": {"certificate": str(certificate), "key": str(key)}, "wire_check": False}
    try:
        box.run(**given)
        note = Path(f"/var/lib/hep.gridbox/restart-{box.id}")
        for when in ("before", "after"):
            make_certificate(tmp_path / "pki", "killed-restart.example.org")
            assert run_and_die(box, {**box.arguments, **given}, 1, when, tmp_path / "requests") == -9
            # Waits for the guard of the one before, whose lock it needs.
            assert box.run(**given)["changed"] is (when == "before")
            assert box.inspect("{{json .State.Running}}")
            assert not note.exists()
        requests = (tmp_path / "requests").read_text().splitlines()
        assert [request.rpartition(" ")[0] for request in requests] == ["Restarting container"] * 2
    finally:
        lab.docker("rm", "--force", "--volumes", *box.containers())


#: A service that takes three seconds to end, less than stop_timeout.
SLOW_TO_END = WEB + "(trap 'sleep 3; exit' TERM; while :; do sleep 0.1; done) &\n"


@pytest.mark.parametrize("when", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("state", ["stopped", "absent"])
def test_a_run_that_ends_within_a_stop_leaves_a_vobox_that_runs(
    lab: Lab,
    network: str,  # noqa: F811
    tmp_path: Path,
    state: str,
    when: str,
) -> None:
    """The engine goes on with a stop that it was asked for, and a start before that has ended would be in vain."""
    box = Box(lab, "killed-stop", 228, tmp_path / "voboxes")
    box.arguments.update(wire_check=False, init_script=SLOW_TO_END)
    try:
        box.run()
        known = box.id
        before = picture(box, known)
        wish = {**box.arguments, "state": state}
        ended = run_to_its_end(box, wish, 1, when, tmp_path / "requests")
        assert (tmp_path / "requests").read_text().startswith("Stopping container")
        if when == "SIGKILL":
            assert ended.returncode == -9
        else:
            result = json.loads(ended.stdout)
            assert result["msg"].partition(" Put back: ")[2]
            assert result["not_rolled_back"] == []
        # Waits for the guard, whose lock it needs; it finds what there is and changes nothing.
        assert box.run(check=True)["actions"] == []
        time.sleep(3)
        assert picture(box, known) == before
        assert box.page() == "here I am\n"
    finally:
        lab.docker("rm", "--force", "--volumes", *box.containers())


@pytest.mark.parametrize("when", ["SIGKILL", "SIGTERM"])
def test_a_run_that_ends_within_a_restart_leaves_a_vobox_that_was_restarted_once(
    lab: Lab,
    network: str,  # noqa: F811
    tmp_path: Path,
    when: str,
) -> None:
    box = Box(lab, "killed-again", 227, tmp_path / "voboxes")
    certificate, key = make_certificate(tmp_path / "pki", "killed-again.example.org")
    box.arguments.update(
        wire_check=False, init_script=SLOW_TO_END, host_certificate={"certificate": str(certificate), "key": str(key)}
    )
    try:
        box.run()
        make_certificate(tmp_path / "pki", "killed-again.example.org")
        began = str(time.time())
        run_to_its_end(box, box.arguments, 1, when, tmp_path / "requests")
        assert (tmp_path / "requests").read_text().startswith("Restarting container")
        time.sleep(5)
        assert box.run(check=True)["actions"] == []
        assert box.inspect("{{json .State.Running}}")
        told = lab.docker(
            "events", "--since", began, "--until", str(time.time()), "--filter", f"container={box.name}",
            "--filter", "event=start", "--filter", "event=die", "--format", "{{.Action}}",
        )  # fmt: skip
        assert told.split() == ["die", "start"]
        assert box.page() == "here I am\n"
    finally:
        lab.docker("rm", "--force", "--volumes", *box.containers())

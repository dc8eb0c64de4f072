# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_container when the engine fails it in mid-swap: the daemon is killed, or its disk is full."""

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
from tests.integration.test_flatten_image_faults import (  # noqa: F401  # pylint: disable=unused-import
    leave_free,
    small_lab,
)
from tests.integration.test_vobox_container import Box, make_network
from tests.lab.image import busybox_tar
from tests.lab.modules import COLLECTION
from tests.sampled import sampled

# Runs the module with an engine whose daemon is killed before or after one of its requests. To wait for it to come back
# would be in vain here.
_START = """
import os, runpy, select, signal, sys
from ansible.module_utils import basic
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import put_back
daemon, fatal, when = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
me, real, count = os.getpid(), DockerApi.send, 0
put_back.PUT_BACK_SECONDS = 1

def kill():
    ended = os.pidfd_open(daemon)
    os.kill(daemon, signal.SIGKILL)
    select.select([ended], [], [], 30)

def send(self, request, method, path, **more):
    global count
    counts = os.getpid() == me and method != "GET" and "exec" not in path
    count += counts
    if counts and count == fatal and when == "before":
        kill()
    answer = real(self, request, method, path, **more)
    if counts and count == fatal and when == "after":
        kill()
    return answer

DockerApi.send = send
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module(sys.argv[4], run_name="__main__", alter_sys=True)
"""


def run_and_kill_the_daemon(box: Box, number: int, when: str, **changes: t.Any) -> dict[str, t.Any]:
    engine = box.lab.engine
    payload = {"engine_url": engine.url, **box.arguments, **changes, "_ansible_check_mode": False}
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{engine.netns}", sys.executable, "-c", _START, str(engine.pid), str(number),
         when, f"{COLLECTION}.vobox_container"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": payload}).encode(), capture_output=True, timeout=180,
        env={key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}, check=False,
    )  # fmt: skip
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def environment(box: Box) -> list[str]:
    return [line for line in box.inspect("{{json .Config.Env}}") or () if line.startswith("A=")]


def eventually_in_service(box: Box, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            assert box.page() == "here I am\n"
        except (AssertionError, RuntimeError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


#: Requests of an overlapping swap: the new one has been made; the old one has given its endpoint and nobody has it; the
#: old one has another name, and nobody has its own; the new one is in service, and the old one is yet to be stopped.
MOMENTS = [(1, "after"), (4, "after"), (9, "after"), (11, "before")]


@pytest.mark.parametrize("live_restore", sampled([True, False], every=2), ids=["live-restore-on", "live-restore-off"])
def test_a_daemon_killed_in_mid_swap(own_lab: Lab, tmp_path: Path, live_restore: bool) -> None:
    """Whatever it was at: when it is back, the same run again brings exactly one VO-box into service, as asked for."""
    own_lab.engine.kill(15)
    own_lab.engine.config.write_text(json.dumps({"live-restore": live_restore}))
    own_lab.engine.start()
    make_network(own_lab)
    box = Box(own_lab, "vobox1", 20, tmp_path / "voboxes")
    box.arguments["wire_check"] = False
    box.run()
    for turn, (number, when) in enumerate(MOMENTS):
        known = box.id
        failure = run_and_kill_the_daemon(box, number, when, environment={"A": str(turn)})
        print(f"killed {when} request {number}: {failure['msg']}")
        assert failure["failed"]
        assert "exception" not in failure
        own_lab.engine.kill(0)
        own_lab.engine.start()
        again = box.run(environment={"A": str(turn)})
        assert box.containers() == [box.name]
        assert environment(box) == [f"A={turn}"]
        assert box.id != known
        assert again["container"]["state"] == "running"
        assert box.inspect("{{json .HostConfig.RestartPolicy.Name}}") == "unless-stopped"
        eventually_in_service(box)
        assert box.run(environment={"A": str(turn)})["changed"] is False


def test_a_disk_that_is_full_when_the_new_container_is_made(small_lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    image = ["docker", "--host", small_lab.engine.url, "import", "-", "busybox:test"]
    subprocess.run(image, input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL)
    make_network(small_lab)
    box = Box(small_lab, "vobox1", 20, tmp_path / "voboxes")
    box.run()
    before = box.everything()
    ballast = small_lab.engine.folder / "data" / "ballast"
    leave_free(ballast, 0)
    failure = box.fails(environment={"A": "1"})
    assert "no space left on device" in failure["msg"]
    assert failure["not_rolled_back"] == []
    assert box.everything() == before
    assert box.page() == "here I am\n"
    ballast.unlink()
    box.run(environment={"A": "1"})
    assert environment(box) == ["A=1"]
    assert box.page() == "here I am\n"

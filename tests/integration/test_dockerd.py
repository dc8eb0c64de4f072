# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that start and configure a dockerd, on a real one, and what they leave when something goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import unmount_below
from tests.lab.lan import add_netns, delete_netns
from tests.lab.modules import ModuleFailed, run_module, start_module
from tests.lab.playbook import play

if os.geteuid() != 0:
    pytest.skip("needs root: a network namespace and an engine of its own", allow_module_level=True)


class Place:
    """Folders and a network namespace for one daemon of the module's own."""

    def __init__(self, folder: Path, netns: str) -> None:
        self.folder, self.netns = folder, netns
        self.config = folder / "daemon.json"
        self.arguments = {
            "config_file": str(self.config),
            "socket": str(folder / "sock"),
            "data_root": str(folder / "data"),
            "exec_root": str(folder / "exec"),
            "pidfile": str(folder / "pid"),
            "log_file": str(folder / "log"),
            "netns": netns,
        }

    def daemon(self, state: str = "started", check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        return run_module(
            "dockerd", {**self.arguments, "state": state, "max_disruption": "daemon", **more}, check=check
        )

    def configure(self, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        chosen = {key: self.arguments[key] for key in ("config_file", "pidfile", "socket")}
        return run_module("daemon_config", {**chosen, "wait_timeout": 5, **more}, check=check)

    def running(self) -> list[int]:
        """The daemons of this place, as pgrep sees them."""
        found = subprocess.run(
            ["pgrep", "-f", f"^/usr/sbin/dockerd .*{self.folder}/pid"], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def docker(self, *arguments: str) -> str:
        argv = ["docker", "--host", f"unix://{self.folder}/sock", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture()
def place(tmp_path: Path) -> t.Iterator[Place]:
    made = Place(tmp_path, f"gbd{os.getpid()}")
    add_netns(made.netns)
    yield made
    for pid in made.running():
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while made.running():
        assert time.monotonic() < deadline, "the daemon does not end"
        time.sleep(0.1)
    unmount_below(made.folder)  # a daemon that is killed leaves its data root bound to itself
    delete_netns(made.netns)


def test_start_again_and_stop(place: Place) -> None:
    announced = place.daemon(check=True)
    assert place.running() == [] and not (place.folder / "log").exists()
    done = place.daemon()
    assert done["actions"] == announced["actions"] != []
    assert place.running() == [done["pid"]]
    here, there = (os.stat(f"/proc/{pid}/ns/net").st_ino for pid in (os.getpid(), done["pid"]))
    assert here != there == os.stat(f"/run/netns/{place.netns}").st_ino
    again = place.daemon()
    assert not again["changed"] and again["pid"] == done["pid"] and again["restart_needed"] == []
    other = place.daemon(extra_arguments=["--debug"])
    assert not other["changed"] and other["pid"] == done["pid"] and "--debug" in other["restart_needed"][0]
    assert place.daemon("stopped")["changed"]
    assert place.running() == []
    assert not place.daemon("stopped")["changed"]


def test_a_daemon_that_does_not_take_its_configuration_says_why_and_is_gone(place: Place) -> None:
    place.config.write_text('{"storage-driver": "no-such"}')
    with pytest.raises(ModuleFailed) as failed:
        place.daemon()
    assert "no-such" in failed.value.result["msg"]
    assert "exception" not in failed.value.result
    assert place.running() == []


def test_what_is_a_flag_may_not_be_in_the_file(place: Place) -> None:
    place.config.write_text('{"data-root": "/elsewhere"}')
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="sets data-root"):
            place.daemon(check=check)


def test_a_killed_start_leaves_no_daemon_behind(place: Place) -> None:
    process = start_module("dockerd", {**place.arguments, "state": "started"})
    deadline = time.monotonic() + 30
    while not place.running():
        assert time.monotonic() < deadline, "no daemon came up"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    after = place.daemon()  # waits until the guard of the killed one is through
    assert place.running() == [after["pid"]]


def test_a_containerd_that_has_ended_is_not_taken_for_alive(place: Place) -> None:
    """After a kill -9 its pidfile stays, and its process too until PID 1 has buried it, which dockerd 20.10 awaits."""
    containerd = place.folder / "exec/containerd/containerd.pid"
    place.daemon()
    for pid in (*place.running(), int(containerd.read_text())):
        os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["true"]) as unburied:
        os.waitid(os.P_PID, unburied.pid, os.WEXITED | os.WNOWAIT)
        containerd.write_text(str(unburied.pid))
        after = place.daemon(wait_timeout=20)
        assert place.running() == [after["pid"]]
        assert Path(f"/proc/{containerd.read_text()}/comm").read_text() == "containerd\n"


def test_two_daemons_on_one_folder_are_refused(place: Place) -> None:
    place.daemon()
    other = {"pidfile": str(place.folder / "pid2"), "socket": str(place.folder / "sock2")}
    with pytest.raises(ModuleFailed, match="works on it"):
        place.daemon(**other)
    with pytest.raises(ModuleFailed, match="an engine answers there"):
        place.daemon(pidfile=other["pidfile"], data_root=str(place.folder / "data2"))


def test_keys_come_in_by_a_reload_and_others_wait(place: Place) -> None:
    place.config.write_text('{\n    "max-concurrent-uploads" : 3\n}')
    pid = place.daemon()["pid"]
    announced = place.configure(keys={"labels": ["a=1"], "log-driver": "local"}, check=True)
    assert json.loads(place.config.read_text()) == {"max-concurrent-uploads": 3}
    done = place.configure(keys={"labels": ["a=1"], "log-driver": "local"})
    assert [step["action"] for step in done["actions"]] == ["write_config", "reload"]
    assert done["actions"] == announced["actions"]
    assert place.config.read_text().startswith('{\n    "max-concurrent-uploads" : 3,\n')
    assert place.docker("info", "--format", "{{.Labels}} {{.LoggingDriver}}").strip() == "[a=1] json-file"
    assert place.running() == [pid]
    again = place.configure(keys={"labels": ["a=1"], "log-driver": "local"})
    assert not again["changed"] and again["restart_needed"] == [f"log-driver in {place.config} was changed"]
    place.daemon("restarted")
    assert place.configure(keys={"log-driver": "local"})["restart_needed"] == []
    assert place.docker("info", "--format", "{{.LoggingDriver}}").strip() == "local"


#: What dockerd dies of at its next start, and a part of what it says.
REFUSED: dict[str, tuple[dict[str, t.Any], str]] = {
    "a number": ({"log-opts": {"max-file": 3}}, "cannot unmarshal number into Go struct field"),
    "a typing error": ({"log_driver": "local"}, "don't match any configuration option: log_driver"),
    "a log level": ({"log-level": "verbose"}, "verbose"),
    "two labels": ({"labels": ["a=1", "a=2"]}, "conflict labels"),
    "a flag": ({"exec-root": "/elsewhere"}, "directives are specified both as a flag and in the configuration file"),
}


@pytest.mark.parametrize(("keys", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_next_start_would_die_of_does_not_get_into_the_file(
    place: Place, keys: dict[str, t.Any], words: str
) -> None:
    before = '{"log-level": "debug"}'
    place.config.write_text(before)
    place.daemon()
    files = sorted(place.folder.iterdir())
    for check in (True, False):
        with pytest.raises(ModuleFailed) as failed:
            place.configure(keys=keys, check=check)
        assert failed.value.result["changed"] is False
        assert failed.value.result["msg"].startswith(f"config_file: {place.config}: the daemon would refuse it. ")
        assert words in failed.value.result["msg"]
    assert place.config.read_text() == before
    assert sorted(place.folder.iterdir()) == files


def test_what_is_in_the_file_already_is_told_and_can_be_taken_out(place: Place) -> None:
    place.config.write_text('{"log_driver": "local"}')
    for check in (True, False):
        for keys in ({}, {"log-driver": "local"}):
            with pytest.raises(ModuleFailed, match=r"log_driver.*take it out with absent"):
                place.configure(keys=keys, check=check)
    place.configure(keys={"log-driver": "local"}, absent=["log_driver"])
    assert json.loads(place.config.read_text()) == {"log-driver": "local"}


def test_a_daemon_that_would_not_start_again_is_not_stopped(place: Place) -> None:
    pid = place.daemon()["pid"]
    place.config.write_text('{"log_driver": "local"}')
    with pytest.raises(ModuleFailed, match=r"the daemon would refuse it.*log_driver") as failed:
        place.daemon("restarted")
    assert failed.value.result["actions"] == []
    assert place.running() == [pid]


def test_a_refused_reload_is_taken_back(place: Place) -> None:
    place.daemon()
    before = '{"labels": ["a=1"]}'
    place.config.write_text(before)
    os.kill(place.running()[0], signal.SIGHUP)
    # dockerd finds it wrong only when it takes it over.
    with pytest.raises(ModuleFailed, match="to take over registry-mirrors after SIGHUP") as failed:
        place.configure(keys={"registry-mirrors": ["::"]})
    assert failed.value.result["changed"] is True
    assert place.config.read_text() == before
    assert place.docker("info", "--format", "{{.Labels}}").strip() == "[a=1]"


@pytest.mark.fleet
def test_check_mode_foresees_a_restart_that_live_restore_will_allow(place: Place, tmp_path: Path) -> None:
    """The role switches live restore on first, and then restarts the daemon, as ``when_live_restore`` has it."""
    variables: dict[str, t.Any] = {f"docker_engine_{key}": value for key, value in place.arguments.items()}
    variables.update(docker_engine_install=False, docker_engine_supervisor="none")
    variables.update(docker_engine_restart="when_live_restore", docker_engine_config={"log-driver": "local"})

    def role(*options: str) -> list[str]:
        task = {"ansible.builtin.include_role": {"name": "hep.gridbox.docker_engine"}}
        printed = play(place.netns, tmp_path, *options, vars=variables, tasks=[task])
        return re.findall(r"^TASK \[(?:.* : )?(.*)\] \**\n(?:(?!TASK).*\n)*?changed:", printed, re.MULTILINE)

    pidfile = str(variables["docker_engine_pidfile"])
    record = Path(f"/var/lib/hep.gridbox/docker_engine_{hashlib.sha1(pidfile.encode()).hexdigest()[:8]}.json")
    place.daemon()
    foreseen = role("--check")
    [before] = place.running()
    assert not record.exists()
    done = role()
    record.unlink()
    assert place.running() != [before]
    assert "Restart the daemon without a service manager, as allowed" in done
    assert foreseen == done

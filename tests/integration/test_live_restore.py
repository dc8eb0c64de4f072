# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""live_restore and live_restore_info on a dockerd that may be reloaded, stopped and killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.lab.engine import Dockerd, PodmanService
from tests.lab.image import busybox_tar
from tests.lab.lan import add_netns, delete_netns
from tests.lab.modules import ModuleFailed, run_module
from tests.lab.playbook import play

ROOT = Path(__file__).resolve().parents[2]

#: A file as an operator keeps it: its own order, indentation, and spacing.
SITE_FILE = '{\n    "log-driver": "json-file",\n    "log-opts": {"max-size":"10m"  },\n\n    "labels": [ ]\n}\n'


class Box:
    """A dockerd with its configuration file in a folder of its own, and a container."""

    def __init__(self, folder: Path, name: str, arguments: tuple[str, ...] = ()) -> None:
        self.engine = Dockerd(folder / "engine", f"gbt{os.getpid()}-{name}", arguments)
        self.folder = folder / "etc"
        self.folder.mkdir()
        self.config = self.engine.config = self.folder / "daemon.json"
        self.config.write_text(SITE_FILE)
        self.engine.start()
        subprocess.run(
            ["docker", "--host", self.engine.url, "import", "-", "busybox:test"],
            input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.engine.docker(
            "run", "--detach", "--stop-signal", "KILL", "--name", "vobox1", "busybox:test", "sleep", "99999"
        )

    @property
    def arguments(self) -> dict[str, t.Any]:
        return {
            "engine_url": self.engine.url,
            "config_file": str(self.config),
            "pidfile": str(self.engine.folder / "pid"),
        }

    def module(self, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        return run_module("live_restore", {**self.arguments, **arguments}, check=check)

    def info(self, **arguments: t.Any) -> dict[str, t.Any]:
        return run_module("live_restore_info", {**self.arguments, "budget_window": 0, **arguments})

    def refusal(self, check: bool, **arguments: t.Any) -> str:
        """The sentence with which the module refuses; nothing is changed by it."""
        before = self.state()
        with pytest.raises(ModuleFailed) as caught:
            self.module(check, **arguments)
        assert caught.value.result["changed"] is False and caught.value.result["actions"] == []
        assert "Traceback" not in json.dumps(caught.value.result)
        assert self.state() == before
        return t.cast("str", caught.value.result["msg"])

    def enabled(self) -> bool:
        """What the daemon says to its own client."""
        return self.engine.docker("info", "--format", "{{.LiveRestoreEnabled}}").stdout.strip() == "true"

    def vobox(self) -> str:
        """The process of the container, with its start time: the kernel's word."""
        pid = self.engine.docker("inspect", "--format", "{{.State.Pid}}", "vobox1").stdout.strip()
        return pid + " " + Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]

    def state(self) -> tuple[t.Any, ...]:
        """The world as other tools see it: the folder's files, the daemon, the container."""
        files = {path.name: (path.read_bytes(), path.stat().st_ino) for path in self.folder.iterdir()}
        return files, self.engine.pid, self.enabled(), self.vobox()

    def put(self, text: str, enabled: bool) -> None:
        """Make the file say ``text`` and the daemon have the value."""
        self.config.write_text(json.dumps({"live-restore": enabled}))
        os.kill(self.engine.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self.enabled() != enabled:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.config.write_text(text)


@pytest.fixture(scope="module")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")
    box = Box(tmp_path_factory.mktemp("live_restore"), "live")
    yield box
    box.engine.remove()


@pytest.fixture()
def box(shared_box: Box) -> t.Iterator[Box]:
    """The shared daemon with live restore off and the site's file; its daemon and container live through each test."""
    shared_box.put(SITE_FILE, False)
    daemon, vobox = shared_box.engine.pid, shared_box.vobox()
    yield shared_box
    assert (shared_box.engine.pid, shared_box.vobox()) == (daemon, vobox)


@pytest.fixture()
def own_box(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Box]:
    """A box whose daemon a test may kill."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")
    made = Box(tmp_path_factory.mktemp("own"), "liveown")  # a short path: the engine's sockets lie below it
    yield made
    made.engine.config.write_text("{}\n")
    made.engine.remove()


# ---- what it is for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "before", "after", "actions"),
    [
        (
            "present",
            (SITE_FILE, False),
            (SITE_FILE.replace("[ ]", '[ ],\n    "live-restore": true'), True),
            ["write_config", "reload_daemon"],
        ),
        (
            "absent",
            (SITE_FILE.replace('{\n    "log-driver', '{\n    "live-restore"  :true,\n    "log-driver'), True),
            (SITE_FILE, False),
            ["write_config", "reload_daemon", "write_config"],
        ),
    ],
)
def test_check_mode_predicts_the_real_run(
    box: Box, state: str, before: tuple[str, bool], after: tuple[str, bool], actions: list[str]
) -> None:
    box.put(*before)
    world = box.state()
    predicted = box.module(check=True, state=state)
    assert predicted["changed"] and [action["action"] for action in predicted["actions"]] == actions
    assert predicted["disruption"] == "reload"
    on = {"live-restore": True, "enabled": True}
    off = {"live-restore": None, "enabled": False}
    assert predicted["diff"] == {"before": on if before[1] else off, "after": on if after[1] else off}
    assert box.state() == world  # check mode changed nothing
    opposite = "absent" if state == "present" else "present"
    assert not box.module(check=True, state=opposite)["changed"]  # the world as it is would stay
    done = box.module(state=state)
    assert {key: value for key, value in done.items() if key != "invocation"} == {
        key: value for key, value in predicted.items() if key != "invocation"
    }
    assert (box.config.read_text(), box.enabled()) == after
    world = box.state()
    for check in (True, False):
        again = box.module(check, state=state)
        assert not again["changed"] and again["actions"] == [] and again["disruption"] == "none"
    assert box.state() == world  # the same inode: not even written
    assert [path.name for path in box.folder.iterdir()] == ["daemon.json"]


def test_each_container_is_shown_to_have_kept_its_process(box: Box) -> None:
    [process] = box.module()["processes"]
    pid, start = box.vobox().split()
    assert process == {
        "container": "vobox1",
        "id": box.engine.docker("inspect", "--format", "{{.Id}}", "vobox1").stdout.strip(),
        "pid": int(pid),
        "start": int(start),
        "kept": True,
    }


def test_a_container_that_ends_meanwhile_is_told(box: Box) -> None:
    box.engine.docker("run", "--detach", "--name", "brief", "busybox:test", "sleep", "1000")
    try:
        kill = ["docker", "--host", box.engine.url, "kill", "brief"]
        result = _run_with_hook(box, {"effect": 2, "when": "before", "run": kill})
        kept = {process["container"]: process["kept"] for process in result["processes"]}
        assert kept == {"brief": False, "vobox1": True}
        assert result["msg"] == "These containers ended or restarted in the meantime: brief."
    finally:
        box.engine.docker("rm", "--force", "brief")


def test_with_it_the_container_outlives_the_daemon(own_box: Box) -> None:
    own_box.module()
    vobox = own_box.vobox()
    own_box.engine.kill()
    own_box.engine.start()
    assert own_box.vobox() == vobox and own_box.enabled()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"debug":false}', '{"debug":false,"live-restore":true}'),
        ('{\r\n\t"debug" : false\r\n}\r\n', '{\r\n\t"debug" : false,\r\n\t"live-restore" : true\r\n}\r\n'),
        ('{"live-restore": false, "debug": false}', '{"live-restore": true, "debug": false}'),
        ("{}", '{"live-restore": true}'),
        ('{"labels": ["site=Z\u00fcrich"]}\n\n', '{"labels": ["site=Z\u00fcrich"], "live-restore": true}\n\n'),
    ],
)
def test_every_other_byte_stays(box: Box, text: str, expected: str) -> None:
    box.config.write_bytes(text.encode())
    box.module()
    assert box.config.read_bytes() == expected.encode() and box.enabled()
    box.module(state="absent")
    assert not box.enabled()


def test_mode_owner_and_link_stay(box: Box) -> None:
    real = box.folder / "site.json"
    box.config.rename(real)
    box.config.symlink_to("site.json")
    os.chown(real, 12, 34)
    real.chmod(0o604)
    try:
        assert box.module()["config_file"] == str(real)
        status = real.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o604)
        assert os.readlink(box.config) == "site.json" and box.enabled()
        assert {path.name for path in box.folder.iterdir()} == {"daemon.json", "site.json"}
    finally:
        box.config.unlink()
        real.rename(box.config)


def test_a_missing_file_is_made_with_just_the_key(box: Box) -> None:
    box.config.unlink()
    box.module(check=True)
    assert not box.config.exists()
    box.module()
    assert box.config.read_text() == '{\n  "live-restore": true\n}\n'
    assert box.config.stat().st_mode & 0o7777 == 0o644 and box.enabled()


@pytest.mark.parametrize(
    ("text", "enabled", "actions"),
    [
        (SITE_FILE, True, ["write_config"]),  # someone took the key out, and the daemon kept the value
        ('{"live-restore": true}', False, ["reload_daemon"]),  # someone wrote it without a reload
    ],
)
def test_only_what_is_missing_is_done(box: Box, text: str, enabled: bool, actions: list[str]) -> None:
    box.put(text, enabled)
    assert [action["action"] for action in box.module()["actions"]] == actions
    assert box.enabled()


# ---- refusals -------------------------------------------------------------------------------------------------------

BROKEN = [
    ("[]", "line 1, column 1: the file has to be one object, in braces"),
    ('{"debug": true,}', "line 1, column 16: expecting a key in double quotes"),
    ('{\n  "debug": true\n  "labels": []\n}', "line 3, column 3: expecting ',' or '}'"),
    ("# managed by puppet\n{}", "line 1, column 1: the file has to be one object, in braces"),
    ('{"debug": true} trailing', "line 1, column 17: nothing may follow the closing brace"),
    ('{"live-restore": false, "live-restore": true}', "line 1, column 25: the key 'live-restore' is there twice"),
    ("live-restore = true\n", "line 1, column 1: the file has to be one object, in braces"),
]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("text", "sentence"), BROKEN)
def test_a_broken_file_is_left_alone(box: Box, text: str, sentence: str, check: bool) -> None:
    box.config.write_text(text)
    assert box.refusal(check) == (
        f"config_file: {box.config}, {sentence}. The daemon reads one JSON object. The file was left alone; repair it"
        " first."
    )
    assert box.info()["findings"] == [box.refusal(check)]


@pytest.mark.parametrize("check", [True, False])
def test_values_that_cannot_be_right(box: Box, check: bool) -> None:
    sentences = {
        ("config_file", "etc/daemon.json"): "config_file: got 'etc/daemon.json', expected an absolute path of a file.",
        ("pidfile", "docker.pid"): "pidfile: got 'docker.pid', expected an absolute path of a file.",
        ("unit", "; reboot"): "unit: got '; reboot', expected the name of a systemd service, such as docker.service.",
        ("wait_timeout", 0): "wait_timeout: got 0, expected a number of seconds from 1 to 3600.",
        ("budget_window", -1): "budget_window: got -1, expected a number of seconds from 0 to 3600.",
        ("engine_url", "tcp://127.0.0.1:1"): "no answer at tcp://127.0.0.1:1",
        ("max_disruption", "none"): "max_disruption: none: the change needs reload_daemon dockerd",
    }
    for (option, value), sentence in sentences.items():
        assert sentence in box.refusal(check, **{option: value})


@pytest.mark.parametrize("check", [True, False])
def test_another_file_than_the_daemon_reads_is_refused(box: Box, check: bool, tmp_path: Path) -> None:
    other = tmp_path / "daemon.json"
    assert box.refusal(check, config_file=str(other)) == (
        f"config_file: {other}: the running daemon (process {box.engine.pid}) reads {box.config}. Set"
        " config_file to that one."
    )
    assert not other.exists()


@pytest.mark.parametrize("check", [True, False])
def test_a_folder_and_unreadable_bytes_are_refused(box: Box, check: bool) -> None:
    assert "is not a regular file" in box.refusal(check, config_file=str(box.folder))
    box.config.write_bytes(b'{"labels": ["Z\xfcrich"]}')
    assert f"config_file: {box.config}, line 1, column 15: not UTF-8." in box.refusal(check)


def test_swarm_is_refused(own_box: Box) -> None:
    own_box.engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:23777")
    for check in (True, False):
        assert own_box.refusal(check) == (
            "state: present: the engine is in swarm mode (active). The daemon would accept the reload, and fail at"
            " its next start. Leave the swarm (docker swarm leave), or do without live restore."
        )
    assert not own_box.module(state="absent")["changed"]
    own_box.engine.docker("swarm", "leave", "--force")


@pytest.mark.parametrize(("flag", "enabled"), [("--live-restore", True), ("--live-restore=false", False)])
def test_a_flag_on_the_command_line(tmp_path_factory: pytest.TempPathFactory, flag: str, enabled: bool) -> None:
    box = Box(tmp_path_factory.mktemp("flag"), "flag", (flag,))
    try:
        assert box.info()["flag"] is enabled
        if enabled:
            result = box.module()
            assert not result["changed"] and result["enabled"] and "--live-restore" in result["msg"]
            assert "cannot take that back" in box.refusal(False, state="absent")
            box.config.write_text('{"live-restore": true}')
            assert "refuses to be told twice" in box.refusal(False)
            box.config.write_text(SITE_FILE)
        else:
            for check in (True, False):
                assert "was started with --live-restore=false" in box.refusal(check)
            assert not box.module(state="absent")["changed"]
    finally:
        box.engine.remove()


# ---- faults ---------------------------------------------------------------------------------------------------------


REFUSED = {
    '{"debug": "perhaps"}': "cannot unmarshal string into Go struct field",
    '{"live_restore": true}': "the following directives don't match any configuration option: live_restore",
    '{"data-root": "/elsewhere"}': "directives are specified both as a flag and in the configuration file",
}
#: Found wrong late, by every version.
REFUSED_LATE = '{"registry-mirrors": ["::"]}'


def test_a_reload_that_the_daemon_refuses_is_taken_back(box: Box) -> None:
    text = REFUSED_LATE
    box.config.write_text(text)
    pid = box.engine.pid
    with pytest.raises(ModuleFailed) as caught:
        box.module(wait_timeout=1)
    result = caught.value.result
    assert result["changed"] is True
    assert [action["action"] for action in result["actions"]] == ["write_config"]
    assert result["failed_action"]["action"] == "reload_daemon"
    assert result["not_rolled_back"] == []
    assert result["rolled_back"] == ["live restore off in the running daemon", f"{box.config} as it was"]
    assert (
        f"Waited 1 s for the daemon (process {pid}) to take {box.config} over after SIGHUP, in vain. Last seen: it"
        " still has live restore off. It says why in its log" in result["msg"]
    )
    assert (box.config.read_text(), box.enabled(), box.engine.pid) == (text, False, pid)
    assert [path.name for path in box.folder.iterdir()] == ["daemon.json"]


def test_what_is_put_back_has_its_mode_owner_attributes_and_link(box: Box) -> None:
    real = box.folder / "site.json"
    box.config.rename(real)
    box.config.symlink_to("site.json")
    real.write_text(REFUSED_LATE)
    os.chown(real, 12, 34)
    real.chmod(0o604)
    os.setxattr(real, "user.managed", b"by the site")
    try:
        with pytest.raises(ModuleFailed) as caught:
            box.module(wait_timeout=1)
        assert caught.value.result["rolled_back"][-1] == f"{real} as it was"
        status = real.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o604)
        assert os.getxattr(real, "user.managed") == b"by the site"
        assert (os.readlink(box.config), real.read_text()) == ("site.json", REFUSED_LATE)
        assert {path.name for path in box.folder.iterdir()} == {"daemon.json", "site.json"}
    finally:
        box.config.unlink()
        real.rename(box.config)


@pytest.mark.parametrize(("text", "words"), REFUSED.items())
def test_a_file_that_the_daemon_would_refuse_is_known_beforehand(box: Box, text: str, words: str) -> None:
    box.config.write_text(text)
    for check in (True, False):
        refusal = box.refusal(check)
        assert refusal.startswith(f"config_file: {box.config}: the daemon would refuse it. ")
        assert words in refusal


def test_a_daemon_that_is_gone(own_box: Box) -> None:
    own_box.engine.kill()
    for check in (True, False):
        with pytest.raises(ModuleFailed) as caught:
            own_box.module(check)
        assert "no answer at" in caught.value.result["msg"]
        assert caught.value.result["changed"] is False
    assert own_box.config.read_text() == SITE_FILE


_HOOKED = """
import itertools, json, os, runpy, signal, subprocess, sys
from ansible.module_utils import basic

hook, payload, token = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = payload.encode(), "legacy"
module, kill, effects = os.getpid(), os.kill, itertools.count(1)

def strike():
    if "run" in hook:
        subprocess.run(hook["run"], check=True, stdout=subprocess.DEVNULL)
    else:
        kill(hook.get("pid", module), getattr(signal, hook["signal"]))

def hooked(effect):
    def call(*arguments, **keywords):
        if os.getpid() != module:
            return effect(*arguments, **keywords)  # the guard
        hit = next(effects) == hook["effect"]
        if hit and hook["when"] == "before":
            strike()
        effect(*arguments, **keywords)
        if hit and hook["when"] == "after":
            strike()
    return call

os.replace, os.kill = hooked(os.replace), hooked(os.kill)
runpy.run_module("ansible_collections.hep.gridbox.plugins.modules.live_restore", run_name="__main__", alter_sys=True)
"""


def _start_hooked(box: Box, hook: dict[str, t.Any], token: str = "", **arguments: t.Any) -> subprocess.Popen[bytes]:
    """The module, with something done to it or its daemon before or after one of its effects: a rename, a signal."""
    payload = json.dumps({"ANSIBLE_MODULE_ARGS": {**box.arguments, **arguments}})
    return subprocess.Popen(
        [sys.executable, "-c", _HOOKED, json.dumps(hook), payload, token],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _run_with_hook(box: Box, hook: dict[str, t.Any], **arguments: t.Any) -> dict[str, t.Any]:
    out, err = _start_hooked(box, hook, **arguments).communicate(timeout=60)
    assert out, err.decode()
    return t.cast("dict[str, t.Any]", json.loads(out))


def _wait_for_the_guard(token: str) -> None:
    """Until no process of that module is left."""
    deadline = time.monotonic() + 30
    while True:
        left = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and token.encode() in (process / "cmdline").read_bytes():
                    left.append(process.name)
        if not left:
            return
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("state", "effect"), [("present", 1), ("present", 2), ("absent", 1), ("absent", 2), ("absent", 3)]
)
def test_killed_at_any_step_it_leaves_the_state_before(box: Box, state: str, effect: int, when: str) -> None:
    text = SITE_FILE if state == "present" else SITE_FILE.replace("[ ]", '[ ],\n    "live-restore": true')
    box.put(text, state == "absent")
    token = f"killed-{os.getpid()}-{state}-{effect}-{when}"
    module = _start_hooked(box, {"effect": effect, "when": when, "signal": "SIGKILL"}, token, state=state)
    out, _err = module.communicate(timeout=60)
    assert (module.returncode, out) == (-signal.SIGKILL, b"")
    _wait_for_the_guard(token)
    time.sleep(0.3)  # a reload that was still under way would show by now
    assert (box.config.read_text(), box.enabled()) == (text, state == "absent")
    assert [path.name for path in box.folder.iterdir()] == ["daemon.json"]
    assert box.module(state=state)["changed"]  # and it can be run again
    assert box.enabled() is (state == "present")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("effect", [1, 2])
def test_killed_where_there_was_no_file_it_leaves_none(box: Box, effect: int, when: str) -> None:
    box.config.unlink()
    token = f"killed-{os.getpid()}-missing-{effect}-{when}"
    module = _start_hooked(box, {"effect": effect, "when": when, "signal": "SIGKILL"}, token)
    module.communicate(timeout=60)
    assert module.returncode == -signal.SIGKILL
    _wait_for_the_guard(token)
    time.sleep(0.3)  # a reload that was still under way would show by now
    assert (list(box.folder.iterdir()), box.enabled()) == ([], False)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_told_to_end_it_puts_back_and_says_so(box: Box, number: str) -> None:
    result = _run_with_hook(box, {"effect": 2, "when": "after", "signal": number})
    assert result["failed"] and result["changed"]
    assert result["rolled_back"] == ["live restore off in the running daemon", f"{box.config} as it was"]
    assert (box.config.read_text(), box.enabled()) == (SITE_FILE, False)


def test_a_file_that_someone_else_changes_meanwhile_is_left_alone(box: Box) -> None:
    box.config.write_text(REFUSED_LATE)
    other = box.folder.parent / "other.json"
    other.write_text('{"debug": 2}')
    edit = ["cp", str(other), str(box.config)]
    result = _run_with_hook(box, {"effect": 2, "when": "after", "run": edit}, wait_timeout=1)
    assert result["failed"]
    assert result["not_rolled_back"] == [
        f"{box.config} as it was: {box.config} was changed by someone else meanwhile, and was left alone"
    ]
    assert box.config.read_text() == '{"debug": 2}' and not box.enabled()


def test_the_daemon_dies_before_the_reload(own_box: Box) -> None:
    hook = {"effect": 1, "when": "after", "signal": "SIGKILL", "pid": own_box.engine.pid}
    result = _run_with_hook(own_box, hook)
    assert result["failed"] and result["changed"]
    assert "its process" in result["msg"] and "has ended" in result["msg"]
    assert result["rolled_back"][-1] == f"{own_box.config} as it was" and result["not_rolled_back"] == []
    assert own_box.config.read_text() == SITE_FILE


def test_the_daemon_hangs_during_the_reload(box: Box) -> None:
    pid = box.engine.pid
    try:
        result = _run_with_hook(box, {"effect": 1, "when": "after", "signal": "SIGSTOP", "pid": pid}, wait_timeout=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert result["failed"] and result["changed"]
    assert "no answer at" in result["msg"]
    assert [sentence.split(":")[0] for sentence in result["not_rolled_back"]] == [
        "live restore off in the running daemon"
    ]
    assert box.config.read_text() == SITE_FILE
    time.sleep(0.5)
    assert not box.enabled()  # awake, it has read the file as it is again


@contextlib.contextmanager
def _mounted(*arguments: str) -> t.Iterator[None]:
    subprocess.run(["mount", *arguments], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True, timeout=30)


def test_a_read_only_file_system(box: Box) -> None:
    folder = str(box.folder)
    with _mounted("--bind", folder, folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True, timeout=30)
        for check in (True, False):
            assert (
                box.refusal(check) == f"replacing {box.config}: {folder}: read-only file system. Nothing was touched."
            )


def test_a_full_disk(box: Box) -> None:
    with _mounted("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(box.folder)):
        box.config.write_text(SITE_FILE)
        filler = (box.folder / "filler").open("wb", buffering=0)
        with filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        for check in (True, False):
            assert box.refusal(check) == (
                f"replacing {box.config}: {box.folder}: no space left on device. Nothing was touched."
            )
        (box.folder / "filler").unlink()


def test_a_file_that_is_a_mount_point(box: Box, tmp_path: Path) -> None:
    other = tmp_path / "daemon.json"
    other.write_text(SITE_FILE)
    with _mounted("--bind", str(other), str(box.config)):
        for check in (True, False):
            assert "the file itself is a mount point" in box.refusal(check)


def test_a_file_that_its_owner_has_frozen(box: Box) -> None:
    if subprocess.run(["chattr", "+i", str(box.config)], check=False, capture_output=True, timeout=30).returncode:
        pytest.skip("this file system, or this machine's container, knows no immutable files")
    try:
        for check in (True, False):
            assert f"{box.config} is immutable (chattr +i)" in box.refusal(check)
    finally:
        subprocess.run(["chattr", "-i", str(box.config)], check=True, timeout=30)


# ---- which daemon ---------------------------------------------------------------------------------------------------


def test_the_socket_tells_the_daemon_and_the_pidfile_is_not_needed(box: Box, tmp_path: Path) -> None:
    assert box.module(pidfile=str(tmp_path / "none"))["daemon_pid"] == box.engine.pid


def test_socket_activation(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where another process listens for the daemon, the kernel names that one; SIGHUP must not go there."""
    folder, netns = tmp_path_factory.mktemp("fd"), f"gbt{os.getpid()}-fd"
    path, pidfile, config = folder / "socket", folder / "pid", folder / "daemon.json"
    config.write_text(SITE_FILE)
    # What systemd does (sd_listen_fds(3)): the socket is descriptor 3, the child's own pid is in its environment.
    start = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execvp(sys.argv[2], sys.argv[2:])"
    )
    add_netns(netns)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (folder / "log").open("wb") as log:
        listener.bind(str(path))
        listener.listen()
        daemon = subprocess.Popen(
            [
                sys.executable, "-c", start, str(listener.fileno()),
                "nsenter", f"--net=/run/netns/{netns}", "/usr/sbin/dockerd", "--host", "fd://",
                "--config-file", str(config), "--pidfile", str(pidfile), "--data-root", str(folder / "data"),
                "--exec-root", str(folder / "exec"),
            ],
            pass_fds=[listener.fileno()], stdout=log, stderr=log,
        )  # fmt: skip
        try:
            arguments = {"engine_url": f"unix://{path}", "config_file": str(config)}
            deadline = time.monotonic() + 30
            while not pidfile.exists():
                assert daemon.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.05)
            with pytest.raises(ModuleFailed, match="something else listens on") as caught:
                run_module("live_restore", {**arguments, "pidfile": str(folder / "none")})
            assert "Set pidfile to the daemon's own." in caught.value.result["msg"]
            result = run_module("live_restore", {**arguments, "pidfile": str(pidfile)})
            assert result["changed"] and result["enabled"] and result["daemon_pid"] == daemon.pid
        finally:
            daemon.terminate()
            daemon.wait(timeout=30)
            delete_netns(netns)


# ---- the outage budget ----------------------------------------------------------------------------------------------


def test_the_budget_is_measured_for_every_log_driver(box: Box) -> None:
    # 100 lines of 100 bytes a second on stdout, half as much on stderr.
    writer = "while :; do printf '%099d\\n' 1; printf '%049d\\n' 1 >&2; usleep 10000; done"
    names = []
    try:
        for driver in ("json-file", "local", "none"):
            names.append(f"loud-{driver}")
            box.engine.docker(
                "run", "--detach", "--name", names[-1], "--log-driver", driver, "busybox:test", "sh", "-c", writer
            )
        names.append("loud-terminal")
        box.engine.docker("run", "--detach", "--tty", "--name", names[-1], "busybox:test", "sh", "-c", writer)
        names.append("checked")
        box.engine.docker(
            "run", "--detach", "--name", names[-1], "--health-cmd", "echo healthy", "--health-interval", "1s",
            "busybox:test", "sleep", "1000",
        )  # fmt: skip
        # The truth, from the side: what the daemon writes down for one of them in the very window.
        log = Path(box.engine.docker("inspect", "--format", "{{.LogPath}}", "loud-json-file").stdout.strip())
        lines, begin = log.read_bytes().count(b'"stream":"stdout"'), time.monotonic()
        budget = {entry["container"]: entry for entry in box.info(budget_window=3)["outage_budget"]}
        rate = (log.read_bytes().count(b'"stream":"stdout"') - lines) * 100 / (time.monotonic() - begin)
        for name in ("loud-json-file", "loud-local", "loud-none"):
            entry = budget[name]
            assert (entry["stream"], entry["capacity"]) == ("stdout", 131072)
            assert entry["daemon_bytes"] == (0 if name == "loud-none" else 2049152)
            assert entry["bytes_per_second"] == pytest.approx(rate, rel=0.1)
            assert entry["seconds"] == pytest.approx(131072 / rate, rel=0.1)
        assert budget["loud-terminal"]["capacity"] == 69632
        assert budget["loud-terminal"]["bytes_per_second"] == pytest.approx(
            1.52 * rate, rel=0.1
        )  # with carriage returns
        for name in ("vobox1", "checked"):  # the output of health checks does not go there
            assert (budget[name]["bytes_per_second"], budget[name]["seconds"]) == (0, None)
        [entry] = [entry for entry in box.module(budget_window=1)["outage_budget"] if entry["container"] == "loud-none"]
        # Another second, in which a busy machine may let it write less.
        assert 0.4 * rate < entry["bytes_per_second"] < 1.6 * rate
    finally:
        box.engine.docker("rm", "--force", *names)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_flood_loses_with_its_daemon_is_announced(own_box: Box, number: int) -> None:
    """What the daemon has read and not yet written: it does not wait for its log when it is stopped either."""
    own_box.module()
    flood = 'BEGIN { while (1) printf "%099d\\n", ++n }'
    own_box.engine.docker(
        "run",
        "--detach",
        "--name",
        "flood",
        "--log-opt",
        "mode=blocking",
        "--log-opt",
        "max-size=4g",
        "busybox:test",
        "awk",
        flood,
    )
    [entry] = [one for one in own_box.info(budget_window=1)["outage_budget"] if one["container"] == "flood"]
    own_box.engine.kill(number)
    own_box.engine.start()
    time.sleep(1)  # some lines by the next daemon
    own_box.engine.docker("kill", "flood")
    log = Path(own_box.engine.docker("inspect", "--format", "{{.LogPath}}", "flood").stdout.strip())
    lines = [int(line) for line in re.findall(r'"log":"(\d{99})\\n"', log.read_text())]
    lost = sum(after - before - 1 for before, after in itertools.pairwise(lines)) * 100
    assert lines[0] == 1 and 0 <= lost <= entry["daemon_bytes"]


# ---- others ---------------------------------------------------------------------------------------------------------


def test_podman_has_nothing_to_restore(podman: PodmanService) -> None:
    for check in (True, False):
        result = run_module("live_restore", {"engine_url": podman.url}, check=check)
        assert not result["changed"] and result["actions"] == [] and result["daemon_pid"] is None
        assert result["msg"].startswith("Podman has no daemon that its containers depend on")
    info = run_module("live_restore_info", {"engine_url": podman.url})
    assert info["outage_budget"] == [] and info["msg"] == result["msg"]


def test_the_info_module_says_what_is_wrong(box: Box) -> None:
    info = box.info()
    assert info["findings"] == [] and info["enabled"] is False and info["configured"] is None and info["flag"] is None
    assert [process["container"] for process in info["processes"]] == ["vobox1"]
    box.config.write_text('{"live-restore": true}')
    [finding] = box.info()["findings"]
    assert finding == (
        f"{box.config} has live-restore at True, but the running daemon has it off: it was not reloaded, or refused to"
    )


@pytest.mark.parametrize("module", ["live_restore", "live_restore_info"])
def test_the_examples_run(box: Box, module: str, tmp_path: Path) -> None:
    source = (ROOT / f"plugins/modules/{module}.py").read_text()
    tasks = yaml.safe_load(source.split('EXAMPLES = r"""')[1].split('"""')[0])
    defaults = {
        "group/hep.gridbox.gridbox": {"engine_url": box.engine.url},
        f"hep.gridbox.{module}": {key: box.arguments[key] for key in ("config_file", "pidfile")},
    }
    printed = play(box.engine.netns, tmp_path, module_defaults=defaults, tasks=tasks)
    assert f"ok={len(tasks)} " in printed and "failed=0" in printed

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_container on a real engine: what it makes, changes in place, swaps, refuses and takes back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.integration.macvlan_world import wait_until
from tests.lab.modules import ModuleFailed

WEB = "#!/bin/sh\nhttpd -p 80 -h /www\n"
NETWORK = "voboxes"


def make_network(lab: Lab) -> None:
    lab.docker(
        "network", "create", "--driver", "macvlan", "--opt", "parent=site0", "--ipv6", "--subnet", "10.213.0.0/16",
        "--gateway", "10.213.0.1", "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", NETWORK,
    )  # fmt: skip


@pytest.fixture(scope="module")
def network(lab: Lab) -> t.Iterator[str]:
    make_network(lab)
    yield NETWORK
    lab.docker("network", "rm", NETWORK)


class Box:
    """One VO-box of a test: its arguments, with what a test changes."""

    def __init__(self, lab: Lab, name: str, number: int, files: Path) -> None:
        self.lab = lab
        self.name = name
        self.files = files
        self.address4, self.address6 = f"10.213.1.{number}", f"fd13:213::1:{number}"
        self.arguments: dict[str, t.Any] = {
            "name": name,
            "image": "busybox:test",
            "hostname": f"{name}.example.org",
            "network": {"name": NETWORK, "ipv4": self.address4, "ipv6": self.address6},
            "init_script": WEB,
            "services": [{"name": "web", "port": 80}],
            "limits": {"nofile": "4096:8192"},
            "stop_timeout": 5,
            "swap": {"health_timeout": 10},
            "files": str(files),
        }

    def run(self, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        return self.lab.module("vobox_container", check=check, **{**self.arguments, **changes})

    def bare(self, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        """With nothing given but the name."""
        return self.lab.module("vobox_container", check=check, name=self.name, files=str(self.files), **arguments)

    def fails(self, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        with pytest.raises(ModuleFailed) as failed:
            self.run(check, **changes)
        return failed.value.result

    def inspect(self, template: str = "{{json .}}") -> t.Any:
        return json.loads(self.lab.docker("inspect", "--type", "container", "--format", template, self.name))

    @property
    def id(self) -> str:
        return str(self.inspect("{{json .Id}}"))

    def page(self) -> str:
        """What a machine on the LAN gets, over IPv4 and IPv6."""
        got = [
            self.lab.from_peer("curl", "--silent", "--show-error", "--max-time", "5", f"http://{address}/").stdout
            for address in (self.address4, f"[{self.address6}]")
        ]
        assert got[0] == got[1]
        return got[0]

    def containers(self) -> list[str]:
        return sorted(
            name
            for name in self.lab.docker("ps", "--all", "--format", "{{.Names}}").split()
            if name.startswith(self.name)
        )

    def everything(self) -> dict[str, t.Any]:
        """All that a change could touch, looked at with other tools than the module's."""
        there = self.containers()
        inspect = self.inspect() if self.name in there else None
        if inspect:
            inspect["Mounts"].sort(key=lambda mount: mount["Destination"])  # the engine tells them in any order
        return {
            "containers": there,
            "inspect": inspect,
            "files": {
                str(path.relative_to(self.files)): path.read_bytes() if path.is_file() else path.is_symlink()
                for path in sorted(self.files.rglob("*"))
            },
            "volumes": sorted(self.lab.docker("volume", "ls", "--quiet").split()),
        }


@pytest.fixture()
def box(lab: Lab, network: str, tmp_path: Path, request: pytest.FixtureRequest) -> t.Iterator[Box]:
    number = sum(request.node.name.encode()) % 200 + 20
    made = Box(lab, f"vb{number}", number, tmp_path / "voboxes")
    yield made
    left = made.containers()
    if left:
        lab.docker("rm", "--force", "--volumes", *left)


def test_brings_up_a_vobox_and_a_second_run_changes_nothing(box: Box) -> None:
    made = box.run()
    assert [step["action"] for step in made["actions"]] == [
        "write_init_script", "create_container", "start_container", "remember_services",
    ]  # fmt: skip
    assert box.page() == "here I am\n"
    before = box.id
    again = box.run()
    assert (again["changed"], again["actions"]) == (False, [])
    assert box.id == before == again["container"]["id"]
    assert again["init_script"]["active_sha256"] == made["init_script"]["sha256"]


def test_check_mode_tells_what_happens_and_touches_nothing(box: Box) -> None:
    """The nine-step proof: create, then a change that needs a new container."""
    nothing = box.everything()
    preview = box.run(check=True)
    assert box.everything() == nothing
    made = box.run()
    assert made["actions"] == preview["actions"]
    for key in ("identity", "limits", "privileges"):
        assert made[key] == preview[key]
    assert preview["container"]["id"] is None
    assert preview["init_script"]["sha256"] == made["init_script"]["sha256"]

    baseline = box.everything()
    changes = {"hostname": f"other-{box.name}.example.org", "network": {"name": NETWORK, "ipv4": box.address4}}
    preview = box.run(check=True, hostname=changes["hostname"])
    assert [step["action"] for step in preview["actions"]] == ["swap_container"]
    assert preview["disruption"] == "container"
    assert preview["diff"]["before"]["hostname"] == f"{box.name}.example.org"
    assert preview["diff"]["after"]["hostname"] == changes["hostname"]
    assert preview["identity"]["hostname"] == changes["hostname"]
    assert box.everything() == baseline
    assert box.run(check=True)["changed"] is False
    applied = box.run(hostname=changes["hostname"])
    assert applied["actions"] == preview["actions"]
    assert applied["identity"] == preview["identity"]
    assert box.run(check=True, hostname=changes["hostname"])["changed"] is False
    gone = box.bare(state="absent", check=True)
    box.bare(state="absent")
    assert [step["action"] for step in gone["actions"]] == ["remove_container", "remove_files"]
    assert box.everything() == nothing


def changes_of_every_kind(box: Box, host_folder: Path) -> list[tuple[str, dict[str, t.Any], list[str]]]:
    return [
        ("restart policy", {"restart_policy": "always"}, ["update_container"]),
        ("memory", {"limits": {"nofile": "4096:8192", "memory": "64m"}}, ["update_container"]),
        ("cpus", {"limits": {"nofile": "4096:8192", "cpus": 0.5}}, ["update_container"]),
        ("pids", {"limits": {"nofile": "4096:8192", "pids": 512}}, ["update_container"]),
        ("services", {"services": [{"name": "web", "port": 80, "protocol": "tcp"}, {"name": "http", "port": 81}],
                      "init_script": WEB + "httpd -p 81 -h /www\n"},
         ["write_init_script", "restart_services", "remember_services"]),
        ("open files", {"limits": {"nofile": "1024:8192"}}, ["swap_container"]),
        ("log", {"log": {"max_size": "1m", "max_file": 2}}, ["swap_container"]),
        ("environment", {"environment": {"SITE": "CERN"}}, ["swap_container"]),
        ("labels", {"labels": {"site": "CERN"}}, ["swap_container"]),
        ("volumes", {"volumes": [{"source": str(host_folder), "target": "/var/log/vobox", "read_only": True}]},
         ["swap_container"]),
        ("near full", {"privileges": {"profile": "near_full"}}, ["swap_container"]),
        ("capabilities", {"privileges": {"capabilities": ["KILL", "CAP_NET_BIND_SERVICE", "net_admin"]}},
         ["swap_container"]),
        ("health", {"health": {"test": ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"]}}, ["swap_container"]),
        ("dns", {"dns": {"servers": ["10.213.0.1"], "search": ["example.org"], "hosts": {"squid": "10.213.0.2"}}},
         ["swap_container"]),
        ("sysctls", {"sysctls": {"net.ipv4.ip_forward": "1"}}, ["swap_container"]),
        ("MAC", {"network": {"name": NETWORK, "mac": "02:00:00:00:aa:01"}}, ["swap_container"]),
    ]  # fmt: skip


def test_predicted_actions_are_the_real_ones_for_every_kind_of_change(box: Box, tmp_path: Path) -> None:
    """One VO-box, one change after the other; after each: nothing more to do, and the services are reached."""
    box.run()
    for what, change, expected in changes_of_every_kind(box, tmp_path):
        before = box.id
        box.arguments.update(change)
        preview = box.run(check=True)
        assert [step["action"] for step in preview["actions"]] == expected, what
        applied = box.run()
        assert applied["actions"] == preview["actions"], what
        assert applied["limits"] == preview["limits"], what
        assert applied["privileges"] == preview["privileges"], what
        assert applied["identity"] == preview["identity"], what
        assert (box.id == before) == ("swap_container" not in expected), what
        assert box.run(check=True)["actions"] == [], what
        assert box.page() == "here I am\n", what
    # What was not asked for again was taken over by each swap.
    assert box.inspect("{{json .HostConfig.RestartPolicy.Name}}") == "always"
    assert box.inspect("{{json .HostConfig.Memory}}") == 64 << 20
    assert box.containers() == [box.name]


@pytest.mark.parametrize("state", ["present", "stopped"])
def test_what_is_to_be_mounted_is_missed_by_check_mode_too(box: Box, tmp_path: Path, state: str) -> None:
    """The engine wants it when a container is made, whether that starts or not."""
    volumes = [{"source": str(tmp_path / "missing"), "target": "/data"}]
    for check in (True, False):
        failed = box.fails(check, state=state, volumes=volumes)
        assert "there is no such path on this host" in failed["msg"]
        assert not failed["changed"]


def test_limits_that_were_put_in_another_way(box: Box) -> None:
    """By ``docker update --cpu-quota``, which the engine does not exchange for the other way in a living container."""
    box.run()
    box.lab.docker("update", "--cpu-quota", "50000", box.name)
    limits = {"nofile": "4096:8192", "cpus": 0.6}
    assert [step["action"] for step in box.run(limits=limits)["actions"]] == ["swap_container"]
    assert box.inspect("{{json .HostConfig.NanoCpus}}") == 600_000_000


def test_a_start_that_fails_leaves_limits_and_restart_policy(box: Box) -> None:
    box.run()
    box.run(state="stopped")
    box.lab.docker("update", "--restart", "on-failure:5", box.name)
    before = box.everything()["inspect"]["HostConfig"]
    limits = {"nofile": "4096:8192", "memory": "64m", "cpus": 0.5}
    nobody = [{"name": "nobody", "port": 99}]
    failed = box.fails(limits=limits, restart_policy="always", services=nobody, swap={"health_timeout": 2})
    assert failed["failed_action"]["action"] == "start_container"
    assert box.everything()["inspect"]["HostConfig"] == before


def test_state(box: Box) -> None:
    present = box.run(state="present")
    assert "start_container" not in [step["action"] for step in present["actions"]]
    assert box.inspect("{{json .State.Running}}") is False
    assert box.run(state="present")["changed"] is False
    assert box.run(state="stopped")["changed"] is False
    started = box.run()
    assert [step["action"] for step in started["actions"]] == ["start_container"]
    assert box.page() == "here I am\n"
    made = box.id
    stopped = box.bare(state="stopped")
    assert [step["action"] for step in stopped["actions"]] == ["stop_container"]
    assert stopped["disruption"] == "container"
    assert (box.bare(state="stopped")["changed"], box.inspect("{{json .State.Running}}")) == (False, False)
    assert box.bare()["changed"]
    assert box.id == made
    box.bare(state="absent")
    assert box.containers() == []
    assert not box.files.exists()
    assert box.bare(state="absent")["changed"] is False


def test_a_stopped_vobox_is_replaced_too(box: Box) -> None:
    box.run(state="present")
    before = box.id
    assert box.run(state="present", environment={"A": "1"})["swap"]["old_id"] == before
    assert box.inspect("{{json .State.Running}}") is False
    preview = box.run(check=True, environment={"A": "2"})
    applied = box.run(environment={"A": "2"})
    assert applied["actions"] == preview["actions"]
    assert box.page() == "here I am\n"
    assert box.containers() == [box.name]


def test_the_init_script_is_changed_in_place(box: Box) -> None:
    first = box.run()
    before = (box.id, box.inspect("{{json .Image}}"), box.inspect("{{json .State.Pid}}"))
    new_script = WEB + "echo second > /tmp/version\nhttpd -p 8080 -h /www\n"
    services = [{"name": "web", "port": 80}, {"name": "other", "port": 8080}]
    preview = box.run(check=True, init_script=new_script, services=services)
    changed = box.run(init_script=new_script, services=services, max_disruption="service")
    assert changed["actions"] == preview["actions"]
    assert changed["disruption"] == "service"
    # Same container, same image, same PID 1; the new command is active, the old version is kept.
    assert (box.id, box.inspect("{{json .Image}}"), box.inspect("{{json .State.Pid}}")) == before
    assert box.lab.docker("exec", box.name, "cat", "/tmp/version") == "second\n"
    assert changed["init_script"]["active_sha256"] == changed["init_script"]["sha256"]
    assert (
        changed["init_script"]["previous_sha256"]
        == first["init_script"]["sha256"]
        == preview["init_script"]["previous_sha256"]
    )
    assert box.lab.from_peer("curl", "-s", f"http://{box.address4}:8080/").stdout == "here I am\n"

    # Back to the version before, by its hash.
    del box.arguments["init_script"]
    back = box.run(init_script_version=changed["init_script"]["previous_sha256"])
    assert back["init_script"]["active_sha256"] == first["init_script"]["sha256"]
    assert back["init_script"]["previous_sha256"] == changed["init_script"]["sha256"]
    assert box.lab.from_peer("curl", "-s", f"http://{box.address4}:8080/", check=False).returncode
    assert box.page() == "here I am\n"
    assert box.run(init_script_version=first["init_script"]["sha256"])["changed"] is False
    assert (box.id, box.inspect("{{json .Image}}"), box.inspect("{{json .State.Pid}}")) == before


def test_a_vobox_with_a_new_init_script_is_still_restarted_when_it_fails(box: Box) -> None:
    """Docker takes a container that it was asked to signal for one that somebody has stopped."""
    box.run()
    second = {"init_script": WEB + "echo second > /tmp/version\n"}
    box.run(**second)
    told = ("exec", box.name, "cat", "/tmp/version")
    assert box.lab.docker(*told) == "second\n"
    # By hand, as docs/init-script.md has it.
    box.lab.docker("exec", box.name, "rm", "/tmp/version")
    box.lab.docker("exec", box.name, "sh", "-c", "kill -HUP 1", check=False)  # the signal ends this shell too
    wait_until(lambda: box.lab.docker(*told, check=False) == "second\n", "the script to be run again", 20)
    os.kill(box.inspect("{{json .State.Pid}}"), signal.SIGKILL)
    wait_until(lambda: box.inspect("{{json .RestartCount}}") == 1, "the engine to restart the container", 20)
    wait_until(lambda: box.lab.docker(*told, check=False) == "second\n", "the script to be run at the restart", 20)
    assert box.run(**second)["changed"] is False


def test_an_init_script_edited_by_hand_is_seen_and_kept(box: Box) -> None:
    first = box.run()
    script = box.files / box.name / "init" / "current" / "init.sh"
    script.write_text(WEB + "# by hand\n")
    assert box.run(check=True)["init_script"]["drift"] is True
    [vobox] = box.lab.module("vobox_info", name=box.name, files=str(box.files))["voboxes"]
    assert vobox["init_script"]["drift"] is True
    repaired = box.run()
    assert [step["action"] for step in repaired["actions"]] == ["write_init_script", "restart_services"]
    assert "by hand" in repaired["actions"][0]["reason"]
    assert script.read_text() == WEB
    assert repaired["init_script"]["sha256"] == first["init_script"]["sha256"]
    kept = box.files / box.name / "init" / "versions" / repaired["init_script"]["previous_sha256"] / "init.sh"
    assert kept.read_text() == WEB + "# by hand\n"
    assert box.run()["changed"] is False


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nexit 3\n", "status 3|exit code 3"),
        ("#!/bin/sh\ntrue\n", "nothing listens for web"),
        ("#!/no/such/shell\ntrue\n", "127|126|ended"),
    ],
)
def test_an_init_script_that_fails_is_taken_back(box: Box, script: str, said: str) -> None:
    made = box.run()
    failure = box.fails(init_script=script, swap={"health_timeout": 3})
    assert failure["changed"] is True
    assert re.search(said, failure["msg"])
    assert failure["not_rolled_back"] == []
    assert box.id == made["container"]["id"]
    assert box.page() == "here I am\n"
    assert box.run()["changed"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init_script": "#!/bin/sh\necho I cannot; exit 4\n", "environment": {"A": "1"}}, "4"),
        ({"init_script": "#!/bin/sh\ntrue\n", "environment": {"A": "1"}}, "nothing listens for web"),
        ({"health": {"test": ["false"]}}, "health test ended with 1"),
        ({"health": {"test": ["/no/such/program"]}}, "health test"),
    ],
)
def test_an_old_container_comes_back_when_the_new_one_is_not_well(
    box: Box, change: dict[str, t.Any], said: str
) -> None:
    made = box.run()
    files = box.everything()["files"]
    failure = box.fails(swap={"health_timeout": 3}, **change)
    assert failure["changed"] is True
    assert said in failure["msg"]
    assert failure["not_rolled_back"] == []
    assert box.id == made["container"]["id"]
    assert box.page() == "here I am\n"
    assert box.containers() == [box.name]
    assert box.everything()["files"].keys() == files.keys()
    assert box.run()["changed"] is False


def test_a_new_vobox_that_does_not_start_leaves_nothing(box: Box) -> None:
    nothing = box.everything()
    failure = box.fails(init_script="#!/bin/sh\necho no luck; exit 5\n")
    assert "no luck" in failure["msg"]
    assert failure["not_rolled_back"] == []
    assert box.everything() == nothing


def test_a_container_started_by_hand_is_adopted(box: Box) -> None:
    box.lab.docker(
        "run", "--detach", "--name", box.name, "--hostname", f"{box.name}.example.org", "--network", NETWORK,
        "--ip", box.address4, "--ip6", box.address6, "--ulimit", "nofile=4096:8192",
        "--volume", f"{box.name}-state:/state", "--restart", "unless-stopped", "--log-opt", "max-size=10m",
        "--env", "A=1", "--label", "b=2", "--memory", "64m", "--cap-add", "NET_ADMIN", "--tmpfs", "/scratch",
        "busybox:test", "httpd", "-f", "-p", "80", "-h", "/www",
    )  # fmt: skip
    try:
        made = box.id
        wish: dict[str, t.Any] = {
            "image": "busybox:test",
            "hostname": f"{box.name}.example.org",
            "network": {"name": NETWORK, "ipv4": box.address4, "ipv6": box.address6},
            "limits": {"nofile": "4096:8192", "memory": "64M"},
            "volumes": [{"source": f"{box.name}-state", "target": "/state/"}],
            "restart_policy": "unless-stopped",
            "log": {"driver": "json-file", "max_size": "10240k"},
            "environment": {"A": "1"},
            "labels": {"b": "2"},
        }
        adopted = box.bare(**wish)
        assert (adopted["changed"], adopted["container"]["id"]) == (False, made)
        assert adopted["privileges"]["profile"] == "least"
        assert "NET_ADMIN" in adopted["privileges"]["capabilities"]
        # A difference means a new container, and what nobody named is as it was.
        swapped = box.bare(**{**wish, "labels": {"b": "3"}})
        assert [step["action"] for step in swapped["actions"]] == ["swap_container"]
        assert box.page() == "here I am\n"
        after = box.inspect()
        assert after["Config"]["Cmd"] == ["httpd", "-f", "-p", "80", "-h", "/www"]
        assert list(after["HostConfig"]["Tmpfs"]) == ["/scratch"]
        assert after["HostConfig"]["Memory"] == 64 << 20
        assert "NET_ADMIN" in after["HostConfig"]["CapAdd"]
    finally:
        box.bare(state="absent")
        box.lab.docker("volume", "rm", f"{box.name}-state")


def test_info_tells_what_listens(box: Box) -> None:
    services = [{"name": "web", "port": 80}, {"name": "time", "port": 123, "protocol": "udp"}]
    box.run()
    box.run(services=services)
    box.lab.docker("exec", box.name, "killall", "httpd")
    # The image has no UDP service of its own: one of the host, in the container's network namespace.
    listen = (
        "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 123)); print(flush=True);"
        " time.sleep(60)"
    )
    netns = f"--net=/proc/{box.inspect('{{json .State.Pid}}')}/ns/net"
    with subprocess.Popen(["nsenter", netns, sys.executable, "-c", listen], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        [vobox] = box.lab.module("vobox_info", files=str(box.files))["voboxes"]
        listener.kill()
    assert {service["name"]: service["up"] for service in vobox["services"]} == {"web": False, "time": True}
    assert vobox["container"]["id"] == box.id
    assert vobox["image_layers"] == 1
    assert vobox["age_seconds"] >= 0
    assert box.lab.module("vobox_info", name="nobody")["voboxes"] == []


def test_what_engines_changed_their_minds_about_is_pinned(box: Box) -> None:
    """The MAC, nofile, log, restart policy and router advertisements of a VO-box with nothing but the necessary."""
    for option in ("limits", "init_script", "services"):
        box.arguments.pop(option)
    made = box.run(command=["httpd", "-f", "-p", "80", "-h", "/www"])
    host = box.inspect("{{json .HostConfig}}")
    assert box.inspect("{{json .Config.MacAddress}}") == made["identity"]["mac"]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": str(10 << 20), "max-file": "5"}}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert [limit["Name"] for limit in host["Ulimits"]] == ["nofile", "core"]
    inside = box.lab.docker("exec", box.name, "cat", "/proc/1/limits")
    soft, hard = made["limits"]["nofile"].split(":")
    assert [line.split()[3:5] for line in inside.splitlines() if line.startswith("Max open files")] == [[soft, hard]]
    for key in ("accept_ra", "autoconf"):
        assert box.lab.docker("exec", box.name, "cat", f"/proc/sys/net/ipv6/conf/default/{key}") == "0\n"
    status = box.lab.docker("exec", box.name, "cat", "/proc/1/status")
    [held] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd")]
    assert bin(held).count("1") == len(made["privileges"]["capabilities"]) == 11


def test_a_value_that_is_the_images_own_is_no_difference(box: Box) -> None:
    box.lab.docker("create", "--name", f"{box.name}-source", "busybox:test", "true")
    image = f"{box.name}:test"
    box.lab.docker(
        "commit", "--change", "ENV LANG=C.UTF-8", "--change", "LABEL vendor=site", f"{box.name}-source", image
    )
    try:
        box.arguments.update(image=image, environment={"LANG": "C.UTF-8", "A": "1"}, labels={"vendor": "site"})
        box.run()
        assert box.run()["changed"] is False
        box.run(environment={"LANG": "C"}, labels={"vendor": "other"})
        box.run()
        assert {"LANG=C.UTF-8", "A=1"} <= set(box.inspect("{{json .Config.Env}}"))
        assert box.inspect("{{json .Config.Labels}}")["vendor"] == "site"
        assert box.run()["changed"] is False
    finally:
        box.lab.docker("rm", "--force", *box.containers())
        box.lab.docker("image", "rm", image)


def test_a_container_named_in_two_halves_by_hand_is_adopted_and_swapped(box: Box) -> None:
    box.lab.docker(
        "run", "--detach", "--name", box.name, "--hostname", box.name, "--domainname", "example.org",
        "--network", NETWORK, "--ip", box.address4, "--ip6", box.address6, "--log-opt", "max-size=10m",
        "busybox:test", "httpd", "-f", "-p", "80", "-h", "/www",
    )  # fmt: skip
    wish = {"hostname": f"{box.name}.example.org"}
    assert box.bare(**wish)["changed"] is False
    box.bare(**wish, labels={"a": "1"})
    assert box.lab.docker("exec", box.name, "hostname") == f"{box.name}.example.org\n"
    assert box.bare(**wish, labels={"a": "1"})["changed"] is False


def test_a_log_size_that_the_driver_in_use_does_not_know_is_refused(box: Box) -> None:
    box.run(state="present", log={"driver": "journald"})
    before = box.everything()
    for check in (True, False):
        failure = box.fails(check, state="present", log={"max_size": "1m"})
        assert f"log.max_size: 1048576: the log driver of {box.name} is journald" in failure["msg"]
    assert box.everything() == before


def test_files_of_others_are_not_removed_with_the_vobox(box: Box) -> None:
    box.run(volumes=[{"source": str(box.files.parent), "target": "/state"}])
    mine = box.files / box.name / "state"
    mine.mkdir()
    (mine / "queue").write_text("jobs")
    before = box.everything()
    for check in (True, False):
        failure = box.fails(check, state="absent")
        assert f"{box.files}/{box.name} holds state, which this module has not made" in failure["msg"]
        assert (failure["changed"], failure["actions"]) == (False, [])
    assert box.everything() == before
    mine.rename(box.files.parent / "state")
    box.bare(state="absent")
    assert not box.files.exists()


def test_damaged_files_on_the_host_are_told_in_a_sentence(box: Box) -> None:
    box.run(state="present")
    services = box.files / box.name / "services.json"
    services.write_text("[")
    for check, state in ((True, "started"), (False, "absent")):
        failure = box.fails(check, state=state)
        assert f"files: {services}: it is not the list of services" in failure["msg"]
        assert "exception" not in failure
    services.unlink()
    assert [step["action"] for step in box.run(state="present")["actions"]] == ["remember_services"]


def test_disruption_is_bounded(box: Box) -> None:
    box.run()
    before = box.everything()
    for change, limit in (({"environment": {"A": "1"}}, "service"), ({"init_script": WEB + "true\n"}, "reload")):
        for check in (True, False):
            failure = box.fails(check, max_disruption=limit, **change)
            assert f"max_disruption: {limit}" in failure["msg"]
            assert (failure["changed"], failure["actions"]) == (False, [])
    assert box.everything() == before


# ---- what is refused before anything is touched ---------------------------------------------------------------------

REFUSED: list[tuple[dict[str, t.Any], str]] = [
    ({"image": "no/such:image"}, "image: no/such:image: there is no such image on this host"),
    ({"network": {"name": "nonesuch", "ipv4": "10.213.1.5"}}, "network.name: nonesuch: the engine has no such network"),
    ({"network": {"name": NETWORK, "ipv4": "10.99.0.1"}}, "network.ipv4: 10.99.0.1: network voboxes has the subnets"),
    ({"network": {"name": NETWORK, "ipv4": "10.213.0.1"}}, "it is the gateway of 10.213.0.0/16"),
    ({"network": {"name": NETWORK, "ipv4": "10.213.0.9"}}, "on the LAN has it already"),
    ({"network": {"name": NETWORK, "ipv6": "fd13:213::9"}}, "on the LAN has it already"),
    ({"limits": {"nofile": "4096:99999999"}}, "limits.nofile: 4096:99999999: "),
    ({"limits": {"nofile": "4096:-1"}}, "limits.nofile: got '4096:-1', expected numbers of 1 or more"),
    ({"limits": {"cpus": 4000}}, "limits.cpus: 4000.0: this host has "),
    ({"limits": {"pids": 2**70}}, "limits.pids"),
    ({"labels": {"hep.gridbox.replaces": "{}"}}, "labels.hep.gridbox.replaces: got '{}'"),
    ({"limits": {"nofile": "soft"}}, "limits.nofile: got 'soft', expected soft:hard"),
    ({"privileges": {"capabilities": ["FLY"]}}, "privileges.capabilities[0]: got 'FLY', expected a Linux capability"),
    ({"privileges": {"devices": ["/dev/nonesuch"]}}, "privileges.devices[0]: /dev/nonesuch: there is no such file"),
    ({"log": {"driver": "papyrus"}}, "log.driver: papyrus: the engine has "),
    ({"init_script": "#!/bin/sh\nif true\n"}, "a script that /bin/sh can read"),
    ({"init_script": "httpd\n"}, "a first line that names the interpreter"),
    ({"volumes": [{"source": "/no/such/folder", "target": "/x"}]}, "there is no such path on this host"),
    ({"cvmfs": {"path": "/no/such/cvmfs"}}, "cvmfs.path: /no/such/cvmfs: there is no such folder"),
    (
        {"host_certificate": {"certificate": "/no/such.pem", "key": "/no/such.key"}},
        "host_certificate.certificate: /no/such.pem: it cannot be read (No such file or directory)",
    ),
    ({"hostname": "vobox"}, "hostname: got 'vobox', expected a fully qualified domain name"),
    ({"environment": {"A": True}}, "environment.A: got True, expected text"),
    ({"name": "../x"}, "name: got '../x'"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said[:50] for _change, said in REFUSED])
def test_bad_input_is_refused_in_a_sentence_and_nothing_is_touched(
    box: Box, change: dict[str, t.Any], said: str
) -> None:
    nothing = box.everything()
    for check in (True, False):
        failure = box.fails(check, **change)
        assert said in failure["msg"]
        assert (failure["changed"], failure["actions"]) == (False, [])
        assert "exception" not in failure
        assert "Traceback" not in json.dumps(failure)
    assert box.everything() == nothing


def test_full_privileges_are_refused_where_the_engine_could_not_start_them(box: Box) -> None:
    held = int(re.findall(r"CapBnd:\s*(\w+)", Path(f"/proc/{box.lab.engine.pid}/status").read_text())[0], 16)
    if held >> 24 & 1:
        pytest.skip("this engine has CAP_SYS_RESOURCE, so it can start a privileged container")
    failure = box.fails(privileges={"profile": "full"})
    assert "SYS_RESOURCE" in failure["msg"]
    assert "Set profile: near_full, which works" in failure["msg"]
    made = box.run(privileges={"profile": "near_full"})
    assert made["privileges"]["profile"] == "near_full"
    assert "SYS_ADMIN" in made["privileges"]["capabilities"]
    assert "SYS_RESOURCE" not in made["privileges"]["capabilities"]
    status = box.lab.docker("exec", box.name, "cat", "/proc/self/status")
    [effective] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff")]
    assert bin(effective).count("1") == len(made["privileges"]["capabilities"])
    assert box.run(privileges={"profile": "near_full"})["changed"] is False


def test_an_address_or_mac_of_another_container_is_refused(box: Box) -> None:
    made = box.run()
    twin = {**box.arguments, "name": f"{box.name}-twin", "hostname": "twin.example.org", "state": "present"}
    for network, said in (
        ({"name": NETWORK, "ipv4": box.address4}, f"network.ipv4: {box.address4}: container {box.name} has it already"),
        ({"name": NETWORK, "ipv6": box.address6}, f"network.ipv6: {box.address6}: container {box.name} has it already"),
        (
            {"name": NETWORK, "ipv4": "10.213.1.250", "mac": made["identity"]["mac"]},
            f"network.mac: {made['identity']['mac']}: container {box.name} has it already",
        ),
    ):
        with pytest.raises(ModuleFailed) as failed:
            box.lab.module("vobox_container", **{**twin, "network": network})
        assert said in failed.value.result["msg"]
    assert box.containers() == [box.name]


def test_addresses_taken_while_the_vobox_was_stopped_are_not_taken_back(box: Box) -> None:
    """Start it, or replace and start it, and the LAN would have them twice."""
    box.run()
    box.bare(state="stopped")
    stopped = box.everything()
    changes: tuple[dict[str, t.Any], ...] = ({}, {"environment": {"A": "1"}})
    for address, length in ((box.address4, "16"), (box.address6, "64")):
        box.lab.from_peer("ip", "address", "add", f"{address}/{length}", "dev", "eth0", "nodad")
        try:
            for change in changes:
                for check in (True, False):
                    failure = box.fails(check, **change)
                    assert f"network: {address}: the machine with the MAC " in failure["msg"]
                    assert (failure["changed"], failure["actions"]) == (False, [])
            assert box.run(check=True, wire_check=False)["actions"]
        finally:
            box.lab.from_peer("ip", "address", "delete", f"{address}/{length}", "dev", "eth0")
    assert box.everything() == stopped
    for change in changes:
        box.bare(state="stopped")
        box.run(**change)
        assert box.page() == "here I am\n"


# ---- what comes from the host ---------------------------------------------------------------------------------------


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "hostcert.pem", folder / "hostkey.pem"
    new_certificate, new_key = folder / "new.pem", folder / "new.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-out", str(new_certificate), "-keyout", str(new_key)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    new_key.chmod(0o400)
    # As renewal tools do it: a new file, renamed over the old one.
    new_certificate.replace(certificate)
    new_key.replace(key)
    return certificate, key


def test_a_host_certificate_and_its_renewal(box: Box, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "pki", f"{box.name}.example.org")
    given = {"host_certificate": {"certificate": str(certificate), "key": str(key)}}
    key.chmod(0o644)
    assert "its mode is 0644. Set it to 0400 or 0600" in box.fails(True, **given)["msg"]
    key.chmod(0o400)
    other, _other_key = make_certificate(tmp_path / "other", "other.example.org")
    wrong = {"host_certificate": {"certificate": str(other), "key": str(key)}}
    assert "are no pair in PEM" in box.fails(True, **wrong)["msg"]

    made = box.run(**given)
    inside = ("exec", box.name, "cat", "/etc/grid-security/hostcert.pem")
    assert box.lab.docker(*inside) == certificate.read_text()
    assert box.run(**given)["changed"] is False
    make_certificate(tmp_path / "pki", f"{box.name}.example.org")
    assert box.lab.docker(*inside) != certificate.read_text()
    renewed = box.run(max_disruption="service", **given)
    assert [step["action"] for step in renewed["actions"]] == ["restart_container"]
    assert box.id == made["container"]["id"]
    assert box.lab.docker(*inside) == certificate.read_text()
    assert box.run(**given)["changed"] is False
    assert box.page() == "here I am\n"


def test_cvmfs_mounts_made_later_are_seen_inside(box: Box, tmp_path: Path) -> None:
    """With rslave; what would not work is refused."""
    root = tmp_path / "cvmfs"
    (root / "alice.cern.ch").mkdir(parents=True)
    cvmfs = {"path": str(root), "repositories": ["alice.cern.ch"]}
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True, timeout=30)
    try:
        subprocess.run(["mount", "--make-private", str(root)], check=True, timeout=30)
        assert "which is not shared, so later mounts would not be seen inside" in box.fails(True, cvmfs=cvmfs)["msg"]
        subprocess.run(["mount", "--make-rshared", str(root)], check=True, timeout=30)
        assert "alice.cern.ch is empty" in box.fails(True, cvmfs=cvmfs)["msg"]
        (root / "alice.cern.ch" / "there").write_text("")
        box.run(cvmfs=cvmfs)
        (root / "later").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root / "later")], check=True, timeout=30)
        (root / "later" / "seen").write_text("")
        assert box.lab.docker("exec", box.name, "ls", "/cvmfs/later") == "seen\n"
        assert box.run(cvmfs=cvmfs)["changed"] is False
        assert "rslave" in box.lab.docker("inspect", "--format", "{{json .Mounts}}", box.name)
    finally:
        if box.containers():
            box.lab.docker("rm", "--force", *box.containers())
        subprocess.run(["umount", "--recursive", "--lazy", str(root)], check=True, timeout=30)


def test_a_replaced_container_is_kept_on_request_and_goes_with_the_vobox(box: Box) -> None:
    first = box.run()["container"]["id"]
    kept = {"environment": {"A": "1"}, "swap": {"keep_previous": True, "health_timeout": 10}}
    swapped = box.run(**kept)
    assert (swapped["swap"]["old_id"], swapped["swap"]["kept"]) == (first, f"{box.name}.previous")
    assert box.containers() == [box.name, f"{box.name}.previous"]
    assert box.run(**kept)["changed"] is False
    [vobox] = box.lab.module("vobox_info", name=box.name, files=str(box.files))["voboxes"]
    assert vobox["leftovers"] == [f"{box.name}.previous"]
    box.bare(state="absent")
    assert box.containers() == []
    assert not box.files.exists()


def test_a_swap_takes_a_second_network_along(box: Box) -> None:
    """Such as the one that gives the host a way to its containers."""
    other = f"{box.name}-way"
    box.run()
    box.lab.docker("network", "create", "--internal", other)
    try:
        box.lab.docker("network", "connect", "--alias", "box", other, box.name)
        before = box.inspect("{{json .NetworkSettings.Networks}}")
        assert box.run()["changed"] is False

        def unlike(networks: dict[str, t.Any]) -> dict[str, t.Any]:
            """Without what is new in each endpoint."""
            kept = ("IPAMConfig", "IPAddress", "GlobalIPv6Address", "Gateway")
            return {name: {key: endpoint[key] for key in kept} for name, endpoint in networks.items()}

        failure = box.fails(swap={"health_timeout": 2}, health={"test": ["false"]})
        assert failure["not_rolled_back"] == []
        assert unlike(box.inspect("{{json .NetworkSettings.Networks}}")) == unlike(before)
        assert box.page() == "here I am\n"

        for state, value in (("started", "1"), ("stopped", "2"), ("started", "3")):
            box.run(state=state, environment={"A": value})
            after = box.inspect("{{json .NetworkSettings.Networks}}")
            assert after.keys() == before.keys()
            assert "box" in after[other]["Aliases"]
            if state == "started":
                box.run(environment={"A": value})
                assert box.page() == "here I am\n"
                subprocess.run(
                    ["nsenter", f"--net=/run/netns/{box.lab.engine.netns}", "curl", "--silent", "--fail", "--max-time",
                     "5", f"http://{after[other]['IPAddress']}/"],
                    check=True, capture_output=True, timeout=30,
                )  # fmt: skip
        assert box.containers() == [box.name]
    finally:
        box.lab.docker("rm", "--force", *box.containers())
        box.lab.docker("network", "rm", other)


def test_neighbours_that_remember_another_machine_are_told(box: Box) -> None:
    """As after a virtual machine whose address the VO-box takes over: without a word they would go on asking there."""
    for address in (box.address4, box.address6):
        stale = ("lladdr", "02:de:ad:00:00:01", "dev", "eth0", "nud", "reachable")
        box.lab.from_peer("ip", "neighbour", "replace", address, *stale)
    box.run()
    table = json.loads(box.lab.from_peer("ip", "-json", "neighbour", "show").stdout)
    [endpoint] = box.inspect("{{json .NetworkSettings.Networks}}").values()
    known = {row["dst"]: row.get("lladdr") for row in table}
    assert {known[box.address4], known[box.address6]} == {endpoint["MacAddress"]}
    assert box.page() == "here I am\n"

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules over SSH on hosts with engines of different ages, whose defaults differ: what is pinned stays as asked.

Engines changed MAC (28: random at each start; 25 and later: none at a later connect), IPv6 (26.1: off unless asked),
gateways (29: none inferred) and open files (before 25: a thousand million; since: 1024 soft).
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from tests.lab.booted import booted
from tests.lab.fleet import NETWORK, Fleet
from tests.lab.image import busybox_tar
from tests.lab.modules_over_ssh import Call, call, feed
from tests.lab.newer import engine_packages
from tests.lab.probe import Reach

#: What a host of each kind has: the engine that is proved on it, and the oldest version of it.
ENGINES = {"native:bookworm:engine": (20, 10), "native:trixie:engine": (26, 1), "vm:trixie:engine": (28, 5)}
HOST = "host1"
WEB = "#!/bin/sh\nhttpd -p 80 -h /www\n"
MAC = "02:00:00:26:01:0a"
ADDRESSES = ("10.213.1.26", "fd13:213::1:26")
VOBOX: dict[str, t.Any] = {
    "name": "vobox1",
    "image": "busybox:test",
    "hostname": "vobox1.example.org",
    "network": {"name": "site", "ipv4": ADDRESSES[0], "ipv6": ADDRESSES[1], "mac": MAC},
    "init_script": WEB,
    "services": [{"name": "web", "port": 80}],
    "limits": {"nofile": "4096:8192"},
    "cvmfs": {"path": "/cvmfs"},
    "log": {"driver": "json-file", "max_size": "10m", "max_file": 5},
    "restart_policy": "unless-stopped",
    "stop_timeout": 2,
    "swap": {"health_timeout": 60},
}

#: What a VO-box has, as its host sees it: four lines of JSON, and its first process's limits.
LOOK = """set -e
docker inspect --format '{{json .}}' vobox1
process=/proc/$(docker inspect --format '{{.State.Pid}}' vobox1)
for what in address '-4 route show default' '-6 route show default'; do
    nsenter --net=$process/ns/net ip -json $what
done
cat $process/limits
"""

ASKED = {
    "mac": MAC,
    "addresses": set(ADDRESSES),
    "gateways": ["10.213.0.9", "fd13:213::9"],
    "nofile": ["4096", "8192"],
    "log": {"Type": "json-file", "Config": {"max-size": "10485760", "max-file": "5"}},
    "restart": "unless-stopped",
    "propagation": "rslave",
}


class Site:
    """A host with an engine, and what is asked of it."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.native = fleet.host(HOST).kind == "native"
        #: Seconds that anything may take there: processors are emulated in a virtual machine.
        self.patience = 120 if self.native else 300

    def call(self, *calls: Call) -> list[dict[str, t.Any]]:
        """Run modules there."""
        return call(self.fleet, HOST, self.folder, *calls, seconds=self.patience * 5)

    def run(self, *argv: str) -> str:
        """Run a command there."""
        return self.fleet.machine(HOST).run(*argv, timeout=self.patience).stdout

    def give(self, command: str, data: bytes) -> None:
        """Run a command of its shell that reads this."""
        feed(self.fleet, HOST, command, data, self.patience * 4)

    def version(self) -> tuple[int, ...]:
        """The engine's, the first two numbers."""
        version = self.run("docker", "version", "--format", "{{.Server.Version}}")
        return tuple(int(number) for number in version.split(".")[:2])

    def container_id(self) -> str:
        """The VO-box's."""
        return self.run("docker", "inspect", "--format", "{{.Id}}", "vobox1").strip()

    def answer(self, port: int = 80) -> None:
        """Wait until the VO-box answers the LAN over both families."""
        deadline = time.monotonic() + self.patience
        for url in (f"http://{ADDRESSES[0]}:{port}/", f"http://[{ADDRESSES[1]}]:{port}/"):
            while True:
                done = self.fleet.from_peer("curl", "-sS", "-g", "--max-time", "5", url, check=False)
                if done.stdout == "here I am\n":
                    break
                assert time.monotonic() < deadline, f"{url}: no answer in {self.patience} s: {done.stderr}"
                time.sleep(0.2)

    def seen(self) -> dict[str, t.Any]:
        """What the VO-box has."""
        inspected, links, *routes, limits = self.run("sh", "-c", LOOK).split("\n", 4)
        container = json.loads(inspected)
        [link] = [one for one in json.loads(links) if one["ifname"] != "lo"]
        [cvmfs] = [mount for mount in container["Mounts"] if mount["Destination"] == "/cvmfs"]
        return {
            "mac": link["address"],
            "addresses": {one["local"] for one in link["addr_info"] if one["scope"] == "global"},
            "gateways": [row["gateway"] for found in routes for row in json.loads(found)],
            "nofile": next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")),
            "log": container["HostConfig"]["LogConfig"],
            "restart": container["HostConfig"]["RestartPolicy"]["Name"],
            "propagation": cvmfs["Propagation"],
        }


def _install(site: Site) -> None:
    """Put the newer engine on the virtual machine, and an image on either host."""
    if not site.native:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(engine_packages(), "newer")
        install = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install /root/newer/*.deb"
        site.give(f"tar -x -C /root && {install} && systemctl restart docker", packed.getvalue())
    site.give("docker import - busybox:test", busybox_tar())


@pytest.fixture(
    scope="module",
    # `make test` has the oldest engine everywhere, so of the others it takes the one that needs no virtual machine.
    params=[pytest.param(name, marks=() if name == "native:trixie:engine" else pytest.mark.fleet) for name in ENGINES],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """A host with this engine, and with a /cvmfs that is mounted at boot."""
    with booted("engine", f"{HOST}={request.param}") as fleet:
        made = Site(fleet, tmp_path_factory.mktemp("play"))
        _install(made)
        assert made.version() >= ENGINES[request.param]
        made.give("cat >>/etc/fstab && mkdir /cvmfs && mount /cvmfs", b"tmpfs /cvmfs tmpfs defaults 0 0\n")
        yield made


@pytest.fixture(scope="module")
def first(site: Site) -> t.Iterator[dict[str, dict[str, t.Any]]]:
    """What the modules said: predicted, done and again, of network and VO-box."""
    said = site.call(
        Call("macvlan_net", NETWORK, check=True), Call("macvlan_net", NETWORK), Call("macvlan_net", NETWORK),
        Call("vobox_container", VOBOX, check=True), Call("vobox_container", VOBOX), Call("vobox_container", VOBOX),
    )  # fmt: skip
    yield {f"{what} {when}": said.pop(0) for what in ("network", "vobox") for when in ("predicted", "done", "again")}
    site.call(
        Call("vobox_container", {"name": "vobox1", "state": "absent"}),
        Call("macvlan_net", {"name": "site", "state": "absent"}),
    )
    assert site.run("docker", "ps", "--all", "--quiet") == ""
    assert "site" not in site.run("docker", "network", "ls", "--format", "{{.Name}}").split()


pytestmark = pytest.mark.usefixtures("first")


def actions(result: dict[str, t.Any]) -> list[str]:
    return [step["action"] for step in result["actions"]]


@pytest.mark.parametrize("what", ["network", "vobox"])
def test_check_mode_predicts_and_a_second_run_changes_nothing(what: str, first: dict[str, dict[str, t.Any]]) -> None:
    predicted, done, again = (first[f"{what} {when}"] for when in ("predicted", "done", "again"))
    assert done["changed"] and predicted["actions"] == done["actions"]
    assert not again["changed"] and again["actions"] == []


def test_the_network_has_ipv6_and_both_gateways(site: Site) -> None:
    network = json.loads(site.run("docker", "network", "inspect", "--format", "{{json .}}", "site"))
    assert network["EnableIPv6"] is True
    assert {pool["Gateway"] for pool in network["IPAM"]["Config"]} == set(ASKED["gateways"])


def test_a_mount_made_later_is_seen_inside(site: Site) -> None:
    site.run("sh", "-c", "mkdir /cvmfs/later && mount -t tmpfs tmpfs /cvmfs/later && touch /cvmfs/later/file")
    try:
        assert site.run("docker", "exec", "vobox1", "ls", "/cvmfs/later") == "file\n"
    finally:
        site.run("sh", "-c", "umount /cvmfs/later && rmdir /cvmfs/later")


@pytest.mark.parametrize("what", ["nothing", "container", "daemon", "host"])
def test_what_is_pinned_is_so_and_outlives_restarts(site: Site, what: str) -> None:
    if what == "container":
        site.run("docker", "restart", "-t", "0", "vobox1")
    elif what == "daemon":
        site.run("systemctl", "restart", "docker.service")
    elif what == "host":
        site.fleet.reboot(HOST)
    site.answer()
    assert site.seen() == ASKED


def test_a_swap_keeps_what_is_pinned(site: Site, claim: t.Callable[..., None]) -> None:
    before = site.container_id()
    wish = {**VOBOX, "environment": {"A": "1"}}
    # Of an emulated processor the length of an outage says nothing.
    reach = Reach(site.fleet.peer, Identity("site", MAC, *ADDRESSES)) if site.native else contextlib.nullcontext()
    with reach as seen:
        preview, done, again = site.call(
            Call("vobox_container", wish, check=True), Call("vobox_container", wish), Call("vobox_container", wish)
        )
    assert actions(done) == actions(preview) == ["swap_container"]
    assert not again["changed"]
    assert site.container_id() != before
    site.answer()
    assert site.seen() == ASKED
    if seen:
        assert seen.attempts > 100
        major, minor = site.version()
        claim("A18", case=f"swap_on_{major}.{minor}", unreachable_ms=round(seen.longest_outage * 1000, 1))


@pytest.mark.fleet
def test_the_old_one_comes_back_when_the_new_one_is_not_healthy(site: Site) -> None:
    before = site.container_id()
    health = {"test": ["CMD", "false"], "interval": 1, "retries": 1}
    wish = {**VOBOX, "environment": {"A": "2"}, "health": health, "swap": {"health_timeout": 10}}
    [failed] = site.call(Call("vobox_container", wish, fails=True))
    assert failed["changed"] and failed["not_rolled_back"] == []
    assert site.container_id() == before
    site.answer()
    assert site.seen() == ASKED


def test_a_new_init_script_needs_no_new_container(site: Site) -> None:
    before = site.container_id()
    [done] = site.call(Call("vobox_container", {**VOBOX, "init_script": f"{WEB}httpd -p 81 -h /www\n"}))
    assert actions(done) == ["write_init_script", "restart_services"]
    assert site.container_id() == before
    site.answer(81)
    # And the engine does not take it for one that somebody has stopped.
    site.run("sh", "-c", "kill -KILL $(docker inspect --format '{{.State.Pid}}' vobox1)")
    site.answer(81)


def test_an_image_is_flattened_with_its_configuration(site: Site) -> None:
    _flatten(site, "tree")


@pytest.mark.fleet
def test_an_image_is_flattened_in_containerds_store(site: Site) -> None:
    """Docker 29 keeps images in containerd, and a new host has no other store; before that it is a switch."""
    if site.version() < (26, 0):
        pytest.skip(f"Docker {site.version()[0]} cannot keep images in containerd")
    site.give("cat >/etc/docker/daemon.json", b'{"features": {"containerd-snapshotter": true}}')
    site.run("systemctl", "restart", "docker.service")
    try:
        assert "io.containerd.snapshotter" in site.run("docker", "info", "--format", "{{.DriverStatus}}")
        site.give("docker import - busybox:test", busybox_tar())
        _flatten(site, "archive")  # no folder of the engine holds the image's files
    finally:
        site.run("rm", "/etc/docker/daemon.json")
        site.run("systemctl", "restart", "docker.service")


def _flatten(site: Site, method: str) -> None:
    dockerfile = (
        "FROM busybox:test\nENV A=1\nRUN echo one > /one\nRUN rm /one && echo two > /two\n"
        + ("" if site.version() < (26, 0) else "STOPSIGNAL SIGINT\n")
        + 'LABEL b=2\nUSER 1000\nWORKDIR /www\nENTRYPOINT ["sh", "-c"]\nCMD ["cat /two"]\n'
    )
    site.give("DOCKER_BUILDKIT=0 docker build --network none --tag layers:1 -", dockerfile.encode())
    try:
        wish = {"source": "layers:1", "tag": "flat:1", "min_free": 0}
        preview, done, again = site.call(
            Call("flatten_image", wish, check=True), Call("flatten_image", wish), Call("flatten_image", wish)
        )
        assert actions(preview) == actions(done)
        assert (done["image"]["layers"], done["method"], again["changed"]) == (1, method, False)
        before, after = json.loads(site.run("docker", "image", "inspect", "layers:1", "flat:1"))
        ours = {key for key in after["Config"]["Labels"] if key.startswith("hep.gridbox.")}
        assert {key: value for key, value in after["Config"]["Labels"].items() if key not in ours} == {"b": "2"}
        for key in ("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "StopSignal"):
            assert after["Config"].get(key) == before["Config"].get(key)
        assert site.run("docker", "run", "--rm", "--network", "none", "flat:1") == "two\n"
    finally:
        site.run("docker", "image", "rm", "--force", "flat:1", "layers:1")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Static mounts of CVMFS at boot: their order, a boot while the server is down, and how that heals.

The client is a stand-in: as the real one does, it fetches from a server on the LAN and mounts by FUSE, as cvmfs2, and
reads its configuration when it mounts and when it is reloaded.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.integration.cvmfs_host import CvmfsHost

Claim = t.Callable[..., None]

CONFIG, TOOLS = "config.example.org", "grid-tools.example.org"
#: One that is shut down.
GONE, GONE_UNIT = "gone.example.org", "cvmfs-gone.example.org.mount"
CONFIG_UNIT, TOOLS_UNIT = f"cvmfs-{CONFIG}.mount", r"cvmfs-grid\x2dtools.example.org.mount"
TIMER, SERVICE = "gridbox-cvmfs-heal.timer", "gridbox-cvmfs-heal.service"

#: Seconds that one mount may take.
MOUNT_TIMEOUT = 6

CLIENT = """#!/usr/bin/python3
# mount.cvmfs REPOSITORY POINT -o OPTIONS: without an answer it waits, longer than anybody likes.
import os, subprocess, sys, urllib.request
repository, point = sys.argv[1:3]
with urllib.request.urlopen(f"http://10.213.0.9:8000/{repository}", timeout=115) as answer:
    content = answer.read()
os.makedirs("/var/lib/cvmfs", exist_ok=True)
with open(f"/var/lib/cvmfs/{repository}", "wb") as file:
    file.write(content)
os.makedirs("/run/cvmfs", exist_ok=True)
subprocess.run(["cvmfs_config", "_read", repository], check=True)
os.execvp("squashfuse", ["squashfuse", "-o", "fsname=cvmfs2,ro,allow_other", file.name, point])
"""

#: cvmfs_config reload: all mounted clients read their configuration again. _read is what a client does in itself.
CONFIG_PROGRAM = r"""#!/usr/bin/python3
import os, re, subprocess, sys
verb, *names = sys.argv[1:]
local = "/etc/cvmfs/default.local"
assert verb in ("reload", "_read"), sys.argv
for repository in names or os.listdir("/run/cvmfs"):
    found = []
    for name in re.findall("^(CVMFS_[A-Z_]+)=", open(local).read(), re.MULTILINE):
        argv = ["sh", "-c", f". {local}; echo ${name}"]
        value = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.rstrip("\n")
        quoted = value if re.fullmatch("[A-Za-z0-9/:._,-]*", value) else "'" + value.replace("'", r"\'") + "'"
        found.append(f"{name}={quoted}    # from {local}\n")
    found.append("CVMFS_TIMEOUT=5    # from /etc/cvmfs/default.conf\n")
    with open(f"/run/cvmfs/{repository}", "w") as file:
        file.write("".join(sorted(found)))
"""

#: cvmfs_talk -i REPOSITORY parameters.
TALK_PROGRAM = """#!/bin/sh
[ "$1 $3" = "-i parameters" ] || exit 2
mountpoint --quiet /cvmfs/$2 || { echo "Seems like CernVM-FS is not running"; exit 1; }
cat /run/cvmfs/$2
"""

#: The timer waits a minute; a test need not.
QUICK = "[Timer]\nOnActiveSec=\nOnActiveSec=2\nOnUnitInactiveSec=2\nAccuracySec=1\n"

ROLE: dict[str, t.Any] = {
    "cvmfs_repositories": [{"repository": TOOLS, "sentinel": "name"}, {"repository": CONFIG}],
    "cvmfs_config_repository": CONFIG,
    "cvmfs_install": False,  # the client is in no Debian
    "cvmfs_mount_timeout": MOUNT_TIMEOUT,
}


class Server:
    """The server of the repositories, on the other machine of the LAN."""

    def __init__(self, host: CvmfsHost, folder: Path) -> None:
        self.folder = folder
        for repository in (CONFIG, TOOLS, GONE):
            (folder / "content" / repository).mkdir(parents=True)
            (folder / "content" / repository / "name").write_text(f"{repository}\n")
            argv = ["mksquashfs", folder / "content" / repository, folder / repository, "-quiet", "-no-progress"]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)
        serve = ["-m", "http.server", "--bind", "10.213.0.9", "--directory", str(folder), "8000"]
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{host.fleet.peer}", sys.executable, *serve],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ask = ["bash", "-c", "until : >/dev/tcp/10.213.0.9/8000; do sleep 0.1; done"]
        host.fleet.from_peer(*ask)

    def goes_down(self) -> None:
        """It takes connections and answers none: the worst way to be down."""
        self.process.send_signal(signal.SIGSTOP)

    def is_back(self) -> None:
        """It answers."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[CvmfsHost]:
    """A host with an engine, and a stand-in for the client."""
    with CvmfsHost.booted("cvboot", tmp_path_factory.mktemp("host")) as made:
        made.write("/usr/sbin/mount.cvmfs", CLIENT, "755")
        made.write("/usr/bin/cvmfs_config", CONFIG_PROGRAM, "755")
        made.write("/usr/bin/cvmfs_talk", TALK_PROGRAM, "755")
        yield made


@pytest.fixture(scope="module")
def server(host: CvmfsHost, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Server]:
    made = Server(host, tmp_path_factory.mktemp("server"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def vobox(host: CvmfsHost, server: Server) -> str:
    """What the role makes, and a container that is to come up with the engine."""
    done = host.role(**ROLE)
    assert done.returncode == 0, done.stdout + done.stderr
    host.box("vobox", "/cvmfs:/cvmfs:rslave", "--restart", "always")
    return "vobox"


def _moment(host: CvmfsHost, unit: str, which: str) -> int:
    return int(host.show(unit, f"{which}TimestampMonotonic")[f"{which}TimestampMonotonic"])


def test_the_units_are_in_order(host: CvmfsHost, vobox: str) -> None:
    units = ["cvmfs.mount", CONFIG_UNIT, TOOLS_UNIT, TIMER, SERVICE]
    verified = host.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in units))
    assert verified.stderr == "" and verified.stdout == ""
    seen = host.show(TOOLS_UNIT, "After", "Before", "Requires", "WantedBy", "RequiredBy", "TimeoutUSec")
    assert {"network-online.target", CONFIG_UNIT, "cvmfs.mount"} <= set(seen["After"].split())
    assert {"docker.service", "podman.service", "podman-restart.service"} <= set(seen["Before"].split())
    assert {CONFIG_UNIT, "cvmfs.mount"} <= set(seen["Requires"].split())
    assert seen["WantedBy"].split() == ["remote-fs.target"] and seen["RequiredBy"] == ""  # nothing fails with it
    assert not {"local-fs.target", "remote-fs.target"} & set(seen["Before"].split())  # nothing but an engine waits
    assert seen["TimeoutUSec"] == f"{MOUNT_TIMEOUT}s"


def test_b7_after_a_reboot_repositories_are_mounted_before_the_engine_starts(
    host: CvmfsHost, vobox: str, claim: Claim
) -> None:
    seconds = host.reboot()
    assert host.failed() == []
    mounts = {unit: _moment(host, unit, "ActiveEnter") for unit in ("cvmfs.mount", CONFIG_UNIT, TOOLS_UNIT)}
    engine = _moment(host, "docker.service", "InactiveExit")  # when it began to start
    assert 0 < mounts["cvmfs.mount"] < mounts[CONFIG_UNIT] < mounts[TOOLS_UNIT] < engine
    assert 0 < _moment(host, "network-online.target", "ActiveEnter") < _moment(host, CONFIG_UNIT, "InactiveExit")
    assert host.read(vobox, f"/cvmfs/{TOOLS}/name") == TOOLS
    claim("B7", boot_seconds=seconds, mounted_before_engine_ms=(engine - mounts[TOOLS_UNIT]) // 1000)


def test_a_boot_without_the_server_ends_tells_and_heals(
    host: CvmfsHost, vobox: str, server: Server, claim: Claim
) -> None:
    host.write(f"/etc/systemd/system/{TIMER}.d/quick.conf", QUICK)
    server.goes_down()
    seconds = host.reboot(degraded=True)
    # It boots, and nothing waits longer than for the mounts: the engine and its containers are there.
    assert seconds < 4 * MOUNT_TIMEOUT
    for unit in ("multi-user.target", "docker.service", "ssh.service"):
        assert host.show(unit, "ActiveState")["ActiveState"] == "active"
    for unit in ("emergency.target", "rescue.target"):
        assert host.show(unit, "ActiveState")["ActiveState"] == "inactive"
    assert host.read(vobox, f"/cvmfs/{TOOLS}/name") == "No such file or directory"
    # It says what is missing.
    assert host.failed() in ([CONFIG_UNIT], [])  # it is tried again just now
    journal = host.sh("journalctl --boot --output=cat --no-pager")
    assert f"Failed to mount {CONFIG_UNIT} - CVMFS repository {CONFIG}" in journal
    assert f"Dependency failed for {TOOLS_UNIT} - CVMFS repository {TOOLS}" in journal
    verified = host.role("verify", **ROLE)
    said = " ".join(verified.stdout.split())
    assert verified.returncode != 0, said
    for repository in (CONFIG, TOOLS):
        assert f"nothing is mounted at /cvmfs/{repository}; its unit" in said
    assert f"{TIMER} has it tried again every 60 s" in said
    # It is tried again in vain, and heals, by itself and without the container being touched.
    host.wait("a try to fail", 60, lambda: f"A dependency job for {TOOLS_UNIT} failed" in _told(host))
    started = host.sh(f"docker inspect --format '{{{{.State.StartedAt}}}}' {vobox}")
    server.is_back()
    healed = host.wait("the container to see both", 60, lambda: _seen(host, vobox) == [CONFIG, TOOLS])
    assert host.sh(f"docker inspect --format '{{{{.State.StartedAt}}}}' {vobox}") == started
    assert host.failed() == []
    again = host.role(**ROLE)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    claim("B7", boot_seconds_server_down=seconds, healed_after_seconds=healed)
    # A client that dies leaves a mount that answers nothing.
    host.sh(f"systemctl stop {TIMER} {SERVICE}; kill -9 $(pgrep -f '[s]quashfuse.*{TOOLS}')")
    assert host.read(vobox, f"/cvmfs/{TOOLS}/name") == "Transport endpoint is not connected"
    host.sh(f"systemctl start {TIMER}")
    host.wait("the container to see both again", 60, lambda: _seen(host, vobox) == [CONFIG, TOOLS])
    assert f"/cvmfs/{TOOLS}: its client was dead; unmounted" in _told(host)
    # It is quiet once all is well.
    told, last = _told(host), _moment(host, SERVICE, "InactiveEnter")
    host.wait("the timer to elapse", 20, lambda: _moment(host, SERVICE, "InactiveEnter") > last)
    assert _told(host) == told


def _seen(host: CvmfsHost, vobox: str) -> list[str]:
    """What a container reads in the repositories."""
    return [host.read(vobox, f"/cvmfs/{repository}/name") for repository in (CONFIG, TOOLS)]


def _told(host: CvmfsHost) -> str:
    """What the service that mounts what is missing has written."""
    return host.sh(f"journalctl --boot --output=cat --no-pager --unit={SERVICE}")


def _proxy(host: CvmfsHost, repository: str) -> str:
    """The proxy with which a client runs."""
    lines = host.run("cvmfs_talk", "-i", repository, "parameters").stdout.splitlines()
    return next(line for line in lines if line.startswith("CVMFS_HTTP_PROXY=")).partition("=")[2].split()[0]


def _mounts(host: CvmfsHost) -> str:
    return host.sh("grep ' /cvmfs/' /proc/self/mountinfo | sort")


@pytest.mark.fleet
def test_a_changed_configuration_is_read_by_clients_that_are_mounted(host: CvmfsHost, vobox: str) -> None:
    mounts = _mounts(host)
    squid2 = {**ROLE, "cvmfs_http_proxies": ["http://squid2.example.org:3128"]}
    # A run that broke off after it had written the file, or that was limited to it by a tag.
    host.sh(
        "sed -i 's,^CVMFS_HTTP_PROXY=.*,CVMFS_HTTP_PROXY=\"http://squid2.example.org:3128\",' /etc/cvmfs/default.local"
    )
    verified = host.role("verify", **squid2)
    said = " ".join(verified.stdout.split())
    assert verified.returncode != 0, said
    assert (
        f"the client of {TOOLS} has not read /etc/cvmfs/default.local since it was changed: CVMFS_HTTP_PROXY is" in said
    )
    announced = host.role(options=["--check", "-v"], **squid2)
    assert announced.returncode == 0 and '"action": "reload_clients"' in announced.stdout, announced.stdout
    assert _proxy(host, TOOLS) == "DIRECT"
    done = host.role(options=["-v"], **squid2)
    assert done.returncode == 0 and "changed=1 " in done.stdout, done.stdout
    assert '"action": "reload_clients"' in done.stdout and '"disruption": "reload"' in done.stdout
    assert _proxy(host, TOOLS) == _proxy(host, CONFIG) == "http://squid2.example.org:3128"
    assert _mounts(host) == mounts and _seen(host, vobox) == [CONFIG, TOOLS]
    again = host.role(**squid2)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    # In check mode the file does not say it yet.
    squid3 = {**ROLE, "cvmfs_http_proxies": ["http://squid3.example.org:3128|http://squid4.example.org:3128"]}
    announced = host.role(options=["--check", "-v"], **squid3)
    assert announced.returncode == 0 and "changed=2 " in announced.stdout, announced.stdout
    assert '"action": "reload_clients"' in announced.stdout
    refused = host.role(**squid3, cvmfs_max_disruption="none")
    assert refused.returncode != 0 and "Nothing was touched" in refused.stdout, refused.stdout
    assert "squid2" in host.sh("cat /etc/cvmfs/default.local") and "squid2" in _proxy(host, TOOLS)
    done = host.role(**squid3)
    assert done.returncode == 0 and "changed=2 " in done.stdout, done.stdout
    assert _proxy(host, TOOLS) == "'http://squid3.example.org:3128|http://squid4.example.org:3128'"


@pytest.mark.fleet
def test_a_repository_that_was_dropped_is_not_waited_for_at_boot(host: CvmfsHost, server: Server, vobox: str) -> None:
    with_it = {**ROLE, "cvmfs_repositories": [*ROLE["cvmfs_repositories"], {"repository": GONE}]}
    assert host.role(**with_it).returncode == 0
    assert GONE_UNIT in host.show("remote-fs.target", "Wants")["Wants"].split()
    # While it is mounted, its mount stays.
    announced = host.role(options=["--check", "-v"], **ROLE)
    dropped = host.role(options=["-v"], **ROLE)
    for done in (announced, dropped):
        assert done.returncode == 0 and '"action": "disable"' in done.stdout, done.stdout
        assert '"action": "remove_unit"' not in done.stdout
    assert f"/cvmfs/{GONE} is not wanted any more and is still mounted" in " ".join(dropped.stdout.split())
    assert host.read(vobox, f"/cvmfs/{GONE}/name") == GONE
    assert GONE_UNIT not in host.show("remote-fs.target", "Wants")["Wants"].split()
    again = host.role(**ROLE)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    # When it is not, its unit goes; here one that has failed, for its server was shut down.
    (server.folder / GONE).unlink()
    host.sh(f"umount /cvmfs/{GONE}; systemctl start {GONE_UNIT} || true")
    assert host.failed() == [GONE_UNIT]
    done = host.role(options=["-v"], **ROLE)
    assert done.returncode == 0 and '"action": "remove_unit"' in done.stdout, done.stdout
    assert host.failed() == []
    assert host.show(GONE_UNIT, "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    assert "changed=0" in host.role(**ROLE).stdout


def test_a_folder_is_read_only_for_a_container_that_runs_already(host: CvmfsHost, vobox: str) -> None:
    host.sh("mkdir -p /srv/content; echo text >/srv/content/name")
    # As mount(8) does it, which binds first and makes it read-only after.
    host.sh("mkdir /cvmfs/flaw; mount -o bind,ro /srv/content /cvmfs/flaw")
    write = ("docker", "exec", vobox, "touch")
    flaw = host.run(*write, "/cvmfs/flaw/new", check=False).returncode
    host.sh("umount /cvmfs/flaw; rmdir /cvmfs/flaw; rm -f /srv/content/new")
    host.module(
        "cvmfs_mounts",
        repositories=[{"repository": "folder.example.org", "source": "directory", "path": "/srv/content"}],
        wait_timeout=20,
    )
    assert host.read(vobox, "/cvmfs/folder.example.org/name") == "text"
    refused = host.run(*write, "/cvmfs/folder.example.org/new", check=False)
    assert refused.returncode != 0 and "Read-only file system" in refused.stderr
    options = host.sh(f"docker exec {vobox} grep folder.example.org /proc/mounts").split()[3].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)
    assert flaw == 0  # so that the test has shown what it is about


@pytest.mark.fleet
def test_what_the_role_mounted_goes_with_it_though_each_mount_point_was_there_before(
    host: CvmfsHost, vobox: str
) -> None:
    """As below an autofs, where whoever looks for a repository finds it."""
    host.sh("rm /var/lib/hep.gridbox/cvmfs.json")
    assert host.role(**ROLE).returncode == 0
    assert f"/cvmfs/{TOOLS}" in host.sh("cat /proc/mounts")
    assert "/cvmfs" not in host.sh("cat /var/lib/hep.gridbox/cvmfs.json || true")
    removed = host.role("remove", **ROLE)
    assert removed.returncode == 0, removed.stdout
    assert " /cvmfs" not in host.sh("cat /proc/mounts")
    assert host.sh("grep -rl 'hep.gridbox (cvmfs_mounts)' /etc/systemd/system || true") == ""
    assert "gridbox-cvmfs" not in host.sh("systemctl list-units --all --no-legend")
    again = host.role("remove", **ROLE)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claim A10: with more than two VO-boxes on a host the limits must be raised; EL7's are 1024 and 4096 open files.

On a virtual machine, whose sysctls and limits are its own: 1 to 8 VO-boxes under the values of EL7 until something is
refused, what that does to those that run already, and 8 under the managed profile. docs/limits.md tells the figures.
"""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.hardening.controls import IDS
from tests.integration.machine_python import ARGUMENTS, PYTHON
from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.image import busybox_tar
from tests.lab.modules_over_ssh import Call, call, feed

pytestmark = pytest.mark.fleet

HOST = "vm1"
SECONDS = 300
#: One that no process of the machine has. It is the same in each VO-box, as it is at a site.
ACCOUNT = 61517

#: Of one VO-box. Of the service account: 1000 jobs that run, each with a process of the batch client on the VO-box
#: (HTCondor's shadow), and 250 threads in two JVMs and the rest; open files just within EL7's limit. Of root: 40
#: inotify instances, between the 20 and 60 that systemd with its services, the batch client and followers of logs hold.
LOAD = {"root": {"inotify": 40, "files": 200}, "account": {"inotify": 5, "files": 900, "tasks": 1250}}
#: The same with no more inotify instances than systemd and its own services take.
FEW_INSTANCES = {**LOAD, "root": {"inotify": 10, "files": 200}}

#: The kernel of EL7 (3.10): its defaults, and file-max as it works it out, a tenth of the memory's kilobytes.
EL7_SYSCTLS = """set -e
sysctl -q -w fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=8192 fs.nr_open=1048576
sysctl -q -w kernel.pid_max=32768 kernel.keys.maxkeys=200 kernel.keys.maxbytes=20000
for family in ipv4 ipv6; do
    sysctl -q -w net.$family.neigh.default.gc_thresh1=128 net.$family.neigh.default.gc_thresh2=512 \
        net.$family.neigh.default.gc_thresh3=1024
done
sysctl -q -w fs.file-max=$(($(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) / 10))
"""
#: The kernel's limit of open files, and limits.d/20-nproc.conf, which is the soft one of sessions that PAM opens.
EL7_LIMITS = ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096")
#: What EL7's docker.service gives a container instead of the second.
EL7_ENGINE_LIMITS = ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=-1:-1")

#: Inotify instances of root, open files, and threads of the account, on the whole machine. Files of /proc do not belong
#: to who runs the process when it has changed its user.
COUNT = """
import glob, os, sys
instances = tasks = 0
for path in glob.glob("/proc/[0-9]*"):
    try:
        user = next(line.split()[2] for line in open(path + "/status") if line.startswith("Uid:"))
        if user == sys.argv[1]:
            tasks += len(os.listdir(path + "/task"))
        if user == "0":
            instances += sum(os.readlink(one) == "anon_inode:inotify" for one in glob.glob(path + "/fd/*"))
    except OSError:
        pass  # it has ended meanwhile
print(instances, open("/proc/sys/fs/file-nr").read().split()[0], tasks)
"""


class Host:
    """The virtual machine and the VO-boxes on it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.boxes: list[str] = []

    def run(self, *argv: str, check: bool = True) -> str:
        """What a command prints there, errors too."""
        done = self.fleet.machine(HOST).run(*argv, timeout=SECONDS, check=check)
        return done.stdout + done.stderr

    def start(self, load: t.Mapping[str, t.Mapping[str, int]], limits: t.Sequence[str]) -> dict[str, t.Any]:
        """Start one more VO-box, and tell what it got."""
        name = f"vobox{len(self.boxes) + 1}"
        self.boxes.append(name)
        self.run(
            "docker", "run", "--detach", "--name", name, "--network", "none", *limits, *ARGUMENTS,
            "--volume", "/srv/load:/report", "busybox:test", PYTHON, "/report/load.py",
            name, str(ACCOUNT), json.dumps(load),
        )  # fmt: skip
        wait = f"for try in $(seq {SECONDS}); do [ -e /srv/load/{name} ] && exec cat /srv/load/{name}; sleep 1; done"
        said = self.run("sh", "-c", f"{wait}; docker logs {name}; exit 1")
        return t.cast("dict[str, t.Any]", json.loads(said))

    def beats(self) -> dict[str, dict[str, int]]:
        """How often the service account of each could start a process, and could not."""
        lines = self.run("sh", "-c", "cd /srv/load; for box in *.beats; do echo $box $(cat $box); done").splitlines()
        return {line.split(".")[0]: json.loads(line.partition(" ")[2]) for line in lines}

    def counts(self) -> tuple[int, int, int]:
        """Inotify instances of root, open files and threads of the account, on the whole machine."""
        instances, files, tasks = (int(word) for word in self.run("python3", "-c", COUNT, str(ACCOUNT)).split())
        return instances, files, tasks

    def remove(self, *names: str) -> None:
        """End some VO-boxes."""
        self.run("docker", "rm", "--force", *names)
        self.run("sh", "-c", 'cd /srv/load && for name in "$@"; do rm -f $name $name.beats; done', "sh", *names)
        self.boxes = [name for name in self.boxes if name not in names]


@pytest.fixture(scope="module")
def host() -> t.Iterator[Host]:
    """A virtual machine with an engine and EL7's values."""
    with booted("a10", f"{HOST}=vm:bookworm:engine") as fleet:
        made = Host(fleet)
        feed(fleet, HOST, "docker import - busybox:test", busybox_tar(), SECONDS)
        program = Path(__file__).with_name("vobox_load.py").read_bytes()
        feed(fleet, HOST, "mkdir -m 1777 /srv/load && cat >/srv/load/load.py", program, SECONDS)
        made.run("sh", "-c", EL7_SYSCTLS)
        yield made


@pytest.fixture()
def clean(host: Host) -> t.Iterator[Host]:
    """The same, and without VO-boxes afterwards."""
    yield host
    host.remove(*host.boxes)


def refused(said: t.Mapping[str, t.Any]) -> list[tuple[str, str, str]]:
    """Who was refused what, with which error."""
    return [(who, part["refused"], part["error"]) for who, part in said.items() if part["refused"]]


def until_refused(
    host: Host, load: t.Mapping[str, t.Mapping[str, int]]
) -> tuple[int, list[tuple[str, str, str]], dict[str, t.Any]]:
    """Start VO-boxes with EL7's limits until one is refused something: its number, what, and what it had got."""
    while len(host.boxes) < 8:
        said = host.start(load, EL7_LIMITS)
        if refused(said):
            return len(host.boxes), refused(said), said
    raise AssertionError(f"8 VO-boxes run: {host.counts()}")


def test_inotify_instances_of_root_trip_first(clean: Host, claim: t.Callable[..., None]) -> None:
    before = clean.counts()[0]
    number, what, said = until_refused(clean, LOAD)
    assert what == [("root", "inotify", "EMFILE")]
    # On cgroup v2 the engine holds one for each container too.
    assert number in {(128 - before) // each + 1 for each in (40, 41)}
    # What the operator sees: the words of a limit of open files, for something else.
    follow = clean.run("sh", "-c", "timeout 5 tail -f /etc/hostname", check=False)
    assert "inotify" in follow and "Too many open files" in follow
    another = clean.run("docker", "run", "--rm", "--network", "none", "busybox:test", "echo", "runs", check=False)
    time.sleep(10)
    first = clean.beats()["vobox1"]
    assert first["started"] > 0 and first["refused"] == 0  # those that have theirs go on
    claim(
        "A10", step="1_EL7", trips="inotify_instances_of_root", limit=128, host_holds=before, each_vobox_takes=40,
        refused_at_k=number, got=said["root"]["inotify"], error="EMFILE", others="go_on",
        another_container=another.strip().replace(" ", "_") or "silent",
    )  # fmt: skip


def test_then_processes_of_the_service_account(clean: Host, claim: t.Callable[..., None]) -> None:
    number, what, said = until_refused(clean, FEW_INSTANCES)
    assert what == [("account", "tasks", "EAGAIN")]
    assert number == 4096 // 1250 + 1
    before = clean.beats()
    deadline = time.monotonic() + SECONDS
    while any(now["refused"] == before[name]["refused"] for name, now in clean.beats().items()):
        assert time.monotonic() < deadline, f"some VO-box can still start processes: {before} {clean.beats()}"
        time.sleep(2)
    enter = clean.run("docker", "exec", "--user", str(ACCOUNT), "vobox1", "sh", "-c", "true; ls /", check=False)
    tasks = clean.counts()[2]
    clean.remove(f"vobox{number}")
    claim(
        "A10", step="2_EL7_with_few_inotify_instances", trips="nproc_of_the_account", limit=4096,
        each_vobox_takes=1250, tasks=tasks, refused_at_k=number, got=said["account"]["tasks"], error="EAGAIN",
        others="run,_but_no_vobox_can_start_a_process", operator_sees=enter.strip()[-100:].replace(" ", "_"),
    )  # fmt: skip


def test_without_the_limit_of_a_login_they_do_not(clean: Host, claim: t.Callable[..., None]) -> None:
    """The control: the same load in as many VO-boxes, with the engine's limit for a container."""
    for _number in range(4096 // 1250 + 1):
        said = clean.start(FEW_INSTANCES, EL7_ENGINE_LIMITS)
        assert not refused(said), said
    tasks = clean.counts()[2]
    assert tasks > 4096
    before = clean.beats()
    deadline = time.monotonic() + SECONDS
    while any(now["started"] == before[name]["started"] for name, now in clean.beats().items()):
        assert time.monotonic() < deadline, f"some VO-box starts no process: {before} {clean.beats()}"
        time.sleep(2)
    assert not any(now["refused"] for now in clean.beats().values())
    claim("A10", step="2_EL7_with_the_engine's_nproc", voboxes=len(clean.boxes), tasks=tasks, trips="nothing")


def test_open_files_are_each_processs_own(clean: Host, claim: t.Callable[..., None]) -> None:
    said = clean.start({"root": {"files": 10}, "account": {"files": 3000}}, EL7_LIMITS)
    assert refused(said) == [("account", "files", "EMFILE")]
    assert 1000 < said["account"]["files"] < 1024
    claim("A10", step="3_EL7", trips="nofile_of_one_process", limit=1024, refused_at_k=1, got=said["account"]["files"],
          error="EMFILE")  # fmt: skip


def test_with_the_managed_profile_eight_run(clean: Host, claim: t.Callable[..., None], tmp_path: Path) -> None:
    limits = {"nofile", "nproc", "inotify", "file_max", "pid_max", "keys", "neighbours", "systemd_limits"}
    others = {name: "another test's" for name in IDS if name not in limits}
    [done] = call(clean.fleet, HOST, tmp_path, Call("host_controls", {"voboxes": 8, "controls": others}))
    nofile = f"{done['nofile']['soft']}:{done['nofile']['hard']}"
    managed = ("--ulimit", f"nofile={nofile}", "--ulimit", f"nproc={done['nproc']}:{done['nproc']}")
    more = {"root": LOAD["root"], "account": {**LOAD["account"], "files": 3000}}
    for _number in range(8):
        said = clean.start(more, managed)
        assert not refused(said), said
    before = clean.beats()
    instances, files, tasks = clean.counts()
    time.sleep(20)
    for name, now in clean.beats().items():
        assert now["started"] > before[name]["started"] and now["refused"] == 0, name
    claim("A10", step="4_managed", voboxes=8, all="run", inotify_instances_of_root=instances, open_files=files,
          tasks_of_the_account=tasks, profile=f"nofile={nofile},nproc={done['nproc']},"
          f"inotify={done['sysctls']['fs.inotify.max_user_instances']}")  # fmt: skip

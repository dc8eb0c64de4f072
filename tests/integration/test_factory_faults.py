# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory while what it depends on is full, hangs, lies or is gone; and several that are one space."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from pyroute2 import netns as namespaces

from tests.integration.conftest import Lab
from tests.integration.test_factory import WORKS, ended
from tests.lab.factory import KIND, LabFactory
from tests.lab.hung_mount import hung_at
from tests.lab.lab import make_lab, remove_lab
from tests.lab.lan import add_netns, delete_netns, in_netns
from tests.lab.mounts import Mounts
from tests.unit.vacuum.web_server import Web, send, serving

Make = t.Callable[..., LabFactory]


@pytest.fixture()
def make(own_lab: Lab, tmp_path: Path) -> t.Iterator[Make]:
    """Makes factories with a machinetype ``a`` that runs a script, and what more of them ``kinds`` has."""
    made: list[LabFactory] = []

    def factory(
        script: str = WORKS, name: str = "f1.example.org", kinds: t.Mapping[str, t.Any] | None = None, **settings: t.Any
    ) -> LabFactory:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        types = {name: {**KIND, **changed} for name, changed in (kinds or {"a": {}}).items()}
        one = LabFactory(own_lab, folder, name, **{"machinetypes": types, **settings})
        for kind in types:
            one.file(kind, "run", script)
        made.append(one)
        return one

    yield factory
    for one in made:
        one.remove()


def report(factory: LabFactory) -> dict[str, t.Any]:
    path = factory.state / "report.json"
    return t.cast("dict[str, t.Any]", json.loads(path.read_text())) if path.exists() else {}


# ---- the disk ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_of(mebibytes: int, point: Path) -> t.Iterator[Path]:
    """A file system of its own."""
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(point)], check=True, timeout=30)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=30)


@pytest.fixture()
def small_disk(tmp_path: Path) -> t.Iterator[Path]:
    """The state folder of the factory f1, on 8 MiB."""
    with disk_of(8, tmp_path / "f1.example.org" / "state") as point:
        yield point


def fill(disk: Path) -> Path:
    """Write until nothing goes into it any more."""
    file = disk / "filler"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while True:
            opened.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left"):
        (disk / "one.more").write_text("x" * 5000)
    (disk / "one.more").unlink()
    return file


def test_a_full_disk(small_disk: Path, make: Make) -> None:
    factory = make(kinds={"a": {"backoff_seconds": 5}}, disk_gb_per_processor=1, total_processors=2, slots=2)
    factory.start()
    # Refused before anything is made: a processor is to have a gigabyte, and eight mebibytes are there.
    told = factory.wait("the refusal", lambda: "not now" in (e := factory.run("explain").stdout) and e)
    assert "memory and disk do for 0 processors" in told
    assert factory.records() == []
    factory.write(disk_gb_per_processor=None)
    factory.wait("two machines", lambda: len(factory.events("machine_started")) == 2)
    first, second = factory.running()
    filler = fill(small_disk)

    # One ends: that cannot be written down, so the record before stays, and the slot stays taken.
    factory.lab.docker("kill", first["Id"])
    factory.wait("the word", lambda: factory.events("record_not_written"))
    assert {one["state"] for one in factory.records()} == {"running"}
    assert not factory.events("machine_ended", "internal_error")
    check = factory.run("check")
    assert check.returncode == 2
    assert "KiB are left on the file system of the factory's state: it can write nothing down" in check.stdout

    # One is to start, and there is no room for it. That is no end, for which others would back off.
    factory.write(total_processors=3, slots=3)
    factory.wait("the new configuration", lambda: len(factory.events("configuration_read")) >= 2)
    time.sleep(7)  # it decides each five seconds
    assert not factory.events("machine_ended", "no_room", "internal_error")
    assert {one["Id"] for one in factory.containers()} == {first["Id"], second["Id"]}

    # The daemon ends, and starts again, as it would elsewhere.
    assert factory.stop() == 0
    factory.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    assert [one["Id"] for one in factory.running()] == [second["Id"]]
    assert not factory.events("internal_error")

    filler.unlink()
    # Nobody does anything more.
    found = factory.wait("three machines", lambda: len(r := factory.running()) == 3 and r)
    assert second["Id"] in {one["Id"] for one in found}
    over = first["Config"]["Labels"]["hep.gridbox.machine"]
    record = factory.wait(
        "its end to be written down", lambda: [r for r in factory.records() if r["uuid"] == over and r["cleaned"]]
    )[0]
    assert (record["state"], record["exit_code"], record["end_code"]) == ("ended", 137, "by_itself")
    factory.wait("nothing to be left of the others", lambda: len(factory.containers()) == 3)
    factory.wait("a green check", lambda: factory.run("check").returncode == 0)
    assert not factory.events("internal_error")
    assert not list(factory.state.glob("machines/*/*.new"))
    mounted = Path("/proc/mounts").read_text()
    assert f"{factory.state}/machines" not in mounted
    factory.remove()


def test_what_a_host_writes_itself_is_no_fault_of_a_machinetype(tmp_path: Path) -> None:
    """Two machines have their share of 96 MiB as files; there is room for the third until others write there."""
    if not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.ext4"):
        pytest.skip("needs loop devices and mkfs.ext4")
    folder = tmp_path / "f1.example.org"
    with disk_of(96, folder / "state") as disk, Mounts() as mounts, contextlib.ExitStack() as made:
        # A short path, for containerd's sockets are below it (107 characters).
        lab = make_lab(tmp_path / "e", f"gbt{os.getpid()}-room", mounts.enter)
        made.callback(remove_lab, lab)
        kinds = {"a": {**KIND, "backoff_seconds": 3600}}
        factory = LabFactory(lab, folder, total_processors=3, slots=2, work_space="file", machinetypes=kinds)
        factory.enter = list(mounts.enter)
        made.callback(factory.remove)
        factory.file("a", "run", "#!/bin/sh\nsleep 3600\n")
        factory.start()
        factory.wait("two machines", lambda: len(factory.running()) == 2)
        (disk / "log").write_bytes(bytes(30 << 20))
        factory.write(slots=3)
        factory.wait("the new configuration", lambda: factory.events("configuration_read"))
        told = factory.wait("the refusal", lambda: "not now" in (e := factory.run("explain").stdout) and e)
        assert "its share of all there is, and 0" in told, told
        time.sleep(7)  # it decides each five seconds
        assert not factory.events("machine_ended", "no_room", "internal_error")
        (disk / "log").unlink()
        factory.wait("three machines", lambda: len(factory.running()) == 3)
        assert not factory.events("machine_ended", "no_room", "internal_error")


def test_a_machine_that_fills_the_disk_of_the_state_is_taken_away(small_disk: Path, make: Make) -> None:
    """Nobody else would make room: its end could not be written down, and what it had stayed for ever."""
    script = "#!/bin/sh\necho 300 Nothing to do >$JOBOUTPUTS/shutdown_message\ntouch $JOBOUTPUTS/there\nsleep 3\n"
    script += "cat /dev/zero >{}\ncat /dev/zero >$JOBOUTPUTS/more\nsleep 1\n"
    kinds = {"a": {"backoff_seconds": 3600, "tmp_binds": ["/scratch"]}}
    factory = make(script.format("/scratch/data"), kinds=kinds, total_processors=1, slots=1)
    for where in ("/scratch/data", "$JOBOUTPUTS/data"):
        factory.file("a", "run", script.format(where))
        factory.start()
        end = factory.wait("its end", lambda: factory.events("machine_ended"))[-1]
        assert (end["message"], end["code"]) == ("300 Nothing to do", "by_itself")
        record = factory.wait("it to be gone", lambda: [r for r in factory.records() if r["cleaned"]])[-1]
        assert (record["state"], record["shutdown_message"]) == ("ended", "300 Nothing to do")
        assert factory.containers() == []
        assert len(factory.events("machine_ended")) == 1
        factory.wait("a check that is not red", lambda: factory.run("check").returncode < 2)
        assert not factory.events("internal_error")
        assert factory.stop() == 0
        (factory.folder / "journal").unlink()
        for left in (factory.state / "machines").iterdir():
            shutil.rmtree(left)


@pytest.mark.parametrize("where", ["/big", "/data/big"])
def test_what_a_machine_writes_outside_its_work_space_has_a_limit(own_lab: Lab, make: Make, where: str) -> None:
    """Also where its image has a volume, which is on the engine's disk too."""
    script = WORKS.replace("while", f"head -c 30000000 /dev/zero >{where}; touch $JOBOUTPUTS/written; while", 1)
    made = own_lab.docker("create", "busybox:test", "true").strip()
    own_lab.docker("commit", "--change", "VOLUME /data", made, "busybox:volume")
    own_lab.docker("rm", made)
    kinds = {"a": {"root_image": "docker://busybox:volume"}}
    factory = make(script, kinds=kinds, total_processors=1, root_gb_per_processor=0.01)
    factory.start()
    factory.wait("it to write", lambda: list(factory.state.glob("machines/*/mnt/joboutputs/written")))
    [volume] = [one["Name"] for one in factory.containers()[0]["Mounts"] if one["Type"] == "volume"]
    factory.stop()
    factory.start()  # it measures when it starts, and each minute
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("100 told", "disk_limit")
    words = end["reason"].split()
    assert 30_000_000 <= int(words[2]) < 32_000_000
    assert end["reason"] == f"it wrote {words[2]} bytes outside its work space; it may write 10000000"
    assert factory.records()[0]["exit_code"] == 0, "TERM was enough"
    factory.wait("it to be cleaned away", lambda: factory.records()[0]["cleaned"])
    assert volume not in own_lab.docker("volume", "ls", "--quiet").split(), "it went with its machine"


def test_a_record_that_cannot_be_read_costs_no_job(make: Make) -> None:
    factory = make(kinds={"a": {"backoff_seconds": 5}}, total_processors=2, slots=2)
    factory.start()
    lost, other = factory.wait("two machines", lambda: len(r := factory.running()) == 2 and r)
    assert factory.stop() == 0
    uuid = lost["Config"]["Labels"]["hep.gridbox.machine"]
    [folder] = (factory.state / "machines").glob(f"*_{uuid[:8]}")
    record = folder / "machine.json"
    text = record.read_text()
    record.write_bytes(b"\0" * len(text))
    factory.lab.docker("kill", other["Id"])

    factory.start()
    factory.wait("the other one's end", lambda: factory.events("machine_ended"))
    factory.wait("another one in its slot", lambda: len(factory.running()) == 2)
    assert lost["Id"] in {one["Id"] for one in factory.running()}
    assert len(factory.events("machine_started")) == 3, "none in the slot of the one that may run"
    assert (folder / "mnt/joboutputs").is_dir(), "its work space is there"
    red = factory.wait("a red check", lambda: (c := factory.run("check")).returncode == 2 and c)
    assert f"{record} is not a machine's record" in red.stdout
    assert not factory.events("stray_removed", "left_over_removed")

    # A person puts it right, and it goes on as if nothing had been.
    record.write_text(text)
    factory.wait("the record", lambda: factory.events("record_readable"), 150)
    factory.wait("a green check", lambda: factory.run("check").returncode == 0)
    factory.lab.docker("kill", lost["Id"])
    end = factory.wait("its end", lambda: [e for e in factory.events("machine_ended") if e["machine"] == uuid])[0]
    assert end["code"] == "vanished"
    factory.remove()


# ---- CVMFS and pipes ---------------------------------------------------------------------------------------------


@pytest.fixture()
def hung_cvmfs() -> t.Iterator[list[str]]:
    """A mount namespace in which a repository hangs; the command that enters it."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    was_there = os.path.isdir("/cvmfs")
    os.makedirs("/cvmfs", exist_ok=True)
    # The folder itself is everybody's: where there is no /cvmfs, there is nothing to mount over.
    script = 'mount -t tmpfs tmpfs /cvmfs && mkdir /cvmfs/hung.cern.ch && exec "$@"'
    with hung_at("/cvmfs/hung.cern.ch", "unshare", "--mount", "--propagation=slave", "sh", "-c", script, "sh") as pid:
        yield ["nsenter", f"--mount=/proc/{pid}/ns/mnt"]
    if not was_there:
        with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
            os.rmdir("/cvmfs")


@contextlib.contextmanager
def served(netns: str, web: Web) -> t.Iterator[Web]:
    """A web server on the loopback of that network namespace."""
    with contextlib.ExitStack() as stack:
        namespaces.pushns(netns)
        try:
            stack.enter_context(serving(web))
        finally:
            namespaces.popns()
        yield web


def pipe(*suffixes: str, **changed: t.Any) -> bytes:
    kind = {**KIND, "machine_model": "docker", "target_share": 1, "user_data": "run", **changed}
    kinds = [{**kind, "suffix": suffix} for suffix in suffixes]
    return json.dumps({"machinetypes": kinds, "cache_seconds": 10}).encode()


def test_a_repository_that_hangs_and_a_pipe_that_goes_and_comes_back(
    hung_cvmfs: list[str], own_lab: Lab, make: Make
) -> None:
    """Each costs what needs it, and nothing else. In one, for a look at a repository has half a minute."""
    web = Web(pipe("one"), etag='"1"')
    kinds: dict[str, t.Any] = {"a": {}, "needy": {"target_share": 1000, "cvmfs_repositories": ["hung.cern.ch"]}}
    with served(own_lab.engine.netns, web):
        pipes = {"exp": {"vacuum_pipe_url": web.url, "target_share": 0.001}}
        factory = make(kinds=kinds, total_processors=2, vacuum_pipes=pipes)
        factory.file("exp", "run", WORKS)
        factory.enter = hung_cvmfs
        began = time.monotonic()
        factory.start()
        factory.wait("two machines", lambda: len(factory.running()) == 2)
        assert time.monotonic() - began < 25, "they waited for the repository"

        factory.wait("it to be asked again", lambda: len(web.requests) == 2)
        assert "If-None-Match" not in web.requests[0]
        assert web.requests[1]["If-None-Match"] == '"1"', "what has not changed is not sent again"
        web.answer = send(200, b"<html>Please log in</html>", Content_Type="text/html")
        told = factory.wait("the check", lambda: "is no vacuum pipe" in (c := factory.run("check")).stdout and c)
        assert "The copy is used until it is back" in told.stdout
        assert report(factory)["pipes"]["exp"]["machinetypes"] == ["exp-one"]
    tried_again(factory)
    # Nobody listens there any more.
    told = factory.wait("the check", lambda: "refused" in (c := factory.run("check")).stdout and c)
    assert report(factory)["pipes"]["exp"]["machinetypes"] == ["exp-one"]
    assert {one["Config"]["Labels"]["hep.gridbox.machinetype"] for one in factory.running()} <= {"a", "exp-one"}

    hanging = factory.wait("the repository", lambda: "hung.cern.ch" in (e := factory.run("explain").stdout) and e)
    assert "CVMFS repository hung.cern.ch, since 2" in hanging
    assert "did not answer within 30 s" in hanging
    red = factory.run("check")
    assert red.returncode == 2
    assert "CVMFS repository hung.cern.ch does not answer" in red.stdout

    began = time.monotonic()
    assert factory.stop() == 0
    assert time.monotonic() - began < 15, "it waited for the repository"
    assert len(factory.running()) == 2

    # Another daemon has the copy, and the new pipe when it is there.
    other = Web(pipe("one", "two"), etag='"2"')
    with served(factory.netns, other):
        factory.write(vacuum_pipes={"exp": {"vacuum_pipe_url": other.url, "target_share": 0.001}})
        factory.start()
        factory.wait("the new pipe", lambda: report(factory)["pipes"]["exp"]["machinetypes"] == ["exp-one", "exp-two"])
        assert report(factory)["pipes"]["exp"]["problem"] == ""
        # It ends while it looks into the repository for the first time.
        began = time.monotonic()
        assert factory.stop() == 0
        assert time.monotonic() - began < 15, "it waited for the repository"


def tried_again(factory: LabFactory) -> None:
    """As if a minute had passed since the pipe's source was asked last."""
    path = factory.state / "pipes" / "exp.json"
    note = json.loads(path.read_text())
    path.with_suffix(".new").write_text(json.dumps({**note, "tried_at": note["tried_at"] - 100}))
    path.with_suffix(".new").replace(path)


# ---- a space -----------------------------------------------------------------------------------------------------

#: Addresses of hosts on the LAN of the lab, before the number of each; and of a network there that is the peer's.
NETWORKS = {"IPv4": ("10.213.7.", "10.213.0.0/24"), "IPv6": ("fd13:213::7:", "fd13:213::9/128")}


@pytest.fixture()
def hosts(own_lab: Lab) -> t.Iterator[list[str]]:
    """Network namespaces of three hosts on the LAN, .1 to .3, with the names of factories f1 to f3."""
    names = [f"{own_lab.engine.netns}-f{number}" for number in (1, 2, 3)]
    for number, name in enumerate(names, 1):
        add_netns(name)
        four, six = (network for network, _of_the_peer in NETWORKS.values())
        own_lab.lan.plug(name, "eth0", f"{four}{number}/16", f"{six}{number}/64")
        in_netns(name, "ip", "link", "set", "lo", "up")
    yield names
    for name in names:
        delete_netns(name)


# Two factories are a space over IPv4 in test_factory.py as well.
@pytest.mark.parametrize("family", [pytest.param("IPv4", marks=pytest.mark.fleet), "IPv6"])
def test_three_factories_are_one_space(own_lab: Lab, hosts: list[str], make: Make, family: str) -> None:
    names = [f"f{number}.example.org" for number in (1, 2, 3)]
    network, of_the_peer = NETWORKS[family]
    others = [{"factory": name, "host": f"{network}{number}"} for number, name in enumerate(names, 1)]
    kinds: dict[str, t.Any] = {"a": {}, "b": {}}

    def factory(number: int, processors: int, **only: t.Any) -> LabFactory:
        made = make(
            name=names[number - 1], kinds=only or kinds, factories=others, total_processors=processors, slots=processors
        )
        made.netns = hosts[number - 1]
        made.start()
        made.wait("its machines", lambda: len(made.running()) == processors)
        return made

    def counted(one: LabFactory) -> dict[str, int]:
        kinds_of = [machine["Config"]["Labels"]["hep.gridbox.machinetype"] for machine in one.running()]
        return {name: kinds_of.count(name) for name in kinds}

    # One has machines of one type only; the shares, which are the same, are those of the space. So far behind is the
    # other type that chance has no part in it.
    first = factory(1, 8, a={})
    second = factory(2, 3)
    third = factory(3, 2)
    assert counted(second) == {"a": 0, "b": 3}
    assert counted(third) == {"a": 0, "b": 2}

    # Each of them tells of all.
    for one in (first, second, third):
        table = one.run("factories")
        assert table.returncode == 0
        assert all(name in table.stdout for name in ("f1", "f2", "f3")), table.stdout

    # Whoever else is on the LAN hears nothing.
    assert asked(own_lab.peer, f"{network}2") == 0
    second.write(networks=[of_the_peer])  # not the factories'
    second.wait("the configuration", lambda: second.events("configuration_read"))
    second.wait("an answer", lambda: asked(own_lab.peer, f"{network}2") == 1)
    assert asked(own_lab.peer, f"{network}3") == 0
    third.wait("the count", lambda: report(third)["unanswered"].get("not_allowed", 0) >= 1)

    # The first one's host is gone. As long as nobody has seen that, its machines count; then they do not.
    assert first.process is not None
    first.stop(signal.SIGKILL)
    in_netns(hosts[0], "ip", "link", "set", "eth0", "down")
    third.write(grace_seconds=3)  # whatever changes in the file, the others are asked at once
    third.wait("the silence", lambda: report(third)["peers"]["f1.example.org"]["state"] in ("silent", "refused"))
    third.write(total_processors=4, slots=4)
    third.wait("two more", lambda: len(third.running()) == 4)
    assert counted(third) == {"a": 2, "b": 2}, "the space has five b that anybody knows of, and no a"
    lost = third.run("factories", "--timeout", "1")
    assert lost.returncode == 3
    assert "f1.example.org" in lost.stdout + lost.stderr


def test_a_space_in_which_all_is_signed(hosts: list[str], make: Make, tmp_path: Path) -> None:
    """Two factories have the key; the third one has not, and is nobody to them, as they are to it."""
    network, _of_the_peer = NETWORKS["IPv6"]
    names = [f"f{number}.example.org" for number in (1, 2, 3)]
    others = [{"factory": name, "host": f"{network}{number}"} for number, name in enumerate(names, 1)]
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("0123456789abcdef" * 4)
    signed = {"key_file": str(key), "signed_only": True}
    made = [make(name=name, factories=others, total_processors=1, slots=1) for name in names]
    for one, netns in zip(made, hosts):
        one.netns = netns
    first, second, third = made
    for one in (first, second):
        one.write(**signed)
    for one in made:
        one.start()

    def sees(one: LabFactory) -> dict[str, str]:
        return {name.partition(".")[0]: peer["state"] for name, peer in report(one).get("peers", {}).items()}

    first.wait("a machine of each", lambda: all(len(one.running()) == 1 for one in made))
    for one in (first, second):
        one.write(grace_seconds=3)  # whatever changes in the file, the others are asked at once
    first.wait("the second", lambda: sees(first) == {"f2": "answered", "f3": "silent"})
    second.wait("the first", lambda: sees(second) == {"f1": "answered", "f3": "silent"})
    assert sees(third) == {"f1": "silent", "f2": "silent"}

    # As root, people see the two as well.
    shown = first.run("machines", "--json", "--timeout", "2")
    assert shown.returncode == 3
    found = {one["factory"].partition(".")[0]: len(one["replies"]) for one in json.loads(shown.stdout)}
    assert found == {"f1": 1, "f2": 1, "f3": 0}

    # An asker that does not sign gets nothing, though its address may ask, and nor does one on the host itself.
    before = report(first)["unanswered"].get("unsigned", 0)
    assert asked(hosts[2], f"{network}1") == asked(hosts[0], "::1") == 0
    first.wait("the count", lambda: report(first)["unanswered"].get("unsigned", 0) >= before + 2)
    first.write(signed_only=False)
    first.wait("an answer", lambda: asked(hosts[2], f"{network}1") == 1)
    assert asked(hosts[0], "::1") == 1
    assert asked(hosts[2], f"{network}2") == 0

    # With the key it is one of them.
    third.stop()
    third.write(**signed)
    third.start()
    third.wait("the others", lambda: sees(third) == {"f1": "answered", "f2": "answered"})
    second.write(grace_seconds=4)
    second.wait("the third", lambda: sees(second) == {"f1": "answered", "f3": "answered"})


_ASK = """
import json, socket, sys
asked = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(1)
request = {"method": "factory_query", "message_type": "factory_query", "vac_version": "x", "cookie": "c1"}
request.update(space="vac01.example.org", vacquery_version="VacQuery 01.00", time_sent=0)
asked.sendto(json.dumps(request).encode(), (sys.argv[1], 995))
try:
    asked.recv(65536)
    print(1)
except socket.timeout:
    print(0)
"""


def asked(netns: str, address: str) -> int:
    """How many answers somebody there gets to one question."""
    return int(in_netns(netns, sys.executable, "-c", _ASK, address).stdout)

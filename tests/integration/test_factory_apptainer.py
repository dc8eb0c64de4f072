# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory with Apptainer as its engine: the whole life of machines, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_request import Request
from tests.integration.test_factory import (
    TIME_LIMITS,
    WORKS,
    ended,
    ends_by_the_time_limit,
    finds_what_ended_meanwhile,
)
from tests.lab.apptainer import ACCOUNT, IMAGE, HostFactory, add_loop_devices
from tests.lab.factory import KIND
from tests.lab.hosts import Machine
from tests.lab.lan import Lan, add_netns, delete_netns
from tests.lab.registry import Registry

APPTAINER = {**KIND, "machine_model": "apptainer", "root_image": IMAGE}


@pytest.fixture(scope="module")
def host(apptainer_host: Machine) -> Machine:
    """A host with Apptainer."""
    return apptainer_host


@pytest.fixture()
def make(host: Machine) -> t.Iterator[t.Callable[..., HostFactory]]:
    """Makes a factory with one machinetype ``a`` that runs a script."""
    made: list[HostFactory] = []

    def factory(script: str = WORKS, **settings: t.Any) -> HostFactory:
        kind = {**APPTAINER, **settings.pop("kind", {})}
        one = HostFactory(host, **{"machinetypes": {"a": kind}, **settings})
        one.file("a", "run", script)
        one.image("a")
        made.append(one)
        return one

    yield factory
    for one in made:
        one.remove()


def outputs(factory: HostFactory) -> Path:
    """Where the machine that is there leaves what it leaves."""
    return t.cast(Path, factory.wait("joboutputs", lambda: next(factory.state.glob("machines/*/mnt/joboutputs"), None)))


def groups(factory: HostFactory) -> list[Path]:
    """The machines' control groups, whoever is in them."""
    listed = factory.machine.run("find", "/sys/fs/cgroup", "-path", "*/hep.gridbox/*", "-type", "d").stdout.split()
    return [Path(one) for one in listed if not one.endswith("/supervisors")]


SEES = """#!/bin/sh
exec 3>&1 4>&2 >$JOBOUTPUTS/seen 2>/dev/null
hostname
id -u
grep -E '^(CapEff|NoNewPrivs|Groups)' /proc/self/status
echo $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS
cat /etc/machinefeatures/total_cpu /etc/jobfeatures/job_id; echo
touch /etc/machinefeatures/x || echo features are read-only
touch /x /bin/x || echo root is read-only
for folder in /scratch /tmp $HOME; do touch $folder/x && echo writable; done
ls -d /cvmfs /srv/factory /run/hep.gridbox.apptainer /etc/hep.gridbox
ps | grep -v grep | grep -c gridbox
env | grep -cE 'APPTAINER_(CACHEDIR|CONFIGDIR)|SECRET'
mv $JOBOUTPUTS/seen $JOBOUTPUTS/all
echo here I am >&3
echo and here >/proc/self/fd/4
while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done
echo 200 Success >$JOBOUTPUTS/shutdown_message
exit 3
"""


def test_the_life_of_a_machine(make: t.Callable[..., HostFactory]) -> None:
    factory = make(SEES, kind={"tmp_binds": ["/scratch"]}, pids_per_processor=64)
    factory.start()
    folder = outputs(factory)
    seen = factory.wait("the machine's words", lambda: (folder / "all").exists() and (folder / "all").read_text())
    [before] = factory.running()
    uid = factory.machine.run("id", "-u", ACCOUNT).stdout.strip()
    assert [line.rstrip() for line in seen.splitlines()] == [
        "f1-00.example.org", uid, "Groups:", "CapEff:\t0000000000000000", "NoNewPrivs:\t1",
        "/etc/machinefeatures /etc/jobfeatures /var/spool/joboutputs", f"1{before['request']['uuid']}",
        "features are read-only", "root is read-only", "writable", "writable", "writable", "0", "0",
    ]  # fmt: skip
    # Its control groups, as the kernel has them.
    pid = before["running"]["pid"]
    where = factory.machine.run("cat", f"/proc/{pid}/cgroup").stdout
    name = before["request"]["name"]
    assert {line.rpartition(":")[2] for line in where.splitlines() if "hep.gridbox" in line} == {f"/hep.gridbox/{name}"}
    limits = {path.name: path for path in groups(factory)}
    assert name in limits
    limit = factory.machine.run("cat", *_files(factory, name, "memory.limit_in_bytes", "memory.max")).stdout
    assert limit.strip() == str(64 << 20)
    assert factory.machine.run("cat", *_files(factory, name, "pids.max")).stdout.strip() == "64"
    quota = factory.machine.run("cat", *_files(factory, name, "cpu.cfs_quota_us", "cpu.max")).stdout
    assert quota.split()[0] == "100000"
    # The keeper is outside, and so is the daemon's unit.
    keeper = factory.machine.run("cat", f"/proc/{before['running']['keeper']}/cgroup").stdout
    assert "/hep.gridbox/supervisors" in keeper and "gridbox-factory.service" not in keeper + where

    (folder / "go").touch()
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("200 Success", "by_itself")
    first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    assert first["exit_code"] == 3
    kept = next(factory.state.glob(f"machines/*{first['uuid'][:8]}"))
    output = (kept / "output.log").read_text()
    assert "Z here I am\n" in output and "Z and here\n" in output and output[:2] == "20"
    second = factory.wait("the next one", lambda: [one for one in factory.running() if one != before])
    assert second[0]["request"]["uuid"] != before["request"]["uuid"]
    assert name not in {path.name for path in groups(factory)}
    factory.wait("a good word", lambda: factory.run("check").returncode == 0)


def _files(factory: HostFactory, name: str, *files: str) -> list[str]:
    found = factory.machine.run("find", "/sys/fs/cgroup", "-path", f"*/hep.gridbox/{name}/*").stdout.split()
    return [one for one in found if one.rpartition("/")[2] in files]


#: Answers whoever asks it for an address of IPv4, with one.
RESOLVER = """
import socket
answers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answers.bind(("127.0.0.53", 53))
while True:
    asked, who = answers.recvfrom(512)
    question = asked[12 : asked.index(b"\\0", 12) + 5]
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes([198, 51, 100, 1])
    found = answer if question[-4:-2] == b"\\0\\1" else b""
    answers.sendto(asked[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([bool(found)]) + bytes(4) + question + found, who)
"""

REACHES = """#!/bin/sh
exec >$JOBOUTPUTS/seen 2>/dev/null
reads() { printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $1 $2 | grep -q '200 OK' && echo $1; }
reads 198.51.100.1 80 || echo another host is not reached
reads 198.51.100.2 80 || echo this host is not reached
reads fd77::1 80 || echo another host is not reached
reads fd77::2 80 || echo this host is not reached
for address in 127.0.0.1 10.0.2.2; do reads $address 81 || echo nothing at $address; done
nslookup -type=a www.example.org | grep -q 198.51.100.1 && echo names are known
cat /etc/resolv.conf
ip link add x type dummy || echo no link of its own making
nc -l -p 4242 -e echo came in &
mv $JOBOUTPUTS/seen $JOBOUTPUTS/all
while :; do sleep 0.1; done
"""


@pytest.fixture()
def connected(host: Machine) -> t.Iterator[None]:
    """The host has a neighbour; both have a server, and the host one that listens on its loopback, and a resolver."""
    neighbour = f"{host.name}-peer"
    add_netns(neighbour)
    lan = Lan(f"{host.name}-lan")
    lan.plug(neighbour, "eth0", "198.51.100.1/24", "fd77::1/64")
    lan.plug(host.name, "eth0", "198.51.100.2/24", "fd77::2/64")
    host.run("ip", "route", "add", "default", "via", "198.51.100.1")
    server = ["nsenter", f"--net=/run/netns/{neighbour}", sys.executable, "-m", "http.server", "--bind", "::", "80"]
    there = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/usr/share/doc")
    for unit, words in {
        "www": ("python3", "-m", "http.server", "--bind", "::", "80"),
        "local": ("python3", "-m", "http.server", "--bind", "127.0.0.1", "81"),
        "resolver": ("python3", "-c", RESOLVER),
    }.items():
        host.run("systemd-run", f"--unit={unit}", "--working-directory=/usr/share/doc", *words)
    resolv_conf = host.root / "etc/resolv.conf"
    before = resolv_conf.read_text()
    resolv_conf.write_text("nameserver\t127.0.0.53 \nsearch example.org\n")
    try:
        yield
    finally:
        resolv_conf.write_text(before)
        host.run("systemctl", "stop", "www", "local", "resolver")
        there.kill()
        there.wait()
        lan.remove()
        delete_netns(neighbour)


def carrier(factory: HostFactory) -> int:
    """The process that carries the traffic of the machine that is there."""
    [words] = [one for one in factory.of_the_account() if "/pasta --quiet" in one]
    [pid] = factory.processes(f"^{words[:60]}")
    return pid


def reached(factory: HostFactory) -> list[str]:
    """What its first machine has found, of :data:`REACHES`."""
    factory.start()
    told = outputs(factory) / "all"
    seen: str = factory.wait("its words", lambda: told.exists() and told.read_text(), seconds=60)
    return seen.splitlines()


def test_a_machine_has_a_network_of_its_own(connected: None, make: t.Callable[..., HostFactory]) -> None:
    factory = make(REACHES)
    assert reached(factory) == [
        "198.51.100.1", "198.51.100.2", "fd77::1", "fd77::2", "nothing at 127.0.0.1", "nothing at 10.0.2.2",
        "names are known", "nameserver 10.0.2.3", "search example.org", "no link of its own making",
    ]  # fmt: skip
    # Nobody comes in.
    comes_in = factory.machine.run("busybox", "nc", "-w", "2", "198.51.100.2", "4242", check=False)
    assert (comes_in.returncode, comes_in.stdout) == (1, "")
    # What carries its traffic is in its groups, and goes with it.
    [machine] = factory.running()
    pid = carrier(factory)
    groups_of_it = factory.machine.run("cat", f"/proc/{pid}/cgroup").stdout
    assert f"/hep.gridbox/{machine['request']['name']}\n" in groups_of_it
    factory.write(draining=True)
    factory.wait("that to be read", lambda: factory.events("configuration_read"))
    factory.machine.run("kill", "-KILL", str(pid))
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("500 Machine lost its network", "network_lost")
    assert end["reason"] == "pasta, which carries its traffic, has ended"
    first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r, seconds=60)
    assert (first["exit_code"], first["cpu_seconds"] >= 0) == (137, True)
    assert factory.of_the_account() == [] and groups(factory) == []
    output = next(factory.state.glob(f"machines/*{first['uuid'][:8]}")) / "output.log"
    assert "The machine ends: pasta, which carries its traffic, has ended.\n" in output.read_text()
    assert not factory.events("stray_process_killed")


def test_a_machine_has_its_grace_when_what_carries_its_traffic_is_told_to_end_too(
    make: t.Callable[..., HostFactory],
) -> None:
    """As at a host's shutdown, when everybody is."""
    factory = make(
        "#!/bin/sh\ntrap 'sleep 1; echo 200 Told >$JOBOUTPUTS/shutdown_message; exit 5' TERM\n"
        "touch $JOBOUTPUTS/ready\nwhile :; do sleep 0.1; done\n"
    )
    factory.start()
    folder = outputs(factory)
    factory.wait("its first step", (folder / "ready").exists)
    [machine] = factory.running()
    factory.write(draining=True)
    factory.wait("that to be read", lambda: factory.events("configuration_read"))
    factory.machine.run("kill", "-TERM", str(machine["running"]["keeper"]), str(carrier(factory)))
    assert ended(factory)[0]["message"] == "200 Told"
    record = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    assert record["exit_code"] == 5


def test_a_machine_is_on_the_hosts_network_when_the_site_says_so(
    connected: None, make: t.Callable[..., HostFactory]
) -> None:
    factory = make(REACHES, network="host")
    seen = reached(factory)
    assert "127.0.0.1" in seen and "no link of its own making" in seen
    assert not [one for one in factory.of_the_account() if "/pasta --quiet" in one]


def test_a_machine_whose_network_cannot_be_joined_is_a_failed_start(make: t.Callable[..., HostFactory]) -> None:
    factory = make()
    factory.machine.run("chmod", "600", "/dev/net/tun")
    try:
        factory.start()
        end = ended(factory)[0]
        assert end["code"] == "start_failed"
        assert "The engine says: It has no network: pasta ended with 1 and says: Failed to open" in end["reason"]
        factory.wait("it to be cleaned away", lambda: factory.records()[0]["cleaned"])
        assert factory.of_the_account() == [] and groups(factory) == []
    finally:
        factory.machine.run("chmod", "666", "/dev/net/tun")


@pytest.mark.parametrize(("script", "message", "killed"), TIME_LIMITS)
def test_the_time_limit_is_term_then_kill(
    make: t.Callable[..., HostFactory], script: str, message: str, killed: bool
) -> None:
    factory = make(script, kind={"max_wallclock_seconds": 4})
    ends_by_the_time_limit(factory, message, killed)


def test_a_machine_cannot_have_more_memory_than_its_limit(make: t.Callable[..., HostFactory]) -> None:
    factory = make("#!/bin/sh\ntail /dev/zero\n", mb_per_processor=64)
    factory.start()
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("700 Memory limit reached", "by_itself")
    assert "memory limit" in factory.records()[0]["end_reason"]


def test_what_leaves_its_parent_and_its_session_does_not_leave_its_group(
    host: Machine, make: t.Callable[..., HostFactory]
) -> None:
    """Without Apptainer, and so without a namespace whose end ends all that is in it."""
    factory = make()
    folder = factory.state / "apptainer/f1-alone"
    folder.mkdir(parents=True)
    uid, gid = (int(host.run("id", one, ACCOUNT).stdout) for one in ("-u", "-g"))
    script = "(setsid sh -c '(setsid sleep 4242 &)' &); sleep 4243 & sleep 1; trap '' TERM; echo 200; exit 7"
    request = Request(
        "u", "f1-alone", uid, gid, {}, ("sh", "-c", script), {"PATH": "/usr/bin"}, 1, 64 << 20, 64, 1024, 1 << 20
    )
    (folder / "request.json").write_text(request.as_json())
    keeper = ("unshare", "--mount", "--propagation", "slave", "--", "/srv/factory/gridbox", "machine")
    assert host.run(*keeper, "/srv/factory/state/apptainer/f1-alone").stdout == "started"
    ended = json.loads((folder / "ended.json").read_text())
    assert (ended["exit_code"], ended["out_of_memory"]) == (7, False)
    assert factory.of_the_account() == []
    assert groups(factory) == []
    assert (folder / "output").read_text().endswith("Z 200\n")


def test_nothing_of_a_machine_is_left(make: t.Callable[..., HostFactory]) -> None:
    script = (
        "#!/bin/sh\n(setsid sh -c '(setsid sleep 4242 &)' &)\nsleep 4243 &\n"
        "while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done\necho 300 Nothing to do >$JOBOUTPUTS/shutdown_message\n"
    )
    factory = make(script)  # no other follows it
    factory.start()
    folder = outputs(factory)
    factory.wait("its children", lambda: factory.processes("^sleep 424[23]").__len__() == 2)
    (folder / "go").touch()
    ended(factory)
    factory.wait("it to be cleaned away", lambda: factory.records()[0]["cleaned"])
    assert factory.of_the_account() == []
    assert groups(factory) == []


def test_what_is_in_no_machine_is_killed_on_sight(make: t.Callable[..., HostFactory]) -> None:
    factory = make()
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    become = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"]
    factory.machine.run(*become, "setsid", "--fork", "sleep", "5151")
    factory.wait("it to go", lambda: not factory.processes("^sleep 5151"), seconds=20)
    told = factory.wait("the word", lambda: factory.events("stray_process_killed"))
    assert (told[0]["program"], told[0]["account"]) == ("sleep", ACCOUNT)
    assert factory.running() == [before]
    assert factory.of_the_account()


def test_a_container_of_somebody_else_with_the_accounts_number_is_spared(make: t.Callable[..., HostFactory]) -> None:
    """As Docker would start it. What the account puts into namespaces that it makes itself is killed all the same."""
    factory = make()
    factory.start()
    factory.wait("a machine", factory.running)
    become = ("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups")
    own = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
    factory.machine.run(
        "systemd-run",
        "--unit=redis",
        "--property=KillSignal=KILL",
        "unshare",
        "--pid",
        "--fork",
        *become,
        "sleep",
        "6161",
    )
    try:
        factory.wait("the container", lambda: factory.processes("^sleep 6161"))
        before = factory.processes("^sleep 6161")
        factory.machine.run(*become, "setsid", "--fork", *own, "sleep", "6262")
        factory.wait("the word", lambda: factory.events("stray_process_killed"))
        factory.wait("it to go", lambda: not factory.processes("^sleep 6262"), seconds=20)
        # It was there at each sweep since.
        assert factory.processes("^sleep 6161") == before
        assert "sleep" in {one["program"] for one in factory.events("stray_process_killed")}
        assert not [one for one in factory.events("stray_process_killed") if one["pid"] in before]
    finally:
        factory.machine.run("systemctl", "stop", "redis")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_machines_outlive_the_daemon(make: t.Callable[..., HostFactory], number: int) -> None:
    factory = make(total_processors=2)
    factory.start()
    before = factory.wait("two machines", lambda: len(r := factory.running()) == 2 and r)
    factory.stop(number)
    factory.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    factory.wait("a report", lambda: factory.run("check").returncode == 0)
    assert sorted(factory.running(), key=str) == sorted(before, key=str)
    for one in before:
        assert factory.machine.run("test", "-d", f"/proc/{one['running']['pid']}", check=False).returncode == 0
    assert not factory.events("machine_ended", "stray_removed", "unborn_removed", "stray_process_killed")


def test_ends_while_the_daemon_was_away_are_found(make: t.Callable[..., HostFactory]) -> None:
    works = "n=0\nwhile [ $n -lt 2000000 ]; do n=$((n + 1)); done"
    factory = make(f"#!/bin/sh\nsleep 3\n{works}\necho 200 Success >$JOBOUTPUTS/shutdown_message\n")
    finds_what_ended_meanwhile(factory, signal.SIGTERM)
    assert factory.records()[0]["cpu_seconds"] >= 1, "what it has used to its end, though nobody measured"


def test_a_machine_whose_keeper_is_killed_is_over_and_nothing_of_it_is_left(make: t.Callable[..., HostFactory]) -> None:
    factory = make()
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    factory.write(draining=True)
    factory.wait("that to be read", lambda: factory.events("configuration_read"))
    factory.machine.run("kill", "-KILL", str(before["running"]["keeper"]))
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("100 Machine was killed by somebody else", "vanished")
    factory.wait("it to be cleaned away", lambda: factory.records()[0]["cleaned"])
    assert factory.of_the_account() == []
    assert groups(factory) == []


@contextlib.contextmanager
def served(machine: Machine) -> t.Iterator[None]:
    """A server of the host's image, at port 8000 of the host."""
    serve = ("systemd-run", "--unit=images", "--working-directory=/srv", "python3", "-m", "http.server", "8000")
    machine.run(*serve)
    try:
        yield
    finally:
        machine.run("systemctl", "stop", "images")


def test_an_image_from_a_server(make: t.Callable[..., HostFactory]) -> None:
    there, gone = (f"http://127.0.0.1:{port}/{IMAGE}" for port in (8000, 8001))
    kinds = {"a": {**APPTAINER, "root_image": there}, "b": {**APPTAINER, "root_image": gone}}
    factory = make(machinetypes=kinds)
    with served(factory.machine):
        factory.start()
        [machine] = factory.wait("a machine", factory.running)
        [missing] = factory.wait("the word", lambda: factory.events("image_missing"))
        assert missing["image"] == gone
        assert "refused" in missing["problem"]
        assert factory.records()[0]["machinetype"] == "a"
        assert machine["request"]["shown"]["image"].startswith("/srv/factory/state/apptainer/images/")
    [image] = (factory.state / "apptainer/images").glob("*.sif")
    assert (image.stat().st_uid, image.stat().st_mode & 0o777) == (0, 0o644)
    assert [path.name for path in image.parent.iterdir()] == [image.name]


def test_an_image_that_nobody_wants_any_more_goes(make: t.Callable[..., HostFactory]) -> None:
    url = f"http://127.0.0.1:8000/{IMAGE}"
    kind = {**APPTAINER, "root_image": url}
    factory = make(machinetypes={"b": kind})
    factory.file("b", "run", "#!/bin/sh\nuntil [ -e $JOBOUTPUTS/go ]; do sleep 0.1; done\n")
    images = factory.state / "apptainer/images"
    cut_short = images / "image-0123456789abcdef.sif.work"
    cut_short.mkdir(parents=True)
    (cut_short / "half").write_text("of an image\n")
    with served(factory.machine):
        factory.start()
        [machine] = factory.wait("a machine", factory.running)
    [image] = images.iterdir()  # what the factory's last life left has gone
    own = f"/srv/factory/state/apptainer/images/{image.name}"
    assert machine["request"]["shown"]["image"] == own
    factory.stop()

    def eight_days_later() -> None:
        assert [(one["reference"], one["id"]) for one in factory.pulled_images()] == [(url, own)]
        factory.pass_days(8)

    def wanted_now() -> bool:
        [one] = factory.pulled_images()
        return bool(one["wanted"] > time.time() - 3600)

    # A machine has it, though no machinetype does.
    eight_days_later()
    factory.write(machinetypes={"a": APPTAINER})
    factory.start()
    factory.wait("the look", wanted_now)
    assert image.exists()
    (outputs(factory) / "go").touch()
    factory.wait("it to be cleaned away", lambda: [one["cleaned"] for one in factory.records() if one["cleaned"]])
    factory.stop()

    # A machinetype without a share has it.
    eight_days_later()
    factory.write(machinetypes={"a": APPTAINER, "b": {**kind, "target_share": 0.0}})
    factory.start()
    factory.wait("the look", wanted_now)
    assert image.exists()
    factory.stop()

    eight_days_later()
    factory.write(machinetypes={"a": APPTAINER})
    factory.start()
    factory.wait("it to go", lambda: factory.events("image_removed"))
    assert list(images.iterdir()) == []
    assert factory.pulled_images() == []
    assert factory.running()  # those of the site's own image
    assert not factory.events("images_not_tidied", "image_not_removed", "internal_error")


def test_an_image_from_a_registry_by_its_digest(
    make: t.Callable[..., HostFactory], host: Machine, tmp_path: Path
) -> None:
    registry = Registry(host.name, "127.0.0.1:5000", tmp_path / "registry")
    registry.start()
    try:
        registry.put("site/pilot", "1")
        digest = registry.digest("site/pilot", "1")
        (host.root / "etc/containers").mkdir(exist_ok=True)
        trust = '[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n'
        (host.root / "etc/containers/registries.conf").write_text(trust)
        factory = make(kind={"root_image": f"docker://127.0.0.1:5000/site/pilot:1@{digest}"})
        factory.start()
        factory.wait("a machine", factory.running)
        [pulled] = factory.events("image_pulled")
        assert pulled["id"].startswith("/srv/factory/state/apptainer/images/")
    finally:
        registry.stop()


def test_an_unpacked_image_in_a_repository(make: t.Callable[..., HostFactory]) -> None:
    factory = make(
        "#!/bin/sh\nls /cvmfs >$JOBOUTPUTS/cvmfs\ntouch /cvmfs/a.example.org/new 2>$JOBOUTPUTS/refused\n"
        "while :; do cat /cvmfs/a.example.org/told >$JOBOUTPUTS/told 2>&1; sleep 0.1; done\n",
        kind={"root_image": "/cvmfs/images.example.org/busybox", "cvmfs_repositories": ["a.example.org"]},
    )
    factory.machine.run("mkdir", "-p", "/cvmfs/images.example.org", "/cvmfs/a.example.org/x")
    factory.machine.run("cp", "-a", "/srv/busybox", "/cvmfs/images.example.org/")
    # Of its permissions nothing keeps anybody from writing there: what does is how the machine has it.
    factory.machine.run("chmod", "1777", "/cvmfs/a.example.org")
    folders = [f"/cvmfs/images.example.org/busybox/{one}" for one in ("dev", "proc", "sys", "var/tmp")]
    factory.machine.run("mkdir", "-p", *folders)
    try:
        factory.start()
        factory.wait("a machine", factory.running)
        listed = outputs(factory) / "cvmfs"
        assert factory.wait("its word", lambda: listed.exists() and listed.read_text()) == "a.example.org\n"
        # What the host mounts later is seen.
        told = outputs(factory) / "told"
        factory.wait("no such file", lambda: told.exists() and "No such file" in told.read_text())
        assert told.with_name("refused").read_text().endswith("Read-only file system\n")
        factory.machine.run("mount", "-t", "tmpfs", "tmpfs", "/cvmfs/a.example.org")
        factory.machine.run("sh", "-c", "echo later >/cvmfs/a.example.org/told")
        factory.wait("what is there now", lambda: told.read_text() == "later\n")
    finally:
        factory.stop()
        factory.machine.run("umount", "--lazy", "/cvmfs/a.example.org", check=False)
        factory.machine.run("rm", "-rf", "/cvmfs")


def test_its_work_space_is_all_that_it_can_write_to(make: t.Callable[..., HostFactory], host: Machine) -> None:
    script = (
        "#!/bin/sh\nfor folder in /tmp /var/tmp $HOME $JOBOUTPUTS; do df -k $folder | tail -1; done >$JOBOUTPUTS/seen\n"
        "dd if=/dev/zero of=/tmp/big bs=1M count=2000 && exit\nrm /tmp/big\n"
        "echo 200 Full >$JOBOUTPUTS/shutdown_message\n"
    )
    add_loop_devices(host)
    factory = make(script, work_space="file", disk_gb_per_processor=1)
    factory.start()
    assert ended(factory)[0]["message"] == "200 Full"
    first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    kept = next(factory.state.glob(f"machines/*{first['uuid'][:8]}/joboutputs/seen"))
    [seen] = {tuple(line.split()[:2]) for line in kept.read_text().splitlines()}
    assert seen[0].startswith("/dev/loop") and 900_000 < int(seen[1]) < 1_000_000
    factory.write(draining=True)
    factory.wait("all to be over", lambda: all(one["cleaned"] for one in factory.records()))
    assert host.run("losetup", "--all").stdout.count("/srv/factory/") == 0
    assert list((factory.state / "volumes").iterdir()) == []


def test_an_account_that_is_somebody_elses_is_refused(make: t.Callable[..., HostFactory]) -> None:
    factory = make(apptainer_account="nobody2")
    factory.start()
    factory.wait("a red check", lambda: "this host has no such account" in factory.run("check").stdout)
    assert factory.records() == []
    factory.machine.run("useradd", "--system", "--shell", "/bin/bash", "nobody2")
    factory.wait("the other reason", lambda: "somebody can log in to it" in factory.run("check").stdout)
    factory.machine.run("usermod", "--shell", "/usr/sbin/nologin", "nobody2")
    factory.wait("a machine", factory.running)
    factory.stop()
    factory.machine.run("pkill", "-KILL", "-u", "nobody2")
    factory.wait("its end", lambda: not factory.processes("gridbox machine"))
    factory.machine.run("userdel", "nobody2")


def test_what_a_report_says(make: t.Callable[..., HostFactory]) -> None:
    # Busy for some seconds of a processor, and then not, for other tests run beside.
    works = "#!/bin/sh\nn=0\nwhile [ $n -lt 2500000 ]; do n=$((n + 1)); done\nwhile :; do sleep 0.1; done\n"
    factory = make(works, machinetypes={"a": APPTAINER, "d": {**KIND, "target_share": 1.0}})
    factory.start()
    factory.wait("a machine", factory.running)
    used = factory.wait(
        "what it has used", lambda: [one for one in _machines(factory) if one.get("cpu_seconds", 0) >= 1], seconds=60
    )
    assert used[0]["machinetype"] == "a"
    assert "gridbox_" in factory.run("metrics").stdout
    assert factory.run("explain").returncode == 0


def _machines(factory: HostFactory) -> list[dict[str, t.Any]]:
    told = json.loads((factory.state / "report.json").read_text())
    return [one for one in told["slots"] if one.get("state") == "running"]

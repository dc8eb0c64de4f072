# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A hardened host: what an outside judge says of it, what it can still do, and the way in while sshd changes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.hardening.controls import IDS
from tests.gate.tools import ROOT
from tests.lab import lynis
from tests.lab.booted import booted
from tests.lab.fleet import LINK, Fleet
from tests.lab.hosts import Machine, key, ssh_options
from tests.lab.image import busybox_tar
from tests.sampled import sampled

HOST = "host1"
DROP_IN = "/etc/ssh/sshd_config.d/01-hep.gridbox.conf"
WAY_BACK = "/run/hep.gridbox-way-back"
#: What takes the change back at a boot.
AT_BOOT = (
    "/var/lib/hep.gridbox/way-back",
    "/etc/systemd/system/hep.gridbox-way-back-boot.service",
    "/etc/systemd/system/multi-user.target.wants/hep.gridbox-way-back-boot.service",
)
KERNEL = "the kernel is not the machine's own"

#: The host of molecule/host_hardening, without its time server.
ROLE = {
    "host_hardening_nofile_soft": 8192,
    "host_hardening_nofile_hard": 16384,
    "host_hardening_time_servers": ["127.0.0.1"],
    "host_hardening_time_options": "port 11123 iburst",
    "host_hardening_controls": dict.fromkeys(("inotify", "file_max", "keys", "neighbours"), KERNEL),
}

#: Only what the drop-in for sshd is about.
SSHD_ONLY = {
    "nofile_soft": 8192, "nofile_hard": 16384,
    "controls": dict.fromkeys(
        ("nofile", "nproc", "inotify", "file_max", "pid_max", "keys", "neighbours", "systemd_limits", "core_dumps",
         "kernel_modules"), False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    """One host on a LAN with a peer: an engine and a time server."""
    with booted("hard", f"{HOST}=native:bookworm:engine") as made:
        machine = machine_of(made)
        machine.feed(busybox_tar(), "docker", "import", "-", "busybox:test")
        put(machine, "/srv/time_server.py", (ROOT / "tests/lab/time_server.py").read_bytes())
        machine.run("systemd-run", "--unit=time-server", "/usr/bin/python3", "/srv/time_server.py", "11123")
        machine.run("mkdir", "/etc/systemd/system/chrony.service.d")
        # chrony may not set the clock, which is the real machine's.
        drop_in = b"[Service]\nExecStart=\nExecStart=!/usr/sbin/chronyd -x\n"
        put(machine, "/etc/systemd/system/chrony.service.d/lab.conf", drop_in)
        yield made


def machine_of(fleet: Fleet) -> Machine:
    return t.cast(Machine, fleet.machine(HOST))


def put(machine: Machine, path: str, content: bytes) -> None:
    machine.feed(content, "tee", path)


class Operator:
    """Somebody who runs Ansible over SSH.

    :param keys: what ssh offers, in this order; only the lab's own opens the host.
    :param hold: while this file exists, new connections hang.
    """

    def __init__(self, fleet: Fleet, folder: Path, keys: t.Sequence[Path] = (), hold: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.name = f"{fleet.name}-{HOST}"
        # The keys are options of ssh in their order, after which it gets the one that Ansible names.
        options = ssh_options()
        if hold is not None:
            slow = folder / "way"
            slow.write_text(f"#!/bin/sh\nwhile [ -e {hold} ]; do sleep 0.1; done\nexec {options[1].split('=', 1)[1]}\n")
            slow.chmod(0o755)
            options[1] = f"ProxyCommand={slow}"
            slow.write_text(slow.read_text().replace("%h", self.name))
        first, *others = keys or [key()]
        options += ["-o", "IdentitiesOnly=yes", *(word for other in others for word in ("-i", str(other)))]
        self.ssh = ["ssh", "-i", str(first), *options, f"root@{self.name}"]
        (folder / "inventory").write_text(
            f"{HOST} ansible_host={self.name} ansible_user=root ansible_python_interpreter=/usr/bin/python3"
            f" ansible_ssh_private_key_file={first} ansible_ssh_common_args={shlex.quote(shlex.join(options))}\n"
        )

    def can_log_in(self) -> bool:
        """By a connection of its own; one that hangs is no way in."""
        argv = [*self.ssh[:1], "-o", "ControlPath=none", *self.ssh[1:], "true"]
        try:
            return subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def start(self, *tasks: dict[str, t.Any], **variables: t.Any) -> subprocess.Popen[str]:
        """Begin to run tasks; what each says goes to a file."""
        steps = []
        for number, task in enumerate(tasks):
            steps.append({**task, "register": f"said{number}"})
        names = ", ".join(f"said{number}" for number in range(len(tasks)))
        play = {
            "hosts": HOST, "gather_facts": False, "vars": variables,
            "tasks": [{"block": steps, "always": [
                {"ansible.builtin.copy": {"content": "{{ [" + names + "] | to_json }}",
                                          "dest": str(self.folder / "said")},
                 "delegate_to": "localhost", "vars": {"ansible_python_interpreter": sys.executable,
                                                      "ansible_connection": "local"}},
            ]}],
        }  # fmt: skip
        (self.folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "play.yml"],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip

    def run(self, *tasks: dict[str, t.Any], fails: bool = False, **variables: t.Any) -> list[dict[str, t.Any]]:
        """Run tasks, and return what each said; if they are to fail, the last one does."""
        process = self.start(*tasks, **variables)
        output = process.communicate(timeout=300)[0]
        assert (process.returncode != 0) == fails, output
        return t.cast("list[dict[str, t.Any]]", json.loads((self.folder / "said").read_text()))


def controls(**options: t.Any) -> dict[str, t.Any]:
    return {"hep.gridbox.host_controls": {**SSHD_ONLY, **options}}


# ---- what it can still do, and what the judge says ---------------------------------------------------------------


def vobox(name: str, number: int) -> dict[str, t.Any]:
    return {
        "hep.gridbox.vobox_container": {
            "name": name, "image": "busybox:test", "hostname": f"{name}.example.org",
            "network": {"name": "site", "ipv4": f"10.213.0.{number}", "ipv6": f"fd13:213::{number}"},
            "init_script": "#!/bin/sh\nhttpd -p 80 -h /www\n", "services": [{"name": "web", "port": 80}],
            "limits": {"nofile": "4096:8192"},
        }
    }  # fmt: skip


def works(fleet: Fleet, operator: Operator, name: str, number: int) -> dict[str, str]:
    """What a ``docker run`` and a VO-box do, each made for it: what was tried, and what came of it."""
    machine = machine_of(fleet)

    def docker(*argv: str) -> str:
        return machine.run("docker", *argv).stdout.strip()

    def page(url: str) -> str:
        """From the LAN's other machine."""
        return fleet.from_peer("curl", "-sS", "--max-time", "5", url).stdout.strip()

    docker(
        "run", "--detach", "--name", "web", "--publish", "8080:80", "--volume", "data:/data", "--memory", "64m",
        "--pids-limit", "50", "busybox:test", "sh", "-c", "echo started; httpd -f -p 80 -h /www",
    )  # fmt: skip
    address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web")
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | tail -n 1"
    found = {
        "published port, from the LAN": page("http://10.213.0.1:8080/"),
        "container to container": docker("run", "--rm", "busybox:test", "sh", "-c", ask),
        "out to the LAN": docker("run", "--rm", "busybox:test", "ping", "-c", "1", "-q", "10.213.0.9").splitlines()[-2],
        "logs": docker("logs", "web"),
        "exec": docker("exec", "web", "sh", "-c", "echo kept > /data/file; id -u"),
        "volume": docker("run", "--rm", "--volume", "data:/data", "busybox:test", "cat", "/data/file"),
        "memory limit": docker("inspect", "--format", "{{.HostConfig.Memory}}", "web"),
        "limits of a container": docker("exec", "web", "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"),
        "user namespace": machine.run("unshare", "--user", "--map-root-user", "id", "-u").stdout,
    }
    docker("restart", "--time", "0", "web")
    found["after a restart"] = docker("exec", "web", "cat", "/data/file")
    said = operator.run(vobox(name, number))[0]
    found["VO-box"] = " ".join(step["action"] for step in said["actions"])
    found["VO-box, IPv4"] = page(f"http://10.213.0.{number}/")
    found["VO-box, IPv6"] = page(f"http://[fd13:213::{number}]/")
    found["VO-box out"] = docker("exec", name, "ping", "-c", "1", "-q", "10.213.0.9").splitlines()[-2]
    # Of its first process: what is executed into it has, now and then, the hard limit as its soft one (runc before
    # 1.1.13 with Go 1.19 or later, opencontainers/runc#4195).
    limits = docker("exec", name, "cat", "/proc/1/limits").splitlines()
    found["VO-box, limits"] = next(line for line in limits if line.startswith("Max open files"))
    docker("rm", "--force", "--volumes", "web", name)
    docker("volume", "rm", "data")
    return found


@dataclass
class Hardened:
    """The host before and after the role came."""

    works_before: dict[str, str]
    works_after: dict[str, str]
    lynis_before: lynis.Report
    lynis_after: lynis.Report
    #: Of a VO-box that was there all the time: what its process was, and the page it gave.
    staying: list[tuple[str, str]]
    changes: list[dict[str, t.Any]]
    log: str


@pytest.fixture(scope="module")
def hardened(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    machine = machine_of(fleet)
    operator = Operator(fleet, tmp_path_factory.mktemp("play"))
    machine.install("lynis")
    network = {
        "name": "site", "parent": LINK, "ipv4": {"subnet": "10.213.0.0/16", "gateway": "10.213.0.254"},
        "ipv6": {"subnet": "fd13:213::/64", "gateway": "fd13:213::fe"},
    }  # fmt: skip
    operator.run({"hep.gridbox.macvlan_net": network}, vobox("stays", 30))

    def staying() -> tuple[str, str]:
        pid = machine.run("docker", "inspect", "--format", "{{.State.Pid}}", "stays").stdout.strip()
        return pid, fleet.from_peer("curl", "-sS", "--max-time", "5", "http://10.213.0.30/").stdout

    first, works_before, lynis_before = staying(), works(fleet, operator, "before", 31), lynis.audit(machine)
    role = {"ansible.builtin.include_role": {"name": "hep.gridbox.host_hardening"}}
    operator.run(role, **ROLE)
    again = operator.run(
        {"hep.gridbox.host_controls": {name.partition("hardening_")[2]: value for name, value in ROLE.items()
                                       if "time" not in name}, "check_mode": True},
    )  # fmt: skip
    log = machine.run("journalctl", "--identifier=sshd", "--output=cat").stdout
    second = staying()
    machine.run("systemctl", "restart", "docker.service")  # what the engine is started with is hardened as well
    return Hardened(
        works_before,
        works(fleet, operator, "after", 32),
        lynis_before,
        lynis.audit(machine),
        [first, second],
        again,
        log,
    )


def test_docker_and_voboxes_do_all_they_did(hardened: Hardened) -> None:
    assert hardened.works_after == hardened.works_before
    assert hardened.works_before["VO-box, IPv6"] == hardened.works_before["published port, from the LAN"] == "here I am"
    assert hardened.works_before["memory limit"] == str(64 << 20)
    assert hardened.staying[0] == hardened.staying[1]
    assert hardened.staying[0][1] == "here I am\n"


def test_lynis_finds_a_better_host_and_nothing_that_has_no_reason(
    hardened: Hardened, record_property: t.Callable[[str, object], None]
) -> None:
    before, after = hardened.lynis_before, hardened.lynis_after
    record_property("CLAIM lynis", f"before={before.index} after={after.index}")
    assert after.index > before.index
    # Of the time service that chrony took the place of.
    assert {name for name, _about in set(after.findings) - set(before.findings)} == {"PKGS-7346"}
    waivers = yaml.safe_load((ROOT / "tests/integration/lynis_waivers.yml").read_text())
    assert lynis.judge(after, waivers) == []


def test_the_first_connection_was_open_while_the_second_proved_the_way_in(hardened: Hardened, fleet: Fleet) -> None:
    assert [task["changed"] for task in hardened.changes] == [False]
    assert "no such" in machine_of(fleet).run("ls", WAY_BACK, check=False).stderr.lower()
    accepted: list[str] = []  # connections by their ports
    ended: list[str] = []
    second = ""
    reloaded = False
    for line in hardened.log.splitlines():
        reloaded = reloaded or line.startswith("Received SIGHUP")
        if line.startswith("Accepted publickey"):
            accepted.append(line.split(" port ")[1].split()[0])
            second = second or (accepted[-1] if reloaded else "")
        elif line.startswith("Disconnected from user"):
            ended.append(line.split(" port ")[1].split()[0])
            if second and ended[-1] == second:
                break
    assert second and ended[-1] == second, hardened.log
    first = set(accepted[: accepted.index(second)]) - set(ended)
    assert first, hardened.log


# ---- the way in --------------------------------------------------------------------------------------------------


@pytest.fixture()
def many_keys(fleet: Fleet, tmp_path: Path) -> t.Iterator[Operator]:
    """Somebody whose fifth key is the right one: sshd's six tries let them in, the four of the role do not."""
    machine = machine_of(fleet)
    wrong = [tmp_path / f"key{number}" for number in range(4)]
    for path in wrong:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    Operator(fleet, tmp_path / "clean").run(controls(state="absent"))
    assert machine.run("ls", DROP_IN, check=False).returncode
    operator = Operator(fleet, tmp_path / "play", [*wrong, key()], tmp_path / "hold")
    assert operator.can_log_in()
    yield operator
    wait_for(machine, operator.can_log_in, 10)  # sshd may be reading its configuration at this moment
    assert machine.run("ls", DROP_IN, WAY_BACK, *AT_BOOT, check=False).stdout == ""
    units = machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "hep.gridbox*").stdout
    assert units == ""


def test_a_login_that_is_refused_puts_the_configuration_back_at_once(fleet: Fleet, many_keys: Operator) -> None:
    machine = machine_of(fleet)
    announced = many_keys.run({**controls(), "check_mode": True})[0]
    assert machine.run("ls", DROP_IN, WAY_BACK, check=False).stdout == ""
    said = many_keys.run(controls(), fails=True)[0]
    assert announced["actions"] == said["actions"]
    assert [step["action"] for step in said["actions"]] == ["arm_way_back", "write", "reload_sshd"]
    assert (said["way_in"], said["rolled_back"]) == ("not proved, put back", ["sshd's configuration"])
    assert "a second connection with the same user, key and options could not be made" in said["msg"]
    assert "The configuration of before is back; log in to make sure." in said["msg"]


def test_a_boot_before_the_proof_puts_it_back(fleet: Fleet, many_keys: Operator, tmp_path: Path) -> None:
    """The power goes after the change: no timer is left, and the new configuration lets nobody in."""
    machine = machine_of(fleet)
    many_keys.run({"ansible.builtin.ping": {}})  # the first connection, which stays
    (tmp_path / "hold").touch()
    process = many_keys.start(controls(proof_timeout=600))
    try:
        wait_for(machine, lambda: not machine.run("ls", WAY_BACK, DROP_IN, check=False).returncode, 30)
        assert not many_keys.can_log_in()
    finally:
        kill_family(process.pid)
        process.wait(10)
        (tmp_path / "hold").unlink()
    fleet.reboot(HOST)
    assert machine.run("ls", DROP_IN, *AT_BOOT, check=False).stdout == ""
    assert many_keys.can_log_in()
    assert "before anybody proved" in machine.run("journalctl", "--boot", "--unit", "hep.gridbox-way-back-boot").stdout


@pytest.mark.parametrize("systemd", sampled([True, False], every=2), ids=["systemd", "no systemd"])
def test_when_ansible_is_killed_the_timer_puts_it_back(
    fleet: Fleet, many_keys: Operator, tmp_path: Path, systemd: bool
) -> None:
    machine = machine_of(fleet)
    many_keys.run({"ansible.builtin.ping": {}})  # the first connection, which stays
    (tmp_path / "hold").touch()
    if not systemd:  # as it looks where another PID 1 is
        machine.run("mv", "/run/systemd/system", "/run/systemd/system.away")
    try:
        process = many_keys.start(controls(proof_timeout=35))  # so that the run below comes before
        wait_for(machine, lambda: not machine.run("ls", WAY_BACK, DROP_IN, check=False).returncode, 30)
        # Until the module has ended: then a process of ssh hangs in the second connection.
        wait_for(machine, lambda: any(b"ControlPath=none" in line for line in family(process.pid).values()), 15)
        kill_family(process.pid)
        process.wait(10)
        (tmp_path / "hold").unlink()
        assert not many_keys.can_log_in()
        refused = many_keys.run({**controls(), "check_mode": True}, fails=True)[0]
        assert "an earlier run has changed sshd, and no second connection has proved yet" in refused["msg"]
        wait_for(machine, lambda: bool(machine.run("ls", WAY_BACK, check=False).returncode), 60)
        wait_for(machine, many_keys.can_log_in, 10)
    finally:
        (tmp_path / "hold").unlink(missing_ok=True)
        if not systemd:
            machine.run("mv", "/run/systemd/system.away", "/run/systemd/system")


def kill_family(process: int) -> None:
    """All at one instant, as when a machine goes down: frozen first, so that none acts on another's end."""
    frozen: set[int] = set()
    while more := set(family(process)) - frozen:
        for pid in more:
            signal_if_there(pid, signal.SIGSTOP)
        frozen |= more
    for pid in frozen:
        signal_if_there(pid, signal.SIGKILL)


def signal_if_there(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended between the look and the signal


def family(process: int) -> dict[int, bytes]:
    """A process and all that it started and their command lines; Ansible's workers have sessions of their own."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    members = {process}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return {pid: lines[pid] for pid in members if pid in lines}


def wait_for(machine: Machine, holds: t.Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            log = machine.run("journalctl", "--no-pager", "--lines=40").stdout
            raise AssertionError(f"waited {seconds} s in vain; the machine's log ends:\n{log}")
        time.sleep(0.1)


def test_a_connection_that_is_no_login_by_ssh_is_not_proved_and_says_so(fleet: Fleet, tmp_path: Path) -> None:
    operator = Operator(fleet, tmp_path / "play")
    process = operator.start({**controls(way_in="skip"), "check_mode": True})
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "nothing proves the way in: way_in: skip" in " ".join(output.split())
    said = json.loads((operator.folder / "said").read_text())[0]
    assert [step["action"] for step in said["actions"]] == ["write", "reload_sshd"]


# ---- a host that is stricter than the role -----------------------------------------------------------------------

SITE = "/etc/ssh/sshd_config.d/50-site.conf"
STRICTER = "# f\u00fcr uns\nMaxAuthTries 3\nLoginGraceTime 20\nMatch User root\n    AllowAgentForwarding no\n"


@pytest.mark.fleet
def test_what_the_site_has_stricter_stays(fleet: Fleet, tmp_path: Path) -> None:
    machine = machine_of(fleet)
    operator = Operator(fleet, tmp_path / "play")
    operator.run(controls(state="absent"))
    # Comments as editors wrote them before UTF-8.
    put(machine, SITE, STRICTER.encode("latin-1"))
    put(machine, "/etc/sysctl.d/50-site.conf", "# f\u00fcr uns\n".encode("latin-1"))
    try:
        audit = {"hep.gridbox.host_audit": {key: SSHD_ONLY[key] for key in SSHD_ONLY}}
        before = {found["id"]: found for found in operator.run(audit)[0]["controls"]}
        # The effective value is the site's, and the other two are not what the control asks for.
        assert "MaxAuthTries" not in before["sshd_sessions"]["finding"], before["sshd_sessions"]
        done = operator.run(controls())[0]
        assert [step["action"] for step in done["actions"]] == ["arm_way_back", "write", "reload_sshd"]
        text = machine.run("cat", DROP_IN).stdout
        assert "MaxAuthTries" not in text and "LoginGraceTime" not in text
        # Stricter for one account only, so the rest needs it.
        assert "AllowAgentForwarding no\n" in text and "PermitRootLogin prohibit-password\n" in text
        effective = machine.run("sshd", "-T").stdout
        assert "\nmaxauthtries 3\n" in effective and "\nlogingracetime 20\n" in effective
        again, after = operator.run(controls(), audit)
        assert not again["changed"]
        assert {found["status"] for found in after["controls"] if found["id"].startswith("sshd")} == {"pass"}
        # sshd does not read this here, for it would let root in no more, with whom Ansible comes.
        put(machine, SITE, ("PermitRootLogin no\n" + STRICTER).encode("latin-1"))
        foresee = {**controls(), "check_mode": True, "diff": True}
        refused = operator.run(foresee, fails=True)[0]
        assert "no account can log in with a key" in refused["msg"]  # root's does not help then
        machine.run("sh", "-ec", "useradd --create-home --shell /bin/sh ops; cp -r /root/.ssh /home/ops/")
        foreseen = operator.run(foresee)[0]
        assert "PermitRootLogin" not in foreseen["diff"]["after"][DROP_IN]
        assert "PermitRootLogin" in foreseen["diff"]["before"][DROP_IN]
    finally:
        machine.run("rm", SITE, "/etc/sysctl.d/50-site.conf")
        machine.run("userdel", "--remove", "ops", check=False)
        operator.run(controls(state="absent"))


# ---- files of the site that are read after the role's ------------------------------------------------------------

#: All controls are off but those of the files.
LATER = {
    "nofile_soft": 8192, "nofile_hard": 16384,
    "controls": dict.fromkeys(set(IDS) - {"systemd_limits", "pid_max"}, False),
}  # fmt: skip


@pytest.mark.fleet
def test_a_later_file_of_the_site_is_left_in_force_or_refused(fleet: Fleet, tmp_path: Path) -> None:
    machine = machine_of(fleet)
    operator = Operator(fleet, tmp_path / "play")
    task = {"hep.gridbox.host_controls": LATER}
    drop_in, sysctls = "/etc/systemd/system.conf.d/limits.conf", machine.run("cat", "/etc/sysctl.conf").stdout
    machine.run("mkdir", "-p", str(Path(drop_in).parent))
    try:
        put(machine, drop_in, b"[Manager]\nDefaultLimitNOFILE=16384:32768\n")
        assert "reload_systemd" in [step["action"] for step in operator.run(task)[0]["actions"]]
        shown = machine.run("systemctl", "show", "--property=DefaultLimitNOFILESoft,DefaultLimitNOFILE").stdout
        assert sorted(shown.split()) == ["DefaultLimitNOFILE=32768", "DefaultLimitNOFILESoft=16384"]
        assert not operator.run(task)[0]["changed"]
        put(machine, drop_in, b"[Manager]\nDefaultLimitNOFILE=1024:32768\n")
        for check in (True, False):
            refused = operator.run({**task, "check_mode": check}, fails=True)[0]
            assert f"control systemd_limits: {drop_in}, which is read after" in refused["msg"]
        machine.run("rm", drop_in)
        put(machine, "/etc/sysctl.conf", b"kernel.pid_max = 40000\n")
        refused = operator.run(task, fails=True)[0]
        assert "control pid_max: /etc/sysctl" in refused["msg"] and "sets kernel.pid_max to 40000" in refused["msg"]
    finally:
        machine.run("rm", "-f", drop_in)
        put(machine, "/etc/sysctl.conf", sysctls.encode())
        operator.run({"hep.gridbox.host_controls": {"state": "absent"}})

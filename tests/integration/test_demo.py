# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo, two VO-boxes and a factory, as a newcomer runs it: ``make up``, again, ``make status``, ``make down``.

The tests look with other tools than the collection: docker, ip, curl, ssh. They go by the order in this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tarfile
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.lan import in_netns, run
from tests.lab.playbook import kept_in

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "unix:///run/gridbox-demo/docker.sock"
PEER, HOST = "gridbox-peer", "gridbox-host"
BOXES = {"vobox1": ("198.51.100.11", "2001:db8:77::11"), "vobox2": ("198.51.100.12", "2001:db8:77::12")}
PORTS = (1975, 3128, 9100)
SERVICES = {"vobox1": 4, "vobox2": 3}  # the first one publishes the factory's pipe as well
SLOTS = [f"demo-0{number}.demo.example" for number in range(3)]
MACHINES = Path("/var/lib/gridbox-factory/machines")
AUTHORITY = "/var/lib/gridbox-outside/tls/ca.pem"
REPOSITORY = Path("/var/lib/gridbox-outside/repository")
ROOT_OF_MACHINES = "/cvmfs/demo.example.org/root"


def make(*arguments: str, timeout: float = 1200) -> str:
    """Run make in the checkout; its output, without colours."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DOCKER_HOST", "COLUMNS")}
    done = subprocess.run(
        ["make", "--no-print-directory", "--directory", str(ROOT), *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"make {' '.join(arguments)}: exit {done.returncode}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def like_make() -> dict[str, str]:
    """The environment of playbooks as the Makefile has it: what Ansible keeps in a person's home is not the demo's."""
    return {**os.environ, **kept_in(ROOT / ".cache/ansible")}


def playbook(name: str, *arguments: str) -> str:
    """Run a playbook of the collection on the demo."""
    argv = [str(ROOT / ".venv/bin/ansible-playbook"), f"hep.gridbox.{name}", "-i", "inventories/demo", *arguments]
    done = subprocess.run(
        argv, cwd=ROOT, env=like_make(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"{' '.join(argv)}: exit {done.returncode}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    )
    return done.stdout


def docker(*arguments: str, check: bool = True) -> str:
    return run("docker", "--host", ENGINE, *arguments, check=check, timeout=120).stdout


def inspect(name: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(docker("inspect", name))[0])


def ids() -> dict[str, tuple[str, str]]:
    """Container and image of each VO-box."""
    return {name: (inspect(name)["Id"], inspect(name)["Image"]) for name in BOXES}


def machine() -> dict[str, set[str]]:
    """The machine's state, as far as the demo might touch it.

    Network namespaces of other names are left out, for other tests and people may make and remove theirs meanwhile; so
    is the folder of their names, which comes with the first and goes with the last of them, and that in which mount(8)
    keeps its notes, which comes with the first mount.
    """

    def lines(*argv: str) -> set[str]:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return {line for line in done.stdout.splitlines() if not re.search(r"\bgb[tm]\d|/tmp/|^#|\[\d+:\d+\]", line)}

    links = json.loads(run("ip", "-json", "address").stdout)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    # By their command lines, for those of the labs of other tests name a folder in /tmp, and by their mount namespaces,
    # for containers have their own.
    home = str(os.stat("/proc/self/ns/mnt").st_ino)
    ours = [line.split(maxsplit=2) for line in lines("ps", "-eo", "mntns=,args=")]
    processes = {os.path.basename(words[1].rstrip(":")) for words in ours if words[0] == home}
    folders = [Path(name) for name in ("/etc", "/run", "/var/lib", "/var/log", "/var/tmp", "/etc/docker", "/root")]
    return {
        "links": {
            f"{one['ifname']} {one['flags']} {one['addr_info'] and [a['local'] for a in one['addr_info']]}"
            for one in links
        },
        "routes": lines("ip", "-4", "route", "show", "table", "all")
        | lines("ip", "-6", "route", "show", "table", "all"),
        "namespaces": {name for name in lines("ip", "netns", "list") if "gridbox" in name},
        "mounts": {point for point in mounts if not re.match(r"/tmp|/run/netns(?!/gridbox)", point)},
        "daemons": processes
        & {
            "dockerd",
            "containerd",
            "containerd-shim-runc-v2",
            "squid",
            "sshd",
            "cron",
            "prometheus-node-exporter",
        },
        "files": {str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()}
        - {"/run/netns", "/run/mount"},
        "packages": lines("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"),
        "filter": lines("iptables-save") | lines("ip6tables-save"),
    }


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    """The machine before the demo."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the demo makes network namespaces and starts an engine")
    assert not os.path.exists(f"/run/netns/{PEER}"), "the demo is up on this machine: run make down first"
    return machine()


@pytest.fixture(scope="module")
def up(before: dict[str, set[str]]) -> t.Iterator[str]:
    """What ``make up`` printed."""
    yield make("up")
    if os.path.exists(f"/run/netns/{PEER}"):
        make("down")


def test_check_mode_on_a_bare_machine_changes_nothing(before: dict[str, set[str]]) -> None:
    output = playbook("site", "--check", "--diff")
    assert "vobox1 (vobox1.demo.example) would be created" in output
    assert machine() == before


def test_up_ends_with_a_table(up: str) -> None:
    for name, (ipv4, ipv6) in BOXES.items():
        mac = inspect(name)["NetworkSettings"]["Networks"]["site"]["MacAddress"]
        up_of = f"{SERVICES[name]}/{SERVICES[name]} up"
        row = (
            rf"^{name} +{name}\.demo\.example +{ipv4} +{ipv6} +{mac} +docker [\d.]+ +vobox:reference \(1\) +{up_of} +\d"
        )
        assert re.search(row, up, re.MULTILINE), up
    for slot in SLOTS:
        assert re.search(rf"^{slot} +demo-(primes|pi) +running +1 ", up, re.MULTILINE), up[-3000:]
    assert "Both VO-boxes run; every declared service answers over IPv4 and IPv6." in up
    assert "ASYNC POLL" in up  # a person sees that the long step goes on


def test_a_second_up_changes_nothing_and_says_so(up: str) -> None:
    first = ids()
    output = make("up")
    assert re.findall(r"^demo +: ok=\d+ +changed=(\d+) ", output, re.MULTILINE) == ["0"], output
    assert output.rstrip().endswith("Nothing was changed.")
    assert ids() == first


def test_status_prints_the_table_and_little_else(up: str) -> None:
    output = make("status")
    assert len(re.findall(r"(4/4|3/3) up", output)) == 2
    assert all(re.search(rf"^{slot} +demo-", output, re.MULTILINE) for slot in SLOTS), output
    assert len(output.splitlines()) < 45, output


def test_the_factory_fills_its_slots_again_and_again(up: str) -> None:
    """Machines of both machinetypes of the pipe have done their work, and others run in their place."""

    def done() -> dict[str, str]:
        found = {}
        for file in MACHINES.glob("*/machine.json"):
            machine = json.loads(file.read_text())
            if machine["state"] == "ended" and machine["cleaned"]:
                assert machine["shutdown_message"] == "200 Success", machine
                found[machine["machinetype"]] = (file.parent / "output.log").read_text()
        return found

    deadline = time.monotonic() + 120
    while len(printed := done()) < 2:
        assert time.monotonic() < deadline, f"after 120 s machines of {', '.join(printed) or 'no type'} have ended"
        time.sleep(1)
    assert re.search(r"\d+ primes below \d+", printed["demo-primes"])
    found = re.search(r"pi is about 3\.1\d* after \d+ points\n\S+ so says (\S+) by (\S+)", printed["demo-pi"])
    assert found and found.groups() == ("payload00", f"{ROOT_OF_MACHINES}/bin/awk"), printed["demo-pi"]

    def running() -> list[str]:
        return [name for name in docker("ps", "--format", "{{.Names}}").split() if name.startswith("demo-0")]

    # They work for seconds, so some of the three may be changing at any time.
    while len(running()) < 2:
        assert time.monotonic() < deadline, "120 s long there were no two machines at the same time"
        time.sleep(0.2)


def test_the_commands_of_the_readme_show_the_space(up: str) -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    ((?:ip netns exec \S+ )?gridbox .*)$", readme, re.MULTILINE)
    asked = {command.split()[-1]: command.split() for command in commands}
    assert set(asked) == {"machines", "explain"}
    machines = run(*asked["machines"]).stdout
    assert all(slot.split(".")[0] in machines for slot in SLOTS), machines
    told = {}
    for question in ("machines", "machinetypes", "factories"):
        told[question] = run(*asked["machines"][:-1], question, "--json").stdout
        assert json.loads(told[question]), question
    assert {"demo-primes", "demo-pi"} <= set(re.findall(r"demo-\w+", told["machinetypes"]))
    assert "demo.demo.example" in told["factories"]
    assert re.search(r"demo-(primes|pi)", run(*asked["explain"]).stdout)


def test_the_pipe_comes_from_a_vobox_and_who_published_it_is_known(up: str) -> None:
    """Over TLS: a client that does not know the demo's authority trusts nothing of it."""
    for address in BOXES["vobox1"]:
        there = f"::[{address}]:8443" if ":" in address else f"::{address}:8443"
        get = ("curl", "-sS", "-m", "10", "--connect-to", there, "https://vobox1.demo.example:8443/demo.pipe")
        assert "SSL certificate problem" in in_netns(PEER, *get, check=False).stderr
        page = in_netns(PEER, *get, "--cacert", AUTHORITY).stdout
        assert {one["suffix"] for one in json.loads(page)["machinetypes"]} == {"primes", "pi"}


def test_a_machine_of_the_bootstrap_image_runs_out_of_the_repository(up: str) -> None:
    """Its image is busybox; its programs are the repository's, read-only; its payload has an account of its own."""

    def look() -> tuple[dict[str, t.Any], bool, str]:
        name = docker("ps", "--quiet", "--filter", "label=hep.gridbox.machinetype=demo-pi").split()[0]
        top = docker("top", name, "-eo", "pid,uid,args")
        payload = re.findall(r"^(\d+) +40001 +/bin/awk ", top, re.MULTILINE)[0]
        of_repository = os.path.samefile(f"/proc/{payload}/exe", REPOSITORY / "root/bin/awk")
        commands = "readlink /bin; touch /bin/x 2>&1; ls /cvmfs; su payload00 -c 'touch $JOBOUTPUTS/x' 2>&1"
        return inspect(name), of_repository, docker("exec", name, "/bin/sh", "-c", f"{commands}; true")

    deadline = time.monotonic() + 60
    while True:  # it may be gone at any time, and another one comes
        with contextlib.suppress(IndexError, OSError, RuntimeError):
            seen, of_repository, said = look()
            break
        assert time.monotonic() < deadline, "no machine of demo-pi was seen at its work"
        time.sleep(0.3)
    assert of_repository
    assert json.loads(docker("image", "inspect", seen["Image"]))[0]["Size"] < 4 << 20
    assert said.splitlines() == [
        f"{ROOT_OF_MACHINES}/bin", "touch: /bin/x: Read-only file system", "demo.example.org",
        "touch: /var/spool/joboutputs/x: Permission denied",
    ]  # fmt: skip
    mounts = {one["Destination"]: one for one in seen["Mounts"]}
    repository = mounts["/cvmfs/demo.example.org"]
    assert (repository["Source"], repository["RW"]) == ("/run/gridbox-cvmfs/demo.example.org", False)
    assert not Path("/cvmfs").is_dir() or "demo.example.org" not in os.listdir("/cvmfs")


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_the_services_do_their_work(up: str, name: str, family: int) -> None:
    """From the peer: sshd shows its key, the node exporter its page, and squid fetches the other VO-box's page."""
    address, other = BOXES[name][family], BOXES["vobox2" if name == "vobox1" else "vobox1"][family]
    host, other_host = (f"[{address}]", f"[{other}]") if family else (address, other)
    assert "ssh-ed25519" in in_netns(PEER, "ssh-keyscan", "-p", "1975", "-T", "5", address).stdout
    page = in_netns(PEER, "curl", "-sS", "-g", "-m", "10", f"http://{host}:9100/metrics").stdout
    assert f'nodename="{name}.demo.example"' in page
    # Port 9100 is not one that the cache fetches from; its refusal is squid's own page.
    refused = in_netns(
        PEER, "curl", "-sS", "-g", "-m", "10", "-i", "-x", f"http://{host}:3128", f"http://{other_host}:9100/"
    ).stdout
    assert re.match(r"HTTP/1\.1 403 ", refused) and "squid" in refused


def test_each_vobox_is_a_machine_of_its_own_on_the_lan(up: str) -> None:
    """A8, A9: own MACs in the peer's neighbour table; the host itself does not see its containers."""
    neighbours = in_netns(PEER, "ip", "neighbour", "show").stdout
    macs = set()
    for name, addresses in BOXES.items():
        mac = inspect(name)["NetworkSettings"]["Networks"]["site"]["MacAddress"]
        macs.add(mac)
        for address in addresses:
            assert re.search(rf"^{re.escape(address)} .*lladdr {mac}", neighbours, re.MULTILINE), neighbours
    parent = json.loads(in_netns(HOST, "ip", "-json", "link", "show", "site0").stdout)[0]["address"]
    assert len(macs | {parent}) == 3
    assert in_netns(PEER, "ping", "-c1", "-W2", BOXES["vobox1"][0]).returncode == 0
    assert in_netns(HOST, "ping", "-c1", "-W1", BOXES["vobox1"][0], check=False).returncode != 0


def test_the_image_holds_no_key_and_no_password(up: str, tmp_path: Path) -> None:
    docker("create", "--name", "look", "--network", "none", "vobox:reference")
    try:
        docker("export", "--output", str(tmp_path / "image.tar"), "look")
    finally:
        docker("rm", "--volumes", "look")
    with tarfile.open(tmp_path / "image.tar") as tar:
        names = [entry.name for entry in tar if entry.isfile()]
        shadow = t.cast("t.IO[bytes]", tar.extractfile("etc/shadow")).read().decode()
        machine_id = t.cast("t.IO[bytes]", tar.extractfile("etc/machine-id")).read()
        dpkg = t.cast("t.IO[bytes]", tar.extractfile("etc/dpkg/dpkg.cfg.d/99mmdebstrap")).read().decode()
    keys = [name for name in names if re.search(r"ssh_host_|authorized_keys|id_(rsa|ed25519)|\.pem$|\.key$", name)]
    assert [name for name in keys if "share/ca-certificates" not in name and "etc/ssl/certs" not in name] == []
    with_password = [
        line.split(":")[0] for line in shadow.splitlines() if line.split(":")[1] not in ("*", "!", "!*", "!!")
    ]
    assert with_password == []
    assert machine_id == b""
    assert "path-exclude" in dpkg and "unsafe" not in dpkg  # what was installed fast is not installed so by others


def test_host_keys_are_each_voboxes_own_and_last(up: str) -> None:
    keys = {
        name: docker("exec", name, "cat", "/var/lib/vobox/ssh/ssh_host_ed25519_key.pub").split()[1] for name in BOXES
    }
    assert len(set(keys.values())) == 2
    docker("restart", "vobox1")
    assert docker("exec", "vobox1", "cat", "/var/lib/vobox/ssh/ssh_host_ed25519_key.pub").split()[1] == keys["vobox1"]


def test_a_killed_vobox_restores_its_services(up: str) -> None:
    """A17, B4: PID 1 killed; the engine starts it again, and the init script its services, with nobody logging in."""
    _wait_for_services("vobox2", 60)
    pid = inspect("vobox2")["State"]["Pid"]
    began = time.monotonic()
    os.kill(pid, 9)
    while inspect("vobox2")["State"]["Pid"] in (0, pid):
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    _wait_for_services("vobox2", 60)
    print(f"A17: all services of a killed VO-box answered again after {time.monotonic() - began:.2f} s")


def _wait_for_services(name: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for address in BOXES[name]:
        for port in PORTS:
            connect = ("timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
            while in_netns(PEER, *connect, check=False).returncode:
                assert time.monotonic() < deadline, f"{name}: nothing listens at {address} port {port}"
                time.sleep(0.1)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.fleet)])
@pytest.mark.parametrize("guide", ["operations"])
def test_every_command_of_a_guide_runs(up: str, guide: str, whole: bool) -> None:
    """The blocks marked ``sh``, in their order, as a person types them with the virtual environment active.

    Those that go through all of the site change nothing on the demo, and take minutes: they are run with the fleet's.
    """
    commands = re.findall(r"^```sh\n(.*?)^```", (ROOT / f"docs/{guide}.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [one for one in commands if bool(re.search("hep.gridbox.(site|remove)", one)) is whole]
    assert len(commands) > (3 if whole else 5)
    environment = {**like_make(), "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}exit {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        if "hep.gridbox.site" in command:  # in check mode and for real: the demo is as described
            assert re.search(r"^demo +: ok=\d+ +changed=0 ", done.stdout, re.MULTILINE), done.stdout[-3000:]


def test_the_init_script_changes_in_place(up: str, tmp_path: Path) -> None:
    """A19: another key for the service account; same image, same container, and the login works."""
    first = ids()
    key = tmp_path / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a visitor's key", "-f", str(key))
    wish = {"squid_clients": ["198.51.100.0/24"], "authorized_keys": [(tmp_path / "key.pub").read_text().strip()]}
    playbook("vobox", "-e", json.dumps({"vobox_init": wish, "vobox_max_disruption": "service"}))
    assert ids() == first
    for address in BOXES["vobox1"]:
        assert in_netns(PEER, *_ssh(key, address), "-tt", "id -un").stdout.split() == ["sgm"]
    # Nobody comes in as root, with that key or without.
    assert in_netns(PEER, *_ssh(key, BOXES["vobox1"][0], "root"), "true", check=False).returncode == 255


def _ssh(key: Path, address: str, user: str = "sgm") -> list[str]:
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=5",
    )
    return ["ssh", "-i", str(key), "-p", "1975", *(f"-o{one}" for one in options), f"{user}@{address}"]


@pytest.mark.fleet
def test_no_capability_is_too_many(up: str, tmp_path: Path) -> None:
    """A12: with the role's list all tools work; with any one taken away, one of them does not."""
    granted = sorted(name.removeprefix("CAP_") for name in inspect("vobox1")["HostConfig"]["CapAdd"])
    key = tmp_path / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    script = tmp_path / "init.sh"
    text = docker("exec", "vobox1", "cat", "/etc/hep.gridbox/current/init.sh")
    public = (tmp_path / "key.pub").read_text().strip()
    text = text.replace(
        "/usr/sbin/sshd -E", f"echo '{public}' > /var/lib/vobox/authorized_keys/sgm\n/usr/sbin/sshd -E", 1
    )
    script.write_text(text + "\nsleep 600\n")
    script.chmod(0o755)
    missing: dict[str, list[str]] = {}
    for without in ["", *granted]:
        capabilities = [name for name in granted if name != without]
        missing[without] = _what_fails(capabilities, script, key)
        print(f"A12: without {without or 'nothing'}: {', '.join(missing[without]) or 'all works'}")
    assert missing.pop("") == []
    assert [name for name, failures in missing.items() if not failures] == []


def _what_fails(capabilities: list[str], script: Path, key: Path) -> list[str]:
    """Which tools fail in a container with just these capabilities."""
    address = "198.51.100.50"
    grants = [f"--cap-add={name}" for name in capabilities]
    docker(
        "run", "--detach", "--name", "least", "--init", "--network", "site", "--ip", address,
        "--hostname", "least.demo.example", "--cap-drop", "ALL", *grants,
        "--volume", f"{script}:/etc/init.sh:ro", "vobox:reference",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 15
        health = ["exec", "least", "/usr/local/bin/vobox-health", *map(str, PORTS)]
        while (listening := _works("docker", "--host", ENGINE, *health)) is False and time.monotonic() < deadline:
            if inspect("least")["State"]["Status"] != "running":
                break
            time.sleep(0.3)
        # With a neighbour's entry of the container before, the first packets would go to the wrong MAC.
        in_netns(PEER, "ip", "neighbour", "flush", "to", address, check=False)
        crontab = "echo '* * * * * true' > /tmp/tab && crontab -u sgm /tmp/tab && cat /var/spool/cron/crontabs/sgm"
        tools = {
            "services": listening,
            "login": _works("nsenter", f"--net=/run/netns/{PEER}", *_ssh(key, address), "true"),
            "terminal": _works("nsenter", f"--net=/run/netns/{PEER}", *_ssh(key, address), "-tt", "true"),
            "ping": _works("docker", "--host", ENGINE, "exec", "least", "ping", "-c1", "-W2", "198.51.100.1"),
            "crontab": _works("docker", "--host", ENGINE, "exec", "least", "sh", "-c", crontab),
            "log rotation": _works(
                "docker", "--host", ENGINE, "exec", "least", "logrotate", "-f", "/etc/logrotate.d/vobox"
            ),
            "restart": _works("docker", "--host", ENGINE, "exec", "least", "pkill", "-TERM", "prometheus-node"),
        }
        return [name for name, works in tools.items() if not works]
    finally:
        docker("rm", "--force", "--volumes", "least")


def _works(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 0


def test_down_leaves_the_machine_as_it_was(up: str, before: dict[str, set[str]]) -> None:
    make("down")
    after = machine()
    for what, was in before.items():
        assert after[what] == was, f"{what}: gone {sorted(was - after[what])}, new {sorted(after[what] - was)}"


def test_status_without_the_demo_says_so(before: dict[str, set[str]]) -> None:
    output = make("status")
    assert len(re.findall(r"absent", output)) == 2
    assert "2 of 2 VO-boxes need a look." in output
    assert "There is no factory here" in output

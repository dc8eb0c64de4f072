# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claims about a VO-box on the site's LAN, seen from another machine on it.

A8 (and B5): it is a machine of its own, with its own MAC and addresses. A17: its services come back by themselves. B4:
they start when the container is launched, and nobody logs in. A18, A19: a new image costs an outage, a new init script
little. Claims A9 and B8, the host's way to its VO-boxes, are proved beside the other tests of macvlan_net; A25,
flattening, beside those of flatten_image.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import PARENT, SUBNET4, SUBNET6, Lab
from tests.integration.machine_python import PYTHON, VOLUMES
from tests.lab.image import busybox_tar
from tests.lab.lan import in_netns

Claim = t.Callable[..., None]

NETWORK = "claims"
IPV4, IPV6 = "10.213.2.{}", "fd13:213::2:{}"


@pytest.fixture(scope="module")
def network(lab: Lab) -> t.Iterator[str]:
    arguments = {"name": NETWORK, "parent": PARENT}
    lab.module(
        "macvlan_net",
        ipv4={"subnet": SUBNET4, "gateway": "10.213.0.254"},
        ipv6={"subnet": SUBNET6, "gateway": "fd13:213::fe"},
        **arguments,
    )
    yield NETWORK
    lab.module("macvlan_net", name=NETWORK, state="absent")


class Voboxes:
    """The VO-boxes of one test."""

    def __init__(self, lab: Lab, files: Path) -> None:
        self.lab = lab
        self.files = files
        self.names: list[str] = []

    def run(self, number: int, **arguments: t.Any) -> dict[str, t.Any]:
        name = f"claim{number}"
        self.names.append(name)
        return self.lab.module(
            "vobox_container",
            name=name,
            files=str(self.files),
            **{
                "image": "busybox:test",
                "hostname": f"{name}.example.org",
                "network": {"name": NETWORK, "ipv4": IPV4.format(number), "ipv6": IPV6.format(number)},
                "limits": {"nofile": "1024:4096"},
                "stop_timeout": 1,
                **arguments,
            },
        )

    def inspect(self, number: int, template: str) -> str:
        return self.lab.docker("inspect", "--type", "container", "--format", template, f"claim{number}").strip()


@pytest.fixture()
def voboxes(lab: Lab, network: str, tmp_path: Path) -> t.Iterator[Voboxes]:
    made = Voboxes(lab, tmp_path)
    yield made
    for name in set(made.names):
        lab.docker("rm", "--force", "--volumes", name, check=False)


# ---- A8 -------------------------------------------------------------------------------------------------------------

#: Web over TCP, and an echo over UDP.
WEB_AND_ECHO = f"""#!/bin/sh
httpd -p 80 -h /www
exec {PYTHON} -c '
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as echo:
    echo.bind(("::", 5353))
    while True:
        echo.sendto(*echo.recvfrom(100))
'
"""

#: Run on the peer: ask the echo.
ASK_ECHO = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
for attempt in range(1, 31):
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.3)
        asking.connect((address, port))
        try:
            asking.send(b"anyone?")
            if asking.recv(100) == b"anyone?":
                sys.exit(0)
        except OSError:
            pass
sys.exit("no echo")
"""


def test_a8_a_vobox_looks_like_a_machine_of_its_own(lab: Lab, voboxes: Voboxes, claim: Claim) -> None:
    services = [{"name": "web", "port": 80}, {"name": "echo", "port": 5353, "protocol": "udp"}]
    for number in (1, 2):
        voboxes.run(number, init_script=WEB_AND_ECHO, volumes=VOLUMES, services=services)
    host_mac = json.loads(in_netns(lab.engine.netns, "ip", "-j", "link", "show", PARENT).stdout)[0]["address"]
    lab.from_peer("ip", "neigh", "flush", "dev", "eth0")
    passed = []
    for number in (1, 2):
        for address, url in (
            (IPV4.format(number), f"http://{IPV4.format(number)}/"),
            (IPV6.format(number), f"http://[{IPV6.format(number)}]/"),
        ):
            lab.from_peer("ping", "-c1", "-W2", address)
            assert lab.from_peer("curl", "-s", "-S", "--max-time", "5", url).stdout == "here I am\n"
            lab.from_peer(sys.executable, "-c", ASK_ECHO, address, "5353")
            passed += [f"{address} {kind}" for kind in ("ICMP", "TCP", "UDP")]
    neighbours = {entry["dst"]: entry.get("lladdr") for entry in json.loads(lab.from_peer("ip", "-j", "neigh").stdout)}
    macs = set()
    for number in (1, 2):
        own = lab.docker("exec", f"claim{number}", "cat", "/sys/class/net/eth0/address").strip()
        assert neighbours[IPV4.format(number)] == neighbours[IPV6.format(number)] == own
        macs.add(own)
    assert len(macs) == 2 and host_mac not in macs
    # And the other way: the VO-box speaks with its own addresses, not the host's (A7).
    for family, own, target in (("-4", IPV4.format(1), "10.213.0.9"), ("-6", IPV6.format(1), "fd13:213::9")):
        assert f"src {own}" in lab.docker("exec", "claim1", "ip", family, "route", "get", target)
    claim(
        "A8",
        macs_of_two_voboxes=len(macs),
        equal_to_the_hosts=int(host_mac in macs),
        neighbour_entries_right="4/4",
        paths_passed=f"{len(passed)}/12",
    )


# ---- A17, B4, A18, A19 ----------------------------------------------------------------------------------------------


class Watch:
    """Connects from the peer to services again and again, and notes when each was reached last and how long it was not.

    A thread of its own that enters the peer's namespace; the others stay where they are.
    """

    def __init__(self, netns: str, targets: t.Sequence[tuple[str, int]]) -> None:
        self.netns = netns
        self.targets = targets
        self.reached = dict.fromkeys(targets, 0.0)
        self.longest = dict.fromkeys(targets, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: OSError | None = None

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            with open(f"/run/netns/{self.netns}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
            while not self._stop.is_set():
                for target in self.targets:
                    self._try(target)
                time.sleep(0.001)
        except OSError as exc:
            self._failure = exc

    def _try(self, target: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET) as connection:
            connection.settimeout(0.1)
            try:
                connection.connect(target)
            except OSError:
                return
        now = time.monotonic()
        if self.reached[target]:
            self.longest[target] = max(self.longest[target], now - self.reached[target])
        self.reached[target] = now

    def all_since(self, moment: float, seconds: float = 30) -> float:
        """Wait until every service was reached after ``moment``; how long after."""
        while not all(reached > moment for reached in self.reached.values()):
            assert time.monotonic() < moment + seconds, f"not reached: {self.reached}"
            assert self._failure is None, self._failure
            time.sleep(0.001)
        return max(self.reached.values()) - moment


THREE_SERVICES = """#!/bin/sh
httpd -p 80 -h /www
httpd -p 3128 -h /www
telnetd -p 1975 -l /bin/true
"""
PORTS = (80, 3128, 1975)


@pytest.mark.fleet
def test_a17_services_come_back_by_themselves(lab: Lab, voboxes: Voboxes, claim: Claim) -> None:
    services = [{"name": f"service{port}", "port": port} for port in PORTS]
    voboxes.run(3, init_script=THREE_SERVICES, services=services, restart_policy="always")
    targets = [(address.format(3), port) for address in (IPV4, IPV6) for port in PORTS]
    seconds = []
    with Watch(lab.peer, targets) as watch:
        watch.all_since(time.monotonic())
        for _number in range(20):
            pid = int(voboxes.inspect(3, "{{.State.Pid}}"))
            ended = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            assert select.select([ended], [], [], 10)[0]
            os.close(ended)
            seconds.append(watch.all_since(time.monotonic()))
            # A start by hand resets the engine's back-off (100 ms, doubled by each quick end), which is not the claim.
            lab.docker("restart", "--time", "0", "claim3")
            watch.all_since(time.monotonic())
    claim(
        "A17",
        restarts=len(seconds),
        services=f"{len(PORTS)}x2 families",
        median_s=round(statistics.median(seconds), 3),
        p95_s=round(sorted(seconds)[18], 3),
        longest_s=round(max(seconds), 3),
    )
    assert len(seconds) == 20 and sorted(seconds)[18] < 10


def test_b4_services_start_at_launch(lab: Lab, voboxes: Voboxes, claim: Claim) -> None:
    """Each launch is the engine's own start of a container that never ran before; no process comes from outside."""
    services = [{"name": f"service{port}", "port": port} for port in PORTS]
    targets = [(address.format(6), port) for address in (IPV4, IPV6) for port in PORTS]
    seconds, up, logins = [], [], 0
    for _number in range(5):
        voboxes.run(6, init_script=THREE_SERVICES, services=services, state="stopped")
        assert voboxes.inspect(6, "{{.State.Status}}") == "created"
        with Watch(lab.peer, targets) as watch:
            began, moment = time.time(), time.monotonic()
            lab.docker("start", "claim6")
            seconds.append(watch.all_since(moment))
            up.append(sum(reached > moment for reached in watch.reached.values()))
        events = ["events", "--since", f"{began:.3f}", "--until", f"{time.time():.3f}", "--filter", "container=claim6"]
        happened = lab.docker(*events, "--format", "{{.Action}}").split("\n")
        assert "start" in happened
        logins += sum(action.startswith(("exec", "attach")) for action in happened)
        lab.docker("rm", "--force", "--volumes", "claim6")
    claim(
        "B4",
        launches=len(seconds),
        services_declared=f"{len(PORTS)}x2 families",
        up_after_each_launch=",".join(f"{number}/{len(targets)}" for number in up),
        logins=logins,
        seconds_of_each=",".join(f"{each:.3f}" for each in seconds),
    )
    assert up == [len(targets)] * 5 and logins == 0


def _image(lab: Lab, number: int) -> str:
    """An image as a rebuild makes it: another id under another tag."""
    tag = f"busybox:claim{number}"
    subprocess.run(
        ["docker", "--host", lab.engine.url, "import", "--change", f"LABEL build={number}", "-", tag],
        input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return tag


def test_a18_a_new_image_costs_an_outage_and_a19_a_new_init_script_little(
    lab: Lab, voboxes: Voboxes, claim: Claim, tmp_path: Path
) -> None:
    by_hand, by_swap, by_script = [], [], []
    images = [_image(lab, number) for number in range(2)]

    # The papers' way: remove the container, run another one with the same addresses from the new image.
    script = tmp_path / "init.sh"
    script.write_text("#!/bin/sh\nhttpd -p 80 -h /www\nexec sleep 99999\n")
    script.chmod(0o755)
    run = [
        "run", "--detach", "--init", "--name", "claim4", "--network", NETWORK, "--ip", IPV4.format(4),
        "--ip6", IPV6.format(4), "--volume", f"{script}:/etc/init.sh:ro",
    ]  # fmt: skip
    voboxes.names.append("claim4")
    lab.docker(*run, images[0], "/etc/init.sh")
    for number in range(3):
        with Watch(lab.peer, [(IPV4.format(4), 80)]) as watch:
            watch.all_since(time.monotonic())
            lab.docker("rm", "--force", "claim4")
            lab.docker(*run, images[(number + 1) % 2], "/etc/init.sh")
            watch.all_since(time.monotonic())
        by_hand.append(max(watch.longest.values()))

    # The same change through the module: a swap. And a change of the init script: no new container.
    services = [{"name": "web", "port": 80}]
    text = "#!/bin/sh\nhttpd -p 80 -h /www\n"
    voboxes.run(5, image=images[0], init_script=text, services=services)
    for number in range(3):
        with Watch(lab.peer, [(IPV4.format(5), 80)]) as watch:
            watch.all_since(time.monotonic())
            done = voboxes.run(5, image=images[(number + 1) % 2], init_script=text, services=services)
            watch.all_since(time.monotonic())
        assert done["changed"] and done["disruption"] == "container"
        by_swap.append(max(watch.longest.values()))
    before = voboxes.inspect(5, "{{.Id}} {{.Image}} {{.State.Pid}} {{.State.StartedAt}}")
    for number in range(3):
        text += f"httpd -p {8081 + number} -h /www\n"
        with Watch(lab.peer, [(IPV4.format(5), 80)]) as watch:
            watch.all_since(time.monotonic())
            done = voboxes.run(5, init_script=text, services=services, image=images[1])
            watch.all_since(time.monotonic())
        assert done["changed"] and done["disruption"] == "service"
        by_script.append(max(watch.longest.values()))
        with Watch(lab.peer, [(IPV4.format(5), 8081 + number)]) as watch:
            watch.all_since(time.monotonic())  # the new command is active
    assert voboxes.inspect(5, "{{.Id}} {{.Image}} {{.State.Pid}} {{.State.StartedAt}}") == before
    again = voboxes.run(5, init_script=text, services=services, image=images[1])
    assert not again["changed"]
    for tag in images:
        lab.docker("rm", "--force", "claim4", "claim5", check=False)
        lab.docker("rmi", tag, check=False)
    hand, swap, init = (1000 * statistics.median(gaps) for gaps in (by_hand, by_swap, by_script))
    claim("A18", rm_and_run_ms=round(hand), swap_by_module_ms=round(swap), rounds=3)
    claim(
        "A19",
        new_script_ms=round(init),
        part_of_rm_and_run=round(init / hand, 2),
        image_id="same",
        container_id="same",
        first_process="same",
        new_commands_active="3/3",
        drift=int(again["init_script"]["drift"]),
    )
    assert init < hand

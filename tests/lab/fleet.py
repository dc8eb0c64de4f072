# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A fleet: hosts of both kinds on one LAN, with a peer, another machine on it. Ansible reaches them over SSH.

* ``native``: systemd in namespaces (tests/lab/hosts.py), ready in a second;
* ``vm``: a virtual machine (tests/lab/vm.py) for what needs a kernel of its own.

Molecule's create and destroy drive it, and people do, as root::

    python -m tests.lab.fleet start NAME host1=native:bookworm host2=native:trixie vm1=vm:bookworm:engine
    python -m tests.lab.fleet ssh NAME host1 [CMD...]
    python -m tests.lab.fleet inventory NAME             # for ansible-playbook -i
    python -m tests.lab.fleet cut|off|on|reboot NAME host1   # its power
    python -m tests.lab.fleet stop NAME

The LAN is 10.213.0.0/16 and fd13:213::/64; the host number N, as they are listed, has 10.213.0.N and fd13:213::N on its
link ``lan0``, the peer .9. The peer is the network namespace NAME-peer, with a registry: 10.213.0.9:5000/site/vobox:1.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import Port
from tests.lab.hosts import CACHE, IMAGES, LOGIN_SECONDS, SUITE, Machine, image, key, ssh, ssh_options
from tests.lab.lan import Lan, in_netns
from tests.lab.registry import Registry
from tests.lab.vm import VirtualMachine, frozen

LINK = "lan0"
PEER = 9
#: The network of VO-boxes on its LAN, in the words of macvlan_net.
NETWORK: dict[str, t.Any] = {
    "name": "site",
    "parent": LINK,
    "ipv4": {"subnet": "10.213.0.0/16", "gateway": f"10.213.0.{PEER}"},
    "ipv6": {"subnet": "fd13:213::/64", "gateway": f"fd13:213::{PEER:x}"},
}
#: What its registry has: the test image.
IMAGE = "site/vobox:1"


@dataclass(frozen=True)
class Host:
    """One host of a fleet.

    :ivar name: in the inventory.
    :ivar kind: native or vm.
    :ivar suite: the Debian in it.
    :ivar image: what is in it beside (tests/lab/hosts.py).
    :ivar number: its place on the LAN.
    """

    name: str
    number: int
    kind: str = "native"
    suite: str = SUITE
    image: str = "bare"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,20}", self.name):
            raise ValueError(f"host {self.name!r}: expected lower-case letters, digits and dashes")
        if self.kind not in ("native", "vm"):
            raise ValueError(f"host {self.name}: its kind is {self.kind!r}, expected native or vm")
        if self.image not in IMAGES:
            raise ValueError(f"host {self.name}: there is no image {self.image!r}, expected {' or '.join(IMAGES)}")

    @property
    def addresses(self) -> tuple[str, str]:
        """On the LAN, with prefix length."""
        return f"10.213.0.{self.number}/16", f"fd13:213::{self.number:x}/64"


class Fleet:
    """A fleet that is there, or is to be made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = CACHE / "fleets" / name
        self.file = self.folder / "hosts.json"
        self.registry = Registry(self.peer, f"10.213.0.{PEER}:5000", self.folder / "registry")

    @property
    def lan(self) -> str:
        """The namespace of its bridge."""
        return f"{self.name}-lan"

    @property
    def peer(self) -> str:
        """The namespace of the other machine on its LAN."""
        return f"{self.name}-peer"

    @property
    def hosts(self) -> list[Host]:
        """Its hosts, in their order."""
        return [Host(**host) for host in json.loads(self.file.read_text())]

    def host(self, name: str) -> Host:
        """One of them, by its name in the inventory."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise ValueError(f"the fleet {self.name} has no host {name}; it has {', '.join(h.name for h in self.hosts)}")

    def machine(self, name: str) -> Machine | VirtualMachine:
        """What runs commands in a host, and has its power switch."""
        return self._machine(self.host(name))

    def _machine(self, host: Host) -> Machine | VirtualMachine:
        made = f"{self.name}-{host.name}"
        return VirtualMachine(made) if host.kind == "vm" else Machine(made)

    def start(self, hosts: list[Host]) -> None:
        """Make it; one of this name that a killed run left is removed first."""
        self.stop()
        self.folder.mkdir(parents=True)
        self.file.write_text(json.dumps([asdict(host) for host in hosts]))
        for host in hosts:  # the images one by one, before anything waits for a boot
            if host.kind == "native":
                image(host.suite, host.image)
            else:
                frozen(host.suite, host.image)
        self.plug()
        self.registry.start()
        self.registry.put(*IMAGE.split(":"))
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self._start, hosts))

    def _start(self, host: Host) -> None:
        machine = self._machine(host)
        if isinstance(machine, VirtualMachine):
            machine.start(host.suite, host.image, self.lan, host.number, host.addresses)
        else:
            machine.make(host.suite, host.image)
            machine.power_on()

    def plug(self) -> None:
        """Plug in whoever is not on the LAN."""
        ports = [Port(self.peer, "eth0", (f"10.213.0.{PEER}/16", f"fd13:213::{PEER:x}/64"))]
        ports += [Port(self._machine(host).name, LINK, host.addresses) for host in self.hosts if host.kind == "native"]
        Lan(self.lan, keep=True).plug_in(ports)

    def power_on(self, name: str, degraded: bool = False, plugged: bool = True) -> None:
        """Boot a host whose power is off, and wait until it has booted.

        :param degraded: whether a unit may have failed. In a virtual machine it may.
        :param plugged: whether a native host's link to the LAN, which went with its power, is there when it boots.
        """
        machine = self.machine(name)
        if isinstance(machine, VirtualMachine):
            machine.power_on()
        else:
            if plugged:
                self.plug()
            machine.power_on(degraded=degraded)

    def reboot(self, name: str, degraded: bool = False) -> None:
        """Shut a host down and boot it again."""
        self.machine(name).power_off()
        self.power_on(name, degraded)

    def cut_power(self, name: str) -> None:
        """Kill a host."""
        self.machine(name).cut_power()

    def stop(self) -> None:
        """End all hosts, and remove them and the LAN."""
        if not self.file.exists():
            return
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda host: self._machine(host).stop(), self.hosts))
        self.registry.stop()
        Lan(self.lan, keep=True).remove()
        shutil.rmtree(self.folder)

    # ---- ways in ------------------------------------------------------------------------------------------------

    def from_peer(self, *argv: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command on the other machine of the LAN."""
        return in_netns(self.peer, *argv, check=check, timeout=timeout)

    def ssh(self, name: str) -> list[str]:
        """The ssh command that reaches a host."""
        return ssh(f"{self.name}-{self.host(name).name}")

    def inventory(self) -> dict[str, t.Any]:
        """For Ansible: the group ``fleet``."""
        hosts = {
            host.name: {
                "ansible_host": f"{self.name}-{host.name}",
                "lan_ipv4": host.addresses[0].partition("/")[0], "lan_ipv6": host.addresses[1].partition("/")[0],
            }
            for host in self.hosts
        }  # fmt: skip
        variables = {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(key()),
            "ansible_ssh_common_args": shlex.join(ssh_options()),
            "ansible_ssh_timeout": LOGIN_SECONDS,  # comes before the options
            "lan_link": LINK,
        }
        return {"fleet": {"hosts": hosts, "vars": variables}}


def parse(words: t.Iterable[str]) -> list[Host]:
    """``NAME=KIND[:SUITE[:IMAGE]]``, one a host."""
    hosts = []
    for number, word in enumerate(words, 1):
        name, _equals, rest = word.partition("=")
        hosts.append(Host(name, number, *(rest or "native").split(":")))
    return hosts


def greet(fleet: Fleet) -> str:
    """How a person gets to what was made."""
    # The interpreter that knows the collection, as it is typed from here.
    program = f"{os.path.relpath(sys.executable)} -m tests.lab.fleet"
    rows = [
        f"  {h.name:8} {h.kind:7} {h.suite:9} {h.addresses[0]:15} {program} ssh {fleet.name} {h.name}"
        for h in fleet.hosts
    ]
    return "\n".join(
        [
            f"The fleet {fleet.name} is up:", *rows,
            f"  the peer on their LAN is 10.213.0.{PEER}: nsenter --net=/run/netns/{fleet.peer} ping 10.213.0.1",
            f"  for Ansible: {program} inventory {fleet.name} >fleet.yml",
        ]
    )  # fmt: skip


def main() -> None:
    """Entry point."""
    command, name, *rest = sys.argv[1:]
    fleet = Fleet(name)
    if command == "start":
        try:
            hosts = parse(rest)
        except (TypeError, ValueError) as exc:
            sys.exit(f"start: {exc}; a host is written NAME=native|vm[:SUITE[:IMAGE]]")
        fleet.start(hosts)
        print(greet(fleet))
    elif command == "stop":
        fleet.stop()
    elif command == "inventory":
        print(yaml.safe_dump(fleet.inventory(), sort_keys=False), end="")
    elif command == "ssh":
        os.execvp("ssh", [*fleet.ssh(rest[0]), *rest[1:]])
    elif command in ("cut", "off", "on", "reboot"):
        {
            "cut": fleet.cut_power, "on": fleet.power_on, "reboot": fleet.reboot,
            "off": lambda host: fleet.machine(host).power_off(),
        }[command](rest[0])  # fmt: skip
    else:
        sys.exit(f"{command}: expected start, stop, inventory, ssh, cut, off, on or reboot")


if __name__ == "__main__":
    main()

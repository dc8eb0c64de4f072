# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of macvlan_net make, look at and clean up; looked at with docker and ip, never with the module."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from tests.lab.lab import PARENT, SUBNET4, SUBNET6, Lab
from tests.lab.lan import run
from tests.lab.modules import run_module

NAME = "gbsite"
IPV4 = {"subnet": SUBNET4, "gateway": "10.213.0.254"}
IPV6 = {"subnet": SUBNET6, "gateway": "fd13:213::fe"}
SITE: dict[str, t.Any] = {"name": NAME, "parent": PARENT, "ipv4": IPV4, "ipv6": IPV6}
SHIM: dict[str, t.Any] = {
    **SITE,
    "host_access": "shim",
    "shim": {"ipv4": "10.213.0.3", "ipv6": "fd13:213::3"},
    "probe_seconds": 0.3,  # whoever answers on this LAN does so in milliseconds
}
BRIDGE = {**SITE, "host_access": "bridge", "bridge": {"ipv4": "172.31.250.0/24", "ipv6": "fd31:250::/64"}}
ABSENT = {"name": NAME, "state": "absent"}
CONTAINER_MAC = "02:00:00:00:00:51"

_STEADY = {
    "ifname", "ifalias", "link", "master", "mtu", "address", "addr_info",  # of links
    "local", "prefixlen", "scope",  # of addresses
    "dst", "dev", "gateway", "prefsrc", "protocol",  # of routes
}  # fmt: skip


@dataclass
class World:
    """A lab in which one test works."""

    lab: Lab
    links: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pristine = self.look()

    # ---- what a test does ----------------------------------------------------------------------------------

    def module(self, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        return self.lab.module("macvlan_net", check=check, **arguments)

    def info(self, **arguments: t.Any) -> dict[str, t.Any]:
        return self.lab.module("macvlan_net_info", **arguments)

    def module_from_outside(self, **arguments: t.Any) -> dict[str, t.Any]:
        return run_module("macvlan_net", {"engine_url": self.lab.engine.url, **arguments})

    def container(
        self,
        name: str,
        ipv4: str,
        ipv6: str = "",
        mac: str = "",
        alias: str = "",
        network: str = NAME,
        start: bool = True,
    ) -> None:
        """A container through the plain API: today's docker client refuses to give an old engine a MAC."""
        endpoint: dict[str, t.Any] = {"IPAMConfig": {"IPv4Address": ipv4, "IPv6Address": ipv6}}
        if alias:
            endpoint["Aliases"] = [alias]
        DockerApi(self.lab.engine.url, 30).create_container(
            name,
            {
                "Image": "busybox:test",
                "Cmd": ["sleep", "1000"],
                "MacAddress": mac,
                "HostConfig": {"NetworkMode": network, "Init": False},
                "NetworkingConfig": {"EndpointsConfig": {network: endpoint}},
            },
        )
        if start:
            self.lab.docker("start", name)

    def run_containers(self) -> None:
        """vb1 with an alias, vb2 with a MAC of its own, vb3 stopped."""
        self.container("vb1", "10.213.0.50", "fd13:213::50", alias="alice")
        self.container("vb2", "10.213.0.51", "fd13:213::51", mac=CONTAINER_MAC)
        self.container("vb3", "10.213.0.52", "fd13:213::52", start=False)

    def network(self, name: str, *arguments: str) -> None:
        self.lab.docker("network", "create", *arguments, name)

    def add_link(self, name: str, *arguments: str) -> None:
        run("ip", "-n", self.lab.engine.netns, "link", "add", name, *arguments)
        self.links.append(name)

    @contextlib.contextmanager
    def network_events(self) -> t.Iterator[t.Iterator[str]]:
        """What happens to networks from now on, as it happens: ``disconnect``, ``destroy``, ``create``, ``connect``."""
        argv = ["docker", "--host", self.lab.engine.url, "events", "--since", f"{time.time():.6f}"]
        argv += ["--filter", "type=network", "--format", "{{.Action}}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield (line.strip() for line in process.stdout)
            process.kill()

    # ---- what it sees --------------------------------------------------------------------------------------

    def look(self) -> dict[str, t.Any]:
        """Networks with their endpoints, and the host's links, addresses and routes."""
        names = self.lab.docker("network", "ls", "--quiet", "--no-trunc").split()
        networks = json.loads(self.lab.docker("network", "inspect", *names))
        return {
            "networks": {one["Id"]: one for one in networks},
            "links": [
                {**link, "addr_info": [_steady(address) for address in link["addr_info"] if address["scope"] != "link"]}
                for link in self._ip("-details", "address", "show")
            ],
            "routes": [self._ip(f"-{family}", "route", "show") for family in (4, 6)],
            "attachments": self.attachments(),
        }

    def state(self, root: Path | None = None) -> str:
        """The same, comparable after networks were made anew: without ids, and what the engine chooses at random.

        :param root: the folder below which the files for the boot are; they count, too.
        """
        seen = self.look()
        networks = {
            network["Name"]: {
                **{key: network[key] for key in ("Driver", "Options", "IPAM", "Labels", "EnableIPv6", "Internal")},
                "Containers": sorted(container["Name"] for container in network["Containers"].values()),
            }
            for network in seen["networks"].values()
        }
        links = [link for link in seen["links"] if not link["ifname"].startswith("veth")]
        for link in links:
            if link["ifname"].startswith("br-"):
                link["address"] = "chosen by the kernel"
        files = {
            str(path): os.readlink(path) if path.is_symlink() else path.read_text()
            for path in sorted(root.rglob("*") if root else ())
            if path.is_symlink() or path.is_file()
        }
        told = json.dumps([networks, links, seen["routes"], seen["attachments"], files], indent=1, sort_keys=True)
        return re.sub(r"br-[0-9a-f]{12}", "br-ID", told)

    def attachments(self) -> dict[str, t.Any]:
        """What each container has on the network, as it would tell itself."""
        names = self.lab.docker("ps", "--all", "--quiet").split()
        containers = json.loads(self.lab.docker("inspect", *names)) if names else []
        found: dict[str, t.Any] = {}
        for container in containers:
            settings = container["NetworkSettings"]["Networks"].get(NAME)
            if settings is not None:
                asked = settings["IPAMConfig"] or {}
                found[container["Name"].lstrip("/")] = {
                    "ipv4": settings["IPAddress"] or asked.get("IPv4Address"),
                    "ipv6": settings["GlobalIPv6Address"] or asked.get("IPv6Address"),
                    "mac": settings["MacAddress"],
                    "aliases": [alias for alias in settings["Aliases"] or [] if alias != container["Id"][:12]],
                    "running": container["State"]["Running"],
                }
        return found

    def inside(self) -> dict[str, t.Any]:
        """What each running container really has: MACs, addresses and default routes, asked of the kernel.

        Not the names of its links: after an attachment that was broken off, 20.10 counts on and calls the next eth1.
        """
        found: dict[str, t.Any] = {}
        for name in self.lab.docker("ps", "--format", "{{.Names}}").split():
            pid = self.lab.docker("inspect", "--format", "{{.State.Pid}}", name).strip()
            namespace = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json")
            links = json.loads(run(*namespace, "address", "show").stdout)
            found[name] = {
                "links": [
                    (link["address"], sorted(one["local"] for one in link["addr_info"]))
                    for link in links
                    if link["ifname"] != "lo"
                ],
                "gateways": [
                    [
                        route["gateway"]
                        for route in json.loads(run(*namespace, family, "route", "show", "default").stdout)
                    ]
                    for family in ("-4", "-6")
                ],
            }
        return found

    def mode(self) -> str:
        """The network's, as the engine tells it."""
        return self.lab.docker("network", "inspect", "--format", '{{index .Options "macvlan_mode"}}', NAME).strip()

    def reaches(self, container: str, address: str) -> bool:
        """Whether a container gets an answer; asked three times, for an IPv6 address may still be tentative."""
        ping = ("exec", container, "ping", "-c1", "-W1", address)
        return any(self.lab.engine.docker(*ping, check=False).returncode == 0 for _turn in range(3))

    def labels(self) -> dict[str, str] | None:
        """The network's; None if there is no network."""
        done = self.lab.engine.docker("network", "inspect", "--format", "{{json .Labels}}", NAME, check=False)
        return t.cast("dict[str, str]", json.loads(done.stdout)) if done.returncode == 0 else None

    def _ip(self, *arguments: str) -> list[dict[str, t.Any]]:
        out = run("ip", "-json", "-n", self.lab.engine.netns, *arguments).stdout
        return [_steady(one) for one in json.loads(out or "[]") if not str(one.get("dst", "")).startswith("fe80:")]

    @staticmethod
    def without_ids(result: dict[str, t.Any]) -> dict[str, t.Any]:
        """A result without what only the engine can know before it happens: the id, and the pools that it chooses."""
        kept = {key: result[key] for key in ("network", "host_access", "boot")}
        return {**kept, "network": {**kept["network"], "id": None} if kept["network"] else None}

    # ---- and how it leaves ---------------------------------------------------------------------------------

    def clean(self) -> None:
        """Remove all that was made, by other means than the module's, and look whether nothing is left."""
        containers = self.lab.docker("ps", "--all", "--quiet").split()
        if containers:
            self.lab.docker("rm", "--force", "--volumes", *containers)
        networks = self.lab.docker("network", "ls", "--quiet", "--filter", "type=custom").split()
        if networks:
            self.lab.docker("network", "rm", *networks)
        for link in self._ip("-details", "link", "show"):
            if link["ifname"] in self.links or "macvlan" in link:
                run("ip", "-n", self.lab.engine.netns, "link", "delete", link["ifname"])
        self.links.clear()
        left = self.look()
        changed = {key: (left[key], value) for key, value in self._pristine.items() if left[key] != value}
        assert not changed, json.dumps(changed)


def _steady(item: dict[str, t.Any]) -> dict[str, t.Any]:
    """A link, an address or a route, without counters, clocks and what else changes by itself."""
    kept = {key: value for key, value in item.items() if key in _STEADY}
    info = item.get("linkinfo") or {}
    if info.get("info_kind") == "macvlan":
        kept["macvlan"] = {key: info["info_data"][key] for key in ("mode",)}
    return kept


def wait_until(condition: t.Callable[[], bool], awaited: str, seconds: float = 10) -> None:
    """Fail if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {awaited}"
        time.sleep(0.1)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A LAN of network namespaces: a bridge in one, ports in others. Nothing of the machine's own network is touched.

The bridge has a namespace to itself because the engine's packet filter (FORWARD DROP, seen by bridges through
br_netfilter) drops what a bridge in the engine's namespace carries.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass


def run(*argv: str, timeout: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command without a shell; its output is in the error when it fails."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def in_netns(netns: str, *argv: str, timeout: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a named network namespace; cgroup mounts stay as they are."""
    return run("nsenter", f"--net=/run/netns/{netns}", *argv, timeout=timeout, check=check)


def add_netns(netns: str) -> None:
    """Make a namespace, fresh: one left behind by a killed run is removed first."""
    delete_netns(netns)
    run("ip", "netns", "add", netns)
    run("ip", "-n", netns, "link", "set", "lo", "up")


def delete_netns(netns: str) -> None:
    if os.path.exists(f"/run/netns/{netns}"):
        run("ip", "netns", "delete", netns)


@dataclass
class Lan:
    """One Ethernet segment.

    :ivar netns: the namespace of the bridge, made and removed with the LAN.
    """

    netns: str
    ports: int = 0

    def __post_init__(self) -> None:
        add_netns(self.netns)
        run("ip", "-n", self.netns, "link", "add", "lan0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self.netns, "link", "set", "lan0", "up")

    def plug(self, netns: str, link: str, *addresses: str) -> None:
        """Give namespace ``netns`` a link on the LAN, up, with these addresses (``10.0.0.1/24``)."""
        self.ports += 1
        port = f"port{self.ports}"
        run("ip", "-n", self.netns, "link", "add", port, "type", "veth", "peer", "name", link, "netns", netns)
        run("ip", "-n", self.netns, "link", "set", port, "master", "lan0", "up")
        for address in addresses:
            nodad = ("nodad",) if ":" in address else ()
            run("ip", "-n", netns, "address", "add", address, "dev", link, *nodad)
        run("ip", "-n", netns, "link", "set", link, "up")

    def remove(self) -> None:
        delete_netns(self.netns)

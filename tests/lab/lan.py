# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection's own LAN of network namespaces, for tests. Nothing of the machine's own network is touched."""

from __future__ import annotations

import subprocess

from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.lab import netns as namespaces
from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import LanWork, Port, Wish


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
    namespaces.add(netns)


def delete_netns(netns: str) -> None:
    """Remove a namespace; fine if it is gone."""
    namespaces.delete(netns)


class Lan:
    """One Ethernet segment, fresh: one left behind by a killed run is removed first.

    :param netns: its name, and that of the bridge's namespace, which is made and removed with it.
    :param keep: take the one that is there, if there is one.
    """

    def __init__(self, netns: str, keep: bool = False) -> None:
        self.netns = netns
        self._ports: list[Port] = []
        if not keep:
            self.remove()
            self._apply(absent=False)

    def plug(self, netns: str, link: str, *addresses: str) -> None:
        """Give namespace ``netns`` a link on the LAN, up, with these addresses (``10.0.0.1/24``)."""
        self.plug_in([Port(netns, link, addresses)])

    def plug_in(self, ports: list[Port]) -> None:
        """Several of them. Those of a LAN that is kept and are not among them go."""
        self._ports += ports
        self._apply(absent=False)

    def remove(self) -> None:
        """Take the bridge and all links on it away."""
        self._apply(absent=True)

    def _apply(self, absent: bool) -> None:
        work = LanWork(Wish(self.netns, tuple(self._ports), 1500, absent))
        observed = work.observe()
        plan = work.plan(observed)
        work.preflight(plan, observed)
        journal = Journal(work.undo, work.before_guard_undo)
        for step in plan.steps:
            work.do(step, journal)

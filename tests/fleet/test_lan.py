# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines, a native host and the peer on one LAN: each is a machine of its own, and reaches all the others."""

from __future__ import annotations

import itertools
import typing as t

import pytest

from tests.lab.booted import booted
from tests.lab.fleet import LINK, Fleet

pytestmark = pytest.mark.fleet

HOSTS = {"vm1": "vm:bookworm:engine", "vm2": "vm:bookworm:engine", "host1": "native:bookworm"}


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    with booted("lan", *(f"{name}={kind}" for name, kind in HOSTS.items())) as made:
        yield made


@pytest.mark.parametrize("family", ["lan_ipv4", "lan_ipv6"])
def test_each_reaches_each(fleet: Fleet, family: str) -> None:
    known = fleet.inventory()["fleet"]["hosts"]
    for one, other in itertools.permutations(HOSTS, 2):
        fleet.machine(one).run("ping", "-c", "1", "-W", "20", known[other][family])
    for name in HOSTS:
        fleet.from_peer("ping", "-c", "1", "-W", "20", known[name][family])


def test_each_is_a_machine_of_its_own_on_the_lan(fleet: Fleet) -> None:
    """What virtual machines of one frozen host share, such as the machine's id, nobody on the LAN sees."""
    for argv in (("cat", f"/sys/class/net/{LINK}/address"), ("hostname",)):
        said = {name: fleet.machine(name).run(*argv).stdout.strip() for name in HOSTS}
        assert len(set(said.values())) == len(HOSTS), f"{argv}: {said}"

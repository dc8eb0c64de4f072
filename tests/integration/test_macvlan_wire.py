# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to a LAN and announcements on it, from other namespaces, against the kernel's own neighbour tables."""

from __future__ import annotations

import json
import os
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.network import wire
from tests.integration.macvlan_world import wait_until
from tests.lab.lan import Lan, add_netns, delete_netns, in_netns, run

NEW_MAC = "02:aa:aa:aa:aa:aa"


@pytest.fixture(scope="module")
def machines() -> t.Iterator[tuple[str, str]]:
    """Two machines on a LAN."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    lan = Lan(f"gbt{os.getpid()}-wlan")
    names = (f"gbt{os.getpid()}-wa", f"gbt{os.getpid()}-wb")
    for number, name in enumerate(names, 1):
        add_netns(name)
        lan.plug(name, "eth0", f"10.9.0.{number}/24", f"fd09::{number}/64")
    yield names
    for name in names:
        delete_netns(name)
    lan.remove()


def _link(netns: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(run("ip", "-n", netns, "-json", "link", "show", "eth0").stdout)[0])


def _mac(netns: str) -> str:
    return str(_link(netns)["address"])


def _neighbour(netns: str, address: str) -> str:
    found = json.loads(run("ip", "-n", netns, "-json", "neighbour", "show", address).stdout or "[]")
    return str(found[0].get("lladdr")) if found else ""


def test_who_has_an_address_or_a_mac_answers(machines: tuple[str, str]) -> None:
    asking, answering = machines
    mac = _mac(answering)
    address = ("ip", "-n", answering, "-6", "address", "show", "dev", "eth0")
    wait_until(lambda: "tentative" not in run(*address).stdout, "its addresses to be its own")
    asked = ["10.9.0.2", "10.9.0.77", "fd09::2", "fd09::77", mac, "02:00:00:00:00:77"]
    answers = wire.probe("eth0", asked, 1.0, f"/run/netns/{asking}")
    assert answers == [wire.Answer("10.9.0.2", mac), wire.Answer("fd09::2", mac), wire.Answer(mac, mac)]
    assert wire.probe("eth0", ["10.9.0.2"], 1.0, f"/run/netns/{asking}", ignore={mac}) == []
    assert _neighbour(answering, "10.9.0.1") in ("", _mac(asking)), "a question leaves no trace"


def test_an_announcement_moves_the_neighbours_entries(machines: tuple[str, str]) -> None:
    telling, told = machines
    with wire.Announcer(f"/run/netns/{telling}", "eth0", NEW_MAC, "10.9.0.1", "fd09::1") as announcer:
        for address in ("10.9.0.1", "fd09::1"):
            in_netns(told, "ping", "-c3", "-W2", address)
            assert _neighbour(told, address) == _mac(telling)
        assert announcer.send() == 3
        moved = [NEW_MAC, NEW_MAC]
        wait_until(lambda: [_neighbour(told, one) for one in ("10.9.0.1", "fd09::1")] == moved, "both entries to move")
    index = _link(telling)["ifindex"]
    with wire.Announcer(f"/run/netns/{telling}", index, _mac(telling), ipv4="10.9.0.1") as announcer:
        assert announcer.send() == 2


def test_this_process_stays_where_it_is(machines: tuple[str, str]) -> None:
    home = os.stat("/proc/self/ns/net").st_ino
    wire.probe("eth0", ["10.9.0.2"], 0.3, f"/run/netns/{machines[0]}")
    wire.Announcer(f"/run/netns/{machines[0]}", "eth0", NEW_MAC, "10.9.0.1").close()
    assert os.stat("/proc/self/ns/net").st_ino == home


def test_what_is_missing_is_a_sentence(machines: tuple[str, str]) -> None:
    netns = f"/run/netns/{machines[0]}"
    with pytest.raises(GridboxError, match=r"Asking the LAN on link nolink failed \(No such device\)"):
        wire.probe("nolink", ["10.9.0.2"], 0.3, netns)
    with pytest.raises(GridboxError, match="network namespace /run/netns/nowhere cannot be entered"):
        wire.probe("eth0", ["10.9.0.2"], 0.3, "/run/netns/nowhere")
    with (
        wire.Announcer(netns, "nolink", NEW_MAC, "10.9.0.1") as announcer,
        pytest.raises(GridboxError, match="Announcing on link nolink failed"),
    ):
        announcer.send()

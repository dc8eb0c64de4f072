# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""lab_lan on the kernel, looked at with ip and ping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.lan import add_netns, delete_netns, in_netns, run
from tests.lab.modules import ModuleFailed, run_module, start_module

NAME = f"gbt{os.getpid()}-ll"
A, B, LAN = f"{NAME}-a", f"{NAME}-b", f"{NAME}-lan"
PORTS: list[dict[str, t.Any]] = [
    {"netns": A, "link": "eth0", "addresses": ["10.91.0.1/24", "fd91::1/64"]},
    {"netns": B, "link": "eth0", "addresses": ["10.91.0.2/24", "fd91::2/64"]},
]


#: Of the machine, by name. Physical ones and bridges; a test's own are not there yet.
LINKS_BEFORE = {link.name for link in Path("/sys/class/net").iterdir()}


def lan(check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
    return run_module("lab_lan", {"name": LAN, **arguments}, check=check)


def world() -> tuple[set[str], set[str]]:
    """Our namespaces, and the machine's own links with flags and addresses."""
    names = (
        {name for name in os.listdir("/run/netns") if name.startswith(NAME)} if os.path.isdir("/run/netns") else set()
    )
    links = json.loads(run("ip", "-json", "address").stdout)
    # Links of other tests come and go: what counts is what has been there all along, and ours.
    return names, {
        json.dumps([one["ifname"], one["flags"], one["addr_info"]])
        for one in links
        if one["ifname"] in LINKS_BEFORE or one["ifname"].startswith("gbl")
    }


@pytest.fixture(autouse=True)
def clean() -> t.Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    before = world()
    yield
    lan(state="absent")
    assert world() == before


def test_check_mode_foretells_what_is_done() -> None:
    """The nine steps."""
    before = world()
    foretold = lan(check=True, ports=PORTS)
    assert foretold["changed"] and world() == before
    assert foretold["diff"]["after"]["ports"][f"{A}/eth0"]["addresses"] == ["10.91.0.1/24", "fd91::1/64"]
    done = lan(ports=PORTS)
    assert (done["actions"], done["namespaces"], done["ports"]) == (
        foretold["actions"], foretold["namespaces"], foretold["ports"],
    )  # fmt: skip
    for address in ("10.91.0.1", "fd91::1"):
        assert in_netns(B, "ping", "-c1", "-W2", address).returncode == 0
    assert not lan(check=True, ports=PORTS)["changed"]
    again = lan(ports=PORTS)
    assert not again["changed"] and again["actions"] == []
    foretold_away = lan(check=True, state="absent")
    assert world() != before
    away = lan(state="absent")
    assert away["actions"] == foretold_away["actions"] and world() == before
    assert not lan(state="absent")["changed"]


def test_the_machines_own_namespace_gets_one_more_link_and_nothing_else() -> None:
    link = f"gbl{os.getpid() % 100000}"
    _names, links = world()
    routes = run("ip", "route").stdout + run("ip", "-6", "route").stdout
    lan(ports=[{"link": link}, PORTS[0]])
    (new,) = world()[1] - links
    assert json.loads(new)[0] == link and json.loads(new)[2] == []
    assert run("ip", "route").stdout + run("ip", "-6", "route").stdout == routes
    lan(state="absent")
    assert world()[1] == links


def test_drift_is_mended_without_touching_the_rest() -> None:
    lan(ports=PORTS)
    index = json.loads(in_netns(B, "ip", "-json", "link", "show", "eth0").stdout)[0]["ifindex"]
    run("ip", "-n", A, "address", "add", "10.91.0.77/24", "dev", "eth0")
    run("ip", "-n", A, "link", "set", "eth0", "down")
    mended = lan(ports=PORTS)
    assert [one["action"] for one in mended["actions"]] == ["set_port"]
    assert "10.91.0.77/24" in mended["actions"][0]["reason"] and mended["disruption"] == "service"
    assert "10.91.0.77" not in in_netns(A, "ip", "address").stdout
    assert in_netns(B, "ping", "-c1", "-W2", "fd91::1").returncode == 0
    assert json.loads(in_netns(B, "ip", "-json", "link", "show", "eth0").stdout)[0]["ifindex"] == index


def test_a_namespace_that_was_there_stays() -> None:
    add_netns(A)
    try:
        lan(ports=PORTS)
        lan(state="absent")
        assert os.path.exists(f"/run/netns/{A}") and not os.path.exists(f"/run/netns/{B}")
        assert "eth0" not in in_netns(A, "ip", "link").stdout
    finally:
        delete_netns(A)


@pytest.mark.parametrize("check", [True, False], ids=["check", "real"])
def test_a_link_of_that_name_is_not_taken_over(check: bool) -> None:
    add_netns(A)
    try:
        run("ip", "-n", A, "link", "add", "eth0", "type", "bridge")
        with pytest.raises(ModuleFailed) as refused:
            lan(check=check, ports=PORTS)
        assert "a link of that name is there" in refused.value.result["msg"]
        assert not refused.value.result["changed"] and not os.path.exists(f"/run/netns/{LAN}")
    finally:
        delete_netns(A)


def test_a_namespace_with_processes_is_not_removed() -> None:
    lan(ports=PORTS)
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{A}", "sleep", "60"])
    try:
        deadline = time.monotonic() + 5
        while not run("ip", "netns", "pids", A).stdout.strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for check, given in ((False, {}), (True, {}), (False, {"vacated": True})):
            with pytest.raises(ModuleFailed) as refused:
                lan(check=check, state="absent", **given)
            assert f"sleep ({process.pid})" in refused.value.result["msg"]
        foreseen = lan(check=True, state="absent", vacated=True)  # an earlier task will have ended it
    finally:
        process.kill()
        process.wait()
    assert lan(state="absent")["actions"] == foreseen["actions"]


@pytest.mark.parametrize("pause", [0.15, 0.2, 0.25, 0.3, 0.4])
def test_a_killed_run_leaves_the_state_before_or_after(pause: float) -> None:
    before = world()
    process = start_module("lab_lan", {"name": LAN, "ports": PORTS})
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while world()[0] not in (before[0], {A, B, LAN}) or _incomplete():
        assert time.monotonic() < deadline, f"in between: {world()[0]}"
        time.sleep(0.1)


def _incomplete() -> bool:
    """Whether there is a LAN that is not what was asked for."""
    return os.path.exists(f"/run/netns/{LAN}") and bool(lan(check=True, ports=PORTS)["changed"])


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ModuleFailed) as refused:
        lan(check=True, ports=[{"link": "eth0", "netns": A, "addresses": ["10.91.0.1"]}])
    result = refused.value.result
    assert result["msg"] == (
        "ports[0].addresses: got '10.91.0.1', expected an address with its prefix length, such as 192.0.2.1/24."
    )
    assert "exception" not in result


def test_one_that_is_in_the_namespace_for_a_moment_holds_nothing_up() -> None:
    lan(ports=PORTS)
    visitor = subprocess.Popen(["nsenter", f"--net=/run/netns/{A}", "sleep", "1.5"])
    try:
        deadline = time.monotonic() + 1
        while str(visitor.pid) not in run("ip", "netns", "pids", A).stdout.split():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert lan(state="absent")["changed"]
    finally:
        visitor.wait()

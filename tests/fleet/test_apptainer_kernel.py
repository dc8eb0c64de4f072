# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel of its own shows of Apptainer machines, whose commands need no Apptainer for that.

Control groups of version 2, for this machine's kernel may have the controllers elsewhere: what keeps a machine within
its limits, and finds all that it started. And its network under AppArmor, with the oldest passt that a Debian has.
"""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_request import Request
from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.modules_over_ssh import feed

pytestmark = pytest.mark.fleet

HOST, FOLDER, PROGRAM, UID = "vm1", "/srv/apptainer", "/srv/gridbox", 54321


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    """A virtual machine with the program."""
    with booted("cgroups", f"{HOST}=vm:bookworm:engine") as made:
        made.machine(HOST).install("passt")
        program = build("factory.program", "/usr/bin/python3")
        feed(made, HOST, f"cat >{PROGRAM} && chmod 0755 {PROGRAM} && mkdir {FOLDER}", program)
        yield made


def kept(fleet: Fleet, name: str, script: str, network: str = "host", **limits: int) -> tuple[dict[str, t.Any], str]:
    """Run a script as a machine; how it ended, and what it printed."""
    given = {"processors": 1, "memory_bytes": 64 << 20, "pids": 32, **limits}
    request = Request(
        "u", name, UID, UID, {}, ("sh", "-c", script), {"PATH": "/usr/sbin:/usr/bin:/bin"}, nofile=1024,
        output_bytes=1 << 20, network=network, **given,
    )  # fmt: skip
    machine = fleet.machine(HOST)
    feed(fleet, HOST, f"mkdir {FOLDER}/{name} && cat >{FOLDER}/{name}/request.json", request.as_json().encode())
    way = ("unshare", "--mount", "--propagation", "slave", "--", PROGRAM, "machine", f"{FOLDER}/{name}")
    assert machine.run(*way).stdout == "started"
    output = machine.run("cat", f"{FOLDER}/{name}/output", check=False).stdout
    printed = "".join(line.partition(" ")[2] for line in output.splitlines(keepends=True))
    return json.loads(machine.run("cat", f"{FOLDER}/{name}/ended.json").stdout), printed


def left(fleet: Fleet) -> str:
    """Groups and processes that are there afterwards."""
    machine = fleet.machine(HOST)
    groups = machine.run("find", "/sys/fs/cgroup/hep.gridbox", "-mindepth", "1", "-type", "d").stdout
    return groups + machine.run("pgrep", "-u", str(UID), check=False).stdout


ONLY = "/sys/fs/cgroup/hep.gridbox/supervisors\n"


def test_limits_are_those_of_the_group(fleet: Fleet) -> None:
    here = "cd /sys/fs/cgroup$(sed s/0:://g /proc/self/cgroup)"
    script = f"{here}; pwd; cat memory.max pids.max cpu.max cpu.weight; grep -h Groups /proc/self/status; exit 3"
    ended, printed = kept(fleet, "limits", script, processors=2)
    assert (ended["exit_code"], ended["out_of_memory"]) == (3, False)
    found = [line.rstrip() for line in printed.splitlines()]
    assert found == ["/sys/fs/cgroup/hep.gridbox/limits", "67108864", "32", "200000 100000", "200", "Groups:"]
    assert left(fleet) == ONLY


def test_memory(fleet: Fleet) -> None:
    ended, _printed = kept(fleet, "memory", "python3 -c 'print(len(bytearray(200 << 20)))'")
    assert (ended["exit_code"], ended["out_of_memory"]) == (137, True)
    assert left(fleet) == ONLY


def test_all_that_it_started_ends_with_it(fleet: Fleet) -> None:
    script = "(setsid sh -c '(setsid sleep 4242 &)' &); sleep 4243 & sleep 2; pgrep -c sleep"
    ended, printed = kept(fleet, "children", script)
    assert ended["exit_code"] == 0
    assert printed == "2\n"
    assert left(fleet) == ONLY


def test_what_starts_others_without_end(fleet: Fleet) -> None:
    script = "bomb() { bomb | bomb & }; bomb; sleep 2; exit 0"
    kept(fleet, "bomb", script)
    assert left(fleet) == ONLY


def test_its_network_is_its_own(fleet: Fleet) -> None:
    machine = fleet.machine(HOST)
    assert "passt (enforce)" in machine.run("cat", "/sys/kernel/security/apparmor/profiles").stdout
    address = machine.run("hostname", "-I").stdout.split()[0]
    reads = "import socket, sys; print(socket.create_connection((sys.argv[1], 22), 5).recv(4).decode())"
    script = (
        f'ip -4 -br address show eth0; python3 -c "{reads}" {address}; python3 -c "{reads}" 127.0.0.1 2>&1 | tail -1;'
        " id -u; grep CapEff /proc/self/status"
    )
    ended, printed = kept(fleet, "network", script, network="bridge")
    assert ended["exit_code"] == 0, printed
    found = [" ".join(line.split()) for line in printed.splitlines()]
    refused = "ConnectionRefusedError: [Errno 111] Connection refused"
    assert found[0].startswith("eth0 UNKNOWN 10.0.2.100/24"), found
    assert found[1:] == ["SSH-", refused, str(UID), "CapEff: 0000000000000000"]
    assert left(fleet) == ONLY

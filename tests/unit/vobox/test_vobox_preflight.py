# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is refused before anything is touched, as far as it can be decided without a host."""

from __future__ import annotations

import os
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import preflight
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import decide
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.preflight import (
    check_syntax,
    mount_of,
    refuse_address,
    refuse_foreign,
    refuse_limits,
    refuse_taken,
)
from tests.unit.vobox.test_vobox_plan import existing
from tests.unit.vobox.wishes import new_box, wish

NETWORK: dict[str, t.Any] = {
    "Name": "site",
    "Driver": "macvlan",
    "IPAM": {
        "Config": [
            {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1", "AuxiliaryAddresses": {"router2": "10.0.0.2"}},
            {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
        ]
    },
}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.1.1", "network site has the subnets 10.0.0.0/24, fd00::/64"),
        ("10.0.0.0", "first or last address"),
        ("10.0.0.255", "first or last address"),
        ("10.0.0.1", "it is the gateway of 10.0.0.0/24"),
        ("10.0.0.2", "keeps it for router2"),
        ("fd00::1", "it is the gateway of fd00::/64"),
        ("fd01::5", "network site has the subnets"),
    ],
)
def test_an_address_the_network_cannot_give(address: str, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        refuse_address("network.ipv4", address, NETWORK)
    assert said in str(refused.value)


@pytest.mark.parametrize("address", ["10.0.0.3", "10.0.0.254", "fd00::2"])
def test_an_address_the_network_can_give(address: str) -> None:
    refuse_address("network.ipv4", address, NETWORK)


OTHER = {
    "Id": "2" * 64,
    "Names": ["/vobox2"],
    "NetworkSettings": {
        "Networks": {
            "site": {
                "IPAMConfig": {"IPv4Address": "10.0.0.10"},
                "IPAddress": "",
                "GlobalIPv6Address": "fd00::10",
                "MacAddress": "02:00:00:00:00:0A",
            }
        }
    },
}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"network.ipv4": "10.0.0.10"}, "network.ipv4: 10.0.0.10: container vobox2 has it already"),
        ({"network.ipv6": "fd00::10"}, "network.ipv6: fd00::10: container vobox2"),
        ({"network.mac": "02:00:00:00:00:0a"}, "network.mac: 02:00:00:00:00:0a: container vobox2"),
    ],
)
def test_what_another_container_has(values: dict[str, t.Any], said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        refuse_taken(values, [OTHER], set())
    assert said in str(refused.value)
    refuse_taken(values, [OTHER], {OTHER["Id"]})
    refuse_taken({**dict.fromkeys(values, "10.9.9.9")}, [OTHER], set())


def test_an_address_that_another_container_was_given_in_another_spelling() -> None:
    asked = {"IPAMConfig": {"IPv6Address": "FD00:0::0010"}, "GlobalIPv6Address": "", "IPAddress": ""}
    stopped = {**OTHER, "NetworkSettings": {"Networks": {"site": asked}}}
    with pytest.raises(RefusedError, match="container vobox2 has it already"):
        refuse_taken({"network.ipv6": "fd00::10"}, [stopped], set())


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /cvmfs rw,relatime shared:7 - tmpfs tmpfs rw
31 30 0:41 / /cvmfs/alice.cern.ch ro,relatime master:9 - fuse cvmfs2 ro
32 22 0:42 / /a\\040b rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/cvmfs", ("/cvmfs", True, False)),
        ("/cvmfs/lhcb.cern.ch", ("/cvmfs", True, False)),
        ("/cvmfs/alice.cern.ch", ("/cvmfs/alice.cern.ch", False, True)),
        ("/cvmfsx", ("/", False, False)),
        ("/a b/c", ("/a b", False, False)),
    ],
)
def test_the_mount_a_path_lies_on(path: str, expected: tuple[str, bool, bool]) -> None:
    assert mount_of(path, MOUNTS) == expected


def test_more_cpus_than_there_are() -> None:
    with pytest.raises(RefusedError, match=r"limits.cpus: 2.5: this host has 2 CPUs"):
        refuse_limits({"NCPU": 2}, {"limits.cpus": 2.5})
    for cpus in (0.0, 2.0):
        refuse_limits({"NCPU": 2}, {"limits.cpus": cpus})
    refuse_limits({}, {"limits.cpus": 64.0})


def test_a_folder_with_files_of_others_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "vobox1").mkdir()
    refuse_foreign(wish(state="absent", files=str(tmp_path)))
    for name in ("state", "mail", "log", "spool", "www", "db"):
        (tmp_path / "vobox1" / name).mkdir()
    with pytest.raises(RefusedError, match=r"vobox1 holds db, log, mail, spool and 2 more.*Move .* away"):
        refuse_foreign(wish(state="absent", files=str(tmp_path)))


@pytest.mark.parametrize("state", ["started", "present"])
@pytest.mark.parametrize("why", [{"renewed": ("/nowhere/cert.pem",)}, {"running": False, "cut_short": True}])
def test_what_a_restart_mounts_has_to_be_there(state: str, why: dict[str, t.Any]) -> None:
    """The engine would refuse the start when the stop is done, and the VO-box would be off."""
    asked = new_box(state=state, host_certificate={"certificate": "/nowhere/cert.pem", "key": "/nowhere/key.pem"})
    seen = existing(asked, **why)
    plan = decide(asked, seen).plan
    assert [step.action for step in plan.steps] == ["restart_container"]
    with pytest.raises(RefusedError, match=r"^host_certificate.certificate: /nowhere/cert.pem: it cannot be read"):
        preflight.preflight(DockerApi("unix:///nowhere", 1), asked, seen, plan)


@pytest.mark.parametrize(
    ("state", "seen", "looks"),
    [
        ("started", {"running": False}, True),
        ("present", {}, True),
        ("present", {"running": False, "cut_short": True}, True),
        ("present", {"running": False}, False),
        ("stopped", {}, False),
    ],
)
def test_what_runs_after_a_swap_looks_into_its_repositories(
    monkeypatch: pytest.MonkeyPatch, state: str, seen: dict[str, t.Any], looks: bool
) -> None:
    asked = new_box(state=state, hostname="other.example.org")
    looked: list[bool] = []
    monkeypatch.setattr(preflight, "_mounts", lambda wish, values, runs: looked.append(runs))
    monkeypatch.setattr(preflight, "_new_container", lambda *given: None)
    there = existing(**seen)
    preflight.preflight(DockerApi("unix:///nowhere", 1), asked, there, decide(asked, there).plan)
    assert looked == [looks]


BASH_ONLY = 'ports=(1975 3128)\nfor port in "${ports[@]}"; do echo "$port"; done\n'


@pytest.mark.skipif(
    os.path.basename(os.path.realpath("/bin/sh")) != "dash" or not shutil.which("bash"),
    reason="needs a host on which sh is dash and that has bash",
)
def test_a_script_for_an_image_whose_sh_is_bash() -> None:
    check_syntax(f"#!/bin/sh\n{BASH_ONLY}")
    with pytest.raises(InputError, match="a script that /bin/dash can read"):
        check_syntax(f"#!/bin/dash\n{BASH_ONLY}")


def test_a_script_that_is_not_utf8() -> None:
    check_syntax("#!/bin/sh\n# \udcff\n")


@pytest.mark.parametrize("script", ["#!/bin/sh\nif true\n", "#!/bin/bash\nfor\n", "#!/usr/bin/env sh\n)\n"])
def test_a_script_no_shell_can_read(script: str) -> None:
    with pytest.raises(InputError, match="init_script: got '#!"):
        check_syntax(script)


def test_a_shell_that_is_not_the_distributions_is_not_run_on_the_host(tmp_path: Path) -> None:
    planted, ran = tmp_path / "bash", tmp_path / "ran"
    planted.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    planted.chmod(0o755)
    check_syntax(f"#!{planted}\ntrue\n")
    assert not ran.exists()


def test_a_shell_that_does_not_end_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_READ_SECONDS", 0)
    check_syntax("#!/bin/sh\nif true\n")


@pytest.mark.parametrize("script", ["#!/bin/sh\ntouch /tmp/never\n", "#!/usr/bin/python3\nif\n", "#!/no/such/sh\n)\n"])
def test_a_script_that_can_be_read_or_not_be_judged(script: str) -> None:
    check_syntax(script)

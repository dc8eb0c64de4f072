# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Option values to the engine's JSON and back, and what engines rewrite on the way."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import (
    create_body,
    update_body,
    values_of,
    without_image_defaults,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import decide
from tests.unit.vobox.answers import IMAGE, container_of
from tests.unit.vobox.test_vobox_plan import NOTHING
from tests.unit.vobox.wishes import LIMITS, new_box

FOLDER = "/var/lib/hep.gridbox/voboxes/vobox1"


def values(**changes: t.Any) -> dict[str, t.Any]:
    return dict(decide(new_box(**changes), NOTHING).values)


def body(api: tuple[int, ...] = (1, 41), platform: str = "docker", **changes: t.Any) -> dict[str, t.Any]:
    return create_body("vobox1", "voboximg:el9", values(**changes), FOLDER, "c0ffee", api, platform)


def test_a_body_pins_what_engines_changed_their_minds_about() -> None:
    made = body()
    host = made["HostConfig"]
    assert made["Hostname"] == "vobox1.example.org"
    assert made["MacAddress"].startswith("9e:") or int(made["MacAddress"][:2], 16) & 3 == 2
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "site": {"IPAMConfig": {"IPv4Address": "10.0.0.10", "IPv6Address": "fd00::10"}}
    }
    assert {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
        "nofile": (65536, 65536), "core": (0, 0),
    }  # fmt: skip
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10485760", "max-file": "5"}}
    assert host["RestartPolicy"] == {"Name": "unless-stopped"}
    assert host["Sysctls"]["net.ipv6.conf.default.accept_ra"] == "0"
    assert (made["Entrypoint"], made["Cmd"], host["Init"], made["StopSignal"]) == (
        ["/etc/init.sh"],
        [],
        True,
        "SIGTERM",
    )


def test_the_mac_moved_into_the_endpoint() -> None:
    made = body(api=(1, 44))
    assert "MacAddress" not in made
    assert made["NetworkingConfig"]["EndpointsConfig"]["site"]["MacAddress"]


def test_mounts_say_their_propagation() -> None:
    made = body(
        cvmfs={"path": "/cvmfs", "repositories": [], "propagation": "rslave"},
        host_certificate={"certificate": "/pki/cert.pem", "key": "/pki/key.pem"},
        volumes=[{"source": "/logs", "target": "/var/log", "read_only": False, "propagation": "rprivate"}],
    )
    mounts = {mount["Target"]: mount for mount in made["HostConfig"]["Mounts"]}
    assert mounts["/cvmfs"]["BindOptions"] == {"Propagation": "rslave"}
    assert mounts["/etc/grid-security/hostkey.pem"]["ReadOnly"] is True
    assert mounts["/etc/hep.gridbox"]["Source"] == f"{FOLDER}/init"
    assert mounts["/run/hep.gridbox"]["Source"] == f"{FOLDER}/run/c0ffee"
    assert "Binds" not in made["HostConfig"]


def test_capabilities_are_named_one_by_one() -> None:
    host = body(privileges={"profile": "near_full", "capabilities": None, "devices": ["/dev/fuse"]})["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert "SYS_ADMIN" in host["CapAdd"]
    assert "ALL" not in host["CapAdd"]
    assert host["SecurityOpt"] == ["apparmor=unconfined", "seccomp=unconfined"]
    assert (host["MaskedPaths"], host["ReadonlyPaths"]) == ([], [])
    assert host["Devices"] == [
        {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}
    ]  # fmt: skip


sizes = st.integers(6 << 20, 1 << 40)


@given(
    memory=st.one_of(st.just(0), sizes),
    pids=st.one_of(st.just(-1), st.integers(1, 1 << 20)),
    cpus=st.integers(0, 64_000).map(lambda thousandths: thousandths / 1000 if thousandths > 9 else 0.0),
    nofile=st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 20)).map(
        lambda pair: f"{pair[0]}:{pair[0] + pair[1]}"
    ),
    environment=st.dictionaries(st.from_regex(r"[B-Z][A-Z]{0,5}", fullmatch=True), st.text("abc =:", max_size=5)),
    policy=st.sampled_from(["no", "on-failure", "always", "unless-stopped"]),
    test=st.lists(st.text("abc", min_size=1), max_size=3),
)
def test_what_an_engine_makes_of_a_body_reads_as_it_was_asked(
    memory: int, pids: int, cpus: float, nofile: str, environment: dict[str, str], policy: str, test: list[str]
) -> None:
    asked = new_box(
        limits={**LIMITS, "memory": str(memory), "pids": pids, "cpus": cpus, "nofile": nofile},
        environment=environment,
        restart_policy=policy,
        health={"test": test, "interval": 7, "timeout": 8, "retries": 9, "start_period": 10},
    )
    decided = decide(asked, NOTHING).values
    seen = values_of(container_of(decided), IMAGE, "docker")
    assert {key: seen[key] for key in asked.values} == dict(asked.values)


@pytest.mark.parametrize(
    ("written", "key", "read"),
    [
        ({"HostConfig": {"LogConfig": {"Type": "k8s-file", "Config": None}}}, "log.driver", "json-file"),
        ({"HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}}}}, "log.max_size", 10 << 20),
        ({"HostConfig": {"SecurityOpt": ["seccomp:unconfined"]}}, "privileges.security_opt", ("seccomp=unconfined",)),
        ({"HostConfig": {"RestartPolicy": {"Name": ""}}}, "restart_policy", "no"),
        ({"HostConfig": {"PidsLimit": 0}}, "limits.pids", -1),
        ({"HostConfig": {"CpuQuota": 150_000, "CpuPeriod": 100_000}}, "limits.cpus", 1.5),
        ({"HostConfig": {"Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 1, "Hard": 2}]}}, "limits.nofile", (1, 2)),
        ({"HostConfig": {"ExtraHosts": ["squid:fd00::1"]}}, "dns.hosts", {"squid": "fd00::1"}),
        ({"Config": {"Healthcheck": {"Test": ["NONE"]}}}, "health", ()),
        ({"Config": {"Hostname": "vobox1", "Domainname": "example.org"}}, "hostname", "vobox1.example.org"),
    ],
)
def test_what_engines_write_in_their_own_ways(written: dict[str, t.Any], key: str, read: t.Any) -> None:
    container = container_of(values())
    for part, changes in written.items():
        container[part].update(changes)
    assert values_of(container, IMAGE, "docker")[key] == read


def test_an_address_the_engine_chose_is_not_a_fixed_one() -> None:
    container = container_of(values())
    container["NetworkSettings"]["Networks"]["site"]["IPAMConfig"] = None
    assert values_of(container, IMAGE, "docker")["network.ipv4"] == "10.0.0.10 (not fixed)"


def test_a_fixed_address_in_another_spelling() -> None:
    """The engine keeps the spelling of ``docker run --ip6``."""
    container = container_of(values())
    container["NetworkSettings"]["Networks"]["site"]["IPAMConfig"]["IPv6Address"] = "FD00:0:0::0010"
    assert values_of(container, IMAGE, "docker")["network.ipv6"] == "fd00::10"


def test_our_own_labels_do_not_count() -> None:
    assert values_of(container_of(values()), IMAGE, "docker")["labels"] == {}


def test_what_the_image_set_is_not_taken_over() -> None:
    container = container_of(values(init_script=None))
    kept = without_image_defaults(values_of(container, IMAGE, "docker"), IMAGE)
    assert "command" not in kept
    assert "health" not in kept
    assert "WorkingDir" not in kept["others"]["Config"]
    assert kept["volumes.anonymous"] == (("/var/spool", "d" * 64),)


def test_an_update_says_only_what_changes() -> None:
    assert update_body({"limits.memory": 1 << 30, "limits.memory_swap": -1}) == {"Memory": 1 << 30, "MemorySwap": -1}
    assert update_body({"limits.cpus": 1.5, "limits.pids": -1, "restart_policy": "no"}) == {
        "NanoCpus": 1_500_000_000, "PidsLimit": -1, "RestartPolicy": {"Name": "no"},
    }  # fmt: skip

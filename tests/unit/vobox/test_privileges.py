# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Profiles, and what an engine can grant."""

from __future__ import annotations

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import (
    CAPABILITIES,
    ENGINE_DEFAULT,
    LEAST,
    EngineProcess,
    Privileges,
    bounding_set,
    effective,
    grantable,
    hard_limits,
    profile_of,
    refuse_ungrantable,
)

ALL = frozenset(CAPABILITIES)
NO_RESOURCE = EngineProcess(ALL - {"SYS_RESOURCE"}, {"Max open files": 20000})
ENTIRE = EngineProcess(ALL, {})
OLD, NEW = (20, 10, 24), (26, 1, 5)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (None, None, ENGINE_DEFAULT["docker"]),
        (["CAP_NET_ADMIN"], [], ENGINE_DEFAULT["docker"] | {"NET_ADMIN"}),
        (["kill"], ["ALL"], {"KILL"}),
        (["ALL"], ["SYS_RESOURCE"], ALL - {"SYS_RESOURCE"}),
        ([], ["MKNOD"], ENGINE_DEFAULT["docker"] - {"MKNOD"}),
    ],
)
def test_what_an_engine_makes_of_add_and_drop(
    add: list[str] | None, drop: list[str] | None, expected: set[str]
) -> None:
    assert effective({"CapAdd": add, "CapDrop": drop}, "docker") == tuple(sorted(expected))


def test_the_bounding_set_is_read_by_name() -> None:
    status = "Name:\tdockerd\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\n"
    assert bounding_set(status) == ALL - {"SYS_RESOURCE"}


def test_hard_limits_are_read_by_name() -> None:
    limits = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max open files            1024                 20000                files     \n"
        "Max core file size        0                    unlimited            bytes     \n"
    )
    assert hard_limits(limits) == {"Max open files": 20000, "Max core file size": None}


def test_an_old_docker_knows_fewer_names() -> None:
    assert grantable(ALL, "docker", OLD) == ALL - {"PERFMON", "BPF", "CHECKPOINT_RESTORE"}
    assert grantable(ALL, "docker", NEW) == grantable(ALL, "podman", (4, 3, 1)) == ALL


@pytest.mark.parametrize("profile", ["least", "near_full", "full"])
def test_a_profile_is_known_by_its_values(profile: str) -> None:
    can = grantable(ALL, "docker", OLD)
    assert profile_of(Privileges(profile).values(can), can) == profile


def test_least_is_what_is_named_and_nothing_else() -> None:
    values = Privileges("least", ("KILL",)).values(ALL)
    assert values["privileges.capabilities"] == ("KILL",)
    assert (values["privileges.security_opt"], values["privileges.masked_paths"]) == ((), True)
    assert set(LEAST) < ENGINE_DEFAULT["docker"]


def test_full_is_refused_where_the_engine_could_not_start_it() -> None:
    with pytest.raises(RefusedError, match=r"SYS_RESOURCE.*Set profile: near_full, which works"):
        refuse_ungrantable(Privileges("full"), NO_RESOURCE, "docker", OLD)
    refuse_ungrantable(Privileges("full"), NO_RESOURCE, "docker", NEW)
    refuse_ungrantable(Privileges("full"), ENTIRE, "docker", OLD)
    refuse_ungrantable(Privileges("near_full"), NO_RESOURCE, "docker", OLD)


def test_a_capability_the_engine_lacks_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"privileges.capabilities: SYS_RESOURCE: the engine has not got this"):
        refuse_ungrantable(Privileges("least", ("KILL", "SYS_RESOURCE")), NO_RESOURCE, "docker", NEW)


def test_a_missing_device_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"privileges.devices\[0\]: /dev/nonesuch: there is no such file"):
        refuse_ungrantable(Privileges("least", devices=("/dev/nonesuch",)), ENTIRE, "docker", NEW)

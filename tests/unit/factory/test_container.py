# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import body, work_folder
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import NEW

KIND = Machinetype(
    "a",
    root_image="image:1",
    user_data="run",
    cvmfs_repositories=("a.example.org",),
    tmp_binds=("/scratch", "/var/tmp"),
)


def made(kind: Machinetype = KIND, **options: t.Any) -> dict[str, t.Any]:
    return body(NEW, kind, parse({**SMALL, **options}), "/state/machines/m", "sha256:1")


def test_what_is_mounted() -> None:
    mounts = {
        one["Target"]: (one["Source"], one["ReadOnly"], one["BindOptions"]["Propagation"])
        for one in made()["HostConfig"]["Mounts"]
    }
    assert mounts == {
        "/etc/machinefeatures": ("/state/machines/m/machinefeatures", True, "rprivate"),
        "/etc/jobfeatures": ("/state/machines/m/jobfeatures", True, "rprivate"),
        "/var/spool/joboutputs": ("/state/machines/m/mnt/joboutputs", False, "rprivate"),
        "/user_data": ("/state/machines/m/user_data", True, "rprivate"),
        "/scratch": ("/state/machines/m/mnt/tmp/scratch", False, "rprivate"),
        "/var/tmp": ("/state/machines/m/mnt/tmp/var%tmp", False, "rprivate"),
        "/cvmfs/a.example.org": ("/cvmfs/a.example.org", True, "rslave"),
    }


def test_it_is_root_whatever_its_image_says() -> None:
    assert made()["User"] == "0"


def test_repositories_come_from_where_the_host_has_them() -> None:
    mounts = made(cvmfs_root="/mnt/cvmfs")["HostConfig"]["Mounts"]
    assert [one["Source"] for one in mounts if one["Target"] == "/cvmfs/a.example.org"] == ["/mnt/cvmfs/a.example.org"]


def test_without_user_data_there_is_none() -> None:
    kind = replace(KIND, user_data="", container_command=("/bin/pilot", "-x"))
    request = made(kind)
    assert "/user_data" not in {one["Target"] for one in request["HostConfig"]["Mounts"]}
    assert request["Cmd"] == ["/bin/pilot", "-x"]


def test_paths_that_differ_have_folders_that_differ() -> None:
    paths = ["/a/b", "/a_b", "/a__b", "/a/_b", "/a_/b"]
    assert len({work_folder(path) for path in paths}) == len(paths)
    assert all("/" not in work_folder(path) for path in paths)


def test_limits_are_hard_and_nothing_is_inherited() -> None:
    host = made(pids_per_processor=100, nofile=1000, network="machines")["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == NEW.memory_bytes
    assert (host["NanoCpus"], host["PidsLimit"], host["NetworkMode"]) == (10**9, 100, "machines")
    assert host["CapDrop"] == ["ALL"]
    assert "SYS_ADMIN" not in host["CapAdd"] and "AUDIT_WRITE" in host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges", "label=disable"]
    assert host["Ulimits"][0] == {"Name": "nofile", "Soft": 1000, "Hard": 1000}
    assert host["Ulimits"][2] == {"Name": "nproc", "Soft": 4096, "Hard": 4096}
    many = made(pids_per_processor=100000)["HostConfig"]["Ulimits"][2]
    assert many["Hard"] == 200000, "of all machines together"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Init"] is True
    assert not host.get("Privileged")


@pytest.mark.parametrize(("most", "expected"), [(None, 4), (8, 4), (3, 3)])
def test_a_machine_has_no_more_processors_than_the_engine_takes(most: t.Optional[int], expected: int) -> None:
    four = replace(NEW, processors=4)
    request = body(four, KIND, parse(SMALL), "/m", "sha256:1", most_processors=most)
    assert request["HostConfig"]["NanoCpus"] == expected * 10**9
    assert request["HostConfig"]["CpuShares"] == 4096, "its share is that of its size"


def test_a_host_name_that_the_kernel_would_refuse_is_cut() -> None:
    long = replace(NEW, slot=f"{'a' * 70}-00.example.org")
    request = body(long, KIND, parse(SMALL), "/m", "sha256:1")
    assert len(request["Hostname"]) == 63
    assert made()["Hostname"] == "f1-00.example.org"


def test_what_a_machine_may_write_to_its_root_file_system_is_said_to_an_engine_that_can_limit_it() -> None:
    configuration = parse({**SMALL, "root_gb_per_processor": 1.5})
    two = replace(NEW, processors=2)
    host = body(two, KIND, configuration, "/m", "sha256:1", limits_writes=True)["HostConfig"]
    assert host["StorageOpt"] == {"size": "3000000000"}
    assert "StorageOpt" not in made()["HostConfig"], "an engine that cannot refuses the container"

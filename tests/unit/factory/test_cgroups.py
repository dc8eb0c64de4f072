# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import cgroups
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cgroups import Hierarchy, Limits, cpu_seconds
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.processes import kill

#: Lines of /proc/self/mountinfo, as hosts have them.
V1 = """\
31 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
37 31 0:32 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpuset
38 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,cpu,cpuacct
39 31 0:34 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,memory
40 31 0:35 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,pids
41 24 0:35 / /run/again rw,relatime shared:18 - cgroup cgroup rw,pids
"""
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
TWO = Limits(2, 64 << 20, 100)


def found(table: str, offered: str = "") -> list[Hierarchy]:
    return cgroups.hierarchies(mount_table.parse(table), lambda _point: offered)


def test_a_host_with_version_1() -> None:
    assert found(V1) == [
        Hierarchy("/sys/fs/cgroup/unified", 2, ()),
        Hierarchy("/sys/fs/cgroup/systemd", 1, ()),
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", 1, ("cpu",)),
        Hierarchy("/sys/fs/cgroup/memory", 1, ("memory",)),
        Hierarchy("/sys/fs/cgroup/pids", 1, ("pids",)),
    ]
    assert found(V1)[2].group("m") == "/sys/fs/cgroup/cpu,cpuacct/hep.gridbox/m"
    written = {file: value for one in found(V1) for file, value in cgroups.settings(one, TWO).items()}
    assert written == {
        "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "200000", "cpu.shares": "2048",
        "memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes?": "67108864", "pids.max": "100",
    }  # fmt: skip


def test_a_host_with_version_2() -> None:
    [one] = found(V2, "cpuset cpu io memory hugetlb pids rdma misc\n")
    assert one == Hierarchy("/sys/fs/cgroup", 2, ("cpu", "memory", "pids"))
    assert cgroups.settings(one, TWO) == {
        "cpu.max": "200000 100000", "cpu.weight": "200", "memory.max": "67108864", "memory.swap.max?": "0",
        "pids.max": "100",
    }  # fmt: skip


def test_a_host_that_cannot_limit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    table = V2.replace("/sys/fs/cgroup", str(tmp_path))
    monkeypatch.setattr(mount_table, "read", lambda: mount_table.parse(table))
    with pytest.raises(RefusedError, match=r"this host has no controller memory, no pids\. Switch it on"):
        cgroups.read()


def folder_tree(tmp_path: Path, offered: str) -> list[Hierarchy]:
    """A folder that stands for a hierarchy of version 2: nothing appears in it by itself."""
    for folder in (tmp_path, tmp_path / "hep.gridbox"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("")
    return [Hierarchy(str(tmp_path), 2, tuple(offered.split()))]


def test_what_is_handed_down_is_what_there_is(tmp_path: Path) -> None:
    here = folder_tree(tmp_path, "memory pids")
    [folder] = cgroups.make(here, "m", TWO)
    assert {one.name: one.read_text() for one in Path(folder).iterdir()} == {
        "memory.max": "67108864", "memory.swap.max": "0", "pids.max": "100",
    }  # fmt: skip
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"  # a file keeps the last word only
    (tmp_path / "hep.gridbox/cgroup.subtree_control").write_text("memory pids\n")
    cgroups.make(here, "n", TWO)
    assert (tmp_path / "hep.gridbox/cgroup.subtree_control").read_text() == "memory pids\n"


def test_a_kernel_that_refuses_is_a_sentence(tmp_path: Path) -> None:
    here = [Hierarchy(str(tmp_path / "none"), 1, ("pids",))]
    (tmp_path / "none").write_text("")
    with pytest.raises(GridboxError, match=r"Making the control group m failed \("):
        cgroups.make(here, "m", TWO)


@pytest.mark.parametrize(
    ("file", "text", "short"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n", True),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\n", False),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
        ("cgroup.procs", "", False),
    ],
)
def test_whether_memory_was_short(file: str, text: str, short: bool, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert cgroups.memory_was_short([str(tmp_path / "gone"), str(tmp_path)]) == short


def test_a_number_that_is_anothers_by_now_is_not_hit() -> None:
    import subprocess

    child = subprocess.Popen(["sleep", "60"])
    try:
        kill(child.pid, lambda _pid: False)
        assert child.poll() is None
        kill(child.pid, lambda pid: pid == child.pid)
        assert child.wait(timeout=10) == -9
    finally:
        child.kill()
    kill(child.pid, t.cast("t.Callable[[int], bool]", None))  # it has gone: nobody is asked


def test_where_the_kernel_kills_no_group_each_process_in_it_is_killed(tmp_path: Path) -> None:
    """Version 1, and version 2 before Linux 5.14, have no ``cgroup.kill``. Nor need there be time to wait."""
    import subprocess

    child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        (tmp_path / "cgroup.procs").write_text(f"{child.pid}\n")
        (tmp_path / "pids.max").write_text("100")
        assert cgroups.empty([str(tmp_path)], 0) is False, "a folder, from which nobody goes"
        assert child.wait(timeout=10) == -9
        assert (tmp_path / "pids.max").read_text() == "0"
    finally:
        child.kill()
        child.stdout.close()
    (tmp_path / "cgroup.procs").write_text("")
    assert cgroups.empty([str(tmp_path)], 0) is True


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory/memory.events": "oom 0\n", "cpu,cpuacct/cpuacct.usage": "12345678901\n"}, 12.345678901),
        ({"cpu/cpu.stat": "nr_periods 3\nnr_throttled 0\n", "cpuacct/cpuacct.usage": "500000000\n"}, 0.5),
        ({"unified/cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}, 2.5),
        ({"memory/memory.events": "oom 0\n"}, None),
        ({}, None),
    ],
)
def test_what_was_used_of_processors(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    folders = dict.fromkeys(tmp_path / name.partition("/")[0] for name in files)
    for folder in folders:
        folder.mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_seconds([str(folder) for folder in folders]) == expected

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine on a real engine has of CernVM-FS: the repositories that it asked for, whenever they are mounted."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import PodmanService
from tests.lab.factory import LabFactory, PodmanLab
from tests.lab.lab import Lab, make_lab, remove_lab
from tests.lab.mounts import Mounts

#: Those that the host has when the machine is made, and the two of them that it asks for.
REPOSITORIES = ("atlas.example.org", "grid.example.org", "lhcb.example.org")
WANTED = REPOSITORIES[:2]


@pytest.fixture()
def mounts() -> t.Iterator[Mounts]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts and an engine of its own")
    with Mounts() as made:
        yield made


@pytest.fixture()
def lab(mounts: Mounts, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    made = make_lab(tmp_path_factory.mktemp("own") / "engine", f"gbt{os.getpid()}-cvmfs", mounts.enter)
    yield made
    remove_lab(made)


def with_repositories(run: t.Callable[..., str], root: Path) -> None:
    """The host gets a folder for each repository, which looks as if it were mounted."""
    root.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(root))
    run("mount", "--make-shared", str(root))  # as systemd has all mounts; Podman's namespace in the lab has not
    for name in REPOSITORIES:
        run("sh", "-c", f"mkdir {root}/{name} && echo before >{root}/{name}/told")


def test_repositories_that_are_mounted_later_are_seen_and_no_others(lab: Lab, mounts: Mounts, tmp_path: Path) -> None:
    with_repositories(mounts.run, tmp_path / "cvmfs")
    factory = LabFactory(lab, tmp_path, cvmfs_root=str(tmp_path / "cvmfs"), total_processors=1)
    factory.enter = list(mounts.enter)
    try:
        sees_what_it_wants(factory, lab.docker, mounts.run, tmp_path)
    finally:
        factory.remove()


def test_the_same_with_podman(podman: PodmanService, tmp_path: Path) -> None:
    with_repositories(podman.run_there, tmp_path / "cvmfs")
    lab = PodmanLab(podman)
    factory = LabFactory(
        t.cast(Lab, lab), tmp_path, cvmfs_root=str(tmp_path / "cvmfs"), total_processors=1, network="podman"
    )
    factory.enter = podman.enter
    try:
        sees_what_it_wants(factory, lab.docker, podman.run_there, tmp_path)
    finally:
        factory.remove()
        for folder in ("source", "cvmfs"):
            podman.run_there("umount", "--recursive", "--lazy", str(tmp_path / folder))


def sees_what_it_wants(
    factory: LabFactory, docker: t.Callable[..., str], run: t.Callable[..., str], tmp_path: Path
) -> None:
    """A machine has the repositories that it wants, whenever they are mounted, and no other.

    :param docker: the engine's command.
    :param run: runs a command in the mount namespace of the engine.
    """
    script = "while :; do sleep 0.1; done"
    factory.kinds({"a": {"script": script, "cvmfs_repositories": list(WANTED)}})
    factory.start()
    [machine] = factory.wait("a machine", factory.running)

    def inside(*argv: str) -> str:
        return docker("exec", machine["Id"], *argv).strip()

    def told(name: str) -> str:
        return inside("cat", f"/cvmfs/{name}/told")

    def refuses_writes(name: str) -> bool:
        return inside("sh", "-c", f"touch /cvmfs/{name}/new 2>&1; true").endswith("Read-only file system")

    assert inside("ls", "/cvmfs").split() == list(WANTED)
    assert [told(name) for name in WANTED] == ["before"] * 2
    assert all(refuses_writes(name) for name in WANTED), "the folders on the host are not read-only"

    # What is mounted from now on, read-only as repositories are: one that it has, one that it has not, a new one.
    source = tmp_path / "source"
    source.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(source))
    run("sh", "-c", f"mkdir {source}/inner && echo after | tee {source}/told >{source}/inner/told")
    run("mount", "-o", "remount,ro", str(source))
    root = tmp_path / "cvmfs"
    for name in (WANTED[0], REPOSITORIES[2], "new.example.org"):
        run("mkdir", "-p", f"{root}/{name}")
        run("mount", "--bind", str(source), f"{root}/{name}")
    assert told(WANTED[0]) == "after" == told(f"{WANTED[0]}/inner")
    assert told(WANTED[1]) == "before"
    assert all(refuses_writes(name) for name in WANTED)
    assert inside("ls", "/cvmfs").split() == list(WANTED)
    own = [line.split()[1] for line in inside("cat", "/proc/mounts").splitlines()]
    assert {point for point in own if point.startswith("/cvmfs")} == {f"/cvmfs/{name}" for name in WANTED}

    # And when the host unmounts it, the machine does not hold it.
    run("umount", f"{root}/{WANTED[0]}")
    assert told(WANTED[0]) == "before"
    with pytest.raises(RuntimeError, match="No such file or directory"):
        inside("ls", f"/cvmfs/{REPOSITORIES[2]}")
    assert [one["Id"] for one in factory.running()] == [machine["Id"]]

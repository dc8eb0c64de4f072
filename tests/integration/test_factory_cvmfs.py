# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine on a real engine has of CernVM-FS: the repositories that it asked for, whenever they are mounted; and
what becomes of it when one of them hangs."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import PodmanService
from tests.lab.factory import LabFactory, PodmanLab, kind_of
from tests.lab.hung_mount import hung_at
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


#: Reads its repository again and again, and would end when it is told to, if it came to that.
READS = (
    "trap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM\n"
    f"while :; do cat /cvmfs/{WANTED[0]}/told; touch $JOBOUTPUTS/there; sleep 0.1; done"
)
SHORT = "sleep 1.2; echo 200 Success >$JOBOUTPUTS/shutdown_message"


def below(pid: int) -> t.Iterator[int]:
    """A process, and all that come from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            yield from below(int(child))


def states(pid: int) -> set[str]:
    """The kernel's letters for a process and all that come from it."""
    try:
        return {Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] for one in below(pid)}
    except (FileNotFoundError, ProcessLookupError):  # one has ended meanwhile
        return set()


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_a_repository_that_begins_to_hang_under_a_machine(lab: Lab, mounts: Mounts, tmp_path: Path) -> None:
    with_repositories(mounts.run, tmp_path / "cvmfs")
    factory = LabFactory(lab, tmp_path, cvmfs_root=str(tmp_path / "cvmfs"), total_processors=2, slots=2)
    factory.enter = list(mounts.enter)
    try:
        lives_with_a_repository_that_hangs(factory, mounts.run, tmp_path)
        assert not factory.events("engine_refused")
        assert [one["exit_code"] for one in factory.records() if one["end_code"] == "time_limit"] == [137]
    finally:
        factory.remove()


@pytest.mark.fleet  # it has the time limits of the other once more
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_the_same_under_a_machine_of_podman(podman: PodmanService, tmp_path: Path) -> None:
    """Which takes a machine for ended five seconds after KILL."""
    with_repositories(podman.run_there, tmp_path / "cvmfs")
    factory = LabFactory(
        t.cast(Lab, PodmanLab(podman)), tmp_path, cvmfs_root=str(tmp_path / "cvmfs"), total_processors=2, slots=2,
        network="podman",
    )  # fmt: skip
    factory.enter = podman.enter
    try:
        lives_with_a_repository_that_hangs(factory, podman.run_there, tmp_path)
    finally:
        factory.remove()
        podman.run_there("umount", "--recursive", "--lazy", str(tmp_path / "cvmfs"))


def lives_with_a_repository_that_hangs(factory: LabFactory, run: t.Callable[..., str], tmp_path: Path) -> None:
    """A repository that begins to hang ends no machine, and holds up no other. One whose time is over while a process
    of its waits for it, which nobody can kill, keeps its slot for as long as that does.

    :param run: runs a command in the mount namespace of the engine.
    """
    reads = {"script": READS, "cvmfs_repositories": [WANTED[0]], "max_wallclock_seconds": 45}
    factory.kinds({"reads": reads, "short": {"script": SHORT}})

    def ends(kind: str) -> list[dict[str, t.Any]]:
        return [one for one in factory.events("machine_ended") if one["machinetype"] == kind]

    def others_go_on() -> None:
        """Slots are filled again and again."""
        seen = len(ends("short"))
        factory.wait("the other slot to be filled again", lambda: len(ends("short")) >= seen + 2)

    def its_record() -> dict[str, t.Any]:
        return next(one for one in factory.records() if one["machinetype"] == "reads")

    def stop() -> None:
        began = time.monotonic()
        assert factory.stop() == 0
        assert time.monotonic() - began < 15, "it waited for the repository, or for the machine"

    factory.start()
    factory.wait("both", lambda: {kind_of(one) for one in factory.running()} == {"reads", "short"})
    [machine] = [one for one in factory.running() if kind_of(one) == "reads"]
    uuid, pid = machine["Config"]["Labels"]["hep.gridbox.machine"], machine["State"]["Pid"]
    [folder] = factory.state.glob(f"machines/*_{uuid[:8]}")
    factory.wait("it to read", (folder / "mnt/joboutputs/there").exists)

    def stays() -> None:
        """It is there, to the kernel and to the engine, in its slot."""
        assert "D" in states(pid)
        found = [one for one in factory.containers() if kind_of(one) == "reads"]
        assert [(one["Id"], one["State"]["Pid"]) for one in found] == [(machine["Id"], pid)]
        assert its_record()["state"] == "running"

    with hung_at(tmp_path / "cvmfs" / WANTED[0], *factory.enter):
        factory.wait("it to wait for the repository", lambda: "D" in states(pid))
        others_go_on()
        stop()
        factory.start()
        factory.wait("the repository's fault", lambda: any(not one["ok"] for one in factory.events("repository")))
        red = factory.wait("a red check", lambda: (c := factory.run("check")).returncode == 2 and c)
        assert f"CVMFS repository {WANTED[0]} does not answer" in red.stdout
        others_go_on()

        # Its time is over. The daemon is restarted while the engine has KILL in hand.
        factory.wait("KILL", lambda: factory.events("machine_killed"))
        stop()
        record = its_record()
        assert (record["uuid"], record["end_code"]) == (uuid, "time_limit")
        assert record["told"] >= record["shutdown_time"], "it was told for its time limit, not for the repository"
        factory.start()
        factory.wait("its slot to be told of", lambda: factory.events("machine_outlives_kill"))
        words = f"The machine in slot {record['slot']} outlives KILL"
        factory.wait("the check", lambda: words in factory.run("check").stdout)
        others_go_on()
        stays()
        shown = json.loads((factory.state / "report.json").read_text())["slots"]
        assert [one["state"] for one in shown if one["uuid"] == uuid] == ["running"]
        assert not ends("reads")
        assert not factory.events("engine_silent")
        run("umount", "--force", "--lazy", str(tmp_path / "cvmfs" / WANTED[0]))

        # It is back.
        [end] = factory.wait("its end", lambda: ends("reads"))
        assert (end["machine"], end["code"], end["message"]) == (uuid, "time_limit", "100 Time limit reached")
        factory.wait("it to be cleaned away", lambda: its_record()["cleaned"])
        assert str(folder) not in run("cat", "/proc/mounts")
        assert uuid not in {one["Config"]["Labels"]["hep.gridbox.machine"] for one in factory.containers()}
        factory.kinds({"reads": {**reads, "max_wallclock_seconds": 3600}, "short": {"script": SHORT}})
        factory.wait("another one that reads", lambda: any(kind_of(one) == "reads" for one in factory.running()), 150)
        factory.wait("a green check", lambda: factory.run("check").returncode == 0)
    assert not factory.events("internal_error", "cleaning_failed", "stray_removed", "unborn_removed")

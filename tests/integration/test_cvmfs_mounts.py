# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that mounts repositories, where systemd is not PID 1, on real mounts below a folder of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from tests.lab.modules import ModuleFailed, run_module

if os.geteuid() != 0:
    pytest.skip("needs root: it mounts", allow_module_level=True)


ROOT = Path(__file__).resolve().parents[2]

#: Runs the module in a mount namespace.
_INSIDE = """
import json, sys
from tests.lab.modules import ModuleFailed, run_module
arguments, check = json.load(sys.stdin)
try:
    result = run_module("cvmfs_mounts", arguments, check=check)
except ModuleFailed as failed:
    result = failed.result
print(json.dumps(result))
"""


class Place:
    """Sources for repositories, and a folder to mount them in.

    :ivar inside: the command that enters a mount namespace for what follows; empty for the machine's own.
    """

    def __init__(self, folder: Path) -> None:
        self.inside: list[str] = []
        self.root = folder / "cvmfs"
        self.folder = folder
        (folder / "tools/bin").mkdir(parents=True)
        (folder / "tools/bin/hello").write_text("hello\n")
        (folder / "config").mkdir()
        (folder / "config/site").write_text("site\n")
        (folder / "empty").mkdir()
        subprocess.run(
            ["mksquashfs", folder / "tools", folder / "tools.sqfs", "-quiet", "-no-progress"],
            check=True, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        self.repositories: list[dict[str, t.Any]] = [
            {"repository": "tools.example.org", "source": "squashfs", "path": str(folder / "tools.sqfs")},
            {"repository": "config.example.org", "source": "directory", "path": str(folder / "config")},
        ]

    def mounts(self, check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        arguments = {
            "root": str(self.root),
            "repositories": self.repositories,
            "squashfs_driver": "fuse",
            "supervisor": "none",
            "wait_timeout": 20,
            **more,
        }
        if not self.inside:
            return run_module("cvmfs_mounts", arguments, check=check)
        done = subprocess.run(
            [*self.inside, sys.executable, "-c", _INSIDE],
            input=json.dumps([arguments, check]), capture_output=True, text=True, timeout=180, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        result: dict[str, t.Any] = json.loads(done.stdout)
        if result.get("failed"):
            raise ModuleFailed(result)
        return result

    def table(self) -> list[str]:
        """What findmnt sees below the folder, with the propagation."""
        argv = ["findmnt", "--list", "--noheadings", "--output", "TARGET,PROPAGATION"]
        lines = subprocess.run(
            [*self.inside, *argv], capture_output=True, text=True, check=True, timeout=30
        ).stdout.splitlines()
        found = [" ".join(line.split()) for line in lines if line.startswith(f"{self.root}")]
        return sorted({line.replace(f"{self.root}", "root") for line in found})


@pytest.fixture()
def place(tmp_path: Path) -> t.Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.mounts(state="absent", max_disruption="service")
    assert made.table() == []


def test_mount_again_and_remove(place: Place) -> None:
    announced = place.mounts(check=True, config_repository="config.example.org")
    assert place.table() == [] and not place.root.exists()
    done = place.mounts(config_repository="config.example.org")
    assert done["actions"] == announced["actions"]
    assert [step["action"] for step in done["actions"]] == ["share", "mount", "mount"]
    assert done["repositories"] == ["config.example.org", "tools.example.org"]
    assert "gone after a reboot" in done["notes"][0]
    assert place.table() == ["root shared", "root/config.example.org shared", "root/tools.example.org shared"]
    assert (place.root / "tools.example.org/bin/hello").read_text() == "hello\n"
    with pytest.raises(OSError, match="Read-only"):
        (place.root / "config.example.org/new").write_text("")
    assert not place.mounts(config_repository="config.example.org")["changed"]
    with pytest.raises(ModuleFailed, match="Nothing was touched"):
        place.mounts(state="absent", max_disruption="none")


def test_the_info_tells_the_same(place: Place) -> None:
    arguments = {
        "root": str(place.root),
        "repositories": place.repositories,
        "squashfs_driver": "fuse",
        "wait_timeout": 20,
    }
    before = run_module("cvmfs_info", arguments)
    assert not before["root_mounted"] and all(
        "nothing is mounted" in each["problem"] for each in before["repositories"]
    )
    place.mounts()
    after = run_module("cvmfs_info", arguments)
    assert after["root_mounted"] and after["root_shared"]
    assert [each["problem"] for each in after["repositories"]] == ["", ""]


def test_a_repository_that_turns_out_wrong_is_taken_back_with_all_the_rest(place: Place) -> None:
    place.repositories[0]["sentinel"] = "bin/no-such"  # only the mount shows what is in a squashfs
    with pytest.raises(ModuleFailed, match="its sentinel") as failed:
        place.mounts(config_repository="config.example.org")
    assert failed.value.result["changed"] is True and failed.value.result["not_rolled_back"] == []
    assert place.table() == []
    assert not place.root.exists()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"source": "directory", "path": "empty"}, "is empty"),
        ({"source": "directory", "path": "none"}, "there is no folder"),
        ({"source": "squashfs", "path": "config/site"}, "is not a squashfs file"),
        ({"source": "squashfs", "path": "none"}, "cannot be read"),
    ],
)
def test_a_wrong_source_is_refused_before(place: Place, entry: dict[str, str], sentence: str) -> None:
    place.repositories.append({"repository": "x.example.org", **entry, "path": str(place.folder / entry["path"])})
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=sentence):
            place.mounts(check=check)
    assert place.table() == [] and not place.root.exists()
    place.repositories.pop()


def test_what_somebody_else_mounted_is_left_alone(place: Place) -> None:
    place.mounts()
    place.repositories[1]["path"] = str(place.folder / "tools")
    with pytest.raises(ModuleFailed, match="something else is mounted at"):
        place.mounts()
    assert (place.root / "config.example.org/site").exists()


def test_what_is_mounted_below_a_folder_that_is_no_mount_point_is_not_covered(place: Place) -> None:
    """As from /etc/fstab, before this collection came."""
    point = place.root / "config.example.org"
    point.mkdir(parents=True)
    subprocess.run(["mount", "--bind", place.folder / "config", point], check=True, timeout=30)
    try:
        before = place.table()
        for check in (True, False):
            with pytest.raises(ModuleFailed, match="would cover what is mounted below it") as failed:
                place.mounts(check=check)
            assert failed.value.result["changed"] is False and str(point) in failed.value.result["msg"]
        assert place.table() == before and (point / "site").read_text() == "site\n"
        # Where the folder is a mount point, that is taken as it is.
        subprocess.run(["umount", point], check=True, timeout=30)
        subprocess.run(["mount", "--bind", place.root, place.root], check=True, timeout=30)
        subprocess.run(["mount", "--make-rshared", place.root], check=True, timeout=30)
        subprocess.run(["mount", "--bind", place.folder / "config", point], check=True, timeout=30)
        assert [step["action"] for step in place.mounts()["actions"]] == ["mount"]
    finally:
        place.mounts(state="absent", max_disruption="service")


def test_a_file_that_is_mounted_stays_with_who_has_mounted_it(place: Place) -> None:
    place.mounts(squashfs_driver="fuse")
    assert not place.mounts(squashfs_driver="auto")["changed"]  # whatever the kernel knows by now


@pytest.fixture()
def client(place: Place) -> t.Iterator[t.Callable[[], object]]:
    """A mount namespace with a stand-in for the client's mount.cvmfs; the machine's own /usr/sbin is not touched.

    As the client does, it mounts by FUSE and calls the source cvmfs2. What is in the repository is a squashfs.
    """
    upper = place.folder / "upper"
    upper.mkdir()
    helper = place.folder / "mount.cvmfs"
    options = f"fsname=cvmfs2,ro,allow_other {place.folder}/tools.sqfs"
    helper.write_text(f'#!/bin/sh\n[ "$1" = tools.example.org ] && exec squashfuse -o {options} "$2"\n')
    helper.chmod(0o755)
    script = (
        f"mount -t tmpfs none {upper} && mkdir {upper}/new {upper}/work && mount -t overlay none /usr/sbin"
        f" -o lowerdir=/usr/sbin,upperdir={upper}/new,workdir={upper}/work && echo ready && exec sleep 300"
    )
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    place.inside = ["nsenter", "--target", str(holder.pid), "--mount"]
    place.repositories = [{"repository": "tools.example.org", "sentinel": "bin/hello"}]
    try:
        yield lambda: subprocess.run([*place.inside, "cp", str(helper), "/usr/sbin/"], check=True, timeout=30)
        place.mounts(state="absent", max_disruption="service")
        assert place.table() == []
    finally:
        place.inside = []
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_without_the_client_check_mode_refuses_as_the_real_run_does(
    place: Place, client: t.Callable[[], object]
) -> None:
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"there is no program mount\.cvmfs on this host") as failed:
            place.mounts(check=check)
        assert failed.value.result["changed"] is False
    assert not place.root.exists()
    # The role's first look, before it installs the client.
    assert place.mounts(check=True, helpers_awaited=True)["changed"]


def test_the_client_mounts_a_repository(place: Place, client: t.Callable[[], object]) -> None:
    client()
    announced = place.mounts(check=True)
    done = place.mounts()
    assert done["actions"] == announced["actions"] and done["repositories"] == ["tools.example.org"]
    assert place.table() == ["root shared", "root/tools.example.org shared"]
    read = [*place.inside, "cat", f"{place.root}/tools.example.org/bin/hello"]
    assert subprocess.run(read, capture_output=True, text=True, check=True, timeout=30).stdout == "hello\n"
    assert not place.mounts()["changed"]

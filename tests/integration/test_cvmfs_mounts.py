# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that mounts repositories, where systemd is not PID 1, on real mounts below a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.lab.modules import ModuleFailed, run_module

if os.geteuid() != 0:
    pytest.skip("needs root: it mounts", allow_module_level=True)


class Place:
    """Sources for repositories, and a folder to mount them in."""

    def __init__(self, folder: Path) -> None:
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
        return run_module("cvmfs_mounts", arguments, check=check)

    def table(self) -> list[str]:
        """What findmnt sees below the folder, with the propagation."""
        argv = ["findmnt", "--list", "--noheadings", "--output", "TARGET,PROPAGATION"]
        lines = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
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

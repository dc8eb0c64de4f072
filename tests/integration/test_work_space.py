# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work spaces that are files: made, filled, held, removed, and killed at every step. Logical volumes need a device
mapper: tests/fleet/test_work_space_lvm.py."""

from __future__ import annotations

import os
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import work_space, work_space_file
from tests.lab import work_spaces
from tests.lab.work_spaces import Place, said, uuid

#: Each is a function of tests/lab/work_spaces.py.
TRUE_OF_ALL = (
    "it_can_be_made_here", "a_volume_is_as_large_as_was_said", "it_is_root_s_and_has_no_setuid_and_no_devices",
    "several_at_once", "no_more_is_given_away_than_there_is", "one_in_use_is_not_removed",
    "one_that_another_mount_namespace_has_is_not_lost", "what_is_mounted_in_it_is_not_removed",
    "a_kill_between_two_steps_leaves_nothing", "a_kill_while_a_command_is_at_work_leaves_nothing",
    "a_kill_of_a_command_as_well_leaves_nothing",
)  # fmt: skip


@pytest.fixture(params=["ext4", "xfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Place]:
    file_system = str(request.param)
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices and mounts")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    if not shutil.which(f"mkfs.{file_system}"):
        pytest.skip(f"needs mkfs.{file_system}")
    if file_system not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"needs a kernel that has {file_system} at once")
    monkeypatch.setattr(work_space_file, "_SECONDS", 1.0)
    monkeypatch.setattr(work_space_file, "_MOMENT", 0.3)
    made = Place(tmp_path, work_space="file", file_system=file_system)
    before = made.seen()
    yield made
    made.mend()
    work_spaces.same(before, made.seen() - work_spaces.parents(made))


@pytest.mark.parametrize("what", TRUE_OF_ALL)
def test_work_spaces(place: Place, what: str) -> None:
    getattr(work_spaces, what)(place)


def test_a_loop_device_that_the_kernel_does_not_free(place: Place) -> None:
    """Made by hand, or by a mount(8) that was killed."""
    point = place.make(1)
    said("umount", str(point))
    image = f"{os.path.realpath(place.state_folder)}/volumes/{uuid(1)}.img"
    said("losetup", "--find", image)
    assert [loop.freed for loop in work_space_file.read_loops() if loop.file == image] == [False]
    assert place.mend() == 2  # the volume, and the folder it was mounted in


def test_a_file_that_somebody_has_removed(place: Place) -> None:
    place.make(1)
    os.unlink(f"{os.path.realpath(place.state_folder)}/volumes/{uuid(1)}.img")
    place.remove(1)


def test_a_mount_elsewhere_goes_too(place: Place) -> None:
    point = place.make(1)
    other = place.state_folder / "other"
    other.mkdir()
    said("mount", "--bind", str(point), str(other))
    place.remove(1)
    other.rmdir()


def test_a_machine_has_one_work_space(place: Place) -> None:
    (place.make(1) / "precious").write_text("here")
    with pytest.raises(GridboxError, match="has its work space already"):
        place.make(1)
    assert Path(place.folder(1), "mnt/precious").read_text() == "here"


def test_a_volume_that_cannot_be_mounted_is_not_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make(1)
    place.remove(1)
    before = place.seen()
    monkeypatch.setitem(work_space._OPTIONS, place.configuration.file_system, "no_such_option")
    with pytest.raises(GridboxError, match=r"Mounting .* failed\. mount ended with 32"):
        place.make(1)
    work_spaces.same(before, place.seen())

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work spaces that are files: made, filled, held, removed, and killed at every step. Logical volumes need a device
mapper: tests/fleet/test_work_space_lvm.py."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gate.tools import ROOT
from tests.lab.work_spaces import said
from tests.sampled import sampled

#: Each is a function of tests/lab/work_spaces.py.
TRUE_OF_FILES = (
    "it_can_be_made_here", "a_volume_is_as_large_as_was_said", "it_is_root_s_and_has_no_setuid_and_no_devices",
    "several_at_once", "no_more_is_given_away_than_there_is", "one_in_use_is_not_removed",
    "one_that_somebody_only_looks_into_is_removed",
    "one_that_another_mount_namespace_has_is_not_lost", "what_is_mounted_in_it_is_not_removed",
    "a_kill_between_two_steps_leaves_nothing", "a_kill_while_a_command_is_at_work_leaves_nothing",
    "a_kill_of_a_command_as_well_leaves_nothing", "a_loop_device_that_the_kernel_does_not_free_is_freed",
    "a_file_that_somebody_has_removed_is_unmounted", "a_mount_elsewhere_goes_too", "a_machine_has_one_work_space",
    "one_that_cannot_be_mounted_is_not_left",
)  # fmt: skip


@pytest.mark.parametrize(("what", "file_system"), sampled(itertools.product(TRUE_OF_FILES, ["ext4", "xfs"]), every=3))
def test_work_spaces(tmp_path: Path, what: str, file_system: str) -> None:
    """In a mount namespace of its own, for other tests make some, and theirs would hold what is mounted here."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices and mounts")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    if not shutil.which(f"mkfs.{file_system}"):
        pytest.skip(f"needs mkfs.{file_system}")
    if file_system not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"needs a kernel that has {file_system} at once")
    options = json.dumps({"work_space": "file", "file_system": file_system})
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private",
         sys.executable, "-m", "tests.lab.work_spaces", what, str(tmp_path), options],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert f"{tmp_path}/" not in said("losetup", "--list", "--noheadings", "--output", "BACK-FILE")

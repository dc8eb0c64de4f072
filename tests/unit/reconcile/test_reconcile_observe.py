# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which mounts the units on a host promise."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.observe import _promised

UNIT = "# Written by hep.gridbox (cvmfs_mounts).\n[Mount]\nWhere={}\n"


def test_a_unit_that_does_not_come_up_at_boot_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "remote-fs.target.wants").mkdir()
    for repository, name in (
        ("a-b.cern.ch", r"cvmfs-a\x2db.cern.ch.mount"),
        ("gone.cern.ch", "cvmfs-gone.cern.ch.mount"),
    ):
        (tmp_path / name).write_text(UNIT.format(f"/cvmfs/{repository}"))
        (tmp_path / "remote-fs.target.wants" / name).symlink_to(tmp_path / name)
    assert _promised("/cvmfs", str(tmp_path)) == ["/cvmfs/a-b.cern.ch", "/cvmfs/gone.cern.ch"]
    (tmp_path / "remote-fs.target.wants" / "cvmfs-gone.cern.ch.mount").unlink()  # the site has dropped it
    assert _promised("/cvmfs", str(tmp_path)) == ["/cvmfs/a-b.cern.ch"]

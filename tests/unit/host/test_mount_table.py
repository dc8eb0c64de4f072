# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's table of mounts, with whatever names somebody gave a mount point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table

LINE = b"30 23 0:26 / %s rw,relatime shared:5 - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("written", "point"),
    [
        (b"/mnt/caf\xe9", b"/mnt/caf\xe9"),  # Latin-1
        (b"/mnt/a\rb", b"/mnt/a\rb"),
        (b"/mnt/a\x0cb", b"/mnt/a\x0cb"),
        ("/mnt/a\u2028b\x85".encode(), "/mnt/a\u2028b\x85".encode()),
        (b"/mnt/a\\012b\\040c\\134d", b"/mnt/a\nb c\\d"),
    ],
)
def test_a_mount_point_may_have_any_name(tmp_path: Path, written: bytes, point: bytes) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(LINE % b"/first" + LINE % written + LINE % b"/last")
    found = mount_table.read(str(table))
    assert [os.fsencode(mount.point) for mount in found] == [b"/first", point, b"/last"]
    assert mount_table.at(found, os.fsdecode(point)) == found[1]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.host.automounts import served
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount


@pytest.mark.parametrize(
    ("mounts", "serves"),
    [
        ([("/misc", "autofs", "/etc/auto.misc"), ("/", "ext4", "/dev/vda1")], []),
        ([("/cvmfs", "autofs", "/etc/auto.cvmfs")], ["/cvmfs"]),
        ([("/cvmfs", "autofs", "/etc/auto.cvmfs"), ("/cvmfs/alice.cern.ch", "fuse", "cvmfs2")], ["/cvmfs"]),
        (
            [("/home", "autofs", "auto.home"), ("/home/ann", "nfs4", "server:/ann"), ("/homes", "nfs4", "a:/b")],
            ["/home"],
        ),
        ([("/home", "autofs", "auto.home"), ("/homes", "nfs4", "a:/b")], []),
        ([("/data", "autofs", "auto.direct"), ("/data", "nfs4", "server:/data")], ["/data"]),
        ([("/efi", "autofs", "systemd-1"), ("/efi", "vfat", "/dev/vda2")], []),
        ([("/cvmfs", "tmpfs", "gridbox"), ("/cvmfs/alice.cern.ch", "fuse", "cvmfs2")], []),
    ],
)
def test_whom_autofs_serves(mounts: list[tuple[str, str, str]], serves: list[str]) -> None:
    assert served([Mount(point, kind, source, True) for point, kind, source in mounts], "/cvmfs") == serves

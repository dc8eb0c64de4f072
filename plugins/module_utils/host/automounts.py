# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What autofs mounts, and who would lose it. Pure, over the table of mounts."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount


def is_automount(mount: Mount) -> bool:
    """Whether it is a folder of autofs.service's. Those of systemd itself have another source, and units of theirs."""
    return mount.kind == "autofs" and mount.source != "systemd-1"


def served(mounts: t.Sequence[Mount], repositories: str) -> list[str]:
    """Folders in which autofs serves somebody: something is mounted there now.

    :param repositories: a folder in which it always serves somebody: a VO-box may look there at any time.
    """
    # A direct map's mount covers the folder itself.
    return [
        point
        for point, automount in {mount.point: mount for mount in mounts if is_automount(mount)}.items()
        if automount.is_below(repositories) or any(mount.kind != "autofs" and mount.is_below(point) for mount in mounts)
    ]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remove folders in which somebody else has made what he liked: a payload, or an image."""

from __future__ import annotations

import os

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host import command

#: Seconds: some million files.
_SECONDS = 1800


def remove_tree(path: str, one_file_system: bool = True) -> None:
    """Remove a folder with all that is in it; fine if it is gone.

    By ``rm``: ``shutil.rmtree`` of Python 3.12 and older calls itself for each folder that is in another one, and ends
    with a ``RecursionError`` where there are a thousand.

    :param one_file_system: what another file system has in there stays, and so does the folder, with an error. A
        subvolume of btrfs is one too.
    :raises GridboxError: if it is a link, or cannot be removed.
    """
    if os.path.islink(path):
        raise GridboxError(f"{path} is not removed, for it is a symbolic link.")
    option = ["--one-file-system"] if one_file_system else []
    command.run(f"Removing {path}", ["rm", "-rf", *option, "--", path], _SECONDS)

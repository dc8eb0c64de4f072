# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Folders in each other, more of them than Python calls a function in itself."""

from __future__ import annotations

import os
from pathlib import Path


def make(folder: Path) -> None:
    """As many as an image, or a container, may have made in a folder; one by one, for their path is too long."""
    folder.mkdir(parents=True)
    inside = os.open(folder, os.O_RDONLY)
    for _level in range(1_100):
        os.mkdir("d", dir_fd=inside)
        next_one = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = next_one
    os.close(inside)

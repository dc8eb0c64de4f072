# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``make build``: the collection's tarball, into the folder given."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.gate.tools import build

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="gridbox-build-") as scratch:
        print(shutil.copy(build(Path(scratch)), sys.argv[1]))

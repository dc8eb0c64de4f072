# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machine's own Python in a container of the test image, for what busybox cannot do."""

from __future__ import annotations

import typing as t

PYTHON = "/usr/bin/python3"

#: As ``volumes`` of vobox_container. The program's loader is found below /lib and /lib64.
VOLUMES: list[dict[str, t.Any]] = [
    {"source": source, "target": target, "read_only": True}
    for source, target in (("/usr", "/usr"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64"))
]

#: The same for the docker client.
ARGUMENTS = [f"--volume={volume['source']}:{volume['target']}:ro" for volume in VOLUMES]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the daemon's own program whether it would accept a configuration file, before the file is there."""

from __future__ import annotations

import tempfile
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run

#: dockerd has --validate from this version on.
SINCE = (23,)


def check(pid: int, flags: t.Sequence[str], path: str, text: str) -> None:
    """Have the running daemon's program check ``text`` against itself and the daemon's flags.

    It finds unknown keys, wrong types, and keys that are flags too; not every wrong value (26.1 accepts a bad mirror).

    :param path: where the text is to stand; named in the error.
    :raises RefusedError: with the program's own words.
    """
    with tempfile.NamedTemporaryFile(prefix="daemon.", suffix=".json") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        # By its process, so that it is the version that runs, also when another was installed meanwhile.
        argv = [f"/proc/{pid}/exe", "--validate", f"--config-file={file.name}", *without_config_file(flags)]
        try:
            run("Having the daemon's program check its configuration", argv, timeout=30)
        except GridboxError as exc:
            raise RefusedError(
                f"config_file: {path}",
                f"the daemon would refuse it. {str(exc).replace(file.name, path).rstrip('.')}",
                "Nothing was touched; mend that first.",
            ) from exc


def without_config_file(flags: t.Sequence[str]) -> list[str]:
    """A daemon's flags without the one that names its configuration file. Pure."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if skip:
            skip = False
        elif flag == "--config-file":
            skip = True
        elif not flag.startswith("--config-file="):
            kept.append(flag)
    return kept

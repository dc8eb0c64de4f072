# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Pythons of this machine."""

from __future__ import annotations

import functools
import os
import subprocess
import typing as t
from pathlib import Path

#: What code on hosts must run on: from the system Python of EL 9 to the newest that the tools know.
HOST_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")


@functools.cache
def find_interpreter(version: str) -> t.Optional[Path]:
    """A real interpreter of this version: on PATH, or kept by pyenv. None where there is none.

    A shim on PATH is asked whom it stands for; one that stands for nobody is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        *(Path(folder) / f"python{version}" for folder in os.environ["PATH"].split(":")),
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")),
    ]
    for candidate in candidates:
        if not candidate.exists():
            continue
        asked = subprocess.run(
            [candidate, "-c", "import sys, ensurepip, venv; print(sys._base_executable)"],
            check=False, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        if asked.returncode == 0:
            return Path(asked.stdout.strip())
    return None


def folder_of_interpreters(folder: Path) -> Path:
    """Fill ``folder`` with links to the real interpreters, for tools that look for ``pythonX.Y`` on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in HOST_PYTHONS:
        link = folder / f"python{version}"
        link.unlink(missing_ok=True)
        python = find_interpreter(version)
        if python is not None:
            link.symlink_to(python)
    return folder

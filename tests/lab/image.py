# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A test image of two megabytes, made from the machine's own static busybox."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path


def busybox_tar(busybox: Path = Path("/bin/busybox"), page: str = "here I am\n") -> bytes:
    """A root file system: busybox, a link for each of its commands, /etc, /tmp and a web page."""
    if not busybox.exists():
        raise RuntimeError(f"{busybox} is missing: install the Debian package busybox-static")
    commands = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True, timeout=10)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("www", 0o755), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for path, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("www/index.html", page),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        program = tar.gettarinfo(str(busybox), "bin/busybox")
        program.mode = 0o755
        with busybox.open("rb") as source:
            tar.addfile(program, source)
        for command in commands.stdout.split():
            if command != "busybox":
                entry = tarfile.TarInfo(f"bin/{command}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return out.getvalue()

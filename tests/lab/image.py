# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A test image of two megabytes, made from the machine's own static busybox; and one with a su that asks PAM."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import typing as t
from pathlib import Path
from types import MappingProxyType


def busybox_tar(
    busybox: Path = Path("/bin/busybox"), page: str = "here I am\n", texts: t.Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """A root file system: busybox, a link for each of its commands, /etc, /tmp and a web page.

    :param texts: of further files, or of these, by path.
    """
    if not busybox.exists():
        raise RuntimeError(f"{busybox} is missing: install the Debian package busybox-static")
    commands = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True, timeout=10)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("www", 0o755), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        own = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "www/index.html": page}
        for path, text in {**own, **texts}.items():
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


def pam_tar() -> bytes:
    """The same with the machine's own ``su``, PAM, the libraries of both, and the account ``pilot``, number 40000."""
    su = Path("/usr/bin/su")
    modules = next(one for one in _libraries(su) if one.name.startswith("libpam.so")).parent / "security"
    programs = {su, modules / "pam_rootok.so", modules / "pam_permit.so"}
    rules = "auth sufficient pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
    texts = {
        "etc/pam.d/su": rules,
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\npilot:x:40000:40000::/tmp:/bin/sh\n",
        "etc/group": "root:x:0:\npilot:x:40000:\n",
    }
    out = io.BytesIO(busybox_tar(texts=texts))
    with tarfile.open(fileobj=out, mode="a") as tar:
        for path in sorted(programs.union(*map(_libraries, programs))):
            entry = tar.gettarinfo(str(path.resolve()), str(path))
            with path.open("rb") as source:
                tar.addfile(entry, source)
    return out.getvalue()


def _libraries(program: Path) -> set[Path]:
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True, timeout=10).stdout
    return {Path(one) for one in re.findall(r"(/\S+) \(0x", listed)}

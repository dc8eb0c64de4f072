# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs of a newer Debian than this machine's: they are kept in a cache, and none is installed on it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.lab.hosts import made_once, mirror, run


def engine_packages() -> Path:
    """The newest engine that Debian has, 28.5 or later: the folder with its packages. Fetched on first use: 56 MB.

    For a host of the lab that has an engine already, whose Debian may be as old as trixie: runc wants its C library.
    """
    packages = ("docker.io", "containerd", "runc", "tini-static")
    return made_once("newest-engine", "sid", lambda folder: _download(folder, "sid", packages))


def emulator() -> Path:
    """QEMU 10: the folder with ``usr/bin/qemu-system-x86_64``. Fetched on first use: 20 MB.

    QEMU 7.2, which is this Debian's own, lets the guest's kernel double-fault in three boots of five (cmpxchg16b). Its
    libraries are needed all the same.
    """
    packages = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
    return made_once("emulator", "bookworm-backports", lambda folder: _unpack(folder, "bookworm-backports", packages))


def _unpack(folder: Path, suite: str, packages: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="gridbox-deb-") as name:
        _download(Path(name) / "packages", suite, packages)
        folder.mkdir()
        for package in sorted(Path(name).glob("packages/*.deb")):
            run("dpkg", "-x", str(package), str(folder))


def _download(folder: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Fetch packages, without what they depend on, into a folder that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="gridbox-apt-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        for part in ("lists/partial", "archives/partial", "sources"):
            (scratch / part).mkdir(parents=True)
        folder.mkdir()
        (scratch / "sources/main.list").write_text(f"deb {mirror()} {suite} main\n")
        apt = ["apt-get", "-qq"]
        for option, value in (
            ("Dir::Etc::sourcelist", "/dev/null"), ("Dir::Etc::sourceparts", f"{scratch}/sources"),
            ("Dir::State::lists", f"{scratch}/lists"), ("Dir::Cache::archives", f"{scratch}/archives"),
            ("Dir::Cache::pkgcache", ""), ("Dir::Cache::srcpkgcache", ""), ("APT::Sandbox::User", "root"),
        ):  # fmt: skip
            apt += ["-o", f"{option}={value}"]
        run(*apt, "update", timeout=300)
        wanted = [f"{package}/{suite}" for package in packages]
        subprocess.run([*apt, "download", *wanted], cwd=folder, check=True, timeout=600, stdout=subprocess.DEVNULL)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who holds a file system that cannot be unmounted, or the device below it: processes, by /proc (proc(5)).

No file is looked at, only the kernel's own words about it: a look at an open file of some other file system, one that
does not answer any more, would not return.
"""

from __future__ import annotations

import contextlib
import os
import re

from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table

_MOST = 5


def holders(device: str, proc: str = "/proc") -> list[str]:
    """Who holds the file system of a device, one sentence each, without the full stop. Empty: no process is seen to.

    :param device: ``MAJOR:MINOR``.
    """
    found = []
    # While it is mounted here, all namespaces that get their mounts from ours have it as well, as many a service of
    # systemd's does; they lose it when we do.
    here = any(mount.device == device for mount in mount_table.read(f"{proc}/self/mountinfo"))
    for name in sorted(filter(str.isdigit, os.listdir(proc)), key=int):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is a kernel thread, which has no such files
            how = _how(f"{proc}/{name}", device, here)
            if how:
                found.append(f"process {name} ({_read(f'{proc}/{name}/comm').strip()}) {how}")
    return found


def told(device: str) -> str:
    """The same as an operator reads it: the first of them, and how many more."""
    found = holders(device)
    if not found:
        return "no process is seen to hold it; a mount below it, a swap file or a loop device of a file in it may"
    more = [f"{len(found) - _MOST} more"] if len(found) > _MOST else []
    return ", ".join(found[:_MOST] + more)


def _how(folder: str, device: str, here: bool) -> str:
    """In which way one process holds it; empty: it does not.

    :param here: whether it is mounted in our own mount namespace.
    """
    mounts = [mount for mount in mount_table.read(f"{folder}/mountinfo") if mount.device == device]
    if not mounts:
        return ""
    numbers = {str(mount.number) for mount in mounts}
    for name in os.listdir(f"{folder}/fdinfo"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            known = re.search(r"^mnt_id:\s*(\d+)$", _read(f"{folder}/fdinfo/{name}"), re.MULTILINE)
            if known and known.group(1) in numbers:
                return "has a file open in it"
    for link, how in (("cwd", "works in it"), ("root", "has its root in it")):
        where = os.readlink(f"{folder}/{link}")
        if any(f"{where}/".startswith(f"{mount.point.rstrip('/')}/") for mount in mounts if mount.point != "/"):
            return how
    if _in_hexadecimal(device) in {line.split(None, 4)[3] for line in _read(f"{folder}/maps").splitlines()}:
        return "runs a program of it, or has a file of it in memory"
    return "" if here else f"has it at {mounts[0].point} in a mount namespace of its own"


def _in_hexadecimal(device: str) -> str:
    """As /proc/PID/maps has it."""
    major, minor = map(int, device.split(":"))
    return f"{major:02x}:{minor:02x}"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()

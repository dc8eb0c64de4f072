# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount whose FUSE server takes requests and does not answer, as CernVM-FS does when it hangs.

Run as a program, it mounts it at a folder, and serves it for as long as the program lives::

    python3 tests/lab/hung_mount.py FOLDER
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import typing as t
from pathlib import Path

FUSE_INIT = 26
HEADER = struct.Struct("<IIQQIIII")


def mount_hung(point: Path) -> int:
    """Mount it; the descriptor is for :func:`serve_nothing`."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0"
    if libc.mount(b"hung", os.fsencode(point), b"fuse.hung", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    return device


def serve_nothing(device: int) -> None:
    """Answer the kernel's greeting, and nothing that comes after; fuse(4)."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # unmounted
            return
        _length, operation, unique, *_rest = HEADER.unpack(request[: HEADER.size])
        if operation == FUSE_INIT:
            body = struct.pack("<IIII", 7, 31, 0, 0).ljust(64, b"\0")
            os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


@contextlib.contextmanager
def hung_at(point: Path | str, *enter: str) -> t.Iterator[int]:
    """One that a process of its own serves; the process.

    When that is killed, the kernel lets go of who waits.

    :param enter: a command before it: it enters a mount namespace.
    """
    argv = [*enter, sys.executable, __file__, str(point)]
    holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait(30)
        holder.stdout.close()


if __name__ == "__main__":
    opened = mount_hung(Path(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    serve_nothing(opened)

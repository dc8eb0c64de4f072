# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount whose FUSE server takes requests and does not answer, as CernVM-FS does when it hangs.

Run as a program, it is a mount namespace with that mount at ``/cvmfs/NAME``, which lives as long as the program::

    unshare --mount --propagation slave python3 -m tests.lab.hung_mount NAME
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
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


if __name__ == "__main__":
    # The folder itself is the caller's: where there is no /cvmfs, there is nothing to mount over.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/cvmfs"], check=True, timeout=30)
    where = Path("/cvmfs") / sys.argv[1]
    where.mkdir()
    opened = mount_hung(where)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    serve_nothing(opened)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ssh's way to a host of the lab: connects to its sshd and hands the socket over.

``ssh -o ProxyCommand="python tests/lab/way_in.py %h" -o ProxyUseFdpass=yes HOST``: a machine's sshd is reached in its
network namespace, a virtual machine's on its port of the loopback. Neither way depends on the LAN that a test breaks.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hep.gridbox"
#: <linux/sched.h>
CLONE_NEWNET = 0x40000000


def connect(name: str) -> socket.socket:
    """A connection to the sshd of a host."""
    port = 22
    if (CACHE / "vms" / name).exists():
        port = int((CACHE / "vms" / name / "port").read_text())
    else:
        _enter(f"/run/netns/{name}")
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def _enter(path: str) -> None:
    import ctypes  # os.setns came with Python 3.12

    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {path}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Entry point."""
    try:
        connection = connect(sys.argv[1])
    except OSError as exc:
        sys.exit(f"No way in to {sys.argv[1]}: {exc}")
    connection.setblocking(True)
    with socket.socket(fileno=os.dup(1)) as ssh:
        socket.send_fds(ssh, [b"\0"], [connection.fileno()])


if __name__ == "__main__":
    main()

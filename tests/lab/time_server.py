# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A time server for a machine without a way out: answers NTP requests (RFC 5905) with this host's own clock.

Command line: ``python time_server.py PORT``; it listens on 127.0.0.1.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

#: Seconds between the epochs of NTP (1900) and Unix (1970).
EPOCH = 2208988800


def stamp(seconds: float) -> tuple[int, int]:
    """An NTP time stamp: seconds and 2^-32 parts of one."""
    whole = int(seconds)
    return whole + EPOCH, int((seconds - whole) * 2**32)


def answer(request: bytes, received: float) -> bytes:
    """The answer to one client request, as a server of stratum 2."""
    version = request[0] & 0x38
    head = struct.pack("!BBbbII4s", version | 4, 2, request[2], -20, 0, 0, b"LOCL")
    times = struct.pack("!II", *stamp(received - 1)) + request[40:48] + struct.pack("!II", *stamp(received))
    return head + times + struct.pack("!II", *stamp(time.time()))


def main() -> None:
    """Serve until the end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", int(sys.argv[1])))
        while True:
            request, client = server.recvfrom(1024)
            if len(request) >= 48:
                server.sendto(answer(request, time.time()), client)


if __name__ == "__main__":
    main()

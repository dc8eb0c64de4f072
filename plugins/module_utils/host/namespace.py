# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Enter a network namespace with the calling thread. Sockets that it opens there stay there."""

from __future__ import annotations

import ctypes
import os

# <linux/sched.h>
_CLONE_NEWNET = 0x40000000


def enter_network(path: str) -> None:
    """Move this thread into the network namespace at a path such as ``/proc/PID/ns/net``.

    Threads that it starts afterwards are in it too.

    :raises OSError: if there is no such namespace, or it may not be entered.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_network_of(descriptor)
    finally:
        os.close(descriptor)


def enter_network_of(descriptor: int) -> None:
    """The same for an open namespace."""
    # os.setns() is there from Python 3.12 on only.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Go into a named network namespace with the calling thread; threads it starts afterwards are in it too."""

from __future__ import annotations

import ctypes
import os

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.lab import netns

#: From linux/sched.h.
CLONE_NEWNET = 0x40000000


def enter(name: str) -> None:
    """Enter a namespace, for the rest of this process.

    :raises RefusedError: if there is none of that name, or this process may not enter it.
    """
    if not netns.exists(name):
        there = ", ".join(netns.names()) or "none"
        raise RefusedError(f"netns: {name}", f"there is no such network namespace (there: {there})", "Make it first.")
    descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        # os.setns() is there from Python 3.12 on only.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise RefusedError(
                f"netns: {name}", os.strerror(ctypes.get_errno()), "Entering it needs root; use become: true."
            )
    finally:
        os.close(descriptor)

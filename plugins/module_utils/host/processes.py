# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes of the host, by their numbers."""

from __future__ import annotations

import os
import signal
import typing as t


def kill(pid: int, meant: t.Callable[[int], bool], number: signal.Signals = signal.SIGKILL) -> bool:
    """Signal a process if it is the one that is meant: once it has ended, its number is soon another's.

    :returns: whether it was there, and meant.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not meant(pid):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True

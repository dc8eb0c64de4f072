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


def status(pid: int) -> t.Optional[dict[str, str]]:
    """What the kernel tells of a process, by the names of proc(5); None if there is none."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_ours(pid: int) -> bool:
    """Whether a process is all of our account or root's, and in our namespace of process numbers.

    A process that is known by its words has to be: whoever runs in a container, or has another account of the host,
    calls his processes what he likes.
    """
    about = status(pid)
    if about is None:
        return False
    # One in a namespace below ours has a number in each of them (proc(5)).
    return {int(one) for one in about["Uid"].split()} <= {0, os.getuid()} and len(about["NSpid"].split()) == 1

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read what root of a container can replace: by a link to a file of the host's, a pipe without end, a device."""

from __future__ import annotations

import contextlib
import os
import stat
import typing as t


@contextlib.contextmanager
def plain_file(path: str) -> t.Iterator[t.Optional[t.BinaryIO]]:
    """A plain file, to be read; None if it is not there, or anything else.

    The folders on the way to it have to be the host's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            yield None
            return
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            yield t.cast("t.BinaryIO", file)
    finally:
        os.close(descriptor)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal in a file, for a daemon that no service manager listens to. The file does not grow without end."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading

#: Bytes after which a file becomes ``FILE.1``, in the place of the one before; so there are twice as many at most.
LARGEST = 10 << 20


class LogFile(io.TextIOBase):
    """Writes lines to a file, and turns over to a new one when it is full.

    :param path: of the file. Standard output and standard error of the process go there as well.
    :param largest: bytes.
    """

    def __init__(self, path: str, largest: int = LARGEST) -> None:
        self._path, self._largest = path, largest
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.close(descriptor)

    def write(self, text: str) -> int:
        """Write a text, which is whole lines."""
        with self._lock:
            if os.fstat(1).st_size >= self._largest:
                with contextlib.suppress(FileNotFoundError):  # the last try had no room for a new one
                    os.replace(self._path, f"{self._path}.1")
                self._open()
            os.write(1, text.encode())
        return len(text)


def keep(path: str) -> None:
    """From now on this process's output goes to a file."""
    sys.stdout = LogFile(path)

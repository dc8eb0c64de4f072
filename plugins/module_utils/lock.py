# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One change of a thing at a time on a host.

A run that was killed leaves its guard at work on the undo (:mod:`.journal`); a run that began meanwhile would plan on a
state that is about to change under it. So a run holds a lock from before it looks until its work is done, and its
guard, which is forked with the lock, until the undo has ended. The kernel drops it when the last of both is gone:
flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import tempfile
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError

#: Seconds to wait for another run: longer than a swap with its health checks takes.
SECONDS = 300.0


def folder() -> str:
    """Where locks lie: /run, that only root can write to and a boot empties; for others the temporary folder."""
    return "/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()


class Lock:
    """The lock on a thing, for a ``with`` block.

    :param thing: what is changed, in words that name it and nothing else on the host.
    :param seconds: how long to wait for another run.
    :raises WaitError: on entry, naming the process or the user that has it.
    :raises GridboxError: on entry, if there is no room for it, or something else in its place.
    """

    def __init__(self, thing: str, seconds: float = SECONDS) -> None:
        self._thing = thing
        self._seconds = seconds
        self._path = f"{folder()}/hep.gridbox-{hashlib.sha256(thing.encode()).hexdigest()[:16]}.lock"
        self._file: t.Optional[int] = None

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self._seconds
        while not self._take():
            if time.monotonic() > deadline:
                raise WaitError(
                    f"another run, or the undo of one that was killed, to leave {self._thing} alone",
                    self._seconds,
                    self._holder(),
                )
            time.sleep(0.05)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def is_held(self) -> bool:
        """Whether another has it. To try it would keep out for a moment who wants it, and might not wait.

        :raises GridboxError: if nobody can tell.
        """
        try:
            about = os.stat(self._path)
        except FileNotFoundError:
            return False
        try:
            with open("/proc/locks", encoding="ascii") as file:
                held = {line.split()[-3] for line in file}
        except OSError as exc:
            raise GridboxError(f"Who has the lock {self._path} cannot be read ({exc.strerror}).") from exc
        return f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}" in held

    def holder(self) -> t.Optional[int]:
        """The process that has it, by what it has written there; None: nobody can tell."""
        try:
            with open(self._path, encoding="utf-8") as file:
                return int(file.read().removeprefix("process "))
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Let go of it, for every process that shares it; fine if that has been done."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):  # somebody has cleared the folder; the lock holds all the same
                os.unlink(self._path)
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    def _take(self) -> bool:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if isinstance(exc, PermissionError) and os.access(os.path.dirname(self._path), os.W_OK):
                return False  # another user's
            raise GridboxError(f"The lock {self._path} cannot be made ({exc.strerror}).") from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder has removed it; a lock on what has no name any more keeps nobody out.
            if os.fstat(file).st_nlink == 0:
                os.close(file)
                return False
        except BlockingIOError:
            os.close(file)
            return False
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()}\n".encode())
        self._file = file
        return True

    def _holder(self) -> str:
        try:
            with open(self._path, encoding="utf-8") as file:
                return f"{file.read().strip() or 'somebody'} has {self._path}"
        except FileNotFoundError:
            return f"nobody now has {self._path}"
        except PermissionError:
            return f"{self._owner()} has {self._path}, to be removed if no run of that user's is at work"

    def _owner(self) -> str:
        try:
            number = os.lstat(self._path).st_uid
        except FileNotFoundError:
            return "nobody now"
        try:
            return f"the user {pwd.getpwuid(number).pw_name}"
        except KeyError:
            return f"the user {number}"

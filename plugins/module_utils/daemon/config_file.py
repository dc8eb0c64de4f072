# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon's configuration file: read it, ask whether it can be replaced, replace it.

A reader sees the old file or the new one, never a part: the new text is written beside it, made durable, and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError

#: More than any daemon.json; a file beyond it is something else.
MOST_BYTES = 1 << 20

# ioctl FS_IOC_GETFLAGS and the flags of linux/fs.h that forbid a rename, root or not (chattr +i, +a).
_GET_FLAGS = 0x80086601
_FROZEN = {0x10: "immutable (chattr +i)", 0x20: "append-only (chattr +a)"}


@dataclass(frozen=True)
class ConfigFile:
    """The file as it was read.

    :ivar path: with symbolic links followed; this is what gets replaced, so links stay.
    :ivar text: None if there is no file.
    """

    path: str
    text: t.Optional[str]


def read(path: str) -> ConfigFile:
    """Read the file.

    :raises GridboxError: if it is there but cannot be read, or is not a text file in UTF-8.
    """
    real = os.path.realpath(path)
    try:
        # O_NONBLOCK: a FIFO by that name must not hold the module up.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ConfigFile(real, None)
    except OSError as exc:
        raise GridboxError(f"config_file: {path} cannot be read ({exc.strerror}).") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise GridboxError(f"config_file: {path} is not a regular file. Name the daemon's configuration file.")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise GridboxError(
            f"config_file: {path} is larger than {MOST_BYTES} bytes, so it is no daemon.json. Check the path."
        )
    try:
        return ConfigFile(real, data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - (data.rfind(b"\n", 0, exc.start) + 1) + 1
        raise GridboxError(
            f"config_file: {path}, line {line}, column {column}: not UTF-8. The file was left alone; repair it first."
        ) from exc


def check_replaceable(path: str, size: int) -> None:
    """Find out, changing nothing, what would keep :func:`replace` from working.

    :param size: bytes that the new file will have.
    :raises RefusedError: naming what is in the way.
    """
    wanted = f"replacing {path}"
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        if os.path.exists(folder) or not os.path.isdir(parent):
            raise RefusedError(wanted, f"there is no folder {folder}", "Make it, or correct config_file.")
        folder = parent  # replace() makes the one that is missing
    try:
        _probe(folder, size)
    except OSError as exc:
        raise RefusedError(wanted, f"{folder}: {_words(exc)}", "Nothing was touched.") from exc
    if _is_mount_point(path):
        raise RefusedError(wanted, "the file itself is a mount point, so no other can take its place", "Unmount it.")
    for frozen in (path, folder):
        reason = _frozen(frozen)
        if reason:
            raise RefusedError(wanted, f"{frozen} is {reason}", "Take the attribute off with chattr.")


def temporary_for(path: str) -> str:
    """Where this process writes the file that is to take the place of ``path``."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}")


def replace(path: str, text: str) -> None:
    """Put ``text`` in the file's place; mode, owner and extended attributes (labels, access lists) stay.

    A missing file is made with mode 0644 for root, a missing last folder with mode 0755. A process that is killed in
    here leaves its :func:`leftovers`.

    :raises GridboxError: if that fails; the file is as it was.
    """
    folder = os.path.dirname(path)
    temporary = temporary_for(path)
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o755)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _take_over_attributes(path, descriptor)
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as exc:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise GridboxError(f"{path} cannot be replaced: {_words(exc)}. It is as it was.") from exc
    _sync_folder(folder)


def remove(path: str) -> None:
    """Take the file away if it is there.

    :raises GridboxError: if that fails.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise GridboxError(f"{path} cannot be removed: {_words(exc)}.") from exc
    _sync_folder(os.path.dirname(path))


def leftovers(path: str) -> list[str]:
    """What :func:`replace` may leave behind if this process is killed in it: a file, and a folder it has to make."""
    folder = os.path.dirname(path)
    return [temporary_for(path)] + ([] if os.path.isdir(folder) else [folder])


def clear(paths: t.Sequence[str]) -> None:
    """Take away those of the ``paths`` that are there: files, and folders that are empty."""
    for path in paths:
        try:
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise


def _probe(folder: str, size: int) -> None:
    """Make a nameless file of ``size`` in ``folder`` and let it go; where the file system can't, ask for numbers."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS, "") from exc
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < size:
            raise OSError(errno.ENOSPC, "") from exc
        return
    try:
        written = b" " * size
        while written:
            written = written[os.write(descriptor, written) :]
    finally:
        os.close(descriptor)


def _is_mount_point(path: str) -> bool:
    """Whether something is mounted on the file; ``os.path.ismount`` does not see a bind mount of the same device."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = {line.split(" ", 5)[4] for line in file}
    # proc(5): white space and backslashes are written in octal.
    escapes = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}
    return "".join(escapes.get(letter, letter) for letter in path) in points


def _frozen(path: str) -> str:
    """Why the inode cannot be renamed over, in words; empty if it can, or if the file system knows no such flags."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET_FLAGS, b"\0" * 8)[:4], "little")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return next((words for flag, words in _FROZEN.items() if flags & flag), "")


def _take_over_attributes(path: str, descriptor: int) -> None:
    try:
        old = os.stat(path)
    except FileNotFoundError:
        os.fchmod(descriptor, 0o644)
        return
    os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    for name in os.listxattr(path):
        os.setxattr(descriptor, name, os.getxattr(path, name))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(exc: OSError) -> str:
    return os.strerror(exc.errno).lower() if exc.errno else str(exc)

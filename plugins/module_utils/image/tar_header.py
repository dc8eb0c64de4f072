# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Entries of a layer, and their headers in a tar stream.

Written by hand, not by ``tarfile``: names and links are bytes here (they need not be UTF-8), times are integers of
nanoseconds, and one header costs microseconds, not tens of them.

The format is POSIX.1-2001 (pax) over ustar. Extended attributes stand in ``SCHILY.xattr.`` records, the only ones that
the engines read.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError

BLOCK = 512
REGULAR, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
#: The path of the root folder's entry.
ROOT = b"./"
_NANO = 1_000_000_000


class Entry(t.NamedTuple):
    """One file, folder, link or node.

    :ivar path: relative to the root; a folder's ends with a slash, the root's is ``./``.
    :ivar kind: the ustar type flag.
    :ivar mtime: nanoseconds since the epoch.
    :ivar size: bytes of data that follow the header; 0 for all but regular files.
    :ivar link: the target of a symbolic link, or the path of the entry that a hard link is another name of.
    :ivar device: major and minor number of a device node.
    :ivar xattrs: extended attributes, sorted by name.
    :ivar sparse: whether the file has holes.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    sparse: bool = False


def header(entry: Entry) -> bytes:
    """The blocks that introduce an entry: its ustar header, with a pax header before it where ustar has no room.

    :raises GridboxError: for an attribute that no tar can hold.
    """
    # A record is only written if ustar cannot hold the value: two blocks less for most files of most images.
    records = []
    path, link = entry.path, entry.link
    if len(path) > 100:
        records.append(_record(b"path", path))
        path = path[:100]
    if len(link) > 100:
        records.append(_record(b"linkpath", link))
        link = link[:100]
    seconds, fraction = divmod(entry.mtime, _NANO)
    if fraction or not 0 <= seconds < 1 << 33:
        records.append(_record(b"mtime", _decimal(entry.mtime)))
        seconds = min(max(seconds, 0), (1 << 33) - 1)
    uid, gid, size = entry.uid, entry.gid, entry.size
    if uid >= 1 << 21:
        records.append(_record(b"uid", b"%d" % uid))
        uid = 0
    if gid >= 1 << 21:
        records.append(_record(b"gid", b"%d" % gid))
        gid = 0
    if size >= 1 << 33:
        records.append(_record(b"size", b"%d" % size))
        size = 0
    for name, value in entry.xattrs:
        if b"=" in name:
            raise GridboxError(
                f"{os.fsdecode(entry.path)!r} has the extended attribute {os.fsdecode(name)!r}. No image format can"
                " hold one with = in its name. Remove it from the image, then flatten again."
            )
        records.append(_record(b"SCHILY.xattr." + name, value))
    ustar = _ustar(path, entry.mode, uid, gid, size, seconds, entry.kind, link, entry.device)
    if not records:
        return ustar
    body = b"".join(records)
    return b"".join(
        (
            _ustar(b"PaxHeaders/entry", 0o644, 0, 0, len(body), 0, b"x", b"", (0, 0)),
            body,
            bytes(-len(body) % BLOCK),
            ustar,
        )
    )


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record ``LENGTH key=value``, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    """Seconds with nine decimals, exactly, before the epoch too."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), _NANO)
    return b"%s%d.%09d" % (sign, seconds, fraction) if fraction else b"%s%d" % (sign, seconds)


def _ustar(
    path: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, device: tuple[int, int]
) -> bytes:
    before = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (path.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    after = b"%s%sustar\00000%s%07o\0%07o\0" % (kind, link.ljust(100, b"\0"), bytes(64), device[0], device[1])
    # The checksum counts its own field as eight spaces.
    checksum = sum(before) + 8 * 0x20 + sum(after)
    return b"%s%06o\0 %s%s" % (before, checksum, after, bytes(167))

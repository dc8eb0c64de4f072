# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One layer as a stream of bytes: what is sent to the engine, counted and digested on the way.

The engine calls the SHA-256 of the uncompressed stream the layer's *diff id*. So the digest taken here, compared with
the one the engine reports, proves that each byte arrived.
"""

from __future__ import annotations

import hashlib
import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.image.tar_header import BLOCK, ROOT, Entry, header

#: Bytes handed over at a time: all the memory the stream needs, whatever the size of the image.
CHUNK = 1 << 18


class Files(t.Protocol):
    """Where the files come from: the merged tree, or an archive."""

    def entries(self) -> t.Iterator[Entry]:
        """All entries in the order of the stream: a folder before what is in it, a file before its hard links."""

    def open(self, entry: Entry) -> tuple[int, int]:
        """A descriptor to read a regular file's data from, and the position where they begin."""

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""


class LayerStream:
    """The tar stream of a layer. Iterate over it once; then the counts and digests are true.

    The chunks are views of one buffer: each is valid until the next is asked for.

    :ivar bytes: length of the stream so far.
    :ivar entries: entries so far.
    :ivar root: the entry of the root folder, if there is one.
    """

    def __init__(self, files: Files, before_end: t.Callable[[], None]) -> None:
        """:param before_end: called when all but the end of the stream has been handed over."""
        self._files = files
        self._before_end = before_end
        self._all = hashlib.sha256()
        self._headers = hashlib.sha256()
        self.bytes = 0
        self.entries = 0
        self.root: t.Optional[Entry] = None

    @property
    def diff_id(self) -> str:
        """What the engine must call the layer."""
        return f"sha256:{self._all.hexdigest()}"

    @property
    def header_digest(self) -> str:
        """Digest of all headers but the root's: names, kinds, owners, modes, times, sizes, links, attributes."""
        return self._headers.hexdigest()

    def __iter__(self) -> t.Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))
        used = 0
        for entry in self._files.entries():
            self.entries += 1
            head = header(entry)
            self._headers.update(_compared(entry, head))
            self.root = entry if entry.path == ROOT else self.root
            start = 0
            while start < len(head):
                if used == CHUNK:
                    yield self._counted(buffer)
                    used = 0
                part = head[start : start + CHUNK - used]
                buffer[used : used + len(part)] = part
                used += len(part)
                start += len(part)
            if not entry.size:
                continue
            descriptor, position = self._files.open(entry)
            try:
                left = entry.size
                while left:
                    if used == CHUNK:
                        yield self._counted(buffer)
                        used = 0
                    count = os.preadv(descriptor, [buffer[used : used + left]], position)
                    if not count:
                        raise GridboxError(
                            f"{os.fsdecode(entry.path)!r} of the source image ended {left} bytes early. Something"
                            " changes the engine's files, or its disk is damaged."
                        )
                    used += count
                    position += count
                    left -= count
            finally:
                self._files.close(descriptor)
            # Chunks are whole blocks, so the padding never crosses the end of one.
            padding = -entry.size % BLOCK
            buffer[used : used + padding] = bytes(padding)
            used += padding
        if used:
            yield self._counted(buffer[:used])
        self._before_end()
        yield self._counted(memoryview(bytes(2 * BLOCK)))

    def _counted(self, chunk: memoryview) -> memoryview:
        self._all.update(chunk)
        self.bytes += len(chunk)
        return chunk


def header_digest(files: Files) -> str:
    """The :attr:`LayerStream.header_digest` that a tree would have, without reading its data."""
    digest = hashlib.sha256()
    for entry in files.entries():
        digest.update(_compared(entry, header(entry)))
    return digest.hexdigest()


def _compared(entry: Entry, head: bytes) -> bytes:
    """An entry's header as it is compared after the engine has unpacked it.

    The root is left out: engine 20.10 touches it after it has set its time, Podman 4.3 gives it a mode of its own, and
    in a container it is a folder of the container's. Times before 1970 are the epoch for the engines' unpackers.
    """
    if entry.path == ROOT:
        return b""
    return header(entry._replace(mtime=0)) if entry.mtime < 0 else head


def total_size(files: Files) -> int:
    """How many bytes a tree will take on disk, about: data in whole pages, and one page for each other entry."""
    return sum(max(4096, -(-entry.size // 4096) * 4096) for entry in files.entries())

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The merged tree of an image, made from the archive that the engine gives (``docker save``).

For every image store, and for engines elsewhere. The archive lies in a temporary file without a name, which ends with
the process; only its headers are read into memory.

The rules of merging are those of the OCI image specification (image layers: whiteouts), as the engines' own unpackers
apply them.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.image.tar_header import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FOLDER,
    HARD_LINK,
    REGULAR,
    ROOT,
    SYMLINK,
    Entry,
)

_KINDS = {
    tarfile.REGTYPE: REGULAR,
    tarfile.AREGTYPE: REGULAR,
    tarfile.CONTTYPE: REGULAR,
    tarfile.SYMTYPE: SYMLINK,
    tarfile.CHRTYPE: CHAR_DEVICE,
    tarfile.BLKTYPE: BLOCK_DEVICE,
    tarfile.DIRTYPE: FOLDER,
    tarfile.FIFOTYPE: FIFO,
}
_XATTR = "SCHILY.xattr."
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_CHUNK = 1 << 20


@dataclass(eq=False)
class Node:
    """A file system object. Two names of one file (hard links) are the same node.

    :ivar file: the archive's file that holds its data, and where in it they begin.
    :ivar layer: the number of the layer it was last stated in.
    """

    kind: bytes
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    file: int = -1
    position: int = 0
    layer: int = -1
    children: dict[bytes, Node] = field(default_factory=dict)


class LayerMerger:
    """Applies layers, the lowest first, to a tree that is empty at first."""

    def __init__(self) -> None:
        self.root = Node(FOLDER)  # in no layer yet
        self._layer = -1

    def apply(self, layer: t.IO[bytes], file: int, start: int) -> None:
        """Apply one layer, an uncompressed tar that can be read at any position.

        :param file: the descriptor of the file that the layer is in.
        :param start: where in that file it begins.
        """
        self._layer += 1
        with tarfile.open(fileobj=layer, mode="r:", errors="surrogateescape") as tar:
            for member in tar:
                self._apply(member, file, start)

    def _apply(self, member: tarfile.TarInfo, file: int, start: int) -> None:
        parts = _parts(os.fsencode(member.name))
        if not parts:
            if member.isdir():
                self._state(self.root, member, file, start)
            return
        parent = self._folder(parts[:-1])
        name = parts[-1]
        if name == _OPAQUE:
            self._drop_lower(parent)
        elif name.startswith(_WHITEOUT + _WHITEOUT):
            return  # notes of the aufs store
        elif name.startswith(_WHITEOUT):
            parent.children.pop(name[len(_WHITEOUT) :], None)
        elif member.islnk():
            parent.children[name] = self._find(os.fsencode(member.linkname), member)
        else:
            kind = _KINDS.get(member.type)
            if kind is None or member.issparse():
                raise GridboxError(
                    f"{member.name!r} in layer {self._layer + 1} has the tar type {member.type!r}, which cannot be"
                    " merged. Use method: tree on the engine's host."
                )
            there = parent.children.get(name)
            if there is None or there.kind is not FOLDER or kind is not FOLDER:
                # Never into the old node: other names may still be names of it.
                there = parent.children[name] = Node(kind)
            self._state(there, member, file, start)

    def _folder(self, parts: t.Sequence[bytes]) -> Node:
        node = self.root
        for part in parts:
            child = node.children.get(part)
            if child is None or child.kind is not FOLDER:
                child = node.children[part] = Node(FOLDER, layer=self._layer)
            node = child
        return node

    def _find(self, path: bytes, link: tarfile.TarInfo) -> Node:
        node: t.Optional[Node] = self.root
        for part in _parts(path):
            node = node.children.get(part) if node is not None else None
        if node is None or node.kind is FOLDER:
            raise GridboxError(
                f"{link.name!r} in layer {self._layer + 1} is a hard link to {link.linkname!r}, which is not there."
                " The image is damaged; build it again."
            )
        return node

    def _drop_lower(self, folder: Node) -> None:
        """An opaque folder: what lower layers put there is gone, what this layer put there stays."""
        for name, child in list(folder.children.items()):
            if child.layer < self._layer:
                del folder.children[name]
            elif child.kind is FOLDER:
                self._drop_lower(child)

    def _state(self, node: Node, member: tarfile.TarInfo, file: int, start: int) -> None:
        # Linux gives every symbolic link this mode, whatever its tar says.
        node.mode = 0o777 if node.kind is SYMLINK else member.mode & 0o7777
        node.uid, node.gid = member.uid, member.gid
        node.mtime = _nanoseconds(member.pax_headers.get("mtime"), member.mtime)
        node.size = member.size if node.kind is REGULAR else 0
        node.link = os.fsencode(member.linkname) if node.kind is SYMLINK else b""
        if node.kind in (CHAR_DEVICE, BLOCK_DEVICE):
            node.device = (member.devmajor, member.devminor)
        # Attribute values are bytes; tarfile hands them over as text, with a stand-in for what is not UTF-8.
        node.xattrs = tuple(
            (os.fsencode(key[len(_XATTR) :]), value.encode("utf-8", "surrogateescape"))
            for key, value in sorted(member.pax_headers.items())
            if key.startswith(_XATTR)
        )
        node.file, node.position, node.layer = file, start + member.offset_data, self._layer

    def entries(self) -> t.Iterator[tuple[Entry, Node]]:
        """The merged tree, in the order of :meth:`.merged_tree.MergedTree.entries`."""
        names: dict[int, bytes] = {}
        if self.root.layer >= 0:
            # Otherwise no layer says what the root is like, and the engine decides, as it does for the source.
            yield _entry(ROOT, self.root), self.root
        folders = [(b"", self.root)]
        while folders:
            prefix, folder = folders.pop()
            below = []
            for name, node in sorted(folder.children.items()):
                path = prefix + name
                if node.kind is FOLDER:
                    path += b"/"
                    below.append((path, node))
                    yield _entry(path, node), node
                    continue
                first = names.setdefault(id(node), path)
                if first is path:
                    yield _entry(path, node), node
                else:
                    yield _entry(path, node)._replace(kind=HARD_LINK, link=first, size=0, device=(0, 0)), node
            folders.extend(reversed(below))


class Archive:
    """The files of one image. Use as a context manager; entering it fetches the archive.

    :param reference: the image.
    :ivar folder: where the temporary file lies.
    :ivar document: the image document, as the engine keeps it.
    :ivar sockets: always 0: an archive has none.
    :ivar holes: always empty: an archive does not tell.
    """

    def __init__(self, engine: DockerApi, reference: str) -> None:
        self._engine = engine
        self._reference = reference
        self._opened: list[t.BinaryIO] = []
        self._merger = LayerMerger()
        self._nodes: dict[bytes, Node] = {}
        # Large and on a disk, which /tmp often is not. The file has no name, so nobody can put another in its place.
        self.folder = os.environ.get("TMPDIR") or "/var/tmp"
        self.document: dict[str, t.Any] = {}
        self.sockets = 0
        self.holes: dict[bytes, list[tuple[int, int]]] = {}

    def __enter__(self) -> Archive:
        try:
            self._fetch()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for file in self._opened:
            file.close()
        self._opened.clear()

    def _fetch(self) -> None:
        archive = self._temporary()
        request = f"Fetching the archive of image {self._reference}"
        try:
            answer = self._engine.send(request, "GET", f"/images/{self._reference}/get", stream=True)
            for chunk in answer.iter_content(_CHUNK):
                archive.write(chunk)
            archive.seek(0)
            self._read(archive)
        except (OSError, tarfile.TarError, EOFError, KeyError) as exc:
            raise GridboxError(
                f"{request} failed: {exc}. Check the space in {self.folder} and the engine's log."
            ) from exc

    def _read(self, archive: t.BinaryIO) -> None:
        """Read the image document, and merge the layers, the lowest first."""
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            members = {os.path.normpath(member.name): member for member in tar}
            manifest = json.loads(_content(tar, members["manifest.json"]).read())[0]
            self.document = json.loads(_content(tar, members[os.path.normpath(manifest["Config"])]).read())
            for name in manifest["Layers"]:
                member = members[os.path.normpath(name)]
                if member.issym():
                    # Engine 20.10 writes a layer that occurs twice once, and a link to it.
                    member = members[os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))]
                layer = _content(tar, member)
                first = layer.read(4)
                layer.seek(0)
                # An image store of containerd's gives a layer as it came from the registry.
                if first.startswith(b"\x28\xb5\x2f\xfd"):
                    raise GridboxError(
                        "The image's layers are compressed with zstd, which Python cannot read before 3.14. Load or"
                        " pull the image with gzip layers."
                    )
                if first.startswith(b"\x1f\x8b"):
                    unpacked = self._temporary()
                    with gzip.GzipFile(fileobj=layer) as packed:
                        shutil.copyfileobj(packed, unpacked, _CHUNK)
                    unpacked.seek(0)
                    self._merger.apply(unpacked, unpacked.fileno(), 0)
                else:
                    self._merger.apply(layer, archive.fileno(), member.offset_data)

    def _temporary(self) -> t.BinaryIO:
        file = t.cast(t.BinaryIO, tempfile.TemporaryFile(dir=self.folder))
        self._opened.append(file)
        return file

    def entries(self) -> t.Iterator[Entry]:
        for entry, node in self._merger.entries():
            if entry.size:
                self._nodes[entry.path] = node
            yield entry

    def open(self, entry: Entry) -> tuple[int, int]:
        node = self._nodes.pop(entry.path)
        return node.file, node.position

    def close(self, descriptor: int) -> None:
        """Nothing: the descriptor is the temporary file's, for as long as the archive is."""


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> t.IO[bytes]:
    return t.cast(t.IO[bytes], tar.extractfile(member))


def _entry(path: bytes, node: Node) -> Entry:
    return Entry(
        path, node.kind, node.mode, node.uid, node.gid, node.mtime, node.size, node.link, node.device, node.xattrs
    )


def _parts(path: bytes) -> list[bytes]:
    """A path's parts; ``..`` cannot lead out of the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def _nanoseconds(exact: t.Optional[str], rounded: t.Union[int, float]) -> int:
    """A pax time as an integer of nanoseconds; ``tarfile`` itself makes it a float, which is too coarse."""
    if exact is None:
        return int(rounded) * 1_000_000_000
    whole, _point, fraction = exact.partition(".")
    nanoseconds = int(fraction[:9].ljust(9, "0") or "0")
    return int(whole) * 1_000_000_000 + (-nanoseconds if whole.startswith("-") else nanoseconds)

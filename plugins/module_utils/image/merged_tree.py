# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The merged tree of an image in the engine's overlay2 store, as the kernel merges it for a container.

The layers are mounted read-only in a mount namespace of this process alone: nobody else sees the mount, and it ends
with the process, however it ends. The kernel does the merging, so whiteouts, opaque folders and redirects mean here
what they mean in a container.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import typing as t

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

# <linux/sched.h>, <linux/mount.h>
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_REC, _MS_SLAVE = 16384, 1 << 19
_MNT_DETACH = 2

_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: FIFO,
}


class MergedTree:
    """The files of one image. Use as a context manager; within it the working directory is the root of the tree.

    :param layers: the layers' folders, the uppermost first.
    :ivar sockets: sockets met by the last walk, which no layer can hold.
    :ivar holes: of each file with holes that was opened: its path, and start and length of each hole.
    """

    def __init__(self, layers: t.Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.sockets = 0
        self.holes: dict[bytes, list[tuple[int, int]]] = {}
        self._came_from = -1

    def __enter__(self) -> MergedTree:
        self._came_from = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if len(self.layers) > 1:
                self._mount()
            os.chdir(self.layers[0])
        except OSError as exc:
            self._leave()
            raise GridboxError(f"The merged tree of the image cannot be read: {exc}.") from exc
        return self

    def __exit__(self, *_exc: object) -> None:
        self._leave()
        if len(self.layers) > 1:
            _call("umount2", self.layers[0].encode(), _MNT_DETACH)

    def _leave(self) -> None:
        os.fchdir(self._came_from)
        os.close(self._came_from)

    def _mount(self) -> None:
        _call("unshare", _CLONE_NEWNS)
        # Slave: what the host mounts and unmounts is seen here and so never kept busy; what is mounted here stays here.
        _call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
        # The engine keeps a short name for each layer, for the options of a mount must fit into one page.
        store = os.path.dirname(os.path.dirname(self.layers[0]))
        os.chdir(store)
        lower = ":".join(self._short(layer) for layer in self.layers)
        # On top of the uppermost layer's own folder: it exists, and it has been looked up before it is covered.
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        _call("mount", b"overlay", self.layers[0].encode(), b"overlay", flags, f"lowerdir={lower}".encode())

    @staticmethod
    def _short(layer: str) -> str:
        with open(os.path.join(os.path.dirname(layer), "link"), encoding="ascii") as link:
            return f"l/{link.read().strip()}"

    def entries(self) -> t.Iterator[Entry]:
        """Walk the tree: each folder's entries by name, so that the same tree always gives the same stream.

        :raises GridboxError: for a name that a layer cannot hold.
        """
        self.sockets = 0
        first_names: dict[tuple[int, int], bytes] = {}
        yield self._entry(ROOT, os.lstat(b"."), FOLDER)
        folders = [b""]
        while folders:
            folder = folders.pop()
            below = []
            for name in sorted(os.listdir(folder or b".")):
                path = folder + name
                if name.startswith(b".wh."):
                    raise GridboxError(
                        f"The image holds a file named {os.fsdecode(path)!r}. In a layer, .wh. at the start of a name"
                        " deletes files, so no layer can hold it. Rename it in the image, then flatten again."
                    )
                info = os.lstat(path)
                kind = _KINDS.get(stat.S_IFMT(info.st_mode))
                if kind is None:
                    self.sockets += 1
                    continue
                if kind is FOLDER:
                    path += b"/"
                    below.append(path)
                elif info.st_nlink > 1:
                    first = first_names.setdefault((info.st_dev, info.st_ino), path)
                    if first is not path:
                        yield self._entry(path, info, HARD_LINK, first)
                        continue
                yield self._entry(path, info, kind)
            folders.extend(reversed(below))

    @staticmethod
    def _entry(path: bytes, info: os.stat_result, kind: bytes, link: bytes = b"") -> Entry:
        size = info.st_size if kind is REGULAR else 0
        device = (0, 0)
        if kind is SYMLINK:
            link = os.readlink(path)
        elif kind is CHAR_DEVICE or kind is BLOCK_DEVICE:
            device = (os.major(info.st_rdev), os.minor(info.st_rdev))
        return Entry(
            path,
            kind,
            stat.S_IMODE(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
            size,
            link,
            device,
            _xattrs(path),
            kind is REGULAR and info.st_blocks * 512 < size,
        )

    def open(self, entry: Entry) -> tuple[int, int]:
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if entry.sparse:
            found = holes(descriptor, entry.size)
            if found:
                self.holes[entry.path] = found
        return descriptor, 0

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


def holes(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Start and length of each hole of a file."""
    found = []
    position = 0
    while position < size:
        start = os.lseek(descriptor, position, os.SEEK_HOLE)
        if start >= size:
            break
        try:
            position = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # there are no more data
                raise
            position = size
        found.append((start, position - start))
    return found


# fallocate(2)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def punch(path: bytes, ranges: t.Sequence[tuple[int, int]], mtime: int) -> None:
    """Make holes where a file holds zeros, and leave its time as it was. The content does not change.

    :raises OSError: if the file system has no holes.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for start, length in ranges:
            _call("fallocate64", descriptor, _PUNCH_HOLE | _KEEP_SIZE, *map(ctypes.c_int64, (start, length)))
        os.utime(descriptor, ns=(mtime, mtime))
    finally:
        os.close(descriptor)


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    if not names:
        return ()
    return tuple(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names) if _travels(name)
    )


def _travels(name: str) -> bool:
    """Whether an attribute belongs to the image. The overlay's own marks and the host's SELinux label do not."""
    return not name.startswith("trusted.overlay.") and name != "security.selinux"


def _call(name: str, *arguments: t.Any) -> None:
    """Call the C library, for what Python 3.9's ``os`` lacks."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def reachable_layers(
    image: t.Mapping[str, t.Any], info: t.Mapping[str, t.Any]
) -> tuple[t.Optional[tuple[str, ...]], str]:
    """The folders of an image's layers in the engine's overlay2 store, the uppermost first; or None, and why not.

    :param image: the engine's answer about the image.
    :param info: the engine's answer about itself.
    """
    driver = image.get("GraphDriver") or {}
    if driver.get("Name") not in ("overlay2", "overlay") or not driver.get("Data"):
        return None, f"the image store {info.get('Driver')} does not keep its layers as overlay2 does"
    for option in ("userns", "rootless"):
        if any(f"name={option}" in str(entry) for entry in info.get("SecurityOptions") or []):
            return None, f"the engine runs with {option}, so the owners of its files are not those in the image"
    if os.geteuid() != 0:
        return None, "reading the engine's files needs root"
    data = driver["Data"]
    layers = tuple(part for key in ("UpperDir", "LowerDir") for part in data.get(key, "").split(":") if part)
    stores = {os.path.dirname(os.path.dirname(layer)) for layer in layers}
    if not layers or len(stores) != 1 or not all(os.path.isdir(layer) for layer in layers):
        return None, "the folders of the image's layers are not to be found on this host"
    try:
        with MergedTree(layers):
            return layers, ""
    except GridboxError as exc:
        return None, str(exc)

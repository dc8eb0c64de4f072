# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image that has everything an image can have, made by hand: no registry, no builder.

The layers are written with Python's ``tarfile`` and the archive with its manifest is what ``docker load`` takes, so
nothing here shares code with what the collection does.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import typing as t

from tests.lab.image import busybox_tar

#: A file capability, cap_net_bind_service+ep, as the kernel stores it (VFS_CAP_REVISION_2).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
#: An access list as the kernel stores it: user 1000 may read and write, the file's group and others may read.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in (
        (0x01, 6, 0xFFFFFFFF), (0x02, 6, 1000), (0x04, 4, 0xFFFFFFFF), (0x10, 6, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF),
    )
)  # fmt: skip
LONG = "/".join(["a" * 60, "b" * 60, "c" * 200])

#: Each key that a configuration can have.
CONFIG: dict[str, t.Any] = {
    "Env": ["PATH=/bin", "SITE=CERN Prévessin", "QUOTED=a \"b\" 'c' $d \\e"],
    "Cmd": ["httpd", "-f", "-p", "80"],
    "Entrypoint": ["/bin/busybox"],
    "User": "1000:1000",
    "WorkingDir": "/www",
    "Labels": {"org.example.name": "everything", "empty": ""},
    "ExposedPorts": {"80/tcp": {}, "8884/udp": {}},
    "Volumes": {"/state": {}},
    "Healthcheck": {
        "Test": ["CMD", "/bin/true"], "Interval": 30_000_000_000, "Timeout": 5_000_000_000,
        "StartPeriod": 1_000_000_000, "Retries": 7,
    },
    "StopSignal": "SIGUSR1",
    "Shell": ["/bin/ash", "-c"],
    "OnBuild": ["RUN touch /fired"],
}  # fmt: skip


class Layer:
    """One layer in the making."""

    def __init__(self, base: bytes = b"") -> None:
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)  # closed by data()
        if base:
            with tarfile.open(fileobj=io.BytesIO(base)) as other:
                for member in other:
                    self.tar.addfile(member, other.extractfile(member) if member.isreg() else None)

    def add(
        self, name: str | bytes, content: bytes | None = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644,
        uid: int = 0, gid: int = 0, mtime: str = "1700000000", link: str = "", device: tuple[int, int] = (0, 0),
        xattrs: dict[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        entry = tarfile.TarInfo(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name)
        entry.type, entry.mode, entry.uid, entry.gid, entry.linkname = kind, mode, uid, gid, link
        entry.devmajor, entry.devminor = device
        entry.pax_headers = {"mtime": mtime} if "." in mtime else {}
        entry.mtime = int(mtime.partition(".")[0])
        for key, value in (xattrs or {}).items():
            entry.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
        data = content or b""
        entry.size = len(data) if kind == tarfile.REGTYPE else 0
        self.tar.addfile(entry, io.BytesIO(data))

    def folder(self, name: str, mode: int = 0o755, **more: t.Any) -> None:
        self.add(name, kind=tarfile.DIRTYPE, mode=mode, **more)

    def data(self) -> bytes:
        self.tar.close()
        return self.out.getvalue()


def layers() -> list[bytes]:
    """Five layers; each later one changes what is below it."""
    first = Layer(busybox_tar())
    first.folder("data", uid=1000, gid=1000, mtime="1600000000.5", xattrs={"user.folder": b"yes"})
    first.add("data/plain", b"plain\n", mtime="1600000001.123456789")
    first.add("data/before-epoch", b"old", mtime="-1.5")
    first.add("data/setuid", b"s", mode=0o6755, uid=1000, gid=1000)
    first.add("data/capable", b"c", mode=0o755, xattrs={"security.capability": CAPABILITY})
    first.add("data/attributes", b"x", xattrs={"user.text": b"caf\xc3\xa9", "user.bytes": b"\x00\xff\n=\x80"})
    first.add("data/access", b"a", mode=0o664, xattrs={"system.posix_acl_access": ACL})
    first.add("data/huge-owner", b"o", uid=3_000_000_000, gid=3_000_000_001)
    first.add("data/linked", b"one file\n", mode=0o4755, uid=7, mtime="1600000002.25", xattrs={"user.l": b"1"})
    for name in ("data/zlink", "alink"):
        first.add(
            name, kind=tarfile.LNKTYPE, link="data/linked", mode=0o4755, uid=7, mtime="1600000002.25",
            xattrs={"user.l": b"1"},
        )  # fmt: skip
    first.add("data/fifo", kind=tarfile.FIFOTYPE, mode=0o620)
    first.add("data/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666)
    first.add("data/loop", kind=tarfile.BLKTYPE, device=(7, 300), mode=0o660)
    first.add("data/link", kind=tarfile.SYMTYPE, link="../" + "t" * 150, mode=0o777, uid=5)
    first.add(b"data/caf\xe9\xff", b"not UTF-8\n")
    first.add(b"data/gone\xff", b"deleted by the second layer")
    first.add(b"data/" + b"\xe9" * 250, b"long and not UTF-8\n")
    first.add("data/Präzision ☃", b"UTF-8\n")
    first.add("data/new\nline \\ back", b"odd\n")
    for depth in (1, 2, 3):
        first.folder("/".join(LONG.split("/")[:depth]))
    first.add(f"{LONG}/file", b"long\n")
    first.add("data/sparse", bytes(8 << 20) + b"end")
    first.add("data/exact", bytes(range(256)) * 4096)
    first.add("gone", b"deleted by the second layer")
    first.folder("opaque")
    first.folder("opaque/sub")
    first.add("opaque/lower", b"hidden by the third layer")
    first.add("was-file", b"")
    first.folder("was-folder")
    first.add("was-folder/inside", b"hidden")

    second = Layer()
    second.add(".wh.gone")
    second.add(b"data/.wh.gone\xff")
    second.add("data/plain", b"changed by the second layer\n", mode=0o600)
    second.folder("was-file", mode=0o711)
    second.add("was-file/now", b"a folder")
    second.add("data/linked2", b"second\n")
    second.add("data/linked3", kind=tarfile.LNKTYPE, link="data/linked2", mode=0o644)

    third = Layer()
    third.folder("opaque", mode=0o750)
    third.add("opaque/.wh..wh..opq")
    third.add("opaque/upper", b"seen")
    third.add("was-folder", kind=tarfile.SYMTYPE, link="data")
    third.add("gone", b"back again", mode=0o640)
    # One of three names gets another file: the other two stay one file.
    third.add("data/zlink", b"no longer the same file", mode=0o644)

    fourth = Layer()
    fourth.add("data/.wh.linked3")
    fourth.folder("empty", mode=0o2775, gid=99)

    fifth = Layer()
    fifth.folder("data", mode=0o700, uid=1000, gid=1001, mtime="1600000003.000000001")
    return [layer.data() for layer in (first, second, third, fourth, fifth)]


def archive(name: str, parts: t.Sequence[bytes], config: dict[str, t.Any]) -> bytes:
    """An archive as ``docker save`` writes and ``docker load`` reads it."""
    document = {
        "architecture": "arm64", "variant": "v8", "os": "linux", "author": "Zoë <zoe@example.org>",
        "created": "2026-01-02T03:04:05.678901234Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(part).hexdigest()}" for part in parts]},
        "history": [
            {"created": f"2026-01-02T03:04:0{number % 10}Z", "created_by": f"step {number}", "comment": "by hand"}
            for number in range(len(parts))
        ],
    }  # fmt: skip
    out = io.BytesIO()
    files = {"config.json": json.dumps(document).encode()}
    files.update({f"layer{number}/layer.tar": part for number, part in enumerate(parts)})
    manifest = {
        "Config": "config.json",
        "RepoTags": [name],
        "Layers": [path for path in files if path != "config.json"],
    }
    files["manifest.json"] = json.dumps([manifest]).encode()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def everything(name: str) -> bytes:
    """The archive of an image with everything."""
    return archive(name, layers(), CONFIG)


def padded(name: str, megabytes: int, count: int = 8) -> bytes:
    """The archive of an image of some size: busybox, and files of data that look random."""
    parts = [busybox_tar()]
    for number in range(count):
        layer = Layer()
        for part in range(8):
            seed = hashlib.sha256(f"{number}/{part}".encode()).digest()
            layer.add(f"pad/{number}/{part}", seed * (megabytes * 1_000_000 // (count * 8 * len(seed))))
        parts.append(layer.data())
    return archive(name, parts, {"Cmd": ["/bin/sleep", "60"], "Env": ["PATH=/bin"]})

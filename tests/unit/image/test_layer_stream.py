# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers and streams of layers, read back with Python's own ``tarfile``."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.image.layer_stream import CHUNK, LayerStream, header_digest
from ansible_collections.hep.gridbox.plugins.module_utils.image.merged_tree import MergedTree
from ansible_collections.hep.gridbox.plugins.module_utils.image.tar_header import (
    BLOCK,
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FOLDER,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    header,
)

NAMES = some.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and b"/" not in name)


def read_back(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data + bytes(2 * BLOCK)), errors="surrogateescape") as tar:
        return tar.getmembers()


@pytest.mark.parametrize("kind", [REGULAR, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, FOLDER, FIFO])
def test_plain_entries_take_one_block(kind: bytes) -> None:
    entry = Entry(b"a/b", kind, 0o4755, 1000, 99, 1_700_000_000 * 10**9, 0, b"target", (8, 300))
    data = header(entry)
    assert len(data) == BLOCK
    (member,) = read_back(data)
    assert (member.name, member.type, member.mode, member.uid, member.gid) == ("a/b", kind, 0o4755, 1000, 99)
    assert (member.mtime, member.linkname, member.devmajor, member.devminor) == (1_700_000_000, "target", 8, 300)


@given(
    name=NAMES,
    link=NAMES,
    mtime=some.integers(-(10**19), 10**20),
    uid=some.integers(0, 2**32 - 2),
    gid=some.integers(0, 2**32 - 2),
    size=some.integers(0, 2**40),
    value=some.binary(max_size=2000),
)
def test_whatever_an_entry_has_is_read_back(
    name: bytes, link: bytes, mtime: int, uid: int, gid: int, size: int, value: bytes
) -> None:
    entry = Entry(name, SYMLINK, 0o777, uid, gid, mtime, 0, link, (0, 0), ((b"user.x", value),))
    (member,) = read_back(header(entry))
    assert os.fsencode(member.name) == name.rstrip(b"/")
    assert os.fsencode(member.linkname) == link
    assert (member.uid, member.gid) == (uid, gid)
    assert member.pax_headers["SCHILY.xattr.user.x"].encode("utf-8", "surrogateescape") == value
    exact = member.pax_headers.get("mtime", str(int(member.mtime)))
    whole, _point, fraction = exact.lstrip("-").partition(".")
    assert (int(whole) * 10**9 + int(fraction.ljust(9, "0"))) * (-1 if exact.startswith("-") else 1) == mtime
    with tarfile.open(fileobj=io.BytesIO(header(entry._replace(kind=REGULAR, size=size, link=b"")))) as tar:
        assert t.cast("tarfile.TarInfo", tar.next()).size == size


def test_an_attribute_that_no_tar_can_hold() -> None:
    with pytest.raises(GridboxError, match=r"'f' has the extended attribute 'user.a=b'. No image format"):
        header(Entry(b"f", REGULAR, 0o644, 0, 0, 0, xattrs=((b"user.a=b", b""),)))


def make_tree(root: Path) -> None:
    (root / "folder").mkdir(mode=0o750)
    (root / "folder/big").write_bytes(os.urandom(3 * CHUNK + 7))
    (root / "folder/exact").write_bytes(os.urandom(CHUNK))
    (root / "zero").write_bytes(b"")
    os.link(root / "folder/big", root / "same")
    (root / "link").symlink_to("folder/big")
    os.mkfifo(root / "fifo")
    (root / ("n" * 200)).write_bytes(b"long")
    os.utime(root / "zero", ns=(0, 1_234_567_890_123_456_789))


def test_a_tree_is_streamed_whole(tmp_path: Path) -> None:
    make_tree(tmp_path)
    here = os.getcwd()
    told: list[str] = []
    with MergedTree([str(tmp_path)]) as tree:
        stream = LayerStream(tree, lambda: told.append("end"))
        chunks = [bytes(chunk) for chunk in stream]
        assert header_digest(tree) == stream.header_digest
    assert os.getcwd() == here
    assert told == ["end"]
    data = b"".join(chunks)
    assert max(map(len, chunks)) <= CHUNK
    assert stream.bytes == len(data)
    assert stream.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar}
        assert list(members) == [".", "fifo", "folder", "link", "n" * 200, "same", "zero", "folder/big", "folder/exact"]
        assert stream.entries == len(members)
        first = t.cast("t.IO[bytes]", tar.extractfile("same")).read()
        assert first == (tmp_path / "same").read_bytes()
        exact = t.cast("t.IO[bytes]", tar.extractfile("folder/exact")).read()
        assert exact == (tmp_path / "folder/exact").read_bytes()
    assert (members["folder/big"].type, members["folder/big"].linkname) == (tarfile.LNKTYPE, "same")
    assert members["zero"].pax_headers["mtime"] == "1234567890.123456789"
    assert members["folder"].mode == 0o750


@pytest.mark.parametrize("change", ["mode", "time", "name", "link"])
def test_the_header_digest_sees_every_change(tmp_path: Path, change: str) -> None:
    make_tree(tmp_path)
    with MergedTree([str(tmp_path)]) as tree:
        before = header_digest(tree)
        if change == "mode":
            (tmp_path / "zero").chmod(0o600)
        elif change == "time":
            os.utime(tmp_path / "zero", ns=(0, 1_234_567_890_123_456_788))
        elif change == "name":
            (tmp_path / "zero").rename(tmp_path / "one")
        else:
            (tmp_path / "same").unlink()
        assert header_digest(tree) != before


def test_a_name_that_would_delete_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").touch()
    with MergedTree([str(tmp_path)]) as tree, pytest.raises(GridboxError, match=r"a file named '.wh.x'"):
        list(tree.entries())


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")

    class Shrinking(MergedTree):
        def open(self, entry: Entry) -> tuple[int, int]:
            os.truncate("file", 1)
            return super().open(entry)

    with Shrinking([str(tmp_path)]) as tree, pytest.raises(GridboxError, match=r"'file' .* ended 3 bytes early"):
        list(LayerStream(tree, lambda: None))


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(GridboxError, match="The merged tree of the image cannot be read"),
        MergedTree(["/nowhere/diff"]),
    ):
        pass

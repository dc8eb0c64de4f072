# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Merging the layers of an archive: the rules of the OCI image specification."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.image.archive import LayerMerger, Node
from ansible_collections.hep.gridbox.plugins.module_utils.image.tar_header import Entry

Item = t.Union[str, t.Tuple[str, str]]


def layer(*items: Item) -> io.BytesIO:
    """Make a layer.

    ``name/`` is a folder, ``name`` a file that holds its own name, ``(name, target)`` a hard link, with ``->`` before
    the target a symbolic one.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            name, target = (item, "") if isinstance(item, str) else item
            entry = tarfile.TarInfo(name)
            data = b""
            if target:
                entry.type = tarfile.SYMTYPE if target.startswith("->") else tarfile.LNKTYPE
                entry.linkname = target.removeprefix("->")
            elif name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                data = name.encode()
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    out.seek(0)
    return out


def merged(*layers: io.BytesIO) -> list[tuple[Entry, Node]]:
    merger = LayerMerger()
    for number, part in enumerate(layers):
        merger.apply(part, number, 0)
    return list(merger.entries())


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ([["a/", "a/x"], ["a/y"]], ["a/", "a/x", "a/y"]),
        ([["a/", "a/x", "a/y"], ["a/.wh.x"]], ["a/", "a/y"]),
        ([["a/", "a/b/", "a/b/x"], [".wh.a"]], []),
        ([["a/", "a/x"], [".wh.a"], ["a/", "a/y"]], ["a/", "a/y"]),
        # Opaque: whatever order the layer is in, its own files stay.
        ([["a/", "a/x", "a/b/", "a/b/x"], ["a/", "a/y", "a/.wh..wh..opq"]], ["a/", "a/y"]),
        ([["a/", "a/b/", "a/b/x"], ["a/", "a/b/", "a/b/y", "a/.wh..wh..opq"]], ["a/", "a/b/", "a/b/y"]),
        # A folder over a file, a file over a folder, a link over a folder, a folder through a link of a lower layer.
        ([["a"], ["a/", "a/x"]], ["a/", "a/x"]),
        ([["a/", "a/x"], ["a"]], ["a"]),
        ([["a/", "a/x", "b/"], [("a", "->b")]], ["a", "b/"]),
        ([["b/", ("a", "->b")], ["a/x"]], ["a/", "b/", "a/x"]),
        ([["./", "./a"], ["/b"]], ["./", "a", "b"]),
        ([["../../etc"]], ["etc"]),
        ([[".wh..wh.plnk/", "a"]], ["a"]),
    ],
)
def test_names(layers: list[list[Item]], names: list[str]) -> None:
    assert [os.fsdecode(entry.path) for entry, _node in merged(*(layer(*items) for items in layers))] == names


def test_a_replaced_name_leaves_the_other_names_alone() -> None:
    found = {entry.path: (entry, node) for entry, node in merged(layer("a", ("b", "a"), ("c", "b")), layer("a"))}
    assert found[b"a"][1].layer == 1
    assert found[b"b"][0].size == 1
    assert found[b"c"][0].link == b"b"
    assert found[b"b"][1] is found[b"c"][1]


def test_a_deleted_first_name_leaves_its_links() -> None:
    entries = [entry for entry, _node in merged(layer("a", ("b", "a"), ("c", "a")), layer(".wh.a"))]
    assert [(entry.path, entry.kind, entry.link) for entry in entries] == [(b"b", b"0", b""), (b"c", b"1", b"b")]


def test_data_are_found_where_they_are() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(4096))
        data = layer("one", "two").getvalue()
        file.write(data)
        merger = LayerMerger()
        merger.apply(io.BytesIO(data), file.fileno(), 4096)
        file.flush()
        for entry, node in merger.entries():
            assert os.pread(node.file, entry.size, node.position) == entry.path


def test_a_link_to_nothing() -> None:
    with pytest.raises(GridboxError, match="'b' in layer 1 is a hard link to 'a', which is not there"):
        merged(layer(("b", "a")))


def test_times_are_exact() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in (("a", "1234567890.123456789"), ("b", "-1.5"), ("c", "7"), ("d", "-0.25")):
            entry = tarfile.TarInfo(name)
            entry.pax_headers = {"mtime": time}
            tar.addfile(entry)
    out.seek(0)
    times = [entry.mtime for entry, _node in merged(out)]
    assert times == [1_234_567_890_123_456_789, -1_500_000_000, 7_000_000_000, -250_000_000]

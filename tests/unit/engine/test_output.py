# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a container has printed, out of the engine's stream."""

from __future__ import annotations

import io

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import pieces


def framed(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", []),
        (framed(1, b"out\n") + framed(2, b"err\n"), [b"out\n", b"err\n"]),
        (framed(1, b"") + framed(1, b"x"), [b"", b"x"]),
        (framed(1, b"whole\n") + framed(1, b"cut short")[:-5], [b"whole\n", b"cut "]),
        (framed(1, b"whole\n") + b"\1\0\0", [b"whole\n"]),
        # A container with a terminal has no headers.
        (b"short", [b"short"]),
        (b"a longer line\n", [b"a longer", b" line\n"]),
    ],
)
def test_pieces(raw: bytes, found: list[bytes]) -> None:
    assert list(pieces(io.BytesIO(raw))) == found

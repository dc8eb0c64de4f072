# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import (
    FILE,
    Pull,
    PulledImage,
    PulledImages,
    noted,
)

NOW = 1_000_000
OWN = PulledImage("unix:///e", "r/pilot:1", "sha256:a", 10, 20)
OTHER = PulledImage("unix:///e", "r/other:1", "sha256:o", 10)


def pull(before: t.Optional[str] = None, there: t.Collection[str] = (), **changed: t.Any) -> Pull:
    return Pull(**{
        "engine": OWN.engine, "reference": OWN.reference, "before": before, "there": there, "id": OWN.id, **changed
    })  # fmt: skip


NEW = PulledImage(OWN.engine, OWN.reference, OWN.id, NOW)


@pytest.mark.parametrize(
    ("kept", "what", "expected"),
    [
        ((), pull(), (NEW,)),
        # The tag has moved: what it was before was somebody else's, what it is now is not.
        ((), pull("sha256:x", ["sha256:x"]), (NEW,)),
        # It was on the host: by this name and pulled again unchanged, by another name, or without one.
        ((), pull("sha256:a", ["sha256:a"]), ()),
        ((), pull(None, ["sha256:a"]), ()),
        # The factory's own, pulled again.
        ((OWN, OTHER), pull("sha256:a", ["sha256:a", "sha256:o"]), (OTHER, NEW)),
        ((OWN,), pull("sha256:a", ["sha256:a"], id="sha256:b"),
         (OWN, PulledImage(OWN.engine, OWN.reference, "sha256:b", NOW))),
        # The same image by another name, that was not there, or that somebody else had pulled.
        ((OWN,), pull(None, ["sha256:a"], reference="r/b:1"),
         (OWN, PulledImage(OWN.engine, "r/b:1", OWN.id, NOW))),
        ((OWN,), pull("sha256:a", ["sha256:a"], reference="r/b:1"), (OWN,)),
        # Another engine's is nothing of this one's.
        ((OWN,), pull(None, ["sha256:a"], engine="unix:///p"), (OWN,)),
    ],
)  # fmt: skip
def test_whose_an_image_is(
    kept: tuple[PulledImage, ...], what: Pull, expected: tuple[PulledImage, ...]
) -> None:  # fmt: skip
    assert noted(kept, what, NOW) == expected


def test_what_is_written_down_is_read_again(tmp_path: Path) -> None:
    images = PulledImages(str(tmp_path / "state"))
    assert images.load() == ()
    images.note(pull(), pull().id, NOW)
    assert PulledImages(str(tmp_path / "state")).load() == (NEW,)
    stamp = (tmp_path / "state" / FILE).stat()
    assert images.change(lambda kept: kept) == (NEW,)
    assert (tmp_path / "state" / FILE).stat() == stamp


@pytest.mark.parametrize("text", ["", "[]", '{"images": [{"reference": "r/pilot:1"}]}', '{"images": [1]}', "{" * 9999])
def test_a_damaged_file_is_told_and_stays(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    images = PulledImages(str(tmp_path))
    with pytest.raises(GridboxError, match="does not tell which images were pulled"):
        images.load()
    with pytest.raises(GridboxError, match="move it away"):
        images.note(pull(), pull().id, NOW)
    assert (tmp_path / FILE).read_text() == text


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(GridboxError, match=r"cannot be (read|written)"):
        PulledImages(str(tmp_path / "state")).note(pull(), pull().id, NOW)

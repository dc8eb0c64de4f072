# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading and replacing the daemon's configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import config_file
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError


def test_the_mode_stays_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    path.chmod(0o640)
    config_file.replace(str(path), "{ }")
    assert path.read_text() == "{ }"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(tmp_path) == ["daemon.json"]


def test_extended_attributes_stay(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    try:
        os.setxattr(path, "user.site", b"here")
    except OSError:
        pytest.skip("this file system keeps no user attributes")
    config_file.replace(str(path), "{ }")
    assert os.getxattr(path, "user.site") == b"here"


def test_a_link_stays_and_its_target_is_read(tmp_path: Path) -> None:
    target = tmp_path / "site" / "daemon.json"
    target.parent.mkdir()
    target.write_text("{}")
    link = tmp_path / "daemon.json"
    link.symlink_to("site/daemon.json")
    read = config_file.read(str(link))
    assert (read.path, read.text) == (str(target), "{}")
    config_file.replace(read.path, "{ }")
    assert link.is_symlink() and link.read_text() == "{ }"


def test_a_missing_file_and_its_folder_are_made(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "daemon.json"
    assert config_file.read(str(path)).text is None
    config_file.check_replaceable(str(path), 10)
    assert not path.parent.exists()
    config_file.replace(str(path), "{}")
    assert (path.stat().st_mode & 0o7777, path.parent.stat().st_mode & 0o7777) == (0o644, 0o755)


def test_a_missing_folder_above_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"there is no folder .*/a/b\. Make it, or correct config_file"):
        config_file.check_replaceable(str(tmp_path / "a" / "b" / "daemon.json"), 10)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'{\n  "labels": ["Z\xfcrich"]\n}', r"line 2, column 16: not UTF-8\. The file was left alone"),
        (b"\xff\xfe{\0}\0", r"line 1, column 1: not UTF-8"),
        (b" " * (config_file.MOST_BYTES + 1), r"is larger than 1048576 bytes"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_bytes(data)
    with pytest.raises(GridboxError, match=sentence):
        config_file.read(str(path))
    assert path.read_bytes() == data


def test_a_folder_and_a_fifo_are_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo):
        with pytest.raises(GridboxError, match="is not a regular file"):
            config_file.read(str(path))


def test_a_failed_write_leaves_the_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{}")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GridboxError, match=r"no space left on device\. It is as it was"):
        config_file.replace(str(path), "{ }")
    assert path.read_text() == "{}" and os.listdir(tmp_path) == ["daemon.json"]


def test_removing(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    config_file.remove(str(path))
    config_file.remove(str(path))
    assert not path.exists()

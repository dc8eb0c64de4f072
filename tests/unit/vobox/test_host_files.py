# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The init script in versions, on a real file system."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Service, sha256
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import (
    KEPT_VERSIONS,
    Folder,
    HostFiles,
    Launch,
    read_launch,
)

FIRST, SECOND, THIRD = (f"#!/bin/sh\necho {word}\n" for word in ("first", "second", "third"))
VERSION = sha256(FIRST)


@pytest.fixture()
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "vobox1"))


def everything(folder: Folder) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder.path)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_nothing_is_nothing(folder: Folder) -> None:
    assert folder.read() == HostFiles()
    folder.remove()


def test_a_version_is_named_by_what_is_in_it(folder: Folder) -> None:
    folder.write_script(FIRST)
    seen = folder.read()
    assert (seen.current, seen.content, seen.previous, seen.drift, seen.runner) == (
        sha256(FIRST), sha256(FIRST), None, False, True,
    )  # fmt: skip
    script = folder.init / "current" / "init.sh"
    assert (script.read_text(), script.stat().st_mode & 0o777) == (FIRST, 0o755)


def test_the_version_before_is_kept(folder: Folder) -> None:
    for text in (FIRST, SECOND, FIRST):
        folder.write_script(text)
    seen = folder.read()
    assert (seen.current, seen.previous) == (sha256(FIRST), sha256(SECOND))
    assert set(seen.versions) == {sha256(FIRST), sha256(SECOND)}
    assert folder.script(sha256(SECOND)) == SECOND


def test_the_five_newest_are_kept(folder: Folder) -> None:
    texts = [f"#!/bin/sh\necho {number}\n" for number in range(12)]
    for text in texts:
        folder.write_script(text)
    kept = folder.read().versions
    assert set(kept) >= {sha256(text) for text in texts[-KEPT_VERSIONS:]}
    assert len(kept) <= KEPT_VERSIONS + 1


def test_an_edit_by_hand_shows_and_is_kept(folder: Folder) -> None:
    folder.write_script(FIRST)
    (folder.init / "current" / "init.sh").write_text(SECOND)
    assert folder.read().drift
    assert folder.script(sha256(FIRST)) is None
    folder.write_script(FIRST)
    seen = folder.read()
    assert (seen.drift, seen.current, seen.previous) == (False, sha256(FIRST), sha256(SECOND))
    assert folder.script(sha256(SECOND)) == SECOND


@pytest.mark.parametrize("before", [(), (FIRST,), (FIRST, SECOND), (FIRST, SECOND, "edit")])
def test_put_back_is_as_before(folder: Folder, before: tuple[str, ...]) -> None:
    for text in before:
        if text == "edit":
            (folder.init / "current" / "init.sh").write_bytes(b"#!/bin/sh\n# \xff by hand\n")
        else:
            folder.write_script(text)
    was = everything(folder) if before else {}
    snapshot = folder.snapshot()
    folder.write_script(THIRD)
    folder.put_back(snapshot)
    folder.put_back(snapshot)
    assert everything(folder) == was
    assert folder.path.exists() == bool(before)


def test_a_write_that_dies_half_way_changes_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link moves last, by one rename."""
    folder.write_script(FIRST)

    def die(*_arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "symlink_to", die)
    with pytest.raises(OSError, match="no space"):
        folder.write_script(SECOND)
    assert (folder.init / "current" / "init.sh").read_text() == FIRST


def test_services_are_remembered(folder: Folder) -> None:
    services = (Service("sshd", 1975), Service("dns", 53, "udp"))
    folder.write_services(services)
    assert folder.read().services == services
    folder.write_services(None)
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[{", "Expecting property name"),
        ("5", "not iterable"),
        ('{"name": "web"}', "must be a mapping"),
        ('[{"name": "web"}]', "port"),
        ('[{"name": "web", "port": "80"}]', "port"),
    ],
)
def test_damaged_services_are_told_in_a_sentence(folder: Folder, text: str, said: str) -> None:
    folder.write_services((Service("web", 80),))
    (folder.path / "services.json").write_text(text)
    with pytest.raises(RefusedError, match=f"services.json: it is not the list .*{said}.*Remove it"):
        folder.read()


def test_a_current_version_that_is_no_link_is_told_in_a_sentence(folder: Folder) -> None:
    folder.write_script(FIRST)
    current = folder.init / "current"
    current.unlink()
    current.mkdir()
    with pytest.raises(RefusedError, match=r"init/current: it is not the symbolic link .*Move it away"):
        folder.read()
    current.rmdir()
    folder.write_script(FIRST)
    assert folder.read().current == sha256(FIRST)


def test_what_cannot_be_read_is_told_in_a_sentence(folder: Folder) -> None:
    folder.path.write_text("")
    with pytest.raises(RefusedError, match="vobox1: it is not a folder"):
        folder.read()
    folder.path.unlink()
    folder.write_script(FIRST)
    script = folder.init / "current" / "init.sh"
    script.unlink()
    script.mkdir()
    with pytest.raises(RefusedError, match=r"init.sh: it cannot be read .Is a directory"):
        folder.read()


def test_all_that_is_made_is_ours(folder: Folder) -> None:
    assert folder.foreign() == []
    for text in (FIRST, SECOND, FIRST):
        folder.write_script(text)
    folder.write_services((Service("web", 80),))
    folder.add_launch_folder("c0ffeec0ffee")
    # What the container keeps beside its state, and what a killed run leaves of a write.
    (folder.path / "run/c0ffeec0ffee/state").write_text("abc done\n")
    (folder.path / "run/c0ffeec0ffee/squid.pid").write_text("1\n")
    for left in (".services.json.new", "init/.runner.new", f"init/versions/{sha256(FIRST)}/.init.sh.new"):
        (folder.path / left).write_text("")
    (folder.init / ".current.new").symlink_to("versions/x")
    assert folder.foreign() == []


@pytest.mark.parametrize(
    "path",
    [
        "state/db",
        "containers/x",
        ".hidden",
        "init/mine",
        "init/versions/latest/init.sh",
        "run/docker.sock",
        "services.db",
    ],
)
def test_what_others_put_there_is_not_ours(folder: Folder, path: str) -> None:
    folder.write_script(FIRST)
    (folder.path / path).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / path).write_text("")
    [found] = folder.foreign()
    assert path == found or path.startswith(f"{found}/")


def test_a_link_to_a_folder_elsewhere_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vobox1").symlink_to("elsewhere")
    assert Folder(str(tmp_path / "vobox1")).foreign() == ["a symbolic link"]


@pytest.mark.parametrize(
    ("said", "version", "state", "status", "well"),
    [
        (f"{VERSION} running\n", VERSION, "running", None, True),
        (f"{VERSION} done\n", VERSION, "done", None, True),
        (f"{VERSION} failed 3\n", VERSION, "failed", 3, False),
        ("", None, None, None, False),
        (f"{VERSION}\n", None, None, None, False),
        # What it would not say.
        (f"{VERSION} failed badly\n", None, None, None, False),
        (f"{VERSION} running", None, None, None, False),
        ("root:*:20000:0:99999:7::: running\n", None, None, None, False),
        (f"{VERSION} running\n" * 1000, None, None, None, False),
        ("\x00" * 80, None, None, None, False),
    ],
)
def test_what_the_runner_says(
    tmp_path: Path, said: str, version: str | None, state: str | None, status: int | None, well: bool
) -> None:
    (tmp_path / "state").write_text(said)
    launch = read_launch(str(tmp_path))
    assert (launch.version, launch.state, launch.status, launch.went_well) == (version, state, status, well)


@pytest.mark.parametrize("what", ["pipe", "link", "folder", "socket"])
def test_what_a_container_puts_in_the_place_of_the_runners_word_is_not_read(tmp_path: Path, what: str) -> None:
    """Root of the container can: a pipe would be waited for, a link followed on the host."""
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    elsewhere.write_text(f"{VERSION} running\n")
    if what == "pipe":
        os.mkfifo(state)
    elif what == "link":
        state.symlink_to(elsewhere)
    elif what == "folder":
        state.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(state))
    assert read_launch(str(tmp_path)) == Launch()


def test_a_word_that_the_runner_is_just_writing_is_waited_for(tmp_path: Path) -> None:
    """A shell empties a file before it writes to it."""
    state = tmp_path / "state"
    state.write_text("")
    writer = threading.Timer(0.1, state.write_text, (f"{VERSION} done\n",))
    writer.start()
    launch = read_launch(str(tmp_path))
    writer.join()
    assert (launch.version, launch.state) == (VERSION, "done")

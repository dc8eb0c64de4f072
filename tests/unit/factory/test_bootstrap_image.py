# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bootstrap image: what is in it, when it is made, and which busybox will not do."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.bootstrap_image import (
    COMMANDS,
    ENTRYPOINT,
    BootstrapImageWork,
    Observed,
    Wish,
    account_files,
    layer,
    needs_libraries,
    plan,
)

SCRIPT = "#!/bin/sh\nexec /user_data\n"
ROOT = "/cvmfs/demo.example.org/root"
NAME = "hep.gridbox/bootstrap:1"


def params(**changed: t.Any) -> dict[str, t.Any]:
    return {
        "name": NAME,
        "script": SCRIPT,
        "root": ROOT,
        "busybox": None,
        "state": "present",
        "leaving_factory": "",
        **changed,
    }


WISH = Wish.from_params(params())


def digest(busybox: bytes = b"program", script: str = SCRIPT, root: str = ROOT) -> str:
    return f"sha256:{hashlib.sha256(layer(busybox, script, root)).hexdigest()}"


def image(*layers: str, ours: bool = True) -> dict[str, t.Any]:
    config = {"Entrypoint": ENTRYPOINT if ours else None}
    return {"Id": "sha256:1", "RootFS": {"Layers": list(layers)}, "Config": config, "Size": 9}


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {entry.name: entry for entry in tar}


def test_the_layer_is_the_same_in_every_run_and_another_for_other_files() -> None:
    assert layer(b"program", SCRIPT, ROOT) == layer(b"program", SCRIPT, ROOT)
    assert len({digest(), digest(b"other"), digest(script="#!/bin/sh\n"), digest(root="/cvmfs/a.example.org")}) == 4


def test_what_is_in_the_layer() -> None:
    content = layer(b"program", SCRIPT, ROOT)
    found = members(content)
    assert {entry.mtime for entry in found.values()} == {0}
    assert {entry.uname + entry.gname for entry in found.values()} == {""}
    for number, name in enumerate(found):  # a folder before what is in it
        assert "/" not in name or name.rpartition("/")[0] in list(found)[:number]
    # What the script links must not be there before.
    assert not {"bin", "lib", "lib64", "opt", "sbin", "usr/bin", "etc/passwd"} & set(found)
    assert {oct(found[name].mode) for name in ("tmp", "var/tmp")} == {"0o1777"}
    assert found["root"].mode == 0o700
    for command in COMMANDS:
        assert found[f"gridbox/bin/{command}"].linkname == "../busybox"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for name, expected in (("gridbox/hierarchy", f"{ROOT}\n"), ("init", SCRIPT), ("gridbox/busybox", "program")):
            file = tar.extractfile(name)
            assert file is not None and file.read().decode() == expected
    assert found["init"].mode == found["gridbox/busybox"].mode == 0o755


def test_accounts_have_numbers_groups_and_homes_of_their_own() -> None:
    found = members(layer(b"", SCRIPT, ROOT))
    files = {name: [line.split(":") for line in text.splitlines()] for name, text in account_files().items()}
    names = ["root", "pilot", *(f"payload{number:02d}" for number in range(10))]
    assert [[line[0] for line in lines] for lines in files.values()] == [names] * 3
    assert len({line[2] for line in files["passwd"]}) == len(names)
    assert {line[1] for line in files["shadow"]} == {"*"}
    for name, _x, user, group, _gecos, home, shell in files["passwd"][1:]:
        entry = found[home.lstrip("/")]
        assert (home, shell, str(entry.uid), str(entry.gid)) == (f"/home/{name}", "/bin/sh", user, group)
        assert entry.mode & 0o007 == 0
    homes = {name for name in found if name.startswith("home/")}
    assert homes == {f"home/{name}" for name in names[1:]}
    assert {line[0]: line[3] for line in files["group"]} == {
        name: "pilot" if name.startswith("payload") else "" for name in names
    }


def test_it_is_made_when_it_is_not_there_or_is_another() -> None:
    for there, reason in (
        (None, "there is none"),
        (image(digest(b"old")), "it is made of other files"),
        (image(digest(), digest()), "it is made of other files"),
        (image(digest(), ours=False), "it is made of other files"),
    ):
        made = plan(WISH, Observed(there, b"program"))
        assert [(step.action, step.target, step.reason) for step in made.steps] == [("import_image", NAME, reason)]
        assert made.after == {"image": NAME, "layer": digest()}
        assert made.before["image"] == (NAME if there else "")
    assert plan(WISH, Observed(image(digest()), b"program")).steps == ()


def test_absent_removes_it_and_those_before_it() -> None:
    gone = Wish.from_params(params(state="absent", script=None))
    made = plan(gone, Observed(image(digest()), left=("sha256:0",)))
    assert [(step.action, step.target) for step in made.steps] == [("remove_image", NAME), ("remove_image", "sha256:0")]
    assert plan(gone, Observed(None)).steps == ()
    work = BootstrapImageWork(gone, DockerApi("unix:///none", 1))
    with pytest.raises(RefusedError, match=r"containers were made from it: a-00\.example\.org\. Drain the factory"):
        work.preflight(made, Observed(image(digest()), users=("a-00.example.org",)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "Bootstrap"}, "name: got 'Bootstrap'"),
        ({"script": "exec /user_data"}, "script: got 'exec /user_data'"),
        ({"root": "/cvmfs"}, "root: got '/cvmfs'"),
        ({"root": "/srv/root"}, "root: got '/srv/root'"),
        ({"root": "cvmfs/a.example.org"}, "root: got 'cvmfs/a.example.org'"),
        ({"root": "/cvmfs/Other/root"}, "root: got '/cvmfs/Other/root'"),
        ({"root": "/cvmfs/a.example.org/../b"}, "root: got '/cvmfs/a.example.org/../b'"),
        ({"root": "/cvmfs/a.example.org/a\nb"}, "root: got '/cvmfs/a.example.org/a\\nb'"),
        ({"busybox": "busybox"}, "busybox: got 'busybox'"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changed: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        Wish.from_params(params(**changed))
    assert sentence in str(refused.value)


def elf(wide: bool, order: str, *kinds: int) -> bytes:
    """A program's header and its segments' kinds."""
    head, size, at = (64, 56, 32) if wide else (52, 32, 28)
    made = bytearray(head + size * len(kinds) + 16)
    made[:6] = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2])
    struct.pack_into(f"{order}{'Q' if wide else 'I'}", made, at, head)
    struct.pack_into(f"{order}HH", made, 54 if wide else 42, size, len(kinds))
    for number, kind in enumerate(kinds):
        struct.pack_into(f"{order}I", made, head + number * size, kind)
    return bytes(made)


def test_a_program_that_needs_libraries_is_known_by_its_header() -> None:
    for wide in (True, False):
        for order in "<>":
            assert needs_libraries(elf(wide, order, 6, 3, 1))
            assert not needs_libraries(elf(wide, order, 1, 1, 4))
    assert needs_libraries(b"#!/bin/sh\nexec busybox" + b" " * 64)
    assert needs_libraries(b"\x7fELF")
    assert needs_libraries(Path("/bin/ls").read_bytes())


def test_a_busybox_that_will_not_do_is_refused(tmp_path: Path) -> None:
    def program(path: str) -> str:
        work = BootstrapImageWork(Wish.from_params(params(busybox=path)), DockerApi("unix:///none", 1))
        with pytest.raises(RefusedError) as refused:
            work._program()
        return str(refused.value)

    assert "/none cannot be read (No such file or directory). Install the package busybox-static." in program("/none")
    assert "/bin/ls does not run without libraries" in program("/bin/ls")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs for hosts: the same bytes from the same sources, and nothing missing in them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import LIBRARY, PACKAGE, build

MAIN = "reconcile.program"


def names(program: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(program)).namelist()


def test_the_bytes_follow_from_the_sources_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(MAIN, "/usr/bin/python3")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    os.umask(0o077)
    try:
        assert build(MAIN, "/usr/bin/python3") == first
    finally:
        os.umask(0o022)
        monkeypatch.undo()
        time.tzset()
    assert first.startswith(b"#!/usr/bin/python3 -I\n")
    assert build(MAIN, "/usr/bin/python3.11") != first


def test_it_holds_what_it_imports_and_no_more(tmp_path: Path) -> None:
    for name, text in {
        "one.py": f"from {PACKAGE}.two import x\nfrom {PACKAGE}.deep import three\nimport json\n",
        "two.py": f"x = 1\ndef f():\n    from {PACKAGE}.deep.four import y\n    return y\n",
        "deep/three.py": "",
        "deep/four.py": "y = 2\n",
        "deep/five.py": "",
        "six.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    held = {name.removeprefix(f"{PACKAGE.replace('.', '/')}/") for name in names(build("one", "python3", tmp_path))}
    assert held - {"__main__.py"} >= {"one.py", "two.py", "deep/three.py", "deep/four.py", "deep/__init__.py"}
    assert not held & {"deep/five.py", "six.py"}


def test_it_runs_far_from_the_collection(tmp_path: Path) -> None:
    """Isolated, so all of ours it imports, at once or later, comes out of the file."""
    program = tmp_path / "program"
    program.write_bytes(build(MAIN, sys.executable))
    program.chmod(0o755)
    done = subprocess.run([str(program), "--help"], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0 and done.stdout.startswith("usage: gridbox-reconcile ")
    modules = [
        name[: -len(".py")].replace("/", ".") for name in names(program.read_bytes())
        if name.startswith(PACKAGE.replace(".", "/")) and not name.endswith("__init__.py")
    ]  # fmt: skip
    code = (
        "import importlib, sys\nsys.path.insert(0, sys.argv[1])\nfor one in sys.argv[2:]: importlib.import_module(one)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(program), *modules],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(modules) < len(list(LIBRARY.rglob("*.py"))) / 2

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build a program for hosts from the collection's own library: a zipapp (PEP 441) of what the program imports.

The same sources make the same bytes, whoever builds it when and where: so a host's copy changes with them only.
"""

from __future__ import annotations

import ast
import io
import zipfile
from pathlib import Path

PACKAGE = "ansible_collections.hep.gridbox.plugins.module_utils"
LIBRARY = Path(__file__).resolve().parents[1] / "module_utils"

#: The earliest time that the format knows.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def build(main: str, python: str, library: Path = LIBRARY) -> bytes:
    """The program's bytes.

    :param main: a module of the library, such as ``reconcile.program``; its function ``main`` is run.
    :param python: path of the interpreter on the host.
    """
    files = {f"{PACKAGE.replace('.', '/')}/{name}": (library / name).read_bytes() for name in _needed(main, library)}
    for name in list(files):
        for folder in Path(name).parents:
            if folder.name:
                files.setdefault(f"{folder.as_posix()}/__init__.py", b"")
    files["__main__.py"] = f"import sys\n\nfrom {PACKAGE}.{main} import main\n\nsys.exit(main())\n".encode()
    packed = io.BytesIO()
    # Not compressed: what a compressor writes depends on its version.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return f"#!{python} -I\n".encode() + packed.getvalue()


def _needed(main: str, library: Path) -> set[str]:
    """The files of the library that a module imports, at its top or in a function, and those import; itself too."""
    needed: set[str] = set()
    waiting = [main]
    while waiting:
        module = waiting.pop()
        path = f"{module.replace('.', '/')}.py"
        if path in needed or not (library / path).is_file():
            continue  # a name of a module, not a module
        needed.add(path)
        for node in ast.walk(ast.parse((library / path).read_bytes(), path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                base = (node.module or "")[len(PACKAGE) + 1 :]
                waiting += [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
    return needed

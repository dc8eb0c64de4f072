# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as it is published: built, imported, installed, and used from there."""

from __future__ import annotations

import json
import re
import tarfile
import typing as t
from pathlib import Path

import pytest

from tests.gate.background import Job
from tests.gate.tools import NAME, NAMESPACE, ROOT, demand, environment, tail

pytestmark = pytest.mark.slow

COLLECTION = f"{NAMESPACE}.{NAME}"
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The tarball installed where nothing else is, and the environment that sees only that."""
    folder = tmp_path_factory.mktemp("installed")
    # Without the second, ansible would find the checkout in the virtual environment as well.
    env = environment(
        ANSIBLE_COLLECTIONS_PATH=str(folder),
        ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false",
        ANSIBLE_HOME=str(folder / "home"),
    )
    demand("ansible-galaxy", "collection", "install", "--offline", "-p", str(folder), str(tarball), seconds=60, env=env)
    return folder / "ansible_collections" / NAMESPACE / NAME, env


def test_the_tarball_holds_what_people_need_and_nothing_of_the_workshop(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    tops = {name.split("/")[0] for name in names}
    assert {"README.md", "LICENSE", "MANIFEST.json", "meta", "playbooks", "plugins", "roles"} <= tops
    assert not tops & {".cache", ".ci", ".git", ".venv"}


def test_galaxy_would_import_it(galaxy_import: Job) -> None:
    status = galaxy_import.wait(seconds=180)
    output = galaxy_import.output()
    assert status == 0, tail(re.sub(r"(?m)^ *Loading .*\n", "", output))
    complaints = [line for line in output.splitlines() if line.startswith(("ERROR", "WARNING"))]
    assert not complaints, "\n".join(complaints)


def test_the_documentation_of_all_that_is_installed(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, env = installed
    modules: dict[str, t.Any] = {}
    for kind in ("module", "role"):
        listed = json.loads(
            demand("ansible-doc", "--json", "-t", kind, "-l", COLLECTION, seconds=60, cwd=tmp_path, env=env)
        )
        source = {"module": folder.glob("plugins/modules/[a-z]*.py"), "role": folder.glob("roles/*")}[kind]
        assert sorted(listed) == sorted(f"{COLLECTION}.{path.stem}" for path in source)
        modules[kind] = listed
    pages = json.loads(demand("ansible-doc", "--json", *modules["module"], seconds=60, cwd=tmp_path, env=env))
    for page in pages.values():
        assert page["doc"]["filename"].startswith(str(folder))


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_is_found_by_name(playbook: str, installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, env = installed
    demand(
        "ansible-playbook", "-i", str(folder / "inventories/demo"), f"{COLLECTION}.{playbook}", "--syntax-check",
        seconds=60, cwd=tmp_path, env=env,
    )  # fmt: skip

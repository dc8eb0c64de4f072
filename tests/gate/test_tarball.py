# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as it is published: built, imported, installed, and used by the newest and the oldest core."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gate.background import Job
from tests.gate.tools import BIN, CACHE, NAME, NAMESPACE, ROOT, demand, environment, run_tool, tail

pytestmark = pytest.mark.slow

COLLECTION = f"{NAMESPACE}.{NAME}"
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))

#: The floor in meta/runtime.yml; the newest is the one in requirements.txt.
OLDEST = "ansible-core==2.17.14"


@dataclass(frozen=True)
class Controller:
    """A machine where the tarball is installed and nothing else of ours is.

    :ivar programs: the folder of ``ansible-playbook`` and its kin.
    :ivar collection: where the tarball was installed.
    :ivar folder: to run in; not the checkout.
    """

    programs: Path
    collection: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        return demand(str(self.programs / program), *arguments, seconds=120, cwd=self.folder, env=self.environment())

    def environment(self) -> dict[str, str]:
        # Without the second, ansible would find the checkout in the virtual environment as well.
        return environment(
            ANSIBLE_COLLECTIONS_PATH=str(self.collection.parents[2]),
            ANSIBLE_COLLECTIONS_SCAN_SYS_PATH="false",
            ANSIBLE_HOME=str(self.folder / "home"),
        )


def programs_of(core: str) -> Path:
    """The programs of the newest core we use, or of the oldest, which has an environment of its own in the cache."""
    if core == "newest":
        return BIN
    folder = CACHE / OLDEST.replace("==", "-")
    if not (folder / "bin/ansible-playbook").exists():
        demand(sys.executable, "-m", "venv", "--clear", str(folder), seconds=60)
        demand(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", OLDEST, seconds=180)
    return folder / "bin"


@pytest.fixture(scope="module", params=["newest", "oldest"])
def controller(request: pytest.FixtureRequest, tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    installed, folder = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    made = Controller(programs_of(request.param), installed / "ansible_collections" / NAMESPACE / NAME, folder)
    made.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(installed), str(tarball))
    return made


def test_the_tarball_holds_what_people_need_and_nothing_of_the_workshop(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        tops = {name.split("/")[0] for name in archive.getnames()}
    missing = {"README.md", "LICENSE", "MANIFEST.json", "inventories", "meta", "playbooks", "plugins", "roles"} - tops
    assert not missing, f"missing: {', '.join(sorted(missing))}"
    assert not tops & {".cache", ".ci", ".git", ".venv"}


def test_galaxy_would_import_it(galaxy_import: Job) -> None:
    status = galaxy_import.wait(seconds=180)
    output = galaxy_import.output()
    assert status == 0, tail(re.sub(r"(?m)^ *Loading .*\n", "", output))
    complaints = [line for line in output.splitlines() if line.startswith(("ERROR", "WARNING"))]
    assert not complaints, "\n".join(complaints)


def test_everything_installed_is_documented(controller: Controller) -> None:
    listed: dict[str, dict[str, t.Any]] = {}
    for kind, pattern in (("module", "plugins/modules/[a-z]*.py"), ("role", "roles/*")):
        listed[kind] = json.loads(controller.run("ansible-doc", "--json", "-t", kind, "-l", COLLECTION))
        there = {f"{COLLECTION}.{path.stem}" for path in controller.collection.glob(pattern)}
        assert there
        assert set(listed[kind]) == there
    pages = json.loads(controller.run("ansible-doc", "--json", *listed["module"]))
    for page in pages.values():
        assert page["doc"]["filename"].startswith(str(controller.collection))


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_is_found_by_name(playbook: str, controller: Controller) -> None:
    inventory = str(controller.collection / "inventories/demo")
    controller.run("ansible-playbook", "-i", inventory, f"{COLLECTION}.{playbook}", "--syntax-check")


def test_a_module_runs_and_refuses_in_a_sentence(controller: Controller) -> None:
    """From the controller to the host's Python and back, with an engine that is not there."""
    done = run_tool(
        str(controller.programs / "ansible"), "localhost", "-i", "localhost,", "-c", "local",
        "-e", f"ansible_python_interpreter={sys.executable}", "-m", f"{COLLECTION}.macvlan_net", "--check",
        "-a", json.dumps({"name": "site", "parent": "site0", "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"},
                          "engine_url": "unix:///nowhere/docker.sock"}),
        seconds=120, cwd=controller.folder, env=controller.environment(),
    )  # fmt: skip
    assert done.returncode != 0
    assert "engine_url" in done.stdout, tail(done.stdout)
    assert "unix:///nowhere/docker.sock" in done.stdout, tail(done.stdout)
    assert "Traceback" not in done.stdout, tail(done.stdout)

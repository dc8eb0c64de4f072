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
from pathlib import Path

import pytest

from tests.gate.background import Job
from tests.gate.tools import BIN, CACHE, NAME, NAMESPACE, ROOT, Controller, demand, environment, run_tool, stage, tail

pytestmark = pytest.mark.slow

COLLECTION = f"{NAMESPACE}.{NAME}"
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))

#: The floor in meta/runtime.yml; the newest is the one in requirements.txt.
OLDEST = "ansible-core==2.17.14"


def programs_of(core: str) -> Path:
    """The programs of the newest core we use, or of the oldest, which has an environment of its own in the cache."""
    if core == "newest":
        return BIN
    folder = CACHE / OLDEST.replace("==", "-")
    if not (folder / "bin/ansible-playbook").exists():
        demand(sys.executable, "-m", "venv", "--clear", str(folder))
        demand(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", OLDEST)
    return folder / "bin"


@pytest.fixture(scope="module", params=["newest", "oldest"])
def controller(request: pytest.FixtureRequest, tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    return Controller.with_tarball(tarball, tmp_path_factory.mktemp("controller"), programs_of(request.param))


def test_the_tarball_holds_what_people_need_and_nothing_of_the_workshop(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        tops = {name.split("/")[0] for name in archive.getnames()}
    missing = {"README.md", "LICENSE", "MANIFEST.json", "inventories", "meta", "playbooks", "plugins", "roles"} - tops
    assert not missing, f"missing: {', '.join(sorted(missing))}"
    assert not tops & {".cache", ".ci", ".git", ".venv"}


def test_galaxy_would_import_it(galaxy_import: Job) -> None:
    status = galaxy_import.wait()
    output = galaxy_import.output()
    assert status == 0, tail(re.sub(r"(?m)^ *Loading .*\n", "", output))
    complaints = [line for line in output.splitlines() if line.startswith(("ERROR", "WARNING"))]
    assert not complaints, "\n".join(complaints)


def test_it_installs_from_a_repository_of_git(tmp_path: Path) -> None:
    """As docs/first-site.md has it, with another address."""
    sources = stage(tmp_path / "copy")
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "All of it"]):
        demand("git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments, cwd=sources)
    env = environment(ANSIBLE_HOME=str(tmp_path / "home"))
    demand(
        "ansible-galaxy", "collection", "install", f"git+file://{sources}", "-p", str(tmp_path / "there"),
        cwd=tmp_path, env=env,
    )  # fmt: skip
    assert (tmp_path / "there/ansible_collections" / NAMESPACE / NAME / "MANIFEST.json").is_file()


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
        cwd=controller.folder, env=environment(**controller.variables()),
    )  # fmt: skip
    assert done.returncode != 0
    assert "engine_url" in done.stdout, tail(done.stdout)
    assert "unix:///nowhere/docker.sock" in done.stdout, tail(done.stdout)
    assert "Traceback" not in done.stdout, tail(done.stdout)

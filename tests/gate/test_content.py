# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection holds, and what it must not."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.gate.tools import ROOT, files_of_the_checkout

#: Nothing of the machine where something was written, and no registry by its name: sites have their own. The letter in
#: brackets keeps this file from being found itself.
FORBIDDEN = [
    r"(?<![\w.{}/-])/wor[k]/",
    r"/opt/pyp[i]",
    r"\bpyp[i]\.org",
    r"pythonhoste[d]\.org",
    r"\bquay\.i[o]\b",
    r"\bghcr\.i[o]\b",
    r"\b(hub|registry|registry-1|index|auth)\.docker\.[c]?i?om?\b",
    r"\bdocker\.io[/]",
    r"galaxy\.ansible\.[c]om",
]


def test_no_path_of_a_machine_and_no_registry() -> None:
    pattern = re.compile("|".join(FORBIDDEN))
    found = []
    for name in files_of_the_checkout():
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            match = pattern.search(line)
            if match:
                found.append(f"{name}:{number}: {match.group()}")
    assert not found, "\n".join(found)


def test_sanity_ignores_nothing() -> None:
    ignored = [
        str(path.relative_to(ROOT)) for path in (ROOT / "tests/sanity").glob("ignore*") if path.read_text().strip()
    ]
    assert not ignored


def test_ansible_lint_skips_nothing_in_the_files() -> None:
    """A rule that does not fit is named once, with its reason, in .ansible-lint."""
    skips = re.compile(r"#\s*noqa:?\s*[a-z]+(-[a-z]+)*(\[[\w-]+\])?\s*$")
    found = [
        f"{name}:{number}"
        for name in files_of_the_checkout()
        if name.suffix in {".yml", ".yaml"} and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if skips.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["site", "vobox", "status", "audit", "remove"])
def test_the_playbook_is_there(name: str) -> None:
    path = ROOT / "playbooks" / f"{name}.yml"
    assert path.is_file(), f"no {path.relative_to(ROOT)}"
    plays = yaml.safe_load(path.read_text())
    assert plays
    for play in plays:
        assert play.get("name"), "a play without a name"


def test_python_files_say_their_licence() -> None:
    without = [
        str(name)
        for name in files_of_the_checkout()
        if name.suffix == ".py" and (ROOT / name).stat().st_size
        and "SPDX-License-Identifier: GPL-3.0-or-later" not in (ROOT / name).read_text()[:600]
    ]  # fmt: skip
    assert not without, "\n".join(without)


def test_continuous_integration_runs_what_the_readme_says() -> None:
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands[-1] == "exec make test"
    assert re.search(r"^ +make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)

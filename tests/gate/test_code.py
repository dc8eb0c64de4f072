# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Code: style, types, shell."""

from __future__ import annotations

from pathlib import Path

from tests.gate.tools import CACHE, NAME, NAMESPACE, ROOT, demand, environment, files_of_the_checkout, run_tool, tail


def test_ruff_finds_nothing() -> None:
    demand("ruff", "check", "--output-format", "concise", ".")


def test_python_is_formatted() -> None:
    demand("ruff", "format", "--check", ".")


def test_types_are_complete() -> None:
    """mypy in strict mode, on the tests as well: they call the library as it says it wants to be called."""
    # mypy wants the collection under its own name, elsewhere than in site-packages.
    tree = CACHE / "mypy-tree"
    link = tree / "ansible_collections" / NAMESPACE / NAME
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT)
    done = run_tool(
        "mypy", "--no-color-output", "-p", f"ansible_collections.{NAMESPACE}.{NAME}.plugins", "-p", "tests",
        env=environment(MYPYPATH=str(tree)),
    )  # fmt: skip
    assert done.returncode == 0, tail(done.stdout).replace(f"{link.relative_to(ROOT)}/", "")


def shell_scripts() -> list[Path]:
    """Every file that says by its first line that a shell runs it."""
    found = []
    for name in files_of_the_checkout():
        path = ROOT / name
        if path.is_symlink() or not path.is_file() or path.suffix == ".j2":
            continue
        with path.open("rb") as file:
            first = file.readline(80)
        if first.startswith(b"#!") and first.split()[-1].rpartition(b"/")[2] in (b"sh", b"bash", b"dash"):
            found.append(name)
    return found


def test_shell_scripts_are_clean() -> None:
    scripts = [str(name) for name in shell_scripts()]
    assert ".ci/run" in scripts
    demand("shellcheck", "--", *scripts)


def test_yaml_is_clean() -> None:
    demand("yamllint", "--strict", "--format", "parsable", ".")


def test_ansible_lint_finds_nothing() -> None:
    """The production profile, on roles, playbooks, scenarios and the examples in the documentation."""
    demand("ansible-lint", "--offline", "--profile", "production", "--strict", "--nocolor", "-qq")

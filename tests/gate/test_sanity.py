# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``ansible-test sanity``, with nothing ignored."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest

from tests.gate.interpreters import HOST_PYTHONS, find_interpreter
from tests.gate.sanity import WORKSHOP, sanity_command, sanity_environment
from tests.gate.tools import run_tool, stage, tail

pytestmark = pytest.mark.slow

#: What must have run; ansible-test leaves a test out with no more than a warning when something it needs is missing.
TESTS = {
    "action-plugin-docs", "ansible-doc", "changelog", "compile", "empty-init", "ignores", "import", "line-endings",
    "no-assert", "no-get-exception", "no-illegal-filenames", "no-smart-quotes", "pep8", "pylint", "replace-urlopen",
    "runtime-metadata", "shebang", "shellcheck", "symlinks", "use-argspec-type-path", "validate-modules", "yamllint",
}  # fmt: skip

#: A module whose documentation and arguments differ.
FAULTY = '''#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: faulty
short_description: Says other than it does
version_added: 0.1.0
author: the hep.gridbox authors (@hep)
description: [Is there to be found.]
options:
  name:
    description: [A name.]
    type: str
    required: true
"""
EXAMPLES = r"""
- name: Try
  hep.gridbox.faulty:
    name: a
"""
RETURN = r""" # """

from ansible.module_utils.basic import AnsibleModule

AnsibleModule({"name": {"type": "str"}})
'''


def test_sanity(sanity: t.Any) -> None:
    status = sanity.sanity.wait()
    output = sanity.sanity.output()
    assert status == 0, "\n".join(re.findall(r"(?m)^(?:ERROR|FATAL): .*", output)) or tail(output)
    ran = set(re.findall(r'^Running sanity test "([\w-]+)"', output, re.MULTILINE))
    assert ran >= TESTS, f"did not run: {', '.join(sorted(TESTS - ran))}\n{tail(output)}"
    for version in HOST_PYTHONS:
        if find_interpreter(version):
            assert f'Running sanity test "import" on Python {version}' in output


@pytest.mark.fleet
def test_sanity_of_the_workshop(tmp_path: Path) -> None:
    """The tests and benchmarks, which ``test_sanity`` leaves out."""
    staged = stage(tmp_path)
    files = [str(path.relative_to(staged)) for folder in WORKSHOP for path in sorted((staged / folder).rglob("*.py"))]
    done = run_tool(*sanity_command(*files), cwd=staged, env=sanity_environment())
    assert done.returncode == 0, "\n".join(re.findall(r"(?m)^(?:ERROR|FATAL): .*", done.stdout)) or tail(done.stdout)


def test_sanity_finds_a_planted_fault(sanity: t.Any, tmp_path: Path) -> None:
    """The copy is really looked at: a module whose documentation lies is found."""
    sanity.sanity.wait()  # whose environments are used
    staged = stage(tmp_path)
    (staged / "plugins/modules/faulty.py").write_text(FAULTY)
    done = run_tool(
        *sanity_command("--test", "validate-modules", "plugins/modules/faulty.py"),
        cwd=staged, env=sanity_environment(),
    )  # fmt: skip
    assert done.returncode != 0, f"the fault was not found:\n{tail(done.stdout)}"
    assert "doc-required-mismatch" in done.stdout, tail(done.stdout)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Code on hosts: the Pythons it runs on, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.gate.interpreters import HOST_PYTHONS, find_interpreter
from tests.gate.test_documentation import MODULES
from tests.gate.tools import NAME, NAMESPACE, ROOT, demand, environment

#: Libraries that cost more than a module's work, and may be missing on a host.
LAZY = ("docker", "pyroute2", "requests", "yaml")

IMPORT = f"""
import importlib, sys
importlib.import_module("ansible_collections.{NAMESPACE}.{NAME}.plugins.modules." + sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""

COMPILE = """
import sys
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        compile(file.read(), name, "exec", dont_inherit=True)
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_module_starts_without_the_slow_libraries(module: str) -> None:
    loaded = demand(sys.executable, "-c", IMPORT, module, *LAZY).split()
    assert not loaded, f"importing the module imports {', '.join(loaded)}; import it in the function that needs it"


def test_looking_at_slots_takes_nothing_of_what_fills_them() -> None:
    """Most runs of ``vacuum_slot`` find all as it should be; what fills slots takes longer to import than they take."""
    library = f"ansible_collections.{NAMESPACE}.{NAME}.plugins.module_utils"
    fills = ("asyncio", "urllib.request", f"{library}.factory.life", f"{library}.vacuum.decision")
    loaded = demand(sys.executable, "-c", IMPORT, "vacuum_slot", *fills).split()
    assert not loaded, f"importing vacuum_slot imports {', '.join(loaded)}"


@pytest.mark.parametrize("version", HOST_PYTHONS)
def test_code_on_hosts_compiles(version: str) -> None:
    python = find_interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    files = [str(path) for folder in ("modules", "module_utils") for path in (ROOT / "plugins" / folder).rglob("*.py")]
    done = subprocess.run(
        [python, "-c", COMPILE, *files], check=False, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]

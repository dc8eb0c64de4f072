# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a module of the collection as Ansible does on a host, minus the connection: arguments in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

COLLECTION = "ansible_collections.hep.gridbox.plugins.modules"

# What ansible-core's own wrapper does before it runs a module's code: hand over the arguments and the profile.
_START = """
import json, runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


class ModuleFailed(AssertionError):
    """The module failed; ``result`` is what it said."""

    def __init__(self, result: dict[str, t.Any]) -> None:
        self.result = result
        super().__init__(json.dumps(result, indent=1))


def start_module(
    name: str, arguments: dict[str, t.Any], netns: str | None = None, check: bool = False, diff: bool = True
) -> subprocess.Popen[bytes]:
    """Start a module and return at once; for tests that kill it."""
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    process = subprocess.Popen(
        [*inside, sys.executable, "-c", _START, f"{COLLECTION}.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "DOCKER_HOST"},
    )
    assert process.stdin is not None
    payload = {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff}
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": payload}).encode())
    process.stdin.close()
    process.stdin = None
    return process


def run_module(
    name: str,
    arguments: dict[str, t.Any],
    netns: str | None = None,
    check: bool = False,
    diff: bool = True,
    timeout: float = 180,
) -> dict[str, t.Any]:
    """Run a module to its end and return its result.

    :raises ModuleFailed: if it failed.
    """
    process = start_module(name, arguments, netns, check, diff)
    out, err = process.communicate(timeout=timeout)
    try:
        result = json.loads(out)
    except ValueError:
        raise AssertionError(f"{name} printed no JSON: {out!r} {err.decode(errors='replace')}") from None
    if result.get("failed") or process.returncode:
        raise ModuleFailed(result)
    return t.cast("dict[str, t.Any]", result)

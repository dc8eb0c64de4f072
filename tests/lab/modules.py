# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a module of the collection as Ansible does on a host, minus the connection: arguments in, JSON out."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.host.namespace import enter_network

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


def _payload(arguments: dict[str, t.Any], check: bool, diff: bool) -> bytes:
    """What a module reads."""
    given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff}
    return json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode()


def _environment() -> dict[str, str]:
    """Ours, without the engine that a person may have chosen."""
    return {key: value for key, value in os.environ.items() if key != "DOCKER_HOST"}


def start_module(
    name: str,
    arguments: dict[str, t.Any],
    netns: str | None = None,
    check: bool = False,
    diff: bool = True,
    inside: t.Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a module and return at once; for tests that kill it, and for benchmarks.

    :param inside: the command that runs it, if another one does.
    """
    into = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    process = subprocess.Popen(
        [*into, *inside, sys.executable, "-c", _START, f"{COLLECTION}.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    assert process.stdin is not None
    process.stdin.write(_payload(arguments, check, diff))
    process.stdin.close()
    process.stdin = None
    return process


#: A whole run starts modules a thousand times. Most of what a start costs is the import of libraries that are not ours,
#: so modules that run to their end are forked from a process that has them. What is imported when, :func:`start_module`
#: and all that goes through Ansible show.
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["ansible.module_utils.basic", "docker", "pyroute2", __name__])


def _run(name: str, payload: bytes, netns: str | None, environment: dict[str, str], outputs: tuple[str, str]) -> None:
    """In the new process: be the module."""
    from ansible.module_utils import basic

    os.environ.clear()
    os.environ.update(environment)
    if netns:
        enter_network(f"/run/netns/{netns}")
    for number, path in enumerate(outputs, 1):
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = payload, "legacy"
    runpy.run_module(f"{COLLECTION}.{name}", run_name="__main__", alter_sys=True)


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
    payload = _payload(arguments, check, diff)
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        process = _WARM.Process(
            target=_run, args=(name, payload, netns, _environment(), (out.name, err.name))
        )  # fmt: skip
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{name} had not ended after {timeout:g} s: {err.read().decode(errors='replace')}")
        printed, errors = out.read(), err.read()
    try:
        result = json.loads(printed)
    except ValueError:
        raise AssertionError(f"{name} printed no JSON: {printed!r} {errors.decode(errors='replace')}") from None
    if result.get("failed") or process.exitcode:
        raise ModuleFailed(result)
    return t.cast("dict[str, t.Any]", result)

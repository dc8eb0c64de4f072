# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run tasks and roles on a lab's host as Ansible runs them at a site."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml


def kept_in(folder: Path) -> dict[str, str]:
    """Variables with which Ansible keeps its files in a folder, and none in a person's home; and takes fewer steps."""
    return {
        "ANSIBLE_HOME": str(folder), "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
        "ANSIBLE_ASYNC_DIR": str(folder / "async"), "ANSIBLE_PIPELINING": "true",
    }  # fmt: skip


def play(netns: str, folder: Path, *options: str, seconds: float = 300, **keywords: t.Any) -> str:
    """Run one play whose modules run in a network namespace, and return what Ansible printed.

    :param folder: for the playbook, and for all that Ansible would keep in a person's home.
    :param options: of ``ansible-playbook``, such as ``--check``.
    :param keywords: of the play: ``tasks``, ``roles``, ``vars``, ``module_defaults``.
    :raises AssertionError: if it failed, with its output.
    """
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{netns} {sys.executable} "$@"\n')
    python.chmod(0o755)
    variables = {**keywords.pop("vars", {}), "ansible_python_interpreter": str(python)}
    whole = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, **keywords}
    playbook = folder / "play.yml"
    playbook.write_text(yaml.safe_dump([whole], sort_keys=False))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", *options, str(playbook)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False,
        env={**os.environ, **kept_in(folder / "ansible"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout

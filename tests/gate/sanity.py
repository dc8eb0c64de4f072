# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``ansible-test sanity`` on a staged copy, without containers; it downloads from the package index only."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import ansible_test

from tests.gate.interpreters import folder_of_interpreters
from tests.gate.tools import BIN, CACHE, demand, environment

#: What no site runs. ruff and mypy look at it in every run, ansible-test in `make test-fleet`: it takes as long as all
#: the rest.
WORKSHOP = ("bench", "tests")

#: ansible-test makes each of its environments, more than a dozen, with a script that it would download. The pip that
#: comes with Python does the same: ``ensurepip`` brings it, and it installs what was asked for. ``ensurepip`` wipes
#: pip's settings from the environment, hence the copy. It is done once for each Python, and kept beside the script.
GET_PIP = """\
import ensurepip
import os
import shutil
import subprocess
import sys
import sysconfig

settings = dict(os.environ)
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
here = sysconfig.get_path("purelib")
name = "pip-" + sys.implementation.cache_tag + "".join(sorted(word for word in wanted if "=" in word))
kept = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
if not os.path.isdir(kept):
    ensurepip.bootstrap(default_pip=True)
    status = subprocess.call([sys.executable, "-m", "pip", "install"] + wanted, env=settings)
    if status:
        sys.exit(status)
    shutil.copytree(here, kept + ".new", dirs_exist_ok=True)  # a run that was ended has left it
    os.rename(kept + ".new", kept)
else:
    shutil.copytree(kept, here, dirs_exist_ok=True)
"""


def home() -> Path:
    """A home folder for ansible-test, with the stand-in for its download and with pip's settings.

    ansible-test keeps its environments in the home folder, and lets only those of pip's settings through that are in a
    file.
    """
    folder = CACHE / "ansible-test"
    (folder / ".config/pip").mkdir(parents=True, exist_ok=True)
    (folder / ".config/pip/pip.conf").write_text(pip_settings())
    cache = folder / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)
    return folder


def pip_versions() -> list[str]:
    """The versions of pip for which this ansible-test would download its script."""
    source = Path(next(iter(ansible_test.__path__))) / "_internal/python_requirements.py"
    versions = re.findall(r"""\bpip=['"]([\d.]+)['"]""", source.read_text())
    assert versions, f"{source} names no version of pip; how ansible-test makes its environments has changed"
    return versions


def pip_settings() -> str:
    """pip's settings, from wherever it has them, as the text of one configuration file."""
    # Python compiles what is imported, which is little of what is installed.
    settings = {"cache-dir": demand(sys.executable, "-m", "pip", "cache", "dir").strip(), "no-compile": "true"}
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if proxy:
        settings["proxy"] = proxy
    for line in demand(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _equals, value = line.partition("=")
        settings[key.rpartition(".")[2]] = ast.literal_eval(value)
    lines = [f"{key} = {' '.join(value.split())}" for key, value in settings.items()]
    return "\n".join(["[global]", *lines, ""])


def sanity_environment() -> dict[str, str]:
    """The environment of ansible-test: its own home, real interpreters, the tools of the virtual environment."""
    interpreters = folder_of_interpreters(CACHE / "interpreters")
    env = environment(HOME=str(home()), PYTHONDONTWRITEBYTECODE="")
    env["PATH"] = f"{interpreters}:{env['PATH']}"
    return env


def sanity_command(*arguments: str) -> list[str]:
    return [str(BIN / "ansible-test"), "sanity", "--local", "--color", "no", "--truncate", "0", *arguments]

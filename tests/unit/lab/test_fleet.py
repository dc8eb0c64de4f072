# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person reads when a fleet is up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.gate.tools import ROOT
from tests.lab.fleet import Fleet, greet


def test_the_way_in_works_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell without the virtual environment, whose ``python`` does not know the collection."""
    monkeypatch.chdir(ROOT)
    fleet = Fleet("play")
    fleet.file = tmp_path / "hosts.json"
    fleet.file.write_text('[{"name": "host1", "number": 1}]')
    printed = re.findall(r"(\S+) -m tests\.lab\.fleet (ssh play host1|inventory play)", greet(fleet))
    assert [arguments for _python, arguments in printed] == ["ssh play host1", "inventory play"]
    for python, _arguments in printed:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{python} -c 'import tests.lab.fleet'"],
            env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

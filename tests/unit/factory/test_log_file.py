# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from ansible_collections.hep.gridbox.plugins.module_utils.factory.log_file import LogFile
sys.stdout = LogFile(sys.argv[1], 100)
for number in range(40):
    sys.stdout.write(f"line {number:02}\\n")
sys.stdout.flush()
raise ValueError("a traceback goes there too")
"""


def test_a_log_file_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")
    old, new = (tmp_path / "log.1").read_text(), path.read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1"]
    assert 100 <= len(old) < 110
    assert len(new.partition("Traceback")[0]) < 110
    assert new.startswith(f"line {int(old.split()[-1]) + 1:02}\n")
    assert "a traceback goes there too" in new


def test_a_log_file_that_is_gone_is_made_anew_when_it_would_turn_over(tmp_path: Path) -> None:
    """Somebody removed it; or there was no room for a new one the last time."""
    path = tmp_path / "log"
    code = CODE.replace("for number in range(40):", "import os; os.unlink(sys.argv[1])\nfor number in range(40):")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "line 39" in path.read_text()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a dockerd is asked about a configuration; what real ones say to it, tests/integration/test_dockerd.py shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import validation
from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError

#: What dockerd does with ``--validate`` (26.1 and 20.10), and 20.10 with a log level that it does not know.
NEWER = """#!/bin/sh
[ "$2" = --validate ] || exit 3
file=${1#--config-file=}
grep -q wrong "$file" && { echo "unable to configure the Docker daemon with file $file: wrong" >&2; exit 1; }
echo "configuration OK" >&2
"""
OLDER = """#!/bin/sh
case $2 in --validate) echo "Status: unknown flag: --validate" >&2; exit 125 ;; esac
file=${1#--config-file=}
grep -q wrong "$file" && { echo "unable to configure the Docker daemon with file $file: wrong" >&2; exit 1; }
case $(cat "$file") in
    *'"log-level"'*) level=$(sed 's/.*"log-level": "\\([^"]*\\)".*/\\1/' "$file") ;;
    *) for argument; do level=${argument#--log-level=}; done ;;
esac
case $level in hep.*) ;; *) exec sleep 60 ;; esac
echo "unable to parse logging level: $level" >&2
exit 1
"""
FILE = "/etc/docker/daemon.json"


@pytest.fixture(params=[NEWER, OLDER], ids=["newer", "older"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "dockerd"
    path.write_text(request.param)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("text", ['{"debug": true}', '{"log-level": "debug"}', '{"log-level": null}'])
def test_what_it_takes(program: str, text: str) -> None:
    validation.check(program, ["--config-file", FILE, "--debug"], FILE, text)


def test_what_it_refuses(program: str) -> None:
    with pytest.raises(RefusedError) as refused:
        validation.check(program, [], FILE, '{"wrong": 1}', "Mend it.")
    said = str(refused.value)
    assert said.startswith(f"config_file: {FILE}: the daemon would refuse it. ")
    assert said.endswith(f"unable to configure the Docker daemon with file {FILE}: wrong. Mend it.")


@pytest.mark.parametrize("level", ['"verbose"', "5"])
def test_a_log_level_that_an_older_one_would_only_find_wrong_when_it_starts(tmp_path: Path, level: str) -> None:
    older = tmp_path / "dockerd"
    older.write_text(OLDER)
    older.chmod(0o755)
    with pytest.raises(RefusedError, match="It knows no log-level"):
        validation.check(str(older), [], FILE, f'{{"log-level": {level}}}')


def test_whom_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "SYSTEM_PATH", str(tmp_path))
    mine = os.getpid()
    assert validation.programs(None) == []
    assert validation.programs(mine) == [f"/proc/{mine}/exe"]
    installed = tmp_path / "dockerd"
    installed.symlink_to(os.path.realpath(f"/proc/{mine}/exe"))
    assert validation.programs(None) == [str(installed)]
    assert validation.programs(mine) == [f"/proc/{mine}/exe"]
    installed.unlink()
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    assert validation.programs(mine) == [f"/proc/{mine}/exe", str(installed)]

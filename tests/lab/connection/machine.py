# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's connection to a machine of ``tests/lab/hosts.py``: no ssh, no network."""

from __future__ import annotations

import subprocess
import sys
import typing as t
from pathlib import Path

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: machine
short_description: Run tasks in a machine of the test lab
description:
  - Enters the machine's namespaces and cgroups.
options:
  machine:
    description: The machine's name.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
"""

HOSTS = Path(__file__).resolve().parents[1] / "hosts.py"


class Connection(ConnectionBase):
    """One machine."""

    transport = "machine"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        return self._run(["/bin/sh", "-c", cmd], in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        code, _out, err = self._run(["dd", f"of={out_path}", "status=none"], Path(in_path).read_bytes())
        if code:
            raise RuntimeError(f"{out_path}: {err.decode(errors='replace')}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        code, out, err = self._run(["cat", in_path], None)
        if code:
            raise RuntimeError(f"{in_path}: {err.decode(errors='replace')}")
        Path(out_path).write_bytes(out)

    def close(self) -> None:
        self._connected = False

    def _run(self, argv: list[str], data: bytes | None) -> tuple[int, bytes, bytes]:
        name = t.cast(str, self.get_option("machine"))
        done = subprocess.run(
            [sys.executable, str(HOSTS), "run", name, *argv], input=data or b"", capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

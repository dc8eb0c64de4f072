# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount whose FUSE server takes requests and does not answer: nobody can be killed who looks into it."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import preflight

FUSE_INIT = 26
HEADER = struct.Struct("<IIQQIIII")


def serve_nothing(device: int) -> None:
    """Answer the kernel's greeting, and nothing that comes after; fuse(4)."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # unmounted
            return
        _length, operation, unique, *_rest = HEADER.unpack(request[: HEADER.size])
        if operation == FUSE_INIT:
            body = struct.pack("<IIII", 7, 31, 0, 0).ljust(64, b"\0")
            os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


@pytest.fixture()
def hung(tmp_path: Path) -> t.Iterator[Path]:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    point = tmp_path / "cvmfs" / "alice.cern.ch"
    point.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0"
    if libc.mount(b"hung", os.fsencode(point), b"fuse.hung", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    server = threading.Thread(target=serve_nothing, args=(device,), daemon=True)
    server.start()
    yield point
    # With force the requests that wait are given up; without it umount waits for them.
    subprocess.run(["umount", "--force", "--lazy", str(point)], check=True, timeout=30)
    server.join(10)
    os.close(device)
    assert not server.is_alive()


def test_a_command_that_cannot_be_killed_is_left_behind(hung: Path) -> None:
    start = time.monotonic()
    with pytest.raises(WaitError, match=r"Waited 0\.3 s for ls to end \(looking\)"):
        run("looking", ["ls", "--", str(hung)], 0.3)
    assert time.monotonic() - start < 10


def test_a_vobox_is_refused_a_repository_that_does_not_answer(hung: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_REPOSITORY_SECONDS", 0.3)
    with pytest.raises(RefusedError) as refused:
        preflight._cvmfs(str(hung.parent), "rprivate", [hung.name])
    assert f"cvmfs.repositories[0]: alice.cern.ch: {hung} did not answer within 0.3 s" in str(refused.value)

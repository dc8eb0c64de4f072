# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mount whose FUSE server takes requests and does not answer: nobody can be killed who looks into it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding, Repositories
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import preflight
from tests.lab.hung_mount import mount_hung, serve_nothing


@pytest.fixture()
def hung(tmp_path: Path) -> t.Iterator[Path]:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    point = tmp_path / "cvmfs" / "alice.cern.ch"
    point.mkdir(parents=True)
    device = mount_hung(point)
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


def test_a_factory_goes_on_and_sees_when_the_repository_is_back(hung: Path, tmp_path: Path) -> None:
    """And with processes whose state is the kernel's own business, not that of a stand-in."""
    good = tmp_path / "good"
    (good / "lib").mkdir(parents=True)
    (hung.parent / "lhcb.cern.ch" / "lib").mkdir(parents=True)
    longest = 0.0

    def helpers() -> list[str]:
        """Its processes that are there; other tests may have left some of their own."""
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [number for number in children if Path(f"/proc/{number}/comm").read_text() == "find\n"]

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            longest = max(longest, time.monotonic() - before)

    async def factory() -> None:
        repositories = Repositories(str(hung.parent), seconds=1.0)
        ticker = asyncio.ensure_future(tick())
        began = time.time()
        first = await repositories.touch([hung.name, "lhcb.cern.ch"])
        assert first["lhcb.cern.ch"] == Finding(True)
        found = first[hung.name]
        assert found.problem == f"{hung} did not answer within 1 s."
        assert found.since is not None and began <= found.since < began + 1
        sent = helpers()
        assert len(sent) == 1
        for _turn in range(3):  # it has been killed, and is still there; no second one joins it
            assert await repositories.touch([hung.name]) == {hung.name: found}
        assert helpers() == sent
        for argv in (["umount", "--force", "--lazy", str(hung)], ["mount", "--bind", str(good), str(hung)]):
            await asyncio.to_thread(subprocess.run, argv, check=True, timeout=30)
        end = time.monotonic() + 30
        while helpers():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert await repositories.touch([hung.name]) == {hung.name: Finding(True)}
        ticker.cancel()

    asyncio.run(factory())
    assert longest < 5, "the loop stood still"

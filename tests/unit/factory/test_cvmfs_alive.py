# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks into repositories by real processes: what they find, and that one that hangs is waited for once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import cvmfs_alive
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding, Repositories

WELL = Finding(True)
LHCB, ALICE = "lhcb.cern.ch", "alice.cern.ch"


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    """A folder with a repository that is well."""
    (tmp_path / "cvmfs" / LHCB / "lib").mkdir(parents=True)
    return tmp_path / "cvmfs"


#: Processes of the test run that were there before the test.
OTHERS: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> t.Iterator[None]:
    """No process and no descriptor more than before."""
    before = descriptors()
    OTHERS[:] = all_children()
    yield
    assert children() == []
    assert descriptors() == before


def children() -> list[str]:
    """Processes of the test's, zombies too."""
    return [one for one in all_children() if one not in OTHERS]


def all_children() -> list[str]:
    """Those of this process."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def until(true: t.Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def touch(repositories: Repositories, *names: str) -> dict[str, Finding]:
    return asyncio.run(repositories.touch(names))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Finder:
    """Stands for ``find``: it hangs if it is told to, and writes down that it was started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hang, self._log = folder / "hang", folder / "log"
        script = folder / "find"
        # ``read`` waits without a process of its own: who opens the pipe lets it go on.
        script.write_text(
            f"#!/bin/sh\necho >>{self._log}\nif [ -p {self.hang} ]; then read _ <{self.hang}; fi\necho a\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(cvmfs_alive, "SYSTEM_PATH", str(folder))

    def hangs(self) -> None:
        os.mkfifo(self.hang)

    def let_go(self) -> None:
        descriptor = os.open(self.hang, os.O_WRONLY | os.O_NONBLOCK)
        self.hang.unlink()
        os.close(descriptor)

    @property
    def started(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0


@pytest.fixture()
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finder:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Finder(folder, monkeypatch)


def test_what_is_found(root: Path) -> None:
    (root / ALICE).mkdir()
    (root / "linked.example.org").symlink_to(root / LHCB)
    found = touch(Repositories(str(root), clock=Clock()), LHCB, ALICE, "linked.example.org", "none.example.org", LHCB)
    assert list(found) == [LHCB, ALICE, "linked.example.org", "none.example.org"]
    assert found[LHCB] == found["linked.example.org"] == WELL
    assert found[ALICE] == Finding(False, f"{root}/{ALICE} is empty.", 1000.0)
    missing = found["none.example.org"]
    assert (missing.ok, missing.since) == (False, 1000.0)
    assert missing.problem.startswith(f"{root}/none.example.org cannot be read. find ended with 1 and says: ")
    assert "No such file or directory" in missing.problem


def test_nothing_is_asked_for(root: Path) -> None:
    assert touch(Repositories(str(root))) == {}


@pytest.mark.parametrize(
    "name", ["", "..", "lhcb", "LHCB.cern.ch", "a.b/../c.d", "-delete.cern.ch", "a.b\n", "x." * 40]
)
def test_a_name_that_is_none_is_refused_before_anything_is_looked_at(root: Path, finder: Finder, name: str) -> None:
    with pytest.raises(InputError, match="repository: got "):
        touch(Repositories(str(root)), LHCB, name)
    assert finder.started == 0


def test_trouble_is_as_old_as_its_first_look(root: Path) -> None:
    clock = Clock()
    repositories = Repositories(str(root), clock=clock)
    for now, since in ((1000.0, 1000.0), (1300.0, 1000.0), (4800.0, 1000.0), (9000.0, 9000.0)):
        clock.now = now  # the last one comes when nobody has asked for more than an hour
        assert touch(repositories, ALICE)[ALICE].since == since
    (root / ALICE / "lib").mkdir(parents=True)
    assert touch(repositories, ALICE)[ALICE] == WELL
    (root / ALICE / "lib").rmdir()
    clock.now = 9100.0
    assert touch(repositories, ALICE)[ALICE].since == 9100.0


def test_without_a_program_that_looks_the_finding_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cvmfs_alive, "SYSTEM_PATH", str(root))
    found = touch(Repositories(str(root), clock=Clock()), LHCB)[LHCB]
    assert found == Finding(
        False, "No process could be started that looks into it (No such file or directory).", 1000.0
    )


def test_two_who_ask_share_one_look(root: Path, finder: Finder) -> None:
    async def both() -> list[dict[str, Finding]]:
        repositories = Repositories(str(root))
        return [*await asyncio.gather(repositories.touch([LHCB]), repositories.touch([LHCB, ALICE]))]

    assert asyncio.run(both()) == [{LHCB: WELL}, {LHCB: WELL, ALICE: WELL}]
    assert finder.started == 2  # one for each repository


def test_who_can_be_killed_is_killed_and_the_next_look_is_a_new_one(root: Path, finder: Finder) -> None:
    clock = Clock()
    repositories = Repositories(str(root), 0.1, clock)
    finder.hangs()

    async def twice() -> None:
        for turn in (1, 2):
            found = await repositories.touch([LHCB])
            assert found[LHCB] == Finding(False, f"{root}/{LHCB} did not answer within 0.1 s.", 1000.0)
            await until(lambda: children() == [])
            assert finder.started == turn
            clock.now += 60

    asyncio.run(twice())


def test_who_cannot_be_killed_is_not_started_again_until_it_has_ended(
    root: Path, finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    repositories = Repositories(str(root), 0.3, clock)
    finder.hangs()
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    hung = Finding(False, f"{root}/{LHCB} did not answer within 0.3 s.", 1000.0)

    async def heal() -> None:
        assert (await repositories.touch([LHCB]))[LHCB] == hung
        began = time.monotonic()
        for _turn in range(5):
            clock.now += 60
            assert await repositories.touch([LHCB]) == {LHCB: hung}
        assert time.monotonic() - began < 0.3  # what is known is not waited for
        assert finder.started == len(children()) == 1
        finder.let_go()
        await until(lambda: children() == [])  # it was reaped without another look
        assert await repositories.touch([LHCB]) == {LHCB: WELL}
        assert finder.started == 2

    asyncio.run(heal())


def test_who_gives_up_waiting_leaves_the_look_to_the_next(root: Path, finder: Finder) -> None:
    async def impatient() -> None:
        repositories = Repositories(str(root))
        finder.hangs()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(repositories.touch([LHCB]), 0.2)
        asked = asyncio.ensure_future(repositories.touch([LHCB]))
        await until(lambda: finder.started == 1)
        finder.let_go()
        assert await asked == {LHCB: WELL}
        assert finder.started == 1

    asyncio.run(impatient())


def test_the_end_of_a_factory_ends_its_looks(root: Path, finder: Finder) -> None:
    async def end() -> None:
        repositories = Repositories(str(root))
        finder.hangs()
        asked = asyncio.ensure_future(repositories.touch([LHCB]))
        await until(lambda: finder.started == 1)
        repositories.close()
        assert (await asked)[LHCB].problem == "The factory ends."

    asyncio.run(end())
    while children():  # reaped by nobody but whoever starts the next process
        subprocess.run(["true"], check=True)

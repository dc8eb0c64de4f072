# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory's daemon killed at each moment of a machine's life: the next one leaves and loses nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import typing as t

import pytest

from tests.lab.engine import PodmanService
from tests.lab.factory import KIND, LabFactory, PodmanLab
from tests.lab.lab import Lab, make_lab, remove_lab
from tests.lab.mounts import Mounts, mounted_below
from tests.lab.work_spaces import said
from tests.sampled import sampled

#: Into how many parts the moments are divided; ``make test`` takes one.
PARTS = 24

#: What tells of something that went wrong.
BAD = ("internal_error", "record_unreadable", "left_over_not_removed", "cleaning_failed", "step_failed")

QUICK = "#!/bin/sh\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
#: The same when it is told to.
STAYS = "#!/bin/sh\ntrap 'echo 200 Success >$JOBOUTPUTS/shutdown_message; exit' TERM\nwhile :; do sleep 0.1; done\n"


class Killed:
    """A factory with two slots: in one a machine that lives through all of it, in the other those of this test.

    :param pid: a process for which is mounted what is for the factory.
    :param label: the template by which the engine's command prints a machine's uuid of an event.
    :param kind: of machines.
    """

    def __init__(self, factory: LabFactory, pid: int = 0, label: str = "", kind: t.Mapping[str, t.Any] = KIND) -> None:
        self.factory, self._pid, self._label = factory, pid, label
        factory.file("precious", "run", STAYS)
        factory.write(machinetypes={"precious": kind})
        factory.start()
        [self.precious] = factory.wait("the machine that stays", factory.running)
        factory.stop()
        factory.write(machinetypes={"a": {**kind, "fizzle_seconds": 0}}, total_processors=2, slots=2)

    def effects(self) -> list[str]:
        """What is done in the life of a machine, in order; nothing is killed. There was one before: the first of all
        makes folders that stay."""
        told = self.factory.folder / "effects"
        self.factory.file("a", "run", QUICK)
        for armed in (None, {"effects": str(told)}):
            self._whole_life(armed)
        return told.read_text().splitlines()

    def _whole_life(self, armed: t.Optional[dict[str, t.Any]]) -> None:
        self.factory.armed, many = armed, self._cleaned() + 2  # with one that was there before, if it was
        self.factory.start()
        self.factory.wait("a whole life", lambda: self._cleaned() >= many)
        self.factory.stop()

    def _cleaned(self) -> int:
        return sum(one["cleaned"] for one in self.factory.records())

    def kill(self, number: int, along: t.Optional[float]) -> None:
        """Kill a daemon at a moment of its first machine's life, and look at what the next one makes of that."""
        factory, began, told = self.factory, time.time(), self.factory.events(*BAD)
        self._make_room()
        try:
            factory.file("a", "run", QUICK)
            factory.armed = {"die_at": number, "along": along}
            factory.start()
            factory.dies()

            factory.file("a", "run", STAYS)
            factory.armed = None
            factory.start()
            factory.wait("both slots to be filled, and all else to be over", self._settled)
            self._nothing_is_lost(began)
            self._nothing_is_left(told)
        finally:
            self._end()

    def _end(self) -> None:
        """The daemon goes, and does not come again."""
        self.factory.stop(signal.SIGKILL)

    def _make_room(self) -> None:
        """The other slot's machine ends while nobody looks."""
        for one in self.factory.running():
            if self._identity(one) != self._identity(self.precious):
                self._term(one)
        self.factory.wait("its end", lambda: len(self.factory.running()) == 1)

    def _term(self, container: t.Mapping[str, t.Any]) -> None:
        """Send TERM to a machine; it may have ended."""
        self.factory.lab.docker("kill", "--signal", "TERM", container["Id"], check=False)

    def _identity(self, container: t.Mapping[str, t.Any]) -> tuple[t.Any, ...]:
        """What is another's if it is another machine, or was started again."""
        return container["Id"], container["State"]["Pid"]

    def _started(self, began: float) -> set[str]:
        """The machines that the engine has started since."""
        return set(
            self.factory.lab.docker(
                "events", "--since", f"{began:.3f}", "--until", f"{time.time():.3f}", "--filter", "event=start",
                "--format", self._label,
            ).split()
        )  # fmt: skip

    def _settled(self) -> bool:
        records = self.factory.records()
        live = [one for one in records if one["state"] == "running"]
        over = all(one["cleaned"] for one in records if one["state"] != "running")
        return len(live) == 2 == len(self.factory.running()) and over and len(self.factory.containers()) == 2

    def _nothing_is_lost(self, began: float) -> None:
        factory = self.factory
        assert self._identity(self.precious) in [self._identity(one) for one in factory.running()]
        records = {one["uuid"]: one for one in factory.records()}
        assert self._started(began) <= set(records), "a machine that ran is not known"
        ended = [one for one in records.values() if one["state"] == "ended"]
        assert {(one["shutdown_message"], one["end_code"]) for one in ended} <= {("200 Success", "by_itself")}
        for folder in ("apel-archive", "apel-outgoing"):
            texts = [path.read_text() for path in factory.state.glob(f"{folder}/*/*")]
            assert all(any(f"LocalJobId: {one['uuid']}\n" in text for text in texts) for one in ended), folder
            assert len(texts) == len(ended), folder

    def _nothing_is_left(self, told: t.Sequence[t.Any]) -> None:
        """
        :param told: what had gone wrong before.
        """
        state = self.factory.state
        live = {one["uuid"]: one for one in self.factory.records() if one["state"] == "running"}
        folders = {one: next(state.glob(f"machines/*_{one[:8]}")) for one in live}
        assert self._mounted() == sorted(f"{folder}/mnt" for folder in folders.values())
        volumes = sorted(f"{state}/volumes/{one}.img" for one in live)
        assert sorted(map(str, (state / "volumes").iterdir())) == volumes
        assert self._attached() == volumes
        assert not list(state.rglob("*.new"))
        assert [path for path in (state / "machines").iterdir() if not (path / "machine.json").exists()] == []
        assert {path.parent for path in state.glob("machines/*/user_data")} == set(folders.values())
        assert {path.parent for path in state.glob("machines/*/mnt")} == set(folders.values())
        assert [one for one in self.factory.events(*BAD) if one not in told] == []

    def _mounted(self) -> list[str]:
        return mounted_below(self.factory.state, self._pid)

    def _attached(self) -> list[str]:
        files = said("losetup", "--list", "--noheadings", "--output", "BACK-FILE").split()
        return sorted(one for one in files if one.startswith(f"{self.factory.state}/"))


#: Number of an effect, seconds after it has begun or None for before it, and what it is.
Moment = tuple[int, t.Optional[float], str]


def moments_of(killed: Killed) -> list[Moment]:
    """Before each effect; and, where somebody else is at work on it, while it is. Of the features, which are written
    one like the other, some."""
    found: list[Moment] = []
    for number, what in enumerate(killed.effects(), 1):
        if "features." in what and "total_cpu" not in what and "job_id" not in what:
            continue
        found.append((number, None, what))
        if what.startswith(("ask ", "run ")):
            found += [(number, along, what) for along in (0.005, 0.05)]
    return found


def kill_at(killed: Killed, moments: t.Sequence[Moment], part: int) -> None:
    """Kill daemons at one part of the moments."""
    assert len(moments) > 2 * PARTS, moments
    for number, along, what in moments[part::PARTS]:
        print(f"killed {'before' if along is None else f'{along:g} s after'} effect {number}: {what}")
        killed.kill(number, along)


SETTINGS = {
    "total_processors": 1, "work_space": "file", "disk_gb_per_processor": 1,
    "site": "EXAMPLE", "hs06_per_processor": 10.0,
}  # fmt: skip


@pytest.fixture(scope="module", params=["docker", pytest.param("podman", marks=pytest.mark.fleet)])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Killed]:
    """In a mount namespace of its own, for its work spaces are file systems that others would hold."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loop devices, mounts and an engine of its own")
    if not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.ext4"):
        pytest.skip("needs loop devices and mkfs.ext4")
    folder = tmp_path_factory.mktemp("factory")
    with contextlib.ExitStack() as made:
        if request.param == "podman":
            podman: PodmanService = request.getfixturevalue("podman")
            assert podman.process is not None
            factory = LabFactory(t.cast(Lab, PodmanLab(podman)), folder, network="podman", **SETTINGS)
            factory.enter, pid, label = podman.enter, podman.process.pid, '{{index .Attributes "hep.gridbox.machine"}}'
        else:
            mounts = made.enter_context(Mounts())
            lab = make_lab(tmp_path_factory.mktemp("own") / "engine", f"gbt{os.getpid()}-killed", mounts.enter)
            made.callback(remove_lab, lab)
            factory = LabFactory(lab, folder, **SETTINGS)
            factory.enter, pid = list(mounts.enter), mounts.pid
            label = '{{index .Actor.Attributes "hep.gridbox.machine"}}'
        made.callback(factory.remove)
        yield Killed(factory, pid, label)


@pytest.fixture(scope="module")
def moments(killed: Killed) -> list[Moment]:
    """Those of the life of a machine."""
    return moments_of(killed)


@pytest.mark.parametrize("part", sampled(range(PARTS), every=PARTS))
def test_a_daemon_that_is_killed_leaves_nothing_and_loses_no_machine(
    killed: Killed, moments: list[Moment], part: int
) -> None:
    kill_at(killed, moments, part)

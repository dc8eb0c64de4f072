# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import features, host_facts
from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.clock import Clock
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import ImageGoneError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.look import Look
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImages
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Start
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import End
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_factory import Images
from tests.unit.factory.test_mend import LIVE, RUNS
from tests.unit.factory.told import configuration
from tests.unit.vacuum.web_server import Web, serving


def test_what_machines_that_run_may_still_write_into_a_folder_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the daemon; here nobody has measured what they have written already."""
    wanted = {**SMALL, "state_folder": str(tmp_path), "work_space": "folder", "disk_gb_per_processor": 1}
    hand = ByHand(parse({**wanted, "factories": []}))
    asked: list[int] = []

    def free(promised: int = 0) -> tuple[int, int]:
        asked.append(promised)
        return 0, 0

    monkeypatch.setattr(hand.work_spaces, "room_bytes", free)
    written = Path(hand.store.create(LIVE)) / "mnt/tmp"
    written.mkdir(parents=True)
    (written / "data").write_bytes(bytes(1 << 20))
    machines = [LIVE, replace(LIVE, uuid="u2", state=ENDED)]
    hand.chances(hand.configuration.settings, machines, 10_000)
    assert 10**9 - (2 << 20) < asked[0] <= 10**9 - (1 << 20)


def test_a_pipe_that_is_dead_and_what_is_dropped_of_another_are_told(tmp_path: Path) -> None:
    """Nobody else tells where no daemon works. A look that is to change nothing keeps no copy of a pipe."""
    content = json.dumps(
        {"machinetypes": [{"suffix": name, "machine_model": "nonsense", "target_share": 1} for name in "ab"]}
    )
    with serving(Web(content.encode())) as web:
        pipes = {
            "dead": {"vacuum_pipe_url": "http://127.0.0.1:9/", "target_share": 1.0},
            "good": {"vacuum_pipe_url": web.url, "target_share": 1.0},
        }
        wanted = {**SMALL, "state_folder": str(tmp_path), "work_space": "folder", "factories": []}
        hand = ByHand(parse({**wanted, "vacuum_pipes": pipes}))
        copies = tmp_path / "pipes"
        looked = hand.chances(hand.configuration.settings, [], 10_000, keep=False)
        assert not copies.exists()
        found = hand.chances(hand.configuration.settings, [], 10_000)
        assert copies.exists()
    assert found.problems == looked.problems
    dead, first, second = found.problems
    assert dead.startswith("The vacuum pipe dead: http://127.0.0.1:9/")
    assert first.startswith("good-a is dropped: machine_model") and second.startswith("good-b is dropped")


def test_an_image_that_is_refused_costs_its_machinetype_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes a repository of CVMFS could else keep a host from filling its slots."""
    kinds = {
        name: {"root_image": f"docker://r/{name}:1", "user_data": "run", "target_share": 1.0}
        for name in ("bad", "good")
    }
    hand = ByHand(parse({**SMALL, "state_folder": str(tmp_path), "factories": [], "machinetypes": kinds}))

    def look(reference: str) -> str:
        if "bad" in reference:
            raise RefusedError("root_image: r/bad:1", "it leads out of /cvmfs, to /", "Name another")
        return "sha256:good"

    monkeypatch.setattr(hand.engine, "image", look)
    found = hand.chances(hand.configuration.settings, [], 10_000)
    assert ([one.name for one in found.machinetypes], found.images) == (["good"], {"r/good:1": "sha256:good"})
    (refused,) = found.unstartable
    assert refused.machinetype == "bad" and "it leads out of /cvmfs" in refused.text


def test_what_is_pulled_is_written_down_for_a_daemon_that_comes_later(tmp_path: Path) -> None:
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    hand.engine = engine = Images(other="sha256:other")
    hand.pull("r/pilot:1")
    assert engine.asked == ["pull r/pilot:1"]
    [image] = PulledImages(str(tmp_path)).load()
    assert (image.engine, image.reference, image.id) == (engine.where, "r/pilot:1", "sha256:r/pilot:1")


class Refuses(MachineEngine):
    """An engine with one machine, and the signals that it does not send."""

    def __init__(self, *signals: str) -> None:
        super().__init__("unix:///e", "f1.example.org")
        self.refused, self.sent = signals, t.cast("list[str]", [])

    def container(self, identity: str) -> t.Optional[Container]:
        return Container(identity, LIVE.container_name, LIVE.uuid, "exited" if self.sent else "running", 1)

    def signal(self, container: str, signal: str) -> bool:
        if signal in self.refused:
            raise EngineError(f"Sending {signal}", "cannot", 500)
        self.sent.append(signal)
        return True


def test_a_machine_that_term_is_refused_for_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    hand.store.create(LIVE)
    over: list[t.Optional[Container]] = []

    def ends(machine: Machine, container: t.Optional[Container]) -> Machine:
        over.append(container)
        return machine

    monkeypatch.setattr(hand.life, "end", ends)
    monkeypatch.setattr(hand, "clean", lambda _machine: None)
    end = End(LIVE.slot, LIVE.machinetype, "stopped", "by order", "100 Stopped")
    hand.engine = engine = Refuses("SIGTERM")
    hand.stop(LIVE, end)
    assert engine.sent == ["SIGKILL"]
    assert [one.state for one in over if one] == ["exited"]
    hand.engine = Refuses("SIGTERM", "SIGKILL")
    with pytest.raises(EngineError, match="SIGKILL"):
        hand.stop(LIVE, end)


def test_a_machine_that_has_ended_since_it_was_looked_at_has_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is pulled before may take an hour."""
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    hand.store.create(LIVE)
    over: list[Machine] = []
    monkeypatch.setattr(hand.life, "end", lambda machine, _container: over.append(machine))
    monkeypatch.setattr(hand, "clean", lambda _machine: None)
    hand.engine = engine = Refuses()
    engine.sent.append("its own end")
    hand.stop(LIVE, End(LIVE.slot, LIVE.machinetype, "stopped", "by order", "100 Stopped"))
    assert (over, engine.sent) == ([LIVE], ["its own end"])


@pytest.mark.parametrize(
    ("problem", "lacks_room"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (NoRoomError("The work space is to have 2 bytes, and 1 are free."), True),
        (EngineError("Creating it", "mkdir /e/overlay2: no space left on device", 500), True),
        (EngineError("Creating it", "no such image", 404), False),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
def test_a_machine_that_could_not_be_made_has_not_started_and_one_without_room_has_never_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, lacks_room: bool
) -> None:
    """Its end would have the whole space back off, for what one host lacks."""
    hand = ByHand(configuration(state_folder=str(tmp_path)))

    def fails(*_arguments: t.Any) -> None:
        raise problem

    monkeypatch.setattr(hand.engine, "image", lambda _reference: "id")
    monkeypatch.setattr(hand.engine, "remove", lambda _name: None)
    monkeypatch.setattr(hand.life, "_fill", fails)
    start = Start(hand.configuration.settings.slots[0], "a", 1, 9_000)
    kind = Machinetype("a", root_image="r:1")
    if lacks_room:
        with pytest.raises(NoRoomError, match=re.escape(str(problem))):
            hand.start(start, kind)
        assert list((tmp_path / "machines").iterdir()) == []
        return
    machine = hand.start(start, kind)
    assert (machine.state, machine.failed_start) == (ENDED, True)
    assert str(problem) in machine.end_reason
    assert [one.uuid for one in hand.store.load()[0]] == [machine.uuid]


@pytest.mark.parametrize(
    "now", [None, "another", RefusedError("root_image: r:1", "it leads out of /cvmfs", "Name one.")]
)
def test_a_machine_whose_image_was_removed_meanwhile_has_never_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: t.Union[str, RefusedError, None]
) -> None:
    """Nor does anybody back off for what somebody has tidied away here."""
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    found = iter(["id", now])

    def look(_reference: str) -> t.Optional[str]:
        seen = next(found)
        if isinstance(seen, RefusedError):
            raise seen
        return seen

    def fails(*_arguments: t.Any) -> None:
        raise EngineError("Creating it", "no such image", 404)

    monkeypatch.setattr(hand.engine, "image", look)
    monkeypatch.setattr(hand.engine, "remove", lambda _name: None)
    monkeypatch.setattr(hand.life, "_fill", fails)
    start = Start(hand.configuration.settings.slots[0], "a", 1, 9_000)
    with pytest.raises(ImageGoneError, match=r"^The image r:1 was removed meanwhile, or replaced: .*no such image"):
        hand.start(start, Machinetype("a", root_image="r:1"))
    assert list((tmp_path / "machines").iterdir()) == []


def test_a_look_finds_machines_whose_clock_was_set_and_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a daemon: none is ended for a limit by the old clock; what is written down then is as it should be."""
    looks = Look(configuration(state_folder=str(tmp_path)))
    live = replace(
        LIVE, slot=looks.configuration.settings.slots[0], boot="b", booted=1_000, heartbeat_file="alive",
        heartbeat_seconds=300,
    )  # fmt: skip
    features.write(looks.store.create(live), features.features(live, looks.configuration, 30, 1, 9_001))
    outputs = Path(looks.store.folder(live)) / "mnt" / "joboutputs"
    outputs.mkdir(parents=True)
    (outputs / "alive").touch()
    os.utime(outputs / "alive", (9_800, 9_800))
    monkeypatch.setattr(host_facts, "clock", lambda: Clock("b", 901_000))
    monkeypatch.setattr(looks.engine, "listed", lambda: [replace(RUNS, uuid=live.uuid)])
    machines, mending, _unread = looks.look(910_000)
    moved = replace(
        live, started=909_001, seen=910_000, shutdown_time=920_000, booted=901_000, set_by=900_000, set_at=910_000
    )  # fmt: skip
    assert (machines, mending.adopted) == ([moved], (moved,))
    assert mending.heartbeats[live.slot].written == 910_000, "its file is not years old, for nobody can tell how old"
    hand = ByHand(looks.configuration)
    hand.adopt(moved)
    told = Path(hand.store.folder(live)) / "jobfeatures"
    assert (told / "shutdowntime_job").read_text() == "920000"
    assert (told / "jobstart_secs").read_text() == "909001"
    machines, mending, _unread = looks.look(910_001)
    assert (machines, mending.adopted) == ([replace(moved, seen=910_001)], ())
    assert mending.heartbeats[live.slot].written == 910_000


def test_a_machine_whose_folder_cannot_be_made_has_never_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = ByHand(configuration(state_folder=str(tmp_path)))

    def full(_machine: Machine) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hand.engine, "image", lambda _reference: "id")
    monkeypatch.setattr(hand.engine, "remove", lambda _name: None)
    monkeypatch.setattr(hand.store, "create", full)
    with pytest.raises(NoRoomError, match="No space left"):
        hand.start(Start(hand.configuration.settings.slots[0], "a", 1, 9_000), Machinetype("a", root_image="r:1"))

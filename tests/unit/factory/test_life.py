# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting, host_facts
from ansible_collections.hep.gridbox.plugins.module_utils.factory import life as lives
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import Life
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, RUNNING, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.mend import compare
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import OUTPUT, Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data import Content
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Outside, on_disk
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import BOOT, LIVE, NEW, OVER, RUNS


class FullDisk:
    """A life on a disk that has no room until some of what is on it has gone.

    :ivar filler: what has to go: ``work folders``, ``container``, ``work space`` or ``nothing of it``.
    :ivar gone: what went, in its order, and each end that was written down in between.
    """

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: str) -> None:
        configuration = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"})
        self.store, self.said = Store(str(tmp_path)), t.cast("list[str]", [])
        engine, work_spaces = engine_of(configuration), WorkSpaces(configuration)
        self.life = Life(configuration, self.store, engine, work_spaces, self._say)
        self.filler, self.gone = filler, t.cast("list[str]", [])
        self.machine = replace(LIVE, fizzle_seconds=1)
        outputs = Path(self.store.create(self.machine)) / "mnt/joboutputs"
        outputs.mkdir(parents=True)
        (outputs / "shutdown_message").write_text("300 Nothing to do")
        self.upper = tmp_path / "upper"
        self.upper.write_bytes(os.urandom(100_000))
        self.outputs = outputs / "data"
        self.outputs.write_bytes(os.urandom(100_000))
        monkeypatch.setattr(host_facts, "clock", lambda: BOOT)
        save, write, remove = self.store.save, accounting.write, work_spaces.remove

        def saved(machine: Machine) -> None:
            self.need_room()
            save(machine)
            self.gone += [f"{'cleaned' if machine.cleaned else machine.state} {machine.shutdown_message}"]

        def written(*arguments: t.Any) -> str:
            try:
                self.need_room()
            except OSError as exc:
                raise GridboxError("The accounting record cannot be written.") from exc
            self.gone.append("accounted")
            return write(*arguments)

        def removed(folder: str, uuid: str) -> None:
            remove(folder, uuid)
            self.gone.append("work space")

        monkeypatch.setattr(self.store, "save", saved)
        monkeypatch.setattr(accounting, "write", written)
        monkeypatch.setattr(self.store, "keep_outputs", lambda _machine: self.need_room())
        monkeypatch.setattr(work_spaces, "empty", lambda _folder: self.gone.append("work folders"))
        monkeypatch.setattr(work_spaces, "remove", removed)
        monkeypatch.setattr(engine, "container", lambda _name: None if "container" in self.gone else OVER)
        monkeypatch.setattr(engine, "remove", lambda _name: self.gone.append("container"))
        monkeypatch.setattr(engine, "output", self._output)
        monkeypatch.setattr(engine, "outside", lambda _name: Outside((str(self.upper), "/proc/self/status")))

    def _say(self, event: str, **_facts: t.Any) -> None:
        self.said.append(event)

    def need_room(self) -> None:
        if self.filler and self.filler not in self.gone:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _output(self, _container: str, path: str, _limit: int) -> None:
        Path(path).write_text("begun")
        self.need_room()


@pytest.mark.parametrize(
    ("filler", "gone"),
    [
        ("", []),
        ("work folders", ["work folders"]),
        ("container", ["work folders", "container"]),
        ("work space", ["work folders", "container", "work space"]),
    ],
)
def test_an_end_that_there_is_no_room_for_makes_room_by_what_the_machine_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: str, gone: list[str]
) -> None:
    """No more goes than has to. How it ended, which is in what goes, is known before."""
    disk = FullDisk(tmp_path, monkeypatch, filler)
    over = disk.life.end(disk.machine, OVER)
    assert disk.gone == [*gone, "ended 300 Nothing to do"]
    assert disk.store.load()[0] == [over]
    assert (over.exit_code, over.ended, over.end_code) == (0, OVER.finished, "by_itself")
    assert disk.life.clean(over).cleaned
    assert disk.gone.count("accounted") == 1


def test_where_nothing_of_a_machine_makes_room_its_end_has_not_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(tmp_path, monkeypatch, "nothing of it")
    over = disk.life.over(disk.machine, OVER)
    with pytest.raises(OSError, match="No space left"):
        disk.life.record_end(over)
    assert disk.store.load()[0] == [disk.machine]
    disk.filler = ""
    assert disk.life.record_end(over).shutdown_message == "300 Nothing to do", "though nobody could tell any more"


def test_a_machine_that_has_not_filled_the_disk_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would be no room. Its end is written down, and what it had kept, when somebody else has made some."""
    disk = FullDisk(tmp_path, monkeypatch, "nothing of it")
    disk.upper.write_bytes(b"")
    disk.outputs.write_bytes(b"")
    with pytest.raises(OSError, match="No space left"):
        disk.life.end(disk.machine, OVER)
    assert disk.gone == ["work folders"]

    def too_many(paths: t.Iterable[str]) -> dict[str, int]:
        raise WaitError("du to end", 60)

    monkeypatch.setattr(lives, "on_disk", too_many)
    with pytest.raises(OSError, match="No space left"):
        disk.life.end(disk.machine, OVER)
    assert disk.gone == ["work folders", "work folders", "container", "work space"]


def test_a_work_space_that_cannot_be_removed_keeps_no_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(tmp_path, monkeypatch, "container")

    def in_use(_folder: str) -> None:
        raise GridboxError("in use")

    monkeypatch.setattr(disk.life.work_spaces, "empty", in_use)
    disk.life.end(disk.machine, OVER)
    assert disk.gone == ["container", "ended 300 Nothing to do"]
    assert disk.said == ["cleaning_failed"]


@pytest.mark.parametrize("filler", ["container", "work space"])
def test_a_machine_that_has_filled_the_disk_is_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: str
) -> None:
    """That costs what would have been kept of it, and neither its accounting nor anything else."""
    disk = FullDisk(tmp_path, monkeypatch, "")
    over = disk.life.end(disk.machine, OVER)
    disk.gone.clear()
    disk.filler = filler
    cleaned = disk.life.clean(over)
    assert cleaned.cleaned
    assert disk.gone == ["container", "work space", "accounted", "cleaned 300 Nothing to do"]
    assert disk.said == ["not_kept"] * (1 + (filler == "work space"))
    assert not (Path(disk.store.folder(over)) / OUTPUT).exists(), "a part of it would say something else"
    assert disk.store.load()[0] == [cleaned]


def test_other_trouble_with_what_is_kept_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(tmp_path, monkeypatch, "")
    over = disk.life.end(disk.machine, OVER)

    def fails(_machine: Machine) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk.store, "keep_outputs", fails)
    with pytest.raises(OSError, match="Input/output"):
        disk.life.clean(over)


def test_a_machine_without_a_folder_is_clean_when_nothing_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there was no room even for that, or somebody has removed it."""
    disk = FullDisk(tmp_path, monkeypatch, "")
    never = replace(LIVE, uuid="u7", state=ENDED, ended=10_000, failed_start=True, started=None, container="")
    assert disk.life.clean(never).cleaned
    assert disk.gone == ["container", "work space"]
    assert not os.path.exists(disk.store.folder(never))


def test_an_end_whose_record_cannot_be_written_for_another_reason_has_not_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(tmp_path, monkeypatch, "")

    def fails(_machine: Machine) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(disk.store, "save", fails)
    with pytest.raises(FileNotFoundError):
        disk.life.end(disk.machine, OVER)


def test_what_a_machine_printed_survives_a_second_try_to_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work space may be in use when its machine's container is gone already."""
    configuration = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"})
    store, engine, work_spaces = Store(str(tmp_path)), engine_of(configuration), WorkSpaces(configuration)
    life = Life(configuration, store, engine, work_spaces)
    there: list[Container] = [OVER]

    def output(_container: str, path: str, _limit: int) -> None:
        Path(path).write_text("printed\n" if there else "")  # as engines do: of one that is gone there is nothing

    def in_use(_folder: str, _uuid: str) -> None:
        raise GridboxError("in use")

    monkeypatch.setattr(engine, "container", lambda _name: there[0] if there else None)
    monkeypatch.setattr(engine, "output", output)
    monkeypatch.setattr(engine, "remove", lambda _name: there.clear())
    machine = replace(LIVE, state=ENDED, ended=10_000)
    folder = Path(store.create(machine))
    with monkeypatch.context() as patched:
        patched.setattr(work_spaces, "remove", in_use)
        with pytest.raises(GridboxError):
            life.clean(machine)
    assert life.clean(machine).cleaned
    assert (folder / OUTPUT).read_text() == "printed\n"


def test_a_work_space_with_too_many_files_does_not_hide_what_is_written_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is a folder it has no limit; what is outside has one."""
    disk = FullDisk(tmp_path, monkeypatch, "")
    other = replace(LIVE, uuid="u2")
    slow = f"{disk.store.folder(disk.machine)}/mnt"

    def too_many(paths: t.Iterable[str]) -> dict[str, int]:
        paths = list(paths)
        if slow in paths:
            raise WaitError("du to end", 60)
        return on_disk(paths)

    monkeypatch.setattr(lives, "on_disk", too_many)
    with pytest.raises(WaitError):
        disk.life.written([disk.machine, other])
    written = disk.life.written([disk.machine])[disk.machine.uuid]
    assert ((written.outside or 0) >= 100_000, written.inside) == (True, 0)
    slow = str(disk.upper)
    with pytest.raises(WaitError):
        disk.life.written([disk.machine])


def test_a_machine_that_runs_is_not_ended_for_a_record_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before is enough: by that a later factory finds that it runs."""
    disk = FullDisk(tmp_path, monkeypatch, "")
    machine = replace(NEW, uuid="u2")
    monkeypatch.setattr(disk.life, "_fill", lambda *_arguments: None)
    monkeypatch.setattr(disk.life.engine, "create", lambda *_arguments: "c2")
    monkeypatch.setattr(disk.life.engine, "start", lambda _container: setattr(disk, "filler", "nothing of it"))
    started = disk.life.start(machine, Machinetype("a"), "image")
    assert (started.state, started.container) == (RUNNING, "c2")
    assert disk.said == ["record_not_written"]
    assert machine in disk.store.load()[0]
    assert compare([machine], [replace(RUNS, id="c2", uuid="u2", name="f1-00_u2")], (), 10_000, BOOT).running


def test_who_is_killed_while_he_makes_a_proxy_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(tmp_path, monkeypatch, "")
    machine = replace(NEW, uuid="u2")
    folder = Path(disk.store.folder(machine))

    def work_space(*_arguments: t.Any) -> str:
        (folder / "mnt").mkdir()
        return str(folder / "mnt")

    def killed(_source: str, _name: str, _end: int, place: str, _legacy: bool) -> t.NoReturn:
        (Path(place) / "proxy-1").mkdir()
        (Path(place) / "proxy-1/key").write_text("secret")
        raise KeyboardInterrupt

    monkeypatch.setattr(disk.life.work_spaces, "make", work_space)
    monkeypatch.setattr(lives, "load_user_data", lambda *_arguments: Content(b"run", "", {}))
    monkeypatch.setattr(lives, "folder_of", lambda *_arguments: str(tmp_path))
    monkeypatch.setattr(lives, "make_proxy", killed)
    with pytest.raises(KeyboardInterrupt):
        disk.life.start(machine, Machinetype("a", user_data="run", user_data_proxy=True), "image")
    assert (folder / "proxy-1/key").exists()
    # The next factory finds a machine that has never been.
    assert compare([machine], [], (), 10_000, BOOT).unborn == (machine,)
    disk.life.forget(machine)
    assert not folder.exists()

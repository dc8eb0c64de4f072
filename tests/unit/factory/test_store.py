# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import store as store_module
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import KEPT_BYTES, KEPT_FILES, Store
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount
from tests.lab.killed import at_line, die, killed
from tests.unit.factory.test_mend import LIVE


def outputs(store: Store) -> Path:
    folder = Path(store.create(LIVE)) / "mnt/joboutputs"
    folder.mkdir(parents=True)
    return folder


def test_machines_come_back_and_the_rest_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.load() == ([], [])
    folder = store.create(LIVE)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    over = replace(LIVE, state=ENDED)
    store.save(over)
    broken = tmp_path / "machines/broken"
    broken.mkdir()
    (broken / "machine.json").write_text("{")
    (tmp_path / "machines/unborn").mkdir()
    other = tmp_path / "machines/other"
    other.mkdir()
    (other / "machine.json").write_text(LIVE.as_json())
    machines, problems = store.load()
    assert machines == [over]
    assert len(problems) == 2
    store.forget_unborn()
    assert not (tmp_path / "machines/unborn").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"200 Success\n", "200 Success"),
        (b"  300 Nothing to do\nsecond line", "300 Nothing to do"),
        (b"200", "200"),
        (b"20", None),
        (b"no digits", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"200 \x1b[31mred\x00", "200 [31mred"),
        ("²00 no digit".encode(), None),
        (b"100 " + b"x" * 5000, "100 " + "x" * 1020),
    ],
)
def test_shutdown_message(tmp_path: Path, content: bytes, expected: str | None) -> None:
    store = Store(str(tmp_path))
    (outputs(store) / "shutdown_message").write_bytes(content)
    assert store.shutdown_message(LIVE) == expected


def test_what_a_machine_has_put_there_is_not_followed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    folder = outputs(store)
    secret = tmp_path / "secret"
    secret.write_text("200 secret")
    (folder / "shutdown_message").symlink_to(secret)
    (folder / "link").symlink_to(secret)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "log").write_text("kept")
    (folder / "heartbeat").symlink_to(secret)
    assert store.shutdown_message(LIVE) is None
    for name, there in (("heartbeat", False), ("fifo", False), ("log", True)):
        [(slot, found)] = store.heartbeats([replace(LIVE, heartbeat_file=name, heartbeat_seconds=300)]).items()
        assert (slot, found.file, found.patience, found.largest) == (LIVE.slot, name, LIVE.fizzle_seconds, 300)
        assert (found.written is not None) == there
    assert store.heartbeats([LIVE]) == {}
    store.keep_outputs(LIVE)
    assert os.listdir(Path(store.folder(LIVE)) / "joboutputs") == ["log"]


def test_outputs_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    folder = outputs(store)
    for name in ("a", "b"):
        with (folder / name).open("wb") as file:
            file.truncate(KEPT_BYTES - 10)
    store.keep_outputs(LIVE)
    kept = Path(store.folder(LIVE)) / "joboutputs"
    assert sum(path.stat().st_size for path in kept.iterdir()) == KEPT_BYTES


def test_of_very_many_outputs_the_first_names_are_kept_and_no_others_are_in_memory(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    folder = outputs(store)
    (folder / "one").touch()
    names = [f"{number:05}" + "x" * 200 for number in range(20_000)]
    random.Random(1).shuffle(names)
    for name in names:
        os.link(folder / "one", folder / name)
    tracemalloc.start()
    try:
        store.keep_outputs(LIVE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = Path(store.folder(LIVE)) / "joboutputs"
    assert sorted(os.listdir(kept)) == sorted(names)[:KEPT_FILES]
    assert peak < sum(map(len, names)) // 2


def test_outputs_are_kept_once_more_if_who_began_to_was_killed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    folder = outputs(store)
    names = ["heartbeat", "log", "log.1.2.new"]  # the last one's name is the machine's idea
    for name in names:
        (folder / name).write_text(name)
    kept = Path(store.folder(LIVE)) / "joboutputs"
    kept.mkdir()
    for name in ("heartbeat", "log.4711.140000.new"):
        (kept / name).write_text(name)
    store.keep_outputs(LIVE)
    assert {path.name: path.read_text() for path in kept.iterdir()} == {name: name for name in names}
    # What cleans up has another try when the work space is gone.
    shutil.rmtree(folder.parent)
    store.keep_outputs(LIVE)
    assert sorted(path.name for path in kept.iterdir()) == names


def test_outputs_are_not_in_memory_as_a_whole(tmp_path: Path) -> None:
    """The machines of a whole host may end at once, and what they leave is theirs to choose."""
    store = Store(str(tmp_path))
    with (outputs(store) / "large").open("wb") as file:
        file.truncate(KEPT_BYTES)
    tracemalloc.start()
    try:
        store.keep_outputs(LIVE)
        assert tracemalloc.get_traced_memory()[1] < KEPT_BYTES // 10
    finally:
        tracemalloc.stop()
    assert (Path(store.folder(LIVE)) / "joboutputs" / "large").stat().st_size == KEPT_BYTES


def test_folders_go_after_their_days(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create(LIVE)
    over = replace(LIVE, state=ENDED, ended=10_000, cleaned=True)
    day = 86400
    assert store.expire([over], 10_000 + 2 * day, 3) == []
    assert store.expire([over], 10_000 + 4 * day, 0) == []
    assert store.expire([LIVE, replace(over, cleaned=False)], 10_000 + 4 * day, 3) == []
    assert os.path.exists(store.folder(over))
    assert store.expire([over], 10_000 + 4 * day, 3) == []
    assert not os.path.exists(store.folder(over))


def test_a_folder_that_cannot_be_removed_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records come oldest first, so one would keep all that ended after it, for ever."""
    store = Store(str(tmp_path))
    machines = [
        replace(LIVE, uuid=f"u{number}", created=8_000 + number, state=ENDED, ended=10_000 + number, cleaned=True)
        for number in range(4)
    ]
    for machine in machines:
        store.create(machine)
    mounted, broken = Path(store.folder(machines[0])), Path(store.folder(machines[1]), "joboutputs")
    for folder in (mounted / "looked-into", broken):
        folder.mkdir()
        (folder / "theirs").touch()
    rmtree = shutil.rmtree

    def fails(path: str) -> None:
        if path == str(broken):
            raise OSError(errno.EIO, "Input/output error", path)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", fails)
    there = Mount(f"{mounted}/looked-into", "ext4", "/dev/sdb1", False)
    monkeypatch.setattr(mount_table, "read", lambda: [there, Mount(f"{mounted}2", "ext4", "/dev/sdb2", False)])
    told = store.expire(machines, 10_000 + 4 * 86400, 3)
    assert [one for one, _problem in told] == machines[:2]
    assert told[0][1] == f"{mounted} is not removed, for {there.point} is still mounted."
    assert told[1][1] == f"{broken.parent} cannot be removed ([Errno 5] Input/output error: '{broken}')."
    assert store.load() == (machines[:2], []), "the records are there for the next look"
    assert sorted(os.listdir(store.root)) == [one.folder for one in machines[:2]]
    assert (mounted / "looked-into" / "theirs").exists()


def test_who_is_killed_as_he_removes_a_folder_leaves_the_record_that_says_so(tmp_path: Path) -> None:
    """A folder without a record would stay for ever."""
    store = Store(str(tmp_path))
    files = {shutil.__file__, store_module.__file__}
    line, cut_short, was_killed = 1, 0, True
    while was_killed:
        folder = Path(store.create(LIVE))
        for name in ("joboutputs", "mnt"):
            (folder / name).mkdir()
            (folder / name / "file").touch()
        (folder / "output.log").touch()
        (folder / "link").symlink_to(tmp_path)
        was_killed = killed(lambda: store.forget(LIVE), at_line(line, files))
        cut_short += folder.exists() and len(list(folder.rglob("*"))) < 7
        assert store.load() == ([LIVE] if any(folder.rglob("*")) else [], []), line
        store.forget_unborn()
        store.forget(LIVE)
        assert not folder.exists()
        line += 9
    assert cut_short > 2
    store.forget(LIVE)


def test_the_last_machine_of_a_slot_is_found_without_reading_the_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.last([LIVE.slot]) == ({}, {})
    older, other = replace(LIVE, uuid="u2", created=8_000), replace(LIVE, uuid="u3", slot="f1-01.example.org")
    for machine in (older, LIVE, other):
        store.create(machine)
    same_second = replace(LIVE, uuid="u4", state=ENDED)
    store.create(same_second)
    (Path(store.folder(older)) / "machine.json").write_text("{")
    (tmp_path / "machines/9999_a_f1-01.example.org_unborn").mkdir()
    assert store.last([LIVE.slot]) == ({LIVE.slot: LIVE}, {})
    assert store.last([other.slot]) == ({}, {}), "it is just being made"
    # Made before the clock was set back: it is over, and LIVE is in the slot.
    store.create(replace(LIVE, uuid="u5", created=1 << 40, state=ENDED))
    assert store.last([LIVE.slot]) == ({LIVE.slot: LIVE}, {})


def test_a_machine_in_a_slot_is_not_hidden_by_one_that_was_made_there_by_another_clock(tmp_path: Path) -> None:
    """The host booted with its clock behind, LIVE was made, and then the clock was set: the machine before, which has
    ended, has the later time of both, and that is past."""
    store = Store(str(tmp_path))
    (Path(store.create(LIVE)) / "mnt").mkdir()
    store.create(replace(LIVE, uuid="u2", created=LIVE.created + 100, state=ENDED, cleaned=True))
    assert store.last([LIVE.slot]) == ({LIVE.slot: LIVE}, {})
    unread = replace(LIVE, uuid="u3", created=LIVE.created - 100)
    folder = Path(store.create(unread))
    (folder / "machine.json").write_text("{")
    (folder / "mnt").mkdir()
    assert store.last([LIVE.slot]) == ({LIVE.slot: LIVE}, {})


def test_outputs_with_the_longest_names_are_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    name = "x" * 255
    (outputs(store) / name).write_text("kept")
    store.keep_outputs(LIVE)
    assert (Path(store.folder(LIVE)) / "joboutputs" / name).read_text() == "kept"


def test_a_record_that_is_no_text_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = Path(store.create(LIVE)) / "machine.json"
    path.write_bytes(b"\xff\xfe\x00")
    machines, problems = store.load()
    assert machines == []
    assert len(problems) == 1
    assert str(path) in problems[0]
    found, unread = store.last([LIVE.slot])
    assert found == {}
    assert "is not a machine's record" in unread[LIVE.slot].problem


def at_replace() -> None:
    """Before a file takes another one's place."""
    os.replace = lambda *_paths: die()


def test_what_a_maker_left_that_was_killed_while_it_wrote_goes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kept, unborn = Path(store.create(LIVE)), replace(LIVE, uuid="u2")
    assert killed(lambda: store.save(replace(LIVE, cpu_seconds=5)), at_replace)
    assert killed(lambda: store.create(unborn), at_replace)
    for folder in (store.folder(LIVE), store.folder(unborn)):
        assert sum(name.endswith(".new") for name in os.listdir(folder)) == 1
    (kept / "machine.json.new").write_text("somebody else's")
    other = tmp_path / "machines/other"
    other.mkdir()
    (other / "user_data").write_text("nobody knows whose")
    store.forget_unborn()
    assert sorted(os.listdir(tmp_path / "machines")) == sorted([LIVE.folder, "other"])
    assert sorted(os.listdir(kept)) == ["machine.json", "machine.json.new"]
    assert os.listdir(other) == ["user_data"]
    assert store.load() == ([LIVE], [])


def test_a_look_does_not_take_the_folder_of_a_machine_that_is_just_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon makes machines while others look, and while it looks itself for folders that have had their days."""
    store, save = Store(str(tmp_path)), Store.save

    def looked_at(self: Store, machine: Machine) -> None:
        assert Store(str(tmp_path)).load() == ([], [])
        save(self, machine)

    monkeypatch.setattr(Store, "save", looked_at)
    store.create(LIVE)
    assert store.load()[0] == [LIVE]

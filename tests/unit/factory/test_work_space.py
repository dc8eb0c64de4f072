# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work spaces: sizes, what is ours in what the host says, what is left over. No mounts and no volumes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration, work_space
from ansible_collections.hep.gridbox.plugins.module_utils.factory import work_space_file as files
from ansible_collections.hep.gridbox.plugins.module_utils.factory import work_space_lvm as lvm
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.volume import NoRoomError, Room, Volume, size_for
from ansible_collections.hep.gridbox.plugins.module_utils.host import command, holders
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.admission import Means, disk_bytes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings, HostLoad

A, B = "0b0f6f4e-7a53-4a8e-9d55-0c5d3c1f6a01", "0b0f6f4e-7a53-4a8e-9d55-0c5d3c1f6a02"
MIB, GB = 1 << 20, 10**9
EXTENT = 4 * MIB


# ---- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "processors", "fixed", "total", "size"),
    [
        (Room(100 * EXTENT, 0, EXTENT), 1, 40 * GB, 4, 40 * GB // EXTENT * EXTENT),  # fixed, whatever is free
        (Room(100 * EXTENT, 0, EXTENT), 2, 5 * EXTENT, 4, 10 * EXTENT),
        (Room(100 * EXTENT, 0, EXTENT), 1, None, 4, 25 * EXTENT),
        (Room(50 * EXTENT, 50 * EXTENT, EXTENT), 1, None, 4, 25 * EXTENT),  # the same when half of it is taken
        (Room(100 * EXTENT, 0, EXTENT), 8, None, 8, 100 * EXTENT),
        (Room(101 * EXTENT, 0, EXTENT), 1, None, 2, 50 * EXTENT),  # rounded down
        (Room(90 * EXTENT, 10 * EXTENT, EXTENT, kept=10 * EXTENT), 1, None, 1, 90 * EXTENT),
        (Room(-5 * EXTENT, 2 * EXTENT, EXTENT), 1, None, 1, 0),
    ],
)
def test_the_size_of_a_work_space(room: Room, processors: int, fixed: t.Optional[int], total: int, size: int) -> None:
    assert size_for(room, processors, fixed, total) == size


@pytest.mark.parametrize("total", [1, 3, 4, 8])
@pytest.mark.parametrize("unit", [MIB, EXTENT])
def test_what_a_decision_sees_room_for_is_made(total: int, unit: int) -> None:
    """Some have a size, and the host's own files grow: no machine is decided for that its work space is refused."""
    luck = random.Random(total)
    kinds = {"fixed": Machinetype("fixed", disk_gb_per_processor=1), "share": Machinetype("share")}
    for _turn in range(300):
        pool, others, ours = luck.randint(0, 9 * GB), luck.randint(0, 3 * GB), list[int]()
        for _machine in range(total + 1):
            free = pool - others - sum(ours)
            room = Room(free, sum(ours), unit, kept=max(0, free + sum(ours)) // 10)
            host = HostLoad(total, disk_free_bytes=max(0, room.free), disk_whole_bytes=room.whole)
            kind = kinds[luck.choice(sorted(kinds))]
            settings = FactorySettings("f", (), total, mb_per_processor=1)
            most = Means(settings, [], host, kinds).most(kind)
            for processors in range(1, min(most, total) + 1):
                each = disk_bytes(settings, kind)
                assert size_for(room, processors, each, total) <= free, (room, processors, each)
            if most:
                ours.append(size_for(room, 1, disk_bytes(settings, kind), total))
            others += luck.choice([0, 0, GB // 10])


# ---- files -------------------------------------------------------------------------------------------------------


def loop(number: int, file: str, freed: bool = True) -> files.Loop:
    return files.Loop(f"loop{number}", f"7:{number}", file, freed)


def test_which_files_and_loop_devices_are_volumes() -> None:
    names = [f"{A}.img", "lost+found", f"{B}.img.old", "notes.img"]
    loops = [
        loop(0, f"/state/volumes/{A}.img"),
        loop(1, f"/elsewhere/{A}.img"),
        loop(2, f"/state/volumes/{B}.img"),  # its file has been removed
        loop(3, "/state/volumes/other.img"),
    ]
    assert files.volumes_of("/state/volumes", names, loops) == [
        Volume(A, f"/state/volumes/{A}.img", ("7:0",)),
        Volume(B, f"/state/volumes/{B}.img", ("7:2",)),
    ]
    assert files.volumes_of("/state/volumes", names, []) == [Volume(A, f"/state/volumes/{A}.img")]


def test_loop_devices_by_sysfs(tmp_path: Path) -> None:
    for name, content in (("loop0", ("/a b/x.img", "7:0", "1")), ("loop11", ("/y.img (deleted)", "7:11", "0"))):
        (tmp_path / name / "loop").mkdir(parents=True)
        for file, text in zip(("loop/backing_file", "dev", "loop/autoclear"), content):
            (tmp_path / name / file).write_text(f"{text}\n")
    (tmp_path / "loop1").mkdir()  # one that is free
    assert files.read_loops(str(tmp_path)) == [
        files.Loop("loop0", "7:0", "/a b/x.img", True),
        files.Loop("loop11", "7:11", "/y.img", False),
    ]


def test_what_a_sparse_file_may_still_grow_to_is_not_free(tmp_path: Path) -> None:
    made = files.FileVolumes(str(tmp_path))
    empty = made.room()
    assert empty.taken == 0 and empty.free > 64 * MIB
    path = Path(made.make(A, 64 * MIB))
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (64 * MIB, 0o600)
    room = made.room()
    assert room.taken == 64 * MIB
    # Others may write to this disk meanwhile; an order of magnitude less than this.
    assert empty.free - room.free == pytest.approx(64 * MIB, abs=48 * MIB)
    with pytest.raises(FileExistsError):
        made.make(A, MIB)
    assert path.stat().st_size == 64 * MIB
    made.remove(Volume(A, str(path)))
    made.remove(Volume(A, str(path)))
    assert not path.exists()


# ---- logical volumes ---------------------------------------------------------------------------------------------

PREFIX = lvm.prefix_of("/var/lib/hep.gridbox/factory")

#: As vgs and lvs of LVM 2.03.16 wrote them.
GROUPS = """
  {
      "report": [
          {
              "vg": [
                  {"vg_name":"grid", "vg_attr":"wz--n-", "vg_free":"7969177600", "vg_extent_size":"4194304"}
              ]
          }
      ]
  }
"""

FIELDS = (
    "vg_name", "lv_name", "lv_tags", "lv_attr", "lv_size", "pool_lv", "data_percent", "lv_kernel_major",
    "lv_kernel_minor",
)  # fmt: skip
VOLUMES = [
    ("grid", "home", "", "-wi-ao----", "209715200", "", "", "253", "0"),
    ("grid", f"{PREFIX}{A}", "hep.gridbox", "-wi-ao----", "419430400", "", "", "253", "1"),
    ("grid", f"{PREFIX}{B}", "hep.gridbox,other", "-wi-------", "41943040", "", "", "-1", "-1"),
    ("grid", f"{lvm.prefix_of('/srv/other')}{A}", "hep.gridbox", "-wi-a-----", "41943040", "", "", "253", "2"),
    ("grid", f"{PREFIX}{A}_copy", "hep.gridbox", "-wi-a-----", "41943040", "", "", "253", "3"),
]
THIN = [
    ("grid", "pool", "", "twi-aotz--", "1000000000", "", "30.00", "253", "6"),
    ("grid", f"{PREFIX}{A}", "hep.gridbox", "Vwi-aotz--", "500000000", "pool", "10.00", "253", "8"),
    ("grid", f"{PREFIX}{B}", "hep.gridbox", "Vwi---tz--", "100000000", "pool", "", "-1", "-1"),
    ("grid", "theirs", "", "Vwi-aotz--", "9000000000", "pool", "2.00", "253", "9"),
    ("other", "pool", "", "twi-aotz--", "5000000000", "", "0.00", "253", "7"),
]


def report(rows: t.Sequence[t.Sequence[str]]) -> str:
    lines = ",\n".join("{" + ", ".join(f'"{name}":"{value}"' for name, value in zip(FIELDS, row)) + "}" for row in rows)
    return f'{{"report": [{{"lv": [{lines}]}}]}}'


def test_which_logical_volumes_are_ours() -> None:
    untagged = [("grid", f"{PREFIX}{B}", "", "-wi-a-----", "41943040", "", "", "253", "4")]
    found = lvm.parse_volumes(report([*VOLUMES[:2], *VOLUMES[3:], *untagged]))
    assert lvm.volumes_of(PREFIX, found) == [Volume(A, f"grid/{PREFIX}{A}", ("253:1",))]
    assert lvm.volumes_of(PREFIX, lvm.parse_volumes(report(VOLUMES))) == [
        Volume(A, f"grid/{PREFIX}{A}", ("253:1",)),
        Volume(B, f"grid/{PREFIX}{B}"),
    ]


def test_a_name_has_letters_and_a_length_that_lvm_takes() -> None:
    name = f"{lvm.prefix_of('/' + 'long' * 60)}{A}"
    assert name.startswith("hep.gridbox-") and len(name) == 57
    # Device mapper has 127 for the group's name and this one, each hyphen twice, with one between.
    assert 127 - len(name.replace("-", "--")) - 1 > 60


def test_room_in_a_volume_group() -> None:
    [group] = lvm.parse_groups(GROUPS)
    assert group == lvm.Group("grid", "wz--n-", 7969177600, 4194304)
    # Its size less what is not ours (spec 6.3), for free and taken together.
    linear = [row for row in VOLUMES if row[1] != f"{PREFIX}{A}_copy"]
    assert lvm.room_of(group, lvm.parse_volumes(report(linear)), PREFIX, "") == Room(
        7969177600, 419430400 + 41943040, 4194304
    )
    assert lvm.room_of(group, [], PREFIX, "") == Room(7969177600, 0, 4194304)


def test_room_in_a_thin_pool() -> None:
    [group] = lvm.parse_groups(GROUPS)
    found = lvm.parse_volumes(report(THIN))
    growth = (500_000_000 - 50_000_000) + 100_000_000  # of one that is not active nobody knows what it has
    assert lvm.room_of(group, found, PREFIX, "pool") == Room(700_000_000 - growth, 600_000_000, 4194304)
    for thin_pool, rows, words in (
        ("pond", THIN, "no such thin pool; it has pool"),
        ("theirs", THIN, "no such thin pool"),
        ("pool", VOLUMES, "it has none"),
        ("pool", [("grid", "pool", "", "twi---tz--", "1000", "", "", "-1", "-1")], "lvchange --activate y grid/pool"),
    ):
        with pytest.raises(RefusedError, match=words):
            lvm.room_of(group, lvm.parse_volumes(report(rows)), PREFIX, thin_pool)


@pytest.mark.parametrize(
    ("thin_pool", "used", "begun"),
    [
        ("pool", "", [["lvchange", "--activate", "y", "grid/pool"]]),
        ("pool", "12.5", []),
        ("pond", "", []),
        ("", "", []),
    ],
)
def test_a_pool_that_no_boot_has_activated_is_activated(
    thin_pool: str, used: str, begun: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ("grid", "pool", "", "twi---tz--", "1000", "", used, "-1", "-1")
    run: list[list[str]] = []

    def lvm_says(_request: str, argv: list[str], _seconds: float, **_options: object) -> str:
        run.append(list(argv))
        return report([pool])

    monkeypatch.setattr(command, "run", lvm_says)
    lvm.LogicalVolumes("/state", "grid", thin_pool).activate()
    assert [argv for argv in run if argv[0] != "lvs"] == begun


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"report": [{"lv": [{"lv_size": "1"}]}]}', '{"report": [{"pv": []}]}']
)
def test_a_report_that_is_none(text: str) -> None:
    with pytest.raises(GridboxError, match="LVM's report is not what it was asked for"):
        lvm.parse_volumes(text)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ("rz--n-", "may only be read"),
        ("wzx-n-", "is exported"),
        ("wz-pn-", "lacks a physical volume"),
        ("wz--nc", "is shared with other hosts"),
        ("wz--ns", "is shared with other hosts"),
        ("wz--n-", ""),
    ],
)
def test_a_volume_group_that_will_not_do(monkeypatch: pytest.MonkeyPatch, attributes: str, words: str) -> None:
    def run(request: str, argv: t.Sequence[str], timeout: float = 60, **_options: object) -> str:
        return GROUPS.replace("wz--n-", attributes) if argv[0] == "vgs" else report([])

    monkeypatch.setattr(command, "run", run)
    made = lvm.LogicalVolumes("/state", "grid", "")
    if not words:
        made.check()
        return
    with pytest.raises(RefusedError, match=f"volume_group is grid: this volume group {words}"):
        made.check()


# ---- what is left over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "at_work"),
    [
        (["mkfs.ext4", "-q", f"/state/volumes/{A}.img"], True),
        (["/usr/sbin/lvcreate", "--yes", "--name", f"{PREFIX}{A}", "grid"], True),
        (["umount", "--", f"/state/machines/m/{A}/mnt"], True),
        (["mkfs.ext4", "-q", f"/state2/volumes/{A}.img"], False),
        (["lvcreate", "--name", "other", "grid"], False),
        (["tail", "-f", "/state/log"], False),
        (["mount"], False),
        ([""], False),  # a kernel thread
    ],
)
def test_what_a_killed_factory_had_begun(argv: list[str], at_work: bool) -> None:
    assert bool(work_space.begun([(7, argv)], ("/state/", PREFIX))) == at_work


def parsed(folder: Path, **given: t.Any) -> configuration.Configuration:
    own = {"name": "factory1.example.org", "space": "vac01.example.org", "state_folder": "/state"}
    return replace(configuration.parse({**own, **given}), state_folder=str(folder))


def configured(folder: Path, **changes: t.Any) -> configuration.Configuration:
    return replace(parsed(folder), **changes)


def machine(uuid: str = A) -> Machine:
    return Machine(uuid, "factory1-00.example.org", "prod", "docker", 1, 1, 2, 3, "image", 600)


def test_a_folder(tmp_path: Path) -> None:
    spaces = work_space.WorkSpaces(configured(tmp_path, work_space="folder"))
    spaces.check()
    assert spaces.size_for(1, GB, 1) is None
    about = os.statvfs(tmp_path)
    free = about.f_bavail * about.f_frsize
    assert spaces.room_bytes(GB)[0] == pytest.approx(free - GB, abs=200 * MIB)
    assert spaces.room_bytes(1 << 62) == (0, 0)
    assert spaces.room_bytes(GB)[1] == pytest.approx(free - GB, abs=200 * MIB)

    alive, dead = tmp_path / "machines/alive", tmp_path / "machines/dead"
    for folder in (alive, dead):
        folder.mkdir(parents=True)
        made = Path(spaces.make(machine(), str(folder), None))
        assert made == folder / "mnt" and made.stat().st_mode & 0o777 == 0o755
        (made / "deep").mkdir()
        (made / "deep/file").write_text("x")
        (folder / "machine.json").write_text("kept")
    (tmp_path / "machines/ended").mkdir()
    (tmp_path / "elsewhere").write_text("kept")
    (dead / "mnt/link").symlink_to(tmp_path / "elsewhere")

    [left] = spaces.left_over([(str(alive), A)])
    assert left == work_space.LeftOver(str(dead), "", f"the folder {dead}/mnt of a machine that is not alive")
    spaces.remove_left_over(left)
    assert spaces.left_over([(str(alive), A)]) == []
    assert (alive / "mnt/deep/file").exists() and (tmp_path / "elsewhere").exists()
    assert [path.name for path in dead.iterdir()] == ["machine.json"]
    spaces.remove(str(alive), A)
    spaces.remove(str(alive), A)
    spaces.remove(str(tmp_path / "machines/never"), B)
    assert [path.name for path in alive.iterdir()] == ["machine.json"]


def test_a_factory_that_has_made_nothing_yet(tmp_path: Path) -> None:
    spaces = work_space.WorkSpaces(configured(tmp_path / "not" / "there"))
    assert spaces.left_over([]) == []
    assert spaces.room_bytes()[0] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    spaces.remove(str(tmp_path / "not/there/machines/m"), A)
    assert not (tmp_path / "not").exists()


@contextlib.contextmanager
def at_work(mark: str, *inside: str, **who: t.Any) -> t.Iterator[None]:
    """A process that calls itself mount, and has something of the factory among its arguments."""
    argv = [*inside, "bash", "-c", f"exec -a mount sh -c 'echo up; read end; :' {mark}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **who) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield


def test_a_command_that_a_killed_factory_had_begun_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_space, "_SECONDS", 0.2)
    spaces = work_space.WorkSpaces(configured(tmp_path))
    with at_work(f"{tmp_path}/machines/m"), pytest.raises(WaitError, match=f": mount -c .* {tmp_path}/machines/m"):
        spaces.left_over([])


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("inside", "who"),
    [((), {"user": 65534}), (("unshare", "--pid", "--fork", "--kill-child"), {})],
    ids=["account", "container"],
)
def test_nobody_else_holds_the_factory_up_by_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: tuple[str, ...], who: dict[str, t.Any]
) -> None:
    """A payload runs as it likes, also as root of its container."""
    monkeypatch.setattr(work_space, "_SECONDS", 0.2)
    with at_work(f"{tmp_path}/machines/m", *inside, **who):
        assert work_space.WorkSpaces(configured(tmp_path)).left_over([]) == []


def test_more_than_there_is(tmp_path: Path) -> None:
    spaces = work_space.WorkSpaces(configured(tmp_path))
    folder = tmp_path / "machines/m"
    for size in (1 << 60, 0, None):
        with pytest.raises(NoRoomError, match=rf"of the machine {A} is to have {size or 0} bytes, and \d+ are free"):
            spaces.make(machine(), str(folder), size)
    assert not (folder / "mnt").exists() and not (tmp_path / "volumes").exists()


@pytest.mark.skipif(shutil.which("mkfs.xfs", path="/usr/sbin:/sbin") is None, reason="this machine has no xfsprogs")
def test_a_share_that_xfs_refuses_is_lack_of_room(tmp_path: Path) -> None:
    """Not a start that fails, for which the whole space would back off; and nothing is tried in the first place."""
    configured = {
        kind: parsed(tmp_path, file_system=kind[0], work_space=kind[1])
        for kind in (("ext4", "file"), ("xfs", "file"), ("xfs", "folder"))
    }
    least = configured["xfs", "file"].settings.least_disk_bytes
    for size, done in ((least, 0), (least - MIB, 1)):
        (tmp_path / "image").write_bytes(b"")
        os.truncate(tmp_path / "image", size)
        made = subprocess.run(["/usr/sbin/mkfs.xfs", "-q", "-f", "-K", str(tmp_path / "image")], check=False)
        assert made.returncode == done, "the limit is another one with this xfsprogs"
    spaces = work_space.WorkSpaces(configured["xfs", "file"])
    with pytest.raises(NoRoomError, match=f"is to have {least - MIB} bytes, and xfs takes {least}"):
        spaces.make(machine(), str(tmp_path / "machines/m"), least - MIB)

    for which, most in ((("ext4", "file"), 2), (("xfs", "folder"), 2), (("xfs", "file"), 0)):
        settings = replace(configured[which].settings, total_processors=2)
        kind = Machinetype("a", max_processors=2)
        host = HostLoad(2, disk_free_bytes=2 * least - MIB, disk_whole_bytes=2 * least - MIB)
        means = Means(settings, [], host, {"a": kind})
        assert means.most(kind) == most
    assert "0.314 GB, its share of all there is, where 0.315 GB is the least" in means.lack(kind)


def test_what_the_kernel_refuses_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for kind in ("file", "folder"):
        spaces = work_space.WorkSpaces(configured(tmp_path / "file", work_space=kind))
        for work in (
            lambda spaces=spaces: spaces.left_over([]),
            lambda spaces=spaces: spaces.make(machine(), str(tmp_path / "file/machines/m"), MIB),
            lambda spaces=spaces: spaces.remove(str(tmp_path / "file/machines/m"), A),
        ):
            with pytest.raises(
                GridboxError, match=r"^(Looking|Making|Removing).* failed \(\[Errno 20\] Not a directory"
            ):
                work()


def test_lvm_is_asked_for_room_when_something_was_made_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision each five seconds would be a command each five seconds, and two."""
    free, asked, now = [30 * GB], list[int](), [1000.0]

    def room(_self: lvm.LogicalVolumes) -> Room:
        asked.append(free[0])
        return Room(free[0], 30 * GB - free[0], EXTENT)

    def make(_self: lvm.LogicalVolumes, _uuid: str, size: int) -> str:
        free[0] -= size
        return "/dev/grid/x"

    def remove(_self: lvm.LogicalVolumes, _volume: Volume) -> None:
        free[0] = 30 * GB

    def find(_self: lvm.LogicalVolumes) -> list[Volume]:
        return [Volume(A, "grid/x")] if free[0] < 30 * GB else []

    for effect in (room, make, remove, find):
        monkeypatch.setattr(lvm.LogicalVolumes, effect.__name__, effect)
    monkeypatch.setattr(work_space.WorkSpaces, "_mount", lambda *_arguments: None)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    spaces = work_space.WorkSpaces(configured(tmp_path, work_space="lvm", volume_group="grid"))
    assert [spaces.room_bytes()[0], spaces.room_bytes()[0], spaces.room_bytes(GB)[0]] == [30 * GB, 30 * GB, 29 * GB]
    assert len(asked) == 1
    folder = str(tmp_path / "machines/m")
    spaces.make(machine(), folder, 10 * GB)
    assert spaces.room_bytes() == (20 * GB, 30 * GB)
    spaces.remove(folder, A)
    assert [spaces.room_bytes()[0], spaces.room_bytes()[0]] == [30 * GB, 30 * GB]
    free[0] = 7 * GB  # somebody else's volume
    assert spaces.room_bytes()[0] == 30 * GB
    now[0] += 61
    assert spaces.room_bytes()[0] == 7 * GB
    assert len(asked) == 5, "with the look before the volume is made"
    free[0], now[0] = 50 * GB, now[0] + 61
    assert spaces.room_bytes()[0] == 50 * GB
    free[0] = 40 * GB
    with pytest.raises(NoRoomError):
        spaces.make(machine(), folder, 45 * GB)
    assert spaces.room_bytes()[0] == 40 * GB, "who decided for it was told of more"


def test_programs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path: None if "fs" in name else f"/sbin/{name}")
    with pytest.raises(RefusedError, match=r"work_space is file: this host has no mkfs\.ext4\. Install"):
        work_space.WorkSpaces(configured(tmp_path)).check()
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    missing = r"no mkfs\.xfs, no vgs, no lvs, no lvchange, no lvcreate, no lvremove\. Install"
    with pytest.raises(RefusedError, match=missing):
        work_space.WorkSpaces(configured(tmp_path, work_space="lvm", file_system="xfs", volume_group="grid")).check()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RefusedError, match="only root can mount"):
        work_space.WorkSpaces(configured(tmp_path)).check()


# ---- who holds it ------------------------------------------------------------------------------------------------

HERE = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
THERE = "40 25 7:19 / /state/m/mnt rw - ext4 /dev/loop19 rw\n"
NOTHING = "08048000-08049000 r-xp 00000000 08:01 1 /bin/cat\n08049000-0804a000 rw-p 00000000 00:00 0 \n"


def process(
    proc: Path, number: int, mountinfo: str = HERE + THERE, cwd: str = "/", root: str = "/", maps: str = NOTHING,
    mount: int = 25,
) -> None:  # fmt: skip
    folder = proc / str(number)
    (folder / "fdinfo").mkdir(parents=True)
    (folder / "cwd").symlink_to(cwd)
    (folder / "root").symlink_to(root)
    (folder / "mountinfo").write_text(mountinfo)
    (folder / "maps").write_text(maps)
    (folder / "comm").write_text("payload\n")
    (folder / "fdinfo/3").write_text(f"pos:\t0\nflags:\t0100000\nmnt_id:\t{mount}\nino:\t12\n")


ELSEWHERE = HERE + THERE.replace("/state/m/mnt", "/scratch")


@pytest.mark.parametrize("here", [True, False])
def test_who_holds_a_file_system(tmp_path: Path, here: bool) -> None:
    process(tmp_path, 1, HERE + THERE if here else HERE)
    process(tmp_path, 2, mount=40)
    process(tmp_path, 30, cwd="/state/m/mnt/deep")
    process(tmp_path, 5, root="/state/m/mnt")
    process(tmp_path, 6, maps=NOTHING + "7f00-7f01 r--p 00000000 07:13 12 /state/m/mnt/lib.so\n")
    process(tmp_path, 7, ELSEWHERE, cwd="/state/m/mnt2")
    process(tmp_path, 8, HERE)
    (tmp_path / "9").mkdir()  # it has just ended
    (tmp_path / "self").symlink_to("1")
    found = [
        "process 2 (payload) has a file open in it",
        "process 5 (payload) has its root in it",
        "process 6 (payload) runs a program of it, or has a file of it in memory",
        "process 7 (payload) has it at /scratch in a mount namespace of its own",
        "process 30 (payload) works in it",
    ]
    if here:  # what is mounted in a namespace beside ours holds nobody up
        del found[3]
    assert holders.holders("7:19", str(tmp_path)) == found
    assert holders.holders("7:1", str(tmp_path)) == []


def test_many_holders_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "holders", lambda device: [f"process {number} (x) works in it" for number in range(8)])
    said = holders.told("7:1")
    assert said.startswith("process 0 (x) works in it, process 1 ") and said.endswith(
        "process 4 (x) works in it, 3 more"
    )
    monkeypatch.setattr(holders, "holders", lambda device: [])
    assert "no process" in holders.told("7:1")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of work spaces of every kind, on a real host: on this one, and on virtual machines, where::

    python3 -m tests.lab.work_spaces NAME STATE_FOLDER '{"work_space": "lvm", "volume_group": "grid"}'

runs the function NAME. So it needs no more than the standard library and the collection. On a machine where others make
mount namespaces meanwhile, it has to run in one of its own: theirs would have its mounts as well, and hold them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    configuration,
    volume,
    work_space,
    work_space_file,
    work_space_lvm,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from tests.lab.killed import at_command, at_line, before_command, killed

MIB = 1 << 20
#: Of a volume; xfs takes no less than 300 MiB, and its log 64 of them.
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB}
#: Where a kill is to strike between two steps.
CODE = frozenset(str(module.__file__) for module in (volume, work_space, work_space_file, work_space_lvm))


def uuid(number: int) -> str:
    """Of the machine of a test with this number."""
    return f"00000000-0000-4000-8000-{number:012x}"


class Place:
    """A factory's state folder, and its work spaces."""

    def __init__(self, state_folder: Path, **options: str) -> None:
        given = {"name": "factory1.example.org", "space": "vac01.example.org", **options}
        self.configuration = replace(configuration.parse(given), state_folder=str(state_folder))
        self.state_folder = state_folder
        self.spaces = work_space.WorkSpaces(self.configuration)
        self.size = SIZES[self.configuration.file_system]

    def folder(self, number: int) -> str:
        """Of the machine with this number; made now if it is not there, as a factory does before it asks for more."""
        made = self.state_folder / "machines" / f"1_prod_slot_{number}"
        made.mkdir(parents=True, exist_ok=True)
        return str(made)

    def make(self, number: int, size: int = 0) -> Path:
        machine = Machine(uuid(number), "slot", "prod", "docker", 1, 1, 2, 3, "image", 600)
        return Path(self.spaces.make(machine, self.folder(number), size or self.size))

    def remove(self, number: int) -> None:
        self.spaces.remove(self.folder(number), uuid(number))

    def mend(self, *alive: int) -> int:
        """What a factory does when it starts; how much was left over."""
        kept = [(self.folder(number), uuid(number)) for number in alive]
        found = self.spaces.left_over(kept)
        for one in found:
            self.spaces.remove_left_over(one)
        again = self.spaces.left_over(kept)
        assert not again, again
        return len(found)

    def seen(self) -> set[str]:
        """All that there is of work spaces, by other tools than the library uses."""
        state = os.path.realpath(self.state_folder)
        # Which of the loop devices it is does not matter.
        mounts = [line.partition(" ")[2] for line in Path("/proc/mounts").read_text().splitlines()]
        found = {f"mount {line}" for line in mounts if line.startswith(f"{state}/")}
        for root, folders, files in os.walk(state):
            found |= {f"path {root}/{name}" for name in (*folders, *files)}
        listed = said("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
        found |= {f"loop of {line}" for line in listed.splitlines() if line.startswith(f"{state}/")}
        if self.configuration.work_space == "lvm":
            found |= {f"mapped {line.split()[0]}" for line in said("dmsetup", "ls").splitlines()}
            listed = said("lvs", "--all", "--noheadings", "--options", "vg_name,lv_name,lv_size,lv_attr")
            found |= {f"volume {' '.join(line.split()).replace('-wi-ao', '-wi-a-')}" for line in listed.splitlines()}
        return found


def said(*argv: str) -> str:
    """By a command that has to succeed."""
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60, text=True).stdout


def same(before: set[str], after: set[str]) -> None:
    """Nothing has come, nothing has gone."""
    assert before == after, f"left: {sorted(after - before)}; gone: {sorted(before - after)}"


# ---- what is tested ----------------------------------------------------------------------------------------------


def it_can_be_made_here(place: Place) -> None:
    before = place.seen()
    place.spaces.check()
    same(before, place.seen())


def a_volume_is_as_large_as_was_said(place: Place) -> None:
    before = place.seen()
    free = place.spaces.room_bytes()[0]
    point = place.make(1)
    assert os.path.ismount(point)
    about = os.statvfs(point)
    assert about.f_blocks * about.f_frsize <= place.size
    least = place.size * (0.85 if place.configuration.file_system == "ext4" else 0.6)
    written = fill(point / "big", 2 * place.size)
    os.sync()
    assert least <= written <= place.size, f"{written} bytes went into a volume of {place.size}"
    assert free - place.spaces.room_bytes()[0] > 0
    place.remove(1)
    place.remove(1)
    same(before, place.seen() - {f"path {place.folder(1)}", *parents(place)})


def fill(path: Path, most: int) -> int:
    """Write into a file until there is no room any more; how many bytes that were."""
    written = 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while written <= most:
            written += os.write(file, os.urandom(MIB))
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
    finally:
        os.close(file)
    return written


def parents(place: Place) -> set[str]:
    """Folders that are made with the first volume, and stay."""
    state = os.path.realpath(place.state_folder)
    return {f"path {state}/machines", f"path {state}/volumes", *(f"path {place.folder(n)}" for n in range(5))}


def it_is_root_s_and_has_no_setuid_and_no_devices(place: Place) -> None:
    point = place.make(1)
    about = point.stat()
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (0, 0, 0o755), about
    [line] = [line for line in Path("/proc/mounts").read_text().splitlines() if f" {point} " in line]
    assert {"nosuid", "nodev", "rw"} <= set(line.split()[3].split(",")), line
    os.mknod(point / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with contextlib.suppress(PermissionError):
        (point / "null").read_bytes()
        raise AssertionError("a device in it can be opened")
    place.remove(1)


def several_at_once(place: Place) -> None:
    """And each of them is somebody else's: what is in one is not in the others, and stays when they go."""
    numbers = range(1, 5)
    with ThreadPoolExecutor(4) as pool:
        points = list(pool.map(place.make, numbers))
        before = place.seen()
        for number, point in zip(numbers, points):
            assert {path.name for path in point.iterdir()} <= {"lost+found"}, point
            (point / "name").write_text(str(number))
        list(pool.map(place.remove, (2, 3)))
        list(pool.map(place.make, (2, 3)))
        assert [(point / "name").exists() for point in points] == [True, False, False, True]
        same(before, place.seen() - {f"path {point}/name" for point in points})
        list(pool.map(place.remove, numbers))


def no_more_is_given_away_than_there_is(place: Place) -> None:
    free = place.spaces.room_bytes()[0]
    assert free > 4 * place.size, free
    size = place.spaces.size_for(6, free // 10, 1)
    assert size is not None
    share = place.spaces.size_for(1, None, 4)

    def attempt(number: int) -> str:
        try:
            place.make(number, size)
        except GridboxError as exc:
            return str(exc)
        return ""

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(attempt, (1, 2)))
    assert results.count("") == 1 and f"is to have {size} bytes, and " in "".join(results), results
    assert place.spaces.room_bytes(free // 2)[0] == 0
    # The share of a processor does not depend on what the machines have at the moment, but others write here as well.
    now = place.spaces.size_for(1, None, 4)
    assert share and now and abs(now - share) < share / 10, (share, now)
    for number in (1, 2):
        place.remove(number)


def one_in_use_is_not_removed(place: Place) -> None:
    point = place.make(1)
    (point / "precious").write_text("here")
    before = place.seen()
    holder = subprocess.Popen(["sleep", "600"], cwd=point)
    try:
        error = refusal(place.remove)
        assert f"{point} is not removed, for it is in use: process {holder.pid} (sleep) works in it." in error, error
        with (point / "precious").open() as file:
            error = refusal(place.remove)
            assert f"process {os.getpid()} (" in error and "has a file open in it" in error, error
            assert file.read() == "here"
        same(before, place.seen())
    finally:
        holder.kill()
        holder.wait()
    place.remove(1)
    assert not point.exists()


def one_that_somebody_only_looks_into_is_removed(place: Place) -> None:
    point = place.make(1)
    visitor = subprocess.Popen(["sleep", "1"], cwd=point)
    try:
        place.remove(1)
        assert not point.exists()
    finally:
        visitor.wait()


def one_that_another_mount_namespace_has_is_not_lost(place: Place) -> None:
    work_space_file._SECONDS = 1.0
    point = place.make(1)
    elsewhere = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"]
    holder = subprocess.Popen(elsewhere, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
    try:
        error = refusal(place.remove)
        assert f"process {holder.pid} (sleep) has it at {point} in a mount namespace of its own" in error, error
        assert place.spaces.left_over([]) != []
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    place.remove(1)
    assert place.spaces.left_over([]) == []


def refusal(work: t.Callable[[int], object]) -> str:
    """What is said when something cannot be done with the first machine's."""
    try:
        work(1)
    except GridboxError as exc:
        return str(exc)
    raise AssertionError("it has been done")


def what_is_mounted_in_it_is_not_removed(place: Place) -> None:
    point = place.make(1)
    (point / "inside").mkdir()
    theirs = place.state_folder / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("here")
    for where in (point / "inside", point):
        said("mount", "--bind", str(theirs), str(where))
        try:
            refusal(place.remove)
            assert (theirs / "precious").read_text() == "here"
        finally:
            said("umount", str(where))
    place.remove(1)
    (theirs / "precious").unlink()
    theirs.rmdir()


def a_kill_between_two_steps_leaves_nothing(place: Place) -> None:
    """Before each line of the code."""
    moments = (at_line(number, CODE) for number in range(1, 1000))
    _kills(place, moments, least=25)


def a_kill_between_two_commands_leaves_nothing(place: Place) -> None:
    """The same, as far as the host looks another way: for hosts on which each kill takes half a minute."""
    _kills(place, (before_command(number) for number in range(1, 100)), least=2)


def a_kill_while_a_command_is_at_work_leaves_nothing(place: Place) -> None:
    """The command goes on by itself."""
    _kills(place, (at_command(number) for number in range(1, 100)), least=2)


def a_kill_of_a_command_as_well_leaves_nothing(place: Place) -> None:
    """As systemd does that, with all of a unit; at several moments of each command."""
    for along in (0, 0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.3):
        _kills(place, (at_command(number, along) for number in range(1, 100)), least=2)


def _kills(place: Place, moments: t.Iterable[t.Callable[[], None]], least: int) -> None:
    """Kill a make and a remove at each moment, until there are none left; another machine lives all the time."""
    (place.make(1) / "precious").write_text("here")
    place.make(2)
    place.remove(2)
    clean = place.seen()
    going = {"make", "remove"}
    counted = 0
    for moment in moments:
        for what in sorted(going):
            if what == "remove":
                place.make(2)
            if not killed(lambda what=what: getattr(place, what)(2), moment):  # type: ignore[misc]
                going.discard(what)
            counted += 1
            place.mend(1)
            same(clean, place.seen())
        if not going:
            break
    assert not going and counted > 2 * least, (going, counted)
    assert Path(place.folder(1), "mnt/precious").read_text() == "here"
    place.remove(1)
    print(f"{counted} kills")


# ---- files only --------------------------------------------------------------------------------------------------


def a_loop_device_that_the_kernel_does_not_free_is_freed(place: Place) -> None:
    """Made by hand, or by a mount(8) that was killed."""
    said("umount", str(place.make(1)))
    image = image_of(place)
    said("losetup", "--find", image)
    assert [loop.freed for loop in work_space_file.read_loops() if loop.file == image] == [False]
    assert place.mend() == 2  # the volume, and the folder it was mounted in


def a_file_that_somebody_has_removed_is_unmounted(place: Place) -> None:
    place.make(1)
    os.unlink(image_of(place))
    place.remove(1)


def a_mount_elsewhere_goes_too(place: Place) -> None:
    point = place.make(1)
    other = place.state_folder / "other"
    other.mkdir()
    said("mount", "--bind", str(point), str(other))
    place.remove(1)
    other.rmdir()


def a_machine_has_one_work_space(place: Place) -> None:
    (place.make(1) / "precious").write_text("here")
    error = refusal(place.make)
    assert "has its work space already" in error, error
    assert Path(place.folder(1), "mnt/precious").read_text() == "here"
    place.remove(1)


def one_that_cannot_be_mounted_is_not_left(place: Place) -> None:
    place.make(1)
    place.remove(1)
    before = place.seen()
    work_space._OPTIONS[place.configuration.file_system] = "no_such_option"
    error = refusal(place.make)
    assert re.search(r"Mounting .* failed\. mount ended with 32", error), error
    same(before, place.seen())


def image_of(place: Place) -> str:
    """The file of the first machine's volume."""
    return f"{os.path.realpath(place.state_folder)}/volumes/{uuid(1)}.img"


# ---- in parts, with something between ---------------------------------------------------------------------------


def made_and_left(place: Place) -> None:
    for number in (1, 2):
        place.make(number)


def what_is_left_over_is_removed(place: Place) -> None:
    found = place.mend()
    assert found == 4, found  # two volumes, and the folders that they had been mounted in
    assert place.spaces.left_over([]) == []


def how_long_it_takes(place: Place) -> None:
    for _turn in range(3):
        start = time.monotonic()
        place.make(1, place.spaces.size_for(1, None, 2) or 0)
        made = time.monotonic()
        place.remove(1)
        print(f"made in {made - start:.3f} s, removed in {time.monotonic() - made:.3f} s")


def main() -> None:
    name, state_folder, options = sys.argv[1:]
    place = Place(Path(state_folder), **json.loads(options))
    place.state_folder.mkdir(parents=True, exist_ok=True)
    before = place.seen()
    globals()[name](place)
    if globals()[name] not in (made_and_left, what_is_left_over_is_removed):
        same({one for one in before if "/machines/" not in one} | parents(place), place.seen() | parents(place))


if __name__ == "__main__":
    main()

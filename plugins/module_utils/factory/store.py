# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's machines on disk: one folder each below ``machines``, with the record in ``machine.json``.

Records are replaced, never changed, so whenever a process is killed there is the one before or the one after. What a
machine has written is never followed: its folder is of whoever is root in it, and a link of his may point anywhere.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import stat
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    Machine,
    from_json,
    last_in_slots,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unreadable import Unreadable, unreadable
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.plain_file import plain_file
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import remove_neighbours, write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import Heartbeat

RECORD = "machine.json"
#: What is kept of a machine that has ended: what it printed, and what it left.
OUTPUT, JOBOUTPUTS = "output.log", "joboutputs"


def at_work(state_folder: str, seconds: float = 0) -> Lock:
    """Who makes machines and takes them away has it: one process, a daemon or a run without one.

    :param seconds: how long to wait for another.
    """
    return Lock(f"the factory in {os.path.realpath(state_folder)}", seconds)


#: Bytes of a shutdown message that are read.
_MESSAGE_BYTES = 1024

#: Bytes and files of a machine's joboutputs that are kept when it has ended.
KEPT_BYTES, KEPT_FILES = 100 << 20, 1000

#: Bytes of it that are in memory: many machines may end at once.
_PIECE_BYTES = 1 << 20


class Store:
    """The machines of a factory.

    :param state_folder: the factory's.
    """

    def __init__(self, state_folder: str) -> None:
        self.root = os.path.join(state_folder, "machines")

    def folder(self, machine: Machine) -> str:
        """A machine's folder."""
        return os.path.join(self.root, machine.folder)

    def with_work_space(self, machines: t.Iterable[Machine], unread: t.Iterable[Unreadable]) -> list[tuple[str, str]]:
        """Folders and uuids, or how these begin, of machines that may have a work space."""
        known = [(self.folder(one), one.uuid) for one in machines if not one.cleaned]
        return known + [(one.folder, one.mark) for one in unread]

    def has(self, machine: Machine) -> bool:
        """Whether there is a machine's folder."""
        return os.path.isdir(self.folder(machine))

    def load(self) -> tuple[list[Machine], list[str]]:
        """All machines, and a sentence for each folder that holds none. One without a record is passed over: it is of a
        machine that is just being made, or see :meth:`forget_unborn`."""
        machines, unread = self.read()
        return machines, [one.problem for one in unread]

    def read(self, names: t.Optional[t.Iterable[str]] = None) -> tuple[list[Machine], list[Unreadable]]:
        """The same, with what is known of the machines whose records cannot be read.

        :param names: folders that are looked at; None: all.
        """
        machines, unread = [], []
        if names is None:
            names = sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        for name in names:
            folder = os.path.join(self.root, name)
            path = os.path.join(folder, RECORD)
            try:
                with open(path, "rb") as file:
                    machine = from_json(file.read(), path)
                if machine.folder != name:
                    raise GridboxError(f"{path} is of another machine, {machine.folder}.")
                machines.append(machine)
            except FileNotFoundError:
                continue
            except OSError as exc:
                unread.append(unreadable(folder, f"{path} cannot be read ({exc.strerror})."))
            except GridboxError as exc:
                unread.append(unreadable(folder, str(exc)))
        return machines, unread

    def last(self, slots: t.Optional[t.Collection[str]] = None) -> tuple[dict[str, Machine], dict[str, Unreadable]]:
        """By slot, the machine that is in it or was last in it; of thousands of records few are read. What was made
        later than now, before the clock was set back, does not hide what was made since, and nothing hides a machine
        that has its folders still, by whatever clock it was made. And by slot, one that cannot be read: nobody can tell
        whether that machine is in it.

        :param slots: None: all that there are records of, those among them that the factory has no more.
        """
        newest: dict[tuple[str, bool], tuple[int, list[str]]] = {}
        not_cleaned: list[str] = []
        now = time.time()
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            parts = name.split("_")
            if len(parts) != 4 or (slots is not None and parts[2] not in slots) or not parts[0].isdigit():
                continue
            created = int(parts[0])
            key = (parts[2], created > now)
            if key not in newest or created > newest[key][0]:
                newest[key] = (created, [])
            if created == newest[key][0]:
                newest[key][1].append(name)
            if os.path.lexists(os.path.join(self.root, name, "mnt")):
                not_cleaned.append(name)
        found, unread = self.read(name for _created, names in newest.values() for name in names)
        # Of one of these that cannot be read only its name tells, and by that it was over before another was made.
        found += self.read(not_cleaned)[0]
        return last_in_slots(found), {one.slot: one for one in unread if one.slot}

    def forget_unborn(self) -> None:
        """Remove the folders whose maker was killed before it wrote a record, and records that were not finished. For
        who makes machines, before it does."""
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            folder = os.path.join(self.root, name)
            with contextlib.suppress(OSError):
                remove_neighbours(os.path.join(folder, RECORD))
                os.rmdir(folder)

    def create(self, machine: Machine) -> str:
        """Make a machine's folder, with its record. For root alone: user_data in it may hold secrets."""
        folder = self.folder(machine)
        os.makedirs(self.root, mode=0o755, exist_ok=True)
        os.mkdir(folder, 0o700)
        self.save(machine)
        return folder

    def save(self, machine: Machine) -> None:
        """Write a machine's record."""
        write_atomically(os.path.join(self.folder(machine), RECORD), machine.as_json().encode(), 0o600)

    def forget(self, machine: Machine) -> None:
        """Remove a machine's folder. Its work space has to be gone: what is mounted in it is not removed.

        :raises GridboxError: if something is.
        :raises OSError: if it cannot be removed for another reason.
        """
        folder = self.folder(machine)
        _refuse_mounted(folder)
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as inside:
            # The record last: without it nobody would know later that the rest is to go.
            for one in inside:
                if one.is_dir(follow_symlinks=False):
                    shutil.rmtree(one.path)
                elif one.name != RECORD:
                    os.unlink(one.path)
            shutil.rmtree(folder)

    def outputs_kept(self, machine: Machine) -> tuple[str, ...]:
        """Where what is kept of a machine's outputs is, when it has ended and is cleaned away."""
        return tuple(os.path.join(self.folder(machine), name) for name in (OUTPUT, JOBOUTPUTS))

    def forget_outputs(self, machine: Machine) -> None:
        """Remove what is kept of a machine's outputs; its record stays.

        :raises GridboxError: if something is mounted there.
        :raises OSError: if it cannot be removed for another reason.
        """
        output, joboutputs = self.outputs_kept(machine)
        _refuse_mounted(joboutputs)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(output)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(joboutputs)

    def expire(self, machines: t.Iterable[Machine], now: int, days: float) -> list[tuple[Machine, str]]:
        """Remove the folders of machines that ended more than so many days ago. One that cannot be removed keeps no
        other from going.

        :param days: 0: folders stay for ever.
        :returns: those whose folders stay, with a sentence why.
        """
        stay = []
        for machine in machines:
            if expired(machine, now, days):
                try:
                    self.forget(machine)
                except GridboxError as exc:
                    stay.append((machine, str(exc)))
                except OSError as exc:
                    stay.append((machine, f"{self.folder(machine)} cannot be removed ({exc})."))
        return stay

    # ---- what a machine has written ------------------------------------------------------------------------------

    def shutdown_message(self, machine: Machine) -> t.Optional[str]:
        """The first line of the machine's shutdown message; None if there is none that begins with three digits."""
        with plain_file(os.path.join(self._outputs(machine), "shutdown_message")) as file:
            raw = b"" if file is None else b"".join(_pieces(file, _MESSAGE_BYTES))
        lines = raw.decode(errors="replace").strip().splitlines()
        line = "".join(character for character in (lines[0] if lines else "") if character.isprintable()).strip()
        return line if line[:3].isascii() and line[:3].isdigit() and len(line) >= 3 else None

    def heartbeats(self, machines: t.Iterable[Machine]) -> dict[str, Heartbeat]:
        """By slot, the heartbeats of those of the machines that have to have one. May wait for ever, for a work space
        on a disk that does not answer."""
        now = int(time.time())
        found = {
            one: Heartbeat(one.heartbeat_file, self._beaten(one), one.fizzle_seconds, one.heartbeat_seconds, now)
            for one in machines
            if one.heartbeat_file
        }
        return {one.slot: beat.ageing_since(one.set_at) if one.set_at else beat for one, beat in found.items()}

    def _beaten(self, machine: Machine) -> t.Optional[int]:
        """When the machine's heartbeat file was written; None if there is none."""
        try:
            found = os.lstat(os.path.join(self._outputs(machine), machine.heartbeat_file or ""))
        except OSError:
            return None
        return int(found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def keep_outputs(self, machine: Machine) -> None:
        """Copy a machine's joboutputs from its work space to its folder, before the work space goes: plain files of its
        top level, by name the first :data:`KEPT_FILES`, up to :data:`KEPT_BYTES` in all."""
        source, target = self._outputs(machine), os.path.join(self.folder(machine), JOBOUTPUTS)
        if source == target or not os.path.isdir(source):  # they are kept, or there were none
            return
        again = os.path.isdir(target)
        os.makedirs(target, mode=0o700, exist_ok=True)
        left = KEPT_BYTES
        with os.scandir(source) as inside:  # there may be millions: no list of them is made
            names = heapq.nsmallest(KEPT_FILES, (one.name for one in inside))
        for name in names:
            if again:  # who began to may have been killed; a file of the machine's that is named so comes after this
                remove_neighbours(os.path.join(target, name))
            with plain_file(os.path.join(source, name)) as file:
                if file is not None:
                    write_atomically(os.path.join(target, name), _pieces(file, left), 0o600)
                    left -= file.tell()

    def _outputs(self, machine: Machine) -> str:
        """Where joboutputs are: in the work space while there is one, afterwards where they were kept."""
        live = os.path.join(self.folder(machine), "mnt", JOBOUTPUTS)
        return live if os.path.isdir(live) else os.path.join(self.folder(machine), JOBOUTPUTS)


def _refuse_mounted(folder: str) -> None:
    """What is mounted in a folder is somebody's: it is not removed with it."""
    real = os.path.realpath(folder)
    for mount in mount_table.read():
        if mount.is_below(real):
            raise GridboxError(f"{folder} is not removed, for {mount.point} is still mounted.")


def expired(machine: Machine, now: int, days: float) -> bool:
    """Whether a machine ended more than so many days ago, so that its folder goes.

    :param days: 0: folders stay for ever.
    """
    over = machine.state == ENDED and machine.cleaned and days > 0
    return over and (machine.ended or machine.created) < now - days * 86400


def _pieces(file: t.BinaryIO, limit: int) -> t.Iterator[bytes]:
    """The beginning of a file, little by little; up to where it cannot be read."""
    while limit:
        try:
            piece = file.read(min(limit, _PIECE_BYTES))
        except OSError:
            return
        if not piece:
            return
        yield piece
        limit -= len(piece)

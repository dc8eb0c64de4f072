# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's machines on disk: one folder each below ``machines``, with the record in ``machine.json``.

Records are replaced, never changed, so whenever a process is killed there is the one before or the one after. What a
machine has written is never followed: its folder is of whoever is root in it, and a link of his may point anywhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    ENDED,
    Machine,
    from_json,
    last_in_slots,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock

RECORD = "machine.json"


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

    def load(self) -> tuple[list[Machine], list[str]]:
        """All machines, and a sentence for each folder that holds none. One without a record is passed over: it is of a
        machine that is just being made, or see :meth:`forget_unborn`."""
        machines, problems = [], []
        for name in sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []:
            path = os.path.join(self.root, name, RECORD)
            try:
                with open(path, "rb") as file:
                    machine = from_json(file.read(), path)
                if machine.folder != name:
                    raise GridboxError(f"{path} is of another machine, {machine.folder}.")
                machines.append(machine)
            except FileNotFoundError:
                continue
            except OSError as exc:
                problems.append(f"{path} cannot be read ({exc.strerror}).")
            except GridboxError as exc:
                problems.append(str(exc))
        return machines, problems

    def last(self, slots: t.Collection[str]) -> dict[str, Machine]:
        """By slot, the machine that is in it or was last in it; of thousands of records few are read.

        :raises GridboxError: if one of them cannot be.
        """
        newest: dict[str, tuple[int, list[str]]] = {}
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            parts = name.split("_")
            if len(parts) != 4 or parts[2] not in slots or not parts[0].isdigit():
                continue
            created, slot = int(parts[0]), parts[2]
            if slot not in newest or created > newest[slot][0]:
                newest[slot] = (created, [])
            if created == newest[slot][0]:
                newest[slot][1].append(name)
        found = []
        for name in (name for _created, names in newest.values() for name in names):
            path = os.path.join(self.root, name, RECORD)
            with contextlib.suppress(FileNotFoundError):  # its maker has not written it yet, or it has just gone
                try:
                    with open(path, "rb") as file:
                        found.append(from_json(file.read(), path))
                except PermissionError as exc:
                    raise GridboxError(f"{path} cannot be read ({exc.strerror}).") from exc
        return last_in_slots(found)

    def forget_unborn(self) -> None:
        """Remove the folders whose maker was killed before it wrote a record: nothing else is in them. For who makes
        machines, before it does."""
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.root, name))

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
        """Remove a machine's folder. Its work space has to be gone: what is mounted in it is not removed."""
        folder = self.folder(machine)
        with contextlib.suppress(FileNotFoundError):
            if os.path.ismount(os.path.join(folder, "mnt")):
                raise GridboxError(f"{folder} is not removed, for its work space is still mounted.")
            shutil.rmtree(folder)

    def expire(self, machines: t.Iterable[Machine], now: int, days: float) -> list[Machine]:
        """Remove the folders of machines that ended more than so many days ago, and return them.

        :param days: 0: folders stay for ever.
        """
        gone = [machine for machine in machines if expired(machine, now, days)]
        for machine in gone:
            self.forget(machine)
        return gone

    # ---- what a machine has written ------------------------------------------------------------------------------

    def shutdown_message(self, machine: Machine) -> t.Optional[str]:
        """The first line of the machine's shutdown message; None if there is none that begins with three digits."""
        with _plain_file(os.path.join(self._outputs(machine), "shutdown_message")) as file:
            raw = b"" if file is None else b"".join(_pieces(file, _MESSAGE_BYTES))
        lines = raw.decode(errors="replace").strip().splitlines()
        line = "".join(character for character in (lines[0] if lines else "") if character.isprintable()).strip()
        return line if line[:3].isascii() and line[:3].isdigit() and len(line) >= 3 else None

    def heartbeat(self, machine: Machine) -> t.Optional[int]:
        """When the machine's heartbeat file was written; None if there is none."""
        if not machine.heartbeat_file:
            return None
        try:
            found = os.lstat(os.path.join(self._outputs(machine), machine.heartbeat_file))
        except OSError:
            return None
        return int(found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def keep_outputs(self, machine: Machine) -> None:
        """Copy a machine's joboutputs from its work space to its folder, before the work space goes: plain files of its
        top level, up to :data:`KEPT_BYTES` in all."""
        source, target = self._outputs(machine), os.path.join(self.folder(machine), "joboutputs")
        if not os.path.isdir(source):
            return
        os.makedirs(target, mode=0o700, exist_ok=True)
        left = KEPT_BYTES
        for name in sorted(os.listdir(source))[:KEPT_FILES]:
            with _plain_file(os.path.join(source, name)) as file:
                if file is not None:
                    write_atomically(os.path.join(target, name), _pieces(file, left), 0o600)
                    left -= file.tell()

    def _outputs(self, machine: Machine) -> str:
        """Where joboutputs are: in the work space while there is one, afterwards where they were kept."""
        live = os.path.join(self.folder(machine), "mnt", "joboutputs")
        return live if os.path.isdir(live) else os.path.join(self.folder(machine), "joboutputs")


def expired(machine: Machine, now: int, days: float) -> bool:
    """Whether a machine ended more than so many days ago, so that its folder goes.

    :param days: 0: folders stay for ever.
    """
    over = machine.state == ENDED and machine.cleaned and days > 0
    return over and (machine.ended or machine.created) < now - days * 86400


@contextlib.contextmanager
def _plain_file(path: str) -> t.Iterator[t.Optional[t.BinaryIO]]:
    """A plain file, to be read; None if it is not there, or anything else: a link, a pipe, a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            yield None
            return
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            yield t.cast("t.BinaryIO", file)
    finally:
        os.close(descriptor)


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

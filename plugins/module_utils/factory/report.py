# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a factory is: the file that its daemon writes every few seconds, and that everybody else reads.

The health check, the metrics and ``gridbox explain`` look into this file only, so they need no privilege, never wait
for the daemon or the engine, and can tell that the daemon is gone: then the file grows old. Nothing in it is secret.
"""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.json_types import read
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import (
    RUNNING,
    STARTING,
    Machine,
    last_in_slots,
    with_former,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import Orders
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    DROPPED,
    NOT_BROUGHT,
    NOT_HERE,
    PIPE_UNREAD,
    TOO_LARGE,
    FactorySettings,
)

NAME = "report.json"

#: Seconds: a report that is older is of a daemon that works no more, whatever has its process number now.
FRESH = 60

#: Bytes of a report that are read: one of a thousand slots has less than one.
_MOST_BYTES = 16 << 20

#: Refusals of machinetypes that stay until somebody changes something.
_LASTING = (NOT_HERE, DROPPED, NOT_BROUGHT, PIPE_UNREAD, TOO_LARGE)

#: What of a machine is told. The image and the rest of the definition are in its own file.
_OF_A_MACHINE = (
    "slot", "uuid", "machinetype", "machine_model", "processors", "state", "created", "started", "seen", "ended",
    "shutdown_time", "cpu_seconds", "hs06", "exit_code", "shutdown_message", "end_code", "end_reason", "failed_start",
)  # fmt: skip


@dataclass(frozen=True)
class PipeStatus:
    """A vacuum pipe.

    :ivar fetched_at: Unix s: when its source last said that this is the pipe; None: it has never been read.
    :ivar problem: why it cannot be read now, in a sentence; while there is one, the copy is used.
    :ivar machinetypes: names of those that may be started here.
    :ivar dropped: one sentence for each that has a share, and that something is wrong with.
    :ivar unused_share: what of the pipe's share is nobody's.
    :ivar dropped_without_share: likewise for those that would not be started anyway.
    :ivar not_here: one sentence for each that is right, but not for this factory.
    :ivar not_brought: one sentence for each that the operator says something of, and that the pipe does not bring.
    :ivar warnings: sentences about what is ignored in the pipe.
    :ivar cache_seconds: how long a copy is good for, by the pipe's own word; until then its source is not asked.
    :ivar awaited: of one that is being read for the first time, Unix s: since when.
    """

    fetched_at: t.Optional[float] = None
    problem: str = ""
    machinetypes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unused_share: float = 0.0
    dropped_without_share: tuple[str, ...] = ()
    not_here: tuple[str, ...] = ()
    not_brought: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cache_seconds: int = 0
    awaited: t.Optional[float] = None


@dataclass(frozen=True)
class ImageStatus:
    """A machinetype's image.

    :ivar present: machines can be made from it.
    :ivar problem: why it cannot be had or renewed, in a sentence; empty: nothing has gone wrong.
    :ivar since: Unix s: since when that is so, or since when it is waited for.
    """

    present: bool
    problem: str = ""
    since: t.Optional[float] = None


@dataclass(frozen=True)
class PeerStatus:
    """Another factory of the space.

    :ivar state: of ``vacuum.poll``: answered, incomplete, silent, refused or unknown.
    :ivar since: Unix s: since when no reply comes.
    """

    state: str
    since: t.Optional[float] = None


@dataclass(frozen=True)
class MonitorStatus:
    """A monitor that is told, since the daemon was started.

    :ivar sent: datagrams.
    :ivar failed: by reason, those that could not be sent.
    :ivar problem: why not all of the last ones could be; empty: they were.
    """

    sent: int = 0
    failed: t.Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Counts:
    """What Vac has in its file ``counts``, and its health check at the end of its text."""

    running_machines: int = 0
    slots: int = 0
    running_processors: int = 0
    max_processors: int = 0

    @classmethod
    def of(cls, settings: FactorySettings, machines: t.Iterable[Machine]) -> Counts:
        """Count what runs."""
        running = [machine.processors for machine in machines if machine.state == RUNNING]
        return cls(len(running), len(settings.slots), sum(running), settings.total_processors)


@dataclass(frozen=True)
class Report:
    """A factory at one moment. Times are Unix seconds.

    :ivar version: product and version, for instance ``hep.gridbox 0.2.0``.
    :ivar name: the factory's FQDN.
    :ivar written: when this was written.
    :ivar started: when the daemon was.
    :ivar engine_problem: why the engine does not answer, in a sentence; empty: it does.
    :ivar host_problem: why nobody can tell what the host has room for, so that nothing is started; empty: it is known.
    :ivar configuration_problem: why the file on disk is refused, in a sentence; empty: it is the one in use.
    :ivar pipes: by prefix.
    :ivar images: by machinetype.
    :ivar cvmfs: by repository.
    :ivar slots: the machine that is or was last in each slot, as :func:`of_slots` has it.
    :ivar decision: the last ``Decision.as_data()``; None: there has been none.
    :ivar decided: when it was taken.
    :ivar peers: by FQDN.
    :ivar answered: by message type, requests that the responder has answered since ``started``.
    :ivar unanswered: by reason, those that got no answer.
    :ivar sent: datagrams of answers.
    :ivar monitors: by host and port.
    :ivar failures_in_a_row: by machinetype, machines that did not work on this host since one did.
    :ivar orders: that are obeyed.
    :ivar orders_problem: why the file of orders is refused, in a sentence; empty: it is the one that is obeyed.
    :ivar factories: of the space, this one on the loopback among them: where to ask them, for whoever may not read the
        configuration.
    :ivar metrics_file: that the daemon has written last; empty: none.
    :ivar metrics_problem: why it cannot be written, in a sentence; empty: it can, or there is to be none.
    :ivar records_unreadable: a sentence for each machine's record that cannot be read.
    :ivar unmeasured: by slot, how often in a row what its machine has written took too long to measure.
    :ivar outliving: by slot, since when a machine there outlives KILL, Unix s.
    :ivar fixed: the options that take a restart of the daemon, as it has them.
    :ivar configuration_stamp: of the file that was last read, whether it is in use or refused; see :func:`stamp`.
    :ivar program_stamp: of the program that the daemon was started from.
    :ivar key_stamp: of the space's key when it was read; empty: there is none.
    """

    version: str
    name: str
    space: str
    written: float
    started: float
    pid: int
    engine_problem: str = ""
    engine_since: t.Optional[float] = None
    host_problem: str = ""
    configuration_problem: str = ""
    configuration_since: t.Optional[float] = None
    pipes: t.Mapping[str, PipeStatus] = field(default_factory=dict)
    images: t.Mapping[str, ImageStatus] = field(default_factory=dict)
    cvmfs: t.Mapping[str, Finding] = field(default_factory=dict)
    slots: tuple[t.Mapping[str, t.Any], ...] = ()
    counts: Counts = Counts()
    decision: t.Optional[t.Mapping[str, t.Any]] = None
    decided: t.Optional[float] = None
    peers: t.Mapping[str, PeerStatus] = field(default_factory=dict)
    answered: t.Mapping[str, int] = field(default_factory=dict)
    unanswered: t.Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    monitors: t.Mapping[str, MonitorStatus] = field(default_factory=dict)
    failures_in_a_row: t.Mapping[str, int] = field(default_factory=dict)
    orders: Orders = Orders()
    orders_problem: str = ""
    factories: tuple[Peer, ...] = ()
    metrics_file: str = ""
    metrics_problem: str = ""
    records_unreadable: tuple[str, ...] = ()
    unmeasured: t.Mapping[str, int] = field(default_factory=dict)
    outliving: t.Mapping[str, float] = field(default_factory=dict)
    fixed: t.Mapping[str, t.Any] = field(default_factory=dict)
    configuration_stamp: str = ""
    program_stamp: str = ""
    key_stamp: str = ""

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def configured(self) -> tuple[str, ...]:
        """The slots in which something may be started: without those that the factory has no more."""
        return tuple(str(one.get("slot")) for one in self.slots[: self.counts.slots])

    @property
    def begun(self) -> dict[str, t.Any]:
        """By slot, the uuid of the machine that is being made there: it need not be written down yet."""
        return {one["slot"]: one.get("uuid") for one in self.slots if one.get("state") == STARTING}

    def waits(self, slot: str) -> str:
        """Why what was ordered for a slot does not run there, by the last decision; empty: nothing is known of it."""
        waiting = (self.decision or {}).get("waiting") or ()
        return next((str(one.get("reason")) for one in waiting if one.get("slot") == slot), "")

    def cannot_start(self, machinetype: str) -> str:
        """Why no machine of a machinetype can be started here before somebody changes something; empty: nothing that
        stays is known. An image that could not be had is somebody's to see to, though it is tried again."""
        judged = (self.decision or {}).get("machinetypes") or ()
        for one in judged:
            if one.get("machinetype") == machinetype and one.get("refusal") in _LASTING:
                return str(one.get("reason"))
        image = self.images.get(machinetype)
        if image is not None and not image.present and image.problem:
            return f"its image is not here yet: {image.problem}"
        return ""


def stamp(path: str) -> str:
    """What is another one when a file is, and tells nothing of what is in it; empty if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"


def of_slots(slots: t.Sequence[str], machines: t.Iterable[Machine]) -> tuple[dict[str, t.Any], ...]:
    """What a report says of each slot, by the machine that is or was last in it.

    :param slots: that are configured, in the factory's order; those of machines that go on elsewhere come after them.
        Of one that was never used all but the name is missing.
    """
    last = last_in_slots(machines)
    return tuple(
        {key: getattr(last[slot], key) for key in _OF_A_MACHINE} if slot in last else {"slot": slot}
        for slot in with_former(slots, last.values())
    )


def as_last_seen(machines: t.Iterable[Machine], last: t.Optional[Report]) -> list[Machine]:
    """Machines as a report has seen them last: how long they ran, and what they used. Their own records are written
    when something happens to them only, and of one that has ended meanwhile nobody else can tell.

    :param last: None: there is none.
    """
    told = {one.get("uuid"): one for one in last.slots} if last is not None else {}
    found = []
    for machine in machines:
        seen, used = (told.get(machine.uuid, {}).get(key) for key in ("seen", "cpu_seconds"))
        if machine.state == RUNNING and isinstance(seen, int) and isinstance(used, int):
            used, seen = max(machine.cpu_seconds, used), max(machine.seen or 0, seen)
            found.append(replace(machine, seen=seen, cpu_seconds=used))
        else:
            found.append(machine)
    return found


def from_json(text: str, where: str) -> Report:
    """A report from its file.

    :param where: the file, for the error.
    :raises GridboxError: if it is none. A key of a later version means nothing to this one, and is passed over.
    """
    try:
        return t.cast("Report", read(Report, json.loads(text)))
    except (ValueError, TypeError, RecursionError) as exc:
        raise GridboxError(f"{where} is not a factory's report ({exc}).") from exc


def load(state_folder: str) -> t.Optional[Report]:
    """The report of the factory that keeps its state there; None if no daemon has ever written one.

    :raises GridboxError: if it cannot be read.
    """
    path = os.path.join(state_folder, NAME)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise GridboxError(f"The factory's report {path} cannot be read ({exc}).") from exc
    return from_json(text, path)


def is_at_work(told: t.Optional[Report], now: float) -> bool:
    """Whether the daemon that has written this report is there.

    :param told: None: there is none.
    """
    return told is not None and abs(now - told.written) < FRESH and os.path.isdir(f"/proc/{told.pid}")


def room(state_folder: str) -> t.Optional[int]:
    """Bytes left for the factory, which is root's, on the file system of its state; None if there is no such folder."""
    try:
        seen = os.statvfs(state_folder)
    except FileNotFoundError:
        return None
    # Some file systems have no table of inodes that could be full.
    return 0 if seen.f_files and not seen.f_ffree else seen.f_bfree * seen.f_frsize


def write(state_folder: str, report: Report) -> None:
    """Put a report where everybody looks for it; a reader sees the one before or this one, nothing between.

    :raises GridboxError: if it cannot be written.
    """
    path = os.path.join(state_folder, NAME)
    try:
        write_atomically(path, report.to_json().encode(), 0o644)
    except OSError as exc:
        raise GridboxError(f"The factory's report {path} cannot be written ({exc.strerror}).") from exc

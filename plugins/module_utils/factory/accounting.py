# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounting: one APEL individual job record for each machine that has run, and a sync record for a month (spec 8.1).

The records are Vac's to the field. Times are those of the end itself; Vac's are of the cycle before it. Processor
seconds are of the end with Apptainer; with Docker and Podman they are the daemon's last measurement, as a rule of five
seconds before it at most, for Docker's control group is gone when the end is told. The archive has all records, for
ever. What lies in ``apel-outgoing`` too, APEL's ``ssmsend`` sends and takes away; both folders have the form of the
directory queue that it reads.

HEPscore23: a v0.3 message whose ``ServiceLevelType`` is ``HEPscore23``. APEL has taken that since 1.9.2 ("Enabled
HEPscore23 as benchmark type for Job Records (using existing message format)", github.com/apel/apel, CHANGELOG;
apel/db/records/job.py accepts si2k, hepspec and hepscore23 in any case; issue 397 shows the spelling in use). A v0.4
message would hold several benchmarks of one job as ``ServiceLevel: {HEPscore23: 15.3, hepspec: 11.4}``; a factory
counts in one.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import typing as t
import uuid
import zlib

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import remove_neighbours, write_atomically

ARCHIVE, OUTGOING = "apel-archive", "apel-outgoing"

#: When the factory has written sync records last: a file in its state folder, with a moment in Unix seconds.
SYNCED = "apel-synced"

_DAY_SECONDS = 86400

_LEVEL_TYPES = {"hs06": "HEPSPEC", "hepscore23": "HEPscore23"}

#: What Vac writes where nobody has said what a processor is worth.
_NO_LEVEL = 1.0

_DAY = re.compile(r"[0-9]{8}")
_RECORD = re.compile(r"[0-9]{14}")
_UNFINISHED = re.compile(r"[0-9]{14}\.([0-9]+)\.[0-9]+\.new")
_MOST_BYTES = 65536


# ---- records -----------------------------------------------------------------------------------------------------


def is_outgoing(configuration: Configuration) -> bool:
    """Whether records are APEL's to have: it knows the site, and what a processor is worth."""
    return bool(configuration.site) and configuration.settings.hs06_per_processor is not None


def record(machine: Machine, configuration: Configuration) -> t.Optional[str]:
    """The job record of a machine that has ended; None if there is none of it.

    A machine that never ran, or not for ``fizzle_seconds``, has done no work, and is not accounted for.
    """
    started, ended = machine.started, machine.ended
    if machine.state != ENDED or started is None or ended is None or ended - started < machine.fizzle_seconds:
        return None
    factory, space = configuration.settings.name, configuration.space
    memory = machine.memory_bytes // 1024  # KiB: what it was given, as Vac has it
    fields = {
        "Site": configuration.site_name,
        "SubmitHost": f"{space}/vac-{factory}",
        "LocalJobId": machine.uuid,
        "LocalUserId": factory,
        "Queue": machine.machinetype,
        "GlobalUserName": "".join(f"/DC={label}" for label in reversed(space.split("."))),
        "FQAN": machine.accounting_fqan,
        "WallDuration": ended - started,
        "CpuDuration": machine.cpu_seconds,
        "Processors": machine.processors,
        "NodeCount": 1,
        "InfrastructureDescription": "APEL-VAC",
        "InfrastructureType": "grid",
        "StartTime": started,
        "EndTime": ended,
        "MemoryReal": memory,
        "MemoryVirtual": memory,
        # Both from the configuration: a site that measures anew changes them together.
        "ServiceLevelType": _LEVEL_TYPES[configuration.benchmark],
        "ServiceLevel": float(configuration.settings.hs06_per_processor or _NO_LEVEL),
    }
    return _message("APEL-individual-job-message: v0.3", fields)


def _message(header: str, fields: t.Mapping[str, t.Any]) -> str:
    lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
    return "\n".join([header, *lines, "%%", ""])


def record_name(machine: Machine, next_one: int = 0) -> str:
    """Where a record lies below archive and outgoing: ``YYYYMMDD/HHMMSSffffffff``, all of it from the machine itself.

    So whoever writes it again, after having been killed, writes it over the first.

    :param next_one: for a machine that ended in the same second and has by chance the same last eight digits.
    """
    try:
        number = uuid.UUID(machine.uuid).int
    except ValueError:
        number = zlib.crc32(machine.uuid.encode())
    return f"{_time_name(machine.ended or 0)}{(number + next_one) % 10**8:08d}"


def _time_name(seconds: float) -> str:
    return time.strftime("%Y%m%d/%H%M%S", time.gmtime(seconds))


def write(state_folder: str, text: str, machine: Machine, outgoing: bool) -> str:
    """Put a record into the archive, and for ``ssmsend``. Once: the machine's second record changes nothing.

    The archive comes last: what is in it has been sent, or will be. Killed in between, the record may be sent twice;
    APEL takes the second for the first, because site, host, job and end are the same.

    :param text: from :func:`record`; the machine's end has to be on disk by then.
    :returns: the file in the archive.
    :raises GridboxError: if it cannot be written.
    """
    next_one = 0
    while True:
        name = record_name(machine, next_one)
        path = os.path.join(state_folder, ARCHIVE, name)
        try:
            there = _fields(path)
            if there is None:
                if outgoing:
                    _put(os.path.join(state_folder, OUTGOING, name), text)
                _put(path, text)
        except OSError as exc:
            raise GridboxError(
                f"The accounting record of the machine {machine.uuid} cannot be written below {state_folder}"
                f" ({exc.strerror})."
            ) from exc
        if there is None or there.get("LocalJobId") == machine.uuid:
            return path
        next_one += 1


def _put(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    remove_neighbours(path)  # of the daemon that was killed while it wrote the same
    write_atomically(path, text.encode(), 0o644)


def remove_unfinished(state_folder: str) -> None:
    """Remove records for ``ssmsend`` that somebody was killed over, and that are not written anew under the same name.
    Those of another process that is there stay: ``gridbox apel-sync`` may be at work.

    :raises OSError: if they cannot be.
    """
    outgoing = os.path.join(state_folder, OUTGOING)
    for day in os.listdir(outgoing) if os.path.isdir(outgoing) else ():
        folder = os.path.join(outgoing, day)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            found = _UNFINISHED.fullmatch(name)
            if found and (int(found[1]) == os.getpid() or not os.path.exists(f"/proc/{found[1]}")):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))


# ---- a month -----------------------------------------------------------------------------------------------------


def month_of(now: float) -> str:
    """The month that is synced unless another is named: that of 24 hours ago, ``YYYYMM``.

    :param now: Unix seconds.
    """
    return _month(now - _DAY_SECONDS)


def _month(seconds: float) -> str:
    return time.strftime("%Y%m", time.gmtime(seconds))


def sync(state_folder: str, month: str) -> str:
    """The sync record of a month: how many records APEL should have of it.

    Counted are those in the archive that have site and host of the newest: another factory's, and those from before
    the site had its name, are not APEL's under these. Nor are those from before it was known what a processor is
    worth, which were not sent: they have the level that stands for that.

    :param month: ``YYYYMM``.
    :raises InputError: if it is none.
    :raises GridboxError: if the archive has no records of it, or one cannot be read.
    """
    if not re.fullmatch(r"[0-9]{4}(0[1-9]|1[0-2])", month):
        raise InputError("month", month, "a year and a month, such as 202611")
    found = _sync(state_folder, month)
    if not found:
        archive = os.path.join(state_folder, ARCHIVE)
        raise GridboxError(f"There are no accounting records of {month[:4]}-{month[4:]} in {archive}.")
    return found


def _sync(state_folder: str, month: str) -> str:
    """The sync record of a month; empty if there is nothing to tell of it.

    :raises GridboxError: if the archive cannot be read.
    """
    archive = os.path.join(state_folder, ARCHIVE)
    newest: t.Optional[tuple[str, str, bool]] = None
    count = 0
    try:
        for path in _newest_first(archive, month):
            fields = _fields(path) or {}
            whose = (
                fields.get("Site", ""), fields.get("SubmitHost", ""), fields.get("ServiceLevel") == str(_NO_LEVEL)
            )  # fmt: skip
            if not all(whose[:2]):
                raise GridboxError(f"{path} is not an accounting record. Look what it is, and move it away.")
            newest = newest or whose
            count += whose == newest
    except OSError as exc:
        raise GridboxError(f"The accounting records in {archive} cannot be read ({exc.strerror}).") from exc
    if newest is None:
        return ""
    return _message(
        "APEL-sync-message: v0.1",
        {
            "Site": newest[0], "SubmitHost": newest[1], "NumberOfJobs": count, "Month": int(month[4:]),
            "Year": int(month[:4]),
        },
    )  # fmt: skip


def write_sync(state_folder: str, text: str, now: float) -> str:
    """Put a sync record where ``ssmsend`` takes it.

    :param text: from :func:`sync`.
    :param now: Unix seconds.
    :returns: the file.
    :raises GridboxError: if it cannot be written.
    """
    path = os.path.join(state_folder, OUTGOING, f"{_time_name(now)}{int(now % 1 * 10**8):08d}")
    try:
        _put(path, text)
    except OSError as exc:
        raise GridboxError(f"The sync record {path} cannot be written ({exc.strerror}).") from exc
    return path


# ---- each day ----------------------------------------------------------------------------------------------------


def noon(now: float) -> float:
    """The last noon, UTC: that is when sync records are due, as Vac's cron job has it (spec 8.1)."""
    return (now - _DAY_SECONDS / 2) // _DAY_SECONDS * _DAY_SECONDS + _DAY_SECONDS / 2


def months_due(synced: t.Optional[float], now: float) -> list[str]:
    """The months of which a sync record is to be written now. Pure.

    Each day it is that of 24 hours ago, so the first of a month tells of the whole month before. If the factory did not
    work on that day, that month has not been told to its end, and is told with the present one.

    :param synced: when sync records were written last, Unix seconds; None: never.
    """
    if synced is not None and not 0 < synced <= now:
        synced = None  # the clock was ahead
    if synced is not None and synced >= noon(now):
        return []
    months = [month_of(now)]
    at = now - _DAY_SECONDS
    while synced is not None and _month(at) > _month(synced):
        at -= _DAY_SECONDS
        if _month(at) not in months:
            months.append(_month(at))
    return months[::-1]


def write_due(state_folder: str, now: float) -> list[str]:
    """Write the sync records that are due, and remember that. Of a month without records there is none.

    A record has its name from the noon at which it was due: whoever was killed before this was remembered writes it
    over the first.

    :returns: the files.
    :raises GridboxError: if the archive cannot be read, or something cannot be written.
    """
    path = os.path.join(state_folder, SYNCED)
    synced: t.Optional[float] = None
    # Never, or nobody knows; then it may be a second time.
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        synced = int(file.read(40))
    written = []
    months = months_due(synced, now)
    for number, month in enumerate(months):
        text = _sync(state_folder, month)
        if text:
            written.append(write_sync(state_folder, text, noon(now) + number))
    if months:
        try:
            _put(path, f"{int(now)}\n")
        except OSError as exc:
            raise GridboxError(f"{path} cannot be written ({exc.strerror}).") from exc
    return written


def _newest_first(archive: str, month: str) -> t.Iterator[str]:
    days = os.listdir(archive) if os.path.isdir(archive) else ()
    for day in sorted((day for day in days if _DAY.fullmatch(day) and day.startswith(month)), reverse=True):
        folder = os.path.join(archive, day)
        for name in sorted(filter(_RECORD.fullmatch, os.listdir(folder)), reverse=True):
            yield os.path.join(folder, name)


def _fields(path: str) -> t.Optional[dict[str, str]]:
    """The fields of the message in a file; None if there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except FileNotFoundError:
        return None
    return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}

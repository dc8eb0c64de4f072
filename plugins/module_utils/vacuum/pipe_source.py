# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a factory has a pipe from: its source, or the last good copy while the source is down.

Vac writes whatever came over its copy, and goes without the pipe while the source is down (spec 3.5, 9.1). Here only
what has been read as a pipe becomes the copy, and the copy is used until there is a better one.

The copy is two files in the cache folder. ``PREFIX.json`` says what it is; ``PREFIX.<beginning of its SHA-256>.pipe``
holds the bytes as they came. The second is written first, so whenever a process is killed there is a whole copy, the
old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.utc import utc
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import Unfit, check_url
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import MAX_BYTES, Pipe, parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer, fetch, read_file
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section

#: Seconds after which a source that is down is asked again, as long as there is a copy.
RETRY_SECONDS = 60

#: Seconds after which a file that nobody refers to is one that a killed process left.
_LEFT_SECONDS = 3600


@dataclass(frozen=True)
class Note:
    """What is known of a copy: the content of ``PREFIX.json``. Times are Unix seconds.

    :ivar url: where it came from; of a file of this host its path.
    :ivar fetched_at: when the source last said that this is the pipe; of a file, when it was written.
    :ivar sha256: of its bytes.
    :ivar tried_at: when the source was last asked in vain; 0: it answered.
    :ivar down_since: when it was first asked in vain after it had answered.
    :ivar problem: what was wrong then, in a sentence.
    """

    url: str
    etag: str
    last_modified: str
    fetched_at: float
    sha256: str
    tried_at: float = 0.0
    down_since: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Reading:
    """A pipe, and how old it is.

    :ivar content: the bytes it was read from.
    :ivar fetched_at: Unix s: when the source last said that this is the pipe; of a file, when it was written.
    :ivar problems: sentences; empty if all is well.
    """

    pipe: Pipe
    content: bytes
    fetched_at: float
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Copy:
    """A copy that can be used."""

    note: Note
    reading: Reading


def from_path(path: str, section: Section, cache: str = "", keep: bool = True) -> Reading:
    """A pipe from a file of this host; while it is not there, or no pipe because somebody writes it, from the copy.

    :param cache: the folder of copies, which is made if it is not there; empty: there are none.
    :param keep: False: nothing is written into the cache.
    :raises GridboxError: if there is no copy, and it cannot be read.
    :raises InputError: likewise, and it is no pipe.
    """
    try:
        content = read_file(path, MAX_BYTES)
        pipe = parse(content, section)
        changed = os.stat(path).st_mtime
    except (GridboxError, FileNotFoundError) as exc:
        copy = _load(cache, path, section) if cache else None
        if copy is None:
            raise
        told = f"The vacuum pipe {section.prefix} is used as it was at {utc(copy.note.fetched_at)}: {exc}"
        return replace(copy.reading, problems=(told,))
    note = Note(path, "", "", changed, hashlib.sha256(content).hexdigest())
    kept = not (cache and keep) or (
        _noted(cache, section.prefix) == note
        and os.path.isfile(os.path.join(cache, _content_name(section.prefix, note.sha256)))
    )
    return Reading(pipe, content, changed, () if kept else _save(cache, section.prefix, note, content))


def from_url(
    url: str,
    section: Section,
    transfer: Transfer,
    cache: str = "",
    clock: t.Callable[[], float] = time.time,
    keep: bool = True,
) -> Reading:
    """A pipe from its source, or from the copy: as long as the pipe allows, and while the source is down.

    :param url: ``http`` or ``https``.
    :param cache: the folder of copies, which is made if it is not there; empty: there are none.
    :param clock: Unix time.
    :param keep: False: nothing is written into the cache.
    :raises InputError: for a URL that is none.
    :raises GridboxError: if there is no copy, and the source is down or what came is no pipe.
    """
    try:
        check_url(url)
    except Unfit as exc:
        raise InputError(f"vacuum_pipe.{section.prefix}.vacuum_pipe_url", url, str(exc)) from None
    now = clock()
    copy = _load(cache, url, section) if cache else None
    if copy is not None:
        note = copy.note
        # A time in the future is of a clock that was wrong.
        if not note.problem and 0 <= now - note.fetched_at < copy.reading.pipe.cache_seconds:
            return copy.reading
        if note.problem and 0 <= now - note.tried_at < RETRY_SECONDS:
            return replace(copy.reading, problems=(_told(section.prefix, note),))
    try:
        return _ask(url, section, replace(transfer, max_bytes=MAX_BYTES), cache if keep else "", copy, now)
    except GridboxError as exc:
        if copy is None:
            raise
        failed = replace(copy.note, tried_at=now, down_since=copy.note.down_since or now, problem=str(exc))
        problems = (_told(section.prefix, failed), *(_save(cache, section.prefix, failed, None) if keep else ()))
        return replace(copy.reading, problems=problems)


def from_copy(source: str, section: Section, cache: str) -> t.Optional[Reading]:
    """A pipe from the copy, whatever its age; None: there is none. Nobody is asked, and nothing is said of the source.

    :param source: its URL, or its path on this host.
    :param cache: the folder of copies.
    """
    copy = _load(cache, source, section)
    return copy.reading if copy is not None else None


def _ask(url: str, section: Section, transfer: Transfer, cache: str, copy: t.Optional[_Copy], now: float) -> Reading:
    """Ask the source, and keep a copy of what it says."""
    validators = (copy.note.etag, copy.note.last_modified) if copy is not None else ("", "")
    document = fetch(url, transfer, *validators)
    content = copy.reading.content if copy is not None and document.content is None else document.content or b""
    try:
        pipe = parse(content, section)
    except InputError as exc:  # so it does not become the copy
        raise GridboxError(f"{url}: is no vacuum pipe. {exc}") from exc
    note = Note(url, document.etag, document.last_modified, now, hashlib.sha256(content).hexdigest())
    problems = _save(cache, section.prefix, note, content) if cache else ()
    return Reading(pipe, content, now, problems)


def _told(prefix: str, note: Note) -> str:
    """That a copy is used, and since when."""
    return (
        f"The vacuum pipe {prefix} has not been read since {utc(note.fetched_at)}: its source has been down"
        f" since {utc(note.down_since)}. The copy is used until it is back. Last it was: {note.problem}"
    )


# ---- the copy ----------------------------------------------------------------------------------------------------


def _content_name(prefix: str, sha256: str) -> str:
    return f"{prefix}.{sha256[:16]}.pipe"


def _load(cache: str, url: str, section: Section) -> t.Optional[_Copy]:
    """The copy of this source; None if there is none that can be used, for then the source is asked as if for the first
    time, and what it says is kept."""
    note = _noted(cache, section.prefix)
    if note is None or note.url != url:
        return None
    try:
        content = read_file(os.path.join(cache, _content_name(section.prefix, note.sha256)), MAX_BYTES)
        if hashlib.sha256(content).hexdigest() != note.sha256:
            return None
        return _Copy(note, Reading(parse(content, section), content, note.fetched_at))
    except (GridboxError, ValueError, TypeError, RecursionError):
        return None


def _noted(cache: str, prefix: str) -> t.Optional[Note]:
    """What is known of a copy; None if there is none, or somebody else has written it."""
    try:
        note = Note(**json.loads(read_file(os.path.join(cache, f"{prefix}.json"), MAX_BYTES)))
        seconds = all(0 <= one < 1e11 for one in (note.fetched_at, note.tried_at, note.down_since))
        texts = all(isinstance(one, str) for one in (note.etag, note.last_modified, note.sha256, note.problem))
    except (GridboxError, ValueError, TypeError, RecursionError):
        return None
    return note if seconds and texts else None


def _save(cache: str, prefix: str, note: Note, content: t.Optional[bytes]) -> tuple[str, ...]:
    """Keep a copy (None: only what is known of it has changed). That it cannot be kept is told, and costs nothing."""
    try:
        os.makedirs(cache, mode=0o755, exist_ok=True)
        name = _content_name(prefix, note.sha256)
        if content is not None:
            # A file of this host may be for root alone; what a server publishes is for everybody.
            write_atomically(os.path.join(cache, name), content, 0o600 if os.path.isabs(note.url) else 0o644)
        note_name = f"{prefix}.json"
        write_atomically(os.path.join(cache, note_name), json.dumps(asdict(note)).encode() + b"\n", 0o644)
        _tidy(cache, prefix, {name, note_name})
    except OSError as exc:
        return (f"The copy of the vacuum pipe {prefix} could not be kept in {cache} ({exc.strerror}).",)
    return ()


def _tidy(cache: str, prefix: str, current: t.Container[str]) -> None:
    """Remove copies that were replaced, and what a killed process left: other processes' new files are not touched."""
    for name in os.listdir(cache):
        path = os.path.join(cache, name)
        if not name.startswith(f"{prefix}.") or name in current:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process tidies too
            if time.time() - os.stat(path).st_mtime > _LEFT_SECONDS:
                os.unlink(path)

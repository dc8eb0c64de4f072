# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks after one Apptainer machine, from its start to its end: a process of the program ``gridbox``, one a machine.

The factory starts it (``apptainer_engine.py``) and leaves it alone: it goes on when the factory's daemon is restarted,
upgraded or killed. It runs in a mount namespace of its own, with a lock that it has from who started it. As long as
somebody has that lock, the machine lives; the kernel lets go of it however this process ends. What becomes of the
machine is written into its folder: ``running.json`` as soon as it runs, ``ended.json`` when it has ended and nothing of
it is left.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import typing as t
from datetime import datetime, timezone

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import account, cgroups
from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_network as networks
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_request import SEEN, Request
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import OWN_NETWORK
from ansible_collections.hep.gridbox.plugins.module_utils.factory.json_types import read
from ansible_collections.hep.gridbox.plugins.module_utils.host import command
from ansible_collections.hep.gridbox.plugins.module_utils.host.bind import bind
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically

REQUEST, RUNS, ENDED = "request.json", "running.json", "ended.json"
#: What it has printed last, and what before that.
OUTPUT, OUTPUT_BEFORE = "output", "output.1"
#: Beside the folders of machines: whoever waits for ends reads it.
ENDS = "ends"

#: What is told to who started it, when the machine runs.
STARTED = "started"

#: Seconds until what a machine has left behind has to be gone.
_GONE = 60.0
#: Bytes: read at a time; of the longest line of output that is kept in one piece.
_PIECE, _LINE = 65536, 16384


def load(folder: str) -> Request:
    """What is to be run.

    :raises GridboxError: if nobody can tell.
    """
    path = os.path.join(folder, REQUEST)
    try:
        with open(path, encoding="utf-8") as file:
            return t.cast("Request", read(Request, json.load(file)))
    except (OSError, ValueError, TypeError) as exc:
        raise GridboxError(f"{path} is not what an Apptainer machine is made from ({exc}).") from exc


def look_after(folder: str) -> None:
    """Run a machine to its end.

    :param folder: the engine's, of this machine.
    :raises GridboxError: if it cannot be started.
    """
    request = load(folder)
    found = cgroups.read()
    cgroups.enter(cgroups.make(found, cgroups.SUPERVISORS))
    groups = cgroups.make(found, request.name, request.limits)
    try:
        _show(request.shown)
        child, words, carriers = _begin(request, groups)
        log = Log(folder, request.output_bytes)
        try:
            now = int(time.time())
            _write(folder, RUNS, {"keeper": os.getpid(), "pid": child.pid, "started": now})
            _tell_started()
            problem = _wait(child.pid, words, log, carriers)
        finally:
            gone = cgroups.empty(groups, _GONE)
            _copy_rest(words, log)
            short, used = cgroups.memory_was_short(groups), cgroups.cpu_seconds(groups)
        if not gone:
            raise GridboxError(f"Something of {request.name} has not ended {_GONE:g} s after KILL.")
        code = child.wait()
        _write_end(
            folder,
            {
                "exit_code": code if code >= 0 else 128 - code, "finished": int(time.time()), "out_of_memory": short,
                "cpu_seconds": used, "problem": problem,
            },
        )  # fmt: skip
    finally:
        _announce(os.path.join(os.path.dirname(folder), ENDS), request.uuid)
        cgroups.remove(groups)


def _show(shown: t.Mapping[str, str]) -> None:
    """Mount what the machine's account is to see, in this mount namespace only."""
    doing = "Showing a machine its folders"
    os.makedirs(SEEN, mode=0o755, exist_ok=True)
    command.run(doing, ["mount", "-n", "-t", "tmpfs", "-o", "mode=0755,nosuid,nodev,size=64k", "tmpfs", SEEN])
    for name, source in shown.items():
        bind(doing, source, f"{SEEN}/{name}")


def _begin(request: Request, groups: t.Sequence[str]) -> tuple[subprocess.Popen[bytes], int, list[int]]:
    """Start the machine's first process; it, where its words come out, and what carries its traffic, by descriptors."""
    words, pen = os.pipe()
    os.fchown(pen, request.uid, request.gid)  # or it could not open /dev/stdout, which the kernel asks the owner for
    ours, theirs = socket.socketpair()
    carriers: list[int] = []
    own_network = request.network == OWN_NETWORK
    argv, stdin = (networks.in_namespaces(request.argv), theirs) if own_network else (request.argv, subprocess.DEVNULL)
    try:
        child = _as_account(
            request, groups, argv, request.nofile, stdin=stdin, stdout=pen, stderr=pen, start_new_session=True
        )
        theirs.close()
        os.close(pen)
        if own_network:
            networks.join(child.pid, ours, functools.partial(_as_account, request, groups, nofile=None), SEEN)
            # Nobody else is in the groups yet.
            carriers += [os.pidfd_open(pid) for pid in cgroups.members(groups) - {child.pid}]
            ours.sendall(b"\n")
    except (GridboxError, OSError, subprocess.SubprocessError) as exc:
        cgroups.empty(groups, _GONE)
        raise GridboxError(f"{exc} {_last_words(words)}".rstrip()) from exc
    finally:
        ours.close()

    def told(*_given: t.Any) -> None:
        """At a host's shutdown everybody is told; from the factory this process alone is. What carries its traffic ends
        by that at once, and the machine has its grace all the same."""
        carriers.clear()
        child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, told)
    return child, words, carriers


def _as_account(
    request: Request, groups: t.Sequence[str], argv: t.Sequence[str], nofile: t.Optional[int], **streams: t.Any
) -> subprocess.Popen[bytes]:
    """Start a command as the machine's account, in its groups.

    :param nofile: files that a process may have open; None: as many as this one.
    """

    def become() -> None:
        """In the child, still root."""
        cgroups.enter(groups)
        os.umask(0o022)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft_and_hard = hard if nofile is None else min(nofile, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_and_hard, soft_and_hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            if int(file.read()) < 0:  # the daemon is spared; a machine is not
                file.write("0")

    return subprocess.Popen(
        [*account.become(request.uid, request.gid), *argv], cwd="/", env=dict(request.environment),
        preexec_fn=become, **streams,  # noqa: PLW1509 (one thread)
    )  # fmt: skip


def _last_words(words: int) -> str:
    """What a machine that did not begin has said."""
    os.set_blocking(words, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(words, _LINE).decode(errors="replace").strip()
    return ""


def _tell_started() -> None:
    """Who started this process waits no longer; what is printed from now on goes nowhere."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(STARTED)
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _wait(pid: int, words: int, log: Log, carriers: t.Sequence[int]) -> str:
    """Until a child has ended. What it prints is kept.

    :param carriers: looked at each time: they need not be there any more once the child was told to end.
    :returns: why it has to end now, in a sentence: it has no network any more; empty: it has ended.
    """
    ended = os.pidfd_open(pid)
    opened = [ended, *carriers]
    try:
        watched = [ended, words]
        while True:
            ready = select.select([*watched, *carriers], [], [])[0]
            if ended in ready:  # first: what it has left behind may print without end
                return ""
            if any(carrier in ready for carrier in carriers):
                problem = f"{networks.PROGRAM}, which carries its traffic, has ended"
                log.add(f"\nThe machine ends: {problem}.\n".encode())
                return problem
            if words in ready:
                piece = os.read(words, _PIECE)
                if not piece:
                    watched.remove(words)
                log.add(piece)
    finally:
        for one in opened:
            os.close(one)


def _copy_rest(words: int, log: Log) -> None:
    """The last words, when nobody is there any more who could add to them."""
    os.set_blocking(words, False)
    with contextlib.suppress(BlockingIOError):
        piece = b"first"
        while piece:
            piece = os.read(words, _PIECE)
            log.add(piece)
    log.close()
    os.close(words)


class Log:
    """A machine's output, each line with its time, as other engines keep it; of a long one the end.

    :param limit: bytes. A disk without room costs the output, not the machine.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self._path, self._before = os.path.join(folder, OUTPUT), os.path.join(folder, OUTPUT_BEFORE)
        self._half = limit // 2
        self._size = 0
        self._rest = b""
        self._file: t.Optional[t.BinaryIO] = None

    def add(self, piece: bytes) -> None:
        """Keep what was printed."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        while len(self._rest) > _LINE:
            lines.append(self._rest[:_LINE])
            self._rest = self._rest[_LINE:]
        if lines:
            self._put(lines)

    def close(self) -> None:
        """Keep a last line without an end as well."""
        if self._rest:
            self._put([self._rest])
        with contextlib.suppress(OSError):
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None  # first: it is closed, whatever is said of that
        if file is not None:
            file.close()

    def _put(self, lines: t.Sequence[bytes]) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode()
        text = b"".join(now + line + b"\n" for line in lines)
        try:
            if self._file is None or self._size + len(text) > self._half:
                if self._file is not None:
                    self._close_file()
                    os.replace(self._path, self._before)
                self._file, self._size = open(self._path, "wb", buffering=0), 0
            self._size += len(text)
            self._file.write(text)
        except OSError:
            return


def _write(folder: str, name: str, data: t.Mapping[str, t.Any]) -> None:
    write_atomically(os.path.join(folder, name), (json.dumps(data) + "\n").encode(), 0o600)


def _write_end(folder: str, data: t.Mapping[str, t.Any]) -> None:
    """Write down how a machine has ended. On a full disk its output goes for that: without its end nobody would know
    whether it is to blame."""
    try:
        _write(folder, ENDED, data)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for name in (OUTPUT_BEFORE, OUTPUT):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        _write(folder, ENDED, data)


def _announce(path: str, uuid: str) -> None:
    """Tell whoever reads there now; who does not finds it when he looks."""
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.write(pipe, f"{uuid}\n".encode())
    os.close(pipe)

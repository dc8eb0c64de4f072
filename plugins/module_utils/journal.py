# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal of an apply: what was done, and how to take it back, whatever happens to this process.

Before an effect, the concern writes down how to undo it (write-ahead: an undo must cope with its effect not having
happened). If a later step fails, the journal is played back in this process. If the process is killed, a guard that
was forked beforehand and waits at the end of a pipe plays it back: it inherits only names and plain data.

A command that the process had started may outlive it, and would take effect after its undo: the guard waits for the
command's end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import syslog
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.host import command
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Step

#: Seconds that the guard waits for a command of the process that was killed: longer than what takes effect at once.
COMMAND_SECONDS = 60

#: Carries out one undo: its name and its data. Must be idempotent.
Undo = t.Callable[[str, t.Mapping[str, t.Any]], None]


@dataclass
class Rollback:
    """What playing a journal back did; sentences for the operator."""

    undone: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def play_back(entries: t.Sequence[t.Mapping[str, t.Any]], undo: Undo) -> Rollback:
    """Undo the newest entry first. A failing undo is noted and does not keep the others from being tried."""
    outcome = Rollback()
    for entry in reversed(entries):
        try:
            undo(entry["name"], entry["data"])
        except Exception as exc:  # noqa: BLE001  the others are tried all the same, and this one is told
            outcome.failed.append(f"{entry['title']}: {exc}")
        else:
            outcome.undone.append(entry["title"])
    return outcome


class Journal:
    """Undo entries of one apply, and their guard.

    :param undo: carries out an entry; called in this process or in the guard.
    :param before_guard_undo: called once in the guard before it undoes anything: drop connections that were shared
        with the process that died.
    :param after_guard: called once in the guard of a process that was killed, when it is through.

    :ivar beside: steps that have come through while the one that fails was at work, where a concern does several at a
        time. It adds them before it raises.

    Use as a context manager: the guard lives inside the ``with`` block. Leaving the block normally, or after
    :meth:`roll_back`, dismisses it; otherwise it undoes what is written down.
    """

    def __init__(
        self, undo: Undo, before_guard_undo: t.Callable[[], None], after_guard: t.Callable[[], None] = lambda: None
    ) -> None:
        self.beside: list[Step] = []
        self._undo = undo
        self._before_guard_undo = before_guard_undo
        self._after_guard = after_guard
        self._entries: list[dict[str, t.Any]] = []
        self._pipe: t.Optional[t.BinaryIO] = None
        self._witness = -1
        self._guard = 0

    def __enter__(self) -> Journal:
        read_end, write_end = os.pipe()
        commands, self._witness = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:
            os.close(write_end)
            os.close(self._witness)
            _guard(read_end, commands, self._undo, self._before_guard_undo, self._after_guard)
        os.close(read_end)
        os.close(commands)
        self._pipe = os.fdopen(write_end, "wb", buffering=0)
        command.witnesses.add(self._witness)
        return self

    def __exit__(self, kind: t.Optional[type[BaseException]], *_exc: object) -> None:
        # Whoever leaves by an exception and has not undone what is written down leaves that to the guard.
        if kind is None or not self._entries:
            self._tell({"dismissed": True})
        if self._pipe is not None:
            self._pipe.close()
        command.witnesses.discard(self._witness)
        os.close(self._witness)
        os.waitpid(self._guard, 0)

    def will_do(self, title: str, name: str, **data: t.Any) -> None:
        """Write down how to undo what is about to be done.

        :param title: a sentence for the operator, for instance ``put back the address of vobox1``.
        :param name: the undo's name, as the concern's ``undo`` knows it.
        :param data: what it needs; JSON types only.
        """
        entry = {"title": title, "name": name, "data": data}
        self._tell(entry)
        self._entries.append(entry)

    def settle(self) -> None:
        """Forget all entries: from here on the new state is the good one."""
        self._tell({"settled": True})
        self._entries.clear()

    def roll_back(self) -> Rollback:
        """Undo everything since the last :meth:`settle`, newest first."""
        outcome = play_back(self._entries, self._undo)
        self.settle()
        return outcome

    def _tell(self, message: t.Mapping[str, t.Any]) -> None:
        if self._pipe is not None:
            self._pipe.write(json.dumps(message).encode() + b"\n")


def _guard(
    read_end: int, commands: int, undo: Undo, before_undo: t.Callable[[], None], after: t.Callable[[], None]
) -> t.NoReturn:
    """The guard's life: collect entries; play them back if the pipe ends without a dismissal.

    :param commands: ends when neither the process nor a command of it is left.
    """
    # Its own session, so that the kill of a process group passes it by; and none of the module's files, for whoever
    # started the module waits until the last holder has closed its output.
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    entries: list[dict[str, t.Any]] = []
    dismissed = False
    with os.fdopen(read_end, "rb") as pipe:
        for line in pipe:
            if not line.endswith(b"\n"):
                break  # the writer died within a message; its effect has not begun
            message = json.loads(line)
            if "dismissed" in message:
                dismissed = True
            elif "settled" in message:
                entries.clear()
            else:
                entries.append(message)
    if not dismissed and entries:
        syslog.openlog("hep.gridbox", syslog.LOG_PID)
        try:
            if not select.select([commands], [], [], COMMAND_SECONDS)[0]:
                syslog.syslog(
                    syslog.LOG_WARNING,
                    f"module was killed; a command of it still is at work after {COMMAND_SECONDS} s: waiting no longer",
                )
            before_undo()
            outcome = play_back(entries, undo)
            for title in outcome.undone:
                syslog.syslog(syslog.LOG_WARNING, f"module was killed; undone: {title}")
            for title in outcome.failed:
                syslog.syslog(syslog.LOG_ERR, f"module was killed; NOT undone: {title}")
        except Exception as exc:  # noqa: BLE001  nobody is left to raise it to but the log
            syslog.syslog(syslog.LOG_ERR, f"module was killed; the undo itself failed: {exc!r}")
    if not dismissed:
        after()
    os._exit(0)

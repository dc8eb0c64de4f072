# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repositories of CernVM-FS kept mounted, and known to answer.

What a machine opens does not keep the automounter from unmounting, so the factory looks into each repository that is in
use (spec 6.4). Vac looks itself, and stands still when CernVM-FS does. Here a process looks, for one that asks a FUSE
server which does not answer may not even be killable; it ends when the mount does. As long as it is there, no second
one is sent after it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import NAME
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH

#: Seconds in which a repository has to answer. The first look mounts it.
ANSWER_SECONDS = 30.0

#: Seconds after which trouble that nobody has seen again is over: the repository was not in use in between.
_OLD_SECONDS = 3600.0


@dataclass(frozen=True)
class Finding:
    """How a repository is.

    :ivar problem: what is wrong, in a sentence; empty if nothing is.
    :ivar since: Unix seconds: when the first look began that found it not well; None: it is well.
    """

    ok: bool
    problem: str = ""
    since: t.Optional[float] = None


@dataclass(frozen=True)
class _Trouble:
    """When a repository was first and last found not well."""

    since: float
    seen: float


class Repositories:
    """The repositories below one folder, looked into by processes. For one asyncio loop.

    :param root: the folder.
    :param seconds: in which a repository has to answer.
    :param clock: Unix time.
    """

    def __init__(self, root: str, seconds: float = ANSWER_SECONDS, clock: t.Callable[[], float] = time.time) -> None:
        self._root = root
        self._seconds = seconds
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._trouble: dict[str, _Trouble] = {}

    async def touch(self, names: t.Iterable[str]) -> dict[str, Finding]:
        """Look into repositories, all at once. Takes no longer than the time in which they have to answer.

        :raises InputError: for a name that is none; then nothing was looked at.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if not NAME.fullmatch(name) or len(name) > 60:
                raise InputError("repository", name, "a fully qualified name such as lhcb.cern.ch")
        now = self._clock()
        self._trouble = {name: one for name, one in self._trouble.items() if now - one.seen < _OLD_SECONDS}
        findings: dict[str, Finding] = {}
        looks: dict[str, _Look] = {}
        for name in wanted:
            try:
                looks[name] = self._look_into(name, now)
            except OSError as exc:
                findings[name] = self._found(
                    name, f"No process could be started that looks into it ({exc.strerror}).", now
                )
        if looks:
            await asyncio.wait([look.answer for look in looks.values()])
        findings.update({name: self._found(name, look.answer.result(), look.began) for name, look in looks.items()})
        return findings

    def close(self) -> None:
        """Send no more, and end those that are out; who cannot be killed is left to the kernel."""
        for look in list(self._looks.values()):
            look.leave()
        self._looks.clear()

    def _look_into(self, name: str, now: float) -> _Look:
        """The look that is out; else a new one.

        :raises OSError: if no process can be started.
        """
        look = self._looks.get(name)
        if look is None:
            look = _Look(f"{self._root}/{name}", self._seconds, now, lambda: self._looks.pop(name, None))
            self._looks[name] = look
        return look

    def _found(self, name: str, problem: str, began: float) -> Finding:
        if not problem:
            self._trouble.pop(name, None)
            return Finding(True)
        since = self._trouble[name].since if name in self._trouble else began
        self._trouble[name] = _Trouble(since, self._clock())
        return Finding(False, problem, since)


class _Look:
    """One process that looks into one folder.

    :ivar answer: the problem, or empty. It comes when the process ends or is late; the process may stay longer.
    :ivar began: Unix seconds.

    :param forget: called when the process is gone.
    """

    def __init__(self, folder: str, seconds: float, began: float, forget: t.Callable[[], object]) -> None:
        # One name is enough, whatever there is; -H, for a repository may be a link to where it is mounted.
        self._process = subprocess.Popen(
            ["find", "-H", folder, "-mindepth", "1", "-maxdepth", "1", "-print", "-quit"],
            cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
        )  # fmt: skip
        self.began = began
        self._folder, self._seconds, self._forget = folder, seconds, forget
        try:
            # Tells of the end without a thread that waits for it, and lets the process be reaped at that moment.
            self._handle = os.pidfd_open(self._process.pid)
        except OSError:
            self._process.kill()
            raise
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._handle, self._ended)
        self._late = self._loop.call_later(seconds, self._is_late)
        self.answer: asyncio.Future[str] = self._loop.create_future()

    def leave(self) -> None:
        """Kill the process, and wait for nothing."""
        self._process.kill()
        self._let_go("The factory ends.")

    def _ended(self) -> None:
        code = self._process.wait()  # it has ended, so this is at once
        said = t.cast("t.IO[bytes]", self._process.stdout).read()
        if code == 0:
            problem = "" if said else f"{self._folder} is empty."
        else:
            words = " ".join(said.decode(errors="replace").split()) or "nothing"
            problem = f"{self._folder} cannot be read. find ended with {code} and says: {words}"
        self._let_go(problem)
        self._forget()

    def _is_late(self) -> None:
        # The kernel lets go of it now, or when the mount ends.
        self._process.kill()
        self.answer.set_result(f"{self._folder} did not answer within {self._seconds:g} s.")

    def _let_go(self, problem: str) -> None:
        self._late.cancel()
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        t.cast("t.IO[bytes]", self._process.stdout).close()
        if not self.answer.done():
            self.answer.set_result(problem)

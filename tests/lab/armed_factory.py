# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's daemon that does not last, or does not wait for long, run in place of the program::

    python armed_factory.py '{"die_at": 7}' --configuration FILE factory

The options: ``timeout``, the seconds without an answer after which a request to the engine has failed, and ``look``,
those between two looks at all containers. ``effects``, a file that gets a line for each effect on the first machine
that it makes: on files, by a command, by a request to the engine. ``die_at``, the number of the effect before which it
is killed, counted from 1; with ``along``, so many seconds after that effect has begun. ``program``: what it is in the
place of, if others are to be started from that.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import threading
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory import engines, factory, program
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import Life
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import TIMEOUT, MachineEngine

#: Of the interpreter's audit events, those that are effects on files; their first argument is a path.
_FILES = {"os.mkdir": "make", "os.rename": "rename", "os.remove": "remove", "os.rmdir": "remove"}
#: What differs from one life to the next.
_VARIES = re.compile(r"[0-9a-f-]{36}|[0-9a-f]{64}|\d+\.\d+\.new|_[0-9a-f]{8}\b|\d{9,}")


def effect(event: str, arguments: tuple[t.Any, ...]) -> str:
    """An effect in words; empty: it is none."""
    what = ""
    if event in _FILES:
        what = f"{_FILES[event]} {os.fsdecode(arguments[0])}"
    elif event == "open" and arguments[0] != os.devnull and _writes(*arguments):
        what = f"write {os.fsdecode(arguments[0])}"
    elif event == "subprocess.Popen":
        what = f"run {' '.join(map(str, arguments[1]))}"
    elif event == "http.client.send" and arguments[1].startswith((b"POST ", b"DELETE ")):
        what = f"ask {arguments[1].split(b' HTTP/')[0].decode()}"
    return _VARIES.sub("*", what)


def _writes(path: t.Any, _mode: t.Optional[str], flags: int) -> bool:
    return isinstance(path, (str, bytes)) and bool(flags & (os.O_WRONLY | os.O_RDWR))


class Watch:
    """Counts the effects on the first machine, and kills this process at one of them."""

    def __init__(self, die_at: int = 0, along: t.Optional[float] = None, effects: str = "") -> None:
        self.die_at, self.along, self.effects = die_at, along, effects
        self.machine, self.counted = "", 0
        self._at_work = threading.local()

    def begin(self) -> None:
        """From now on. Whatever is done with a machine is done by one of these, in a thread of its own."""
        for name in ("start", "record_end", "account", "clean", "forget"):
            setattr(Life, name, self._watched(getattr(Life, name)))
        sys.addaudithook(self._see)

    def _watched(self, work: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        @functools.wraps(work)
        def watched(life: Life, machine: Machine, *rest: t.Any) -> t.Any:
            if work.__name__ == "start":
                self.machine = self.machine or machine.uuid
            before = getattr(self._at_work, "on", "")
            self._at_work.on = machine.uuid
            try:
                return work(life, machine, *rest)
            finally:
                self._at_work.on = before  # one of these may be a part of another

        return watched

    def _see(self, event: str, arguments: tuple[t.Any, ...]) -> None:
        on = getattr(self._at_work, "on", "")
        what = effect(event, arguments) if on and on == self.machine else ""
        if not what:
            return
        self.counted += 1
        if self.effects:
            self._at_work.on = ""  # to write is no effect of its
            with open(self.effects, "a", encoding="utf-8") as file:
                file.write(f"{what}\n")
            self._at_work.on = on
        if self.counted == self.die_at:
            if self.along is None:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=self._die_soon).start()

    def _die_soon(self) -> None:
        time.sleep(self.along or 0)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    options = json.loads(sys.argv.pop(1))
    sys.argv[0] = options.pop("program", sys.argv[0])
    factory.LOOK = options.pop("look", factory.LOOK)
    timeout = options.pop("timeout", TIMEOUT)
    vars(engines)["MachineEngine"] = functools.partial(MachineEngine, timeout=timeout)
    Watch(**options).begin()
    sys.exit(program.main())

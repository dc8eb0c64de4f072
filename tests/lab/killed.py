# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Do something in a process that is killed at a moment of it. Needs the standard library only: it runs on hosts too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
import types
import typing as t

#: Arms the process that it is called in.
Moment = t.Callable[[], None]


def die() -> None:
    """As by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_line(number: int, files: t.Container[str]) -> Moment:
    """Before this many lines of these files have been executed."""

    def arm() -> None:
        left = number

        def line(_frame: types.FrameType, event: str, _argument: t.Any) -> t.Any:
            nonlocal left
            if event == "line":
                left -= 1
                if left <= 0:
                    die()
            return line

        sys.settrace(lambda frame, _event, _argument: line if frame.f_code.co_filename in files else None)

    return arm


def before_command(number: int) -> Moment:
    """When so many commands less one have ended, and the next is about to be started."""

    def arm() -> None:
        left = number
        real = subprocess.Popen

        def popen(*arguments: t.Any, **options: t.Any) -> subprocess.Popen[bytes]:
            nonlocal left
            left -= 1
            if not left:
                die()
            return real(*arguments, **options)

        subprocess.Popen = popen  # type: ignore[assignment, misc]

    return arm


def at_command(number: int, along: t.Optional[float] = None) -> Moment:
    """When so many commands have been started, and the last of them is at work.

    :param along: after so many seconds, and the command is killed as well; None: at once, and the command goes on.
    """

    def arm() -> None:
        started = 0
        real = subprocess.Popen

        def popen(*arguments: t.Any, **options: t.Any) -> subprocess.Popen[bytes]:
            nonlocal started
            process = real(*arguments, **options)
            started += 1
            if started == number:
                if along is not None:
                    time.sleep(along)
                    process.kill()
                die()
            return process

        subprocess.Popen = popen  # type: ignore[assignment, misc]

    return arm


def killed(work: t.Callable[[], object], moment: Moment) -> bool:
    """Do this in a process of its own; whether the moment came."""
    sys.stdout.flush()
    number = os.fork()
    if not number:
        try:
            moment()
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, this process is not to return into the caller
            traceback.print_exc()
            os._exit(1)
    _number, status = os.waitpid(number, 0)
    assert status in (0, signal.SIGKILL), "the work itself has failed"
    return status != 0

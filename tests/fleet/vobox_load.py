# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The load of one VO-box, run as its PID 1: takes what it is told to, as root and as the service account, says what it
got, and holds it. What a service is refused it does without, as a JVM does.

Arguments: name, service account, and what to take as JSON: {"root": {KIND: NUMBER}, "account": {KIND: NUMBER}} with the
kinds inotify (instances), files (open files and sockets) and tasks (threads; the kernel counts them like processes).
In /report: NAME says what was got, NAME.beats how often the account could start a process since, and could not.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import json
import os
import socket
import sys
import time
import typing as t

LIBC = ctypes.CDLL(None, use_errno=True)
NEVER = _thread.allocate_lock()
HELD: list[t.Any] = []


def _inotify() -> None:
    if LIBC.inotify_init1(0) < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")


def _file() -> None:
    HELD.append(os.open("/dev/null", os.O_RDONLY) if len(HELD) % 2 else socket.socket())


def _task() -> None:
    try:
        _thread.start_new_thread(NEVER.acquire, ())
    except RuntimeError as exc:  # Python keeps the number to itself; pthread_create(3) has this one only
        raise OSError(errno.EAGAIN, "pthread_create") from exc


TAKE = {"inotify": _inotify, "files": _file, "tasks": _task}


def take(wanted: t.Mapping[str, int]) -> dict[str, t.Any]:
    """Take it, one kind after the other, until something is refused."""
    got: dict[str, t.Any] = dict.fromkeys(wanted, 0)
    for kind, number in wanted.items():
        for _again in range(number):
            try:
                TAKE[kind]()
            except OSError as exc:
                return {**got, "refused": kind, "error": errno.errorcode[exc.errno or 0]}
            got[kind] += 1
    return {**got, "refused": None}


def _write(path: str, said: t.Mapping[str, t.Any]) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(said, file)
    os.rename(f"{path}.new", path)


def serve(path: str) -> None:
    """Start a process every two seconds, as a VO-box's services do."""
    said = {"started": 0, "refused": 0}
    while True:
        try:
            pid = os.fork()
        except OSError:
            said["refused"] += 1
        else:
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
            said["started"] += 1
        _write(path, said)
        time.sleep(2)


def main() -> None:
    """Entry point."""
    name, account, wanted = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    _thread.stack_size(65536)
    NEVER.acquire()
    ours, theirs = os.pipe()
    if not os.fork():
        os.setgid(account)
        os.setuid(account)
        os.write(theirs, json.dumps(take(wanted["account"])).encode())
        serve(f"/report/{name}.beats")
    root = take(wanted["root"])
    _write(f"/report/{name}", {"root": root, "account": json.loads(os.read(ours, 65536))})
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()

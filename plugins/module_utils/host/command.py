# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command of the host: an argument list, never a shell; always with a time-out and in the C locale."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError

#: Where a daemon or administrator's tool may be, also for a login whose PATH leaves the sbin folders out.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Bytes of its standard error that are kept, at least. Who owns the files that a command looks at, as a machine does
#: while it runs, can make it complain of each of them, with paths of any length.
_LAST = 65536
#: Characters of its last words, at most: errors are in reports and journals.
_LAST_WORDS = 2000

#: Ends of pipes that each command inherits: who has the other end sees whether one is at work still, even when the
#: process that started it is gone (:mod:`..journal`).
witnesses: set[int] = set()


def run(
    request: str,
    argv: t.Sequence[str],
    timeout: float = 60,
    ok: t.Container[int] = (0,),
    environment: t.Optional[t.Mapping[str, str]] = None,
    inside: t.Sequence[str] = (),
    with_errors: bool = False,
    stays: bool = False,
) -> str:
    """Run ``argv`` and return its standard output, all of it: it is for commands whose output nobody can make long.

    :param request: what is done, in words, for the error.
    :param timeout: seconds.
    :param ok: exit codes that are fine.
    :param environment: variables beside the caller's own.
    :param inside: the command that runs ``argv``, if another one does.
    :param with_errors: whether to return its standard error too, all of it, after its output.
    :param stays: whether it leaves a process behind, as a FUSE file system does: nobody waits for the end of that.
    :raises GridboxError: if the program is missing or ends with another code; with its last words.
    :raises WaitError: if it does not end in time.
    """
    variables = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C", "LANG": "C", **(environment or {})}
    try:
        process = subprocess.Popen(
            [*inside, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
            pass_fds=() if stays else tuple(witnesses),
        )
    except OSError as exc:
        raise GridboxError(f"{request} failed: {argv[0]} cannot be run ({exc.strerror}).") from exc
    try:
        stdout, stderr = _listen(process, timeout, None, None if with_errors else _LAST)
    except subprocess.TimeoutExpired as exc:
        _kill(process)
        raise WaitError(f"{argv[0]} to end ({request})", timeout) from exc
    except BaseException:
        _kill(process)
        raise
    output, errors = stdout.decode(errors="replace"), stderr.decode(errors="replace")
    if process.returncode not in ok:
        words = errors.strip() or output.strip()
        last = " ".join(words.splitlines()[-5:])[-_LAST_WORDS:] or "nothing"
        raise GridboxError(f"{request} failed. {argv[0]} ended with {process.returncode} and says: {last}")
    return output + errors if with_errors else output


def run_alone(
    request: str, argv: t.Sequence[str], timeout: float, environment: t.Optional[t.Mapping[str, str]] = None
) -> str:
    """Run ``argv`` like :func:`run`, in a mount and a PID namespace of its own (unshare, util-linux 2.32 or newer).

    For a program that mounts: the host does not see its mounts, and when it ends, however it ends, its mounts and all
    processes that it has started are gone, so the folder they were in can be removed. mmdebstrap, say, binds the host's
    /dev/shm into the root that it makes, and who removes that root with the mounts in it empties the host's /dev/shm.

    :raises GridboxError: as :func:`run`.
    :raises WaitError: as :func:`run`.
    """
    alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return run(request, argv, timeout, environment=environment, inside=alone)


def names_in(folder: str, timeout: float) -> list[str]:
    """The names in a folder of which nobody knows whether it answers: a dead FUSE or network mount holds whoever looks
    for as long as it likes, so the look is taken by a process of its own.

    :param timeout: seconds.
    :raises GridboxError: if it cannot be read.
    :raises WaitError: if it does not answer in time.
    """
    return run(f"Looking into {folder}", ["ls", "-A", "--", folder], timeout).splitlines()


def _listen(
    process: subprocess.Popen[bytes], timeout: float, output_kept: t.Optional[int], errors_kept: t.Optional[int]
) -> tuple[bytes, bytes]:
    """What a process says, until it has ended, like its ``communicate``, which keeps all.

    :param output_kept: bytes at the end of its standard output that are kept; None: all.
    :param errors_kept: the same of its standard error.
    :raises subprocess.TimeoutExpired: if it, or who has its outputs from it, does not end in time.
    """
    deadline = time.monotonic() + timeout
    kept = ((process.stdout, output_kept, bytearray()), (process.stderr, errors_kept, bytearray()))
    with selectors.DefaultSelector() as selector:
        for stream, most, words in kept:
            if stream is not None and not stream.closed:
                selector.register(stream, selectors.EVENT_READ, (stream, most, words))
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout)
            for key, _events in selector.select(left):
                stream, most, words = key.data
                piece = os.read(key.fd, 65536)
                if not piece:
                    selector.unregister(stream)
                    stream.close()
                words += piece
                if most is not None and len(words) > 2 * most:
                    del words[: len(words) - most]
    process.wait(max(0.0, deadline - time.monotonic()))
    return bytes(kept[0][2]), bytes(kept[1][2])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, reap it, and wait for those that it started, which hold its outputs, but no longer than a second:
    :func:`subprocess.run` would wait for ever.

    The kernel does not let go of who asked a FUSE server that took the request and does not answer (fuse_simple_request
    waits uninterruptibly then, Linux 6.18); such a process ends when the mount does.
    """
    process.kill()
    try:
        _listen(process, 1, 0, 0)
    except subprocess.TimeoutExpired:
        return

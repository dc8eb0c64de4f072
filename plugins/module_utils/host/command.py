# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a command of the host: an argument list, never a shell; always with a time-out and in the C locale."""

from __future__ import annotations

import os
import subprocess
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError

#: Where a daemon or administrator's tool may be, also for a login whose PATH leaves the sbin folders out.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    request: str,
    argv: t.Sequence[str],
    timeout: float = 60,
    ok: t.Container[int] = (0,),
    environment: t.Optional[t.Mapping[str, str]] = None,
) -> str:
    """Run ``argv`` and return its standard output.

    :param request: what is done, in words, for the error.
    :param timeout: seconds.
    :param ok: exit codes that are fine.
    :param environment: variables beside the caller's own.
    :raises GridboxError: if the program is missing or ends with another code; with its last words.
    :raises WaitError: if it does not end in time.
    """
    variables = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C", "LANG": "C", **(environment or {})}
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise WaitError(f"{argv[0]} to end ({request})", timeout) from exc
    except OSError as exc:
        raise GridboxError(f"{request} failed: {argv[0]} cannot be run ({exc.strerror}).") from exc
    output = done.stdout.decode(errors="replace")
    if done.returncode not in ok:
        words = done.stderr.decode(errors="replace").strip() or output.strip()
        last = " ".join(words.splitlines()[-5:]) or "nothing"
        raise GridboxError(f"{request} failed. {argv[0]} ended with {done.returncode} and says: {last}")
    return output

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the daemon's own program whether it would accept a configuration file, before the file is there."""

from __future__ import annotations

import os
import shutil
import tempfile
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import json_text
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run

#: What an operator does about it, if the module cannot say more.
MEND = "Nothing was touched; mend that first."

#: A log level that dockerd refuses once it has accepted the rest, and before it makes or opens anything (20.10,
#: cmd/dockerd/daemon.go: start, configureDaemonLogs).
_NO_LEVEL = "hep.gridbox-validates"
#: Those that it knows (logrus, ParseLevel); empty for its default.
_LEVELS = ("", "panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")


def programs(pid: t.Optional[int]) -> list[str]:
    """Whom to ask: the program that runs as process ``pid``, and the installed one, which reads the file at the next
    start; one of them, if they are the same. None of them if there is none yet."""
    running = [f"/proc/{pid}/exe"] if pid is not None else []
    installed = shutil.which("dockerd", path=SYSTEM_PATH)
    if installed is None or (running and os.path.samefile(running[0], installed)):
        return running
    return [*running, installed]


def check(program: str, flags: t.Sequence[str], path: str, text: str, advice: str = MEND) -> None:
    """Have a dockerd's program check ``text`` against itself and a daemon's flags.

    It finds unknown keys, wrong types, and keys that are flags too; not every wrong value (26.1 accepts a bad mirror).

    :param path: where the text is to stand; named in the error.
    :param advice: what to do about it.
    :raises RefusedError: with the program's own words.
    """
    flags = without_config_file(flags)
    words = _objection(program, flags, path, text)
    if words:
        raise RefusedError(f"config_file: {path}", f"the daemon would refuse it. {words.rstrip('.')}", advice)


def _objection(program: str, flags: t.Sequence[str], path: str, text: str) -> str:
    """What the program has against the text; empty if nothing."""
    try:
        _show(program, ["--validate", *flags], path, text, 0)
    except GridboxError as exc:
        return _objection_at_start(program, flags, path, text) if "unknown flag: --validate" in str(exc) else str(exc)
    return ""


def _objection_at_start(program: str, flags: t.Sequence[str], path: str, text: str) -> str:
    """The same of one before 23.0, which has no ``--validate``: it is started with a log level that ends it."""
    try:
        level = json_text.parse(text).member("log-level")
    except ValueError as exc:
        return str(exc)
    if level is None:
        flags = [*flags, f"--log-level={_NO_LEVEL}"]
    elif level.value is None or (isinstance(level.value, str) and level.value.lower() in _LEVELS):
        text = json_text.with_value(text, "log-level", _NO_LEVEL)
    else:
        return f"It knows no log-level {level.value!r}"
    said = _show(program, flags, path, text, 1)
    return "" if f"unable to parse logging level: {_NO_LEVEL}" in said else f"It says: {' '.join(said.split())}"


def _show(program: str, flags: t.Sequence[str], path: str, text: str, ok: int) -> str:
    """Run the program with a file of that text; what it says of it, as if the file were ``path``.

    :param ok: the exit code that is expected.
    :raises GridboxError: for another one.
    """
    with tempfile.NamedTemporaryFile(prefix="daemon.", suffix=".json") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        argv = [program, f"--config-file={file.name}", *flags]
        try:
            said = run("Having the daemon's program check its configuration", argv, 30, ok=(ok,), with_errors=True)
        except GridboxError as exc:
            raise GridboxError(str(exc).replace(file.name, path)) from exc
    return said.replace(file.name, path)


def without_config_file(flags: t.Sequence[str]) -> list[str]:
    """A daemon's flags without the one that names its configuration file. Pure."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if skip:
            skip = False
        elif flag == "--config-file":
            skip = True
        elif not flag.startswith("--config-file="):
            kept.append(flag)
    return kept

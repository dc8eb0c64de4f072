# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the mounted CernVM-FS clients run with, what their file says, and how they are made to read it again.

A client reads its configuration when it mounts. A mount is static, so it would keep its proxies for ever; but a client
can be reloaded while it is mounted (``cvmfs_config reload``): calls wait meanwhile, open files stay open.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run

#: The file that the role cvmfs writes.
LOCAL = "/etc/cvmfs/default.local"

_HEAD = "# Written by hep.gridbox (role cvmfs).\n"

#: Clients do not go by the first, which programs for people do; the second cannot be changed any more when the file is
#: read.
_NOT_OF_CLIENTS = frozenset({"CVMFS_REPOSITORIES", "CVMFS_CONFIG_REPOSITORY"})

#: The clients let the kernel's cache run out first, a minute each by default, all at once. Reloading must not be cut
#: short: it puts all of them to sleep before it wakes the first.
RELOAD_SECONDS = 900.0

#: Within which a client answers over its socket.
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Parameter:
    """A parameter of a running client, and the file that it has it from."""

    value: str
    source: str


def written(text: t.Optional[str]) -> t.Optional[dict[str, str]]:
    """What the role has written into :data:`LOCAL`; None if the file is not the role's. Pure."""
    if text is None or not text.startswith(_HEAD):
        return None
    return dict(re.findall(r'^(CVMFS_[A-Z0-9_]+)="([^"]*)"$', text, re.MULTILINE))


def parse(text: str) -> dict[str, Parameter]:
    """What ``cvmfs_talk parameters`` prints: ``NAME=VALUE    # from FILE`` each, values quoted where a shell needs it.
    Pure."""
    found = {}
    for name, value, source in re.findall(r"^(\w+)=(.*?) {4}# from (.*)$", text, re.MULTILINE):
        quoted = len(value) > 1 and value.startswith("'") and value.endswith("'")
        found[name] = Parameter(value[1:-1].replace("\\'", "'") if quoted else value, source)
    return found


def differing(wanted: t.Mapping[str, str], running: t.Mapping[str, Parameter], repository: str) -> list[str]:
    """What a client would have otherwise if it read :data:`LOCAL` again, in words. Pure.

    :param wanted: what the file says.
    """
    found: list[str] = []
    cache = running.get("CVMFS_CACHE_BASE")
    if cache and not _counts_more(cache.source) and cache.value != wanted.get("CVMFS_CACHE_BASE", cache.value):
        # Its programs look for the client's socket in the cache, so it cannot be asked until it is mounted anew.
        return found
    for name, text in sorted(wanted.items()):
        now = running.get(name)
        if name in _NOT_OF_CLIENTS or (now is not None and _counts_more(now.source)):
            continue
        value = text.replace("@fqrn@", repository).replace("@org@", repository.split(".", maxsplit=1)[0])
        # The client has a shell expand each value, which leaves one blank between two words.
        if now is None or now.value.split() != value.split():
            found.append(f"{name} is {'not set' if now is None else now.value or 'empty'}, not {value or 'empty'}")
    for name, parameter in sorted(running.items()):
        if parameter.source == LOCAL and name not in wanted and name not in _NOT_OF_CLIENTS:
            found.append(f"{name} is {parameter.value or 'empty'}, which {LOCAL} does not say any more")
    return found


def _counts_more(source: str) -> bool:
    """Whether a value is from what is read after :data:`LOCAL`, or is the client's own."""
    return "/domain.d/" in source or "/config.d/" in source or not source.startswith("/")


def can_be_asked() -> bool:
    """Whether the client's programs are on this host."""
    return all(shutil.which(program, path=SYSTEM_PATH) for program in ("cvmfs_talk", "cvmfs_config"))


def parameters(repository: str) -> dict[str, Parameter]:
    """Ask the client of a mounted repository.

    :raises GridboxError: if it does not answer.
    """
    argv = ["cvmfs_talk", "-i", repository, "parameters"]
    return parse(run(f"Asking the client of {repository} for its parameters", argv, ANSWER_SECONDS))


def reload() -> None:
    """Have all mounted clients read their configuration again, together: those that share a cache share its quota.

    :raises GridboxError: if the client's program says that it failed.
    """
    with _undisturbed():
        run("Reloading the CernVM-FS clients", ["cvmfs_config", "reload"], RELOAD_SECONDS)


@contextlib.contextmanager
def _undisturbed() -> t.Iterator[None]:
    """Within the block, signals that end this process wait, for its programs too: a lost connection must not leave the
    clients asleep."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

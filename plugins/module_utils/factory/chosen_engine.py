# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which engine a factory works with where its configuration leaves that open.

``auto`` takes whichever listens. That another one listens does not mean that the first has gone for good, and it says
nothing about machines of the first: so while there are machines, their engine stays the factory's, over restarts too.
"""

from __future__ import annotations

import os

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically

#: The file in the state folder: where the engine listens that has made the last machine.
NAME = "engine"
#: Bytes of it that are read.
_MOST_BYTES = 4096


def choose(state_folder: str, engine: str, url: str, timeout: int) -> DockerApi:
    """The engine that a factory works with.

    :param state_folder: the factory's; empty: it has none.
    :param engine: ``docker``, ``podman`` or ``auto``.
    :param url: where it listens; empty: where it is usually.
    :raises RefusedError: if none listens, and there are no machines of another one.
    :raises EngineError: without a status, if the one that has the machines does not listen.
    """
    wanted = {"engine": engine, "engine_url": url, "engine_timeout": timeout}
    if engine != "auto" or url or not state_folder:
        return engine_from(wanted)
    kept = _kept(state_folder)
    try:
        found = engine_from(wanted)
    except RefusedError:
        if not kept or not _has_machines(state_folder):
            raise
        return _of_the_machines(state_folder, kept, timeout)
    if not kept or kept == found.url or not _has_machines(state_folder):
        return found
    return _of_the_machines(state_folder, kept, timeout)


def keep(state_folder: str, url: str) -> None:
    """Write down which engine makes machines; before it does."""
    if _kept(state_folder) != url:
        write_atomically(os.path.join(state_folder, NAME), f"{url}\n".encode(), 0o644)


def _of_the_machines(state_folder: str, url: str, timeout: int) -> DockerApi:
    scheme, _separator, path = url.partition("://")
    if scheme == "unix" and not os.path.exists(path):
        raise EngineError(
            "Talking to the engine that has the machines of this factory",
            f"nothing, for there is no socket {path}. Start that engine; or, if it has gone for good and its machines"
            f" with it, remove {os.path.join(state_folder, NAME)} and restart the factory.",
        )
    return DockerApi(url, timeout)


def _kept(state_folder: str) -> str:
    path = os.path.join(state_folder, NAME)
    try:
        with open(path, encoding="utf-8") as file:
            url = file.read(_MOST_BYTES).strip()
        if not url.partition("://")[2]:
            raise ValueError(f"{url!r:.60} is no URL")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as exc:
        # Which one it was is not known, so no other one is to be taken for it.
        raise GridboxError(
            f"Which engine has the machines of this factory cannot be told: {path} cannot be read ({exc}). Remove it if"
            " only one engine is on this host, or if no machine of the factory runs."
        ) from exc
    return url


def _has_machines(state_folder: str) -> bool:
    """Whether anything of a machine may be in an engine. A record that cannot be read may be of one that runs."""
    machines, problems = Store(state_folder).load()
    return bool(problems) or any(not machine.cleaned for machine in machines)

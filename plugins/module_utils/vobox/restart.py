# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restart a container so that what is cut short, for instance by a power cut, is known and can be finished.

To an engine a restart is a stop by request and a start. One that ends between the two, or within the stop's grace,
leaves a container that its policy does not start (``unless-stopped``), and that looks as if somebody had stopped it. So
a note is kept meanwhile: a file of the container's id, with the time at which it was last started. It tells that the
restart was cut short as long as the container has not been started since.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import sync_folder, write_file

#: Where the notes lie. Not with a VO-box's other files: the reconciler does not know where those are.
FOLDER = "/var/lib/hep.gridbox"

#: Why a container is started that was stopped by request, in words.
CUT_SHORT = "a restart of it was cut short"


def restart(engine: DockerApi, name: str, grace: int) -> None:
    """Restart a container, or start one whose restart was cut short.

    :param name: its name or id.
    :param grace: seconds between SIGTERM and SIGKILL.
    :raises GridboxError: if the note cannot be written, or the engine refuses; the note then stays.
    """
    container = engine.container(name)
    if container is None:
        raise GridboxError(f"The container {name} has gone since it was looked at.")
    # Of an engine elsewhere nobody would look here for it.
    if engine.url.startswith("unix://"):
        _write(_note(container["Id"]), str(container["State"].get("StartedAt")))
    engine.restart_container(container["Id"], grace)
    forget(container["Id"])


def _write(note: Path, text: str) -> None:
    try:
        note.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_file(note, text, 0o644)
    except OSError as exc:
        # Whoever may use the engine and is not root may restart as well, without a note.
        if not isinstance(exc, PermissionError) or os.geteuid() == 0:
            raise GridboxError(f"Writing {note} failed ({exc.strerror}).") from exc


def was_cut_short(container: Json) -> bool:
    """Whether a container is stopped because a restart of it was cut short.

    :param container: its inspect.
    :raises GridboxError: if the note cannot be read.
    """
    state = container["State"]
    if state.get("Running") or state.get("Restarting"):
        return False
    note = _note(container["Id"])
    try:
        return note.read_text(errors="replace") == str(state.get("StartedAt"))
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise GridboxError(f"{note} cannot be read ({exc.strerror}).") from exc


def forget(container_id: str) -> None:
    """Drop the note on a container that has been started, or is to stay stopped, or is gone. Fine if there is none."""
    note = _note(container_id)
    try:
        note.unlink()
        sync_folder(note.parent)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise GridboxError(f"Removing {note} failed ({exc.strerror}).") from exc
    with contextlib.suppress(OSError):  # not empty
        note.parent.rmdir()


def noted() -> list[str]:
    """Ids of the containers that there are notes on."""
    return [path.name.partition("-")[2] for path in Path(FOLDER).glob("restart-*")]


def _note(container_id: str) -> Path:
    return Path(f"{FOLDER}/restart-{container_id}")

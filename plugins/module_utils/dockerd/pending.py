# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes of the daemon's configuration that the running daemon has not taken over.

dockerd does not tell which configuration it was started with. So whoever changes a key that SIGHUP does not bring in
notes it here, together with the process that then ran; once that process is gone the note is void.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically

#: Gone after a reboot, as the daemon is.
FOLDER = "/run/hep.gridbox"


def note_file(config_file: str) -> str:
    """Where the note about one configuration file lies."""
    return f"{FOLDER}/pending-{hashlib.sha256(os.fsencode(config_file)).hexdigest()[:16]}.json"


def read(config_file: str, pid: int, start: int) -> dict[str, t.Any]:
    """The keys that wait for a restart of the process, each with the value it was started with (None: absent)."""
    path = note_file(config_file)
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
        return dict(note["keys"]) if (note["pid"], note["start"]) == (pid, start) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as exc:
        raise GridboxError(f"{path}: not a note of hep.gridbox ({exc}). Remove it.") from exc


def reasons(config_file: str, pid: int, start: int) -> list[str]:
    """The waiting keys in words."""
    return [f"{key} in {config_file} was changed" for key in read(config_file, pid, start)]


def write(config_file: str, pid: int, start: int, keys: t.Mapping[str, t.Any]) -> None:
    """Replace the note; without keys there is none."""
    path = note_file(config_file)
    if keys:
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        write_atomically(path, json.dumps({"pid": pid, "start": start, "keys": dict(keys)}).encode(), 0o600)
    elif os.path.exists(path):
        os.unlink(path)
        if not os.listdir(FOLDER):
            os.rmdir(FOLDER)


def merge(
    waiting: t.Mapping[str, t.Any],
    before: t.Mapping[str, t.Any],
    after: t.Mapping[str, t.Any],
    reloaded: t.Container[str],
) -> dict[str, t.Any]:
    """The keys that wait after the file went from ``before`` to ``after``. Pure.

    A key that is back at the value the daemon was started with waits no longer.
    """
    merged = dict(waiting)
    for key in {*before, *after}:
        if key not in reloaded and before.get(key) != after.get(key):
            merged.setdefault(key, before.get(key))
    return {key: value for key, value in merged.items() if after.get(key) != value}

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work behind ``vobox_info``."""

from __future__ import annotations

import datetime
import re
import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile import memory
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import NAME_LABEL
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.gate import listens
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import observe
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.result import found


def collect(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The documented return values of ``vobox_info``."""
    engine = engine_from(params)
    names = [params["name"]] if params["name"] else _names(engine, params["files"])
    known = memory.load()
    voboxes = [_vobox(engine, name, params["files"], known) for name in names]
    return {
        "engine": {"name": engine.platform.name, "version": ".".join(map(str, engine.platform.version))},
        "voboxes": [vobox for vobox in voboxes if vobox is not None],
    }


def _names(engine: DockerApi, files: str) -> list[str]:
    """All VO-boxes: by our label, and by the folders of adopted ones."""
    names = {
        record["Names"][0].lstrip("/")
        for record in engine.containers({"label": [NAME_LABEL]})
        if record["Labels"][NAME_LABEL] == record["Names"][0].lstrip("/")
    }
    folder = Path(files)
    if folder.is_dir():
        names |= {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    return sorted(names)


def _vobox(engine: DockerApi, name: str, files: str, known: memory.Memory) -> t.Optional[dict[str, t.Any]]:
    seen = observe(engine, Wish(name=name, state="present", files=files))
    if seen.container is None:
        return None
    pid = seen.container["State"].get("Pid") or 0
    running = seen.running
    layers = ((seen.image.get("RootFS") or {}).get("Layers")) if seen.image else None
    return {
        **found(seen),
        "image_layers": len(layers) if layers is not None else None,
        "age_seconds": _age(seen.container["State"]["StartedAt"]) if running else None,
        "services": [
            {**asdict(service), "up": running and listens(pid, service)} for service in seen.files.services or ()
        ],
        "leftovers": [*seen.leftovers, *([seen.kept] if seen.kept else [])],
        "reconciler": _reconciler(name, known),
    }


def _reconciler(name: str, known: memory.Memory) -> dict[str, t.Any]:
    """What the program gridbox-reconcile has found and done since the boot; nothing where it is not installed."""
    return {
        "looked": known.looked or None,
        "complaint": next((one.reason for one in known.findings if one.name == name and not one.well), None),
        "events": [{"time": one["time"], "text": one["text"]} for one in known.events if one["name"] == name],
    }


def _age(started_at: str) -> t.Optional[int]:
    """Seconds since a time as the engine writes it, with nanoseconds and Z or an offset."""
    matched = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)\Z", started_at)
    if not matched:
        return None
    started = datetime.datetime.fromisoformat(matched[1] + matched[2].replace("Z", "+00:00"))
    return max(0, int((datetime.datetime.now(datetime.timezone.utc) - started).total_seconds()))

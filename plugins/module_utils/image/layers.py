# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image's layers are, read only."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.image.configuration import REFERENCE_LABEL, SOURCE_LABEL
from ansible_collections.hep.gridbox.plugins.module_utils.image.reference import image_reference


def collect(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The values of ``image_layers_info``."""
    asked = params["images"]
    names = None if asked is None else [image_reference(f"images[{index}]", name) for index, name in enumerate(asked)]
    engine = engine_from(params)
    if names is None:
        listed = engine.call("Listing images", "GET", "/images/json") or []
        tags = [sorted(image.get("RepoTags") or []) for image in listed]
        names = sorted(found[0] for found in tags if found and found[0] != "<none>:<none>")
    return {"images": [_record(engine, name) for name in names]}


def _record(engine: DockerApi, name: str) -> Json:
    image = engine.image(name)
    if image is None:
        keys = ("id", "tags", "layers", "size", "flattened_from", "flattened_reference", "current")
        return {"name": name, **dict.fromkeys(keys)}
    labels = (image.get("Config") or {}).get("Labels") or {}
    flat = layers(image) == 1
    source, reference = (labels.get(key) if flat else None for key in (SOURCE_LABEL, REFERENCE_LABEL))
    named = engine.image(reference) if reference else None
    # Flattened in place, the name leads to the flattened image itself.
    current = None if named is None else named["Id"] in (source, image["Id"])
    return {
        "name": name,
        "id": image["Id"],
        "tags": sorted(image.get("RepoTags") or []),
        "layers": layers(image),
        "size": image["Size"],
        "flattened_from": source,
        "flattened_reference": reference,
        "current": current,
    }


def layers(image: Json) -> int:
    """How many layers an image has."""
    return len((image.get("RootFS") or {}).get("Layers") or [])

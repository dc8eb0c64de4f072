# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of a flattened image: that of its source, and nothing forgotten.

An import call takes configuration only as a few Dockerfile instructions: SHELL never, STOPSIGNAL from engine 25 on. So
the configuration goes the way that knows no such limits: as the image document itself, in an archive as ``docker save``
writes it. The engine does not read a layer from such an archive if it has it already (seen in 20.10: it looks the chain
of diff ids up first), so for an imported layer an archive of two small files is enough.
"""

from __future__ import annotations

import hashlib
import json
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.image.tar_header import BLOCK, REGULAR, Entry, header

#: Labels of a flattened image: the id of the image it was made from, and the name under which that was given.
SOURCE_LABEL = "hep.gridbox.flatten.source"
REFERENCE_LABEL = "hep.gridbox.flatten.reference"

# What is compared, and how it is called in an answer of the engine and in the image document.
_KEPT = {
    "Architecture": "architecture",
    "Variant": "variant",
    "Os": "os",
    "OsVersion": "os.version",
    "Author": "author",
    "Created": "created",
}


def expected_configuration(source: t.Mapping[str, t.Any], reference: str) -> dict[str, t.Any]:
    """What the engine must say of the flattened image, given what it says of the source."""
    kept = {key: source.get(key) or "" for key in (*_KEPT, "Comment")}
    labels = {**((source.get("Config") or {}).get("Labels") or {})}
    labels.update({SOURCE_LABEL: source["Id"], REFERENCE_LABEL: reference})
    return {**kept, "Config": {**(source.get("Config") or {}), "Labels": labels}}


def differences(expected: t.Mapping[str, t.Any], found: t.Mapping[str, t.Any]) -> list[str]:
    """In which keys an image differs from what is expected; ``null``, empty and absent are the same."""
    different = [key for key in (*_KEPT, "Comment") if (expected.get(key) or "") != (found.get(key) or "")]
    mine, theirs = expected["Config"], found.get("Config") or {}
    different += [
        f"Config.{key}" for key in sorted({*mine, *theirs}) if (mine.get(key) or None) != (theirs.get(key) or None)
    ]
    return different


def image_document(source: t.Mapping[str, t.Any], history: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The image document (OCI image configuration) of an image, put together from what the engine says of it.

    :param history: the engine's answer for the image, the newest record first.
    """
    document: dict[str, t.Any] = {name: source[key] for key, name in _KEPT.items() if source.get(key)}
    document["config"] = source.get("Config") or {}
    document["history"] = [
        _record(_time(past.get("Created")), past.get("CreatedBy"), past.get("Comment")) for past in reversed(history)
    ]
    return document


def flattened_document(document: t.Mapping[str, t.Any], expected: t.Mapping[str, t.Any], diff_id: str) -> bytes:
    """The image document of a flattened image: its source's, with one layer, the two labels, and a line of history.

    Nothing in it depends on the clock: the same source gives the same image id wherever it is flattened.
    """
    labels = expected["Config"]["Labels"]
    added = {key: labels[key] for key in (SOURCE_LABEL, REFERENCE_LABEL)}
    config = document.get("config") or {}
    config = {**config, "Labels": {**(config.get("Labels") or {}), **added}}
    # The records stay as a record of how the files came to be; only the last one has a layer.
    history = [{**record, "empty_layer": True} for record in document.get("history") or []]
    history.append(
        _record(
            document.get("created") or _time(0),
            f"hep.gridbox.flatten_image: all layers of {labels[SOURCE_LABEL]} in one",
            # The engines show the comment of the newest record as that of the image.
            expected["Comment"],
        )
    )
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    flat = {**document, "config": config, "rootfs": rootfs, "history": history}
    return json.dumps(flat, sort_keys=True, ensure_ascii=False).encode()


def _record(created: str, created_by: t.Optional[str], comment: t.Optional[str]) -> dict[str, t.Any]:
    """A record of the history. The time must be there: Podman 4.3 crashes on a history without."""
    record = {"created": created, "created_by": created_by, "comment": comment}
    return {key: value for key, value in record.items() if value}


def _time(seconds: t.Optional[int]) -> str:
    """Seconds since the epoch as RFC 3339. An engine gives year 1 for a time it does not know."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, seconds or 0)))


def load_archive(
    document: bytes, name: str, layer_bytes: int = 0, layer: t.Iterable[t.Union[bytes, memoryview]] = ()
) -> t.Iterator[t.Union[bytes, memoryview]]:
    """An archive as ``docker load`` takes it, as a stream.

    :param name: the name the image gets.
    :param layer_bytes: the length of ``layer``; 0 if the engine has the layer already.
    """
    config_name = hashlib.sha256(document).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    for file_name, content in ((config_name.encode(), document), (b"manifest.json", manifest)):
        yield _file(file_name, len(content)) + content + bytes(-len(content) % BLOCK)
    if layer_bytes:
        yield _file(b"layer.tar", layer_bytes)
        yield from layer
        yield bytes(-layer_bytes % BLOCK)
    yield bytes(2 * BLOCK)


def _file(name: bytes, size: int) -> bytes:
    return header(Entry(name, REGULAR, 0o644, 0, 0, 0, size))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What flatten_image decides: names, plans, the image document."""

from __future__ import annotations

import json
import tarfile
import typing as t
from dataclasses import replace
from io import BytesIO

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.image.configuration import (
    REFERENCE_LABEL,
    SOURCE_LABEL,
    differences,
    expected_configuration,
    flattened_document,
    image_document,
    load_archive,
)
from ansible_collections.hep.gridbox.plugins.module_utils.image.flatten import Observed, Wish, make_plan
from ansible_collections.hep.gridbox.plugins.module_utils.image.reference import image_name, image_reference

ID = "sha256:" + "a" * 64


def image(letter: str, count: int, labels: dict[str, str] | None = None, *tags: str) -> dict[str, t.Any]:
    return {
        "Id": "sha256:" + letter * 64,
        "RootFS": {"Layers": [f"sha256:{letter}{number}" for number in range(count)]},
        "Config": {"Labels": labels, "Cmd": ["/bin/sh"]},
        "Architecture": "amd64",
        "Os": "linux",
        "Created": "2026-01-02T03:04:05Z",
        "RepoTags": list(tags),
        "Size": 1000,
    }


def flat(source: dict[str, t.Any], reference: str) -> dict[str, t.Any]:
    made = image("f", 1)
    return {**made, **expected_configuration(source, reference)}


LAYERED = image("a", 3, {"mine": "1"}, "vobox:1")
FOREIGN = image("b", 2)
FLAT = flat(LAYERED, "vobox:1")


def wish(**more: t.Any) -> Wish:
    params = {
        "source": "vobox:1", "tag": "vobox:flat", "replace": False, "keep_source": True, "source_tag": None,
        "method": "auto", "min_free": 256,
    }  # fmt: skip
    return Wish.from_params({**params, **more})


def observed(**more: t.Any) -> Observed:
    base: dict[str, t.Any] = {
        "source": LAYERED, "target": None, "origin": None, "named_source_tag": None, "source_users": (),
        "tree": ("/a/diff",), "no_tree": "", "whole": False, "root": "/var/lib/docker",
    }  # fmt: skip
    return Observed(**{**base, **more})


def test_what_a_power_cut_left_is_removed_whatever_else_there_is_to_do() -> None:
    left = ("hep.gridbox/flatten:x-layer",)
    for seen in (observed(leftovers=left), observed(source=FLAT, target=FLAT, leftovers=left)):
        first, *others = make_plan(wish(), seen).steps
        assert (first.action, first.target) == ("remove_leftover", *left)
        assert others == list(make_plan(wish(), replace(seen, leftovers=())).steps)


MAKE = ["import_layer", "make_image", "tag_image"]
IN_PLACE: dict[str, t.Any] = {"tag": None, "source_tag": "vobox:l"}
DONE: dict[str, t.Any] = {"source": FLAT, "target": FLAT}
TWO_NAMES = image("a", 3, None, "vobox:1", "x:1")


@pytest.mark.parametrize(
    ("wished", "seen", "actions"),
    [
        ({}, {}, MAKE),
        ({}, {"whole": True}, ["load_image", "tag_image"]),
        ({}, {"target": FLAT}, []),
        ({}, {"target": flat(image("c", 9), "vobox:1")}, MAKE),
        # Made on top of the flattened image: has its labels, but is another image.
        ({"replace": True}, {"target": {**FLAT, "Config": {**FLAT["Config"], "User": "7"}}}, MAKE),
        ({"replace": True}, {"target": FOREIGN}, MAKE),
        ({"tag": None}, {"target": LAYERED}, MAKE),
        ({"tag": None}, {"source": FLAT, "target": FLAT}, []),
        (
            {"tag": None, "source_tag": "vobox:l"},
            {"target": LAYERED},
            ["import_layer", "make_image", "tag_source", "tag_image"],
        ),
        (
            {"tag": None, "source_tag": "vobox:l"},
            {"source": FLAT, "target": FLAT, "origin": LAYERED["Id"]},
            ["tag_source"],
        ),
        (
            {"tag": None, "source_tag": "vobox:l"},
            {"source": FLAT, "target": FLAT, "origin": LAYERED["Id"], "named_source_tag": LAYERED["Id"]},
            [],
        ),
        ({"keep_source": False}, {}, [*MAKE, "remove_source"]),
        ({"keep_source": False}, {"target": FLAT}, ["remove_source"]),
        ({"keep_source": False}, {"source": None, "target": FLAT}, []),
        ({"keep_source": False, "tag": None}, {"target": LAYERED}, [*MAKE, "remove_source"]),
        ({"keep_source": False, "tag": None}, {"source": FLAT, "target": FLAT}, []),
        # Its other name keeps the image.
        (
            {"keep_source": False, "tag": None},
            {"source": image("a", 3, None, "vobox:1", "x:1"), "target": LAYERED},
            MAKE,
        ),
        ({}, {"source": image("a", 1)}, ["tag_image"]),
        ({}, {"source": image("a", 1), "target": image("a", 1)}, []),
        ({"tag": None}, {"source": image("a", 1), "target": image("a", 1)}, []),
        # Without labels the next run could not know where the image came from.
        ({"keep_source": False}, {"source": image("a", 1, None, "vobox:1")}, [*MAKE, "remove_source"]),
    ],
)
def test_plans(wished: dict[str, t.Any], seen: dict[str, t.Any], actions: list[str]) -> None:
    plan = make_plan(wish(**wished), observed(**seen))
    assert [step.action for step in plan.steps] == actions
    assert plan.disruption.name == "none"
    assert (plan.before == plan.after) == (not actions)


@pytest.mark.parametrize(
    ("wished", "seen", "sentence"),
    [
        ({}, {"source": None}, "source: vobox:1: the engine has no such image"),
        ({"keep_source": False}, {"source": None}, "the engine has no such image"),
        ({"keep_source": False}, {"source": None, "target": flat(LAYERED, "vobox:2")}, "the engine has no such image"),
        ({}, {"target": FOREIGN}, "tag: vobox:flat: that name belongs to image sha256:bbbb"),
        # A child of a flattened image inherits its labels, and is not ours all the same.
        ({}, {"target": image("b", 2, {SOURCE_LABEL: ID})}, "that name belongs to image"),
        ({"source_tag": "x:1"}, {"named_source_tag": "sha256:beef"}, "source_tag: x:1: that name belongs to image"),
        ({"keep_source": False}, {"source_users": ("container x",)}, "in use by container x. Remove those first"),
        (
            {"keep_source": False, "source": ID},
            {"source": image("a", 3, None, "x:1", "y:1")},
            r"several names \(x:1, y:1\)",
        ),
        ({"method": "tree"}, {"tree": None, "no_tree": "because"}, "method: tree: because. Use method: auto"),
    ],
)
def test_refusals(wished: dict[str, t.Any], seen: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence):
        make_plan(wish(**wished), observed(**seen))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("vobox", "vobox:latest"),
        ("vobox:el9", "vobox:el9"),
        ("localhost:5000/a/b__c:x", "localhost:5000/a/b__c:x"),
        ("Registry.Example.org/a:V1.0-x_y", "Registry.Example.org/a:V1.0-x_y"),
    ],
)
def test_names(name: str, full: str) -> None:
    assert image_name("tag", name) == full
    assert image_reference("source", name) == full


@pytest.mark.parametrize(
    "name", ["", "A", "a:", "a b", "a/", "-a", "a..b", "a:x y", "a@b", "a\n", "a" * 256, ID, "é", "a?x=1", "a#b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match="tag: got "):
        image_name("tag", name)


@pytest.mark.parametrize("reference", [ID, ID[7:], ID[:19], f"vobox@{ID}", f"vobox:el9@{ID}"])
def test_references(reference: str) -> None:
    assert image_reference("source", reference) == reference


def test_the_whole_configuration_is_kept() -> None:
    source = {**LAYERED, "Config": {"Shell": ["x"], "Labels": None, "Env": None}, "Comment": "why", "Variant": "v8"}
    expected = expected_configuration(source, "vobox:1")
    assert expected["Config"] == {"Shell": ["x"], "Env": None, "Labels": {SOURCE_LABEL: ID, REFERENCE_LABEL: "vobox:1"}}
    history = [{"Created": 60, "CreatedBy": "new"}, {"Created": -62135596800, "CreatedBy": "old", "Comment": "c"}]
    document = json.loads(flattened_document(image_document(source, history), expected, "sha256:d"))
    assert document["config"] == expected["Config"]
    assert document["rootfs"] == {"type": "layers", "diff_ids": ["sha256:d"]}
    assert (document["variant"], document["created"]) == ("v8", "2026-01-02T03:04:05Z")
    assert document["history"][:2] == [
        {"created": "1970-01-01T00:00:00Z", "created_by": "old", "comment": "c", "empty_layer": True},
        {"created": "1970-01-01T00:01:00Z", "created_by": "new", "empty_layer": True},
    ]
    assert document["history"][2]["comment"] == "why"
    assert "empty_layer" not in document["history"][2]


def test_what_the_engine_does_not_tell_is_kept_from_the_archive() -> None:
    expected = expected_configuration(LAYERED, "vobox:1")
    raw = {
        "config": {"OnBuild": ["RUN x"], "Labels": {"mine": "1"}},
        "unknown": {"a": 1},
        "rootfs": {"diff_ids": ["x", "y"]},
    }
    document = json.loads(flattened_document(raw, expected, "sha256:d"))
    assert document["config"] == {"OnBuild": ["RUN x"], "Labels": expected["Config"]["Labels"]}
    assert document["unknown"] == {"a": 1}
    assert document["rootfs"]["diff_ids"] == ["sha256:d"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, []),
        ({"Architecture": "arm64"}, ["Architecture"]),
        ({"Config": {**FLAT["Config"], "Cmd": ["/bin/ash"], "User": ""}}, ["Config.Cmd"]),
        ({"Config": {**FLAT["Config"], "StopSignal": "TERM"}}, ["Config.StopSignal"]),
        ({"Config": {**FLAT["Config"], "Labels": {}}}, ["Config.Labels"]),
    ],
)
def test_differences(change: dict[str, t.Any], names: list[str]) -> None:
    assert differences(expected_configuration(LAYERED, "vobox:1"), {**FLAT, **change}) == names


def test_the_archive_is_one_that_tar_reads() -> None:
    data = b"".join(bytes(part) for part in load_archive(b"{}", "a:1", 5, [b"12", memoryview(b"345")]))
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[1:] == ["manifest.json", "layer.tar"]
        manifest = json.loads(t.cast("t.IO[bytes]", tar.extractfile("manifest.json")).read())
        assert manifest == [{"Config": names[0], "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]
        assert t.cast("t.IO[bytes]", tar.extractfile("layer.tar")).read() == b"12345"

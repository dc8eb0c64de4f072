# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""flatten_image on Podman 4.3, which takes a layer and its configuration only together."""

from __future__ import annotations

import json
import tarfile
import typing as t
from pathlib import Path

import pytest

from tests.integration.flatten_images import ACL, CAPABILITY, CONFIG, everything, padded
from tests.integration.test_flatten_image import OUR_LABELS, tree_in
from tests.integration.test_flatten_image_faults import kill_at
from tests.lab.engine import PodmanService
from tests.lab.modules import run_module
from tests.sampled import sampled


def test_what_podman_can_hold_is_kept(podman: PodmanService, tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(everything("localhost/vobox:el9"))
    podman.podman("load", "--input", str(tmp_path / "all.tar"))
    wish = {"engine_url": podman.url, "source": "localhost/vobox:el9", "tag": "localhost/vobox:flat"}
    preview = run_module("flatten_image", wish, netns=podman.netns, check=True)
    result = run_module("flatten_image", wish, netns=podman.netns)
    assert [step["action"] for step in preview["actions"]] == ["load_image", "tag_image"]
    assert preview["actions"] == result["actions"]
    layered, flat = (
        json.loads(podman.podman("image", "inspect", f"localhost/vobox:{tag}").stdout)[0] for tag in ("el9", "flat")
    )
    assert (len(layered["RootFS"]["Layers"]), len(flat["RootFS"]["Layers"])) == (5, 1)
    for label in OUR_LABELS:
        assert flat["Config"]["Labels"].pop(label)
    assert flat["Config"] == layered["Config"]
    assert (flat["Architecture"], flat["Author"]) == ("arm64", layered["Author"])
    # What Podman's Docker-compatible API does not tell is kept too.
    podman.podman("save", "--output", str(tmp_path / "flat.tar"), "localhost/vobox:flat")
    with tarfile.open(tmp_path / "flat.tar") as tar:
        manifest = json.loads(t.cast("t.IO[bytes]", tar.extractfile("manifest.json")).read())
        document = json.loads(t.cast("t.IO[bytes]", tar.extractfile(manifest[0]["Config"])).read())
    for key in CONFIG.keys() - {"Labels"}:
        assert document["config"][key] == CONFIG[key], key
    assert document["variant"] == "v8"
    trees = []
    for tag in ("el9", "flat"):
        mount = podman.podman("image", "mount", f"localhost/vobox:{tag}").stdout.strip()
        trees.append(tree_in(podman.seen(mount)))
        podman.podman("image", "unmount", f"localhost/vobox:{tag}")
        trees[-1].pop(b".")  # no layer says what the root is like
    assert trees[0] == trees[1]
    assert trees[1][b"data/capable"][8] == {"security.capability": CAPABILITY}
    assert trees[1][b"data/access"][8] == {"system.posix_acl_access": ACL}
    assert trees[1][b"data/linked"][9] == (b"alink", b"data/linked")
    assert result["method"] == "archive" and result["seconds"] > 0
    assert (result["source"]["layers"], result["image"]["layers"]) == (5, 1)
    assert result["source"]["size"] > 0 and result["image"]["size"] > 0
    assert not run_module("flatten_image", wish, netns=podman.netns)["changed"]
    left = f"hep.gridbox/flatten:{'0' * 12}-{'1' * 16}-image"
    podman.podman("tag", "localhost/vobox:el9", left)
    tidied = run_module("flatten_image", wish, netns=podman.netns)
    assert [(step["action"], step["target"]) for step in tidied["actions"]] == [("remove_leftover", left)]
    assert "hep.gridbox/flatten" not in podman.podman("images", "--all").stdout


@pytest.mark.parametrize(
    ("asked", "number", "when"),
    sampled([(asked, 1, when) for asked in ("load_images", "tag_image") for when in ("before", "after")], every=3),
)
def test_killed_at_every_request(podman: PodmanService, tmp_path: Path, asked: str, number: int, when: str) -> None:
    """SIGKILL before and after each request that changes something: the images are those before."""
    (tmp_path / "layers.tar").write_bytes(padded("localhost/vobox:layers", 2))
    podman.podman("load", "--input", str(tmp_path / "layers.tar"))
    try:
        before = images(podman)
        wish = {"engine_url": podman.url, "source": "localhost/vobox:layers", "tag": "localhost/vobox:killed"}
        kill_at({**wish, "min_free": 0}, asked, number, when)
        assert images(podman) == before
    finally:
        podman.podman("image", "rm", "--force", "localhost/vobox:layers")


def images(podman: PodmanService) -> set[str]:
    listed = podman.podman("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").stdout
    return set(listed.split("\n"))

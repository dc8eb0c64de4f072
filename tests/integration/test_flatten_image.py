# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""flatten_image on a real engine: nothing is lost, nothing is done twice, and what is refused is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.host.boot_mark import boot_mark
from ansible_collections.hep.gridbox.plugins.modules import flatten_image, image_layers_info
from tests.integration.conftest import Lab
from tests.integration.flatten_images import ACL, CONFIG, archive, everything, layers, padded
from tests.lab.modules import ModuleFailed

OUR_LABELS = {"hep.gridbox.flatten.source", "hep.gridbox.flatten.reference"}
#: What the engine itself puts into a container, or mounts over it, and so not the image's.
ENGINES = {
    os.path.join(b".", name)
    for name in b".dockerenv state dev proc sys etc/hosts etc/hostname etc/resolv.conf etc/mtab".split()
}


def load(lab: Lab, data: bytes) -> None:
    subprocess.run(
        ["docker", "--host", lab.engine.url, "load"], input=data, check=True, timeout=60, stdout=subprocess.DEVNULL
    )


def inspect(lab: Lab, name: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(lab.docker("image", "inspect", name))[0])


def images(lab: Lab) -> set[str]:
    """All images with their names: how the engine looks from outside."""
    return set(lab.docker("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").split("\n"))


def remove(lab: Lab, *names: str) -> None:
    for name in names:
        lab.docker("image", "rm", "--force", name, check=False)


@pytest.fixture()
def clean(lab: Lab) -> t.Iterator[None]:
    """Every image that a test leaves is removed, and it is checked that none is left."""
    before = images(lab)
    yield
    for line in images(lab) - before:
        identity, name = line.split(" ")
        remove(lab, identity if "<none>" in name else name)
    for line in images(lab) - before:  # images whose last name has just gone
        remove(lab, line.split(" ")[0])
    assert images(lab) == before
    assert not [name for name in os.listdir(lab.engine.folder / "data/overlay2") if name.endswith("-removing")]


@pytest.fixture()
def source(lab: Lab, clean: None) -> str:
    load(lab, everything("vobox:el9"))
    return "vobox:el9"


def walk(lab: Lab, image: str) -> dict[bytes, tuple[t.Any, ...]]:
    """The tree as a container sees it."""
    options = ["--network", "none", "--entrypoint", "/bin/sleep", "--user", "0", "--no-healthcheck"]
    identity = lab.docker("run", "--detach", "--platform", "linux/arm64", *options, image, "600").strip()
    try:
        return tree_in(lab.docker("inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", identity).strip())
    finally:
        lab.docker("rm", "--force", "--volumes", identity)


def tree_in(root: str) -> dict[bytes, tuple[t.Any, ...]]:
    """Each path below a folder with its attributes, a digest of its content, and its other names."""
    names: dict[int, list[bytes]] = {}
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        relative = os.path.relpath(folder, os.fsencode(root))
        folders[:] = [name for name in folders if os.path.join(relative, name) not in ENGINES]
        for name in [b".", *files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.normpath(os.path.join(relative, name))
            if os.path.join(b".", path) in ENGINES or path in ENGINES:
                continue
            real = os.path.join(folder, name)
            info = os.lstat(real)
            if not stat.S_ISDIR(info.st_mode):
                names.setdefault(info.st_ino, []).append(path)
            content = link = None
            if stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(real)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                link = os.readlink(real)
            keys = os.listxattr(real, follow_symlinks=False)
            attributes = {key: os.getxattr(real, key, follow_symlinks=False) for key in keys}
            # The engine makes the root and its files in /etc anew in each container.
            mtime = None if path in (b".", b"etc") else info.st_mtime_ns
            size = None if stat.S_ISDIR(info.st_mode) else info.st_size
            owner = (info.st_mode, info.st_uid, info.st_gid)
            found[path] = (*owner, info.st_rdev, mtime, size, content, link, attributes, info.st_ino)
    return {path: (*values[:-1], tuple(sorted(names.get(values[-1], [])))) for path, values in found.items()}


def configuration(lab: Lab, name: str) -> dict[str, t.Any]:
    """All the engine says of an image but what must differ: ids, names, layers, sizes, and our two labels."""
    said = inspect(lab, name)
    for key in ("Id", "RepoTags", "RepoDigests", "GraphDriver", "RootFS", "Size", "VirtualSize", "Metadata"):
        said.pop(key, None)
    labels = said["Config"]["Labels"] or {}
    said["Config"]["Labels"] = {key: value for key, value in labels.items() if key not in OUR_LABELS}
    return said


def punch_hole(lab: Lab, image: str, name: str) -> None:
    """Make the zeros at the start of a file a hole, as in a file made by a builder's RUN; a loaded one has none."""
    data = inspect(lab, image)["GraphDriver"]["Data"]
    for layer in [data["UpperDir"], *data.get("LowerDir", "").split(":")]:
        path = Path(layer) / name
        if path.exists():
            subprocess.run(["fallocate", "--punch-hole", "--length", str(8 << 20), str(path)], check=True, timeout=10)
            # As loaded: the time is compared too.
            os.utime(path, ns=(1_700_000_000 * 10**9, 1_700_000_000 * 10**9))
            return
    raise AssertionError(f"{name} is in no layer of {image}")


@pytest.mark.parametrize("method", ["tree", "archive"])
def test_nothing_is_lost(lab: Lab, source: str, method: str, claim: t.Callable[..., None]) -> None:
    """Claim A25: one layer, and configuration and files as before; the papers' export and import loses them."""
    result = lab.module("flatten_image", source=source, tag="vobox:flat", method=method)
    assert result["method"] == method
    assert len(inspect(lab, source)["RootFS"]["Layers"]) == result["source"]["layers"] == 5
    assert len(inspect(lab, "vobox:flat")["RootFS"]["Layers"]) == result["image"]["layers"] == 1
    before, after = configuration(lab, source), configuration(lab, "vobox:flat")
    assert after == before
    for key, value in CONFIG.items():
        assert after["Config"][key] == value, key
    assert (after["Architecture"], after["Variant"], after["Author"]) == ("arm64", "v8", "Zoë <zoe@example.org>")
    history = lab.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", "vobox:flat").split("\n")
    assert [line for line in history if line.startswith("step")] == [f"step {number}" for number in (4, 3, 2, 1, 0)]

    tree, flat = walk(lab, source), walk(lab, "vobox:flat")
    if method == "archive":
        # The engine cannot store times before 1970; both images were unpacked by it.
        assert flat[b"data/before-epoch"][4] == 0
    assert {path: (tree.get(path), flat.get(path)) for path in {*tree, *flat} if tree.get(path) != flat.get(path)} == {}
    # The image has what it is to have: otherwise equal trees would prove little.
    assert tree[b"data/capable"][8]["security.capability"]
    assert tree[b"data/attributes"][8] == {"user.text": b"caf\xc3\xa9", "user.bytes": b"\x00\xff\n=\x80"}
    assert tree[b"data/access"][8] == {"system.posix_acl_access": ACL}
    assert tree[b"data/plain"][0] == stat.S_IFREG | 0o600
    assert tree[b"data/linked"][4] == 1_600_000_002_250_000_000
    assert tree[b"data/linked"][9] == (b"alink", b"data/linked")
    assert tree[b"data/huge-owner"][1:3] == (3_000_000_000, 3_000_000_001)
    assert tree[b"data/null"][3] == os.makedev(1, 3)
    assert tree[b"data"][:3] == (stat.S_IFDIR | 0o700, 1000, 1001)
    assert b"data/caf\xe9\xff" in tree
    assert b"data/linked3" not in tree
    assert b"data/gone\xff" not in tree
    assert b"opaque/lower" not in tree

    lab.docker("create", "--name", "control", "--network", "none", "--platform", "linux/arm64", source)
    lab.docker("export", "--output", str(lab.engine.folder / "control.tar"), "control")
    lab.docker("import", str(lab.engine.folder / "control.tar"), "vobox:control")
    (lab.engine.folder / "control.tar").unlink()
    lab.docker("rm", "--volumes", "control")
    control = inspect(lab, "vobox:control")["Config"]
    lost = [key for key in CONFIG if not control.get(key)]
    assert len(lost) == len(CONFIG)
    claim(
        "A25",
        method=method,
        layers="5 to 1",
        keys_lost=f"0/{len(CONFIG)}",
        by_export_import=f"{len(lost)}/{len(CONFIG)}",
    )


def test_holes_stay_holes(lab: Lab, source: str) -> None:
    punch_hole(lab, source, "data/sparse")
    lab.module("flatten_image", source=source, tag="vobox:flat")
    file = Path(inspect(lab, "vobox:flat")["GraphDriver"]["Data"]["UpperDir"]) / "data/sparse"
    info = file.stat()
    assert info.st_size == (8 << 20) + 3
    assert info.st_blocks * 512 <= 1 << 16
    assert info.st_mtime_ns == 1_700_000_000 * 10**9
    assert file.read_bytes() == bytes(8 << 20) + b"end"


def test_a_build_on_the_flattened_image_fires_its_triggers(lab: Lab, clean: None, tmp_path: Path) -> None:
    config = {**CONFIG, "User": "0"}
    load(lab, archive("vobox:onbuild", layers(), {**config, "OnBuild": ["COPY fired /fired"]}))
    lab.module("flatten_image", source="vobox:onbuild", tag="vobox:flat")
    (tmp_path / "Dockerfile").write_text("FROM vobox:flat\n")
    (tmp_path / "fired").write_text("yes")
    environment = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_HOST": lab.engine.url}
    subprocess.run(
        ["docker", "build", "--platform", "linux/arm64", "--tag", "vobox:child", str(tmp_path)],
        check=True, timeout=60, env=environment, capture_output=True,
    )  # fmt: skip
    child = inspect(lab, "vobox:child")
    assert len(child["RootFS"]["Layers"]) == 2
    assert not child["Config"]["OnBuild"]
    # A child inherits the labels; it is not taken for a flattened image.
    told = lab.module("image_layers_info", images=["vobox:child", "vobox:flat"])["images"]
    assert told[0]["flattened_from"] is None
    assert told[1]["flattened_from"] == inspect(lab, "vobox:onbuild")["Id"]


def test_check_mode_tells_exactly_what_happens(lab: Lab, source: str) -> None:
    """The nine steps: baseline, outside look, preview, diff, outside look, preview of the baseline, apply, preview."""
    wish: dict[str, t.Any] = {"source": source, "tag": "vobox:flat", "source_tag": "vobox:layers"}
    before = images(lab)
    identity = inspect(lab, source)["Id"]
    preview = lab.module("flatten_image", check=True, **wish)
    assert preview["changed"]
    assert [step["action"] for step in preview["actions"]] == ["import_layer", "make_image", "tag_source", "tag_image"]
    assert preview["diff"]["before"]["tag"] == {}
    assert preview["diff"]["after"]["tag"] == {"image": "to be made", "flattened_from": identity, "layers": 1}
    assert preview["diff"]["after"]["source_tag"] == {"image": identity}
    assert preview["image"] == {"id": None, "tag": "vobox:flat", "layers": 1, "size": None}
    assert images(lab) == before
    baseline = lab.module("flatten_image", check=True, source="busybox:test")
    assert not baseline["changed"]
    result = lab.module("flatten_image", **wish)
    assert result["actions"] == preview["actions"]
    assert result["diff"] == preview["diff"]
    assert {*result} == {*preview}
    made = inspect(lab, "vobox:flat")
    assert result["image"] == {"id": made["Id"], "tag": "vobox:flat", "layers": 1, "size": made["Size"]}
    assert result["transferred"]["bytes"] > 8 << 20
    assert result["seconds"] > 0
    assert images(lab) == before | {f"{made['Id']} vobox:flat", f"{identity} vobox:layers"}
    for check in (True, False):
        again = lab.module("flatten_image", check=check, **wish)
        assert not again["changed"]
        assert again["actions"] == []
        assert again["image"]["id"] == made["Id"]


def test_the_same_source_gives_the_same_image(lab: Lab, source: str) -> None:
    first = lab.module("flatten_image", source=source, tag="vobox:flat")["image"]["id"]
    remove(lab, "vobox:flat")
    assert lab.module("flatten_image", source=source, tag="vobox:flat")["image"]["id"] == first
    second = lab.module("flatten_image", source=source, tag="vobox:other")
    assert second["image"]["id"] == first


def test_in_place(lab: Lab, source: str) -> None:
    layered = inspect(lab, source)["Id"]
    result = lab.module("flatten_image", source=source, source_tag="vobox:layers")
    assert inspect(lab, source)["Id"] == result["image"]["id"] != layered
    assert inspect(lab, "vobox:layers")["Id"] == layered == result["source"]["id"]
    after = images(lab)
    assert not lab.module("flatten_image", source=source, source_tag="vobox:layers")["changed"]
    assert images(lab) == after
    # The further name is desired state too.
    lab.docker("image", "tag", "busybox:test", "vobox:layers")
    with pytest.raises(ModuleFailed, match="source_tag: vobox:layers: that name belongs to image"):
        lab.module("flatten_image", source=source, source_tag="vobox:layers")


def test_a_rebuilt_source_is_flattened_again(lab: Lab, source: str) -> None:
    first = lab.module("flatten_image", source=source, tag="vobox:flat")["image"]["id"]
    load(lab, archive(source, layers()[:3], CONFIG))
    told = lab.module("image_layers_info", images=["vobox:flat", "vobox:none"])["images"]
    assert told[0]["current"] is False
    assert told[1] == dict.fromkeys(told[0]) | {"name": "vobox:none"}
    second = lab.module("flatten_image", source=source, tag="vobox:flat")
    assert second["changed"]
    assert second["image"]["id"] != first
    assert lab.module("image_layers_info", images=["vobox:flat"])["images"][0]["current"] is True


def test_the_source_goes_only_when_asked(lab: Lab, source: str) -> None:
    wish: dict[str, t.Any] = {"source": source, "tag": "vobox:flat", "keep_source": False}
    lab.docker("create", "--name", "user", "--network", "none", "--platform", "linux/arm64", source)
    before = images(lab)
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"the source image is in use by container user\. Remove those first"):
            lab.module("flatten_image", check=check, **wish)
    assert images(lab) == before
    lab.docker("rm", "--volumes", "user")
    preview = lab.module("flatten_image", check=True, **wish)
    result = lab.module("flatten_image", **wish)
    assert preview["actions"] == result["actions"]
    assert result["actions"][-1]["action"] == "remove_source"
    assert result["source"] is None
    assert not [line for line in images(lab) if source in line]
    again = lab.module("flatten_image", **wish)
    assert not again["changed"]
    assert again["image"]["id"] == result["image"]["id"]
    # A source that was never there is another matter.
    with pytest.raises(ModuleFailed, match="source: vobox:other: the engine has no such image"):
        lab.module("flatten_image", **{**wish, "source": "vobox:other"})


def test_in_place_without_the_source(lab: Lab, source: str) -> None:
    layered = inspect(lab, source)["Id"]
    lab.module("flatten_image", source=source, keep_source=False)
    assert not [line for line in images(lab) if layered in line]
    assert not lab.module("flatten_image", source=source, keep_source=False)["changed"]


def test_what_a_power_cut_left_is_removed_by_the_next_run(lab: Lab, source: str) -> None:
    lab.module("flatten_image", source=source, tag="vobox:flat")
    left = [f"hep.gridbox/flatten:{'0' * 12}-{'1' * 16}-{what}" for what in ("image", "layer")]
    for name in (*left, f"hep.gridbox/flatten:{boot_mark()}-{'1' * 16}-layer"):  # the last may be another run's
        lab.docker("tag", "busybox:test", name)
    predicted = lab.module("flatten_image", check=True, source=source, tag="vobox:flat")
    done = lab.module("flatten_image", source=source, tag="vobox:flat")
    assert predicted["actions"] == done["actions"]
    assert [(step["action"], step["target"]) for step in done["actions"]] == [
        ("remove_leftover", name) for name in left
    ]
    assert all(name in str(done["warnings"]) for name in left)
    names = {line.split()[1] for line in images(lab) if "hep.gridbox/flatten" in line}
    assert names == {f"hep.gridbox/flatten:{boot_mark()}-{'1' * 16}-layer"}
    assert not lab.module("flatten_image", source=source, tag="vobox:flat")["changed"]


def test_one_layer_is_no_change(lab: Lab, clean: None) -> None:
    assert not lab.module("flatten_image", source="busybox:test")["changed"]
    result = lab.module("flatten_image", source="busybox:test", tag="vobox:same")
    assert [step["action"] for step in result["actions"]] == ["tag_image"]
    assert inspect(lab, "vobox:same")["Id"] == inspect(lab, "busybox:test")["Id"] == result["image"]["id"]
    assert not lab.module("flatten_image", source="busybox:test", tag="vobox:same")["changed"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"source": "vobox:missing", "tag": "vobox:x"}, "source: vobox:missing: the engine has no such image. Pull or"),
        ({"tag": "busybox:test"}, "tag: busybox:test: that name belongs to image sha256:"),
        ({"source_tag": "busybox:test", "tag": "vobox:x"}, "source_tag: busybox:test: that name belongs to image"),
        ({"source": "Vobox El9"}, "source: got 'Vobox El9', expected an image's name"),
        ({"source": "../../containers/json?all=1"}, "source: got '../../containers/json"),
        ({"source": "sha256:" + "0" * 64}, "tag: got None, expected a name"),
        ({"tag": "$(reboot)"}, "tag: got '$(reboot)', expected an image name"),
        ({"tag": "vobox:" + "x" * 129}, "tag: got 'vobox:"),
        ({"source_tag": "vobox:el9"}, "source_tag: got 'vobox:el9', expected another name"),
        ({"source_tag": "vobox:y", "keep_source": False}, "source_tag: got 'vobox:y', expected no value when keep"),
        ({"min_free": -1}, "min_free: got -1, expected a number of MiB"),
        ({"tag": "vobox:x", "min_free": 10**9}, "min_free keeps 1000000000 MiB. Make room"),
        ({"tag": "vobox:x", "engine_timeout": 0}, "engine_timeout: got 0"),
    ],
)
def test_refusals(lab: Lab, source: str, arguments: dict[str, t.Any], sentence: str) -> None:
    """In check mode and for real: one sentence, and nothing is changed."""
    before = images(lab)
    for check in (True, False):
        with pytest.raises(ModuleFailed) as failed:
            lab.module("flatten_image", check=check, **{"source": source, **arguments})
        assert sentence in failed.value.result["msg"]
        assert not failed.value.result["changed"]
        assert "exception" not in failed.value.result
    assert images(lab) == before


def test_a_foreign_tag_moves_only_when_asked(lab: Lab, source: str) -> None:
    lab.docker("image", "tag", "busybox:test", "vobox:mine")
    result = lab.module("flatten_image", source=source, tag="vobox:mine", replace=True)
    assert inspect(lab, "vobox:mine")["Id"] == result["image"]["id"]
    assert inspect(lab, "busybox:test")


def test_info_of_all_images(lab: Lab, source: str) -> None:
    lab.module("flatten_image", source=source, tag="vobox:flat")
    told = {record["name"]: record for record in lab.module("image_layers_info")["images"]}
    assert told["vobox:el9"]["layers"] == 5
    assert told["vobox:flat"]["layers"] == 1
    assert told["vobox:flat"]["current"] is True
    assert told["busybox:test"]["flattened_from"] is None


@pytest.mark.parametrize("module", [flatten_image, image_layers_info])
def test_examples_run(lab: Lab, clean: None, module: t.Any) -> None:
    for name in ("vobox:el9", "vobox:build", "vobox:candidate"):
        load(lab, padded(name, 1))
    for task in yaml.safe_load(module.EXAMPLES):
        for key, arguments in task.items():
            if key.startswith("hep.gridbox."):
                lab.module(key.rpartition(".")[2], check=task.get("check_mode", False), **(arguments or {}))

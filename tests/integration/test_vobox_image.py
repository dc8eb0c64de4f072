# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_image on the engine of the lab, on a base that is there: what it announces, does, and leaves when it fails.

Bases of a registry are in test_registry.py; a bootstrapped one is in the scenario vobox.
"""

from __future__ import annotations

import json
import os
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.host.boot_mark import boot_mark
from tests.integration.conftest import Lab
from tests.lab.modules import ModuleFailed

NAME = "site:nine"
RECIPE: dict[str, t.Any] = {
    "name": NAME, "base": "busybox:test", "files": [{"path": "/etc/site", "content": "CERN\n"}],
    "commands": [["chmod", "600", "/etc/passwd"]], "command": ["httpd", "-f"], "ports": ["80"],
    "volumes": ["/state"], "labels": {"org.example.site": "CERN"},
}  # fmt: skip
CHANGED: dict[str, t.Any] = {**RECIPE, "files": [{"path": "/etc/site", "content": "Bergen\n", "mode": "0640"}]}


def world(lab: Lab) -> tuple[set[str], str, list[str]]:
    """Images with their names, containers, and temporary folders: all that a build could leave or change."""
    images = lab.docker("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    folders = [name for name in os.listdir("/var/tmp") if name.startswith("gridbox-")]
    return set(images.split("\n")), lab.docker("ps", "--all", "--quiet"), folders


def site_in(lab: Lab) -> str:
    return lab.docker("run", "--rm", "--network", "none", NAME, "cat", "/etc/site")


@pytest.fixture()
def untouched(lab: Lab) -> t.Iterator[tuple[set[str], str, list[str]]]:
    """The engine as it is before the test, and it is again like that after it."""
    before = world(lab)
    yield before
    lab.module("vobox_image", name=NAME, state="absent")
    assert world(lab) == before


def test_check_mode_predicts_and_changes_nothing(lab: Lab, untouched: tuple[set[str], str, list[str]]) -> None:
    """The nine-step proof: from nothing to a first image, and from that to another recipe."""
    baseline = untouched
    for recipe, before, text in (({**RECIPE}, "", "CERN\n"), (CHANGED, NAME, "Bergen\n")):
        predicted = lab.module("vobox_image", check=True, **recipe)
        assert [step["action"] for step in predicted["actions"]] == ["build_image"]
        assert predicted["diff"]["before"]["image"] == before
        assert predicted["diff"]["after"] == {"image": NAME, "recipe": predicted["recipe"]}
        assert predicted["diff"]["before"]["recipe"] != predicted["recipe"]
        assert predicted["image"] is None
        assert world(lab) == baseline
        if before:
            kept = lab.module("vobox_image", check=True, **RECIPE)
            assert (kept["changed"], kept["actions"]) == (False, [])
        done = lab.module("vobox_image", **recipe)
        for key in ("actions", "diff", "disruption", "recipe"):
            assert done[key] == predicted[key], key
        seen = json.loads(lab.docker("image", "inspect", NAME))[0]
        assert done["image"]["id"] == seen["Id"]
        assert (seen["Config"]["Cmd"], list(seen["Config"]["ExposedPorts"])) == (["httpd", "-f"], ["80/tcp"])
        assert seen["Config"]["Labels"]["org.example.site"] == "CERN"
        assert site_in(lab) == text
        baseline = world(lab)
        for check in (True, False):
            again = lab.module("vobox_image", check=check, **recipe)
            assert (again["changed"], again["actions"], again["image"]) == (False, [], done["image"])
        assert world(lab) == baseline
    predicted = lab.module("vobox_image", check=True, name=NAME, state="absent")
    assert world(lab) == baseline
    removed = lab.module("vobox_image", name=NAME, state="absent")  # with the first image, which has lost its name
    assert len(removed["actions"]) == 2
    assert predicted["actions"] == removed["actions"] and removed["changed"]
    assert world(lab) == untouched


def test_what_a_power_cut_left_of_a_bootstrap_is_removed(lab: Lab, untouched: tuple[set[str], str, list[str]]) -> None:
    lab.module("vobox_image", **RECIPE)
    left, other, current = (Path("/var/tmp") / f"gridbox-base-{name}" for name in (
        f"{'0' * 12}-left", f"{'0' * 12}-other", f"{boot_mark()}-now",
    ))  # fmt: skip
    try:
        for folder in (left, other, current):
            (folder / "inside").mkdir(parents=True)
        os.chown(other, 4242, 4242)
        predicted = lab.module("vobox_image", check=True, **RECIPE)
        assert left.exists()
        done = lab.module("vobox_image", **RECIPE)
        assert predicted["actions"] == done["actions"]
        assert [(step["action"], step["target"]) for step in done["actions"]] == [("remove_leftover", str(left))]
        assert f"what it had left unfinished was removed: {left}." in str(done["warnings"])
        assert [folder.exists() for folder in (left, other, current)] == [False, True, True]
        assert not lab.module("vobox_image", **RECIPE)["changed"]
    finally:
        for folder in (left, other, current):
            shutil.rmtree(folder, ignore_errors=True)


def test_a_build_that_fails_leaves_the_old_image(lab: Lab, untouched: tuple[set[str], str, list[str]]) -> None:
    lab.module("vobox_image", **RECIPE)
    before = world(lab)
    with pytest.raises(ModuleFailed) as failed:
        lab.module("vobox_image", **{**CHANGED, "commands": [["cat", "/no/such/file"]]})
    result = failed.value.result
    assert "can't open '/no/such/file'" in result["msg"]
    assert result["failed_action"]["action"] == "build_image"
    assert "exception" not in result
    assert site_in(lab) == "CERN\n"
    left = world(lab)
    assert before[0] <= left[0]
    assert not [line for line in left[0] - before[0] if "<none>:<none>" not in line]
    assert left[1:] == before[1:]
    lab.docker("image", "prune", "--force")  # the engine keeps the steps that went well for the next build

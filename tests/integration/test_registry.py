# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of a registry: pulled, built on, and run by the role vobox; on a real registry beside the lab's engine."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import PARENT, Lab
from tests.lab.modules import ModuleFailed
from tests.lab.playbook import play
from tests.lab.registry import Registry

# The engine trusts a registry on the loopback without TLS.
REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/site/vobox:1"


@pytest.fixture(scope="module")
def registry(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Registry]:
    """A registry on the engine's host, holding the test image."""
    made = Registry(lab.engine.netns, REGISTRY, tmp_path_factory.mktemp("registry"))
    made.start()
    assert made.put("site/vobox", "1") == IMAGE
    yield made
    made.stop()


@pytest.fixture()
def clean(lab: Lab) -> t.Iterator[None]:
    """No image but the test's own is left in the engine."""
    yield
    for image in names(lab) - {"busybox:test"}:
        lab.docker("image", "rm", "--force", image)


def names(lab: Lab) -> set[str]:
    return set(lab.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def actions(result: t.Mapping[str, t.Any]) -> list[str]:
    return [f"{step['action']} {step['target']}" for step in result["actions"]]


def test_an_image_is_pulled_once(lab: Lab, registry: Registry, clean: None) -> None:
    predicted = lab.module("vobox_image", check=True, name=IMAGE, state="pulled")
    assert names(lab) == {"busybox:test"}
    done = lab.module("vobox_image", name=IMAGE, state="pulled")
    assert actions(predicted) == actions(done) == [f"pull_image {IMAGE}"]
    assert done["image"]["id"] == lab.docker("image", "inspect", "--format", "{{.Id}}", IMAGE).strip()
    again = lab.module("vobox_image", name=IMAGE, state="pulled")
    assert not again["changed"] and again["image"] == done["image"]


def test_an_image_is_pulled_by_its_digest(lab: Lab, registry: Registry, clean: None) -> None:
    lab.module("vobox_image", name=IMAGE, state="pulled")
    digest = lab.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", IMAGE).strip()
    lab.docker("image", "rm", IMAGE)
    assert actions(lab.module("vobox_image", name=digest, state="pulled")) == [f"pull_image {digest}"]
    assert not lab.module("vobox_image", name=digest, state="pulled")["changed"]
    lab.docker("image", "rm", digest)


@pytest.mark.parametrize("check", [True, False])
def test_what_no_registry_has_is_refused_in_check_mode_too(
    lab: Lab, registry: Registry, clean: None, check: bool
) -> None:
    for name in (f"{REGISTRY}/site/other:1", "127.0.0.1:5001/site/vobox:1"):
        with pytest.raises(ModuleFailed, match="no registry answered for") as refused:
            lab.module("vobox_image", check=check, name=name, state="pulled", pull_timeout=5)
        assert refused.value.result["msg"].startswith(f"name: {name}: ")
        assert refused.value.result["changed"] is False


def test_an_image_is_built_on_one_of_a_registry(lab: Lab, registry: Registry, clean: None) -> None:
    recipe = {
        "name": "site:built", "base": IMAGE, "files": [{"path": "/etc/site", "content": "CERN\n"}],
        "command": ["httpd", "-f", "-p", "80"],
    }  # fmt: skip
    predicted = lab.module("vobox_image", check=True, **recipe)
    done = lab.module("vobox_image", **recipe)
    assert actions(predicted) == actions(done) == [f"pull_base {IMAGE}", "build_image site:built"]
    assert lab.docker("run", "--rm", "--network", "none", "site:built", "cat", "/etc/site") == "CERN\n"
    assert not lab.module("vobox_image", **recipe)["changed"]


def test_without_the_registry_the_base_would_be_bootstrapped(lab: Lab, registry: Registry, clean: None) -> None:
    registry.stop()
    try:
        predicted = lab.module("vobox_image", check=True, name="site:built", base=IMAGE)
    finally:
        registry.start()
    assert [step["action"] for step in predicted["actions"]] == ["bootstrap_base", "build_image"]
    assert "no registry answered" in predicted["actions"][0]["reason"]


@pytest.mark.fleet  # the scenario site does so too
def test_the_role_runs_an_image_of_a_registry(lab: Lab, registry: Registry, clean: None, tmp_path: Path) -> None:
    variables = {
        "vobox_engine_url": lab.engine.url, "vobox_image_pull": IMAGE,
        "vobox_image_flatten": False, "vobox_services": [],
        "vobox_health": {"test": ["true"]},
        "vobox_network": {
            "name": "site", "parent": PARENT, "ipv4": {"subnet": "10.213.0.0/16", "gateway": "10.213.0.9"},
        },
        "vobox_list": [{"name": "pulled", "fqdn": "vobox.example.org", "ipv4": "10.213.1.1"}],
        "vobox_init_template": str(tmp_path / "init.sh"), "vobox_remove_volumes": True,
    }  # fmt: skip
    (tmp_path / "init.sh").write_text("#!/bin/sh\nexec sleep 1000\n")

    def run(*options: str, **what: t.Any) -> str:
        return play(lab.engine.netns, tmp_path, *options, vars=variables, **what)

    role: dict[str, t.Any] = {"roles": ["hep.gridbox.vobox"]}
    try:
        assert "changed=0" not in run("--check", **role)
        assert names(lab) == {"busybox:test"}
        run(**role)
        assert "changed=0" in run(**role)
        seen = json.loads(lab.docker("inspect", "pulled"))[0]
        assert (seen["State"]["Running"], seen["Config"]["Image"]) == (True, IMAGE)
    finally:
        run(tasks=[{"ansible.builtin.include_role": {"name": "hep.gridbox.vobox", "tasks_from": "remove"}}])
    assert lab.docker("ps", "--all", "--quiet") == ""

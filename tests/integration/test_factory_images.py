# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that a factory has pulled and nobody wants any more, on a real engine with a real registry."""

from __future__ import annotations

import io
import tarfile
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.lab.factory import DAY, LabFactory
from tests.lab.image import busybox_tar
from tests.lab.modules import run_module
from tests.lab.registry import Registry

# The engine trusts a registry on the loopback without TLS.
REGISTRY = "127.0.0.1:5000"


@pytest.fixture()
def registry(own_lab: Lab, tmp_path: Path) -> t.Iterator[Registry]:
    made = Registry(own_lab.engine.netns, REGISTRY, tmp_path / "registry")
    made.start()
    yield made
    made.stop()


@pytest.fixture()
def factory(own_lab: Lab, tmp_path: Path) -> t.Iterator[LabFactory]:
    """A factory that pulls images, and starts nothing."""
    (tmp_path / "factory").mkdir()
    made = LabFactory(own_lab, tmp_path / "factory", draining=True)
    yield made
    made.remove()


def root(text: str) -> bytes:
    """A tar by which an image differs from others."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("name")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def kinds(*names: str) -> dict[str, t.Any]:
    """Machinetypes of the images of these names."""
    kind = {"user_data": "run", "target_share": 1.0}
    return {name: {**kind, "root_image": f"docker://{REGISTRY}/site/{name}:1"} for name in names}


def tags(lab: Lab) -> set[str]:
    found = lab.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    named = {one.removeprefix(f"{REGISTRY}/site/") for one in found if not one.endswith(":<none>")}
    return named - {"busybox:test"}


def ids(lab: Lab) -> set[str]:
    return set(lab.docker("image", "ls", "--all", "--quiet", "--no-trunc").split())


def identity(lab: Lab, name: str) -> str:
    return lab.docker("image", "inspect", "--format", "{{.Id}}", name).strip()


def kept(factory: LabFactory) -> dict[str, dict[str, t.Any]]:
    """What is written down of images, by the names that their machinetypes have."""
    return {one["reference"].rpartition("/")[2].partition(":")[0]: one for one in factory.pulled_images()}


def told(factory: LabFactory, event: str) -> list[str]:
    return sorted(one["image"].rpartition("/")[2] for one in factory.events(event))


def test_images_that_the_factory_pulled_go_when_nobody_wants_them(
    own_lab: Lab, registry: Registry, factory: LabFactory
) -> None:
    names = ["gone", "moved", "tagged", "there", "used", "wanted"]
    for name in names:
        registry.put(f"site/{name}", "1", root(name))
    own_lab.docker("pull", f"{REGISTRY}/site/there:1")

    factory.write(machinetypes=kinds(*names))
    factory.start()
    factory.wait("all images", lambda: len(factory.events("image_pulled")) == len(names) - 1)
    factory.wait("them to be written down", lambda: set(kept(factory)) == set(names) - {"there"})
    factory.stop()

    # What others do with them: a tag, a container, and a newer image by the same name.
    own_lab.docker("tag", f"{REGISTRY}/site/tagged:1", "mine:1")
    own_lab.docker("create", "--name", "user", f"{REGISTRY}/site/used:1", "sh")
    before = identity(own_lab, f"{REGISTRY}/site/moved:1")
    registry.put("site/moved", "1", root("newer"))
    own_lab.docker("pull", f"{REGISTRY}/site/moved:1")
    newer = identity(own_lab, f"{REGISTRY}/site/moved:1")
    assert {before, newer} < ids(own_lab)

    # A pipe that has been down since the daemon was started may want any of them.
    factory.pass_days(8)
    pipe = factory.folder / "exp.pipe"
    pipes = {"exp": {"vacuum_pipe_url": "http://127.0.0.1:9/exp.pipe", "target_share": 1.0}}
    factory.write(machinetypes=kinds("wanted"), vacuum_pipes=pipes)
    factory.start()
    factory.wait("the look", lambda: all(one["wanted"] > time.time() - DAY for one in kept(factory).values()))
    factory.stop()
    assert not factory.events("image_removed", "image_not_removed")
    assert tags(own_lab) == {f"{name}:1" for name in names} | {"mine:1"}

    # It is read, and wants none of them.
    factory.pass_days(8)
    pipe.write_text('{"machinetypes": []}')
    factory.write(vacuum_pipes={"exp": {"vacuum_pipe_path": str(pipe), "target_share": 1.0}})
    factory.start()
    factory.wait("three to go", lambda: told(factory, "image_removed") == ["gone:1", "moved:1", "tagged:1"])
    factory.wait("the refusal", lambda: told(factory, "image_not_removed") == ["used:1"])
    assert "user" in factory.lab.docker("ps", "--all", "--format", "{{.Names}}")
    assert tags(own_lab) == {"there:1", "used:1", "wanted:1", "moved:1", "mine:1"}
    assert before not in ids(own_lab) and identity(own_lab, f"{REGISTRY}/site/moved:1") == newer
    factory.stop()
    assert set(kept(factory)) == {"used", "wanted"}

    # Another day.
    own_lab.docker("rm", "user")
    factory.pass_days(1)
    factory.start()
    factory.wait("the last to go", lambda: "used:1" in told(factory, "image_removed"))
    factory.stop()
    assert not factory.events("images_not_tidied", "image_not_recorded", "internal_error")

    # The factory goes, and takes what is its own along.
    place = {"program": str(factory.program), "path": str(factory.configuration), "state": "absent"}
    done = [run_module("vacuum_factory", place, netns=own_lab.engine.netns, check=check) for check in (True, False)]
    assert done[0]["actions"] == done[1]["actions"]
    assert [one["action"] for one in done[1]["actions"]] == ["remove_image", "remove_configuration"]
    assert tags(own_lab) == {"there:1", "moved:1", "mine:1"}


def digest_is_what_is_pulled_and_run(factory: LabFactory, registry: Registry, image_of: t.Callable[[str], str]) -> None:
    """On any engine: an image by its digest is pulled ahead, machines are made from it, and it is kept in the record;
    wherever the tag points by then.

    :param image_of: asks the engine for an image's id.
    """
    registry.put("site/pilot", "1", busybox_tar(page="the one that is wanted\n"))
    digest = registry.digest("site/pilot", "1")
    registry.put("site/pilot", "1", busybox_tar(page="a newer one\n"))
    assert registry.digest("site/pilot", "1") != digest
    reference = f"{REGISTRY}/site/pilot:1@{digest}"
    script = "cat /www/index.html >$JOBOUTPUTS/seen; while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done"
    kind = {"script": script, "root_image": f"docker://{reference}", "fizzle_seconds": 0}
    factory.kinds({"a": kind})

    # It is there before a machine needs it.
    factory.write(draining=True, total_processors=1)
    factory.start()
    [pulled] = factory.wait("the pull", lambda: factory.events("image_pulled"))
    assert pulled["image"] == reference
    assert pulled["id"].removeprefix("sha256:") == image_of(f"{REGISTRY}/site/pilot@{digest}").removeprefix("sha256:")
    assert factory.records() == []
    factory.write(draining=False)
    [machine] = factory.wait("a machine", factory.running)
    seen = factory.wait("its word", lambda: next(factory.state.glob("machines/*/mnt/joboutputs/seen"), None))
    assert factory.wait("all of it", seen.read_text) == "the one that is wanted\n"
    assert machine["Image"].removeprefix("sha256:") == pulled["id"].removeprefix("sha256:")
    assert factory.records()[0]["root_image"] == reference

    # The registry is gone: what was pulled by a digest is pulled once.
    registry.stop()
    (seen.parent / "go").touch()
    factory.wait("the next one", lambda: len(factory.events("machine_started")) == 2)
    assert len(factory.events("image_wanted")) == 1
    assert not factory.events("image_missing")
    assert {one["root_image"] for one in factory.records()} == {reference}
    factory.stop()
    [kept_image] = factory.pulled_images()
    assert (kept_image["reference"], kept_image["id"]) == (reference, pulled["id"])


def test_an_image_by_its_digest(own_lab: Lab, registry: Registry, factory: LabFactory) -> None:
    digest_is_what_is_pulled_and_run(factory, registry, lambda name: identity(own_lab, name))


@pytest.mark.parametrize("there", [True, False])
def test_an_image_that_is_removed_behind_the_factory_is_fetched_again_and_blames_nobody(
    own_lab: Lab, registry: Registry, factory: LabFactory, there: bool
) -> None:
    """As by ``docker system prune --all`` while no machine has it. The whole space would back off from a machinetype
    whose start has failed."""
    registry.put("site/pilot", "1", busybox_tar())
    image = f"{REGISTRY}/site/pilot:1"
    script = "while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done"
    factory.kinds({"a": {"script": script, "root_image": f"docker://{image}", "fizzle_seconds": 0}})
    factory.start()
    factory.wait("the pull", lambda: factory.events("image_pulled"))
    own_lab.docker("image", "rm", image)
    if not there:
        registry.stop()
    factory.write(draining=False)
    factory.wait("starts that find no image", lambda: factory.events("image_gone"))
    if there:
        factory.wait("two machines", lambda: len(factory.running()) == 2)
        assert len(factory.events("image_pulled")) == 2
    else:
        missing = "The image of a is missing"
        red = factory.wait("the check to miss it", lambda: missing in (c := factory.run("check")).stdout and c)
        assert red.returncode == 2
        factory.wait("them to be forgotten", lambda: not factory.records())
        assert not factory.containers()
    assert not factory.events("machine_ended", "internal_error", "step_failed")


def test_an_image_that_an_engine_has_lost_is_missed_before_a_machine_is_made_from_it(
    own_lab: Lab, registry: Registry, factory: LabFactory
) -> None:
    """As with a data root that was wiped while the engine was away."""
    registry.put("site/pilot", "1", busybox_tar())
    image = f"{REGISTRY}/site/pilot:1"
    factory.write(machinetypes=kinds("pilot"))
    factory.start()
    factory.wait("the pull", lambda: factory.events("image_pulled"))
    own_lab.docker("image", "rm", image)
    own_lab.engine.kill()
    factory.wait("the silence", lambda: factory.events("engine_silent"))
    own_lab.engine.start()
    factory.wait("the second pull", lambda: len(factory.events("image_pulled")) == 2)
    assert not factory.events("image_gone", "image_missing", "internal_error")

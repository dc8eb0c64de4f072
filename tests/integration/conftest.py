# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab of the integration tests: one engine of their own, on a LAN of their own with a peer machine."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from tests.lab.apptainer import equip, package
from tests.lab.engine import PodmanService
from tests.lab.factory import LabFactory
from tests.lab.hosts import Machine
from tests.lab.image import busybox_tar
from tests.lab.lab import PARENT, SUBNET4, SUBNET6, Lab, make_lab, remove_lab
from tests.lab.lan import Lan, add_netns, delete_netns

__all__ = ["PARENT", "SUBNET4", "SUBNET6", "Lab"]


def _require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")


def _name(name: str) -> str:
    """So that two test runs on one machine do not meet."""
    return f"gbt{os.getpid()}-{name}"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    """The shared lab. Tests use names of their own and leave nothing behind."""
    _require_root()
    made = make_lab(tmp_path_factory.mktemp("lab") / "engine", _name("lab"))
    yield made
    remove_lab(made)


@pytest.fixture()
def own_lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    """A lab of the test's own: for tests that kill the daemon or take links away. Two seconds."""
    _require_root()
    # Not in the test's own folder: with a long name in it the path of containerd's socket exceeds 107 characters.
    made = make_lab(tmp_path_factory.mktemp("own") / "engine", _name("own"))
    yield made
    remove_lab(made)


@pytest.fixture()
def make_factory(own_lab: Lab, tmp_path: Path) -> t.Iterator[t.Callable[..., LabFactory]]:
    """Makes a factory on an engine of the test's own: ``make({"a": {"script": "exit 3", ...}}, ...)``."""
    made: list[LabFactory] = []

    def make(kinds: t.Mapping[str, t.Mapping[str, t.Any]], **settings: t.Any) -> LabFactory:
        (tmp_path / "factory").mkdir()
        made.append(LabFactory(own_lab, tmp_path / "factory", **settings))
        made[0].kinds(kinds)
        return made[0]

    yield make
    for one in made:
        one.remove()


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[PodmanService]:
    """Podman behind its socket, in its own namespace, with the test image."""
    _require_root()
    service = PodmanService(tmp_path_factory.mktemp("podman"), _name("podman"))
    service.start()
    image = tmp_path_factory.mktemp("image") / "busybox.tar"
    image.write_bytes(busybox_tar())
    service.podman("import", str(image), "busybox:test")
    yield service
    service.remove()


@pytest.fixture(scope="module")
def apptainer_host() -> t.Iterator[Machine]:
    """A host with Apptainer."""
    _require_root()
    try:
        package()
    except RuntimeError as exc:
        pytest.skip(f"Apptainer's package cannot be had from Debian unstable: {exc}")
    machine = Machine(_name("apptainer"))
    try:
        machine.start("trixie")
        equip(machine)
        machine.install("passt")
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def podman_peer(podman: PodmanService) -> t.Iterator[str]:
    """Podman's host is plugged into a LAN by its link ``site0``; the namespace of another machine on that LAN."""
    lan, peer = Lan(_name("podlan")), _name("podpeer")
    add_netns(peer)
    lan.plug(podman.netns, PARENT, "10.213.0.1/16", "fd13:213::1/64")
    lan.plug(peer, "eth0", "10.213.0.9/16", "fd13:213::9/64")
    yield peer
    delete_netns(peer)
    lan.remove()


@pytest.fixture(scope="module")
def podman_site(podman: PodmanService, podman_peer: str) -> t.Iterator[str]:
    """Podman's network ``site`` on that LAN; the namespace of the other machine."""
    podman.podman(
        "network", "create", "--driver", "macvlan", "--opt", f"parent={PARENT}", "--ipv6", "--subnet", SUBNET4,
        "--gateway", "10.213.0.1", "--subnet", SUBNET6, "--gateway", "fd13:213::1", "site",
    )  # fmt: skip
    yield podman_peer
    podman.podman("network", "rm", "--force", "site")


@pytest.fixture()
def claim(record_property: t.Callable[[str, object], None]) -> t.Callable[..., None]:
    """Tell the figures of a claim of the papers: ``claim("A15", bytes=1)``. They stand at the end of the run."""

    def tell(number: str, **figures: object) -> None:
        text = " ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in figures.items()
        )
        record_property(f"CLAIM {number}", text)

    return tell

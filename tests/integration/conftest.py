# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab of the integration tests: one engine of their own, on a LAN of their own with a peer machine."""

from __future__ import annotations

import os
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.engine import Dockerd, PodmanService
from tests.lab.image import busybox_tar
from tests.lab.lan import Lan, add_netns, delete_netns, in_netns
from tests.lab.modules import run_module

#: The LAN of the lab, dual-stack. The engine's host is .1, the peer .9; networks hand out from .1.0/24.
SUBNET4, SUBNET6 = "10.213.0.0/16", "fd13:213::/64"
PARENT = "site0"


@dataclass
class Lab:
    """An engine, the LAN its parent link ``site0`` is plugged into, and a peer namespace on that LAN."""

    engine: Dockerd
    lan: Lan
    peer: str

    def module(self, name: str, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        """Run a module on the lab's host, against its engine."""
        return run_module(name, {"engine_url": self.engine.url, **arguments}, netns=self.engine.netns, check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """The docker client's output: how tests look at the engine."""
        return self.engine.docker(*arguments, check=check).stdout

    def from_peer(self, *argv: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command on the other machine of the LAN."""
        return in_netns(self.peer, *argv, check=check, timeout=timeout)


def _require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and an engine of its own")


def _make_lab(folder: Path, name: str) -> Lab:
    name = f"gbt{os.getpid()}-{name}"  # so that two test runs on one machine do not meet
    engine = Dockerd(folder, name)
    lan = Lan(f"{name}-lan")
    peer = f"{name}-peer"
    add_netns(peer)
    lan.plug(engine.netns, PARENT, "10.213.0.1/16", "fd13:213::1/64")
    lan.plug(peer, "eth0", "10.213.0.9/16", "fd13:213::9/64")
    engine.start()
    return Lab(engine, lan, peer)


def _remove_lab(lab: Lab) -> None:
    lab.engine.remove()
    delete_netns(lab.peer)
    lab.lan.remove()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Lab]:
    """The shared lab. Tests use names of their own and leave nothing behind."""
    _require_root()
    made = _make_lab(tmp_path_factory.mktemp("lab") / "engine", "lab")
    subprocess.run(
        ["docker", "--host", made.engine.url, "import", "-", "busybox:test"],
        input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield made
    _remove_lab(made)


@pytest.fixture()
def own_lab(tmp_path: Path) -> t.Iterator[Lab]:
    """A lab of the test's own: for tests that kill the daemon or take links away. Two seconds."""
    _require_root()
    made = _make_lab(tmp_path / "engine", "own")
    subprocess.run(
        ["docker", "--host", made.engine.url, "import", "-", "busybox:test"],
        input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield made
    _remove_lab(made)


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[PodmanService]:
    """Podman behind its socket, in its own namespace, with the test image."""
    _require_root()
    service = PodmanService(tmp_path_factory.mktemp("podman"), f"gbt{os.getpid()}-podman")
    service.start()
    image = tmp_path_factory.mktemp("image") / "busybox.tar"
    image.write_bytes(busybox_tar())
    service.podman("import", str(image), "busybox:test")
    yield service
    service.remove()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab: an engine, the LAN its host is plugged into, and another machine on that LAN.

Tests have it as a fixture. Molecule scenarios, whose steps are processes of their own, start and stop it by command::

    python -m tests.lab.lab start NAME FOLDER
    python -m tests.lab.lab stop NAME FOLDER

``FOLDER/python`` is then a Python that runs on the lab's host: set it as ``ansible_python_interpreter``.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import typing as t
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import Dockerd
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

    def module(self, name: str, /, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        """Run a module on the lab's host, against its engine."""
        return run_module(name, {"engine_url": self.engine.url, **arguments}, netns=self.engine.netns, check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """The docker client's output: how tests look at the engine."""
        return self.engine.docker(*arguments, check=check).stdout

    def from_peer(self, *argv: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command on the other machine of the LAN."""
        return in_netns(self.peer, *argv, check=check, timeout=timeout)


def make_lab(folder: Path, name: str, enter: tuple[str, ...] = ()) -> Lab:
    """Make and start one, with the image ``busybox:test``.

    :param folder: of the engine.
    :param name: of its network namespaces.
    :param enter: a command before the engine: it enters further namespaces.
    """
    engine = Dockerd(folder, name, enter=enter)
    lan = Lan(f"{name}-lan")
    peer = f"{name}-peer"
    add_netns(peer)
    lan.plug(engine.netns, PARENT, "10.213.0.1/16", "fd13:213::1/64")
    lan.plug(peer, "eth0", "10.213.0.9/16", "fd13:213::9/64")
    engine.start()
    subprocess.run(
        ["docker", "--host", engine.url, "import", "-", "busybox:test"],
        input=busybox_tar(), check=True, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return Lab(engine, lan, peer)


def remove_lab(lab: Lab) -> None:
    """Remove it, with all that its engine holds."""
    lab.engine.remove()
    delete_netns(lab.peer)
    lab.lan.remove()


def start(name: str, folder: Path) -> None:
    """Start a lab that outlives this process."""
    if folder.exists():
        stop(name, folder)  # what a killed run left
    make_lab(folder / "engine", name)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{name} {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)


def stop(name: str, folder: Path) -> None:
    """Stop and remove a lab that another process started, whole or in part."""
    engine = Dockerd.found(folder / "engine", name)
    if engine.folder.exists():
        engine.remove()
    for netns in (f"{name}-peer", f"{name}-lan"):
        delete_netns(netns)
    (folder / "python").unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()


if __name__ == "__main__":
    command, lab_name, lab_folder = sys.argv[1:]
    {"start": start, "stop": stop}[command](lab_name, Path(lab_folder))

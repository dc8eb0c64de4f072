# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with systemd, an engine and FUSE, for tests of what containers see of /cvmfs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import yaml

from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.hosts import Machine
from tests.lab.image import busybox_tar

NAME = "host1"

PACKAGES = ("squashfuse", "squashfs-tools")


class CvmfsHost:
    """A fleet of one host.

    :param folder: for inventories and playbooks.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def booted(cls, what: str, folder: Path) -> t.Iterator[CvmfsHost]:
        """One for the tests of ``what``, stopped when the block is left."""
        with booted(what, f"{NAME}=native:bookworm:engine") as fleet:
            made = cls(fleet, folder)
            made.equip()
            yield made

    def equip(self) -> None:
        """Install an image, and what mounts squashfs files."""
        self.machine.install(*PACKAGES)
        self.machine.feed(busybox_tar(), "docker", "import", "-", "busybox:test")
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(self.fleet.inventory()))

    @property
    def machine(self) -> Machine:
        """What runs commands in it."""
        return t.cast(Machine, self.fleet.machine(NAME))

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        return self.machine.run(*argv, check=check)

    def sh(self, script: str) -> str:
        """Run a shell script in it; what it printed."""
        return self.run("sh", "-ec", script).stdout.strip()

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in it."""
        self.machine.feed(text.encode(), "install", "-D", "-m", mode, "/dev/stdin", path)

    def reboot(self, degraded: bool = False) -> float:
        """Shut it down and boot it; seconds from power on until systemd has no more to start.

        :param degraded: whether a unit may have failed.
        """
        self.machine.power_off()
        start = time.monotonic()
        self.fleet.power_on(NAME, degraded)
        return time.monotonic() - start

    # ---- systemd ------------------------------------------------------------------------------------------------

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", f"--property={','.join(properties)}", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def failed(self) -> list[str]:
        """The units that failed."""
        lines = self.run("systemctl", "--failed", "--plain", "--no-legend").stdout.splitlines()
        return [line.split()[0] for line in lines]

    def wait(self, what: str, seconds: float, ready: t.Callable[[], bool]) -> float:
        """Wait until it is so; how long it took."""
        start = time.monotonic()
        while not ready():
            waited = time.monotonic() - start
            assert waited < seconds, f"waited {seconds} s for {what}"
            time.sleep(min(0.2 + waited / 10, 1))  # to look takes some processes
        return time.monotonic() - start

    # ---- containers ---------------------------------------------------------------------------------------------

    def box(self, name: str, bind: str, *more: str) -> None:
        """Start a container with a bind, as ``--volume`` has it."""
        argv = ("docker", "run", "--detach", "--name", name, "--network", "none", "--volume", bind, *more)
        self.run(*argv, "busybox:test", "sleep", "99999")

    def read(self, box: str, path: str) -> str:
        """What a container reads in a file; else the exit code, or the error in its own words."""
        done = self.run("docker", "exec", box, "cat", path, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        return done.stderr.strip().rpartition(": ")[2] or f"exit {done.returncode}"

    # ---- Ansible ------------------------------------------------------------------------------------------------

    def module(self, name: str, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        """Run a module on it; what it said."""
        argv = [NAME, "--one-line", "--module-name", f"hep.gridbox.{name}", "--args", json.dumps(arguments)]
        argv += ["--check"] if check else []
        done = self._ansible("ansible", *argv)
        assert done.returncode == 0, done.stdout + done.stderr
        said: dict[str, t.Any] = json.loads(done.stdout.partition(" => ")[2])
        return said

    def role(
        self, entry: str = "main", options: t.Sequence[str] = (), **variables: t.Any
    ) -> subprocess.CompletedProcess[str]:
        """Run an entry point of the role cvmfs on it.

        :param options: of ansible-playbook.
        """
        task = {"ansible.builtin.include_role": {"name": "hep.gridbox.cvmfs", "tasks_from": entry}, "vars": variables}
        play = [{"hosts": NAME, "gather_facts": False, "tasks": [task]}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(play))
        return self._ansible("ansible-playbook", "play.yml", *options)

    def _ansible(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name(program)), "-i", "inventory.yml", *arguments],
            cwd=self.folder, capture_output=True, text=True, timeout=180, check=False,
            env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip

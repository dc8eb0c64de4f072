# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Factories with Apptainer as their engine: a Debian 13 host (tests/lab/hosts.py) with Apptainer of Debian unstable.

Debian 13 itself has none, and Debian 12's libraries are too old for it.
"""

from __future__ import annotations

import hashlib
import json
import typing as t
from pathlib import Path

import jinja2

from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.gate.tools import ROOT
from tests.lab.factory import ARMED, LabFactory
from tests.lab.hosts import Machine, made_once, mirror, run
from tests.lab.image import busybox_tar
from tests.lab.mounts import mounted_below
from tests.lab.vm import VirtualMachine

#: The account of machines, and what they are made from by default.
ACCOUNT = "vacsing"
IMAGE = "busybox.sif"


def package() -> Path:
    """Apptainer's package, fetched now if it is not there."""
    recipe = hashlib.sha256(b"apptainer of sid 1").hexdigest()[:12]
    return next(made_once("apptainer", recipe, _fetch).glob("apptainer_*.deb"))


def _fetch(folder: Path) -> None:
    """By an apt of its own: this machine's knows another Debian."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb {mirror()} sid main\n")
    own = {
        "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache::archives": folder / "archives", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for key, value in own.items() for word in ("-o", f"{key}={value}"))]
    run(*apt, "update", timeout=300)
    run(*apt, "-y", "--download-only", "--no-install-recommends", "install", "apptainer:amd64", timeout=300)
    (package,) = (folder / "archives").glob("apptainer_*.deb")
    package.rename(folder / package.name)


def equip(machine: Machine | VirtualMachine) -> None:
    """Put Apptainer, its account and an image into a host that runs."""
    machine.install("squashfuse", "squashfs-tools", "e2fsprogs")
    # Its dependencies that matter are there; others are for set-ups with more privileges.
    machine.feed(package().read_bytes(), "dd", "of=/srv/apptainer.deb", "status=none")
    machine.run("dpkg-deb", "--extract", "/srv/apptainer.deb", "/", timeout=600)
    # What hides parts of /proc from the host (tests/lab/hosts.py) would keep a user from mounting one.
    machine.run("mkdir", "/srv/proc", "/srv/busybox")
    machine.run("mount", "-t", "proc", "proc", "/srv/proc")
    machine.run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT)
    machine.feed(busybox_tar(), "tar", "-x", "-C", "/srv/busybox")
    machine.run("apptainer", "build", f"/srv/{IMAGE}", "/srv/busybox", timeout=600)


def add_loop_devices(machine: Machine) -> None:
    """Have files attached as disks there; fine if that is so already."""
    if machine.run("test", "-e", "/dev/loop-control", check=False).returncode == 0:
        return
    machine.run("mknod", "/dev/loop-control", "c", "10", "237")
    for number in range(64):
        machine.run("mknod", f"/dev/loop{number}", "b", "7", str(number))


class HostFactory(LabFactory):
    """A factory on such a host, run by systemd with the unit of the role."""

    def __init__(self, machine: Machine, **settings: t.Any) -> None:
        self.machine, self.name, self.process, self.armed = machine, "f1.example.org", None, None
        self.folder = machine.root / "srv/factory"  # as this machine sees it
        self.state, self.configuration = self.folder / "state", self.folder / "factory.json"
        self.folder.mkdir()
        (self.folder / "gridbox").write_bytes(build("factory.program", "/usr/bin/python3"))
        (self.folder / "gridbox").chmod(0o755)
        self.settings = {
            "name": self.name, "space": "vac01.example.org", "engine": "apptainer", "apptainer_account": ACCOUNT,
            "state_folder": "/srv/factory/state", "total_processors": 1, "mb_per_processor": 64,
            "overload_per_processor": 1000, "work_space": "folder", "grace_seconds": 2, **settings,
        }  # fmt: skip
        self.write()

    def _write_unit(self) -> None:
        environment = jinja2.Environment(autoescape=False)
        environment.filters["bool"] = bool
        template = ROOT / "roles/vacuum_factory/templates/gridbox-factory.service.j2"
        unit = environment.from_string(template.read_text()).render(
            __vacuum_factory_apptainer=True, __vacuum_factory_engine_unit="",
            __vacuum_factory_state_folder="/srv/factory/state", __vacuum_factory_program="/srv/factory/gridbox",
            __vacuum_factory_path="/srv/factory/factory.json",
        )  # fmt: skip
        unit = unit.replace("[Install]", "StandardOutput=append:/srv/factory/journal\n[Install]")
        if self.armed is not None:
            (self.folder / ARMED.name).write_bytes(ARMED.read_bytes())
            options = json.dumps({"program": "/srv/factory/gridbox", **self.armed}).replace(
                str(self.folder), "/srv/factory"
            )
            armed = (
                f"/usr/bin/env PYTHONPATH=/srv/factory/gridbox /usr/bin/python3 /srv/factory/{ARMED.name} '{options}'"
            )
            unit = unit.replace("ExecStart=/srv/factory/gridbox", f"ExecStart={armed}").replace("=always", "=no")
        (self.machine.root / "etc/systemd/system/gridbox-factory.service").write_text(unit)
        self.machine.run("systemctl", "daemon-reload")

    def image(self, machinetype: str, name: str = IMAGE) -> None:
        """Put the image where the site keeps what is for a machinetype."""
        folder = self.state / "machinetypes" / machinetype / "files"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((self.machine.root / "srv" / IMAGE).read_bytes())

    def start(self) -> None:
        self._write_unit()
        began = len(self.events("factory_started"))
        self.machine.run("systemctl", "start", "gridbox-factory")
        self.wait("the daemon to start", lambda: len(self.events("factory_started")) > began)

    def stop(self, number: int = 15) -> int:
        if number == 15:
            self.machine.run("systemctl", "stop", "gridbox-factory")
        else:
            self.machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number}", "gridbox-factory")
        return 0

    def dies(self) -> None:
        shown = ("systemctl", "show", "--property=ActiveState,ExecMainStatus", "--value", "gridbox-factory")
        self.wait("the daemon's end", lambda: self.machine.run(*shown).stdout.split() == ["9", "failed"])
        self.machine.run("systemctl", "reset-failed", "gridbox-factory")

    def remove(self) -> None:
        self.machine.run("systemctl", "stop", "gridbox-factory", check=False)
        for process in self.processes("gridbox machine"):
            self.machine.run("kill", "-KILL", str(process), check=False)
        self.machine.run("pkill", "-KILL", "-u", ACCOUNT, check=False)
        groups = ("-path", "*/hep.gridbox/f1-*", "-type", "d")
        self.wait("all to be gone", lambda: not self.processes("gridbox machine") and not self.of_the_account())
        self.machine.run("find", "/sys/fs/cgroup", "-depth", *groups, "-exec", "rmdir", "{}", "+")
        for point in mounted_below("/srv/factory", self.machine.pid):
            self.machine.run("umount", point)
        self.machine.run("rm", "-rf", "--one-file-system", "/srv/factory")

    def _argv(self, *arguments: str) -> list[str]:
        return self.machine.argv("/srv/factory/gridbox", "--configuration", "/srv/factory/factory.json", *arguments)

    # ---- what can be seen, by others than the factory ------------------------------------------------------------

    def processes(self, command: str) -> list[int]:
        """Numbers, on the host, of the processes whose command line has this in it."""
        found = self.machine.run("pgrep", "-f", command, check=False).stdout.split()
        return [int(one) for one in found]

    def of_the_account(self) -> list[str]:
        """The command lines of all that the account runs."""
        return self.machine.run("ps", "-u", ACCOUNT, "-o", "args=", check=False).stdout.splitlines()

    def containers(self) -> list[dict[str, t.Any]]:
        folders = (self.state / "apptainer").glob("f1-*")
        return [{path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")} for folder in folders]

    def running(self) -> list[dict[str, t.Any]]:
        return [one for one in self.containers() if "running" in one and "ended" not in one]

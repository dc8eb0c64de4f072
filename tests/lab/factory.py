# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory of a test's own: the program as a host has it, in the network namespace of a lab's engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.factory import orders
from ansible_collections.hep.gridbox.plugins.plugin_utils.zipapp import build
from tests.lab.engine import PodmanService
from tests.lab.lab import Lab

#: Seconds that anything a factory does by itself may take on a busy machine.
PATIENCE = 90.0

DAY = 86400

ARMED = Path(__file__).with_name("armed_factory.py")

#: A machinetype, unless a test says more: what is an abort is one for the rest of the test.
KIND = {
    "root_image": "docker://busybox:test", "user_data": "run", "target_share": 1.0, "fizzle_seconds": 1,
    "backoff_seconds": 3600, "max_wallclock_seconds": 3600, "min_wallclock_seconds": 1,
}  # fmt: skip


def kind_of(container: dict[str, t.Any]) -> str:
    """The machinetype of a machine, by ``docker inspect``."""
    return t.cast(str, container["Config"]["Labels"]["hep.gridbox.machinetype"])


@dataclass
class PodmanLab:
    """As much of a lab as a factory needs, and Podman's own command to look with."""

    engine: PodmanService

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.engine.podman(*arguments, check=check).stdout


class LabFactory:
    """One factory: its configuration, its state, its daemon.

    :param folder: of the test.
    :param netns: the network namespace of its host; that of the lab's engine if nothing is said.
    :param settings: of the configuration, beside where its engine and its state are.
    :ivar enter: a command before all of its own: it enters further namespaces.
    :ivar armed: options of ``armed_factory.py``, by which the daemon is started then; None: it is the program.
    """

    def __init__(
        self, lab: Lab, folder: Path, name: str = "f1.example.org", netns: str = "", **settings: t.Any
    ) -> None:
        self.lab, self.folder, self.name = lab, folder, name
        self.netns = netns or lab.engine.netns
        self.enter: list[str] = []
        self.armed: t.Optional[dict[str, t.Any]] = None
        self.state = folder / "state"
        self.program = folder / "gridbox"
        self.program.write_bytes(build("factory.program", sys.executable))
        self.program.chmod(0o755)
        self.configuration = folder / "factory.json"
        self.process: t.Optional[subprocess.Popen[bytes]] = None
        self.settings = {
            "name": name, "space": "vac01.example.org", "engine_url": lab.engine.url, "state_folder": str(self.state),
            "total_processors": 2, "mb_per_processor": 64, "overload_per_processor": 1000, "work_space": "folder",
            "grace_seconds": 2, "nofile": 4096, **settings,
        }  # fmt: skip
        self.write()

    def write(self, **settings: t.Any) -> None:
        """Write the configuration, changed."""
        self.settings.update(settings)
        new = self.configuration.with_suffix(".new")
        new.write_text(json.dumps(self.settings))
        new.replace(self.configuration)

    def file(self, machinetype: str, name: str, text: str) -> None:
        """Put a file where the site keeps what is for a machinetype."""
        path = self.state / "machinetypes" / machinetype / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def kinds(self, kinds: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
        """Have these machinetypes: :data:`KIND` changed, and ``script``, the shell script that machines run."""
        for name, given in kinds.items():
            self.file(name, "run", f"#!/bin/sh\n{given['script']}\n")
        changed = {name: {key: one for key, one in given.items() if key != "script"} for name, given in kinds.items()}
        self.write(machinetypes={name: {**KIND, **given} for name, given in changed.items()})

    # ---- the daemon ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, and wait until it works."""
        with (self.folder / "journal").open("ab") as journal:
            argv = self._argv("factory")
            if self.armed is not None:
                place = argv.index(str(self.program))
                argv[place : place + 1] = [sys.executable, str(ARMED), json.dumps(self.armed)]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=journal, stderr=journal)
        began = len(self.events("factory_started"))
        self.wait("the daemon to start", lambda: len(self.events("factory_started")) > began)

    @property
    def pid(self) -> int:
        """The daemon's process; nsenter has become it."""
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon, which may have ended; its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(timeout=PATIENCE)
        self.process = None
        return status

    def dies(self) -> None:
        """Wait until the daemon, an armed one, is killed."""
        assert self.process is not None
        assert self.process.wait(timeout=PATIENCE) == -signal.SIGKILL
        self.process = None

    def remove(self) -> None:
        """End the daemon, and remove its machines and what was ordered: a later factory may have the same folder."""
        self.stop(signal.SIGKILL)
        Path(orders.path_of(str(self.state))).unlink(missing_ok=True)
        label = f"label=hep.gridbox.factory={self.name}"
        for identity in self.lab.docker("ps", "--all", "--quiet", "--filter", label).split():
            # The daemon may have begun to.
            self.lab.docker("rm", "--force", "--volumes", identity, check=False)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command ``gridbox`` as people do."""
        return subprocess.run(
            self._argv(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    def _argv(self, *arguments: str) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self.netns}", *self.enter]
        return [*enter, str(self.program), "--configuration", str(self.configuration), *arguments]

    # ---- what can be seen ----------------------------------------------------------------------------------------

    def events(self, *names: str) -> list[dict[str, t.Any]]:
        """The lines of its journal, those of some events only."""
        path = self.folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in found if not names or one["event"] in names]

    def containers(self) -> list[dict[str, t.Any]]:
        """What the engine has of its machines, by ``docker inspect``."""
        label = f"label=hep.gridbox.factory={self.name}"
        found = self.lab.docker("ps", "--all", "--quiet", "--filter", label).split()
        # One may go between the two questions.
        told = self.lab.docker("inspect", *found, check=False) if found else "[]"
        return t.cast("list[dict[str, t.Any]]", json.loads(told))

    def running(self) -> list[dict[str, t.Any]]:
        """Those that run."""
        return [one for one in self.containers() if one["State"]["Running"]]

    def records(self) -> list[dict[str, t.Any]]:
        """What is written down of its machines, oldest first."""
        found = [json.loads(path.read_text()) for path in (self.state / "machines").glob("*/machine.json")]
        return sorted(found, key=lambda one: (one["created"], one["started"] or 0))

    def pulled_images(self) -> list[dict[str, t.Any]]:
        """What is written down of the images that it has pulled."""
        return t.cast("list[dict[str, t.Any]]", json.loads(self._pulled_images.read_text())["images"])

    def pass_days(self, days: int) -> None:
        """The daemon does not run; let it find that so many days have passed since it pulled and wanted images."""
        images = self.pulled_images()
        for one in images:
            one["wanted"] -= days * DAY
            one["tried"] = max(0, one["tried"] - days * DAY)
        self._pulled_images.write_text(json.dumps({"images": images}))

    @property
    def _pulled_images(self) -> Path:
        return self.state / "pulled-images.json"

    def wait(self, what: str, good: t.Callable[[], t.Any], seconds: float = PATIENCE) -> t.Any:
        """Wait until something is so, and return what it is."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            found = good()
            if found:
                return found
            if time.monotonic() > deadline or (self.process is not None and self.process.poll() is not None):
                raise AssertionError(f"waited {seconds:g} s for {what}; {self._standing()}")
            time.sleep(pause)
            pause = min(pause * 1.2, 0.4)  # to look at the engine is work for a processor that others wait for

    def _standing(self) -> str:
        """How things stand, for a failure's message: what the daemon's threads wait for, what ``gridbox check`` says,
        the ends of its journal and of its engine's log."""
        threads = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*") if self.process is not None else ():
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            threads.append(f"{(task / 'comm').read_text().strip()} {state} {(task / 'wchan').read_text()}")
        logs = [self.folder / "journal", *([self.lab.engine.log] if hasattr(self, "lab") else [])]
        ends = [path.read_text(errors="replace")[-3000:] for path in logs if path.exists()]
        check = self.run("check").stdout
        return "\n".join((f"threads: {', '.join(threads)}", f"check: {check}", "the journal and the log end:", *ends))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How soon is a slot filled again, and an empty factory full? Needs root and dockerd.

Two ways, alternately in one run, on an engine of the script's own:

engine     containers like a machine's, one after the other: create and start, by the Engine API; the median
factory    a factory of one slot whose machines end by themselves: from the engine's word on when a machine's process
           ended to its word on when the next one's began; the median. Each has its work space, user_data and machine
           features made in between.

Then a factory of many slots, empty: from its start until all run, beside as many containers by the engine alone, four
at a time. Each with folders for work spaces, and with files that hold a file system of their own, which is the default.

Vac starts one machine a minute (spec 4.5), and refills a slot after about 31 s on average (spec 11). Run it from the
checkout, in its environment: ``.venv/bin/python -m bench.vacuum_refill --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import FACTORY, body
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.lab.factory import LabFactory
from tests.lab.lab import Lab, make_lab, remove_lab

#: Seconds that Vac takes on average to notice an end and use the slot (spec 11).
VAC_SECONDS = 31.0
_TURNS = 3
ENDS = "#!/bin/sh\nsleep 1\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
STAYS = "#!/bin/sh\nexec sleep 3600\n"
#: The overload rule is for real work; it would stop a benchmark. Fewer processes than usual, for the machine's limit of
#: them is for all slots, and an engine in a container may not raise its own.
OPTIONS: dict[str, t.Any] = {"overload_per_processor": 1000, "mb_per_processor": 16, "pids_per_processor": 256}
KIND = {
    "root_image": "docker://busybox:test", "user_data": "run", "target_share": 1.0, "fizzle_seconds": 0,
    "backoff_seconds": 0,
}  # fmt: skip


def request(folder: Path, number: int) -> dict[str, t.Any]:
    """A container as a machine's is, with what is mounted in it."""
    machine = Machine(str(number), f"f{number}.example.org", "a", "docker", 1, 0, 0, 16 << 20, "busybox:test", 0)
    for name in ("machinefeatures", "jobfeatures", "mnt/joboutputs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    script = folder / "user_data"
    script.write_text(STAYS)
    script.chmod(0o755)
    kind = Machinetype("a", root_image="busybox:test", user_data="run")
    options = {"name": "f.example.org", "space": "vac.example.org", "nofile": 4096}
    made = body(machine, kind, parse(options), str(folder), "busybox:test")
    return {**made, "Labels": {}}


def by_the_engine(lab: Lab, folder: Path, rounds: int, at_once: int = 1) -> tuple[list[float], float]:
    """Containers by the engine alone: create and start of each, and all of them together."""
    taken: list[float] = []

    def one(number: int) -> str:
        api = DockerApi(lab.engine.url, 60)
        began = time.monotonic()
        identity = api.create_container(f"bench{number}", request(folder / str(number), number))
        api.start_container(identity)
        taken.append(time.monotonic() - began)
        return identity

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        made = list(pool.map(one, range(rounds)))
    took = time.monotonic() - began
    for identity in made:
        lab.docker("rm", "--force", identity)
    return taken, took


def refill(lab: Lab, folder: Path, rounds: int, work_space: str) -> list[float]:
    """From one machine's end to the next one's beginning, in a factory of one slot, by the engine's own clock.

    The engine is asked afterwards: whoever asks it all the time takes what the factory is measured by.
    """
    name = f"{work_space}.example.org"
    factory = LabFactory(
        lab, folder, name, total_processors=1, disk_gb_per_processor=1, work_space=work_space,
        machinetypes={"a": KIND}, **OPTIONS,
    )  # fmt: skip
    factory.file("a", "run", ENDS)
    began = time.time()
    factory.start()
    try:
        factory.wait("machines", lambda: len(factory.events("machine_started")) > rounds, 600)
        wanted = {"type": ["container"], "event": ["start", "die"], "label": [f"{FACTORY}={name}"]}
        seen = DockerApi(lab.engine.url, 60).events(began, time.time(), wanted)
        told = [(one["Action"], one["timeNano"] / 1e9) for one in seen]
        pairs = [(before, after) for before, after in zip(told, told[1:]) if (before[0], after[0]) == ("die", "start")]
        return [after[1] - before[1] for before, after in pairs]
    finally:
        remove(factory)


def remove(factory: LabFactory) -> None:
    """End it, with its machines and their work spaces."""
    factory.stop()
    factory.remove()
    for point in factory.state.glob("machines/*/mnt"):
        if point.is_mount():
            subprocess.run(["umount", str(point)], check=True, timeout=30)


@contextlib.contextmanager
def full(lab: Lab, folder: Path, slots: int, work_space: str, **options: t.Any) -> t.Iterator[tuple[LabFactory, float]]:
    """A factory that was empty, and all of whose slots run; with the seconds that this took."""
    # Files are sparse. Of a folder nobody would know that, and the disk would have to be as large.
    size = {} if work_space == "folder" else {"disk_gb_per_processor": 1}
    factory = LabFactory(
        lab, folder, f"full-{work_space}.example.org", total_processors=slots, work_space=work_space,
        machinetypes={"a": KIND}, **OPTIONS, **size, **options,
    )  # fmt: skip
    factory.file("a", "run", STAYS)
    began = time.monotonic()
    factory.start()
    try:
        factory.wait("all slots", lambda: len(factory.events("machine_started")) == slots, 1800)
        yield factory, time.monotonic() - began
    finally:
        remove(factory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help=f"of each way, {_TURNS} times")
    parser.add_argument("--slots", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gbb") as name:
        folder = Path(name)
        lab = make_lab(folder / "e", f"gbb{os.getpid()}")
        try:
            print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
            each: dict[str, list[float]] = {"folder": [], "file": []}
            created: list[float] = []
            for turn in range(_TURNS):
                for work_space, taken in each.items():
                    created += by_the_engine(lab, folder / "one", arguments.rounds)[0]
                    (folder / f"{work_space}{turn}").mkdir()
                    taken.extend(refill(lab, folder / f"{work_space}{turn}", arguments.rounds, work_space))
            alone = statistics.median(created)
            print(f"engine: create and start            {alone * 1000:8.0f} ms")
            for work_space, taken in each.items():
                took = statistics.median(taken)
                ratios = f"{took / alone:.2f} x the engine's, 1/{VAC_SECONDS / took:.0f} of Vac's"
                print(f"factory: slot refilled ({work_space:<6})      {took * 1000:8.0f} ms   {ratios}")
            _each, together = by_the_engine(lab, folder / "many", arguments.slots, 4)
            print(f"engine: {arguments.slots} containers               {together:8.1f} s")
            for work_space in each:
                place = folder / f"full-{work_space}"
                place.mkdir()
                with full(lab, place, arguments.slots, work_space) as (_factory, took):
                    ratio = f"{took / together:.2f} x the engine's"
                    print(f"factory: {arguments.slots} slots full ({work_space:<6})     {took:8.1f} s    {ratio}")
        finally:
            remove_lab(lab)


if __name__ == "__main__":
    main()

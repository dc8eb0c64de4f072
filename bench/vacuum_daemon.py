# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What does a factory's daemon take when nothing happens? Needs root and dockerd.

A factory whose slots all run machines that sleep, on an engine of the script's own: the daemon's memory, what of it is
its own alone, and its share of a processor, over some minutes after it has become quiet. Run it from the checkout, in
its environment: ``.venv/bin/python -m bench.vacuum_daemon --help``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from bench.vacuum_refill import full
from tests.lab.lab import make_lab, remove_lab

#: Seconds after the last start that are not counted.
_SETTLES = 30


def cpu(pid: int) -> tuple[float, float]:
    """Seconds of processor that a process has used, and those of its children that have ended."""
    fields = [int(one) for one in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]]
    return sum(fields[:2]) / os.sysconf("SC_CLK_TCK"), sum(fields[2:]) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """``/proc/PID/status``: MiB by name."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="What a factory's daemon takes when nothing happens.")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=240, help="that are counted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gbb") as name:
        folder = Path(name)
        lab = make_lab(folder / "e", f"gbb{os.getpid()}")
        try:
            (folder / "f").mkdir()
            with full(lab, folder / "f", given.slots, "folder") as (factory, took):
                print(f"{given.slots} slots full after {took:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)
                time.sleep(_SETTLES)
                used, began = cpu(factory.pid), time.monotonic()
                time.sleep(given.seconds)
                passed = time.monotonic() - began
                own, commands = ((after - before) / passed * 100 for after, before in zip(cpu(factory.pid), used))
                taken = memory(factory.pid)
                running = len(factory.running())
                print(f"running after {given.seconds:.0f} s   {running:8}        load {os.getloadavg()[0]:.1f}")
                print(f"resident              {taken['VmRSS']:8.1f} MiB    its own {taken['RssAnon']:.1f} MiB")
                print(f"processor             {own + commands:8.2f} %      commands that it runs {commands:.2f} %")
        finally:
            remove_lab(lab)


if __name__ == "__main__":
    main()

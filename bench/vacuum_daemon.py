# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What does a factory's daemon take when nothing happens? Needs root and dockerd.

A factory whose slots all run machines that sleep, on an engine of the script's own: the daemon's memory, what of it is
its own alone, and its share of a processor, over some minutes after it has become quiet. With ``--peers`` there are as
many other factories in its space, in a process of their own, which it asks as it always does: memory is then what the
largest was of looks each half second, beside the most that the kernel has seen. Run it from the checkout, in its
environment: ``.venv/bin/python -m bench.vacuum_daemon --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import load
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED
from bench.vacuum_query import POLLED_TYPES, SPACE, address_of
from bench.vacuum_refill import full
from tests.lab.factory import LabFactory
from tests.lab.lab import Lab, make_lab, remove_lab

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


@contextlib.contextmanager
def space(lab: Lab, peers: int) -> t.Iterator[dict[str, t.Any]]:
    """So many factories with 20 machinetypes each, on the host of the lab's engine; options of a factory that knows
    them."""
    if not peers:
        yield {}
        return
    code = (
        f"from bench.vacuum_query import serve; serve(lambda port: print(port, flush=True), {peers}, 0, {POLLED_TYPES})"
    )
    argv = ["nsenter", f"--net=/run/netns/{lab.engine.netns}", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(t.cast("t.IO[str]", process.stdout).readline())
            others = [
                {"factory": f"factory{one}.example.com", "host": address_of(one), "port": port} for one in range(peers)
            ]
            yield {"space": SPACE, "factories": others}
        finally:
            process.kill()


def measure(factory: LabFactory, seconds: float) -> None:
    """Print what the daemon takes over so many seconds."""
    used, began, largest, heard = cpu(factory.pid), time.monotonic(), 0.0, set()
    while time.monotonic() < began + seconds:
        time.sleep(0.5)
        largest = max(largest, memory(factory.pid)["VmRSS"])
        report = load(str(factory.state))
        heard.add(sum(one.state == ANSWERED for one in report.peers.values()) if report is not None else 0)
    passed = time.monotonic() - began
    own, commands = ((after - before) / passed * 100 for after, before in zip(cpu(factory.pid), used))
    taken = memory(factory.pid)
    print(f"running after {seconds:.0f} s   {len(factory.running()):8}        load {os.getloadavg()[0]:.1f}")
    print(f"others that answered  {min(heard):8} to {max(heard)}")
    print(f"resident              {taken['VmRSS']:8.1f} MiB    its own {taken['RssAnon']:.1f} MiB")
    print(f"largest of all looks  {largest:8.1f} MiB    since its start {taken['VmHWM']:.1f} MiB")
    print(f"processor             {own + commands:8.2f} %      commands that it runs {commands:.2f} %")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="What a factory's daemon takes when nothing happens.")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--peers", type=int, default=0, help="other factories of the space")
    parser.add_argument("--seconds", type=float, default=240, help="that are counted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gbb") as name:
        folder = Path(name)
        lab = make_lab(folder / "e", f"gbb{os.getpid()}")
        try:
            (folder / "f").mkdir()
            with (
                space(lab, given.peers) as known,
                full(lab, folder / "f", given.slots, "folder", **known) as (factory, took),
            ):
                print(f"{given.slots} slots full after {took:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)
                time.sleep(_SETTLES)
                measure(factory, given.seconds)
        finally:
            remove_lab(lab)


if __name__ == "__main__":
    main()

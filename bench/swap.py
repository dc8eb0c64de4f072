# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long cannot a VO-box be reached while its container is replaced? Needs root and dockerd.

Ways, alternately in one run, on an engine and a LAN of the script's own:

rm -f, run         the engine removes the container, then makes and starts the new one, by its API
reconnect          the new one is running already; the engine disconnects the old one and connects the new one
overlap            the handover of this collection
overlap, slow      the same, with a service that takes half a second to listen
stand-in           the same, as on engines that cannot move an endpoint with its MAC (Docker 25 and later)
sequential         the handover of this collection for services that must not run twice

Another machine of the LAN connects to a TCP service of the VO-box every millisecond, over IPv4 and IPv6, 5 ms per
attempt. Unreachable is the time from the last success before a failure to the next success. An untouched VO-box beside
it is probed in the same way: what it shows is the noise of the machine. Run it from the checkout, in its environment:
``.venv/bin/python -m bench.swap --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from tests.lab.lab import PARENT, Lab, make_lab, remove_lab
from tests.lab.lan import in_netns, run
from tests.lab.probe import Reach
from tests.lab.swap import VOBOX, Job, swap, vobox_body

NAME = "vobox"
BESIDE = dataclasses.replace(VOBOX, mac="02:00:00:00:01:0b", ipv4="10.213.1.11", ipv6=None)
SLOW = ("sh", "-c", "sleep 0.5; exec httpd -f -p 80 -h /www")
ENDPOINT = vobox_body()["NetworkingConfig"]["EndpointsConfig"]["site"]


def remove_and_run(_lab: Lab, engine: DockerApi) -> None:
    engine.remove_container(NAME, force=True)
    engine.create_container(NAME, vobox_body())
    engine.start_container(NAME)


def reconnect(_lab: Lab, engine: DockerApi) -> None:
    engine.create_container(f"{NAME}.next", vobox_body())
    engine.disconnect("site", f"{NAME}.next")
    engine.start_container(f"{NAME}.next")
    time.sleep(0.3)  # for its service to listen
    engine.disconnect("site", NAME)
    engine.connect("site", f"{NAME}.next", ENDPOINT)
    engine.remove_container(NAME, force=True)


def ours(lab: Lab, **job: t.Any) -> None:
    outcome = swap(Job(lab.engine.url, **job), lab.engine.netns)
    if "error" in outcome:
        raise RuntimeError(outcome["error"])


WAYS: dict[str, t.Callable[[Lab, DockerApi], None]] = {
    "rm -f, run": remove_and_run,
    "reconnect": reconnect,
    "overlap": lambda lab, _engine: ours(lab),
    "overlap, slow": lambda lab, _engine: ours(lab, create=vobox_body(*SLOW)),
    "stand-in": lambda lab, _engine: ours(lab, stand_in=True),
    "sequential": lambda lab, _engine: ours(lab, strategy="sequential"),
}


@dataclasses.dataclass
class Round:
    """One replacement, as seen from the other machine.

    :ivar unreachable: milliseconds, the longest.
    :ivar beside: the same of the untouched VO-box.
    :ivar seconds: of the whole replacement.
    :ivar lost_neighbours: how often the other machine lost the MAC, because nobody answered there, and had to ask anew.
    """

    unreachable: float
    beside: float
    seconds: float
    lost_neighbours: int


def one_round(lab: Lab, engine: DockerApi, way: t.Callable[[Lab, DockerApi], None]) -> Round:
    for name in (NAME, f"{NAME}.next"):
        engine.remove_container(name, force=True)
    engine.create_container(NAME, vobox_body())
    engine.start_container(NAME)
    time.sleep(0.3)
    with tempfile.TemporaryFile("w+") as heard:
        monitor = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{lab.peer}", "ip", "monitor", "neigh"], stdout=heard
        )  # fmt: skip
        with Reach(lab.peer, BESIDE, first=True) as beside, Reach(lab.peer, VOBOX, first=True) as reach:
            began = time.monotonic()
            way(lab, engine)
            seconds = time.monotonic() - began
        monitor.terminate()
        monitor.wait(timeout=10)
        heard.seek(0)
        lost = sum(
            any(state in line for state in ("FAILED", "INCOMPLETE"))
            for line in heard
            if line.startswith(tuple(f"{address} " for address in VOBOX.addresses))
        )
    # After rm -f and run the service may not listen yet.
    retry = ("--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--max-time", "20")
    page = in_netns(lab.peer, "curl", "--silent", *retry, f"http://{VOBOX.ipv4}/index.html").stdout
    if page != "here I am\n":
        raise RuntimeError(f"after the replacement the VO-box answered {page!r}")
    return Round(reach.longest_outage * 1000, beside.longest_outage * 1000, seconds, lost)


def measure(rounds: int) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="swap-") as folder:
        lab = make_lab(Path(folder) / "engine", f"bench{os.getpid()}")
        try:
            lab.docker(
                "network", "create", "--driver", "macvlan", "--ipv6", "--opt", f"parent={PARENT}",
                "--subnet", "10.213.0.0/16", "--ip-range", "10.213.1.0/24", "--gateway", "10.213.0.1",
                "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", "site",
            )  # fmt: skip
            engine = DockerApi(lab.engine.url, 60)
            engine.create_container("beside", vobox_body(identity=BESIDE))
            engine.start_container("beside")
            print("before:", neighbours(lab))
            for number in range(rounds):
                for name, way in WAYS.items():
                    results[name].append(one_round(lab, engine, way))
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
            print("after: ", neighbours(lab))
        finally:
            remove_lab(lab)
    return results


def neighbours(lab: Lab) -> str:
    """The other machine's neighbour table, as far as it is the VO-box."""
    for address in VOBOX.addresses:
        in_netns(lab.peer, "ping", "-c", "1", "-w", "1", address, check=False)
    rows = run("ip", "-n", lab.peer, "neighbour", "show").stdout.splitlines()
    return "; ".join(row.strip() for row in rows if row.startswith(VOBOX.addresses)) or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = measure(arguments.rounds)
    baseline = statistics.median(one.unreachable for one in results["rm -f, run"])
    print(f"\n{'way':<15}{'unreachable, ms':>22}{'ratio':>8}{'noise, ms':>18}{'lost':>6}{'all, s':>8}")
    print(f"{'':<15}{'median':>12}{'worst':>10}{'':>8}{'median':>9}{'worst':>9}")
    for name, rounds in results.items():
        times = [one.unreachable for one in rounds]
        noise = [one.beside for one in rounds]
        median = statistics.median(times)
        ratio = f"1/{baseline / median:.0f}" if median else "1/inf"
        print(
            f"{name:<15}{median:>12.1f}{max(times):>10.1f}{ratio:>8}"
            f"{statistics.median(noise):>9.1f}{max(noise):>9.1f}"
            f"{sum(one.lost_neighbours for one in rounds):>6}{statistics.median(one.seconds for one in rounds):>8.2f}"
        )


if __name__ == "__main__":
    main()

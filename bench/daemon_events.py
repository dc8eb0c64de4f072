# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long cannot a VO-box be reached when something happens to its daemon, with and without live restore? Needs root.

On a host of the script's own, where systemd runs Debian's docker.io, the daemon is killed, stopped, restarted,
reconfigured, reinstalled and upgraded by a package of the next patch level, with live restore and without,
alternately in one run. Another machine of its LAN connects to a TCP service of a VO-box every 10 ms, over IPv4 and
IPv6, 100 ms per attempt. Unreachable is the longest time from the last success before a failure to the next success,
0 if no attempt failed. "kept" counts how often the VO-box kept its process, "down" how often it did not come back
within half a minute and had to be started. In the row "nothing" the same probe runs and nothing happens: what it
shows is the noise of the machine. Run it from the checkout, in its environment: ``.venv/bin/python -m
bench.daemon_events --help``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.daemon_events import EVENTS, MAKE_NEWER, UPGRADED, Event, EventHost, identity
from tests.lab.fleet import Fleet
from tests.lab.modules_over_ssh import Call
from tests.lab.probe import Reach

ROWS = {"nothing": Event("sleep 3"), **EVENTS, "docker.io upgraded, restarted": UPGRADED}
#: After which the archive's package is there again, to be upgraded in the next round.
DOWNGRADE = """
old=$(apt-cache madison docker.io | awk 'NR == 1 { print $3 }')
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --allow-downgrades --no-install-recommends install docker.io=$old
systemctl restart docker.service
"""
#: How long a VO-box that went with its daemon is waited for.
BACK_SECONDS = 30


@dataclass
class Round:
    """One event, as seen from the other machine.

    :ivar unreachable: milliseconds, the longest, over IPv4 and over IPv6.
    :ivar no_daemon: seconds for which there was no daemon, at most.
    :ivar kept: whether the VO-box has the process it had before.
    :ivar back: whether the VO-box was back by itself.
    """

    unreachable: list[float]
    no_daemon: float
    kept: bool
    back: bool


def answers(host: EventHost) -> bool:
    """Whether the VO-box answers over both families."""
    urls = [f"http://{address}/" for address in (identity().ipv4, f"[{identity().ipv6}]")]
    asked = (host.fleet.from_peer("curl", "-sS", "-g", "-m", "1", url, check=False) for url in urls)
    return all(one.stdout == "here I am\n" for one in asked)


def wait_for(host: EventHost) -> bool:
    """Wait for the VO-box; whether it came."""
    deadline = time.monotonic() + BACK_SECONDS
    while not answers(host):
        if time.monotonic() > deadline:
            return False
    return True


def one_round(host: EventHost, event: Event) -> Round:
    before = host.container()
    with Reach(host.fleet.peer, identity(), first=True, interval=0.01, patience=0.1) as reach:
        happened = host.happen(event)
        back = wait_for(host)
    if not back:
        host.shell("docker start vobox1")
        if not wait_for(host):
            raise RuntimeError(f"the VO-box does not answer, {BACK_SECONDS} s after it was started")
    longest = [max(outages, default=0.0) * 1000 for outages in reach.outages.values()]
    return Round(longest, happened.seconds, host.container() == before, back)


def measure(rounds: int, suite: str) -> dict[tuple[str, str], list[Round]]:
    results: dict[tuple[str, str], list[Round]] = {}
    name = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="events-") as folder:
        try:
            host = EventHost.make(name, Path(folder), suite)
            print(host.shell("docker version --format 'Docker {{.Server.Version}}'").strip())
            host.shell(MAKE_NEWER)
            for number in range(rounds):
                for state in ("present", "absent"):
                    host.call(Call("live_restore", {"state": state}))
                    for row, event in ROWS.items():
                        results.setdefault((row, state), []).append(one_round(host, event))
                    host.shell(DOWNGRADE)
                    if not wait_for(host):
                        host.shell("docker start vobox1")
                print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        finally:
            Fleet(name).stop()
    return results


def figures(rounds: list[Round]) -> str:
    """Median and worst of both families, how often the process was kept, and how often the VO-box stayed down."""
    cells = ""
    for family in (0, 1):
        times = [one.unreachable[family] for one in rounds]
        cells += f"{statistics.median(times):>11.0f}{max(times):>7.0f}"
    kept = sum(one.kept for one in rounds)
    down = len(rounds) - sum(one.back for one in rounds)
    return cells + f"{f'{kept}/{len(rounds)}':>7}" + (f"{f'{down}/{len(rounds)}':>7}" if down else f"{'-':>7}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--suite", default="bookworm", help="the Debian of the host: bookworm or trixie")
    arguments = parser.parse_args()
    results = measure(arguments.rounds, arguments.suite)
    print(f"\n{'unreachable, ms':<33}{'with live restore':>50}{'without':>50}")
    families = f"{'IPv4 med.':>11}{'worst':>7}{'IPv6 med.':>11}{'worst':>7}{'kept':>7}{'down':>7}"
    print(f"{'event':<33}{families}{families}{'no daemon, s':>14}")
    for row in ROWS:
        with_it, without = results[row, "present"], results[row, "absent"]
        no_daemon = statistics.median(one.no_daemon for one in with_it)
        print(f"{row:<33}{figures(with_it)}{figures(without)}{no_daemon:>14.1f}")


if __name__ == "__main__":
    main()

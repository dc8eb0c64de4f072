# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long a TCP service cannot be reached from another machine, over IPv4 and IPv6."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity

# An outage lasts from the last success before a failure to the next success: what counts is failures, so a prober that
# did not get the processor for a while does not count it as an outage.
_PROBER = """
import json, signal, socket, sys, time
host, port, interval, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
attempts, outages, failures, last = 0, [], 0, None
while going:
    attempts += 1
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(patience)
        try:
            attempt.connect((host, port))
        except OSError:
            failures += 1
        else:
            now = time.monotonic()
            if last is None:
                print("reached", flush=True)
            elif failures:
                outages.append([last, now - last, failures])
            last, failures = now, 0
    time.sleep(interval)
if failures and last is not None:
    outages.append([last, time.monotonic() - last, failures])
print(json.dumps([attempts, outages]))
"""


@dataclass
class Reach:
    """Probes a service while the ``with`` block runs.

    :ivar netns: of the machine that probes.
    :ivar identity: who is probed.
    :ivar first: give the prober precedence over other processes.
    :ivar interval: seconds between an attempt and the next.
    :ivar patience: seconds that an attempt has. Below a second a lost frame is a failure: TCP sends it anew after one.
    :ivar attempts: of all families.
    :ivar outages: seconds each, by address.
    """

    netns: str
    identity: Identity
    port: int = 80
    first: bool = False
    interval: float = 0.001
    patience: float = 0.005
    attempts: int = 0
    outages: dict[str, list[float]] = field(default_factory=dict)

    def __enter__(self) -> Reach:
        inside = ["nsenter", f"--net=/run/netns/{self.netns}"]
        if self.first:
            inside += ["nice", "--adjustment", "-10"]
        self._probers = {
            host: subprocess.Popen(
                [*inside, sys.executable, "-c", _PROBER, host, str(self.port), str(self.interval), str(self.patience)],
                stdout=subprocess.PIPE, text=True,
            )
            for host in self.identity.addresses
        }  # fmt: skip
        for prober in self._probers.values():
            assert prober.stdout is not None
            assert prober.stdout.readline() == "reached\n"
        time.sleep(0.1)
        return self

    def __exit__(self, *_exc: object) -> None:
        time.sleep(0.3)
        for host, prober in self._probers.items():
            prober.terminate()
            attempts, outages = json.loads(prober.communicate(timeout=30)[0])
            self.attempts += attempts
            self.outages[host] = [seconds for _began, seconds, _failures in outages]

    @property
    def longest_outage(self) -> float:
        """Seconds, of all families."""
        return max((seconds for outages in self.outages.values() for seconds in outages), default=0.0)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of a processor a machine uses now, which is what Vac's ``cpu_percentage`` tells (spec 5.4). Pure.

Vac measures once a cycle, a minute, and tells what came since the measurement before. Here it is measured more often,
so those of the last minute are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that count as now; and between two measurements of which the second says something new.
RECENT, APART = 60.0, 1.0


@dataclass(frozen=True)
class Used:
    """What a machine has used until a moment.

    :ivar at: by a clock that nobody sets.
    :ivar seconds: of processors, since it was started.
    """

    at: float
    seconds: float


def noted(before: tuple[Used, ...], latest: Used) -> tuple[Used, ...]:
    """What is kept of measurements: of the last minute, and the one before it from which that is counted.

    :param before: what was kept, oldest first.
    """
    if before and latest.at - before[-1].at < APART:
        return before
    kept = (*before, latest)
    old = sum(one.at <= latest.at - RECENT for one in kept)
    return kept[max(0, old - 1) :]


def percentage(kept: tuple[Used, ...]) -> float:
    """Processor time by time: 200 is two processors in full use. 0 as long as nobody can tell, as with Vac."""
    if len(kept) < 2:
        return 0.0
    first, last = kept[0], kept[-1]
    return round(max(0.0, 100 * (last.seconds - first.seconds) / (last.at - first.at)), 1)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A space of a thousand factories of 64 slots, each of which takes the real decisions, on sums up to a minute old."""

from __future__ import annotations

import pytest

from bench.vacuum_space import HOUR, STEP, WARM, off, simulated

FACTORIES, SLOTS, KINDS = 1000, 64, 8


@pytest.mark.fleet
def test_a_thousand_factories_meet_the_shares() -> None:
    """A minute of a processor."""
    space = simulated(FACTORIES, SLOTS, KINDS, lag=60)
    space.run(STEP, STEP)
    assert sum(space.running.values()) == FACTORIES * SLOTS, "all are full after one round"
    assert off(space) < 15
    space.run(WARM * HOUR, STEP)
    space.reset()
    worst: list[float] = []
    space.run((WARM + 1) * HOUR, STEP, lambda: worst.append(off(space)))
    assert max(worst) < 10
    types = space.machinetypes
    shares = sum(one.target_share for one in types)
    mean = {one.name: space.part(one.name) * shares / one.target_share for one in types}
    assert all(abs(part - 1) < 0.02 for part in mean.values()), mean
    assert sum(space.running.values()) == FACTORIES * SLOTS

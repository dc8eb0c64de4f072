# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory, its machines and machinetypes, for tables of decisions."""

from __future__ import annotations

import random
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import Decision, Unstartable, decide
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    FactorySettings,
    HostLoad,
    OwnMachine,
    PeerUsage,
)

NOW = 1_800_000_000
SLOTS = tuple(f"f1-{number:02}.example.com" for number in range(8))
FACTORY = FactorySettings("f1.example.com", SLOTS, 8)
HOST = HostLoad(processors=8)
A = Machinetype("a", target_share=1.0, min_wallclock_seconds=3600, backoff_seconds=600)
B = replace(A, name="b")
BIG = replace(A, name="big", min_processors=8, max_processors=8)


def machine(slot: int = 0, machinetype: str = "a", state: str = "running", **changes: t.Any) -> OwnMachine:
    """One that has run for an hour, of the day that it may."""
    made = OwnMachine(SLOTS[slot], machinetype, 1, state, NOW - 3600, NOW + 82800, NOW - 3600)
    return replace(made, **changes)


def ended(after: int = 3000, ago: int = 60, **changes: t.Any) -> OwnMachine:
    started = NOW - ago - after
    return machine(state="ended", created=started, started=started, ended=NOW - ago, **changes)


def decided(
    machinetypes: t.Sequence[Machinetype] = (A,),
    own: t.Sequence[OwnMachine] = (),
    peers: t.Sequence[PeerUsage] = (),
    factory: FactorySettings = FACTORY,
    host: HostLoad = HOST,
    seed: int = 1,
    unstartable: t.Sequence[Unstartable] = (),
) -> Decision:
    return decide(factory, machinetypes, own, peers, host, NOW, random.Random(seed).random, unstartable)


def first(decision: Decision) -> t.Optional[str]:
    return decision.start.machinetype if decision.start else None


def refused(decision: Decision, name: str = "a") -> t.Optional[str]:
    (found,) = [one for one in decision.candidates if one.standing.machinetype.name == name]
    return found.refusal.code if found.refusal else None

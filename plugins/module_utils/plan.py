# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan: ordered steps that turn what is observed into what is desired, each with what it costs a service.

Plain data. It knows no engine, no Ansible and no concern; all of them know it.
"""

from __future__ import annotations

import enum
import typing as t
from dataclasses import dataclass, field


class Disruption(enum.IntEnum):
    """What a change costs a running service, mildest first (design: the word *disruption*)."""

    none = 0
    reload = 1
    service = 2
    container = 3
    daemon = 4


#: For argument specs: the names, mildest first.
DISRUPTIONS = [level.name for level in Disruption]


@dataclass(frozen=True)
class Step:
    """One action of a plan.

    :ivar action: verb for it, for instance ``create_network``; the concern's ``do`` knows it.
    :ivar target: what it acts on.
    :ivar reason: one line why it is needed.
    :ivar disruption: what it costs a running service.
    :ivar details: data the action needs; never shown, so it may hold secrets.
    """

    action: str
    target: str
    reason: str
    disruption: Disruption = Disruption.none
    details: t.Mapping[str, t.Any] = field(default_factory=dict, repr=False)

    def as_result(self) -> dict[str, str]:
        """The step as it stands in a module's ``actions``."""
        return {
            "action": self.action,
            "target": self.target,
            "reason": self.reason,
            "disruption": self.disruption.name,
        }


@dataclass(frozen=True)
class Plan:
    """What is to be done, in order, and how the world looks before and after it.

    :ivar before: the observed values of the options that are compared, by option path; secrets masked.
    :ivar after: the same after the plan was carried out. Equal to ``before`` if there are no steps.
    """

    steps: tuple[Step, ...] = ()
    before: t.Mapping[str, t.Any] = field(default_factory=dict)
    after: t.Mapping[str, t.Any] = field(default_factory=dict)

    @property
    def disruption(self) -> Disruption:
        """The worst of the steps; ``none`` for an empty plan."""
        return max((step.disruption for step in self.steps), default=Disruption.none)

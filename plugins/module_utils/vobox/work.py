# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work behind ``vobox_container``: what the front room calls."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed, observe, subject_of
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import decide
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.result import found, predicted


class VoboxWork:
    """One VO-box, as asked for, on one engine."""

    def __init__(self, engine: DockerApi, wish: Wish) -> None:
        self.engine = engine
        self.wish = wish
        self.subject = subject_of(engine, wish.name)
        self._seen: t.Optional[Observed] = None
        self._actor: t.Any = None
        self._drift = False

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> VoboxWork:
        """
        :raises InputError: for a value that cannot be right.
        """
        wish = Wish.from_params(params)
        return cls(engine_from(params), wish)

    def observe(self) -> Observed:
        seen = observe(self.engine, self.wish)
        if self._seen is None:
            self._seen, self._drift = seen, seen.files.drift
        return seen

    def plan(self, observed: Observed) -> Plan:
        return decide(self.wish, observed).plan

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if plan.steps:
            # A run without a change does not need to read this code.
            from ansible_collections.hep.gridbox.plugins.module_utils.network.observe import enter_namespace_of
            from ansible_collections.hep.gridbox.plugins.module_utils.vobox.preflight import preflight

            # The parent link is one that the engine sees, and so are the neighbours that are asked and told.
            enter_namespace_of(self.engine)
            preflight(self.engine, self.wish, observed, plan)

    def do(self, step: Step, journal: Journal) -> None:
        self._acting().do(step, journal)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        self._acting().undo(name, data)

    def before_guard_undo(self) -> None:
        self.engine.reset()

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        if applied or not plan.steps:
            result = found(observed)
        else:
            result = predicted(self.wish, observed, decide(self.wish, observed))
        if "init_script" in result:
            result["init_script"]["drift"] = self._drift
        if self._actor is not None:
            result["warnings"] = list(self._actor.found)
            if self._actor.swap is not None:
                result["swap"] = self._actor.swap
                result["warnings"] += filter(None, [self._actor.swap["remark"]])
        return result

    def _acting(self) -> t.Any:
        if self._actor is None:
            from ansible_collections.hep.gridbox.plugins.module_utils.vobox.apply import Actor

            self._actor = Actor(self.engine, self.wish, self._seen or self.observe())
        return self._actor

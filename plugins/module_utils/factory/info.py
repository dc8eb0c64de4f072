# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work behind ``vacuum_info``: a factory and its space, with the daemon or without."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    health,
    moved,
    orders,
    report,
    slots,
    space,
    views,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine, with_former
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import DROPPED, NOT_BROUGHT

_QUERIES = ("factory_query", "machinetypes_query", "machines_query")


def collect(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The documented return values of ``vacuum_info``."""
    if params["timeout"] <= 0:
        raise InputError("timeout", params["timeout"], "seconds, more than 0")
    configuration = load(params["configuration"])
    told = report.load(configuration.state_folder)
    works = report.is_at_work(told, time.time())
    if told is not None and works:
        moved.check_daemon(configuration, told)
    given = orders.load(configuration.state_folder)
    is_taken = not at_work(configuration.state_folder).is_held() or (told is not None and told.orders == given)
    # Read after the report: what that says is begun is written down by now, or may come to run yet.
    last, unread = Store(configuration.state_folder).last()
    begun = told.begun if told is not None and works else {}
    is_taken = is_taken and all(slot in last and last[slot].uuid == uuid for slot, uuid in begun.items())
    problem = (told.engine_problem if told is not None else "") if works else _without_daemon(configuration, last)
    found = [
        slots.facts(
            one, last.get(one), given.of(one), told.waits(one) if told is not None and works else "", unread.get(one)
        )
        for one in with_former(configuration.settings.slots, last.values(), unread)
    ]
    unsure = "The engine does not answer, so nobody can tell what runs: the slots are as they were written down last."
    return {
        "warnings": [*([unsure] if problem else []), *(one.sentence for one in unread.values())],
        "factory": {**_factory(configuration, given, told, works, problem, found), "orders_taken": is_taken},
        "orders": given.as_data(),
        "slots": found,
        "machinetypes": _machinetypes(configuration, told if works else None, found),
        "pipes": _pipes(configuration, told if works else None),
        "space": _space(configuration, params["timeout"]) if params["space"] else None,
    }


def _without_daemon(configuration: Configuration, last: dict[str, Machine]) -> str:
    """Records say what was; only the engine knows what runs. Puts that into ``last``, and returns the problem."""
    live = {slot: one for slot, one in last.items() if one.state != ENDED}
    if not live:
        return ""
    try:
        found = engine_of(configuration).listed()
    except GridboxError as exc:
        return str(exc)
    for slot, machine in live.items():
        if not machine.is_alive_in(found):
            reason = "it has ended, and nobody has looked why yet"
            last[slot] = replace(machine, state=ENDED, end_reason=reason)
    return ""


def _factory(
    configuration: Configuration,
    given: orders.Orders,
    told: t.Optional[report.Report],
    works: bool,
    problem: str,
    found: t.Sequence[t.Mapping[str, t.Any]],
) -> dict[str, t.Any]:
    settings, now = given.over(configuration.settings), time.time()
    running = [one for one in found if one["state"] != "empty"]
    made: dict[str, t.Any] = {
        "name": settings.name,
        "space": configuration.space,
        "state_folder": configuration.state_folder,
        "daemon": works,
        "version": told.version if told is not None else "",
        "report_age": int(now - told.written) if told is not None else None,
        "engine_problem": problem,
        "draining": settings.draining,
        "shutdown_time": settings.shutdown_time,
        "running_machines": len(running),
        "running_processors": sum(one["processors"] for one in running),
        "total_processors": settings.total_processors,
        "health": None,
        "explanation": [],
    }
    if told is not None:
        # Whoever wrote it may have died a moment later: then no report is new enough.
        judged = health.health(told, now, 600 if works else 0, report.room(configuration.state_folder))
        made["health"] = {"status": ("ok", "warning", "critical", "unknown")[judged.status], "text": judged.text}
    if told is not None and works:
        made["explanation"] = views.explain(told).rstrip("\n").split("\n")
    return made


def _machinetypes(
    configuration: Configuration, told: t.Optional[report.Report], found: t.Sequence[t.Mapping[str, t.Any]]
) -> list[dict[str, t.Any]]:
    """By name. Without a daemon, those that the operator defines and those that run: pipes are not read here."""
    known: dict[str, t.Optional[Machinetype]] = {one.name: one for one in configuration.machinetypes}
    judged: dict[str, t.Mapping[str, t.Any]] = {}
    images: t.Mapping[str, report.ImageStatus] = {}
    failures: t.Mapping[str, int] = {}
    if told is not None:
        judged = {one["machinetype"]: one for one in (told.decision or {}).get("machinetypes") or ()}
        images, failures = told.images, told.failures_in_a_row
        known.update({name: known.get(name) for pipe in told.pipes.values() for name in pipe.machinetypes})
        known.update({name: known.get(name) for name in judged})
    for one in found:
        if one["state"] != "empty":
            known.setdefault(one["machinetype"], None)
    made, models = [], configuration.models
    for name, kind in sorted(known.items()):
        own = [one for one in found if one["state"] != "empty" and one["machinetype"] == name]
        verdict, image = judged.get(name, {}), images.get(name)
        problem = image.problem if image is not None else ""
        if verdict.get("refusal") in (DROPPED, NOT_BROUGHT):
            problem = str(verdict["reason"])
        if kind is not None and kind.machine_model not in models:
            problem = f"machines of the model {kind.machine_model} cannot be started here"
        made.append(
            {
                "name": name,
                "target_share": verdict.get("target_share", kind.target_share if kind is not None else None),
                "running_machines": len(own),
                "running_processors": sum(one["processors"] for one in own),
                "space_usage": verdict.get("usage"),
                "refusal": verdict.get("refusal") or "",
                "backing_off": verdict.get("refusal") == "backing_off",
                "image_present": image.present if image is not None else None,
                "failures_in_a_row": failures.get(name, 0),
                "problem": problem,
                "reason": verdict.get("reason", ""),
            }
        )
    return made


def _pipes(configuration: Configuration, told: t.Optional[report.Report]) -> list[dict[str, t.Any]]:
    """By prefix. Without a daemon it is only known which there are."""
    made = []
    for source in configuration.pipes:
        prefix = source.section.prefix
        status = told.pipes.get(prefix) if told is not None else None
        seen = status if status is not None else report.PipeStatus()
        made.append(
            {
                "prefix": prefix,
                "source": source.url or source.path,
                "fetched_at": seen.fetched_at,
                "problem": seen.problem,
                "machinetypes": list(seen.machinetypes),
                "not_for_this_factory": list(seen.not_here),
                "dropped": [*seen.dropped, *seen.dropped_without_share],
                "not_brought": list(seen.not_brought),
                "unused_share": seen.unused_share,
                "remarks": list(seen.warnings),
            }
        )
    return made


def _space(configuration: Configuration, seconds: float) -> dict[str, t.Any]:
    """What the factories of the space say, this one among them."""
    known = space.of(configuration)
    outcomes = space.ask(known, _QUERIES, known.factories, seconds)
    told: dict[str, dict[str, t.Any]] = {}
    for query in _QUERIES:
        for one in views.as_data(outcomes[query]):
            kept = told.setdefault(
                one["factory"], {"state": one["state"], "since": one["since"], "detail": one["detail"]}
            )
            kept[query.partition("_")[0]] = one["replies"]
    return {
        "name": configuration.space,
        "factories": told,
        "silent": sorted(name for name, one in told.items() if not one["factory"]),
        "table": [
            *views.factories(outcomes["factory_query"]).rstrip("\n").split("\n"),
            "",
            *views.machinetypes(outcomes["machinetypes_query"]).rstrip("\n").split("\n"),
        ],
    }

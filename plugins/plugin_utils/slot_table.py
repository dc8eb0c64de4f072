# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The slots of factories as a table for people. Plain data in, lines out; runs on the controller."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.plugin_utils.status_table import GAP, Line, age

HEAD = ("Slot", "Machinetype", "State", "Processors", "For", "Last end")

Factory = t.Mapping[str, t.Any]


def is_well(factory: Factory) -> bool:
    """Whether its health check finds nothing, or something to look at only."""
    return str(factory["check"]).startswith(("OK", "WARNING"))


def cells(slot: t.Mapping[str, t.Any], now: float) -> tuple[str, ...]:
    """One slot's row.

    :param slot: as ``vacuum_info`` returns it.
    :param now: Unix seconds.
    """
    end = slot.get("last_end") or {}
    live = slot["state"] != "empty"
    since = slot.get("since")
    return (
        str(slot["slot"]),
        str((slot if live else end).get("machinetype") or "-"),
        " ".join(str(word) for word in (slot["state"], slot.get("order")) if word),
        str(slot["processors"]) if live else "-",
        age(now - float(since)) if live and since else "-",
        "-" if live else str(end.get("message") or slot.get("reason") or "-"),
    )


def render(factories: t.Sequence[Factory], now: float) -> list[Line]:
    """A line for each slot, and below what the health check of each factory says."""
    if not factories:
        return [Line("There are no factories.")]
    rows = [cells(slot, now) for factory in factories for slot in factory["slots"]]
    widths = [max(len(row[index]) for row in [HEAD, *rows]) for index in range(len(HEAD))]
    lines = [Line(_join(HEAD, widths)), Line(GAP.join("-" * one for one in widths))]
    lines += [Line(_join(row, widths), "good" if row[2].startswith("running") else "plain") for row in rows]
    lines.append(Line(""))
    lines += [Line(f"{one['host']}: {_said(one)}", "good" if is_well(one) else "bad") for one in factories]
    return lines


def _said(factory: Factory) -> str:
    """The health check's words, without the figures for Nagios."""
    return str(factory["check"] or "it has not said anything yet").partition(" | ")[0]


def _join(row: t.Sequence[str], widths: t.Sequence[int]) -> str:
    return GAP.join(f"{text:<{width}}" for text, width in zip(row, widths)).rstrip()

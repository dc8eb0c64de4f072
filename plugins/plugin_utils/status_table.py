# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VO-boxes as a table for people. Plain data in, lines out; runs on the controller."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

#: Between two columns.
GAP = "  "
HEAD = ("VO-box", "FQDN", "IPv4", "IPv6", "MAC", "Engine", "Image (layers)", "Services", "Age")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    :ivar mood: ``good``, ``bad`` or ``plain``, for its colour.
    """

    text: str
    mood: str = "plain"


def age(seconds: t.Optional[float]) -> str:
    """How long something has run, in its two largest units: ``3 d 4 h``. Empty if it does not run."""
    if seconds is None or seconds < 0:
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2])


def by_service(probes: t.Sequence[t.Mapping[str, t.Any]]) -> tuple[int, int, list[str]]:
    """Of services that were tried at several addresses: how many are up at all of them, how many there are, and what
    is missing."""
    ports: dict[int, list[t.Mapping[str, t.Any]]] = {}
    for one in probes:
        ports.setdefault(int(one["port"]), []).append(one)
    missing = [
        f"{one['name']} port {port}" + (f" over {family}" if (family := one.get("family", "")) else "")
        + (f": {one['seen']}" if one.get("seen") else "")
        for port, tries in ports.items()
        for one in tries
        if not one.get("up")
    ]  # fmt: skip
    up = sum(all(one.get("up") for one in tries) for tries in ports.values())
    return up, len(ports), missing


def is_good(box: t.Mapping[str, t.Any]) -> bool:
    """Whether a VO-box runs with all its services."""
    up, declared, _missing = by_service(box["services"])
    return box["state"] == "running" and box.get("health") != "unhealthy" and up == declared


def cells(box: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    """One VO-box's row."""
    up, declared, _missing = by_service(box["services"])
    running = box["state"] == "running"
    layers = f" ({box['layers']})" if box.get("layers") else ""
    return (
        str(box["name"]),
        str(box["fqdn"]),
        str(box.get("ipv4") or "-"),
        str(box.get("ipv6") or "-"),
        str(box.get("mac") or "-"),
        str(box.get("engine") or "-"),
        f"{box.get('image') or '-'}{layers}",
        f"{up}/{declared} up",
        age(box.get("age_seconds")) if running else str(box["state"]),
    )


def render(boxes: t.Sequence[t.Mapping[str, t.Any]], width: int) -> list[Line]:
    """The table, or where it would not fit into ``width`` columns, a block of lines for each VO-box."""
    if not boxes:
        return [Line("There are no VO-boxes.")]
    rows = [cells(box) for box in boxes]
    widths = [max(len(row[index]) for row in [HEAD, *rows]) for index in range(len(HEAD))]
    lines: list[Line] = []
    if sum(widths) + len(GAP) * (len(HEAD) - 1) <= width:
        lines.append(Line(_join(HEAD, widths)))
        lines.append(Line(GAP.join("-" * one for one in widths)))
        lines += [Line(_join(row, widths), _mood(box)) for row, box in zip(rows, boxes)]
    else:
        label = max(map(len, HEAD))
        for row, box in zip(rows, boxes):
            lines.append(Line(f"{row[0]}  {row[1]}", _mood(box)))
            lines += [Line(f"  {name:<{label}}  {value}") for name, value in list(zip(HEAD, row))[2:]]
    for box in boxes:
        lines += [Line(f"  {box['name']}: {what}", "bad") for what in by_service(box["services"])[2]]
    return lines


def summary(boxes: t.Sequence[t.Mapping[str, t.Any]]) -> Line:
    """One sentence."""
    good = sum(map(is_good, boxes))
    if good == len(boxes):
        families = {one.get("family", "") for box in boxes for one in box["services"]}
        over = " over IPv4 and IPv6" if {"ipv4", "ipv6"} <= families else ""
        number = {1: "The VO-box runs", 2: "Both VO-boxes run"}.get(good, f"All {good} VO-boxes run")
        return Line(f"{number}; every declared service answers{over}.", "good") if boxes else Line("")
    return Line(f"{len(boxes) - good} of {len(boxes)} VO-boxes need a look.", "bad")


def _mood(box: t.Mapping[str, t.Any]) -> str:
    return "good" if is_good(box) else "bad"


def _join(row: t.Sequence[str], widths: t.Sequence[int]) -> str:
    return GAP.join(f"{text:<{width}}" for text, width in zip(row, widths)).rstrip()

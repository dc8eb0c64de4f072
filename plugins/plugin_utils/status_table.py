# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VO-boxes as a table for people. Plain data in, lines out; runs on the controller."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

#: Between two columns.
GAP = "  "
#: States, as engines call them, of a container that is there and does not run.
AT_REST = ("configured", "created", "exited", "stopped")
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
    ports: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for one in probes:
        ports.setdefault(f"{one['port']}{'/udp' if one.get('protocol') == 'udp' else ''}", []).append(one)
    missing = [
        f"{one['name']} port {port}" + (f" over {family}" if (family := one.get("family", "")) else "")
        + (f": {one['seen']}" if one.get("seen") else "")
        for port, tries in ports.items()
        for one in tries
        if not one.get("up")
    ]  # fmt: skip
    up = sum(all(one.get("up") for one in tries) for tries in ports.values())
    return up, len(ports), missing


def complaints(box: t.Mapping[str, t.Any]) -> list[str]:
    """What is not as wanted, beyond what the columns say: missing services, or a VO-box that is not at rest."""
    if not _rests(box):
        return by_service(box["services"])[2]
    return [] if box["state"] in AT_REST else [f"it is {box['state']}, and wanted stopped"]


def is_good(box: t.Mapping[str, t.Any]) -> bool:
    """Whether a VO-box runs with all its services, or is stopped as it is wanted."""
    return not complaints(box) and (_rests(box) or (box["state"] == "running" and box.get("health") != "unhealthy"))


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
        "-" if _rests(box) else f"{up}/{declared} up",
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
        lines += [Line(f"  {box['name']}: {what}", "bad") for what in complaints(box)]
    return lines


def unseen(hosts: t.Sequence[str]) -> list[Line]:
    """A line for each host that is wanted in the table and of which nothing is known."""
    return [Line(f"{host}: nothing is known of it: unreachable, or the look at it failed", "bad") for host in hosts]


def summary(boxes: t.Sequence[t.Mapping[str, t.Any]]) -> Line:
    """One sentence."""
    good = sum(map(is_good, boxes))
    if good == len(boxes):
        return Line(_all_is_well(boxes), "good") if boxes else Line("")
    return Line(f"{len(boxes) - good} of {len(boxes)} VO-boxes need a look.", "bad")


def _all_is_well(boxes: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    running = [box for box in boxes if not _rests(box)]
    rest = len(boxes) - len(running)
    if not running:
        return f"{'The VO-box is' if rest == 1 else f'All {rest} VO-boxes are'} stopped, as wanted."
    run = {1: "The VO-box runs", 2: "Both VO-boxes run"}.get(len(running), f"All {len(running)} VO-boxes run")
    if rest:
        run = f"{len(running)} VO-box{'es run' if len(running) > 1 else ' runs'}"
        run += f" and {rest} {'is' if rest == 1 else 'are'} stopped, as wanted"
    # What was asked from another machine has the family over which it was; of the rest the host says what listens.
    services = [one for box in running for one in box["services"]]
    families = {one.get("family", "") for one in services}
    answers = f"answers{' over IPv4 and IPv6' if {'ipv4', 'ipv6'} <= families else ''}"
    if "" in families:
        answers = (
            "listens" if families == {""} else f"{answers}, or listens where it was not asked from another machine"
        )
    return f"{run}; every declared service {answers}." if services else f"{run}."


def _rests(box: t.Mapping[str, t.Any]) -> bool:
    return box.get("wanted") == "stopped"


def _mood(box: t.Mapping[str, t.Any]) -> str:
    return "good" if is_good(box) else "bad"


def _join(row: t.Sequence[str], widths: t.Sequence[int]) -> str:
    return GAP.join(f"{text:<{width}}" for text, width in zip(row, widths)).rstrip()

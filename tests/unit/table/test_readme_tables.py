# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables in the README are as they are printed."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.mac import mac_of
from ansible_collections.hep.gridbox.plugins.plugin_utils import slot_table, status_table

README = (Path(__file__).resolve().parents[3] / "README.md").read_text()


def in_the_readme(lines: t.Iterable[status_table.Line]) -> bool:
    return "\n" + "".join(f"    {line.text}\n" for line in lines) in README


def test_the_voboxes_of_the_demo() -> None:
    boxes = [
        {
            "name": f"vobox{number}", "fqdn": f"vobox{number}.demo.example", "state": "running", "age_seconds": age,
            "ipv4": f"198.51.100.1{number}", "ipv6": f"2001:db8:77::1{number}",
            "mac": mac_of(f"vobox{number}.demo.example"), "engine": "docker 20.10.24", "image": "vobox:reference",
            "layers": 1, "services": [{"name": "s", "port": port, "up": True} for port in range(services)],
        }
        for number, services, age in ((1, 4, 97), (2, 3, 71))
    ]  # fmt: skip
    assert in_the_readme(status_table.render(boxes, 140))


def test_the_slots_of_the_demo() -> None:
    slots = [
        {
            "slot": f"demo-0{k}.demo.example",
            "machinetype": kind,
            "state": "running",
            "processors": 1,
            "since": 100 - age,
        }
        for k, kind, age in ((0, "demo-primes", 22), (1, "demo-pi", 5), (2, "demo-primes", 9))
    ]
    table = slot_table.render([{"host": "demo", "check": "OK", "slots": slots}], 100)
    assert in_the_readme(table[:5])  # below is what the health check says

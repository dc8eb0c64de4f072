# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An outside judge of a host's hardening: lynis, from Debian's package of that name.

What it still finds is either mended or waived with a reason: ``tests/integration/lynis_waivers.yml``.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from tests.lab.hosts import Machine

REPORT = "/var/log/lynis-report.dat"

#: Tests whose one suggestion stands for the details in the report, one finding each.
IN_DETAIL = {"SSH-7408", "KRNL-6000"}


@dataclass(frozen=True)
class Report:
    """What lynis says.

    :ivar index: its hardening index, of 100.
    :ivar findings: its warnings and suggestions: the test's id, and what it is about.
    """

    index: int
    findings: tuple[tuple[str, str], ...]


def audit(machine: Machine) -> Report:
    """Have lynis look at a machine; it changes nothing but its own log and report."""
    # It ends with another code than 0 when it has warnings, and tells on its standard error what the machine lacks.
    machine.run("lynis", "audit", "system", "--quick", "--quiet", "--no-colors", check=False, timeout=300)
    return parse(machine.run("cat", REPORT).stdout)


def parse(report: str) -> Report:
    """Read a report: lines of ``name[]=ID|text|...``."""
    index = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    if index is None:
        raise RuntimeError(f"lynis has not come to its end: {report[-1000:]}")
    findings = []
    for kind, test, text, rest in re.findall(
        r"^(suggestion|warning|details)\[\]=([A-Z0-9-]+)\|([^|]*)\|(.*)$", report, re.MULTILINE
    ):
        if kind == "details" and test in IN_DETAIL:
            shown = dict(field.split(":", 1) for field in rest.split("|")[0].split(";") if ":" in field)
            findings.append((test, shown["field"]))
        elif kind != "details" and test not in IN_DETAIL:
            findings.append((test, text))
    return Report(int(index.group(1)), tuple(findings))


def judge(report: Report, waivers: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """What is wrong with the waivers: findings that none covers, and waivers that cover none. Pure.

    :param waivers: ``id`` of a test; ``about``, what the finding begins with, for all of the test if it is left out;
        ``reason``; ``sometimes``, on what it depends whether it is found, for one that may be of no use here.
    """
    used: set[int] = set()
    wrong = []
    for test, text in report.findings:
        covering = [
            number for number, waiver in enumerate(waivers)
            if waiver["id"] == test and text.startswith(waiver.get("about", ""))
        ]  # fmt: skip
        used.update(covering)
        if not covering:
            wrong.append(f"found and not waived: {test} {text}")
    for number, waiver in enumerate(waivers):
        if not waiver["reason"].strip():
            wrong.append(f"waived without a reason: {waiver['id']}")
        if number not in used and not waiver.get("sometimes"):
            wrong.append(f"waived and not found: {waiver['id']} {waiver.get('about', '')}")
    return wrong

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a report of lynis is read, and what its waivers are held to."""

from __future__ import annotations

import pytest

from tests.lab.lynis import Report, judge, parse

#: Lines of a real report.
REPORT = """\
lynis_version=3.0.8
suggestion[]=DEB-0880|Install fail2ban to automatically ban hosts that commit multiple authentication errors.|-|-|
suggestion[]=AUTH-9286|Configure minimum password age in /etc/login.defs|-|-|
suggestion[]=AUTH-9286|Configure maximum password age in /etc/login.defs|-|-|
warning[]=PKGS-7388|Can't find any security repository in /etc/apt/sources.list or sources.list.d directory|-|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|MaxAuthTries (set 6 to 3)|-|
details[]=SSH-7408|sshd|desc:sshd option MaxAuthTries;field:MaxAuthTries;prefval:3;value:6;|
details[]=KRNL-6000|sysctl|desc:Restrict BPF;field:kernel.unprivileged_bpf_disabled;prefval:1;value:2;|
suggestion[]=KRNL-6000|One or more sysctl values differ from the scan profile and could be tweaked||Change sysctl value|
hardening_index=57
"""


def test_a_report_is_read_in_detail() -> None:
    report = parse(REPORT)
    assert report.index == 57
    assert [(test, text[:26]) for test, text in report.findings] == [
        ("DEB-0880", "Install fail2ban to automa"),
        ("AUTH-9286", "Configure minimum password"),
        ("AUTH-9286", "Configure maximum password"),
        ("PKGS-7388", "Can't find any security re"),
        ("SSH-7408", "MaxAuthTries"),
        ("KRNL-6000", "kernel.unprivileged_bpf_di"),
    ]


def test_a_report_without_its_end_is_none() -> None:
    with pytest.raises(RuntimeError, match="has not come to its end"):
        parse(REPORT.partition("hardening_index")[0])


FOUND = Report(60, (("A-1", "first thing"), ("A-1", "second thing"), ("B-2", "it")))


@pytest.mark.parametrize(
    ("waivers", "wrong"),
    [
        ([("A-1", ""), ("B-2", "it")], []),
        ([("A-1", "first"), ("B-2", "")], ["found and not waived: A-1 second thing"]),
        ([("A-1", ""), ("B-2", ""), ("C-3", "")], ["waived and not found: C-3 "]),
        ([("A-1", ""), ("B-2", ""), ("A-1", "third")], ["waived and not found: A-1 third"]),
    ],
)
def test_every_finding_is_waived_and_every_waiver_is_needed(waivers: list[tuple[str, str]], wrong: list[str]) -> None:
    assert judge(FOUND, [{"id": test, "about": about, "reason": "so"} for test, about in waivers]) == wrong


def test_a_waiver_has_a_reason_and_may_depend_on_the_machine() -> None:
    every = [{"id": "A-1", "reason": "so"}, {"id": "B-2", "reason": "so"}]
    assert judge(FOUND, [*every, {"id": "C-3", "reason": "so", "sometimes": "on the kernel"}]) == []
    assert judge(FOUND, [every[0], {"id": "B-2", "reason": " "}]) == ["waived without a reason: B-2"]

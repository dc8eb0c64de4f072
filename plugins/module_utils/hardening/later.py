# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are read after ours: what one of them sets counts, at the next boot if not at once. Pure."""

from __future__ import annotations

import operator
import re
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.hardening import host_state
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.host_state import UNLIMITED, Host
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.limits import Need


def weaker(control: str, host: Host, need: Need) -> str:
    """What such files set to less than a control asks for, in words; empty if none does."""
    if control in need.least:
        return _weaker(host, host_state.SYSCTL_FILE, sysctls, need.least[control])
    soft, hard = need.nofile
    if control == "systemd_limits" and host.systemd:
        return _weaker(host, host_state.SYSTEMD_FILE, services, {_SOFT: soft, _HARD: hard})
    asked = {
        "nofile": {"soft nofile": soft, "hard nofile": hard},
        "nproc": {"soft nproc": need.nproc, "hard nproc": need.nproc},
        "core_dumps": {"hard core": 0},
    }.get(control, {})
    wanted = {f"{who} {name}": value for who in ACCOUNTS for name, value in asked.items()}
    enough = operator.le if control == "core_dumps" else operator.ge
    return _weaker(host, host_state.LIMITS_FILE, logins, wanted, enough)


def _weaker(
    host: Host,
    ours: str,
    settings: t.Callable[[str], t.Mapping[str, int]],
    wanted: t.Mapping[str, int],
    enough: t.Callable[[int, int], bool] = operator.ge,
) -> str:
    """As :func:`weaker`, of the files of one kind.

    :param ours: our file of that kind.
    :param settings: what a text sets.
    :param enough: whether a value does for a wanted one.
    """
    last = {}
    for path, text in host.later.get(ours, ()):
        for name, value in settings(text).items():
            last[name] = (path, value)
    return "; ".join(
        f"{path}, which is read after {ours}, sets {name} to {_word(value)}, expected {_word(wanted[name])}"
        for name, (path, value) in last.items()
        if name in wanted and not enough(value, wanted[name])
    )


def _word(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


def sysctls(text: str) -> dict[str, int]:
    """The numbers that a file of sysctl.d(5) sets, by name. No pattern is among them: it spares what any file names."""
    found = re.findall(r"^[ \t]*-?[ \t]*([\w./-]+)[ \t]*=[ \t]*(\d+)[ \t]*$", text, re.MULTILINE)
    return {name.replace("/", "."): int(value) for name, value in found}


#: Whose logins a file of limits.d(5) of ours is about: all accounts', and root's, which the star does not mean.
ACCOUNTS = ("*", "root")


def logins(text: str) -> dict[str, int]:
    """The limits that a file of limits.d sets for them: ``* soft nofile`` and so on to the number (limits.conf(5)).

    What it sets for another account or a group is a decision about that one.
    """
    found = {}
    line = r"^[ \t]*(\*|root)[ \t]+(soft|hard|-)[ \t]+(\w+)[ \t]+(\d+|-1|unlimited|infinity)\b"
    for who, kind, item, value in re.findall(line, text, re.MULTILINE):
        for each in ("soft", "hard") if kind == "-" else (kind,):
            found[f"{who} {each} {item}"] = int(value) if value.isdigit() else UNLIMITED
    return found


_SOFT, _HARD = "the soft DefaultLimitNOFILE", "the hard DefaultLimitNOFILE"


def services(text: str) -> dict[str, int]:
    """The limits of open files that a configuration of systemd's manager sets (systemd-system.conf(5))."""
    found: dict[str, int] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        name, _equals, value = line.partition("=")
        if section == "[Manager]" and name.strip() == "DefaultLimitNOFILE":
            soft, _colon, hard = (part.strip() for part in value.partition(":"))
            try:
                found.update({_SOFT: host_state.limit(soft), _HARD: host_state.limit(hard or soft)})
            except ValueError:
                continue  # systemd takes no notice of it either
    return found

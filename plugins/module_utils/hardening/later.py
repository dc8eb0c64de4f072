# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are read after ours: what one of them sets counts, at the next boot if not at once. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.hardening import host_state
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.host_state import UNLIMITED, Host
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.limits import Need


def weaker(control: str, host: Host, need: Need) -> str:
    """What such files set to less than a control asks for, in words; empty if none does."""
    if control == "systemd_limits" and host.systemd:
        soft, hard = need.nofile
        return _weaker(host, host_state.SYSTEMD_FILE, services, {_SOFT: soft, _HARD: hard})
    return ""


def _weaker(
    host: Host, ours: str, settings: t.Callable[[str], t.Mapping[str, int]], wanted: t.Mapping[str, int]
) -> str:
    """As :func:`weaker`, of the files of one kind.

    :param ours: our file of that kind.
    :param settings: what a text sets.
    """
    last = {}
    for path, text in host.later.get(ours, ()):
        for name, value in settings(text).items():
            last[name] = (path, value)
    return "; ".join(
        f"{path}, which is read after {ours}, sets {name} to {_word(value)}, expected {_word(wanted[name])}"
        for name, (path, value) in last.items()
        if name in wanted and value < wanted[name]
    )


def _word(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


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

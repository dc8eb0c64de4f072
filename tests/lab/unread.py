# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A unit whose file systemd has not read: a role was cut off between writing it and telling systemd of it."""

from __future__ import annotations

import typing as t

#: What systemd still has for its description.
OF_BEFORE = "A unit of before"

_LEAVE = f"""
set -e
cp --preserve "$1" /run/unit-as-written
sed -i 's/^Description=.*/Description={OF_BEFORE}/' "$1"
systemctl daemon-reload
cat /run/unit-as-written > "$1"
rm /run/unit-as-written
"""


class Runs(t.Protocol):
    """A machine of the lab."""

    def run(self, *argv: str, check: bool = True) -> t.Any:
        """Run a command in it."""


def leave_unread(machine: Runs, unit: str) -> None:
    """Have systemd know the unit otherwise than its file says."""
    machine.run("sh", "-c", _LEAVE, "sh", f"/etc/systemd/system/{unit}")
    assert description(machine, unit) == OF_BEFORE


def description(machine: Runs, unit: str) -> str:
    """The unit's, as systemd knows it."""
    return t.cast("str", machine.run("systemctl", "show", "--property=Description", "--value", unit).stdout.strip())

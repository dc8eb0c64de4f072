# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mark of this boot, for names of what is there only while a run makes something.

A run that is killed has a guard, which takes such things away; a power cut takes the guard along. What bears another
boot's mark is nobody's any more.
"""

from __future__ import annotations

import functools
import re
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

#: The mark as a regular expression.
MARK = "[0-9a-f]{12}"


@functools.cache
def boot_mark() -> str:
    """Twelve hexadecimal digits of the kernel's boot id, which is drawn at each boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")[:12]


def is_of_another_boot(name: str, prefix: str) -> bool:
    """Whether a name is ``PREFIX MARK-…`` with the mark of another boot."""
    found = re.match(rf"{re.escape(prefix)}({MARK})-", name)
    return found is not None and found.group(1) != boot_mark()


def remove_steps(leftovers: t.Iterable[str]) -> tuple[Step, ...]:
    """The removal of what is left of another boot."""
    return tuple(Step("remove_leftover", name, "its run was cut short by a boot") for name in leftovers)


def warnings(plan: Plan, applied: bool) -> list[str]:
    """What a plan removes of it, in sentences: whoever runs a playbook sees them without being told each action.

    :param applied: whether that was done; it is only foreseen otherwise.
    """
    told = "was removed" if applied else "is to be removed"
    return [
        f"A run was cut short by a boot; what it had left unfinished {told}: {step.target}."
        for step in plan.steps
        if step.action == "remove_leftover"
    ]

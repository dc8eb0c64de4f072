# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a machine ended: its shutdown message, and whether that means back-off (spec 4.7). Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import OwnMachine

#: The smallest code that means back-off. 300 to 799 are named in HSF-TN-2016-04; up to 999 Vac takes all for aborts.
FIRST_ABORT = 300

#: What the message begins with that the factory gives a machine which has fizzled.
FIZZLE = "300 Ended after "


@dataclass(frozen=True)
class Outcome:
    """How a machine ended.

    :ivar time: when, Unix seconds.
    :ivar message: its shutdown message, or the one the factory gives it, so that peers back off as well; None: it had
        none and ran long enough not to need one.
    :ivar abort: whether its machinetype has to back off in the whole space.
    """

    time: int
    message: t.Optional[str]
    abort: bool


def code_of(message: t.Optional[str]) -> t.Optional[int]:
    """The number that a shutdown message begins with; None if its first three characters are no digits."""
    head = (message or "")[:3]
    return int(head) if len(head) == 3 and head.isascii() and head.isdigit() else None


def is_abort(message: t.Optional[str]) -> bool:
    """Whether a shutdown message means back-off: 300 to 999."""
    code = code_of(message)
    return code is not None and code >= FIRST_ABORT


def outcome(machine: OwnMachine, machinetype: Machinetype) -> t.Optional[Outcome]:
    """How a machine of this factory ended; None while it has not.

    A failed start, and an end before ``fizzle_seconds`` without a message, are aborts. Vac means the second and never
    does it, and does not know the first: such machines were started again each minute (spec 9.1, item 3).
    """
    if machine.state != "ended":
        return None
    at = machine.end_time
    if machine.failed_start or machine.started is None:
        said = machine.shutdown_message
        return Outcome(at, said if is_abort(said) else "500 Machine did not start", True)
    if code_of(machine.shutdown_message) is not None:
        return Outcome(at, machine.shutdown_message, is_abort(machine.shutdown_message))
    lived = at - machine.started
    if lived < machinetype.fizzle_seconds:
        fizzle = f"{FIZZLE}{lived} s without a message, fizzle_seconds is {machinetype.fizzle_seconds}"
        return Outcome(at, fizzle, True)
    return Outcome(at, None, False)

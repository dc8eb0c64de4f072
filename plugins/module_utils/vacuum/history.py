# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether machines of a type work on this host, by what has become of those that were made here. Pure.

An abort makes the whole space back off. A host on which no machine of a type works would keep the others from starting
any for ever; so it tries less and less often (``ranking.py``). That must not happen to a host that is well while the
experiment has no work: what a machine says of that is not counted.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.outcome import FIZZLE, code_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import OwnMachine


def works_here(machine: OwnMachine, fizzle_seconds: int, now: int) -> t.Optional[bool]:
    """Whether a machine shows that its type works on this host; None: it shows nothing, or nothing yet.

    It works if it has run for ``fizzle_seconds``, however it ended then, or has done what there was to do. It does not
    if it never came to run, or ended before that and said nothing, or that the host (400 to 599) or what it runs (700
    and up) is to blame. What somebody ended before (100) and what is wrong everywhere (600) shows nothing.
    """
    ended = machine.state == "ended"
    if machine.started is None or machine.failed_start:
        return False if ended else None
    until = machine.end_time if ended else now
    if machine.state != "unknown" and until - machine.started >= fizzle_seconds:
        return True
    if not ended:
        return None
    message = machine.shutdown_message or ""
    code = code_of(message)
    if code is None or message.startswith(FIZZLE):
        return False
    if code < 200 or 600 <= code < 700:
        return None
    return code < 400


@dataclass(frozen=True)
class History:
    """The machines of one type on this host.

    :ivar worked: the newest that works or has worked.
    :ivar failed: those that were made after it and did not work, oldest first.
    """

    worked: t.Optional[OwnMachine]
    failed: tuple[OwnMachine, ...]

    @property
    def tries(self) -> int:
        """Tries in a row that failed: what was started before the first of a try was known to fail belongs to it, for
        a host that fills all its slots at once has tried once."""
        tries, known = 0, 0
        for machine in self.failed:
            if not tries or machine.created > known:
                tries, known = tries + 1, machine.end_time
            known = min(known, machine.end_time)
        return tries

    @property
    def last(self) -> int:
        """When the last of them failed, Unix seconds; 0 if there is none."""
        return max((one.end_time for one in self.failed), default=0)


def histories(own: t.Iterable[tuple[OwnMachine, int]], now: int, latest: int) -> dict[str, History]:
    """By machinetype, what its machines show.

    :param own: machines of this factory, each with its ``fizzle_seconds``.
    :param latest: what was made or has ended later is of a clock that was set back, and shows nothing.
    """
    worked: dict[str, OwnMachine] = {}
    failed: dict[str, list[OwnMachine]] = {}
    for machine, fizzle_seconds in own:
        verdict = works_here(machine, fizzle_seconds, now)
        if verdict is None or machine.created > latest or (machine.ended or 0) > latest:
            continue
        name = machine.machinetype
        if not verdict:
            failed.setdefault(name, []).append(machine)
        elif name not in worked or machine.created > worked[name].created:
            worked[name] = machine
    found = {}
    for name in {**worked, **failed}:
        newest = worked.get(name)
        since = [one for one in failed.get(name, ()) if newest is None or one.created > newest.created]
        found[name] = History(newest, tuple(sorted(since, key=lambda one: one.created)))
    return found

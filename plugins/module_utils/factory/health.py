# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a factory is well, as a Nagios plugin says it. Pure.

Vac's ``check-vacd`` knows that the daemon lives and that the last machine could be made, and stays green with a missing
image, a dead pipe, a configuration that is refused, an engine that does not answer and machines that die in seconds
(spec 8.3, 9.1). Here each of these has a colour: red for what keeps machines from running, yellow for what will, or for
what costs a part. A space without work is neither, but machinetypes that all back off are worth a look.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import (
    ImageStatus,
    PipeStatus,
    Report,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import (
    DROPPED,
    NO_IMAGE,
    NO_REPOSITORY,
    NO_SHARE,
    NOT_BROUGHT,
    NOT_HERE,
    PIPE_UNREAD,
    TOO_LARGE,
)

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

#: Machines of a machinetype that fail one after the other until it is taken for broken here.
FAILURES = 3

#: Bytes on the file system of its state that a factory needs to write down what machines do, and its own report.
ROOM = 1 << 20

#: Seconds for which a pipe's copy may be used beyond the time that it is good for: its web server may be restarted, but
#: a pipe that is dead has to be told as such, as Vac's check does not (spec 8.3).
_PIPE_DEAD = 3600

#: Findings that are told, and characters of each: Nagios shows one line.
_TOLD, _LENGTH = 4, 400


#: Refusals of machinetypes that no time ends, and what they say of some.
_NEVER = {
    NO_SHARE: "without a share",
    NOT_HERE: "not for this factory",
    DROPPED: "dropped",
    NOT_BROUGHT: "not brought by a pipe",
    TOO_LARGE: "too large for it",
}

#: Of those that are not among the machinetypes that a decision chooses from.
_NOT_JUDGED = (NO_SHARE, NOT_HERE, DROPPED, NOT_BROUGHT, PIPE_UNREAD, NO_REPOSITORY, NO_IMAGE)


@dataclass(frozen=True)
class Health:
    """What the plugin says.

    :ivar status: its exit code.
    :ivar text: for people.
    :ivar perfdata: figures, as Nagios reads them.
    """

    status: int
    text: str
    perfdata: str = ""

    @property
    def output(self) -> str:
        """The plugin's line."""
        line = f"{_WORDS[self.status]}: {self.text}"
        return f"{line} | {self.perfdata}" if self.perfdata else line


@dataclass(frozen=True)
class _Finding:
    status: int
    text: str


def health(report: t.Optional[Report], now: float, limit: float = 600, room: t.Optional[int] = None) -> Health:
    """Judge a factory.

    :param report: None: there is none.
    :param now: Unix seconds.
    :param limit: seconds; a report that is older means that the daemon is dead.
    :param room: bytes left on the file system of its state; None: not asked.
    """
    if report is None:
        return Health(CRITICAL, "The factory's daemon has never written a report")
    age = now - report.written
    if age > limit:
        found = [_Finding(CRITICAL, f"No heartbeat of the factory's daemon in {age / 3600:.2f} hours")]
    elif age < -limit:
        # The daemon writes every few seconds, so whatever happened to the clock: it is not alive now.
        ahead = f"the last one is {-age / 3600:.2f} hours ahead of this host's clock"
        found = [_Finding(CRITICAL, f"No heartbeat of the factory's daemon: {ahead}")]
    else:
        found = sorted(_findings(report, now, limit), key=lambda one: -one.status)
    if room is not None and room < ROOM:
        # For as long as it lasts the report is the one before.
        left = f"{room // 1024} KiB are left on the file system of the factory's state: it can write nothing down"
        found.insert(0, _Finding(CRITICAL, left))
    counts = report.counts
    suffix = f"({counts.running_machines}/{counts.slots} {counts.running_processors}/{counts.max_processors})"
    return Health(
        max((one.status for one in found), default=OK),
        f"{_told(found) or 'Factory ok'} {suffix}",
        f"machines={counts.running_machines};;;0;{counts.slots}"
        f" processors={counts.running_processors};;;0;{counts.max_processors}"
        f" age={max(0.0, age):.0f}s;;{limit:.0f};0;",
    )


def unreadable(problem: str) -> Health:
    """What is said if there is a report and it cannot be read.

    :param problem: a sentence.
    """
    return Health(UNKNOWN, _line(problem))


def _findings(report: Report, now: float, limit: float) -> t.Iterator[_Finding]:
    if report.engine_problem:
        yield _Finding(
            CRITICAL, f"The engine does not answer{_since(report.engine_since, now)}: {report.engine_problem}"
        )
    if report.host_problem:
        text = f"Nothing is started, for what the host has room for is not known: {report.host_problem}"
        yield _Finding(CRITICAL, text)
    decided = report.decided or report.started
    if not report.engine_problem and not report.host_problem and report.written - decided > limit:
        yield _Finding(CRITICAL, f"The daemon works, but has decided nothing{_since(decided, now)}: see its journal")
    if report.configuration_problem:
        yield _Finding(
            CRITICAL,
            f"The configuration is refused{_since(report.configuration_since, now)}, the one before is in use:"
            f" {report.configuration_problem}",
        )
    if report.orders_problem:
        text = f"Orders are refused, those before are obeyed, and with none the factory drains: {report.orders_problem}"
        yield _Finding(CRITICAL, text)
    for sentence in report.records_unreadable:
        yield _Finding(CRITICAL, sentence)
    for repository, seen in sorted(report.cvmfs.items()):
        if not seen.ok:
            yield _Finding(
                CRITICAL, f"CVMFS repository {repository} does not answer{_since(seen.since, now)}: {seen.problem}"
            )
    for machinetype, failures in sorted(report.failures_in_a_row.items()):
        if failures >= FAILURES:
            text = f"The last {failures} machines of {machinetype} fizzled or did not start"
            yield _Finding(CRITICAL, text + _why_the_last(report, machinetype))
    for machinetype, image in sorted(report.images.items()):
        yield from _image(machinetype, image, now, limit)
    for prefix, pipe in sorted(report.pipes.items()):
        yield from _pipe(prefix, pipe, report, now, limit)
    if _stays_empty(report):
        yield _Finding(CRITICAL, f"Nothing can be started here, and the factory is not drained: {_why_none(report)}")
    for slot, since in sorted(report.outliving.items()):
        yield _Finding(
            WARNING,
            f"The machine in slot {slot} outlives KILL{_since(since, now)}, and keeps its slot: a process of it waits"
            " for a file system that does not answer",
        )
    if report.metrics_problem:
        yield _Finding(WARNING, report.metrics_problem)
    if _all_back_off(report.decision):
        yield _Finding(WARNING, "All machinetypes are backing off")


def _image(machinetype: str, image: ImageStatus, now: float, limit: float) -> t.Iterator[_Finding]:
    if image.problem:
        what = "could not be renewed" if image.present else "is missing"
        yield _Finding(
            WARNING if image.present else CRITICAL,
            f"The image of {machinetype} {what}{_since(image.since, now)}: {image.problem}",
        )
    elif not image.present and image.since is not None and now - image.since > limit:
        yield _Finding(WARNING, f"The image of {machinetype} is being fetched{_since(image.since, now)}")


def _pipe(prefix: str, pipe: PipeStatus, report: Report, now: float, limit: float) -> t.Iterator[_Finding]:
    if pipe.fetched_at is None:
        if pipe.problem or now - max(report.started, pipe.awaited or 0) > limit:
            yield _Finding(
                CRITICAL, f"Vacuum pipe {prefix} has never been read{': ' * bool(pipe.problem)}{pipe.problem}"
            )
    elif pipe.problem:
        old = now - pipe.fetched_at - pipe.cache_seconds > _PIPE_DEAD
        copy = f", and its copy is in use{_since(pipe.fetched_at, now)}" if old else ""
        yield _Finding(CRITICAL if old else WARNING, f"Vacuum pipe {prefix}{copy}: {pipe.problem}")
    # What has no share would not be started anyway; of what does not come nobody knows what was meant.
    for sentence in (*pipe.dropped, *pipe.not_brought):
        yield _Finding(WARNING, sentence)


def _why_the_last(report: Report, machinetype: str) -> str:
    """Why a machine of a type ended that is still the last in its slot; nothing if there is none."""
    ended = [one for one in report.slots if one.get("machinetype") == machinetype and one.get("ended")]
    last = max(ended, key=lambda one: float(one["ended"]), default=None)
    return f". Of the last one: {last['shutdown_message']}; {last['end_reason']}" if last is not None else ""


def _judged(report: Report) -> list[t.Mapping[str, t.Any]]:
    return list((report.decision or {}).get("machinetypes") or ())


def _stays_empty(report: Report) -> bool:
    """Whether there is no machinetype of which machines could ever be started, though nobody wants it to be empty."""
    if report.decision is None or report.decision.get("veto") in ("draining", "shutdown_time"):
        return False
    if report.slots and all(report.orders.of(slot).state for slot in report.configured):
        return False
    if any(pipe.fetched_at is None for pipe in report.pipes.values()):
        return False  # which is told, and nobody knows what is in it
    ordered = {order.machinetype for order in report.orders.slots.values()}
    return all(
        one.get("refusal") in _NEVER and not (one.get("refusal") == NO_SHARE and one.get("machinetype") in ordered)
        for one in _judged(report)
    )


def _why_none(report: Report) -> str:
    counts = Counter(str(one.get("refusal")) for one in _judged(report))
    told = [f"{counts[code]} {words}" for code, words in _NEVER.items() if counts[code]]
    return f"its machinetypes are {', '.join(told)}" if told else "it has no machinetype"


def _all_back_off(decision: t.Optional[t.Mapping[str, t.Any]]) -> bool:
    """Whether nothing but back-off keeps the factory from starting what it has a share for."""
    if decision is None or decision.get("veto") is not None:
        return False
    refusals = [one.get("refusal") for one in decision.get("machinetypes") or ()]
    meant = [refusal for refusal in refusals if refusal not in _NOT_JUDGED]
    return bool(meant) and all(refusal == "backing_off" for refusal in meant)


def _told(found: t.Sequence[_Finding]) -> str:
    told = "; ".join(_line(one.text) for one in found[:_TOLD])
    return f"{told}; and {len(found) - _TOLD} more" if len(found) > _TOLD else told


def _line(text: str) -> str:
    """A sentence as a part of the plugin's line: ``|`` would begin the figures, and a line end more text."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text.replace("|", "/")).split())
    return line.rstrip(".: ") if len(line) <= _LENGTH else f"{line[: _LENGTH - 3]}..."


def _since(since: t.Optional[float], now: float) -> str:
    """For how long, in hours as Vac has it, or minutes."""
    if since is None:
        return ""
    seconds = max(0.0, now - since)
    return f" for {seconds / 3600:.2f} hours" if seconds >= 3600 else f" for {seconds / 60:.0f} min"

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command ``gridbox`` prints: a space as tables or as data, and why a factory starts what it does. Pure.

The columns are those of Vac's ``vac machines``, ``machinetype`` and ``factories`` (spec 8.4), below a line of titles.
Factories that did not answer are named at the end, with since when: Vac leaves them out without a word.
"""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import Report
from ansible_collections.hep.gridbox.plugins.module_utils.utc import utc
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import printable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.ends import UNMEASURED
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    RUNNING,
    SHUT_DOWN,
    STARTING,
    FactoryStatus,
    MachineStatus,
    MachinetypeStatus,
    Status,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import (
    ANSWERED,
    INCOMPLETE,
    REFUSED,
    UNKNOWN,
    Outcome,
)

_GAP = "  "
#: What stands where nothing is known.
_NOTHING = "-"

#: Vac's words for machine models: Docker container, Singularity container, virtual machine.
_MODELS = {
    "docker": "DC", "podman": "DC", "apptainer": "SC", "singularity": "SC",
    "cernvm3": "VM", "cernvm4": "VM", "vm-raw": "VM",
}  # fmt: skip

_GIB_IN_KIB = 1 << 20

Row = tuple[str, ...]
_Status = t.TypeVar("_Status", bound=Status)


# ---- the space as tables -----------------------------------------------------------------------------------------


def machines(outcomes: t.Iterable[Outcome], now: float) -> str:
    """A line for each slot.

    :param outcomes: of a ``machines_query``.
    :param now: Unix seconds.
    """
    outcomes = tuple(outcomes)
    statuses = [status for _factory, status in _statuses(outcomes, MachineStatus)]
    short = _shortener(status.machine for status in statuses)
    rows = [
        (
            short(status.machine),
            status.machinetype or _NOTHING,
            status.state,
            _figure(status.num_processors),
            _MODELS.get(status.machine_model or "", "??"),
            _age(status, now),
            _efficiency(status),
            _percent(status.cpu_percentage if status.state == RUNNING else None),
            _quoted(status.shutdown_message) if status.state == SHUT_DOWN else "",
        )
        for status in sorted(statuses, key=lambda status: status.machine)
    ]
    titles = ("Machine", "Machinetype", "State", ">Processors", "Model", ">For", ">CPU", ">CPU now", "Last end")
    return _page(titles, rows, outcomes)


def machinetypes(outcomes: t.Iterable[Outcome], name: str = "") -> str:
    """A line for each machinetype of the space; or, of one of them, a line for each factory.

    :param outcomes: of a ``machinetypes_query``.
    :param name: the one.
    """
    outcomes = tuple(outcomes)
    found = _statuses(outcomes, MachinetypeStatus)
    titles = (">Machines", ">Processors", ">HS06", ">Unproven", "Last end", "Message")
    if name:
        of_it = sorted(((factory, one) for factory, one in found if one.machinetype == name), key=lambda one: one[0])
        short = _shortener(factory for factory, _status in of_it)
        rows = [(short(factory), *_sums([status])) for factory, status in of_it]
        return _page(("Factory", *titles), rows, outcomes)
    by_name: dict[str, list[MachinetypeStatus]] = {}
    for _factory, status in found:
        by_name.setdefault(status.machinetype, []).append(status)
    rows = [(one, str(len(statuses)), *_sums(statuses)) for one, statuses in sorted(by_name.items())]
    return _page(("Machinetype", ">Factories", *titles), rows, outcomes)


def factories(outcomes: t.Iterable[Outcome]) -> str:
    """A line for each factory.

    :param outcomes: of a ``factory_query``.
    """
    outcomes = tuple(outcomes)
    found = sorted(_statuses(outcomes, FactoryStatus), key=lambda one: one[0])
    versions = {
        reply.envelope.factory.lower(): reply.envelope.daemon_version for one in outcomes for reply in one.replies
    }
    short = _shortener(factory for factory, _status in found)
    rows = [
        (
            short(factory),
            f"{_figure(status.running_processors)}/{_figure(status.max_processors)}",
            f"{_figure(status.running_machines)}/{_figure(status.max_machines)}",
            _NOTHING if status.load_average is None else f"{status.load_average:.2f}",
            _gib(status.root_disk_avail_kb),
            _gib(status.daemon_disk_avail_kb),
            f"{_gib(status.mem_used_kb)}/{_gib(status.mem_total_kb)}",
            _quoted(versions.get(factory.lower())),
        )
        for factory, status in found
    ]
    titles = (
        "Factory", ">Processors", ">Machines", ">Load", ">Root free GiB", ">State free GiB", ">Memory GiB", "Version",
    )  # fmt: skip
    return _page(titles, rows, outcomes)


def as_data(outcomes: t.Iterable[Outcome]) -> list[dict[str, t.Any]]:
    """The same for programs: by factory what came of asking it, and its replies with the names of the protocol."""
    return [
        {
            "factory": one.factory,
            "state": one.state,
            "since": one.since,
            "detail": one.detail,
            "replies": [
                {key: value for key, value in reply.as_data().items() if key != "cookie"} for reply in one.replies
            ],
        }
        for one in outcomes
    ]


def silent(outcomes: t.Iterable[Outcome]) -> list[str]:
    """A sentence for each factory that did not answer, or not completely."""
    told = []
    for one in sorted(outcomes, key=lambda one: one.factory):
        since = f" since {_utc(one.since)}" if one.since is not None else ""
        detail = f" ({one.detail})" if one.detail else ""
        if one.state == INCOMPLETE:
            told.append(f"{one.factory} has answered incompletely{detail}.")
        elif one.state == REFUSED:
            told.append(f"{one.factory} runs no factory{since}{detail}.")
        elif one.state == UNKNOWN:
            told.append(f"{one.factory} has no address{since}{detail}.")
        elif one.state != ANSWERED:
            told.append(f"{one.factory} does not answer{since}{detail}.")
    return told


def _statuses(outcomes: t.Iterable[Outcome], kind: type[_Status]) -> list[tuple[str, _Status]]:
    """The replies of that kind, with the factory's name."""
    return [(one.factory, reply.status) for one in outcomes for reply in one.replies if isinstance(reply.status, kind)]


def _sums(statuses: t.Sequence[MachinetypeStatus]) -> Row:
    """What factories have of a machinetype together, and how the last machine of it ended."""
    last = max(statuses, key=lambda status: status.shutdown_time or 0)
    return (
        _figure(sum(status.running_machines or 0 for status in statuses)),
        _figure(sum(status.running_processors or 0 for status in statuses)),
        f"{sum(status.running_hs06 for status in statuses):.1f}",
        str(sum(status.num_before_fizzle for status in statuses)),
        _utc(last.shutdown_time),
        _quoted(last.shutdown_message),
    )


def _page(titles: Row, rows: t.Sequence[Row], outcomes: t.Iterable[Outcome]) -> str:
    """A table and the factories that are missing from it.

    :param titles: of the columns; with ``>`` before it: the column stands to the right.
    """
    right = [title.startswith(">") for title in titles]
    lines = [tuple(title.lstrip(">") for title in titles), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    told = [
        _GAP.join(
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}" for cell, width, to_right in zip(line, widths, right)
        ).rstrip()
        for line in lines
    ]
    missing = silent(outcomes)
    return "\n".join([*told, *([""] if missing else []), *missing, ""])


def _shortener(names: t.Iterable[str]) -> t.Callable[[str], str]:
    """Host names without their domain, if it is the same for all; else as they are."""
    domains = {name.partition(".")[2] for name in names}
    return (lambda name: name.partition(".")[0]) if len(domains) == 1 else (lambda name: name)


def _age(status: MachineStatus, now: float) -> str:
    """How long it runs, or starts."""
    if status.state == RUNNING and status.started_time is not None:
        return f"{max(0.0, now - status.started_time) / 3600:.2f} h"
    if status.state == STARTING and status.created_time is not None:
        return f"{max(0.0, now - status.created_time) / 60:.1f} min"
    return _NOTHING


def _efficiency(status: MachineStatus) -> str:
    """Of a machine that runs, its processor time by its time, as Vac has it: 200 % is two processors in full use."""
    if status.state != RUNNING or None in (status.started_time, status.heartbeat_time, status.cpu_seconds):
        return _NOTHING
    seconds = t.cast("int", status.heartbeat_time) - t.cast("int", status.started_time)
    return _percent(100 * t.cast("int", status.cpu_seconds) / seconds if seconds > 0 else None)


def _percent(value: t.Optional[float]) -> str:
    return _NOTHING if value is None else f"{value:.1f}%"


def _figure(value: t.Optional[float]) -> str:
    """Machines or processors, which some factories send as 2.0."""
    return _NOTHING if value is None else f"{value:g}"


def _gib(kib: t.Optional[float]) -> str:
    return _NOTHING if kib is None else f"{kib / _GIB_IN_KIB:.1f}"


def _quoted(text: t.Optional[str]) -> str:
    return f'"{text}"' if text else _NOTHING


def _utc(seconds: t.Optional[float]) -> str:
    """A time; of one that no calendar has, what was sent."""
    if seconds is None:
        return _NOTHING
    try:
        return utc(seconds)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"


# ---- a decision --------------------------------------------------------------------------------------------------


def explain(report: Report) -> str:
    """Why the factory started last what it did, or why nothing; before that, what keeps it from deciding at all."""
    lines = [f"{report.name} in the space {report.space}, as of {_utc(report.written)}"]
    if report.engine_problem:
        lines.append(f"The engine does not answer since {_utc(report.engine_since)}: {report.engine_problem}")
    if report.host_problem:
        lines.append(f"What the host has room for is not known, and nothing is started: {report.host_problem}")
    if report.configuration_problem:
        lines.append(
            f"The configuration is refused since {_utc(report.configuration_since)}, and the one before is in use:"
            f" {report.configuration_problem}"
        )
    if report.orders_problem:
        lines.append(f"Orders are refused; those before are obeyed, and with none it drains: {report.orders_problem}")
    lines += report.records_unreadable
    lines += [f"By order, {sentence}." for sentence in report.orders.sentences(_utc)]
    for prefix, pipe in sorted(report.pipes.items()):
        if pipe.problem:
            lines.append(f"Vacuum pipe {prefix}: {pipe.problem}")
        lines += [f"Vacuum pipe {one}" for one in pipe.warnings]  # each begins with the prefix
        if pipe.unused_share > 0:
            lines.append(
                f"Vacuum pipe {prefix}: {pipe.unused_share:g} of its share is of machinetypes not started here."
            )
    for repository, seen in sorted(report.cvmfs.items()):
        if not seen.ok:
            lines.append(
                f"CVMFS repository {repository}, since {_utc(seen.since)}: {seen.problem} Machinetypes that want it are"
                " not started."
            )
    for machinetype, failures in sorted(report.failures_in_a_row.items()):
        if failures:
            lines.append(f"{machinetype}: its last {failures} machines fizzled or did not start.")
    for slot, times in sorted(report.unmeasured.items()):
        lines.append(
            f"{slot}: what its machine has written outside its work space could not be measured in time, {times} in a"
            f" row. After {UNMEASURED} it has to end."
        )
    for slot, since in sorted(report.outliving.items()):
        lines.append(
            f"{slot}: its machine outlives KILL since {_utc(since)}, for a process of it waits for a file system that"
            " does not answer. It keeps its slot until then."
        )
    if report.decision is None:
        lines += ["", "Nothing has been decided yet."]
        for pipe in report.pipes.values():
            told = (*pipe.dropped, *pipe.dropped_without_share, *pipe.not_here, *pipe.not_brought)
            lines += [f"  {sentence}" for sentence in told]
        for machinetype, image in sorted(report.images.items()):
            if not image.present:
                lines.append(f"  {machinetype}: its image is not here{f': {image.problem}' if image.problem else '.'}")
    else:
        lines += ["", f"Decided on {_utc(report.decided)}:", str(report.decision.get("factory", ""))]
        lines += [f"  {one.get('slot')}: {one.get('reason')}" for one in report.decision.get("waiting") or ()]
        lines += [f"  {one.get('reason', one.get('machinetype'))}" for one in report.decision.get("machinetypes") or ()]
        lines += [str(one) for one in report.decision.get("ignored") or ()]
    # Shutdown messages are in it, which payloads write.
    return "\n".join([*map(printable, lines), ""])

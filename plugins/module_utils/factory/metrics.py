# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's figures for Prometheus, in its text exposition format, version 0.0.4. Pure.

Counters begin anew with the daemon, as Prometheus expects. Whether the figures are fresh tells
``gridbox_factory_report_timestamp_seconds``: they are the daemon's last, alive or not.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import RUNNING, STARTING
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import Report
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED

PREFIX = "gridbox_factory_"

#: How the answer of an HTTP server that serves this is labelled.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = t.Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One metric.

    :ivar kind: ``gauge`` or ``counter``; a counter's name ends in ``_total``.
    :ivar samples: labels and value. Without any the metric is left out.
    """

    name: str
    kind: str
    help: str
    samples: t.Sequence[tuple[Labels, t.Optional[float]]]

    @property
    def text(self) -> str:
        """Its lines; a sample without a value is left out."""
        lines = [
            f"{PREFIX}{self.name}{_labels(labels)} {_number(value)}\n"
            for labels, value in self.samples
            if value is not None
        ]
        name = PREFIX + self.name
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n{''.join(lines)}" if lines else ""


def exposition(report: Report) -> str:
    """All metrics of a factory."""
    return "".join(family.text for family in (*_of_the_factory(report), *_of_what_it_needs(report), *_of_work(report)))


def _of_the_factory(report: Report) -> t.Iterator[Family]:
    about = {"factory": report.name, "space": report.space, "version": report.version}
    yield Family("info", "gauge", "Who this is; always 1.", [(about, 1)])
    yield _plain("report_timestamp_seconds", "When the daemon last told these figures, Unix time.", report.written)
    yield _plain("start_time_seconds", "When the daemon was started, Unix time.", report.started)
    yield _plain("engine_up", "Whether the container engine answers.", not report.engine_problem)
    yield _plain(
        "configuration_accepted",
        "Whether the configuration on disk is the one in use.",
        not report.configuration_problem,
    )
    counts = report.counts
    yield _plain("slots", "Slots for machines.", counts.slots)
    yield _plain("processors", "Processors that machines may have.", counts.max_processors)
    yield _plain("running_machines", "Machines that run.", counts.running_machines)
    yield _plain("running_processors", "Processors of the machines that run.", counts.running_processors)


def _of_what_it_needs(report: Report) -> t.Iterator[Family]:
    pipes = [({"pipe": prefix}, pipe) for prefix, pipe in sorted(report.pipes.items())]
    yield Family(
        "pipe_up", "gauge", "Whether the pipe's source answers with a pipe.",
        [(label, pipe.fetched_at is not None and not pipe.problem) for label, pipe in pipes],
    )  # fmt: skip
    yield Family(
        "pipe_fetched_timestamp_seconds", "gauge", "When the source last said that this is the pipe, Unix time.",
        [(label, pipe.fetched_at) for label, pipe in pipes],
    )  # fmt: skip
    yield Family(
        "pipe_machinetypes", "gauge", "Machinetypes of the pipe that may be started here.",
        [(label, len(pipe.machinetypes)) for label, pipe in pipes],
    )  # fmt: skip
    yield Family(
        "pipe_dropped_machinetypes", "gauge", "Machinetypes of the pipe that something is wrong with.",
        [(label, len(pipe.dropped) + len(pipe.dropped_without_share)) for label, pipe in pipes],
    )  # fmt: skip
    yield Family(
        "pipe_unused_share", "gauge", "What of the pipe's share is nobody's.",
        [(label, pipe.unused_share) for label, pipe in pipes],
    )  # fmt: skip
    yield Family(
        "image_present", "gauge", "Whether machines can be made from the machinetype's image.",
        [({"machinetype": name}, image.present) for name, image in sorted(report.images.items())],
    )  # fmt: skip
    yield Family(
        "cvmfs_up", "gauge", "Whether the CVMFS repository answers.",
        [({"repository": name}, one.ok) for name, one in sorted(report.cvmfs.items())],
    )  # fmt: skip
    yield Family(
        "peer_up", "gauge", "Whether the other factory of the space answered the last question completely.",
        [({"peer": name}, peer.state == ANSWERED) for name, peer in sorted(report.peers.items())],
    )  # fmt: skip


def _of_work(report: Report) -> t.Iterator[Family]:
    machines: Counter[tuple[str, str]] = Counter()
    for slot in report.slots:
        machinetype, state = slot.get("machinetype"), slot.get("state")
        if isinstance(machinetype, str) and state in (STARTING, RUNNING):
            machines[machinetype, str(state)] += 1
    yield Family(
        "machines", "gauge", "Machines that start or run.",
        [({"machinetype": name, "state": state}, number) for (name, state), number in sorted(machines.items())],
    )  # fmt: skip
    yield Family(
        "failures_in_a_row", "gauge", "Machines that fizzled or did not start since one of the machinetype worked.",
        [({"machinetype": name}, number) for name, number in sorted(report.failures_in_a_row.items())],
    )  # fmt: skip
    yield Family("decision_timestamp_seconds", "gauge", "When it was last decided, Unix time.", [({}, report.decided)])
    judged = [
        ({"machinetype": str(one.get("machinetype"))}, one) for one in (report.decision or {}).get("machinetypes") or ()
    ]
    yield Family(
        "target_share", "gauge", "What the machinetype is to have of the space, relative to the others.",
        [(label, one.get("target_share")) for label, one in judged],
    )  # fmt: skip
    yield Family(
        "usage", "gauge", "What the machinetype has in the whole space: HS06, or processors.",
        [(label, one.get("usage")) for label, one in judged],
    )  # fmt: skip
    yield Family(
        "backing_off", "gauge", "Whether the machinetype waits after an abort.",
        [(label, one.get("refusal") == "backing_off") for label, one in judged],
    )  # fmt: skip
    yield Family(
        "requests_answered_total", "counter", "VacQuery requests that got an answer.",
        [({"type": kind}, number) for kind, number in sorted(report.answered.items())],
    )  # fmt: skip
    yield Family(
        "requests_dropped_total", "counter", "VacQuery requests that got no answer, and answers that were not sent.",
        [({"reason": reason}, number) for reason, number in sorted(report.unanswered.items())],
    )  # fmt: skip
    yield Family("datagrams_sent_total", "counter", "Datagrams of VacQuery answers.", [({}, report.sent)])
    monitors = sorted(report.monitors.items())
    yield Family(
        "monitor_datagrams_sent_total", "counter", "Datagrams that were sent to the VacMon monitor.",
        [({"monitor": name}, one.sent) for name, one in monitors],
    )  # fmt: skip
    yield Family(
        "monitor_datagrams_failed_total", "counter", "Datagrams that could not be sent to the VacMon monitor.",
        [
            ({"monitor": name, "reason": reason}, number)
            for name, one in monitors for reason, number in sorted(one.failed.items())
        ],
    )  # fmt: skip


def _plain(name: str, help_: str, value: float) -> Family:
    return Family(name, "gauge", help_, [({}, value)])


def _labels(labels: Labels) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    told = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _number(value: float) -> str:
    """A whole number without a fraction, any other so that it is read back as it was."""
    return repr(int(value)) if value == int(value) else repr(float(value))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's metrics, read by a strict reader of Prometheus' text format."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.hep.gridbox.plugins.module_utils.factory.metrics import PREFIX, exposition
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import PipeStatus
from tests.unit.factory.reports import NOW, REPORT

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
HELP = re.compile(rf"# HELP ({_NAME}) (\S.*)")
TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge)")
SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")


def read(text: str) -> dict[str, float]:
    """The samples, by name and labels. Each metric has its HELP, its TYPE, then samples, once and in one piece."""
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    samples: dict[str, float] = {}
    seen: set[str] = set()
    while lines:
        help_, type_ = HELP.fullmatch(lines.pop(0)), TYPE.fullmatch(lines.pop(0))
        assert help_ and type_ and help_[1] == type_[1] and help_[1] not in seen
        seen.add(help_[1])
        assert help_[1].startswith("gridbox_factory_")
        assert help_[1].endswith("_total") == (type_[2] == "counter")
        number = len(samples)
        while lines and not lines[0].startswith("#"):
            sample = SAMPLE.fullmatch(lines.pop(0))
            assert sample and sample[1] == help_[1]
            key = f"{sample[1].replace('gridbox_factory_', '', 1)}{{{sample[2] or ''}}}"
            assert key not in samples
            samples[key] = float(sample[3])
        assert len(samples) > number
    return samples


def test_what_a_factory_tells() -> None:
    assert read(exposition(REPORT)) == {
        'info{factory="factory1.example.com",space="vac01.example.com",version="hep.gridbox 0.2.0"}': 1,
        "report_timestamp_seconds{}": NOW - 3,
        "start_time_seconds{}": NOW - 7200,
        "engine_up{}": 1,
        "configuration_accepted{}": 1,
        "slots{}": 3,
        "processors{}": 8,
        "running_machines{}": 1,
        "running_processors{}": 2,
        'pipe_up{pipe="exp"}': 1,
        'pipe_up{pipe="lhcb"}': 1,
        'pipe_fetched_timestamp_seconds{pipe="exp"}': NOW - 600.5,
        'pipe_fetched_timestamp_seconds{pipe="lhcb"}': NOW - 60,
        'pipe_machinetypes{pipe="exp"}': 2,
        'pipe_machinetypes{pipe="lhcb"}': 1,
        'pipe_dropped_machinetypes{pipe="exp"}': 0,
        'pipe_dropped_machinetypes{pipe="lhcb"}': 0,
        'pipe_unused_share{pipe="exp"}': 0.5,
        'pipe_unused_share{pipe="lhcb"}': 0,
        'image_present{machinetype="exp-dc-prod"}': 1,
        'image_present{machinetype="lhcb-dc-prod"}': 1,
        'cvmfs_up{repository="lhcb.cern.ch"}': 1,
        'peer_up{peer="factory2.example.com"}': 1,
        'peer_up{peer="factory3.example.com"}': 0,
        'machines{machinetype="exp-dc-prod",state="running"}': 1,
        'failures_in_a_row{machinetype="exp-dc-prod"}': 0,
        'failures_in_a_row{machinetype="local"}': 2,
        "decision_timestamp_seconds{}": NOW - 30,
        'target_share{machinetype="exp-dc-prod"}': 2,
        'target_share{machinetype="exp-dc-idle"}': 0,
        'target_share{machinetype="local"}': 1.5,
        'usage{machinetype="exp-dc-prod"}': 20,
        'usage{machinetype="exp-dc-idle"}': 0,
        'usage{machinetype="local"}': 0.25,
        'backing_off{machinetype="exp-dc-prod"}': 1,
        'backing_off{machinetype="exp-dc-idle"}': 0,
        'backing_off{machinetype="local"}': 0,
        'requests_answered_total{type="machinetypes_query"}': 20,
        'requests_answered_total{type="factory_query"}': 3,
        'requests_dropped_total{reason="wrong_space"}': 1,
        "datagrams_sent_total{}": 63,
        'monitor_datagrams_sent_total{monitor="vacmon.example.com:8884"}': 42,
        'monitor_datagrams_sent_total{monitor="[2001:db8::1]:8884"}': 3,
        'monitor_datagrams_failed_total{monitor="[2001:db8::1]:8884",reason="unsendable"}': 2,
        'monitor_datagrams_failed_total{monitor="[2001:db8::1]:8884",reason="unknown_host"}': 5,
    }


def test_prometheus_own_library_reads_the_same() -> None:
    """All families with their types and texts, and each sample by its labels."""
    awkward = replace(REPORT, failures_in_a_row={'a"b\\c\nd\\': 4, "ü": 0}, sent=10**12)
    for report in (REPORT, awkward):
        text = exposition(report)
        families = list(text_string_to_metric_families(text))
        assert {family.type for family in families} == {"gauge", "counter"}
        assert all(family.documentation and family.samples for family in families)
        assert len(families) == text.count("# TYPE ")
        samples = {
            f"{one.name[len(PREFIX) :]}{{{','.join(map(_as_written, one.labels.items()))}}}": one.value
            for family in families
            for one in family.samples
        }
        assert samples == read(text)


def _as_written(label: tuple[str, str]) -> str:
    name, value = label
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


def test_trouble_is_a_zero() -> None:
    report = replace(
        REPORT, engine_problem="gone", configuration_problem="wrong",
        pipes={"a": PipeStatus(None, "down"), "b": PipeStatus(5.0, "down"), "c": PipeStatus()},
    )  # fmt: skip
    found = read(exposition(report))
    assert [found[f"{name}{{}}"] for name in ("engine_up", "configuration_accepted")] == [0, 0]
    assert [found[f'pipe_up{{pipe="{prefix}"}}'] for prefix in "abc"] == [0, 0, 0]
    assert 'pipe_fetched_timestamp_seconds{pipe="a"}' not in found


def test_what_is_not_known_is_left_out() -> None:
    nothing = replace(
        REPORT, pipes={}, images={}, cvmfs={}, slots=(), decision=None, decided=None, peers={}, answered={},
        unanswered={}, failures_in_a_row={}, monitors={},
    )  # fmt: skip
    assert {key.partition("{")[0] for key in read(exposition(nothing))} == {
        "info", "report_timestamp_seconds", "start_time_seconds", "engine_up", "configuration_accepted", "slots",
        "processors", "running_machines", "running_processors", "datagrams_sent_total",
    }  # fmt: skip


def test_labels_are_escaped() -> None:
    name = 'a"b\\c\nd\\'
    found = read(exposition(replace(REPORT, failures_in_a_row={name: 4})))
    assert found['failures_in_a_row{machinetype="a\\"b\\\\c\\nd\\\\"}'] == 4

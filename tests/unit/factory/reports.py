# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's configuration, machines and report, for tables of what is told of them."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED, Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.orders import Orders, SlotOrder
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import (
    Counts,
    ImageStatus,
    MonitorStatus,
    PeerStatus,
    PipeStatus,
    Report,
    of_slots,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings

NOW = 1_795_187_700
SLOTS = ("factory1-00.example.com", "factory1-01.example.com", "factory1-02.example.com")
SETTINGS = FactorySettings("factory1.example.com", SLOTS, 8, hs06_per_processor=10.0)
CONFIGURATION = Configuration(SETTINGS, "vac01.example.com", "UKI-EXAMPLE")

#: The machine of the real record in spec 8.1.
ENDED_MACHINE = Machine(
    uuid="19336db5-b6d7-48fe-b7eb-e55b8fe0977f",
    slot=SLOTS[0],
    machinetype="exp-dc-prod",
    machine_model="docker",
    processors=2,
    created=1795187334,
    shutdown_time=1795190934,
    memory_bytes=2 * 64 << 20,
    root_image="registry.example.org/exp/pilot:1",
    fizzle_seconds=60,
    hs06=20.0,
    accounting_fqan="/exp/Role=production",
    state=ENDED,
    container="c" * 64,
    started=1795187335,
    seen=1795187456,
    ended=1795187457,
    cpu_seconds=2,
    exit_code=0,
    shutdown_message="200 Success",
    end_code="by_itself",
)
RUNNING_MACHINE = replace(
    ENDED_MACHINE, uuid="2a336db5-b6d7-48fe-b7eb-e55b8fe0977f", slot=SLOTS[1], state="running", ended=None,
    exit_code=None, shutdown_message=None, end_code="", cpu_seconds=600,
)  # fmt: skip

DECISION: dict[str, t.Any] = {
    "start": None,
    "veto": None,
    "factory": "factory1.example.com starts nothing: no machinetype can be started now; 2 of 8 processors are taken",
    "machinetypes": [
        {"machinetype": "exp-dc-prod", "target_share": 2.0, "usage": 20.0, "refusal": "backing_off",
         "reason": 'exp-dc-prod (share 2, usage 20): not now: backing off for 50 s more after "300 Nothing to do"'},
        {"machinetype": "exp-dc-idle", "target_share": 0.0, "usage": 0, "refusal": "no_share",
         "reason": "exp-dc-idle (share 0, usage 0): not now: its target_share is 0"},
        {"machinetype": "local", "target_share": 1.5, "usage": 0.25, "refusal": None,
         "reason": "local (share 1.5, usage 0.25): could be started"},
    ],
    "ignored": ["factory9.example.com says that local has -1 HS06, which cannot be"],
}  # fmt: skip

REPORT = Report(
    version="hep.gridbox 0.2.0",
    name="factory1.example.com",
    space="vac01.example.com",
    written=NOW - 3,
    started=NOW - 7200,
    pid=4711,
    pipes={
        "exp": PipeStatus(NOW - 600.5, "", ("exp-dc-prod", "exp-dc-idle"), (), 0.5),
        "lhcb": PipeStatus(NOW - 60, machinetypes=("lhcb-dc-prod",)),
    },
    images={"exp-dc-prod": ImageStatus(True), "lhcb-dc-prod": ImageStatus(True, since=NOW - 9000)},
    cvmfs={"lhcb.cern.ch": Finding(True)},
    slots=of_slots(SLOTS, [ENDED_MACHINE, RUNNING_MACHINE]),
    counts=Counts.of(SETTINGS, [ENDED_MACHINE, RUNNING_MACHINE]),
    decision=DECISION,
    decided=NOW - 30,
    peers={
        "factory2.example.com": PeerStatus("answered"),
        "factory3.example.com": PeerStatus("silent", NOW - 500),
    },
    answered={"machinetypes_query": 20, "factory_query": 3},
    unanswered={"wrong_space": 1},
    sent=63,
    monitors={
        "vacmon.example.com:8884": MonitorStatus(42),
        "[2001:db8::1]:8884": MonitorStatus(3, {"unsendable": 2, "unknown_host": 5}),
    },
    failures_in_a_row={"exp-dc-prod": 0, "local": 2},
    orders=Orders(slots={SLOTS[2]: SlotOrder("drained", since=NOW - 60)}),
    factories=(
        Peer("factory1.example.com", "127.0.0.1"), Peer("factory2.example.com"),
        Peer("factory3.example.com", "192.0.2.3", 9953),
    ),
    metrics_file="/var/lib/prometheus/node-exporter/gridbox.prom",
    fixed=CONFIGURATION.fixed,
    configuration_stamp="11:1795187000123456789:500",
    program_stamp="12:1795187000123456789:90000",
    key_stamp="13:1795187000123456789:65",
)  # fmt: skip

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import tracemalloc

from ansible_collections.hep.gridbox.plugins.module_utils.factory.space import Usages, usages
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import dump
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.messages import (
    Envelope,
    FactoryStatus,
    MachinetypeStatus,
    Reply,
    parse_reply_bytes,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED, Outcome
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import PeerUsage


def reply(factory: str, machinetype: str, running: int = 3) -> Reply:
    """As it comes from the network."""
    status = MachinetypeStatus(machinetype, 10.0 * running, 1, "200 Success", 1_795_187_000, "m", running, running)
    return parse_reply_bytes(dump(Reply(Envelope("c" * 64, "vac01.example.com", factory), status, 20).as_data()))


def test_of_each_machinetype_of_a_factory_the_last_reply_counts() -> None:
    said = Usages()
    for one in (reply("f2", "a"), reply("F2", "a", 4), reply("f3", "a"), reply("f2", "b", 0)):
        said.add(one)
    said.add(Reply(Envelope("c", "vac01.example.com", "f2"), FactoryStatus()))
    assert list(said) == [
        PeerUsage("f2", "a", 40.0, 4.0, 1, "200 Success", 1_795_187_000),
        PeerUsage("f3", "a", 30.0, 3.0, 1, "200 Success", 1_795_187_000),
        PeerUsage("f2", "b", 0.0, 0.0, 1, "200 Success", 1_795_187_000),
    ]
    outcomes = [Outcome("f2", ANSWERED, (reply("f2", "a"), reply("f2", "b")))]
    assert [one.machinetype for one in usages(outcomes)] == ["a", "b"]


def test_little_is_kept_of_each_reply() -> None:
    """A space of a thousand factories with twenty machinetypes has 20,000; whole ones are more than 2 kB each."""
    said, many = Usages(), 2000
    tracemalloc.start()
    try:
        for number in range(many):
            said.add(reply(f"factory{number // 20}.example.com", f"exp{number % 20}-dc-prod"))
        assert tracemalloc.get_traced_memory()[0] / many < 600
    finally:
        tracemalloc.stop()
    assert len(list(said)) == many

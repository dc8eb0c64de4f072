# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting a container's output, and what follows from it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.outage_budget import (
    DAEMON_BYTES,
    PIPE_BYTES,
    Counter,
    first_full,
    in_the_daemon,
)


def _frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=12), st.lists(st.integers(1, 40)))
def test_bytes_are_counted_by_stream_wherever_the_pieces_are_cut(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(_frame(stream, payload) for stream, payload in frames)
    counter = Counter(terminal=False)
    for cut in cuts:
        counter.feed(data[:cut])
        data = data[cut:]
    counter.feed(data)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        assert counter.counted[stream] == sum(len(payload) for which, payload in frames if which == number)


def test_a_terminal_has_one_stream_without_headers() -> None:
    counter = Counter(terminal=True)
    counter.feed(b"\x01\x00\x00\x00\x00\x00\x00\x05hello")
    assert counter.counted == {"stdout": 13}


@pytest.mark.parametrize(
    ("rates", "capacity", "stream", "seconds"),
    [
        ({"stdout": 1024.0, "stderr": 0.0}, {"stdout": 131072, "stderr": 131072}, "stdout", 128.0),
        ({"stdout": 10.0, "stderr": 20.0}, {"stdout": 131072, "stderr": 131072}, "stderr", 6553.6),
        ({"stdout": 10.0, "stderr": 20.0}, {"stdout": 8192, "stderr": 131072}, "stdout", 819.2),
        ({"stdout": 0.0, "stderr": 0.0}, {"stdout": 131072, "stderr": 131072}, "stdout", None),
        ({"stdout": 100.0}, {"stdout": 69632}, "stdout", 696.3),
    ],
)
def test_the_stream_that_is_full_first_decides(
    rates: dict[str, float], capacity: dict[str, int], stream: str, seconds: float | None
) -> None:
    result = first_full("vobox1", rates, capacity, 7).as_result()
    assert result == {
        "container": "vobox1",
        "stream": stream,
        "bytes_per_second": rates[stream],
        "capacity": capacity[stream],
        "daemon_bytes": 7,
        "seconds": seconds,
    }


@pytest.mark.parametrize(
    ("driver", "drops", "held"),
    [
        ("json-file", False, DAEMON_BYTES),
        ("local", False, DAEMON_BYTES),
        ("json-file", True, None),
        ("fluentd", False, None),
        ("none", False, 0),
    ],
)
def test_what_the_daemon_holds_is_told_where_it_is_known(driver: str, drops: bool, held: int | None) -> None:
    assert in_the_daemon(driver, drops) == held


OF_SOMEBODY = """
import os, sys
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.containers import Running
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.outage_budget import capacities
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(capacities(Running("vobox1", "id", int(sys.argv[1]), 0, False)))
"""


def test_pipes_that_may_not_be_looked_at_count_as_the_kernels_default() -> None:
    """As for a login in the group docker: another user's process, and the first one."""
    said = subprocess.run(
        [sys.executable, "-c", OF_SOMEBODY, "1"], check=True, timeout=30, capture_output=True, text=True
    ).stdout  # fmt: skip
    assert said.strip() == str({"stdout": 2 * PIPE_BYTES, "stderr": 2 * PIPE_BYTES})

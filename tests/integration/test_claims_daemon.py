# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claims A13 and A15: with live restore containers outlive their daemon, until nothing has room for their output."""

from __future__ import annotations

import contextlib
import signal
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab

Claim = t.Callable[..., None]


def _live_restore(lab: Lab, name: str, **arguments: t.Any) -> dict[str, t.Any]:
    files = {"config_file": str(lab.engine.config), "pidfile": str(lab.engine.folder / "pid")}
    return lab.module(name, **files, **arguments)


def _pid(lab: Lab, name: str) -> int:
    return int(lab.docker("inspect", "--format", "{{.State.Pid}}", name))


def _started(pid: int) -> str:
    """When the process started; empty if it is gone. With the pid it names one process for good."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def test_a13_containers_outlive_their_daemon_with_live_restore_only(own_lab: Lab, claim: Claim) -> None:
    outcome: dict[tuple[bool, str], tuple[bool, bool]] = {}
    for enabled in (True, False):
        _live_restore(own_lab, "live_restore", state="present" if enabled else "absent")
        for way, number in (("kill", signal.SIGKILL), ("stop", signal.SIGTERM), ("restart", signal.SIGTERM)):
            own_lab.docker(
                "run",
                "--detach",
                "--name",
                "vobox",
                "--network",
                "none",
                "--stop-signal",
                "KILL",
                "busybox:test",
                "sleep",
                "9999",
            )
            pid = _pid(own_lab, "vobox")
            start = _started(pid)
            own_lab.engine.kill(number)
            if way != "restart":
                time.sleep(0.5)
            without_daemon = _started(pid) == start
            own_lab.engine.start()
            with_the_next = _started(pid) == start and _pid(own_lab, "vobox") == pid
            outcome[enabled, way] = without_daemon, with_the_next
            own_lab.docker("rm", "--force", "vobox")
    kept = {way: result for (enabled, way), result in outcome.items() if enabled}
    lost = {way: result for (enabled, way), result in outcome.items() if not enabled}
    assert kept == dict.fromkeys(("kill", "stop", "restart"), (True, True))
    # Without it a killed daemon's containers go on until the next one ends them.
    assert lost == {"kill": (True, False), "stop": (False, False), "restart": (False, False)}
    claim("A13", same_process_with=f"{sum(both == (True, True) for both in kept.values())}/3",
          same_process_without=f"{sum(both[1] for both in lost.values())}/3", ways="kill-9,stop,restart")  # fmt: skip


#: Writes lines of 100 bytes at a fixed rate, however busy the machine is, and notes after each how many there were.
WRITER = """
read up idle </proc/uptime; begin=${up%.*}${up#*.}; n=0
while :; do
    read up idle </proc/uptime; now=${up%.*}${up#*.}
    while [ $n -lt $(( (now - begin) * RATE / 100 )) ]; do n=$((n + 1)); printf '%099d\\n' $n; echo $n >/tmp/n; done
    usleep 20000
done
"""
#: Writes as a quiet VO-box does: services log to files. A day's worth at a kilobyte a second.
QUIET = """
echo 1 >/tmp/n
until [ -e /tmp/go ]; do usleep 20000; done
dd if=/dev/zero of=/tmp/log bs=1024 count=86400 2>/tmp/err && echo 86400 >/tmp/n
sleep 9999
"""

RATES = {"slow": 150, "fast": 300, "flood": 3000}


class Writer:
    """A container that writes, watched from the host while there is no daemon."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.pid = _pid(lab, name)
        self.start = _started(self.pid)
        self.lines = 0
        self.changed = 0.0

    def look(self) -> bool:
        """Read the count; false where that fell into a moment in which it was being written."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            lines = int(Path(f"/proc/{self.pid}/root/tmp/n").read_text())
            if lines != self.lines:
                self.lines, self.changed = lines, time.monotonic()
            return True
        return False

    def count(self) -> int:
        """How many lines there are now."""
        deadline = time.monotonic() + 10
        while not self.look():
            assert time.monotonic() < deadline, f"{self.name} does not say how many lines it has written"
        return self.lines


def test_a15_a_container_blocks_when_the_buffers_are_full_and_the_budget_says_when(own_lab: Lab, claim: Claim) -> None:
    _live_restore(own_lab, "live_restore")
    for name, rate in RATES.items():
        script = WRITER.replace("RATE", str(rate))
        own_lab.docker("run", "--detach", "--name", name, "--network", "none", "busybox:test", "sh", "-c", script)
    own_lab.docker("run", "--detach", "--name", "quiet", "--network", "none", "busybox:test", "sh", "-c", QUIET)
    info = _live_restore(own_lab, "live_restore_info", budget_window=4)
    budget = {entry["container"]: entry for entry in info["outage_budget"]}
    assert budget["quiet"]["seconds"] is None

    writers = {name: Writer(own_lab, name) for name in (*RATES, "quiet")}
    before = {name: writers[name].count() for name in RATES}
    own_lab.engine.kill()
    gone = time.monotonic()
    after = {name: writers[name].count() for name in RATES}
    Path(f"/proc/{writers['quiet'].pid}/root/tmp/go").touch()
    while time.monotonic() < gone + 1.2 * budget["slow"]["seconds"]:
        for writer in writers.values():
            writer.look()
        time.sleep(0.01)
    # On a busy machine a flood writes much between two looks: what was accepted lies between these two.
    accepted = {name: 100 * (writers[name].lines - after[name]) for name in RATES}
    at_most = {name: 100 * (writers[name].lines - before[name]) for name in RATES}
    seconds = {name: writers[name].changed - gone for name in RATES}
    for name in RATES:
        writer = writers[name]
        assert _started(writer.pid) == writer.start  # it hangs; it did not crash
        assert "pipe_write" in Path(f"/proc/{writer.pid}/wchan").read_text()
    assert writers["quiet"].lines == 86400  # and with the log in a file there is nothing to hang on

    own_lab.engine.start()
    blocked = {name: writers[name].lines for name in RATES}
    deadline = time.monotonic() + 20
    while any(writers[name].lines <= blocked[name] + 10 for name in RATES):
        for writer in writers.values():
            writer.look()
        assert time.monotonic() < deadline, "the writers do not go on with the next daemon"
        time.sleep(0.02)
    lines = [int(line) for line in own_lab.docker("logs", "slow").split()]
    assert lines == list(range(1, len(lines) + 1))  # not one was lost
    for name in RATES:
        assert accepted[name] <= 1.1 * budget[name]["capacity"]
        assert at_most[name] >= 0.9 * budget[name]["capacity"]
    assert accepted["slow"] == pytest.approx(budget["slow"]["capacity"], rel=0.1)
    assert seconds["slow"] == pytest.approx(budget["slow"]["seconds"], rel=0.1)
    claim(
        "A15",
        bytes_accepted=accepted["slow"],
        at_twice_the_rate=accepted["fast"],
        in_a_flood=accepted["flood"],
        capacity=budget["slow"]["capacity"],
        predicted_s=budget["slow"]["seconds"],
        blocked_after_s=round(seconds["slow"], 2),
        off_percent=round(100 * (budget["slow"]["seconds"] / seconds["slow"] - 1), 1),
        then="blocks",
        quiet_bytes=writers["quiet"].lines * 1024,
        quiet_blocks="no",
        lines_lost=0,
    )

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``gridbox-reconcile``: bring back the VO-boxes that the engine does not bring back.

It starts those that the engine has given up on, takes back or finishes swaps that were interrupted, finishes restarts
that were, and restarts unhealthy ones where that is wished. It makes and replaces none, and leaves alone what somebody
has stopped and what another run is at work on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.units import UNIT_FOLDER
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.module_utils.network.observe import enter_namespace_of
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile import memory
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.decide import (
    Box,
    Finding,
    Past,
    Rules,
    decide,
    explain,
    well_again,
)
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.observe import observe
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import handover
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import subject_of
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import forget, noted, restart

#: Exit statuses, beside argparse's 2 for wrong arguments.
ALL_WELL, NOT_WELL, CANNOT_TELL = 0, 1, 3

#: Seconds between two looks while something is awaited.
_PAUSE = 1.0


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Run the command.

    :returns: its exit status.
    """
    asked = _parser().parse_args(arguments)
    try:
        engine = engine_from({"engine": "auto", "engine_url": asked.engine_url, "engine_timeout": 120})
        run = Run(engine, Rules(frozenset(asked.leave), asked.restart_unhealthy), asked.state, asked.unit_folder)
        if asked.dry_run:
            findings = run.look(patient=asked.wait > 0)
        else:
            findings = run.reconcile(asked.wait)
            run.save(findings)
    except GridboxError as exc:
        _say(str(exc))
        return CANNOT_TELL
    if asked.json:
        sys.stdout.write(json.dumps({"findings": [finding.as_data() for finding in findings]}, indent=1) + "\n")
    elif asked.dry_run:
        for finding in findings:
            sys.stdout.write(f"{finding.name}: {finding.action}{': ' if finding.reason else ''}{finding.reason}\n")
    return ALL_WELL if all(finding.well for finding in findings) else NOT_WELL


class Run:
    """One run.

    :param state: path of the file in which it remembers, see :mod:`.memory`.
    """

    def __init__(self, engine: DockerApi, rules: Rules, state: str, unit_folder: str = UNIT_FOLDER) -> None:
        self.engine = engine
        self.rules = rules
        self._state = state
        self._unit_folder = unit_folder
        self._memory = memory.load(state)

    def look(self, patient: bool) -> list[Finding]:
        """Look at all VO-boxes and decide; changes nothing."""
        boxes = observe(self.engine, self._unit_folder)
        self._memory.past = {
            box.name: self._memory.past[box.name]
            for box in boxes
            if box.name in self._memory.past and not well_again(box)
        }
        return [self._decide(box, patient) for box in boxes]

    def reconcile(self, seconds: float) -> list[Finding]:
        """Look, act, and look again as long as something is awaited.

        :param seconds: how long to wait for what a VO-box needs.
        :returns: how each VO-box was left.
        """
        deadline = time.monotonic() + seconds
        told: set[tuple[str, str]] = set()
        while True:
            patient = time.monotonic() < deadline
            findings = [self._act(finding) for finding in self.look(patient)]
            waiting = [finding for finding in findings if finding.action == "wait"]
            if not waiting or not patient:
                break
            for finding in waiting:
                if (finding.name, finding.reason) not in told:
                    told.add((finding.name, finding.reason))
                    _say(f"{finding.name}: {finding.reason}; looking again for up to {seconds:g} s")
            time.sleep(_PAUSE)
        for identity in noted():
            self._forget_restart(identity)
        for finding in waiting:
            self._note(finding.name, f"not in service: {finding.reason}; waited {seconds:g} s")
        for finding in findings:
            if finding.action in ("later", "leave"):
                _say(f"{finding.name}: {finding.reason}")
        return findings

    def save(self, findings: t.Sequence[Finding]) -> None:
        """Remember the run."""
        self._memory.looked = _now()
        self._memory.findings = list(findings)
        self._memory.save(self._state)

    def _decide(self, box: Box, patient: bool) -> Finding:
        return decide(box, self._memory.past.get(box.name, Past()), self.rules, _since_boot(), patient)

    def _act(self, finding: Finding) -> Finding:
        """Bring a VO-box back if the finding says how; the finding as it is afterwards."""
        name = finding.name
        if finding.action not in ("start", "restart", "recover"):
            return finding
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(Lock(subject_of(self.engine, name), 0))
            except WaitError:
                return Finding(name, "leave", "another run, or the undo of one, is at work on it", well=True)
            # It may have been changed by a run that held the lock until now.
            boxes = observe(self.engine, self._unit_folder, only=name)
            if not boxes or self._decide(boxes[0], patient=False).action != finding.action:
                return Finding(name, "none", well=True)
            past = self._memory.past.get(name, Past())
            self._memory.past[name] = Past(past.tries + 1, _since_boot())
            try:
                done = self._bring_back(boxes[0], finding)
            except GridboxError as exc:
                reason = explain(str(exc))
                self._note(name, f"{finding.action} failed: {reason}")
                return Finding(name, "later", reason)
        self._note(name, f"{finding.action}ed: {done}")
        return Finding(name, "none", f"{finding.action}ed", well=True)

    def _bring_back(self, box: Box, finding: Finding) -> str:
        """Do what the finding says; what was done, or why."""
        if finding.action == "start":
            self.engine.start_container(box.id)
            forget(box.id)
        elif finding.action == "restart":
            restart(self.engine, box.id, box.grace)
        else:
            # The LAN is told over links of the namespace in which the engine is.
            enter_namespace_of(self.engine)
            return " ".join(handover.recover(self.engine, box.name))
        return finding.reason

    def _forget_restart(self, identity: str) -> None:
        """Drop the note on a restart that has failed, of a container that runs: whoever stops it wants it to stay so.
        One that is not there may be another engine's."""
        container = self.engine.container(identity)
        if container is None:
            return
        with contextlib.suppress(WaitError), Lock(subject_of(self.engine, container["Name"].lstrip("/")), 0):
            # Whoever held the lock until now may have stopped it for a restart.
            if ((self.engine.container(identity) or {}).get("State") or {}).get("Running"):
                forget(identity)

    def _note(self, name: str, text: str) -> None:
        self._memory.note(_now(), name, text)
        _say(f"{name}: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gridbox-reconcile",
        description="Start the VO-boxes that the engine could not start and does not try again, once what they need is"
        " there: the link of their network, what is mounted in them, CVMFS. Take back, or finish, what a power cut"
        " has left of a swap, and finish a restart that it has cut short. Nothing else is made, replaced or removed;"
        " what somebody has stopped stays stopped.",
        epilog="Exit status: 0 all VO-boxes are as they should be; 1 one is not, see what is said; 2 wrong arguments; 3"
        " the engine or the host could not be asked.",
    )
    parser.add_argument(
        "--engine-url", metavar="URL", help="where the engine listens; Docker's usual socket if not given"
    )
    parser.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="how long to wait for what is missing (%(default)s)"
    )
    parser.add_argument(
        "--leave", action="append", default=[], metavar="NAME",
        help="a VO-box that is not to be touched; again for more",
    )  # fmt: skip
    parser.add_argument(
        "--restart-unhealthy", action="store_true", help="restart a VO-box whose health check finds it unhealthy"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--state", default=memory.PATH, metavar="FILE", help="where it remembers its last run (%(default)s)"
    )
    parser.add_argument(
        "--unit-folder", default=UNIT_FOLDER, metavar="FOLDER",
        help="where the units are that mount CVMFS (%(default)s)",
    )  # fmt: skip
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)

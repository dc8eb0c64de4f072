# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start and stop a factory's daemon. Its machines are left alone, and found again by the next one."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.running import Running
from ansible_collections.hep.gridbox.plugins.module_utils.host import background, command, netns
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step


def stop(daemon: Running, seconds: float) -> None:
    """End a daemon, by systemd if that has started it.

    :raises WaitError: if it still runs after ``seconds``.
    """
    if daemon.unit:
        command.run(f"Stopping {daemon.unit}", ["systemctl", "stop", "--", daemon.unit], seconds)
    else:
        background.stop("The factory's daemon", daemon.pid, daemon.start, seconds)


def start_again(unit: str, argv: t.Sequence[str], log_file: str) -> None:
    """Start a daemon as it was started before. Whether it comes up, nobody waits for."""
    if unit:
        command.run(f"Starting {unit}", ["systemctl", "start", "--", unit])
    else:
        background.start(argv, log_file)


def undo_data(daemon: Running, way_in: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """What :func:`run_again` has to know of a daemon that is about to be stopped; JSON types.

    :param way_in: command before its own: into its network namespace.
    """
    return {"pid": daemon.pid, "start": daemon.start, "unit": daemon.unit, "argv": [*way_in, *daemon.argv]}


def run_again(daemon: t.Optional[Running], stopped: t.Mapping[str, t.Any], log_file: str, seconds: float) -> None:
    """Have a daemon work again that was stopped, or was about to be.

    :param daemon: that runs now. If it is still the same, it may have been told to end, and do so later, when nobody
        looks: so its end comes first. To be told twice is nothing to it.
    :param stopped: its :func:`undo_data`.
    :param seconds: for its end.
    :raises GridboxError: if it has not ended by then; nothing was started.
    """
    if daemon is not None and (daemon.pid, daemon.start) != (stopped["pid"], stopped["start"]):
        return
    if daemon is not None and not stopped["unit"]:  # systemd starts a unit when its stop is through
        try:
            stop(daemon, seconds)
        except WaitError as exc:
            left = "It was told to end, and nothing was started again: start it when it has ended"
            raise GridboxError(f"{exc} {left}.") from exc
    start_again(stopped["unit"], stopped["argv"], log_file)


@dataclass(frozen=True)
class Wish:
    """The daemon as it is wanted.

    :ivar state: ``started``, ``restarted`` or ``stopped``.
    :ivar configuration: path of the file it works by.
    :ivar wait_timeout: seconds to come up, and to end.
    :ivar netns: path of the network namespace to run in; empty: the one Ansible runs in.
    """

    state: str
    program: str
    configuration: str
    log_file: str
    wait_timeout: int
    netns: str = ""

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        for option in ("program", "path", "log_file"):
            path = params[option]
            if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
                raise InputError(option, path, "an absolute path without .. or a trailing slash")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        asked = netns.from_option(params["netns"])
        return cls(
            params["state"], params["program"], params["path"], params["log_file"], params["wait_timeout"], asked
        )  # fmt: skip

    @property
    def argv(self) -> tuple[str, ...]:
        """How it is started."""
        daemon = running.arguments(self.program, self.configuration)
        return (*netns.way_in(self.netns), *daemon, "--log", self.log_file)


def plan(wish: Wish, daemon: t.Optional[Running]) -> Plan:
    """Decide whether to start, restart or stop. Pure."""
    steps: list[Step] = []
    if daemon is not None and wish.state != "started":
        steps.append(Step("stop", wish.configuration, f"state is {wish.state}", Disruption.reload))
    if wish.state == "restarted" or (wish.state == "started" and daemon is None):
        steps.append(Step("start", wish.configuration, "it is to run"))
    return Plan(tuple(steps), {"running": daemon is not None}, {"running": wish.state != "stopped"})


class ServiceWork:
    """The work of the module ``vacuum_factory_daemon``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"the daemon of {wish.configuration}"
        self._started = 0

    def observe(self) -> t.Optional[Running]:
        # A daemon can be stopped whatever has become of its file, and says itself why it does not start with one.
        folders = []
        with contextlib.suppress(GridboxError):
            folders.append(load(self.wish.configuration).state_folder)
        return running.find(self.wish.program, self.wish.configuration, folders)

    def plan(self, daemon: t.Optional[Running]) -> Plan:
        # What this run has just started fulfils "restarted": the plan made of it afterwards must be empty.
        if self._started and daemon is not None and daemon.pid == self._started:
            return Plan((), {"running": True}, {"running": True})
        return plan(self.wish, daemon)

    def preflight(self, plan: Plan, daemon: t.Optional[Running]) -> None:
        if not any(step.action == "start" for step in plan.steps):
            return
        if not os.path.exists(self.wish.configuration):
            raise RefusedError(
                f"path: {self.wish.configuration}",
                "there is no such file",
                "Write it first, with the module hep.gridbox.vacuum_factory.",
            )
        if self.wish.netns and not os.path.exists(self.wish.netns):
            raise netns.missing(self.wish.netns)
        if not os.access(self.wish.program, os.X_OK):
            raise RefusedError(
                f"program: {self.wish.program}",
                "there is no such program",
                "Install it first, with the module hep.gridbox.host_program.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        wish = self.wish
        if step.action == "stop":
            daemon = self.observe()
            if daemon is not None:
                data = undo_data(daemon, netns.way_in(wish.netns))
                journal.will_do("started the daemon again", "start_again", **data)
                stop(daemon, wish.wait_timeout)
            return
        os.makedirs(os.path.dirname(wish.log_file), mode=0o755, exist_ok=True)
        child, begin = background.start(wish.argv, wish.log_file)
        # After it, for only its number tells it from one that somebody else starts now, and which keeps it from coming
        # up. Who is killed in between leaves what was wanted: a daemon.
        own = {"pid": child.pid, "start": background.started(child.pid)}
        journal.will_do("stopped the daemon that did not come up", "stop_started", **own)
        deadline = time.monotonic() + wish.wait_timeout
        while True:
            found = self.observe()
            if found is not None and found.pid == child.pid and found.report is not None:
                break
            words = " ".join(background.words(wish.log_file, begin)[-3:]) or f"nothing in {wish.log_file}"
            if child.poll() is not None:
                raise GridboxError(f"Starting the factory's daemon failed. It says: {words}")
            if time.monotonic() > deadline:
                raise WaitError("the factory's daemon to write its first report", wish.wait_timeout, words)
            time.sleep(0.1)
        self._started = child.pid
        journal.settle()

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "stop_started":
            background.stop("The factory's daemon", data["pid"], data["start"], self.wish.wait_timeout)
        elif name == "start_again":
            run_again(self.observe(), data, self.wish.log_file, self.wish.wait_timeout)

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, daemon: t.Optional[Running], plan: Plan, applied: bool) -> dict[str, t.Any]:
        known = daemon if applied or not plan.steps else None
        return {"pid": known.pid if known is not None else None}

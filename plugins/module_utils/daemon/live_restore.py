# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Live restore: one key of the daemon's configuration, brought in by SIGHUP, confirmed by the daemon.

What dockerd does was measured on 20.10 and read in the sources up to 29: a reload takes the key over; a key that is no
longer there leaves the running daemon as it is; a file the daemon refuses (an unknown key, a wrong type, a key that is
a flag too) leaves all of it as it was and is told to its log only; a reload in swarm mode is accepted, and the next
start of the daemon fails. Each reload that worked is an event that names the value.
"""

from __future__ import annotations

import os
import signal
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import (
    config_file,
    containers,
    listener,
    unit,
    validation,
)
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.config_file import ConfigFile
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.containers import Running
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.json_text import parse, with_value, without
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.outage_budget import budgets, check_window
from ansible_collections.hep.gridbox.plugins.module_utils.daemon.unit import Unit
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import process_of
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

KEY = "live-restore"

#: What a file that has to be made, or is empty, starts from.
NEW_FILE = "{\n}\n"

PODMAN = (
    "Podman has no daemon that its containers depend on: they outlive its service anyway, and there is nothing to set."
)

_ABSENT = object()
_RELOADS = {"type": ["daemon"], "event": ["reload"]}


@dataclass(frozen=True)
class Wish:
    """Live restore as it is wanted.

    :ivar present: whether it shall be on.
    :ivar wait_timeout: seconds for the daemon to take it over.
    :ivar budget_window: seconds for which the containers' output is measured; 0 for not at all.
    """

    present: bool
    config_file: str
    pidfile: str
    unit: t.Optional[str]
    wait_timeout: int
    budget_window: int

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check a module's arguments; those of the info module too, which wish for nothing.

        :raises InputError: for a value that cannot be right.
        """
        for option in ("config_file", "pidfile"):
            path = params[option]
            if not path.startswith("/") or path.endswith("/") or "\0" in path:
                raise InputError(option, path, "an absolute path of a file")
        unit.check_name(params["unit"])
        wait_timeout = params.get("wait_timeout", 1)
        if not 1 <= wait_timeout <= 3600:
            raise InputError("wait_timeout", wait_timeout, "a number of seconds from 1 to 3600")
        check_window(params["budget_window"])
        return cls(
            present=params.get("state", "present") == "present",
            config_file=params["config_file"],
            pidfile=params["pidfile"],
            unit=params["unit"],
            wait_timeout=wait_timeout,
            budget_window=params["budget_window"],
        )


@dataclass(frozen=True)
class Daemon:
    """The running daemon.

    :ivar flags: its command line.
    :ivar flag: ``--live-restore`` on it; None without it.
    :ivar config_file: the file it reads, with symbolic links followed.
    :ivar enabled: what it says itself.
    :ivar swarm: its state in a swarm, ``inactive`` for none.
    :ivar units: the systemd units it depends on; none where systemd does not run it.
    """

    pid: int
    start: int
    flag: t.Optional[bool]
    config_file: str
    enabled: bool
    swarm: str
    units: tuple[Unit, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def kill_mode(self) -> t.Optional[str]:
        """Of the unit that runs the daemon; None where systemd does not."""
        return next((unit.kill_mode for unit in self.units if unit.daemon), None)


@dataclass(frozen=True)
class Observed:
    """The file, the daemon and the containers.

    :ivar daemon: None for Podman, which has none; then the rest is empty.
    :ivar value: what the file says; a mark of its own if it does not have the key.
    """

    daemon: t.Optional[Daemon]
    file: ConfigFile
    value: t.Any = _ABSENT
    running: tuple[Running, ...] = ()

    @property
    def configured(self) -> t.Any:
        """The value in the file, None if the key is not there."""
        return None if self.value is _ABSENT else self.value


# ---- decisions, pure ------------------------------------------------------------------------------------------------


def value_in(path: str, text: t.Optional[str]) -> t.Any:
    """What the file's text says about the key.

    :raises GridboxError: if the text is not the JSON object that dockerd reads.
    """
    if text is None or not text.strip():
        return _ABSENT  # dockerd takes an empty file for an empty object from 23.0 on
    try:
        member = parse(text).member(KEY)
    except ValueError as exc:
        raise GridboxError(
            f"config_file: {path}, {exc}. The daemon reads one JSON object. The file was left alone; repair it first."
        ) from exc
    return _ABSENT if member is None else member.value


def text_with(text: t.Optional[str], value: bool) -> str:
    """The file's text with the key at ``value``."""
    return with_value(text if text is not None and text.strip() else NEW_FILE, KEY, value)


def text_without(text: t.Optional[str]) -> t.Optional[str]:
    """The file's text without the key; None if there is no file."""
    return without(text, KEY) if text is not None and text.strip() else text


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to write, and whether the daemon has to read it again."""
    daemon = observed.daemon
    if daemon is None:
        return Plan()
    before = {KEY: observed.configured, "enabled": daemon.enabled}
    if wish.present and daemon.flag and observed.value is _ABSENT:
        return Plan((), before, before)
    steps: list[Step] = []
    text = observed.file.text
    seen = "not set" if observed.value is _ABSENT else f"{observed.value!r}"

    def write(new: t.Optional[str], reason: str) -> None:
        nonlocal text
        if new != text:
            steps.append(Step("write_config", observed.file.path, reason, details={"text": new}))
            text = new

    reload = Step(
        "reload_daemon",
        f"dockerd {daemon.pid}",
        f"the running daemon has live restore {'on' if daemon.enabled else 'off'}",
        Disruption.reload,
        {
            "pid": daemon.pid,
            "start": daemon.start,
            "enabled": daemon.enabled,
            "path": observed.file.path,
            "text_as_it_is": text_with(text, daemon.enabled),
        },
    )
    if wish.present:
        if observed.value is not True:
            write(text_with(text, True), f"{KEY} is {seen}, wanted is true")
        if not daemon.enabled:
            steps.append(reload)
        return Plan(tuple(steps), before, {KEY: True, "enabled": True})
    original = text
    if daemon.enabled:
        if observed.value is not False:
            write(text_with(text, False), f"left without {KEY} a running daemon keeps it on, so first it is false")
        steps.append(reload)
    write(text_without(original), f"{KEY} is to be left out of the file")
    return Plan(tuple(steps), before, {KEY: None, "enabled": False})


def objections(observed: Observed) -> list[RefusedError]:
    """What keeps live restore from working, or from being switched on."""
    daemon = observed.daemon
    if daemon is None:
        return []
    found: list[RefusedError] = []
    if daemon.swarm not in ("", "inactive"):
        found.append(
            RefusedError(
                "state: present",
                f"the engine is in swarm mode ({daemon.swarm}). The daemon would accept the reload, and fail at its"
                " next start",
                "Leave the swarm (docker swarm leave), or do without live restore.",
            )
        )
    if daemon.flag is False:
        found.append(
            RefusedError(
                "state: present",
                "the daemon was started with --live-restore=false, and refuses a configuration file that says it too",
                "Take the flag off its command line and restart it in a maintenance window.",
            )
        )
    found += [
        RefusedError("state: present", unit.finding, "Then run systemctl daemon-reload; it restarts nothing.")
        for unit in daemon.units
        if unit.finding
    ]
    return found


def contradictions(wish: Wish, observed: Observed) -> list[RefusedError]:
    """What makes the file and the daemon two different things."""
    daemon = observed.daemon
    if daemon is None:
        return []
    found: list[RefusedError] = []
    if daemon.config_file != observed.file.path:
        found.append(
            RefusedError(
                f"config_file: {wish.config_file}",
                f"the running daemon (process {daemon.pid}) reads {daemon.config_file}",
                "Set config_file to that one.",
            )
        )
    if daemon.flag and observed.value is not _ABSENT:
        found.append(
            RefusedError(
                f"config_file: {wish.config_file}",
                f"it sets {KEY}, and the daemon was started with --live-restore. It refuses to be told twice, at a"
                " reload and at its next start",
                "Take one of them away: the key with an editor now, or the flag with the next restart.",
            )
        )
    return found


# ---- the host -------------------------------------------------------------------------------------------------------


def observe(wish: Wish, engine: DockerApi) -> Observed:
    """Read the host.

    :raises GridboxError: if the daemon cannot be found, or its configuration file is not one.
    """
    if engine.platform.name == "podman":
        return Observed(None, ConfigFile(wish.config_file, None))
    running = containers.running(engine)
    daemon = observe_daemon(wish, engine, running)
    file = config_file.read(wish.config_file)
    return Observed(daemon, file, value_in(wish.config_file, file.text), running)


def observe_daemon(wish: Wish, engine: DockerApi, running: t.Sequence[Running]) -> Daemon:
    """Find the daemon and ask it."""
    process = listener.find_daemon(listener.socket_path(engine.url), wish.pidfile)
    info = engine.info()
    shims = [containers.parent(container.pid) for container in running]
    return Daemon(
        pid=process.pid,
        start=process.start,
        flag=listener.live_restore_flag(process.flags),
        config_file=listener.config_file_of(process),
        enabled=bool(info["LiveRestoreEnabled"]),
        swarm=str((info.get("Swarm") or {}).get("LocalNodeState", "")),
        units=unit.observe(
            wish.unit, process.pid, listener.find_containerd(process), [shim for shim in shims if shim is not None]
        ),
        flags=process.flags,
    )


class LiveRestoreWork:
    """The work of the module ``live_restore``; see ``front_room.Work``."""

    def __init__(self, wish: Wish, engine: DockerApi) -> None:
        self.wish = wish
        self.subject = f"{wish.config_file}"
        self.engine = engine
        self._seen = False
        self._running: tuple[Running, ...] = ()
        self._text: t.Optional[str] = None
        self._texts: list[t.Optional[str]] = []
        self._gave_up = False

    @classmethod
    def from_params(cls, params: dict[str, t.Any]) -> LiveRestoreWork:
        """Build it from a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        return cls(Wish.from_params(params), engine_from(params))

    def observe(self) -> Observed:
        observed = observe(self.wish, self.engine)
        if not self._seen:
            self._seen = True
            self._running = observed.running
            self._text = observed.file.text
        return observed

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        refusals = contradictions(self.wish, observed) + (objections(observed) if self.wish.present else [])
        if observed.daemon is not None and observed.daemon.flag and not self.wish.present:
            refusals.append(
                RefusedError(
                    "state: absent",
                    "the daemon was started with --live-restore, and a reload cannot take that back",
                    "Take the flag off its command line and restart it in a maintenance window.",
                )
            )
        if refusals:
            raise refusals[0]
        texts = [step.details["text"] for step in plan.steps if step.action == "write_config"]
        if texts:
            size = max(len((text or "").encode()) for text in (*texts, text_with(observed.file.text, False)))
            config_file.check_replaceable(observed.file.path, size)
        daemon = observed.daemon
        if plan.steps and daemon is not None:
            for text in texts or [observed.file.text]:
                if text is not None:
                    # By its process, so that it is the version that runs, also when another was installed meanwhile.
                    validation.check(f"/proc/{daemon.pid}/exe", daemon.flags, observed.file.path, text)
        self._texts = [observed.file.text, *texts, *(text_with(observed.file.text, value) for value in (False, True))]

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "write_config":
            path, text = step.target, step.details["text"]
            self._check_unchanged(path)
            journal.will_do(
                f"{path} as it was",
                "put_back",
                path=path,
                text=self._text,
                known=self._texts,
                leftovers=config_file.leftovers(path),
            )
            _write(path, text)
            self._text = text
        else:
            self._reload(step.details, journal)

    def _check_unchanged(self, path: str) -> None:
        if config_file.read(path).text != self._text:
            raise GridboxError(f"{path} was changed by someone else in this moment. Run the task again.")

    def _reload(self, daemon: t.Mapping[str, t.Any], journal: Journal) -> None:
        pid, start, path = daemon["pid"], daemon["start"], daemon["path"]
        journal.will_do(
            f"live restore {'on' if daemon['enabled'] else 'off'} in the running daemon",
            "take_back",
            known=self._texts,
            **daemon,
        )
        self._hang_up(pid, start)
        deadline = time.monotonic() + self.wish.wait_timeout
        wanted = self.wish.present
        while self._enabled(pid, start) != wanted:
            if time.monotonic() > deadline:
                self._gave_up = True
                raise WaitError(
                    f"the daemon (process {pid}) to take {path} over after SIGHUP",
                    self.wish.wait_timeout,
                    f"it still has live restore {'off' if wanted else 'on'}. It says why in its log (journalctl -u"
                    " docker under systemd); mostly another key of the file is not to its liking",
                )
            time.sleep(0.05)

    def _hang_up(self, pid: int, start: int) -> None:
        """Send SIGHUP to this very process.

        :raises EngineError: if it has ended.
        """
        process = process_of(pid)
        if process is None or process.start != start:
            raise EngineError("Reloading the daemon", f"nothing; its process {pid} has ended")
        os.kill(pid, signal.SIGHUP)

    def _enabled(self, pid: int, start: int) -> bool:
        try:
            info = self.engine.info(timeout=self.wish.wait_timeout)
        except EngineError as exc:
            process = process_of(pid)
            if process is None or process.start != start:
                raise EngineError("Reloading the daemon", f"nothing; its process {pid} has ended") from exc
            raise
        return bool(info["LiveRestoreEnabled"])

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "put_back":
            self._put_back(data["path"], data["text"], data["known"])
            config_file.clear(data["leftovers"])
        elif name == "take_back":
            self._take_back(data)
        else:
            raise GridboxError(f"{name}: no such undo")

    def _put_back(self, path: str, text: t.Optional[str], known: t.Sequence[t.Optional[str]]) -> None:
        now = config_file.read(path).text
        if now == text:
            return
        if now not in known:
            raise GridboxError(f"{path} was changed by someone else meanwhile, and was left alone")
        _write(path, text)

    def _take_back(self, data: t.Mapping[str, t.Any]) -> None:
        """Make the daemon have the value it had; its file then says so, until the file's own undo."""
        pid, start, enabled = data["pid"], data["start"], data["enabled"]
        process = process_of(pid)
        if process is None or process.start != start:
            return  # the next daemon reads the file
        if self._gave_up and self._enabled(pid, start) == enabled:
            return  # it refused
        # The first SIGHUP may still be under way, so the daemon's present answer proves nothing. What follows a new
        # reload does: the daemon handles them one after the other, and an event tells the outcome of each.
        self._put_back(data["path"], data["text_as_it_is"], data["known"])
        since = time.time()
        self._hang_up(pid, start)
        deadline = time.monotonic() + self.wish.wait_timeout
        while time.monotonic() < deadline:
            events = self.engine.events(since, time.time(), _RELOADS, timeout=self.wish.wait_timeout)
            if any(event["Actor"]["Attributes"].get(KEY) == str(enabled).lower() for event in events):
                return
            time.sleep(0.05)
        if self._enabled(pid, start) != enabled:
            raise WaitError(f"the daemon (process {pid}) to go back to what it had", self.wish.wait_timeout)

    def before_guard_undo(self) -> None:
        self.engine.reset()

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        if observed.daemon is None:
            return {**_facts(observed), "processes": [], "outage_budget": [], "msg": PODMAN}
        now = {container.id: container.pid for container in observed.running}
        processes = [
            {
                **container.as_result(),
                "kept": containers.started(container.pid) == container.start and now.get(container.id) == container.pid,
            }
            for container in self._running
        ]
        lost = [process["container"] for process in processes if not process["kept"]]
        ended = f"These containers ended or restarted in the meantime: {', '.join(lost)}." if lost else ""
        return {
            **_facts(observed),
            "enabled": plan.after["enabled"],
            "configured": plan.after[KEY],
            "processes": processes,
            "outage_budget": _outage_budget(self.wish, self.engine, observed),
            "msg": " ".join(sentence for sentence in (_message(observed), ended) if sentence),
        }


def collect(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """The values of the module ``live_restore_info``."""
    wish = Wish.from_params(params)
    engine = engine_from(params)
    if engine.platform.name == "podman":
        observed = Observed(None, ConfigFile(wish.config_file, None))
        return {**_facts(observed), "flag": None, "findings": [], "processes": [], "outage_budget": [], "msg": PODMAN}
    findings: list[str] = []
    file, value = ConfigFile(os.path.realpath(wish.config_file), None), _ABSENT
    try:
        file = config_file.read(wish.config_file)
        value = value_in(wish.config_file, file.text)
    except GridboxError as exc:
        findings.append(str(exc))
    running = containers.running(engine)
    daemon = observe_daemon(wish, engine, running)
    observed = Observed(daemon, file, value, running)
    findings += [str(refusal) for refusal in contradictions(wish, observed) + objections(observed)]
    if value is not _ABSENT and value is not daemon.enabled and not findings:
        findings.append(
            f"{file.path} has {KEY} at {value!r}, but the running daemon has it {'on' if daemon.enabled else 'off'}:"
            " it was not reloaded, or refused to"
        )
    return {
        **_facts(observed),
        "flag": daemon.flag,
        "findings": findings,
        "processes": [container.as_result() for container in observed.running],
        "outage_budget": _outage_budget(wish, engine, observed),
        "msg": _message(observed),
    }


def _facts(observed: Observed) -> dict[str, t.Any]:
    daemon = observed.daemon
    return {
        "enabled": daemon.enabled if daemon else False,
        "configured": observed.configured,
        "config_file": observed.file.path,
        "daemon_pid": daemon.pid if daemon else None,
        "kill_mode": daemon.kill_mode if daemon else None,
    }


def _message(observed: Observed) -> str:
    if observed.daemon is not None and observed.daemon.flag:
        return "Live restore is on by the daemon's flag --live-restore; the key stays out of its file."
    return ""


def _outage_budget(wish: Wish, engine: DockerApi, observed: Observed) -> list[dict[str, t.Any]]:
    if wish.budget_window == 0:
        return []
    found = budgets(listener.socket_path(engine.url), observed.running, wish.budget_window)
    return [budget.as_result() for budget in found]


def _write(path: str, text: t.Optional[str]) -> None:
    if text is None:
        config_file.remove(path)
    else:
        config_file.replace(path, text)

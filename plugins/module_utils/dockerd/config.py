# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon's configuration file: merge keys into it and bring in what SIGHUP brings in; never restart."""

from __future__ import annotations

import os
import signal
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import config_file, json_text, validation
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd import pending
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import find_process
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host import record
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

#: What dockerd takes over on SIGHUP (Docker's documentation of dockerd, "Configuration reload behavior").
RELOADABLE = {
    "authorization-plugins": list,
    "debug": bool,
    "default-runtime": str,
    "features": dict,
    "insecure-registries": list,
    "labels": list,
    "live-restore": bool,
    "max-concurrent-downloads": int,
    "max-concurrent-uploads": int,
    "max-download-attempts": int,
    "registry-mirrors": list,
    "runtimes": dict,
    "shutdown-timeout": int,
}

#: What to do about a file that dockerd would not start with.
_MEND = (
    "The file was left as it is. Correct the key in keys (docker_engine_config), or take it out with absent"
    " (docker_engine_config_absent)."
)

_ABSENT = object()


@dataclass(frozen=True)
class Wish:
    """Keys that the file shall have, and keys it shall not have."""

    config_file: str
    keys: t.Mapping[str, t.Any]
    absent: tuple[str, ...]
    record: str
    pidfile: str
    socket: str
    wait_timeout: int

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        if params["record"]:
            record.record_file(params["record"])
        for option in ("config_file", "pidfile", "socket"):
            if not params[option].startswith("/"):
                raise InputError(option, params[option], "an absolute path")
        for key, value in params["keys"].items():
            if not isinstance(key, str) or not key or key != key.strip():
                raise InputError("keys", key, "names of dockerd's configuration keys")
            kind = RELOADABLE.get(key)
            if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
                words = {list: "a list", bool: "true or false", str: "a text", dict: "a dictionary", int: "a number"}
                raise InputError(f"keys.{key}", value, words[kind])
        twice = sorted(set(params["keys"]) & set(params["absent"]))
        if twice:
            raise InputError("absent", twice[0], "no key that is in keys as well")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        return cls(
            params["config_file"],
            params["keys"],
            tuple(params["absent"]),
            params["record"] or "",
            params["pidfile"],
            params["socket"],
            params["wait_timeout"],
        )


@dataclass(frozen=True)
class Observed:
    """The file, and the daemon that reads it.

    :ivar text: None if there is no file.
    :ivar daemon: pid and start time of the running daemon, None if none runs.
    :ivar waiting: keys that the running daemon has not taken over, with the value it was started with.
    """

    text: t.Optional[str]
    config: t.Mapping[str, t.Any]
    daemon: t.Optional[tuple[int, int]]
    waiting: t.Mapping[str, t.Any]


def read_config(path: str) -> dict[str, t.Any]:
    """The file's keys; none if there is no file.

    :raises GridboxError: if it cannot be read.
    :raises RefusedError: if it is not the JSON that dockerd reads.
    """
    return keys_of(path, config_file.read(path).text)


def keys_of(path: str, text: t.Optional[str]) -> dict[str, t.Any]:
    """The keys in a file's text, in its order.

    :raises RefusedError: if it is not the JSON that dockerd reads.
    """
    if text is None or not text.strip():
        return {}
    try:
        return {member.name: member.value for member in json_text.parse(text).members}
    except ValueError as exc:
        raise RefusedError(
            f"config_file: {path}",
            f"it is not the JSON that dockerd reads ({exc})",
            "It was left alone; repair it first.",
        ) from exc


def merged(wish: Wish, text: t.Optional[str], config: t.Mapping[str, t.Any]) -> str:
    """The file's text with the wish carried out: all that is not asked for stays as it is. Pure."""
    new = text if text is not None and text.strip() else "{\n}\n"
    for key in wish.absent:
        new = json_text.without(new, key)
    for key, value in wish.keys.items():
        if config.get(key, _ABSENT) != value:
            new = json_text.with_value(new, key, value)
    return new


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to write, and whether the daemon can take it over. Pure."""
    text = merged(wish, observed.text, observed.config)
    after = keys_of(wish.config_file, text)
    changed = [
        key for key in {**observed.config, **after} if observed.config.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]
    if not changed:
        return Plan((), dict(observed.config), after)
    steps = [Step("write_config", wish.config_file, f"changed keys: {', '.join(changed)}", details={"text": text})]
    reload = [key for key in changed if key in RELOADABLE]
    if observed.daemon is not None and reload:
        steps.append(
            Step("reload", f"dockerd {observed.daemon[0]}", f"SIGHUP brings in {', '.join(reload)}", Disruption.reload)
        )
    return Plan(tuple(steps), dict(observed.config), after)


def seen_in_info(config: t.Mapping[str, t.Any], keys: t.Iterable[str], info: t.Mapping[str, t.Any]) -> list[str]:
    """Those of the reloaded ``keys`` of which the daemon's own answer still shows another value. Pure.

    Only what ``/info`` tells is compared; a key taken out of the file goes back to a default that is not known here.
    """
    registry = info.get("RegistryConfig") or {}
    insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index.get("Secure", True)]
    insecure += registry.get("InsecureRegistryCIDRs") or []
    shown: dict[str, t.Callable[[t.Any], bool]] = {
        "debug": lambda value: info.get("Debug") == value,
        "live-restore": lambda value: info.get("LiveRestoreEnabled") == value,
        "labels": lambda value: sorted(info.get("Labels") or []) == sorted(value),
        "default-runtime": lambda value: info.get("DefaultRuntime") == value,
        "runtimes": lambda value: set(value) <= set(info.get("Runtimes") or {}),
        "insecure-registries": lambda value: set(value) <= set(insecure),
        "registry-mirrors": lambda value: (
            sorted(mirror.rstrip("/") for mirror in registry.get("Mirrors") or [])
            == sorted(mirror.rstrip("/") for mirror in value)
        ),
    }
    return [key for key in keys if key in config and key in shown and not shown[key](config[key])]


class ConfigWork:
    """The work of the module ``daemon_config``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"{wish.config_file}"
        self._before_all: t.Optional[Observed] = None

    @property
    def _before(self) -> Observed:
        """What was observed before anything was done."""
        if self._before_all is None:
            raise RuntimeError("observe() comes first")
        return self._before_all

    def observe(self) -> Observed:
        text = config_file.read(self.wish.config_file).text
        process = find_process(self.wish.pidfile)
        observed = Observed(
            text=text,
            config=keys_of(self.wish.config_file, text),
            daemon=(process.pid, process.start) if process else None,
            waiting=pending.read(self.wish.config_file, process.pid, process.start) if process else {},
        )
        self._before_all = self._before_all or observed
        return observed

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        for step in plan.steps:
            if step.action == "write_config":
                config_file.check_replaceable(os.path.realpath(self.wish.config_file), len(step.details["text"]))
        written = (step.details["text"] for step in plan.steps if step.action == "write_config")
        self._have_it_checked(next(written, observed.text))
        if any(step.action == "reload" for step in plan.steps):
            self._info()  # a daemon that does not answer could not confirm the reload

    def _have_it_checked(self, text: t.Optional[str]) -> None:
        """Ask dockerd about the file as it will be, also if nothing changes: of what is wrong in it, the next start of
        the daemon would die, and with it what the host is for.

        :raises RefusedError: with dockerd's words.
        """
        if text is None:
            return
        process = find_process(self.wish.pidfile)
        for program in validation.programs(process.pid if process else None):
            validation.check(program, process.flags if process else (), self.wish.config_file, text, _MEND)

    def do(self, step: Step, journal: Journal) -> None:
        before = self._before
        if step.action == "write_config":
            journal.will_do(
                f"{self.wish.config_file} as it was", "restore", text=before.text, waiting=dict(before.waiting)
            )
            if self.wish.record:
                self._remember(before.config, keys_of(self.wish.config_file, step.details["text"]), journal)
            if before.daemon is not None:
                after = keys_of(self.wish.config_file, step.details["text"])
                waiting = pending.merge(before.waiting, before.config, after, RELOADABLE)
                pending.write(self.wish.config_file, *before.daemon, keys=waiting)
            config_file.replace(os.path.realpath(self.wish.config_file), step.details["text"])
        elif before.daemon is not None:
            journal.will_do("the daemon's settings", "reload", pid=before.daemon[0])
            os.kill(before.daemon[0], signal.SIGHUP)
            self._confirm()

    def _remember(self, before: t.Mapping[str, t.Any], after: t.Mapping[str, t.Any], journal: Journal) -> None:
        """Write down the first value of each key that changes; a key that gets it back needs no memory."""
        known = record.read(self.wish.record)
        settings = dict(known.settings)
        first = dict(settings.get(self.wish.config_file, {}))
        for key in {**before, **after}:
            if before.get(key) != after.get(key):
                first.setdefault(key, before.get(key))
        settings[self.wish.config_file] = first
        settings = {path: keys for path, keys in settings.items() if keys}
        journal.will_do("the record", "record", settings=dict(known.settings))
        record.write(self.wish.record, replace(known, settings=settings))

    def _confirm(self) -> None:
        after = read_config(self.wish.config_file)
        keys = [key for key in RELOADABLE if self._before.config.get(key, _ABSENT) != after.get(key, _ABSENT)]
        deadline = time.monotonic() + self.wish.wait_timeout
        while True:
            left = seen_in_info(after, keys, self._info())
            if not left:
                return
            if time.monotonic() > deadline:
                raise WaitError(
                    f"the running daemon to take over {', '.join(left)} after SIGHUP",
                    self.wish.wait_timeout,
                    "it still shows the old value; its log says why",
                )
            time.sleep(0.1)

    def _info(self) -> dict[str, t.Any]:
        return DockerApi(f"unix://{self.wish.socket}", self.wish.wait_timeout).info()

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "restore":
            path = os.path.realpath(self.wish.config_file)
            if data["text"] is None:
                config_file.remove(path)
            else:
                config_file.replace(path, data["text"])
            if self._before.daemon is not None:
                pending.write(self.wish.config_file, *self._before.daemon, keys=data["waiting"])
                os.kill(self._before.daemon[0], signal.SIGHUP)
        elif name == "record":
            known = record.read(self.wish.record)
            record.write(self.wish.record, replace(known, settings=data["settings"]))
        elif name != "reload":  # the reload is taken back by the file's own undo, which comes after it
            raise GridboxError(f"{name}: no such undo")

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        waiting: t.Mapping[str, t.Any] = {}
        if observed.daemon is not None:
            waiting = pending.merge(self._before.waiting, self._before.config, plan.after, RELOADABLE)
        return {
            "config": dict(plan.after),
            "restart_needed": [f"{key} in {self.wish.config_file} was changed" for key in waiting],
        }

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon's configuration file: merge keys into it and bring in what SIGHUP brings in; never restart."""

from __future__ import annotations

import json
import os
import signal
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd import pending
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import find_process
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
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

_ABSENT = object()


@dataclass(frozen=True)
class Wish:
    """Keys that the file shall have, and keys it shall not have."""

    config_file: str
    keys: t.Mapping[str, t.Any]
    absent: tuple[str, ...]
    pidfile: str
    socket: str
    wait_timeout: int

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
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


def parse(path: str, text: str) -> dict[str, t.Any]:
    """The keys of the file, in its order.

    :raises RefusedError: if it is not a JSON object, or has a key twice.
    """

    def once(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
        names = [name for name, _value in pairs]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"the key {double[0]} is there twice")
        return dict(pairs)

    try:
        config = json.loads(text, object_pairs_hook=once) if text.strip() else {}
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except ValueError as exc:
        raise RefusedError(
            f"changing {path}", f"it is not the JSON that dockerd reads ({exc})", "The file was left alone; repair it first."
        ) from exc
    return config


def read_config(path: str) -> dict[str, t.Any]:
    """The file's keys; none if there is no file."""
    text = _read_text(path)
    return parse(path, text) if text is not None else {}


def merged(wish: Wish, config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The file's keys with the wish carried out: order and foreign keys kept, new keys at the end. Pure."""
    result = {key: wish.keys.get(key, value) for key, value in config.items() if key not in wish.absent}
    result.update({key: value for key, value in wish.keys.items() if key not in result})
    return result


def indent_of(text: t.Optional[str]) -> t.Union[int, str]:
    """How the file is indented, so that it stays so: the white space before its first key; 2 for a new file."""
    for line in (text or "").splitlines():
        stripped = line.lstrip(" \t")
        if stripped.startswith('"') and line != stripped:
            return line[: len(line) - len(stripped)]
    return 2


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to write, and whether the daemon can take it over. Pure."""
    after = merged(wish, observed.config)
    changed = [key for key in {**observed.config, **after} if observed.config.get(key, _ABSENT) != after.get(key, _ABSENT)]
    if not changed:
        return Plan((), dict(observed.config), after)
    text = json.dumps(after, indent=indent_of(observed.text)) + "\n"
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
        self._before: t.Optional[Observed] = None

    def observe(self) -> Observed:
        text = _read_text(self.wish.config_file)
        process = find_process(self.wish.pidfile)
        observed = Observed(
            text=text,
            config=parse(self.wish.config_file, text) if text is not None else {},
            daemon=(process.pid, process.start) if process else None,
            waiting=pending.read(self.wish.config_file, process.pid, process.start) if process else {},
        )
        self._before = self._before or observed
        return observed

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if any(step.action == "reload" for step in plan.steps):
            self._info()  # a daemon that does not answer could not confirm the reload

    def do(self, step: Step, journal: Journal) -> None:
        assert self._before is not None
        before = self._before
        if step.action == "write_config":
            journal.will_do(
                f"{self.wish.config_file} as it was", "restore", text=before.text, waiting=dict(before.waiting)
            )
            os.makedirs(os.path.dirname(self.wish.config_file), mode=0o755, exist_ok=True)
            mode = os.stat(self.wish.config_file).st_mode & 0o7777 if before.text is not None else 0o644
            if before.daemon is not None:
                after = merged(self.wish, before.config)
                waiting = pending.merge(before.waiting, before.config, after, RELOADABLE)
                pending.write(self.wish.config_file, *before.daemon, keys=waiting)
            write_atomically(self.wish.config_file, step.details["text"].encode(), mode)
        elif before.daemon is not None:
            journal.will_do("the daemon's settings", "reload", pid=before.daemon[0])
            os.kill(before.daemon[0], signal.SIGHUP)
            self._confirm()

    def _confirm(self) -> None:
        assert self._before is not None
        after = merged(self.wish, self._before.config)
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
            if data["text"] is None:
                if os.path.exists(self.wish.config_file):
                    os.unlink(self.wish.config_file)
            else:
                mode = os.stat(self.wish.config_file).st_mode & 0o7777
                write_atomically(self.wish.config_file, data["text"].encode(), mode)
            if self._before is not None and self._before.daemon is not None:
                pending.write(self.wish.config_file, *self._before.daemon, keys=data["waiting"])
                os.kill(self._before.daemon[0], signal.SIGHUP)
        elif name != "reload":  # the reload is taken back by the file's own undo, which comes after it
            raise GridboxError(f"{name}: no such undo")

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        assert self._before is not None
        waiting: t.Mapping[str, t.Any] = {}
        if observed.daemon is not None:
            waiting = pending.merge(self._before.waiting, self._before.config, plan.after, RELOADABLE)
        return {
            "config": dict(plan.after),
            "restart_needed": [f"{key} in {self.wish.config_file} was changed" for key in waiting],
        }


def _read_text(path: str) -> t.Optional[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise EngineError(f"Reading {path}", str(exc)) from exc

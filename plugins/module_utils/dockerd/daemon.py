# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The daemon where no service manager looks after it: start it, stop it, tell whether it needs a restart.

Nothing here restarts a daemon unless that was asked for in so many words.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.daemon import config_file, validation
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd import pending
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.config import read_config
from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import (
    Process,
    find_process,
    flag_value,
    process_of,
    processes,
    stop,
)
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.dropped_network import dropped_networks
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host import background, mount_table, netns
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

#: Options of the module that become flags, and the key of daemon.json that must not be set beside the flag: dockerd
#: refuses to start with "directives are specified both as a flag and in the configuration file".
FLAG_KEYS = {
    "data_root": "data-root",
    "exec_root": "exec-root",
    "pidfile": "pidfile",
    "socket": "hosts",
}


@dataclass(frozen=True)
class Wish:
    """The daemon as it is wanted.

    :ivar state: ``started``, ``restarted`` or ``stopped``.
    :ivar netns: path of the network namespace; empty for the one Ansible runs in.
    :ivar wait_timeout: seconds for the socket to answer after a start, and for the process to end after a stop.
    """

    state: str
    executable: str
    config_file: str
    socket: str
    data_root: str
    exec_root: str
    pidfile: str
    log_file: str
    extra_arguments: tuple[str, ...]
    netns: str
    wait_timeout: int

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        for option in ("config_file", "socket", "data_root", "exec_root", "pidfile", "log_file"):
            path = params[option]
            if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
                raise InputError(option, path, "an absolute path without .. or a trailing slash")
        # A Unix socket's address has 108 bytes with the closing zero (unix(7)).
        if len(os.fsencode(params["socket"])) > 107:
            raise InputError("socket", params["socket"], "a path of at most 107 bytes, the kernel's limit for a socket")
        for argument in params["extra_arguments"]:
            flag = argument.split("=", 1)[0]
            if flag in ("--data-root", "-g", "--exec-root", "--pidfile", "-p", "--host", "-H", "--config-file"):
                raise InputError("extra_arguments", argument, "no flag that has an option of its own here")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        asked = netns.from_option(params["netns"])
        return cls(
            params["state"],
            params["executable"],
            params["config_file"],
            params["socket"],
            params["data_root"],
            params["exec_root"],
            params["pidfile"],
            params["log_file"],
            tuple(params["extra_arguments"]),
            asked,
            params["wait_timeout"],
        )

    @property
    def url(self) -> str:
        """Where the engine listens."""
        return f"unix://{self.socket}"

    def flags(self) -> tuple[str, ...]:
        """The daemon's arguments, without its own name."""
        return (
            "--config-file",
            self.config_file,
            "--data-root",
            self.data_root,
            "--exec-root",
            self.exec_root,
            "--pidfile",
            self.pidfile,
            "--host",
            self.url,
            *self.extra_arguments,
        )


@dataclass(frozen=True)
class Observed:
    """The daemon as it is.

    :ivar wanted_netns: inode of the namespace asked for; None if there is no such namespace.
    :ivar running_version: of the daemon that runs; empty if none answers.
    :ivar installed_version: of the program on the disk; empty if there is none.
    :ivar pending: changes of the configuration that the running daemon has not seen.
    :ivar dropped: networks that it does not know for want of their link at its start, each with the containers that
        cannot start without.
    """

    process: t.Optional[Process]
    wanted_netns: t.Optional[int]
    running_version: str
    installed_version: str
    pending: tuple[str, ...]
    config_exists: bool = True
    live_restore: bool = False
    containers: int = 0
    containers_running: int = 0
    dropped: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)


def restart_reasons(wish: t.Optional[Wish], observed: Observed) -> list[str]:
    """Why the running daemon would have to be restarted, in words; empty if it need not. Pure.

    :param wish: None if a service manager chooses the daemon's arguments and namespace.
    """
    process = observed.process
    if process is None:
        return []
    reasons = list(observed.pending)
    if wish is not None and process.flags != wish.flags():
        gone = " ".join(flag for flag in process.flags if flag not in wish.flags()) or "nothing"
        new = " ".join(flag for flag in wish.flags() if flag not in process.flags) or "nothing"
        reasons.append(f"its arguments are others than wanted (now, beside the common ones: {gone}; wanted: {new})")
    if wish is not None and observed.wanted_netns is not None and process.netns != observed.wanted_netns:
        reasons.append("it runs in another network namespace than wanted")
    if observed.running_version not in ("", observed.installed_version or observed.running_version):
        reasons.append(f"version {observed.installed_version} is installed, {observed.running_version} runs")
    for network, containers in observed.dropped.items():
        reasons.append(
            f"it dropped the network {network} when it started, for the parent link was missing then, and looks again"
            f" only when it starts; {', '.join(containers)} cannot start without it"
        )
    return reasons


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide whether to start, restart or stop. Pure."""
    process = observed.process
    before = {"running": process is not None}
    steps: list[Step] = []
    if process is not None and wish.state in ("stopped", "restarted"):
        reasons = "; ".join(restart_reasons(wish, observed)) or f"state is {wish.state}"
        steps.append(
            Step(
                "stop",
                f"dockerd {process.pid}",
                reasons,
                Disruption.daemon,
                {"pid": process.pid, "start": process.start},
            )
        )
    if wish.state == "restarted" or (wish.state == "started" and process is None):
        if not observed.config_exists:
            reason = "dockerd insists on a file that it is told to read"
            steps.append(Step("make_config", wish.config_file, reason))
        steps.append(Step("start", wish.socket, "it is to run", details={"flags": wish.flags()}))
    return Plan(tuple(steps), before, {"running": wish.state != "stopped"})


# ---- the host ---------------------------------------------------------------------------------------------------


def installed_version(executable: str) -> str:
    """The version of the program on the disk, for instance ``20.10.24+dfsg1``; empty if there is none."""
    path = shutil.which(executable, path=SYSTEM_PATH)
    if path is None:
        return ""
    words = run("Asking dockerd for its version", [path, "--version"]).split()  # Docker version 20.10.24+dfsg1, build …
    return words[2].rstrip(",") if len(words) > 2 else ""


def observe(
    executable: str, config: str, socket: str, pidfile: str, netns: str, seconds: int, ask: bool = True
) -> Observed:
    """Look at the daemon that a pidfile names.

    :param netns: path of the namespace it is to run in; empty for this one.
    :param ask: whether to ask the daemon itself, which takes one that answers.
    :raises EngineError: if it runs and does not answer.
    """
    process = find_process(pidfile)
    try:
        wanted_netns: t.Optional[int] = os.stat(netns or "/proc/self/ns/net").st_ino
    except FileNotFoundError:
        wanted_netns = None
    engine = DockerApi(f"unix://{socket}", seconds) if process is not None and ask else None
    answer = engine.info() if engine else {}
    return Observed(
        process=process,
        wanted_netns=wanted_netns,
        running_version=str(answer.get("ServerVersion", "")),
        installed_version=installed_version(executable),
        pending=tuple(pending.reasons(config, process.pid, process.start)) if process else (),
        config_exists=os.path.exists(config),
        live_restore=bool(answer.get("LiveRestoreEnabled")),
        containers=int(answer.get("Containers", 0)),
        containers_running=int(answer.get("ContainersRunning", 0)),
        dropped=dropped_networks(engine) if engine else {},
    )


def info(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the module ``dockerd_info`` returns."""
    observed = observe(
        params["executable"], params["config_file"], params["socket"], params["pidfile"], "", params["wait_timeout"]
    )
    return {
        "pid": observed.process.pid if observed.process else None,
        "installed_version": observed.installed_version,
        "version": observed.running_version,
        "live_restore": observed.live_restore,
        "containers": observed.containers,
        "containers_running": observed.containers_running,
        "restart_needed": restart_reasons(None, observed),
    }


class DaemonWork:
    """The work of the module ``dockerd``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"the daemon of {wish.socket}"
        self._started: t.Optional[Process] = None

    def observe(self) -> Observed:
        wish = self.wish
        return observe(
            wish.executable,
            wish.config_file,
            wish.socket,
            wish.pidfile,
            wish.netns,
            wish.wait_timeout,
            wish.state != "stopped",
        )

    def plan(self, observed: Observed) -> Plan:
        # What this run has just started fulfils "restarted": the plan made of it afterwards must be empty.
        if self._started is not None and observed.process == self._started:
            return Plan((), {"running": True}, {"running": True})
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if not any(step.action == "start" for step in plan.steps):
            return
        wish = self.wish
        if wish.netns and observed.wanted_netns is None:
            raise netns.missing(wish.netns)
        config = read_config(wish.config_file)
        both = [f"{key} ({option})" for option, key in FLAG_KEYS.items() if key in config]
        if both:
            raise RefusedError(
                f"starting dockerd with {wish.config_file}",
                f"the file sets {', '.join(both)}, which is a flag here, and dockerd refuses to be told twice",
                "Take the key out of the file, or use another config_file.",
            )
        if observed.process is None:
            for other in processes():
                root = flag_value(other.flags, "--data-root") or "/var/lib/docker"
                if os.path.realpath(root) == os.path.realpath(wish.data_root):
                    raise RefusedError(
                        f"data_root: {wish.data_root}",
                        f"another dockerd (process {other.pid}) works on it",
                        "Two daemons destroy each other's data. Use that one, stop it, or choose another data_root.",
                    )
            if _socket_answers(wish.socket):
                raise RefusedError(
                    f"socket: {wish.socket}",
                    f"an engine answers there, but it is not the process of {wish.pidfile}",
                    "Use that engine (docker_engine_service: false), stop it, or choose another socket.",
                )

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "make_config":
            journal.will_do(f"no {step.target}", "remove_config")
            config_file.replace(step.target, "{}\n")
        elif step.action == "stop":
            if self.wish.state == "restarted":
                self._check_that_it_will_start()
            pid, start = step.details["pid"], step.details["start"]
            stop(pid, start, self.wish.wait_timeout)
            pending.write(self.wish.config_file, pid, start, {})
        else:
            self._start(journal)

    def _check_that_it_will_start(self) -> None:
        """Only now, and not in check mode: what is wrong in the file may be what a task before mends.

        :raises RefusedError: with dockerd's words.
        """
        program = shutil.which(self.wish.executable, path=SYSTEM_PATH)
        text = config_file.read(self.wish.config_file).text
        if program is not None and text is not None:
            validation.check(program, self.wish.flags(), self.wish.config_file, text)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "remove_config":
            config_file.remove(self.wish.config_file)
            return
        for process in processes():
            if list(process.flags) == list(data["flags"]):
                stop(process.pid, process.start, self.wish.wait_timeout)
        # dockerd binds its data-root to itself, and leaves that behind when it cannot start.
        if not data["mounted"] and _is_mounted(self.wish.data_root):
            run(f"Unmounting {self.wish.data_root}", ["umount", "--", self.wish.data_root])

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        process = observed.process if applied or not plan.steps else None
        return {
            "pid": process.pid if process else None,
            "url": self.wish.url,
            "version": (process and observed.running_version) or observed.installed_version,
            "live_restore": observed.live_restore,
            "containers_running": observed.containers_running,
            "restart_needed": [] if plan.steps else restart_reasons(self.wish, observed),
        }

    def _start(self, journal: Journal) -> None:
        wish = self.wish
        program = shutil.which(wish.executable, path=SYSTEM_PATH)
        if program is None:
            raise GridboxError(f"executable: there is no {wish.executable} on this host. Install the engine first.")
        _remove_stale_pidfile(wish.pidfile, "dockerd")
        _remove_stale_pidfile(f"{wish.exec_root}/containerd/containerd.pid", "containerd")
        for path in (wish.socket, wish.pidfile, wish.log_file):
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        argv = [*netns.way_in(wish.netns), program, *wish.flags()]
        journal.will_do(
            "stopped the dockerd that did not come up",
            "stop_started",
            flags=list(wish.flags()),
            mounted=_is_mounted(wish.data_root),
        )
        child, begin = background.start(argv, wish.log_file)
        deadline = time.monotonic() + wish.wait_timeout
        while not _socket_answers(wish.socket):
            if child.poll() is not None:
                raise EngineError("Starting dockerd", _last_words(wish.log_file, begin))
            if time.monotonic() > deadline:
                raise WaitError(
                    f"dockerd's socket {wish.socket} to answer", wish.wait_timeout, _last_words(wish.log_file, begin)
                )
            time.sleep(0.1)
        self._started = process_of(child.pid)
        if find_process(wish.pidfile) != self._started:
            raise EngineError("Starting dockerd", f"{wish.pidfile} does not name the process {child.pid} just started")
        journal.settle()


def _socket_answers(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    try:
        DockerApi(f"unix://{path}", 10).call("Asking the engine whether it is there", "GET", "/_ping")
    except EngineError:
        return False
    return True


def _is_mounted(path: str) -> bool:
    """Whether something is mounted at ``path``; os.path.ismount does not see a bind within one file system."""
    return mount_table.at(mount_table.read(), os.path.realpath(path)) is not None


def _remove_stale_pidfile(path: str, program: str) -> None:
    """Remove a pidfile that names no such program: dockerd 20.10 takes any process of that pid for itself, or for its
    containerd, even one that has ended and that PID 1 has not buried yet."""
    if os.path.exists(path) and find_process(path, program) is None:
        os.unlink(path)


def _last_words(log_file: str, begin: int) -> str:
    lines = background.words(log_file, begin)
    telling = [line for line in lines if "level=error" in line or "level=fatal" in line or "level=" not in line]
    return " ".join((telling or lines)[-3:]) or f"nothing in {log_file}"

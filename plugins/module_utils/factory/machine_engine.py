# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory asks of Docker or Podman: its machines' containers, their ends, their images.

"There is none" is an answer; no answer is an :class:`EngineError` without a status, never "there is none" (spec 9.1,
item 2).
"""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import signal
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import chosen_engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import (
    FACTORY,
    MACHINE,
    MACHINEFEATURES,
    body,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Outside
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table, processes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

_T = t.TypeVar("_T")

#: Seconds without an answer after which a request has failed.
TIMEOUT = 60
#: Seconds that a pull may be silent.
PULL_SILENCE = 300
#: Seconds after KILL in which a machine has usually ended; engines answer then.
KILL_SILENCE = 5
#: States of a container in which its first process is there, or may be. "stopping" is Podman's word while a process
#: that was told to end has its grace, "unknown" the one for a container that it cannot look at: nobody can tell.
_UNKNOWN = "unknown"
_ALIVE = ("running", "paused", "restarting", "stopping", _UNKNOWN)
#: Those after its process has ended: Podman cleans up after one that is "stopped", and "removing" is on its way out.
#: All others come before it has one: "created", and Podman's "initialized".
_OVER = ("exited", "dead", "stopped", "removing")
#: Podman's exit code of a container of which it does not know how it has ended.
_NOT_KNOWN = -1
#: Signals that are sent to end a machine. Others tell it something: it may go on, and end for another reason.
FATAL = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM))
#: Some signal: Podman does not say which one.
SOME = 0


@dataclass(frozen=True)
class Container:
    """A machine's container, as the engine has it. Times are Unix seconds; None: not yet.

    :ivar state: the engine's word: ``created``, ``running``, ``exited`` and others.
    :ivar uuid: of the machine, by its label.
    :ivar pid: of its first process, while it runs.
    :ivar cpu_seconds: what it has used of processors to its end; None: nobody has looked. Docker takes the control
        group away some milliseconds after the last process, and tells of the end after that.
    :ivar problem: of the host, for which it had to be ended; empty: there was none.
    """

    id: str
    name: str
    uuid: str
    state: str
    started: t.Optional[int] = None
    finished: t.Optional[int] = None
    exit_code: t.Optional[int] = None
    pid: int = 0
    out_of_memory: bool = False
    cpu_seconds: t.Optional[float] = None
    problem: str = ""

    @property
    def alive(self) -> bool:
        """Whether the machine runs."""
        return self.state in _ALIVE

    @property
    def over(self) -> bool:
        """Whether the machine has run, and ended."""
        return self.state in _OVER and self.started is not None

    @property
    def is_machines(self) -> bool:
        """Whether it was made for a machine, and is not what somebody runs from an image that he has committed from
        one: that has its labels, and a name of his."""
        return bool(self.uuid) and self.name.endswith(f"_{self.uuid[:8]}")  # ``Machine.container_name``

    def is_of(self, machine: Machine) -> bool:
        """Whether it is the one that was made for this machine. Somebody may have given it another name."""
        return self.uuid == machine.uuid and (self.is_machines or self.id == machine.container)


@dataclass(frozen=True)
class Event:
    """What has happened to a machine's container.

    :ivar uuid: of the machine.
    :ivar signal: that was sent to it, one of :data:`FATAL` or :data:`SOME`; None: it has ended.
    """

    uuid: str
    signal: t.Optional[int] = None


class MachineEngine:
    """Docker or Podman. Each thread has a connection of its own, all of them to the same engine.

    :param url: of the engine's socket; empty: where it is usually.
    :param factory: the factory's name: containers of others are never seen.
    :param engine: ``docker`` or ``podman``; ``auto``: the one that has the factory's machines, else whichever listens.
    :param state_folder: the factory's; empty: it has none, and which engine has machines is written down nowhere.
    """

    def __init__(
        self, url: str, factory: str, timeout: int = TIMEOUT, engine: str = "auto", state_folder: str = ""
    ) -> None:
        self.url, self.factory, self.timeout, self.engine = url, factory, timeout, engine
        self._state_folder = state_folder
        self._local = threading.local()
        # Where it listens, once that is settled; and who settles it.
        self._settled, self._settling = "", threading.Lock()
        # How often the engine was listened to; and by name, what was found out of it when that was so often.
        self._listened = 0
        self._known: dict[str, tuple[int, t.Any]] = {}
        self._outside: dict[str, Outside] = {}

    @property
    def api(self) -> DockerApi:
        """This thread's connection. Which engine it is, is settled once for all threads: one whose socket has gone does
        not answer, and another one that listens meanwhile knows nothing of its containers."""
        if not hasattr(self._local, "api"):
            with self._settling:
                if not self._settled:
                    chosen = chosen_engine.choose(self._state_folder, self.engine, self.url, self.timeout)
                    self._settled = chosen.url
            self._local.api = DockerApi(self._settled, self.timeout)
        return t.cast(DockerApi, self._local.api)

    # ---- containers ----------------------------------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """Containers of this factory's machines."""
        listed = self.api.containers({"label": [f"{FACTORY}={self.factory}"]})
        found = (self.container(one["Id"]) for one in listed)
        return [container for container in found if container is not None]

    def listed(self, unless: t.Container[str] = ()) -> list[Container]:
        """The same in one request, as long as all of them run; those that do not are looked at one by one. Of those
        that run it is not known since when, nor their process.

        :param unless: uuids of machines that are looked at all the same.
        """
        found: list[t.Optional[Container]] = []
        for one in self.api.containers({"label": [f"{FACTORY}={self.factory}"]}):
            state = str(one.get("State", "")).lower()
            uuid = (one.get("Labels") or {}).get(MACHINE, "")
            if state in _ALIVE and uuid not in unless:
                found.append(Container(one["Id"], one["Names"][0].lstrip("/"), uuid, state))
            else:
                found.append(self.container(one["Id"]))
        return [container for container in found if container is not None]

    def container(self, identity: str) -> t.Optional[Container]:
        """One container, by name or id; None: there is none."""
        seen = self.api.container(identity)
        if seen is None:
            return None
        state = seen["State"]
        status = _UNKNOWN if state["Status"] in _OVER and _is_there(state) else state["Status"]
        return Container(
            seen["Id"], seen["Name"].lstrip("/"), (seen["Config"].get("Labels") or {}).get(MACHINE, ""),
            status, _seconds(state.get("StartedAt")), _seconds(state.get("FinishedAt")),
            state.get("ExitCode"), int(state.get("Pid") or 0), bool(state.get("OOMKilled")),
        )  # fmt: skip

    def create(
        self, machine: Machine, machinetype: Machinetype, configuration: Configuration, folder: str, image: str
    ) -> str:
        """Make a machine's container and return its id."""
        limits_writes, most = self.limits_writes(), self.most_processors()
        request = body(machine, machinetype, configuration, folder, image, limits_writes, most)
        if self._state_folder:
            chosen_engine.keep(self._state_folder, self.where)
        return self.api.create_container(machine.container_name, request)

    def start(self, container: str) -> None:
        """Start it."""
        self.api.start_container(container)

    def signal(self, container: str, signal: str) -> bool:
        """Send a signal to its first process; False if there is none any more.

        Engines answer a KILL when the container has ended, or when they have waited for that: Docker for ten seconds,
        or until it has (older ones). A process that waits for a file system which does not answer survives it. So
        silence then is none of the engine's, and whether the machine has ended, or the engine is gone, is seen by
        whoever looks.
        """
        killing = signal == "SIGKILL"
        try:
            self.api.signal_container(container, signal, min(KILL_SILENCE, self.timeout) if killing else None)
        except EngineError as exc:
            if exc.status in (404, 409):
                return False
            if not killing or exc.status is not None:
                raise
        return True

    def folder(self, container: str) -> str:
        """The machine's folder, by what is mounted from there; empty: it is gone or says nothing."""
        mounts = (self.api.container(container) or {}).get("Mounts") or ()
        sources = (one.get("Source") or "" for one in mounts if one.get("Destination") == MACHINEFEATURES)
        return os.path.dirname(next(sources, ""))

    def limits_writes(self) -> bool:
        """Whether the engine can limit what a container writes to its own root file system: Docker, by project quotas
        of XFS. It refuses containers with a limit otherwise."""
        return self._once("limits writes", self._find_limits_writes)

    def _find_limits_writes(self) -> bool:
        if self.api.platform.name != "docker":
            return False
        about = self._docker_info()
        if about["Driver"] != "overlay2" or ["Backing Filesystem", "xfs"] not in (about["DriverStatus"] or ()):
            return False
        try:
            device = os.stat(about["DockerRootDir"]).st_dev
        except OSError:
            return False
        known = f"{os.major(device)}:{os.minor(device)}"
        return any(one.device == known and "prjquota" in one.options for one in mount_table.read())

    def most_processors(self) -> t.Optional[int]:
        """How many processors a container may have; None: the engine takes any number. Docker refuses more than it has
        itself, which may be less than the host has; a machine may be larger where a site counts more than there are."""
        return (self._docker_info().get("NCPU") or None) if self.api.platform.name == "docker" else None

    def _docker_info(self) -> t.Mapping[str, t.Any]:
        """``docker info``."""
        return self._once("about", self.api.info)

    def _once(self, what: str, find_out: t.Callable[[], _T]) -> _T:
        """Find something out about the engine: once, for each start wants to know; and again when the engine has been
        away, for it may be another one then, or have its images elsewhere."""
        listened, known = self._listened, self._known.get(what)
        if known is None or known[0] != listened:
            known = self._known[what] = (listened, find_out())
        return t.cast("_T", known[1])

    def outside(self, container: str) -> t.Optional[Outside]:
        """Where a machine writes outside its mounts: its root file system, the volumes that its image asks for, and the
        files that the engine puts into it; None if it is gone or nobody can tell.

        Where the engine says which folder that is, what it has on the disk counts: a sparse file, such as lastlog is
        for accounts with high numbers, is as large as it looks to some engines, and has nothing in it. That folder is
        the container's for as long as there is one, so it is asked for once.
        """
        if container in self._outside:
            return self._outside[container]
        seen = self.api.container(container)
        if seen is None:
            return None
        own = [seen.get(key) or "" for key in ("HostnamePath", "HostsPath", "ResolvConfPath")]
        upper = ((seen.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or ""
        # What we mount ourselves is all binds.
        own += [one.get("Source") or "" for one in seen.get("Mounts") or () if one.get("Type") == "volume"]
        there = tuple(path for path in (upper, *own) if path and os.path.lexists(path))
        if upper in there:
            return self._outside.setdefault(container, Outside(there))
        size = self.api.container_size(container)
        return None if size is None else Outside(there, size)

    def remove(self, container: str) -> None:
        """Remove it, with its anonymous volumes; one that runs is killed. Fine if it is gone."""
        self._outside.pop(container, None)
        try:
            self.api.remove_container(container, force=True, volumes=True)
        except EngineError as exc:
            if exc.status != 409 or "in progress" not in exc.answer:  # another request is removing it
                raise

    def output(self, container: str, path: str, limit: int) -> None:
        """Keep the last of what a container has printed in a file, each line with its time.

        :param limit: bytes.
        """
        kept = 0
        with (
            open(path, "wb", opener=_private) as file,
            contextlib.closing(self.api.output(container, limit // 32, timestamps=True)) as pieces,
        ):
            for piece in pieces:
                kept += len(piece)
                if kept > limit:  # the engine's own limit is near ours
                    break
                file.write(piece)

    # ---- events --------------------------------------------------------------------------------------------------

    def events(self, since: float) -> t.Iterator[Event]:
        """What happens to machines' containers from that time on, for as long as the engine answers. Once this has
        returned, it is listened to.

        :param since: Unix seconds.
        :raises EngineError: when it does not answer, or not any more.
        """
        # Podman's filter has another word for an end than Docker's (seen with 4.3.1).
        filters = {"type": ["container"], "event": ["die", "died", "kill"], "label": [f"{FACTORY}={self.factory}"]}
        request = "Listening to the engine's events"
        self._listened += 1  # whoever listened before has heard it go
        # Silence is no failure here: it is what a factory full of long jobs sounds like.
        response = self.api.send(
            request, "GET", "/events", stream=True, timeout=86400,
            params={"since": f"{since:.9f}", "filters": json.dumps(filters)},
        )  # fmt: skip
        return self._events(request, response)

    def _events(self, request: str, response: t.Any) -> t.Iterator[Event]:
        try:
            for line in response.iter_lines(chunk_size=1):
                found = event(json.loads(line)) if line else None
                if found is not None:
                    yield found
        except (OSError, ValueError) as exc:
            raise EngineError(request, f"the connection ended ({exc})") from exc
        finally:
            response.close()
        raise EngineError(request, "the connection ended")

    # ---- images --------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """Where the engine listens."""
        return self.api.url

    def fetches(self, _reference: str) -> bool:
        """All that is pulled becomes an image of the engine's."""
        return True

    def foreign_images(self) -> t.Collection[str]:
        """An image of an engine may be anybody's."""
        return self.images().keys()

    def images(self) -> dict[str, tuple[str, ...]]:
        """By id, the tags of all images that are here."""
        return {
            str(one["Id"]): tuple(tag for tag in one.get("RepoTags") or () if "<none>" not in tag)
            for one in self.api.images()
        }

    def image(self, reference: str) -> t.Optional[str]:
        """The id of an image that is here; None: it is not."""
        found = self.api.image(reference)
        return str(found["Id"]) if found else None

    def pull(self, reference: str) -> None:
        """Pull an image.

        :raises EngineError: if it cannot be had.
        """
        self.api.pull_image(reference, PULL_SILENCE)

    def remove_image(self, name: str) -> None:
        """Take a name away, or remove an image by its id; an image goes with its last name. Fine if it is gone.

        :raises EngineError: with a status if the engine refuses, for instance because a container uses it.
        """
        self.api.remove_image(name)


def event(told: t.Mapping[str, t.Any]) -> t.Optional[Event]:
    """What an engine tells; None: nothing that counts."""
    attributes = told.get("Actor", {}).get("Attributes", {})
    if not attributes.get(MACHINE):
        return None
    if told.get("Action") != "kill":
        return Event(str(attributes[MACHINE]))
    if not Container("", str(attributes.get("name") or ""), str(attributes[MACHINE]), "").is_machines:
        return None
    text = str(attributes.get("signal") or "")
    number = int(text) if text.isdigit() else SOME
    return Event(str(attributes[MACHINE]), number) if number == SOME or number in FATAL else None


def cpu_seconds(pid: int, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> t.Optional[float]:
    """What a container has used of processors, from its control group; None if it is gone.

    ``cpuacct.usage`` of version 1 counts nanoseconds, ``cpu.stat`` of version 2 microseconds.
    """
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="ascii") as file:
            lines = [line.strip().split(":", 2) for line in file]
        # One that has just ended, and was not reaped yet, is in the root group: all that the host has used is there.
        lines = [line for line in lines if line[2] != "/"]
        for _number, controllers, path in lines:
            if "cpuacct" in controllers.split(","):
                with open(f"{cgroups}/{controllers}{path}/cpuacct.usage", encoding="ascii") as file:
                    return int(file.read()) / 1e9
        for _number, controllers, path in lines:
            if not controllers:
                with open(f"{cgroups}{path}/cpu.stat", encoding="ascii") as file:
                    figures = dict(line.split() for line in file)
                return int(figures["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
    return None


def _is_there(state: t.Mapping[str, t.Any]) -> bool:
    """Whether the first process of a container is there that has ended, says an engine that does not know how.

    Podman waits five seconds after KILL, and takes the container for ended then, whatever has become of it (seen with
    4.3.1). Its first process is there until the last one has ended, as one that waits for a file system has not.
    """
    about = processes.status(int(state.get("Pid") or 0)) if state.get("ExitCode") == _NOT_KNOWN else None
    # A first process is number one in a namespace of its own; another one of that number is hardly that, too.
    return about is not None and "Z" not in about["State"] and about["NSpid"].split()[1:][-1:] == ["1"]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _seconds(text: t.Optional[str]) -> t.Optional[int]:
    """The engine's time, to the second; None for its zero time."""
    if not text or text.startswith("0001"):
        return None
    # Podman writes local times, with their distance from UTC.
    whole, zone = text[:19], text[19:].lstrip(".0123456789")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    if zone and zone[0] in "+-":
        away = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= away if zone[0] == "+" else -away
    return seconds

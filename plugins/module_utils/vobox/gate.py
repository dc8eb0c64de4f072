# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Is a VO-box well? Asked before a new container or a new init script is trusted."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Service
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import Launch, read_launch
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import launch_folder

#: linux/tcp_states.h: a TCP socket that listens; an UDP socket that is not connected has the number of "closed".
_LISTENING = {"tcp": "0A", "udp": "07"}

_PAUSE = 0.1

#: Seconds in which an init script that only starts daemons has ended. One that stays is believed after them.
_SETTLED = 1.0


class Gate:
    """What a VO-box has to show.

    :param services: all of them must listen.
    :param version: of the init script that must have been launched; None without one.
    :param seconds: how long to wait.
    """

    def __init__(
        self, engine: DockerApi, services: t.Sequence[Service], version: t.Optional[str], seconds: float
    ) -> None:
        self.engine = engine
        self.services = services
        self.version = version
        self.seconds = seconds

    def complaint(self, container_id: str) -> t.Optional[str]:
        """Why the container is not well yet; None if it is.

        :raises GridboxError: if it has ended, or its init script has failed.
        """
        container = self.engine.container(container_id)
        state: Json = (container or {}).get("State") or {}
        if container is None or not state.get("Running") or state.get("Restarting"):
            raise GridboxError(
                f"The container has ended with exit code {state.get('ExitCode')}.{self._last_words(container_id)}"
            )
        return self._script(container, container_id) or self._silent(state["Pid"]) or self._test(container)

    def wait(self, container_id: str) -> None:
        """Wait until the container is well.

        :raises GridboxError: if it never will be.
        :raises WaitError: if it is not in time.
        """
        deadline = time.monotonic() + self.seconds
        while True:
            complaint = self.complaint(container_id)
            if complaint is None:
                return
            if time.monotonic() > deadline:
                raise WaitError("the VO-box to be well", self.seconds, complaint)
            time.sleep(_PAUSE)

    def launch_of(self, container: Json) -> Launch:
        """What its runner says."""
        return read_launch(launch_folder(container))

    def _script(self, container: Json, container_id: str) -> t.Optional[str]:
        if self.version is None:
            return None
        launch = self.launch_of(container)
        if launch.version != self.version or launch.state == "stopping":
            return f"init script {self.version[:12]} has not been launched yet"
        if launch.state == "failed":
            raise GridboxError(
                f"The init script has ended with status {launch.status}.{self._last_words(container_id)}"
            )
        return None

    def _silent(self, pid: int) -> t.Optional[str]:
        silent = [service for service in self.services if not listens(pid, service)]
        if not silent:
            return None
        return "nothing listens for " + ", ".join(f"{one.name} ({one.port}/{one.protocol})" for one in silent)

    def _test(self, container: Json) -> t.Optional[str]:
        argv, seconds = health_test(container)
        if not argv:
            return None
        try:
            status, output = self.engine.execute(container["Id"], argv, seconds)
        except EngineError as exc:
            return f"the health test could not run ({exc})"
        return f"the health test ended with {status}: {output.strip()[-200:] or 'no output'}" if status else None

    def _last_words(self, container_id: str) -> str:
        words = self.engine.last_words(container_id)
        return f" Its last words: {words}" if words else ""


def health_test(container: Json) -> tuple[list[str], float]:
    """The command of a container's health check, and its time-out in seconds; no command without a check."""
    check = container["Config"].get("Healthcheck") or {}
    kind, *rest = check.get("Test") or ["NONE"]
    seconds = (check.get("Timeout") or 30_000_000_000) / 1_000_000_000
    if kind == "CMD":
        return rest, seconds
    if kind == "CMD-SHELL":
        # The image's own words, for the image's own shell; nothing an inventory can say gets here.
        return [*(container["Config"].get("Shell") or ["/bin/sh", "-c"]), *rest], seconds
    return [], seconds


def listens(pid: int, service: Service) -> bool:
    """Whether something listens for a service in the network namespace of a process, over IPv4 or IPv6."""
    wanted = f":{service.port:04X}"
    for table in (service.protocol, f"{service.protocol}6"):
        try:
            lines = Path("/proc", str(pid), "net", table).read_text().splitlines()[1:]
        except FileNotFoundError:  # the process has ended, or the kernel has no IPv6
            continue
        for line in lines:
            columns = line.split()
            if columns[1].endswith(wanted) and columns[3] == _LISTENING[service.protocol]:
                return True
    return False

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Swap a container in a process of its own, as a module would, and let that process die at any step.

Runs in the engine's network namespace: ``python -m tests.lab.swap``, with a :class:`Job` as JSON on its standard input;
prints the report, or the error and what was rolled back, as JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.vobox import handover, put_back
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import InterimLink
from tests.lab.lan import in_netns

#: A VO-box of the lab: httpd on port 80.
VOBOX = Identity(
    network="site", mac="02:00:00:00:01:0a", ipv4="10.213.1.10", ipv6="fd13:213::1:a", prefix4=16, prefix6=64,
    gateway4="10.213.0.1", gateway6="fd13:213::1",
)  # fmt: skip


def vobox_body(*command: str, identity: Identity = VOBOX, policy: str = "unless-stopped") -> dict[str, t.Any]:
    """The Engine API's create body of a VO-box; without ``command`` it serves the test image's web page."""
    return {
        "Image": "busybox:test",
        "Cmd": list(command) or ["httpd", "-f", "-p", "80", "-h", "/www"],
        "Hostname": "vobox.example.org",
        "MacAddress": identity.mac,
        "HostConfig": {"NetworkMode": identity.network, "Init": True, "RestartPolicy": {"Name": policy}},
        "NetworkingConfig": {
            "EndpointsConfig": {
                identity.network: {
                    "IPAMConfig": {"IPv4Address": identity.ipv4 or "", "IPv6Address": identity.ipv6 or ""}
                }
            }
        },
    }


@dataclass
class Job:
    """One swap.

    :ivar create: body of the new container.
    :ivar port: the swap waits until something listens there, in the new container; 0: does not wait.
    :ivar unwell: what the health check in service says, always; empty: it is well.
    :ivar die_at: number of the effect (a request that changes something, a change of a link) at which the process kills
        itself; 0: never.
    :ivar during: die while the request is under way, instead of before it.
    :ivar power_cut: let the journal's guard die with the process.
    :ivar stand_in: go the way of an engine that cannot move an endpoint with its MAC.
    :ivar put_back_seconds: how long the undo goes on trying.
    :ivar before: argv that is run once before the first effect of that title.
    """

    url: str
    create: dict[str, t.Any] = field(default_factory=vobox_body)
    name: str = "vobox"
    identity: dict[str, t.Any] = field(default_factory=VOBOX.as_data)
    strategy: str = "overlap"
    keep: bool = False
    port: int = 80
    ready_seconds: float = 20
    unwell: str = ""
    die_at: int = 0
    during: bool = False
    power_cut: bool = False
    stand_in: bool = False
    put_back_seconds: float = put_back.PUT_BACK_SECONDS
    before: dict[str, list[str]] = field(default_factory=dict)


def swap(job: Job, netns: str, timeout: float = 120) -> dict[str, t.Any]:
    """Carry a job out in a process of its own, and wait until its guard has ended too.

    :returns: what it printed; an empty dict if it was killed.
    """
    ended, held = os.pipe()  # the guard has it from the process, so it closes when both are gone
    with os.fdopen(ended, "rb") as pipe:
        try:
            done = subprocess.run(
                ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-m", "tests.lab.swap"], pass_fds=[held],
                input=json.dumps(asdict(job)), capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        finally:
            os.close(held)
        if not select.select([pipe], [], [], timeout)[0]:
            raise RuntimeError(f"the guard of a swap, or a process it has left, still runs after {timeout:g} s")
    if done.returncode == -signal.SIGKILL:
        return {}
    if done.returncode:
        raise RuntimeError(f"the swap's process ended with {done.returncode}: {done.stderr}")
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def recover(url: str, name: str, netns: str) -> list[str]:
    """What :func:`handover.recover` says."""
    script = (
        "import sys; from tests.lab.swap import DockerApi, handover\n"
        "print(*handover.recover(DockerApi(sys.argv[1], 30), sys.argv[2]), sep='\\n', end='')"
    )
    return in_netns(netns, sys.executable, "-c", script, url, name, timeout=90).stdout.splitlines()


def listens(engine: DockerApi, port: int) -> handover.Probe:
    """A probe: does something in the container listen on this port?"""

    def probe(container: str) -> str | None:
        found = engine.container(container)
        assert found is not None
        for table in ("tcp", "tcp6"):
            with open(f"/proc/{found['State']['Pid']}/net/{table}") as rows:
                for row in rows.read().splitlines()[1:]:
                    local, state = row.split()[1], row.split()[3]
                    if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                        return None
        return f"nothing listens on port {port}"

    return probe


class _Effects:
    """Counts the effects of a swap, and dies or runs a command at one of them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._count = 0
        self.titles: list[str] = []
        self._owner = os.getpid()
        self.guard = 0

    def watch(self, owner: type, method: str, title: t.Callable[..., str]) -> None:
        original = getattr(owner, method)

        def watched(instance: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
            said = title(instance, *args, **kwargs)
            # The guard is a copy of this process, and shall undo in peace.
            if said and os.getpid() == self._owner:
                self._count += 1
                self.titles.append(said)
                command = self._job.before.pop(said, None)
                if command:
                    subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)
                if self._count == self._job.die_at:
                    if self._job.during:
                        threading.Thread(target=original, args=(instance, *args), kwargs=kwargs, daemon=True).start()
                        time.sleep(0.008)
                    self.die()
            return original(instance, *args, **kwargs)

        setattr(owner, method, watched)

    def die(self) -> None:
        if self._job.power_cut and self.guard:
            os.kill(self.guard, signal.SIGKILL)
        os.kill(self._owner, signal.SIGKILL)


def _request_title(_engine: DockerApi, request: str, method: str, path: str, **_rest: t.Any) -> str:
    """Such as ``POST connect``; empty for a request that changes nothing."""
    return "" if method == "GET" else f"{method} {path.rpartition('/')[2] if method == 'POST' else 'container'}"


def main() -> None:
    job = Job(**json.load(sys.stdin))
    put_back.PUT_BACK_SECONDS = job.put_back_seconds
    if job.stand_in:
        for place in (handover, put_back):
            vars(place)["endpoints_move"] = lambda _platform: (False, "asked for")
    engine = DockerApi(job.url, 30)
    effects = _Effects(job)
    effects.watch(DockerApi, "send", _request_title)
    for method in ("put_up", "leave_to_main", "take_down"):
        effects.watch(InterimLink, method, lambda _link, *_args, method=method: method)
    old = engine.container(job.name)
    assert old is not None
    probe = listens(engine, job.port) if job.port else None
    with Journal(lambda name, data: handover.undo(engine, name, data), engine.reset) as journal:
        effects.guard = journal._guard
        try:
            report = handover.swap(
                engine, journal, old, job.create, job.name, Identity(**job.identity), job.strategy,
                ready=probe, serving=(lambda _container: job.unwell) if job.unwell else probe,
                timeouts=handover.Timeouts(ready=job.ready_seconds, serving=1 if job.unwell else 20, stop=1),
                keep_previous=job.keep,
            )  # fmt: skip
        except GridboxError as exc:
            rollback = journal.roll_back()
            print(json.dumps({"error": str(exc), "rollback": asdict(rollback), "effects": effects.titles}))
            return
    print(json.dumps({**asdict(report), "effects": effects.titles}))


if __name__ == "__main__":
    main()

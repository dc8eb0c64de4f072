# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""macvlan_net in a process that counts its effects and dies at one of them, or that is another user's.

An effect is a request that changes something, a change of a link, an address or a route, and a change of a file that
provides for the boot.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import tempfile
import typing as t
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot, info, links
from tests.lab import modules


@dataclass
class Job:
    """One run.

    :ivar die_at: number of the effect at which the process kills itself; 0: at none.
    :ivar late: right after that effect, instead of right before it.
    :ivar root: the folder that the files for the boot are below, as on a host with systemd and NetworkManager; None: a
        host without.
    :ivar user: number of the user and the group that the module runs as.
    """

    arguments: dict[str, t.Any]
    netns: str
    module: str = "macvlan_net"
    check: bool = False
    die_at: int = 0
    late: bool = False
    root: Path | None = None
    user: int = 0
    effects: list[str] = field(default_factory=list)

    def run(self) -> dict[str, t.Any] | None:
        """Its result; None if it has killed itself and its guard has done its work.

        :raises ModuleFailed: if it failed.
        """
        ends, held = multiprocessing.Pipe(duplex=False)  # the guard has its end from the process: closed when both end
        with ends, tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            for file in (out, err):
                os.chown(file.name, self.user, self.user)
            process = multiprocessing.get_context("forkserver").Process(
                target=_be_the_module, args=(self, held, (out.name, err.name))
            )
            process.start()
            held.close()
            process.join(120)
            assert process.exitcode is not None, "it had not ended after 120 s"
            try:
                while ends.poll(120):
                    self.effects.append(ends.recv())
                raise AssertionError("the guard has not ended after 120 s")
            except EOFError:
                pass
            if process.exitcode == -signal.SIGKILL:
                return None
            printed, errors = out.read(), err.read().decode(errors="replace")
        assert printed, errors
        result: dict[str, t.Any] = json.loads(printed)
        if result.get("failed"):
            raise modules.ModuleFailed(result)
        return result


def _be_the_module(job: Job, held: Connection, outputs: tuple[str, str]) -> None:
    """In the new process."""
    if job.root is not None:
        vars(boot)["set_files"] = functools.partial(boot.set_files, root=str(job.root))
        vars(boot)["read_files"] = functools.partial(boot.read_files, root=str(job.root))
        vars(boot)["not_enabled"] = functools.partial(boot.not_enabled, root=str(job.root))
        boot.BootHost.read = lambda: boot.BootHost(True, True)  # type: ignore[method-assign]
    _watch(job, held)
    environment = dict(os.environ)
    if job.user:
        # Only root may read the folders with some interpreters' libraries, so first what is imported on use.
        info.collect({"engine": "docker", "engine_url": job.arguments["engine_url"], "engine_timeout": 60})
        os.setgroups([])
        os.setgid(job.user)
        os.setuid(job.user)
    payload = modules._payload(job.arguments, job.check, diff=True)
    modules._run(job.module, payload, None if job.user else job.netns, environment, outputs)


def _watch(job: Job, held: Connection) -> None:
    owner, count = os.getpid(), 0

    def effect(title: str, do: t.Callable[[], t.Any]) -> t.Any:
        nonlocal count
        if os.getpid() != owner:
            return do()  # the guard is a copy of this process, and shall undo in peace
        held.send(title)
        count += 1
        if count == job.die_at and not job.late:
            os.kill(owner, signal.SIGKILL)
        result = do()
        if count == job.die_at:
            os.kill(owner, signal.SIGKILL)
        return result

    def watched(title: str, function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        return lambda *args, **rest: effect(f"{title} {args[:1]}", lambda: function(*args, **rest))

    send = DockerApi.send

    def sent(self: DockerApi, request: str, method: str, path: str, **rest: t.Any) -> t.Any:
        do = functools.partial(send, self, request, method, path, **rest)
        return do() if method == "GET" else effect(f"{method} {path}", do)

    setattr(DockerApi, "send", sent)  # noqa: B010  a signature that types cannot follow
    vars(links)["_netlink"] = functools.partial(_Watched, links._netlink, watched, ("link", "addr", "route"))
    vars(boot)["os"] = _Watched(lambda: os, watched, ("open", "rename", "unlink"))
    vars(boot)["run"] = watched("run", run)


class _Watched:
    """An object of which some methods are effects."""

    def __init__(self, make: t.Callable[[], t.Any], watched: t.Callable[..., t.Any], names: t.Sequence[str]) -> None:
        self._made, self._watched, self._names = make(), watched, names

    def __getattr__(self, name: str) -> t.Any:
        found = getattr(self._made, name)
        return self._watched(name, found) if name in self._names else found

    def __enter__(self) -> _Watched:
        self._made.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._made.__exit__(*exc)

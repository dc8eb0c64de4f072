# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which process answers at the engine's socket, and what it was told on its command line."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.process import (
    Process,
    find_process,
    flag_value,
    process_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.engine.peer import listening_pid
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, RefusedError

#: Where dockerd reads its configuration unless told otherwise (as root).
DEFAULT_CONFIG_FILE = "/etc/docker/daemon.json"


def socket_path(url: str) -> str:
    """The path in a ``unix://`` URL.

    :raises RefusedError: for another kind of URL; the daemon must be on this host, to be sent a signal.
    """
    scheme, _separator, path = url.partition("://")
    if scheme != "unix":
        raise RefusedError(
            f"engine_url: {url}",
            "the daemon has to be sent a signal on the host where it runs",
            "Run the module on that host, with engine_url: unix:///var/run/docker.sock.",
        )
    return path


def find_daemon(path: str, pidfile: str) -> Process:
    """The dockerd that listens on socket ``path``.

    The kernel names the process that called listen(2) (SO_PEERCRED, unix(7)). With socket activation that is systemd,
    not the daemon; then the pidfile is asked. Where both name a daemon, they must agree.

    :raises EngineError: if nothing answers at the socket.
    :raises RefusedError: if the daemon cannot be told for sure.
    """
    listener = process_of(listening_pid(path))
    named = find_process(pidfile)
    if listener is not None:
        return listener
    if named is None:
        raise RefusedError(
            f"pidfile: {pidfile}",
            f"something else listens on {path} for the daemon, and the pidfile names no running dockerd",
            "Set pidfile to the daemon's own.",
        )
    return named


def live_restore_flag(flags: t.Sequence[str]) -> t.Optional[bool]:
    """The value of ``--live-restore`` on a daemon's command line, None without it. The last one counts. Pure."""
    value: t.Optional[bool] = None
    for flag in flags:
        name, separator, text = flag.partition("=")
        if name in ("--live-restore", "-live-restore"):
            value = not separator or text.strip("\"'").lower() in ("1", "t", "true")
    return value


def config_file_of(process: Process) -> str:
    """The configuration file that the daemon reads, with symbolic links followed."""
    path = flag_value(process.flags, "--config-file") or DEFAULT_CONFIG_FILE
    return os.path.realpath(os.path.join(f"/proc/{process.pid}/cwd", path))


def find_containerd(process: Process) -> t.Optional[int]:
    """The containerd that the daemon uses; None if it cannot be told.

    dockerd takes the one it is told to, else the system's if it runs, else starts its own (18.09 to 29).
    """
    exec_root = flag_value(process.flags, "--exec-root") or "/var/run/docker"
    told = flag_value(process.flags, "--containerd")
    for path in (told, "/run/containerd/containerd.sock", f"{exec_root}/containerd/containerd.sock"):
        if path and os.path.exists(path):
            try:
                return listening_pid(path)
            except EngineError:
                continue  # a socket that was left behind
    return None

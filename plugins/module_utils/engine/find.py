# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the engine a module shall talk to: Docker, or Podman through its Docker-compatible socket.

Both are driven through the ``docker`` SDK's low-level client, so there is one implementation,
:class:`~.docker_api.DockerApi`; what Podman does otherwise is said by its :class:`Platform`.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError

#: Where the engines listen unless told otherwise; the order in which ``auto`` tries them.
DEFAULT_SOCKETS = {
    "docker": "/var/run/docker.sock",
    "podman": "/run/podman/podman.sock",
}


def engine_from(params: t.Mapping[str, t.Any]) -> DockerApi:
    """Build the engine from a module's ``engine``, ``engine_url`` and ``engine_timeout``.

    Nothing is sent yet: the first request connects.

    :raises InputError: for an URL or a time-out that cannot be right.
    :raises RefusedError: if no engine's socket exists.
    """
    timeout = params["engine_timeout"]
    if timeout < 1:
        raise InputError("engine_timeout", timeout, "a number of seconds of 1 or more")
    url = params.get("engine_url") or os.environ.get("DOCKER_HOST")
    if url:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("unix", "tcp", "http", "https", "ssh") or not rest:
            raise InputError("engine_url", url, "a URL such as unix:///var/run/docker.sock or tcp://host:2376")
        if scheme == "unix" and not os.path.exists(rest):
            raise RefusedError(
                f"engine_url: {url}",
                f"there is no socket {rest}",
                "Start the engine, or set engine_url to where it listens.",
            )
        return DockerApi(url, timeout)
    wanted = params["engine"]
    for name, path in DEFAULT_SOCKETS.items():
        if wanted in ("auto", name) and os.path.exists(path):
            return DockerApi(f"unix://{path}", timeout)
    looked = ", ".join(path for name, path in DEFAULT_SOCKETS.items() if wanted in ("auto", name))
    raise RefusedError(
        f"engine: {wanted}",
        f"no engine listens here (looked for {looked})",
        "Install and start one, for instance with the role hep.gridbox.docker_engine, or set engine_url to its socket.",
    )

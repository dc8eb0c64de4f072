# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who listens at an engine's socket: the kernel knows (``SO_PEERCRED``, unix(7))."""

from __future__ import annotations

import socket
import struct

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError

_CREDENTIALS = struct.Struct("3i")


def listening_pid(path: str, timeout: float = 10) -> int:
    """The process that called listen(2) on the unix socket at ``path``.

    With socket activation that is systemd. 0 if the process is in a pid namespace that this one does not see.

    :param timeout: seconds to wait for the connection.
    :raises EngineError: if nobody listens there.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError as exc:
        raise EngineError("Connecting to the engine", f"no answer at {path} ({exc})") from exc
    return int(_CREDENTIALS.unpack(credentials)[0])

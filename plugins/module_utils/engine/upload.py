# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Send the engine a long stream over its Unix socket, as an HTTP request with a chunked body.

The docker SDK copies each chunk and has a small socket buffer, so that engine and sender wait for each other, and
flattening an image takes a quarter longer (``bench.flatten``). Here chunks go to the kernel as they are, and the socket
holds enough for the engine to go on while the next files are read.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.unix_http import UnixConnection

#: Bytes that the socket may hold.
BUFFER = 4 << 20

#: Not in Python's ``socket``; <asm-generic/socket.h>.
_SO_SNDBUFFORCE = 32

Chunk = t.Union[bytes, memoryview]


class _WideConnection(UnixConnection):
    def connect(self) -> None:
        super().connect()
        try:
            # More than net.core.wmem_max, which CAP_NET_ADMIN may.
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
        except PermissionError:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)


def upload(
    socket_path: str, target: str, headers: t.Mapping[str, str], chunks: t.Iterable[Chunk], seconds: float
) -> tuple[int, str]:
    """POST a stream and return status and text of the answer.

    What ``chunks`` raises is raised here; the engine then sees a body that was cut off, and drops it.

    :param target: path and query.
    :param chunks: each need be valid until the next is asked for only.
    :param seconds: without a byte, in either direction, after which it fails.
    :raises OSError: if the engine does not answer.
    :raises http.client.HTTPException: if what it answers is no HTTP.
    """
    with contextlib.closing(_WideConnection(socket_path, seconds)) as connection:
        connection.putrequest("POST", target)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        try:
            for chunk in chunks:
                if len(chunk):  # one without length would end the body
                    _send(connection.sock, (b"%x\r\n" % len(chunk), chunk, b"\r\n"))
            _send(connection.sock, (b"0\r\n\r\n",))
        except (BrokenPipeError, ConnectionResetError):
            # It has stopped listening; if it has said why, that is the better error.
            with contextlib.suppress(OSError, http.client.HTTPException):
                return _answer(connection)
            raise
        return _answer(connection)


def _answer(connection: http.client.HTTPConnection) -> tuple[int, str]:
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace")


def _send(to: socket.socket, parts: t.Sequence[Chunk]) -> None:
    """Send all of the parts, without joining them."""
    left = [memoryview(part) for part in parts]
    while left:
        sent = to.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]

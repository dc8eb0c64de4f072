# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP over the engine's Unix socket, with Python's own library.

Nearly every engine listens there, and the ``docker`` SDK takes a tenth of a second and 15 MB to import: more than most
modules' whole work. Each request has a connection of its own. A local one takes a tenth of a millisecond, and none can
have gone stale since the daemon was restarted, or be shared with a forked process.
"""

from __future__ import annotations

import http.client
import json
import socket
import typing as t
from urllib.parse import quote, urlencode

#: Bytes that are read at a time.
_PIECE = 1 << 16


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket.

    :param path: of the socket.
    :param seconds: without a byte after which it fails.
    """

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Answer:
    """An answer, by the names that ``requests`` has for its parts: elsewhere it is one of those.

    What breaks while it is read is an :class:`OSError`.
    """

    def __init__(self, connection: UnixConnection) -> None:
        self._connection = connection
        self.raw = connection.getresponse()
        self.status_code, self.reason, self.headers = self.raw.status, self.raw.reason, self.raw.headers
        self._content: t.Optional[bytes] = None

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no more of it."""
        self.raw.close()
        self._connection.close()

    @property
    def content(self) -> bytes:
        """All of it."""
        if self._content is None:
            self._content = b"".join(self.iter_content(_PIECE))
        return self._content

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> t.Any:
        return json.loads(self.content)

    def iter_content(self, size: int) -> t.Iterator[bytes]:
        """The answer in pieces."""
        return self._until_empty(lambda: self.raw.read(size))

    def iter_lines(self, chunk_size: int = 1) -> t.Iterator[bytes]:
        """The answer in lines, each as soon as it is there.

        :param chunk_size: for ``requests`` only, which waits for so many bytes.
        """
        return (line.rstrip(b"\r\n") for line in self._until_empty(self.raw.readline))

    def _until_empty(self, read: t.Callable[[], bytes]) -> t.Iterator[bytes]:
        try:
            yield from iter(read, b"")
        except http.client.HTTPException as exc:
            raise ConnectionError(str(exc) or type(exc).__name__) from exc
        if self.raw.length:  # http.client takes that for an end
            raise ConnectionError(f"{self.raw.length} bytes are missing")
        self.close()


def ask(
    path: str,
    method: str,
    target: str,
    seconds: float,
    params: t.Optional[t.Mapping[str, t.Any]] = None,
    body: t.Optional[bytes] = None,
    headers: t.Optional[t.Mapping[str, str]] = None,
) -> Answer:
    """Send a request, and return the answer when it begins.

    :param path: of the socket.
    :param target: what is asked for, not yet quoted, without the query.
    :param seconds: without a byte, in either direction, after which it fails.
    :param params: the query; what is None is left out.
    :raises OSError: if nobody answers.
    """
    query = urlencode({key: value for key, value in (params or {}).items() if value is not None}, doseq=True)
    where = quote(target, safe="/:@") + (f"?{query}" if query else "")
    connection = UnixConnection(path, seconds)
    try:
        connection.request(method, where, body, dict(headers or {}))
        return Answer(connection)
    except http.client.HTTPException as exc:
        connection.close()
        raise ConnectionError(str(exc) or type(exc).__name__) from exc
    except BaseException:
        connection.close()
        raise

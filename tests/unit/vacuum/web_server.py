# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A web server on the loopback that publishes a pipe, and misbehaves as told; and a CA for it."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import subprocess
import threading
import typing as t
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Web:
    """What the server does, and what it was asked.

    :ivar answer: sends an answer of its own, instead of the pipe.
    :ivar requests: the headers of each request.
    """

    content: bytes = b""
    etag: str = ""
    last_modified: str = ""
    answer: t.Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


def send(status: int, body: bytes = b"", **headers: str) -> t.Callable[[http.server.BaseHTTPRequestHandler], None]:
    """An answer with these headers (``_`` stands for ``-``) and this body, whatever its length."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@contextlib.contextmanager
def serving(web: Web, certificate: Path | None = None) -> t.Iterator[Web]:
    """Serve until the end of the block.

    :param certificate: a file with a certificate and its key: HTTPS, as ``localhost``.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.requests.append(dict(self.headers.items()))
            with contextlib.suppress(OSError):  # the client hung up, as it should if it is told too much
                if web.answer is not None:
                    web.answer(self)
                elif {("If-None-Match", web.etag), ("If-Modified-Since", web.last_modified)} & set(
                    self.headers.items()
                ):
                    send(304)(self)
                else:
                    named = {"ETag": web.etag, "Last_Modified": web.last_modified}
                    headers = {name: value for name, value in named.items() if value}
                    send(200, web.content, Content_Length=str(len(web.content)), **headers)(self)

        def log_message(self, *_args: t.Any) -> None:
            """Into no log."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_args: t.Any) -> None:
            """A handshake that fails is the client's to tell."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # In the thread of the connection, so that a client that hangs does not hang the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    port = server.socket.getsockname()[1]
    web.url = f"https://localhost:{port}/lhcb.pipe" if certificate else f"http://127.0.0.1:{port}/lhcb.pipe"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_ca(folder: Path) -> tuple[Path, Path]:
    """A CA's certificate, and a file with the certificate it gave to ``localhost`` and its key."""
    ca, ca_key, both = folder / "ca.pem", folder / "ca.key", folder / "localhost.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=A CA of the tests"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    subprocess.run(
        [
            "openssl", "req", "-x509", *key, "-keyout", folder / "key", "-out", folder / "certificate", "-CA", ca,
            "-CAkey", ca_key, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    both.write_text((folder / "certificate").read_text() + (folder / "key").read_text())
    return ca, both

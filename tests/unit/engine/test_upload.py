# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A long stream over a Unix socket: all of it arrives, and the engine's answer is told, also when it comes early."""

from __future__ import annotations

import contextlib
import socket
import threading
import typing as t
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.upload import upload
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError


class Handler(BaseHTTPRequestHandler):
    """Reads chunked bodies as RFC 9112 (7.1) has them."""

    protocol_version = "HTTP/1.1"
    body = b""
    whole = False

    def log_message(self, *_words: t.Any) -> None:
        pass

    def address_string(self) -> str:
        return "a Unix socket"

    def do_GET(self) -> None:
        self._say(200, b"OK")

    def do_POST(self) -> None:
        kind = type(self)
        kind.body, kind.whole = b"", False
        if "refuse" in self.path:
            self._say(507, b'{"message": "no space left on device"}')
            self.close_connection = True
            return
        while length := int(self.rfile.readline() or b"0", 16):
            kind.body += self.rfile.read(length)
            assert self.rfile.readline() == b"\r\n"
            if "deaf" in self.path:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
        kind.whole = self.rfile.readline() == b"\r\n"
        failed = b'\r\n{"error": "unexpected EOF in the archive"}' if b"broken" in kind.body else b""
        self._say(200, b'{"status": "unpacking"}' + failed)

    def _say(self, status: int, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", "1.41")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture()
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Path]:
    path = tmp_path_factory.mktemp("s") / "s"
    made = Server(str(path), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield path
    made.shutdown()
    thread.join()
    made.server_close()


def one_buffer(count: int) -> t.Iterator[memoryview]:
    """Chunks that are valid until the next is asked for only, as a layer's are."""
    buffer = bytearray(100_000)
    for number in range(count):
        buffer[:4] = number.to_bytes(4, "big")
        yield memoryview(buffer)


def test_every_byte_arrives_in_order_though_the_socket_takes_parts_of_chunks(server: Path) -> None:
    chunks = [b"first", b"", *one_buffer(0), b"last"]
    assert upload(str(server), "/x", {}, chunks, 10) == (200, '{"status": "unpacking"}')
    assert (Handler.body, Handler.whole) == (b"firstlast", True)
    upload(str(server), "/x", {}, one_buffer(200), 10)
    assert Handler.body == b"".join(bytes(chunk) for chunk in one_buffer(200))
    assert Handler.whole


def test_what_the_engine_says_before_the_end_is_told(server: Path) -> None:
    status, text = upload(str(server), "/refuse", {}, one_buffer(500), 10)
    assert (status, text) == (507, '{"message": "no space left on device"}')


def test_an_engine_that_goes_away_is_no_answer(server: Path) -> None:
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        upload(str(server), "/deaf", {}, one_buffer(500), 10)


def test_a_stream_that_fails_is_not_ended(server: Path) -> None:
    def failing() -> t.Iterator[bytes]:
        yield b"first"
        raise GridboxError("the file ended early")

    with pytest.raises(GridboxError, match="ended early"):
        upload(str(server), "/x", {}, failing(), 10)
    assert not Handler.whole


def test_silence_has_its_limit(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(TimeoutError):
            upload(str(tmp_path / "s"), "/x", {}, one_buffer(500), 0.2)


def test_the_api_tells_a_failure_in_mid_stream_and_the_engines_words(server: Path) -> None:
    engine = DockerApi(f"unix://{server}", 10)
    engine.load_images([b"fine"])
    with pytest.raises(EngineError, match="The engine says: unexpected EOF"):
        engine.import_layer("a:b", [b"broken"])
    with pytest.raises(EngineError, match="no space left on device") as refused:
        engine.import_layer("refuse:b", one_buffer(500))
    assert refused.value.status == 507

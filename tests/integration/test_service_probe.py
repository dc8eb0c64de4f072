# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""service_probe against real listeners: Python's own HTTP server, one that says SSH, one that says nothing."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import socketserver
import threading
import time
import typing as t

import pytest

from tests.integration.conftest import Lab
from tests.lab.modules import ModuleFailed, run_module


class _Page(http.server.BaseHTTPRequestHandler):
    """A page of a megabyte, so that a client that hangs up early is noticed."""

    hung_up: t.ClassVar[list[str]] = []

    def do_GET(self) -> None:
        body = b"x" * 500_000
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError as exc:
            self.hung_up.append(str(exc))

    def log_message(self, *_args: t.Any) -> None:
        """Into no log."""


class _Http6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Ssh(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"This is a test\r\nSSH-2.0-Test_1.0\r\n")


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        time.sleep(2)


@contextlib.contextmanager
def listening(server: socketserver.TCPServer) -> t.Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        server.server_close()


def probe(*services: dict[str, t.Any], **arguments: t.Any) -> dict[str, t.Any]:
    return run_module("service_probe", {"services": list(services), **arguments})


def service(port: int, sign: str = "none", address: str = "127.0.0.1", **more: t.Any) -> dict[str, t.Any]:
    return {"name": "test", "address": address, "port": port, "sign": sign, **more}


def test_signs_over_both_families() -> None:
    with (
        listening(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)) as http4,
        listening(_Http6(("::1", 0), _Page)) as http6,
        listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Ssh)) as ssh,
    ):
        result = probe(
            service(http4, "http", statuses=[200]), service(http6, "http", "::1"), service(ssh, "ssh"), service(ssh)
        )
        assert [(one["family"], one["up"]) for one in result["services"]] == [
            ("ipv4", True), ("ipv6", True), ("ipv4", True), ("ipv4", True),
        ]  # fmt: skip
        assert result["services"][2]["seen"] == "SSH-2.0-Test_1.0"
        assert (result["up"], result["declared"], result["changed"]) == (4, 4, False)
        assert _Page.hung_up == []


def test_the_wrong_protocol_and_silence_are_not_up() -> None:
    with (
        listening(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)) as page,
        listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Ssh)) as ssh,
        listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Silent)) as silent,
    ):
        began = time.monotonic()
        result = probe(
            service(ssh, "http"), service(silent, "ssh"), service(page, "http", path="/missing", statuses=[200]),
            timeout=0.5, required=False,
        )  # fmt: skip
        assert time.monotonic() - began < 5
    assert [one["up"] for one in result["services"]] == [False, False, False]
    assert [one["seen"] for one in result["services"]] == [
        "no HTTP status but 'This is a test'", "no answer within 0.5 s", "HTTP status 404, not 200",
    ]  # fmt: skip


def test_what_is_required_and_down_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ModuleFailed) as failed:
            probe(service(port))
    assert failed.value.result["msg"].startswith(
        f"1 of 1 services could not be reached: test at 127.0.0.1 port {port} (Connection refused)."
    )


def test_it_waits_for_a_service_that_comes_up() -> None:
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        timer = threading.Timer(1.0, later.listen)
        timer.start()
        began = time.monotonic()
        result = probe(service(later.getsockname()[1]), wait=20)
        assert result["up"] == 1 and 0.9 < time.monotonic() - began < 10
        timer.join()


def test_from_a_namespace_it_sees_what_that_machine_sees(lab: Lab) -> None:
    """The peer reaches the lab's host; from this machine there is no way."""
    ready = threading.Event()
    done = threading.Event()

    def serve() -> None:
        import ctypes

        with open(f"/run/netns/{lab.engine.netns}") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0x40000000) == 0  # this thread only
        with socket.create_server(("10.213.0.1", 7777)) as server:
            ready.set()
            connection, _peer = server.accept()
            connection.sendall(b"SSH-2.0-Lab\r\n")
            done.wait(30)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(5)
        # By its sign, for there are networks whose gateway accepts every connection.
        wanted = service(7777, "ssh", address="10.213.0.1")
        assert probe(wanted, netns=lab.peer)["up"] == 1
        assert probe(wanted, required=False, timeout=0.5)["up"] == 0
    finally:
        done.set()
        thread.join()


def test_a_namespace_that_is_not_there() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(ModuleFailed) as failed:
        probe(service(1), netns="no-such-machine")
    assert "netns: no-such-machine: there is no such network namespace" in failed.value.result["msg"]

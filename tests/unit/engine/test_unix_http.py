# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine on a Unix socket: what it is asked, byte for byte, and what becomes of each way in which it can answer."""

from __future__ import annotations

import json
import socket
import sys
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import MACHINE
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import MachineEngine

VERSION = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


class Engine:
    """Answers each request with the next of some texts, and closes; what a function says is sent as it says it."""

    def __init__(self, path: Path, *answers: bytes | t.Callable[[socket.socket], None]) -> None:
        self.url = f"unix://{path}"
        self.asked: list[bytes] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _address = self._listening.accept()
            with connection, connection.makefile("rb") as file:
                head = b"".join(iter(file.readline, b"\r\n"))
                length = next((int(line[15:]) for line in head.splitlines() if line.startswith(b"Content-Length:")), 0)
                self.asked.append(head + b"\r\n" + file.read(length))
                if b"Transfer-Encoding: chunked" in head:
                    all(iter(file.readline, b"0\r\n"))
                    file.readline()
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    def api(self, timeout: int = 10) -> DockerApi:
        return DockerApi(self.url, timeout)


@pytest.fixture()
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "s"


def says(text: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(text), text)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + end


def test_a_question_is_quoted_and_what_is_none_is_left_out(path: Path) -> None:
    engine = Engine(path, VERSION, says(b'[{"Id": "a"}]'))
    assert engine.api().containers({"label": ["a=b c"]}) == [{"Id": "a"}]
    assert engine.asked[0].startswith(b"GET /_ping HTTP/1.1\r\n")
    line = b"GET /v1.41/containers/json?all=true&filters=%7B%22label%22%3A+%5B%22a%3Db+c%22%5D%7D HTTP/1.1\r\n"
    assert engine.asked[1].startswith(line)
    assert b"body" not in engine.asked[1]


def test_an_image_keeps_its_slashes_and_colons_and_nothing_else_gets_through(path: Path) -> None:
    engine = Engine(path, VERSION, says(b"{}"), says(b"{}"))
    api = engine.api()
    api.image("registry.example.org:5000/a/b@sha256:00")
    api.container("a b?c\r\nX: y")
    assert engine.asked[1].startswith(b"GET /v1.41/images/registry.example.org:5000/a/b@sha256:00/json HTTP/1.1\r\n")
    assert engine.asked[2].startswith(b"GET /v1.41/containers/a%20b%3Fc%0D%0AX:%20y/json HTTP/1.1\r\n")


def test_a_body_is_json(path: Path) -> None:
    engine = Engine(path, VERSION, says(b'{"Id": "x"}', b"201 Created"))
    assert engine.api().create_container("n", {"Image": "i"}) == "x"
    head, _empty, body = engine.asked[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1.41/containers/create?name=n HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/json" in head
    assert json.loads(body) == {"Image": "i"}


def test_nothing_to_say_and_nothing_there_are_none(path: Path) -> None:
    engine = Engine(path, VERSION, b"HTTP/1.1 204 No Content\r\n\r\n", says(b'{"message": "no"}', b"404 Not Found"))
    api = engine.api()
    api.start_container("x")
    assert api.container("x") is None


def test_a_refusal_is_told_in_the_engines_words(path: Path) -> None:
    engine = Engine(path, VERSION, says(b'{"message": "no space"}', b"500 Internal Server Error"))
    with pytest.raises(EngineError, match="no space") as caught:
        engine.api().info()
    assert caught.value.status == 500


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]",
        chunked(b'{"a"', end=b""),
        chunked(b'{"a"', end=b"ff\r\nxx"),
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(path: Path, answer: bytes) -> None:
    with pytest.raises(EngineError, match=f"no answer at unix://{path}") as caught:
        Engine(path, VERSION, answer).api().info()
    assert caught.value.status is None


def test_silence_has_its_limit_and_an_empty_place_is_no_answer(path: Path) -> None:
    over = threading.Event()
    engine = Engine(path, VERSION, lambda _connection: over.wait(60) and None)
    with pytest.raises(EngineError, match="timed out"):
        engine.api(1).info()
    over.set()
    with pytest.raises(EngineError, match="No such file"):
        DockerApi(f"unix://{path}.gone", 1).info()


@pytest.mark.parametrize("answer", [says(b"<html>", kind=b"text/html"), says(b'{"message": "who?"}', b"403 Forbidden")])
def test_what_is_no_engine_is_told(path: Path, answer: bytes) -> None:
    with pytest.raises(EngineError, match=r"no engine is at .*(html|who)"):
        Engine(path, answer).api().info()


def test_a_line_is_there_as_soon_as_it_is_said(path: Path) -> None:
    heard = threading.Event()

    def say(connection: socket.socket) -> None:
        connection.sendall(chunked(b'{"n": 1}\n', end=b""))
        assert heard.wait(10)
        connection.sendall(b"9\r\n" + b'{"n": 2}\n\r\n' + b"0\r\n\r\n")

    response = Engine(path, VERSION, say).api().send("Listening", "GET", "/events", stream=True)
    lines = response.iter_lines()
    assert next(lines) == b'{"n": 1}'
    heard.set()
    assert list(lines) == [b'{"n": 2}']


def frame(text: bytes) -> bytes:
    return b"\1\0\0\0" + len(text).to_bytes(4, "big") + text


def test_output_is_read_across_chunks_and_told_when_it_breaks_off(path: Path) -> None:
    whole = frame(b"first\n") + frame(b"second\n")
    cut = chunked(whole[:3], whole[3:17], end=b"ff\r\nxx")
    engine = Engine(path, VERSION, chunked(whole[:3], whole[3:17], whole[17:]), cut)
    api = engine.api()
    assert list(api.output("x", 10)) == [b"first\n", b"second\n"]
    with pytest.raises(EngineError, match="the connection ended"):
        list(api.output("x", 10))


def version(api: str) -> bytes:
    return VERSION.replace(b"1.41", api.encode())


def refuses(api: str, words: str) -> bytes:
    """As every Docker answers to another version of the API than it has."""
    return says(json.dumps({"message": f"client version {api} is {words}"}).encode(), b"400 Bad Request")


OLD = refuses(
    "1.41",
    "too old. Minimum supported API version is 1.44, please upgrade your client to a newer version",
)
NEW = refuses("1.52", "too new. Maximum supported API version is 1.51")


def about(release: str) -> bytes:
    return says(json.dumps({"Version": release, "Components": [{"Name": "Engine"}]}).encode())


@pytest.mark.parametrize(
    ("before", "after", "refusal"), [("1.41", "1.52", OLD), ("1.52", "1.51", NEW)], ids=["upgraded", "rolled back"]
)
def test_an_engine_that_was_replaced_is_spoken_to_in_the_version_that_it_has_now(
    path: Path, before: str, after: str, refusal: bytes
) -> None:
    engine = Engine(
        path, version(before), about("20.10.24"), refusal, version(after), says(b'{"Id": "x"}', b"201 Created"),
        about("29.0.1"), says(b"[]"),
    )  # fmt: skip
    api = engine.api()
    assert str(api.platform) == "docker 20.10.24"
    assert api.create_container("n", {"Image": "i"}) == "x"
    assert str(api.platform) == "docker 29.0.1" and api.platform.api == tuple(map(int, after.split(".")))
    assert api.images() == []
    assert [line.split()[1].decode() for line in engine.asked] == [
        "/_ping", f"/v{before}/version", f"/v{before}/containers/create?name=n",
        "/_ping", f"/v{after}/containers/create?name=n", f"/v{after}/version", f"/v{after}/images/json?all=true",
    ]  # fmt: skip
    assert engine.asked[2].partition(b"\r\n\r\n")[2] == engine.asked[4].partition(b"\r\n\r\n")[2] != b""


def test_an_engine_that_was_replaced_is_listened_to(path: Path) -> None:
    die = {"Action": "die", "Actor": {"Attributes": {MACHINE: "u1"}}}
    engine = Engine(path, VERSION, OLD, version("1.52"), chunked(json.dumps(die).encode() + b"\n"))
    assert next(MachineEngine(engine.url, "f.example.org").events(0)).uuid == "u1"


def test_an_engine_that_was_replaced_is_spoken_to_anew_by_the_library_too(path: Path) -> None:
    before, after = (says(json.dumps({"ApiVersion": api}).encode()) for api in ("1.41", "1.52"))
    engine = Engine(path, before, OLD, after, says(b"[]"), OLD, after, says(b"[]"))
    api = DockerApi(f"http+unix://{path}", 10)
    assert api.images() == []
    with pytest.raises(EngineError, match="too old"):
        api.import_layer("a:1", [b"spent"])
    assert api.images() == []
    assert [line.split()[1].split(b"?")[0].decode() for line in engine.asked] == [
        "/version", "/v1.41/images/json", "/version", "/v1.52/images/json",
        "/v1.52/images/create", "/version", "/v1.52/images/json",
    ]  # fmt: skip


def test_a_stream_that_is_refused_is_not_sent_again_and_the_next_request_is_another_versions(path: Path) -> None:
    engine = Engine(path, VERSION, OLD, version("1.52"), says(b"[]"))
    api = engine.api()
    with pytest.raises(EngineError, match="too old") as caught:
        api.import_layer("a:1", [])
    assert caught.value.status == 400
    assert api.images() == []
    assert engine.asked[-1].startswith(b"GET /v1.52/images/json")


@pytest.mark.parametrize("answers", [[OLD, VERSION, OLD], [says(b'{"message": "bad parameter"}', b"400 Bad Request")]])
def test_what_stays_refused_is_told(path: Path, answers: list[bytes]) -> None:
    engine = Engine(path, VERSION, *answers)
    with pytest.raises(EngineError, match=r"too old|bad parameter") as caught:
        engine.api().images()
    assert caught.value.status == 400
    assert len(engine.asked) == 1 + len(answers)


def test_only_other_ways_than_a_unix_socket_take_the_library(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    assert Engine(path, VERSION, says(b"{}")).api().info() == {}
    with pytest.raises(GridboxError, match=r"docker is missing on this host, and tcp://192.0.2.1:1 is no Unix socket"):
        DockerApi("tcp://192.0.2.1:1", 1).info()


def test_a_listing_looks_again_at_what_does_not_run_and_at_what_is_asked_for(path: Path) -> None:
    def shown(name: str, state: str) -> dict[str, t.Any]:
        return {"Id": name, "Names": [f"/{name}"], "State": state, "Labels": {MACHINE: name}}

    def inspected(name: str, state: str, pid: int) -> bytes:
        seen = {"Status": state, "Pid": pid, "StartedAt": "2026-11-28T12:00:00Z"}
        labels = {"Labels": {MACHINE: name}}
        return says(json.dumps({"Id": name, "Name": f"/{name}", "State": seen, "Config": labels}).encode())

    listing = [shown("known", "running"), shown("new", "running"), shown("over", "exited")]
    engine = Engine(
        path,
        VERSION,
        says(json.dumps(listing).encode()),
        inspected("new", "running", 7),
        inspected("over", "exited", 0),
    )
    found = MachineEngine(engine.url, "f.example.org").listed({"new"})
    assert [(one.uuid, one.alive, one.pid) for one in found] == [
        ("known", True, 0),
        ("new", True, 7),
        ("over", False, 0),
    ]
    assert [line.split()[1] for line in engine.asked[2:]] == [
        b"/v1.41/containers/new/json", b"/v1.41/containers/over/json",
    ]  # fmt: skip

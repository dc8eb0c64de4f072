# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where pipes come from, on real servers: what is taken, what never is, and the copy that is used meanwhile."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import socket
import stat
import threading
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import pipe_fetch, pipe_source
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import MAX_BYTES
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_source import Reading, from_path, from_url
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from tests.unit.vacuum.web_server import Web, make_ca, send, serving

SECTION = Section("lhcb", 1.0)
#: Unix s: 2026-11-27 20:00:00 UTC.
NOW = 1795809600.0


def document(image: str = "a", cache_seconds: int = 600) -> bytes:
    machinetype = {
        "suffix": "prod", "machine_model": "docker", "target_share": 1, "root_image": f"docker://{image}",
        "user_data": "https://example.org/u",
    }  # fmt: skip
    return json.dumps({"cache_seconds": cache_seconds, "machinetypes": [machinetype]}).encode()


@pytest.fixture()
def web() -> t.Iterator[Web]:
    with serving(Web(document())) as served:
        yield served


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ca(tmp_path_factory.mktemp("ca"))


def read(url: str, cache: Path | str = "", now: float = NOW, timeout: float = 10, ca_path: str = "") -> Reading:
    return from_url(url, SECTION, Transfer(ca_path, timeout), str(cache), lambda: now)


def image(reading: Reading) -> str:
    return reading.pipe.machinetypes[0].root_image


# ---- what is taken, and what never is ----------------------------------------------------------------------------


def test_a_pipe_is_fetched(web: Web) -> None:
    reading = read(web.url)
    assert (image(reading), reading.fetched_at, reading.problems) == ("a", NOW, ())
    assert reading.content == web.content


WRONG: dict[str, tuple[t.Callable[[http.server.BaseHTTPRequestHandler], None], str]] = {
    "error page": (send(500, document()), "answers with HTTP status 500 "),
    "not found": (send(404, b"<html>not here</html>"), "answers with HTTP status 404 "),
    "HTML": (send(200, b"<!DOCTYPE html><html><body>It works!</body></html>"), "is no vacuum pipe"),
    "JSON of another kind": (send(200, b'{"error": "quota"}'), "is no vacuum pipe"),
    "nothing": (send(200), "is no vacuum pipe"),
    "no content": (send(204), "answers with HTTP status 204"),
    "a part": (send(206, document()), "answers with HTTP status 206"),
    "not modified, unasked": (send(304), "answers with HTTP status 304"),
    "cut": (send(200, document()[:50], Content_Length=str(len(document()))), "ended after 50 of "),
    "cut where it is JSON": (send(200, document(), Content_Length="5000"), "ended after "),
    "a cut chunk": (send(200, b"fff\r\n" + document(), Transfer_Encoding="chunked"), "could not be fetched"),
    "too large": (send(200, b" " * (MAX_BYTES + 1)), f"larger than {MAX_BYTES} bytes"),
    "to a file": (send(302, Location="file:///etc/passwd"), "file:///etc/passwd"),
    "to another protocol": (send(301, Location="ftp://127.0.0.1/x"), "not followed"),
    "to data": (send(307, Location="data:application/json,{}"), "data:"),
    "to a port that is none": (send(302, Location="http://127.0.0.1:99999/"), "could not be fetched"),
    "to itself": (send(302, Location="/lhcb.pipe"), "HTTP status 302"),
    "nowhere": (send(302), "answers with HTTP status 302"),
    "no HTTP": (lambda handler: t.cast("None", handler.wfile.write(b"SSH-2.0-x\x1b[2J\r\n")), "could not be fetched"),
    "hung up": (lambda handler: None, "could not be fetched"),
    "gzip": (send(200, b"\x1f\x8b\x08\x00", Content_Encoding="gzip"), "is no vacuum pipe"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_pipe_is_not_taken(web: Web, tmp_path: Path, name: str) -> None:
    web.answer, said = WRONG[name]
    with pytest.raises(GridboxError) as failed:
        read(web.url, tmp_path)
    assert web.url in str(failed.value) and said in str(failed.value)
    assert str(failed.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRONG)
def test_it_does_not_replace_the_copy(web: Web, tmp_path: Path, name: str) -> None:
    assert image(read(web.url, tmp_path)) == "a"
    web.answer, said = WRONG[name]
    reading = read(web.url, tmp_path, NOW + 601)
    assert (image(reading), reading.fetched_at) == ("a", NOW)
    assert len(reading.problems) == 1 and said in reading.problems[0]
    web.answer = None
    web.content = document("b")
    assert image(read(web.url, tmp_path, NOW + 700)) == "b"


def test_a_redirect_is_followed(web: Web) -> None:
    with serving(Web(answer=send(308, Location=web.url))) as other:
        assert image(read(other.url)) == "a"


def test_the_environments_proxy_is_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.url.rpartition("/")[0])
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert image(read("http://pipes.invalid/lhcb.pipe")) == "a"
    assert web.requests[0]["Host"] == "pipes.invalid"


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(GridboxError, match=r"could not be fetched \(.*Connection refused\)"):
            read(url)


@pytest.mark.parametrize(
    "url", ["", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "http://u:p@a/b", "https://a b/"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match=r"^vacuum_pipe\.lhcb\.vacuum_pipe_url: got"):
        read(url)


# ---- time --------------------------------------------------------------------------------------------------------


def _drip(head: bytes, each: bytes, done: threading.Event, handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(head)
    while not done.wait(0.1):
        handler.wfile.write(each)


@pytest.mark.parametrize(
    ("head", "each"),
    [
        (b"", b""),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.0 200 OK\r\nX: ", b"x"),
    ],
    ids=["silence", "no body", "a slow body", "a slow header"],
)
def test_a_slow_server_is_waited_for_once(web: Web, head: bytes, each: bytes) -> None:
    done = threading.Event()
    web.answer = functools.partial(_drip, head, each, done)
    began = time.monotonic()
    try:
        with pytest.raises(WaitError, match=f"Waited 0.7 s for the answer of {web.url}"):
            read(web.url, timeout=0.7)
        assert 0.6 < time.monotonic() - began < 5
    finally:
        done.set()


def test_a_slow_server_behind_tls(ca: tuple[Path, Path]) -> None:
    done = threading.Event()
    answer = functools.partial(_drip, b"HTTP/1.0 200 OK\r\nX: ", b"x", done)
    with serving(Web(answer=answer), ca[1]) as web:
        late = threading.Timer(5, done.set)
        late.start()
        began = time.monotonic()
        with pytest.raises(WaitError):
            read(web.url, timeout=0.7, ca_path=str(ca[0]))
        assert time.monotonic() - began < 4
        late.cancel()
        done.set()


def test_a_handshake_that_hangs(ca: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(WaitError):
            read(f"https://localhost:{silent.getsockname()[1]}/", timeout=0.5, ca_path=str(ca[0]))
        assert time.monotonic() - began < 5


@contextlib.contextmanager
def _swallowing(count: int) -> t.Iterator[list[tuple[str, int]]]:
    """Addresses of which nothing answers, as behind a firewall that drops: their queues are full."""
    with contextlib.ExitStack() as held:
        found = []
        for _index in range(count):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _connection in range(3):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            found.append(listener.getsockname())
        time.sleep(0.1)
        yield found


def _named(monkeypatch: pytest.MonkeyPatch, addresses: t.Sequence[tuple[str, int]]) -> str:
    """The URL of a server that has all these addresses."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: answer)
    return "http://pipes.invalid/lhcb.pipe"


def test_a_server_with_many_addresses_that_do_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with _swallowing(6) as addresses:
        url = _named(monkeypatch, addresses)
        began = time.monotonic()
        with pytest.raises(WaitError, match="Waited 1 s for the answer of"):
            read(url, timeout=1.0)
        assert 0.9 < time.monotonic() - began < 2.5


def test_an_address_that_does_not_answer_leaves_time_for_the_next(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(web.url.rpartition(":")[2].partition("/")[0])
    with _swallowing(1) as addresses:
        assert image(read(_named(monkeypatch, [*addresses, ("127.0.0.1", port)]), timeout=4)) == "a"


def test_a_proxy_that_never_comes_to_its_point(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        done = threading.Event()

        def drip() -> None:
            with proxy.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\nX: ")
                while not done.wait(0.1):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        late = threading.Timer(6, done.set)
        late.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        began = time.monotonic()
        with pytest.raises(WaitError):
            read("https://pipes.invalid/lhcb.pipe", timeout=0.7)
        assert time.monotonic() - began < 4
        late.cancel()
        done.set()
        thread.join()


def test_nothing_is_left_of_a_fetch(web: Web) -> None:
    read(web.url)
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for _time in range(5):
        read(web.url)
        with pytest.raises(GridboxError):
            read("http://127.0.0.1:1/")
    deadline = time.monotonic() + 5
    while (len(os.listdir("/proc/self/fd")), threading.active_count()) > before and time.monotonic() < deadline:
        time.sleep(0.05)  # the server's threads end by themselves
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) <= before


# ---- TLS ---------------------------------------------------------------------------------------------------------


def test_tls_with_a_ca_file_and_a_folder(ca: tuple[Path, Path], tmp_path: Path) -> None:
    authority, certificate = ca
    (tmp_path / _subject_hash(authority)).write_text(authority.read_text())
    with serving(Web(document()), certificate) as web:
        assert image(read(web.url, ca_path=str(authority))) == "a"
        assert image(read(web.url, ca_path=str(tmp_path))) == "a"


def _subject_hash(certificate: Path) -> str:
    import subprocess

    argv = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate)]
    return f"{subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()}.0"


def test_the_grids_certificates_are_trusted_where_they_are(
    ca: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate = ca
    with serving(Web(document()), certificate) as web:
        with pytest.raises(GridboxError, match="certificate verify failed"):
            read(web.url)
        (tmp_path / _subject_hash(authority)).write_text(authority.read_text())
        monkeypatch.setattr(pipe_fetch, "GRID_CERTIFICATES", str(tmp_path))
        assert image(read(web.url)) == "a"


def test_the_servers_name_is_verified(ca: tuple[Path, Path]) -> None:
    authority, certificate = ca
    with serving(Web(document()), certificate) as web, pytest.raises(GridboxError, match="certificate verify failed"):
        read(web.url.replace("localhost", "127.0.0.1"), ca_path=str(authority))


def test_another_ca_is_not_trusted(ca: tuple[Path, Path], tmp_path: Path) -> None:
    other, _certificate = make_ca(tmp_path)
    with serving(Web(document()), ca[1]) as web, pytest.raises(GridboxError, match="certificate verify failed"):
        read(web.url, ca_path=str(other))


def test_https_never_leads_to_http(ca: tuple[Path, Path], web: Web) -> None:
    authority, certificate = ca
    with serving(Web(answer=send(302, Location=web.url)), certificate) as secured:
        with pytest.raises(GridboxError, match=r"redirects to http://.*, which is not followed"):
            read(secured.url, ca_path=str(authority))
        with serving(Web(answer=send(302, Location=secured.url))) as plain, pytest.raises(GridboxError):
            read(plain.url, ca_path=str(authority))
    assert web.requests == []


def test_http_may_lead_to_https(ca: tuple[Path, Path]) -> None:
    with serving(Web(document()), ca[1]) as secured, serving(Web(answer=send(302, Location=secured.url))) as plain:
        assert image(read(plain.url, ca_path=str(ca[0]))) == "a"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_that_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"^ca_path: got"):
        read("https://localhost:1/", ca_path=str(path))


# ---- the copy ----------------------------------------------------------------------------------------------------


def test_the_source_is_not_asked_before_the_time_is_over(web: Web, tmp_path: Path) -> None:
    cache = tmp_path / "made" / "here"
    read(web.url, cache)
    web.content = document("b")
    assert image(read(web.url, cache, NOW + 599)) == "a"
    assert len(web.requests) == 1
    assert image(read(web.url, cache, NOW + 600)) == "b"
    assert len(web.requests) == 2


def test_a_clock_that_was_ahead_holds_nothing_up(web: Web, tmp_path: Path) -> None:
    read(web.url, tmp_path, NOW + 10**6)
    web.content = document("b")
    assert image(read(web.url, tmp_path, NOW)) == "b"


@pytest.mark.parametrize(
    ("header", "validator", "value"),
    [("If-None-Match", "etag", '"one"'), ("If-Modified-Since", "last_modified", "Fri, 27 Nov 2026 20:00:00 GMT")],
)
def test_not_modified(web: Web, tmp_path: Path, header: str, validator: str, value: str) -> None:
    setattr(web, validator, value)
    read(web.url, tmp_path)
    assert header not in web.requests[0]
    for number in (1, 2):
        reading = read(web.url, tmp_path, NOW + number * 1000)
        assert (image(reading), reading.fetched_at, reading.problems) == ("a", NOW + number * 1000, ())
        assert web.requests[number][header] == value
    read(web.url, tmp_path, NOW + 2599)
    assert len(web.requests) == 3, "what is not modified is good for as long again"
    web.content = document("b")
    setattr(web, validator, "Fri, 27 Nov 2026 21:00:00 GMT")
    assert image(read(web.url, tmp_path, NOW + 5000)) == "b"


def test_validators_go_with_a_redirect(web: Web, tmp_path: Path) -> None:
    web.etag = '"one"'
    with serving(Web(answer=send(302, Location=web.url))) as other:
        read(other.url, tmp_path)
        assert image(read(other.url, tmp_path, NOW + 1000)) == "a"
    assert web.requests[1]["If-None-Match"] == '"one"'


def test_a_header_that_is_not_fit_to_be_sent_back(web: Web, tmp_path: Path) -> None:
    web.etag = 300 * "x"
    read(web.url, tmp_path)
    read(web.url, tmp_path, NOW + 1000)
    assert "If-None-Match" not in web.requests[1]


def test_while_the_source_is_down_the_copy_is_used_and_says_so(tmp_path: Path) -> None:
    with serving(Web(document())) as web:
        url = web.url
        read(url, tmp_path)
    first = read(url, tmp_path, NOW + 3600)
    assert (image(first), first.fetched_at) == ("a", NOW)
    assert first.problems[0].startswith(
        "The vacuum pipe lhcb has not been read since 2026-11-27 20:00:00 UTC: its source has been down since"
        " 2026-11-27 21:00:00 UTC. The copy is used until it is back. Last it was: "
    )
    assert "Connection refused" in first.problems[0]
    later = read(url, tmp_path, NOW + 7200)
    assert "down since 2026-11-27 21:00:00 UTC" in later.problems[0], "since when, not when it was last tried"


def test_a_source_that_is_down_is_asked_again_after_a_minute(web: Web, tmp_path: Path) -> None:
    read(web.url, tmp_path)
    web.answer = send(503)
    down = read(web.url, tmp_path, NOW + 600)
    assert read(web.url, tmp_path, NOW + 659).problems == down.problems
    assert len(web.requests) == 2
    web.answer = None
    web.content = document("b")
    back = read(web.url, tmp_path, NOW + 660)
    assert (image(back), back.fetched_at, back.problems) == ("b", NOW + 660, ())
    assert read(web.url, tmp_path, NOW + 661).problems == ()
    assert len(web.requests) == 3


def test_a_copy_of_another_source_is_not_used(web: Web, tmp_path: Path) -> None:
    read(web.url, tmp_path)
    with pytest.raises(GridboxError, match="Connection refused"):
        read("http://127.0.0.1:1/lhcb.pipe", tmp_path)
    with serving(Web(document("b"))) as other:
        assert image(read(other.url, tmp_path)) == "b"


def test_pipes_do_not_share_copies(web: Web, tmp_path: Path) -> None:
    read(web.url, tmp_path)
    web.content = document("b")
    from_url(web.url, Section("lhcb-2"), Transfer(), str(tmp_path), lambda: NOW)
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (0, 0))
    web.content = document("c")
    assert image(read(web.url, tmp_path, NOW + 1000)) == "c"
    assert len(web.requests) == 3
    assert image(from_url(web.url, Section("lhcb-2"), Transfer(), str(tmp_path), lambda: NOW + 1)) == "b"


def test_the_copy_is_two_files_that_people_can_read(web: Web, tmp_path: Path) -> None:
    web.etag = '"one"'
    read(web.url, tmp_path)
    note = json.loads((tmp_path / "lhcb.json").read_text())
    assert (note["url"], note["etag"], note["last_modified"], note["fetched_at"]) == (web.url, '"one"', "", NOW)
    kept = tmp_path / f"lhcb.{note['sha256'][:16]}.pipe"
    assert kept.read_bytes() == web.content
    assert sorted(tmp_path.iterdir()) == sorted([kept, tmp_path / "lhcb.json"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def _make_fifo(_note: Path, kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note, kept: note.write_text("{"),
        lambda note, kept: note.write_text("[]"),
        lambda note, kept: note.write_text("{}"),
        lambda note, kept: note.write_text(100000 * "["),
        lambda note, kept: note.write_text(note.read_text().replace(str(NOW), '"then"')),
        lambda note, kept: note.write_text(note.read_text().replace(str(NOW), "NaN")),
        lambda note, kept: note.unlink(),
        lambda note, kept: kept.unlink(),
        lambda note, kept: kept.write_bytes(b""),
        lambda note, kept: kept.write_bytes(kept.read_bytes().replace(b"docker://a", b"docker://e")),
        _make_fifo,
    ],
)
def test_a_copy_that_is_damaged_is_made_again(web: Web, tmp_path: Path, spoil: t.Callable[[Path, Path], t.Any]) -> None:
    read(web.url, tmp_path)
    [kept] = tmp_path.glob("*.pipe")
    spoil(tmp_path / "lhcb.json", kept)
    reading = read(web.url, tmp_path, NOW + 1)
    assert (image(reading), reading.problems, len(web.requests)) == ("a", (), 2)
    read(web.url, tmp_path, NOW + 2)
    assert len(web.requests) == 2


def test_a_process_that_is_killed_at_any_write_leaves_a_whole_copy(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(web.url, tmp_path)
    whole = write_atomically
    for writes in (0, 1):
        left = writes

        def killed(path: str, content: bytes, mode: int) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            whole(path, content, mode)

        monkeypatch.setattr(pipe_source, "write_atomically", killed)
        web.content = document("b")
        with pytest.raises(KeyboardInterrupt):
            read(web.url, tmp_path, NOW + 1000)
        asked = len(web.requests)
        assert image(read(web.url, tmp_path, NOW + 1)) == "a"
        assert len(web.requests) == asked, "it is still the copy of before"


def test_what_was_left_behind_goes_in_time(web: Web, tmp_path: Path) -> None:
    old, new = tmp_path / "lhcb.json.1.new", tmp_path / "lhcb.json.2.new"
    for path in (old, new, tmp_path / "other.json.1.new"):
        path.write_text("x")
    for path in (old, tmp_path / "other.json.1.new"):
        os.utime(path, (0, 0))
    read(web.url, tmp_path)
    assert not old.exists() and new.exists() and (tmp_path / "other.json.1.new").exists()


def test_a_copy_that_cannot_be_kept_costs_nothing(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reading = read(web.url, tmp_path / "file")
    assert image(reading) == "a"
    assert reading.problems == (
        f"The copy of the vacuum pipe lhcb could not be kept in {tmp_path / 'file'} (File exists).",
    )


def test_many_at_once_leave_one_whole_copy(web: Web, tmp_path: Path) -> None:
    def often() -> None:
        for number in range(6):
            with contextlib.suppress(GridboxError):
                found.add(image(read(web.url, tmp_path, NOW + 1000 * number)))

    found: set[str] = set()
    threads = [threading.Thread(target=often) for _thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a"}
    assert image(read(web.url, tmp_path, NOW)) == "a"


# ---- a file ------------------------------------------------------------------------------------------------------


def test_a_pipe_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lhcb.pipe"
    path.write_bytes(document())
    reading = from_path(str(path), SECTION)
    assert (reading.pipe.machinetypes[0].name, reading.fetched_at) == ("lhcb-prod", path.stat().st_mtime)


@pytest.mark.parametrize("broken", [None, b"", document()[:-9]], ids=["gone", "empty", "half"])
def test_a_file_that_is_no_pipe_now_is_used_as_it_was(tmp_path: Path, broken: bytes | None) -> None:
    path, cache = tmp_path / "lhcb.pipe", tmp_path / "cache"
    path.write_bytes(document("a"))
    os.utime(path, (NOW, NOW))
    good = from_path(str(path), SECTION, str(cache))
    assert from_path(str(path), SECTION, str(cache)) == good
    assert {one.name: one.stat().st_mode & 0o777 for one in cache.glob("*.pipe")}.popitem()[1] == 0o600
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    reading = from_path(str(path), SECTION, str(cache))
    assert (reading.content, reading.fetched_at, len(reading.problems)) == (good.content, NOW, 1)
    assert reading.problems[0].startswith("The vacuum pipe lhcb is used as it was at ")
    for elsewhere in ((str(tmp_path / "other"), str(cache)), (str(path), "")):
        with pytest.raises(GridboxError):
            from_path(elsewhere[0], SECTION, elsewhere[1])
    path.write_bytes(document("b"))
    assert from_path(str(path), SECTION, str(cache)).problems == ()
    path.unlink()
    assert from_path(str(path), SECTION, str(cache)).content == document("b")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    for name, said in (
        ("none", "No such file"), ("", "no regular file"), ("fifo", "no regular file"), ("large", "larger than"),
    ):  # fmt: skip
        with pytest.raises(GridboxError, match=said):
            from_path(str(tmp_path / name), SECTION)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where user_data comes from: a server, which may answer anything, or the site's own folder and nothing beside it."""

from __future__ import annotations

import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, PipeSource
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data import Content
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import MAX_BYTES, folder_of, load
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import pipe_fetch
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import Transfer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import FactorySettings
from tests.unit.factory.told import configuration, machinetype
from tests.unit.vacuum.web_server import Web, make_ca, send, serving

SCRIPT = b"#!/bin/sh\nexec ##user_data_option_pilot##\n"


@pytest.fixture()
def web() -> t.Iterator[Web]:
    with serving(Web(SCRIPT)) as served:
        yield served


@pytest.fixture()
def site(tmp_path: Path) -> Path:
    """The folder of the pipe ``lhcb``, with a template in it."""
    files = tmp_path / "machinetypes" / "lhcb" / "files"
    files.mkdir(parents=True)
    (files / "template").write_bytes(SCRIPT)
    return files


def of(state: Path, **changes: t.Any) -> Configuration:
    """With a pipe of this host, as the servers of these tests are."""
    given = {"pipes": (PipeSource(Section("lhcb"), "http://127.0.0.1/lhcb.pipe"),), **changes}
    return configuration(state_folder=str(state), **given)


def got(content: t.Optional[Content]) -> Content:
    assert content is not None
    return content


def test_no_user_data_is_none(tmp_path: Path) -> None:
    assert load(machinetype(user_data=""), of(tmp_path), Transfer()) is None


# ---- from a server -----------------------------------------------------------------------------------------------


def test_a_template_is_fetched_afresh_for_each_machine(web: Web, tmp_path: Path) -> None:
    one = machinetype(user_data=web.url)
    assert got(load(one, of(tmp_path), Transfer(timeout=10))) == Content(SCRIPT, web.url, {})
    web.content = b"#!/bin/sh\ntrue\n"
    assert got(load(one, of(tmp_path), Transfer(timeout=10))).template == b"#!/bin/sh\ntrue\n"
    assert len(web.requests) == 2
    assert list(tmp_path.iterdir()) == []


WRONG: dict[str, tuple[int, bytes, str]] = {
    "error page": (500, SCRIPT, "answers with HTTP status 500"),
    "not found": (404, b"<html>not here</html>", "answers with HTTP status 404"),
    "web page": (200, b"<!DOCTYPE html>\n<p>It works!", "is a web page"),
    "old web page": (200, b'<!doctype  HTML PUBLIC "-//W3C//DTD HTML 4.01//EN">', "is a web page"),
    "web page after blanks": (200, b"\n \t\r\n<HTML lang=en>", "is a web page"),
    "web page after a mark": (200, b"\xef\xbb\xbf<html>", "is a web page"),
    "XHTML": (200, b'<?xml version="1.0"?>\n<!DOCTYPE html>', "is a web page"),
    "a page after a comment": (200, b"<!-- moved -->\n<html>", "is a web page"),
    "a page without its beginning": (200, b"<HEAD><TITLE>302 Moved</TITLE></HEAD>", "is a web page"),
    "nothing": (200, b"", "is empty"),
    "blanks": (200, b"\n\n", "is empty"),
    "too large": (200, b"#" * (MAX_BYTES + 1), f"larger than {MAX_BYTES} bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_template_is_refused(web: Web, tmp_path: Path, name: str) -> None:
    status, body, said = WRONG[name]
    web.answer = send(status, body)
    with pytest.raises(GridboxError) as failed:
        load(machinetype(user_data=web.url), of(tmp_path), Transfer(timeout=10, max_bytes=1 << 30))
    assert web.url in str(failed.value) and said in str(failed.value)


@pytest.mark.parametrize(
    "body", [b"<htmlish>", b"#!/bin/sh\ncat <<E\n<html>\nE\n", b"Content-Type: text/html\n\n<html>"]
)
def test_what_only_looks_a_little_like_a_web_page_is_taken(web: Web, tmp_path: Path, body: bytes) -> None:
    web.content = body
    assert got(load(machinetype(user_data=web.url), of(tmp_path), Transfer(timeout=10))).template == body


HOSTILE = """
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import is_web_page
for much in (b"<!---->", b"<?xml?>", b" ", b"<!--", b"<?xml", b"<!-- --> \\n", b"<!doctype "):
    assert not is_web_page(much * 100_000 + b"x"), much
assert is_web_page(b"<!---->" * 100_000 + b"<html>")
"""


def test_a_hostile_document_does_not_hold_the_factory() -> None:
    """In a process of its own: nothing else could end a match that takes for ever."""
    subprocess.run([sys.executable, "-c", HOSTILE], check=True, timeout=120)


def test_a_server_has_to_be_who_it_says(tmp_path: Path) -> None:
    ca, certificate = make_ca(tmp_path)
    with serving(Web(SCRIPT), certificate) as web:
        one = machinetype(user_data=web.url)
        with pytest.raises(GridboxError, match="CERTIFICATE_VERIFY_FAILED"):
            load(one, of(tmp_path), Transfer(timeout=10))
        assert got(load(one, of(tmp_path), Transfer(str(ca), timeout=10))).template == SCRIPT


# ---- from a server that only this host comes to ------------------------------------------------------------------

ELSEWHERE = "https://pipes.example.org/lhcb.pipe"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_a_pipe_from_elsewhere_does_not_come_to_what_listens_on_this_host(web: Web, tmp_path: Path, host: str) -> None:
    """Root would fetch it, and a payload read it."""
    url = web.url.replace("127.0.0.1", host)
    one = of(tmp_path, pipes=(PipeSource(Section("lhcb"), ELSEWHERE),))
    with pytest.raises(RefusedError, match="an address of this host or of its link"):
        load(machinetype(user_data=url), one, Transfer(timeout=10))
    assert web.requests == []


@pytest.mark.parametrize("name", ["WN001.example.org", "wn002.example.org"])
def test_a_site_may_publish_its_pipe_on_the_factorys_host(web: Web, tmp_path: Path, name: str) -> None:
    """By the host's own name, which Debian has at 127.0.1.1."""
    pipe = PipeSource(Section("lhcb"), f"http://{name}/lhcb.pipe")
    settings = FactorySettings("wn001.example.org", ("wn001-00.example.org",), 1)
    one = configuration(state_folder=str(tmp_path), settings=settings, pipes=(pipe,))
    if name.lower() == settings.name:
        assert got(load(machinetype(user_data=web.url), one, Transfer(timeout=10))).template == SCRIPT
    else:
        with pytest.raises(RefusedError, match="an address of this host or of its link"):
            load(machinetype(user_data=web.url), one, Transfer(timeout=10))


def test_nor_by_a_redirect(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_fetch, "is_of_this_host", lambda address: address == "127.0.0.2")
    web.answer = send(302, Location=web.url.replace("127.0.0.1", "127.0.0.2"))
    one = of(tmp_path, pipes=(PipeSource(Section("lhcb"), ELSEWHERE),))
    with pytest.raises(RefusedError, match=r"it leads to 127\.0\.0\.2"):
        load(machinetype(user_data=web.url), one, Transfer(timeout=10))
    assert len(web.requests) == 1


def test_nor_through_a_proxy_which_may_be_on_this_host(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, web.url.rpartition("/")[0])
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    one = of(tmp_path, pipes=(PipeSource(Section("lhcb"), ELSEWHERE),))
    urls = ("http://127.0.0.1:9/", "https://localhost:9/", "http://169.254.169.254/latest", "https://[::1]/")
    for url in (*urls, "https://127%2e0.0.1:9/", "http://127.0.0.1.:9/", "http://a.LocalHost./"):
        with pytest.raises(RefusedError, match="an address of this host or of its link"):
            load(machinetype(user_data=url), one, Transfer(timeout=10))
    assert web.requests == []
    assert got(load(machinetype(user_data="http://pipes.invalid/u"), one, Transfer(timeout=10))).template == SCRIPT
    web.answer = send(302, Location="http://127.0.0.1:9/")
    with pytest.raises(RefusedError, match="an address of this host or of its link"):
        load(machinetype(user_data="http://pipes.invalid/u"), one, Transfer(timeout=10))


@pytest.mark.parametrize("who", ["section", "machinetype", "own", "file", "localhost"])
def test_the_site_may_name_what_is_on_this_host(web: Web, tmp_path: Path, who: str) -> None:
    kind = machinetype(user_data=web.url)
    said = {"user_data": web.url}
    pipe = {
        "section": PipeSource(Section("lhcb", options=said), ELSEWHERE),
        "machinetype": PipeSource(Section("lhcb", machinetypes={kind.name: said}), ELSEWHERE),
        "own": PipeSource(Section("lhcb"), ELSEWHERE),
        "file": PipeSource(Section("lhcb"), path="/srv/lhcb.pipe"),
        "localhost": PipeSource(Section("lhcb"), "https://LocalHost:8443/lhcb.pipe"),
    }[who]
    one = of(tmp_path, pipes=(pipe,), machinetypes=(kind,) if who == "own" else ())
    assert got(load(kind, one, Transfer(timeout=10))).template == SCRIPT


def test_what_the_site_says_of_another_machinetype_is_not_said_of_this_one(web: Web, tmp_path: Path) -> None:
    section = Section("lhcb", machinetypes={"lhcb-other": {"user_data": web.url}})
    with pytest.raises(RefusedError):
        load(machinetype(user_data=web.url), of(tmp_path, pipes=(PipeSource(section, ELSEWHERE),)), Transfer())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True),
        ("::", True), ("169.254.169.254", True), ("::ffff:169.254.169.254", True), ("fe80::1%eth0", True),
        ("192.0.2.1", False), ("10.0.0.1", False), ("2001:db8::1", False), ("::ffff:192.0.2.1", False),
    ],
)  # fmt: skip
def test_what_addresses_are_of_this_host_or_its_link(address: str, expected: bool) -> None:
    assert pipe_fetch.is_of_this_host(address) == expected


# ---- from the site's folder --------------------------------------------------------------------------------------


def test_a_template_and_files_of_the_pipes_folder(site: Path, tmp_path: Path) -> None:
    (site / "hostkey.pem").write_bytes(b"key \xff")
    one = machinetype(user_data_files={"hostkey": "hostkey.pem"})
    content = got(load(one, of(tmp_path), Transfer()))
    assert (content.template, content.url, content.files) == (SCRIPT, "", {"hostkey": "key \udcff"})


def test_a_file_may_hold_a_web_page(site: Path, tmp_path: Path) -> None:
    (site / "template").write_bytes(b"<html>")
    assert got(load(machinetype(), of(tmp_path), Transfer())).template == b"<html>"


def test_files_of_a_template_that_was_fetched(site: Path, web: Web, tmp_path: Path) -> None:
    one = machinetype(user_data=web.url, user_data_files={"a": "template"})
    assert got(load(one, of(tmp_path), Transfer(timeout=10))).files == {"a": SCRIPT.decode()}


@pytest.mark.parametrize("name", ["secret", "../../other/files/secret", "out", "above", "."])
def test_nothing_else_of_the_host_is_read(site: Path, tmp_path: Path, name: str) -> None:
    other = tmp_path / "machinetypes" / "other" / "files"
    other.mkdir(parents=True)
    (other / "secret").write_text("PRIVATE")
    (site / "secret").symlink_to("../../other/files/secret")
    (site / "out").symlink_to(other / "secret")
    (site / "above").symlink_to("..")
    for one in (machinetype(user_data=name), machinetype(user_data_files={"a": name})):
        with pytest.raises(RefusedError, match=f"Reading {name} for the machinetype lhcb-prod: it leads out of {site}"):
            load(one, of(tmp_path), Transfer())


def test_links_that_stay_inside_are_the_operators(site: Path, tmp_path: Path) -> None:
    """One of the whole folder too: he says where it is."""
    elsewhere = tmp_path / "elsewhere"
    site.rename(elsewhere)
    site.symlink_to(elsewhere)
    (elsewhere / "current").symlink_to("template")
    assert got(load(machinetype(user_data="current"), of(tmp_path), Transfer())).template == SCRIPT


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "could not be read (No such file"), (b"#" * (MAX_BYTES + 1), "is larger than"), (b"", "is empty")],
)
def test_a_file_that_is_none(site: Path, tmp_path: Path, content: t.Optional[bytes], said: str) -> None:
    (site / "template").unlink()
    if content is not None:
        (site / "template").write_bytes(content)
    with pytest.raises(GridboxError) as failed:
        load(machinetype(), of(tmp_path), Transfer())
    assert "template" in str(failed.value) and said in str(failed.value)


# ---- whose folder ------------------------------------------------------------------------------------------------


def pipes(*prefixes: str) -> tuple[PipeSource, ...]:
    return tuple(PipeSource(Section(prefix), f"https://example.org/{prefix}") for prefix in prefixes)


def test_machinetypes_of_a_pipe_share_its_folder() -> None:
    one = of(Path("/state"), pipes=pipes("gds", "lhcb"))
    assert folder_of(machinetype(name="lhcb-vm-prod"), one) == "/state/machinetypes/lhcb"


def test_the_operators_machinetypes_have_their_own() -> None:
    own = machinetype(name="lhcb-vm-prod")
    one = of(Path("/state"), pipes=pipes("lhcb"), machinetypes=(own,))
    assert folder_of(own, one) == "/state/machinetypes/lhcb-vm-prod"


def test_a_pipe_does_not_come_to_anothers_keys_by_a_suffix() -> None:
    """``gds`` may publish the suffix ``vo-x``: the name is as if ``gds-vo`` had published ``x``."""
    one = of(Path("/state"), pipes=pipes("gds", "gds-vo"))
    with pytest.raises(RefusedError, match="may be of the vacuum pipes gds, gds-vo"):
        folder_of(machinetype(name="gds-vo-x"), one)
    assert folder_of(machinetype(name="gds-x"), one) == "/state/machinetypes/gds"


@pytest.mark.parametrize("name", ["lhcb", "lhcbx-prod", "atlas-prod"])
def test_a_machinetype_of_nobody_has_none(name: str) -> None:
    with pytest.raises(RefusedError, match="is of no vacuum pipe"):
        folder_of(machinetype(name=name), of(Path("/state")))

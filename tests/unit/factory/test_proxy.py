# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proxies, made and verified by the real openssl."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import proxy
from ansible_collections.hep.gridbox.plugins.module_utils.host import command

NAME = "lhcb-prod"
DAY = 86400
EXTENSIONS = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n"
PLAIN = "DC = org\nOU = Grid Hosts\nCN = factory1.example.org\n"


def openssl(*arguments: str | Path, **options: t.Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, timeout=60, encoding="utf-8", **options
    )
    return done.stdout


class Authority:
    """A CA that gives certificates to the site."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.certificate = folder, folder / "ca.pem"
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", folder / "ca.key",
            "-out", self.certificate, "-subj", "/DC=org/CN=A CA of the tests",
        )  # fmt: skip

    def give(self, folder: Path, name: str = PLAIN, key: tuple[str, ...] = ("rsa:2048",), days: int = 10) -> Path:
        """Put a certificate and its key into a machinetype's folder.

        :param name: lines of openssl's configuration.
        """
        folder.mkdir(exist_ok=True)
        configuration = folder / "request.cnf"
        configuration.write_text(f"[req]\nprompt=no\nutf8=yes\ndistinguished_name=dn\n[dn]\n{name}", encoding="utf-8")
        extensions = folder / "extensions.cnf"
        extensions.write_text(EXTENSIONS)
        openssl(
            "req", "-new", "-config", configuration, "-newkey", *key, "-nodes", "-keyout", folder / proxy.KEY,
            "-out", folder / "request",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", folder / "request", "-CA", self.certificate, "-CAkey", self.folder / "ca.key",
            "-set_serial", "7", "-days", str(days), "-extfile", extensions, "-out", folder / proxy.CERTIFICATE,
        )  # fmt: skip
        return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def site(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.give(tmp_path_factory.mktemp("site"))


@pytest.fixture()
def work(tmp_path: Path) -> Path:
    """Where proxies are made, so that one sees what is left."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def soon(seconds: int = DAY) -> int:
    return int(time.time()) + seconds


def blocks(text: str) -> list[str]:
    """PEM blocks, if there is nothing else."""
    found = re.findall(r"-----BEGIN ([A-Z ]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END \1-----\n", text)
    assert re.sub(r"-----BEGIN ([A-Z ]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END \1-----\n", "", text) == ""
    return found


def verify(authority: Authority, tmp_path: Path, text: str, *options: str) -> str:
    """What openssl says of a proxy; the rest of the chain comes with it."""
    (tmp_path / "chain.pem").write_text(text)
    done = subprocess.run(
        ["openssl", "verify", *options, "-CAfile", authority.certificate, "-untrusted", "chain.pem", "chain.pem"],
        cwd=tmp_path, check=False, capture_output=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def shown(tmp_path: Path, text: str, *options: str) -> str:
    (tmp_path / "shown.pem").write_text(text)
    return openssl("x509", "-in", tmp_path / "shown.pem", "-noout", *options)


def signed_by(tmp_path: Path, text: str, source: Path) -> bool:
    """Whether a certificate is signed by a key: by the bytes, for openssl does not follow proxies of the older form."""
    (tmp_path / "one.pem").write_text(text)
    places = re.findall(r"^ *(\d+):d=1 .*$", openssl("asn1parse", "-in", tmp_path / "one.pem"), re.MULTILINE)
    body, _algorithm, signature = places
    openssl("asn1parse", "-in", tmp_path / "one.pem", "-strparse", body, "-noout", "-out", tmp_path / "body")
    openssl("asn1parse", "-in", tmp_path / "one.pem", "-strparse", signature, "-noout", "-out", tmp_path / "signature")
    (tmp_path / "public").write_text(openssl("x509", "-in", source, "-noout", "-pubkey"))
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "public", "-signature", "signature", "body"],
        cwd=tmp_path, check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    return done.returncode == 0


# ---- what is made ------------------------------------------------------------------------------------------------


def test_a_proxy_is_one_for_openssl(authority: Authority, site: Path, work: Path, tmp_path: Path) -> None:
    end = soon()
    made = proxy.make(str(site), NAME, end, str(work))
    assert blocks(made) == ["CERTIFICATE", "RSA PRIVATE KEY", "CERTIFICATE"]
    assert verify(authority, tmp_path, made, "-allow_proxy_certs") == "chain.pem: OK\n"
    assert "proxy certificates not allowed" in verify(authority, tmp_path, made)
    said = shown(tmp_path, made, "-text")
    assert re.search(
        r"Proxy Certificate Information: critical\s+Path Length Constraint: infinite\s+Policy Language: (.+)", said
    )
    assert f"Policy Language: {proxy.LIMITED}\n" in said
    assert "Signature Algorithm: sha256WithRSAEncryption" in said
    assert "Public-Key: (2048 bit)" in said
    assert re.search(r"Key Usage: critical\s+Digital Signature, Key Encipherment\n", said)
    assert len(re.findall(r"^ {12}\S.*: ?(?:critical)?$", said, re.MULTILINE)) == 2  # and no other extension
    names = shown(tmp_path, made, "-subject", "-issuer", "-nameopt", "RFC2253").splitlines()
    assert names == [
        f"subject=CN={NAME},CN=factory1.example.org,OU=Grid Hosts,DC=org",
        "issuer=CN=factory1.example.org,OU=Grid Hosts,DC=org",
    ]
    last = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(end))
    assert shown(tmp_path, made, "-enddate", "-dateopt", "iso_8601") == f"notAfter={last}\n"
    assert os.listdir(work) == []


def test_its_key_is_its_own(site: Path, work: Path, tmp_path: Path) -> None:
    first, second = (proxy.make(str(site), NAME, soon(), str(work)) for _turn in range(2))
    (tmp_path / "key").write_text(first)
    assert openssl("pkey", "-in", tmp_path / "key", "-pubout") == shown(tmp_path, first, "-pubkey")
    assert shown(tmp_path, first, "-pubkey") != shown(tmp_path, second, "-pubkey")
    assert shown(tmp_path, first, "-serial") != shown(tmp_path, second, "-serial")


def test_one_of_the_older_form(site: Path, work: Path, tmp_path: Path) -> None:
    made = proxy.make(str(site), NAME, soon(), str(work), legacy=True)
    assert shown(tmp_path, made, "-subject", "-nameopt", "RFC2253") == (
        "subject=CN=limited proxy,CN=factory1.example.org,OU=Grid Hosts,DC=org\n"
    )
    assert "Proxy Certificate Information" not in shown(tmp_path, made, "-text")
    assert signed_by(tmp_path, made, site / proxy.CERTIFICATE)
    assert not signed_by(tmp_path, made, tmp_path / "shown.pem")


@pytest.mark.parametrize(
    "name",
    [
        "CN = host/factory1.example.org\n",
        'O = Grid\\, Inc\\\\+Co. <a;b> = \\"c\\" \\#\nCN = a/b=c\n',
        "C = DE\nL = Zürich\nCN = J\u00f6rg M\u00fcller \u4e2d\n",
        "DC = org\n1.CN = Robot\n2.CN = robot: a\nemailAddress = a@b.example\nUID = 7\n",
        "O = Grid\nCN = a\n+OU = b\n",
        "O = \\ a \nCN = \\#b\n",
    ],
)
def test_whatever_the_subject_is(authority: Authority, work: Path, tmp_path: Path, name: str) -> None:
    site = authority.give(tmp_path / "site", name)
    made = proxy.make(str(site), NAME, soon(), str(work))
    assert verify(authority, tmp_path, made, "-allow_proxy_certs") == "chain.pem: OK\n"


def test_a_subject_that_openssl_cannot_write_again_is_refused(authority: Authority, work: Path, tmp_path: Path) -> None:
    site = authority.give(tmp_path / "site", "O = a\\nb\nCN = c\n")
    with pytest.raises(GridboxError, match=r"prints the name O=a.*b,CN=c,CN=lhcb-prod, but does not take it"):
        proxy.make(str(site), NAME, soon(), str(work))
    assert os.listdir(work) == []


def test_a_key_of_another_kind(authority: Authority, work: Path, tmp_path: Path) -> None:
    site = authority.give(tmp_path / "site", key=("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"))
    made = proxy.make(str(site), NAME, soon(), str(work))
    assert verify(authority, tmp_path, made, "-allow_proxy_certs") == "chain.pem: OK\n"
    assert "ecdsa-with-SHA256" in shown(tmp_path, made, "-text")


def test_a_proxy_of_a_proxy(authority: Authority, site: Path, work: Path, tmp_path: Path) -> None:
    """What a site has may be a proxy itself: certificate, key and chain in one file."""
    second = tmp_path / "second"
    second.mkdir()
    made = proxy.make(str(site), "factory", soon(2 * DAY), str(work))
    for name in (proxy.CERTIFICATE, proxy.KEY):
        (second / name).write_text(f"Bag Attributes\r\n{made}".rstrip("\n"))
    made = proxy.make(str(second), NAME, soon(), str(work))
    assert blocks(made) == ["CERTIFICATE", "RSA PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"]
    assert verify(authority, tmp_path, made, "-allow_proxy_certs") == "chain.pem: OK\n"
    # All of the chain has to last.
    with pytest.raises(RefusedError, match=r"its certificate 1 \(.*,CN=factory\) ends at "):
        proxy.make(str(second), NAME, soon(3 * DAY), str(work))


# ---- when it is not ----------------------------------------------------------------------------------------------


def test_a_certificate_that_ends_before_the_machine(authority: Authority, work: Path, tmp_path: Path) -> None:
    site = authority.give(tmp_path / "site", days=1)
    with pytest.raises(RefusedError) as refused:
        proxy.make(str(site), NAME, soon(DAY + 60), str(work))
    assert re.fullmatch(
        rf"Making a proxy of {site}/x509cert.pem until \S+ \S+ UTC: its certificate 1 \(DC=org,OU=Grid Hosts,"
        r"CN=factory1.example.org\) ends at \S+ \S+ UTC. Put a newer certificate there, or .*\.",
        str(refused.value),
    )
    assert os.listdir(work) == []
    assert proxy.make(str(site), NAME, soon(DAY - 60), str(work))


def test_a_machine_that_has_to_be_gone(site: Path, work: Path) -> None:
    with pytest.raises(RefusedError, match="which is past"):
        proxy.make(str(site), NAME, 1000, str(work), clock=lambda: 1000.5)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (proxy.CERTIFICATE, None, r"x509cert.pem: could not be read \(No such file"),
        (proxy.CERTIFICATE, b"\xff", "x509cert.pem: there is no PEM certificate in it"),
        (proxy.CERTIFICATE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "Reading .* failed"),
        (proxy.KEY, None, "Making a proxy of .*x509cert.pem failed"),
        (proxy.KEY, b"nonsense", "Making a proxy of .*x509cert.pem failed"),
    ],
)
def test_what_is_wrong_is_told(
    authority: Authority, work: Path, tmp_path: Path, name: str, content: t.Optional[bytes], said: str
) -> None:
    site = authority.give(tmp_path / "site")
    (site / name).unlink()
    if content is not None:
        (site / name).write_bytes(content)
    with pytest.raises(GridboxError, match=said):
        proxy.make(str(site), NAME, soon(), str(work))
    assert os.listdir(work) == []


def test_a_key_of_another_certificate(authority: Authority, site: Path, work: Path, tmp_path: Path) -> None:
    other = authority.give(tmp_path / "other")
    (other / proxy.KEY).write_bytes((site / proxy.KEY).read_bytes())
    with pytest.raises(GridboxError, match="do not match"):
        proxy.make(str(other), NAME, soon(), str(work))


def test_a_key_with_a_password_asks_nobody(authority: Authority, work: Path, tmp_path: Path) -> None:
    site = authority.give(tmp_path / "site")
    plain = site / "plain"
    (site / proxy.KEY).rename(plain)
    openssl("pkey", "-in", plain, "-aes256", "-passout", "pass:secret", "-out", site / proxy.KEY)
    with pytest.raises(GridboxError, match=r"Making a proxy of .* failed"):
        proxy.make(str(site), NAME, soon(), str(work))


# ---- secrets -----------------------------------------------------------------------------------------------------


def test_no_key_is_in_an_argument_or_in_a_file_for_others(
    site: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said, keys = command.run, [], []

    def watched(request: str, argv: t.Sequence[str], *rest: t.Any, **options: t.Any) -> str:
        output = run(request, argv, *rest, **options)
        said.extend([request, *argv, output, repr(rest), repr(options)])
        (folder,) = work.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            if "PRIVATE KEY" in path.read_text():
                keys.append(path.name)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return output

    monkeypatch.setattr(command, "run", watched)
    before = os.umask(0)
    try:
        made = proxy.make(str(site), NAME, soon(), str(work))
    finally:
        os.umask(before)
    assert set(keys) == {"key"}
    assert os.listdir(work) == []
    secrets = re.findall(
        r"BEGIN (?:RSA )?PRIVATE KEY-----\n(.+?)-----END", made + (site / proxy.KEY).read_text(), re.DOTALL
    )
    lines = {line for secret in secrets for line in secret.split()}
    assert len(secrets) == 2 and len(lines) > 40
    assert not [line for line in lines if line in "\n".join(said)]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An X.509 proxy for a machine: RFC 3820, limited; or Globus's older form (spec 3.7).

Made by the ``openssl`` program (3.0 or later) from ``x509cert.pem`` and ``x509key.pem`` of the machinetype's folder.
Keys are in files that root alone can read, never in an argument list. It is ``openssl ca`` that signs, for of what
OpenSSL 3.0 has only that takes an end to the second.
"""

from __future__ import annotations

import calendar
import os
import re
import tempfile
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import command
from ansible_collections.hep.gridbox.plugins.module_utils.utc import utc
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_fetch import read_file

CERTIFICATE, KEY = "x509cert.pem", "x509key.pem"

#: The policy language of a limited proxy: it may not start jobs.
LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
#: What a limited proxy of the older form is known by.
_LEGACY_NAME = "limited proxy"

#: Seconds that clocks may differ: a proxy is valid from so long ago.
_CLOCKS = 300

_MAX_BYTES = 1 << 20
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

#: A name on one line, in its own order, that can be taken apart again.
_NAME_OPTIONS = "esc_2253,esc_ctrl,utf8,sep_comma_plus,dump_unknown,dump_der,sname"

# The subject is all of the request's and in its order only with -preserveDN as well: "preserve" alone is not heeded.
_CONFIGURATION = """\
[ca]
default_ca = proxy
[proxy]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = policy
email_in_dn = yes
unique_subject = no
x509_extensions = extensions
[policy]
commonName = supplied
[extensions]
subjectKeyIdentifier = none
authorityKeyIdentifier = none
keyUsage = critical,digitalSignature,keyEncipherment
{proxy}
[req]
distinguished_name = name
[name]
"""


def make(
    folder: str,
    name: str,
    shutdown_time: int,
    place: str,
    legacy: bool = False,
    clock: t.Callable[[], float] = time.time,
) -> str:
    """Make a proxy: PEM of its certificate, its key, and the certificates it was made from.

    :param folder: the machinetype's, with the certificate and its key.
    :param name: of the machinetype, the proxy's own part of the subject.
    :param shutdown_time: Unix seconds, when the proxy ends.
    :param place: a folder that goes with the machine: whoever is killed meanwhile leaves a key there.
    :param legacy: Globus's older form, which has a name of its own.
    :raises RefusedError: if the certificate ends before that.
    :raises GridboxError: if it cannot be made.
    """
    source, key = os.path.join(folder, CERTIFICATE), os.path.join(folder, KEY)
    now = int(clock())
    if shutdown_time <= now:
        found = f"it would end at {utc(shutdown_time)}, which is past"
        raise RefusedError(f"Making a proxy of {source}", found, "No machine is made that has to be gone already.")
    text = read_file(source, _MAX_BYTES).decode(errors="replace").replace("\r\n", "\n")
    chain = [f"{block}\n" for block in _BLOCK.findall(text)]
    if not chain:
        raise GridboxError(f"{source}: there is no PEM certificate in it.")
    try:
        with tempfile.TemporaryDirectory(prefix="proxy-", dir=place) as work:
            subject = _look(work, chain, source, shutdown_time)
            own = _LEGACY_NAME if legacy else name
            extension = "" if legacy else f"proxyCertInfo = critical,language:{LIMITED}"
            _save(work, "configuration", _CONFIGURATION.format(folder=work, proxy=extension))
            certificate, new_key = _sign(work, source, key, f"{subject},CN={own}", now - _CLOCKS, shutdown_time)
    except OSError as exc:
        raise GridboxError(f"Making a proxy of {source} failed ({exc.strerror}).") from exc
    return "".join((certificate, new_key, *chain))


def _look(work: str, chain: t.Sequence[str], source: str, end: int) -> str:
    """Look at the certificates: the subject of the first, if all are valid until the end."""
    for number, block in enumerate(chain):
        path = os.path.join(work, f"{number}.pem")
        _save(work, f"{number}.pem", block)
        output = command.run(
            f"Reading {source}", ["openssl", "x509", "-in", path, "-noout", "-enddate", "-dateopt", "iso_8601"]
        )
        try:
            last = calendar.timegm(time.strptime(output.strip(), "notAfter=%Y-%m-%d %H:%M:%SZ"))
        except ValueError as exc:
            raise GridboxError(f"Reading {source} failed: openssl says {output.strip()!r} of its end.") from exc
        if last < end:
            raise RefusedError(
                f"Making a proxy of {source} until {utc(end)}",
                f"its certificate {number + 1} ({_subject(path)}) ends at {utc(last)}",
                "Put a newer certificate there, or make max_wallclock_seconds smaller.",
            )
    return _subject(os.path.join(work, "0.pem"))


def _sign(work: str, source: str, key: str, subject: str, start: int, end: int) -> tuple[str, str]:
    """Make a key, and sign a certificate of it with another key: PEM of both.

    :param work: where the configuration and the certificate of ``key`` are.
    :param subject: as openssl prints it.
    """
    request = f"Making a proxy of {source}"
    new, csr, made = (os.path.join(work, name) for name in ("key", "request", "proxy"))
    for name in ("index", "key", "request", "proxy"):
        _save(work, name, "")  # so that what openssl writes has this mode
    configuration = ["-config", os.path.join(work, "configuration")]
    command.run(request, ["openssl", "genrsa", "-traditional", "-out", new, "2048"])
    command.run(
        request,
        ["openssl", "req", "-new", *configuration, "-key", new, "-utf8", "-subj", _as_option(subject), "-out", csr],
    )
    command.run(
        request,
        [
            "openssl", "ca", "-batch", "-notext", "-preserveDN", *configuration, "-in", csr, "-out", made,
            "-cert", os.path.join(work, "0.pem"), "-keyfile", key,
            "-passin", "pass:",  # else it asks the terminal for the password of a key that has one
            "-startdate", _asn1(start), "-enddate", _asn1(end),
        ],
    )  # fmt: skip
    if _subject(made) != subject:
        raise GridboxError(f"{request} failed: openssl prints the name {subject}, but does not take it.")
    return _load(made), _load(new)


def _subject(path: str) -> str:
    output = command.run(
        f"Reading {path}", ["openssl", "x509", "-in", path, "-noout", "-subject", "-nameopt", _NAME_OPTIONS]
    )
    return output.strip("\n").partition("subject=")[2]


def _as_option(subject: str) -> str:
    """A subject as openssl prints it, in the form in which it reads one: both protect characters by a backslash."""
    parts = re.findall(r"\\.|[^\\]", subject)
    return "/" + "".join({",": "/", "/": "\\/"}.get(part, part) for part in parts)


def _save(work: str, name: str, text: str) -> None:
    descriptor = os.open(os.path.join(work, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _load(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _asn1(seconds: int) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetch a small document over HTTP or HTTPS, or not at all: one deadline, one size limit, no other scheme ever."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import stat
import threading
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)

#: Where Grid hosts have the certificates of their CAs (spec 3.5).
GRID_CERTIFICATES = "/etc/grid-security/certificates"

_REDIRECTS = 5


@dataclass(frozen=True)
class Transfer:
    """How to fetch.

    :ivar ca_path: a file or a folder of CA certificates, trusted instead of the others; empty: those of the system, and
        of :data:`GRID_CERTIFICATES` if it is there.
    :ivar timeout: s, for the whole transfer once the server's name has been resolved, which has limits of its own
        (``resolv.conf(5)``).
    :ivar max_bytes: more is refused, and not read to its end.
    :ivar from_this_host: whether it may lead to an address of this host's own, or of its link: to what listens for this
        host alone, and trusts whoever comes from there. For what the site itself has named.
    """

    ca_path: str = ""
    timeout: float = 30.0
    max_bytes: int = 1048576
    from_this_host: bool = True


@dataclass(frozen=True)
class Document:
    """What a server answered.

    :ivar content: None: what the caller has is still right.
    """

    content: t.Optional[bytes]
    etag: str = ""
    last_modified: str = ""


def fetch(url: str, transfer: Transfer, etag: str = "", last_modified: str = "") -> Document:
    """Ask for a document; with ``etag`` or ``last_modified``, only if it has changed since.

    Through a proxy, if the environment names one (``http_proxy``, ``https_proxy``, ``no_proxy``), as Vac does.

    :raises InputError: if ``ca_path`` is needed and cannot be used.
    :raises RefusedError: if it leads to this host, and may not.
    :raises WaitError: if it took too long.
    :raises GridboxError: if anything but the document came, or nothing.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "hep.gridbox", "Accept": "application/json, */*"})  # noqa: S310  see _opener
    for name, value in (("If-None-Match", etag), ("If-Modified-Since", last_modified)):
        if value:
            request.add_header(name, value)
    with _Deadline(transfer.timeout, "" if transfer.from_this_host else url) as deadline:
        try:
            with contextlib.closing(
                _opener(transfer.ca_path, deadline).open(request, timeout=transfer.timeout)
            ) as answer:
                return _document(url, answer, transfer.max_bytes, deadline)
        except urllib.error.HTTPError as exc:
            with contextlib.closing(exc):
                if exc.code == 304 and (etag or last_modified):
                    return Document(None, etag, last_modified)
                said = _printable(str(exc.reason))
                raise GridboxError(f"{url}: the server answers with HTTP status {exc.code} ({said}).") from exc
        except GridboxError:
            raise
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as exc:
            # The last two are a port, a header or a redirect that makes no sense to the library.
            if deadline.passed:
                raise WaitError(f"the answer of {url}", transfer.timeout) from exc
            said = _printable(str(exc.reason if isinstance(exc, urllib.error.URLError) else exc)) or type(exc).__name__
            raise GridboxError(f"{url}: could not be fetched ({said}).") from exc


def is_of_this_host(address: str) -> bool:
    """Whether an address is of this host, or of its link, where clouds have secrets of their hosts. Pure."""
    found = ipaddress.ip_address(address.partition("%")[0])
    one = getattr(found, "ipv4_mapped", None) or found
    return bool(one.is_loopback or one.is_link_local or one.is_unspecified)


def names_this_host(url: str) -> bool:
    """The same of a URL, as far as that is written in it: nobody is asked for an address."""
    host = urllib.parse.unquote(urllib.parse.urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # it is a name
        return f".{host}".endswith(".localhost")
    return any(is_of_this_host(str(where[0])) for _family, _kind, _protocol, _name, where in found)


def read_file(path: str, max_bytes: int) -> bytes:
    """Read a document from a file of this host.

    :raises GridboxError: if it is no file, cannot be read or is too large.
    """
    try:
        # Opening a named pipe would wait for whoever writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise GridboxError(f"{path}: is no regular file.")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as exc:
        raise GridboxError(f"{path}: could not be read ({exc.strerror}).") from exc
    if len(content) > max_bytes:
        raise GridboxError(f"{path}: is larger than {max_bytes} bytes.")
    return content


def _document(url: str, answer: t.Any, max_bytes: int, deadline: _Deadline) -> Document:
    """The body of an answer, all of it."""
    if answer.status != 200:
        raise GridboxError(f"{url}: the server answers with HTTP status {answer.status}, not with the document.")
    content = bytearray()
    while True:
        block = answer.read1(65536)
        content += block
        if deadline.passed:
            raise TimeoutError
        if len(content) > max_bytes:
            raise GridboxError(f"{url}: the document is larger than {max_bytes} bytes.")
        if not block:
            break
    announced = answer.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != len(content):
        raise GridboxError(f"{url}: the answer ended after {len(content)} of {announced} bytes.")
    return Document(
        bytes(content), _validator(answer.headers.get("ETag")), _validator(answer.headers.get("Last-Modified"))
    )


def _validator(value: t.Optional[str]) -> str:
    """A header that is sent back one day; none if it is not fit to be."""
    return value if value and len(value) <= 200 and value.isascii() and value.isprintable() else ""


def _printable(text: str) -> str:
    """Words of a server, or with such in them, as a message can hold them."""
    return "".join(one if one.isprintable() else "?" for one in text[:300])


def _tls(ca_path: str) -> ssl.SSLContext:
    """Peer and host name verified, whatever the Python."""
    try:
        if ca_path:
            place = {"capath" if os.path.isdir(ca_path) else "cafile": ca_path}
            context = ssl.create_default_context(**place)  # type: ignore[arg-type]
        else:
            context = ssl.create_default_context()
            if os.path.isdir(GRID_CERTIFICATES):
                context.load_verify_locations(capath=GRID_CERTIFICATES)
    except (OSError, ssl.SSLError) as exc:
        expected = f"a file of CA certificates, or a folder of them by their hashes ({exc})"
        raise InputError("ca_path", ca_path or GRID_CERTIFICATES, expected) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # From Python 3.13 on certificates of CAs that lack an extension of RFC 5280 would be refused: some of the Grid's.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _opener(ca_path: str, deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Only what is named here is ever spoken: no file:, ftp: or data: URL, wherever a redirect leads."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _Http(ca_path, deadline), _Redirect(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follow to http and https, and never from https to http: there anybody on the way could answer."""

    max_redirections = _REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: t.Any, code: int, msg: str, headers: t.Any, newurl: str
    ) -> urllib.request.Request:
        scheme = newurl.partition(":")[0].lower()
        fp.close()
        if scheme not in ("http", "https") or (scheme == "http" and req.type == "https"):
            raise GridboxError(f"{req.full_url}: redirects to {_printable(newurl)}, which is not followed.")
        return urllib.request.Request(newurl, headers={**req.headers})  # noqa: S310  looked at above

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python 3.9 and 3.10 do not know it


class _Http(urllib.request.AbstractHTTPHandler):
    """HTTP and HTTPS with connections that the deadline can end."""

    def __init__(self, ca_path: str, deadline: _Deadline) -> None:
        super().__init__()
        self._ca_path, self._deadline = ca_path, deadline

    def http_open(self, request: urllib.request.Request) -> t.Any:
        return self.do_open(self._connecting(http.client.HTTPConnection, request), request)

    def https_open(self, request: urllib.request.Request) -> t.Any:
        # Only here, for reading all CAs of a system takes longer than many a transfer.
        kind = self._connecting(http.client.HTTPSConnection, request)
        return self.do_open(kind, request, context=_tls(self._ca_path))

    def _connecting(self, kind: t.Callable[..., t.Any], request: urllib.request.Request) -> t.Any:
        """What makes connections of a kind that the deadline can end."""
        # The proxy is the site's, and may be anywhere. It finds the address, which may be one of this host for it too.
        is_by_proxy = request.has_proxy() or bool(getattr(request, "_tunnel_host", None))
        if is_by_proxy and self._deadline.elsewhere and names_this_host(request.full_url):
            host = urllib.parse.urlsplit(request.full_url).hostname or ""
            raise _leads_here(self._deadline.elsewhere, _printable(host))

        def make(host: str, **options: t.Any) -> t.Any:
            connection = kind(host, **options)
            connection._create_connection = self._deadline.connect_to_proxy if is_by_proxy else self._deadline.connect
            return connection

        return make

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


def _leads_here(url: str, address: str) -> RefusedError:
    return RefusedError(
        url,
        f"it leads to {address}, an address of this host or of its link",
        "Only the site's configuration may name one.",
    )


class _Deadline:
    """Ends all connections when the time is over.

    The time-out of a socket is for each wait: a server that sends a byte now and then would never run into it.

    :ivar elsewhere: the URL that may not lead to this host; empty: it may.
    """

    def __init__(self, seconds: float, elsewhere: str) -> None:
        self.elsewhere = elsewhere
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._watched: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    def connect(
        self, address: tuple[str, int], timeout: float, _source: t.Optional[tuple[str, int]] = None
    ) -> socket.socket:
        """Connect to the server of a document.

        :raises RefusedError: if it is at an address where it may not be.
        """
        return self._connect(address, timeout, self.elsewhere)

    def connect_to_proxy(
        self, address: tuple[str, int], timeout: float, _source: t.Optional[tuple[str, int]] = None
    ) -> socket.socket:
        """Connect to a proxy, wherever it is."""
        return self._connect(address, timeout, "")

    def _connect(self, address: tuple[str, int], timeout: float, elsewhere: str) -> socket.socket:
        """Connect, as ``socket.create_connection`` does, which would wait for each address of a name as long as for
        all. The time left is shared out, so that one that does not answer leaves some to the next.

        :param timeout: for each wait afterwards.
        """
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        for *_kind, where in found if elsewhere else ():
            if is_of_this_host(str(where[0])):
                raise _leads_here(elsewhere, str(where[0]))
        trouble: OSError = OSError("the server's name has no address")
        for index, (family, kind, protocol, _name, where) in enumerate(found):
            share = (self._end - time.monotonic()) / (len(found) - index)
            if share <= 0:
                raise TimeoutError
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(share)
                sock.connect(where)
                sock.settimeout(timeout)
                # Now: a proxy may hang before it is one, and so may the handshake of TLS.
                self._watch(sock)
            except OSError as exc:
                sock.close()
                trouble = exc
            else:
                return sock
        raise trouble

    def _watch(self, sock: socket.socket) -> None:
        """Remember a connection, by a descriptor of our own: TLS takes the socket's away from it."""
        with self._lock:
            self._watched.append(sock.dup())
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            for sock in self._watched:
                with contextlib.suppress(OSError):  # it has ended by itself
                    sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()
        with self._lock:
            for sock in self._watched:
                sock.close()
            self._watched.clear()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reach services over TCP and look for a sign that it is the right protocol which answers.

An open port alone says little: it may be another service's, or a listener whose process hangs.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.lab.enter import enter

#: What a service may show.
SIGNS = ("none", "ssh", "http")
#: Between two tries while waiting.
PAUSE = 0.5
#: Bytes within which a sign must have come.
ENOUGH = 4096
#: Bytes of an HTTP answer to read before hanging up.
HEARD_OUT = 1 << 20


@dataclass(frozen=True)
class Service:
    """A service at one address.

    :ivar sign: ``none`` (the connection is enough), ``ssh`` (its identification, RFC 4253 4.2) or ``http`` (a status
        line, RFC 9112 4).
    :ivar path: for ``http``, what is asked for.
    :ivar statuses: for ``http``, the status codes that are fine; empty for any.
    """

    name: str
    address: str
    port: int
    sign: str
    path: str
    statuses: tuple[int, ...]

    @property
    def family(self) -> str:
        """``ipv4`` or ``ipv6``."""
        return f"ipv{ipaddress.ip_address(self.address).version}"


@dataclass(frozen=True)
class Answer:
    """What came of one try.

    :ivar seen: the sign, or why there is none.
    """

    up: bool
    seen: str
    seconds: float


@dataclass(frozen=True)
class Wish:
    """What is to be reached.

    :ivar timeout: seconds for one connection, and again for its sign.
    :ivar wait: seconds in which all have to be up.
    """

    services: tuple[Service, ...]
    netns: str
    timeout: float
    wait: float
    required: bool

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        services = []
        for index, given in enumerate(params["services"]):
            option = f"services[{index}]"
            try:
                address = str(ipaddress.ip_address(given["address"]))
            except ValueError:
                raise InputError(f"{option}.address", given["address"], "an IPv4 or IPv6 address") from None
            if not 1 <= given["port"] <= 65535:
                raise InputError(f"{option}.port", given["port"], "a port from 1 to 65535")
            if not re.fullmatch(r"/[!-~]*", given["path"]):
                raise InputError(f"{option}.path", given["path"], "a path that begins with a slash and holds no blank")
            statuses = tuple(given["statuses"])
            services.append(Service(given["name"], address, given["port"], given["sign"], given["path"], statuses))
        if params["timeout"] <= 0:
            raise InputError("timeout", params["timeout"], "a number of seconds above 0")
        if params["wait"] < 0:
            raise InputError("wait", params["wait"], "a number of seconds of 0 or more")
        return cls(tuple(services), params["netns"] or "", params["timeout"], params["wait"], params["required"])


def judge(service: Service, received: bytes) -> t.Optional[Answer]:
    """Whether what was received so far is the sign; None if more is needed. Pure."""
    line, newline, _rest = received.partition(b"\n")
    text = line.decode("latin-1").strip()
    if not newline and len(received) < ENOUGH:
        return None
    if service.sign == "ssh":
        # Other lines may come before the identification.
        for one in received.decode("latin-1").splitlines():
            if one.startswith(("SSH-2.0-", "SSH-1.99-")):
                return Answer(True, one.strip()[:80], 0)
        return None if len(received) < ENOUGH else Answer(False, f"no SSH identification but {text[:60]!r}", 0)
    match = re.fullmatch(r"HTTP/\d\.\d (\d{3})\b.*", text)
    if not match:
        return Answer(False, f"no HTTP status but {text[:60]!r}", 0)
    if service.statuses and int(match.group(1)) not in service.statuses:
        return Answer(False, f"HTTP status {match.group(1)}, not {' or '.join(map(str, service.statuses))}", 0)
    return Answer(True, text[:80], 0)


def reach(service: Service, timeout: float) -> Answer:
    """Try one service once."""
    began = time.monotonic()
    answer = _reach(service, timeout)
    return Answer(answer.up, answer.seen, round(time.monotonic() - began, 4))


def _reach(service: Service, timeout: float) -> Answer:
    try:
        with socket.create_connection((service.address, service.port), timeout) as connection:
            if service.sign == "none":
                return Answer(True, "connected", 0)
            if service.sign == "http":
                host = f"[{service.address}]" if service.family == "ipv6" else service.address
                request = f"GET {service.path} HTTP/1.1\r\nHost: {host}:{service.port}\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode("ascii"))
            deadline = time.monotonic() + timeout
            received = b""
            answer: t.Optional[Answer] = None
            while True:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                part = connection.recv(65536)
                received += part
                answer = answer or judge(service, received if part else received + b"\n" + b" " * ENOUGH)
                # An HTTP server that is hung up on while it sends complains in its log; so its answer is heard out.
                if answer is not None and (service.sign != "http" or not part or len(received) > HEARD_OUT):
                    return answer
                if not part:
                    return Answer(False, "closed without a sign", 0)
    except socket.timeout:
        return Answer(False, f"no answer within {timeout:g} s", 0)
    except OSError as exc:
        return Answer(False, exc.strerror or str(exc), 0)


def probe(wish: Wish) -> list[Answer]:
    """Try all services side by side until each is up or the time is over."""
    answers: list[Answer] = [Answer(False, "not tried", 0)] * len(wish.services)
    deadline = time.monotonic() + wish.wait
    with ThreadPoolExecutor(max_workers=min(32, len(wish.services)) or 1) as pool:
        while True:
            down = [index for index, answer in enumerate(answers) if not answer.up]
            tried = pool.map(lambda index: reach(wish.services[index], wish.timeout), down)
            for index, answer in zip(down, tried):
                answers[index] = answer
            if all(answer.up for answer in answers) or time.monotonic() + PAUSE > deadline:
                return answers
            time.sleep(PAUSE)


def collect(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """What the module ``service_probe`` returns.

    :raises GridboxError: naming what is down, if everything is required to be up.
    """
    wish = Wish.from_params(params)
    if wish.netns:
        enter(wish.netns)
    answers = probe(wish)
    results = [
        {
            "name": service.name,
            "address": service.address,
            "family": service.family,
            "port": service.port,
            "up": answer.up,
            "seen": answer.seen,
            "seconds": answer.seconds,
        }
        for service, answer in zip(wish.services, answers)
    ]
    down = [one for one in results if not one["up"]]
    if down and wish.required:
        place = f" from network namespace {wish.netns}" if wish.netns else ""
        those = "; ".join(f"{one['name']} at {one['address']} port {one['port']} ({one['seen']})" for one in down)
        raise GridboxError(
            f"{len(down)} of {len(results)} services could not be reached{place}: {those}. Look at the VO-box's health"
            " and logs, and at what filters packets between the two machines."
        )
    return {"services": results, "up": len(results) - len(down), "declared": len(results)}

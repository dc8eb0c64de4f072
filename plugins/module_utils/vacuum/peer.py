# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom a factory asks, and whom it tells: what an operator writes of them. Without what it takes to talk to them, for
whoever reads a configuration needs that last."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError

#: Where factories listen (spec 7.1).
PORT = 995

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[a-z0-9.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


@dataclass(frozen=True)
class Peer:
    """A factory to ask.

    :ivar factory: its FQDN, as it names itself.
    :ivar host: name or address to send to; empty: the FQDN.
    :ivar signed: whether only signed answers of it count.
    """

    factory: str
    host: str = ""
    port: int = PORT
    signed: bool = False


@dataclass(frozen=True)
class Monitor:
    """Where one listens."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """As it is configured."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_monitors(text: str) -> tuple[Monitor, ...]:
    """Monitors from ``vacmon_hostport``: ``HOST:PORT``, several with spaces between; an IPv6 address in brackets.

    :raises InputError: if one is none.
    """
    monitors = []
    for word in text.split():
        found = _HOST_PORT.fullmatch(word)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise InputError("vacmon_hostport", word, "HOST:PORT in lower case, as monitor.example.com:8884")
        monitors.append(Monitor(found["v6"] or found["host"], int(found["port"])))
    return tuple(monitors)

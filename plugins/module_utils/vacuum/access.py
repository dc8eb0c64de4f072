# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who gets answers, and how many: addresses that may ask, and a limit for each of them. No I/O."""

from __future__ import annotations

import ipaddress
import typing as t
from collections import OrderedDict
from dataclasses import dataclass, field

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

#: The host itself: whoever is on it may ask.
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True)
class Access:
    """Which addresses may ask.

    :ivar addresses: of the known factories. A set of their own: a space may have thousands.
    :ivar networks: the operator's.
    :ivar open: everybody may, as with Vac. Whoever forges an asker's address can then have that one sent some hundred
        times the bytes, up to the rate (spec 9.1).
    """

    addresses: frozenset[Address] = field(default_factory=frozenset)
    networks: tuple[Network, ...] = LOOPBACK
    open: bool = False

    def allows(self, address: Address) -> bool:
        """Whether that address may ask."""
        return self.open or address in self.addresses or any(address in network for network in self.networks)

    def source_of(self, address: Address) -> Address:
        """Whose limit a request from that address counts for.

        A host has as many addresses as it likes in its IPv6 /64, so these count as one; but the factories of a site
        share one as well, so a known factory has a limit to itself, whatever its neighbours send.
        """
        if isinstance(address, ipaddress.IPv6Address) and address not in self.addresses:
            return ipaddress.IPv6Address(int(address) >> 64 << 64)
        return address


def address_of(host: str) -> t.Optional[Address]:
    """The address in what a socket names its peer; None if it is none. The zone of a link-local one is left out."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Buckets:
    """A token bucket for each source: an address as :meth:`Access.source_of` names it, or whatever else has a limit.

    The table is bounded: the source that was heard longest ago is forgotten, which for it means a full bucket.

    :param rate: tokens a second.
    :param burst: tokens of a full bucket.
    :param sources: how many are kept.
    """

    def __init__(self, rate: float, burst: float, sources: int = 4096) -> None:
        self.rate, self.burst, self.sources = rate, burst, sources
        self._table: OrderedDict[t.Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def take(self, source: t.Hashable, now: float) -> bool:
        """Take a token, if the source has one.

        :param now: seconds of a clock that only goes forward.
        """
        left, at = self._table.pop(source, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rate)
        self._table[source] = (left - 1 if left >= 1 else left, now)
        if len(self._table) > self.sources:
            self._table.popitem(last=False)
        return left >= 1

    def charge(self, source: t.Hashable, tokens: float) -> None:
        """Take further tokens from a source that has just had one. It may owe some, and has to pay first."""
        if source in self._table:
            left, at = self._table[source]
            self._table[source] = (left - tokens, at)

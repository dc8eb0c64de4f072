# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a VO-box is known by on the LAN: MAC, addresses, and the way out."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Identity:
    """The MAC and addresses that a container has on a network, and that another one takes over.

    :ivar network: name of the engine's network.
    :ivar mac: lower case, colons.
    :ivar prefix4: length of the IPv4 subnet's prefix; likewise ``prefix6``.
    """

    network: str
    mac: str
    ipv4: t.Optional[str] = None
    ipv6: t.Optional[str] = None
    prefix4: int = 32
    prefix6: int = 128
    gateway4: t.Optional[str] = None
    gateway6: t.Optional[str] = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """IPv4 first, as far as there are."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address)

    @property
    def subnet4(self) -> t.Optional[str]:
        """``10.1.0.0/16``, or None without IPv4."""
        return self.ipv4 and str(ipaddress.ip_network(f"{self.ipv4}/{self.prefix4}", strict=False))

    @property
    def subnet6(self) -> t.Optional[str]:
        return self.ipv6 and str(ipaddress.ip_network(f"{self.ipv6}/{self.prefix6}", strict=False))

    def as_data(self) -> dict[str, t.Any]:
        """JSON types; ``Identity(**data)`` makes it again."""
        return asdict(self)

    @classmethod
    def of(cls, container: t.Mapping[str, t.Any], network: str) -> t.Optional[Identity]:
        """The identity a running container has now, read from its ``docker inspect``; None if it has
        no address there."""
        endpoint = ((container.get("NetworkSettings") or {}).get("Networks") or {}).get(network) or {}
        if not endpoint.get("IPAddress") and not endpoint.get("GlobalIPv6Address"):
            return None
        return cls(
            network=network,
            mac=endpoint.get("MacAddress", "").lower(),
            ipv4=endpoint.get("IPAddress") or None,
            ipv6=endpoint.get("GlobalIPv6Address") or None,
            prefix4=endpoint.get("IPPrefixLen") or 32,
            prefix6=endpoint.get("GlobalIPv6PrefixLen") or 128,
            gateway4=endpoint.get("Gateway") or None,
            gateway6=endpoint.get("IPv6Gateway") or None,
        )

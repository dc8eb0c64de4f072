# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The MAC a VO-box gets when none is asked for."""

from __future__ import annotations

import hashlib


def mac_of(fqdn: str) -> str:
    """The MAC of a VO-box: worked out from its FQDN, so that it is the same wherever and whenever it is created.

    Unicast (lowest bit of the first octet 0) and locally administered (second bit 1), IEEE 802. 46 bits of the hash
    are left: two of a thousand VO-boxes on one LAN meet with a probability below one in a hundred million.

    :param fqdn: in any case, with or without the last dot.
    """
    octets = bytearray(hashlib.sha256(fqdn.rstrip(".").lower().encode()).digest()[:6])
    octets[0] = (octets[0] | 0x02) & 0xFE
    return ":".join(f"{octet:02x}" for octet in octets)

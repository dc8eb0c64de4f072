# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The MAC that is worked out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import mac_address
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.mac import mac_of


@given(st.from_regex(r"[a-z0-9]{1,20}(\.[a-z]{2,8}){1,3}", fullmatch=True))
def test_a_mac_is_unicast_local_and_the_same_each_time(fqdn: str) -> None:
    mac = mac_of(fqdn)
    first = int(mac[:2], 16)
    assert (first & 1, first & 2) == (0, 2)
    assert mac == mac_of(fqdn.upper() + ".") == mac_address("network.mac", mac)


def test_a_mac_never_changes_between_releases() -> None:
    assert mac_of("vobox1.example.org") == "b6:22:63:cd:cb:dd"


def test_two_voboxes_have_two_macs() -> None:
    assert len({mac_of(f"vobox{number}.example.org") for number in range(10_000)}) == 10_000

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decisions of the handover: identity, interim MACs, what an engine can do, what is recorded."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import NamespaceLinks, interim_macs
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import (
    endpoint_of,
    endpoints_move,
    policies_change,
    record_in,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.take_over import is_on

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(f"{byte:02x}" for byte in raw))


def container(endpoint: dict[str, t.Any] | None, running: bool = True) -> dict[str, t.Any]:
    return {
        "Id": "0123456789abcdef",
        "State": {"Running": running},
        "NetworkSettings": {"Networks": {} if endpoint is None else {"site": endpoint}},
    }


ENDPOINT = {
    "EndpointID": "e", "IPAddress": "10.1.0.7", "IPPrefixLen": 16, "GlobalIPv6Address": "fd00::7",
    "GlobalIPv6PrefixLen": 64, "Gateway": "10.1.0.1", "IPv6Gateway": "fd00::1", "MacAddress": "02:AA:00:00:00:07",
    "IPAMConfig": None, "Aliases": ["0123456789ab", "vobox"], "DriverOpts": None,
}  # fmt: skip


def test_an_identity_is_read_from_a_running_container() -> None:
    identity = Identity.of(container(ENDPOINT), "site")
    assert identity == Identity("site", "02:aa:00:00:00:07", "10.1.0.7", "fd00::7", 16, 64, "10.1.0.1", "fd00::1")
    assert (identity.subnet4, identity.subnet6) == ("10.1.0.0/16", "fd00::/64")
    assert Identity(**identity.as_data()) == identity


@pytest.mark.parametrize("endpoint", [None, {"IPAddress": "", "GlobalIPv6Address": ""}])
def test_without_addresses_there_is_no_identity(endpoint: dict[str, t.Any] | None) -> None:
    assert Identity.of(container(endpoint), "site") is None


def test_one_family_is_enough() -> None:
    identity = Identity("site", "02:00:00:00:00:01", ipv4="10.1.0.7", prefix4=16)
    assert identity.addresses == ("10.1.0.7",)
    assert identity.subnet6 is None


@given(MACS)
def test_interim_macs_are_local_unicast_and_others(mac: str) -> None:
    found = interim_macs(mac)
    assert len(found) == len(set(found)) == 12
    for one in found:
        assert one != mac
        assert int(one[:2], 16) & 0x03 == 0x02


def test_an_interim_mac_that_is_taken_is_left_out() -> None:
    first, second = interim_macs("02:00:00:00:01:0a")[:2]
    assert first == "02:00:00:80:01:0a"
    assert interim_macs("02:00:00:00:01:0a", {first})[0] == second


@pytest.mark.parametrize(
    ("name", "version", "moves", "policies"),
    [
        ("docker", (20, 10, 24), True, True),
        ("docker", (24, 0, 9), True, True),
        ("docker", (25, 0), False, True),
        ("docker", (29, 1, 0), False, True),
        ("podman", (4, 3, 1), False, False),
    ],
)
def test_what_an_engine_can_do(name: str, version: tuple[int, ...], moves: bool, policies: bool) -> None:
    platform = Platform(name, version, (1, 41))
    can, why_not = endpoints_move(platform)
    assert can is moves
    assert bool(why_not) is not moves
    assert policies_change(platform) is policies


def test_an_endpoint_is_given_back_with_fixed_addresses() -> None:
    assert endpoint_of(container(ENDPOINT), "site") == {
        "IPAMConfig": {"IPv4Address": "10.1.0.7", "IPv6Address": "fd00::7"},
        "Aliases": ["vobox"],
    }


def test_a_stopped_container_has_what_it_asked_for() -> None:
    asked = {"IPAddress": "", "GlobalIPv6Address": "", "IPAMConfig": {"IPv4Address": "10.1.0.7"}}
    assert endpoint_of(container(asked, running=False), "site") == {"IPAMConfig": {"IPv4Address": "10.1.0.7"}}


@pytest.mark.parametrize(
    ("endpoint", "running", "on"),
    [
        (None, True, False),
        ({"EndpointID": "e"}, True, True),
        ({"EndpointID": ""}, True, False),  # what engine 20.10 shows after a refused connect
        ({"EndpointID": ""}, False, True),  # gets it at its start
    ],
)
def test_whether_a_container_is_on_a_network(endpoint: dict[str, t.Any] | None, running: bool, on: bool) -> None:
    assert is_on(container(endpoint, running), "site") is on


def test_a_container_that_no_swap_has_made_has_no_record() -> None:
    assert record_in(None) is None
    assert record_in({"Config": {"Labels": None}}) is None
    assert record_in({"Config": {"Labels": {"hep.gridbox.replaces": '{"old_id": "a"}'}}}) == {"old_id": "a"}


def test_a_namespace_that_has_ended_is_a_sentence() -> None:
    """Of a container that ends in the moment before; the swap's own error handling goes by the kind of the error."""
    with pytest.raises(GridboxError, match=r"The links in /proc/0/ns/net cannot be asked for .*still running\?"):
        NamespaceLinks("/proc/0/ns/net")

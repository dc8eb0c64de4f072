# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frames, against the bytes that the RFCs prescribe and against each other."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.network import wire

MAC = "02:42:0a:d5:00:32"


def test_an_arp_probe_is_what_rfc_5227_says() -> None:
    (frame,) = wire.question_frames(ipaddress.ip_address("10.213.0.9"), MAC, b"\0\0")
    assert frame.hex(" ", 2) == (
        "ffff ffff ffff 0242 0ad5 0032 0806 "  # to all, from us, ARP
        "0001 0800 0604 0001 0242 0ad5 0032 0000 0000 "  # a request; sender 0.0.0.0
        "0000 0000 0000 0ad5 0009"
    )


def test_gratuitous_arp_is_a_request_and_a_reply_about_oneself() -> None:
    request, reply = wire.announcement_frames(MAC, ipaddress.ip_address("10.213.0.50"))
    assert request[:6] == reply[:6] == b"\xff" * 6
    assert (request[20:22], reply[20:22]) == (b"\0\1", b"\0\2")
    for frame in (request, reply):
        assert frame[28:32] == frame[38:42] == bytes([10, 213, 0, 50])


def test_a_solicitation_goes_to_the_solicited_node_group() -> None:
    address = ipaddress.IPv6Address("fd13:213::12:3456")
    assert wire.solicited_node(address) == ipaddress.IPv6Address("ff02::1:ff12:3456")
    (frame,) = wire.question_frames(address, MAC, b"\0\0")
    assert frame[:6].hex(":") == "33:33:ff:12:34:56"
    assert frame[22:38] == bytes(16), "the source of duplicate address detection"
    assert frame[21] == 255, "hop limit"


def test_an_advertisement_overrides_and_carries_the_mac() -> None:
    (frame,) = wire.announcement_frames(MAC, ipaddress.ip_address("fd13:213::50"))
    assert frame[:6].hex(":") == "33:33:00:00:00:01"
    assert frame[54] == 136
    assert frame[58:62] == b"\x20\0\0\0", "override, not solicited, not a router"
    assert frame[78:] == b"\2\1" + wire.mac_bytes(MAC)


@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.binary(max_size=40))
def test_the_checksum_comes_out_even(
    source: ipaddress.IPv6Address, destination: ipaddress.IPv6Address, body: bytes
) -> None:
    """Over the message with its checksum and the pseudo header, the sum is zero (RFC 1071)."""
    frame = wire.icmp6_frame(MAC, MAC, source, destination, 135, body)
    message = frame[54:]
    pseudo = source.packed + destination.packed + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert wire.checksum(pseudo + message) == 0


@given(st.ip_addresses())
def test_what_is_announced_is_understood(address: wire.Address) -> None:
    for frame in wire.announcement_frames(MAC, address):
        if int(address):
            assert wire.read_frame(frame) == wire.Heard(MAC, address)


@given(st.ip_addresses())
def test_another_machines_question_about_an_address_is_a_claim(address: wire.Address) -> None:
    for frame in wire.question_frames(address, MAC, b"\0\0"):
        assert wire.read_frame(frame) == wire.Heard(MAC, address)


@given(st.binary(max_size=120))
def test_no_bytes_from_the_wire_can_break_it(frame: bytes) -> None:
    heard = wire.read_frame(frame)
    assert heard is None or len(heard.mac) == 17


@pytest.mark.parametrize("text", ["", "02:42", "02:42:0a:d5:00:32:00", "02420ad50032", "zz:42:0a:d5:00:32"])
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|fromhex"):
        wire.mac_bytes(text)

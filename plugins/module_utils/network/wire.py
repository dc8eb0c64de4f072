# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a LAN who has an address, and tell it: ARP and ICMPv6 frames over packet sockets.

Works in another network namespace too: a socket belongs to the namespace in which it was opened, so this process enters
the namespace only for that moment.

What a packet socket on a link cannot see: macvlan links that have the same link as parent. The kernel hands their
frames to the wire and to each other, never to the parent (that is why a host does not reach its containers).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.namespace import enter_network, enter_network_of

BROADCAST = "ff:ff:ff:ff:ff:ff"
_NO_MAC = "00:00:00:00:00:00"

# linux/if_ether.h, linux/if_packet.h, linux/sched.h, linux/sockios.h, linux/filter.h
_ETH_P_ARP, _ETH_P_IP6, _ETH_P_ALL = 0x0806, 0x86DD, 0x0003
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_ALLMULTI = 263, 1, 2
_SIOCGIFNAME, _SIOCGIFHWADDR = 0x8910, 0x8927
_SO_ATTACH_FILTER = 26

_ARP_REQUEST, _ARP_REPLY = 1, 2
_ICMP6 = 58
_ECHO_REQUEST, _SOLICITATION, _ADVERTISEMENT = 128, 135, 136
_OVERRIDE = 0x20000000

#: An IPv4 or IPv6 address, as :mod:`ipaddress` has it.
Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


# ---- frames, packed and read; pure -------------------------------------------------------------------------------


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``02:42:0a:00:00:01``.

    :raises ValueError: if it is not a MAC.
    """
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6 or mac.count(":") != 5:
        raise ValueError(f"not a MAC: {mac}")
    return raw


def mac_text(raw: bytes) -> str:
    """Six bytes as ``02:42:0a:00:00:01``."""
    return ":".join(f"{byte:02x}" for byte in raw)


def arp_frame(
    operation: int,
    source: str,
    sender: ipaddress.IPv4Address,
    target: ipaddress.IPv4Address,
    destination: str = BROADCAST,
) -> bytes:
    """An Ethernet frame with an ARP packet (RFC 826).

    :param source: MAC of the sender, in the frame and in the packet.
    """
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    packet += mac_bytes(source) + sender.packed + mac_bytes(_NO_MAC) + target.packed
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", _ETH_P_ARP) + packet


def icmp6_frame(
    source_mac: str,
    destination_mac: str,
    source: ipaddress.IPv6Address,
    destination: ipaddress.IPv6Address,
    kind: int,
    body: bytes,
) -> bytes:
    """An Ethernet frame with an ICMPv6 message (RFC 4443), hop limit 255 as neighbour discovery demands (RFC 4861)."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = source.packed + destination.packed + struct.pack("!II", len(message), _ICMP6)
    message = struct.pack("!BBH", kind, 0, checksum(pseudo + message)) + body
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMP6, 255) + source.packed + destination.packed
    return mac_bytes(destination_mac) + mac_bytes(source_mac) + struct.pack("!H", _ETH_P_IP6) + header + message


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int(word) for word in struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def multicast_mac(group: ipaddress.IPv6Address) -> str:
    """The Ethernet address of an IPv6 group (RFC 2464, section 7)."""
    return mac_text(b"\x33\x33" + group.packed[-4:])


def solicited_node(address: ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    """The group in which a machine with this address listens for solicitations (RFC 4291, section 2.7.1)."""
    return ipaddress.IPv6Address(ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[-3:])


ALL_NODES = ipaddress.IPv6Address("ff02::1")


def question_frames(asked: t.Union[Address, str], own_mac: str, made_up: bytes) -> list[bytes]:
    """The frames that make whoever has an address, or a MAC (as text), show itself.

    An IPv4 address is asked for as RFC 5227 does (sender 0.0.0.0), an IPv6 address as duplicate address detection does
    (RFC 4862, source ``::``): neither leaves a trace in anyone's neighbour table. A MAC is sent an echo request to all
    nodes from a made-up link-local address; to answer it first has to solicit that address, and is seen.

    :param made_up: two bytes of that address, others each time: after a vain solicitation it waits.
    """
    if isinstance(asked, ipaddress.IPv4Address):
        return [arp_frame(_ARP_REQUEST, own_mac, ipaddress.IPv4Address(0), asked)]
    if isinstance(asked, ipaddress.IPv6Address):
        group = solicited_node(asked)
        body = bytes(4) + asked.packed
        return [icmp6_frame(own_mac, multicast_mac(group), ipaddress.IPv6Address(0), group, _SOLICITATION, body)]
    source = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + made_up + mac_bytes(own_mac))
    return [icmp6_frame(own_mac, asked, source, ALL_NODES, _ECHO_REQUEST, b"\0\1\0\1hep.gridbox")]


def announcement_frames(mac: str, address: Address) -> list[bytes]:
    """The frames that tell everybody that ``address`` is at ``mac`` now.

    IPv4: a gratuitous ARP request (RFC 5227, section 3) and a reply, for machines that heed only one of them. IPv6: an
    unsolicited advertisement with the override flag to all nodes (RFC 4861, section 7.2.6).
    """
    if isinstance(address, ipaddress.IPv4Address):
        return [arp_frame(operation, mac, address, address) for operation in (_ARP_REQUEST, _ARP_REPLY)]
    body = struct.pack("!I", _OVERRIDE) + address.packed + b"\2\1" + mac_bytes(mac)
    return [icmp6_frame(mac, multicast_mac(ALL_NODES), address, ALL_NODES, _ADVERTISEMENT, body)]


@dataclass(frozen=True)
class Heard:
    """What one received frame says about its sender.

    :ivar mac: of the sender.
    :ivar address: that the sender claims, if the frame claims one: ARP sender (or, of a probe, its target), ND target.
    """

    mac: str
    address: t.Optional[Address] = None


def read_frame(frame: bytes) -> t.Optional[Heard]:
    """What a frame says; None if it is too short to be one. Any bytes may come: the wire is not trusted."""
    if len(frame) < 14:
        return None
    mac, kind, packet = mac_text(frame[6:12]), struct.unpack("!H", frame[12:14])[0], frame[14:]
    if kind == _ETH_P_ARP and len(packet) >= 28 and packet[:6] == b"\0\1\x08\0\6\4":
        sender = ipaddress.IPv4Address(packet[14:18])
        # Sender 0.0.0.0: another machine is about to take the target address (RFC 5227, section 2.1.1).
        return Heard(mac_text(packet[8:14]), sender if int(sender) else ipaddress.IPv4Address(packet[24:28]))
    if kind == _ETH_P_IP6 and len(packet) >= 64 and packet[6] == _ICMP6:
        source, target = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[48:64])
        if packet[40] == _ADVERTISEMENT or (packet[40] == _SOLICITATION and not int(source)):
            return Heard(mac, target)
    return Heard(mac)


# ---- sockets -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def inside(netns: t.Optional[str]) -> t.Iterator[None]:
    """Within the block, this thread is in the network namespace at a path such as ``/proc/PID/ns/net``; None: stay.

    :raises GridboxError: if there is no such namespace, or it may not be entered.
    """
    if netns is None:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as home:
        enter(netns)
        try:
            yield
        finally:
            enter_network_of(home.fileno())


def enter(netns: str) -> None:
    """Move this thread into the network namespace at a path, for good.

    :raises GridboxError: if there is no such namespace, or it may not be entered.
    """
    try:
        enter_network(netns)
    except OSError as exc:
        raise GridboxError(
            f"The network namespace {netns} cannot be entered ({exc.strerror}). Is what it belongs to still running?"
        ) from exc


def _packet_socket(netns: t.Optional[str]) -> socket.socket:
    with inside(netns):
        try:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as exc:
            raise GridboxError("A packet socket needs the capability NET_RAW; run the task with become: true.") from exc


class Announcer:
    """Tells a LAN where addresses are now: sockets first, sending later, so that sending takes microseconds.

    :param netns_path: the network namespace of the link, such as ``/proc/PID/ns/net``; None: ours.
    :param link: name of the link within that namespace, or its index. It need not exist before :meth:`send`.
    :param mac: where the addresses are.
    :param ipv4: address, or None.
    :param ipv6: address, or None.
    :raises GridboxError: if the namespace cannot be entered or the capability NET_RAW is missing.
    :raises ValueError: if a MAC or an address is none.
    """

    def __init__(
        self,
        netns_path: t.Optional[str],
        link: t.Union[str, int],
        mac: str,
        ipv4: t.Optional[str] = None,
        ipv6: t.Optional[str] = None,
    ) -> None:
        self._link = link
        self._frames: list[bytes] = []
        for text in (ipv4, ipv6):
            if text:
                self._frames += announcement_frames(mac, ipaddress.ip_address(text))
        self._socket = _packet_socket(netns_path)

    def send(self) -> int:
        """Send one round of announcements and return the number of frames.

        The caller repeats it if it fears for a frame; neighbours take it as often as it comes.

        :raises GridboxError: if the link does not exist or is down.
        """
        try:
            link = _link_name(self._socket, self._link) if isinstance(self._link, int) else self._link
            for frame in self._frames:
                self._socket.sendto(frame, (link, 0))
        except OSError as exc:
            raise GridboxError(
                f"Announcing on link {self._link} failed ({exc.strerror}). Is the link there and up?"
            ) from exc
        return len(self._frames)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Announcer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Answer:
    """Somebody has what was asked for.

    :ivar asked: the address or MAC.
    :ivar mac: of the machine that showed itself.
    """

    asked: str
    mac: str


def probe(
    link: str,
    asked: t.Iterable[str],
    seconds: float,
    netns_path: t.Optional[str] = None,
    ignore: t.Collection[str] = (),
) -> list[Answer]:
    """Ask the LAN on a link who has these addresses and MACs, and return who answered within ``seconds``.

    :param asked: IPv4 addresses, IPv6 addresses and MACs, mixed.
    :param seconds: how long to wait; each question is sent three times in it. Ends at once when all are answered.
    :param netns_path: the link's network namespace; None: ours.
    :param ignore: MACs that do not count, beside the link's own: who is known to have the address.
    :raises GridboxError: if the link does not exist or is down, or the capability NET_RAW is missing.
    :raises ValueError: if something asked is neither an address nor a MAC.
    """
    questions = [_parse(one) for one in asked]
    found: dict[t.Union[Address, str], str] = {}
    with contextlib.closing(_packet_socket(netns_path)) as sock:
        try:
            index = _link_index(sock, link)
            own = _link_mac(sock, link)
            sock.setsockopt(
                _SOL_PACKET, _PACKET_ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PACKET_MR_ALLMULTI, 0, b"")
            )
            _filter(sock, [one for one in questions if isinstance(one, str)])
            sock.bind((link, _ETH_P_ALL))
            silent = {own, *(mac.lower() for mac in ignore)}
            began = time.monotonic()
            for turn in range(3):
                for question in questions:
                    if question not in found:
                        for frame in question_frames(question, own, os.urandom(2)):
                            sock.send(frame)
                _listen(sock, began + seconds * (turn + 1) / 3, set(questions), silent, found)
                if len(found) == len(set(questions)):
                    break
        except OSError as exc:
            raise GridboxError(
                f"Asking the LAN on link {link} failed ({exc.strerror}). Is the link there and up?"
            ) from exc
    return [Answer(str(question), found[question]) for question in dict.fromkeys(questions) if question in found]


def _parse(text: str) -> t.Union[Address, str]:
    if text.count(":") == 5 and "::" not in text:
        return mac_text(mac_bytes(text))
    return ipaddress.ip_address(text)


def _listen(
    sock: socket.socket,
    until: float,
    wanted: set[t.Union[Address, str]],
    silent: set[str],
    found: dict[t.Union[Address, str], str],
) -> None:
    """Read frames until the time is over or all that is wanted was found."""
    while wanted - found.keys():
        left = until - time.monotonic()
        if left <= 0 or not select.select([sock], [], [], left)[0]:
            return
        frame, origin = sock.recvfrom(2048)
        heard = None if origin[2] == _PACKET_OUTGOING else read_frame(frame)
        if heard is None or heard.mac in silent:
            continue
        for question in (heard.address, heard.mac):
            if question is not None and question in wanted:
                found.setdefault(question, heard.mac)


def _filter(sock: socket.socket, macs: t.Sequence[str]) -> None:
    """Let the kernel drop what cannot be an answer: a busy link carries more than Python can read."""
    load_half, load_word, load_byte, equal, give = 0x28, 0x20, 0x30, 0x15, 0x06
    program: list[tuple[int, int, int, int]] = []
    for mac in macs:
        high, low = struct.unpack("!HI", mac_bytes(mac))
        program += [
            (load_half, 0, 0, 6),
            (equal, 0, 3, high),
            (load_word, 0, 0, 8),
            (equal, 0, 1, low),
            (give, 0, 0, 2048),
        ]
    program += [
        (load_half, 0, 0, 12),
        (equal, 3, 0, _ETH_P_ARP),
        (equal, 0, 3, _ETH_P_IP6),
        (load_byte, 0, 0, 20),
        (equal, 0, 1, _ICMP6),
        (give, 0, 0, 2048),
        (give, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))


def _link_index(sock: socket.socket, link: str) -> int:
    return int(struct.unpack_from("i", _ask(sock, 0x8933, link.encode()), 16)[0])  # SIOCGIFINDEX


def _link_mac(sock: socket.socket, link: str) -> str:
    return mac_text(_ask(sock, _SIOCGIFHWADDR, link.encode())[18:24])


def _link_name(sock: socket.socket, index: int) -> str:
    answer = fcntl.ioctl(sock.fileno(), _SIOCGIFNAME, struct.pack("16si20x", b"", index))
    return answer[:16].rstrip(b"\0").decode()


def _ask(sock: socket.socket, request: int, link: bytes) -> bytes:
    if len(link) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return fcntl.ioctl(sock.fileno(), request, struct.pack("16s24x", link))

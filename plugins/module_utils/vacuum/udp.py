# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""UDP sockets as VacQuery needs them: one a family, none that waits, buffers for bursts."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError

#: Bytes of a socket's buffers, as Vac's (spec 7.1). Without the right to it the kernel gives what its limits allow.
BUFFER = 16 * 1024 * 1024

#: Bytes of a buffer that a status of 700 bytes costs. The kernel counts the memory that a datagram takes, 2,304 over
#: the loopback and more with some network cards, and it may give the last quarter of a buffer back late.
_COST = 4096

#: Linux's, which Python's socket module does not name.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

#: Likewise; and the address a datagram was sent to, for IPv4: index of the link, our address, the header's.
_IP_PKTINFO = 8
_PKTINFO4, _PKTINFO6 = struct.Struct("=I4s4s"), struct.Struct("=16sI")
_ROOM_FOR_PKTINFO = 64

#: Likewise; and the beginning of ``struct sock_extended_err``: the error's number.
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ERROR = struct.Struct("=I")
_ROOM_FOR_ERROR = 512

#: What a host answers that has not the family: its kernel, or no address of it while it is turned off (sysctl).
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

#: A socket's name of a peer: host, port, and for IPv6 two more.
SocketAddress = tuple[t.Any, ...]

#: Ancillary data for ``sendmsg``.
Way = list[tuple[int, int, bytes]]


def open_socket(family: int, address: str, port: int) -> socket.socket:
    """A bound UDP socket. One for IPv6 is for IPv6 only. No other process can bind the same port beside it.

    :param family: ``AF_INET`` or ``AF_INET6``.
    :param address: of this host; empty: all.
    :param port: 0: any.
    :raises RefusedError: if it cannot be had.
    """
    shown = f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address or '*'}:{port}"
    try:
        found = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as exc:
        raise _refused(shown, exc) from exc
    try:
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _widen(found)
        found.bind((address, port))
    except OSError as exc:
        found.close()
        raise _refused(shown, exc) from exc
    return found


def room(found: socket.socket) -> int:
    """Statuses of factories that its buffer takes while nobody reads; at least 1."""
    return max(1, found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _COST)


def missing_family(refused: RefusedError) -> str:
    """Why :func:`open_socket` could not bind to all addresses, if this host has not the family; empty: it has."""
    cause = refused.__cause__
    return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno in _NO_FAMILY else ""


def ask_for_destinations(found: socket.socket) -> None:
    """From now on ``receive`` says at which of our addresses a datagram came in."""
    if found.family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        found.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def ask_for_errors(found: socket.socket) -> None:
    """From now on ``read_error`` tells what ICMP says of datagrams that were sent."""
    if found.family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        found.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def read_error(found: socket.socket) -> t.Optional[tuple[int, SocketAddress]]:
    """The next error that came back: its number, and where the datagram was sent to. None if there is none."""
    try:
        _data, ancillary, _flags, to = found.recvmsg(1, _ROOM_FOR_ERROR, socket.MSG_ERRQUEUE)
    except OSError:  # BlockingIOError: there is none; others: the same error once more, told as the socket's own
        return None
    for level, kind, content in ancillary:
        known = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
        if (level, kind) in known and len(content) >= _ERROR.size and to:
            return int(_ERROR.unpack_from(content)[0]), to
    return None


def receive(found: socket.socket, limit: int) -> tuple[bytes, SocketAddress, Way]:
    """A datagram, cut to ``limit`` bytes; its sender; and what ``sendmsg`` needs to answer from where it came in.

    A host with several addresses would otherwise answer from the one its routes prefer, and what is between, such as a
    firewall, may not let that answer through.

    :raises OSError: BlockingIOError if there is none.
    """
    data, ancillary, _flags, source = found.recvmsg(limit, _ROOM_FOR_PKTINFO)
    way: Way = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(content) == _PKTINFO4.size:
            _link, ours, _to = _PKTINFO4.unpack(content)
            way = [(level, kind, _PKTINFO4.pack(0, ours, bytes(4)))]
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(content) == _PKTINFO6.size:
            ours, link = _PKTINFO6.unpack(content)
            way = [(level, kind, _PKTINFO6.pack(ours, link if ours[:2] == b"\xfe\x80" else 0))]
    return data, source, way


def _widen(found: socket.socket) -> None:
    for option, forced in ((socket.SO_RCVBUF, _SO_RCVBUFFORCE), (socket.SO_SNDBUF, _SO_SNDBUFFORCE)):
        found.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        with contextlib.suppress(PermissionError):  # without CAP_NET_ADMIN the kernel's limit has to do
            found.setsockopt(socket.SOL_SOCKET, forced, BUFFER)


def _refused(shown: str, exc: OSError) -> RefusedError:
    return RefusedError(
        f"UDP {shown}",
        os.strerror(exc.errno) if exc.errno else str(exc),
        "See with `ss -lunp` who has it; a port below 1024 needs root or CAP_NET_BIND_SERVICE.",
    )

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long each container can go on without the daemon.

A container's output goes through a pipe to its shim, through a FIFO to the daemon. While no daemon reads, the kernel
keeps what fits into both; then the container's next write blocks, whatever the log driver (measured on 20.10 and 26.1:
64 KiB each, 128,000 bytes of 100-byte lines). So the time is what fits, divided by the rate at which the container
writes.

What the daemon has read is another matter: where a container prints faster than the log driver writes, the daemon holds
the rest in its memory, and it is lost with the daemon: killed, or stopped, for with live restore it does not wait for
its log. Of lines that awk printed as fast as it could up to 1.4 MB were lost (20.10 and 26.1).
"""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.containers import Running, parent
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError

#: What the kernel gives a pipe unless asked otherwise (pipe(7)).
PIPE_BYTES = 65536

#: What a pseudo terminal keeps besides, at least (N_TTY_BUF_SIZE of the kernel's line discipline).
TERMINAL_BYTES = 4096

#: What a daemon holds of one stream in its memory, at most. Its queue takes the next piece while it has less than a
#: million bytes, and grows by a million at most (bytespipe.go: blockThreshold, maxCap); the buffers before and after it
#: have 32 and 16 KiB. The same in the sources of 20.10 to 29.
DAEMON_BYTES = 2 * 1000 * 1000 + 32 * 1024 + 16 * 1024

#: Log drivers that write a line before they take the next one. Others have buffers of their own.
WRITING_DRIVERS = ("json-file", "journald", "local")

STREAMS = {1: "stdout", 2: "stderr"}

# fcntl F_GETPIPE_SZ; the module fcntl names it from Python 3.10 on.
_GET_PIPE_SIZE = 1032

#: What the kernel says of a process that has ended, and of one that is another user's.
_HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True)
class Budget:
    """One container's budget.

    :ivar stream: the stream that is full first.
    :ivar bytes_per_second: what the container writes to it.
    :ivar capacity: bytes that the kernel keeps for it.
    :ivar daemon_bytes: bytes of it that the daemon may hold besides, see :func:`in_the_daemon`.
    """

    container: str
    stream: str
    bytes_per_second: float
    capacity: int
    daemon_bytes: t.Optional[int]

    @property
    def seconds(self) -> t.Optional[float]:
        """Until the container blocks; None for one that writes nothing."""
        return self.capacity / self.bytes_per_second if self.bytes_per_second else None

    def as_result(self) -> dict[str, t.Any]:
        """As it stands in a module's ``outage_budget``."""
        return {
            "container": self.container,
            "stream": self.stream,
            "bytes_per_second": round(self.bytes_per_second, 1),
            "capacity": self.capacity,
            "daemon_bytes": self.daemon_bytes,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def check_window(window: int) -> None:
    """Refuse a window that cannot be meant.

    :raises InputError: below 0 or above an hour.
    """
    if not 0 <= window <= 3600:
        raise InputError("budget_window", window, "a number of seconds from 0 to 3600")


def budgets(path: str, containers: t.Sequence[Running], window: float) -> list[Budget]:
    """Measure the containers for ``window`` seconds, all at once.

    :param path: the engine's socket.
    """
    rates = measure(path, containers, window)
    found: list[Budget] = []
    for container in containers:
        streams = rates.get(container.id)
        if streams is not None:  # else it ended meanwhile
            held = in_the_daemon(container.log_driver, container.log_drops)
            found.append(first_full(container.name, streams, capacities(container), held))
    return found


def first_full(name: str, rates: t.Mapping[str, float], capacity: t.Mapping[str, int], held: t.Optional[int]) -> Budget:
    """The budget of a container from its streams: that of the one which blocks first. Pure."""
    stream = min(rates, key=lambda stream: capacity[stream] / rates[stream] if rates[stream] else float("inf"))
    return Budget(name, stream, rates[stream], capacity[stream], held)


def in_the_daemon(driver: str, drops: bool) -> t.Optional[int]:
    """Bytes of a stream that the daemon has read and not yet written to the log, at most. Pure.

    :return: 0 without a log; None where the log driver has buffers of its own, or drops what it is too slow for.
    """
    if driver == "none":
        return 0
    return DAEMON_BYTES if driver in WRITING_DRIVERS and not drops else None


# ---- the rate -------------------------------------------------------------------------------------------------------


@dataclass
class Counter:
    """Counts the bytes of each stream in what the engine sends to a client that attached.

    Without a terminal each piece has a header of eight bytes: the stream's number, three zeros, the length in network
    order (Engine API, "Attach to a container"). With one the bytes come as they are.
    """

    terminal: bool
    counted: dict[str, int] = field(default_factory=dict)
    _header: bytes = b""
    _stream: str = "stdout"
    _left: int = 0

    def __post_init__(self) -> None:
        self.counted = {"stdout": 0} if self.terminal else {"stdout": 0, "stderr": 0}

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        if self.terminal:
            self.counted["stdout"] += len(data)
            return
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                self.counted[self._stream] += step
                self._left -= step
            else:
                step = min(8 - len(self._header), len(data) - position)
                self._header += data[position : position + step]
                if len(self._header) == 8:
                    self._stream = STREAMS.get(self._header[0], "stdout")
                    self._left = int.from_bytes(self._header[4:], "big")
                    self._header = b""
            position += step


@dataclass
class _Listener:
    """A connection that attaches to one container."""

    connection: socket.socket
    counter: Counter
    head: bytes = b""
    since: t.Optional[float] = None
    until: t.Optional[float] = None

    def read(self, now: float) -> bool:
        """Take what there is; False once the engine has ended it."""
        data = self.connection.recv(1 << 16)
        if not data:
            self.until = now
            return False
        if self.since is None:
            self.head += data
            head, separator, data = self.head.partition(b"\r\n\r\n")
            if not separator:
                return True
            if head.split(b" ", 2)[1:2] not in ([b"200"], [b"101"]):
                return False  # it has ended, or is paused
            self.since = now
        self.counter.feed(data)
        return True

    def rates(self, now: float) -> t.Optional[dict[str, float]]:
        """Bytes per second by stream; None if the engine did not attach."""
        if self.since is None:
            return None
        seconds = max((self.until or now) - self.since, 1e-3)
        return {stream: count / seconds for stream, count in self.counter.counted.items()}


def measure(path: str, containers: t.Sequence[Running], window: float) -> dict[str, dict[str, float]]:
    """Bytes per second by stream, by container id.

    Attaches to the containers, so it sees what they write before any log driver does, and takes no inotify instance of
    the host as following their logs would. HTTP/1.0, and no library: one loop over plain sockets that ends when time
    is up.
    """
    listeners: dict[str, _Listener] = {}
    with selectors.DefaultSelector() as selector:
        try:
            for container in containers:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listeners[container.id] = _Listener(connection, Counter(container.terminal))
                connection.connect(path)
                request = f"POST /containers/{container.id}/attach?stream=1&stdout=1&stderr=1 HTTP/1.0"
                connection.sendall(f"{request}\r\nHost: docker\r\n\r\n".encode())
                selector.register(connection, selectors.EVENT_READ, listeners[container.id])
            end = time.monotonic() + window
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    break
                for key, _events in selector.select(left):
                    if not key.data.read(time.monotonic()):
                        selector.unregister(key.fileobj)
            rates = {name: listener.rates(end) for name, listener in listeners.items()}
        finally:
            for listener in listeners.values():
                listener.connection.close()
    return {name: rate for name, rate in rates.items() if rate is not None}


# ---- what fits ------------------------------------------------------------------------------------------------------


def capacities(container: Running) -> dict[str, int]:
    """Bytes that the kernel keeps for each stream of a container while nobody reads its FIFO.

    The container's shim holds both ends; pipes that cannot be found (the program has redirected its output) or read
    count as the kernel's default.
    """
    shim = parent(container.pid)
    held = _pipes(shim) if shim is not None else {}
    found = {}
    for number, stream in STREAMS.items():
        if container.terminal and stream == "stderr":
            continue
        fifo = next((size for link, size in held.items() if link.endswith(f"/init-{stream}")), PIPE_BYTES)
        if container.terminal:
            pipe = TERMINAL_BYTES
        else:
            pipe = held.get(_link(f"/proc/{container.pid}/fd/{number}"), PIPE_BYTES)
        found[stream] = pipe + fifo
    return found


def _pipes(pid: int) -> dict[str, int]:
    """The sizes of the pipes and FIFOs that a process has open, by what ``/proc/PID/fd`` calls them."""
    sizes: dict[str, int] = {}
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except _HIDDEN:
        return sizes
    for number in numbers:
        path = f"/proc/{pid}/fd/{number}"
        link = _link(path)
        if link.startswith("pipe:") or link.endswith(tuple(f"/init-{stream}" for stream in STREAMS.values())):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except _HIDDEN:
                continue
            try:
                sizes[link] = fcntl.fcntl(descriptor, _GET_PIPE_SIZE)
            finally:
                os.close(descriptor)
    return sizes


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except _HIDDEN:
        return ""

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VacQuery's messages: what factories ask each other and answer, and what monitors are told. Pure.

The keys are Vac's, each under its present and its older names, because Vac's own ``vac factories`` ends with a
traceback where an older one is missing (spec 7.3, 7.7). Vac looks only whether keys are there; here their types are
checked as well: a datagram with a wrong one is dropped, and only that. Unknown keys are ignored, as by Vac.

A reply is meant to fit one frame (``FRAME``). Where it would not, its free texts, and they only, are cut at their ends:
shutdown message, system, kernel. Names and the asker's cookie are never cut; a reply that is too long because of them
is sent whole, in fragments, up to the 10240 bytes that Vac reads.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, fields, replace

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import (
    FRAME,
    REPLY_LIMIT,
    DatagramError,
    encode,
    integer,
    load,
    name,
    number,
    printable,
    text,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.nesting import is_nested_deeper

#: The version of the protocol that is spoken; it is sent, never compared (spec 7.1).
VACQUERY = "VacQuery 01.03"

#: What can be asked, by present name, with the older ``method`` (spec 7.2).
QUERIES = {"factory_query": "factories", "machines_query": "machines", "machinetypes_query": "machinetypes"}

SHUT_DOWN, STARTING, RUNNING = "Shut down", "Starting", "Running"

#: Free texts, in the order in which they are cut; and what is left of any of them at most.
_CUT = ("shutdown_message", "os_issue", "kernel_version")
_LONGEST_TEXT = 1000
_ELLIPSIS = "..."
#: By byte, what is sent for it in them.
_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord("?") for byte in range(256))

#: Lists and objects that one in a cookie, which is only passed on, may be in.
_DEPTH = 14

#: Seconds by which the clocks of two factories may differ, or a clock be set back, without anybody's being wrong.
_CLOCKS = 60

Number = t.Union[int, float]


def _wire(kind: t.Callable[[t.Any], t.Any], old: str = "", need: str = "") -> dict[str, t.Any]:
    """How a field of a message is written and read.

    :param kind: reads the value from JSON.
    :param old: its older names.
    :param need: ``value``: a reply without it is ignored; ``key``: likewise, but it may be null; ``null``: it may be
        missing, but is written as null when it is None; empty: it may be missing, and is left out when it is None.
    """
    return {"kind": kind, "old": tuple(old.split()), "need": need}


@dataclass(frozen=True)
class Envelope:
    """What all replies have in common.

    :ivar cookie: the asker's, as it came; ``"0"`` for monitors.
    :ivar factory: FQDN.
    :ivar site: name in the GOCDB, or the domain of the space's name.
    :ivar daemon_version: product, version and process.
    :ivar time_sent: Unix seconds.
    """

    cookie: t.Any
    space: str = field(default="", metadata=_wire(name, need="value"))
    factory: str = field(default="", metadata=_wire(name, need="value"))
    site: t.Optional[str] = field(default=None, metadata=_wire(text))
    daemon_version: t.Optional[str] = field(default=None, metadata=_wire(text, "vac_version"))
    time_sent: t.Optional[int] = field(default=None, metadata=_wire(integer))


@dataclass(frozen=True)
class MachinetypeStatus:
    """What a factory runs of one machinetype, and how the last machine of it ended. None: the peer does not say.

    :ivar running_hs06: of the machines that run or start, in HS06 or, without such figures, in processors.
    :ivar num_before_fizzle: of these, those that have not yet proved themselves.
    :ivar shutdown_message: of the machine that ended last: three digits, a space, text.
    :ivar shutdown_time: when that was, Unix seconds.
    :ivar bytes_per_processor: memory.
    """

    machinetype: str = field(default="", metadata=_wire(name, need="value"))
    running_hs06: Number = field(default=0.0, metadata=_wire(number, need="value"))
    num_before_fizzle: int = field(default=0, metadata=_wire(integer, need="value"))
    shutdown_message: t.Optional[str] = field(default=None, metadata=_wire(text, need="key"))
    shutdown_time: t.Optional[int] = field(default=None, metadata=_wire(integer, need="key"))
    shutdown_machine: t.Optional[str] = field(default=None, metadata=_wire(text, need="key"))
    running_machines: t.Optional[int] = field(default=0, metadata=_wire(integer))
    running_processors: t.Optional[Number] = field(default=0, metadata=_wire(number, "running_cpus"))
    bytes_per_processor: t.Optional[int] = field(default=0, metadata=_wire(integer))
    max_wallclock_seconds: t.Optional[int] = field(default=0, metadata=_wire(integer))
    max_processors: t.Optional[int] = field(default=0, metadata=_wire(integer))
    fqan: t.Optional[str] = field(default=None, metadata=_wire(text))


@dataclass(frozen=True)
class MachineStatus:
    """One slot and the machine in it, or that was last in it; of a slot never used all is None. Times: Unix seconds.

    :ivar machine: the slot's name.
    :ivar state: ``Shut down``, ``Starting`` or ``Running``.
    :ivar heartbeat_time: when it was last seen running.
    :ivar cpu_percentage: of a processor, lately; not since its start.
    :ivar machine_model: in Vac's words: ``docker``, ``singularity``, or a virtual machine's.
    :ivar shutdown_message: only if it is shut down; with ``shutdown_time``.
    """

    machine: str = field(default="", metadata=_wire(name, need="value"))
    state: str = field(default=SHUT_DOWN, metadata=_wire(text, need="value"))
    machinetype: t.Optional[str] = field(default=None, metadata=_wire(text, need="key"))
    uuid: t.Optional[str] = field(default=None, metadata=_wire(text, need="key"))
    created_time: t.Optional[int] = field(default=None, metadata=_wire(integer, need="key"))
    started_time: t.Optional[int] = field(default=None, metadata=_wire(integer, need="key"))
    heartbeat_time: t.Optional[int] = field(default=None, metadata=_wire(integer, need="key"))
    cpu_seconds: t.Optional[int] = field(default=0, metadata=_wire(integer, need="key"))
    cpu_percentage: t.Optional[Number] = field(default=0, metadata=_wire(number, need="key"))
    hs06: t.Optional[Number] = field(default=None, metadata=_wire(number, need="key"))
    shutdown_message: t.Optional[str] = field(default=None, metadata=_wire(text, need="key"))
    shutdown_time: t.Optional[int] = field(default=None, metadata=_wire(integer, need="key"))
    machine_model: t.Optional[str] = field(default=None, metadata=_wire(text, need="null"))
    num_processors: t.Optional[Number] = field(default=0, metadata=_wire(number, "num_cpus"))
    fqan: t.Optional[str] = field(default=None, metadata=_wire(text))


@dataclass(frozen=True)
class FactoryStatus:
    """One factory. Memory, swap and disks in KiB, times in Unix seconds. None: the peer does not say.

    :ivar running_machines: without those that start, as with the processors and HS06 of them.
    :ivar load_average: of 15 minutes.
    :ivar max_machines: for Vac the number of processors; a factory of ours gives its slots.
    """

    running_machines: t.Optional[int] = field(default=0, metadata=_wire(integer))
    running_processors: t.Optional[Number] = field(default=0, metadata=_wire(number, "running_cpus"))
    running_hs06: t.Optional[Number] = field(default=0.0, metadata=_wire(number))
    max_machines: t.Optional[int] = field(default=0, metadata=_wire(integer, "total_machines"))
    max_processors: t.Optional[Number] = field(default=0, metadata=_wire(number, "max_cpus total_cpus"))
    max_hs06: t.Optional[Number] = field(default=0.0, metadata=_wire(number, "total_hs06"))
    root_disk_avail_kb: t.Optional[int] = field(default=0, metadata=_wire(integer))
    root_disk_avail_inodes: t.Optional[int] = field(default=0, metadata=_wire(integer))
    daemon_disk_avail_kb: t.Optional[int] = field(default=0, metadata=_wire(integer, "vac_disk_avail_kb"))
    daemon_disk_avail_inodes: t.Optional[int] = field(default=0, metadata=_wire(integer, "vac_disk_avail_inodes"))
    load_average: t.Optional[Number] = field(default=0.0, metadata=_wire(number))
    kernel_version: t.Optional[str] = field(default="", metadata=_wire(text))
    os_issue: t.Optional[str] = field(default="", metadata=_wire(text))
    boot_time: t.Optional[int] = field(default=0, metadata=_wire(integer))
    factory_heartbeat_time: t.Optional[int] = field(default=0, metadata=_wire(integer))
    responder_heartbeat_time: t.Optional[int] = field(default=0, metadata=_wire(integer))
    mjf_heartbeat_time: t.Optional[int] = field(default=0, metadata=_wire(integer))
    metadata_heartbeat_time: t.Optional[int] = field(default=0, metadata=_wire(integer))
    swap_used_kb: t.Optional[int] = field(default=0, metadata=_wire(integer))
    swap_free_kb: t.Optional[int] = field(default=0, metadata=_wire(integer))
    mem_used_kb: t.Optional[int] = field(default=0, metadata=_wire(integer))
    mem_total_kb: t.Optional[int] = field(default=0, metadata=_wire(integer))


Status = t.Union[FactoryStatus, MachinetypeStatus, MachineStatus]

#: By message type: the class of its content, and the key that says how many such replies make the answer.
_REPLIES: dict[str, tuple[type[Status], str]] = {
    "factory_status": (FactoryStatus, ""),
    "machinetype_status": (MachinetypeStatus, "num_machinetypes"),
    "machine_status": (MachineStatus, "num_machines"),
}
_TYPE_OF: dict[type[Status], str] = {cls: word for word, (cls, _members) in _REPLIES.items()}
#: Which replies answer which query.
ANSWERS = {"factory_query": FactoryStatus, "machines_query": MachineStatus, "machinetypes_query": MachinetypeStatus}


class _Wire(t.NamedTuple):
    """A field as ``_wire`` was told of it, at hand: a poll of a large space reads some hundred thousand."""

    name: str
    kind: t.Callable[[t.Any], t.Any]
    old: tuple[str, ...]
    need: str


_WIRES: dict[type, tuple[_Wire, ...]] = {
    cls: tuple(_Wire(one.name, **one.metadata) for one in fields(cls) if one.metadata)
    for cls in (Envelope, FactoryStatus, MachinetypeStatus, MachineStatus)
}


@dataclass(frozen=True)
class Request:
    """A question (spec 7.2).

    :ivar message_type: a key of ``QUERIES``.
    :ivar cookie: any JSON value; it comes back with the answer.
    :ivar vac_version: the asker's product and version; written, not needed.
    """

    message_type: str
    space: str
    cookie: t.Any
    vac_version: str = ""

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types: all that Vac's own clients send."""
        return {
            "message_type": self.message_type,
            "method": QUERIES[self.message_type],
            "space": self.space,
            "cookie": self.cookie,
            "vac_version": self.vac_version,
            "vacquery_version": VACQUERY,
        }


@dataclass(frozen=True)
class Reply:
    """One datagram of an answer.

    :ivar count: of how many the answer consists; 1 for a factory.
    """

    envelope: Envelope
    status: Status
    count: int = 1

    @property
    def key(self) -> str:
        """What tells it from the other replies of the same answer: the machine's or the machinetype's name."""
        if isinstance(self.status, MachinetypeStatus):
            return self.status.machinetype
        return self.status.machine if isinstance(self.status, MachineStatus) else ""

    def as_data(self) -> dict[str, t.Any]:
        """As JSON types, with the older names, not yet cut to a frame."""
        message_type = _TYPE_OF[type(self.status)]
        data = {"message_type": message_type, "vacquery_version": VACQUERY, "cookie": self.envelope.cookie}
        for part in (self.envelope, self.status):
            for one in _WIRES[type(part)]:
                value = getattr(part, one.name)
                if value is None and not one.need:
                    continue
                data[one.name] = value
                for key in one.old:
                    data[key] = value
        count_key = _REPLIES[message_type][1]
        if count_key:
            data[count_key] = self.count
        return data


def parse_request(data: dict[str, t.Any]) -> Request:
    """A request from the object that ``datagram.load`` found.

    :raises DatagramError: ``no_cookie``, ``unknown_type``, ``wrong_type``, ``deep_cookie``.
    """
    if "cookie" not in data:
        raise DatagramError("no_cookie", "A request without a cookie.")
    asked = data.get("message_type")
    if asked is None:
        method = data.get("method")
        asked = next((new for new, old in QUERIES.items() if old == method), None)
    if not isinstance(asked, str) or asked not in QUERIES:
        raise DatagramError("unknown_type", "A request of no known message_type.")
    if not isinstance(data.get("space"), str):
        raise DatagramError("wrong_type", "A request whose space is not a string.")
    if is_nested_deeper(data["cookie"], _DEPTH):
        raise DatagramError("deep_cookie", "A request whose cookie is nested too deep to be sent back.")
    version = data.get("vac_version")
    return Request(asked, data["space"], data["cookie"], printable(version) if isinstance(version, str) else "")


def parse_reply(data: dict[str, t.Any]) -> Reply:
    """A reply, of Vac or of ours, from the object that ``datagram.load`` found.

    :raises DatagramError: ``unknown_type``, ``missing_key``, ``wrong_type``.
    """
    message_type = data.get("message_type")
    if not isinstance(message_type, str) or message_type not in _REPLIES:
        raise DatagramError("unknown_type", "A reply of no known message_type.")
    if "cookie" not in data:
        raise DatagramError("missing_key", "A reply without cookie.")
    cls, count_key = _REPLIES[message_type]
    count = _read(data, _Wire(count_key, integer, (), "value")) if count_key else 1
    if count < 1:
        raise DatagramError("wrong_type", f"A reply whose {count_key} is 0.")
    return Reply(Envelope(data["cookie"], **_values(data, Envelope)), cls(**_values(data, cls)), count)


def parse_reply_bytes(data: bytes) -> Reply:
    """A reply from its datagram.

    :raises DatagramError: as ``load`` and ``parse_reply``.
    """
    return parse_reply(load(data, REPLY_LIMIT))


def fit(data: dict[str, t.Any], room: int = FRAME) -> dict[str, t.Any]:
    """A reply's JSON types with its free texts cut, so that it takes ``room`` bytes, if that makes it fit.

    Also takes from them all but ``_LONGEST_TEXT`` characters, and puts ``?`` for what is not ASCII or not printable.
    """
    data = {**data}
    for key in _CUT:
        if isinstance(data.get(key), str):
            data[key] = _plain(data[key][:_LONGEST_TEXT])
    excess = len(encode(data)) - room
    for key in _CUT:
        whole = data.get(key)
        if excess <= 0 or not isinstance(whole, str) or len(whole) <= len(_ELLIPSIS):
            continue
        kept, excess = _shortened(whole, excess + len(_ELLIPSIS))
        data[key] = kept + _ELLIPSIS
    return data


def _shortened(plain: str, excess: int) -> tuple[str, int]:
    """A text of which as little is cut from its end as makes its JSON shorter by ``excess`` bytes, and what of these is
    left to cut elsewhere.

    :param plain: as :func:`_plain` makes it: JSON takes two bytes for a quote and for a backslash, one for all else.
    """
    while plain and excess > 0:
        # At least so many have to go, whatever they are: no step cuts too much.
        cut = plain[-((excess + 1) // 2) :]
        plain = plain[: -len(cut)]
        excess -= len(cut) + cut.count('"') + cut.count("\\")
    return plain, excess


def _plain(value: str) -> str:
    """As every ``vac`` can print it: with its output in a pipe, one other character ends it with a traceback."""
    return value.encode("ascii", "replace").translate(_PRINTABLE).decode("ascii")


def on_our_clock(reply: Reply, now: float) -> Reply:
    """A machinetype's reply with the time of its last end as our clock has it.

    An abort holds a machinetype back for some time after it, so a peer whose clock is days ahead would block it for
    days (spec 7.7, 9.1). What counts is how long before the reply the end was, by the peer's own clock. An end that is
    later than the reply has no time that can be told, so None.

    :param now: Unix seconds.
    """
    if not isinstance(reply.status, MachinetypeStatus) or reply.status.shutdown_time is None:
        return reply
    ended, sent = reply.status.shutdown_time, reply.envelope.time_sent
    if sent is None or abs(sent - now) <= _CLOCKS:
        sent = int(now)
    here: t.Optional[int] = None if ended > sent + _CLOCKS else int(now) - max(0, sent - ended)
    return reply if here == ended else replace(reply, status=replace(reply.status, shutdown_time=here))


def _values(data: dict[str, t.Any], cls: type) -> dict[str, t.Any]:
    return {wire[0]: _read(data, wire) for wire in _WIRES[cls]}


def _read(data: dict[str, t.Any], wire: _Wire) -> t.Any:
    name_, kind, old, need = wire
    value = data.get(name_)
    if value is None:
        found = next((key for key in (name_, *old) if key in data), None)
        value = None if found is None else data[found]
        if value is None and (need == "value" or (need == "key" and found is None)):
            reason = "missing_key" if found is None else "wrong_type"
            raise DatagramError(reason, f"A reply without {name_}, or with null for it.")
        if value is None:
            return None
    try:
        return kind(value)
    except ValueError as exc:
        raise DatagramError("wrong_type", f"A reply whose {name_} is not {exc}.") from None

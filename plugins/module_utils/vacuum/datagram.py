# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON datagrams from strangers: read with limits, and their values with types. Pure.

Whatever the bytes are, what comes out is an object of plain JSON values or a ``DatagramError``. Strings may go to logs
and terminals, so characters that cannot be printed do not survive the reading (``text``). Of a key that is given twice
the last counts, as for Vac.
"""

from __future__ import annotations

import json
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError

#: Bytes of payload that fit a frame of 1500 over IPv6 (40 of its header, 8 of UDP), and therefore over IPv4.
FRAME = 1452

#: Bytes of a reply that Vac's clients read (spec 7.1). What would be longer is not sent.
REPLY_LIMIT = 10240

#: Largest integer: what a float still holds exactly.
_LARGEST = 2**53

#: Characters of a name: those of a host, with some room.
_NAME = 255


class DatagramError(GridboxError):
    """A datagram that is dropped.

    :ivar reason: one of a few words with underscores, for counters: never made of the datagram's own content.
    :param sentence: the reason for people.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        self.reason = reason
        super().__init__(sentence)


def load(data: bytes, limit: int) -> dict[str, t.Any]:
    """The JSON object in a datagram.

    :param limit: bytes; a longer datagram was cut by the one who received it, or is none of ours.
    :raises DatagramError: ``too_long``, ``not_json``, ``not_object``.
    """
    if len(data) > limit:
        raise DatagramError("too_long", f"A datagram of more than {limit} bytes.")
    try:
        found = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError, MemoryError):  # UnicodeDecodeError is a ValueError
        raise DatagramError("not_json", "A datagram that is not JSON, or nested too deep.") from None
    if not isinstance(found, dict):
        raise DatagramError("not_object", f"A datagram with a JSON {type(found).__name__}, not an object.")
    return found


def encode(content: t.Mapping[str, t.Any]) -> bytes:
    """An object as JSON in ASCII, no spaces, however long.

    :raises DatagramError: ``unsendable``, if it has values that JSON has not.
    """
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as exc:
        raise DatagramError("unsendable", f"A message cannot be written as JSON ({exc}).") from exc


def dump(content: t.Mapping[str, t.Any]) -> bytes:
    """An object as one datagram.

    :raises DatagramError: ``unsendable``, if it would be longer than ``REPLY_LIMIT`` or has values that JSON has not.
    """
    data = encode(content)
    if len(data) > REPLY_LIMIT:
        raise DatagramError("unsendable", f"A message of {len(data)} bytes; peers read {REPLY_LIMIT}.")
    return data


def printable(value: str) -> str:
    """A string in which what cannot be printed (controls, lone surrogates, marks of direction) is U+FFFD."""
    return value if value.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in value)


def text(value: t.Any) -> str:
    """A string, printable.

    :raises ValueError: if it is none.
    """
    if not isinstance(value, str):
        raise ValueError("a string")
    return printable(value)


def name(value: t.Any) -> str:
    """A name as it stands: it identifies something, so nothing in it may be replaced.

    :raises ValueError: if it is not a printable string of 1 to 255 characters.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _NAME or not value.isprintable():
        raise ValueError("a printable name")
    return value


def integer(value: t.Any) -> int:
    """A count, a size or a time, not negative. Vac sends some as floats; their fractions go.

    :raises ValueError: if it is no such number.
    """
    return int(number(value))


def number(value: t.Any) -> t.Union[int, float]:
    """A number that is not negative, as integer or float as it came.

    :raises ValueError: if it is none; a boolean is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST:
        raise ValueError("a number that is not negative")
    return value


def _constant(word: str) -> t.NoReturn:
    raise ValueError(f"{word} is not JSON")


# Made once: json.loads would make one for each datagram.
_DECODER = json.JSONDecoder(parse_constant=_constant)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Change one key of a JSON object in its text, so that every other character stays where it is.

Pure. The text is cut at the places where the standard library's own decoder says that names and values begin and end;
nothing is written anew but the value, or the one member that comes or goes.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass
from json.decoder import JSONDecodeError

#: What JSON calls white space; Python's ``str.isspace`` knows more.
WHITE_SPACE = " \t\n\r"

#: Empty lines after a line's end, which a new member does not copy.
_BLANK_LINES = re.compile(r"(\r\n|\n|\r(?!\n))(?:[ \t]*(?:\r\n|\n|\r(?!\n)))+")

#: A byte order mark. dockerd skips it from 23.0 on; it is not part of the JSON text.
MARK = "\ufeff"


@dataclass(frozen=True)
class Member:
    """One ``name: value`` of the outermost object, with its places in the text.

    :ivar value_end: one past the value's last character.
    """

    name: str
    value: t.Any
    name_start: int
    name_end: int
    value_start: int
    value_end: int


@dataclass(frozen=True)
class Object:
    """The outermost object of a text.

    :ivar inside: where the text after the opening brace begins.
    :ivar close: place of the closing brace.
    """

    text: str
    inside: int
    close: int
    members: tuple[Member, ...]

    def member(self, name: str) -> t.Optional[Member]:
        """The member of that name, or None."""
        return next((member for member in self.members if member.name == name), None)


def parse(text: str) -> Object:
    """Find the members of the outermost object.

    :raises ValueError: a sentence with line and column, if the text is not one JSON object, or has a name twice.
    """
    try:
        return _parse(text)
    except JSONDecodeError as exc:
        raise ValueError(f"line {exc.lineno}, column {exc.colno}: {_in_sentence(exc.msg)}") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


def with_value(text: str, name: str, value: t.Any) -> str:
    """The text with member ``name`` at ``value``: replaced where it stands, else added as the last one.

    A new member takes the line break, the indentation and the space after the colon from the one before it.

    :raises ValueError: as :func:`parse`.
    """
    found = parse(text)
    new = json.dumps(value)
    member = found.member(name)
    if member is not None:
        return text[: member.value_start] + new + text[member.value_end :]
    if not found.members:
        # Between the braces there is nothing but white space. A line break in it stays before the closing brace.
        blank = text[found.inside : found.close]
        line_break = _line_break(blank)
        start = found.close - len(blank) if line_break else found.close
        lead = f"{line_break}  " if line_break else ""
        return text[:start] + f"{lead}{json.dumps(name)}: {new}" + text[start:]
    last = found.members[-1]
    colon = text[last.name_end : last.value_start]
    if colon.strip(WHITE_SPACE + ":") or "\n" in colon or "\r" in colon:
        colon = ": "
    return text[: last.value_end] + _separator(found) + json.dumps(name) + colon + new + text[last.value_end :]


def without(text: str, name: str) -> str:
    """The text without member ``name`` and the comma that goes with it; unchanged if there is none.

    :raises ValueError: as :func:`parse`.
    """
    found = parse(text)
    member = found.member(name)
    if member is None:
        return text
    index = found.members.index(member)
    if index > 0:
        return text[: found.members[index - 1].value_end] + text[member.value_end :]
    if len(found.members) > 1:
        return text[: member.name_start] + text[found.members[1].name_start :]
    return text[: found.inside] + text[member.value_end :]


def _parse(text: str) -> Object:
    position = _skip(text, 1 if text.startswith(MARK) else 0)
    if position == len(text):
        raise JSONDecodeError("the text is empty", text, position)
    if text[position] != "{":
        raise JSONDecodeError("the file has to be one object, in braces", text, position)
    inside = position + 1
    position = _skip(text, inside)
    members: list[Member] = []
    if text[position : position + 1] != "}":
        while True:
            member = _member(text, position)
            if any(member.name == other.name for other in members):
                raise JSONDecodeError(f"the key {member.name!r} is there twice", text, position)
            members.append(member)
            position = _skip(text, member.value_end)
            if text[position : position + 1] == "}":
                break
            if text[position : position + 1] != ",":
                raise JSONDecodeError("expecting ',' or '}'", text, position)
            position = _skip(text, position + 1)
    rest = _skip(text, position + 1)
    if rest != len(text):
        raise JSONDecodeError("nothing may follow the closing brace", text, rest)
    return Object(text, inside, position, tuple(members))


def _member(text: str, start: int) -> Member:
    if text[start : start + 1] != '"':
        raise JSONDecodeError("expecting a key in double quotes", text, start)
    name, name_end = json.JSONDecoder().raw_decode(text, start)
    colon = _skip(text, name_end)
    if text[colon : colon + 1] != ":":
        raise JSONDecodeError("expecting ':'", text, colon)
    value_start = _skip(text, colon + 1)

    def no_constant(constant: str) -> t.NoReturn:
        raise JSONDecodeError(f"the value {constant} is not JSON", text, value_start)

    value, value_end = json.JSONDecoder(parse_int=_number, parse_constant=no_constant).raw_decode(text, value_start)
    return Member(name, value, start, name_end, value_start, value_end)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in WHITE_SPACE:
        position += 1
    return position


def _line_break(blank: str) -> str:
    """The first line break of a stretch of white space: LF, CR LF or CR; empty if there is none."""
    for line_break in ("\r\n", "\n", "\r"):
        if line_break in blank:
            return line_break
    return ""


def _separator(found: Object) -> str:
    """What stands between two members here: a comma with the file's own white space around it."""
    text, members = found.text, found.members
    if len(members) > 1:
        return _BLANK_LINES.sub(r"\1", text[members[-2].value_end : members[-1].name_start])
    lead = text[found.inside : members[0].name_start]
    if _line_break(lead):
        return "," + _BLANK_LINES.sub(r"\1", lead)
    airy = text[members[0].name_end : members[0].value_start].endswith(" ")
    return ", " if airy else ","


def _number(digits: str) -> float:
    # Python refuses to make a whole number of more than 4300 digits; nobody reckons with the value here.
    return int(digits) if len(digits) < 20 else float(digits)


def _in_sentence(message: str) -> str:
    """A message of the decoder, to go on after a colon: ``Invalid control character at`` without capital and ``at``."""
    message = message[:1].lower() + message[1:]
    return message.removesuffix(" at")

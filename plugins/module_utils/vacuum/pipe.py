# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum pipe: from the bytes that an experiment publishes to the machinetypes they make on this factory. Pure.

One wrong value costs the machinetype it stands in, and nothing else: neither its neighbours in the pipe, whose shares
stay what they are, nor other pipes. Only a document that is none at all is refused as a whole (spec 3, 9.1).
"""

from __future__ import annotations

import json
import math
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import Problem, Unfit, shown
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.nesting import is_nested_deeper
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section

#: Limits of a document: bytes; objects in ``machinetypes``; arrays and objects in one another.
MAX_BYTES, MAX_MACHINETYPES, MAX_DEPTH = 1048576, 256, 16

#: Seconds that a copy is good for: what Vac takes where a pipe names none, and the bounds of what a pipe may name. A
#: slip of the pen must neither make factories hammer the server nor keep them from ever asking again.
CACHE_SECONDS, MIN_CACHE_SECONDS, MAX_CACHE_SECONDS = 3600, 10, 7 * 86400

#: Unknown keys that get a sentence each; of the others there is the number.
_UNKNOWN_KEYS_TOLD = 20
#: Problems of one machinetype that its sentence tells; of the others there is the number. The sentence is in each
#: report of the factory, and a pipe of the greatest size has tens of thousands.
_PROBLEMS_TOLD = 10


@dataclass(frozen=True)
class NotHere:
    """A machinetype that is right, but not for this factory.

    :ivar machine_model: the model in the pipe's words.
    :ivar reason: a sentence.
    :ivar target_share: its share of the space.
    """

    name: str
    machine_model: str
    reason: str
    target_share: float = 0.0


@dataclass(frozen=True)
class Dropped:
    """A machinetype that something is wrong with.

    :ivar name: ``PREFIX-SUFFIX``; ``PREFIX machinetypes[N]``, N counted from 0, if the suffix is what is wrong, or if
        another object of the pipe has it.
    :ivar target_share: its share of the space; None: it is to have one, and nobody can tell which.
    """

    name: str
    problems: tuple[Problem, ...]
    target_share: t.Optional[float] = None

    @property
    def has_share(self) -> bool:
        """Whether machines of it would be started if it were right."""
        return self.target_share is None or self.target_share > 0

    @property
    def sentence(self) -> str:
        """What to tell people."""
        told = [str(problem) for problem in self.problems[:_PROBLEMS_TOLD]]
        if len(self.problems) > _PROBLEMS_TOLD:
            told.append(f"{len(self.problems) - _PROBLEMS_TOLD} more problems")
        return f"{self.name} is dropped: {'; '.join(told)}."


@dataclass(frozen=True)
class Pipe:
    """What a pipe is to this factory.

    :ivar cache_seconds: how long it is good for, in s.
    :ivar machinetypes: those that this factory may start, in the pipe's order, with their shares of the space.
    :ivar unused_share: what of the shares belongs to machinetypes that are dropped or not for this factory. It
        is nobody's: the others must have the shares here that they have on every factory of the space.
    :ivar warnings: sentences about what is ignored.
    """

    prefix: str
    cache_seconds: int
    machinetypes: tuple[Machinetype, ...] = ()
    not_here: tuple[NotHere, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    unused_share: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Of all that it brings, whatever becomes of it here."""
        found: tuple[t.Union[Machinetype, NotHere, Dropped], ...] = (*self.machinetypes, *self.not_here, *self.dropped)
        return frozenset(one.name for one in found)


def parse(content: bytes, section: Section) -> Pipe:
    """Read a pipe.

    :raises InputError: if the document as a whole is no vacuum pipe; nothing else, whatever the bytes are.
    """
    document = _document(content, section.prefix)
    cache_seconds, warnings = _cache_seconds(document, section.prefix)
    objects = document["machinetypes"]
    weights = [_weight(one) for one in objects]
    # Numbers of whatever becomes of their objects: a share must not grow because a neighbour is dropped (spec 3.3).
    total = math.fsum(weights)
    shares = [section.target_share * (weight / total) if total else 0.0 for weight in weights]
    unknown: dict[str, list[str]] = {key: ["the document"] for key in document if key not in _DOCUMENT_KEYS}
    machinetypes: list[Machinetype] = []
    unused: list[float] = []
    not_here: list[NotHere] = []
    dropped: list[tuple[str, Dropped]] = []
    names: set[str] = set()
    for index, (one, share) in enumerate(zip(objects, shares)):
        outcome = _machinetype(one, index, share, section, names)
        if not isinstance(outcome, Dropped):
            names.add(outcome.name)
        if isinstance(outcome, Machinetype):
            machinetypes.append(outcome)
        else:
            unused.append(outcome.target_share or 0.0)
            if isinstance(outcome, NotHere):
                not_here.append(outcome)
            else:
                dropped.append((_place(section, index), outcome))
        if isinstance(one, dict):
            for key in one:
                if not _is_read(key):
                    unknown.setdefault(key, []).append(outcome.name)
    return Pipe(
        section.prefix, cache_seconds, tuple(machinetypes), tuple(not_here), tuple(_named(dropped, names)),
        math.fsum(unused), (*warnings, *_about_unknown(unknown, section.prefix)),
    )  # fmt: skip


# ---- the document ------------------------------------------------------------------------------------------------

_DOCUMENT_KEYS = ("cache_seconds", "machinetypes")


def _document(content: bytes, prefix: str) -> dict[str, t.Any]:
    """The JSON object that a pipe is."""

    def refuse(value: t.Any, expected: str) -> t.NoReturn:
        raise InputError(f"vacuum_pipe.{prefix}", value, expected, "Nothing of the document is used.")

    if len(content) > MAX_BYTES:
        refuse(f"{len(content)} bytes", f"a vacuum pipe of at most {MAX_BYTES} bytes")
    begins = content[:60]
    try:
        document = json.loads(content.decode("utf-8-sig"), parse_int=_integer)
    except RecursionError:
        refuse(begins, f"JSON that is nested no deeper than {MAX_DEPTH}")
    except ValueError as exc:
        refuse(begins, f"a vacuum pipe, which is a JSON object in UTF-8 ({exc})")
    if not isinstance(document, dict) or not isinstance(document.get("machinetypes"), list):
        refuse(begins, "a vacuum pipe, which is a JSON object with a list of machinetypes")
    if len(document["machinetypes"]) > MAX_MACHINETYPES:
        refuse(f"{len(document['machinetypes'])} machinetypes", f"at most {MAX_MACHINETYPES}")
    if is_nested_deeper(document, MAX_DEPTH):
        refuse(begins, f"JSON that is nested no deeper than {MAX_DEPTH}")
    return t.cast("dict[str, t.Any]", document)


def _integer(text: str) -> float:
    """An integer of a JSON text. One of very many digits fits nowhere, but is no error of the document."""
    return int(text) if len(text) <= 20 else float(text)


def _cache_seconds(document: t.Mapping[str, t.Any], prefix: str) -> tuple[int, list[str]]:
    """How long the pipe is good for. A bad value costs no machinetype."""
    if "cache_seconds" not in document:
        return CACHE_SECONDS, []
    given = document["cache_seconds"]
    try:
        seconds: int = keys.KEYS["backoff_seconds"](given)  # a number of seconds like any other
    except Unfit as exc:
        told = f"{prefix}: cache_seconds: got {shown(given)}, expected {exc}; {CACHE_SECONDS} is taken."
        return CACHE_SECONDS, [told]
    taken = min(max(seconds, MIN_CACHE_SECONDS), MAX_CACHE_SECONDS)
    if taken == seconds:
        return seconds, []
    bounds = f"{MIN_CACHE_SECONDS} to {MAX_CACHE_SECONDS}"
    return taken, [f"{prefix}: cache_seconds: got {seconds}, expected {bounds}; {taken} is taken."]


def _about_unknown(unknown: t.Mapping[str, t.Sequence[str]], prefix: str) -> list[str]:
    """A sentence for each key that is not read, with where it stands."""
    told = []
    for key, places in list(unknown.items())[:_UNKNOWN_KEYS_TOLD]:
        where = f"{', '.join(places[:3])}{f' and {len(places) - 3} more' if len(places) > 3 else ''}"
        why = "is for the site to set" if key in keys.OF_THE_SITE else "is no key of a vacuum pipe"
        told.append(f"{prefix}: {shown(key)} in {where} {why}, and is ignored.")
    if len(unknown) > _UNKNOWN_KEYS_TOLD:
        told.append(f"{prefix}: {len(unknown) - _UNKNOWN_KEYS_TOLD} more keys are unknown, and are ignored.")
    return told


# ---- one machinetype ---------------------------------------------------------------------------------------------


def _is_read(key: str) -> bool:
    """Whether a key of a pipe's machinetype means something, be it to virtual machines."""
    return key == "suffix" or key in keys.OF_VIRTUAL_MACHINES or (keys.is_key(key) and key not in keys.OF_THE_SITE)


def _weight(one: t.Any) -> float:
    """The number in an object's ``target_share``; 0 if there is none."""
    try:
        return t.cast("float", keys.check("target_share", one["target_share"]))
    except (Unfit, KeyError, TypeError):
        return 0.0  # that the value is wrong is said where its machinetype is dropped


def _place(section: Section, index: int) -> str:
    """What is told of an object that has no name, or one that is another's."""
    return f"{section.prefix} machinetypes[{index}]"


def _named(dropped: t.Iterable[tuple[str, Dropped]], names: t.Iterable[str]) -> t.Iterator[Dropped]:
    """What is dropped, each by another name.

    :param dropped: each with its place, which is its name where another machinetype has its name.
    :param names: of what is not dropped.
    """
    taken = set(names)
    for place, one in dropped:
        yield replace(one, name=place) if one.name in taken else one
        taken.add(one.name)


def _machinetype(
    one: t.Any, index: int, share: float, section: Section, names: t.Container[str]
) -> t.Union[Machinetype, NotHere, Dropped]:
    """What one object of a pipe makes.

    :param share: its part of the section's.
    :param names: of the objects before that are not dropped; the first of these with a suffix has it.
    """
    place = _place(section, index)
    if not isinstance(one, dict):
        # Whether it was to have a share nobody can tell; in a section without one it has none.
        return Dropped(place, (Problem("", shown(one), "an object with the keys of a machinetype"),), _unread(section))
    try:
        name = keys.machinetype_name(section.prefix, one.get("suffix"))
    except Unfit as exc:
        given = shown(one["suffix"]) if "suffix" in one else ""
        return Dropped(place, (Problem("suffix", given, str(exc)),), share)
    if name in names:
        twice = Problem("suffix", shown(one["suffix"]), "a suffix that no machinetype before it has")
        return Dropped(place, (twice,), share)
    own, site = section.machinetypes.get(name, {}), section.said_of(name)
    share = own.get("target_share", share)
    model = one.get("machine_model", "cernvm3")
    if not keys.sets(site, "machine_model") and isinstance(model, str) and model in keys.VIRTUAL_MACHINES:
        given = "" if "machine_model" in one else ", which is what no machine_model means,"
        return NotHere(name, model, f"{name} is not for this factory: {model}{given} is a virtual machine.", share)
    values: dict[str, t.Any] = {}
    problems = []
    for key, value in one.items():
        if keys.sets(site, key) or key == "suffix" or key in keys.OF_VIRTUAL_MACHINES or not _is_read(key):
            continue
        try:
            values[key] = keys.check(key, value)
        except Unfit as exc:
            problems.append(Problem(key, shown(value), str(exc)))
    if problems:
        wrong = any(problem.key == "target_share" for problem in problems)
        return Dropped(name, tuple(problems), _unread(section) if wrong else share)
    made = keys.build(name, share, {**values, **site})
    if isinstance(made, Machinetype):
        return made
    return Dropped(name, tuple(_with_own(problem, name, own) for problem in made), share)


def _unread(section: Section) -> t.Optional[float]:
    """The share of what should have a number, and has none that can be read."""
    return None if section.target_share > 0 else 0.0


def _with_own(problem: Problem, name: str, own: t.Mapping[str, t.Any]) -> Problem:
    """A problem of values that do not go together, with what the site says of the machinetype: it may be to blame."""
    if not own:
        return problem
    return replace(problem, expected=f"{problem.expected} (machinetypes.{name} sets {', '.join(sorted(own))})")

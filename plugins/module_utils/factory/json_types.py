# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frozen dataclasses from the files in which they were written down: all types are checked, for files are damaged."""

from __future__ import annotations

import functools
import math
import typing as t
from dataclasses import fields, is_dataclass


def read(kind: t.Any, value: t.Any) -> t.Any:
    """A value of a type, from JSON types; a key that its class has not is of a later version, and is passed over.

    :param kind: a dataclass, a tuple or mapping of one type, an optional type, or a type that JSON has.

    :raises ValueError: if it is none.
    :raises TypeError: if a key is missing.
    """
    origin, arguments = t.get_origin(kind), t.get_args(kind)
    if kind is t.Any:
        return value
    if origin is t.Union:  # Optional, all of them
        return None if value is None else read(arguments[0], value)
    if is_dataclass(kind):
        hints, given = _hints(t.cast(type, kind)), _object(value)
        make = t.cast("t.Callable[..., t.Any]", kind)
        return make(**{one.name: read(hints[one.name], given[one.name]) for one in fields(kind) if one.name in given})
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{value!r:.60} is no list")
        return tuple(read(arguments[0], one) for one in value)
    if origin is not None:
        return {key: read(arguments[1], one) for key, one in _object(value).items()}
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool) or not _is_finite(value):
        raise ValueError(f"{value!r:.60} is no {kind.__name__}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, t.Any]:
    """The types of a class. Once: they are texts that Python compiles, and a factory has hundreds of records."""
    return t.get_type_hints(kind)


def _object(value: t.Any) -> dict[str, t.Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.60} is no object")
    return value


def _is_finite(value: t.Any) -> bool:
    """Whether arithmetic with it ends well: a damaged file must not be a traceback of its reader."""
    return not isinstance(value, (int, float)) or (
        abs(value) < 1e15 if isinstance(value, int) else math.isfinite(value)
    )

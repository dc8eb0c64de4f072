# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A line of the factory's journal: one JSON object, in which no secret can be."""

from __future__ import annotations

import json
import math
import re
import time
import typing as t

#: What stands for a value that is not shown.
HIDDEN = "(not shown)"

#: Names of what may be a secret: a site puts passwords and proxies into its machines as options of user_data.
_SECRET = re.compile(r"user_?data|proxy|passw|secret|token|credential|cookie|hmac|pem|(^|_)keys?($|_)", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")


def journal_line(event: str, *, at: t.Optional[float] = None, **facts: t.Any) -> str:
    """One line of JSON: the time, the event, then the facts in the order in which they are given.

    :param event: one word, for instance ``machine_ended``.
    :param at: Unix seconds; None: now.
    :param facts: what a name in it, at any depth, says to be a secret is not shown, nor is a login in a URL.
    """
    seconds = time.time() if at is None else at
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"
    line = {"time": stamp, "event": event}
    line.update({key: value for key, value in _clean(facts).items() if key not in line})
    return json.dumps(line)


def _clean(value: t.Any, name: str = "") -> t.Any:
    """As JSON types, without secrets."""
    if value is not None and not isinstance(value, bool) and _SECRET.search(name):
        return HIDDEN
    if isinstance(value, t.Mapping):
        return {str(key): _clean(one, str(key)) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _LOGIN.sub("", str(value))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How deep the lists and objects of a stranger's JSON are nested. Pure."""

from __future__ import annotations

import typing as t


def is_nested_deeper(value: t.Any, most: int) -> bool:
    """Whether there is a list or an object in more than ``most`` others; without recursion, so that no depth hurts.

    :param value: of JSON.
    """
    level = [value]
    for _depth in range(most + 1):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, (dict, list)) for one in level)

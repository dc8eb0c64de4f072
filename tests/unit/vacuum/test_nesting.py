# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How deep JSON is nested."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.nesting import is_nested_deeper


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        ("x", -1),
        ({}, 0),
        ([1], 0),
        ([{"a": 1}], 1),
        ({"a": [1, []], "b": 2}, 2),
        (json.loads(900 * "[" + 900 * "]"), 899),
    ],
)
def test_one_is_nested_no_deeper_than_in_so_many_others(value: t.Any, depth: int) -> None:
    assert not is_nested_deeper(value, max(depth, 0))
    if depth > 0:
        assert is_nested_deeper(value, depth - 1)

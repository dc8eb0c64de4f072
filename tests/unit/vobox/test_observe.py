# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which containers beside a VO-box's own an interrupted swap has left."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import find_leftovers
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import REPLACES_LABEL


def short(identity: str, replaces: str = "", keep: bool = False, state: str = "running") -> dict[str, t.Any]:
    labels = {REPLACES_LABEL: json.dumps({"old_id": replaces, "keep": keep})} if replaces else {}
    return {"Id": identity, "Labels": labels, "State": state}


@pytest.mark.parametrize(
    ("there", "leftovers", "kept"),
    [
        ({}, (), None),
        ({"vobox": short("old")}, (), None),
        ({"vobox": short("old"), "vobox.next": short("new", "old")}, ("vobox.next",), None),
        # Cut off before there was a .next: on engines that need a stand-in it is made first.
        ({"vobox": short("old"), "vobox.stand-in": short("s", "old")}, ("vobox.stand-in",), None),
        (
            {"vobox": short("old"), "vobox.next": short("new", "old"), "vobox.stand-in": short("s", "old")},
            ("vobox.next", "vobox.stand-in"), None,
        ),
        ({"vobox": short("new", "old"), "vobox.previous": short("old")}, ("vobox.previous",), None),
        (
            {"vobox": short("new", "old", keep=True), "vobox.previous": short("old", state="exited")},
            (), "vobox.previous",
        ),
        ({"vobox": short("new", "old", keep=True), "vobox.previous": short("old")}, ("vobox.previous",), None),
    ],
)  # fmt: skip
def test_leftovers(there: dict[str, t.Any], leftovers: tuple[str, ...], kept: str | None) -> None:
    assert find_leftovers("vobox", there) == (leftovers, kept)


@pytest.mark.parametrize("name", ["vobox.next", "vobox.stand-in"])
def test_a_name_that_a_swap_needs_is_not_taken_from_anybody(name: str) -> None:
    with pytest.raises(RefusedError, match=f"there is a container {name} that no swap has made"):
        find_leftovers("vobox", {"vobox": short("old"), name: short("foreign")})

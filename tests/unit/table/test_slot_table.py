# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.hep.gridbox.plugins.plugin_utils.slot_table import is_well, render

NOW = 1_795_187_700.0
FACTORY = {
    "host": "wn001",
    "check": "OK: Factory ok (1/3 2/4) | machines=1;;;0;3",
    "slots": [
        {"slot": "wn001-00", "machinetype": "lhcb-prod", "state": "running", "processors": 2, "since": NOW - 3600,
         "order": "drained", "reason": "", "last_end": None},
        {"slot": "wn001-01", "machinetype": "", "state": "empty", "processors": 0, "since": None, "order": "",
         "reason": "", "last_end": {"machinetype": "local", "message": "300 Nothing to do"}},
        {"slot": "wn001-02", "machinetype": "", "state": "empty", "processors": 0, "since": None, "order": "",
         "reason": "too little memory", "last_end": None},
    ],
}  # fmt: skip


def test_a_line_for_each_slot_and_one_for_each_factory() -> None:
    lines = render([FACTORY], NOW)
    assert [line.text.split() for line in lines[2:5]] == [
        ["wn001-00", "lhcb-prod", "running", "drained", "2", "1", "h", "-"],
        ["wn001-01", "local", "empty", "-", "-", "300", "Nothing", "to", "do"],
        ["wn001-02", "-", "empty", "-", "-", "too", "little", "memory"],
    ]
    assert (lines[-1].text, lines[-1].mood) == ("wn001: OK: Factory ok (1/3 2/4)", "good")


def test_what_is_not_well_is_told() -> None:
    for check, well in (("WARNING: x | y", True), ("CRITICAL: gone | y", False), ("UNKNOWN: x", False), ("", False)):
        one = {**FACTORY, "check": check, "slots": []}
        assert is_well(one) == well
        assert (render([one], NOW)[-1].mood == "good") == well
    assert render([{**FACTORY, "check": ""}], NOW)[-1].text == "wn001: it has not said anything yet"
    assert render([], NOW)[0].text == "There are no factories."

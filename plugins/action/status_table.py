# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prints a table of VO-boxes or slots on the controller's terminal; documented in plugins/modules/status_table.py."""

from __future__ import annotations

import shutil
import time
import typing as t

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.hep.gridbox.plugins.plugin_utils import slot_table
from ansible_collections.hep.gridbox.plugins.plugin_utils.status_table import Line, is_good, render, summary, unseen

display = Display()


class ActionModule(ActionBase):
    """The action. Nothing is sent to a host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        """Check the arguments, print, and hand the lines back."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            {
                "voboxes": {"type": "list", "elements": "dict"},
                "factories": {"type": "list", "elements": "dict"},
                "lines": {"type": "list", "elements": "str"},
                "unseen": {"type": "list", "elements": "str", "default": []},
                "width": {"type": "int", "default": 0},
                "required": {"type": "bool", "default": False},
                "footer": {"type": "str", "default": ""},
            },
            mutually_exclusive=[("voboxes", "factories", "lines")],
            required_one_of=[("voboxes", "factories", "lines")],
        )
        bad: list[str] = []
        if arguments["lines"] is not None:
            lines = [Line(""), *map(Line, arguments["lines"]), Line("")]
        elif arguments["unseen"] and not (arguments["factories"] or arguments["voboxes"]):
            lines = [Line("")]  # that there are none would not be true
        elif arguments["factories"] is not None:
            lines, bad = self._slots(arguments["factories"])
        else:
            lines, bad = self._boxes(arguments["voboxes"], arguments["width"])
        lines += unseen(arguments["unseen"])
        bad += arguments["unseen"]
        if arguments["footer"]:
            lines.append(Line(arguments["footer"]))
        colours = {"good": constants.COLOR_OK, "bad": constants.COLOR_ERROR, "plain": None}
        for line in lines:
            display.display(line.text, color=colours[line.mood])
        result.update(changed=False, table=[line.text for line in lines], not_well=bad)
        if bad and arguments["required"]:
            what = "factories" if arguments["voboxes"] is None else "VO-boxes or hosts"
            result.update(failed=True, msg=f"These {what} need a look: {', '.join(bad)}. The table above says why.")
        return result

    def _slots(self, factories: list[dict[str, t.Any]]) -> tuple[list[Line], list[str]]:
        for index, one in enumerate(factories):
            lacking = [key for key in ("host", "check", "slots") if key not in one]
            if lacking:
                raise AnsibleActionFail(
                    f"factories[{index}]: got the keys {', '.join(one)}, expected {', '.join(lacking)} as well."
                )
        lines = [Line(""), *slot_table.render(factories, time.time())]
        return lines, [str(one["host"]) for one in factories if not slot_table.is_well(one)]

    def _boxes(self, boxes: list[dict[str, t.Any]], columns: int) -> tuple[list[Line], list[str]]:
        for index, box in enumerate(boxes):
            lacking = [key for key in ("name", "fqdn", "state", "services") if key not in box]
            if lacking:
                raise AnsibleActionFail(
                    f"voboxes[{index}]: got the keys {', '.join(box)}, expected {', '.join(lacking)} as well."
                )
        width = columns or shutil.get_terminal_size((160, 24)).columns
        lines = [Line(""), *render(boxes, width), Line(""), summary(boxes)]
        return lines, [str(box["name"]) for box in boxes if not is_good(box)]

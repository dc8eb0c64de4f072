# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes down which tasks of a play changed something, one JSON line each, for ``tests/lab/proof.py``."""

from __future__ import annotations

import json
import os
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: notification
short_description: List changed tasks
description:
  - Appends the tasks that changed something to the file in the environment variable GRIDBOX_CHANGES.
"""


class CallbackModule(CallbackBase):
    """Listens to results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: t.Any) -> None:
        answer = result._result
        if not answer.get("changed"):
            return
        actions = [[step["action"], step["target"]] for step in answer.get("actions") or [] if isinstance(step, dict)]
        with open(os.environ["GRIDBOX_CHANGES"], "a", encoding="utf-8") as file:
            change = {"host": result._host.get_name(), "task": result._task.get_name(), "actions": actions}
            file.write(json.dumps(change) + "\n")

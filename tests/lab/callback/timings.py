# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes down how long each task of a run took, one JSON line each, for the benchmarks."""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: timings
type: notification
short_description: List how long tasks took
description:
  - Appends each task with its action and its seconds, from its start to the last host's answer, to the file in the
    environment variable GRIDBOX_TIMINGS.
"""


class CallbackModule(CallbackBase):
    """Listens to starts and results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "timings"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0
        self._task: t.Any = None

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._end()
        self._task, self._began = task, time.perf_counter()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._task is None:
            return
        seconds = time.perf_counter() - self._began
        timing = {"task": self._task.get_name(), "action": self._task.action, "seconds": seconds}
        with open(os.environ["GRIDBOX_TIMINGS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(timing) + "\n")
        self._task = None

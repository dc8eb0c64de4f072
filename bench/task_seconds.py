# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A callback plugin for the benchmarks: how long each task of a play took, from its start to the next one's."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_seconds
type: aggregate
short_description: Writes how long each task took
description: A JSON list of pairs, name and seconds, in the file that the variable of the environment names.
"""

#: Names the file.
VARIABLE = "BENCH_TASK_SECONDS"


class CallbackModule(CallbackBase):
    """Takes the time."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_seconds"

    def __init__(self) -> None:
        super().__init__()
        self._tasks: list[tuple[str, float]] = []
        self._name, self._began = "", 0.0

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._end()
        self._name, self._began = task.get_name(), time.perf_counter()

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._end()
        Path(os.environ[VARIABLE]).write_text(json.dumps(self._tasks))

    def _end(self) -> None:
        if self._name:
            self._tasks.append((self._name, time.perf_counter() - self._began))

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The last line of a run: what it changed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: changes
type: aggregate
short_description: Say in one sentence what a run changed
version_added: 0.1.0
description:
  - Prints one sentence after the recap, the number of changes on each host or that there were none.
requirements:
  - enabled in the configuration, for instance with E(ANSIBLE_CALLBACKS_ENABLED=hep.gridbox.changes)
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

import typing as t

from ansible import constants
from ansible.plugins.callback import CallbackBase


def sentence(changed: t.Mapping[str, int], troubled: t.Collection[str]) -> str:
    """What to say.

    :param changed: number of changes by host.
    :param troubled: hosts that failed or were not reached.
    """
    several = {host: count for host, count in changed.items() if count}
    made = "; ".join(f"{host}: {count} change{'s' if count > 1 else ''}" for host, count in sorted(several.items()))
    if troubled:
        return f"Not finished on {', '.join(sorted(troubled))}. Changes made: {made or 'none'}."
    return f"{made}." if made else "Nothing was changed."


class CallbackModule(CallbackBase):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hep.gridbox.changes"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """At the end of a run."""
        hosts = list(stats.processed)
        if not hosts:
            return
        troubled = [host for host in hosts if stats.failures.get(host) or stats.dark.get(host)]
        changed = {host: int(stats.changed.get(host, 0)) for host in hosts}
        calm = constants.COLOR_CHANGED if any(changed.values()) else constants.COLOR_OK
        colour = constants.COLOR_ERROR if troubled else calm
        self._display.display(sentence(changed, troubled), color=colour)

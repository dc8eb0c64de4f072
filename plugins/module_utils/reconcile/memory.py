# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the reconciler did and found, as a file: for its own next run, and for ``vobox_info``, which tells people.

It lies where a boot empties it, as the times in it count from the boot: they do not jump when the clock is set.
"""

from __future__ import annotations

import json
import os
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.decide import Finding, Past

PATH = "/run/hep.gridbox-reconcile.json"

#: How many events are kept.
_EVENTS = 50


@dataclass
class Memory:
    """What is known of this boot.

    :ivar looked: when the last run looked, as people write times; empty before the first.
    :ivar past: by VO-box, what was tried.
    :ivar findings: the last run's.
    :ivar events: what was done or went wrong, oldest first: ``time``, ``name``, ``text``.
    """

    looked: str = ""
    past: dict[str, Past] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    events: list[dict[str, str]] = field(default_factory=list)

    def note(self, time: str, name: str, text: str) -> bool:
        """Remember an event. Returns whether it is news: the same of the same VO-box over and over is not."""
        last = next((event for event in reversed(self.events) if event["name"] == name), None)
        if last is not None and last["text"] == text:
            return False
        self.events = [*self.events, {"time": time, "name": name, "text": text}][-_EVENTS:]
        return True

    def save(self, path: str) -> None:
        """Write the file, whole or not at all."""
        data = {
            "looked": self.looked,
            "past": {name: dict(past.__dict__) for name, past in self.past.items()},
            "findings": [finding.as_data() for finding in self.findings],
            "events": self.events,
        }
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            write_atomically(path, json.dumps(data, indent=1).encode() + b"\n", 0o644)
        except OSError as exc:
            raise GridboxError(f"Writing {path} failed ({exc.strerror}).") from exc


def load(path: str = PATH) -> Memory:
    """Read the file; an empty memory if there is none.

    :raises GridboxError: if there is something else in its place.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data: dict[str, t.Any] = json.load(file)
        return Memory(
            data["looked"],
            {name: Past(**past) for name, past in data["past"].items()},
            [Finding(**finding) for finding in data["findings"]],
            data["events"],
        )
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise GridboxError(f"{path} cannot be read as what the reconciler knows ({exc}). Remove it.") from exc

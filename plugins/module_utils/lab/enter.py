# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Go into a named network namespace with the calling thread; threads it starts afterwards are in it too."""

from __future__ import annotations

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.namespace import enter_network
from ansible_collections.hep.gridbox.plugins.module_utils.lab import netns


def enter(name: str) -> None:
    """Enter a namespace, for the rest of this process.

    :raises RefusedError: if there is none of that name, or this process may not enter it.
    """
    if not netns.exists(name):
        there = ", ".join(netns.names()) or "none"
        raise RefusedError(f"netns: {name}", f"there is no such network namespace (there: {there})", "Make it first.")
    try:
        enter_network(netns.path_of(name))
    except OSError as exc:
        raise RefusedError(f"netns: {name}", str(exc.strerror), "Entering it needs root; use become: true.") from exc

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bind mounts in this mount namespace, of which the host's tools need not know."""

from __future__ import annotations

import os

from ansible_collections.hep.gridbox.plugins.module_utils.host import command


def bind(request: str, source: str, place: str) -> None:
    """Show a file or a folder at another place, which is made if there is nothing.

    :param request: what is done, in words, for the error.
    :raises GridboxError: if that fails.
    """
    if not os.path.exists(place):
        if os.path.isdir(source):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT, 0o444))
    command.run(request, ["mount", "-n", "--bind", "--", source, place])

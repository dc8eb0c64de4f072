# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times for people."""

from __future__ import annotations

import time


def utc(seconds: float) -> str:
    """A time, such as ``2026-11-28 09:52:00 UTC``.

    :param seconds: Unix seconds.
    :raises ValueError: for a time that no calendar has; or OverflowError, OSError.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

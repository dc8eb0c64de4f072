# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's clock, by which machines' times are, and which somebody may set while they run. Pure.

A machine's record says of which boot it is, and when that boot was by the clock of its times. When the boot is another
time by the clock as it is now, that was set by the difference, whoever worked meanwhile. Of another boot nothing can be
told so; nor need it, for no machine outlives its host.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import CLOCK_TOLERANCE


@dataclass(frozen=True)
class Clock:
    """The clock at one moment.

    :ivar boot: of the host, by its mark; empty: nobody knows.
    :ivar booted: when that was by this clock, Unix seconds: another time whenever the clock is set, and only then.
    :ivar slept: seconds for which the host was suspended since.
    """

    boot: str
    booted: int
    slept: int = 0

    def ahead(self, boot: str, booted: int) -> int:
        """Seconds by which this clock is ahead of another one, behind it if they are negative; 0: that is within what
        is tolerated, or the other one is of another boot."""
        ahead = self.booted - booted
        return ahead if boot and boot == self.boot and abs(ahead) > CLOCK_TOLERANCE else 0

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a factory calls itself: the collection and its version, as in galaxy.yml, which is not on hosts."""

from __future__ import annotations

PRODUCT = "hep.gridbox 0.1.0"

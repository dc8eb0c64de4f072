# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests on a fleet's hosts have in common."""

from __future__ import annotations

from tests.integration.conftest import claim

__all__ = ["claim"]

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this from other collections or standalone plugins/modules!

"""Options and attributes of every module that observes, plans and applies."""

from __future__ import annotations


class ModuleDocFragment:
    """Matches ``front_room.PLAN_ARGUMENTS``."""

    DOCUMENTATION = r"""
options:
  max_disruption:
    description:
      - The most a change may cost the running service. A plan that costs more is refused, in check mode too, before
        anything is touched, and the message names the steps.
      - V(none) costs it nothing; V(reload) makes a daemon read its configuration again; V(service) restarts services
        inside a container; V(container) replaces a container; V(daemon) restarts the engine.
    type: str
    choices: [none, reload, service, container, daemon]
    default: container
  options_only:
    description:
      - Check the options, refuse what cannot be right, and end. The host is not looked at, so it need not be ready, nothing
        is planned, and of the return values there are only RV(ignore:actions) and RV(ignore:disruption).
      - With it a play refuses bad input before it installs anything.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - The same plan and the same preflight as the real run. The RV(ignore:actions) predicted are the actions the real
        run takes, and what would fail fails.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: full
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: Linux
"""

    #: For info modules: no options, other attributes.
    INFO = r"""
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
    details:
      - Reads only.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: N/A
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: Linux
"""

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_program
short_description: Put a program of the collection on a host
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Builds the program on the controller from the collection's own library, one file with all it needs of that, and copies
    it. The same version of the collection makes the same bytes everywhere, so it changes on the host with the
    collection only.
  - The program is for Python 3.9 or later. To remove it, remove the file.
options:
  name:
    description:
      - Which one. V(gridbox-reconcile) starts the VO-boxes that the engine could not start and does not try again, and
        takes back or finishes swaps that were interrupted. It needs the Python library C(pyroute2) for VO-boxes on macvlan
        networks, and C(docker) for an engine without a Unix socket.
      - V(gridbox) is a vacuum factory, and what people ask of it.
    type: str
    choices: [gridbox, gridbox-reconcile]
    required: true
  dest:
    description:
      - Path on the host. Without it the name below C(/usr/local/sbin).
    type: path
  python:
    description:
      - The interpreter that is to run it, on the host.
    type: path
    default: /usr/bin/python3
attributes:
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: partial
    details: Says that the program is another one, not in which bytes.
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: posix
seealso:
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
---
- name: Install what starts the VO-boxes that the engine has given up on
  hep.gridbox.host_program:
    name: gridbox-reconcile
  become: true
"""

RETURN = r"""
---
dest:
  description: Where the program is.
  returned: success
  type: str
  sample: /usr/local/sbin/gridbox-reconcile
sha256:
  description: The SHA-256 of its bytes.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

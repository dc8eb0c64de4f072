#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_audit
short_description: Report each control of a VO-box host with its reason and what was found
version_added: "0.1.0"
description:
  - Looks at limits, neighbour tables, forwarding, user namespaces, autofs, the clock and sshd, and changes nothing.
options:
  voboxes:
    description:
      - How many VO-boxes the host is to carry.
    type: int
    default: 2
  lan_peers:
    description:
      - How many machines of the LAN a VO-box talks to; sizes the neighbour tables.
    type: int
    default: 1024
  nofile_soft:
    description:
      - Open files per process, soft limit.
    type: int
    default: 65536
  nofile_hard:
    description:
      - Open files per process, hard limit. It must not be above C(fs.nr_open).
    type: int
    default: 1048576
  max_clock_offset:
    description:
      - Seconds by which the clock may be wrong.
    type: float
    default: 1.0
  controls:
    description:
      - Switches by control. V(false), or the reason for which it is off, waives it; V(true) is the same as leaving it out.
    type: dict
    default: {}
extends_documentation_fragment:
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.host_controls
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Judge a host that is to carry four VO-boxes
  hep.gridbox.host_audit:
    voboxes: 4
  register: audit

- name: Show it
  ansible.builtin.debug:
    msg: "{{ audit.table }}"
"""

RETURN = r"""
---
controls:
  description: Each control.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: What switches call it.
      type: str
    title:
      description: What is to be.
      type: str
    reason:
      description: Why.
      type: str
    status:
      description: V(pass), V(fail) or V(waived).
      type: str
    finding:
      description: What was found.
      type: str
    waiver:
      description: The reason for which it is waived.
      type: str
summary:
  description: How many controls have each status.
  returned: success
  type: dict
  sample: {"fail": 1, "pass": 13, "waived": 1}
table:
  description: The same as lines for people.
  returned: success
  type: list
  elements: str
  sample: ["pass    autofs           it is not installed"]
automounts:
  description:
    - Folders in which autofs serves somebody, who would lose what is mounted there if it were stopped. That is so if
      something is mounted there now, and for C(/cvmfs) as long as autofs mounts in it.
  returned: success
  type: list
  elements: str
  sample: [/cvmfs]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.enforce import info


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "voboxes": {"type": "int", "default": 2},
            "lan_peers": {"type": "int", "default": 1024},
            "nofile_soft": {"type": "int", "default": 65536},
            "nofile_hard": {"type": "int", "default": 1048576},
            "max_clock_offset": {"type": "float", "default": 1.0},
            "controls": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    run_info(module, info)


if __name__ == "__main__":
    main()

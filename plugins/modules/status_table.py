#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: status_table
short_description: Print a table of VO-boxes, of the slots of factories, or of a vacuum space
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Prints VO-boxes of any number of hosts as a table on the terminal of whoever runs the playbook, one line each, with
    the services that are missing below. On a narrow terminal each VO-box gets a block of lines.
  - The entry point C(status) of the role P(hep.gridbox.vobox#role) gathers what it shows.
  - Or prints the slots of factories, and below what the health check of each says. The role P(hep.gridbox.vacuum_factory#role)
    gathers that.
  - Or prints O(lines) as they are.
options:
  voboxes:
    description:
      - The VO-boxes, as the fact C(vobox_status) of each host has them. This, O(factories) or O(lines) is required.
    type: list
    elements: dict
  factories:
    description:
      - The factories, as the fact C(vacuum_factory_status) of each host has them.
    type: list
    elements: dict
  lines:
    description:
      - Lines of a table that is made already, such as C(space.table) of M(hep.gridbox.vacuum_info).
    type: list
    elements: str
  unseen:
    description:
      - Hosts that belong into the table and of which nothing is known, for they could not be reached or the look at them failed.
        Each gets a line below.
    type: list
    elements: str
    default: []
  width:
    description:
      - Columns to fit into. V(0) is the terminal's width, or 160 where there is no terminal.
    type: int
    default: 0
  required:
    description:
      - Whether to fail if a VO-box does not run, is unhealthy, or lacks a service, or if one that is wanted stopped is not; or if
        the health check of a factory finds something critical; or if there are hosts in O(unseen).
    type: bool
    default: false
  footer:
    description:
      - A sentence to print below.
    type: str
    default: ''
attributes:
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
    support: none
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
    support: full
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: all
seealso:
  - module: hep.gridbox.vobox_info
  - module: hep.gridbox.service_probe
  - module: hep.gridbox.vacuum_info
"""

EXAMPLES = r"""
---
- name: Show all VO-boxes of all hosts
  hep.gridbox.status_table:
    voboxes: "{{ ansible_play_hosts_all | map('extract', hostvars, 'vobox_status') | select('defined') | flatten }}"
  run_once: true

- name: Show a vacuum space
  hep.gridbox.status_table:
    lines: "{{ found.space.table }}"

- name: Show the slots of all factories
  hep.gridbox.status_table:
    factories: "{{ ansible_play_hosts_all | map('extract', hostvars, 'vacuum_factory_status') | select('defined') }}"
    unseen: "{{ ansible_play_hosts_all | reject('in', ansible_play_hosts) }}"
  run_once: true
"""

RETURN = r"""
---
table:
  description: The lines that were printed.
  returned: success
  type: list
  elements: str
  sample: ["VO-box   FQDN                 IPv4 ..."]
not_well:
  description: Names of the VO-boxes, or hosts of the factories, that need a look, and hosts of which nothing is known.
  returned: success
  type: list
  elements: str
  sample: []
"""

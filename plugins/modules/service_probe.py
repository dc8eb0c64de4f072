#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_probe
short_description: Reach services of a VO-box from another machine
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Connects to each service over TCP, from the machine the task runs on, and looks for a sign that the right protocol
    answers. Use C(delegate_to) to ask from another machine of the LAN, since a host cannot reach the macvlan containers
    on its own link.
  - It changes nothing.
options:
  services:
    description:
      - What to reach. A service with an IPv4 and an IPv6 address is listed twice.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Its name, for the reader.
        type: str
        required: true
      address:
        description:
          - Its IPv4 or IPv6 address. Names are not looked up.
        type: str
        required: true
      port:
        description:
          - Its TCP port.
        type: int
        required: true
      sign:
        description:
          - V(none) - a connection is enough. V(ssh) - the server's identification. V(http) - the status line of an answer to
            C(GET).
        type: str
        choices: [none, ssh, http]
        default: none
      path:
        description:
          - What O(services[].sign=http) asks for.
        type: str
        default: /
      statuses:
        description:
          - The HTTP status codes that are fine. Without any, each is.
        type: list
        elements: int
        default: []
  netns:
    description:
      - A network namespace of the machine to connect from, as C(ip netns) names it.
    type: str
  timeout:
    description:
      - Seconds for a connection, and again for its sign.
    type: float
    default: 3
  wait:
    description:
      - Seconds in which all services have to be up. Those that are down are tried again until then.
    type: float
    default: 0
  required:
    description:
      - Whether the module fails if a service is down in the end.
    type: bool
    default: true
extends_documentation_fragment:
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.vobox_container
  - module: hep.gridbox.status_table
"""

EXAMPLES = r"""
---
- name: Reach the services of a VO-box from another machine of the site
  hep.gridbox.service_probe:
    services:
      - {name: sshd, address: 192.0.2.31, port: 1975, sign: ssh}
      - {name: sshd, address: "2001:db8:1::31", port: 1975, sign: ssh}
      - {name: node exporter, address: 192.0.2.31, port: 9100, sign: http, path: /metrics, statuses: [200]}
    wait: 30
  delegate_to: worker001.example.org
"""

RETURN = r"""
---
services:
  description: What came of each, in the order of O(services).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: As given.
      type: str
      sample: sshd
    address:
      description: As given, in its canonical form.
      type: str
      sample: 192.0.2.31
    family:
      description: V(ipv4) or V(ipv6).
      type: str
      sample: ipv4
    port:
      description: As given.
      type: int
      sample: 1975
    up:
      description: Whether the sign was seen.
      type: bool
      sample: true
    seen:
      description: The sign, or why there is none.
      type: str
      sample: SSH-2.0-OpenSSH_9.2p1
    seconds:
      description: How long the last try took.
      type: float
      sample: 0.0021
up:
  description: How many are up.
  returned: success
  type: int
  sample: 3
declared:
  description: How many there are.
  returned: success
  type: int
  sample: 3
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info
from ansible_collections.hep.gridbox.plugins.module_utils.probe.services import SIGNS, collect


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "sign": {"type": "str", "choices": list(SIGNS), "default": "none"},
                    "path": {"type": "str", "default": "/"},
                    "statuses": {"type": "list", "elements": "int", "default": []},
                },
            },
            "netns": {"type": "str"},
            "timeout": {"type": "float", "default": 3},
            "wait": {"type": "float", "default": 0},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    run_info(module, collect)


if __name__ == "__main__":
    main()

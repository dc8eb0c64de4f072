#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_lan
short_description: Make a LAN of network namespaces on one machine
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Makes an Ethernet segment for a demonstration or a test, a bridge in a network namespace of its own with a virtual
    cable (C(veth)) to each "machine". A machine is a network namespace, which is made if it does not exist, or the
    machine's own.
  - The machine's own links, addresses, routes and packet filter are not touched. A port in its own namespace is one
    more link there.
  - With O(state=absent) exactly what the LAN made goes. It is found by its name; nothing is kept in files.
options:
  name:
    description:
      - The name of the LAN, and of the network namespace of its bridge.
    type: str
    required: true
  ports:
    description:
      - The links on the LAN. A port that is not listed any more is unplugged, and a namespace that was made for it is
        removed.
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description:
          - The network namespace the link is in, a name as C(ip netns) has it. Empty for the machine's own.
        type: str
        default: ""
      link:
        description:
          - The name of the link there.
        type: str
        required: true
      addresses:
        description:
          - Its IPv4 and IPv6 addresses with prefix length. Others are taken away.
          - Without any, the link gets no IPv6 address of its own making either, as becomes the parent of a macvlan
            network.
        type: list
        elements: str
        default: []
  mtu:
    description:
      - The MTU of the bridge and of all links on it, in bytes, from 1280 to 65535.
    type: int
    default: 1500
  state:
    description:
      - Whether the LAN is there.
    type: str
    choices: [present, absent]
    default: present
  vacated:
    description:
      - Whether an earlier task of this run ends what runs in the namespaces. In check mode that task has only announced it; with
        O(state=absent) those processes are not in the way then. Otherwise it means nothing.
    type: bool
    default: false
notes:
  - A LAN of this module does not outlive a reboot.
  - A namespace with processes in it is not removed.
requirements:
  - the command C(ip) (package C(iproute2)) on the host
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.macvlan_net
  - module: hep.gridbox.service_probe
"""

EXAMPLES = r"""
---
- name: Make a LAN with an engine's machine and another machine on it
  hep.gridbox.lab_lan:
    name: demo-lan
    ports:
      - netns: demo-host
        link: site0
        addresses: [10.77.0.1/16, "fd77::1/64"]
      - netns: demo-peer
        link: eth0
        addresses: [10.77.0.9/16, "fd77::9/64"]
  become: true

- name: Take it away
  hep.gridbox.lab_lan:
    name: demo-lan
    state: absent
  become: true
"""

RETURN = r"""
---
actions:
  description: The steps taken, or in check mode to be taken, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What is done.
      type: str
      sample: add_port
    target:
      description: To what.
      type: str
      sample: demo-host/site0
    reason:
      description: Why.
      type: str
      sample: it is not plugged in
    disruption:
      description: What it costs a running service.
      type: str
      sample: none
disruption:
  description: The worst disruption of the steps.
  returned: success
  type: str
  sample: none
namespaces:
  description: The network namespaces of the LAN, the bridge's among them.
  returned: success
  type: list
  elements: str
  sample: [demo-host, demo-lan, demo-peer]
ports:
  description: The links on the LAN, by namespace and name.
  returned: success
  type: dict
  sample:
    demo-host/site0:
      addresses: [10.77.0.1/16, "fd77::1/64"]
      mtu: 1500
      up: true
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, forget_announced, run
from ansible_collections.hep.gridbox.plugins.module_utils.lab.lan import LanWork, Wish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "netns": {"type": "str", "default": ""},
                    "link": {"type": "str", "required": True},
                    "addresses": {"type": "list", "elements": "str", "default": []},
                },
            },
            "mtu": {"type": "int", "default": 1500},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "vacated": {"type": "bool", "default": False},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    forget_announced(module, "vacated")
    run(module, lambda params: LanWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

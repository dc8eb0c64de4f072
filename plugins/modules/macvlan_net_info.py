#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: macvlan_net_info
short_description: The macvlan networks of the engine, who is on them, and the host's way to them
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Reads one or all macvlan networks of the engine. Changes nothing.
options:
  name:
    description:
      - The network to read. By default all macvlan networks are read.
      - A network that does not exist gives an empty list.
    type: str
seealso:
  - module: hep.gridbox.macvlan_net
requirements:
  - the Python library C(pyroute2), 0.5.14 or later, on the host (Debian, Ubuntu, EPEL C(python3-pyroute2))
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan.info
"""

EXAMPLES = r"""
---
- name: All macvlan networks of this host
  hep.gridbox.macvlan_net_info:
  register: all_networks

- name: Who is on the site's LAN
  hep.gridbox.macvlan_net_info:
    name: site
  register: site

- name: Tell their addresses
  ansible.builtin.debug:
    msg: "{{ site.networks | map(attribute='endpoints') | flatten | map(attribute='ipv4') }}"
"""

RETURN = r"""
networks:
  description: The networks, ordered by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: site
    id:
      description: The engine's id for it.
      type: str
      returned: always
      sample: 1f0c6f2f6f8c4b5e
    driver:
      description: Its driver.
      type: str
      returned: always
      sample: macvlan
    parent:
      description: The host's link.
      type: str
      returned: always
      sample: bond0.120
    mode:
      description: The mode of the containers' links.
      type: str
      returned: always
      sample: bridge
    ipv4:
      description: Its IPv4 subnet, gateway, ip_range and reserved addresses; V(null) without IPv4.
      type: dict
      returned: always
      sample: {subnet: 192.0.2.0/24, gateway: 192.0.2.1, ip_range: null, reserved: {}}
    ipv6:
      description: The same for IPv6.
      type: dict
      returned: always
      sample: {subnet: "2001:db8:1::/64", gateway: "2001:db8:1::1", ip_range: null, reserved: {}}
    labels:
      description: Its labels.
      type: dict
      returned: always
      sample: {}
    mtu:
      description: The MTU of the containers' links, which with Docker is the parent's; V(null) if there is no parent.
      type: int
      returned: always
      sample: 1500
    endpoints:
      description: The containers attached to it, running or not.
      type: list
      elements: dict
      returned: always
      sample:
        - {container: vobox1, running: true, ipv4: 192.0.2.31, ipv6: "2001:db8:1::31", mac: "02:42:c0:00:02:1f", aliases: []}
    host_access:
      description: How the host reaches the containers, as in RV(hep.gridbox.macvlan_net#module:host_access).
      type: dict
      returned: always
      sample: {kind: none, shim: null, bridge: null}
    boot:
      description: What provides for the next boot, as in RV(hep.gridbox.macvlan_net#module:boot).
      type: dict
      returned: always
      sample: {by: systemd, files: [], commands: []}
    hints:
      description:
        - Sentences about what is not as it should be. A parent that is gone or down, a network without a gateway in one
          family, a network that the engine lists with IPv6 but without a subnet, a running container without an address of
          a family that the network has, a shim without a route to a container or without a unit that the boot starts.
      type: list
      elements: str
      returned: always
      sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils import front_room
from ansible_collections.hep.gridbox.plugins.module_utils.network.info import collect


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, **front_room.ENGINE_ARGUMENTS}, supports_check_mode=True
    )
    front_room.run_info(module, collect)


if __name__ == "__main__":
    main()

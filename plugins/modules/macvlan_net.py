#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: macvlan_net
short_description: A macvlan network of the engine, and the host's way to its containers
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Makes, keeps and removes a macvlan network. A container on it is a machine of its own on the site's LAN, with its own
    MAC and addresses; nothing is translated or forwarded by the host.
  - The kernel keeps a host and the macvlan links on its own NIC apart. O(host_access) gives the host a way to its
    containers.
  - A network that differs is never repaired by deleting it. The module says what differs and refuses, unless O(recreate)
    tells it how far it may go.
  - All checks run in check mode too. Among them, whether an address or MAC that is about to be used already answers on the
    wire.
options:
  name:
    description:
      - The network's name.
    type: str
    required: true
  state:
    description:
      - V(present) makes the network as described; V(absent) removes it with its host access.
      - V(absent) is refused while containers are attached to it, running or not; the message names them.
    type: str
    choices: [present, absent]
    default: present
  parent:
    description:
      - The host's link to the LAN, for instance V(eno1), V(bond0) or the VLAN V(bond0.120). Required with
        O(state=present).
      - It must exist and be up. The engine would make a missing VLAN link by side effect, and delete it with the network;
        this module refuses instead.
    type: str
  mode:
    description:
      - What the macvlan links of one parent may do among themselves. V(bridge) lets them talk; V(private) does not;
        V(vepa) sends their traffic to the switch, which must reflect it; V(passthru) gives the parent to one container.
    type: str
    choices: [bridge, private, vepa, passthru]
    default: bridge
  ipv4:
    description:
      - The IPv4 subnet of the LAN. At least one of O(ipv4) and O(ipv6) is required with O(state=present).
      - Docker before 28 gives every network an IPv4 subnet, so with it a network of IPv6 alone is refused.
    type: dict
    suboptions: &family
      subnet:
        description: The LAN's subnet in CIDR notation, for instance V(192.0.2.0/24) or V(2001:db8:1::/64).
        type: str
        required: true
      gateway:
        description: The LAN's router. Within the subnet; never guessed.
        type: str
        required: true
      ip_range:
        description:
          - The part of the subnet from which the engine takes an address for a container that asks for none, in CIDR
            notation. Without it, it takes any of the subnet that it does not know to be used.
        type: str
      reserved:
        description:
          - Addresses of the subnet that other machines have and the engine shall not hand out (its I(auxiliary addresses)),
            as a map from a name to an address. The name C(gridbox_shim) is the module's own. Podman cannot reserve
            addresses; there it is refused.
        type: dict
        default: {}
  ipv6:
    description:
      - The IPv6 subnet of the LAN. Without it the network has no IPv6.
    type: dict
    suboptions: *family
  labels:
    description:
      - The network's labels, all of them; V({}) takes all away. Without this option they stay as they are.
      - An engine cannot change the labels of a network, so that takes O(recreate).
    type: dict
  mtu:
    description:
      - The MTU the containers shall have, in bytes.
      - Docker's macvlan driver takes no MTU (20.10 to 29); its links have the parent's. So with Docker this is a demand on
        O(parent), and refused when the parent has another. Podman is told.
    type: int
  host_access:
    description:
      - How the host and the containers reach each other.
      - V(none) - not at all; the kernel's own behaviour.
      - V(shim) - a macvlan link on the host, with addresses of its own and a host route to each container. Needs
        O(mode=bridge).
      - V(bridge) - an internal bridge network of the engine, to which the containers are attached as well. Their default
        route stays on the LAN.
    type: str
    choices: [none, shim, bridge]
    default: none
  shim:
    description:
      - The host's macvlan link. Required with O(host_access=shim).
      - With systemd it survives a reboot, see RV(boot). Where udev runs, it also comes back with a parent that has gone.
    type: dict
    suboptions:
      name:
        description: The link's name, up to 15 characters. By default made from the network's name.
        type: str
      ipv4:
        description:
          - The host's address on this link, without a prefix length. Free on the LAN and within O(ipv4.subnet). A network
            made by this module reserves it.
        type: str
      ipv6:
        description: As O(shim.ipv4), for O(ipv6.subnet).
        type: str
      routes:
        description:
          - Addresses or prefixes of the subnets that the host reaches through the link. A bare address gives a route of /32
            or /128.
          - By default one for each address that containers have on the network when the module runs.
        type: list
        elements: str
  bridge:
    description:
      - The internal bridge network of O(host_access=bridge).
    type: dict
    suboptions:
      name:
        description: The network's name. By default O(name) with V(-host) appended.
        type: str
      ipv4:
        description:
          - Its IPv4 subnet, apart from all that the host has on its links. By default the engine chooses one of its own
            pools.
        type: str
      ipv6:
        description: Its IPv6 subnet. Without it, it has no IPv6.
        type: str
  recreate:
    description:
      - What to do about a difference that only a new network can mend. All that is attached counts, running or not.
      - V(never) - refuse, and say what differs.
      - V(when_unused) - make the network anew if nothing is attached; refuse otherwise and name the containers.
      - V(move_endpoints) - detach each container, make the network anew, and attach each again with its own IPv4 and IPv6
        address, MAC and aliases. Each is off the LAN for some tenths of a second. If a step fails, the old network and all
        attachments are put back.
    type: str
    choices: [never, when_unused, move_endpoints]
    default: never
  probe_seconds:
    description:
      - How long to wait for an answer when asking the LAN whether the shim's addresses and MAC are in use. It is asked only
        before a shim is made or gets an address. V(0) does not ask.
    type: float
    default: 1.0
  leaving:
    description:
      - Names of containers that an earlier task of this run removes. In check mode that task has only announced it, so they
        are still attached; with O(state=absent) they are not in the way then. Otherwise it means nothing.
    type: list
    elements: str
    default: []
notes:
  - The parent and everything else is looked for in the engine's network namespace, where the engine looks.
  - An engine before 27.0 lets only one macvlan network have a parent. The message names the one that has it.
  - Docker before 25 can give a container back its own MAC only if the MAC follows from the IPv4 address, or was given with
    C(--mac-address) for its first network. O(recreate=move_endpoints) refuses where it could not.
  - The engine names the link inside a container. After a move that failed and was taken back it may be C(eth1) instead of
    C(eth0), until the container is restarted.
  - A switch port or hypervisor that allows one MAC only drops the containers' frames; no check on the host can see that.
seealso:
  - module: hep.gridbox.macvlan_net_info
  - module: hep.gridbox.vobox_container
  - module: community.docker.docker_network
requirements:
  - the Python library C(pyroute2), 0.5.14 or later, on the host (Debian, Ubuntu, EPEL C(python3-pyroute2))
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
"""

EXAMPLES = r"""
---
- name: The site's LAN, dual-stack, for VO-boxes with addresses of their own
  hep.gridbox.macvlan_net:
    name: site
    parent: bond0.120
    ipv4:
      subnet: 192.0.2.0/24
      gateway: 192.0.2.1
    ipv6:
      subnet: 2001:db8:1::/64
      gateway: 2001:db8:1::1

- name: The same, and the host can reach its VO-boxes
  hep.gridbox.macvlan_net:
    name: site
    parent: bond0.120
    ipv4:
      subnet: 192.0.2.0/24
      gateway: 192.0.2.1
      reserved:
        printer: 192.0.2.77
    ipv6:
      subnet: 2001:db8:1::/64
      gateway: 2001:db8:1::1
    host_access: shim
    shim:
      ipv4: 192.0.2.30
      ipv6: 2001:db8:1::30
      routes:
        - 192.0.2.31
        - 2001:db8:1::31
    recreate: when_unused

- name: The host reaches its VO-boxes over a bridge that goes nowhere else
  hep.gridbox.macvlan_net:
    name: site
    parent: bond0.120
    ipv4:
      subnet: 192.0.2.0/24
      gateway: 192.0.2.1
    ipv6:
      subnet: 2001:db8:1::/64
      gateway: 2001:db8:1::1
    host_access: bridge
    bridge:
      ipv4: 172.31.250.0/24
      ipv6: fd31:250::/64
    recreate: when_unused

- name: Another label, while VO-boxes are running; each keeps its addresses, MAC and aliases
  hep.gridbox.macvlan_net:
    name: site
    parent: bond0.120
    ipv4:
      subnet: 192.0.2.0/24
      gateway: 192.0.2.1
    ipv6:
      subnet: 2001:db8:1::/64
      gateway: 2001:db8:1::1
    labels:
      org.example.contact: grid-admins
    recreate: move_endpoints
    max_disruption: service

- name: No VO-boxes here any more
  hep.gridbox.macvlan_net:
    name: site
    state: absent
"""

RETURN = r"""
actions:
  description: The steps taken, in order; in check mode the steps the real run would take.
  returned: always
  type: list
  elements: dict
  sample:
    - action: create_network
      target: site
      reason: there is no such network
      disruption: none
disruption:
  description: The worst of the steps.
  returned: always
  type: str
  sample: none
network:
  description:
    - The network as it is, or in check mode as it would be (then without RV(network.id) if it would be new). V(null) if there
      is none.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: site
    id:
      description: The engine's id for it; V(null) in check mode if the network would be new.
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
  description: How the host reaches the containers.
  returned: success
  type: dict
  contains:
    kind:
      description: V(none), V(shim) or V(bridge).
      type: str
      returned: always
      sample: shim
    shim:
      description: The link, its MAC, its addresses and the routes through it; V(null) without one.
      type: dict
      returned: always
      sample: {name: mv-site, mac: "02:5a:11:22:33:44", ipv4: 192.0.2.30, ipv6: null, routes: [192.0.2.31/32]}
    bridge:
      description: The bridge network's name, subnets, the host's addresses on it and the containers attached; V(null) without one.
      type: dict
      returned: always
      sample: null
boot:
  description: What provides for the next boot, so that the parent is there before the engine and the shim is made anew.
  returned: success
  type: dict
  contains:
    by:
      description:
        - V(systemd), or V(nothing) where systemd is not PID 1 or the engine lives in a network namespace of its own, which no
          boot brings back. Then whatever starts the engine there must wait for the parent and run RV(boot.commands) first,
          or run this module again.
      type: str
      returned: always
      sample: systemd
    files:
      description: The files of this module for this network.
      type: list
      elements: str
      returned: always
      sample: [/etc/systemd/system/docker.service.d/gridbox-net-site.conf, /etc/systemd/system/gridbox-shim-mv-site.service]
    commands:
      description: The commands that make the shim where there is none, each a list of arguments. Empty without a shim.
      type: list
      elements: list
      returned: always
      sample: [[ip, link, set, dev, mv-site, up]]
rolled_back:
  description: What was put back after a failure.
  returned: failure after the first step
  type: list
  elements: str
not_rolled_back:
  description: What could not be put back after a failure, each with the reason.
  returned: failure after the first step
  type: list
  elements: str
failed_action:
  description: The step that failed.
  returned: failure after the first step
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils import front_room
from ansible_collections.hep.gridbox.plugins.module_utils.network.macvlan import MacvlanWork
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import ARGUMENTS


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, **front_room.ENGINE_ARGUMENTS, **front_room.PLAN_ARGUMENTS},
        required_if=[("state", "present", ["parent"]), ("host_access", "shim", ["shim"])],
        supports_check_mode=True,
    )
    front_room.forget_announced(module, "leaving")
    front_room.run(module, MacvlanWork.from_params)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vobox_info
short_description: Ask for the VO-boxes of a host
version_added: "0.1.0"
description:
  - Tells what M(hep.gridbox.vobox_container) would find, and which of the declared services listen.
  - Listening is read from the kernel, in the network namespace of the VO-box. Whether another machine can reach the service
    is another question, to be asked from there.
options:
  name:
    description:
      - Name of one container, whoever made it. Without this option, all VO-boxes that M(hep.gridbox.vobox_container) made
        or remembers in O(files).
    type: str
  files:
    description:
      - Folder of the host for the files of all VO-boxes.
    type: path
    default: /var/lib/hep.gridbox/voboxes
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.vobox_container
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Look at all VO-boxes of the host
  hep.gridbox.vobox_info:
  register: found

- name: Show which services are down
  ansible.builtin.debug:
    msg: "{{ item.container.name }}: {{ item.services | rejectattr('up') | map(attribute='name') | list }}"
  loop: "{{ found.voboxes }}"
"""

RETURN = r"""
engine:
  description: The engine that answered.
  returned: success
  type: dict
  contains:
    name:
      description: V(docker) or V(podman).
      type: str
      sample: docker
    version:
      description: Its version.
      type: str
      sample: 20.10.24
voboxes:
  description:
    - The VO-boxes, by name. Empty if there is none.
  returned: success
  type: list
  elements: dict
  contains:
    container:
      description: As in M(hep.gridbox.vobox_container), RV(hep.gridbox.vobox_container#module:container).
      type: dict
      sample: {name: vobox1, id: 9d1f0d3a1c53, state: running}
    identity:
      description: As in M(hep.gridbox.vobox_container), RV(hep.gridbox.vobox_container#module:identity).
      type: dict
      sample: {hostname: vobox1.example.org, ipv4: 10.213.1.10, mac: '02:5a:3f:11:c0:07'}
    init_script:
      description: As in M(hep.gridbox.vobox_container), RV(hep.gridbox.vobox_container#module:init_script).
      type: dict
      sample: {managed: true, drift: false}
    limits:
      description: As in M(hep.gridbox.vobox_container), RV(hep.gridbox.vobox_container#module:limits).
      type: dict
      sample: {nofile: '8192:16384'}
    privileges:
      description: As in M(hep.gridbox.vobox_container), RV(hep.gridbox.vobox_container#module:privileges).
      type: dict
      sample: {profile: least}
    image_layers:
      description: Number of layers of its image; V(null) if the image is gone.
      type: int
      sample: 1
    age_seconds:
      description: Seconds since it was started; V(null) if it is not running.
      type: int
      sample: 86400
    services:
      description: The declared services.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the service.
          type: str
          sample: sshd
        port:
          description: Its port.
          type: int
          sample: 1975
        protocol:
          description: V(tcp) or V(udp).
          type: str
          sample: tcp
        up:
          description: Whether something listens there, over IPv4 or IPv6.
          type: bool
          sample: true
    leftovers:
      description: Containers that an interrupted swap left behind, or that O(ignore:swap.keep_previous) kept.
      type: list
      elements: str
      sample: [vobox1.previous]
    reconciler:
      description:
        - What the program C(gridbox-reconcile) has found and done since the boot, see the role P(hep.gridbox.vobox#role).
      type: dict
      contains:
        looked:
          description: When it looked last; V(null) if it never did.
          type: str
          sample: '2026-11-25T07:13:26Z'
        complaint:
          description: Why the VO-box was not as it should be then; V(null) if it was.
          type: str
          sample: it waits for the link eno1, which is not there
        events:
          description: What it did with this VO-box and what went wrong, oldest first.
          type: list
          elements: dict
          contains:
            time:
              description: When.
              type: str
              sample: '2026-11-25T07:13:26Z'
            text:
              description: What.
              type: str
              sample: 'started: the engine could not start it, and does not try again'
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, run_info
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.info import collect


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "files": {"type": "path", "default": "/var/lib/hep.gridbox/voboxes"},
            **ENGINE_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run_info(module, collect)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_record
short_description: Remember which files a role brings to a host, and take them away again
version_added: "0.1.0"
description:
  - Called before a role makes files and folders. Those that are not there yet are written down in
    C(/var/lib/hep.gridbox); what was there before is never written down.
  - With O(state=absent) it removes exactly what is written down.
options:
  name:
    description:
      - The role whose record it is.
    type: str
    required: true
  paths:
    description:
      - Files, and folders that are removed only if nothing else lies in them by then.
    type: list
    elements: str
    default: []
  trees:
    description:
      - Folders that are removed with all that is in them.
    type: list
    elements: str
    default: []
  settings:
    description:
      - By file, keys that are about to be changed, with the values they have now (null if they are not there). Values that
        are remembered already stay.
    type: dict
    default: {}
  state:
    description:
      - V(present) writes down; V(absent) removes what is written down, whatever O(paths) and O(trees) say.
    type: str
    choices: [present, absent]
    default: present
  unmounted:
    description:
      - Paths at or below which an earlier task of this run unmounts all there is. In check mode that task has only announced
        it; with O(state=absent) what is mounted there is not in the way then. Otherwise it means nothing.
    type: list
    elements: str
    default: []
notes:
  - Nothing is removed as long as something is mounted at or below a recorded path.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.host_packages
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Remember what the role is about to make
  hep.gridbox.host_record:
    name: docker_engine
    paths: [/etc/docker, /etc/docker/daemon.json]
    trees: [/var/lib/docker]

- name: Take away what the role made
  hep.gridbox.host_record:
    name: docker_engine
    state: absent
"""

RETURN = r"""
---
paths:
  description: The recorded files and folders after the run.
  returned: success
  type: list
  elements: str
  sample: [/etc/docker, /etc/docker/daemon.json]
trees:
  description: The recorded folders that go with all that is in them, after the run.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/docker]
packages:
  description: The packages recorded by M(hep.gridbox.host_packages).
  returned: success
  type: list
  elements: str
  sample: [docker.io]
installing:
  description: Packages whose installation by M(hep.gridbox.host_packages) has begun and was not seen to end.
  returned: success
  type: list
  elements: str
  sample: []
settings:
  description: By file, the keys that M(hep.gridbox.daemon_config) changed, each with its first value (null if it was not there).
  returned: success
  type: dict
  sample: {"/etc/docker/daemon.json": {"log-driver": null}}
kept:
  description: With O(state=absent), recorded folders of O(paths) that stay because something else lies in them.
  returned: success
  type: list
  elements: str
  sample: []

actions:
  description:
    - What was done, or would be done in check mode, in this order.
    - If the module failed, what had been done by then.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: The action.
      type: str
    target:
      description: What it acts on.
      type: str
    reason:
      description: Why it is needed.
      type: str
    disruption:
      description: What it costs a running service.
      type: str
  sample:
    - action: record
      target: /etc/docker/daemon.json
      reason: it is not there yet, so it goes when the role goes
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, forget_announced, run
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import RecordWork, Wish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "str", "default": []},
            "trees": {"type": "list", "elements": "str", "default": []},
            "settings": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "unmounted": {"type": "list", "elements": "str", "default": []},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    forget_announced(module, "unmounted")
    run(module, lambda params: RecordWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

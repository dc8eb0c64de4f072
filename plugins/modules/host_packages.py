#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_packages
short_description: Install packages of the distribution, and remember which of them a role brought
version_added: "0.1.0"
description:
  - Installs packages with what they depend on and nothing more, without starting or restarting a service, and writes
    down which packages were not on the host before, in C(/var/lib/hep.gridbox).
  - Removes exactly those packages again with O(state=absent).
  - Refuses an installation for which the package manager would remove what is installed, such as another engine.
  - Uses C(apt-get) on Debian and Ubuntu, C(dnf) on the EL family. Check mode has the package manager work the
    installation out, so an unknown package fails in check mode too.
  - After a power cut in the midst of an installation the next run finishes what C(dpkg) has begun before anything else, and
    still knows what the role brought. Packages that others left unfinished are finished only when they are in the way. A warning
    names what was found unfinished.
options:
  names:
    description:
      - Names of packages, without versions. An installed package is left at its version.
    type: list
    elements: str
    default: []
  record:
    description:
      - The role whose record the packages are written down in.
    type: str
    required: true
  may_replace:
    description:
      - Installed packages that the package manager may remove for O(names), as one does that conflicts with another. What was
        replaced is installed again with O(state=absent). Any other removal is refused before anything is touched.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) installs what is missing; V(absent) removes what is recorded, whatever O(names) says.
    type: str
    choices: [present, absent]
    default: present
  lists_max_age:
    description:
      - Age in seconds from which the lists of available packages are fetched anew before an installation (apt only).
    type: int
    default: 86400
  wait_timeout:
    description:
      - Seconds that one run of the package manager may take.
    type: int
    default: 1800
notes:
  - A removal that would take along packages which others need by now is refused, and the message names them.
  - On the EL family a package whose own scripts start its service still does so.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.host_record
  - module: ansible.builtin.package
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Install the engine
  hep.gridbox.host_packages:
    names: [docker.io, iptables]
    record: docker_engine

- name: Take away what the role installed
  hep.gridbox.host_packages:
    record: docker_engine
    state: absent
"""

RETURN = r"""
---
packages:
  description: Those of O(names) that are installed then; none with O(state=absent).
  returned: success
  type: list
  elements: str
  sample: [docker.io, iptables]
recorded:
  description: All packages of the record, dependencies among them, as it is after the run (before it in check mode).
  returned: success
  type: list
  elements: str
  sample: [containerd, docker.io, iptables, runc, tini]

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
    - action: install_packages
      target: docker.io iptables
      reason: not installed
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run
from ansible_collections.hep.gridbox.plugins.module_utils.host.packages import PackagesWork, Wish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "str", "required": True},
            "may_replace": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "lists_max_age": {"type": "int", "default": 86400},
            "wait_timeout": {"type": "int", "default": 1800},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run(module, lambda params: PackagesWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_controls
short_description: Set a host's limits for its number of VO-boxes, and make its sshd safe
version_added: "0.1.0"
description:
  - Works out how many inotify instances, processes, open files, keys and neighbours so many VO-boxes need, writes one
    sysctl file, one limits.d file and one drop-in for systemd, and has each read once. Nothing is ever lowered that the
    kernel has more of.
  - Writes a drop-in for sshd after sshd itself took the whole configuration as it would be, for a real connection, and
    reloads it; connections stay. What the host has stricter without the drop-in is left out of it. Logins by password are
    switched off only if some account can log in with a key.
  - With a connection by ssh the way in is proved - before the drop-in changes, the host starts a timer that takes the
    change back; then a second, new connection with the same user, key and options keeps it. If that cannot be made, the
    drop-in is put back at once through the first connection, which is still open, or by the timer, also when Ansible and
    the connection are gone. The module fails then.
  - If a step fails, all files and values are put back.
options:
  state:
    description:
      - V(present) brings the controls into force; V(absent) removes the files again, and has their readers read what is left.
        The kernel keeps its values until the next boot.
    type: str
    choices: [present, absent]
    default: present
  way_in:
    description:
      - V(prove) has the way in proved after a change of sshd, V(skip) does not. Leave it out for what fits the connection,
        which is V(prove) for C(ssh), and V(skip) with a warning for others.
      - V(keep) and V(put_back) are what the proof itself asks the host for; nothing else is looked at then.
    type: str
    choices: [prove, skip, keep, put_back]
    default: skip
  proof_timeout:
    description:
      - Seconds after which the host takes a change of sshd back that no second connection has proved; 5 to 3600. The rest
        of the change and the second connection have to be through by then.
    type: int
    default: 60
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
  record:
    description:
      - The role in whose record the first values of the sysctls are written down, so that the role can put them back.
    type: str
notes:
  - The formula of each limit is in C(plugins/module_utils/hardening/limits.py) and in the README of the role.
  - Forwarding and user namespaces, which containers need, are left alone. A host on which a file switches forwarding off, or
    on which nobody but root can make a user namespace, is refused before anything is touched, unless the control is off. Ubuntu's
    C(kernel.apparmor_restrict_unprivileged_userns) is warned of.
  - A host with a file that is read after ours, and there sets less than a control asks for, is refused before anything is touched, with
    the sentence that names the file. One that sets more is left in force.
  - A host that cannot set a value (a container without the right to) is refused with the sentence that names the control
    to switch off.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.host_audit
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Make room for four VO-boxes
  hep.gridbox.host_controls:
    voboxes: 4

- name: The same in a container, where the kernel is not ours
  hep.gridbox.host_controls:
    voboxes: 4
    controls:
      inotify: set on the machine around it
      pid_max: set on the machine around it
"""

RETURN = r"""
---
sysctls:
  description: What the host needs, waived controls among them.
  returned: success
  type: dict
  sample: {"fs.inotify.max_user_instances": 768, "kernel.pid_max": 196608}
nofile:
  description: Limit of open files per process.
  returned: success
  type: dict
  sample: {"hard": 1048576, "soft": 65536}
nproc:
  description: Limit of processes per user.
  returned: success
  type: int
  sample: 24576
waived:
  description: Controls that are off, with the reason.
  returned: success
  type: dict
  sample: {"inotify": "set on the machine around it"}

way_in:
  description: Whether a second connection has proved the way in; empty if sshd was not changed, or nothing was to be proved.
  returned: success
  type: str
  sample: proved by a second connection
proof_timeout:
  description: Seconds within which it had to be proved.
  returned: success
  type: int
  sample: 60

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
    - action: write
      target: /etc/sysctl.d/90-hep.gridbox.conf
      reason: it is not there
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run
from ansible_collections.hep.gridbox.plugins.module_utils.hardening.enforce import work_from


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "way_in": {"type": "str", "choices": ["prove", "skip", "keep", "put_back"], "default": "skip"},
            "proof_timeout": {"type": "int", "default": 60},
            "voboxes": {"type": "int", "default": 2},
            "lan_peers": {"type": "int", "default": 1024},
            "nofile_soft": {"type": "int", "default": 65536},
            "nofile_hard": {"type": "int", "default": 1048576},
            "max_clock_offset": {"type": "float", "default": 1.0},
            "controls": {"type": "dict", "default": {}},
            "record": {"type": "str"},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run(module, work_from)


if __name__ == "__main__":
    main()

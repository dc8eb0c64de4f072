#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dockerd_info
short_description: Tell whether the Docker daemon runs, and whether it needs a restart
version_added: "0.1.0"
description:
  - Looks at the daemon that a pidfile names, whoever started it, and compares it with what is installed and configured.
options:
  executable:
    description:
      - The program, a name or an absolute path.
    type: str
    default: dockerd
  config_file:
    description:
      - The daemon's configuration file.
    type: path
    default: /etc/docker/daemon.json
  socket:
    description:
      - Where it listens.
    type: path
    default: /var/run/docker.sock
  pidfile:
    description:
      - The file with its process id.
    type: path
    default: /var/run/docker.pid
  wait_timeout:
    description:
      - Seconds in which the daemon has to answer.
    type: int
    default: 30
notes:
  - Keys of the configuration file that wait for a restart are known if M(hep.gridbox.daemon_config) changed them.
extends_documentation_fragment:
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.dockerd
  - module: hep.gridbox.daemon_config
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Look at the engine
  hep.gridbox.dockerd_info:
  register: engine

- name: Say what waits for a restart
  ansible.builtin.debug:
    msg: "{{ engine.restart_needed }}"
"""

RETURN = r"""
---
pid:
  description: Its process id; none if it does not run.
  returned: success
  type: int
  sample: 4711
installed_version:
  description: Version of the program on the disk; empty if there is none.
  returned: success
  type: str
  sample: 20.10.24+dfsg1
version:
  description: Version of the daemon that runs; empty if none does.
  returned: success
  type: str
  sample: 20.10.24+dfsg1
live_restore:
  description: Whether the running daemon leaves its containers running when it ends.
  returned: success
  type: bool
containers:
  description: How many containers there are, running or not.
  returned: success
  type: int
containers_running:
  description: How many containers run.
  returned: success
  type: int
restart_needed:
  description: Why the running daemon would have to be restarted; empty if it follows what is installed and configured.
  returned: success
  type: list
  elements: str
  sample: ["version 20.10.25 is installed, 20.10.24 runs"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.daemon import info
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "executable": {"type": "str", "default": "dockerd"},
            "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "pidfile": {"type": "path", "default": "/var/run/docker.pid"},
            "wait_timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    run_info(module, info)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: daemon_config
short_description: Merge keys into the configuration file of the Docker daemon
version_added: "0.1.0"
description:
  - Sets and removes keys of C(daemon.json); every other byte of the file stays as it is.
  - If the daemon runs, keys that it takes over on SIGHUP are brought in that way, and the running daemon is asked
    whether it did. If it did not, the file is put back.
  - Before anything is written, in check mode too, the installed dockerd is asked whether it takes the file, and so is the
    running one. What it refuses would keep the daemon from its next start. On a host without a dockerd nobody can be asked.
  - Never restarts the daemon. Changed keys that only a restart brings in are returned in RV(restart_needed), also by
    later runs, until the daemon was restarted.
options:
  config_file:
    description:
      - The daemon's configuration file.
    type: path
    default: /etc/docker/daemon.json
  keys:
    description:
      - Keys and their values, as dockerd knows them. A value is replaced as a whole.
    type: dict
    default: {}
  absent:
    description:
      - Keys to take out, such as one with a typing error. One that is only left out of O(keys) stays in the file.
    type: list
    elements: str
    default: []
  record:
    description:
      - The role in whose record the first value of each changed key is written down, so that the role can put it back.
    type: str
  pidfile:
    description:
      - The daemon's pidfile; tells which daemon reads the file.
    type: path
    default: /var/run/docker.pid
  socket:
    description:
      - The daemon's socket, to ask what it took over.
    type: path
    default: /var/run/docker.sock
  wait_timeout:
    description:
      - Seconds in which the running daemon has to show the new values.
    type: int
    default: 15
notes:
  - What SIGHUP brings in is known for C(authorization-plugins), C(debug), C(default-runtime), C(features),
    C(insecure-registries), C(labels), C(live-restore), C(max-concurrent-downloads), C(max-concurrent-uploads),
    C(max-download-attempts), C(registry-mirrors), C(runtimes) and C(shutdown-timeout).
  - The daemon shows C(debug), C(default-runtime), C(insecure-registries), C(labels), C(live-restore),
    C(registry-mirrors) and C(runtimes); for the other keys there is only its log.
  - dockerd finds unknown keys, wrong types, and keys that are arguments too; of wrong values only some. It is asked with
    C(--validate), or before version 23.0, which does not have that, by a start that ends when it has read the file.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.dockerd
  - module: hep.gridbox.live_restore
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Log to compact files of bounded size, and label the host
  hep.gridbox.daemon_config:
    keys:
      log-driver: local
      labels: [org.example.site=site1]
  register: config

- name: Say what waits for a restart
  ansible.builtin.debug:
    msg: "{{ config.restart_needed }}"
"""

RETURN = r"""
---
config:
  description: The content of the file after the run.
  returned: success
  type: dict
  sample: {"log-driver": "local"}
restart_needed:
  description: Why the running daemon would have to be restarted to follow the file; empty if it follows it.
  returned: success
  type: list
  elements: str
  sample: ["log-driver in /etc/docker/daemon.json was changed"]

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
    - action: write_config
      target: /etc/docker/daemon.json
      reason: "changed keys: log-driver"
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.config import ConfigWork, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
            "keys": {"type": "dict", "default": {}, "no_log": False},
            "absent": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "str"},
            "pidfile": {"type": "path", "default": "/var/run/docker.pid"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "wait_timeout": {"type": "int", "default": 15},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run(module, lambda params: ConfigWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

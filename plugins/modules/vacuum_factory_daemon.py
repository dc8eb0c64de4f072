#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_factory_daemon
short_description: Start and stop the daemon of a vacuum factory where no service manager does
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Starts C(gridbox factory) in a session of its own, and waits until it has written its first report; ends it by C(SIGTERM).
    For machines without systemd as PID 1, such as containers and some CI. Nothing starts it again after a reboot.
  - Machines are left alone, and found again by the next daemon.
options:
  state:
    description:
      - V(started) starts it if it does not run; V(restarted) ends and starts it; V(stopped) ends it.
    type: str
    choices: [started, restarted, stopped]
    default: started
  program:
    description:
      - The program, as M(hep.gridbox.host_program) installs it.
    type: path
    default: /usr/local/sbin/gridbox
  path:
    description:
      - The configuration's file. A daemon is known by this and O(program).
    type: path
    default: /etc/hep.gridbox/factory.json
  netns:
    description:
      - The network namespace to start it in, a name below C(/run/netns) or an absolute path. From there it reads pipes and
        talks to other factories. A daemon that runs already is left where it is.
    type: str
  log_file:
    description:
      - Where it writes its journal. At 10 MiB the file becomes C(FILE.1), in the place of the one before.
    type: path
    default: /var/log/gridbox-factory.log
  wait_timeout:
    description:
      - Seconds in which it has to write its first report after a start, and to be gone after a stop.
      - One that is not gone by then is waited for once more as long (without systemd), and started again. If it still runs after that
        the module says that it was told to end, and that nothing was started again.
    type: int
    default: 60
notes:
  - It keeps C(HTTP_PROXY), C(HTTPS_PROXY), C(NO_PROXY) and C(SSL_CERT_FILE) of the task's environment, nothing else.
extends_documentation_fragment:
  - hep.gridbox.plan
requirements:
  - C(nsenter) if O(netns) is given
seealso:
  - module: hep.gridbox.vacuum_factory
  - module: ansible.builtin.systemd_service
"""

EXAMPLES = r"""
---
- name: Start the factory
  hep.gridbox.vacuum_factory_daemon:
    state: started

- name: End it; its machines go on
  hep.gridbox.vacuum_factory_daemon:
    state: stopped
"""

RETURN = r"""
---
pid:
  description: Its process id; none if it does not run or, in check mode, would be started.
  returned: success
  type: int
  sample: 4711
actions:
  description: The steps taken, or in check mode to be taken, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What is done.
      type: str
      sample: start
    target:
      description: To what.
      type: str
      sample: /etc/hep.gridbox/factory.json
    reason:
      description: Why.
      type: str
      sample: it is to run
    disruption:
      description: What it costs a running service.
      type: str
      sample: none
disruption:
  description: The worst disruption of the steps.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.factory.service import ServiceWork, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run

ARGUMENTS = {
    "state": {"type": "str", "choices": ["started", "restarted", "stopped"], "default": "started"},
    "program": {"type": "path", "default": "/usr/local/sbin/gridbox"},
    "path": {"type": "path", "default": "/etc/hep.gridbox/factory.json"},
    "netns": {"type": "str"},
    "log_file": {"type": "path", "default": "/var/log/gridbox-factory.log"},
    "wait_timeout": {"type": "int", "default": 60},
    **PLAN_ARGUMENTS,
}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    run(module, lambda params: ServiceWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

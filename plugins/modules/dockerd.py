#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dockerd
short_description: Start and stop the Docker daemon where no service manager does
version_added: "0.1.0"
description:
  - Starts dockerd in a session of its own, with a pidfile and a log file, and waits until its socket answers; stops it
    by its pidfile. For machines without systemd as PID 1 (containers, some CI) and for a daemon in a network namespace
    of its own.
  - A running daemon is never restarted by O(state=started), whatever differs; the differences are returned in
    RV(restart_needed).
  - Before a restart stops it, dockerd is asked whether it takes its configuration file; not in check mode, where a task
    before may have announced that it mends it.
options:
  state:
    description:
      - V(started) starts it if it does not run; V(restarted) stops and starts it; V(stopped) stops it.
      - Containers go on only if C(live-restore) is on.
    type: str
    choices: [started, restarted, stopped]
    default: started
  executable:
    description:
      - The program, a name or an absolute path.
    type: str
    default: dockerd
  config_file:
    description:
      - The daemon's configuration file. An empty one is made if there is none, for dockerd insists on it.
    type: path
    default: /etc/docker/daemon.json
  socket:
    description:
      - Where it listens.
    type: path
    default: /var/run/docker.sock
  data_root:
    description:
      - Where images and containers are kept.
    type: path
    default: /var/lib/docker
  exec_root:
    description:
      - Where its state at run time is kept.
    type: path
    default: /var/run/docker
  pidfile:
    description:
      - The file with its process id, which it writes itself.
    type: path
    default: /var/run/docker.pid
  log_file:
    description:
      - What it writes goes to the end of this file.
    type: path
    default: /var/log/dockerd.log
  extra_arguments:
    description:
      - More arguments for it, one list item each.
    type: list
    elements: str
    default: []
  netns:
    description:
      - The network namespace to run it in, a name below C(/run/netns) or an absolute path. Its bridge and its packet
        filter then are in there, and the host's own network is not touched.
    type: str
  wait_timeout:
    description:
      - Seconds in which the socket has to answer after a start, and the process has to be gone after a stop.
    type: int
    default: 60
notes:
  - A start raises the limit of open files to the hard limit that the connection has.
  - It keeps C(HTTP_PROXY), C(HTTPS_PROXY), C(NO_PROXY) and C(SSL_CERT_FILE) of the task's environment, nothing else.
extends_documentation_fragment:
  - hep.gridbox.plan
requirements:
  - C(nsenter) if O(netns) is given
seealso:
  - module: hep.gridbox.daemon_config
  - module: ansible.builtin.systemd_service
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Start an engine of our own in the network namespace "site"
  hep.gridbox.dockerd:
    state: started
    socket: /run/site/docker.sock
    data_root: /var/lib/site/docker
    exec_root: /run/site/docker
    pidfile: /run/site/docker.pid
    log_file: /var/log/site-dockerd.log
    netns: site

- name: Stop it
  hep.gridbox.dockerd:
    state: stopped
    pidfile: /run/site/docker.pid
    max_disruption: daemon
"""

RETURN = r"""
---
pid:
  description: Its process id; none if it does not run or, in check mode, would be started.
  returned: success
  type: int
  sample: 4711
url:
  description: Where it listens, for C(DOCKER_HOST) and O(hep.gridbox.live_restore#module:engine_url).
  returned: success
  type: str
  sample: unix:///run/site/docker.sock
version:
  description: Version of the daemon that runs, else of the installed program; empty if there is none.
  returned: success
  type: str
  sample: 20.10.24+dfsg1
live_restore:
  description: Whether the running daemon leaves its containers running when it ends.
  returned: success
  type: bool
containers_running:
  description: How many containers run.
  returned: success
  type: int
restart_needed:
  description: Why the daemon would have to be restarted to be as asked for; empty if it is.
  returned: success
  type: list
  elements: str
  sample: ["version 20.10.25 is installed, 20.10.24 runs"]

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
    - action: start
      target: /run/site/docker.sock
      reason: it is to run
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.dockerd.daemon import DaemonWork, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "restarted", "stopped"], "default": "started"},
            "executable": {"type": "str", "default": "dockerd"},
            "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "data_root": {"type": "path", "default": "/var/lib/docker"},
            "exec_root": {"type": "path", "default": "/var/run/docker"},
            "pidfile": {"type": "path", "default": "/var/run/docker.pid"},
            "log_file": {"type": "path", "default": "/var/log/dockerd.log"},
            "extra_arguments": {"type": "list", "elements": "str", "default": []},
            "netns": {"type": "str"},
            "wait_timeout": {"type": "int", "default": 60},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run(module, lambda params: DaemonWork(Wish.from_params(params)))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: live_restore_info
short_description: Tell whether containers would outlive the Docker daemon, and for how long
version_added: 0.1.0
description:
  - Tells whether live restore is on in the running daemon, in its configuration file and on its command line.
  - Names what would keep it from working.
  - Measures for each running container how long it can go on without the daemon. A container whose output nobody reads
    blocks as soon as the kernel's buffers are full.
author:
  - the hep.gridbox authors (@hep-gridbox)
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan.info
options:
  config_file:
    description:
      - The daemon's configuration file.
    type: path
    default: /etc/docker/daemon.json
  pidfile:
    description:
      - The daemon's pidfile. It is asked only where the kernel cannot name the process behind the engine's socket, because
        systemd listens on it for the daemon.
    type: path
    default: /var/run/docker.pid
  unit:
    description:
      - The systemd unit that runs the daemon. Without it, the unit in whose control group the daemon is.
      - Not used where systemd does not run.
    type: str
  budget_window:
    description:
      - Seconds for which the output of the containers is measured.
    type: int
    default: 5
notes:
  - The budget counts on the output going on as it was during O(budget_window). Let it span the bursts of the services.
  - The output is measured by attaching to the containers for that time, ahead of the log driver. So it holds for every driver,
    for V(none) too. A log driver's C(mode=non-blocking) does not lengthen the budget, for its buffer is the daemon's.
seealso:
  - module: hep.gridbox.live_restore
"""

EXAMPLES = r"""
- name: Ask how long the VO-boxes can go on without the daemon
  hep.gridbox.live_restore_info:
    budget_window: 3
  register: daemon_outage

- name: Stop where a VO-box could not stand an outage of ten minutes
  ansible.builtin.assert:
    that: daemon_outage.outage_budget | map(attribute='seconds') | select('number') | select('lt', 600) | length == 0
    fail_msg: "Quieten the output of these first: {{ daemon_outage.outage_budget }}"
"""

RETURN = r"""
enabled:
  description: Whether live restore is on in the running daemon.
  returned: success
  type: bool
  sample: true
configured:
  description: The value of C(live-restore) in the file; V(null) if it is not there.
  returned: success
  type: raw
  sample: true
flag:
  description: The value of C(--live-restore) on the daemon's command line; V(null) if it is not there.
  returned: success
  type: bool
  sample: null
config_file:
  description: The file, with symbolic links followed.
  returned: success
  type: str
  sample: /etc/docker/daemon.json
daemon_pid:
  description: Process id of the daemon; V(null) for Podman.
  returned: success
  type: int
  sample: 812
kill_mode:
  description: C(KillMode) of the daemon's unit; V(null) where systemd does not run it.
  returned: success
  type: str
  sample: process
findings:
  description: Sentences about what keeps live restore from working or from being switched on; none if all is well.
  returned: success
  type: list
  elements: str
  sample: []
processes:
  description: The running containers and the first process of each.
  returned: success
  type: list
  elements: dict
  contains:
    container:
      description: The container's name.
      type: str
    id:
      description: The container's id.
      type: str
    pid:
      description: Process id, on the host, of the container's first process.
      type: int
    start:
      description: When that process started, in clock ticks after the boot.
      type: int
  sample:
    - container: vobox1
      id: 8a3f7d0b6c53
      pid: 4711
      start: 123456
outage_budget:
  description: How long each running container can go on without the daemon before its output blocks it.
  returned: success
  type: list
  elements: dict
  contains:
    container:
      description: The container's name.
      type: str
    stream:
      description: V(stdout) or V(stderr), whichever is full first.
      type: str
    bytes_per_second:
      description: What the container wrote to that stream, on average over O(budget_window).
      type: float
    capacity:
      description: >-
        Bytes that the kernel keeps for the stream while no daemon reads it: the container's pipe and the log FIFO. By default
        64 KiB each. The next daemon reads them, so nothing of it is lost.
      type: int
    daemon_bytes:
      description:
        - Bytes of the stream that the daemon may hold in its memory, read and not yet written to the log, at most; the same
          in Docker 20.10 to 29. They are lost when it ends, for with live restore a daemon that is stopped does not wait
          for its log either. Only a container that prints faster than its log is written has more than a few lines there.
        - V(0) for the log driver V(none). V(null) for a log driver that has buffers of its own, and for
          C(mode=non-blocking), with which the daemon throws lines away by itself.
      type: int
    seconds:
      description: RV(outage_budget[].capacity) at RV(outage_budget[].bytes_per_second); V(null) for a container that wrote nothing.
      type: float
  sample:
    - container: vobox1
      stream: stdout
      bytes_per_second: 1024.0
      capacity: 131072
      daemon_bytes: 2049152
      seconds: 128.0
msg:
  description: What an operator should know; empty if there is nothing to say.
  returned: always
  type: str
  sample: ""
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.live_restore import collect
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, run_info


def main() -> None:
    run_info(
        AnsibleModule(
            argument_spec={
                **ENGINE_ARGUMENTS,
                "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
                "pidfile": {"type": "path", "default": "/var/run/docker.pid"},
                "unit": {"type": "str"},
                "budget_window": {"type": "int", "default": 5},
            },
            supports_check_mode=True,
        ),
        collect,
    )


if __name__ == "__main__":
    main()

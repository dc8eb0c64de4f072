#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: live_restore
short_description: Let containers outlive the Docker daemon
version_added: 0.1.0
description:
  - Sets the one key C(live-restore) in the daemon's configuration file, and leaves every other byte of the file as it is.
  - Makes the running daemon take it over by a reload (SIGHUP). The daemon is never restarted.
  - Succeeds only when the running daemon itself says so; a right file is not enough.
  - Shows for each running container that it still has the process it had before.
  - Takes everything back if the daemon refuses the reload or does not answer in time.
author:
  - the hep.gridbox authors (@hep-gridbox)
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
options:
  state:
    description:
      - V(present) sets the key to V(true). Where the daemon was started with the flag C(--live-restore) it is on already,
        and the key stays out of the file, for the daemon refuses to be told twice.
      - V(absent) switches live restore off in the running daemon and takes the key out of the file.
    type: str
    choices: [present, absent]
    default: present
  config_file:
    description:
      - The daemon's configuration file. A symbolic link stays, and the file it points to is changed.
      - It is made if it is missing. It must be the one that the running daemon reads.
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
  wait_timeout:
    description:
      - Seconds for the running daemon to take the change over before it is taken back.
    type: int
    default: 10
  budget_window:
    description:
      - Seconds for which the output of the containers is measured, for RV(outage_budget). V(0) does not measure.
    type: int
    default: 0
notes:
  - Refused while the engine is in swarm mode; Docker does not have both.
  - Refused where a systemd unit that holds containerd, or the shims of running containers, has another C(KillMode) than
    V(process) or V(none). Mostly that is C(containerd.service); it is C(docker.service) where the daemon starts its own
    containerd. systemd would kill the shims with the unit, and containers do not outlive them, live restore or not.
  - Needs a running daemon on this host, reached through a Unix socket. To write the configuration of a daemon that was
    never started, use the role P(hep.gridbox.docker_engine#role).
  - Podman has no daemon that its containers depend on, so nothing is changed there, and RV(msg) says so.
  - When the key vanishes from the file, a running daemon keeps the value it has. V(absent) therefore first writes V(false)
    and reloads, and then takes the key out.
  - From 23.0 on the daemon's own program is asked beforehand, in check mode too, whether it would accept the file. An older
    one cannot tell. If another key of the file makes it refuse the reload, only the real run finds out, and takes the change
    back.
seealso:
  - module: hep.gridbox.live_restore_info
  - name: Live restore
    description: What Docker promises.
    link: https://docs.docker.com/engine/daemon/live-restore/
"""

EXAMPLES = r"""
- name: Let the VO-boxes outlive the daemon
  hep.gridbox.live_restore:

- name: Say how long each container can go on without the daemon
  hep.gridbox.live_restore:
    budget_window: 5
  register: daemon_outage

- name: Take it back, for instance before joining a swarm
  hep.gridbox.live_restore:
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(write_config) or V(reload_daemon).
      type: str
    target:
      description: The file, or the daemon.
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
      reason: "live-restore is not set, wanted is true"
      disruption: none
    - action: reload_daemon
      target: dockerd 812
      reason: the running daemon has live restore off
      disruption: reload
disruption:
  description: The most that any of the actions costs a running service.
  returned: when the plan was made
  type: str
  sample: reload
enabled:
  description: Whether live restore is on in the running daemon. In check mode, what it would be.
  returned: success
  type: bool
  sample: true
configured:
  description: The value of C(live-restore) in the file; V(null) if it is not there.
  returned: success
  type: raw
  sample: true
config_file:
  description: The file that was changed or would be, with symbolic links followed.
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
processes:
  description: The containers that ran before the change, and the process of each.
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
      description: Process id, on the host, of the container's first process before the change.
      type: int
    start:
      description: When that process started, in clock ticks after the boot. With the pid it names one process for good.
      type: int
    kept:
      description: Whether the container still has that very process.
      type: bool
  sample:
    - container: vobox1
      id: 8a3f7d0b6c53
      pid: 4711
      start: 123456
      kept: true
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

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.live_restore import LiveRestoreWork
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, PLAN_ARGUMENTS, run


def main() -> None:
    run(
        AnsibleModule(
            argument_spec={
                **ENGINE_ARGUMENTS,
                **PLAN_ARGUMENTS,
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
                "pidfile": {"type": "path", "default": "/var/run/docker.pid"},
                "unit": {"type": "str"},
                "wait_timeout": {"type": "int", "default": 10},
                "budget_window": {"type": "int", "default": 0},
            },
            supports_check_mode=True,
        ),
        LiveRestoreWork.from_params,
    )


if __name__ == "__main__":
    main()

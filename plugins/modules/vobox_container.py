#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vobox_container
short_description: A whole VO-box as desired state
version_added: "0.1.0"
description:
  - Brings up a VO-box, the container that is a site's edge machine for one experiment. It has its own FQDN, MAC, IPv4 and
    IPv6 address on the site LAN, an init script, CVMFS, a host certificate, volumes, limits and privileges.
  - What can be changed in the running container is changed there. The init script is replaced in place, with the same
    image and the same container.
  - What needs a new container is a swap. The new container is created and checked before the old one stops, takes over
    its MAC and addresses, and its neighbours are told. If it does not get healthy, the old one comes back by itself.
  - A VO-box that was started is announced on the LAN too, for neighbours may remember another machine, such as a virtual
    one before it, that had its addresses.
  - An option that is not given is not compared. In a new VO-box it has the value named below; in a swap it keeps the value
    of the container that is replaced. So a container that was started by hand is adopted as it is when nothing differs.
options:
  name:
    description:
      - Name of the container.
    type: str
    required: true
  state:
    description:
      - V(started) makes the VO-box exist as described, and run.
      - V(present) makes it exist as described. It runs only if it ran before.
      - V(stopped) makes it exist as described, and not run.
      - V(absent) removes the container and its files in O(files). Named volumes and folders of the host stay.
        It is refused while the VO-box's folder there holds anything that this module has not made.
    type: str
    choices: [started, present, stopped, absent]
    default: started
  image:
    description:
      - Image, by reference or id. It must be on the host already; it is never pulled.
      - Compared by id, so a tag that was moved to another image means a swap.
      - Needed to create a VO-box.
    type: str
  hostname:
    description:
      - FQDN of the VO-box. Its LDAP entry, host certificate and CE name all go by it, so the container's host name is the
        FQDN too.
      - Needed to create a VO-box.
    type: str
  network:
    description:
      - Where the VO-box is on the site LAN. Needed to create one.
    type: dict
    suboptions:
      name:
        description:
          - Name of the macvlan network, see M(hep.gridbox.macvlan_net).
        type: str
        required: true
      ipv4:
        description:
          - Its IPv4 address, within a subnet of the network. At least one of O(network.ipv4) and O(network.ipv6) is needed
            to create a VO-box.
        type: str
      ipv6:
        description:
          - Its IPv6 address, within a subnet of the network.
        type: str
      mac:
        description:
          - Its MAC address, unicast and locally administered.
          - In a new VO-box the default is worked out from O(hostname), and so the same wherever it is created. It is always
            pinned, for Docker 28 and later give a container another MAC at each start otherwise.
        type: str
  init_script:
    description:
      - Text of the script that is run at launch, in the container at C(/etc/init.sh). The first line names its
        interpreter, for instance C(#!/bin/sh).
      - A change replaces the script atomically and restarts the services inside the container, with disruption
        V(service). Image and container stay the same. Earlier versions are kept for O(init_script_version).
      - In a VO-box without an init script, the image's own command runs.
      - What the script may rely on is told in the collection's C(docs/init-script.md).
    type: str
  init_script_version:
    description:
      - SHA-256 of a version of the init script that is kept on the host, to go back to. The five newest are kept.
      - RV(init_script.previous_sha256) of an earlier run is the version before.
    type: str
  cvmfs:
    description:
      - CVMFS from the host.
      - Without this option a new VO-box has none.
    type: dict
    suboptions:
      path:
        description:
          - Folder of the host under which the repositories are mounted. It must be a mount point of shared propagation.
          - In the container it is C(/cvmfs).
        type: path
        default: /cvmfs
      repositories:
        description:
          - Repositories that must be there and not empty before the VO-box is started or replaced, for instance
            V(alice.cern.ch).
        type: list
        elements: str
        default: []
      propagation:
        description:
          - Mounts made on the host later are seen inside with V(rslave), and also the other way round with V(rshared).
            With V(rprivate) they are not, so a repository that is mounted again stays broken inside.
        type: str
        choices: [rslave, rshared, rprivate]
        default: rslave
  host_certificate:
    description:
      - Host certificate of the VO-box, in files on the host. They are seen read-only in C(/etc/grid-security) as
        C(hostcert.pem) and C(hostkey.pem).
      - When the files were renewed under the same names, the container is restarted, for it still sees the old ones. That
        is disruption V(service). A restart that was cut short, for instance by a power cut, the next run finishes, unless
        O(state) is V(stopped) or V(absent), and it says so as a warning.
    type: dict
    suboptions:
      certificate:
        description:
          - File with the certificate in PEM.
        type: path
        required: true
      key:
        description:
          - File with its key in PEM, without passphrase, mode C(0400) or C(0600).
        type: path
        required: true
  volumes:
    description:
      - Everything else that is mounted in the container, for state that outlives it and for logs.
      - The list is complete. What is mounted in the container and not in it is removed from it, in a swap.
    type: list
    elements: dict
    suboptions:
      source:
        description:
          - A named volume, made if it is not there, or an absolute path on the host that exists.
        type: str
        required: true
      target:
        description:
          - Absolute path in the container.
        type: str
        required: true
      read_only:
        description:
          - Whether the container may only read.
        type: bool
        default: false
      propagation:
        description:
          - For a path of the host, whether mounts made later are seen on the other side.
        type: str
        choices: [rprivate, rslave, rshared]
        default: rprivate
  limits:
    description:
      - What the VO-box may use.
    type: dict
    suboptions:
      nofile:
        description:
          - Open files of a process, as V(soft:hard) or one number for both. In a new VO-box V(65536:65536), or as much as
            the engine can grant if that is less.
          - It may not be above C(fs.nr_open), nor above what the engine itself may open if the engine may not raise it.
        type: str
      nproc:
        description:
          - Processes of a user, counted over all containers, as V(soft:hard) or one number. In a new VO-box not set.
        type: str
      core:
        description:
          - Largest core file in bytes, as V(soft:hard) or one number; V(-1) is no limit. In a new VO-box V(0).
        type: str
      memlock:
        description:
          - Memory that a process may lock in bytes, as V(soft:hard) or one number; V(-1) is no limit. In a new VO-box not
            set.
        type: str
      pids:
        description:
          - Processes and threads in the container; V(-1) is no limit. In a new VO-box V(32768). Changed in place.
        type: int
      memory:
        description:
          - Memory, for instance V(4g); V(0) is no limit. In a new VO-box V(0). Changed in place.
        type: str
      memory_swap:
        description:
          - Memory and swap together, for instance V(6g); V(-1) is no limit. Needs O(limits.memory). In a new VO-box the
            same as O(limits.memory), so no swap. Changed in place.
        type: str
      cpus:
        description:
          - CPUs, for instance V(1.5); V(0) is no limit. In a new VO-box V(0). Changed in place.
        type: float
      shm_size:
        description:
          - Size of C(/dev/shm), for instance V(256m). In a new VO-box V(64m).
        type: str
  privileges:
    description:
      - What the VO-box may do.
    type: dict
    suboptions:
      profile:
        description:
          - V(least) grants the capabilities of O(privileges.capabilities) and nothing else, under the engine's own seccomp
            and AppArmor profiles. It is the profile of a new VO-box.
          - V(near_full) grants every capability that the engine can grant on this host, which is read from the engine's
            own bounding set, without seccomp and AppArmor and without masked paths. Devices only from
            O(privileges.devices).
          - V(full) is the engine's privileged mode. It is refused where the engine itself lacks a capability and therefore
            could not start such a container; V(near_full) works there.
        type: str
        choices: [least, near_full, full]
        default: least
      capabilities:
        description:
          - For V(least), the complete list, without the prefix C(CAP_). Without this option it is V(AUDIT_WRITE),
            V(CHOWN), V(DAC_OVERRIDE), V(FOWNER), V(FSETID), V(KILL), V(NET_BIND_SERVICE), V(NET_RAW), V(SETGID),
            V(SETUID), V(SYS_CHROOT), which is what C(sshd), C(squid), C(cron) and C(ping) need.
        type: list
        elements: str
      devices:
        description:
          - Device files of the host that the container has too, for instance V(/dev/fuse).
        type: list
        elements: str
        default: []
  log:
    description:
      - Where the engine keeps what the container prints. Services should log to files on a volume instead, see the
        outage budget of M(hep.gridbox.live_restore).
    type: dict
    suboptions:
      driver:
        description:
          - Log driver of the engine. In a new VO-box V(json-file).
        type: str
      max_size:
        description:
          - Size at which a log file is rotated, for instance V(10m). In a new VO-box V(10m).
        type: str
      max_file:
        description:
          - How many files are kept. In a new VO-box V(5).
        type: int
  restart_policy:
    description:
      - When the engine starts the container again by itself. In a new VO-box V(unless-stopped). Changed in place.
    type: str
    choices: ['no', on-failure, always, unless-stopped]
  health:
    description:
      - How to tell that the VO-box works. The engine runs the test regularly; a swap and a new init script must pass it.
      - In a new VO-box the default is the image's own.
    type: dict
    suboptions:
      test:
        description:
          - Command and arguments, run in the container without a shell. It must end with 0. An empty list switches the
            image's own health check off.
        type: list
        elements: str
        required: true
      interval:
        description:
          - Seconds between two tests.
        type: int
        default: 30
      timeout:
        description:
          - Seconds after which a test has failed.
        type: int
        default: 10
      retries:
        description:
          - How many tests in a row must fail for the VO-box to be unhealthy.
        type: int
        default: 3
      start_period:
        description:
          - Seconds after the start in which a failed test does not count.
        type: int
        default: 0
  services:
    description:
      - Services that the VO-box offers. A swap and a new init script must bring all of them up;
        M(hep.gridbox.vobox_info) tells which are.
      - Remembered on the host, not in the container; a change costs nothing.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the service, for the reader.
        type: str
        required: true
      port:
        description:
          - Port at which it listens.
        type: int
        required: true
      protocol:
        description:
          - Transport protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
  command:
    description:
      - Command and arguments instead of the image's own, for a VO-box without an init script.
    type: list
    elements: str
  environment:
    description:
      - Environment variables beside those of the image. Complete; V({}) takes all away. Not for secrets, everybody who may
        ask the engine can read them.
    type: dict
  labels:
    description:
      - Labels of the container beside those of the image. Complete; V({}) takes all away.
      - Names that begin with C(hep.gridbox.) are kept for this collection.
    type: dict
  dns:
    description:
      - Name servers, search domains and hosts of the container.
    type: dict
    suboptions:
      servers:
        description:
          - Addresses of the name servers. In a new VO-box the host's.
        type: list
        elements: str
      search:
        description:
          - Search domains. In a new VO-box the host's.
        type: list
        elements: str
      hosts:
        description:
          - Extra lines of C(/etc/hosts), as a mapping from name to address. In a new VO-box none.
        type: dict
  sysctls:
    description:
      - Kernel parameters of the container's own namespaces. In a new VO-box with an IPv6 address, C(accept_ra) and
        C(autoconf) are V(0) for links that are made later (C(net.ipv6.conf.default)), for router advertisements compete
        with the fixed address and gateway. Docker 20.10 makes the link first when it starts a container, so there only a
        container that came by a swap has them off.
    type: dict
  stop_timeout:
    description:
      - Seconds between the request to stop and the kill. In a new VO-box V(30).
    type: int
  swap:
    description:
      - How a container is replaced.
    type: dict
    default: {}
    suboptions:
      strategy:
        description:
          - V(overlap) starts the new container while the old one still serves. The addresses move when the new one is
            healthy. For services that must not run twice at a time on the same volumes, take V(sequential).
          - V(sequential) stops the old container before it starts the new one.
        type: str
        choices: [overlap, sequential]
        default: overlap
      health_timeout:
        description:
          - Seconds in which a new container, or a new init script, must get healthy. After that the old one comes back.
        type: int
        default: 120
      keep_previous:
        description:
          - Whether the replaced container is kept, stopped, as C(<name>.previous).
        type: bool
        default: false
  wire_check:
    description:
      - Whether to ask on the LAN, by ARP and neighbour solicitation, if another machine already has the addresses, before a
        VO-box is created or started or its addresses change.
    type: bool
    default: true
  files:
    description:
      - Folder of the host for the files of all VO-boxes. Each has a folder of its name in it.
    type: path
    default: /var/lib/hep.gridbox/voboxes
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
notes:
  - Podman 4.3 through its socket does all of this, with these differences. Limits and the restart policy are changed by a
    swap, since it has no request for it. A swap stops the old container first. The log driver V(local) does not exist. The
    addresses of a container that is stopped are not told, so they are not compared then, and without a parent link told,
    the LAN is not asked for them. The runner of the init script is PID 1 itself.
seealso:
  - module: hep.gridbox.vobox_info
  - module: hep.gridbox.macvlan_net
  - module: hep.gridbox.flatten_image
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Bring up a VO-box
  hep.gridbox.vobox_container:
    name: vobox1
    image: busybox:test
    hostname: vobox1.example.org
    network:
      name: site
      ipv4: 10.213.1.10
      ipv6: fd13:213::1:10
    init_script: |
      #!/bin/sh
      httpd -p 80 -h /www
    services:
      - name: web
        port: 80
    health:
      test: [wget, -q, -O, /dev/null, 'http://127.0.0.1/']
      interval: 10
    limits:
      nofile: 8192:16384
      memory: 256m
    volumes:
      - source: vobox1-state
        target: /var/spool/vobox
    log:
      driver: json-file
      max_size: 10m
      max_file: 5

- name: Change the init script in place, or fail if that would cost more than a restart of the services inside
  hep.gridbox.vobox_container:
    name: vobox1
    init_script: |
      #!/bin/sh
      httpd -p 80 -h /www
      httpd -p 8080 -h /www
    max_disruption: service
  register: vobox1

- name: Go back to the version before
  hep.gridbox.vobox_container:
    name: vobox1
    init_script_version: "{{ vobox1.init_script.previous_sha256 }}"

- name: Stop it
  hep.gridbox.vobox_container:
    name: vobox1
    state: stopped

- name: Remove it; its volume stays
  hep.gridbox.vobox_container:
    name: vobox1
    state: absent
"""

RETURN = r"""
actions:
  description: The steps that were taken, or in check mode would be taken.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What is done, one of V(create_container), V(swap_container), V(update_container), V(start_container),
        V(stop_container), V(restart_container), V(remove_container), V(write_init_script), V(restart_services),
        V(remember_services), V(clear_leftovers), V(remove_files).
      type: str
      sample: swap_container
    target:
      description: What it acts on.
      type: str
      sample: vobox1
    reason:
      description: Why it is needed.
      type: str
      sample: "image: 0c0a1bf2e1d0 instead of 4a9c2f6be7d3"
    disruption:
      description: What it costs the service.
      type: str
      sample: container
disruption:
  description: The worst disruption of all steps.
  returned: always
  type: str
  sample: container
container:
  description:
    - The container as it is now; in check mode as it would be. Empty if there is none.
    - Keys that only the real run can know, such as the id of a new container, are V(null) in check mode.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: vobox1
    id:
      description: Its id.
      type: str
      sample: 9d1f0d3a1c53
    state:
      description: Its state as the engine says, for instance V(running) or V(exited).
      type: str
      sample: running
    pid:
      description: Process id of its PID 1 on the host, 0 if it is not running.
      type: int
      sample: 4711
    image:
      description: Reference the container was created from.
      type: str
      sample: busybox:test
    image_id:
      description: Id of its image.
      type: str
      sample: sha256:0c0a1bf2e1d0
    created:
      description: When it was created.
      type: str
      sample: '2026-11-20T23:42:56.412Z'
    started_at:
      description: When it was started last.
      type: str
      sample: '2026-11-20T23:42:56.912Z'
    health:
      description: The engine's view of its health, V(none) without a health check.
      type: str
      sample: healthy
identity:
  description: Who it is on the LAN.
  returned: success, if there is a container
  type: dict
  contains:
    hostname:
      description: Its FQDN.
      type: str
      sample: vobox1.example.org
    network:
      description: The network.
      type: str
      sample: site
    ipv4:
      description: Its IPv4 address.
      type: str
      sample: 10.213.1.10
    ipv6:
      description: Its IPv6 address.
      type: str
      sample: fd13:213::1:10
    mac:
      description: Its MAC address.
      type: str
      sample: 02:5a:3f:11:c0:07
init_script:
  description: The init script.
  returned: success, if there is a container
  type: dict
  contains:
    managed:
      description: Whether the container runs an init script of this module.
      type: bool
      sample: true
    sha256:
      description: SHA-256 of the script on the host that will run at the next launch.
      type: str
      sample: 2f0a5d3c
    active_sha256:
      description: SHA-256 of the script that ran at the last launch, V(null) if it does not run.
      type: str
      sample: 2f0a5d3c
    state:
      description: How the launch went; V(running), V(done) (ended with 0, its services live on), V(failed) or V(stopped).
      type: str
      sample: done
    drift:
      description: Whether somebody edited the script on the host by hand before this run.
      type: bool
      sample: false
    previous_sha256:
      description: The version before, for O(init_script_version). V(null) if there is none.
      type: str
      sample: 88e1c0ffee
limits:
  description: The limits in effect, by the names of O(limits).
  returned: success, if there is a container
  type: dict
  sample: {nofile: '8192:16384', pids: 32768, memory: 268435456, memory_swap: 268435456, cpus: 0.0, shm_size: 67108864}
privileges:
  description: The privileges in effect.
  returned: success, if there is a container
  type: dict
  contains:
    profile:
      description: V(least), V(near_full) or V(full); V(other) if it is none of them, for instance in a container started
        by hand.
      type: str
      sample: least
    capabilities:
      description: Capabilities that the container's root has, without the prefix C(CAP_).
      type: list
      elements: str
      sample: [CHOWN, KILL, SETUID]
    devices:
      description: Device files of the host.
      type: list
      elements: str
      sample: [/dev/fuse]
swap:
  description: How the swap went.
  returned: when a container was replaced
  type: dict
  contains:
    old_id:
      description: Id of the replaced container.
      type: str
      sample: 4a9c2f6be7d3
    new_id:
      description: Id of the new container.
      type: str
      sample: 9d1f0d3a1c53
    strategy:
      description: How it was done.
      type: str
      sample: overlap
    announced:
      description: Whether the addresses were handed over while both containers ran.
      type: bool
      sample: true
    kept:
      description: Name of the replaced container if it was kept.
      type: str
      sample: vobox1.previous
    remark:
      description: Why it was not done as asked for, for instance because the engine cannot; empty if it was.
      type: str
      sample: ''
    seconds:
      description: How long the whole swap took.
      type: float
      sample: 0.6
    phases:
      description: Seconds of each part, in order.
      type: dict
      sample: {create: 0.05, start: 0.3, ready: 0.1, take_over: 0.3, serving: 0.1, retire: 0.4}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, PLAN_ARGUMENTS, run
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.work import VoboxWork


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "present", "stopped", "absent"], "default": "started"},
            "image": {"type": "str"},
            "hostname": {"type": "str"},
            "network": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "ipv4": {"type": "str"},
                    "ipv6": {"type": "str"},
                    "mac": {"type": "str"},
                },
            },
            "init_script": {"type": "str"},
            "init_script_version": {"type": "str"},
            "cvmfs": {
                "type": "dict",
                "options": {
                    "path": {"type": "path", "default": "/cvmfs"},
                    "repositories": {"type": "list", "elements": "str", "default": []},
                    "propagation": {"type": "str", "choices": ["rslave", "rshared", "rprivate"], "default": "rslave"},
                },
            },
            "host_certificate": {
                "type": "dict",
                "options": {
                    "certificate": {"type": "path", "required": True},
                    "key": {"type": "path", "required": True, "no_log": False},  # the name of a file
                },
            },
            "volumes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "source": {"type": "str", "required": True},
                    "target": {"type": "str", "required": True},
                    "read_only": {"type": "bool", "default": False},
                    "propagation": {"type": "str", "choices": ["rprivate", "rslave", "rshared"], "default": "rprivate"},
                },
            },
            "limits": {
                "type": "dict",
                "options": {
                    "nofile": {"type": "str"},
                    "nproc": {"type": "str"},
                    "core": {"type": "str"},
                    "memlock": {"type": "str"},
                    "pids": {"type": "int"},
                    "memory": {"type": "str"},
                    "memory_swap": {"type": "str"},
                    "cpus": {"type": "float"},
                    "shm_size": {"type": "str"},
                },
            },
            "privileges": {
                "type": "dict",
                "options": {
                    "profile": {"type": "str", "choices": ["least", "near_full", "full"], "default": "least"},
                    "capabilities": {"type": "list", "elements": "str"},
                    "devices": {"type": "list", "elements": "str", "default": []},
                },
            },
            "log": {
                "type": "dict",
                "options": {
                    "driver": {"type": "str"},
                    "max_size": {"type": "str"},
                    "max_file": {"type": "int"},
                },
            },
            "restart_policy": {"type": "str", "choices": ["no", "on-failure", "always", "unless-stopped"]},
            "health": {
                "type": "dict",
                "options": {
                    "test": {"type": "list", "elements": "str", "required": True},
                    "interval": {"type": "int", "default": 30},
                    "timeout": {"type": "int", "default": 10},
                    "retries": {"type": "int", "default": 3},
                    "start_period": {"type": "int", "default": 0},
                },
            },
            "services": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                },
            },
            "command": {"type": "list", "elements": "str"},
            "environment": {"type": "dict"},
            "labels": {"type": "dict"},
            "dns": {
                "type": "dict",
                "options": {
                    "servers": {"type": "list", "elements": "str"},
                    "search": {"type": "list", "elements": "str"},
                    "hosts": {"type": "dict"},
                },
            },
            "sysctls": {"type": "dict"},
            "stop_timeout": {"type": "int"},
            "swap": {
                "type": "dict",
                "default": {},
                "options": {
                    "strategy": {"type": "str", "choices": ["overlap", "sequential"], "default": "overlap"},
                    "health_timeout": {"type": "int", "default": 120},
                    "keep_previous": {"type": "bool", "default": False},
                },
            },
            "wire_check": {"type": "bool", "default": True},
            "files": {"type": "path", "default": "/var/lib/hep.gridbox/voboxes"},
            **ENGINE_ARGUMENTS,
            **PLAN_ARGUMENTS,
        },
        mutually_exclusive=[("init_script", "init_script_version"), ("init_script", "command")],
        supports_check_mode=True,
    )
    run(module, VoboxWork.from_params)


if __name__ == "__main__":
    main()

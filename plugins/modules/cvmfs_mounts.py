#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_mounts
short_description: Mount CVMFS repositories statically, so that containers see them
version_added: "0.1.0"
description:
  - Makes the folder of the repositories a shared mount point of its own and mounts each repository in it, the
    configuration repository first. A container that binds the folder with C(rslave) sees what is mounted later, too.
  - Where systemd is PID 1, each is a mount unit that comes up at boot, after the network and before the engine;
    C(autofs.service) is stopped and masked. A timer, for O(root=/cvmfs) C(gridbox-cvmfs-heal.timer), has those that are not
    mounted, or whose client died, mounted again each minute. Elsewhere they are mounted directly, and RV(notes) says what that means.
  - A repository that turns out empty is unmounted again, and the module fails.
  - A unit of a repository that is not among O(repositories) any more is disabled, and removed if nothing is mounted by it. What
    is still mounted stays, for VO-boxes may look through it; RV(notes) names it.
  - A mounted CernVM-FS client that runs with something else than C(/etc/cvmfs/default.local) says, as the role C(hep.gridbox.cvmfs)
    has written it, is reloaded (C(cvmfs_config reload), disruption V(reload)). This is asked of the client itself (C(cvmfs_talk parameters)).
options:
  root:
    description:
      - The folder of the repositories.
    type: path
    default: /cvmfs
  repositories:
    description:
      - The repositories of this host.
    type: list
    elements: dict
    default: []
    suboptions:
      repository:
        description:
          - Fully qualified name, for instance V(alice.cern.ch).
        type: str
        required: true
      source:
        description:
          - V(client) is the CernVM-FS client; V(squashfs) a squashfs file; V(directory) a folder, bound read-only.
        type: str
        choices: [client, squashfs, directory]
        default: client
      path:
        description:
          - The file or the folder.
        type: path
      sentinel:
        description:
          - A path in the repository that must be there. Without it, it is enough that the repository is not empty.
        type: str
  config_repository:
    description:
      - The repository that the others need, for instance V(cvmfs-config.cern.ch); it is mounted first.
    type: str
  state:
    description:
      - V(mounted) mounts what is not mounted; V(absent) unmounts O(repositories) and O(root), and removes all units of this
        module below O(root).
    type: str
    choices: [mounted, absent]
    default: mounted
  supervisor:
    description:
      - V(systemd) uses mount units, V(none) mounts directly; V(auto) is V(systemd) where systemd is PID 1.
    type: str
    choices: [auto, systemd, none]
    default: auto
  squashfs_driver:
    description:
      - Who mounts squashfs files. V(auto) is V(kernel) where the kernel can and there are loop devices, else V(fuse)
        (C(squashfuse)); a file that is mounted stays with who has mounted it.
    type: str
    choices: [auto, kernel, fuse]
    default: auto
  helpers_awaited:
    description:
      - Whether the programs that C(mount) runs for the sources (C(mount.cvmfs), C(squashfuse)) are yet to be installed, as
        in check mode on a bare host. Without it their absence is refused before anything is touched.
    type: bool
    default: false
  client_settings:
    description:
      - What C(/etc/cvmfs/default.local) is going to say, as in check mode before it is written. Left out, what it says is read,
        if the role has written it.
    type: dict
  wait_timeout:
    description:
      - Seconds that one mount may take, and the first look into a repository.
    type: int
    default: 180
notes:
  - Nothing that is mounted is unmounted or covered to be replaced; it is refused with what to do. So a repository that is mounted
    already, say by C(/etc/fstab), is taken as it is if O(root) is a mount point of its own, and refused if it is not.
  - If autofs mounts in O(root) now, masking it costs the service that looks through it (disruption V(service)). What it has
    mounted goes with it, and repositories are mounted anew.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.cvmfs_info
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Mount two repositories with the client, the configuration repository first
  hep.gridbox.cvmfs_mounts:
    repositories:
      - repository: cvmfs-config.cern.ch
      - repository: alice.cern.ch
    config_repository: cvmfs-config.cern.ch

- name: Mount a snapshot where there is no client
  hep.gridbox.cvmfs_mounts:
    repositories:
      - repository: alice.cern.ch
        source: squashfs
        path: /srv/cvmfs/alice.cern.ch.sqfs
        sentinel: bin
"""

RETURN = r"""
---
root:
  description: The folder of the repositories.
  returned: success
  type: str
  sample: /cvmfs
repositories:
  description: The repositories that are mounted then, in the order in which they are mounted.
  returned: success
  type: list
  elements: str
  sample: [cvmfs-config.cern.ch, alice.cern.ch]
notes:
  description: What was done otherwise than with systemd, and what is left mounted; and what that means.
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
    - action: start
      target: cvmfs-alice.cern.ch.mount
      reason: the repository is not mounted
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.mounts import MountsWork, wish_here
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/cvmfs"},
            "repositories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "repository": {"type": "str", "required": True},
                    "source": {"type": "str", "choices": ["client", "squashfs", "directory"], "default": "client"},
                    "path": {"type": "path"},
                    "sentinel": {"type": "str"},
                },
            },
            "config_repository": {"type": "str"},
            "squashfs_driver": {"type": "str", "choices": ["auto", "kernel", "fuse"], "default": "auto"},
            "helpers_awaited": {"type": "bool", "default": False},
            "client_settings": {"type": "dict"},
            "wait_timeout": {"type": "int", "default": 180},
            "state": {"type": "str", "choices": ["mounted", "absent"], "default": "mounted"},
            "supervisor": {"type": "str", "choices": ["auto", "systemd", "none"], "default": "auto"},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    run(module, lambda params: MountsWork(wish_here(params)))


if __name__ == "__main__":
    main()

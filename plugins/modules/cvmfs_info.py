#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_info
short_description: Tell whether CVMFS repositories are mounted, readable, and visible to containers
version_added: "0.1.0"
description:
  - Looks into each repository, with a time-out, and at the propagation of the folder they are in.
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
  squashfs_driver:
    description:
      - Who mounts squashfs files. V(auto) is V(kernel) where the kernel can and there are loop devices, else V(fuse)
        (C(squashfuse)); a file that is mounted stays with who has mounted it.
    type: str
    choices: [auto, kernel, fuse]
    default: auto
  wait_timeout:
    description:
      - Seconds that one mount may take, and the first look into a repository.
    type: int
    default: 180
extends_documentation_fragment:
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.cvmfs_mounts
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Look at a repository
  hep.gridbox.cvmfs_info:
    repositories:
      - repository: alice.cern.ch
    wait_timeout: 30
  register: cvmfs

- name: Refuse to go on without it
  ansible.builtin.assert:
    that: cvmfs.root_shared and cvmfs.repositories | rejectattr('problem', 'equalto', '') | length == 0
"""

RETURN = r"""
---
root:
  description: The folder of the repositories.
  returned: success
  type: str
  sample: /cvmfs
root_mounted:
  description: Whether it is a mount point of its own.
  returned: success
  type: bool
root_shared:
  description: Whether what is mounted in it later reaches containers that bind it with C(rslave).
  returned: success
  type: bool
automounted:
  description: Whether autofs mounts in it on demand.
  returned: success
  type: bool
repositories:
  description: Each of O(repositories).
  returned: success
  type: list
  elements: dict
  contains:
    repository:
      description: Its name.
      type: str
    mounted:
      description: Whether something is mounted there.
      type: bool
    kind:
      description: The type of its file system.
      type: str
    source:
      description: Where the file system says it comes from.
      type: str
    problem:
      description:
        - What is wrong with it, in a sentence; empty if it can be read and is not empty.
        - Of one whose client runs with something else than C(/etc/cvmfs/default.local) says, as the role has written it, with what.
        - Of one that is not mounted, with what systemd and the journal know, and who tries again.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.mounts import info, wish_here
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info


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
            "wait_timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    fixed = {"state": "mounted", "supervisor": "auto"}
    run_info(module, lambda params: info(wish_here({**params, **fixed})))


if __name__ == "__main__":
    main()

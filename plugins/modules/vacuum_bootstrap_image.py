#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_bootstrap_image
short_description: Make the image of machines whose root file system is in CernVM-FS
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Makes an image of two megabytes, from the host's own busybox and a script. No registry is needed.
  - The script, its entry point, makes a root file system of links. C(/bin), C(/lib), C(/lib64), C(/opt), C(/sbin), most of
    C(/usr), and what is in C(/var/lib), lead into the hierarchy O(root) of CernVM-FS. C(/etc), C(/home), C(/root),
    C(/var/spool) and C(/var/www) are copied from there, for a machine may have to write into them; copies belong to root.
    What a factory mounts, such as C(/etc/machinefeatures), C(/etc/jobfeatures), C(/var/spool/joboutputs), C(/user_data) and
    work folders, stays, and so does what the engine puts in, such as C(/etc/hosts).
  - It then runs the container's arguments, or C(/user_data).
  - If the hierarchy is not there, or what it shall run cannot be run, it leaves the shutdown message C(500) with the reason,
    so that the factory starts no more for a while.
  - Nothing is done as long as the engine has the image with the very same files.
options:
  name:
    description:
      - Name of the image, with its tag. A vacuum pipe names it as C(root_image), with C(docker://) before it.
      - The part before the first slash looks like a registry's host. There is none of that name, so the engine does not
        take an image of somebody else for it.
    type: str
    default: hep.gridbox/bootstrap:1
  script:
    description:
      - The text of the script, the file C(roles/vacuum_factory/files/bootstrap/init) of the collection.
      - Required with O(state=present).
    type: str
  root:
    description:
      - The hierarchy. Its repository has to be among the C(cvmfs_repositories) of the machinetypes that use the image.
      - A container whose environment has E(GRIDBOX_ROOT) takes that one.
    type: str
    default: /cvmfs/cernvm-prod.cern.ch/cvm3
  busybox:
    description:
      - Absolute path of a busybox on the host that needs no libraries. By default it is looked for where packages put it.
    type: path
  state:
    description:
      - Whether the image is there. V(absent) removes it with the earlier ones that have lost the name to it, as far as no
        container was made from them, and is refused if one was made from the image itself.
    type: str
    choices: [present, absent]
    default: present
  leaving_factory:
    description:
      - Name of a factory that an earlier task of this run takes away with its machines. In check mode that task has only announced
        it; with O(state=absent) their containers are not in the way then. Otherwise it means nothing.
    type: str
    default: ''
notes:
  - The image has the accounts C(pilot), number 40000, and C(payload00) to C(payload09), 40001 to 40010, each with a group of
    its own and its home below C(/home), so that C(/user_data), the pilot and its payloads can be kept apart. C(pilot) is in
    the groups of the payloads, and their homes are open to their groups. An account that the hierarchy has by that name
    is taken instead.
  - A machine may not gain privileges, so C(sudo) and other set-user-ID programs do nothing in it. C(/user_data) starts as root
    and goes down to an account with C(su), of busybox or the hierarchy, for instance C(su -s /bin/sh payload00 -c COMMAND).
    For that the container needs C(CAP_SETUID) and C(CAP_SETGID), with the hierarchy's C(su), which asks PAM, C(CAP_AUDIT_WRITE),
    for ending what runs as another account C(CAP_KILL), and for giving it files C(CAP_CHOWN). A factory's machines have these.
    Building the root file system needs no capability. So it is root, the part that started the pilot, that changes accounts for
    it.
  - What C(/user_data) runs is process 1 of the container. It has to take C(SIGTERM), unless the container has an init of the
    engine.
requirements:
  - busybox as in Debian's C(busybox-static) or EPEL's C(busybox), on the host
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.vacuum_pipe
  - module: hep.gridbox.cvmfs_mounts
  - module: hep.gridbox.vobox_image
"""

EXAMPLES = r"""
---
- name: The bootstrap image
  hep.gridbox.vacuum_bootstrap_image:
    script: "{{ lookup('ansible.builtin.file', 'bootstrap/init') }}"

- name: Another one, of a newer CernVM
  hep.gridbox.vacuum_bootstrap_image:
    name: hep.gridbox/bootstrap:cvm4
    script: "{{ lookup('ansible.builtin.file', 'bootstrap/init') }}"
    root: /cvmfs/cernvm-prod.cern.ch/cvm4

- name: Not wanted any more
  hep.gridbox.vacuum_bootstrap_image:
    state: absent
"""

RETURN = r"""
---
actions:
  description: The steps taken, or in check mode to be taken, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What is done.
      type: str
      sample: import_image
    target:
      description: To what.
      type: str
      sample: hep.gridbox/bootstrap:1
    reason:
      description: Why.
      type: str
      sample: there is none
    disruption:
      description: What it costs a running service. Always V(none).
      type: str
      sample: none
disruption:
  description: The worst disruption of the steps. Always V(none), for no running container is touched.
  returned: success
  type: str
  sample: none
image:
  description: The image. V(null) if it is yet to be made, in check mode, or absent.
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      sample: sha256:6fa1e3cdd1b92d55e1b8f1a6bbbfe09b36e5ea6d0d66ab6b2e8c1d8a4ab7d2f0
    name:
      description: Its name.
      type: str
      sample: hep.gridbox/bootstrap:1
    size:
      description: Its size in bytes.
      type: int
      sample: 1996800
layer:
  description: The digest of its files, as it is, or will be. Empty if it is absent.
  returned: success
  type: str
  sample: sha256:0c4ea5c2bb4f5f1cf4f39d67d0c1a3f3bf4e1c3f5b13b1c2c1e1a1ffbbd1c0aa
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.factory.bootstrap_image import BootstrapImageWork
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import (
    ENGINE_ARGUMENTS,
    PLAN_ARGUMENTS,
    forget_announced,
    run,
)

ARGUMENTS = {
    "name": {"type": "str", "default": "hep.gridbox/bootstrap:1"},
    "script": {"type": "str"},
    "root": {"type": "str", "default": "/cvmfs/cernvm-prod.cern.ch/cvm3"},
    "busybox": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "leaving_factory": {"type": "str", "default": ""},
    **ENGINE_ARGUMENTS,
    **PLAN_ARGUMENTS,
}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("state", "present", ["script"])]
    )
    forget_announced(module, "leaving_factory")
    run(module, BootstrapImageWork.from_params)


if __name__ == "__main__":
    main()

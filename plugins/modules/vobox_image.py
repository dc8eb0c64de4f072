#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vobox_image
short_description: Build an image from a distribution's packages and some files
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Builds a Debian or Ubuntu image. Its base holds the packages; files, commands and configuration are layers on top.
  - The base is the image O(base) if the host has it or a registry answers for it. Otherwise it is bootstrapped with
    C(mmdebstrap) from the host's own package mirrors, so no registry is needed.
  - A label of the image holds the hash of its recipe, that is of all options below O(base). As long as the recipe does not
    change, nothing is built.
  - The name moves to the new image when it is finished; whatever fails before leaves the old one in place. A finished base
    stays for the next run. What a bootstrap that a power cut has ended left in C(/var/tmp) is removed by the next run, and a
    warning names it.
options:
  name:
    description:
      - Name of the image, with its tag.
    type: str
    required: true
  base:
    description:
      - An image to build on, for instance V(debian:bookworm-slim). Packages that it lacks are installed with C(apt-get)
        while the image is built.
      - Without it, or if no registry answers in time, the base is bootstrapped.
    type: str
  suite:
    description:
      - The distribution's release to bootstrap. By default the host's own.
    type: str
  mirrors:
    description:
      - Where the packages come from, as lines of C(sources.list). By default what apt on the host uses for O(suite).
    type: list
    elements: str
    default: []
  packages:
    description:
      - The packages to be in the image, with what they depend on and without recommendations.
    type: list
    elements: str
    default: []
  files:
    description:
      - Files of the image, all of them root's.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path in the image.
        type: str
        required: true
      content:
        description:
          - Its text. Not for secrets, everybody who has the image can read it.
        type: str
        required: true
      mode:
        description:
          - Its mode in octal digits.
        type: str
        default: '0644'
  commands:
    description:
      - Commands to be run in the image, after the files are there. Each is a list of program and arguments; there is no
        shell.
    type: list
    elements: list
    default: []
  command:
    description:
      - What a container of the image runs.
    type: list
    elements: str
    default: [/etc/init.sh]
  ports:
    description:
      - Ports it offers, for instance V(3128) or V(8884/udp).
    type: list
    elements: str
    default: []
  volumes:
    description:
      - Folders that are volumes unless a container says otherwise.
    type: list
    elements: str
    default: []
  labels:
    description:
      - Labels of the image.
    type: dict
    default: {}
  revision:
    description:
      - Told apart and nothing else. Another value makes the image anew, and a bootstrapped base too, with the packages' versions of
        that day. For instance a month, V(2026-12).
    type: str
    default: ''
  pull_timeout:
    description:
      - Seconds in which a registry has to answer for O(base), or with O(state=pulled) for O(name).
    type: int
    default: 10
  bootstrap_timeout:
    description:
      - Seconds the bootstrap may take, and seconds without a word after which the engine's builder, or a pull, is given up.
    type: int
    default: 900
  state:
    description:
      - Whether the image is there. V(absent) removes it with the bases that were bootstrapped for it and the
        images of earlier recipes, which lost the name to it.
      - With V(pulled) nothing is built; O(name), which may name a registry and a digest then, is pulled if the host does
        not have it. A tag that has moved in the registry is not looked at; name a digest, or a tag of its own for each
        version. In check mode the registry is asked whether it has the image.
    type: str
    choices: [present, pulled, absent]
    default: present
notes:
  - The packages' versions are not part of the recipe. To take new ones in, change O(revision).
  - SSH host keys that packages make when they are installed are removed, and C(/etc/machine-id) is emptied.
requirements:
  - the command C(mmdebstrap) on the host, where the base is bootstrapped
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.flatten_image
  - module: hep.gridbox.vobox_container
"""

EXAMPLES = r"""
---
- name: A web cache, from the host's own package mirror
  hep.gridbox.vobox_image:
    name: squid:site
    packages: [squid]
    files:
      - path: /etc/squid/squid.conf
        content: |
          http_port 3128
          http_access deny all
    command: [/usr/sbin/squid, --foreground]
    ports: ["3128"]

- name: The same on an image of a registry, if it answers
  hep.gridbox.vobox_image:
    name: squid:site
    base: debian:bookworm-slim
    packages: [squid]
    command: [/usr/sbin/squid, --foreground]

- name: Ready made, from a registry
  hep.gridbox.vobox_image:
    name: registry.example.org/site/vobox:2026.11
    state: pulled

- name: Not wanted any more
  hep.gridbox.vobox_image:
    name: squid:site
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
      sample: build_image
    target:
      description: To what.
      type: str
      sample: squid:site
    reason:
      description: Why.
      type: str
      sample: its recipe has changed
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
  description: The image. V(null) if it is yet to be built, in check mode, or absent.
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
      sample: squid:site
    layers:
      description: How many layers it has.
      type: int
      sample: 4
    size:
      description: The sum of its layers in bytes.
      type: int
      sample: 180395520
recipe:
  description: The hash of the recipe. Empty for an image that was not built here.
  returned: success
  type: str
  sample: 0c4ea5c2bb4f5f1cf4f39d67d0c1a3f3bf4e1c3f5b13b1c2c1e1a1ffbbd1c0aa
seconds:
  description: How long it took. V(null) if nothing was built.
  returned: success
  type: float
  sample: 41.2
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, PLAN_ARGUMENTS, run
from ansible_collections.hep.gridbox.plugins.module_utils.recipe.build import ImageWork

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "base": {"type": "str"},
    "suite": {"type": "str"},
    "mirrors": {"type": "list", "elements": "str", "default": []},
    "packages": {"type": "list", "elements": "str", "default": []},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str", "required": True},
            "mode": {"type": "str", "default": "0644"},
        },
    },
    "commands": {"type": "list", "elements": "list", "default": []},
    "command": {"type": "list", "elements": "str", "default": ["/etc/init.sh"]},
    "ports": {"type": "list", "elements": "str", "default": []},
    "volumes": {"type": "list", "elements": "str", "default": []},
    "labels": {"type": "dict", "default": {}},
    "revision": {"type": "str", "default": ""},
    "pull_timeout": {"type": "int", "default": 10},
    "bootstrap_timeout": {"type": "int", "default": 900},
    "state": {"type": "str", "choices": ["present", "pulled", "absent"], "default": "present"},
    **ENGINE_ARGUMENTS,
    **PLAN_ARGUMENTS,
}


def main() -> None:
    """Entry point."""
    run(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), ImageWork.from_params)


if __name__ == "__main__":
    main()

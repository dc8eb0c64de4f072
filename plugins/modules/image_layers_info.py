#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_layers_info
short_description: Tell how many layers images have, and which were flattened from what
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Reads, for each image, its layers and sizes, and what M(hep.gridbox.flatten_image) noted when it made it.
options:
  images:
    description:
      - The images to look at, by name, digest or id. Without it, all images that have a name.
    type: list
    elements: str
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.flatten_image
"""

EXAMPLES = r"""
---
- name: Look at the layers of one image
  hep.gridbox.image_layers_info:
    images: ["vobox:el9"]
  register: looked

- name: Say which images of the host have many layers
  hep.gridbox.image_layers_info:
  register: all_images

- name: Show them
  ansible.builtin.debug:
    msg: "{{ all_images.images | selectattr('layers', '>', 20) | map(attribute='name') }}"
"""

RETURN = r"""
---
images:
  description: One record for each image, in the order asked for. An image that is not there has V(null) but for its name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The image as it was asked for, or the first of its tags.
      type: str
      sample: vobox:el9-flat
    id:
      description: Its id.
      type: str
      sample: sha256:0c4ea5c2bb4f5f1cf4f39d67d0c1a3f3bf4e1c3f5b13b1c2c1e1a1ffbbd1c0aa
    tags:
      description: All its names.
      type: list
      elements: str
      sample: ["vobox:el9-flat"]
    layers:
      description: How many layers it has.
      type: int
      sample: 1
    size:
      description: The sum of its layers in bytes.
      type: int
      sample: 730144768
    flattened_from:
      description: The id of the image it was flattened from. V(null) if it was not flattened.
      type: str
      sample: sha256:6fa1e3cdd1b92d55e1b8f1a6bbbfe09b36e5ea6d0d66ab6b2e8c1d8a4ab7d2f0
    flattened_reference:
      description: The name under which that image was given. V(null) if it was not flattened.
      type: str
      sample: vobox:el9
    current:
      description:
        - Whether the name in RV(images[].flattened_reference) still names the image it was flattened from. V(null) if it
          was not flattened or that name is gone.
      type: bool
      sample: true
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, run_info
from ansible_collections.hep.gridbox.plugins.module_utils.image.layers import collect


def main() -> None:
    arguments = {"images": {"type": "list", "elements": "str"}, **ENGINE_ARGUMENTS}
    run_info(AnsibleModule(argument_spec=arguments, supports_check_mode=True), collect)


if __name__ == "__main__":
    main()

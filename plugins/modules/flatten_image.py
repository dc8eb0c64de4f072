#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: flatten_image
short_description: Flatten an image to one layer and lose nothing
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Makes an image of one layer from an image of many, with the same files and the same configuration, and gives it a tag.
  - Kept are the whole configuration (environment, command, entry point, user, working folder, labels, exposed ports,
    volumes, health check, stop signal, shell, C(ONBUILD) triggers), architecture and variant, the history as a record,
    and of every file its owner, mode, times to the nanosecond, hard links, extended attributes, ACLs and file
    capabilities, holes (see the notes), and its name byte for byte. Files that an upper layer deleted or replaced are gone.
  - The files go from where the engine keeps the layers straight into the engine's import call, so the memory needed does
    not grow with the image and there is no second copy on disk.
  - The tag moves last, after the result was verified against the source. Whatever happens before, the tag stays where it
    was and nothing is left behind, also when the module is killed. After a power cut nobody can clean up, so the next run on that
    host removes the unfinished images, whatever it flattens, and a warning names them.
  - The label C(hep.gridbox.flatten.source) of the result holds the id of the source image, and
    C(hep.gridbox.flatten.reference) the name it had. They are how a second run knows that there is nothing to do.
    These two labels are the only difference in the configuration.
options:
  source:
    description:
      - The image to flatten, by name, digest or id. It must be present on the host.
    type: str
    required: true
  tag:
    description:
      - The name of the flattened image, V(name) or V(name:tag).
      - Without it the image is flattened in place, that is, the name given as O(source) moves to the flattened image.
        O(source) must then be a name.
      - A tag that names an image which this module made before is moved. If it names any other image than the source,
        the module refuses unless O(replace=true).
    type: str
  replace:
    description:
      - Move O(tag) even if it names an image that this module did not make. That image stays, under its other names or
        its id.
    type: bool
    default: false
  keep_source:
    description:
      - Whether the source image stays.
      - With V(false) the name O(source) is removed at the end, and the image with it if that was its last name.
        Refused if a container uses the image.
    type: bool
    default: true
  source_tag:
    description:
      - A further name for the source image, so that it can be found, and is not pruned, when it is flattened in place.
      - Without it, a source that is flattened in place stays reachable by its id, RV(source.id).
      - If it names another image already, the module refuses unless O(replace=true).
    type: str
  method:
    description:
      - How the files of the source are read.
      - V(tree) reads the merged tree of the engine's C(overlay2) store. It needs root on the engine's host.
      - V(archive) asks the engine for the image's archive (C(docker save)) and merges its layers. It works with every
        image store and with an engine on another host. The archive is kept in a temporary file without a name, in
        C(TMPDIR) or C(/var/tmp), and holes in files become zeros.
      - V(auto) takes V(tree) where it can be had, else V(archive).
    type: str
    choices: [auto, tree, archive]
    default: auto
  min_free:
    description:
      - How much space shall be left in the engine's data folder when all is done, in MiB. If less would be left, the
        module refuses and says the numbers.
      - Not checked for an engine on another host.
    type: int
    default: 256
notes:
  - An image of one layer is not touched. If O(tag) shall name it, it is tagged.
  - O(engine_timeout) limits the silence of the engine, not the whole run. When it has all of a layer it is silent until that
    is on its disk; for images of many gigabytes on a slow disk, raise it.
  - Podman 4.3, and Docker with an image store of containerd's, take a layer and its whole configuration only together. There
    the image comes and goes as an archive, whatever O(method) could do otherwise, and the engine keeps a temporary copy of
    the result while it loads it. Podman's Docker-compatible API shows neither health check nor shell nor C(ONBUILD); they are
    kept, but only the other parts of the configuration are compared afterwards.
  - Holes stay holes with O(method=tree) only. An archive has none, so with O(method=archive), with Podman and with an image
    store of containerd's a sparse file comes out with the same bytes and takes its full size on disk.
  - Sockets in the tree are left out, for no image format can hold them. Of times before 1970 the engines keep only the
    epoch.
  - Runs with Docker 20.10 and 26.1, with C(overlay2) and with an image store of containerd's, and with Podman 4.3.
extends_documentation_fragment:
  - hep.gridbox.engine
  - hep.gridbox.plan
attributes:
  check_mode:
    support: partial
    details:
      - The same plan and the same preflight as the real run. The RV(actions) predicted are the actions the real run takes.
      - The preflight does not read the image's files, for to read an archive is half of the work. What only they tell makes
        the real run fail, before O(tag) has moved and with nothing left behind, but not check mode. That is an archive with
        layers that are damaged or compressed with zstd; and in the engine's own store a file whose name begins with
        C(.wh.), or an extended attribute with C(=) in its name, which no engine puts there.
seealso:
  - module: hep.gridbox.image_layers_info
  - module: hep.gridbox.vobox_container
"""

EXAMPLES = r"""
---
- name: Flatten the VO-box image under a name of its own
  hep.gridbox.flatten_image:
    source: vobox:el9
    tag: vobox:el9-flat

- name: Flatten an image in place, and keep the layered one under another name
  hep.gridbox.flatten_image:
    source: vobox:build
    source_tag: vobox:build-layers

- name: Flatten, and remove the layered image when all went well
  hep.gridbox.flatten_image:
    source: vobox:candidate
    tag: vobox:production
    keep_source: false

- name: See what flattening would do, and whether there is room for it
  hep.gridbox.flatten_image:
    source: vobox:el9
    tag: vobox:el9-flat
    min_free: 1024
  check_mode: true
  register: preview
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
      sample: import_layer
    target:
      description: To what.
      type: str
      sample: vobox:el9-flat
    reason:
      description: Why.
      type: str
      sample: the image has 30 layers
    disruption:
      description: What it costs a running service.
      type: str
      sample: none
disruption:
  description: The worst disruption of the steps. Always V(none), for no running container is touched.
  returned: always
  type: str
  sample: none
source:
  description: The image that was flattened. V(null) if it is gone because O(keep_source=false).
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      sample: sha256:6fa1e3cdd1b92d55e1b8f1a6bbbfe09b36e5ea6d0d66ab6b2e8c1d8a4ab7d2f0
    layers:
      description: How many layers it has.
      type: int
      sample: 30
    size:
      description: The sum of its layers in bytes.
      type: int
      sample: 1073741824
image:
  description: The flattened image.
  returned: success
  type: dict
  contains:
    id:
      description: Its id. V(null) in check mode when it is yet to be made.
      type: str
      sample: sha256:0c4ea5c2bb4f5f1cf4f39d67d0c1a3f3bf4e1c3f5b13b1c2c1e1a1ffbbd1c0aa
    tag:
      description: Its name.
      type: str
      sample: vobox:el9-flat
    layers:
      description: How many layers it has.
      type: int
      sample: 1
    size:
      description: Its size in bytes. V(null) in check mode when it is yet to be made.
      type: int
      sample: 730144768
method:
  description: How the files were or will be read, V(tree) or V(archive). V(null) if there was nothing to read.
  returned: success
  type: str
  sample: tree
transferred:
  description: What was sent to the engine. V(null) if nothing was.
  returned: success
  type: dict
  contains:
    bytes:
      description: The size of the layer as a tar stream.
      type: int
      sample: 741234688
    entries:
      description: The number of files, folders, links and nodes.
      type: int
      sample: 11873
    sockets:
      description: The number of sockets left out.
      type: int
      sample: 0
seconds:
  description: How long it took to make the image, from the first read to the moved tag. V(null) if nothing was made.
  returned: success
  type: float
  sample: 7.2
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import ENGINE_ARGUMENTS, PLAN_ARGUMENTS, run
from ansible_collections.hep.gridbox.plugins.module_utils.image.flatten import Flatten

ARGUMENTS = {
    "source": {"type": "str", "required": True},
    "tag": {"type": "str"},
    "replace": {"type": "bool", "default": False},
    "keep_source": {"type": "bool", "default": True},
    "source_tag": {"type": "str"},
    "method": {"type": "str", "choices": ["auto", "tree", "archive"], "default": "auto"},
    "min_free": {"type": "int", "default": 256},
    **ENGINE_ARGUMENTS,
    **PLAN_ARGUMENTS,
}


def main() -> None:
    run(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), Flatten.from_params)


if __name__ == "__main__":
    main()

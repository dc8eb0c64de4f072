#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_pipe
short_description: Check a vacuum pipe and tell which machinetypes it makes
version_added: "0.1.0"
description:
  - Reads a vacuum pipe, the JSON document in which an experiment publishes its machinetypes, exactly as a factory reads
    it. Tells which machinetypes a factory makes of it, with their shares, which are not for it, and which it drops and
    why.
  - For sites, before they put a pipe into their configuration; for experiments, in the continuous integration of their
    pipes.
  - Nothing is changed, started or kept.
options:
  url:
    description:
      - Where the pipe is published, an C(https) or C(http) URL. It is fetched from the host of the task.
    type: str
  path:
    description:
      - The pipe as a file on the host of the task.
    type: path
  content:
    description:
      - The pipe itself.
    type: json
  name:
    description:
      - The prefix of the names of its machinetypes, which are called C(NAME-SUFFIX). At most 31 lower-case letters, digits
        and hyphens.
    type: str
    required: true
  target_share:
    description:
      - What the machinetypes of the pipe are to have of the space together.
    type: float
    default: 1.0
  options:
    description:
      - What the site sets for every machinetype of the pipe. Keys and values are those of a pipe, and C(machinegroup); they
        precede the pipe's.
      - Ansible logs them, so passwords belong into files that C(user_data_file_NAME) names.
    type: dict
    default: {}
  strict:
    description:
      - Fail if a machinetype is dropped.
    type: bool
    default: false
  ca_path:
    description:
      - A file or a folder of CA certificates that the server of O(url) is verified by, and by no others. Without it they
        are the system's, and those in C(/etc/grid-security/certificates) if that is there.
    type: path
  timeout:
    description:
      - Seconds that fetching may take.
    type: int
    default: 30
extends_documentation_fragment:
  - hep.gridbox.plan.info
author:
  - the hep.gridbox authors (@hep-gridbox)
"""

EXAMPLES = r"""
- name: Look at a pipe before the factories do
  hep.gridbox.vacuum_pipe:
    url: https://pipes.example.org/lhcb.pipe
    name: lhcb
    target_share: 10
    options:
      cvmfs_repositories: lhcb.cern.ch lhcb-condb.cern.ch
      user_data_option_cvmfs_proxy: http://squid.example.org:3128
  register: pipe  # pipe.shares is what would be started, pipe.dropped what would not

- name: Refuse a pipe in which anything is wrong
  hep.gridbox.vacuum_pipe:
    path: /srv/pipes/lhcb.pipe
    name: lhcb
    strict: true
"""

RETURN = r"""
---
cache_seconds:
  description: Seconds that a factory uses a copy of the pipe before it asks again.
  returned: success
  type: int
  sample: 3600
machinetypes:
  description: What a factory makes of the pipe, in the pipe's order.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The prefix, a hyphen and the suffix.
      type: str
    target_share:
      description: Its part of O(target_share).
      type: float
    machinegroup:
      description: The group it is compared in.
      type: str
    machine_model:
      description: V(docker), V(podman) or V(apptainer).
      type: str
    root_image:
      description: The image, without C(docker://) if it is not for Apptainer.
      type: str
    user_data:
      description: A URL, or a file's name; empty if there is none.
      type: str
    container_command:
      description: The program and its arguments.
      type: list
      elements: str
    cvmfs_repositories:
      description: Repositories it sees below /cvmfs.
      type: list
      elements: str
    tmp_binds:
      description: Work folders in it.
      type: list
      elements: str
    min_processors:
      description: The fewest processors it starts with.
      type: int
    max_processors:
      description: The most processors it starts with.
      type: int
    min_wallclock_seconds:
      description: The shortest time left for which it is started.
      type: int
    max_wallclock_seconds:
      description: The time after which it is ended.
      type: int
    backoff_seconds:
      description: How long none is started after one was aborted.
      type: int
    fizzle_seconds:
      description: How long one has to live to be taken for working.
      type: int
    heartbeat_file:
      description: The file in joboutputs that shows that it lives; null if it is not looked for.
      type: str
    heartbeat_seconds:
      description: Its largest age; 0 if any will do.
      type: int
    accounting_fqan:
      description: VOMS FQAN for accounting; null if there is none.
      type: str
    disk_gb_per_processor:
      description: Work space in 10^9 bytes; null if it is the factory's to say.
      type: int
    user_data_options:
      description: Names of the substitutions in user_data whose values are known. The values are not returned.
      type: list
      elements: str
    user_data_files:
      description: By name, the files whose contents are substituted in user_data.
      type: dict
    user_data_proxy:
      description: Whether it gets an X.509 proxy.
      type: bool
    legacy_proxy:
      description: Whether that is a legacy Globus proxy.
      type: bool
shares:
  description: Share by machinetype.
  returned: success
  type: dict
  sample: {lhcb-dc-prod: 7.5, lhcb-dc-test: 2.5}
unused_share:
  description: What of O(target_share) belongs to machinetypes that are dropped or not for this factory. Nobody gets it.
  returned: success
  type: float
not_for_this_factory:
  description: Machinetypes that are virtual machines.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    machine_model:
      description: Its model.
      type: str
    reason:
      description: A sentence.
      type: str
    target_share:
      description: Its part of O(target_share).
      type: float
dropped:
  description: Machinetypes that something is wrong with.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name; without a suffix that can be used, its place in the pipe.
      type: str
    problems:
      description: All that is wrong with it.
      type: list
      elements: dict
      contains:
        key:
          description: The key; empty if the whole is meant.
          type: str
        value:
          description: The value, shortened; empty if there is none.
          type: str
        expected:
          description: What it should be.
          type: str
    sentence:
      description: The same for people.
      type: str
    target_share:
      description: Its part of O(target_share); null if it is to have one that cannot be read.
      type: float
remarks:
  description:
    - Sentences about what is ignored, or not as it should be, and costs no machinetype. Ansible shows them as warnings.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe_report import info


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str"},
            "path": {"type": "path"},
            "content": {"type": "json"},
            "name": {"type": "str", "required": True},
            "target_share": {"type": "float", "default": 1.0},
            "options": {"type": "dict", "default": {}},
            "strict": {"type": "bool", "default": False},
            "ca_path": {"type": "path"},
            "timeout": {"type": "int", "default": 30},
        },
        mutually_exclusive=[("url", "path", "content")],
        required_one_of=[("url", "path", "content")],
        supports_check_mode=True,
    )
    run_info(module, info)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_info
short_description: Ask for a vacuum factory, its slots, and its space
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Tells what is in the slots of a host, which machinetypes it has and how they are doing, what was ordered of it, and
    whether it is well.
  - Where the factory's daemon works, this is from what it writes down. Where none does, the engine is asked what runs.
options:
  configuration:
    description:
      - The factory's configuration.
    type: path
    default: /etc/hep.gridbox/factory.json
  space:
    description:
      - Whether to ask all factories of the space, this one among them if the host is one, what they run.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that the factories of the space have for their answers, in all.
    type: float
    default: 5
extends_documentation_fragment:
  - hep.gridbox.plan.info
seealso:
  - module: hep.gridbox.vacuum_slot
"""

EXAMPLES = r"""
---
- name: Look at the factory
  hep.gridbox.vacuum_info:
  register: found

- name: Say what runs until when
  ansible.builtin.debug:
    msg: "{{ item.slot }}: {{ item.machinetype }}"
  loop: "{{ found.slots | selectattr('state', 'ne', 'empty') }}"
  loop_control:
    label: "{{ item.slot }}"

- name: Look at the whole space
  hep.gridbox.vacuum_info:
    space: true
"""

RETURN = r"""
---
factory:
  description: The factory as a whole.
  returned: success
  type: dict
  contains:
    name:
      description: Its FQDN.
      type: str
      sample: wn001.example.org
    space:
      description: The space it belongs to.
      type: str
      sample: vac01.example.org
    state_folder:
      description: Where it keeps its state.
      type: str
      sample: /var/lib/hep.gridbox/factory
    daemon:
      description: Whether its daemon works.
      type: bool
      sample: true
    version:
      description: Product and version of the daemon that has written the last report.
      type: str
      sample: hep.gridbox 0.1.0
    report_age:
      description: Seconds since that report; V(null) if there is none.
      type: int
      sample: 3
    engine_problem:
      description: Why the engine does not answer; empty if it does, or did not have to be asked.
      type: str
      sample: ''
    orders_taken:
      description:
        - Whether RV(orders) are obeyed, so that nothing is started any more against them. The daemon reads them within two
          seconds, and tells it in its report. Without a daemon nothing is started, and whoever starts something reads them before.
          Only M(hep.gridbox.vacuum_slot) with V(running) takes them back, so what runs every few minutes is to have V(ordered).
      type: bool
      sample: true
    draining:
      description: Whether it starts nothing, by its configuration or by order.
      type: bool
      sample: false
    shutdown_time:
      description: When all machines have to be gone, Unix seconds; V(null) if there is no such time.
      type: int
      sample: 1795190934
    running_machines:
      description: Machines that run or start, and those of which that cannot be told.
      type: int
      sample: 7
    running_processors:
      description: Processors that they have.
      type: int
      sample: 7
    total_processors:
      description: Processors that machines may have together.
      type: int
      sample: 8
    health:
      description: What C(gridbox check) says; V(null) if no daemon has ever worked. One that works no more is critical at once.
      type: dict
      sample: {status: ok, text: Factory ok (7/8 7/8)}
    explanation:
      description: What C(gridbox explain) says; empty without a daemon.
      type: list
      elements: str
      sample: ["wn001.example.org in the space vac01.example.org, as of 2026-11-28 07:00:00 UTC"]
orders:
  description: What was ordered of the factory until the next boot.
  returned: success
  type: dict
  sample:
    draining: false
    shutdown_time: null
    slots:
      wn001-03.example.org: {state: drained, machinetype: '', since: 1795187335}
slots:
  description:
    - The slots, as in M(hep.gridbox.vacuum_slot), RV(hep.gridbox.vacuum_slot#module:slots).
    - After those of the configuration come, by name, slots that it had before, in which a machine still runs.
  returned: success
  type: list
  elements: dict
  sample:
    - slot: wn001-00.example.org
      state: running
      machinetype: lhcb-prod
      processors: 1
machinetypes:
  description:
    - The machinetypes, by name, those among them that are not for this factory or are dropped. Without a daemon these are the
      ones that the configuration defines and those that run, and less is known of them.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: lhcb-prod
    target_share:
      description: Its share; V(null) if that is not known.
      type: float
      sample: 3.0
    running_machines:
      description: Machines of it on this host.
      type: int
      sample: 5
    running_processors:
      description: Processors that they have.
      type: int
      sample: 5
    space_usage:
      description: What it has of the whole space, in HS06 or processors; V(null) if that is not known.
      type: float
      sample: 120.0
    refusal:
      description: One word for why none is started now; empty if one may be, or if that is not known.
      type: str
      sample: backing_off
    backing_off:
      description: Whether it is backing off.
      type: bool
      sample: true
    image_present:
      description: Whether its image is here; V(null) if that is not known.
      type: bool
      sample: true
    failures_in_a_row:
      description: Machines of it here that fizzled or did not start since one did better.
      type: int
      sample: 0
    problem:
      description: What is wrong with it, in a sentence; empty if nothing is.
      type: str
      sample: ''
    reason:
      description: What the last decision says of it.
      type: str
      sample: 'lhcb-prod (share 3, usage 120, score 40): could be started'
pipes:
  description: The vacuum pipes, by prefix. Without a daemon it is only known which there are.
  returned: success
  type: list
  elements: dict
  contains:
    prefix:
      description: The prefix of the names of its machinetypes.
      type: str
      sample: lhcb
    source:
      description: Its URL, or its file on this host.
      type: str
      sample: https://pipes.example.org/lhcb.pipe
    fetched_at:
      description: When its source last said that this is the pipe, Unix seconds; V(null) if it has never been read.
      type: float
      sample: 1795187335.5
    problem:
      description: Why it cannot be read now; empty if it can.
      type: str
      sample: ''
    machinetypes:
      description: Names of those that it makes.
      type: list
      elements: str
      sample: [lhcb-dc-prod, lhcb-dc-test]
    not_for_this_factory:
      description: A sentence for each that is a virtual machine.
      type: list
      elements: str
      sample: ['lhcb-vm-prod is not for this factory: cernvm3 is a virtual machine.']
    dropped:
      description: A sentence for each that something is wrong with.
      type: list
      elements: str
      sample: []
    not_brought:
      description: A sentence for each that the configuration says something of, and that the pipe does not bring.
      type: list
      elements: str
      sample: []
    unused_share:
      description: What of the pipe's shares belongs to those that are dropped or not for this factory.
      type: float
      sample: 2.0
    remarks:
      description: Sentences about what is ignored in it.
      type: list
      elements: str
      sample: []
space:
  description: The space; V(null) without O(space).
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: vac01.example.org
    factories:
      description:
        - By FQDN, what came of asking the factory, C(state), C(since) and C(detail), and its answers with the names of the
          protocol, in C(factory), C(machinetypes) and C(machines).
      type: dict
      sample:
        wn002.example.org: {state: silent, since: 1795187335.5, detail: '', factory: [], machinetypes: [], machines: []}
    silent:
      description: Those that did not answer.
      type: list
      elements: str
      sample: [wn002.example.org]
    table:
      description: The same for people, as lines of text.
      type: list
      elements: str
      sample: ["Factory  Processors  Machines  Load"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PATH
from ansible_collections.hep.gridbox.plugins.module_utils.factory.info import collect
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import run_info


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "configuration": {"type": "path", "default": PATH},
            "space": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    run_info(module, collect)


if __name__ == "__main__":
    main()

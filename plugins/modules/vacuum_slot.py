#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_slot
short_description: Have slots of a vacuum factory filled, drained, stopped or emptied
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Brings one slot, some, or all of a host into a state, in one call.
  - Where the factory's daemon works, it is asked. The module gives it orders, in a file that vanishes at reboot, and waits
    until the slots are as wanted.
  - Where none works, the module does once what a factory does, in one process. What has ended is written down, accounted for
    and cleaned away, and machines whose time is over are ended, in all slots; then the wanted slots are emptied, or filled by
    the decision that a factory takes, several machines at a time. This is the push mode, for sites that run playbooks and no
    daemons. No daemon can start meanwhile, and one that is started afterwards goes on from there.
  - Whoever else is at work on the factory, another run or M(hep.gridbox.vacuum_factory) that takes it away, is waited for, up to
    five minutes. The configuration counts as it is then.
  - A daemon that has not reported for a minute is asked all the same, and a warning tells of it.
  - Slots that are as wanted are not touched.
options:
  slots:
    description:
      - Slots by name, with or without the domain, or by number, from 0. V(all) are all of the factory.
      - A slot that the configuration had before, in which a machine still runs, belongs to them until that has ended, so it is
        drained, stopped and emptied as the others. With O(state=running) it is passed over in V(all), and refused by name, for
        nothing can be started there. Of a slot that is drained that way nothing is ordered; in RV(slots) it comes after the others.
    type: list
    elements: str
    default: [all]
  state:
    description:
      - V(running) fills empty slots, and takes back what was ordered of them. A slot that the factory leaves empty by its
        decision, for back-off, shares or lack of room, is no failure. The reason is in its RV(slots), and a warning.
      - V(drained) starts nothing new there; what runs ends by itself.
      - V(stopped) ends what runs there as well, with TERM, after C(grace_seconds) KILL. This is no abort, and the machinetype
        does not back off for it.
      - V(absent) is V(stopped), and removes the folders of the machines that ended there, with all that they left.
      - V(ordered) orders nothing, and does what was ordered of each slot before, by this module or by C(gridbox). One that was
        drained or stopped stays so, one of which nothing was ordered is filled, with the machinetype that was ordered for it if
        there is one; what runs there goes on. This is for the run every few minutes of a host without a daemon, which would
        else take back a drain for maintenance.
    type: str
    choices: [running, drained, stopped, absent, ordered]
    default: running
  machinetype:
    description:
      - With O(state=running), the only machinetype that runs in these slots, whatever shares and back-off say, until the next
        boot or another call without it. Memory, disk, and the image being there count all the same.
      - A machine of another type that runs there is ended first, but only when the ordered one can be started in its room.
      - In push mode the call is refused before anything is touched if it cannot be started in each of the slots, and its image
        is pulled before anything else is done. If that fails, nothing was touched.
      - Where a daemon works the call is refused before anything is ordered if the factory starts nothing, for draining or its
        C(shutdown_time), or if no machine of it can be started here by what the daemon says, for instance because it is for
        another engine, too large, wrong in its pipe, or its image could not be pulled. What passes by itself is waited for, such
        as lack of room, the load, and an image that is being pulled; what runs in the slots goes on until then.
    type: str
  wait:
    description:
      - Whether to wait until the slots are as wanted. With O(state=drained) that is when the last machine has ended by itself.
      - In push mode all but the waiting for drained slots is done by the module itself, so it ends when that is done.
        Whoever waits for drained slots keeps nobody out, for it is another run, or a daemon, that ends machines whose time is over.
      - O(state=absent) needs it.
    type: bool
    default: true
  wait_timeout:
    description:
      - Seconds after which to give up. What was ordered stays so.
    type: int
    default: 600
  configuration:
    description:
      - The factory's configuration. It says which engine and which folder it has.
    type: path
    default: /etc/hep.gridbox/factory.json
notes:
  - Orders vanish at reboot. To keep a host from filling slots for longer, set C(draining) in its configuration.
  - If a step fails, nothing is put back, for each slot has a machine of its own; RV(actions) tells what was done.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.vacuum_info
  - module: hep.gridbox.vacuum_pipe
"""

EXAMPLES = r"""
---
- name: Fill the slots of a host that has no daemon, for instance every few minutes; those that were drained stay so
  hep.gridbox.vacuum_slot:
    state: ordered

- name: Take back what was ordered of all slots, and fill them
  hep.gridbox.vacuum_slot:

- name: Drain two slots, and do not wait for the machines in them
  hep.gridbox.vacuum_slot:
    slots: [wn001-02, wn001-03]
    state: drained
    wait: false

- name: Try a new machinetype in one slot
  hep.gridbox.vacuum_slot:
    slots: ["7"]
    machinetype: lhcb-dc-test

- name: Empty the host, and leave nothing of its machines
  hep.gridbox.vacuum_slot:
    state: absent
"""

RETURN = r"""
---
actions:
  description:
    - What was done, or would be done in check mode, in this order.
    - With a daemon these are the orders, V(give_order). In push mode also V(end_machine), V(clean_machine), V(adopt_machine),
      V(forget_machine), V(remove_stray), V(remove_folder), V(stop_machine), V(lower_limit), V(remove_left_over),
      V(pull_image), V(start_machine). With O(state=absent) there is V(remove_folders).
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
      description: What it costs a running service. Ending a machine is V(container), all else V(none).
      type: str
  sample:
    - action: start_machine
      target: wn001-00.example.org
      reason: the slot is empty, and lhcb-prod is next, with 1 processor
      disruption: none
disruption:
  description: The worst disruption among the actions.
  returned: success
  type: str
  sample: none
daemon:
  description: Whether the factory's daemon works on this host, and was asked.
  returned: success
  type: bool
  sample: false
slots:
  description: The slots that were asked for, as they are now; in check mode, and without waiting, as they were found.
  returned: success
  type: list
  elements: dict
  contains:
    slot:
      description: Its name.
      type: str
      sample: wn001-00.example.org
    state:
      description: V(running), V(starting) or V(empty); V(unknown) if the record of the machine in it cannot be read, which may run.
      type: str
      sample: running
    machinetype:
      description: Of the machine in it.
      type: str
      sample: lhcb-prod
    uuid:
      description: Of the machine in it.
      type: str
      sample: 19336db5-b6d7-48fe-b7eb-e55b8fe0977f
    processors:
      description: That the machine has.
      type: int
      sample: 1
    since:
      description: When it was started, Unix seconds.
      type: int
      sample: 1795187335
    shutdown_time:
      description: Its time limit, Unix seconds.
      type: int
      sample: 1795190934
    order:
      description: V(drained), V(stopped), or empty.
      type: str
      sample: ''
    ordered_machinetype:
      description: The only machinetype that is started there; empty if the factory chooses.
      type: str
      sample: ''
    reason:
      description: Why it is empty, or why another machinetype than the ordered one goes on there, where that is the factory's
        decision; or why its state is not known.
      type: str
      sample: ''
    last_end:
      description: Of the machine that was last in an empty slot; V(null) if there was none.
      type: dict
      sample:
        machinetype: lhcb-prod
        uuid: 19336db5-b6d7-48fe-b7eb-e55b8fe0977f
        time: 1795187457
        message: 200 Success
        code: by_itself
        reason: it ended by itself
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PATH
from ansible_collections.hep.gridbox.plugins.module_utils.factory.slots_work import SlotsWork
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, run


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "slots": {"type": "list", "elements": "str", "default": ["all"]},
            "state": {
                "type": "str",
                "choices": ["running", "drained", "stopped", "absent", "ordered"],
                "default": "running",
            },
            "machinetype": {"type": "str"},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 600},
            "configuration": {"type": "path", "default": PATH},
            **PLAN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    with contextlib.ExitStack() as held:
        run(module, lambda params: SlotsWork.from_params(params, module.check_mode, held))


if __name__ == "__main__":
    main()

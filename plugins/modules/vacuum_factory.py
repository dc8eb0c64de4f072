#!/usr/bin/python
# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vacuum_factory
short_description: Configure the vacuum factory of a host, or take it away
version_added: 0.1.0
author:
  - the hep.gridbox authors (@hep-gridbox)
description:
  - Checks a factory's configuration as its daemon does, and writes it, with the files that machinetypes need, for root alone.
    A configuration in which anything is wrong is refused before anything is touched, in check mode and on a bare host too.
  - The daemon reads its configuration again by itself. What it cannot take over while it runs is returned in
    RV(restart_needed); this module does not restart it. A restart leaves machines alone.
  - A change of C(name), C(state_folder), C(engine), C(engine_url) or C(apptainer_account) is refused while there are machines,
    for the factory would not know them any more. A run of M(hep.gridbox.vacuum_slot) that may be making some is waited for first.
  - With O(state=absent) it ends the daemon, with systemd or without, and removes the configuration. It refuses while machines
    run, and names them, unless O(remove_machines=true). What is kept of machines in the state folder stays.
  - With O(state=absent) it also removes the images that the factory has pulled itself, without force, so those that a container
    of somebody else's uses stay, and those that somebody else has tagged keep that tag. None is removed if C(images_days) in the
    configuration is C(0).
options:
  state:
    description:
      - Whether there is a factory.
    type: str
    choices: [present, absent]
    default: present
  configuration:
    description:
      - The configuration in JSON; C(docs/factory-options.md) has its options. Required with O(state=present).
      - Values of C(user_data_options), and of C(user_data_option_NAME) elsewhere, are not shown in the diff.
    type: json
  path:
    description:
      - The configuration's file.
    type: path
    default: /etc/hep.gridbox/factory.json
  files:
    description:
      - Files that machinetypes need, by their path below C(machinetypes) in the state folder, each with its text. C(local/files/run)
        is the C(user_data) C(run) of the machinetype C(local); C(lhcb/x509cert.pem) and C(lhcb/x509key.pem) are what proxies for
        the machinetypes of the pipe C(lhcb) are made from.
      - A file that is not named here stays as it is.
    type: dict
  key:
    description:
      - The content of the configuration's C(key_file), the secret that the factories of the space share. Without it the file
        is for somebody else to write.
    type: str
  record:
    description:
      - The role whose record, of M(hep.gridbox.host_record), tells whether the configuration was there before it came. One that
        was is kept, and put back by O(state=absent); one that the role has nothing to do with is left alone by that.
    type: str
  program:
    description:
      - The program that the daemon is started from.
    type: path
    default: /usr/local/sbin/gridbox
  programs_awaited:
    description:
      - Whether what work spaces and the network of Apptainer machines take, such as C(mkfs.ext4) and C(pasta), will be installed before
        the factory starts. Its absence is no reason to refuse then.
    type: bool
    default: false
  apptainer_awaited:
    description:
      - The same for Apptainer itself.
    type: bool
    default: false
  account_awaited:
    description:
      - Whether the account C(apptainer_account) will be made before the factory starts if there is none. One that is there has to
        be fit for machines all the same.
    type: bool
    default: false
  unit:
    description:
      - The systemd unit that runs the daemon. The last words of its journal are told if a wait is in vain.
    type: str
  wait:
    description:
      - What to wait for in the end. V(followed) waits until a running daemon that needs no restart has read the configuration.
        V(well) waits until a daemon runs, has read it, and C(gridbox check) finds nothing critical.
      - With V(well) a configuration without machinetypes and pipes is refused, unless it is C(draining) or has a C(shutdown_time),
        for such a factory is never well.
    type: str
    choices: [none, followed, well]
    default: followed
  wait_timeout:
    description:
      - Seconds for that; with O(state=absent) for the daemon to end. The same for a run of M(hep.gridbox.vacuum_slot) that is at work,
        if the factory is to go, or to have its machines elsewhere.
      - A daemon that has not ended by then is waited for once more as long (without systemd), and started again. If it still runs after that the
        module says that it was told to end, and that nothing was started again.
    type: int
    default: 60
  remove_machines:
    description:
      - With O(state=absent), whether to end machines that run. They get C(SIGTERM), the C(grace_seconds) of the configuration, and
        C(SIGKILL).
    type: bool
    default: false
notes:
  - Pass the configuration through the filter C(to_json). Ansible takes all texts in a dictionary for secrets, and would blot
    them out wherever they occur.
extends_documentation_fragment:
  - hep.gridbox.plan
seealso:
  - module: hep.gridbox.vacuum_factory_daemon
  - module: hep.gridbox.host_program
"""

EXAMPLES = r"""
---
- name: A factory with a machinetype of the site's own
  hep.gridbox.vacuum_factory:
    configuration: "{{ factory | to_json }}"
    files:
      local/files/run: "{{ lookup('ansible.builtin.file', 'run') }}"
  vars:
    factory:
      space: vac01.example.org
      total_processors: 8
      machinetypes:
        local: {root_image: "docker://registry.example.org/site/pilot:1", user_data: run, target_share: 1}

- name: Wait until it is well
  hep.gridbox.vacuum_factory:
    configuration: "{{ factory | to_json }}"
    wait: well
    wait_timeout: 120

- name: The host is to be something else
  hep.gridbox.vacuum_factory:
    state: absent
"""

RETURN = r"""
---
running:
  description: Whether its daemon runs; in check mode, as it was.
  returned: success
  type: bool
running_unit:
  description:
    - The systemd unit that its daemon is the main process of; in check mode, as it was. Empty if it does not run, or runs without
      a service manager.
  returned: success
  type: str
  sample: gridbox-factory.service
restart_needed:
  description: Why the daemon that runs has to be restarted to be as asked for; empty if it need not.
  returned: success
  type: list
  elements: str
  sample: ["port is 995 in the daemon, and 9995 is wanted"]
check:
  description: What C(gridbox check) says; empty if no daemon has written a report.
  returned: success
  type: str
  sample: "OK: Factory ok (2/8 2/8) | machines=2;;;0;8 processors=2;;;0;8 age=3s;;600;0;"
factory:
  description: In check mode, name of the factory that would go; empty if there is none.
  returned: success, with O(state=absent)
  type: str
  sample: wn001.example.org
leaving:
  description: In check mode, names of the containers of its machines, which would go with it.
  returned: success, with O(state=absent)
  type: list
  elements: str
  sample: [wn001-00.example.org_5f6c0c1e]
actions:
  description: The steps taken, or in check mode to be taken, in order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: What is done.
      type: str
      sample: write_configuration
    target:
      description: To what.
      type: str
      sample: /etc/hep.gridbox/factory.json
    reason:
      description: Why.
      type: str
      sample: there is none
    disruption:
      description: What it costs a running service.
      type: str
      sample: none
disruption:
  description: The worst disruption of the steps.
  returned: success
  type: str
  sample: none
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hep.gridbox.plugins.module_utils.factory import configure, take_away
from ansible_collections.hep.gridbox.plugins.module_utils.front_room import PLAN_ARGUMENTS, Work, run

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "configuration": {"type": "json", "no_log": True},
    "path": {"type": "path", "default": "/etc/hep.gridbox/factory.json"},
    "files": {"type": "dict", "no_log": True},
    "key": {"type": "str", "no_log": True},
    "record": {"type": "str"},
    "program": {"type": "path", "default": "/usr/local/sbin/gridbox"},
    "programs_awaited": {"type": "bool", "default": False},
    "apptainer_awaited": {"type": "bool", "default": False},
    "account_awaited": {"type": "bool", "default": False},
    "unit": {"type": "str"},
    "wait": {"type": "str", "choices": ["none", "followed", "well"], "default": "followed"},
    "wait_timeout": {"type": "int", "default": 60},
    "remove_machines": {"type": "bool", "default": False},
    **PLAN_ARGUMENTS,
}


def make_work(params: t.Mapping[str, t.Any], held: contextlib.ExitStack) -> Work:
    """The work that the options ask for.

    :param held: gets the lock of whoever makes machines and takes them away.
    """
    if params["state"] == "absent":
        return take_away.TakeAwayWork(take_away.Wish.from_params(params), held)
    return configure.ConfigureWork(configure.Wish.from_params(params), held)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("state", "present", ["configuration"])]
    )
    with contextlib.ExitStack() as held:
        run(module, lambda params: make_work(params, held))


if __name__ == "__main__":
    main()

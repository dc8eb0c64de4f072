# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The check-mode proof of a role on a machine of the lab.

1. the machine is as a person left it (the scenario's ``prepare``);  2. its state is read with other tools than Ansible;
3. the play runs in check mode;  4. the changes it announces are listed;  5. the state is read again and is the same;
6. and 7. the play runs, and does exactly what was announced, task by task and action by action;  8. check mode now
announces nothing, and a second run changes nothing;  9. the scenario's ``cleanup`` removes the role and compares the
state with the first one (``--restored``).

Command line: ``python -m tests.lab.proof INVENTORY PLAYBOOK FLEET HOST [--restored]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

from tests.lab.fleet import Fleet
from tests.lab.hosts import Machine
from tests.lab.vm import VirtualMachine

Host = t.Union[Machine, VirtualMachine]

LAB = Path(__file__).resolve().parent

#: What differs although nobody changed anything: logs, caches, traces of Ansible, and the login by which the state is
#: read; what is in an engine's own folders, which go with it; and what a package's scripts leave behind when the
#: package is purged: accounts, the /etc/hosts of netbase, and a kernel's initrd, which is made anew with what is there;
#: a service that D-Bus starts for whoever asks, and that ends when nobody has for half a minute; and what udev keeps of
#: a bridge that has gone.
PASSING = (
    "/root/.ansible", "/var/log", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/backups", "/etc/ld.so.cache",
    "/var/lib/systemd", "/tmp", "/var/tmp", "/etc/shadow", "/etc/gshadow", "/etc/passwd", "/etc/group",
    "/etc/subuid", "/etc/subgid", "/usr/lib/python3", "/etc/hosts", "/run/adduser", "/etc/.pwd.lock", "/var/lib/ucf",
    "/run/motd.dynamic", "unit-file session-", "/var/lib/docker/", "/var/lib/containerd/", "/run/docker/",
    "/run/containerd/", "/boot/initrd.img-", "systemd-hostnamed.service ", "/run/udev/",
)  # fmt: skip

#: One line a thing: files with mode, owner, size and link target; sums of /etc; packages, units, mounts, daemons.
READ = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -name __pycache__ \) -prune -o \
     -not -type d -printf 'file %p %M %u:%g %s %l\n' -o -type d -printf 'folder %p %M %u:%g\n'
find /run -xdev \( -path '/run/systemd*' -o -path '/run/log*' -o -path '/run/user*' \) -prune -o -printf 'run %p\n'
find /etc -type f -exec sha256sum {} + | sed 's/^/sum /'
dpkg-query -W -f 'package ${Package} ${Version} ${db:Status-Status}\n'
systemctl list-unit-files --no-legend --plain | sed 's/^/unit-file /'
systemctl list-units --all --no-legend --plain --type=service,mount,socket,timer,automount | sed 's/^/unit /'
awk '{print "mount", $5, $7}' /proc/self/mountinfo
sysctl -a 2>/dev/null | grep -E '^(net\.ipv[46]\.neigh\.default\.gc|fs\.(file-max|nr_open|inotify)|kernel\.pid_max)' |
  sed 's/^/sysctl /'
ps -eo comm= | grep -E '^(dockerd|containerd|chronyd|sshd|automount|squashfuse)$' | sort -u | sed 's/^/process /'
"""


def state(machine: Host) -> set[str]:
    """The machine's state, read with find, dpkg, systemctl, the kernel's own tables and ps."""
    lines = machine.run("sh", "-c", READ).stdout.splitlines()
    return {line for line in lines if not any(path in line for path in PASSING)}


def play(inventory: str, playbook: str, *options: str) -> list[dict[str, t.Any]]:
    """Run a playbook and return the tasks that changed something, with their actions."""
    with tempfile.NamedTemporaryFile(suffix=".json") as log:
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(LAB / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "changes",
            "ANSIBLE_PIPELINING": "true",
            "GRIDBOX_CHANGES": log.name,
        }
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", inventory, playbook, "--diff", *options]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        return [json.loads(line) for line in log.read().splitlines()]


def prove(inventory: str, playbook: str, machine: Host) -> None:
    """Steps 2 to 8. Keeps the first state for step 9."""
    before = state(machine)
    (machine.folder / "before.json").write_text(json.dumps(sorted(before)))
    announced = play(inventory, playbook, "--check")
    if not announced:
        raise AssertionError("check mode announces nothing on a bare machine")
    print(f"check mode announces {len(announced)} changes:")
    for change in announced:
        print(f"  {change['task']} {change['actions'] or ''}")
    _same(before, state(machine), "check mode changed the machine")
    done = play(inventory, playbook)
    if not _same_changes(announced, done):
        raise AssertionError(f"the real run did other things than check mode announced:\n{announced}\n{done}")
    if state(machine) == before:
        raise AssertionError("the real run changed nothing that can be seen from outside")
    for options in (("--check",), ()):
        again = play(inventory, playbook, *options)
        if again:
            raise AssertionError(f"a second run {' '.join(options)} changes something again: {again}")
    print("the real run did exactly that; check mode then announces nothing, and a second run changes nothing")


def _same_changes(announced: list[dict[str, t.Any]], done: list[dict[str, t.Any]]) -> bool:
    """Whether the same tasks changed something, by the same actions.

    A task that can only announce (what it needs is not installed yet) tells no actions.
    """
    if [change["task"] for change in announced] != [change["task"] for change in done]:
        return False
    return all(before["actions"] in ([], after["actions"]) for before, after in zip(announced, done, strict=True))


def restored(machine: Host) -> None:
    """Step 9: the machine is as it was before the role came."""
    before = set(json.loads((machine.folder / "before.json").read_text()))
    _same(before, state(machine), "removing the role left something behind")
    print("the machine is as it was before the role came")


def _same(before: set[str], after: set[str], sentence: str) -> None:
    if before != after:
        gone = "".join(f"\n- {line}" for line in sorted(before - after)[:40])
        new = "".join(f"\n+ {line}" for line in sorted(after - before)[:40])
        raise AssertionError(f"{sentence}:{gone}{new}")


def main() -> None:
    """Entry point."""
    inventory, playbook, fleet, host, *options = sys.argv[1:]
    machine = Fleet(fleet).machine(host)
    if options == ["--restored"]:
        restored(machine)
    else:
        prove(inventory, playbook, machine)


if __name__ == "__main__":
    main()

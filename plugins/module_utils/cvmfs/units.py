# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd mount units for the repositories: their names and their text. Pure.

The rules, and the failures they come from: network ordering and a long time-out, or the boot ends in the rescue shell
(cvmfs/cvmfs#3447); the configuration repository before all others (voxpupuli/puppet-cvmfs#176); wanted, never required,
so that a missing repository does not keep the host down; before the engine, which otherwise binds an empty folder for
ever (moby/moby#17485). systemd tries a mount unit once only, so a timer has those that are missing tried again.

A folder is bound twice. mount(8) binds first and makes the bind read-only after, and a container that runs already
takes the first as it is: writable, for good. So the first bind is out of containers' sight, and the second one, of a
mount that is read-only by then, never is anything else.
"""

from __future__ import annotations

import string
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import Repository, Wish

#: Where units are that an operator, or a program for one, has put on a host.
UNIT_FOLDER = "/etc/systemd/system"

#: Seconds between two tries of what is not mounted.
RETRY_SECONDS = 60

#: Below it folders are bound first, each at its place below the root.
STAGING = "/run/hep.gridbox.cvmfs"

_HEAD = "# Written by hep.gridbox (cvmfs_mounts).\n"

_PLAIN = string.ascii_letters + string.digits + ":_."


def unit_name(path: str) -> str:
    """The name systemd demands for the unit that mounts at ``path`` (systemd.unit(5), "string escaping")."""
    parts = [part for part in path.split("/") if part]
    escaped: list[str] = []
    for part in parts:
        text = ""
        for index, character in enumerate(part):
            # A leading dot would be a hidden file.
            if character in _PLAIN and not (character == "." and index == 0 and not escaped):
                text += character
            else:
                text += "".join(f"\\x{byte:02x}" for byte in character.encode())
        escaped.append(text)
    return f"{'-'.join(escaped) or '-'}.mount"


def root_unit(wish: Wish) -> str:
    """The unit that makes the folder of the repositories a shared mount point of its own."""
    return f"""{_HEAD}[Unit]
Description=Shared mount point of the CVMFS repositories

[Mount]
What={_value(wish.root)}
Where={_value(wish.root)}
Type=none
Options=bind,rshared

[Install]
WantedBy=multi-user.target
"""


def staging_point(wish: Wish, repository: Repository) -> str:
    """Where a folder is bound first, and made read-only."""
    return f"{STAGING}{wish.point(repository.name)}"


def staging_unit(wish: Wish, repository: Repository) -> str:
    """The unit that binds a folder out of containers' sight. Nobody wants it but the unit of its repository."""
    return f"""{_HEAD}[Unit]
Description=Read-only folder of the CVMFS repository {repository.name}
RequiresMountsFor={_value(repository.path)}

[Mount]
What={_value(repository.what)}
Where={_value(staging_point(wish, repository))}
Type={repository.kind}
Options={repository.options}
TimeoutSec={wish.wait_timeout}
"""


def repository_unit(wish: Wish, repository: Repository) -> str:
    """The unit that mounts one repository."""
    what, options = repository.what, repository.options
    if repository.source == "directory":
        what, options = staging_point(wish, repository), "bind,nofail"
    needed = [wish.root]
    if wish.config_repository and repository.name != wish.config_repository:
        needed.append(wish.point(wish.config_repository))
    if what.startswith("/"):
        needed.append(what)
    network = repository.source == "client"
    order = "Wants=network-online.target\nAfter=network-online.target\n" if network else ""
    return f"""{_HEAD}[Unit]
Description=CVMFS repository {repository.name}
RequiresMountsFor={" ".join(_value(path) for path in needed)}
{order}Before=docker.service podman.service podman-restart.service

[Mount]
What={_value(what)}
Where={_value(wish.point(repository.name))}
Type={repository.kind}
Options={options}
TimeoutSec={wish.wait_timeout}

[Install]
WantedBy={"remote-fs.target" if network else "multi-user.target"}
"""


def heal_timer(root: str) -> str:
    """The name of the timer that has missing repositories mounted."""
    return f"gridbox-{unit_name(root)[: -len('.mount')]}-heal.timer"


def heal_service(root: str) -> str:
    """The name of the service that mounts missing repositories."""
    return f"{heal_timer(root)[: -len('.timer')]}.service"


#: Lazily unmounts its arguments whose client is dead: to statfs(2) each such mount answers ENOTCONN. One that hangs
#: is not asked for longer than 5 s. Mount points come as arguments, never as text of the script.
_UNMOUNT_DEAD = (
    'for point; do case "$$(timeout --signal=KILL 5 stat --file-system -- "$$point" 2>&1)" in'
    ' *"endpoint is not connected") umount --lazy -- "$$point" && echo "$$point: its client was dead; unmounted";;'
    " esac; done"
)


def heal_units(wish: Wish) -> dict[str, str]:
    """The timer and its service. To start a unit that is active is nothing to systemd, so no state is kept.

    What is dead is active to systemd. A client can die by systemd's own hand: a mount that takes longer than its
    time-out and is there at the last moment is left without its client, which is killed with all of the unit.
    """
    # Command lines are unquoted once more than other values.
    names = " ".join(unit_name(wish.point(each.name)).replace("\\", "\\\\") for each in wish.repositories)
    clients = [wish.point(each.name) for each in wish.repositories if each.mounted_kind.startswith("fuse")]
    look = ""
    if clients:
        look = f"""# What is dead stays mounted, and hides the repository until it is unmounted.
ExecStart=-/bin/sh -c '{_UNMOUNT_DEAD}' sh {" ".join(_value(point) for point in clients)}
"""
    service = f"""{_HEAD}[Unit]
Description=Mount the CVMFS repositories below {_value(wish.root)} that are missing

[Service]
Type=oneshot
{look}# What fails is told by the units of the mounts. One mount may wait for the configuration repository.
ExecStart=-/usr/bin/systemctl start {names}
TimeoutStartSec={2 * wish.wait_timeout + 5 * len(clients) + 60}
Environment=LC_ALL=C
# Not a line in the journal each minute, but whatever systemctl has to say.
LogLevelMax=notice
SyslogLevel=notice
"""
    timer = f"""{_HEAD}[Unit]
Description=Look for CVMFS repositories below {_value(wish.root)} that are missing

[Timer]
OnActiveSec={RETRY_SECONDS}
OnUnitInactiveSec={RETRY_SECONDS}
AccuracySec=5

[Install]
WantedBy=timers.target
"""
    return {heal_service(wish.root): service, heal_timer(wish.root): timer}


def units(wish: Wish) -> dict[str, str]:
    """All units by name, in the order in which they start."""
    found = {unit_name(wish.root): root_unit(wish)}
    for repository in wish.repositories:
        if repository.source == "directory":
            found[unit_name(staging_point(wish, repository))] = staging_unit(wish, repository)
        found[unit_name(wish.point(repository.name))] = repository_unit(wish, repository)
    return {**found, **heal_units(wish)} if wish.repositories else found


def comes_up_at_boot(text: str) -> bool:
    """Whether a unit is one to enable: others start with what needs them."""
    return "\n[Install]\n" in text


def of_root(root: str, name: str) -> bool:
    """Whether a unit has the name of one that this collection may have written for ``root``."""
    stem = unit_name(root)[: -len(".mount")]
    staging = unit_name(f"{STAGING}{root}/x")[: -len("x.mount")]
    mount = name.endswith(".mount") and name.startswith((f"{stem}.", f"{stem}-", staging))
    return mount or name in (heal_timer(root), heal_service(root))


def point_of(text: str) -> t.Optional[str]:
    """The mount point in the text of a mount unit of this collection; None if it is somebody else's."""
    where = next((line[len("Where=") :] for line in text.splitlines() if line.startswith("Where=")), None)
    return where.replace("%%", "%") if where is not None and ours(text) else None


def _value(text: str) -> str:
    """A path in a unit file: ``%`` starts a specifier there. Blanks and quotes are refused beforehand."""
    return text.replace("%", "%%")


def ours(text: t.Optional[str]) -> bool:
    """Whether a unit file was written by this collection."""
    return text is not None and text.startswith(_HEAD)

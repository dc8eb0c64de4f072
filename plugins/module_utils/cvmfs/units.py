# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd mount units for the repositories: their names and their text. Pure.

The rules, and the failures they come from: network ordering and a long time-out, or the boot ends in the rescue shell
(cvmfs/cvmfs#3447); the configuration repository before all others (voxpupuli/puppet-cvmfs#176); wanted, never required,
so that a missing repository does not keep the host down; before the engine, which otherwise binds an empty folder for
ever (moby/moby#17485).
"""

from __future__ import annotations

import string
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import Repository, Wish

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
    return f"""# Written by hep.gridbox (cvmfs_mounts).
[Unit]
Description=Shared mount point of the CVMFS repositories

[Mount]
What={_value(wish.root)}
Where={_value(wish.root)}
Type=none
Options=bind,rshared

[Install]
WantedBy=multi-user.target
"""


def repository_unit(wish: Wish, repository: Repository) -> str:
    """The unit that mounts one repository."""
    needed = [wish.root]
    if wish.config_repository and repository.name != wish.config_repository:
        needed.append(wish.point(wish.config_repository))
    if repository.path:
        needed.append(repository.path)
    network = repository.source == "client"
    order = "Wants=network-online.target\nAfter=network-online.target\n" if network else ""
    return f"""# Written by hep.gridbox (cvmfs_mounts).
[Unit]
Description=CVMFS repository {repository.name}
RequiresMountsFor={" ".join(_value(path) for path in needed)}
{order}Before=docker.service podman.service

[Mount]
What={_value(repository.what)}
Where={_value(wish.point(repository.name))}
Type={repository.kind}
Options={repository.options}
TimeoutSec={wish.wait_timeout}

[Install]
WantedBy={"remote-fs.target" if network else "multi-user.target"}
"""


def units(wish: Wish) -> dict[str, str]:
    """All units by name, in the order in which they start."""
    found = {unit_name(wish.root): root_unit(wish)}
    for repository in wish.repositories:
        found[unit_name(wish.point(repository.name))] = repository_unit(wish, repository)
    return found


def _value(text: str) -> str:
    """A path in a unit file: ``%`` starts a specifier there. Blanks and quotes are refused beforehand."""
    return text.replace("%", "%%")


def ours(text: t.Optional[str]) -> bool:
    """Whether a unit file was written by this collection."""
    return text is not None and text.startswith("# Written by hep.gridbox (cvmfs_mounts).")

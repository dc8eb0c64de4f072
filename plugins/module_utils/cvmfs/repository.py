# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which repositories a host shall have, and where each comes from."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount

#: A repository's fully qualified name, as CernVM-FS has it.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")

#: What may stand in a mount unit and in mount's options without quoting.
PATH = re.compile(r"/[A-Za-z0-9/._+:@%=-]*")

#: The type of a mounted squashfs file, by who mounts it.
SQUASHFS_KINDS = {"kernel": "squashfs", "fuse": "fuse.squashfuse"}


@dataclass(frozen=True)
class Repository:
    """One repository.

    :ivar source: ``client`` (the CernVM-FS client), ``squashfs`` (a file) or ``directory``.
    :ivar path: the file or the folder; empty for the client.
    :ivar sentinel: a path inside that must be there; empty if it is enough that the repository is not empty.
    :ivar driver: for a squashfs: ``kernel`` or ``fuse``.
    """

    name: str
    source: str
    path: str = ""
    sentinel: str = ""
    driver: str = ""

    @property
    def what(self) -> str:
        """What is mounted."""
        return self.name if self.source == "client" else self.path

    @property
    def kind(self) -> str:
        """The type for mount(8)."""
        if self.source == "client":
            return "cvmfs"
        if self.source == "directory":
            return "none"
        return SQUASHFS_KINDS[self.driver]

    @property
    def options(self) -> str:
        """Options for mount(8). Without ``allow_other`` a FUSE mount of root is closed to every other account."""
        if self.source == "client":
            return "ro,nodev,_netdev,nofail"
        if self.source == "directory":
            return "bind,ro,nosuid,nodev,nofail"
        return "ro,nosuid,nodev,loop,nofail" if self.driver == "kernel" else "ro,nosuid,nodev,allow_other,nofail"

    @property
    def mounted_kind(self) -> str:
        """The type that the kernel shows once it is mounted; empty if that depends on the folder."""
        return {"client": "fuse", "directory": ""}.get(self.source, self.kind)


@dataclass(frozen=True)
class Wish:
    """The repositories of a host.

    :ivar repositories: the configuration repository first.
    :ivar config_repository: its name; empty if there is none.
    :ivar supervisor: ``systemd`` or ``none``.
    :ivar wait_timeout: seconds for one mount, and for the first look into it.
    :ivar helpers_awaited: whether the programs that mount are yet to be installed.
    :ivar client_settings: what the client's file is going to say; None for what it says.
    """

    root: str
    repositories: tuple[Repository, ...]
    config_repository: str
    supervisor: str
    wait_timeout: int
    remove: bool = False
    helpers_awaited: bool = False
    client_settings: t.Optional[t.Mapping[str, str]] = None

    def point(self, name: str) -> str:
        """Where a repository is mounted."""
        return f"{self.root}/{name}"

    @classmethod
    def from_params(
        cls, params: t.Mapping[str, t.Any], kernel_squashfs: bool, systemd: bool, mounts: t.Sequence[Mount] = ()
    ) -> Wish:
        """Check and normalise a module's arguments. Pure.

        :param kernel_squashfs: whether the kernel can mount squashfs files here, for ``squashfs_driver: auto``.
        :param systemd: whether systemd is PID 1, for ``supervisor: auto``.
        :param mounts: what is mounted; for ``squashfs_driver: auto``, which keeps the driver of a mounted file.
        :raises InputError: for a value that cannot be right.
        """
        root = _path("root", params["root"])
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        repositories = []
        for index, entry in enumerate(params["repositories"]):
            driver = params["squashfs_driver"]
            if driver == "auto":
                mounted_by = _driver_of(mount_table.at(mounts, f"{root}/{entry['repository']}"))
                driver = mounted_by or ("kernel" if kernel_squashfs else "fuse")
            repositories.append(_repository(f"repositories[{index}]", entry, driver))
        names = [repository.name for repository in repositories]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise InputError(f"repositories[{index}].repository", name, "each repository once")
        config = params["config_repository"] or ""
        if config and config not in names and params["state"] != "absent":
            raise InputError(
                "config_repository", config, f"one of the repositories ({', '.join(names) or 'there are none'})"
            )
        repositories.sort(key=lambda repository: repository.name != config)
        supervisor = params["supervisor"]
        if supervisor == "auto":
            supervisor = "systemd" if systemd else "none"
        elif supervisor == "systemd" and not systemd:
            raise InputError("supervisor", "systemd", "auto or none, for systemd is not PID 1 on this host")
        settings = params.get("client_settings")
        return cls(
            root,
            tuple(repositories),
            config,
            supervisor,
            params["wait_timeout"],
            params["state"] == "absent",
            bool(params.get("helpers_awaited")),
            None if settings is None else {name: str(value) for name, value in settings.items()},
        )


def _repository(option: str, entry: t.Mapping[str, t.Any], driver: str) -> Repository:
    name, source = entry["repository"], entry["source"]
    path, sentinel = entry.get("path") or "", entry.get("sentinel") or ""
    if not NAME.fullmatch(name) or len(name) > 60:
        raise InputError(
            f"{option}.repository", name, "a fully qualified name such as alice.cern.ch, at most 60 characters"
        )
    if source == "client":
        if path:
            raise InputError(f"{option}.path", path, "no path, for source is client")
    elif not path:
        raise InputError(
            f"{option}.path", path, f"the {'file' if source == 'squashfs' else 'folder'} that source {source} needs"
        )
    else:
        path = _path(f"{option}.path", path)
    if sentinel and (sentinel.startswith(("/", "..")) or os.path.normpath(sentinel) != sentinel):
        raise InputError(f"{option}.sentinel", sentinel, "a path relative to the repository, without ..")
    return Repository(name, source, path, sentinel, driver if source == "squashfs" else "")


def _driver_of(mount: t.Optional[Mount]) -> t.Optional[str]:
    """Who has mounted a squashfs file; None if it is none that is mounted."""
    return next((driver for driver, kind in SQUASHFS_KINDS.items() if mount is not None and mount.kind == kind), None)


def _path(option: str, path: str) -> str:
    if not PATH.fullmatch(path) or os.path.normpath(path) != path or path == "/":
        raise InputError(
            option, path, "an absolute path of letters, digits and /._+:@%=-, without .. or a trailing slash"
        )
    return path

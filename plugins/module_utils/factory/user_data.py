# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine's user_data: the template of its machinetype, with what is true of this machine filled in (spec 3.7).

Decisions are pure; :func:`write` puts the result on disk. Templates, options and files may hold secrets, so nothing of
them is ever in an error or in the text of an object.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import (
    JOBFEATURES,
    JOBOUTPUTS,
    MACHINEFEATURES,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

#: Vac's, comma and all.
_PATTERN = re.compile(rb"##user_data_([a-z,0-9,_]*)##")


@dataclass(frozen=True)
class Places:
    """Where a machine finds the folders of the contract: absolute paths in it."""

    machinefeatures: str
    jobfeatures: str
    joboutputs: str


#: In a Docker or Podman container.
IN_CONTAINER = Places(MACHINEFEATURES, JOBFEATURES, JOBOUTPUTS)


@dataclass(frozen=True)
class Content:
    """What a machinetype's user_data is made from.

    :ivar template: before anything is filled in.
    :ivar url: where it came from; empty: from a file of this host.
    :ivar files: by NAME of ``user_data_file_NAME``, what the file holds; bytes that are not UTF-8 are surrogates.
    """

    template: bytes = field(repr=False)
    url: str = ""
    files: t.Mapping[str, str] = field(default_factory=dict, repr=False)


def values(
    machine: Machine,
    configuration: Configuration,
    machinetype: Machinetype,
    content: Content,
    version: str,
    where: Places = IN_CONTAINER,
    proxy: str = "",
) -> dict[str, str]:
    """What each pattern ``##user_data_NAME##`` stands for, by NAME. Pure.

    :param version: of whoever manages the machine: product and version.
    :param proxy: the X.509 proxy made for this machine; empty: none.
    """
    image = machinetype.root_image
    found = {
        "url": content.url,
        "space": configuration.space,
        "site": configuration.site_name,
        "uuid": machine.uuid,
        "root_image_url": image if image.startswith(("http://", "https://")) else "",
    }
    # Names of Vac, and its older ones; of the third kind those of the note HSF-TN-2016-04, which Vac never had.
    for names, value in (
        (("machinetype", "vmtype"), machine.machinetype),
        (("machine_hostname", "vm_hostname"), machine.slot),
        (("manager_version", "vmlm_version"), version),
        (("manager_hostname", "vmlm_hostname"), configuration.settings.name),
        (("machinefeatures_url", "manager_machinefeatures_url"), where.machinefeatures),
        (("jobfeatures_url", "manager_jobfeatures_url"), where.jobfeatures),
        (("joboutputs_url", "manager_joboutputs_url"), where.joboutputs),
    ):
        found.update(dict.fromkeys(names, value))
    found.update({f"option_{name}": text for name, text in machinetype.user_data_options.items()})
    for name, text in content.files.items():
        found[f"option_{name}"] = found[f"file_{name}"] = text
    if proxy:
        found["option_x509_proxy"] = proxy
    return found


def substitute(template: bytes, filled: t.Mapping[str, str]) -> bytes:
    """Fill in a template. Pure.

    In one go: a pattern in a value stays what it is, whoever wrote the value. A pattern that stands for nothing goes.
    """

    def value(match: re.Match[bytes]) -> bytes:
        return filled.get(match[1].decode(), "").encode("utf-8", "surrogateescape")

    return _PATTERN.sub(value, template)


def mode_of(template: bytes, filled: t.Mapping[str, str], engine: str) -> int:
    """The mode of a machine's user_data. Pure.

    Docker's and Podman's machines run it as root, and it may start payloads as other accounts: what the site has filled
    in may be a secret, the key of the pilot's proxy first of all, and is not for them. In an Apptainer machine all is
    one account, which is not the file's owner.
    """
    names = {match[1].decode() for match in _PATTERN.finditer(template)}
    may_be_secret = any(name.startswith(("option_", "file_")) for name in names & filled.keys())
    return 0o700 if may_be_secret and engine != "apptainer" else 0o755


def write(path: str, content: bytes, mode: int) -> None:
    """Write a machine's user_data, before the machine is made: it sees the file that is there then.

    The file's mode is for the accounts of the machine. It is the folder, 0700, that keeps it from everybody else of
    this host: a machine does not go through the folder, for the file is mounted.

    :raises RefusedError: if others may enter the folder.
    :raises GridboxError: if it cannot be written.
    """
    folder = os.path.dirname(path)
    try:
        entered = os.stat(folder).st_mode & 0o777
        if entered & 0o077:
            raise RefusedError(
                f"Writing {path}, which may hold secrets",
                f"others may enter its folder, which has mode {entered:04o}",
                f"`chmod 0700 {folder}` helps.",
            )
        write_atomically(path, content, mode)
    except OSError as exc:
        raise GridboxError(f"{path} could not be written ({exc.strerror}).") from exc

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an Apptainer machine is: the vacuum container contract (spec 6), as a request to who looks after it. Pure.

Inside, things are where they are in the containers of other engines. On the host they are where only root comes: who
looks after the machine shows them at :data:`SEEN`, in a mount namespace of the machine's own, and there the machine's
account, as which Apptainer runs, finds them, and nothing of another machine.
"""

from __future__ import annotations

import json
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import Account
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cgroups import Limits
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import HOST_NETWORK, Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import (
    CVMFS,
    ENVIRONMENT,
    JOBFEATURES,
    JOBOUTPUTS,
    MACHINEFEATURES,
    USER_DATA,
    host_name_of,
    work_folder,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

#: Where all of a machine's own is shown to its account.
SEEN = "/run/hep.gridbox.apptainer/machine"

#: In the work space: what Apptainer makes the machine's /tmp, /var/tmp and home of.
WORK = "work"

#: What an image is made by. The squeezing takes memory by what the host has, so it is told.
PULL = Limits(processors=2, memory_bytes=4 << 30, pids=1024)
_PULL_NOFILE = 65536


@dataclass(frozen=True)
class Request:
    """What is to be run.

    :ivar uuid: of the machine; empty: it is none, but what makes an image.
    :ivar name: of its control groups and its lock.
    :ivar shown: by name below :data:`SEEN`, what is shown there.
    :ivar argv: the command, as the account.
    :ivar environment: all of it.
    :ivar nofile: files that a process may have open.
    :ivar output_bytes: of its output that are kept.
    :ivar network: of :data:`configuration.APPTAINER_NETWORKS`.
    """

    uuid: str
    name: str
    uid: int
    gid: int
    shown: t.Mapping[str, str]
    argv: tuple[str, ...]
    environment: t.Mapping[str, str]
    processors: int
    memory_bytes: int
    pids: int
    nofile: int
    output_bytes: int
    network: str = HOST_NETWORK  # where all were before there was another

    def as_json(self) -> str:
        """The text of its file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def limits(self) -> Limits:
        """Of its control group."""
        return Limits(self.processors, self.memory_bytes, self.pids)


def of_machine(
    machine: Machine,
    machinetype: Machinetype,
    configuration: Configuration,
    account: Account,
    folder: str,
    image: str,
) -> Request:
    """The request that makes a machine.

    :param folder: the machine's, on the host; its work space is mounted at ``mnt`` in it.
    :param image: path of the image.
    """
    shown = {
        "machinefeatures": f"{folder}/machinefeatures",
        "jobfeatures": f"{folder}/jobfeatures",
        "joboutputs": f"{folder}/mnt/joboutputs",
        "work": f"{folder}/mnt/{WORK}",
    }
    binds = [
        f"{SEEN}/machinefeatures:{MACHINEFEATURES}:ro",
        f"{SEEN}/jobfeatures:{JOBFEATURES}:ro",
        f"{SEEN}/joboutputs:{JOBOUTPUTS}",
    ]
    if machinetype.user_data:
        shown["user_data"] = f"{folder}/user_data"
        binds.append(f"{SEEN}/user_data:{USER_DATA}:ro")
    for number, path in enumerate(machinetype.tmp_binds):
        shown[f"tmp{number}"] = f"{folder}/mnt/tmp/{work_folder(path)}"
        binds.append(f"{SEEN}/tmp{number}:{path}")
    there = configuration.cvmfs_root
    binds += [f"{there}/{name}:{CVMFS}/{name}:ro" for name in machinetype.cvmfs_repositories]
    if not image.startswith(f"{there}/"):
        shown["image"], image = image, f"{SEEN}/image"
    argv = [
        "apptainer", "--quiet", "exec",
        # Of the two ways in, the one that needs no privilege: the other ends where none can be gained.
        "--userns", "--containall", "--no-eval", "--hostname", host_name_of(machine.slot), "--workdir", f"{SEEN}/work",
        *(word for one in binds for word in ("--bind", one)),
        *(word for one in ENVIRONMENT for word in ("--env", one)),
        image, *machinetype.container_command,
    ]  # fmt: skip
    processors = machine.processors
    return Request(
        machine.uuid, machine.container_name, account.uid, account.gid, shown, tuple(argv), _environment({}),
        processors, machine.memory_bytes, processors * configuration.pids_per_processor, configuration.nofile,
        configuration.output_bytes, configuration.network,
    )  # fmt: skip


def of_image(reference: str, name: str, account: Account, folder: str, variables: t.Mapping[str, str]) -> Request:
    """The request that makes an image, ``image.sif`` in a folder of the account's.

    :param reference: ``docker://NAME`` or a URL.
    :param variables: of the environment: the way out to registries and servers.
    """
    before, digest, after = reference.partition("@sha256:")
    if digest and ":" in before.rpartition("/")[2]:
        before = before.rpartition(":")[0]  # of a tag and a digest Apptainer takes one
    argv = ("apptainer", "--quiet", "pull", "--force", f"{SEEN}/work/image.sif", f"{before}{digest}{after}")
    return Request(
        "", name, account.uid, account.gid, {"work": folder}, argv, _environment(variables), PULL.processors,
        PULL.memory_bytes, PULL.pids, _PULL_NOFILE, 1 << 20, HOST_NETWORK,
    )  # fmt: skip


def _environment(variables: t.Mapping[str, str]) -> dict[str, str]:
    """Of Apptainer itself; a machine sees nothing of it."""
    folder = f"{SEEN}/work"
    return {
        **variables,
        "PATH": SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "APPTAINER_CONFIGDIR": f"{folder}/.apptainer",
        "APPTAINER_CACHEDIR": f"{folder}/.cache",
    }

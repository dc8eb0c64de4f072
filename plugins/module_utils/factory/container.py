# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container that a machine is: the vacuum container contract (spec 6), as a request to the Engine API. Pure.
What Apptainer is asked for is in ``apptainer_request.py``.

Beside Vac's, a machine has hard limits, an init as its first process that reaps and passes signals on, none of the
capabilities that reach beyond it, and of /cvmfs what it asked for and no more. Nothing of a pipe becomes a path of the
host: sources of mounts are made here, from names that were checked.
"""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

#: Labels of a machine's container: whose it is, and which machine.
FACTORY, MACHINE, MACHINETYPE = "hep.gridbox.factory", "hep.gridbox.machine", "hep.gridbox.machinetype"

MACHINEFEATURES, JOBFEATURES = "/etc/machinefeatures", "/etc/jobfeatures"
JOBOUTPUTS, USER_DATA, CVMFS = "/var/spool/joboutputs", "/user_data", "/cvmfs"

#: What a machine finds in its environment.
ENVIRONMENT = (f"MACHINEFEATURES={MACHINEFEATURES}", f"JOBFEATURES={JOBFEATURES}", f"JOBOUTPUTS={JOBOUTPUTS}")

#: What root in a machine needs to keep pilot and payload apart by accounts: to give files away, to become another
#: account, to end its processes. AUDIT_WRITE, for PAM tells the kernel's audit of each change of account, and with a
#: libaudit that asks for the account and not for the capability (EL 7, CernVM 3 and 4) refuses root the change where it
#: may not: "su: System error". All else of the engine's default set is dropped.
CAPABILITIES = ("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")

#: Processes of an account that machines have in any case, for the host may have an account of the same number.
_FEW_PROCESSES = 4096

#: The kernel's limit for a host name is 64 characters; engines take 63.
_HOST_NAME = 63


def work_folder(path: str) -> str:
    """The name, in a work space, of the folder that a machine sees as ``path``: one for each; no path has a ``%``."""
    return path.strip("/").replace("/", "%")


def host_name_of(slot: str) -> str:
    """A machine's host name: the slot's, as far as engines take it."""
    return slot if len(slot) <= _HOST_NAME else slot.partition(".")[0][:_HOST_NAME]


def body(
    machine: Machine,
    machinetype: Machinetype,
    configuration: Configuration,
    folder: str,
    image: str,
    limits_writes: bool = False,
    most_processors: t.Optional[int] = None,
) -> dict[str, t.Any]:
    """The request that makes a machine's container.

    :param folder: the machine's, on the host; its work space is mounted at ``mnt`` in it.
    :param limits_writes: whether the engine takes a limit for what is written to the root file system.
    :param image: what ``root_image`` stands for, by its id: a name may move between the decision and the start.
    :param most_processors: of which the engine lets a container use as many at most; None: it takes any number.
    """
    processors = machine.processors
    mounts = [
        _mount(f"{folder}/machinefeatures", MACHINEFEATURES, True),
        _mount(f"{folder}/jobfeatures", JOBFEATURES, True),
        _mount(f"{folder}/mnt/joboutputs", JOBOUTPUTS, False),
        *(_mount(f"{folder}/mnt/tmp/{work_folder(path)}", path, False) for path in machinetype.tmp_binds),
        *(
            _mount(f"{configuration.cvmfs_root}/{name}", f"{CVMFS}/{name}", True, "rslave")
            for name in machinetype.cvmfs_repositories
        ),
    ]
    if machinetype.user_data:
        mounts.append(_mount(f"{folder}/user_data", USER_DATA, True))
    root_bytes = processors * configuration.root_bytes_per_processor
    accounts = max(_FEW_PROCESSES, configuration.settings.total_processors * configuration.pids_per_processor)
    return {
        "Image": image,
        "Cmd": list(machinetype.container_command),
        # Whatever the image says: the contract is root inside, and outputs are root's. A number needs no /etc/passwd.
        "User": "0",
        "Hostname": host_name_of(machine.slot),
        "Env": list(ENVIRONMENT),
        "Labels": {
            FACTORY: configuration.settings.name,
            MACHINE: machine.uuid,
            MACHINETYPE: machine.machinetype,
        },
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Init": True,
            "NetworkMode": configuration.network,
            "RestartPolicy": {"Name": "no"},
            # All that there are is no less than a machine that is larger could use.
            "NanoCpus": min(processors, most_processors or processors) * 10**9,
            "CpuShares": min(processors * 1024, 262144),
            "Memory": machine.memory_bytes,
            "MemorySwap": machine.memory_bytes,
            **({"StorageOpt": {"size": str(root_bytes)}} if limits_writes else {}),
            "PidsLimit": processors * configuration.pids_per_processor,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            # SELinux would let a container at nothing of the host's that is not labelled for it, and what is mounted
            # here is not: the state folder is var_lib_t, a new work space has no label, CVMFS is of its file system.
            # To label it anew would be to label the host. Engines take this without SELinux as well.
            "SecurityOpt": ["no-new-privileges", "label=disable"],
            # Said, for engines differ by a factor of a million in what machines would inherit (design 5).
            "Ulimits": [
                {"Name": "nofile", "Soft": configuration.nofile, "Hard": configuration.nofile},
                {"Name": "core", "Soft": 0, "Hard": 0},
                # Counted by account over all machines: as many as these may have together is no further limit. Podman
                # would ask for a million, and fail where it may not.
                {"Name": "nproc", "Soft": accounts, "Hard": accounts},
            ],
            "Mounts": mounts,
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-file": "2", "max-size": str(max(configuration.output_bytes // 2, 1 << 15))},
            },
        },
    }


def _mount(source: str, target: str, read_only: bool, propagation: str = "rprivate") -> dict[str, t.Any]:
    """A bind of what must be there: the engine makes no missing source, as it does for ``-v``."""
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": propagation},
    }

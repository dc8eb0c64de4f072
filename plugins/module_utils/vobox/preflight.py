# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the host everything that could make a plan fail. Reads only; runs in check mode too."""

from __future__ import annotations

import ipaddress
import os
import stat
import typing as t
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import names_in
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import shortest
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import RESERVED_SUFFIXES, Values, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import Folder
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed, folder_of
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import ROTATED
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import EngineProcess, refuse_ungrantable

#: Seconds to listen for answers on the wire.
_WIRE_SECONDS = 0.6

#: Seconds for the first look into a repository, which a client may have to mount for it.
_REPOSITORY_SECONDS = 30

#: What the kernel calls the limits, in /proc/<pid>/limits.
_KERNEL_NAMES = {
    "nofile": "Max open files", "nproc": "Max processes", "core": "Max core file size", "memlock": "Max locked memory",
}  # fmt: skip

#: The image format's names of architectures (GOARCH) for those of uname.
_ARCHITECTURES = {
    "x86_64": ("amd64", "386"), "aarch64": ("arm64", "arm"), "ppc64le": ("ppc64le",), "s390x": ("s390x",),
    "riscv64": ("riscv64",), "armv7l": ("arm",),
}  # fmt: skip

#: Interpreters that can check a script without running it.
_SHELLS = ("sh", "bash", "dash", "ksh", "zsh")

#: Seconds that a shell has to read a script; it takes milliseconds, of a busy host seconds.
_READ_SECONDS = 10


def preflight(engine: DockerApi, wish: Wish, seen: Observed, plan: Plan) -> None:
    """
    :raises RefusedError: if the host would make the plan fail.
    """
    steps = {step.action: step for step in plan.steps}
    if "write_init_script" in steps and wish.script is not None:
        check_syntax(wish.script)
    new = steps.keys() & {"create_container", "swap_container"}
    starts = bool(steps.keys() & {"start_container", "restart_container"} or (new and wish.state == "started"))
    if new or starts:
        # What is to be mounted has to be there when a container is made, whether it starts or not.
        values = next((step.details["values"] for step in plan.steps if "values" in step.details), seen.values)
        _mounts(wish, values, starts or (wish.state == "present" and (seen.running or seen.cut_short)))
    for action in ("create_container", "swap_container"):
        if action in steps:
            _new_container(engine, wish, seen, steps[action].details["values"])
    back = "start_container" in steps or ("restart_container" in steps and seen.cut_short)
    if back and "create_container" not in steps and _not_held(seen, seen.values):
        _wire(_network(engine, seen.values["network.name"]), wish, seen, seen.values)
    if "update_container" in steps:
        refuse_limits(engine.info(), steps["update_container"].details["to"])
    if "remove_files" in steps:
        refuse_foreign(wish)


def _new_container(engine: DockerApi, wish: Wish, seen: Observed, values: Values) -> None:
    image = seen.wished_image or seen.image
    if not image:
        raise RefusedError(
            f"name: {wish.name}",
            "it has to be replaced, and the image it was made from is gone",
            "Give an image that is on this host.",
        )
    architecture = image.get("Architecture")
    machine = os.uname().machine
    if architecture and machine in _ARCHITECTURES and architecture not in _ARCHITECTURES[machine]:
        raise RefusedError(
            f"image: {wish.image}",
            f"it is made for {architecture}, this host is {machine}",
            "Take an image for this architecture.",
        )
    process = seen.process or EngineProcess.read(engine.url)
    if wish.privileges:
        refuse_ungrantable(wish.privileges, process, seen.platform.name, seen.platform.version)
    _rlimits(values, process)
    info = engine.info()
    refuse_limits(info, values)
    drivers = ((info.get("Plugins") or {}).get("Log")) or ()
    if seen.platform.name == "podman":
        drivers = ("json-file", "k8s-file", "journald", "none", "passthrough")
    if drivers and values.get("log.driver") not in drivers:
        raise RefusedError(
            f"log.driver: {values.get('log.driver')}", f"the engine has {', '.join(drivers)}", "Take one of these."
        )
    if values.get("log.driver") in ROTATED and seen.platform.name == "docker" and not values.get("log.max_size"):
        raise RefusedError(
            "log.max_size: None",
            "the log of the new container would grow without end",
            "Set log.max_size, for instance 10m.",
        )
    network = _network(engine, values["network.name"])
    _addresses(engine, network, seen, values)
    _wire(network, wish, seen, values)


def check_syntax(script: str) -> None:
    """Let the host's shell read the script without running it.

    The image's shell is another one: what is sh there may be bash, which reads more than the host's dash. So a script
    for sh is refused only if bash cannot read it either. A shell that is not the distribution's is not run here: the
    inventory does not choose what runs on the host. Neither is a script judged that takes a shell more than seconds.

    :raises InputError: with the shell's own words, if it is no script.
    """
    first = script.split("\n", 1)[0]
    words = first[2:].split()
    interpreter = words[0] if os.path.basename(words[0]) != "env" or len(words) < 2 else f"/bin/{words[1]}"
    folder, name = os.path.split(interpreter)
    if folder not in ("/bin", "/usr/bin") or name not in _SHELLS or not os.path.exists(interpreter):
        return
    said = _complaint(interpreter, script)
    if said is not None and name == "sh" and os.path.exists("/bin/bash"):
        said = said if _complaint("/bin/bash", script) is not None else None
    if said is not None:
        raise InputError("init_script", first, f"a script that {interpreter} can read", f"It says: {said}")


def _complaint(shell: str, script: str) -> t.Optional[str]:
    """What a shell says of a script that it cannot read; None if it can, or does not say in time."""
    import subprocess

    # The text goes in on standard input; -n reads it and runs nothing.
    text = script.encode(errors="surrogateescape")
    try:
        read = subprocess.run([shell, "-n"], input=text, capture_output=True, timeout=_READ_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    said = read.stderr.decode(errors="replace").strip().splitlines()
    return (said[-1] if said else "nothing") if read.returncode else None


# ---- limits ------------------------------------------------------------------------------------------------------


def _rlimits(values: Values, process: EngineProcess) -> None:
    nofile = values.get("limits.nofile")
    nr_open = int(Path("/proc/sys/fs/nr_open").read_text())
    if nofile and nofile[1] > nr_open:
        raise RefusedError(
            f"limits.nofile: {nofile[0]}:{nofile[1]}", f"fs.nr_open of this host is {nr_open}",
            f"Set a hard limit of at most {nr_open}, or raise fs.nr_open, see the role hep.gridbox.host_hardening.",
        )  # fmt: skip
    if process.raises_limits:
        return
    for name, kernel_name in _KERNEL_NAMES.items():
        wanted, most = values.get(f"limits.{name}"), process.hard_limits.get(kernel_name)
        if wanted and most is not None and (wanted[1] == -1 or wanted[1] > most):
            raise RefusedError(
                f"limits.{name}: {wanted[0]}:{wanted[1]}",
                f"the engine itself has a hard limit of {most} and may not raise it (it lacks CAP_SYS_RESOURCE)",
                f"Set a hard limit of at most {most}.",
            )


def refuse_limits(info: Json, values: Values) -> None:
    """
    :raises RefusedError: for a limit that the engine, which tells this ``info``, would not take.
    """
    cpus, most = values.get("limits.cpus"), info.get("NCPU")
    if cpus and most and cpus > most:
        raise RefusedError(
            f"limits.cpus: {cpus}", f"this host has {most} CPUs", "Set as many at most, or 0 for no limit."
        )
    if values.get("limits.memory") and info.get("MemoryLimit") is False:
        raise RefusedError(
            "limits.memory", "this kernel does not limit memory", "Leave it out, or boot with cgroup_enable=memory."
        )
    memory, both = values.get("limits.memory"), values.get("limits.memory_swap")
    if both and memory and both != memory and info.get("SwapLimit") is False:
        raise RefusedError(
            "limits.memory_swap", "this kernel does not account for swap", "Leave it out, or boot with swapaccount=1."
        )


# ---- files ----------------------------------------------------------------------------------------------------------


def refuse_foreign(wish: Wish) -> None:
    """
    :raises RefusedError: if files of others would be removed with those of the VO-box.
    """
    path = folder_of(wish.files, wish.name)
    foreign = Folder(path).foreign()
    if foreign:
        shown = ", ".join(foreign[:4]) + (f" and {len(foreign) - 4} more" if len(foreign) > 4 else "")
        raise RefusedError(
            f"files: {wish.files}", f"{path} holds {shown}, which this module has not made and does not remove",
            "Move it away first, or correct files and name.",
        )  # fmt: skip


# ---- mounts ------------------------------------------------------------------------------------------------------


def _mounts(wish: Wish, values: Values, runs: bool) -> None:
    """Refuse what cannot be mounted.

    :param runs: whether the container will run, and look into the repositories.
    """
    if values.get("cvmfs"):
        path, propagation = values["cvmfs"]
        _cvmfs(path, propagation, wish.cvmfs.repositories if wish.cvmfs and runs else ())
    if values.get("host_certificate"):
        _certificate(*values["host_certificate"])
    for target, source, _read_only, propagation in values.get("volumes") or ():
        if not source.startswith("/"):
            continue
        option = f"volumes: {source} on {target}"
        if not os.path.exists(source):
            raise RefusedError(
                option, "there is no such path on this host", "Make it first, with the owner that the service needs."
            )
        if propagation != "rprivate":
            _refuse_private(option, source, propagation)


def _cvmfs(path: str, propagation: str, repositories: t.Sequence[str]) -> None:
    wanted = f"cvmfs.path: {path}"
    if not os.path.isdir(path):
        raise RefusedError(
            wanted, "there is no such folder on this host", "Set CVMFS up first, see the role hep.gridbox.cvmfs."
        )
    if propagation != "rprivate":
        _refuse_private(wanted, path, propagation)
    for position, repository in enumerate(repositories):
        _repository(f"cvmfs.repositories[{position}]: {repository}", os.path.join(path, repository))


def _repository(option: str, folder: str) -> None:
    cure = "Mount it first, see the role hep.gridbox.cvmfs."
    try:
        names = names_in(folder, _REPOSITORY_SECONDS)
    except WaitError as exc:
        raise RefusedError(
            option, f"{folder} did not answer within {_REPOSITORY_SECONDS} s",
            "See what its mount waits for (findmnt, the log of CernVM-FS or autofs), and mount it anew.",
        ) from exc  # fmt: skip
    except GridboxError as exc:
        raise RefusedError(option, str(exc), cure) from exc
    if not names:
        raise RefusedError(option, f"{folder} is empty", cure)


def _refuse_private(wanted: str, path: str, propagation: str) -> None:
    """
    :raises RefusedError: if mounts made below ``path`` later would not be seen inside.
    """
    mount = mount_of(path, Path("/proc/self/mountinfo").read_text())
    if mount is None:
        return
    point, shared, slave = mount
    if not shared and not (slave and propagation == "rslave"):
        raise RefusedError(
            wanted, f"it lies on the mount {point}, which is not shared, so later mounts would not be seen inside",
            f"Make it a mount point of its own, shared (mount --bind {path} {path}; mount --make-rshared {path}),"
            " as the role hep.gridbox.cvmfs does, or set propagation: rprivate.",
        )  # fmt: skip


def mount_of(path: str, mountinfo: str) -> t.Optional[tuple[str, bool, bool]]:
    """The mount on which a path lies: its mount point, whether it is shared, whether it is a slave; proc(5)."""
    best: t.Optional[tuple[str, bool, bool]] = None
    real = os.path.realpath(path)
    for line in mountinfo.splitlines():
        columns = line.split()
        point = columns[4].encode().decode("unicode_escape")
        if real == point or real.startswith(point.rstrip("/") + "/"):
            optional = columns[6 : columns.index("-")]
            # A later line of the same mount point covers an earlier one.
            if best is None or len(point) >= len(best[0]):
                shared = any(word.startswith("shared:") for word in optional)
                best = (point, shared, any(word.startswith("master:") for word in optional))
    return best


def _certificate(certificate: str, key: str) -> None:
    for option, path in (("host_certificate.certificate", certificate), ("host_certificate.key", key)):
        try:
            status = os.stat(path)
        except OSError as exc:
            raise RefusedError(
                f"{option}: {path}", f"it cannot be read ({exc.strerror})", "Correct the path, or put the file there."
            ) from exc
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{option}: {path}", "it is not a file", "Give the PEM file itself.")
        if path == key and stat.S_IMODE(status.st_mode) not in (0o400, 0o600):
            raise RefusedError(
                f"{option}: {path}",
                f"its mode is {stat.S_IMODE(status.st_mode):04o}",
                "Set it to 0400 or 0600, which Grid services demand.",
            )
    import ssl

    def no_passphrase() -> str:
        raise RefusedError(
            f"host_certificate.key: {key}",
            "it is locked with a passphrase, and a service has nobody to ask",
            "Take the passphrase off.",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as exc:
        said = str(exc.reason or exc).replace("_", " ").lower()
        raise RefusedError(
            f"host_certificate.certificate: {certificate}", f"it and the key {key} are no pair in PEM ({said})",
            "Give the certificate and the key that belong together.",
        ) from exc  # fmt: skip


# ---- the network -------------------------------------------------------------------------------------------------


def _network(engine: DockerApi, name: str) -> Json:
    """
    :raises RefusedError: if the engine has no such network.
    """
    network = engine.network(name)
    if network is None:
        known = ", ".join(sorted(one["Name"] for one in engine.networks() if one.get("Driver") == "macvlan")) or "none"
        raise RefusedError(
            f"network.name: {name}",
            f"the engine has no such network (macvlan networks: {known})",
            "Make it with hep.gridbox.macvlan_net first.",
        )
    return network


def _addresses(engine: DockerApi, network: Json, seen: Observed, values: Values) -> None:
    if network.get("Driver") != "macvlan":
        raise RefusedError(
            f"network.name: {network['Name']}",
            f"its driver is {network.get('Driver')}, and a VO-box needs an address on the LAN",
            "Take a macvlan network, see hep.gridbox.macvlan_net.",
        )  # fmt: skip
    for key in ("ipv4", "ipv6"):
        if values.get(f"network.{key}"):
            refuse_address(f"network.{key}", str(values[f"network.{key}"]), network)
    own = {seen.container["Id"]} if seen.container else set()
    refuse_taken(values, engine.containers(), own)


def _wire(network: Json, wish: Wish, seen: Observed, values: Values) -> None:
    """
    :raises RefusedError: if another machine on the LAN has an address or the MAC that the container is about to get.
    """
    asked = _not_held(seen, values)
    parent = (network.get("Options") or {}).get("parent")
    if wish.wire_check and asked and parent and seen.platform.name == "docker":
        # Our own macvlan links do not answer their parent, so whoever answers is another machine.
        from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import probe

        for answer in probe(parent, asked, _WIRE_SECONDS):
            raise RefusedError(
                f"network: {answer.asked}",
                f"the machine with the MAC {answer.mac} on the LAN has it already",
                "Give another one, or find that machine.",
            )


def _not_held(seen: Observed, values: Values) -> list[str]:
    """Addresses and MAC that the VO-box does not have on the LAN now. While it does not run, anyone may take them."""
    return [
        str(values[key])
        for key in ("network.ipv4", "network.ipv6", "network.mac")
        if values.get(key) and not (seen.running and seen.values.get(key) == values[key])
    ]


def refuse_address(option: str, address: str, network: Json) -> None:
    """
    :raises RefusedError: if the network cannot give this address to a container.
    """
    mine = ipaddress.ip_address(address)
    pools = [pool for pool in (network.get("IPAM") or {}).get("Config") or () if pool.get("Subnet")]
    subnets = {str(pool["Subnet"]): pool for pool in pools}
    fitting = [pool for subnet, pool in subnets.items() if mine in ipaddress.ip_network(subnet, strict=False)]
    wanted = f"{option}: {address}"
    if not fitting:
        raise RefusedError(
            wanted,
            f"network {network['Name']} has the subnets {', '.join(subnets) or 'none'}",
            "Give an address of one of these.",
        )
    subnet = ipaddress.ip_network(str(fitting[0]["Subnet"]), strict=False)
    if mine == subnet.network_address or (
        mine.version == 4 and subnet.prefixlen < 31 and mine == subnet.broadcast_address
    ):
        raise RefusedError(
            wanted, f"it is the first or last address of {subnet}, which no machine can have", "Give another one."
        )
    gateway = fitting[0].get("Gateway")
    if gateway and mine == ipaddress.ip_address(str(gateway).split("/", maxsplit=1)[0]):
        raise RefusedError(wanted, f"it is the gateway of {subnet}", "Give another one.")
    reserved = fitting[0].get("AuxiliaryAddresses") or fitting[0].get("AuxAddress") or {}
    for label, other in reserved.items():
        if mine == ipaddress.ip_address(str(other)):
            raise RefusedError(
                wanted,
                f"network {network['Name']} keeps it for {label}",
                "Give another one, or take the reservation away.",
            )


def refuse_taken(values: Values, containers: t.Iterable[Json], own: t.Collection[str]) -> None:
    """
    :raises RefusedError: if another container of the engine, running or not, has one of these addresses or the MAC.
    """
    for container in containers:
        if container["Id"] in own:
            continue
        name = (container.get("Names") or [container["Id"][:12]])[0].lstrip("/")
        for on, endpoint in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items():
            fixed = endpoint.get("IPAMConfig") or {}
            theirs = {
                "ipv4": {endpoint.get("IPAddress"), fixed.get("IPv4Address")},
                "ipv6": {endpoint.get("GlobalIPv6Address"), shortest(fixed.get("IPv6Address"))},
                "mac": {(endpoint.get("MacAddress") or "").lower()},
            }
            for key, taken in theirs.items():
                mine = values.get(f"network.{key}")
                if mine and mine in taken and not name.endswith(RESERVED_SUFFIXES):
                    raise RefusedError(
                        f"network.{key}: {mine}",
                        f"container {name} has it already, on network {on}",
                        "Give another one, or remove that container.",
                    )

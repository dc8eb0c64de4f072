# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of a VO-box, validated and normalised."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import Privileges
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.runner import INIT_FOLDER, START_PATH, STATE_FOLDER

#: Option values by option path, in one normal form for what is asked, what is observed and what is created:
#: addresses in their shortest spelling, sizes in bytes, lists as sorted tuples where order means nothing.
Values = t.Mapping[str, t.Any]

#: Where things are in the container.
CVMFS_TARGET = "/cvmfs"
CERTIFICATE_TARGET = "/etc/grid-security/hostcert.pem"
KEY_TARGET = "/etc/grid-security/hostkey.pem"

#: Our own labels; never compared, so that a container started by hand is as good as ours, and never taken from people.
OWN_LABELS = "hep.gridbox."

#: The engine's rule for names of containers; dots and what follows are kept free for the swap.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,59}\Z")
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_LABEL_OF_FQDN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z")
_SIZE = re.compile(r"(\d+)([bkmgt]?)b?\Z", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: Of the containers that a swap makes and leaves.
RESERVED_SUFFIXES = (".next", ".stand-in", ".previous")
_RLIMITS = ("nofile", "nproc", "core", "memlock")
#: What a line of /etc/hosts or the search line of /etc/resolv.conf takes as one name.
_MACHINE = re.compile(r"\w[\w.-]*\Z", re.ASCII)
_DOMAIN = re.compile(r"(\.|\w[\w.-]*)\Z", re.ASCII)

#: The engine's requests have signed 64-bit numbers for bytes and limits; nanoseconds in the same bound its seconds.
_MOST_BYTES = (1 << 63) - 1
_MOST_SECONDS = (1 << 31) - 1
#: linux/threads.h: PID_MAX_LIMIT of 64-bit kernels; pids.max takes no more.
_MOST_PIDS = 1 << 22


@dataclass(frozen=True)
class Service:
    """A declared service."""

    name: str
    port: int
    protocol: str = "tcp"


@dataclass(frozen=True)
class Swap:
    """How a container is replaced. ``health_timeout`` in seconds."""

    strategy: str = "overlap"
    health_timeout: int = 120
    keep_previous: bool = False


@dataclass(frozen=True)
class Cvmfs:
    """CVMFS as asked for: the folder on the host, and the repositories that must be in it."""

    path: str
    repositories: tuple[str, ...]
    propagation: str


@dataclass(frozen=True)
class Wish:
    """The whole VO-box as asked for; what is not asked for is None, or not in ``values``.

    :ivar values: option values that are compared with the container's.
    :ivar privileges: kept apart, since what they amount to depends on the engine.
    """

    name: str
    state: str
    files: str
    values: Values = field(default_factory=dict)
    image: t.Optional[str] = None
    script: t.Optional[str] = field(default=None, repr=False)
    script_version: t.Optional[str] = None
    services: t.Optional[tuple[Service, ...]] = None
    cvmfs: t.Optional[Cvmfs] = None
    privileges: t.Optional[Privileges] = None
    swap: Swap = Swap()
    wire_check: bool = True

    @property
    def script_sha256(self) -> t.Optional[str]:
        """The version of the init script that is asked for."""
        return sha256(self.script) if self.script is not None else self.script_version

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """
        :raises InputError: for the first value that cannot be right.
        """
        name = params["name"]
        if not _NAME.match(name) or name.endswith(RESERVED_SUFFIXES):
            raise InputError(
                "name", name, "2 to 60 letters, digits, dots, dashes and underscores, the first a letter or digit,"
                " not ending in .next, .stand-in or .previous"
            )  # fmt: skip
        if not os.path.isabs(params["files"]):
            raise InputError("files", params["files"], "an absolute path")
        values: dict[str, t.Any] = {}
        _hostname(params, values)
        _network(params, values)
        _init_script(params, values)
        _mounts(params, values)
        _limits(params, values)
        _log(params, values)
        _health(params, values)
        _environment(params, values)
        _dns(params, values)
        if params["restart_policy"] is not None:
            values["restart_policy"] = params["restart_policy"]
        if params["command"] is not None:
            values["command"] = tuple(params["command"])
        if params["stop_timeout"] is not None:
            values["stop_timeout"] = _at_least("stop_timeout", params["stop_timeout"], 0)
        if params["image"] is not None and not re.match(r"[a-zA-Z0-9][\w.:/@-]*\Z", params["image"]):
            raise InputError("image", params["image"], "a reference or id of an image, such as voboximg:el9")
        swap = params["swap"]
        _at_least("swap.health_timeout", swap["health_timeout"], 1)
        return cls(
            name=name,
            state=params["state"],
            files=os.path.normpath(params["files"]),
            values=values,
            image=params["image"],
            script=params["init_script"],
            script_version=params["init_script_version"],
            services=_services(params),
            cvmfs=_cvmfs(params),
            privileges=Privileges.from_params(params["privileges"]) if params["privileges"] else None,
            swap=Swap(swap["strategy"], swap["health_timeout"], swap["keep_previous"]),
            wire_check=params["wire_check"],
        )


def sha256(text: str) -> str:
    """The version of an init script: SHA-256 of its text in UTF-8."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def size(option: str, text: str) -> int:
    """Bytes of ``4g``, ``256m``, ``1024``.

    :raises InputError: if it is no size.
    """
    found = _SIZE.match(text.strip())
    if not found:
        raise InputError(option, text, "a size such as 512m or 4g")
    number = int(found[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2].lower()]
    if number > _MOST_BYTES:
        raise InputError(option, text, "a size below 8388608t, which is more than the engine can count")
    return number


def limit_pair(option: str, text: str) -> tuple[int, int]:
    """``soft:hard``, or one number for both.

    :raises InputError: if it is neither, or soft is above hard.
    """
    parts = text.strip().split(":")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(not -1 <= number <= _MOST_BYTES for number in numbers):
        raise InputError(option, text, "soft:hard, two whole numbers such as 8192:65536, or one for both")
    soft, hard = numbers[0], numbers[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        raise InputError(option, text, "a soft limit that is not above the hard limit")
    return soft, hard


def address(option: str, text: str, version: int) -> str:
    """An address in its shortest spelling.

    :raises InputError: if it is none of this IP version, or not one that a machine can have.
    """
    expected = f"an IPv{version} address without prefix length, such as " + (
        "192.0.2.10" if version == 4 else "2001:db8::10"
    )
    try:
        found = ipaddress.ip_address(text.strip())
    except ValueError:
        raise InputError(option, text, expected) from None
    if found.version != version or found.is_multicast or found.is_unspecified or found.is_loopback or "%" in text:
        raise InputError(option, text, expected)
    return str(found)


def mac_address(option: str, text: str) -> str:
    """A MAC in lower case with colons.

    :raises InputError: if it is none, a group address, or one that belongs to a manufacturer.
    """
    plain = text.strip().lower().replace("-", ":")
    if not re.match(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z", plain):
        raise InputError(option, text, "a MAC address such as 02:5a:3f:11:c0:07")
    first = int(plain[:2], 16)
    if first & 1 or not first & 2:
        raise InputError(
            option,
            text,
            "a unicast, locally administered MAC: the second digit is 2, 6, a or e",
            "Leave it out to have one worked out.",
        )
    return plain


def _at_least(option: str, value: int, least: int) -> int:
    if not least <= value <= _MOST_SECONDS:
        raise InputError(option, value, f"a whole number from {least} to {_MOST_SECONDS}")
    return value


def _one_line(option: str, text: str) -> str:
    """
    :raises InputError: for text that would break a line of a table, a log or a file, or is none.
    """
    if not text.strip() or not text.isprintable():
        raise InputError(option, text, "one line of text, without control characters")
    return text


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _hostname(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["hostname"]
    if given is None:
        return
    plain = given.rstrip(".").lower()
    labels = plain.split(".")
    if len(labels) < 2 or not all(_LABEL_OF_FQDN.match(label) for label in labels):
        raise InputError("hostname", given, "a fully qualified domain name such as vobox1.example.org")
    if len(plain) > 64:
        raise InputError("hostname", given, "at most 64 characters, which is all the kernel keeps of a host name")
    values["hostname"] = plain


def _network(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["network"]
    if given is None:
        return
    if not re.match(r"[a-zA-Z0-9][\w.-]*\Z", given["name"]) or given["name"] in ("host", "none", "default", "bridge"):
        raise InputError("network.name", given["name"], "the name of a macvlan network, see hep.gridbox.macvlan_net")
    values["network.name"] = given["name"]
    if given["ipv4"] is not None:
        values["network.ipv4"] = address("network.ipv4", given["ipv4"], 4)
    if given["ipv6"] is not None:
        values["network.ipv6"] = address("network.ipv6", given["ipv6"], 6)
    if given["mac"] is not None:
        values["network.mac"] = mac_address("network.mac", given["mac"])


def _init_script(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    script, version = params["init_script"], params["init_script_version"]
    if script is not None:
        first = script.split("\n", 1)[0]
        if not re.match(r"#! ?/", first):
            raise InputError("init_script", first, "a first line that names the interpreter, such as #!/bin/sh")
        if "\r" in script:
            raise InputError("init_script", first, "lines that end with LF", "Take the carriage returns (CR) out.")
        if "\0" in script:
            raise InputError("init_script", first, "text without NUL bytes")
    if version is not None and not _SHA256.match(version):
        raise InputError(
            "init_script_version", version, "64 hexadecimal digits, see init_script.previous_sha256 of a run"
        )
    if script is not None or version is not None:
        values["init_script"] = True


def _cvmfs(params: t.Mapping[str, t.Any]) -> t.Optional[Cvmfs]:
    given = params["cvmfs"]
    if given is None:
        return None
    if not os.path.isabs(given["path"]):
        raise InputError("cvmfs.path", given["path"], "an absolute path of the host, such as /cvmfs")
    for position, repository in enumerate(given["repositories"]):
        if not re.match(r"[a-z0-9][a-z0-9.-]*\.[a-z0-9-]+\Z", repository):
            raise InputError(
                f"cvmfs.repositories[{position}]", repository, "the name of a repository, such as alice.cern.ch"
            )
    return Cvmfs(os.path.normpath(given["path"]), tuple(given["repositories"]), given["propagation"])


def _normal(path: str) -> str:
    # POSIX lets two slashes at the beginning mean something else, and so does normpath; Linux does not.
    return "/" + os.path.normpath(path).lstrip("/") if os.path.isabs(path) else os.path.normpath(path)


def _mounts(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    cvmfs = _cvmfs(params)
    if cvmfs:
        values["cvmfs"] = (cvmfs.path, cvmfs.propagation)
    certificate = params["host_certificate"]
    if certificate is not None:
        for key in ("certificate", "key"):
            if not os.path.isabs(certificate[key]):
                raise InputError(f"host_certificate.{key}", certificate[key], "an absolute path of the host")
        # As the engine will tell them, or they would never be as asked for.
        values["host_certificate"] = (_normal(certificate["certificate"]), _normal(certificate["key"]))
    if params["volumes"] is None:
        return
    volumes = {}
    for position, volume in enumerate(params["volumes"]):
        option = f"volumes[{position}]"
        source, target = volume["source"], _normal(_one_line(f"{option}.target", volume["target"]))
        if os.path.isabs(source):
            source = _normal(_one_line(f"{option}.source", source))
        elif not _VOLUME.match(source):
            raise InputError(f"{option}.source", source, "the name of a volume or an absolute path of the host")
        elif volume["propagation"] != "rprivate":
            raise InputError(
                f"{option}.propagation", volume["propagation"], "rprivate, for a named volume has no other"
            )
        if not os.path.isabs(target) or target == "/":
            raise InputError(f"{option}.target", volume["target"], "an absolute path in the container other than /")
        if target in (CVMFS_TARGET, CERTIFICATE_TARGET, KEY_TARGET):
            raise InputError(f"{option}.target", volume["target"], "a path that no other option of this module mounts")
        for own in (START_PATH, INIT_FOLDER, STATE_FOLDER):
            if _lies_in(target, own) or _lies_in(own, target):
                raise InputError(
                    f"{option}.target", volume["target"],
                    f"a path that is neither on, in nor above {own}, which the init script needs",
                    "Mount the files or folders that are needed there one by one.",
                )  # fmt: skip
        if target in volumes:
            raise InputError(f"{option}.target", volume["target"], "a path that is mounted only once")
        volumes[target] = (source, volume["read_only"], volume["propagation"])
    values["volumes"] = tuple((target, *rest) for target, rest in sorted(volumes.items()))


def _limits(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["limits"]
    if given is None:
        return
    for key in _RLIMITS:
        if given[key] is not None:
            values[f"limits.{key}"] = limit_pair(f"limits.{key}", given[key])
    if min(values.get("limits.nofile", (1, 1))) < 1:
        raise InputError(
            "limits.nofile", given["nofile"], "numbers of 1 or more: a limit of open files is always finite"
        )
    if given["pids"] is not None:
        if not 1 <= given["pids"] <= _MOST_PIDS and given["pids"] != -1:
            raise InputError(
                "limits.pids", given["pids"],
                f"a whole number from 1 to {_MOST_PIDS}, the most that Linux has, or -1 for no limit",
            )  # fmt: skip
        values["limits.pids"] = given["pids"]
    if given["memory"] is not None:
        memory = size("limits.memory", given["memory"])
        if 0 < memory < 6 << 20:
            raise InputError(
                "limits.memory", given["memory"], "6m or more, the least the engine takes, or 0 for no limit"
            )
        values["limits.memory"] = memory
    if given["memory_swap"] is not None:
        both = -1 if given["memory_swap"].strip() == "-1" else size("limits.memory_swap", given["memory_swap"])
        if not values.get("limits.memory"):
            raise InputError("limits.memory_swap", given["memory_swap"], "limits.memory beside it")
        if both != -1 and both < values["limits.memory"]:
            raise InputError(
                "limits.memory_swap", given["memory_swap"], "at least limits.memory, for it is memory and swap together"
            )
        values["limits.memory_swap"] = both
    if given["cpus"] is not None:
        if not 0 <= given["cpus"] <= 4096 or 0 < given["cpus"] < 0.01:
            raise InputError("limits.cpus", given["cpus"], "a number of CPUs of 0.01 or more, or 0 for no limit")
        values["limits.cpus"] = round(given["cpus"], 3)
    if given["shm_size"] is not None:
        values["limits.shm_size"] = size("limits.shm_size", given["shm_size"])
        if not values["limits.shm_size"]:
            raise InputError("limits.shm_size", given["shm_size"], "a size above 0")


def _log(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["log"]
    if given is None:
        return
    if given["driver"] is not None:
        values["log.driver"] = given["driver"]
    sizes = {"driver": given["driver"], "max_size": given["max_size"], "max_file": given["max_file"]}
    if given["driver"] not in (None, "json-file", "local"):
        for key in ("max_size", "max_file"):
            if sizes[key] is not None:
                raise InputError(
                    f"log.{key}", sizes[key], f"nothing, for the driver {given['driver']} has no such option"
                )
    if given["max_size"] is not None:
        if not size("log.max_size", given["max_size"]):
            raise InputError("log.max_size", given["max_size"], "a size above 0")
        values["log.max_size"] = size("log.max_size", given["max_size"])
    if given["max_file"] is not None:
        values["log.max_file"] = _at_least("log.max_file", given["max_file"], 1)


def _health(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["health"]
    if given is None:
        return
    if not given["test"]:
        values["health"] = ()
        return
    for key, least in (("interval", 1), ("timeout", 1), ("retries", 1), ("start_period", 0)):
        _at_least(f"health.{key}", given[key], least)
    values["health"] = (
        ("CMD", *given["test"]), given["interval"], given["timeout"], given["retries"], given["start_period"],
    )  # fmt: skip


def _services(params: t.Mapping[str, t.Any]) -> t.Optional[tuple[Service, ...]]:
    if params["services"] is None:
        return None
    services: list[Service] = []
    for position, given in enumerate(params["services"]):
        if not 1 <= given["port"] <= 65535:
            raise InputError(f"services[{position}].port", given["port"], "a port from 1 to 65535")
        if any((given["port"], given["protocol"]) == (other.port, other.protocol) for other in services):
            raise InputError(
                f"services[{position}].port", given["port"], "a port that no other service of this VO-box has"
            )
        name = _one_line(f"services[{position}].name", given["name"])
        services.append(Service(name, given["port"], given["protocol"]))
    return tuple(services)


def _environment(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    for option in ("environment", "labels"):
        given = params[option]
        if given is None:
            continue
        for key, value in given.items():
            _one_line(option, key)
            _plain_text(f"{option}.{key}", value)
            if option == "labels" and key.startswith(OWN_LABELS):
                raise InputError(
                    f"labels.{key}", value, f"a name that does not begin with {OWN_LABELS}",
                    "Those are kept for this collection's own labels.",
                )  # fmt: skip
            if option == "environment" and not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", key):
                raise InputError(f"environment.{key}", value, "a name of letters, digits and underscores")
        values[option] = {str(key): str(value) for key, value in given.items()}
    if params["sysctls"] is not None:
        for key, value in params["sysctls"].items():
            _plain_text(f"sysctls.{key}", value)
            if not re.match(r"(net\.|kernel\.(msg|sem|shm)|fs\.mqueue\.)[\w./-]*\Z", key):
                raise InputError(
                    f"sysctls.{key}", value, "a parameter of the container's own namespaces: net.*, kernel.msg*,"
                    " kernel.sem,"
                    " kernel.shm* or fs.mqueue.*", "Set others on the host, see the role hep.gridbox.host_hardening."
                )  # fmt: skip
        values["sysctls"] = {key: str(value) for key, value in params["sysctls"].items()}


def _dns(params: t.Mapping[str, t.Any], values: dict[str, t.Any]) -> None:
    given = params["dns"]
    if given is None:
        return
    if given["servers"] is not None:
        servers = []
        for position, server in enumerate(given["servers"]):
            try:
                servers.append(str(ipaddress.ip_address(server)))
            except ValueError:
                raise InputError(f"dns.servers[{position}]", server, "the address of a name server") from None
        values["dns.servers"] = tuple(servers)
    if given["search"] is not None:
        for position, domain in enumerate(given["search"]):
            if not _DOMAIN.match(domain):
                raise InputError(
                    f"dns.search[{position}]", domain, "a domain such as example.org, or . for none", "One an entry."
                )
        values["dns.search"] = tuple(given["search"])
    if given["hosts"] is not None:
        hosts = {}
        for name, value in given["hosts"].items():
            if not _MACHINE.match(name):
                raise InputError("dns.hosts", name, "names of machines, such as squid or squid.example.org")
            try:
                # As text: a number would be taken for an address too.
                hosts[name] = str(ipaddress.ip_address(str(value)))
            except ValueError:
                raise InputError(f"dns.hosts.{name}", value, "an address") from None
        values["dns.hosts"] = hosts


def _plain_text(option: str, value: t.Any) -> None:
    """A value that stays what it was written as.

    :raises InputError: for a list or mapping, and for what YAML made of a word: numbers lose digits, yes becomes true.
    """
    if isinstance(value, (bool, float, dict, list)) or value is None:
        raise InputError(
            option, value, "text", 'Put it in quotes, so that it stays as written, for instance "yes" or "1.10".'
        )
    if "\0" in str(value) or "\n" in str(value):
        raise InputError(option, value, "one line of text")

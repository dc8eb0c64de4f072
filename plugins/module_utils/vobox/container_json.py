# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between the engine's JSON and option values: ``values_of`` reads an inspect, ``create_body`` writes a create request.

Pure, and each the other's inverse: what the engine makes of a body reads as the values the body was made of.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import (
    CERTIFICATE_TARGET,
    CVMFS_TARGET,
    KEY_TARGET,
    OWN_LABELS,
    Values,
    size,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import ENGINE_DEFAULT, effective
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.runner import INIT_FOLDER, START_PATH, STATE_FOLDER

Json = t.Dict[str, t.Any]

NAME_LABEL = f"{OWN_LABELS}vobox"
CREATION_LABEL = f"{OWN_LABELS}creation"

_SECOND = 1_000_000_000
_RLIMITS = ("nofile", "nproc", "core", "memlock")
_OWN_TARGETS = (CVMFS_TARGET, CERTIFICATE_TARGET, KEY_TARGET, START_PATH, INIT_FOLDER, STATE_FOLDER)
_ANONYMOUS = re.compile(r"[0-9a-f]{64}\Z")

#: What no option of ours names is taken over by a swap as it is: a container that was started by hand loses nothing.
_TAKEN_OVER_CONFIG = ("User", "WorkingDir", "Tty", "OpenStdin", "StopSignal")
_TAKEN_OVER_HOST_CONFIG = (
    "Tmpfs", "GroupAdd", "CgroupParent", "CpuShares", "CpusetCpus", "CpusetMems", "BlkioWeight", "MemoryReservation",
    "IpcMode", "PidMode", "UsernsMode", "UTSMode", "CgroupnsMode", "StorageOpt", "DeviceCgroupRules", "DeviceRequests",
    "ReadonlyRootfs", "Runtime", "OomKillDisable", "VolumesFrom",
)  # fmt: skip


def values_of(container: Json, image: Json, platform: str) -> dict[str, t.Any]:
    """The option values of a container.

    :param container: its inspect.
    :param image: the inspect of the image it was made from; empty if that is gone.
    :param platform: ``docker`` or ``podman``.
    """
    config, host = container["Config"], container["HostConfig"]
    values: dict[str, t.Any] = {"hostname": _hostname(config)}
    values.update(_read_network(container, platform))
    values.update(_read_mounts(container, image))
    values.update(_read_limits(host))
    values.update(
        {
            "privileges.privileged": bool(host.get("Privileged")),
            "privileges.capabilities": effective(host, platform),
            "privileges.security_opt": tuple(sorted(_security_opt(host))),
            "privileges.masked_paths": host.get("MaskedPaths") != [] or bool(host.get("Privileged")),
            "privileges.devices": tuple(sorted(_device(device) for device in host.get("Devices") or ())),
        }
    )
    log = host.get("LogConfig") or {}
    options = dict(log.get("Config") or {})
    values["log.driver"] = "json-file" if log.get("Type") == "k8s-file" else log.get("Type")
    max_size, max_file = options.pop("max-size", None), options.pop("max-file", None)
    values["log.max_size"] = size("log.max_size", max_size) if max_size and max_size != "-1" else None
    values["log.max_file"] = int(max_file) if max_file else None
    values["log.others"] = options
    values["restart_policy"] = (host.get("RestartPolicy") or {}).get("Name") or "no"
    values["restart_policy.retries"] = (host.get("RestartPolicy") or {}).get("MaximumRetryCount") or 0
    values["health"] = _health(config.get("Healthcheck"))
    values["environment"] = _beside(_environment(config), _environment(image.get("Config") or {}))
    labels = {key: value for key, value in (config.get("Labels") or {}).items() if not key.startswith(OWN_LABELS)}
    values["labels"] = _beside(labels, (image.get("Config") or {}).get("Labels") or {})
    values["dns.servers"] = tuple(host.get("Dns") or ())
    values["dns.search"] = tuple(host.get("DnsSearch") or ())
    values["dns.hosts"] = dict(line.split(":", 1) for line in host.get("ExtraHosts") or ())
    values["sysctls"] = dict(host.get("Sysctls") or {})
    values["stop_timeout"] = config.get("StopTimeout")
    values["init_script"] = any(
        mount.get("Destination") == INIT_FOLDER for mount in container.get("Mounts") or ()
    ) and _command(config.get("Entrypoint")) == (START_PATH,)
    values["entrypoint"] = _command(config.get("Entrypoint"))
    values["command"] = _command(config.get("Cmd"))
    values["others"] = {
        "Config": {key: config[key] for key in _TAKEN_OVER_CONFIG if config.get(key)},
        "HostConfig": {key: host[key] for key in _TAKEN_OVER_HOST_CONFIG if host.get(key)} | _init(host),
    }
    return values


def beside_image(wished: Values, image: Json) -> dict[str, t.Any]:
    """What is asked for as :func:`values_of` will read it: environment and labels without what the image sets alike."""
    config = image.get("Config") or {}
    values = dict(wished)
    for key, of_image in (("environment", _environment(config)), ("labels", config.get("Labels") or {})):
        if key in values:
            values[key] = _beside(values[key], of_image)
    return values


def without_image_defaults(values: Values, image: Json) -> dict[str, t.Any]:
    """The values a swap takes over: without those that the old image set, for the new one may set others."""
    config = image.get("Config") or {}
    kept = dict(values)
    for key, of_image in (
        ("health", _health(config.get("Healthcheck"))),
        ("command", _command(config.get("Cmd"))),
        ("entrypoint", _command(config.get("Entrypoint"))),
        ("stop_timeout", config.get("StopTimeout")),
    ):
        if kept.get(key) == of_image:
            del kept[key]
    if values["init_script"]:
        kept.pop("command", None)
        kept.pop("entrypoint", None)
    others = values["others"]
    own = {key: value for key, value in others["Config"].items() if value != config.get(key)}
    kept["others"] = {**others, "Config": own}
    return kept


def create_body(
    name: str, image: str, values: Values, folder: str, creation: str, api: tuple[int, ...], platform: str
) -> Json:
    """The Engine API's request that creates a container with these values.

    :param image: reference or id.
    :param values: what is not in it is left to image and engine.
    :param folder: of the VO-box's files on the host, see :mod:`.host_files`.
    :param creation: a mark of this one creation: its undo knows its own container by it, and each container has a
        folder of its own for the state of its init script, for two of them live side by side during a swap.
    :param api: version in use: the MAC moved into the endpoint with 1.44.
    """
    others = values.get("others") or {"Config": {}, "HostConfig": {}}
    config: Json = dict(others["Config"])
    host: Json = dict(others["HostConfig"])
    config["Image"] = image
    config["Hostname"] = values["hostname"]
    config["Env"] = [f"{key}={value}" for key, value in sorted((values.get("environment") or {}).items())]
    config["Labels"] = {**(values.get("labels") or {}), NAME_LABEL: name, CREATION_LABEL: creation}
    for key, field in (("entrypoint", "Entrypoint"), ("command", "Cmd")):
        if values.get(key) is not None:
            config[field] = list(values[key])
    if values.get("init_script"):
        config["Entrypoint"], config["Cmd"], config["StopSignal"] = [START_PATH], [], "SIGTERM"
        # Podman's own init is a package that need not be there; a shell as PID 1 reaps orphans too.
        host["Init"] = platform == "docker"
    if "health" in values:
        config["Healthcheck"] = _write_health(values["health"])
    if values.get("stop_timeout") is not None:
        config["StopTimeout"] = values["stop_timeout"]
    host["Mounts"] = _write_mounts(values, folder, creation)
    host.update(_write_limits(values))
    host.update(_write_privileges(values, platform))
    log = dict(values.get("log.others") or {})
    if values.get("log.max_size"):
        log["max-size"] = str(values["log.max_size"])
    if values.get("log.max_file"):
        log["max-file"] = str(values["log.max_file"])
    if values.get("log.driver"):
        host["LogConfig"] = {"Type": values["log.driver"], "Config": log}
    host["RestartPolicy"] = {"Name": values["restart_policy"]}
    if values["restart_policy"] == "on-failure":
        host["RestartPolicy"]["MaximumRetryCount"] = values.get("restart_policy.retries") or 0
    host["Dns"] = list(values.get("dns.servers") or ())
    host["DnsSearch"] = list(values.get("dns.search") or ())
    host["ExtraHosts"] = [f"{key}:{value}" for key, value in sorted((values.get("dns.hosts") or {}).items())]
    host["Sysctls"] = dict(values.get("sysctls") or {})
    network = values["network.name"]
    host["NetworkMode"] = network
    endpoint: Json = {"IPAMConfig": {}}
    for key, field in (("network.ipv4", "IPv4Address"), ("network.ipv6", "IPv6Address")):
        if values.get(key):
            endpoint["IPAMConfig"][field] = values[key]
    if values.get("network.mac"):
        if api < (1, 44) and platform == "docker":
            config["MacAddress"] = values["network.mac"]
        else:
            endpoint["MacAddress"] = values["network.mac"]
    return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": {network: endpoint}}}


def update_body(values: Values) -> Json:
    """The Engine API's request that changes a living container's limits and restart policy to these values."""
    body: Json = {}
    if "restart_policy" in values:
        body["RestartPolicy"] = {"Name": values["restart_policy"]}
        if values["restart_policy"] == "on-failure":
            body["RestartPolicy"]["MaximumRetryCount"] = values.get("restart_policy.retries") or 0
    if "limits.memory" in values:
        body["Memory"] = values["limits.memory"]
    if "limits.memory_swap" in values:
        body["MemorySwap"] = values["limits.memory_swap"]
    if "limits.cpus" in values:
        body["NanoCpus"] = int(values["limits.cpus"] * _SECOND)
    if "limits.pids" in values:
        body["PidsLimit"] = values["limits.pids"]
    return body


# ---- reading -----------------------------------------------------------------------------------------------------


def _hostname(config: Json) -> str:
    domain = config.get("Domainname")
    return f"{config.get('Hostname', '')}.{domain}" if domain else str(config.get("Hostname", ""))


def _read_network(container: Json, platform: str) -> dict[str, t.Any]:
    """Name, addresses and MAC. An address that the engine chose is told as such: it may change at a restart."""
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    mode = container["HostConfig"].get("NetworkMode", "")
    name = mode if mode in networks else next(iter(sorted(networks)), mode)
    endpoint = networks.get(name) or {}
    fixed = endpoint.get("IPAMConfig") or {}

    def address(pinned: str, current: str) -> t.Optional[str]:
        if fixed.get(pinned):
            return shortest(fixed[pinned])
        if not endpoint.get(current):
            return None
        # Podman 4.3 does not tell which addresses are fixed.
        return str(endpoint[current]) if platform == "podman" else f"{endpoint[current]} (not fixed)"

    pinned_mac = container["Config"].get("MacAddress") or (endpoint.get("DriverOpts") or {}).get("mac")
    mac = endpoint.get("MacAddress") or pinned_mac
    return {
        "network.name": name,
        "network.ipv4": address("IPv4Address", "IPAddress"),
        "network.ipv6": address("IPv6Address", "GlobalIPv6Address"),
        "network.mac": mac.lower() if mac else None,
        "network.others": {
            other: _attachment(networks[other], container["Id"][:12]) for other in sorted(networks) if other != name
        },
    }


def shortest(address: t.Optional[str]) -> t.Optional[str]:
    """An address in its shortest spelling, if there is one: of what it was asked for the engine keeps the spelling."""
    return str(ipaddress.ip_address(address)) if address else None


def _attachment(endpoint: Json, short_id: str) -> Json:
    """The Engine API's ``EndpointConfig`` that gives another container what this one asked for on a network."""
    asked = {
        # The engine adds the short id by itself.
        "Aliases": [alias for alias in endpoint.get("Aliases") or () if alias != short_id],
        "DriverOpts": endpoint.get("DriverOpts"),
        "IPAMConfig": {key: value for key, value in (endpoint.get("IPAMConfig") or {}).items() if value},
    }
    return {key: value for key, value in asked.items() if value}


def _read_mounts(container: Json, image: Json) -> dict[str, t.Any]:
    declared = (image.get("Config") or {}).get("Volumes") or {}
    mounts = {mount["Destination"]: mount for mount in container.get("Mounts") or () if mount.get("Destination")}
    volumes, anonymous = [], []
    for target, mount in sorted(mounts.items()):
        source = mount.get("Name") if mount.get("Type") == "volume" else mount.get("Source")
        if mount.get("Type") not in ("bind", "volume") or target in _OWN_TARGETS:
            continue
        if mount["Type"] == "volume" and _ANONYMOUS.match(str(source)) and target in declared:
            anonymous.append((target, source))
        else:
            propagation = (mount.get("Propagation") or "rprivate") if mount["Type"] == "bind" else "rprivate"
            volumes.append((target, source, not mount.get("RW", True), propagation))
    cvmfs, certificate, key = (mounts.get(target) for target in (CVMFS_TARGET, CERTIFICATE_TARGET, KEY_TARGET))
    return {
        "cvmfs": (cvmfs["Source"], cvmfs.get("Propagation") or "rprivate") if cvmfs else None,
        "host_certificate": (certificate["Source"], key["Source"]) if certificate and key else None,
        "volumes": tuple(volumes),
        "volumes.anonymous": tuple(anonymous),
    }


def _read_limits(host: Json) -> dict[str, t.Any]:
    limits: dict[str, t.Any] = {f"limits.{name}": None for name in _RLIMITS}
    others = []
    for limit in host.get("Ulimits") or ():
        name = limit["Name"].lower().replace("rlimit_", "")
        if name in _RLIMITS:
            limits[f"limits.{name}"] = (limit["Soft"], limit["Hard"])
        else:
            others.append((name, limit["Soft"], limit["Hard"]))
    pids = host.get("PidsLimit")
    return {
        **limits,
        "limits.others": tuple(sorted(others)),
        "limits.pids": pids if pids and pids > 0 else -1,
        "limits.memory": host.get("Memory") or 0,
        "limits.memory_swap": host.get("MemorySwap") or 0,
        "limits.cpus": _cpus(host),
        "limits.shm_size": host.get("ShmSize") or 0,
    }


def _cpus(host: Json) -> float:
    if host.get("NanoCpus"):
        return round(float(host["NanoCpus"]) / _SECOND, 3)
    quota, period = float(host.get("CpuQuota") or 0), float(host.get("CpuPeriod") or 100_000)
    return round(quota / period, 3) if quota > 0 else 0.0


def _security_opt(host: Json) -> set[str]:
    # The engine's client writes seccomp:unconfined in one version, seccomp=unconfined in another.
    return {option.replace(":", "=", 1) for option in host.get("SecurityOpt") or ()}


def _device(device: Json) -> str:
    source, target = device["PathOnHost"], device["PathInContainer"]
    permissions = device.get("CgroupPermissions") or "rwm"
    if source == target and permissions == "rwm":
        return str(source)
    return f"{source}:{target}:{permissions}"


def _health(check: t.Optional[Json]) -> tuple[t.Any, ...]:
    """Test and times in seconds; empty without a test. What is 0 the engine takes for its own default."""
    if not check or not check.get("Test") or check["Test"][0] == "NONE":
        return ()
    return (
        tuple(check["Test"]),
        (check.get("Interval") or 30 * _SECOND) // _SECOND,
        (check.get("Timeout") or 30 * _SECOND) // _SECOND,
        check.get("Retries") or 3,
        (check.get("StartPeriod") or 0) // _SECOND,
    )


def _environment(config: Json) -> dict[str, str]:
    pairs = (line.partition("=") for line in config.get("Env") or ())
    return {key: value for key, _separator, value in pairs}


def _beside(mine: t.Mapping[str, str], of_image: t.Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in mine.items() if of_image.get(key) != value}


def _command(given: t.Any) -> t.Optional[tuple[str, ...]]:
    return tuple(given) if given else None


def _init(host: Json) -> Json:
    return {"Init": host["Init"]} if host.get("Init") is not None else {}


# ---- writing -----------------------------------------------------------------------------------------------------


def _bind(source: str, target: str, read_only: bool, propagation: str = "rprivate") -> Json:
    # As a mount, never as a "bind" text: its option list has no place for every propagation in every client.
    return {
        "Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only,
        "BindOptions": {"Propagation": propagation},
    }  # fmt: skip


def _write_mounts(values: Values, folder: str, creation: str) -> list[Json]:
    mounts = []
    if values.get("init_script"):
        mounts.append(_bind(f"{folder}/init", INIT_FOLDER, read_only=True))
        mounts.append(_bind(f"{folder}/init/start", START_PATH, read_only=True))
        mounts.append(_bind(f"{folder}/run/{creation}", STATE_FOLDER, read_only=False))
    if values.get("cvmfs"):
        source, propagation = values["cvmfs"]
        mounts.append(_bind(source, CVMFS_TARGET, read_only=True, propagation=propagation))
    if values.get("host_certificate"):
        for source, target in zip(values["host_certificate"], (CERTIFICATE_TARGET, KEY_TARGET)):
            mounts.append(_bind(source, target, read_only=True))
    for target, source, read_only, propagation in values.get("volumes") or ():
        if source.startswith("/"):
            mounts.append(_bind(source, target, read_only, propagation))
        else:
            mounts.append({"Type": "volume", "Source": source, "Target": target, "ReadOnly": read_only})
    taken = {mount["Target"] for mount in mounts}
    mounts += [
        {"Type": "volume", "Source": source, "Target": target, "ReadOnly": False}
        for target, source in values.get("volumes.anonymous") or ()
        if target not in taken
    ]
    return mounts


def _write_limits(values: Values) -> Json:
    ulimits = [
        {"Name": name, "Soft": values[f"limits.{name}"][0], "Hard": values[f"limits.{name}"][1]}
        for name in _RLIMITS
        if values.get(f"limits.{name}")
    ]
    ulimits += [{"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in values.get("limits.others") or ()]
    memory = values.get("limits.memory") or 0
    body: Json = {"Ulimits": ulimits, "Memory": memory, "PidsLimit": values.get("limits.pids", -1)}
    if memory:
        body["MemorySwap"] = values.get("limits.memory_swap") or memory
    if values.get("limits.cpus"):
        body["NanoCpus"] = int(values["limits.cpus"] * _SECOND)
    if values.get("limits.shm_size"):
        body["ShmSize"] = values["limits.shm_size"]
    return body


def _write_privileges(values: Values, platform: str) -> Json:
    body: Json = {
        "Privileged": values["privileges.privileged"],
        "SecurityOpt": list(values["privileges.security_opt"]),
        "Devices": [_write_device(device) for device in values["privileges.devices"]],
    }
    if not values["privileges.privileged"]:
        wanted = frozenset(values["privileges.capabilities"])
        if wanted != ENGINE_DEFAULT[platform]:
            body["CapDrop"], body["CapAdd"] = ["ALL"], sorted(wanted)
        if not values["privileges.masked_paths"]:
            body["MaskedPaths"], body["ReadonlyPaths"] = [], []
    return body


def _write_device(device: str) -> Json:
    source, _separator, rest = device.partition(":")
    target, _separator, permissions = rest.partition(":")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": permissions or "rwm"}


def _write_health(health: tuple[t.Any, ...]) -> Json:
    if not health:
        return {"Test": ["NONE"]}
    test, interval, timeout, retries, start_period = health
    return {
        "Test": list(test), "Interval": interval * _SECOND, "Timeout": timeout * _SECOND, "Retries": retries,
        "StartPeriod": start_period * _SECOND,
    }  # fmt: skip

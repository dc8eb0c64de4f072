# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a macvlan network needs at boot: its parent before the engine, and its shim anew.

The engine drops a macvlan network whose parent is not there when it starts (Docker logs a warning only), and links do
not outlive a reboot. With systemd as PID 1 this is settled by units; their text follows from the wish alone.
"""

from __future__ import annotations

import os
import string
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.network.links import SHIM_ALIAS, Shim

UNITS = "/etc/systemd/system"
NETWORK_MANAGER = "/etc/NetworkManager/conf.d"
_UDEV = "/run/udev/control"
_ENGINE_UNITS = {"docker": "docker.service", "podman": "podman.service"}
_PLAIN = set(string.ascii_letters + string.digits + ":_.")


@dataclass(frozen=True)
class BootHost:
    """What decides how the boot is provided for.

    :ivar systemd: whether systemd is PID 1 and the engine lives in its network namespace. A namespace that somebody
        made does not come back by booting, so units would make the shim in the wrong place.
    :ivar network_manager: whether NetworkManager is configured here, which else might take the shim for its own.
    :ivar udev: whether udev runs. Without it (in a container) systemd knows no links: what waits for one waits in vain.
    """

    systemd: bool = False
    network_manager: bool = False
    udev: bool = True

    @classmethod
    def read(cls) -> BootHost:
        """Ask this host."""
        systemd = os.path.isdir("/run/systemd/system") and cls._at_home()
        return cls(systemd, os.path.isdir(NETWORK_MANAGER), os.path.exists(_UDEV))

    @staticmethod
    def _at_home() -> bool:
        try:
            return os.stat("/proc/self/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
        except PermissionError:
            return True  # a login other than root's, which cannot have entered another namespace


def unit_name(shim: str) -> str:
    """The unit that makes a shim."""
    return f"gridbox-shim-{shim}.service"


def commands(shim: Shim) -> tuple[tuple[str, ...], ...]:
    """What makes the shim where there is none, as argument lists."""
    link = shim.name
    own = {address.version: str(address) for address in shim.addresses}
    made = [
        (
            "ip",
            "link",
            "add",
            "link",
            shim.parent,
            "name",
            link,
            "address",
            shim.mac,
            "type",
            "macvlan",
            "mode",
            shim.mode,
        ),
        ("ip", "link", "set", "dev", link, "alias", SHIM_ALIAS + shim.network),
        ("sysctl", "-q", "-e", "-w", f"net/ipv6/conf/{link}/accept_ra=0", f"net/ipv6/conf/{link}/autoconf=0"),
    ]
    for address in shim.addresses:
        nodad = ("nodad",) if address.version == 6 else ()
        made.append(("ip", "address", "add", f"{address}/{address.max_prefixlen}", "dev", link, *nodad))
    made.append(("ip", "link", "set", "dev", link, "up"))
    for route in shim.routes:
        scope = ("scope", "link") if route.version == 4 else ()
        made.append(("ip", "route", "add", str(route), "dev", link, "src", own[route.version], *scope))
    return tuple(made)


def files(host: BootHost, engine: str, network: str, parent: str, shim: t.Optional[Shim]) -> dict[str, str]:
    """The files that provide for the boot, path to text; none without systemd."""
    if not host.systemd:
        return {}
    head = f"# Made by hep.gridbox.macvlan_net for the network {network}; changes are overwritten.\n"
    device = f"sys-subsystem-net-devices-{escape(parent)}.device"
    engine_unit = _ENGINE_UNITS[engine]
    # Without udev the best there is: after whoever makes the host's links, if that is a unit.
    engine_after = f"Wants={device}\nAfter={device}\n" if host.udev else "After=network.target\n"
    shim_after = f"BindsTo={device}\nAfter={device}\n" if host.udev else "After=network.target\n"
    # By the device too: it may come after the boot has waited for it in vain, or again after it has gone.
    shim_for = f"multi-user.target {device}" if host.udev else "multi-user.target"
    made = {f"{UNITS}/{engine_unit}.d/gridbox-net-{network}.conf": f"{head}[Unit]\n{engine_after}"}
    if shim is not None:
        starts = "".join(f"ExecStart=/usr/sbin/{' '.join(command)}\n" for command in commands(shim))
        made[f"{UNITS}/{unit_name(shim.name)}"] = (
            f"{head}[Unit]\nDescription=The host's way to the containers on the network {network}\n"
            f"{shim_after}Before={engine_unit}\n\n"
            f"[Service]\nType=oneshot\nRemainAfterExit=yes\n"
            f"ExecStartPre=-/usr/sbin/ip link delete dev {shim.name}\n{starts}\n"
            f"[Install]\nWantedBy={shim_for}\n"
        )
        if host.network_manager:
            made[f"{NETWORK_MANAGER}/90-gridbox-{shim.name}.conf"] = (
                f"{head}[keyfile]\nunmanaged-devices+=interface-name:{shim.name}\n"
            )
    return made


def escape(name: str) -> str:
    """A name as systemd escapes it in a unit's name (systemd.unit(5))."""
    return "".join(
        character if character in _PLAIN and not (character == "." and index == 0) else f"\\x{ord(character):02x}"
        for index, character in enumerate(name)
    )


def read_files(host: BootHost, network: str, root: str = "") -> dict[str, str]:
    """The files of this module for a network that are on the host, path to text."""
    head = f"# Made by hep.gridbox.macvlan_net for the network {network};"
    folders = [UNITS, *(f"{UNITS}/{unit}.d" for unit in _ENGINE_UNITS.values())] if host.systemd else []
    if host.network_manager:
        folders.append(NETWORK_MANAGER)
    found: dict[str, str] = {}
    for folder in folders:
        if not os.path.isdir(root + folder):
            continue
        for name in sorted(os.listdir(root + folder)):
            path = f"{folder}/{name}"
            if "gridbox" in name and os.path.isfile(root + path):
                with open(root + path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if text.startswith(head):
                    found[path] = text
    return found


def not_enabled(files: t.Mapping[str, str], root: str = "") -> frozenset[str]:
    """Paths of the units that no boot starts: a link is missing that their ``WantedBy=`` has when they are enabled.

    A power cut may leave the file and take the links, which are made after it.

    :param files: as they are on the host, path to text.
    """
    return frozenset(
        path
        for path, text in files.items()
        for target in _wanted_by(text)
        if not os.path.islink(f"{root}{UNITS}/{target}.wants/{os.path.basename(path)}")
    )


def _wanted_by(unit: str) -> list[str]:
    return [target for line in unit.splitlines() if line.startswith("WantedBy=") for target in line[9:].split()]


def set_files(wanted: t.Mapping[str, t.Optional[str]], root: str = "") -> None:
    """Write files, or remove those whose text is None; enable and disable the units among them. Idempotent.

    :param root: another root folder than ``/``; then no running systemd is told.
    :raises GridboxError: if the file system or systemd refuses; a file is then as it was, or as wanted.
    """
    base = ["systemctl", f"--root={root}"] if root else ["systemctl"]
    units = [path for path in wanted if path.startswith(f"{UNITS}/gridbox-shim-")]
    for path in units:
        if wanted[path] is None and os.path.exists(root + path):
            run(f"Disabling {path}", [*base, "disable", os.path.basename(path)])
    for path, text in wanted.items():
        try:
            _clear(_beside(root + path))
            if text is None:
                _remove(root + path)
            elif not _has(root + path, text):  # the undo of what a full disk has kept from being written
                _write(root + path, text)
        except OSError as exc:
            raise GridboxError(f"{'Removing' if text is None else 'Writing'} {path} failed ({exc.strerror}).") from exc
    if wanted and not root:
        run("Telling systemd of changed units", ["systemctl", "daemon-reload"])
    for path in units:
        if wanted[path] is not None:
            # Anew: it may have been enabled for another parent's device.
            run(f"Enabling {path}", [*base, "reenable", os.path.basename(path)])


def _has(path: str, text: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read() == text


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = _beside(path)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        os.rename(beside, path)
    except BaseException:
        _clear(beside)
        raise


def _beside(path: str) -> str:
    """Where a file is written before it takes its place. Always the same, so that the undo of a killed run finds it."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.new"


def _clear(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _remove(path: str) -> None:
    _clear(path)
    folder = os.path.dirname(path)
    if folder.endswith(".service.d") and os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)

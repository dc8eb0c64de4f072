# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A network of an Apptainer machine's own, for which nobody needs a privilege.

The machine's account makes a user namespace, in which it is nobody but itself, and a network namespace in that.
``pasta`` (of passt) runs beside the machine, as the same account and within the machine's limits, and carries what
leaves it through sockets of the host's network, IPv4 and IPv6, TCP, UDP and ICMP echo. The other way, nobody comes in.
What listens on the host's addresses is reached as on an engine's bridge; what listens on its loopback is not, but for
its resolver. When the machine ends, its namespaces go, and ``pasta`` with all that is in its groups.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host import command
from ansible_collections.hep.gridbox.plugins.module_utils.host.bind import bind
from ansible_collections.hep.gridbox.plugins.module_utils.host.text_file import read_text

#: The program that joins it to the host's.
PROGRAM = "pasta"

#: Inside, the same in every machine. The host's own addresses stay what they are: were the machine to have them, as
#: ``pasta`` has it by default, it would not reach the host. Of IPv4 those that QEMU and slirp have there.
_IPV4, _IPV4_PREFIX, _IPV4_GATEWAY = "10.0.2.100", "24", "10.0.2.2"
_IPV6, _IPV6_GATEWAY = "fd00:10:2::100", "fe80::2"
#: By IP version, where a resolver on the host's loopback is reached.
RESOLVERS = {4: "10.0.2.3", 6: "fd00:10:2::3"}

_RESOLV_CONF = "/etc/resolv.conf"

#: Seconds for each of the two steps.
_SECONDS = 20.0

_NO_NAMESPACES = "User and network namespaces cannot be made by the machines' account."

#: By itself in namespaces of its own.
_UNSHARE = ("unshare", "--user", "--map-current-user", "--net", "--")

#: It says that its namespaces are made, and becomes the machine when it hears that they are joined. What it becomes
#: are words of their own, which the shell does not look into.
_WHEN_JOINED = 'echo >&0 && read -r _joined && exec "$@" </dev/null'

_Address = t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
#: Starts a command as the machine's account and within its limits, given its words and streams.
Start = t.Callable[..., "subprocess.Popen[bytes]"]


def program() -> t.Optional[str]:
    """Where this host has it; None: it has not."""
    return shutil.which(PROGRAM, path=command.SYSTEM_PATH)


def trial(inside: t.Sequence[str]) -> str:
    """Why an account has no namespaces of a network's own on this host, in a sentence; empty: it has.

    :param inside: the command that runs another one as the account.
    """
    try:
        command.run("Making namespaces", [*_UNSHARE, "true"], _SECONDS, inside=inside)
    except GridboxError as exc:
        return f"{_NO_NAMESPACES} {exc}"
    return ""


def in_namespaces(argv: t.Sequence[str]) -> list[str]:
    """The command that becomes another one in namespaces of its own; its standard input is for :func:`join`."""
    return [*_UNSHARE, "sh", "-c", _WHEN_JOINED, "machine", *argv]


def join(pid: int, peer: socket.socket, start: Start, folder: str) -> None:
    """Join a machine's network to the host's; a line to ``peer`` then lets it begin. In a mount namespace that the
    machine has too.

    :param pid: of what :func:`in_namespaces` has made.
    :param peer: the other end of its standard input.
    :param folder: for files that are mounted over others.
    :raises GridboxError: if that fails.
    :raises WaitError: if that is not known in time.
    """
    peer.settimeout(_SECONDS)
    try:
        if not peer.recv(1):
            raise GridboxError(_NO_NAMESPACES)
    except socket.timeout as exc:
        raise WaitError("its namespaces to be made", _SECONDS) from exc
    names = resolvers(read_text(_RESOLV_CONF) or "")
    if names is not None:
        _lay_over(_RESOLV_CONF, folder, "resolvers", names.known_to_host)
    forwarded = names.forwarded if names is not None else ()
    _carry([_shown_program(folder), *_options(forwarded, _has_ipv6(), _interface()), str(pid)], start)
    if names is not None:
        _lay_over(_RESOLV_CONF, folder, "resolv.conf", names.known_to_machine)


def _shown_program(folder: str) -> str:
    """Where the program is run from.

    Under its own path AppArmor's profile of Debian 12 and Ubuntu 24.04 keeps it from the namespaces of other processes:
    they have no rule ``ptrace read``, as Debian 13's has. It has namespaces and a filter of system calls of its own.
    """
    found = program()
    if found is None:
        raise GridboxError(f"It has no network: this host has no {PROGRAM}. Install passt, or set network: host.")
    source, place = os.path.realpath(found), os.path.join(folder, PROGRAM)
    for build in ("", ".avx2"):  # what it becomes where the processor has that
        if os.path.exists(source + build):
            bind(f"Showing {PROGRAM}", source + build, place + build)
    return place


def _carry(argv: t.Sequence[str], start: Start) -> None:
    process = start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        said = process.communicate(timeout=_SECONDS)[1].decode(errors="replace")
    except subprocess.TimeoutExpired as exc:
        process.kill()
        raise WaitError(f"{PROGRAM} to join its network to the host's", _SECONDS) from exc
    if process.returncode:
        last = " ".join(said.split())[-500:] or "nothing"
        raise GridboxError(f"It has no network: {PROGRAM} ended with {process.returncode} and says: {last}.")


def _options(forwarded: t.Sequence[str], ipv6: bool, interface: str) -> list[str]:
    """With which it goes on in the background as soon as the network is there."""
    # Nothing that listens in the machine is to be reached by the host's network, and nothing of the host's loopback by
    # the machine, not by the gateway's address either.
    closed = ["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--no-map-gw"]
    addresses = ["--address", _IPV4, "--netmask", _IPV4_PREFIX, "--gateway", _IPV4_GATEWAY]
    addresses += ["--address", _IPV6, "--gateway", _IPV6_GATEWAY] if ipv6 else ["--ipv4-only"]
    names = [word for address in forwarded for word in ("--dns-forward", address)]
    place = ["--interface", interface] if interface else []
    return ["--quiet", "--config-net", "--ns-ifname", "eth0", *closed, *addresses, *names, *place]


def _has_ipv6() -> bool:
    """Whether this host has an address of IPv6 that others can know."""
    found = [ipaddress.IPv6Address(int(line.split()[0], 16)) for line in _lines("/proc/net/if_inet6")]
    return any(not (one.is_loopback or one.is_link_local) for one in found)


def _interface() -> str:
    """One of this host's interfaces, if it has no default route; empty: it has, or no other route either.

    ``pasta`` takes that of the default route by itself, and before October 2024 no other.
    """
    routes = [line.split() for line in _lines("/proc/net/route")[1:]]
    if any(one[1] == one[7] == "00000000" for one in routes):
        return ""
    if any(one[:2] == ["0" * 32, "00"] and one[9] != "lo" for one in map(str.split, _lines("/proc/net/ipv6_route"))):
        return ""
    return routes[0][0] if routes else ""


def _lines(path: str) -> list[str]:
    """Of a file that not every kernel has."""
    return (read_text(path) or "").splitlines()


# ---- names -----------------------------------------------------------------------------------------------------------


class Resolvers(t.NamedTuple):
    """How a machine asks for names where the host's resolver is on its loopback.

    :ivar known_to_host: a resolv.conf for ``pasta``, which reads the plainest form only.
    :ivar known_to_machine: the machine's.
    :ivar forwarded: addresses of which ``pasta`` asks the host's resolver.
    """

    known_to_host: str
    known_to_machine: str
    forwarded: tuple[str, ...]


def resolvers(resolv_conf: str) -> t.Optional[Resolvers]:
    """None: the host's resolvers are reached by everybody, and its resolv.conf serves. Pure.

    :param resolv_conf: the host's. Without a resolver in it, that is the host itself (resolv.conf(5)).
    """
    lines = [line.strip() for line in resolv_conf.splitlines()]
    asked = {line: _address(line) for line in lines if line.split()[:1] == ["nameserver"]}
    if not asked:
        asked = {"nameserver 127.0.0.1": ipaddress.ip_address("127.0.0.1")}
        lines = [*asked, *lines]
    local = [one for one in asked.values() if one is not None and one.is_loopback]
    if not local:
        return None
    forwarded = {RESOLVERS[one.version] for one in local}
    hosts = [f"nameserver {one}" for one in local]
    machines = dict.fromkeys(_elsewhere(line, asked.get(line)) for line in lines)  # without a second one of the same
    return Resolvers("\n".join([*hosts, ""]), "\n".join([*machines, ""]), tuple(sorted(forwarded)))


def _elsewhere(line: str, address: t.Optional[_Address]) -> str:
    """A line of resolv.conf, seen from the machine."""
    return f"nameserver {RESOLVERS[address.version]}" if address is not None and address.is_loopback else line


def _address(line: str) -> t.Optional[_Address]:
    with contextlib.suppress(ValueError, IndexError):
        return ipaddress.ip_address(line.split()[1].partition("%")[0])
    return None


def _lay_over(path: str, folder: str, name: str, text: str) -> None:
    """Show a text in the place of a file, in this mount namespace; there is nothing to do where there is no file."""
    if not os.path.exists(path):
        return
    source = os.path.join(folder, name)
    with open(source, "w", encoding="utf-8") as file:
        file.write(text)
    bind(f"Showing another {path}", source, os.path.realpath(path))

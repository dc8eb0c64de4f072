# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to a Docker daemon in its life under systemd, on a native host of a fleet with VO-boxes.

A VO-box serves port 80 on the LAN and writes numbered lines of 100 bytes to its log, while the daemon is killed,
restarted, its package installed again.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from tests.lab.fleet import NETWORK, Fleet, parse
from tests.lab.hosts import Machine
from tests.lab.image import busybox_tar
from tests.lab.modules_over_ssh import Call, call

HOST = "host1"
#: Serves, and writes a line, pauses, writes a line; /tmp/n has the number of the last one that was written.
PROGRAM = """
httpd -p 80 -h /www
n=0
while :; do n=$((n + 1)); printf '%099d\\n' $n; echo $n >/tmp/n; usleep PAUSE; done
"""
#: How long "stopped, started" leaves the host without a daemon.
STOPPED_SECONDS = 3

_REINSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install --reinstall"
_RECONFIGURE = """
import json, pathlib, time
file = pathlib.Path("/etc/docker/daemon.json")
keys = json.loads(file.read_text()) if file.exists() else {}
file.write_text(json.dumps({**keys, "labels": [f"org.example.changed={time.time()}"]}))
"""


@dataclass(frozen=True)
class Event:
    """Something that happens to the daemon.

    :ivar commands: what an operator types to make it happen.
    :ivar changes: what differs on the host afterwards, and shows that it has happened: of :class:`Seen`.
    """

    commands: str
    changes: frozenset[str] = frozenset()


EVENTS = {
    "killed": Event(
        "kill -KILL $(systemctl show --property MainPID --value docker.service)", frozenset({"daemon"})
    ),
    "stopped, started": Event(
        f"systemctl stop docker.socket docker.service; sleep {STOPPED_SECONDS}; systemctl start docker.service",
        frozenset({"daemon"}),
    ),
    "restarted": Event("systemctl restart docker.service", frozenset({"daemon"})),
    "reconfigured, reloaded": Event(
        f"python3 -c '{_RECONFIGURE}'; systemctl reload docker.service", frozenset({"labels"})
    ),
    # The maintainer scripts of Debian's docker.io leave a running daemon alone; those of its containerd restart that.
    "docker.io reinstalled": Event(f"{_REINSTALL} docker.io"),
    "docker.io reinstalled, restarted": Event(
        f"{_REINSTALL} docker.io; systemctl restart docker.service", frozenset({"daemon"})
    ),
    "containerd reinstalled": Event(f"{_REINSTALL} containerd", frozenset({"containerd"})),
}  # fmt: skip


#: Makes NEWER of the archive's docker.io, whose daemon says that it is the next patch level: a distribution's archive
#: has one version of a package at a time.
MAKE_NEWER = """
cd $(mktemp -d /tmp/newer.XXXXXX)
apt-get -qq download docker.io
dpkg-deb --raw-extract docker.io_*.deb tree
old=$(docker version --format '{{.Server.Version}}')
new=$(echo "$old" | perl -pe 's/^(\\d+\\.\\d+\\.)(\\d+)/$1 . ($2 + 1)/e')
[ ${#old} = ${#new} ]
sed -i "s/$(echo "$old" | sed 's/[.+]/[&]/g')/$new/g" tree/usr/sbin/dockerd
sed -i 's/^Version: .*/&.newer1/' tree/DEBIAN/control
dpkg-deb --build -Znone tree NEWER >/dev/null
cd / && rm -r "$OLDPWD"
echo "$old $new"
""".replace("NEWER", _NEWER := "/var/tmp/docker-newer.deb")
#: Not among the others: there is no way back from it.
UPGRADED = Event(
    f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {_NEWER};"
    " systemctl restart docker.service",
    frozenset({"daemon", "version"}),
)


@dataclass(frozen=True)
class Seen:
    """What runs on the host: pid and start of each process, so that another one of the same pid is another one.

    :ivar labels: of the daemon, from its configuration file.
    :ivar version: that it says it has.
    """

    daemon: str
    containerd: str
    labels: str
    version: str

    def changes(self, before: Seen) -> frozenset[str]:
        """What differs."""
        return frozenset(name for name, value in vars(self).items() if value != vars(before)[name])


_PROCESS = "process() { echo $1 $(cut -d ' ' -f 22 /proc/$1/stat); }"
_SEE = f"""
{_PROCESS}
process $(systemctl show --property MainPID --value docker.service)
process $(systemctl show --property MainPID --value containerd.service)
docker info --format '{{{{.Labels}}}}'
docker version --format '{{{{.Server.Version}}}}'
"""


def vobox(number: int = 1, pause: float = 0.05) -> dict[str, t.Any]:
    """The options of vobox_container.

    :param pause: seconds between one line of its log and the next.
    """
    return {
        "name": f"vobox{number}",
        "image": "busybox:test",
        "hostname": f"vobox{number}.example.org",
        "network": {"name": "site", "ipv4": f"10.213.1.{number}", "ipv6": f"fd13:213::1:{number}"},
        "command": ["sh", "-c", PROGRAM.replace("PAUSE", str(round(pause * 1e6)))],
        "services": [{"name": "web", "port": 80}],
        "log": {"driver": "json-file", "max_size": "200m", "max_file": 2},
        "restart_policy": "unless-stopped",
        "stop_timeout": 2,
    }


def identity(number: int = 1) -> Identity:
    """Where a VO-box is reached."""
    network = vobox(number)["network"]
    return Identity("site", "", network["ipv4"], network["ipv6"])


class Happened(t.NamedTuple):
    """An event that has happened.

    :ivar seconds: for which there was no daemon, at most.
    :ivar printed: by its commands.
    """

    seconds: float
    printed: str


class EventHost:
    """A host with Debian's engine under systemd, a network for VO-boxes, and one VO-box."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.machine = t.cast(Machine, fleet.machine(HOST))

    @classmethod
    def make(cls, name: str, folder: Path, suite: str = "bookworm") -> EventHost:
        """Start a fleet with the host in it; the caller stops it, also when this fails."""
        fleet = Fleet(name)
        fleet.start(parse([f"{HOST}=native:{suite}"]))
        made = cls(fleet, folder)
        made.machine.install("docker.io", "python3-docker", "python3-pyroute2")
        made.machine.feed(busybox_tar(), "docker", "import", "-", "busybox:test")
        made.call(Call("macvlan_net", NETWORK), Call("vobox_container", vobox()))
        return made

    def call(self, *calls: Call) -> list[dict[str, t.Any]]:
        """Run modules on it."""
        return call(self.fleet, HOST, self.folder, *calls)

    def shell(self, commands: str) -> str:
        """Run commands of its shell; what they print."""
        return self.machine.run("sh", "-ec", commands, timeout=180).stdout

    def seen(self) -> Seen:
        """What runs on it, asking the daemon too, which waits for one that comes up just now."""
        return Seen(*self.shell(_SEE).splitlines())

    def happen(self, event: Event, seconds: float = 60) -> Happened:
        """Make it happen and wait until it has.

        :raises AssertionError: if what the event changes is not changed in time, or if something else is.
        """
        # Without that systemd refuses a fourth start within a minute.
        self.shell("systemctl reset-failed docker.service docker.socket")
        before = self.seen()
        began = time.monotonic()
        printed = self.shell(event.commands)
        while True:
            asked = self.machine.run("sh", "-ec", _SEE, check=False)
            after = Seen(*asked.stdout.splitlines()) if asked.returncode == 0 else None
            if after and after.changes(before) == event.changes:
                return Happened(time.monotonic() - began, printed)
            assert time.monotonic() < began + seconds, (
                f"waited {seconds} s for a change of {sorted(event.changes)}: {before} became {after or asked}"
            )
            time.sleep(0.1)

    def container(self, name: str = "vobox1") -> str:
        """A container's process, with its start, and how often the engine has restarted it."""
        return self.shell(
            f"{_PROCESS}; process $(docker inspect --format '{{{{.State.Pid}}}}' {name});"
            f" docker inspect --format '{{{{.RestartCount}}}} {{{{.State.StartedAt}}}}' {name}"
        )

    def lines_written(self, name: str = "vobox1") -> int:
        """How many lines a VO-box has written until now, as it says itself."""
        # The shell truncates the file before it writes to it.
        inside = "until grep . /tmp/n; do usleep 1000; done"
        return int(self.shell(f"docker exec {name} sh -c '{inside}'"))

    def lines_logged(self, at_least: int, name: str = "vobox1", seconds: float = 30) -> list[int]:
        """The numbers in its log, once there are so many of them."""
        deadline = time.monotonic() + seconds
        while True:
            lines = [int(line) for line in self.shell(f"docker logs {name}").split()]
            if lines and lines[-1] >= at_least:
                return lines
            assert time.monotonic() < deadline, f"waited {seconds} s for line {at_least}: the log ends at {lines[-1:]}"
            time.sleep(0.2)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claims A11 and B7: what containers see of repositories that autofs mounts, and of static mounts.

Real autofs, FUSE and engine on a host with systemd; a repository is a squashfs file.
"""

from __future__ import annotations

import functools
import typing as t

import pytest

from tests.integration.cvmfs_host import CvmfsHost

Claim = t.Callable[..., None]

LOOPS = "Too many levels of symbolic links"
MISSING = "No such file or directory"
DEAD = "Transport endpoint is not connected"

PROPAGATIONS = ("rprivate", "rslave", "rshared")

#: How many seconds an idle repository stays mounted.
IDLE = 3

#: Each row has repositories of its own, for what was looked at once is mounted.
REPOSITORIES = [f"r{number}.example.org" for number in range(40)]

MAP = """#!/bin/sh
[ -f "/srv/cvmfs/$1.sqfs" ] && echo "-fstype=fuse.squashfuse,ro,nosuid,nodev,allow_other :/srv/cvmfs/$1.sqfs"
"""

SETUP = f"""
mkdir -p /srv/cvmfs /srv/content
echo content >/srv/content/name
mksquashfs /srv/content /srv/cvmfs/one -quiet -no-progress
for name in {" ".join(REPOSITORIES)}; do ln /srv/cvmfs/one /srv/cvmfs/$name.sqfs; done
sed -i 's/^timeout.*/timeout = {IDLE}/' /etc/autofs.conf
systemctl restart autofs
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[CvmfsHost]:
    """A host whose autofs mounts repositories in /cvmfs, and in /auto/cvmfs."""
    with CvmfsHost.booted("autofs", tmp_path_factory.mktemp("autofs")) as made:
        made.write("/etc/auto.cvmfs", MAP, "755")
        made.write("/etc/auto.master.d/cvmfs.autofs", "/cvmfs /etc/auto.cvmfs\n/auto/cvmfs /etc/auto.cvmfs\n")
        made.sh(SETUP)
        yield made


@pytest.fixture()
def fresh(host: CvmfsHost) -> t.Iterator[t.Iterator[str]]:
    """Repositories that nobody has looked at; the containers of the test are removed."""
    used: set[str] = host.__dict__.setdefault("used", set())
    yield (used.add(name) or name for name in REPOSITORIES if name not in used)  # type: ignore[func-returns-value]
    host.sh("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")


def _mounted(host: CvmfsHost, repository: str) -> bool:
    # Not by a program that looks at the path: that would have it mounted.
    return f" /cvmfs/{repository} fuse." in host.sh("cat /proc/mounts")


def _touch(host: CvmfsHost, repository: str) -> None:
    assert host.sh(f"cat /cvmfs/{repository}/name") == "content"


def _squashfs(name: str) -> dict[str, str]:
    """A static mount of what autofs mounts."""
    return {"repository": name, "source": "squashfs", "path": f"/srv/cvmfs/{name}.sqfs"}


def test_a11_propagation_and_order(host: CvmfsHost, fresh: t.Iterator[str], claim: Claim) -> None:
    seen: dict[str, dict[str, str]] = {}
    for propagation in PROPAGATIONS:
        before, after, never = next(fresh), next(fresh), next(fresh)
        _touch(host, before)
        host.box(propagation, f"/cvmfs:/cvmfs:{propagation}")
        _touch(host, after)
        order = {"touched_before": before, "touched_after": after, "untouched": never}
        seen[propagation] = {when: host.read(propagation, f"/cvmfs/{name}/name") for when, name in order.items()}
        _touch(host, never)  # the host has no trouble
    for when in ("touched_before", "touched_after", "untouched"):
        claim("A11", autofs=when, **{name: seen[name][when].replace(" ", "_") for name in PROPAGATIONS})
    assert seen == {
        "rprivate": {"touched_before": "content", "touched_after": LOOPS, "untouched": LOOPS},
        "rslave": {"touched_before": "content", "touched_after": "content", "untouched": "content"},
        "rshared": {"touched_before": "content", "touched_after": "content", "untouched": "content"},
    }
    host.run("systemctl", "reload", "autofs")
    assert host.read("rslave", f"/cvmfs/{next(fresh)}/name") == "content"


def test_a11_one_repository_bound(host: CvmfsHost, fresh: t.Iterator[str], claim: Claim) -> None:
    host.box("looked-up", f"/cvmfs/{next(fresh)}:/repository")
    assert host.read("looked-up", "/repository/name") == "content"  # the engine's own look had it mounted
    unknown = ("docker", "run", "--rm", "--network", "none")
    bound = host.run(*unknown, "--volume", "/cvmfs/none.example.org:/r", "busybox:test", "true", check=False)
    assert bound.returncode in (125, 126) and "permission denied" in bound.stderr
    mount = "type=bind,source=/cvmfs/none.example.org,target=/r"
    mounted = host.run(*unknown, "--mount", mount, "busybox:test", "true", check=False)
    assert mounted.returncode == 125 and "bind source path does not exist" in mounted.stderr
    host.run("systemctl", "stop", "autofs")
    repository = next(fresh)
    host.box("too-early", f"/cvmfs/{repository}:/repository")  # the engine makes an empty folder
    host.run("systemctl", "start", "autofs")
    _touch(host, repository)
    seen = host.read("too-early", "/repository/name")
    claim("A11", bound_while_autofs_is_down="empty_for_ever")
    assert seen == MISSING
    assert host.sh("docker exec too-early ls -A /repository") == ""


def test_a11_idle_repositories(host: CvmfsHost, fresh: t.Iterator[str]) -> None:
    private, idle, busy = next(fresh), next(fresh), next(fresh)
    host.box("private", f"/cvmfs/{private}:/repository")
    host.box("slave", "/cvmfs:/cvmfs:rslave")
    assert host.read("slave", f"/cvmfs/{idle}/name") == "content"
    host.sh(f"docker exec --detach --workdir /cvmfs/{busy} slave sleep 9999")
    # They were mounted, or they could not have been read and bound; on a slow machine they may have gone again by now.
    for repository in (idle, private):
        gone = functools.partial(lambda name: not _mounted(host, name), repository)
        host.wait(f"autofs to unmount {repository}, which is idle", 10 * IDLE, gone)
    assert _mounted(host, busy)  # seen through the propagation
    assert f"/cvmfs/{idle}" not in host.sh("docker exec slave cat /proc/mounts")
    assert host.read("slave", f"/cvmfs/{idle}/name") == "content"
    assert host.read("private", "/repository/name") == "content"  # its own copy
    _touch(host, private)


def test_a11_autofs_restarted(host: CvmfsHost, fresh: t.Iterator[str], claim: Claim) -> None:
    host.run("systemctl", "stop", "autofs")
    host.run("mkdir", "-p", "/cvmfs")
    host.box("before-autofs", "/cvmfs:/cvmfs:rslave")
    host.run("systemctl", "start", "autofs")
    assert host.read("before-autofs", f"/cvmfs/{next(fresh)}/name") == "content"
    host.box("slave", "/cvmfs:/cvmfs:rslave")
    host.box("parent", "/auto:/auto:rslave")
    assert host.read("slave", f"/cvmfs/{next(fresh)}/name") == "content"
    host.run("systemctl", "restart", "autofs")
    repository = next(fresh)
    first = host.run("docker", "exec", "slave", "cat", f"/cvmfs/{repository}/name", check=False).returncode
    _touch(host, repository)
    seen = {name: host.read(name, f"/cvmfs/{repository}/name") for name in ("before-autofs", "slave")}
    seen["parent"] = host.read("parent", f"/auto/cvmfs/{next(fresh)}/name")
    claim("A11", restart_of_autofs_rslave=f"exit_{first},_then_{seen['slave'].replace(' ', '_')}")
    assert seen == {"before-autofs": "content", "slave": MISSING, "parent": "content"}
    assert first == 141  # killed by SIGPIPE: the pipe to the old daemon
    assert "fd=-1" in host.sh("docker exec slave cat /proc/mounts")
    host.run("docker", "restart", "--time", "0", "slave")
    assert host.read("slave", f"/cvmfs/{repository}/name") == "content"


def test_a11_autofs_killed(host: CvmfsHost, fresh: t.Iterator[str], claim: Claim) -> None:
    repository = next(fresh)
    host.box("slave", "/cvmfs:/cvmfs:rslave")
    assert host.read("slave", f"/cvmfs/{repository}/name") == "content"
    host.run("systemctl", "kill", "--signal", "KILL", "autofs")  # its clients live in its cgroup
    host.wait("autofs to be gone", 10, lambda: host.show("autofs", "ActiveState")["ActiveState"] == "failed")
    seen = host.read("slave", f"/cvmfs/{repository}/name")
    claim("A11", autofs_killed=seen.replace(" ", "_"))
    assert seen == DEAD
    # Dead mounts would have the next stop of autofs last three minutes.
    dead = "$(cut -d ' ' -f 2 /proc/mounts | grep -E '/cvmfs/.')"
    host.sh(f"umount --lazy {dead}; systemctl reset-failed autofs; systemctl start autofs")


def test_a11_and_b7_static_mounts_are_the_cure(host: CvmfsHost, fresh: t.Iterator[str], claim: Claim) -> None:
    used = [next(fresh) for _number in range(3)]
    arguments: dict[str, t.Any] = {
        "repositories": [_squashfs(name) for name in used[:2]],
        "squashfs_driver": "fuse",
        "max_disruption": "service",
        "wait_timeout": 20,
    }
    # An autofs that cannot end, for a client below it is dead, is not left half replaced.
    host.write("/etc/systemd/system/autofs.service.d/quick.conf", "[Service]\nTimeoutStopSec=2\n")
    _touch(host, dead := next(fresh))
    host.sh(f"systemctl daemon-reload; kill -9 $(pgrep -f '[s]quashfuse /srv/cvmfs/{dead}')")
    with pytest.raises(AssertionError, match="autofs ended, but left its mount at /cvmfs"):
        host.module("cvmfs_mounts", **arguments)
    assert host.show("autofs", "ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    host.sh(f"umount --lazy /cvmfs/{dead}")
    # What is wanted and mounted by autofs just now goes with it, and is mounted anew.
    host.sh("sed -i 's/^timeout.*/timeout = 600/' /etc/autofs.conf; systemctl restart autofs")
    _touch(host, used[0])
    announced = host.module("cvmfs_mounts", check=True, **arguments)
    assert _mounted(host, used[0])
    assert host.module("cvmfs_mounts", **arguments)["actions"] == announced["actions"]
    assert host.run("systemctl", "is-enabled", "autofs", check=False).stdout.strip() == "masked"
    for propagation in PROPAGATIONS:
        host.box(propagation, f"/cvmfs:/cvmfs:{propagation}")

    def seen(repository: str) -> dict[str, str]:
        return {name: host.read(name, f"/cvmfs/{repository}/name") for name in PROPAGATIONS}

    good = dict.fromkeys(PROPAGATIONS, "content")
    claim("A11", static=True, **seen(used[0]))
    assert seen(used[0]) == seen(used[1]) == good
    # Mounted with the containers running, by the module and by systemd.
    arguments["repositories"] += [_squashfs(used[2])]
    assert host.module("cvmfs_mounts", **arguments)["repositories"] == used
    assert seen(used[2]) == {**good, "rprivate": MISSING}
    host.run("systemctl", "restart", f"cvmfs-{used[0]}.mount")
    assert seen(used[0]) == good
    # What broke everything before can not be done, and what can be restarted breaks nothing.
    assert "masked" in host.run("systemctl", "restart", "autofs", check=False).stderr
    host.run("systemctl", "daemon-reexec")
    for name in PROPAGATIONS:
        host.run("docker", "restart", "--time", "0", name)
    for repository in used:
        assert seen(repository) == good
    assert not host.module("cvmfs_mounts", **arguments)["changed"]
    info = host.module("cvmfs_info", repositories=arguments["repositories"], wait_timeout=20)
    assert [each["problem"] for each in info["repositories"]] == ["", "", ""] and not info["automounted"]

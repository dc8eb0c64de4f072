# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CVMFS mounts: names, units, and what is mounted in which order."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs import client, mounts, units
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.client import LOCAL, Parameter
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.mounts import Observed, Unit, missing_helper
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption

CONFIG, ALICE = "cvmfs-config.cern.ch", "alice.cern.ch"


def make(systemd: bool = True, kernel: bool = True, mounted: t.Sequence[Mount] = (), **changes: t.Any) -> Wish:
    params: dict[str, t.Any] = {
        "root": "/cvmfs",
        "repositories": [{"repository": ALICE, "source": "client"}, {"repository": CONFIG, "source": "client"}],
        "config_repository": CONFIG,
        "squashfs_driver": "auto",
        "wait_timeout": 180,
        "state": "mounted",
        "supervisor": "auto",
    }
    return Wish.from_params({**params, **changes}, kernel, systemd, mounted)


@pytest.mark.parametrize(
    ("path", "name"),
    [  # as systemd-escape --path --suffix=mount prints them
        ("/cvmfs", "cvmfs.mount"),
        ("/cvmfs/alice.cern.ch", "cvmfs-alice.cern.ch.mount"),
        ("/cvmfs/alice-ocdb.cern.ch", "cvmfs-alice\\x2docdb.cern.ch.mount"),
        ("/srv/.hidden/a b", "srv-.hidden-a\\x20b.mount"),
        ("/.top", "\\x2etop.mount"),
        ("/", "-.mount"),
    ],
)
def test_unit_names(path: str, name: str) -> None:
    assert units.unit_name(path) == name


def test_the_configuration_repository_comes_first_and_the_others_wait_for_it() -> None:
    found = units.units(make())
    assert list(found) == [
        "cvmfs.mount", "cvmfs-cvmfs\\x2dconfig.cern.ch.mount", "cvmfs-alice.cern.ch.mount",
        "gridbox-cvmfs-heal.service", "gridbox-cvmfs-heal.timer",
    ]  # fmt: skip
    alice = found["cvmfs-alice.cern.ch.mount"].splitlines()
    for line in (
        "RequiresMountsFor=/cvmfs /cvmfs/cvmfs-config.cern.ch", "After=network-online.target",
        "Before=docker.service podman.service podman-restart.service", "Type=cvmfs",
        "Options=ro,nodev,_netdev,nofail", "TimeoutSec=180",
        "WantedBy=remote-fs.target",
    ):  # fmt: skip
        assert line in alice
    config = found["cvmfs-cvmfs\\x2dconfig.cern.ch.mount"]
    assert "RequiresMountsFor=/cvmfs\n" in config


@pytest.mark.parametrize(
    ("kernel", "driver", "kind"),
    [(True, "auto", "squashfs"), (False, "auto", "fuse.squashfuse"), (True, "fuse", "fuse.squashfuse")],
)
def test_who_mounts_a_squashfs(kernel: bool, driver: str, kind: str) -> None:
    entry = {"repository": ALICE, "source": "squashfs", "path": "/srv/a.sqfs"}
    wish = make(kernel=kernel, repositories=[entry], config_repository=None, squashfs_driver=driver)
    text = units.units(wish)["cvmfs-alice.cern.ch.mount"]
    assert f"Type={kind}\n" in text
    assert "WantedBy=multi-user.target" in text
    assert "network" not in text
    assert ("loop" in text) == (kind == "squashfs")
    assert ("allow_other" in text) == (kind != "squashfs")


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("driver", ["auto", "kernel", "fuse"])
@pytest.mark.parametrize(("kind", "by"), [("squashfs", "kernel"), ("fuse.squashfuse", "fuse")])
def test_a_mounted_squashfs_stays_with_who_has_mounted_it(kernel: bool, driver: str, kind: str, by: str) -> None:
    """The kernel learns squashfs when somebody else needs it, long after."""
    table = (Mount("/cvmfs", "ext4", "/dev/a", True), Mount(f"/cvmfs/{ALICE}", kind, "/srv/a.sqfs", True))
    entries = [{"repository": name, "source": "squashfs", "path": "/srv/a.sqfs"} for name in (ALICE, CONFIG)]
    wish = make(kernel=kernel, mounted=table, repositories=entries, config_repository=None, squashfs_driver=driver)
    mounted, other = wish.repositories
    assert mounts.as_wanted(mounted, table[1], False) is (driver in ("auto", by))
    assert other.driver == (driver if driver != "auto" else "kernel" if kernel else "fuse")


def folder_wish(**changes: t.Any) -> Wish:
    entry = {"repository": ALICE, "source": "directory", "path": "/srv/a"}
    return make(**{"repositories": [entry], "config_repository": None, **changes})


def test_a_folder_is_made_read_only_where_no_container_looks() -> None:
    found = units.units(folder_wish())
    staging = "run-hep.gridbox.cvmfs-cvmfs-alice.cern.ch.mount"
    assert list(found)[:3] == ["cvmfs.mount", staging, "cvmfs-alice.cern.ch.mount"]
    assert "What=/srv/a\nWhere=/run/hep.gridbox.cvmfs/cvmfs/alice.cern.ch\n" in found[staging]
    assert "Options=bind,ro,nosuid,nodev,nofail\n" in found[staging]
    assert not units.comes_up_at_boot(found[staging])  # by itself
    seen = found["cvmfs-alice.cern.ch.mount"]
    assert "What=/run/hep.gridbox.cvmfs/cvmfs/alice.cern.ch\nWhere=/cvmfs/alice.cern.ch\n" in seen
    assert "RequiresMountsFor=/cvmfs /run/hep.gridbox.cvmfs/cvmfs/alice.cern.ch\n" in seen
    assert "Options=bind,nofail\n" in seen
    bare = Observed((Mount("/", "ext4", "/dev/a", True),))
    assert ("enable", staging) not in actions(folder_wish(), bare)
    assert ("start", staging) not in actions(folder_wish(), bare)


def test_what_is_out_of_sight_goes_after_what_is_seen() -> None:
    wish = folder_wish()
    staging = "/run/hep.gridbox.cvmfs/cvmfs/alice.cern.ch"
    table = tuple(Mount(point, "ext4", "/dev/a", True) for point in (staging, "/cvmfs", f"/cvmfs/{ALICE}"))
    known = {name: Unit(text, "loaded", "active", "enabled") for name, text in units.units(wish).items()}
    found = actions(folder_wish(state="absent"), Observed(table, frozenset({ALICE}), known))
    assert [target for action, target in found if action == "unmount"] == [f"/cvmfs/{ALICE}", "/cvmfs", staging]
    assert {target for action, target in found if action == "remove_unit"} == set(known)
    assert ("disable", units.unit_name(staging)) not in found


def test_a_missing_repository_is_tried_again() -> None:
    wish = make(root="/srv/x-y", repositories=[{"repository": "a-b.cern.ch", "source": "client"}], config_repository="")
    service = units.units(wish)["gridbox-srv-x\\x2dy-heal.service"]
    assert "ExecStart=-/usr/bin/systemctl start srv-x\\\\x2dy-a\\\\x2db.cern.ch.mount\n" in service
    stopped = all_there(make(), **{"gridbox-cvmfs-heal.timer": Unit(None, "loaded", "inactive", "disabled")})
    assert [step for step in actions(make(), stopped) if step[0] in ("enable", "start")] == [
        ("enable", "gridbox-cvmfs-heal.timer"),
        ("start", "gridbox-cvmfs-heal.timer"),
    ]
    assert "ExecStart=-/bin/sh -c 'for point; do " in service and "' sh /srv/x-y/a-b.cern.ch\n" in service
    assert "/bin/sh" not in units.units(folder_wish())["gridbox-cvmfs-heal.service"]  # no client that could die
    assert not units.heal_units(make()).keys() & units.units(make(repositories=[], config_repository="")).keys()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("cvmfs.mount", True),
        ("cvmfs-alice.cern.ch.mount", True),
        ("run-hep.gridbox.cvmfs-cvmfs-alice.cern.ch.mount", True),
        ("gridbox-cvmfs-heal.timer", True),
        ("gridbox-cvmfs-heal.service", True),
        ("cvmfsother.mount", False),
        ("run-hep.gridbox.cvmfs-other-alice.cern.ch.mount", False),
        ("gridbox-other-heal.timer", False),
    ],
)
def test_which_units_may_be_ours(name: str, ours: bool) -> None:
    assert units.of_root("/cvmfs", name) is ours


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"repositories": [{"repository": "../etc", "source": "client"}]},
            r"repositories\[0\]\.repository: got '../etc'",
        ),
        ({"repositories": [{"repository": "alice", "source": "client"}]}, "fully qualified"),
        ({"repositories": [{"repository": "Alice.cern.ch", "source": "client"}]}, "fully qualified"),
        ({"repositories": [{"repository": ALICE, "source": "client", "path": "/a"}]}, "expected no path"),
        ({"repositories": [{"repository": ALICE, "source": "squashfs"}]}, "the file that source squashfs needs"),
        ({"repositories": [{"repository": ALICE, "source": "directory", "path": "/a b"}]}, "an absolute path"),
        ({"repositories": [{"repository": ALICE, "source": "directory", "path": "/a\nb"}]}, "an absolute path"),
        (
            {"repositories": [{"repository": ALICE, "source": "directory", "path": "/a", "sentinel": "../b"}]},
            "sentinel",
        ),
        ({"repositories": [{"repository": ALICE, "source": "client"}] * 2}, "each repository once"),
        ({"config_repository": "other.cern.ch"}, "one of the repositories"),
        ({"root": "cvmfs"}, "root: got 'cvmfs'"),
        ({"root": "/"}, "root: got '/'"),
        ({"wait_timeout": 0}, "wait_timeout: got 0"),
    ],
)
def test_wrong_values(changes: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make(**{"config_repository": None, **changes})


def test_systemd_cannot_be_asked_for_where_it_is_not() -> None:
    with pytest.raises(InputError, match="systemd is not PID 1"):
        make(systemd=False, supervisor="systemd")


def actions(wish: Wish, observed: Observed) -> list[tuple[str, str]]:
    return [(step.action, step.target) for step in mounts.plan(wish, observed).steps]


def all_there(wish: Wish, **more: Unit) -> Observed:
    table = (
        Mount("/cvmfs", "ext4", "/dev/a", True),
        Mount(f"/cvmfs/{CONFIG}", "fuse", "cvmfs2", True),
        Mount(f"/cvmfs/{ALICE}", "fuse", "cvmfs2", True),
    )
    known = {name: Unit(text, "loaded", "active", "enabled") for name, text in units.units(wish).items()}
    return Observed(table, frozenset(), {**known, **more})


def test_a_bare_host_with_systemd() -> None:
    bare = Observed((Mount("/", "ext4", "/dev/a", True),), frozenset(), {mounts.AUTOFS: Unit(None, "loaded", "active")})
    root, config, alice, service, timer = list(units.units(make()))
    assert actions(make(), bare) == [
        ("mask", "autofs.service"),
        ("write_unit", root), ("write_unit", config), ("write_unit", alice),
        ("write_unit", service), ("write_unit", timer),
        ("reload_systemd", "systemd"),
        ("enable", root), ("enable", config), ("enable", alice), ("enable", timer),
        ("start", root), ("start", config), ("start", alice), ("start", timer),
    ]  # fmt: skip


def test_a_bare_host_without_systemd() -> None:
    bare = Observed((Mount("/", "ext4", "/dev/a", False),))
    assert actions(make(systemd=False), bare) == [
        ("share", "/cvmfs"),
        ("mount", f"/cvmfs/{CONFIG}"),
        ("mount", f"/cvmfs/{ALICE}"),
    ]


def test_what_is_there_is_left_alone() -> None:
    assert actions(make(), all_there(make())) == []
    assert actions(make(), all_there(make(), **{mounts.AUTOFS: Unit(None, "masked")})) == []


def test_a_changed_unit_is_written_and_its_mount_left_alone() -> None:
    wish = make(wait_timeout=60)
    names = list(units.units(wish))
    assert actions(wish, all_there(make())) == [
        ("write_unit", names[1]),
        ("write_unit", names[2]),
        ("write_unit", names[3]),  # its time-out follows from that of a mount
        ("reload_systemd", "systemd"),
    ]


def dropped(mounted: bool, enabled: str = "enabled", active: str = "active") -> tuple[Wish, Observed]:
    """A host that had two repositories, of which one is not wanted any more."""
    before = all_there(make())
    units_then = dict(before.units)
    gone = "cvmfs-alice.cern.ch.mount"
    units_then[gone] = Unit(units_then[gone].text, "loaded", active, enabled)
    wish = make(repositories=[{"repository": CONFIG, "source": "client"}])
    for name, text in units.units(wish).items():
        units_then[name] = Unit(text, "loaded", "active", "enabled")
    table = tuple(mount for mount in before.mounts if mounted or mount.point != f"/cvmfs/{ALICE}")
    return wish, Observed(table, frozenset(), units_then)


def test_a_repository_that_is_dropped_is_not_waited_for_and_its_mount_is_left_alone() -> None:
    gone = "cvmfs-alice.cern.ch.mount"
    wish, seen = dropped(mounted=True)
    assert actions(wish, seen) == [("disable", gone)]
    assert mounts.left_mounted(wish, seen) == [f"/cvmfs/{ALICE}"]
    wish, seen = dropped(mounted=True, enabled="disabled")
    assert actions(wish, seen) == []
    wish, seen = dropped(mounted=False, active="failed")
    assert actions(wish, seen) == [("disable", gone), ("remove_unit", gone), ("reload_systemd", "systemd")]
    assert gone not in mounts.plan(wish, seen).after["units"] and gone in mounts.plan(wish, seen).before["units"]
    assert mounts.left_mounted(wish, seen) == []
    # Whose unit is not ours is not ours to disable.
    foreign = Observed(seen.mounts, frozenset(), {**seen.units, gone: Unit("[Unit]\n", "loaded", "active", "enabled")})
    assert actions(wish, foreign) == []


def test_the_folder_behind_a_dropped_repository_stays_as_long_as_it_is_seen() -> None:
    staging = "run-hep.gridbox.cvmfs-cvmfs-alice.cern.ch.mount"
    then = folder_wish()
    seen = {name: Unit(text, "loaded", "active", "enabled") for name, text in units.units(then).items()}
    seen[staging] = Unit(seen[staging].text, "loaded", "active", "static")
    wish = make(repositories=[], config_repository=None)
    root, point = Mount("/cvmfs", "ext4", "/dev/a", True), Mount(f"/cvmfs/{ALICE}", "ext4", "/dev/a", True)
    behind = Mount(f"/run/hep.gridbox.cvmfs/cvmfs/{ALICE}", "ext4", "/dev/a", True)
    found = actions(wish, Observed((root, behind, point), frozenset(), seen))
    assert ("remove_unit", staging) not in found and ("disable", staging) not in found
    # Nothing is left to heal.
    timer = "gridbox-cvmfs-heal.timer"
    assert found.index(("stop", timer)) < found.index(("disable", timer)) < found.index(("remove_unit", timer))
    assert ("remove_unit", staging) in actions(wish, Observed((root,), frozenset(), seen))


SETTINGS = {
    "CVMFS_HTTP_PROXY": "http://squid1:3128;http://squid2:3128", "CVMFS_QUOTA_LIMIT": "4000",
    "CVMFS_CACHE_BASE": "/var/lib/cvmfs", "CVMFS_REPOSITORIES": "alice.cern.ch",
}  # fmt: skip
#: As cvmfs_talk prints it.
RUNNING = """\
CVMFS_CACHE_BASE=/var/lib/cvmfs    # from /etc/cvmfs/default.local
CVMFS_CONFIG_REPOSITORY=cvmfs-config.cern.ch    # from /etc/cvmfs/default.d/50-cern.conf
CVMFS_HTTP_PROXY='http://squid1:3128;http://squid2:3128'    # from /etc/cvmfs/default.local
CVMFS_QUOTA_LIMIT=4000    # from /etc/cvmfs/default.local
CVMFS_REPOSITORIES=atlas.cern.ch    # from /etc/cvmfs/default.local
CVMFS_SERVER_URL='http://a/cvmfs/@fqrn@;it\\'s'    # from /etc/cvmfs/domain.d/cern.ch.conf
CVMFS_TIMEOUT=5    # from /etc/cvmfs/default.conf
"""


def test_what_a_client_runs_with() -> None:
    found = client.parse(RUNNING)
    assert found["CVMFS_HTTP_PROXY"] == Parameter("http://squid1:3128;http://squid2:3128", LOCAL)
    assert found["CVMFS_SERVER_URL"].value == "http://a/cvmfs/@fqrn@;it's"
    assert found["CVMFS_TIMEOUT"] == Parameter("5", "/etc/cvmfs/default.conf")
    assert client.parse("Seems like CernVM-FS is not running\n") == {}


def test_what_the_role_has_written() -> None:
    text = '# Written by hep.gridbox (role cvmfs).\nCVMFS_A="x;y"\nCVMFS_B=""\n'
    assert client.written(text) == {"CVMFS_A": "x;y", "CVMFS_B": ""}
    assert client.written("CVMFS_A=x\n") is None and client.written(None) is None


@pytest.mark.parametrize(
    ("changes", "running", "words"),
    [
        ({}, {}, []),
        ({"CVMFS_QUOTA_LIMIT": "50000"}, {}, ["CVMFS_QUOTA_LIMIT is 4000, not 50000"]),
        ({"CVMFS_NEW": "1"}, {}, ["CVMFS_NEW is not set, not 1"]),
        ({"CVMFS_TIMEOUT": "7"}, {}, ["CVMFS_TIMEOUT is 5, not 7"]),  # of a file that counts less
        ({}, {"CVMFS_OLD": Parameter("1", LOCAL)}, [f"CVMFS_OLD is 1, which {LOCAL} does not say any more"]),
        # Of files that count more, and of the client itself.
        ({"CVMFS_X": "9"}, {"CVMFS_X": Parameter("4", "/etc/cvmfs/config.d/alice.cern.ch.local")}, []),
        ({"CVMFS_X": "9"}, {"CVMFS_X": Parameter("4", "/cvmfs/c/etc/cvmfs/domain.d/cern.ch.conf")}, []),
        ({"CVMFS_X": "9"}, {"CVMFS_X": Parameter("4", "@INTERNAL@")}, []),
        ({"CVMFS_X": "/a/@org@/@fqrn@"}, {"CVMFS_X": Parameter("/a/alice/alice.cern.ch", LOCAL)}, []),
        ({"CVMFS_X": " a  b "}, {"CVMFS_X": Parameter("a b", LOCAL)}, []),  # a shell has expanded it
        ({"CVMFS_CACHE_BASE": "/srv/cache", "CVMFS_QUOTA_LIMIT": "9"}, {}, []),  # it cannot be asked then
    ],
)  # fmt: skip
def test_what_a_client_would_have_otherwise(
    changes: dict[str, str], running: dict[str, Parameter], words: list[str]
) -> None:
    assert client.differing({**SETTINGS, **changes}, {**client.parse(RUNNING), **running}, ALICE) == words


def test_clients_are_reloaded_together_for_what_one_has_otherwise() -> None:
    there = all_there(make())
    same = client.parse(RUNNING)
    stale = {**same, "CVMFS_QUOTA_LIMIT": Parameter("1000", LOCAL)}
    seen = Observed(there.mounts, frozenset(), there.units, {CONFIG: same, ALICE: stale}, SETTINGS)
    plan = mounts.plan(make(), seen)
    assert [(step.action, step.target) for step in plan.steps] == [("reload_clients", ALICE)]
    assert plan.disruption == Disruption.reload
    assert plan.steps[0].reason == f"{ALICE}: CVMFS_QUOTA_LIMIT is 1000, not 4000"
    # What the file is going to say counts, where that is told; without either nobody knows.
    assert actions(make(client_settings={**SETTINGS, "CVMFS_QUOTA_LIMIT": 4000}), seen) == [("reload_clients", ALICE)]
    both = actions(make(client_settings={**SETTINGS, "CVMFS_QUOTA_LIMIT": 2000}), seen)
    assert both == [("reload_clients", f"{CONFIG}, {ALICE}")]
    assert actions(make(), Observed(there.mounts, frozenset(), there.units, {ALICE: stale}, None)) == []


def test_taking_the_folder_from_a_running_autofs_costs_the_service() -> None:
    seen = Observed(
        (Mount("/cvmfs", "autofs", "map", True),), frozenset(), {mounts.AUTOFS: Unit(None, "loaded", "active")}
    )
    assert mounts.plan(make(), seen).disruption == Disruption.service
    idle = Observed((), frozenset(), {mounts.AUTOFS: Unit(None, "loaded", "active")})
    assert mounts.plan(make(), idle).disruption == Disruption.none


@pytest.mark.parametrize(
    ("table", "cost"),
    [
        # It serves other folders too, and ends for all of them.
        ([Mount("/home", "autofs", "map", True), Mount("/home/alice", "nfs4", "nas:/alice", True)], "service"),
        ([Mount("/home", "autofs", "map", True)], "none"),
        # Systemd's own go by their units.
        (
            [Mount("/cvmfs/x.cern.ch", "autofs", "systemd-1", True), Mount("/cvmfs/x.cern.ch", "fuse", "a", True)],
            "none",
        ),
    ],
)
def test_the_end_of_autofs_costs_whom_it_serves(table: list[Mount], cost: str) -> None:
    seen = Observed(tuple(table), frozenset(), {mounts.AUTOFS: Unit(None, "loaded", "active")})
    assert mounts.plan(make(), seen).steps[0].disruption.name == cost
    if any(mount.source == "systemd-1" for mount in table):
        with pytest.raises(RefusedError, match="would cover what is mounted below it: /cvmfs/x"):
            mounts.MountsWork(make()).preflight(mounts.plan(make(), seen), seen)


def automounting(*points: str, load: str = "loaded") -> Observed:
    """A host whose autofs has mounted what lies below these points."""
    below = [Mount(f"/cvmfs/{name}", "fuse", "cvmfs2", True) for name in (CONFIG, ALICE)]
    table = [Mount("/", "ext4", "/dev/a", True), *(Mount(point, "autofs", "map", True) for point in points), *below]
    clients = {ALICE: {"CVMFS_QUOTA_LIMIT": Parameter("1000", LOCAL)}}
    known = {**{name: Unit() for name in units.units(make())}, mounts.AUTOFS: Unit(None, load, "active")}
    return Observed(tuple(table), frozenset(), known, clients, SETTINGS)


@pytest.mark.parametrize("points", [["/cvmfs"], [f"/cvmfs/{CONFIG}", f"/cvmfs/{ALICE}"]])
def test_what_autofs_has_mounted_goes_with_it_and_is_mounted_anew(points: list[str]) -> None:
    seen = automounting(*points)
    bare = Observed(seen.mounts[:1], frozenset(), seen.units)
    assert actions(make(), seen) == actions(make(), bare)
    assert [target for action, target in actions(make(), seen) if action == "start"] == [
        "cvmfs.mount", *(units.unit_name(f"/cvmfs/{name}") for name in (CONFIG, ALICE)), "gridbox-cvmfs-heal.timer",
    ]  # fmt: skip
    assert mounts.plan(make(), seen).disruption == Disruption.service
    waiting = make(helpers_awaited=True)
    mounts.MountsWork(waiting).preflight(mounts.plan(waiting, seen), seen)


def test_what_was_mounted_before_autofs_came_stays_when_it_goes() -> None:
    there = all_there(make())
    over = (*there.mounts, Mount("/cvmfs", "autofs", "map", True), Mount(f"/cvmfs/{ALICE}", "fuse", "cvmfs2", True))
    seen = Observed(over, frozenset(), {**there.units, mounts.AUTOFS: Unit(None, "loaded", "active")})
    assert actions(make(), seen) == [("mask", mounts.AUTOFS)]


@pytest.mark.parametrize("systemd", [True, False])
def test_what_is_mounted_below_a_folder_is_not_covered_by_making_it_a_mount_point(systemd: bool) -> None:
    seen = automounting(load="masked")
    wish = make(systemd=systemd, helpers_awaited=True)
    with pytest.raises(RefusedError, match=f"would cover what is mounted below it: /cvmfs/{CONFIG}, /cvmfs/{ALICE}"):
        mounts.MountsWork(wish).preflight(mounts.plan(wish, seen), seen)
    there = all_there(wish)  # where it is one, what is mounted is taken as it is
    mounts.MountsWork(wish).preflight(mounts.plan(wish, there), there)


def test_removal_goes_from_the_inside_out_and_takes_only_what_is_ours() -> None:
    wish = make(state="absent", repositories=[])
    seen = all_there(make(), **{"cvmfs-foreign.mount": Unit("[Unit]\n", "loaded", "active", "enabled")})
    found = actions(wish, seen)
    assert found[:4] == [
        ("stop", "gridbox-cvmfs-heal.timer"),
        ("unmount", f"/cvmfs/{ALICE}"), ("unmount", f"/cvmfs/{CONFIG}"), ("unmount", "/cvmfs"),
    ]  # fmt: skip
    assert ("remove_unit", "cvmfs-alice.cern.ch.mount") in found
    assert not [target for _action, target in found if "foreign" in target]


@pytest.mark.parametrize(
    ("source", "mount", "same", "good"),
    [
        ("client", Mount("p", "fuse", "cvmfs2", True), False, True),
        ("client", Mount("p", "autofs", "map", True), False, False),
        ("squashfs", Mount("p", "squashfs", "/dev/loop0", True), False, True),
        ("squashfs", Mount("p", "ext4", "/dev/a", True), False, False),
        ("directory", Mount("p", "ext4", "/dev/a", True), True, True),
        ("directory", Mount("p", "ext4", "/dev/a", True), False, False),
    ],
)
def test_whose_mount_it_is(source: str, mount: Mount, same: bool, good: bool) -> None:
    entry = {"repository": ALICE, "source": source, "path": None if source == "client" else "/srv/a"}
    repository = make(repositories=[entry], config_repository=None).repositories[0]
    assert mounts.as_wanted(repository, mount, same) is good


def test_the_kernels_table() -> None:
    table = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n"
        "40 22 8:1 /cvmfs /cvmfs rw shared:1 master:2 - ext4 /dev/a rw\n"
        "41 40 0:50 / /cvmfs/with\\040blank ro - fuse.squashfuse squash\\134fuse ro\n"
        "42 40 0:51 / /cvmfs/with\\040blank ro shared:9 - fuse cvmfs2 ro\n"
    )
    found = mount_table.parse(table)
    assert [mount.shared for mount in found] == [True, True, False, True]
    assert found[2] == Mount("/cvmfs/with blank", "fuse.squashfuse", "squash\\fuse", False, "0:50", 41, ("ro",))
    assert mount_table.at(found, "/cvmfs/with blank") == found[3]
    assert mount_table.at(found, "/none") is None


def test_a_missing_mount_helper_is_named(tmp_path: Path) -> None:
    for program in ("mount.fuse", "squashfuse"):
        assert missing_helper("fuse.squashfuse", str(tmp_path)) == (
            f" There is no program {program} on this host: install the package"
            f" {'fuse3' if program == 'mount.fuse' else program}."
        )
        (tmp_path / program).touch(0o755)
    assert missing_helper("fuse.squashfuse", str(tmp_path)) == ""
    assert missing_helper("squashfs", str(tmp_path)) == ""

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""macvlan_net when things go wrong half-way: the state before or the state after, and the truth about it."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.macvlan_effects import Job
from tests.integration.macvlan_world import ABSENT, BRIDGE, NAME, SHIM, SITE, World, wait_until
from tests.lab.lab import Lab
from tests.lab.lan import run
from tests.lab.modules import ModuleFailed, start_module
from tests.sampled import sampled

LABELLED = {**SITE, "labels": {"contact": "grid-admins"}, "recreate": "move_endpoints"}


@pytest.fixture()
def world(lab: Lab) -> t.Iterator[World]:
    made = World(lab)
    yield made
    made.clean()


def test_a_container_that_cannot_be_attached_again_brings_all_back(world: World) -> None:
    """The second of two containers has a route that the new, wider subnet conflicts with."""
    small = {**SITE, "ipv4": {"subnet": "10.213.0.0/24", "gateway": "10.213.0.254"}}
    world.module(**small)
    world.container("vb1", "10.213.0.50", "fd13:213::50", alias="alice")
    world.container("vb2", "10.213.0.51", "fd13:213::51")
    pid = world.lab.docker("inspect", "--format", "{{.State.Pid}}", "vb2").strip()
    for command in (
        ("link", "add", "x0", "type", "veth", "peer", "name", "x1"),
        ("link", "set", "x0", "up"),
        ("route", "add", "10.213.128.0/17", "dev", "x0"),
    ):
        run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", *command)
    before = world.attachments()
    with pytest.raises(ModuleFailed) as failed:
        world.module(**SITE, recreate="move_endpoints")
    result = failed.value.result
    assert result["changed"]
    assert result["failed_action"]["action"] == "attach_endpoint"
    assert result["failed_action"]["target"] == "vb2"
    assert "conflicts with existing route" in result["msg"]
    assert result["rolled_back"] == [f"the network {NAME} as it was, with vb1, vb2"]
    assert result["not_rolled_back"] == []
    assert world.attachments() == before
    assert not world.module(check=True, **small)["changed"]
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.50")


def test_a_failing_last_step_brings_all_back(world: World) -> None:
    """The whole move has succeeded when the bridge cannot be made: no pool is left that the engine would give it."""
    world.module(**SITE)
    world.run_containers()
    before, labels = world.attachments(), world.labels()
    world.lab.docker("network", "create", "--driver", "bridge", "--opt", "com.docker.network.bridge.name=taken0", "t1")
    # A bridge subnet whose first address is the host's already is refused by the engine only when it is made.
    bridge = {"host_access": "bridge", "bridge": {"ipv4": "10.212.0.0/31"}}
    with pytest.raises(ModuleFailed) as failed:
        world.module(**{**LABELLED, **bridge})
    result = failed.value.result
    assert result["failed_action"]["action"] in ("create_bridge", "attach_to_bridge")
    assert result["not_rolled_back"] == []
    assert f"the network {NAME} as it was, with vb1, vb2, vb3" in result["rolled_back"]
    assert world.attachments() == before
    assert world.labels() == labels


def test_a_parent_that_vanishes_meanwhile_is_told_truly(world: World) -> None:
    """It goes when the first container was detached; nothing is removed, and what is not put back is named."""
    world.add_link("other0", "type", "veth", "peer", "name", "other1")
    for link in ("other0", "other1"):
        run("ip", "-n", world.lab.engine.netns, "link", "set", link, "up")
    site = {
        "name": NAME,
        "parent": "other0",
        "ipv4": {"subnet": "10.99.0.0/24", "gateway": "10.99.0.254"},
    }
    world.module(**site)
    world.container("vb1", "10.99.0.1")
    world.container("vb2", "10.99.0.2")
    with world.network_events() as events:
        arguments = {"engine_url": world.lab.engine.url, **site, "labels": {"a": "b"}, "recreate": "move_endpoints"}
        process = start_module("macvlan_net", arguments, netns=world.lab.engine.netns)
        assert next(events) == "disconnect"
        process.send_signal(signal.SIGSTOP)  # else it gets on while the link is removed
        run("ip", "-n", world.lab.engine.netns, "link", "delete", "other0")
        process.send_signal(signal.SIGCONT)
        result = json.loads(process.communicate(timeout=90)[0])
    assert result["failed"]
    assert result["changed"]
    assert "The parent other0 was there a moment ago and is gone." in result["msg"]
    assert "Not put back: the network gbsite as it was, with vb1, vb2" in result["msg"]
    assert world.labels() == {}, "the network itself was not touched"
    with pytest.raises(ModuleFailed, match="parent: other0: there is no such link"):
        world.module(check=True, **site)


def test_a_daemon_killed_during_a_move_finds_all_as_it_was(own_lab: Lab) -> None:
    own_lab.engine.config.write_text('{"live-restore": true}\n')
    own_lab.engine.kill()
    own_lab.engine.start()
    world = World(own_lab)
    world.module(**SITE)
    world.run_containers()
    before, labels, inside = world.attachments(), world.labels(), world.inside()

    def kill_and_start() -> None:
        own_lab.engine.kill()
        time.sleep(0.5)
        own_lab.engine.start()

    with world.network_events() as events:
        arguments = {"engine_url": own_lab.engine.url, **LABELLED}
        process = start_module("macvlan_net", arguments, netns=own_lab.engine.netns)
        assert next(events) == "disconnect"
        killer = threading.Thread(target=kill_and_start)
        killer.start()
        result = json.loads(process.communicate(timeout=120)[0])
        killer.join()
    assert result["failed"], result
    assert result["not_rolled_back"] == [], result
    assert result["rolled_back"] == [f"the network {NAME} as it was, with vb1, vb2, vb3"]
    assert world.attachments() == before
    assert world.labels() == labels
    assert world.inside() == inside
    own_lab.from_peer("ping", "-c3", "-W2", "10.213.0.50")


#: What happens to the network while three containers, one of them stopped, move over: the steps at which to kill.
EVENTS = ["disconnect", "disconnect", "disconnect", "destroy", "create", "connect", "connect", "connect"]


@pytest.mark.fleet
def test_a_module_killed_at_any_step_of_a_move_leaves_before_or_after(world: World) -> None:
    """SIGKILL as each event comes, at once and a little later. The guard has to finish within seconds."""
    world.module(**SITE)
    world.run_containers()
    attachments, inside = world.attachments(), world.inside()
    wishes = itertools.cycle([{"round": "1"}, {"round": "2"}])
    outcomes: dict[str, int] = {"before": 0, "after": 0}
    for number, delay in itertools.product(range(1, len(EVENTS) + 1), (0.0, 0.06)):
        labels, wish = world.labels(), next(wishes)
        if wish == labels:
            wish = next(wishes)
        with world.network_events() as events:
            arguments = {"engine_url": world.lab.engine.url, **LABELLED, "labels": wish}
            process = start_module("macvlan_net", arguments, netns=world.lab.engine.netns)
            for event in itertools.islice(events, number):
                assert event in EVENTS
            time.sleep(delay)
            process.kill()
            process.communicate(timeout=30)

            def good(labels: t.Any = labels, wish: t.Any = wish) -> bool:
                return world.labels() in (labels, wish) and world.attachments() == attachments

            wait_until(good, f"a good state after event {number} + {delay} s", seconds=20)
        # The guard looks again for half a second; nothing may change any more after that.
        time.sleep(0.8)
        wait_until(good, "it to stay good", seconds=5)
        assert world.inside() == inside
        outcomes["after" if world.labels() == wish else "before"] += 1
    print(f"killed {sum(outcomes.values())} times: {outcomes}")
    assert outcomes["before"] >= len(EVENTS), outcomes
    world.lab.from_peer("ping", "-c1", "-W2", "10.213.0.50")


#: Name: (a state, another one, containers meanwhile, whether it is a host with systemd).
WAYS: dict[str, tuple[dict[str, t.Any], dict[str, t.Any], bool, bool]] = {
    "network": (ABSENT, SITE, False, False),
    "bridge": (SITE, BRIDGE, True, False),
    "shim and files for the boot": (
        ABSENT,
        {**SHIM, "shim": {**SHIM["shim"], "routes": ["10.213.0.50"]}, "probe_seconds": 0},
        False,
        True,
    ),
}


@pytest.mark.parametrize("way", sampled(WAYS, every=3))
def test_killed_at_every_effect_there_and_back(world: World, tmp_path: Path, way: str) -> None:
    """SIGKILL before and after each: the state before or the state after; and the next run ends where it should.

    After what the process does by itself is before the next such effect, so that counts once.
    """
    here, there, containers, systemd = WAYS[way]
    root = tmp_path if systemd else None

    def run_one(wish: dict[str, t.Any], die_at: int = 0, late: bool = False) -> list[str]:
        arguments = {"engine_url": world.lab.engine.url, **wish}
        job = Job(arguments, world.lab.engine.netns, die_at=die_at, late=late, root=root)
        assert (job.run() is None) == bool(die_at)
        return job.effects

    run_one(SITE if containers else here)
    if containers:
        world.run_containers()
        run_one(here)
    first = world.state(root)
    forth = run_one(there)
    second = world.state(root)
    back = run_one(here)
    assert world.state(root) == first != second
    ways = ((forth, there, first, second), (back, here, second, first))
    outcomes: list[str] = []
    for number, late in itertools.product(range(1, max(len(forth), len(back)) + 1), (False, True)):
        deadly = [
            number <= len(effects)
            and (not late or number == len(effects) or effects[number - 1].startswith(("POST", "DELETE")))
            for effects, *_states in ways
        ]
        if not any(deadly):
            continue
        for (_effects, wish, before, after), dies in zip(ways, deadly, strict=True):
            if dies:
                died = f"{'after' if late else 'before'} {run_one(wish, number, late)[-1]}"
                found = world.state(root)
                assert found in (before, after), died
                outcomes.append(f"killed {died}: the state {'before' if found == before else 'after'}")
            run_one(wish)
            assert world.state(root) == after
    print("\n".join(outcomes))
    assert len(outcomes) > len(forth) + len(back)


@pytest.fixture()
def small_disk(tmp_path: Path) -> t.Iterator[Path]:
    """A folder on a small file system of its own."""
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path))
    yield tmp_path
    run("umount", str(tmp_path))


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def test_a_full_disk_leaves_the_files_for_the_boot_whole(world: World, small_disk: Path) -> None:
    """Where there were none, and where there were others: all is as before, and the sentence tells why."""
    ballast, files = small_disk / "ballast", small_disk / "etc"
    other = {**SHIM, "shim": {**SHIM["shim"], "routes": ["10.213.0.50"]}}
    for before, wish in ((ABSENT, SHIM), (SHIM, other)):
        arguments = {"engine_url": world.lab.engine.url}
        Job({**arguments, **before}, world.lab.engine.netns, root=small_disk).run()
        state = world.state(files)
        fill(ballast)
        with pytest.raises(ModuleFailed) as failed:
            Job({**arguments, **wish}, world.lab.engine.netns, root=small_disk).run()
        result = failed.value.result
        assert result["failed_action"]["action"] == "write_file"
        assert "failed (No space left on device)" in result["msg"]
        assert "exception" not in result
        assert result["not_rolled_back"] == []
        assert world.state(files) == state
        ballast.unlink()
        again = Job({**arguments, **wish}, world.lab.engine.netns, root=small_disk).run()
        assert again is not None and again["changed"]
    assert "10.213.0.50" in (files / "systemd/system/gridbox-shim-mv-gbsite.service").read_text()

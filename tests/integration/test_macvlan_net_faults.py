# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""macvlan_net when things go wrong half-way: the state before or the state after, and the truth about it."""

from __future__ import annotations

import itertools
import json
import threading
import time
import typing as t

import pytest

from tests.integration.macvlan_world import NAME, SITE, World, wait_until
from tests.lab.lab import Lab
from tests.lab.lan import run
from tests.lab.modules import ModuleFailed, start_module

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
        run("ip", "-n", world.lab.engine.netns, "link", "delete", "other0")
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


def test_a_module_killed_while_it_makes_a_shim_leaves_before_or_after(world: World) -> None:
    world.module(**SITE)
    shim = {**SITE, "host_access": "shim", "shim": {"ipv4": "10.213.0.3"}, "probe_seconds": 0}
    for delay in (0.25, 0.3, 0.35, 0.4, 0.45, 0.5):
        process = start_module(
            "macvlan_net", {"engine_url": world.lab.engine.url, **shim}, netns=world.lab.engine.netns
        )
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=30)

        def good() -> bool:
            kind = world.info(name=NAME)["networks"][0]["host_access"]["kind"]
            return kind == "none" or not world.module(check=True, **shim)["changed"]

        wait_until(good, "no shim or a whole one")
        world.module(**SITE)

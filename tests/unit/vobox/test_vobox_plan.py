# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is decided for a VO-box, over recorded answers of an engine."""

from __future__ import annotations

import copy
import dataclasses
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import (
    create_body,
    update_body,
    values_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Service, Wish, sha256
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import HostFiles, Launch
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.plan import decide
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.privileges import CAPABILITIES, EngineProcess
from tests.unit.vobox.answers import IMAGE, container_of
from tests.unit.vobox.wishes import LIMITS, NETWORK, SCRIPT, new_box, wish

DOCKER = Platform("docker", (20, 10, 24), (1, 41))
PODMAN = Platform("podman", (4, 3, 1), (1, 41))
PROCESS = EngineProcess(frozenset(CAPABILITIES), {})
VERSION = sha256(SCRIPT)
NOTHING = Observed(DOCKER, wished_image=IMAGE, process=PROCESS)
LEAST = {"profile": "least", "capabilities": None, "devices": []}


def existing(asked: Wish | None = None, running: bool = True, **changes: t.Any) -> Observed:
    """What is seen once the box that was asked for is there."""
    asked = asked or new_box()
    decision = decide(asked, NOTHING)
    container = container_of(decision.values, running)
    seen = Observed(
        DOCKER,
        container,
        IMAGE,
        IMAGE,
        values_of(container, IMAGE, "docker"),
        HostFiles(True, VERSION, None, VERSION, SCRIPT, (VERSION,), True),
        launch=Launch(VERSION, "done") if running else Launch(),
        process=PROCESS,
    )
    return dataclasses.replace(seen, **changes)


def actions(asked: Wish, seen: Observed) -> list[str]:
    return [step.action for step in decide(asked, seen).plan.steps]


def test_a_new_box() -> None:
    assert actions(new_box(), NOTHING) == ["write_init_script", "create_container", "start_container"]
    assert actions(new_box(state="present"), NOTHING) == ["write_init_script", "create_container"]
    assert actions(new_box(init_script=None), NOTHING) == ["create_container", "start_container"]
    assert decide(new_box(), NOTHING).plan.disruption is Disruption.none


def test_what_was_made_needs_nothing_more() -> None:
    assert actions(new_box(), existing()) == []
    assert actions(wish(), existing()) == []
    plan = decide(new_box(), existing()).plan
    assert plan.before == plan.after


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"image": None}, "image: got None, expected an image"),
        ({"hostname": None}, "hostname: got None"),
        ({"network": None}, "network: got None"),
        ({"network": {**NETWORK, "ipv4": None, "ipv6": None}}, "network.ipv4, network.ipv6 or both"),
    ],
)
def test_what_is_needed_to_create(missing: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InputError, match="vobox1 yet") as refused:
        decide(new_box(**missing), NOTHING)
    assert said in str(refused.value)


def test_an_image_that_is_not_there() -> None:
    with pytest.raises(RefusedError, match="image: voboximg:el9: there is no such image"):
        decide(new_box(), dataclasses.replace(NOTHING, wished_image=None))


CHANGES: list[tuple[dict[str, t.Any], list[str]]] = [
    ({"restart_policy": "always"}, ["update_container"]),
    ({"limits": {**LIMITS, "memory": "1g"}}, ["update_container"]),
    ({"limits": {**LIMITS, "cpus": 1.5}}, ["update_container"]),
    ({"limits": {**LIMITS, "pids": 100}}, ["update_container"]),
    ({"limits": {**LIMITS, "nofile": "10:20"}}, ["swap_container"]),
    ({"limits": {**LIMITS, "shm_size": "1g"}}, ["swap_container"]),
    ({"hostname": "other.example.org"}, ["swap_container"]),
    ({"network": {**NETWORK, "ipv4": "10.0.0.11"}}, ["swap_container"]),
    ({"privileges": {**LEAST, "profile": "near_full"}}, ["swap_container"]),
    ({"cvmfs": {"path": "/cvmfs", "repositories": [], "propagation": "rslave"}}, ["swap_container"]),
    ({"environment": {"A": "1"}}, ["swap_container"]),
    ({"init_script": SCRIPT + "crond\n"}, ["write_init_script", "restart_services"]),
    ({"services": [{"name": "web", "port": 80, "protocol": "tcp"}]}, ["remember_services"]),
    ({"state": "stopped"}, ["stop_container"]),
    ({"state": "absent"}, ["remove_container", "remove_files"]),
    ({"hostname": "other.example.org", "init_script": SCRIPT + "crond\n"}, ["write_init_script", "swap_container"]),
    ({"hostname": "other.example.org", "state": "stopped"}, ["stop_container", "swap_container"]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[" ".join(change) for change, _expected in CHANGES])
def test_each_change_is_the_mildest_that_does(change: dict[str, t.Any], expected: list[str]) -> None:
    assert actions(new_box(**change), existing()) == expected


def test_what_a_step_costs() -> None:
    def cost(change: dict[str, t.Any]) -> str:
        return decide(new_box(**change), existing()).plan.disruption.name

    assert cost({"restart_policy": "always"}) == "none"
    assert cost({"init_script": SCRIPT + "crond\n"}) == "service"
    assert cost({"hostname": "other.example.org"}) == "container"
    assert cost({"state": "stopped"}) == "container"


def test_podman_changes_nothing_in_place() -> None:
    assert actions(new_box(restart_policy="always"), existing(platform=PODMAN)) == ["swap_container"]


def test_an_image_is_compared_by_id() -> None:
    moved = {**IMAGE, "Id": "sha256:" + "b" * 64}
    assert actions(new_box(image="same:id"), existing()) == []
    decision = decide(new_box(), existing(wished_image=moved))
    assert [step.action for step in decision.plan.steps] == ["swap_container"]
    assert "image: bbbbbbbbbbbb instead of aaaaaaaaaaaa" in decision.plan.steps[0].reason


def test_the_new_image_has_its_own_defaults_in_a_swap() -> None:
    """What the old image set is not carried over; what was asked for is."""
    seen = existing(new_box(environment={"SITE": "CERN"}))
    decision = decide(wish(hostname="other.example.org"), seen)
    values = decision.plan.steps[0].details["values"]
    assert values["environment"] == {"SITE": "CERN"}
    assert "health" not in values
    assert values["network.mac"] == seen.values["network.mac"]


@pytest.mark.parametrize("option", ["environment", "labels"])
def test_a_value_that_is_the_images_own_is_no_difference(option: str) -> None:
    of_image = {"environment": {"LANG": "C"}, "labels": {"vendor": "site"}}[option]
    mine = {"SITE": "CERN"}
    asked = new_box(**{option: {**of_image, **mine}})
    assert actions(asked, existing(new_box(**{option: mine}))) == []
    assert actions(asked, existing(asked)) == []
    # A container that overrides the image's value goes back to it, and is then no difference any more.
    other = existing(new_box(**{option: {**dict.fromkeys(of_image, "other"), **mine}}))
    [step] = decide(asked, other).plan.steps
    assert step.action == "swap_container"
    assert step.details["values"][option] == mine


def test_a_value_that_only_the_old_image_had_goes_into_the_new_container() -> None:
    moved = {**IMAGE, "Id": "sha256:" + "b" * 64, "Config": {**IMAGE["Config"], "Env": ["LANG=C.UTF-8"]}}
    [step] = decide(new_box(environment={"LANG": "C"}), existing(wished_image=moved)).plan.steps
    assert step.details["values"]["environment"] == {"LANG": "C"}


@pytest.mark.parametrize("driver", ["journald", "none"])
def test_a_log_size_that_the_driver_in_use_does_not_know(driver: str) -> None:
    log = {"driver": None, "max_size": None, "max_file": None}
    seen = existing(new_box(log={**log, "driver": driver}))
    for size, given in (("max_size", "1m"), ("max_file", 3)):
        with pytest.raises(RefusedError, match=f"log.{size}: .*the log driver of vobox1 is {driver}.*log.driver"):
            decide(new_box(log={**log, size: given}), seen)
    assert actions(new_box(log={**log, "driver": "local", "max_size": "1m"}), seen) == ["swap_container"]


def test_a_container_named_in_two_halves_is_swapped_into_one_with_its_whole_name() -> None:
    seen = existing()
    container = copy.deepcopy(seen.container)
    assert container is not None
    container["Config"].update({"Hostname": "vobox1", "Domainname": "example.org"})
    seen = dataclasses.replace(seen, container=container, values=values_of(container, IMAGE, "docker"))
    assert actions(new_box(), seen) == []
    values = decide(new_box(environment={"A": "1"}), seen).values
    body = create_body("vobox1", "voboximg:el9", values, "/files", "c0ffee", (1, 41), "docker")
    assert (body["Hostname"], body.get("Domainname")) == ("vobox1.example.org", None)
    again = values_of(container_of(values, body=body), IMAGE, "docker")
    assert again["hostname"] == "vobox1.example.org"


def test_a_stopped_box_is_started() -> None:
    assert actions(new_box(), existing(running=False)) == ["start_container"]
    assert actions(new_box(state="present"), existing(running=False)) == []
    assert actions(new_box(init_script=SCRIPT + "crond\n"), existing(running=False)) == [
        "write_init_script", "start_container",
    ]  # fmt: skip
    assert actions(new_box(environment={"A": "1"}), existing(running=False)) == ["swap_container"]


def test_a_box_that_ends_again_and_again() -> None:
    container = copy.deepcopy(existing().container)
    assert container is not None
    container["State"]["Restarting"] = True
    assert actions(new_box(), existing(container=container)) == ["restart_container"]
    assert actions(new_box(environment={"A": "1"}), existing(container=container)) == [
        "stop_container",
        "swap_container",
    ]
    assert actions(new_box(state="stopped"), existing(container=container)) == ["stop_container"]


@pytest.mark.parametrize(
    ("files", "launch", "expected", "previous"),
    [
        ({"content": "c" * 64}, Launch(VERSION, "done"), ["write_init_script", "restart_services"], "c" * 64),
        ({"content": None}, Launch(VERSION, "done"), ["write_init_script", "restart_services"], None),
        ({"runner": False}, Launch(VERSION, "done"), ["write_init_script"], None),
        ({}, Launch("d" * 64, "running"), ["restart_services"], None),
        ({}, Launch(), ["restart_services"], None),
        ({"previous": "e" * 64}, Launch(VERSION, "running"), [], "e" * 64),
    ],
)
def test_the_init_script_that_runs_is_the_one_asked_for(
    files: dict[str, t.Any], launch: Launch, expected: list[str], previous: str | None
) -> None:
    seen = existing()
    seen = dataclasses.replace(seen, files=dataclasses.replace(seen.files, **files), launch=launch)
    assert actions(new_box(), seen) == expected
    assert decide(new_box(), seen).previous == previous


def test_an_old_version_must_be_kept() -> None:
    with pytest.raises(InputError, match=f"a version that is kept on this host .{VERSION}"):
        decide(wish(init_script_version="f" * 64), existing())
    assert actions(wish(init_script_version=VERSION), existing()) == []


def test_a_restart_that_was_cut_short_is_finished() -> None:
    """Unless the container is wanted stopped; then it is no longer one that was cut short."""
    seen = existing(running=False, cut_short=True)
    for state in ("started", "present"):
        plan = decide(new_box(state=state), seen).plan
        assert [(step.action, step.disruption) for step in plan.steps] == [("restart_container", Disruption.none)]
        assert (plan.before["state"], plan.after["state"]) == ("stopped", "started")
    assert actions(new_box(state="present"), existing(running=False)) == []
    stopped = decide(new_box(state="stopped"), seen).plan
    assert [(step.action, step.disruption) for step in stopped.steps] == [("stop_container", Disruption.none)]
    assert stopped.after["state"] == "stopped"
    [swap] = decide(new_box(state="present", hostname="other.example.org"), seen).plan.steps
    assert swap.action == "swap_container"
    assert swap.details["start"]


def test_a_renewed_certificate_restarts_the_container() -> None:
    seen = existing(renewed=("/etc/grid-security/hostcert.pem",))
    plan = decide(new_box(init_script=SCRIPT + "crond\n"), seen).plan
    assert [step.action for step in plan.steps] == ["write_init_script", "restart_container"]
    assert plan.disruption is Disruption.service


def on_a_second_network(endpoint: dict[str, t.Any], platform: Platform = DOCKER) -> Observed:
    seen = existing(platform=platform)
    assert seen.container is not None
    seen.container["NetworkSettings"]["Networks"]["management"] = endpoint
    return dataclasses.replace(seen, values=values_of(seen.container, IMAGE, "docker"))


def test_a_swap_takes_a_second_network_along() -> None:
    seen = on_a_second_network(
        {"IPAMConfig": {}, "IPAddress": "172.30.0.2", "Aliases": ["1" * 12, "box"], "EndpointID": "e"}
    )
    assert actions(new_box(), seen) == []
    [step] = decide(new_box(environment={"A": "1"}), seen).plan.steps
    assert step.details["values"]["network.others"] == {"management": {"Aliases": ["box"]}}
    # Unless it becomes the network of the VO-box.
    [step] = decide(new_box(network={**NETWORK, "name": "management"}), seen).plan.steps
    assert step.details["values"]["network.others"] == {}


@pytest.mark.parametrize(
    ("endpoint", "platform", "why"),
    [
        ({"IPAMConfig": {"IPv4Address": "172.30.0.2"}}, DOCKER, "with the fixed address 172.30.0.2"),
        ({"IPAMConfig": None}, PODMAN, "podman 4.3.1"),
    ],
)
def test_a_swap_that_would_lose_a_second_network_is_refused(
    endpoint: dict[str, t.Any], platform: Platform, why: str
) -> None:
    seen = on_a_second_network(endpoint, platform)
    assert actions(new_box(), seen) == []
    way_out = f"{platform.name} network disconnect management vobox1"
    with pytest.raises(RefusedError, match=f"it is on the network management too.*{why}.*{way_out}"):
        decide(new_box(environment={"A": "1"}), seen)


def test_leftovers_are_cleared_first() -> None:
    assert actions(new_box(), existing(leftovers=("vobox1.next",))) == ["clear_leftovers"]
    assert actions(new_box(state="absent"), existing(kept="vobox1.previous"))[:2] == ["remove_container"] * 2


@pytest.mark.parametrize(
    ("changes", "memory", "both"),
    [
        ({"memory": "1g"}, 1 << 30, 1 << 30),
        ({"memory": "1g", "memory_swap": "2g"}, 1 << 30, 2 << 30),
    ],
)
def test_swap_space_follows_memory(changes: dict[str, t.Any], memory: int, both: int) -> None:
    seen = existing(new_box(limits={**LIMITS, "memory": "512m"}))
    [step] = decide(new_box(limits={**LIMITS, **changes}), seen).plan.steps
    assert step.action == "update_container"
    assert step.details["to"]["limits.memory"] == memory
    assert step.details["to"]["limits.memory_swap"] == both
    assert step.details["from"] == {"limits.memory": 512 << 20, "limits.memory_swap": 512 << 20}


def test_limits_are_the_last_that_is_changed() -> None:
    """What may fail comes first: the engine does not take a limit away where there was none."""
    limits = {**LIMITS, "memory": "512m"}
    assert actions(new_box(limits=limits), existing(running=False)) == ["start_container", "update_container"]
    assert actions(new_box(limits=limits), existing(renewed=("/cert",))) == ["restart_container", "update_container"]


def test_a_restart_policy_goes_back_with_its_retries() -> None:
    seen = existing()
    values = {**seen.values, "restart_policy": "on-failure", "restart_policy.retries": 5}
    seen = dataclasses.replace(seen, values=values)
    [step] = decide(new_box(restart_policy="always"), seen).plan.steps
    assert update_body(step.details["from"]) == {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5}}


@pytest.mark.parametrize("key", ["CpuQuota", "CpuPeriod"])
def test_processors_that_were_limited_in_another_way(key: str) -> None:
    """``docker run --cpu-quota``: the engine refuses the other way in a container that is there."""
    seen = existing()
    assert seen.container is not None
    seen.container["HostConfig"][key] = 50_000
    assert actions(new_box(limits={**LIMITS, "cpus": 1.5}), seen) == ["swap_container"]


def test_a_limit_is_taken_away_by_a_swap() -> None:
    seen = existing(new_box(limits={**LIMITS, "memory": "512m", "cpus": 1.0}))
    for changes in ({"memory": "0"}, {"cpus": 0.0}):
        decision = decide(new_box(limits={**LIMITS, **changes}), seen)
        assert [step.action for step in decision.plan.steps] == ["swap_container"]
    assert decide(new_box(limits={**LIMITS, "memory": "0"}), seen).values["limits.memory_swap"] == 0


def test_open_files_are_as_many_as_the_engine_can_grant() -> None:
    bounded = EngineProcess(frozenset(CAPABILITIES) - {"SYS_RESOURCE"}, {"Max open files": 20000})
    assert decide(new_box(), NOTHING).values["limits.nofile"] == (65536, 65536)
    assert decide(new_box(), dataclasses.replace(NOTHING, process=bounded)).values["limits.nofile"] == (20000, 20000)


def test_services_are_compared_with_what_is_remembered() -> None:
    seen = existing()
    seen = dataclasses.replace(seen, files=dataclasses.replace(seen.files, services=(Service("web", 80),)))
    web = {"name": "web", "port": 80, "protocol": "tcp"}
    assert actions(new_box(services=[web]), seen) == []
    assert actions(new_box(services=[]), seen) == ["remember_services"]

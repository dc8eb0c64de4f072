# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The handover on a real engine, looked at with docker and from another machine of the LAN."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import typing as t
from pathlib import Path
from types import MappingProxyType

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.lock import Lock
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import NAME_LABEL
from tests.integration.conftest import PARENT, Lab
from tests.lab.lan import run
from tests.lab.probe import Reach
from tests.lab.reconciler import Reconciler
from tests.lab.swap import VOBOX, Job, recover, swap, vobox_body
from tests.sampled import sampled

NAME = "vobox"


@pytest.fixture(scope="module")
def site(lab: Lab) -> t.Iterator[Lab]:
    """The lab with the VO-box's network."""
    make_network(lab)
    yield lab
    lab.docker("network", "rm", "site")


@pytest.fixture()
def vobox(site: Lab) -> t.Iterator[str]:
    """A VO-box in service; its id."""
    try:
        yield make_vobox(site)
    finally:
        remove_voboxes(site)


def make_network(lab: Lab, *options: str) -> None:
    lab.docker(
        "network", "create", "--driver", "macvlan", "--ipv6", "--opt", f"parent={PARENT}",
        "--subnet", "10.213.0.0/16", "--ip-range", "10.213.1.0/24", "--gateway", "10.213.0.1",
        "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", *options, "site",
    )  # fmt: skip


def make_vobox(lab: Lab, *command: str, labels: t.Mapping[str, str] = MappingProxyType({})) -> str:
    """Make and start one; returns its id."""
    engine = DockerApi(lab.engine.url, 30)
    made = engine.create_container(NAME, {**vobox_body(*command), "Labels": dict(labels)})
    engine.start_container(NAME)
    eventually_in_service(lab)
    return made


def remove_voboxes(lab: Lab) -> None:
    names = lab.docker("ps", "--all", "--quiet").split()
    if names:
        lab.docker("rm", "--force", "--volumes", *names)


def eventually(check: t.Callable[[], t.Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)


def answers(lab: Lab, version: int) -> bool:
    """Whether another machine gets the page, over IPv4 or IPv6."""
    host = VOBOX.ipv4 if version == 4 else f"[{VOBOX.ipv6}]"
    got = lab.from_peer("curl", "--silent", "--max-time", "2", f"http://{host}/index.html", check=False)
    return got.stdout == "here I am\n"


def inspect(lab: Lab, name: str = NAME) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(lab.docker("inspect", name))[0])


def names(lab: Lab) -> dict[str, str]:
    """Names and states of all containers."""
    rows = lab.docker("ps", "--all", "--format", "{{.Names}} {{.State}}").splitlines()
    return dict(t.cast("tuple[str, str]", tuple(row.split())) for row in rows)


def neighbours(lab: Lab) -> dict[str, str]:
    """The peer's neighbour table: address to MAC."""
    rows = json.loads(run("ip", "-json", "-n", lab.peer, "neighbour", "show").stdout)
    return {row["dst"]: row.get("lladdr", "") for row in rows}


def network_state(lab: Lab) -> dict[str, t.Any]:
    """The VO-box's network as the engine and its namespace have it, without what is new in each start."""
    seen = inspect(lab)
    namespace = f"--net=/proc/{seen['State']['Pid']}/ns/net"
    endpoint = seen["NetworkSettings"]["Networks"]["site"]
    short_id = seen["Id"][:12]

    def ip(*words: str) -> t.Any:
        return json.loads(run("nsenter", namespace, "ip", "-json", *words).stdout or "[]")

    return {
        "endpoint": {
            key: endpoint[key]
            for key in ("IPAMConfig", "IPAddress", "GlobalIPv6Address", "MacAddress", "Gateway", "IPv6Gateway")
        },
        "aliases": sorted(alias for alias in endpoint["Aliases"] or [] if alias != short_id),
        "links": [(link["ifname"], link["address"], link["operstate"]) for link in ip("link")],
        "addresses": [
            (link["ifname"], [(a["local"], a["prefixlen"]) for a in link["addr_info"]]) for link in ip("address")
        ],
        "routes": [sorted(map(str, ip(family, "route"))) for family in ("-4", "-6")],
        "rules": [[(r["priority"], r["table"]) for r in ip(family, "rule")] for family in ("-4", "-6")],
        # As sets: the engine (20.10) writes the lines of a second connect to /etc/hosts once more.
        "files": [
            set(lab.docker("exec", NAME, "cat", path).splitlines())
            for path in ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
        ],
        "policy": seen["HostConfig"]["RestartPolicy"]["Name"],
    }


def troubles(lab: Lab) -> list[str]:
    """What keeps this from being exactly one VO-box, running, with MAC, addresses and policy, and answering."""
    if names(lab) != {NAME: "running"}:
        return [f"containers: {names(lab)}"]
    seen = inspect(lab)
    endpoint = seen["NetworkSettings"]["Networks"].get("site") or {}
    namespace = f"--net=/proc/{seen['State']['Pid']}/ns/net"
    has = {key: endpoint.get(key) for key in ("MacAddress", "IPAddress", "GlobalIPv6Address")}
    policy = seen["HostConfig"]["RestartPolicy"]["Name"]
    found = []
    if tuple(has.values()) != (VOBOX.mac, VOBOX.ipv4, VOBOX.ipv6):
        found.append(f"endpoint: {has}")
    if policy != "unless-stopped":
        found.append(f"policy: {policy}")
    found += [f"no answer over IPv{version}" for version in (4, 6) if not answers(lab, version)]
    known = {address: neighbours(lab).get(address) for address in VOBOX.addresses}
    if set(known.values()) != {VOBOX.mac}:
        found.append(f"the peer's neighbours: {known}")
    if "gridbox" in run("nsenter", namespace, "ip", "link").stdout:
        found.append("an interim link is left")
    if found:
        for where in (namespace, f"--net=/run/netns/{lab.peer}"):
            for words in (["address"], ["neighbour"], ["rule"], ["route"], ["-6", "route"]):
                found.append(run("nsenter", where, "ip", *words).stdout)
        found.append(run("nsenter", namespace, "ss", "-tlnp", check=False).stdout)
    return found


def eventually_in_service(lab: Lab, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while found := troubles(lab):
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.1)


@pytest.mark.parametrize("strategy", ["overlap", "sequential"])
def test_a_swap_leaves_the_new_container_as_if_it_had_been_started_alone(site: Lab, vobox: str, strategy: str) -> None:
    before = network_state(site)
    report = swap(Job(site.engine.url, strategy=strategy), site.engine.netns)
    assert (report["old_id"], report["strategy"], report["announced"]) == (vobox, strategy, True)
    assert inspect(site)["Id"] == report["new_id"] != vobox
    assert troubles(site) == []
    assert network_state(site) == before
    site.docker("restart", "--time", "0", NAME)
    eventually_in_service(site)
    assert network_state(site) == before


def tell_outage(claim: t.Callable[..., None], case: str, reach: Reach) -> None:
    """How long nobody was reached, as a figure: on a busy machine it says more of the machine than of the swap."""
    assert reach.attempts > 100
    claim("A18", case=case, unreachable_ms=round(reach.longest_outage * 1000, 1))


def test_an_overlapping_swap_is_announced_and_measured(site: Lab, vobox: str, claim: t.Callable[..., None]) -> None:
    with Reach(site.peer, VOBOX) as reach:
        report = swap(Job(site.engine.url), site.engine.netns)
    assert (report["strategy"], report["announced"]) == ("overlap", True)
    tell_outage(claim, "swap", reach)


def test_the_replaced_container_can_be_kept(site: Lab, vobox: str) -> None:
    swap(Job(site.engine.url, keep=True), site.engine.netns)
    assert names(site) == {NAME: "running", f"{NAME}.previous": "exited"}
    kept = inspect(site, f"{NAME}.previous")
    assert (kept["Id"], kept["HostConfig"]["RestartPolicy"]["Name"]) == (vobox, "no")
    # One is kept, not a row of them.
    second = swap(Job(site.engine.url, keep=True), site.engine.netns)
    assert inspect(site, f"{NAME}.previous")["Id"] == second["old_id"] != vobox
    assert recover(site.engine.url, NAME, site.engine.netns) == []


def test_a_restart_of_the_daemon_starts_the_new_one_only(own_lab: Lab) -> None:
    make_network(own_lab)
    make_vobox(own_lab)
    swap(Job(own_lab.engine.url, keep=True), own_lab.engine.netns)
    before = network_state(own_lab)
    own_lab.engine.kill(signal.SIGTERM)
    own_lab.engine.start()
    eventually(lambda: names(own_lab) == {NAME: "running", f"{NAME}.previous": "exited"})
    own_lab.docker("rm", f"{NAME}.previous")
    eventually_in_service(own_lab)
    assert network_state(own_lab) == before


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_image_that_does_not_start_changes_nothing(site: Lab, vobox: str, claim: t.Callable[..., None]) -> None:
    with Reach(site.peer, VOBOX) as reach:
        outcome = swap(Job(site.engine.url, create=vobox_body("/no/such/program")), site.engine.netns)
    assert "/no/such/program" in outcome["error"]
    assert outcome["rollback"]["failed"] == []
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox
    tell_outage(claim, "image_does_not_start", reach)


def test_a_container_that_ends_during_warm_up_is_quoted(site: Lab, vobox: str) -> None:
    body = vobox_body("sh", "-c", "echo no squid.conf; exit 3")
    outcome = swap(Job(site.engine.url, create=body), site.engine.netns)
    assert "exit code 3" in outcome["error"]
    assert "no squid.conf" in outcome["error"]
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox


def test_a_service_that_never_listens_changes_nothing(site: Lab, vobox: str) -> None:
    outcome = swap(Job(site.engine.url, create=vobox_body("sleep", "60"), ready_seconds=1), site.engine.netns)
    assert "nothing listens on port 80" in outcome["error"]
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox


@pytest.mark.parametrize("strategy", ["overlap", "sequential"])
def test_the_old_container_comes_back_when_the_new_one_is_not_well_in_service(
    site: Lab, vobox: str, strategy: str, claim: t.Callable[..., None]
) -> None:
    before = network_state(site)
    with Reach(site.peer, VOBOX) as reach:
        outcome = swap(Job(site.engine.url, strategy=strategy, unwell="queue stuck"), site.engine.netns)
    assert "queue stuck" in outcome["error"]
    assert outcome["rollback"]["failed"] == []
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox
    after = network_state(site)
    # The engine numbers the links of a namespace that it connects a second time: eth1.
    for state in (before, after):
        for part in ("links", "addresses", "routes"):
            state[part] = str(state[part]).replace("eth1", "eth0")
    assert after == before
    tell_outage(claim, f"put_back_{strategy}", reach)


def test_an_address_stolen_at_the_worst_moment_does_not_end_the_service(site: Lab, vobox: str) -> None:
    site.docker("run", "--detach", "--name", "thief", "busybox:test", "sleep", "60")
    docker = f"docker --host {site.engine.url}"
    # For four seconds.
    giving_up = f"(sleep 4; {docker} rm --force thief) >/dev/null 2>&1 &"
    steal = ["sh", "-c", f"{docker} network connect --ip {VOBOX.ipv4} site thief || exit 1; {giving_up}"]
    outcome = swap(Job(site.engine.url, before={"POST connect": steal}), site.engine.netns)
    assert "ddress already in use" in outcome["error"]
    assert outcome["rollback"]["failed"] == []
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox


def test_a_missing_parent_link_is_told_before_anything_is_touched(own_lab: Lab) -> None:
    make_network(own_lab)
    made = make_vobox(own_lab)
    run("ip", "-n", own_lab.engine.netns, "link", "set", PARENT, "name", "moved0", check=False)
    outcome = swap(Job(own_lab.engine.url), own_lab.engine.netns)
    assert f"parent link {PARENT} is not on this host" in outcome["error"]
    assert outcome["effects"] == []
    assert names(own_lab) == {NAME: "running"}
    assert inspect(own_lab)["Id"] == made


def test_a_parent_that_goes_away_during_the_swap(own_lab: Lab) -> None:
    """Nobody can serve then; but the old container is there, and when the link is back a start is enough."""
    make_network(own_lab)
    made = make_vobox(own_lab)
    remove_parent = ["ip", "-n", own_lab.engine.netns, "link", "delete", PARENT]
    outcome = swap(Job(own_lab.engine.url, before={"put_up": remove_parent}, put_back_seconds=2), own_lab.engine.netns)
    assert f"{PARENT}" in outcome["error"]
    assert inspect(own_lab)["Id"] == made
    assert inspect(own_lab)["NetworkSettings"]["Networks"]["site"]["IPAMConfig"]["IPv4Address"] == VOBOX.ipv4


def test_a_parent_for_one_link_only_is_handed_over_without_an_interim_link(
    own_lab: Lab, claim: t.Callable[..., None]
) -> None:
    make_network(own_lab, "--opt", "macvlan_mode=passthru")
    make_vobox(own_lab)
    before = network_state(own_lab)
    with Reach(own_lab.peer, VOBOX) as reach:
        report = swap(Job(own_lab.engine.url), own_lab.engine.netns)
    assert (report["strategy"], report["announced"]) == ("overlap", False)
    assert troubles(own_lab) == []
    assert network_state(own_lab) == before
    tell_outage(claim, "passthru", reach)


# ---- engines that cannot move an endpoint with its MAC (Docker 25 and later) -----------------------------------------


def test_a_stand_in_serves_while_the_engine_replaces_the_container(
    site: Lab, vobox: str, claim: t.Callable[..., None]
) -> None:
    before = network_state(site)
    with Reach(site.peer, VOBOX) as reach:
        report = swap(Job(site.engine.url, stand_in=True), site.engine.netns)
    assert (report["old_id"], report["strategy"], report["announced"]) == (vobox, "overlap", True)
    assert inspect(site)["Id"] == report["new_id"]
    assert troubles(site) == []
    assert network_state(site) == before
    tell_outage(claim, "stand_in", reach)


def test_the_old_container_comes_back_when_the_one_after_the_stand_in_is_not_well(site: Lab, vobox: str) -> None:
    before = network_state(site)
    outcome = swap(Job(site.engine.url, stand_in=True, unwell="queue stuck"), site.engine.netns)
    assert "queue stuck" in outcome["error"]
    assert outcome["rollback"]["failed"] == []
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox
    assert network_state(site) == before


#: Effects, by their numbers, and whether the engine is at work on them when the process is killed.
STAND_IN_MOMENTS = [(3, True), (5, False), (7, True), (8, True), (9, False), (12, False)]
SEQUENTIAL_MOMENTS = [(3, False), (3, True), (4, True), (5, False), (8, True), (12, False)]


@pytest.mark.parametrize(("number", "during"), sampled(STAND_IN_MOMENTS, every=3))
def test_a_killed_swap_with_a_stand_in_ends_before(site: Lab, vobox: str, number: int, during: bool) -> None:
    assert swap(Job(site.engine.url, stand_in=True, die_at=number, during=during), site.engine.netns) == {}
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox


@pytest.mark.parametrize("number", [0, 9])
def test_a_stand_in_is_silent_even_if_its_namespace_outlives_it(site: Lab, vobox: str, number: int) -> None:
    """As namespaces do on a busy machine, where the LAN was sent to a container that was gone (a run of 2026-11)."""
    held = f"gbt{os.getpid()}-held"
    pid = f"docker --host {site.engine.url} inspect --format {{{{.State.Pid}}}} {NAME}.stand-in"
    hold = {"POST stop": ["sh", "-c", f"exec ip netns attach {held} $({pid})"]}
    try:
        swap(Job(site.engine.url, stand_in=True, die_at=number, before=hold), site.engine.netns)
        assert [link["ifname"] for link in json.loads(run("ip", "-json", "-n", held, "link").stdout)] == ["lo"]
        assert troubles(site) == []
        assert (inspect(site)["Id"] == vobox) is bool(number)
    finally:
        run("ip", "netns", "delete", held, check=False)


# ---- SIGKILL at every step -------------------------------------------------------------------------------------------

#: The effects of an overlapping swap, in order; the parameters below are their numbers.
EFFECTS = [
    "POST create", "POST disconnect", "POST start", "put_up", "take_down", "POST disconnect", "POST connect",
    "leave_to_main", "take_down", "POST update", "POST update", "DELETE container", "POST rename", "POST rename",
    "POST stop", "DELETE container",
]  # fmt: skip
#: Those that are also tried while the engine is at work on them.
SLOW = {1, 3, 6, 7, 13, 15}
#: From this one on the new container has proved well, and stays.
COMMITTED = 15


def test_the_effects_are_those_that_the_process_is_killed_at(site: Lab, vobox: str) -> None:
    assert swap(Job(site.engine.url), site.engine.netns)["effects"] == EFFECTS


@pytest.mark.parametrize(
    ("number", "during"),
    sampled(
        [
            pytest.param(number, during, id=f"{number}-{'during' if during else 'before'}-{title.replace(' ', '-')}")
            for number, title in enumerate(EFFECTS, 1)
            for during in (False, True)
            if not during or number in SLOW
        ],
        every=4,
    ),
)
def test_a_killed_swap_ends_before_or_after(site: Lab, vobox: str, number: int, during: bool) -> None:
    assert swap(Job(site.engine.url, die_at=number, during=during), site.engine.netns) == {}
    assert troubles(site) == []
    assert (inspect(site)["Id"] == vobox) == (number < COMMITTED)
    time.sleep(1)  # for what may still be at work in the engine
    assert troubles(site) == []


@pytest.mark.parametrize(("number", "during"), sampled(SEQUENTIAL_MOMENTS, every=3))
def test_a_killed_sequential_swap_ends_before_or_after(site: Lab, vobox: str, number: int, during: bool) -> None:
    assert swap(Job(site.engine.url, strategy="sequential", die_at=number, during=during), site.engine.netns) == {}
    assert troubles(site) == []
    assert inspect(site)["Id"] == vobox


# ---- power cut: neither the module nor its guard lives on ------------------------------------------------------------


def cut_the_power(lab: Lab) -> None:
    """All that runs is gone at once, and so is what is kept in /run; what is on disk stays."""
    run_folder = lab.engine.folder / "exec"
    pids = [lab.engine.pid, int((run_folder / "containerd" / "containerd.pid").read_text())]
    running = lab.docker("ps", "--quiet").split()
    if running:
        pids += [int(pid) for pid in lab.docker("inspect", "--format", "{{.State.Pid}}", *running).split()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # one that has just ended
            if path.read_bytes().startswith(b"/usr/bin/containerd-shim") and str(run_folder) in path.read_text():
                pids.append(int(path.parent.name))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in pids))
    lab.engine.kill(0)
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{run_folder}/"):
            run("umount", "--lazy", line.split()[1])
    shutil.rmtree(run_folder)


def is_alive(pid: int) -> bool:
    stat = Path("/proc", str(pid), "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("number", "stand_in"),
    sampled([(3, False), (7, False), (9, False), (14, False), (15, False), (4, True), (6, True)], every=3),
)
def test_leftovers_of_a_power_cut_are_recovered(own_lab: Lab, number: int, stand_in: bool) -> None:
    make_network(own_lab)
    made = make_vobox(own_lab)
    swap(Job(own_lab.engine.url, die_at=number, stand_in=stand_in, power_cut=True), own_lab.engine.netns)
    cut_the_power(own_lab)
    own_lab.engine.start()
    assert recover(own_lab.engine.url, NAME, own_lab.engine.netns)
    assert troubles(own_lab) == []
    assert (inspect(own_lab)["Id"] == made) == (number < COMMITTED)
    assert recover(own_lab.engine.url, NAME, own_lab.engine.netns) == []


def test_the_next_run_says_what_it_found(own_lab: Lab, tmp_path: Path) -> None:
    make_network(own_lab)
    make_vobox(own_lab)
    swap(Job(own_lab.engine.url, die_at=7, power_cut=True), own_lab.engine.netns)
    cut_the_power(own_lab)
    own_lab.engine.start()
    said = own_lab.module("vobox_container", name=NAME, files=str(tmp_path / "voboxes"))
    assert [step["action"] for step in said["actions"]] == ["clear_leftovers"]
    [warning] = said["warnings"]
    assert f"An interrupted swap of {NAME} was taken back" in str(warning)
    assert "warnings" not in own_lab.module("vobox_container", name=NAME, files=str(tmp_path / "voboxes"))


# ---- the reconciler, which a boot starts, does the same --------------------------------------------------------------

LABELS = {NAME_LABEL: NAME}
LABELLED = {**vobox_body(), "Labels": LABELS}
TAKEN_BACK = (
    f"{NAME}: recovered: An interrupted swap of {NAME} was taken back; the container before it is in service again.\n"
)
FINISHED = f"{NAME}: recovered: An interrupted swap of {NAME} was finished: the replaced container is stopped.\n"


@pytest.mark.parametrize(
    ("strategy", "stand_in", "number"),
    sampled(
        [
            pytest.param("sequential", False, 4, id="sequential-old-stopped"),
            pytest.param("sequential", False, 3, id="sequential-new-made"),
            pytest.param("sequential", False, 8, id="sequential-old-disconnected"),
            pytest.param("overlap", True, 8, id="stand-in-old-stopped"),
            pytest.param("overlap", True, 3, id="stand-in-made"),
            pytest.param("overlap", False, 11, id="overlap-new-has-its-policy"),
            pytest.param("overlap", False, 7, id="overlap-old-disconnected"),
            pytest.param("overlap", False, 14, id="overlap-old-renamed"),
            pytest.param("overlap", False, COMMITTED + 1, id="overlap-old-not-removed"),
            pytest.param("overlap", False, COMMITTED, id="overlap-old-not-stopped"),
        ],
        every=3,
    ),
)
def test_after_a_power_cut_the_reconciler_alone_brings_the_vobox_back(
    own_lab: Lab, tmp_path: Path, strategy: str, stand_in: bool, number: int
) -> None:
    make_network(own_lab)
    made = make_vobox(own_lab, labels=LABELS)
    before = network_state(own_lab)
    swap(
        Job(own_lab.engine.url, LABELLED, strategy=strategy, stand_in=stand_in, die_at=number, power_cut=True),
        own_lab.engine.netns,
    )
    cut_the_power(own_lab)
    own_lab.engine.start()
    time.sleep(2)  # for what the engine starts by itself
    committed = strategy == "overlap" and not stand_in and number >= COMMITTED
    assert troubles(own_lab)
    reconciler = Reconciler(own_lab.engine, tmp_path)
    assert reconciler.run() == (0, FINISHED if committed else TAKEN_BACK)
    eventually_in_service(own_lab)
    assert (inspect(own_lab)["Id"] == made) == (not committed)
    assert network_state(own_lab) == before
    assert [name for name, _text in reconciler.events()] == [NAME]
    assert reconciler.run() == (0, "")
    assert recover(own_lab.engine.url, NAME, own_lab.engine.netns) == []


def test_the_reconciler_brings_back_what_was_started_by_hand(site: Lab, vobox: str, tmp_path: Path) -> None:
    """Its first swap by this collection is cut short, so nothing but what that left tells of a VO-box."""
    swap(Job(site.engine.url, LABELLED, strategy="sequential", die_at=4, power_cut=True), site.engine.netns)
    assert names(site) == {NAME: "exited", f"{NAME}.next": "created"}
    assert Reconciler(site.engine, tmp_path).run() == (0, TAKEN_BACK)
    eventually_in_service(site)
    assert inspect(site)["Id"] == vobox


def test_the_reconciler_disturbs_no_swap_and_no_guard(site: Lab, vobox: str, tmp_path: Path) -> None:
    swap(Job(site.engine.url, LABELLED, strategy="sequential", die_at=5, power_cut=True), site.engine.netns)
    there = names(site)
    assert there == {NAME: "exited", f"{NAME}.next": "running"}
    reconciler = Reconciler(site.engine, tmp_path)
    with Lock(f"VO-box {NAME} of {site.engine.url}"):
        assert reconciler.run() == (0, f"{NAME}: another run, or the undo of one, is at work on it\n")
        assert names(site) == there
    assert reconciler.run() == (0, TAKEN_BACK)
    eventually_in_service(site)
    assert inspect(site)["Id"] == vobox


def test_the_reconciler_leaves_alone_what_no_swap_has_made(own_lab: Lab, tmp_path: Path) -> None:
    make_network(own_lab)
    make_vobox(own_lab, labels=LABELS)
    # By somebody who copies a VO-box with its labels.
    for other in ("next", "stand-in", "previous"):
        own_lab.docker("create", "--name", f"{NAME}.{other}", "--label", f"{NAME_LABEL}={NAME}", "busybox:test", "true")
    there = names(own_lab)
    reconciler = Reconciler(own_lab.engine, tmp_path)
    assert reconciler.run() == (0, "")
    own_lab.docker("stop", "--time", "1", NAME)
    assert reconciler.run() == (0, "")
    assert names(own_lab) == {**there, NAME: "exited"}


def test_a_recovery_that_fails_is_told_and_tried_again_later(own_lab: Lab, tmp_path: Path) -> None:
    make_network(own_lab)
    made = make_vobox(own_lab, labels=LABELS)
    swap(Job(own_lab.engine.url, LABELLED, die_at=3, power_cut=True), own_lab.engine.netns)
    own_lab.docker("rm", "--force", NAME)
    reconciler = Reconciler(own_lab.engine, tmp_path)
    complaint = f"The container that {NAME} was before, {made[:12]}, is gone."
    assert reconciler.run() == (1, f"{NAME}: recover failed: {complaint}\n{NAME}: {complaint}\n")
    status, said = reconciler.run()
    assert status == 1
    assert said.startswith(f"{NAME}: a swap that was interrupted has left {NAME}.next; next try in ")
    assert reconciler.events() == [(NAME, f"recover failed: {complaint}")]
    assert names(own_lab) == {f"{NAME}.next": "created"}

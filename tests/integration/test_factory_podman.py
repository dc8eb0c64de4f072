# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory with Podman as its engine: the whole life of machines."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration
from tests.integration.test_factory import (
    FIZZLED,
    TALKS,
    TIME_LIMITS,
    WAITS,
    WORKS,
    ended,
    ends_by_the_time_limit,
    follows_at_once,
    is_left_alone_from_another_state_folder,
    is_root_whatever_its_image_says,
    keeps_accounts_apart,
    kept_of_a_long_output,
    runs_though_it_is_larger_than_the_host,
    waiting,
)
from tests.integration.test_factory_images import REGISTRY, digest_is_what_is_pulled_and_run, root
from tests.lab.engine import PodmanService
from tests.lab.factory import KIND, LabFactory, PodmanLab
from tests.lab.lab import Lab
from tests.lab.registry import Registry


@pytest.fixture()
def make(podman: PodmanService, tmp_path: Path) -> t.Iterator[t.Callable[..., LabFactory]]:
    """Makes factories with one machinetype ``a`` that runs a script."""
    made: list[LabFactory] = []

    def factory(script: str = WORKS, **settings: t.Any) -> LabFactory:
        kind = {**KIND, **settings.pop("kind", {})}
        lab = t.cast(Lab, PodmanLab(podman))
        one = LabFactory(lab, tmp_path, **{"network": "podman", "machinetypes": {"a": kind}, **settings})
        one.file("a", "run", script)
        made.append(one)
        return one

    yield factory
    for one in made:
        one.remove()


def cgroup_of(pid: int, controller: str, name_v1: str, name_v2: str) -> str:
    """A limit in the control group of a process."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{name_v1}").read_text().strip()
        if not controllers and Path(f"/sys/fs/cgroup{path}/{name_v2}").exists():
            return Path(f"/sys/fs/cgroup{path}/{name_v2}").read_text().strip()
    raise AssertionError(f"process {pid} has no {name_v1} and no {name_v2}")


def test_the_life_of_a_machine(make: t.Callable[..., LabFactory]) -> None:
    script = (
        "#!/bin/sh\necho here I am\necho and here >&2\nhostname >$JOBOUTPUTS/name\n"
        "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status >$JOBOUTPUTS/status\n"
        "touch /etc/machinefeatures/x 2>/dev/null || echo read-only >$JOBOUTPUTS/features\n"
        "while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
    )
    factory = make(script, total_processors=1, pids_per_processor=64, mb_per_processor=64)
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    pid = before["State"]["Pid"]
    assert cgroup_of(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_of(pid, "pids", "pids.max", "pids.max") == "64"
    assert cgroup_of(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "100000"

    # The daemon is restarted, and finds it again.
    assert factory.stop(signal.SIGTERM) == 0
    factory.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    factory.wait("a report", lambda: factory.run("check").returncode == 0)
    assert [one["State"]["Pid"] for one in factory.running()] == [pid]
    assert not factory.events("machine_ended", "stray_removed", "unborn_removed")

    [outputs] = factory.state.glob("machines/*/mnt/joboutputs")
    (outputs / "go").touch()
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("200 Success", "by_itself")
    first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    assert first["exit_code"] == 0
    folder = next(factory.state.glob(f"machines/*{first['uuid'][:8]}"))
    output = (folder / "output.log").read_bytes()
    assert b"here I am\n" in output and b"and here\n" in output
    assert output[:4] == b"20" + output[2:4], "each line has its time"
    kept = {path.name: path.read_text() for path in (folder / "joboutputs").iterdir()}
    assert kept["name"] == "f1-00.example.org\n"
    assert kept["status"] == "CapEff:\t00000000200000fb\nNoNewPrivs:\t1\n"
    assert kept["features"] == "read-only\n"
    second = factory.wait("the next one", lambda: [one for one in factory.running() if one["Id"] != before["Id"]])
    assert second


def test_a_machine_is_root_whatever_its_image_says(make: t.Callable[..., LabFactory]) -> None:
    is_root_whatever_its_image_says(make())


def test_a_machine_runs_though_it_is_larger_than_the_host(make: t.Callable[..., LabFactory]) -> None:
    runs_though_it_is_larger_than_the_host(make())


def test_a_machine_keeps_accounts_apart(make: t.Callable[..., LabFactory]) -> None:
    keeps_accounts_apart(make())


def test_a_machine_is_on_the_default_network_of_podman(
    make: t.Callable[..., LabFactory], podman: PodmanService
) -> None:
    """What Podman calls ``podman``, and its API for Docker's programs ``bridge``."""
    script = (
        "#!/bin/sh\nip -o -4 addr show >$JOBOUTPUTS/addresses 2>&1\nip route >$JOBOUTPUTS/routes 2>&1\n"
        "touch $JOBOUTPUTS/done\nsleep 300\n"
    )
    factory = make(script, total_processors=1, network=None)
    assert configuration.load(str(factory.configuration)).network == "bridge"
    factory.start()
    factory.wait("the machine's words", lambda: list(factory.state.glob("machines/*/mnt/joboutputs/done")))
    [container] = factory.running()
    pid = container["State"]["Pid"]
    assert os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat(f"/run/netns/{podman.netns}").st_ino
    [outputs] = factory.state.glob("machines/*/mnt/joboutputs")
    subnet = json.loads(podman.podman("network", "inspect", "podman").stdout)[0]["subnets"][0]
    addresses = re.findall(r"inet ([0-9.]+)/", (outputs / "addresses").read_text())
    [own] = [one for one in addresses if not one.startswith("127.")]
    assert ipaddress.ip_address(own) in ipaddress.ip_network(subnet["subnet"])
    assert f"default via {subnet['gateway']} " in (outputs / "routes").read_text()


def test_of_a_long_output_the_end_is_kept(make: t.Callable[..., LabFactory]) -> None:
    """Podman has what has come since its file was full, and a line in two that came in two pieces."""
    assert kept_of_a_long_output(make(TALKS, output_bytes=65536))


def test_machines_outlive_a_daemon_that_begins_in_another_state_folder(make: t.Callable[..., LabFactory]) -> None:
    is_left_alone_from_another_state_folder(make(total_processors=1))


@pytest.mark.parametrize(("script", "message", "killed"), TIME_LIMITS)
def test_the_time_limit_is_term_then_kill(
    make: t.Callable[..., LabFactory], script: str, message: str, killed: bool
) -> None:
    factory = make(script, total_processors=1, kind={"max_wallclock_seconds": 3})
    ends_by_the_time_limit(factory, message, killed)


def test_a_machine_that_writes_too_much_outside_its_work_space_is_ended(make: t.Callable[..., LabFactory]) -> None:
    script = WORKS.replace("while", "head -c 30000000 /dev/zero >/big; touch $JOBOUTPUTS/written; while", 1)
    factory = make(script, total_processors=1, root_gb_per_processor=0.01)
    factory.start()
    factory.wait("it to write", lambda: list(factory.state.glob("machines/*/mnt/joboutputs/written")))
    factory.stop()
    factory.start()  # it measures when it starts, and each minute
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("100 told", "disk_limit")
    wrote = factory.records()[0]["end_reason"].split()[2]
    assert 30_000_000 <= int(wrote) < 32_000_000


def test_images_that_nobody_wants_go_by_their_names_and_those_in_use_stay(
    make: t.Callable[..., LabFactory], podman: PodmanService, tmp_path: Path
) -> None:
    """As if the factory had pulled them: no registry is needed for what becomes of them."""
    images = {}
    for name in ("gone", "lost", "tagged", "used"):
        (tmp_path / "tar").write_bytes(root(name))
        podman.podman("import", str(tmp_path / "tar"), f"localhost/{name}:1")
        images[name] = podman.podman("image", "inspect", "--format", "{{.Id}}", f"localhost/{name}:1").stdout.strip()
    podman.podman("tag", "localhost/tagged:1", "localhost/mine:1")
    podman.podman("untag", "localhost/lost:1")
    podman.podman("create", "--name", "user", "localhost/used:1", "sh")
    factory = make(draining=True)
    pulled = [
        {"engine": podman.url, "reference": f"localhost/{name}:1", "id": f"sha256:{identity}", "wanted": 1}
        for name, identity in images.items()
    ]
    (factory.state / "pulled-images.json").write_text(json.dumps({"images": pulled}))

    def told(event: str) -> list[str]:
        return sorted(one["image"] for one in factory.events(event))

    try:
        factory.start()
        factory.wait(
            "three to go", lambda: told("image_removed") == [f"localhost/{one}:1" for one in sorted(images)[:3]]
        )
        factory.wait("the refusal", lambda: told("image_not_removed") == ["localhost/used:1"])
        left = podman.podman("image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}", "--no-trunc").stdout
        assert "localhost/mine:1" in left and "localhost/used:1" in left and "busybox:test" in left
        assert "gone" not in left and "localhost/tagged" not in left and images["lost"] not in left
    finally:
        podman.podman("rm", "--force", "user")
        podman.podman("image", "rm", "localhost/mine:1", "localhost/used:1")


@pytest.mark.fleet  # with Docker in each run
def test_an_image_by_its_digest(make: t.Callable[..., LabFactory], podman: PodmanService, tmp_path: Path) -> None:
    registry = Registry(podman.netns, REGISTRY, tmp_path / "registry")
    registry.start()

    def image_of(name: str) -> str:
        return podman.podman("image", "inspect", "--format", "{{.Id}}", name).stdout.strip()

    try:
        digest_is_what_is_pulled_and_run(make(), registry, image_of)
    finally:
        registry.stop()


def test_a_machine_that_a_person_kills_is_no_abort(make: t.Callable[..., LabFactory]) -> None:
    """Podman does not say which signal it was."""
    factory = make(WAITS, total_processors=1, kind={"fizzle_seconds": 600})
    factory.start()
    factory.lab.docker("kill", waiting(factory))
    follows_at_once(factory, "it ended after somebody else had sent it a signal")


@pytest.mark.fleet  # with Docker in each run
def test_a_machine_cannot_have_more_memory_than_its_limit(
    make: t.Callable[..., LabFactory], podman: PodmanService
) -> None:
    """Podman 4.3 with control groups of version 1 does not tell that this was the reason; then it is a fizzle."""
    limit, eats = ("--memory", "64m", "--memory-swap", "64m"), ("tail", "/dev/zero")
    podman.podman("run", "--name", "eater", *limit, "busybox:test", *eats, check=False)
    told = podman.podman("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", "eater").stdout.split()
    podman.podman("rm", "eater")
    message = {"true": "700 Memory limit reached", "false": FIZZLED}[told[1]]

    factory = make("#!/bin/sh\ntail /dev/zero\n", total_processors=1, mb_per_processor=64, kind={"fizzle_seconds": 60})
    factory.start()
    end = ended(factory)[0]
    assert re.match(message, end["message"]) and end["code"] == "by_itself"
    assert factory.records()[0]["exit_code"] == int(told[0]) == 137
    factory.wait("the back-off", lambda: f'after "{end["message"]}"' in factory.run("explain").stdout)
    assert len(factory.events("machine_started")) == 1


def test_a_machine_that_a_person_stops_has_its_grace(make: t.Callable[..., LabFactory], podman: PodmanService) -> None:
    """A look meanwhile finds a container that is neither running nor over."""
    script = (
        "#!/bin/sh\ntrap 'touch $JOBOUTPUTS/told' TERM\ntouch $JOBOUTPUTS/there\n"
        "while [ ! -e $JOBOUTPUTS/go ]; do sleep 0.1; done\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
    )
    factory = make(script, total_processors=1)
    factory.start()
    identity = waiting(factory)
    factory.stop()
    [outputs] = factory.state.glob("machines/*/mnt/joboutputs")
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(podman.podman, "stop", "--time", "60", identity)
        try:
            factory.wait("it to be told", (outputs / "told").exists)
            assert [one["State"]["Status"] for one in factory.containers()] == ["stopping"]
            factory.start()
            factory.wait("the look", lambda: len(factory.events("engine_answers")) == 2)
            factory.wait("a report", lambda: factory.run("check").returncode == 0)
            assert not factory.events("machine_ended")
        finally:
            (outputs / "go").touch()
        stopped.result()
    assert ended(factory)[0]["message"] == "200 Success"

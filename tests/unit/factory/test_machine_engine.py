# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine import find
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Platform
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import chosen_engine, machine_engine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import (
    SOME,
    Event,
    MachineEngine,
    cpu_seconds,
    event,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host import processes
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, NEW


@pytest.fixture()
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where Docker and Podman listen by default; none does yet, and no request is ever answered."""
    found = {name: tmp_path / f"{name}.sock" for name in ("docker", "podman")}
    monkeypatch.setattr(find, "DEFAULT_SOCKETS", {name: str(path) for name, path in found.items()})
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return found


def auto(tmp_path: Path) -> MachineEngine:
    """The engine of a factory whose configuration leaves open which."""
    made = engine_of(parse({**SMALL, "state_folder": str(tmp_path)}))
    assert isinstance(made, MachineEngine)
    return made


def test_all_threads_have_the_same_engine(tmp_path: Path, sockets: dict[str, Path]) -> None:
    """Else one whose first request comes while Docker's socket is missing would hear of Podman that nothing runs."""
    for path in sockets.values():
        path.touch()
    engine = auto(tmp_path)
    assert engine.where == f"unix://{sockets['docker']}"
    sockets["docker"].unlink()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: engine.where).result() == f"unix://{sockets['docker']}"
        with pytest.raises(EngineError) as silent:
            pool.submit(engine.listed).result()
    assert silent.value.status is None


def test_an_engine_that_is_not_there_yet_is_found_later(tmp_path: Path, sockets: dict[str, Path]) -> None:
    engine = auto(tmp_path)
    with pytest.raises(RefusedError, match="no engine listens here"):
        engine.listed()
    sockets["podman"].touch()
    assert engine.where == f"unix://{sockets['podman']}"


def make_one(engine: MachineEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine's container."""
    monkeypatch.setattr(DockerApi, "platform", Platform("podman", (5,), (1, 41)))
    monkeypatch.setattr(DockerApi, "create_container", lambda *_arguments: "c1")
    kind = Machinetype("a", root_image="image:1")
    assert engine.create(NEW, kind, parse({**SMALL, "state_folder": str(tmp_path)}), "/f", "image:1") == "c1"


def test_the_engine_of_the_machines_stays_over_a_restart(
    tmp_path: Path, sockets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets["docker"].touch()
    store = Store(str(tmp_path))
    store.create(NEW)
    make_one(auto(tmp_path), tmp_path, monkeypatch)
    store.save(LIVE)
    sockets["docker"].unlink()
    for there in (False, True):
        if there:
            sockets["podman"].touch()
        with pytest.raises(EngineError, match=f"no socket {sockets['docker']}.*remove {tmp_path}/engine") as silent:
            auto(tmp_path).listed()
        assert silent.value.status is None, "it is no answer: nobody can tell what runs"
    sockets["docker"].touch()
    assert auto(tmp_path).where == f"unix://{sockets['docker']}"
    # And the other way round, where the one that is first in the order comes up later.
    make_one(MachineEngine(f"unix://{sockets['podman']}", "f", state_folder=str(tmp_path)), tmp_path, monkeypatch)
    assert auto(tmp_path).where == f"unix://{sockets['podman']}"


def test_docker_is_asked_once_in_its_life_how_many_processors_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses a container with more, and another one that listens there later may have others."""
    requests: list[dict[str, t.Any]] = []
    has = [4, 2]
    monkeypatch.setattr(DockerApi, "platform", Platform("docker", (28,), (1, 41)))
    monkeypatch.setattr(DockerApi, "info", lambda _: {"Driver": "vfs", "DriverStatus": None, "NCPU": has.pop(0)})

    def take(_api: DockerApi, _name: str, request: dict[str, t.Any]) -> str:
        requests.append(request)
        return "c1"

    def refuse(*_: t.Any, **__: t.Any) -> t.NoReturn:
        raise EngineError("Listening", "no answer")

    monkeypatch.setattr(DockerApi, "create_container", take)
    monkeypatch.setattr(DockerApi, "send", refuse)
    (tmp_path / "socket").touch()
    engine = MachineEngine(f"unix://{tmp_path}/socket", "f")
    kind, large = Machinetype("a", root_image="image:1"), replace(NEW, processors=8)
    for _again in range(2):
        engine.create(large, kind, parse(SMALL), "/f", "image:1")
    with pytest.raises(EngineError):
        engine.events(0)
    engine.create(large, kind, parse(SMALL), "/f", "image:1")
    assert [one["HostConfig"]["NanoCpus"] for one in requests] == [4 * 10**9, 4 * 10**9, 2 * 10**9]
    assert has == []


def test_without_machines_whichever_listens_is_taken(
    tmp_path: Path, sockets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets["docker"].touch()
    make_one(auto(tmp_path), tmp_path, monkeypatch)
    Store(str(tmp_path)).create(replace(LIVE, state=ENDED, ended=10_000, cleaned=True))
    sockets["docker"].unlink()
    with pytest.raises(RefusedError, match="no engine listens here"):
        auto(tmp_path).listed()
    sockets["podman"].touch()
    assert auto(tmp_path).where == f"unix://{sockets['podman']}"


def test_a_record_that_cannot_be_read_may_be_of_a_machine_that_runs(
    tmp_path: Path, sockets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets["docker"].touch()
    make_one(auto(tmp_path), tmp_path, monkeypatch)
    folder = Path(Store(str(tmp_path)).create(LIVE))
    (folder / "machine.json").write_bytes(b"\0" * 100)
    sockets["docker"].unlink()
    sockets["podman"].touch()
    with pytest.raises(EngineError, match="no socket"):
        auto(tmp_path).listed()


@pytest.fixture()
def mute(tmp_path: Path) -> t.Iterator[str]:
    """The URL of an engine that takes requests and answers none."""
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(tmp_path / "mute.sock"))
        listens.listen()
        yield f"unix://{tmp_path}/mute.sock"


def test_an_engine_that_waits_for_the_end_after_kill_does_not_count_as_silent(
    mute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a process waits for a file system that does not answer."""
    monkeypatch.setattr(DockerApi, "api_version", "1.41")
    monkeypatch.setattr(machine_engine, "KILL_SILENCE", 0.2)
    engine = MachineEngine(mute, "f", timeout=1)
    began = time.monotonic()
    assert engine.signal("c1", "SIGKILL")
    assert time.monotonic() - began < 0.9
    with pytest.raises(EngineError, match="timed out") as silent:
        engine.signal("c1", "SIGTERM")
    assert silent.value.status is None


@pytest.mark.parametrize(
    ("exit_code", "about", "alive"),
    [
        (-1, {"State": "\tS (sleeping)", "NSpid": "\t4711\t1"}, True),
        (-1, {"State": "\tZ (zombie)", "NSpid": "\t4711\t1"}, False),
        (-1, {"State": "\tS (sleeping)", "NSpid": "\t4711"}, False),
        (-1, {"State": "\tS (sleeping)", "NSpid": "\t4711\t17"}, False),
        (-1, None, False),
        (137, {"State": "\tS (sleeping)", "NSpid": "\t4711\t1"}, False),
    ],
)
def test_a_machine_that_is_there_has_not_ended_whatever_podman_says(
    mute: str, monkeypatch: pytest.MonkeyPatch, exit_code: int, about: t.Optional[dict[str, str]], alive: bool
) -> None:
    """Five seconds after KILL it takes a container for ended."""
    state = {"Status": "stopped", "ExitCode": exit_code, "Pid": 4711, "StartedAt": "2026-11-30T19:39:31.7Z"}
    seen = {"Id": "c1", "Name": "f1-00", "Config": {}, "State": state}
    monkeypatch.setattr(DockerApi, "container", lambda *_arguments: seen)
    monkeypatch.setattr(processes, "status", {4711: about}.get)
    found = MachineEngine(mute, "f").container("c1")
    assert found is not None
    assert (found.alive, found.over) == (alive, not alive)


@pytest.mark.parametrize("damaged", [b"", b"\0\0", b"\xff"])
def test_which_engine_it_was_is_not_guessed(tmp_path: Path, sockets: dict[str, Path], damaged: bytes) -> None:
    sockets["podman"].touch()
    (tmp_path / chosen_engine.NAME).write_bytes(damaged)
    with pytest.raises(GridboxError, match="cannot be told"):
        auto(tmp_path).listed()
    named = engine_of(parse({**SMALL, "state_folder": str(tmp_path), "engine": "podman"}))
    assert named.where == f"unix://{sockets['podman']}"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("4:cpu,cpuacct:/docker/c1\n0::/\n", 3.0),
        ("0::/docker/c1\n", 2.5),
        # One that has ended and was not reaped yet: the host's own figures are no machine's.
        ("4:cpu,cpuacct:/\n0::/\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_what_a_machine_has_used(groups: str, expected: t.Optional[float], tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(groups)
    for folder, share in (("docker/c1", 1), ("", 1000)):
        first, second = tmp_path / "cpu,cpuacct" / folder, tmp_path / folder
        for one in (first, second):
            one.mkdir(parents=True, exist_ok=True)
        (first / "cpuacct.usage").write_text(f"{share * 3 * 10**9}\n")
        (second / "cpu.stat").write_text(f"usage_usec {share * 2500000}\nuser_usec 1\n")
    assert cpu_seconds(7, str(tmp_path), str(tmp_path)) == expected


@pytest.mark.parametrize(
    ("action", "more", "expected"),
    [
        ("die", {"exitCode": "137"}, Event("u1")),
        ("died", {}, Event("u1")),
        ("kill", {"signal": "15"}, Event("u1", 15)),
        ("kill", {"signal": "9"}, Event("u1", 9)),
        # USR1: what a machine makes of it is its own affair.
        ("kill", {"signal": "10"}, None),
        # Podman's.
        ("kill", {"containerExitCode": "0"}, Event("u1", SOME)),
        ("kill", {"signal": "SIGRTMIN+3"}, Event("u1", SOME)),
    ],
)
def test_what_an_engine_tells(action: str, more: dict[str, str], expected: t.Optional[Event]) -> None:
    attributes = {"name": "f1-00_u1", "hep.gridbox.machine": "u1", **more}
    assert event({"Type": "container", "Action": action, "Actor": {"Attributes": attributes}}) == expected
    assert event({"Type": "container", "Action": action, "Actor": {"Attributes": more}}) is None


@pytest.mark.parametrize(("action", "more"), [("kill", {"signal": "15"}), ("kill", {"containerExitCode": "0"})])
def test_a_signal_to_what_was_committed_from_a_machine_is_none_to_it(action: str, more: dict[str, str]) -> None:
    """It has the machine's labels. The machine was said to have been ended by somebody hours later."""
    attributes = {"name": "look", "hep.gridbox.machine": "u1", **more}
    assert event({"Type": "container", "Action": action, "Actor": {"Attributes": attributes}}) is None

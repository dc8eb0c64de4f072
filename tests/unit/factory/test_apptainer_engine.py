# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_engine, catalogue, cgroups
from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import Account
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_engine import ApptainerEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, MachineEngine
from tests.unit import deep_folders
from tests.unit.factory.test_account import entry
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_container import KIND
from tests.unit.factory.test_mend import NEW

NAME = "f1-00.example.org_0123abcd"
RUNS = {"keeper": 6, "pid": 7, "started": 100}
ENDED = {"exit_code": 3, "finished": 200, "out_of_memory": True, "cpu_seconds": 12.7}


@pytest.fixture()
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApptainerEngine:
    monkeypatch.setattr(apptainer_engine, "LOCKS", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    return ApptainerEngine(str(tmp_path), "vacsing", "/cvmfs", lambda *_: None)


@pytest.fixture()
def lock(engine: ApptainerEngine, tmp_path: Path) -> t.Iterator[t.Callable[[], None]]:
    """Takes the machine's lock, as its keeper has it."""
    held: list[int] = []

    def take() -> None:
        held.append(os.open(tmp_path / f"locks/{NAME}.lock", os.O_RDWR | os.O_CREAT))
        fcntl.flock(held[0], fcntl.LOCK_EX)

    yield take
    for one in held:
        os.close(one)


def written(folder: Path, **files: t.Any) -> None:
    (folder / "apptainer" / NAME).mkdir(parents=True)
    for name, content in files.items():
        (folder / "apptainer" / NAME / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("files", "held", "seen"),
    [
        ({}, False, Container(NAME, NAME, "u", "created")),
        # Its keeper begins.
        ({}, True, Container(NAME, NAME, "u", "created")),
        ({"running": RUNS}, True, Container(NAME, NAME, "u", "running", 100, pid=7)),
        # Its keeper was killed, or the host was.
        ({"running": RUNS}, False, Container(NAME, NAME, "u", "dead", 100)),
        ({"running": RUNS, "ended": ENDED}, False, Container(NAME, NAME, "u", "exited", 100, 200, 3, 0, True, 12.7)),
        # It had to end for what is wrong with the host.
        (
            {"running": RUNS, "ended": {**ENDED, "problem": "pasta has ended"}},
            False,
            Container(NAME, NAME, "u", "exited", 100, 200, 3, 0, True, 12.7, "pasta has ended"),
        ),
        # Its keeper has written that down, and is about to end itself.
        ({"running": RUNS, "ended": ENDED}, True, Container(NAME, NAME, "u", "exited", 100, 200, 3, 0, True, 12.7)),
    ],
)
def test_what_has_become_of_a_machine(
    engine: ApptainerEngine, tmp_path: Path, lock: t.Callable[[], None], files: t.Any, held: bool, seen: Container
) -> None:
    written(tmp_path, request={"uuid": "u"}, **files)
    if held:
        lock()
    assert engine.container(NAME) == seen
    assert (seen.alive, seen.over) == (seen.state == "running", seen.state in ("exited", "dead"))


def test_a_folder_without_a_request_is_no_machine(engine: ApptainerEngine, tmp_path: Path) -> None:
    assert engine.container(NAME) is None
    written(tmp_path)  # whoever made it was killed
    assert engine.container(NAME) is None
    assert engine.signal(NAME, "SIGTERM") is False


def test_a_host_on_which_nothing_can_be_made_is_an_engine_that_does_not_answer(
    engine: ApptainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> t.NoReturn:
        raise RefusedError("engine: apptainer", "this host has no apptainer", "Install it.")

    monkeypatch.setattr(engine, "check", refuse)
    with pytest.raises(EngineError, match="this host has no apptainer") as found:
        next(iter(engine.events(0)))
    assert found.value.status is None


def test_the_accounts_of_the_host_are_not_all_read_again_and_again(
    engine: ApptainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With LDAP that takes long; and the daemon looks each five seconds."""
    accounts, enumerations = {"vacsing": entry("vacsing", 990), "root": entry("root", 0)}, list[int]()

    def enumerated() -> list[pwd.struct_passwd]:
        enumerations.append(1)
        return list(accounts.values())

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program, **_: program)
    monkeypatch.setattr(cgroups, "read", lambda: ())
    monkeypatch.setattr(pwd, "getpwnam", lambda name: accounts[name])
    monkeypatch.setattr(pwd, "getpwall", enumerated)
    monkeypatch.setattr("ansible_collections.hep.gridbox.plugins.module_utils.factory.account.processes", lambda _: [])
    engine.sweep()
    engine.sweep()
    assert engine.listed() == []
    assert engine.check() == Account("vacsing", 990, 991)
    assert len(enumerations) == 1

    # It is judged anew when it is another one, and each time it is refused.
    accounts["vacsing"] = entry("vacsing", 0)
    for _again in range(2):
        with pytest.raises(RefusedError, match="it is root"):
            engine.sweep()
    del accounts["vacsing"]
    with pytest.raises(RefusedError, match="this host has no such account"):
        engine.sweep()
    accounts["vacsing"] = entry("vacsing", 980)
    assert engine.check() == engine.check() == Account("vacsing", 980, 981)
    assert len(enumerations) == 5


def test_another_keeper_with_the_number_of_one_before_a_reboot_is_not_waited_for(
    engine: ApptainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, request={"uuid": "u"}, running=RUNS)
    monkeypatch.setattr(engine, "_groups", lambda name: [name])
    monkeypatch.setattr(cgroups, "members", lambda groups: {RUNS["keeper"]} if "supervisors" in groups else set())
    monkeypatch.setattr(apptainer_engine, "_LEAVING", 0.1)
    engine.remove(NAME)
    assert engine.container(NAME) is None


def test_a_lock_is_held_by_whoever_inherits_it(engine: ApptainerEngine) -> None:
    with apptainer_engine._locked(NAME) as held:
        assert apptainer_engine._held() == {NAME}
        inherited = os.dup(held)
    assert apptainer_engine._held() == {NAME}
    os.close(inherited)
    assert apptainer_engine._held() == set()


def test_images_of_this_host_are_files_and_folders(engine: ApptainerEngine, tmp_path: Path) -> None:
    image = str(tmp_path / "a.sif")
    assert engine.image(image) is None
    with pytest.raises(EngineError, match="there is no such file or folder"):
        engine.pull(image)
    Path(image).touch()
    assert engine.image(image) == image
    engine.pull(image)


def test_an_image_of_a_repository_is_in_a_repository(tmp_path: Path) -> None:
    root, cvmfs = tmp_path / "repositories", tmp_path / "cvmfs"
    (root / "a.example.org/.flat/1").mkdir(parents=True)
    cvmfs.symlink_to(root)
    for name, target in (("tag", ".flat/1"), ("other", "../b.example.org"), ("away", str(tmp_path)), ("up", "../..")):
        (root / "a.example.org" / name).symlink_to(target)
    engine = ApptainerEngine(str(tmp_path), "vacsing", str(cvmfs), lambda *_: None)
    assert engine.image("/cvmfs/a.example.org/tag") == f"{cvmfs}/a.example.org/.flat/1"
    assert engine.image("/cvmfs/a.example.org/other") is None
    for name in ("away", "up"):
        with pytest.raises(
            RefusedError, match=f"^root_image: /cvmfs/a.example.org/{name}: it leads out of {cvmfs}, to "
        ):
            engine.image(f"/cvmfs/a.example.org/{name}")


def test_a_machine_is_not_made_from_an_image_that_has_gone(
    engine: ApptainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apptainer would end at once, and so would seem to have run."""
    monkeypatch.setattr(engine, "check", lambda: Account("vacsing", os.getuid(), os.getgid()))
    for name in ("mnt/joboutputs", "mnt/tmp", "v7"):
        (tmp_path / "m" / name).mkdir(parents=True)
    given = parse({**SMALL, "engine": "apptainer", "apptainer_account": "vacsing"})
    folder, image = str(tmp_path / "m"), tmp_path / "m/v7"
    image.rename(tmp_path / "m/v8")
    with pytest.raises(EngineError, match=f"its image {image} is not there any more") as found:
        engine.create(NEW, KIND, given, folder, str(image))
    assert found.value.status == 404
    assert engine.containers() == []
    assert engine.create(NEW, KIND, given, folder, str(tmp_path / "m/v8")) == NEW.container_name


def test_a_machine_is_not_made_from_an_image_that_leads_elsewhere_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes the repository chooses what is in it, and must not come to the host's own files by that."""
    monkeypatch.setattr(ApptainerEngine, "check", lambda _engine: Account("vacsing", os.getuid(), os.getgid()))
    root, cvmfs = tmp_path / "repositories", tmp_path / "cvmfs"
    for name in ("repositories/a.example.org/.flat/1", "repositories/a.example.org/.flat/2", "m/mnt/joboutputs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "m/mnt/tmp").mkdir()
    cvmfs.symlink_to(root)
    engine = ApptainerEngine(str(tmp_path), "vacsing", str(cvmfs), lambda *_: None)
    given = parse({
        **SMALL, "engine": "apptainer", "apptainer_account": "vacsing", "cvmfs_root": str(cvmfs),
    })  # fmt: skip
    image = engine.image("/cvmfs/a.example.org/.flat/1")
    assert image == f"{cvmfs}/a.example.org/.flat/1"
    place = root / "a.example.org/.flat/1"
    place.rmdir()
    for target in ("/", str(tmp_path), "2"):
        place.symlink_to(target)
        with pytest.raises(EngineError, match=f"its image {image} leads to .* by now") as found:
            engine.create(NEW, KIND, given, str(tmp_path / "m"), image)
        assert found.value.status == 404
        place.unlink()
    assert engine.containers() == []
    place.mkdir()
    assert engine.create(NEW, KIND, given, str(tmp_path / "m"), image) == NEW.container_name


def test_an_image_from_elsewhere_has_one_place(engine: ApptainerEngine, tmp_path: Path) -> None:
    assert engine.image("docker://busybox:1") is None
    (tmp_path / "apptainer/images").mkdir(parents=True)
    names = {engine._image(one) for one in ("docker://busybox:1", "docker://busybox:2", "https://a.org/b.sif")}
    assert len(names) == 3
    Path(engine._image("docker://busybox:1")).touch()
    assert engine.image("docker://busybox:1") == engine._image("docker://busybox:1")


def test_an_image_with_folders_however_deep_does_not_end_all_pulls(
    engine: ApptainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(container: str) -> t.NoReturn:
        deep_folders.make(tmp_path / f"apptainer/images/{container}.work/rootfs")
        raise EngineError("Starting", "no", 500)

    monkeypatch.setattr(engine, "check", lambda: Account("vacsing", os.getuid(), os.getgid()))
    monkeypatch.setattr(engine, "_groups", lambda _name: [])
    monkeypatch.setattr(cgroups, "members", lambda _groups: set())
    monkeypatch.setattr(engine, "start", start)
    deep_folders.make(tmp_path / "apptainer/images/image-of-a-factory-that-was-killed.sif.work/rootfs")
    for image in ("docker://busybox:1", "docker://busybox:2"):
        with pytest.raises(EngineError, match="Starting"):
            engine.pull(image)
        assert list((tmp_path / "apptainer/images").iterdir()) == []


def test_what_a_pull_has_left_and_cannot_be_removed_keeps_no_other_from_being_done(
    engine: ApptainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def refuse(path: str) -> None:
        if path.endswith("/stuck.sif.work"):
            raise GridboxError("Removing it failed. rm says: Input/output error")

    def start(_container: str) -> t.NoReturn:
        raise EngineError("Starting", "no", 500)

    monkeypatch.setattr(engine, "check", lambda: Account("vacsing", os.getuid(), os.getgid()))
    monkeypatch.setattr(engine, "remove", lambda _name: None)
    monkeypatch.setattr(engine, "start", start)
    monkeypatch.setattr(engine, "_say", lambda event, **_facts: said.append(event))
    monkeypatch.setattr(apptainer_engine, "remove_tree", refuse)
    (tmp_path / "apptainer/images/stuck.sif.work").mkdir(parents=True)
    with pytest.raises(EngineError, match="Starting"):
        engine.pull("docker://busybox:1")
    assert said == ["cleaning_failed"]


def test_factories_of_a_host_that_fetch_the_same_image_are_not_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kills what an earlier fetch by its name has left."""
    names: list[str] = []

    def start(_engine: ApptainerEngine, container: str) -> t.NoReturn:
        names.append(container)
        raise EngineError("Starting", "no", 500)

    monkeypatch.setattr(ApptainerEngine, "check", lambda _engine: Account("vacsing", os.getuid(), os.getgid()))
    monkeypatch.setattr(ApptainerEngine, "remove", lambda _engine, _name: None)
    monkeypatch.setattr(ApptainerEngine, "start", start)
    for folder in ("a", "b", "b"):
        engine = ApptainerEngine(str(tmp_path / folder), "vacsing", "/cvmfs", lambda *_: None)
        with pytest.raises(EngineError):
            engine.pull("docker://busybox:1")
        shutil.rmtree(tmp_path / folder)
        image = os.path.basename(engine._image("docker://busybox:1"))
        assert names[-1].endswith(f"-{image}")
    assert names[0] != names[1] == names[2]


def test_the_engine_is_the_configurations() -> None:
    assert isinstance(engine_of(parse(SMALL)), MachineEngine)
    made = engine_of(parse({**SMALL, "engine": "podman"}))
    assert isinstance(made, MachineEngine) and made.engine == "podman"
    apptainer = parse({**SMALL, "engine": "apptainer", "apptainer_account": "vacsing"})
    assert isinstance(engine_of(apptainer), ApptainerEngine)
    assert apptainer.models == ("apptainer",)


def test_an_image_that_the_site_has_is_found_by_its_path(tmp_path: Path) -> None:
    kind = {"machine_model": "apptainer", "user_data": "run", "target_share": 1}
    factory = parse({
        **SMALL, "engine": "apptainer", "apptainer_account": "vacsing", "state_folder": str(tmp_path),
        "machinetypes": {"a": {**kind, "root_image": "pilot.sif"}, "b": {**kind, "root_image": "/cvmfs/c.org/d"}},
    })  # fmt: skip
    a, b = catalogue.read(factory, {}).machinetypes
    assert a.root_image == f"{tmp_path}/machinetypes/a/files/pilot.sif"
    assert (a.repositories, b.root_image, b.repositories) == ((), "/cvmfs/c.org/d", ("c.org",))

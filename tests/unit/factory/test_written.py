# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What machines have written where nothing limits it, and whether the engine can limit it."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Outside, on_disk
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount

MIB = 1 << 20


class Api:
    """An engine with one container."""

    def __init__(self, seen: t.Optional[dict[str, t.Any]] = None, size: t.Optional[int] = None, **about: t.Any) -> None:
        self.seen, self.size, self.about = seen, size, about
        self.platform = Platform(about.pop("engine", "docker"), (28,), (1, 50))
        self.measured = self.looked = 0

    def container(self, _name: str) -> t.Optional[dict[str, t.Any]]:
        self.looked += 1
        return self.seen

    def remove_container(self, _name: str, **_options: t.Any) -> None:
        pass

    def container_size(self, _name: str) -> t.Optional[int]:
        self.measured += 1
        return self.size

    def info(self) -> dict[str, t.Any]:
        return self.about

    def send(self, *_request: t.Any, **_options: t.Any) -> None:
        """Nothing is ever heard of it."""


def engine(api: Api) -> MachineEngine:
    made = MachineEngine("unix:///none", "f1.example.org")
    made._local.api = api
    return made


def outside(api: Api) -> t.Optional[int]:
    """Bytes that the machine of an engine has written outside its mounts."""
    seen = engine(api).outside("c1")
    return None if seen is None else seen.told + sum(on_disk(seen.paths).values())


def test_what_is_on_the_disk_counts_once_and_holes_do_not(tmp_path: Path) -> None:
    folder, other, gone = str(tmp_path / "a\nb"), str(tmp_path / "other"), str(tmp_path / "gone")
    for each in (folder, other):
        os.mkdir(each)
    before = on_disk([folder])[folder]
    (tmp_path / "a\nb/deep").mkdir()
    (tmp_path / "a\nb/deep/file").write_bytes(os.urandom(2 * MIB))
    (tmp_path / "a\nb/again").hardlink_to(tmp_path / "a\nb/deep/file")
    with (tmp_path / "a\nb/lastlog").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "a\nb/link").symlink_to("/usr")
    found = on_disk([folder, gone, other])
    assert 2 * MIB <= found[folder] - before < 3 * MIB
    assert found[gone] == 0
    assert found[other] == before
    assert on_disk([]) == {}


def test_the_folder_that_the_engine_names_is_measured_with_the_files_it_puts_in(tmp_path: Path) -> None:
    upper, hosts = tmp_path / "diff", tmp_path / "hosts"
    upper.mkdir()
    (upper / "file").write_bytes(os.urandom(2 * MIB))
    hosts.write_bytes(os.urandom(MIB))
    seen = {"GraphDriver": {"Data": {"UpperDir": str(upper)}}, "HostsPath": str(hosts), "HostnamePath": ""}
    api = Api(seen, 7)
    assert 3 * MIB <= (outside(api) or 0) < 4 * MIB
    assert not api.measured


def test_volumes_that_the_image_asks_for_count_and_what_we_mount_does_not(tmp_path: Path) -> None:
    """They are on the engine's disk, and nothing else limits them."""
    upper, volume, work = tmp_path / "diff", tmp_path / "volumes/v1/_data", tmp_path / "mnt"
    for each in (upper, volume, work):
        each.mkdir(parents=True)
        (each / "file").write_bytes(os.urandom(MIB))
    mounts = [
        {"Type": "volume", "Name": "v1", "Source": str(volume), "Destination": "/data"},
        {"Type": "bind", "Source": str(work), "Destination": "/tmp"},
        {"Type": "volume", "Name": "v2", "Source": "", "Destination": "/elsewhere"},
    ]
    seen = {"GraphDriver": {"Data": {"UpperDir": str(upper)}}, "Mounts": mounts}
    assert 2 * MIB <= (outside(Api(seen)) or 0) < 3 * MIB
    assert MIB <= (outside(Api({"GraphDriver": None, "Mounts": mounts}, 0)) or 0) < 2 * MIB
    assert outside(Api({"GraphDriver": None, "Mounts": None}, 7)) == 7


def test_the_engine_is_asked_once_for_a_containers_folder(tmp_path: Path) -> None:
    api = Api({"GraphDriver": {"Data": {"UpperDir": str(tmp_path)}}})
    asking = engine(api)
    first = asking.outside("c1")
    assert first is not None
    assert asking.outside("c1") == first
    assert api.looked == 1
    asking.remove("c1")
    asking.outside("c1")
    assert api.looked == 2
    untold = Api({"GraphDriver": None}, 7)
    asking = engine(untold)
    assert [asking.outside("c1"), asking.outside("c1")] == [Outside(told=7)] * 2
    assert untold.measured == 2


@pytest.mark.parametrize("driver", [None, {"Data": None}, {"Data": {"UpperDir": "/elsewhere/in/a/namespace"}}])
def test_an_engine_that_names_no_folder_is_asked_for_the_size(driver: t.Any, tmp_path: Path) -> None:
    """Docker with containerd's snapshots, and others."""
    hosts = tmp_path / "hosts"
    hosts.write_bytes(os.urandom(MIB))
    found = outside(Api({"GraphDriver": driver, "HostsPath": str(hosts)}, 5 * MIB))
    assert 6 * MIB <= (found or 0) < 7 * MIB
    assert outside(Api({"GraphDriver": driver}, None)) is None


def test_of_a_container_that_is_gone_nothing_is_known() -> None:
    assert outside(Api(None)) is None


@pytest.mark.parametrize(
    ("changed", "options", "limits"),
    [
        ({}, ("rw", "prjquota"), True),
        ({}, ("rw", "noquota"), False),
        ({"Driver": "vfs"}, ("rw", "prjquota"), False),
        (
            {"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
            ("prjquota",),
            False,
        ),
        ({"DriverStatus": [["Backing Filesystem", "extfs"]]}, ("rw", "prjquota"), False),
        ({"DriverStatus": None}, ("rw", "prjquota"), False),
        ({"DockerRootDir": "/no/such/folder"}, ("rw", "prjquota"), False),
        ({"engine": "podman"}, ("rw", "prjquota"), False),
    ],
)
def test_whether_the_engine_can_limit_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, t.Any], options: tuple[str, ...], limits: bool
) -> None:
    device = tmp_path.stat().st_dev
    mount = Mount("/", "xfs", "/dev/a", True, f"{os.major(device)}:{os.minor(device)}", 1, options)
    monkeypatch.setattr(mount_table, "read", lambda: [mount])
    about = {
        "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"], ["Supports d_type", "true"]],
        "DockerRootDir": str(tmp_path), **changed,
    }  # fmt: skip
    assert engine(Api(**about)).limits_writes() is limits


def test_an_engine_that_is_listened_to_anew_is_asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was restarted, and may be a newer one, or have its images on another disk or in another way."""
    device = tmp_path.stat().st_dev
    mount = Mount("/", "xfs", "/dev/a", True, f"{os.major(device)}:{os.minor(device)}", 1, ("rw", "prjquota"))
    monkeypatch.setattr(mount_table, "read", lambda: [mount])
    status = [["Backing Filesystem", "xfs"]]
    api = Api(Driver="overlay2", DriverStatus=status, DockerRootDir=str(tmp_path))
    asking = engine(api)
    assert asking.limits_writes()
    api.about["Driver"] = "overlayfs"
    assert asking.limits_writes(), "each start wants to know"
    asking.events(0)
    assert not asking.limits_writes()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import json
import os
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_keeper, apptainer_request
from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import Account
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_keeper import Log, load
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_request import Request, of_image, of_machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_container import KIND
from tests.unit.factory.test_mend import NEW

VACSING = Account("vacsing", 990, 991)


def made(image: str = "/state/apptainer/images/1.sif", **options: t.Any) -> Request:
    given = {**SMALL, "engine": "apptainer", "apptainer_account": "vacsing", **options}
    return of_machine(NEW, KIND, parse(given), VACSING, "/state/machines/m", image)


def after(request: Request, option: str) -> list[str]:
    return [request.argv[at + 1] for at, word in enumerate(request.argv) if word == option]


def test_what_a_machine_sees() -> None:
    request = made()
    assert after(request, "--bind") == [
        "/run/hep.gridbox.apptainer/machine/machinefeatures:/etc/machinefeatures:ro",
        "/run/hep.gridbox.apptainer/machine/jobfeatures:/etc/jobfeatures:ro",
        "/run/hep.gridbox.apptainer/machine/joboutputs:/var/spool/joboutputs",
        "/run/hep.gridbox.apptainer/machine/user_data:/user_data:ro",
        "/run/hep.gridbox.apptainer/machine/tmp0:/scratch",
        "/run/hep.gridbox.apptainer/machine/tmp1:/var/tmp",
        "/cvmfs/a.example.org:/cvmfs/a.example.org:ro",
    ]
    assert request.shown == {
        "machinefeatures": "/state/machines/m/machinefeatures",
        "jobfeatures": "/state/machines/m/jobfeatures",
        "joboutputs": "/state/machines/m/mnt/joboutputs",
        "work": "/state/machines/m/mnt/work",
        "user_data": "/state/machines/m/user_data",
        "tmp0": "/state/machines/m/mnt/tmp/scratch",
        "tmp1": "/state/machines/m/mnt/tmp/var%tmp",
        "image": "/state/apptainer/images/1.sif",
    }


def test_the_command() -> None:
    request = made()
    assert request.argv[:3] == ("apptainer", "--quiet", "exec")
    assert {"--userns", "--containall"} < set(request.argv)
    assert after(request, "--hostname") == [NEW.slot]
    assert after(request, "--env") == [
        "MACHINEFEATURES=/etc/machinefeatures", "JOBFEATURES=/etc/jobfeatures", "JOBOUTPUTS=/var/spool/joboutputs",
    ]  # fmt: skip
    assert request.argv[-2:] == ("/run/hep.gridbox.apptainer/machine/image", "/user_data")
    assert (request.name, request.uuid) == (NEW.container_name, NEW.uuid)
    assert (request.uid, request.gid) == (990, 991)


def test_an_image_in_a_repository_is_taken_from_there() -> None:
    request = made("/cvmfs/b.example.org/images/x")
    assert request.argv[-2] == "/cvmfs/b.example.org/images/x"
    assert "image" not in request.shown


def test_repositories_may_be_elsewhere_on_the_host() -> None:
    request = made("/srv/cvmfs/b.example.org/images/x", cvmfs_root="/srv/cvmfs")
    assert after(request, "--bind")[-1] == "/srv/cvmfs/a.example.org:/cvmfs/a.example.org:ro"
    assert request.argv[-2] == "/srv/cvmfs/b.example.org/images/x"
    assert "image" not in request.shown


def test_limits_are_those_of_any_machine() -> None:
    request = made(pids_per_processor=100, nofile=1000)
    assert request.limits.processors == NEW.processors
    assert request.limits.memory_bytes == NEW.memory_bytes
    assert request.limits.pids == NEW.processors * 100
    assert request.nofile == 1000


def test_its_network_is_its_own_unless_the_site_says_so() -> None:
    assert made().network == "bridge"
    assert made(network="host").network == "host"


def test_nothing_of_the_daemons_environment_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("APPTAINER_BIND", "/root")
    assert set(made().environment) == {
        "PATH", "LANG", "HOME", "TMPDIR", "APPTAINER_CONFIGDIR", "APPTAINER_CACHEDIR",
    }  # fmt: skip


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "asked"),
    [
        ("docker://busybox:1", "docker://busybox:1"),
        (f"docker://a.example.org:5000/b@{DIGEST}", f"docker://a.example.org:5000/b@{DIGEST}"),
        # Of a tag and a digest the digest counts.
        (f"docker://a.example.org:5000/b:1@{DIGEST}", f"docker://a.example.org:5000/b@{DIGEST}"),
        ("https://images.example.org/a.sif", "https://images.example.org/a.sif"),
    ],
)
def test_what_an_image_is_made_from(reference: str, asked: str) -> None:
    request = of_image(reference, "image-1", VACSING, "/state/apptainer/images/1.work", {"https_proxy": "http://p"})
    assert request.argv[-1] == asked
    assert request.argv[-2] == f"{apptainer_request.SEEN}/work/image.sif"
    assert request.uuid == ""
    assert request.environment["https_proxy"] == "http://p"


def test_a_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(made().as_json())
    assert load(str(tmp_path)) == replace(made(), shown=dict(made().shown))
    written = json.loads(made().as_json())
    assert "SECRET" not in written["environment"]
    del written["network"]  # as a version that knew no other than the host's has it
    (tmp_path / "request.json").write_text(json.dumps(written))
    assert load(str(tmp_path)).network == "host"


# ---- its output ------------------------------------------------------------------------------------------------------


def kept(folder: Path) -> bytes:
    return b"".join((folder / name).read_bytes() for name in ("output.1", "output") if (folder / name).exists())


def test_each_line_has_its_time_and_none_is_lost(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 1 << 20)
    for piece in (b"one\ntw", b"o\n", b"\nlast"):
        log.add(piece)
    log.close()
    lines = kept(tmp_path).decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["one", "two", "", "last"]
    assert all(line[:2] == "20" and line.split(" ")[0].endswith("Z") for line in lines)


def test_of_a_long_output_the_end_is_kept(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 1 << 16)
    for number in range(20000):
        log.add(f"line {number}\n".encode())
    log.close()
    found = kept(tmp_path)
    assert len(found) <= 1 << 16 and found.endswith(b"line 19999\n")
    assert found.count(b"\n") > 500


def test_a_line_without_end_is_no_way_to_fill_memory(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 1 << 20)
    log.add(b"x" * 100_000)
    log.close()
    assert [len(line.partition(b" ")[2]) for line in kept(tmp_path).splitlines()][:2] == [16384, 16384]


def test_a_disk_without_room_costs_the_output_only(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "none"), 1 << 20)
    log.add(b"lost\n")
    log.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_end_that_there_is_no_room_for_costs_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def write(path: str, content: bytes, mode: int) -> None:
        if any((tmp_path / name).exists() for name in ("output", "output.1")):
            raise OSError(code, os.strerror(code))
        write_atomically(path, content, mode)

    monkeypatch.setattr(apptainer_keeper, "write_atomically", write)
    for name in ("output", "output.1"):
        (tmp_path / name).write_text("said\n")
    with contextlib.nullcontext() if code != errno.EIO else pytest.raises(OSError, match="Input/output"):
        apptainer_keeper._write_end(str(tmp_path), {"exit_code": 3})
        assert json.loads((tmp_path / "ended.json").read_text()) == {"exit_code": 3}
    assert (tmp_path / "output").exists() == (code == errno.EIO), "it has to go for want of room only"


def test_a_new_file_that_cannot_be_begun_costs_the_output_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for a moment, while there is a new file to be begun."""

    def fails(*_paths: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = Log(str(tmp_path), 1 << 10)
    log.add(b"x" * 400 + b"\n")
    with monkeypatch.context() as full:
        full.setattr(os, "replace", fails)
        log.add(b"y" * 400 + b"\n")
    log.add(b"short\n")
    log.close()
    assert kept(tmp_path).endswith(b" short\n")

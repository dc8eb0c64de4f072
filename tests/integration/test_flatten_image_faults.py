# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""flatten_image when things go wrong: afterwards the engine has what it had before, or what it was to have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.integration.flatten_images import padded
from tests.integration.test_flatten_image import images, inspect, load
from tests.lab.engine import Dockerd
from tests.lab.modules import ModuleFailed, run_module, start_module

SOURCE, TAG = "vobox:layers", "vobox:flat"

#: Runs the module, and kills it by SIGKILL right before or after the n-th request of a kind.
KILLED = """
import json, os, runpy, signal, sys
from ansible.module_utils import basic
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.image import flatten

request, number, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
original = getattr(DockerApi, request)
parent, calls = os.getpid(), [0]
flatten.LATE = 2

def killed(self, *arguments):
    calls[0] += 1
    fatal = os.getpid() == parent and calls[0] == number
    if fatal and when == "before":
        os.kill(parent, signal.SIGKILL)
    result = original(self, *arguments)
    if fatal:
        os.kill(parent, signal.SIGKILL)
    return result

setattr(DockerApi, request, killed)
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module("ansible_collections.hep.gridbox.plugins.modules.flatten_image", run_name="__main__", alter_sys=True)
"""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_for_end(pids: t.Sequence[int], seconds: float = 90) -> None:
    """Wait until the guard of a killed module has done its work."""
    deadline = time.monotonic() + seconds
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2:3] for pid in pids
    ):
        assert time.monotonic() < deadline, f"the guard still runs after {seconds} s"
        time.sleep(0.02)


def kill_at(given: dict[str, t.Any], request: str, number: int, when: str) -> None:
    """Run the module until it is killed at a request, and wait for its guard."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, request, str(number), when], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
    process.stdin.close()
    guards: set[int] = set()
    while process.poll() is None:
        guards.update(children(process.pid))
        time.sleep(0.005)
    assert process.returncode == -9, f"{request} {number} {when}: not killed"
    wait_for_end(sorted(guards))


def arguments(lab: Lab, **more: t.Any) -> dict[str, t.Any]:
    return {"engine_url": lab.engine.url, "source": SOURCE, "tag": TAG, "min_free": 0, **more}


@pytest.fixture()
def faulty(own_lab: Lab) -> Lab:
    """An engine that may be hurt, with the source, and an older image of the tag that is ours to move."""
    load(own_lab, padded("vobox:old", 1))
    own_lab.module("flatten_image", source="vobox:old", tag=TAG)
    load(own_lab, padded(SOURCE, 4))
    return own_lab


def start_over(lab: Lab, old: str) -> None:
    """Take a finished run back."""
    made = inspect(lab, TAG)["Id"]
    lab.docker("image", "tag", old, TAG)
    lab.docker("image", "rm", made)


def test_killed_at_every_request(faulty: Lab) -> None:
    """SIGKILL before and after each request that changes something: the state before or the state after."""
    before = images(faulty)
    old = inspect(faulty, TAG)["Id"]
    source = inspect(faulty, SOURCE)["Id"]
    moments = [
        ("import_layer", 1),
        ("load_images", 1),
        ("remove_image", 1),
        ("tag_image", 1),
        ("tag_image", 2),
        ("remove_image", 2),
    ]
    outcomes = []
    for request, number in moments:
        for when in ("before", "after"):
            kill_at(arguments(faulty, source_tag="vobox:kept"), request, number, when)
            if (request, number) == ("remove_image", 2):
                # All is done but for the working name of the image: the guard takes that away.
                outcomes.append(f"killed {when} {request} {number}: the state after")
                assert inspect(faulty, TAG)["Id"] != old
                assert inspect(faulty, "vobox:kept")["Id"] == source
                assert not [line for line in images(faulty) if "hep.gridbox" in line]
                assert not faulty.module("flatten_image", source=SOURCE, tag=TAG, source_tag="vobox:kept")["changed"]
                start_over(faulty, old)
                faulty.docker("image", "rm", "vobox:kept")
            else:
                outcomes.append(f"killed {when} {request} {number}: the state before")
            assert images(faulty) == before, f"{request} {number} {when}"
            assert inspect(faulty, TAG)["Id"] == old
    print("\n".join(outcomes))


def test_killed_while_it_removes_the_source(faulty: Lab) -> None:
    """Then the tag has moved already, so the guard goes forward: the state after."""
    for when in ("before", "after"):
        if when == "after":
            load(faulty, padded(SOURCE, 2))
        kill_at(arguments(faulty, keep_source=False), "remove_image", 3, when)
        assert not [line for line in images(faulty) if SOURCE in line or "hep.gridbox" in line]
        again = run_module("flatten_image", arguments(faulty, keep_source=False))
        assert not again["changed"]


#: Runs the module with an engine, or a part of the module, that does not do what it is told.
TAMPERED = """
import os, runpy, sys
from ansible.module_utils import basic
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.image import flatten

import_layer, flattened_document = DockerApi.import_layer, flatten.flattened_document

def another_byte(self, name, layer, *more):
    import_layer(self, name, (bytes(chunk).replace(b"here I am", b"here I AM") for chunk in layer), *more)

def another_mode(self, name, *more):
    import_layer(self, name, *more)
    os.chmod(self.image(name)["GraphDriver"]["Data"]["UpperDir"] + "/www/index.html", 0o600)

def another_command(document, *more):
    return flattened_document({**document, "config": {**document["config"], "Cmd": ["/bin/true"]}}, *more)

if sys.argv[1] == "another_command":
    flatten.flattened_document = another_command
else:
    DockerApi.import_layer = globals()[sys.argv[1]]
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module("ansible_collections.hep.gridbox.plugins.modules.flatten_image", run_name="__main__", alter_sys=True)
"""


def test_the_tag_moves_only_to_a_verified_image(faulty: Lab) -> None:
    """One wrong byte, mode or word of configuration: seen before the tag moves, and nothing is left of it."""
    before = images(faulty)
    for change, step, sentence in (
        ("another_byte", "import_layer", "are not the one that was sent"),
        ("another_mode", "import_layer", "The files that the engine unpacked differ from the source's"),
        ("another_command", "make_image", "The flattened image differs from its source in Config.Cmd."),
    ):
        done = subprocess.run(
            [sys.executable, "-c", TAMPERED, change],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments(faulty)}).encode(),
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        result = json.loads(done.stdout)
        assert result["failed"] and result["failed_action"]["action"] == step
        assert sentence in result["msg"]
        assert result["not_rolled_back"] == []
        assert images(faulty) == before
    assert faulty.module("flatten_image", source=SOURCE, tag=TAG)["changed"]


@pytest.mark.parametrize("what", ["name", "attribute"])
def test_what_no_layer_can_hold(faulty: Lab, what: str) -> None:
    """Put into the engine's store by hand, for no engine puts it there. Nothing of the image is made."""
    folder = Path(inspect(faulty, SOURCE)["GraphDriver"]["Data"]["UpperDir"])
    if what == "name":
        (folder / ".wh.x").touch()
        sentence = "The image holds a file named '.wh.x'."
    else:
        (folder / "made").touch()
        os.setxattr(folder / "made", "user.a=b", b"")
        sentence = "'made' has the extended attribute 'user.a=b'."
    before = images(faulty)
    with pytest.raises(ModuleFailed) as failed:
        faulty.module("flatten_image", source=SOURCE, tag=TAG)
    result = failed.value.result
    assert sentence in result["msg"]
    assert result["failed_action"]["action"] == "import_layer"
    assert (result["actions"], result["not_rolled_back"]) == ([], [])
    assert "exception" not in result
    assert images(faulty) == before


@pytest.mark.fleet
def test_killed_at_any_time(faulty: Lab) -> None:
    """SIGKILL at moments all through a run, mostly in mid-stream."""
    load(faulty, padded(SOURCE, 40))
    before = images(faulty)
    began = time.monotonic()
    faulty.module("flatten_image", source=SOURCE, tag="vobox:timed")
    whole = time.monotonic() - began
    faulty.docker("image", "rm", "vobox:timed")
    assert images(faulty) == before
    old = inspect(faulty, TAG)["Id"]
    after = 0
    for tenth in range(2, 11):
        process = start_module("flatten_image", arguments(faulty))
        guards: set[int] = set()
        end = time.monotonic() + whole * tenth / 10
        while time.monotonic() < end:
            guards.update(children(process.pid))
            time.sleep(0.005)
        guards.update(children(process.pid))
        process.kill()
        process.communicate()
        wait_for_end(sorted(guards))
        if inspect(faulty, TAG)["Id"] == old:
            assert images(faulty) == before
        else:
            # It was done: all is as it was to be. Once more from the start.
            after += 1
            assert not [line for line in images(faulty) if "hep.gridbox" in line]
            start_over(faulty, old)
            assert images(faulty) == before
    print(f"killed 9 times within {whole:.1f} s: {9 - after} times as before, {after} times done")


def test_ended_politely(faulty: Lab) -> None:
    """SIGTERM in mid-stream: put back by the module itself, which says so."""
    load(faulty, padded(SOURCE, 40))
    before = images(faulty)
    process = start_module("flatten_image", arguments(faulty))
    wait_for_growth(faulty.engine)
    process.terminate()
    out, _err = process.communicate(timeout=60)
    result = json.loads(out)
    assert result["failed"]
    assert "told to end (SIGTERM)" in result["msg"]
    assert result["not_rolled_back"] == []
    assert images(faulty) == before


def used(engine: Dockerd) -> int:
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", str(engine.folder / "data/overlay2")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout.split()[0])


def wait_for_growth(engine: Dockerd, seconds: float = 60) -> None:
    """Wait until the engine has begun to unpack."""
    before = set(os.listdir(engine.folder / "data/overlay2"))
    deadline = time.monotonic() + seconds
    while not set(os.listdir(engine.folder / "data/overlay2")) - before:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_daemon_is_killed_in_mid_import(faulty: Lab) -> None:
    load(faulty, padded(SOURCE, 40))
    before = images(faulty)
    process = start_module("flatten_image", arguments(faulty))
    wait_for_growth(faulty.engine)
    faulty.engine.kill()
    out, _err = process.communicate(timeout=120)
    result = json.loads(out)
    assert result["failed"]
    assert result["failed_action"]["action"] == "import_layer"
    assert "exception" not in result
    faulty.engine.start()
    assert images(faulty) == before
    assert faulty.module("flatten_image", source=SOURCE, tag=TAG)["changed"]


@pytest.fixture()
def small_lab(own_lab: Lab) -> Lab:
    """An engine whose data lie on a small file system of their own."""
    own_lab.engine.kill(15)
    data = own_lab.engine.folder / "data"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(data)], check=True, timeout=10)
    own_lab.engine.start()
    return own_lab


def leave_free(ballast: Path, left: int) -> None:
    """Fill a file system with one file until so many bytes are left."""
    with ballast.open("wb") as file:
        disk = os.statvfs(file.fileno())
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)


def test_the_disk_becomes_full_in_mid_import(small_lab: Lab) -> None:
    load(small_lab, padded(SOURCE, 60))
    before, size = images(small_lab), used(small_lab.engine)
    data = small_lab.engine.folder / "data"
    first, second = data / "ballast1", data / "ballast2"
    leave_free(first, 80 << 20)
    process = start_module("flatten_image", arguments(small_lab))
    wait_for_growth(small_lab.engine)
    process.send_signal(signal.SIGSTOP)  # else it goes on filling the disk while its free space is measured
    leave_free(second, 10 << 20)
    process.send_signal(signal.SIGCONT)
    out, _err = process.communicate(timeout=120)
    result = json.loads(out)
    assert result["failed"]
    assert "no space left on device" in result["msg"]
    assert "exception" not in result
    first.unlink()
    second.unlink()
    assert images(small_lab) == before
    assert used(small_lab.engine) <= size + (1 << 20), "the engine kept a part of the layer"
    assert small_lab.module("flatten_image", source=SOURCE, tag=TAG, min_free=0)["changed"]


def test_the_disk_is_too_small_from_the_start(small_lab: Lab) -> None:
    """Said with the numbers, in check mode too; and the merged tree counts, not the sum of the layers."""
    load(small_lab, padded(SOURCE, 60))
    before = images(small_lab)
    leave_free(small_lab.engine.folder / "data/ballast", 50 << 20)
    for check in (True, False):
        with pytest.raises(
            ModuleFailed, match=r"the flattened image needs up to 6\d MiB in .*, where (49|50) MiB are free"
        ):
            small_lab.module("flatten_image", check=check, source=SOURCE, tag=TAG, min_free=0)
    assert images(small_lab) == before

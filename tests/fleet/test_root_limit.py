# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine may write to its root file system, kept by the engine itself: Docker on XFS with project quotas, on a
virtual machine, for its kernel knows them."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from tests.lab.booted import booted
from tests.lab.factory import KIND
from tests.lab.fleet import Fleet
from tests.lab.image import busybox_tar
from tests.lab.modules_over_ssh import Call, call, feed

pytestmark = pytest.mark.fleet

HOST = "vm1"
SECONDS = 1800
FOLDER = "/var/lib/hep.gridbox/factory"

SET_UP = """set -e
systemctl stop docker.socket docker.service
mkfs.xfs -q /dev/vdb
mount -o prjquota /dev/vdb /var/lib/docker
systemctl start docker.service
docker import - busybox:test
"""

#: It may write 64 MB, and says what became of 100.
RUN = """#!/bin/sh
dd if=/dev/zero of=/filler bs=1048576 count=100 2>/tmp/said
echo "200 $(du -sm /filler | cut -f1) MiB, $(grep -o 'No space left on device' /tmp/said)" >$JOBOUTPUTS/shutdown_message
sleep 9999
"""

CONFIGURATION = {
    "name": "wn001.example.org", "space": "vac01.example.org", "total_processors": 1, "slots": 1,
    "mb_per_processor": 64,
    "overload_per_processor": 1000, "root_gb_per_processor": 0.064, "work_space": "folder", "nofile": 4096,
    "machinetypes": {"a": KIND},
}  # fmt: skip


@pytest.fixture()
def fleet() -> t.Iterator[Fleet]:
    with booted("root", f"{HOST}=vm:bookworm:engine") as made:
        feed(made, HOST, SET_UP, busybox_tar(), SECONDS)
        yield made


def test_a_machine_that_writes_too_much_is_told_so_by_its_file_system(fleet: Fleet, tmp_path: Path) -> None:
    feed(fleet, HOST, f"mkdir -p {FOLDER}/machinetypes/a/files; cat >{FOLDER}/machinetypes/a/files/run", RUN.encode())
    feed(
        fleet, HOST, "mkdir -p /etc/hep.gridbox; cat >/etc/hep.gridbox/factory.json", json.dumps(CONFIGURATION).encode()
    )
    [started] = call(
        fleet, HOST, tmp_path, Call("vacuum_slot", {"state": "running", "wait_timeout": 600}), seconds=SECONDS
    )
    assert [one["state"] for one in started["slots"]] == ["running"]
    machine = fleet.machine(HOST)
    message = f"{FOLDER}/machines/*/mnt/joboutputs/shutdown_message"
    wait = f"for try in $(seq 300); do cat {message} 2>/dev/null && exit; sleep 1; done"
    said = machine.run("sh", "-c", wait, timeout=SECONDS).stdout.strip()
    written, _comma, error = said.removeprefix("200 ").partition(", ")
    assert error == "No space left on device", said
    assert 50 <= int(written.split()[0]) <= 64
    [identity] = machine.run("docker", "ps", "--quiet", "--filter", "label=hep.gridbox.factory").stdout.split()
    inspected = machine.run("docker", "inspect", "--format", "{{.HostConfig.StorageOpt.size}}", identity).stdout.strip()
    assert inspected == "64000000"

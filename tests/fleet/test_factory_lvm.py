# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hep.gridbox.factory on a virtual machine with a volume group: each machine has a logical volume, which goes with it,
after a power cut as well; and from linear volumes to a thin pool. Its kernel has control groups of version 2, so what
they say of limits, memory and processors is asked here too."""

from __future__ import annotations

import json
import time
import typing as t

import pytest

from tests.fleet.test_sites import changed_tasks
from tests.lab import volume_group
from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.image import busybox_tar
from tests.lab.modules_over_ssh import feed
from tests.lab.site import Site, recap

pytestmark = pytest.mark.fleet

HOST = "vm1"
SECONDS = 1800
ON_THE_FLEET = ("-e", "gridbox_hosts=fleet")

THEIRS = {"home", "pool"}

#: It writes to its work space and says how large that is, and stays until it is told to end.
RUN = """#!/bin/sh
trap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM
stat -f -c %b /scratch >$JOBOUTPUTS/size
cp /bin/busybox /scratch && touch $JOBOUTPUTS/written
while :; do sleep 1; done
"""
#: It works, and takes more memory than it may have.
HUNGRY = """#!/bin/sh
timeout 5 sh -c 'while :; do :; done'
tail /dev/zero
"""
CONFIGURATION = {
    "name": "wn001.example.org", "space": "vac01.example.org", "total_processors": 2, "mb_per_processor": 64,
    "overload_per_processor": 1000, "grace_seconds": 5, "nofile": 4096, "work_space": "lvm", "volume_group": "grid",
    "disk_gb_per_processor": 1,
}  # fmt: skip
KIND = {
    "root_image": "docker://busybox:test", "user_data": "run", "target_share": 1, "min_wallclock_seconds": 1,
    "max_wallclock_seconds": 36000, "fizzle_seconds": 1, "tmp_binds": ["/scratch"],
}  # fmt: skip


def variables(script: str = RUN, **more: str) -> dict[str, t.Any]:
    """The host's, with more configuration."""
    return {
        "vacuum_factory_configuration": {**CONFIGURATION, **more}, "vacuum_factory_machinetypes": {"local": KIND},
        "vacuum_factory_files": {"local/files/run": script}, "vacuum_factory_remove_machines": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    with booted("factory-lvm", f"{HOST}=vm:bookworm:engine") as fleet:
        feed(fleet, HOST, f"{volume_group.MAKE}docker import - busybox:test", busybox_tar(), SECONDS)
        yield Site(fleet, tmp_path_factory.mktemp("site"), **variables())


def volumes(fleet: Fleet) -> dict[str, str]:
    """The pool of each logical volume on the host, by its name; a linear one has none."""
    said = fleet.machine(HOST).run("lvs", "--reportformat", "json", "--options", "lv_name,pool_lv").stdout
    return {one["lv_name"]: one["pool_lv"] for one in json.loads(said)["report"][0]["lv"]}


def written(fleet: Fleet, machines: int) -> list[int]:
    """Wait until machines that run have written to their work spaces; how large these are, blocks of 4 KiB."""
    outputs = "/var/lib/hep.gridbox/factory/machines/*/mnt/joboutputs"
    look = f"for one in {outputs}/written; do cat ${{one%written}}size; done"
    deadline = time.monotonic() + 300
    while True:
        sizes = fleet.machine(HOST).run("sh", "-c", look, check=False).stdout.split()
        if len(sizes) == machines:
            return [int(size) for size in sizes]
        assert time.monotonic() < deadline, f"{len(sizes)} of {machines} machines have written"
        time.sleep(2)


def records(fleet: Fleet) -> list[dict[str, t.Any]]:
    """What is written down of the machines."""
    look = 'for one in /var/lib/hep.gridbox/factory/machines/*/machine.json; do tr -d "\\n" <$one; echo; done'
    return [json.loads(line) for line in fleet.machine(HOST).run("sh", "-c", look).stdout.splitlines()]


def wait_for_pools(fleet: Fleet, wanted: list[str]) -> None:
    """Wait until the machines have as many volumes as these, each in this pool."""
    deadline = time.monotonic() + 300
    while True:
        here = volumes(fleet)
        if sorted(pool for name, pool in here.items() if name not in THEIRS) == wanted:
            return
        assert time.monotonic() < deadline, f"waited for {wanted}: {here}"
        time.sleep(2)


def test_each_machine_has_a_volume(site: Site) -> None:
    foreseen = site.run("hep.gridbox.factory", *ON_THE_FLEET, "--check", seconds=SECONDS)
    assert set(volumes(site.fleet)) == THEIRS
    done = site.run("hep.gridbox.factory", *ON_THE_FLEET, seconds=SECONDS)
    assert sorted(changed_tasks(foreseen.stdout, HOST)) == sorted(changed_tasks(done.stdout, HOST))
    sizes = written(site.fleet, 2)
    assert all(200_000 < size < 245_000 for size in sizes)  # 1 GB less what the file system needs
    wait_for_pools(site.fleet, ["", ""])
    again = site.run("hep.gridbox.factory", *ON_THE_FLEET, seconds=SECONDS)
    assert recap(again.stdout)[HOST]["changed"] == 0


def test_the_kernel_holds_the_machines_to_their_limits(site: Site) -> None:
    """Control groups of version 2, which this machine's kernel need not have."""
    of_machines = "docker ps --quiet --filter label=hep.gridbox.factory=wn001.example.org"
    pids = f"docker inspect --format '{{{{.State.Pid}}}}' $({of_machines})"
    look = f"for pid in $({pids}); do cd /sys/fs/cgroup$(sed s/0::// /proc/$pid/cgroup); "
    look += "echo $(cat memory.max memory.swap.max pids.max cpu.max cpu.stat | head -n 5); done"
    for line in site.fleet.machine(HOST).run("sh", "-c", look).stdout.splitlines():
        memory, swap, processes, quota, period, _usage, used = line.split()
        assert (memory, swap) == (str(64 << 20), "0")
        assert (int(processes), int(quota)) == (1024, int(period))
        assert int(used) > 0


def test_after_a_power_cut_the_old_volumes_are_gone_and_the_slots_full(site: Site) -> None:
    before = set(volumes(site.fleet)) - THEIRS
    ran = {one["uuid"] for one in records(site.fleet) if one["state"] == "running"}
    site.fleet.machine(HOST).run("sync")
    site.fleet.cut_power(HOST)
    site.fleet.power_on(HOST)
    written(site.fleet, 2)
    after = set(volumes(site.fleet)) - THEIRS
    assert len(after) == 2
    assert not after & before
    ended = {one["uuid"]: (one["end_code"], one["shutdown_message"]) for one in records(site.fleet) if one["ended"]}
    assert len(ran) == 2
    assert {uuid: ended[uuid] for uuid in ran} == dict.fromkeys(ran, ("rebooted", "100 Host was rebooted"))
    # Nobody backs off for it, so the slots are full.
    assert "backing off" not in site.fleet.machine(HOST).run("gridbox", "explain").stdout


def test_machines_that_are_started_later_have_thin_ones(site: Site) -> None:
    # The boot has not activated it (initramfs-tools without thin_check). Whoever takes it into use does that once.
    site.fleet.machine(HOST).run("vgchange", "--activate", "y", "grid")
    site.write(**variables(thin_pool="pool"))
    site.run("hep.gridbox.factory", *ON_THE_FLEET, seconds=SECONDS)
    wait_for_pools(site.fleet, ["", ""])  # machines outlive the change
    site.fleet.machine(HOST).run("gridbox", "stop", "0", timeout=120)
    wait_for_pools(site.fleet, [""])
    site.fleet.machine(HOST).run("gridbox", "stop", "--undo", "0", timeout=120)
    wait_for_pools(site.fleet, ["", "pool"])
    written(site.fleet, 2)


def test_after_a_power_cut_the_factory_activates_its_pool(site: Site) -> None:
    site.fleet.machine(HOST).run("sync")
    site.fleet.cut_power(HOST)
    site.fleet.power_on(HOST)
    wait_for_pools(site.fleet, ["pool", "pool"])
    written(site.fleet, 2)


def test_a_machine_that_takes_too_much_memory_says_so_and_how_long_it_has_worked(site: Site) -> None:
    site.write(**variables(HUNGRY, thin_pool="pool"))
    site.run("hep.gridbox.factory", *ON_THE_FLEET, seconds=SECONDS)
    machine = site.fleet.machine(HOST)
    before = {one["uuid"] for one in records(site.fleet)}
    machine.run("gridbox", "stop", "0", timeout=120)
    wait_for_pools(site.fleet, ["pool"])
    machine.run("gridbox", "stop", "--undo", "0", timeout=120)
    deadline = time.monotonic() + 300
    while True:
        ended = [one for one in records(site.fleet) if one["uuid"] not in before and one["ended"]]
        if ended:
            break
        assert time.monotonic() < deadline, "no machine has ended"
        time.sleep(2)
    assert ended[0]["shutdown_message"] == "700 Memory limit reached"
    assert ended[0]["cpu_seconds"] >= 3


def test_with_the_factory_go_its_volumes_and_no_other(site: Site) -> None:
    site.run("hep.gridbox.remove", *ON_THE_FLEET, "-e", "gridbox_remove=yes", seconds=SECONDS)
    assert set(volumes(site.fleet)) == THEIRS

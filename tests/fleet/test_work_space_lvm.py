# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work spaces that are logical volumes, linear and thin, on a virtual machine, for they need a device mapper; and files
once more, for there udev looks at every new device."""

from __future__ import annotations

import io
import json
import tarfile
import typing as t

import pytest

from tests.gate.tools import ROOT
from tests.lab import volume_group
from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.modules_over_ssh import feed

pytestmark = pytest.mark.fleet

HOST = "vm1"
SECONDS = 1800
CODE, STATE = "/srv/code", "/srv/factory"
#: What runs there: the library, and the tests that it runs.
PARTS = {
    "plugins/module_utils": "ansible_collections/hep/gridbox/plugins/module_utils",
    **{
        path: path
        for path in ("tests/__init__.py", "tests/lab/__init__.py", "tests/lab/killed.py", "tests/lab/work_spaces.py")
    },
}

#: In the volume group others have more: a volume with our tag that is another factory's, and one in the pool.
SET_UP = f"""{volume_group.MAKE}
modprobe loop
lvcreate --yes --size 100m --addtag hep.gridbox --name hep.gridbox-01234567-00000000-0000-4000-8000-000000000001 grid
lvcreate --yes --thin --virtualsize 1g --name theirs grid/pool
mkfs.ext4 -q /dev/grid/home
mkdir /srv/home
mount /dev/grid/home /srv/home
"""

KINDS = {
    "linear": {"work_space": "lvm", "volume_group": "grid"},
    "thin": {"work_space": "lvm", "volume_group": "grid", "thin_pool": "pool"},
    "file": {"work_space": "file"},
    "linear with xfs": {"work_space": "lvm", "volume_group": "grid", "file_system": "xfs"},
    "thin with xfs": {"work_space": "lvm", "volume_group": "grid", "thin_pool": "pool", "file_system": "xfs"},
}
#: Each is a function of tests/lab/work_spaces.py.
TRUE_OF_ALL = (
    "it_can_be_made_here", "a_volume_is_as_large_as_was_said", "it_is_root_s_and_has_no_setuid_and_no_devices",
    "several_at_once", "no_more_is_given_away_than_there_is", "one_in_use_is_not_removed",
    "one_that_somebody_only_looks_into_is_removed",
    "one_that_another_mount_namespace_has_is_not_lost", "what_is_mounted_in_it_is_not_removed",
    "a_kill_between_two_commands_leaves_nothing", "a_kill_while_a_command_is_at_work_leaves_nothing",
    "a_kill_of_a_command_as_well_leaves_nothing",
)  # fmt: skip


def code() -> bytes:
    """The code, for tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, name in PARTS.items():
            archive.add(ROOT / path, name, filter=lambda one: None if one.name.endswith("__pycache__") else one)
    return packed.getvalue()


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    with booted("lvm", f"{HOST}=vm:bookworm:engine") as made:
        made.machine(HOST).run("sh", "-c", SET_UP, timeout=SECONDS)
        feed(made, HOST, f"mkdir {CODE} && tar -C {CODE} -x", code(), SECONDS)
        yield made


def run(fleet: Fleet, what: str, kind: t.Mapping[str, str], fresh: bool = True) -> str:
    """Run a function of tests/lab/work_spaces.py on the host.

    :param fresh: with a state folder that is not there yet.
    """
    argv = ["python3", "-B", "-m", "tests.lab.work_spaces", what, STATE, json.dumps(kind)]
    machine = fleet.machine(HOST)
    if fresh:
        machine.run("rm", "-rf", "--one-file-system", STATE)
    done = machine.run("env", "-C", CODE, f"PYTHONPATH={CODE}", *argv, timeout=SECONDS, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def volumes(fleet: Fleet) -> set[str]:
    """Names of all logical volumes on the host."""
    return set(fleet.machine(HOST).run("lvs", "--noheadings", "--options", "lv_name").stdout.split())


@pytest.mark.parametrize("kind", ["linear", "thin", "file"])
@pytest.mark.parametrize("what", TRUE_OF_ALL)
def test_work_spaces(fleet: Fleet, what: str, kind: str) -> None:
    before = volumes(fleet)
    run(fleet, what, KINDS[kind])
    assert volumes(fleet) == before


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("a_volume_is_as_large_as_was_said", "linear with xfs"),
        ("a_volume_is_as_large_as_was_said", "thin with xfs"),
        ("several_at_once", "linear with xfs"),
        ("one_in_use_is_not_removed", "linear with xfs"),
        ("a_kill_between_two_commands_leaves_nothing", "linear with xfs"),
        ("a_kill_between_two_commands_leaves_nothing", "thin with xfs"),
    ],
)
def test_xfs(fleet: Fleet, what: str, kind: str) -> None:
    before = volumes(fleet)
    run(fleet, what, KINDS[kind])
    assert volumes(fleet) == before


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"volume_group": "gird"}, 'Volume group "gird" not found'),
        ({"volume_group": "grid", "thin_pool": "pond"}, "the volume group grid has no such thin pool; it has pool."),
        ({"volume_group": "grid", "thin_pool": "home"}, "the volume group grid has no such thin pool; it has pool."),
    ],
)
def test_what_is_missing_is_said(fleet: Fleet, kind: dict[str, str], words: str) -> None:
    with pytest.raises(AssertionError) as failed:
        run(fleet, "it_can_be_made_here", {"work_space": "lvm", **kind})
    assert words in str(failed.value)


def test_after_a_power_cut(fleet: Fleet) -> None:
    """Nothing is mounted any more, and all that was there of machines goes, whether its pool is active or not."""
    before = volumes(fleet)
    for kind in ("linear", "thin"):
        # Debian's initramfs activates a thin pool at boot only if the programs that check it are there.
        fleet.machine(HOST).run("vgchange", "--activate", "y", "grid")
        run(fleet, "made_and_left", KINDS[kind])
        assert len(volumes(fleet) - before) == 2
        fleet.machine(HOST).run("sync")
        fleet.cut_power(HOST)
        fleet.power_on(HOST)
        run(fleet, "what_is_left_over_is_removed", KINDS[kind], fresh=False)
        assert volumes(fleet) == before

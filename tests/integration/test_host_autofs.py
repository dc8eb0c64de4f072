# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hardening on a host whose autofs serves somebody: it is refused until nobody needs it, and stopped then."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.test_time_servers import OFF
from tests.lab.booted import booted
from tests.lab.hosts import Machine

HOST = "host1"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tuple[Machine, Path]]:
    """A host whose autofs mounts in /data, and a folder with its inventory."""
    folder = tmp_path_factory.mktemp("play")
    with booted("auto", f"{HOST}=native:bookworm") as fleet:
        machine = t.cast(Machine, fleet.machine(HOST))
        machine.run("mkdir", "-p", "/srv/one")
        machine.feed(b"one -fstype=bind :/srv/one\n", "tee", "/etc/auto.data")
        machine.feed(b"/data /etc/auto.data\n", "tee", "/etc/auto.master.d/data.autofs")
        machine.run("systemctl", "restart", "autofs.service")
        (folder / "inventory.yml").write_text(yaml.safe_dump(fleet.inventory()))
        yield machine, folder


def role(folder: Path, *options: str, **variables: t.Any) -> subprocess.CompletedProcess[str]:
    off = dict.fromkeys((*OFF, "time_sync"), False)
    task = {"ansible.builtin.import_role": {"name": "hep.gridbox.host_hardening"}}
    play = {
        "hosts": HOST, "gather_facts": False, "vars": {"host_hardening_controls": off, **variables}, "tasks": [task],
    }  # fmt: skip
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.yml", "play.yml", *options],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip


@pytest.mark.fleet
def test_an_autofs_that_serves_somebody_is_not_stopped(host: tuple[Machine, Path]) -> None:
    machine, folder = host
    machine.run("ls", "/data/one/.")
    assert " /data/one " in machine.run("cat", "/proc/self/mountinfo").stdout
    for options in (["--check"], [], ["--tags", "host_hardening_service"]):
        done = role(folder, *options)
        assert done.returncode == 2, done.stdout
        assert "autofs serves /data on host1" in " ".join(done.stdout.split())
        assert "changed=0 " in done.stdout
        assert machine.run("systemctl", "is-active", "autofs.service").stdout == "active\n"
    # An earlier task of the run would have masked it.
    masked = role(folder, "--check", host_hardening_masked=["autofs.service"])
    assert masked.returncode == 0, masked.stdout
    machine.run("umount", "/data/one")
    done = role(folder)
    assert done.returncode == 0, done.stdout
    shown = machine.run("systemctl", "show", "--property=LoadState,ActiveState", "autofs.service").stdout
    assert sorted(shown.split()) == ["ActiveState=inactive", "LoadState=masked"]

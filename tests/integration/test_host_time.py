# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The site's time servers on a host that has chrony: whether chrony goes by what its files say, also after a run that
broke off, and after the role has gone."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.test_time_servers import OFF
from tests.gate.tools import ROOT
from tests.lab.booted import booted
from tests.lab.fleet import Fleet
from tests.lab.hosts import Machine

pytestmark = pytest.mark.fleet  # some minutes

HOST = "host1"
SOURCES = "/etc/chrony/sources.d/hep.gridbox.sources"


class Host:
    """A host with a chrony that was there before the role, and a time server within reach."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.folder = folder
        self.machine = t.cast(Machine, fleet.machine(HOST))
        (folder / "inventory.yml").write_text(yaml.safe_dump(fleet.inventory()))

    def role(self, *options: str, entry: str = "main", servers: t.Sequence[str] = ()) -> str:
        """Run an entry point of the role; what ansible-playbook counted."""
        variables = {
            "host_hardening_controls": dict.fromkeys((*OFF, "autofs"), False),
            "host_hardening_time_servers": list(servers),
            "host_hardening_time_options": "port 11123 iburst",
        }  # fmt: skip
        task = {"ansible.builtin.include_role": {"name": "hep.gridbox.host_hardening", "tasks_from": entry}}
        play = [{"hosts": HOST, "gather_facts": False, "vars": variables, "tasks": [task]}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(play))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory.yml", "play.yml", *options],
            cwd=self.folder, capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sources(self) -> list[str]:
        """The servers that chrony asks."""
        lines = self.machine.run("chronyc", "-n", "-c", "sources").stdout.splitlines()
        return sorted(line.split(",")[2] for line in lines)

    def started(self) -> str:
        """When chrony was started last."""
        return self.machine.run("systemctl", "show", "--property=InvocationID", "--value", "chrony.service").stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Host]:
    with booted("time", f"{HOST}=native:bookworm") as fleet:
        made = Host(fleet, tmp_path_factory.mktemp("play"))
        machine = made.machine
        machine.feed((ROOT / "tests/lab/time_server.py").read_bytes(), "tee", "/srv/time_server.py")
        machine.run("systemd-run", "--unit=time-server", "/usr/bin/python3", "/srv/time_server.py", "11123")
        # chrony may not set the clock, which is the real machine's.
        drop_in = b"[Service]\nExecStart=\nExecStart=!/usr/sbin/chronyd -x\n"
        machine.run("mkdir", "/etc/systemd/system/chrony.service.d")
        machine.feed(drop_in, "tee", "/etc/systemd/system/chrony.service.d/lab.conf")
        machine.install("chrony")
        # The pool of the distribution is out of reach, and its names would be looked up all the time.
        machine.run("sed", "-i", "s/^pool /#pool /", "/etc/chrony/chrony.conf")
        machine.run("systemctl", "restart", "chrony.service")
        yield made


def test_a_run_that_broke_off_is_caught_up(host: Host) -> None:
    # A folder that is there has the mode that the site gave it.
    host.machine.run("chgrp", "_chrony", "/etc/chrony/sources.d")
    host.machine.run("chmod", "750", "/etc/chrony/sources.d")
    host.role(servers=["127.0.0.1"])
    assert host.sources() == ["127.0.0.1"]
    assert host.machine.run("stat", "--format=%a", "/etc/chrony/sources.d").stdout == "750\n"
    # What a run writes that broke off then, or that was limited by the tag host_hardening_configure.
    text = host.machine.run("cat", SOURCES).stdout + "server 127.0.0.2 port 11123 iburst\n"
    host.machine.feed(text.encode(), "tee", SOURCES)
    both = ["127.0.0.1", "127.0.0.2"]
    assert "changed=1 " in host.role("--check", servers=both)
    assert host.sources() == ["127.0.0.1"]
    assert "changed=1 " in host.role(servers=both)
    assert host.sources() == both
    started = host.started()
    assert "changed=0 " in host.role(servers=both)
    assert host.started() == started


def test_a_chrony_that_was_there_goes_by_its_own_configuration_again(host: Host) -> None:
    assert SOURCES in host.machine.run("ls", SOURCES).stdout
    told = host.role("--check", entry="remove").partition("TASK [hep.gridbox.host_hardening : Have chrony read its")[2]
    assert "changed: [host1]" in told.partition("TASK")[0]
    assert host.sources() != []
    host.role(entry="remove")
    assert host.sources() == []
    started = host.started()
    assert "changed=0 " in host.role(entry="remove")
    assert host.started() == started

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hep.gridbox.site with all that it can do on a host, from bare: engine, CVMFS, hardening, VO-boxes; and a reboot."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.fleet.test_sites import PREDICTS, changed_tasks, greets
from tests.gate.tools import ROOT
from tests.lab.booted import booted
from tests.lab.site import Site, recap

pytestmark = pytest.mark.fleet

HOST = "host1"
REPOSITORY = "config.example.org"
#: Of the machine around the host, whose kernel it has.
WAIVED = dict.fromkeys(
    ("inotify", "file_max", "keys", "neighbours"), "the kernel is that of the machine around the host"
)
VARIABLES = {
    "gridbox_cvmfs": True,
    "cvmfs_config_repository": REPOSITORY,
    "cvmfs_repositories": [{"repository": REPOSITORY, "source": "directory", "path": "/srv/cvmfs/config"}],
    "vobox_cvmfs": {"repositories": [REPOSITORY]},
    "gridbox_hardening": True,
    "host_hardening_nofile_soft": 8192,
    "host_hardening_nofile_hard": 16384,
    "host_hardening_time_servers": ["127.0.0.1"],
    "host_hardening_time_options": "port 11123 iburst",
    "host_hardening_controls": WAIVED,
}


#: A folder that is to be a repository; a time server within reach; chrony leaves the clock alone, which is not its own.
PREPARE = """set -e
mkdir -p /srv/cvmfs/config /etc/systemd/system/chrony.service.d
echo here >/srv/cvmfs/config/word
printf '[Service]\\nExecStart=\\nExecStart=!/usr/sbin/chronyd -x\\n' >/etc/systemd/system/chrony.service.d/lab.conf
printf '[Service]\\nExecStart=/usr/bin/python3 /srv/time_server.py 11123\\n[Install]\\nWantedBy=sysinit.target\\n' \\
    >/etc/systemd/system/time-server.service
cat >/srv/time_server.py
systemctl daemon-reload
systemctl enable --now time-server.service
"""

#: Of a package that nobody installs here.
INDEX = f"Package: mmdebstrap\nVersion: 1\nArchitecture: all\nFilename: ./none.deb\nSize: 1\nSHA256: {'0' * 64}\n"
ADD_INDEX = """mkdir /srv/index
cat >/srv/index/Packages
echo 'deb [trusted=yes] file:/srv/index ./' >/etc/apt/sources.list.d/index.list
apt-get -qq update
"""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """A bare host."""
    with booted("whole", f"{HOST}=native:{request.param}") as fleet:
        fleet.machine(HOST).feed((ROOT / "tests/lab/time_server.py").read_bytes(), "sh", "-c", PREPARE)
        yield Site(fleet, tmp_path_factory.mktemp("site"), **VARIABLES)


def announced(output: str) -> list[str]:
    """What check mode has announced, in the words of the real run."""
    return sorted(PREDICTS.get(task, task) for task in changed_tasks(output, HOST))


def word(site: Site) -> str:
    """What the VO-box reads in the repository."""
    inside = ("docker", "exec", "vobox11", "cat", f"/cvmfs/{REPOSITORY}/word")
    return site.fleet.machine(HOST).run(*inside).stdout


def test_check_mode_on_a_bare_host_tells_of_what_builds_an_image(site: Site) -> None:
    """These VO-boxes' image is pulled; one that is built takes a package, which the lab's mirror has not: check mode
    needs no more of it than its line in an index."""
    machine = site.fleet.machine(HOST)
    machine.feed(INDEX.encode(), "sh", "-ec", ADD_INDEX)
    default = {"vobox_image": "vobox:reference", "vobox_image_pull": "", "vobox_image_build": True}
    built = json.dumps({**default, "vobox_image_flatten": True})
    try:
        foreseen = site.run("hep.gridbox.site", "--check", "-e", built).stdout
    finally:
        machine.run("rm", "-r", "/srv/index", "/etc/apt/sources.list.d/index.list")
    assert "Install what bootstraps an image" in changed_tasks(foreseen, HOST)
    assert "would be built and flattened." in foreseen


def test_from_bare_as_foreseen(site: Site) -> None:
    foreseen = site.run("hep.gridbox.site", "--check")
    done = site.run("hep.gridbox.site")
    assert announced(foreseen.stdout) == sorted(changed_tasks(done.stdout, HOST))
    assert greets(site, 1)
    assert word(site) == "here\n"


def test_a_second_run_and_its_check_mode_change_nothing(site: Site) -> None:
    for options in ((), ("--check",)):
        assert recap(site.run("hep.gridbox.site", *options).stdout)[HOST]["changed"] == 0


def test_after_a_reboot_all_is_there_and_nothing_to_do(site: Site) -> None:
    site.fleet.reboot(HOST)
    assert recap(site.run("hep.gridbox.site").stdout)[HOST]["changed"] == 0
    assert greets(site, 1)
    assert word(site) == "here\n"
    assert recap(site.run("hep.gridbox.audit").stdout)[HOST]["failed"] == 0


def test_the_host_is_given_back_as_foreseen(site: Site) -> None:
    machine = site.fleet.machine(HOST)
    foreseen = site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes", "--check")
    assert greets(site, 1)
    assert word(site) == "here\n"
    done = site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes")
    assert announced(foreseen.stdout) == sorted(changed_tasks(done.stdout, HOST))
    assert "/cvmfs/" not in machine.run("cat", "/proc/self/mounts").stdout
    assert machine.run("sh", "-c", "command -v dockerd", check=False).returncode != 0
    assert machine.run("cat", "/srv/cvmfs/config/word").stdout == "here\n"
    assert recap(site.run("hep.gridbox.remove", "-e", "gridbox_remove=yes").stdout)[HOST]["changed"] == 0

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/first-site.md, followed from its first command to its last, on hosts whose names and addresses are others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.gate.tools import ROOT, build, environment
from tests.lab import first_site
from tests.lab.booted import booted
from tests.lab.fleet import LINK, NETWORK, Fleet
from tests.lab.site import common, recap

pytestmark = pytest.mark.fleet

#: What the LAN of a fleet has instead of the guide's. The peer is its gateway, and reaches nothing beyond.
INSTEAD = {
    "parent: eno1": f"parent: {LINK}",
    "192.0.2.0/24": NETWORK["ipv4"]["subnet"], "192.0.2.1}": f"{NETWORK['ipv4']['gateway']}}}", "192.0.2.": "10.213.1.",
    "2001:db8:1::/64": NETWORK["ipv6"]["subnet"], '2001:db8:1::1"}': f'{NETWORK["ipv6"]["gateway"]}"}}',
    "2001:db8:1::": "fd13:213::1:",
}  # fmt: skip
ACCOUNT = "gridadmin"
#: What of a fleet's usual site the guide has itself.
OF_THE_GUIDE = ("vobox_network", "vobox_list", "vobox_verify_from", "vobox_verify_netns")
#: The kernel, whose limits the hardening sets, is shared with others; and no repository has the CernVM-FS client.
NOT_HERE = {"gridbox_hardening": False, "gridbox_cvmfs": False, "vobox_cvmfs": {}}


@pytest.fixture(scope="module")
def fleet() -> t.Iterator[Fleet]:
    """Three bare hosts, each with an account that may become root."""
    with booted("first", "host1=native:bookworm", "host2=native:trixie", "host3=native:bookworm") as made:
        for host in made.hosts:
            made.machine(host.name).run(
                "sh", "-euc",
                'useradd --create-home --shell /bin/bash "$1"; cp -r /root/.ssh "/home/$1"; chown -R "$1:" "/home/$1";'
                ' echo "$1 ALL=(ALL) NOPASSWD: ALL" >"/etc/sudoers.d/$1"',
                "sh", ACCOUNT,
            )  # fmt: skip
        yield made


def write_inventory(fleet: Fleet, folder: Path) -> None:
    """The guide's inventory, and beside it what the hosts of a fleet have of their own."""
    text = first_site.guide()
    assert f"ansible_user: {ACCOUNT}\n" in text
    for old, new in INSTEAD.items():
        assert old in text
        text = text.replace(old, new)
    mysite = first_site.write(folder, text)
    given = {name: value for name, value in common().items() if name not in OF_THE_GUIDE}
    inventory = fleet.inventory()["fleet"]
    way_in = {name: value for name, value in inventory["vars"].items() if name != "ansible_user"}
    hosts = {f"{name}.example.org": {**way_in, **own, **given, **NOT_HERE} for name, own in inventory["hosts"].items()}
    (mysite / "fleet.yml").write_text(yaml.safe_dump({"voboxes": {"hosts": hosts}}))


def test_the_guide_leads_to_three_voboxes(fleet: Fleet, tmp_path: Path) -> None:
    shutil.copy(build(tmp_path), tmp_path)
    write_inventory(fleet, tmp_path)
    # Without what the tests set for Ansible: only what the guide says.
    ours = {name: value for name, value in environment().items() if not name.startswith("ANSIBLE_")}
    ours.update(HOME=str(tmp_path), PIP_CONSTRAINT=str(ROOT / "constraints.txt"), ANSIBLE_NOCOLOR="1")
    said = []
    for number, block in enumerate(first_site.commands()):
        activate = ". ~/gridbox/bin/activate\n" if number else ""
        for command in [block] if not number else block.splitlines():
            done = subprocess.run(
                ["bash", "-euc", activate + command], cwd=tmp_path, env=ours, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=1800, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}{done.stderr[-2000:]}"
            said.append(done.stdout)
    _installed, _ping, foreseen, first, whole = said
    assert os.listdir(tmp_path / ".ansible/collections/ansible_collections/hep") == ["gridbox"]
    hosts = [f"host{number}.example.org" for number in (1, 2, 3)]
    assert {host: recap(foreseen)[host]["failed"] for host in hosts} == dict.fromkeys(hosts, 0)
    assert list(recap(first)) == hosts[:1]
    assert recap(whole)[hosts[0]]["changed"] == 0
    for number in (1, 2, 3):
        row = rf"^alice +vobox{number}\.example\.org +10\.213\.1\.3{number} +fd13:213::1:3{number} .* 1/1 up "
        assert re.search(row, whole, re.MULTILINE), whole[-3000:]
    assert "All 3 VO-boxes run; every declared service answers over IPv4 and IPv6." in whole

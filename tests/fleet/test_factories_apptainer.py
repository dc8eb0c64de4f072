# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hep.gridbox.factory with Apptainer as the engine on a host that has it, and hep.gridbox.remove after it.

On a virtual machine as well, for that has control groups of version 2 alone, as the hosts of a site have; those of
another host of the lab are what this machine's kernel has.
"""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.fleet.test_sites import changed_tasks
from tests.lab.apptainer import ACCOUNT, IMAGE, equip
from tests.lab.booted import booted
from tests.lab.site import Site, recap

pytestmark = pytest.mark.fleet

HOST = "host1"
ON_THE_FLEET = ("-e", "gridbox_hosts=fleet")
ASKED = (*ON_THE_FLEET, "-e", '{"vacuum_factory_make_account": true}')
SCRIPT = "#!/bin/sh\nhostname >$JOBOUTPUTS/name\nwhile :; do sleep 0.1; done\n"
KIND = {
    "machine_model": "apptainer", "root_image": f"/cvmfs/images.example.org/{IMAGE}", "user_data": "run",
    "target_share": 1.0, "min_wallclock_seconds": 1,
}  # fmt: skip


def configuration(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "name": "wn001.example.org", "space": "vac01.example.org", "total_processors": 2, "work_space": "folder",
        "engine": "apptainer", "apptainer_account": ACCOUNT, "mb_per_processor": 64, "grace_seconds": 2,
        "overload_per_processor": 1000, "machinetypes": {"a": KIND}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module", params=["native:trixie", "vm:trixie"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Site]:
    """A host with Apptainer, but without the machines' account."""
    with booted("apptainer", f"{HOST}={request.param}") as fleet:
        machine = fleet.machine(HOST)
        equip(machine)
        machine.run("userdel", ACCOUNT)
        machine.run("mkdir", "-p", "/cvmfs/images.example.org")
        machine.run("cp", f"/srv/{IMAGE}", "/cvmfs/images.example.org/")
        yield Site(
            fleet, tmp_path_factory.mktemp("site"), vacuum_factory_configuration=configuration(),
            vacuum_factory_files={"a/files/run": SCRIPT},
        )  # fmt: skip


def running(site: Site) -> list[dict[str, t.Any]]:
    told = site.fleet.machine(HOST).run("cat", "/var/lib/hep.gridbox/factory/report.json").stdout
    return [one for one in json.loads(told)["slots"] if one.get("state") == "running"]


def test_an_account_is_made_only_if_that_is_asked(site: Site) -> None:
    for options in (["--check"], []):
        refused = site.run("hep.gridbox.factory", *ON_THE_FLEET, *options, check=False)
        assert refused.returncode != 0
        assert f"apptainer_account: {ACCOUNT}: this host has no such account. Make it: useradd" in refused.stdout
        assert changed_tasks(refused.stdout, HOST) == []
    assert site.fleet.machine(HOST).run("sh", "-c", "ls -d /etc/hep.gridbox", check=False).stdout == ""


def test_one_that_is_there_is_judged_before_anything_is_touched(site: Site) -> None:
    machine = site.fleet.machine(HOST)
    machine.run("useradd", "--system", "--no-create-home", "--shell", "/bin/sh", ACCOUNT)
    for options in (["--check"], []):
        refused = site.run("hep.gridbox.factory", *ASKED, *options, check=False)
        assert refused.returncode != 0
        assert f"apptainer_account: {ACCOUNT}: somebody can log in to it" in refused.stdout
        assert changed_tasks(refused.stdout, HOST) == []
    machine.run("userdel", ACCOUNT)


def test_a_host_with_apptainer_becomes_a_factory_as_foreseen(site: Site) -> None:
    foreseen = site.run("hep.gridbox.factory", *ASKED, "--check")
    done = site.run("hep.gridbox.factory", *ASKED)
    assert sorted(changed_tasks(foreseen.stdout, HOST)) == sorted(changed_tasks(done.stdout, HOST))
    assert "host1: OK: Factory ok" in done.stdout
    machine = site.fleet.machine(HOST)
    assert machine.run("getent", "passwd", ACCOUNT).stdout.endswith(":/usr/sbin/nologin\n")
    assert machine.run("sh", "-c", "command -v dockerd", check=False).stdout == ""
    again = site.run("hep.gridbox.factory", *ASKED)
    assert recap(again.stdout)[HOST]["changed"] == 0
    assert len(running(site)) == 2


def test_what_a_module_sees_without_the_daemon(site: Site) -> None:
    machine = site.fleet.machine(HOST)
    before = {one["uuid"] for one in running(site)}
    machine.run("systemctl", "stop", "gridbox-factory")
    play = [
        {
            "hosts": "fleet", "gather_facts": False, "become": True,
            "tasks": [
                {"hep.gridbox.vacuum_slot": {"slots": ["wn001-00"], "state": "stopped"}, "register": "stopped"},
                {"hep.gridbox.vacuum_slot": {"slots": ["wn001-00"], "state": "running"}, "register": "started"},
                {"hep.gridbox.vacuum_info": {}, "register": "seen"},
                {"ansible.builtin.assert": {"that": "seen.slots | map(attribute='state') | list == ['running'] * 2"}},
            ],
        }
    ]  # fmt: skip
    playbook = site.folder / "slots.yml"
    playbook.write_text(json.dumps(play))
    site.run(str(playbook))
    machine.run("systemctl", "start", "gridbox-factory")
    site.run("hep.gridbox.factory", *ON_THE_FLEET)
    after = {one["uuid"] for one in running(site)}
    assert len(after) == 2 and len(before & after) == 1


def test_a_change_that_would_lose_machines_is_refused(site: Site) -> None:
    another = json.dumps({"vacuum_factory_configuration": configuration(apptainer_account="another")})
    refused = site.run("hep.gridbox.factory", *ON_THE_FLEET, "-e", another, check=False)
    assert refused.returncode != 0
    assert f"apptainer_account: another: it is {ACCOUNT} now, and the factory would not know its machines any more" in (
        refused.stdout
    )
    assert len(running(site)) == 2


def test_the_host_is_given_back(site: Site) -> None:
    site.run(
        "hep.gridbox.remove",
        *ON_THE_FLEET,
        "-e",
        "gridbox_remove=yes",
        "-e",
        '{"vacuum_factory_remove_machines": true}',
    )
    machine = site.fleet.machine(HOST)
    assert machine.run("ps", "-u", ACCOUNT, "-o", "args=", check=False).stdout == ""
    assert machine.run("sh", "-c", "ls -d /var/lib/hep.gridbox /etc/hep.gridbox", check=False).stdout == ""
    assert machine.run("pgrep", "-f", "gridbox machine", check=False).stdout == ""

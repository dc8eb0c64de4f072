# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vacuum_bootstrap_image on the engine of the lab, and machines of its image on a small hierarchy of files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.bootstrap_image import layer
from tests.integration.conftest import Lab
from tests.lab.engine import PodmanService
from tests.lab.modules import ModuleFailed, run_module

SCRIPT = (Path(__file__).resolve().parents[2] / "roles/vacuum_factory/files/bootstrap/init").read_text()
NAME, REPOSITORY = "hep.gridbox/bootstrap:test", "demo.example.org"
ROOT = f"/cvmfs/{REPOSITORY}/root"
GIVEN: dict[str, t.Any] = {"name": NAME, "script": SCRIPT, "root": ROOT}
COMMANDS = "cat chmod grep id kill ls mkdir readlink rm sh stat touch tr"

#: Of the links that a machine's files are, all that a payload would look at.
USER_DATA = r"""#!/bin/sh
exec >/var/spool/joboutputs/log 2>&1
set -eux
refused() { if "$@"; then exit 1; fi; }
# Commands and programs of the hierarchy.
test "$(readlink /bin)" = "$GRIDBOX_EXPECTED/bin"
/usr/bin/ls -l /bin/sh /sbin/tool /lib64/libdemo /opt/demo/file /usr/share/demo /var/lib/rpm/Packages
test "$(cat /usr/share/demo)" = shared
refused touch /usr/share/demo
# Folders of the machine's own.
for folder in /etc /home /root /tmp /var/tmp /var/log /var/spool /var/www /usr/local /run; do
    touch $folder/mine
done
test "$(cat /etc/os-release)" = "NAME=Demo"
test "$(cat /etc/conf.d/one)" = one
echo two >>/etc/conf.d/one
test "$(stat -c '%u %a' /etc/conf.d/one)" = "0 644"
test "$(cat /root/.profile)" = hidden
test "$(cat /var/spool/mail/box)" = mail
test "$(cat /var/www/page)" = page
test "$(stat -c '%a' /root /tmp | tr '\n' ' ')" = "700 1777 "
# What the engine and the factory have put in.
grep -q "$(cat /etc/hostname)" /etc/hosts
refused grep -q 'of the hierarchy' /etc/hosts /etc/resolv.conf /etc/hostname
test "$(cat /etc/machinefeatures/total_cpu) $(cat /etc/jobfeatures/allocated_cpu)" = "2 2"
refused touch /etc/machinefeatures/mine
refused ls /etc/machinefeatures/trap
touch /opt/work/mine /etc/grid/mine
test ! -e /opt/work/hidden
# Accounts: no capability but two, and no way back to root.
grep -q '^demo:x:500' /etc/passwd
test "$(id -u payload00) $(id -u pilot)" = "40001 40000"
test "$(stat -c '%a' /etc/shadow)" = 600
grep -q '^NoNewPrivs:.1' /proc/self/status
as() { account=$1; shift; /gridbox/bin/su -s /bin/sh "$account" -c "$*"; }
test "$(as payload00 'id -u; id -g; id -G; echo $HOME' | tr '\n' ' ')" = "40001 40001 40001 /home/payload00 "
as pilot 'id -G' | grep -q 40010
as payload00 'echo output >$HOME/file; chmod 640 $HOME/file'
test "$(as pilot 'cat /home/payload00/file')" = output
refused as payload01 'cat /home/payload00/file'
refused as payload01 'ls /home/pilot'
refused as payload01 'cat /etc/shadow'
refused as payload01 'touch /var/spool/joboutputs/theirs'
refused as pilot '/gridbox/bin/su -s /bin/sh root -c id'
test "$PATH" = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/gridbox/bin
test "$HOME" = /root
echo "$@" >/var/spool/joboutputs/arguments
printf '200 Success' >/var/spool/joboutputs/shutdown_message
"""


@pytest.fixture()
def hierarchy(tmp_path: Path) -> Path:
    """/cvmfs with a repository in it: busybox and some files, laid out as a distribution's root is today."""
    root = tmp_path / "cvmfs" / REPOSITORY / "root"
    texts = {
        "usr/lib64/libdemo": "", "usr/share/demo": "shared", "usr/lib/demo": "", "opt/demo/file": "",
        "usr/sbin/tool": "", "etc/os-release": "NAME=Demo", "etc/conf.d/one": "one", "etc/hosts": "of the hierarchy",
        "etc/hostname": "of the hierarchy", "etc/resolv.conf": "of the hierarchy", "etc/machinefeatures/trap": "",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\ndemo:x:500:500::/home/demo:/bin/sh", "etc/group": "root:x:0:\n",
        "etc/shadow": "demo:*:::::::\n", "root/.profile": "hidden", "var/spool/mail/box": "mail", "home/demo/file": "",
        "var/www/page": "page", "var/lib/rpm/Packages": "", "opt/work/hidden": "", "var/spool/joboutputs/trap": "",
    }  # fmt: skip
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/shadow").chmod(0)
    (root / "usr/bin").mkdir()
    shutil.copy("/bin/busybox", root / "usr/bin/busybox")
    for command in COMMANDS.split():
        (root / "usr/bin" / command).symlink_to("busybox")
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for path in (root, *root.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)  # as CernVM-FS shows it: the client's account has all files
    return tmp_path / "cvmfs"


class Machines:
    """Containers of the image, started as a factory starts a machine."""

    def __init__(self, lab: Lab, folder: Path, cvmfs: Path) -> None:
        self.lab, self.folder, self.cvmfs = lab, folder, cvmfs
        self.outputs = folder / "joboutputs"
        for name, key in (("machinefeatures", "total_cpu"), ("jobfeatures", "allocated_cpu")):
            (folder / name).mkdir(parents=True)
            (folder / name / key).write_text("2")
        for name in ("joboutputs", "work", "grid"):
            (folder / name).mkdir()
        self.user_data = folder / "user_data"
        self.write(USER_DATA)

    def write(self, text: str) -> None:
        self.user_data.write_text(text)
        self.user_data.chmod(0o700)

    def run(self, *arguments: str, options: t.Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        binds = {
            "machinefeatures": "/etc/machinefeatures:ro", "jobfeatures": "/etc/jobfeatures:ro",
            "joboutputs": "/var/spool/joboutputs", "user_data": "/user_data:ro", "work": "/opt/work",
            "grid": "/etc/grid",
        }  # fmt: skip
        mounts = [f"--volume={self.folder / name}:{path}" for name, path in binds.items()]
        return self.lab.engine.docker(
            "run", "--rm", "--hostname=factory-00.example.org", f"--volume={self.cvmfs}:/cvmfs:ro", *mounts,
            "--cap-drop=ALL", "--cap-add=SETUID", "--cap-add=SETGID", "--security-opt=no-new-privileges",
            f"--env=GRIDBOX_EXPECTED={ROOT}", *options, NAME, *arguments, check=False,
        )  # fmt: skip

    def said(self, name: str) -> str:
        path = self.outputs / name
        return path.read_text() if path.exists() else ""


@pytest.fixture()
def made(lab: Lab) -> t.Iterator[None]:
    lab.module("vacuum_bootstrap_image", **GIVEN)
    yield
    lab.module("vacuum_bootstrap_image", name=NAME, state="absent")


@pytest.fixture()
def machines(lab: Lab, made: None, hierarchy: Path, tmp_path: Path) -> Machines:
    return Machines(lab, tmp_path / "machine", hierarchy)


def world(lab: Lab) -> tuple[set[str], str]:
    """Images with their names, and containers."""
    images = lab.docker("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    return set(images.split("\n")), lab.docker("ps", "--all", "--quiet")


def test_check_mode_predicts_and_changes_nothing(lab: Lab) -> None:
    """The nine-step proof: from nothing to a first image, from that to one of another hierarchy, and to nothing."""
    first = baseline = world(lab)
    for given in (GIVEN, {**GIVEN, "root": f"/cvmfs/{REPOSITORY}/other"}):
        predicted = lab.module("vacuum_bootstrap_image", check=True, **given)
        assert [step["action"] for step in predicted["actions"]] == ["import_image"]
        assert predicted["diff"]["after"] == {"image": NAME, "layer": predicted["layer"]}
        assert predicted["image"] is None
        assert world(lab) == baseline
        done = lab.module("vacuum_bootstrap_image", **given)
        for key in ("actions", "diff", "disruption", "layer"):
            assert done[key] == predicted[key], key
        seen = json.loads(lab.docker("image", "inspect", NAME))[0]
        assert (done["image"]["id"], done["image"]["size"]) == (seen["Id"], seen["Size"])
        assert seen["RootFS"]["Layers"] == [done["layer"]]
        assert seen["Config"]["Entrypoint"] == ["/gridbox/bin/sh", "/init"]
        assert seen["Size"] < 4 << 20
        baseline = world(lab)
        for check in (True, False):
            again = lab.module("vacuum_bootstrap_image", check=check, **given)
            assert (again["changed"], again["actions"], again["image"]) == (False, [], done["image"])
        assert world(lab) == baseline
    predicted = lab.module("vacuum_bootstrap_image", check=True, name=NAME, state="absent")
    assert world(lab) == baseline
    removed = lab.module("vacuum_bootstrap_image", name=NAME, state="absent")  # with the first, which has no name now
    assert len(removed["actions"]) == 2
    assert predicted["actions"] == removed["actions"]
    assert world(lab) == first
    assert not lab.module("vacuum_bootstrap_image", name=NAME, state="absent")["changed"]


@pytest.mark.usefixtures("made")
def test_an_image_with_machines_is_not_removed(lab: Lab) -> None:
    lab.docker("create", "--name", "bootstrapped", NAME)
    before = world(lab)
    for check in (True, False):
        with pytest.raises(ModuleFailed, match=r"containers were made from it: bootstrapped\. Drain the factory"):
            lab.module("vacuum_bootstrap_image", check=check, name=NAME, state="absent")
    assert world(lab) == before
    lab.docker("rm", "bootstrapped")


@pytest.mark.usefixtures("made")
def test_check_mode_foresees_that_the_machines_of_a_factory_will_be_gone(lab: Lab) -> None:
    lab.docker("create", "--name", "machine", "--label", "hep.gridbox.factory=wn001.example.org", NAME)
    absent = {"name": NAME, "state": "absent"}
    leaving = {**absent, "leaving_factory": "wn001.example.org"}
    foreseen = lab.module("vacuum_bootstrap_image", check=True, **leaving)
    for check, given in ((True, absent), (True, {**absent, "leaving_factory": "wn002.example.org"}), (False, leaving)):
        with pytest.raises(ModuleFailed, match=r"containers were made from it: machine\. Drain the factory"):
            lab.module("vacuum_bootstrap_image", check=check, **given)
    lab.docker("rm", "machine")
    assert foreseen["actions"] == lab.module("vacuum_bootstrap_image", **absent)["actions"]


@pytest.mark.usefixtures("made")
def test_an_import_that_breaks_off_leaves_the_image_as_it_was(lab: Lab) -> None:
    """As when the module is killed: the engine sees the end of the stream before that of the layer."""

    def broken() -> t.Iterator[bytes]:
        yield layer(b"other", SCRIPT, ROOT)[:-20000]
        raise GridboxError("killed")

    before = world(lab)
    with pytest.raises(GridboxError, match="killed"):
        DockerApi(lab.engine.url, 60).import_layer(NAME, broken())
    assert world(lab) == before
    assert not lab.module("vacuum_bootstrap_image", **GIVEN)["changed"]


@pytest.mark.usefixtures("made")
def test_a_busybox_that_is_none_is_refused_before_anything_is_made(lab: Lab, tmp_path: Path) -> None:
    before = world(lab)
    for path, words in ((tmp_path / "none", "cannot be read"), (Path("/bin/ls"), "does not run without libraries")):
        with pytest.raises(ModuleFailed, match=words):
            lab.module("vacuum_bootstrap_image", check=True, busybox=str(path), **GIVEN)
    assert world(lab) == before


@pytest.mark.parametrize("options", [(), ("--init",)], ids=["bare", "init"])
def test_a_machine_has_its_files_its_accounts_and_its_contract(machines: Machines, options: tuple[str, ...]) -> None:
    done = machines.run(options=options)
    assert done.returncode == 0, machines.said("log") + done.stderr
    assert machines.said("shutdown_message") == "200 Success"
    assert machines.said("arguments") == "\n"
    assert sorted(os.listdir(machines.outputs)) == ["arguments", "log", "shutdown_message"]
    assert os.listdir(machines.folder / "work") == os.listdir(machines.folder / "grid") == ["mine"]
    # The only thing that could not be copied is what root may not read.
    assert [line for line in done.stderr.splitlines() if "shadow" not in line] == []


def test_it_runs_its_arguments_and_itself_if_they_name_it(machines: Machines) -> None:
    for arguments, expected in ((("/user_data", "a b", "c"), "a b c\n"), (("/init",), "\n")):
        done = machines.run(*arguments)
        assert done.returncode == 0, machines.said("log") + done.stderr
        assert machines.said("arguments") == expected
    assert machines.run("cat", "/usr/share/demo").stdout == "shared"
    assert machines.run("sh", "-c", "exit 7").returncode == 7


def test_a_container_that_is_started_again_has_its_files(machines: Machines) -> None:
    machines.write("#!/bin/sh\ncat /etc/mine 2>/dev/null; echo here >/etc/mine\n")
    lab = machines.lab
    lab.docker(
        "create", "--name", "again", f"--volume={machines.cvmfs}:/cvmfs:ro",
        f"--volume={machines.user_data}:/user_data:ro", NAME,
    )  # fmt: skip
    try:
        assert [lab.docker("start", "--attach", "again") for _turn in range(2)] == ["", "here\n"]
        assert "shadow" in lab.docker("diff", "again")
    finally:
        lab.docker("rm", "again")


def test_the_environment_names_another_hierarchy(machines: Machines) -> None:
    shutil.copytree(machines.cvmfs / REPOSITORY / "root", machines.cvmfs / REPOSITORY / "newer", symlinks=True)
    (machines.cvmfs / REPOSITORY / "newer/usr/share/demo").write_text("newer")
    named = f"--env=GRIDBOX_ROOT=/cvmfs/{REPOSITORY}/newer"
    assert machines.run("cat", "/usr/share/demo", options=[named]).stdout == "newer"


def test_without_the_hierarchy_the_site_is_to_blame(machines: Machines) -> None:
    done = machines.run(options=["--env=GRIDBOX_ROOT=/cvmfs/none.example.org/root"])
    sentence = "The hierarchy /cvmfs/none.example.org/root, of which this machine is to be made, is not there."
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{sentence}\n")
    assert machines.said("shutdown_message") == f"500 {sentence}"


def test_what_cannot_be_run_leaves_a_message(machines: Machines) -> None:
    machines.write("#!/no/such/shell\n")
    assert machines.run().returncode == 1
    assert machines.said("shutdown_message") == "500 /user_data cannot be run in this machine."


def test_on_podman(podman: PodmanService, hierarchy: Path) -> None:
    """What Podman calls the layer and keeps of its configuration is what the module compares."""

    def module(**arguments: t.Any) -> dict[str, t.Any]:
        return run_module("vacuum_bootstrap_image", {"engine_url": podman.url, **arguments}, netns=podman.netns)

    made = module(**GIVEN)
    try:
        assert [step["action"] for step in made["actions"]] == ["import_image"]
        assert not module(**GIVEN)["changed"]
        argv = ["run", "--rm", "--network=none", f"--volume={hierarchy}:/cvmfs:ro", NAME, "cat", "/usr/share/demo"]
        assert podman.podman(*argv).stdout == "shared"
        module(**{**GIVEN, "root": f"/cvmfs/{REPOSITORY}/other"})
    finally:
        removed = module(name=NAME, state="absent")
    assert [step["action"] for step in removed["actions"]] == ["remove_image"] * 2
    assert NAME not in podman.podman("images", "--all", "--format", "{{.Repository}}:{{.Tag}}").stdout

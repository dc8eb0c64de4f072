# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_packages with rpm and dnf, which are packages of Debian too: the EL family's way, on a data base of its own.

It all happens in a mount namespace in which there is no apt-get, and in which /etc and /var are overlays. The packages
have no files, so nothing else of the machine could be touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.host.record import record_file
from tests.lab.modules import start_module

if os.geteuid() != 0:
    pytest.skip("needs root: a mount namespace", allow_module_level=True)
MISSING = [name for name in ("dnf", "rpm", "rpmbuild", "createrepo_c") if shutil.which(name) is None]
if MISSING:
    pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)

#: Prepares the namespace, says so, and keeps it: /dev/null cannot be run, so it hides a program.
HOLD = """
set -e
mkdir "$1"
mount -t tmpfs none "$1"
for folder in etc var; do
    mkdir "$1/$folder" "$1/$folder.work"
    mount -t overlay none -o "lowerdir=/$folder,upperdir=$1/$folder,workdir=$1/$folder.work" "/$folder"
done
mount --bind /dev/null /usr/bin/apt-get
mkdir "$1/home"
echo ready
exec sleep infinity
"""

SPEC = """
Name: {name}
Version: {version}
Release: 1
Summary: A package for a test, without files
License: GPL
BuildArch: noarch
{more}
%description
None.
%files
"""


class Host:
    """A host of the EL family, as far as packages go."""

    def __init__(self, holder: int, folder: Path) -> None:
        # Debian's rpm has its data base in the home folder.
        self._inside = ["nsenter", f"--mount=/proc/{holder}/ns/mnt", "env", f"HOME={folder}/home"]

    def run(self, *argv: str) -> str:
        done = subprocess.run([*self._inside, *argv], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def packages(self, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        """Run the module; what it said, also when it failed."""
        process = start_module("host_packages", {"record": "r", **options}, check=check, inside=self._inside)
        printed, errors = process.communicate(timeout=120)
        assert printed, errors
        return t.cast("dict[str, t.Any]", json.loads(printed))

    def installed(self) -> list[str]:
        return sorted(self.run("rpm", "-qa", "--qf", "%{NAME}\\n").split())


def build(folder: Path, name: str, version: str = "1", more: str = "") -> None:
    """Put a package into ``folder``/noarch."""
    spec = folder / f"{name}-{version}.spec"
    spec.write_text(SPEC.format(name=name, version=version, more=more))
    top = folder / "build"
    argv = ["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {top}", "--define", f"_rpmdir {folder}", str(spec)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60, env={**os.environ, "HOME": str(folder)})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, with three packages of which each needs the one before; and the folders ``keys`` and ``newer``."""
    folder = tmp_path_factory.mktemp("rpm")
    build(folder, "gridbox-library")
    build(folder, "gridbox-tool", more="Requires: gridbox-library")
    build(folder, "gridbox-other", more="Requires: gridbox-tool")
    subprocess.run(["createrepo_c", "--quiet", str(folder / "noarch")], check=True, timeout=60)
    # As rpm lists the keys that it was given: all of one name, each of another version.
    (folder / "keys").mkdir()
    (folder / "newer").mkdir()
    for version in ("1", "2"):
        build(folder / "keys", "gpg-pubkey", version)
    return folder


@pytest.fixture()
def host(built: Path, tmp_path: Path) -> t.Iterator[Host]:
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD, "hold", str(tmp_path / "over")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            made = Host(holder.pid, tmp_path / "over")
            repository = f"[main]\ngpgcheck=0\n[lab]\nname=lab\nbaseurl=file://{built}/noarch\n"
            made.run("mkdir", "-p", "/etc/dnf")
            made.run("sh", "-c", 'printf %s "$1" > /etc/dnf/dnf.conf', "sh", repository)
            yield made
        finally:
            holder.send_signal(signal.SIGKILL)


def test_packages_come_as_foreseen_and_go_again(host: Host) -> None:
    foreseen = host.packages(names=["gridbox-tool"], check=True)
    assert host.installed() == []
    done = host.packages(names=["gridbox-tool"])
    assert foreseen["actions"] == done["actions"]
    assert [step["action"] for step in done["actions"]] == ["install_packages"], done
    assert host.installed() == ["gridbox-library", "gridbox-tool"]
    assert done["recorded"] == ["gridbox-library", "gridbox-tool"]
    again = host.packages(names=["gridbox-tool"])
    assert again["changed"] is False
    foreseen = host.packages(state="absent", check=True)
    assert host.installed() == ["gridbox-library", "gridbox-tool"]
    removed = host.packages(state="absent")
    assert foreseen["actions"] == removed["actions"]
    assert host.installed() == []


@pytest.mark.parametrize("check", [True, False])
def test_a_package_that_is_not_to_be_had_is_named(host: Host, check: bool) -> None:
    failed = host.packages(names=["gridbox-nowhere"], check=check)
    assert failed["failed"] and failed["changed"] is False
    assert failed["msg"].startswith("Installing gridbox-nowhere would fail. dnf says: ")
    assert "Unable to find a match: gridbox-nowhere" in failed["msg"]


def test_what_others_need_by_now_stays(host: Host) -> None:
    host.packages(names=["gridbox-tool"])
    host.run("dnf", "-q", "-y", "install", "gridbox-other")
    for check in (True, False):
        refused = host.packages(state="absent", check=check)
        assert refused["failed"] and refused["changed"] is False
        assert "by now others need them: gridbox-other-1-1.noarch" in refused["msg"]
    assert host.installed() == ["gridbox-library", "gridbox-other", "gridbox-tool"]


def test_of_what_there_are_several_versions_by_now_all_go(host: Host, built: Path) -> None:
    """As of kernel-modules-extra, which comes anew with each kernel, beside the one before."""
    host.packages(names=["gridbox-tool"])
    build(built / "newer", "gridbox-tool", "2", more="Requires: gridbox-library")
    host.run("rpm", "-i", "--force-debian", str(built / "newer/noarch/gridbox-tool-2-1.noarch.rpm"))
    assert host.installed() == ["gridbox-library", "gridbox-tool", "gridbox-tool"]
    foreseen = host.packages(state="absent", check=True)
    removed = host.packages(state="absent")
    assert foreseen["actions"] == removed["actions"]
    assert removed.get("msg", "") == "" and host.installed() == []


def test_the_keys_that_rpm_trusts_are_no_packages(host: Host, built: Path) -> None:
    """dnf imports those of the repositories that it installs from; rpm removes none of several by their name."""
    host.packages(names=["gridbox-tool"])
    keys = [str(path) for path in sorted((built / "keys/noarch").iterdir())]
    host.run("rpm", "-i", "--force-debian", *keys)
    record = json.loads(host.run("cat", record_file("r")))
    # As one has it that was written when keys were taken for packages.
    text = json.dumps({**record, "packages": [*record["packages"], "gpg-pubkey"]})
    host.run("sh", "-c", 'printf %s "$1" > "$2"', "sh", text, record_file("r"))
    assert host.packages(state="absent").get("msg", "") == ""
    assert host.installed() == ["gpg-pubkey", "gpg-pubkey"]


def test_what_rpm_says_is_handed_on(host: Host) -> None:
    """A package that goes between the look and the removal, say."""
    code = (
        "from ansible_collections.hep.gridbox.plugins.module_utils.host import packages\n"
        "wish = packages.Wish('r', (), True, 0, 60)\n"
        "print(packages.Dnf(wish).preview_remove(['gridbox-gone']))\n"
    )
    with pytest.raises(AssertionError, match=r"Removing gridbox-gone would fail\. rpm says: .* is not installed"):
        host.run(sys.executable, "-c", code)

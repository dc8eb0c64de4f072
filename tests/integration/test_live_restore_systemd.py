# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""live_restore where systemd runs the daemon: socket activation, and the KillMode of the units it depends on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.lab.hosts import Machine, key, ssh_options
from tests.lab.image import busybox_tar


@pytest.fixture(scope="module")
def machine() -> t.Iterator[Machine]:
    """A machine with Debian's docker.io and containerd, their units as they come, and a container."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces and cgroups")
    made = Machine(f"gbt{os.getpid()}-systemd")
    made.start(name="engine")
    made.feed(busybox_tar(), "docker", "import", "-", "busybox:test")
    made.run("docker", "run", "--detach", "--name", "vobox1", "--network", "none", "busybox:test", "sleep", "99999")
    yield made
    made.stop()


def _live_restore(machine: Machine, folder: Path, *tasks: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """Run the module, with these options, one after the other; what each said."""
    results = folder / "results"
    steps: list[dict[str, t.Any]] = []
    for number, options in enumerate(tasks):
        check = options.pop("check", False)
        name = f"result{number}"
        steps.append({"hep.gridbox.live_restore": options, "register": name, "failed_when": False, "check_mode": check})
    content = "{{ [" + ", ".join(f"result{number}" for number in range(len(tasks))) + "] | to_json }}"
    copy = {"content": content, "dest": str(results)}
    steps.append({"ansible.builtin.copy": copy, "delegate_to": "localhost"})
    play = [{"hosts": "all", "gather_facts": False, "tasks": steps}]
    (folder / "play.yml").write_text(yaml.safe_dump(play))
    (folder / "inventory").write_text(
        f"{machine.name} ansible_user=root ansible_python_interpreter=/usr/bin/python3"
        f" ansible_ssh_private_key_file={key()} ansible_ssh_common_args={shlex.quote(shlex.join(ssh_options()))}\n"
        f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "-l", machine.name, "play.yml"],
        cwd=folder, capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "ANSIBLE_PIPELINING": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return t.cast("list[dict[str, t.Any]]", json.loads(results.read_text()))


def _drop_in(machine: Machine, unit: str, kill_mode: str | None) -> None:
    folder = f"/etc/systemd/system/{unit}.d"
    if kill_mode:
        machine.run("mkdir", "-p", folder)
        machine.feed(f"[Service]\nKillMode={kill_mode}\n".encode(), "tee", f"{folder}/kill.conf")
    else:
        machine.run("rm", "-r", folder)
    machine.run("systemctl", "daemon-reload")


def _process(machine: Machine) -> str:
    pid = machine.run("docker", "inspect", "--format", "{{.State.Pid}}", "vobox1").stdout.strip()
    return pid + " " + machine.run("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()[19]


def test_socket_activation_and_the_units_as_they_come(machine: Machine, tmp_path: Path) -> None:
    before = _process(machine)
    main_pid = int(machine.run("systemctl", "show", "--property", "MainPID", "--value", "docker.service").stdout)
    predicted, done, again, wrong, missing = _live_restore(
        machine, tmp_path, {"check": True}, {}, {"unit": "docker.service"}, {"unit": "containerd.service"},
        {"unit": "dokcer.service"},
    )  # fmt: skip
    assert predicted["changed"] and done["changed"] and not again["changed"], done
    assert predicted["actions"] == done["actions"]
    assert done["daemon_pid"] == main_pid  # and not systemd, which listens on the socket
    assert done["kill_mode"] == "process"
    assert [process["kept"] for process in done["processes"]] == [True]
    assert "unit: containerd.service: it runs process" in wrong["msg"]
    assert missing["msg"] == "unit: dokcer.service: systemd knows no such unit. Correct the option, or leave it out."
    assert machine.run("docker", "info", "--format", "{{.LiveRestoreEnabled}}").stdout == "true\n"
    machine.run("systemctl", "restart", "docker.service")
    assert _process(machine) == before


def test_a_unit_that_would_kill_the_shims_is_refused(machine: Machine, tmp_path: Path) -> None:
    _drop_in(machine, "containerd.service", "control-group")
    try:
        refusals = _live_restore(machine, tmp_path, {"check": True}, {}, {"state": "absent", "check": True})
        for refusal in refusals[:2]:
            assert refusal["msg"] == (
                "state: present: containerd.service has KillMode=control-group and holds containerd and the shim of 1"
                " container, which systemd kills with it; set KillMode=process in the [Service] section of a drop-in"
                " (systemctl edit containerd.service). Then run systemctl daemon-reload; it restarts nothing."
            )
        assert refusals[2]["changed"]  # taking it back is never refused for that
    finally:
        _drop_in(machine, "containerd.service", None)


def test_the_daemons_own_unit_matters_only_if_it_holds_the_shims(machine: Machine, tmp_path: Path) -> None:
    """With a containerd of its own unit the containers outlive the daemon whatever the KillMode of docker.service."""
    before = _process(machine)
    _drop_in(machine, "docker.service", "control-group")
    try:
        [done] = _live_restore(machine, tmp_path, {})
        assert (done["enabled"], done["kill_mode"]) == (True, "control-group"), done
        machine.run("systemctl", "stop", "docker.socket", "docker.service")
        assert machine.run("cat", f"/proc/{before.split()[0]}/comm").stdout == "sleep\n"
        machine.run("systemctl", "start", "docker.service")
        assert _process(machine) == before
    finally:
        _drop_in(machine, "docker.service", None)

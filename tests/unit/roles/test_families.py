# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles choose on each distribution, from the facts they use, in the form in which Ansible gives them.

The roles' own expressions are evaluated by Ansible's own templating, over the facts of ``facts.json``: what Ansible's
module ``setup`` says where the release files in /etc are those of the distribution; and the distribution's Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[3] / "roles"
#: Of each host: distribution, its version and major version, the family, and the interpreter that Ansible finds there.
FACTS: dict[str, list[str]] = json.loads(Path(__file__).with_name("facts.json").read_text())
REFUSED = [host for host in FACTS if host.startswith("refused ")]
HOSTS = [host for host in FACTS if host not in REFUSED]
EL = [host for host in HOSTS if FACTS[host][3] == "RedHat"]
UBUNTU = [host for host in HOSTS if FACTS[host][0] == "Ubuntu"]
#: The roles that know distributions. The role vobox does not: it works wherever there is an engine.
KNOWING = ("cvmfs", "docker_engine", "host_hardening", "vacuum_factory")


def facts(host: str) -> dict[str, t.Any]:
    distribution, version, major, family, python = FACTS[host]
    return {
        "distribution": distribution, "distribution_version": version, "distribution_major_version": major,
        "os_family": family, "python": {"executable": python},
    }  # fmt: skip


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return value


def distribution_task(role: str, module: str) -> dict[str, t.Any]:
    """The one task of the role's ``distribution.yml`` that uses this module."""
    tasks = yaml.safe_load((ROLES / role / "tasks/distribution.yml").read_text())
    (found,) = [task for task in tasks if f"ansible.builtin.{module}" in task]
    return t.cast("dict[str, t.Any]", found)


def render(expression: t.Any, **variables: t.Any) -> t.Any:
    return Templar(DataLoader(), variables=variables).template(trusted(expression))


def vars_file(role: str, host: str) -> Path:
    """The file that the role's own first_found chooses. A role that knows no distributions has only one."""
    if role not in KNOWING:
        return ROLES / role / "vars/main.yml"
    (candidates,) = distribution_task(role, "include_vars")["vars"].values()
    names: list[str] = render(candidates["files"], ansible_facts=facts(host))
    return next(path for path in (ROLES / role / "vars" / name for name in names) if path.exists())


def evaluate(role: str, host: str, name: str, **given: t.Any) -> t.Any:
    """A variable of a role as it comes out on a host."""
    variables: dict[str, t.Any] = {"ansible_facts": facts(host)}
    for path in (ROLES / role / "defaults/main.yml", ROLES / role / "vars/main.yml", vars_file(role, host)):
        variables.update(trusted(yaml.safe_load(path.read_text())))
    variables.update(given)
    return Templar(DataLoader(), variables=variables).template(variables[name])


def supported(role: str, host: str) -> bool:
    task = distribution_task(role, "assert")
    condition = "{{ " + task["ansible.builtin.assert"]["that"].strip() + " }}"
    return t.cast("bool", render(condition, ansible_facts=facts(host), **task["vars"]))


@pytest.mark.parametrize("role", KNOWING)
@pytest.mark.parametrize("host", HOSTS)
def test_what_is_supported_is_taken(role: str, host: str) -> None:
    assert supported(role, host)
    assert vars_file(role, host).name != "main.yml"


@pytest.mark.parametrize("role", KNOWING)
@pytest.mark.parametrize("host", REFUSED)
def test_what_is_not_supported_is_refused_in_a_sentence(role: str, host: str) -> None:
    assert not supported(role, host)
    task = distribution_task(role, "assert")
    sentence = render(task["ansible.builtin.assert"]["fail_msg"], ansible_facts=facts(host), **task["vars"])
    distribution, version = FACTS[host][:2]
    assert sentence.startswith(
        f"This host runs {distribution} {version}, expected one of Debian 12, Ubuntu 22.04, Alma"
    )


@pytest.mark.parametrize("role", KNOWING)
def test_a_distribution_is_checked_before_the_role_asks_the_host_for_anything_but_facts(role: str) -> None:
    tasks = yaml.safe_load((ROLES / role / "tasks/validate.yml").read_text())
    at = [task.get("ansible.builtin.import_tasks") for task in tasks].index("distribution.yml")
    reading = {"ansible.builtin.setup", "ansible.builtin.stat", "ansible.builtin.slurp"}
    assert all(reading & set(task) for task in tasks[:at])
    first = yaml.safe_load((ROLES / role / "tasks/main.yml").read_text())[0]
    assert first["ansible.builtin.import_tasks"] == "validate.yml"


def test_all_roles_take_the_same_distributions() -> None:
    files = {(ROLES / role / "tasks/distribution.yml").read_text().replace(role, "ROLE") for role in KNOWING}
    assert len(files) == 1
    oldest = next(iter(distribution_task("cvmfs", "assert")["vars"].values()))
    assert {FACTS[host][0] for host in HOSTS} == set(oldest)


@pytest.mark.parametrize("role", KNOWING)
def test_every_distribution_sets_the_same_variables(role: str) -> None:
    files = [path for path in (ROLES / role / "vars").glob("*.yml") if path.name != "main.yml"]
    names = {path.name: sorted(yaml.safe_load(path.read_text())) for path in files}
    assert len(names) > 1
    assert len({tuple(one) for one in names.values()}) == 1, names
    chosen = {vars_file(role, host) for host in HOSTS}
    assert chosen == set(files), "a file that no distribution chooses"


def bare(missing: list[str]) -> dict[str, t.Any]:
    """What the role's own looks at a bare host give."""
    return {
        "__docker_engine_programs": {"files": []},
        "__docker_engine_python": {"stdout": json.dumps({"own": False, "missing": missing})},
        "__docker_engine_systemd": {"stat": {"exists": True}},
        "__docker_engine_addrtype": {"rc": 0},
    }


@pytest.mark.parametrize(
    ("host", "engine"),
    [
        ("debian12", ["docker.io", "iptables"]),
        ("debian13", ["docker.io", "docker-cli", "iptables"]),
        ("debian_sid", ["docker.io", "docker-cli", "iptables"]),
        *((host, ["docker.io", "iptables"]) for host in UBUNTU),
        *((host, ["docker-ce", "docker-ce-cli", "containerd.io"]) for host in EL),
    ],
)
def test_the_engine_comes_from_the_familys_packages(host: str, engine: list[str]) -> None:
    given = bare(["docker", "pyroute2"])
    assert evaluate("docker_engine", host, "__docker_engine_missing_packages", **given) == [
        *engine,
        "python3-docker",
        "python3-pyroute2",
    ]


def python_answer(python: str, executable: str = "") -> dict[str, t.Any]:
    """What an interpreter says to the role's question; ``executable``: what it takes itself for."""
    question = yaml.safe_load((ROLES / "docker_engine/vars/main.yml").read_text())["__docker_engine_python_question"]
    code = f"import sys\nsys.executable = {executable!r} or sys.executable\n{question}"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a distribution's Python")
@pytest.mark.parametrize(
    ("executable", "own"),
    [
        ("", False),
        ("/usr/bin/python3", False),
        (str(Path("/usr/bin/python3").resolve()), False),
        ("/usr/bin/python3.99", True),
        ("/usr/local/bin/python3", True),
    ],
)
def test_the_distributions_packages_are_for_one_interpreter_alone(executable: str, own: bool) -> None:
    """EL 9 has a newer one beside it, as /usr/bin/python3.12, and Ansible takes that."""
    assert python_answer("/usr/bin/python3", executable)["own"] == own


@pytest.mark.parametrize(("missing", "fine"), [([], True), (["pyroute2"], False), (["docker", "pyroute2"], False)])
def test_libraries_that_came_for_another_interpreter_are_found_at_once(missing: list[str], fine: bool) -> None:
    """Whose /usr/bin/python3 is not the distribution's any more."""
    tasks = yaml.safe_load((ROLES / "docker_engine/tasks/install.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == "Check that the interpreter has the libraries now"]
    variables = {
        "ansible_facts": facts("alma9"),
        "__docker_engine_python_then": {"stdout": json.dumps({"own": False, "missing": missing})},
        "__docker_engine_python_packages": {"docker": "python3-docker", "pyroute2": "python3-pyroute2"},
    }
    variables["__docker_engine_lacks"] = render(task["vars"]["__docker_engine_lacks"], **variables)
    said = task["ansible.builtin.assert"]
    assert render("{{ " + said["that"] + " }}", **variables) == fine
    if missing == ["pyroute2"]:
        sentence = render(said["fail_msg"], **variables)
        assert "python3-pyroute2 from the distribution is installed, but /usr/bin/python3.9 cannot" in sentence


def test_a_virtual_environment_is_an_interpreter_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=60)
    assert python_answer(str(tmp_path / "env/bin/python"))["own"] is True


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_there_is_not_installed_again(host: str) -> None:
    given = bare([])
    given["__docker_engine_programs"] = {"files": [{"path": "/usr/sbin/dockerd"}]}
    assert evaluate("docker_engine", host, "__docker_engine_missing_packages", **given) == []


@pytest.mark.parametrize("status", ["enabled", "disabled"])
def test_what_loads_apparmors_profiles_comes_where_the_kernel_wants_it(status: str) -> None:
    """Without it dockerd starts no container there, and its package only recommends it."""
    given = bare([])
    given["ansible_facts"] = {**facts("debian12"), "apparmor": {"status": status}}
    packages = evaluate("docker_engine", "debian12", "__docker_engine_missing_packages", **given)
    assert ("apparmor" in packages) == (status == "enabled")
    given["__docker_engine_programs"] = {"files": [{"path": "/usr/sbin/apparmor_parser"}]}
    assert "apparmor" not in evaluate("docker_engine", "debian12", "__docker_engine_missing_packages", **given)


@pytest.mark.parametrize("host", HOSTS)
def test_the_module_for_the_engines_rules_comes_where_the_kernel_lacks_it(host: str) -> None:
    """From EL 10 on nothing but a weak dependency brings it. EL 9 and Debian have it with the kernel."""
    given = {**bare([]), "__docker_engine_addrtype": {"rc": 1}}
    packages = evaluate("docker_engine", host, "__docker_engine_missing_packages", **given)
    assert ("kernel-modules-extra" in packages) == (host in EL and FACTS[host][2] == "10")
    for unneeded in (
        {"__docker_engine_addrtype": {"rc": 0}}, {"docker_engine_config": {"iptables": False}},
        {"__docker_engine_preflight": {"config": {"iptables": False}}},
        {"__docker_engine_preflight": {"config": {"firewall-backend": "nftables"}}},
    ):  # fmt: skip
        packages = evaluate("docker_engine", host, "__docker_engine_missing_packages", **{**given, **unneeded})
        assert "kernel-modules-extra" not in packages


@pytest.mark.parametrize("host", HOSTS)
def test_the_supervisor_is_what_runs_as_pid_1(host: str) -> None:
    for exists, supervisor in ((True, "systemd"), (False, "none")):
        given: dict[str, t.Any] = {"__docker_engine_systemd": {"stat": {"exists": exists}}}
        assert evaluate("docker_engine", host, "__docker_engine_supervisor", **given) == supervisor
        given["docker_engine_supervisor"] = "none"
        assert evaluate("docker_engine", host, "__docker_engine_supervisor", **given) == "none"


def test_engines_of_one_host_have_records_of_their_own() -> None:
    names = {
        evaluate("docker_engine", "debian12", "__docker_engine_record_name", docker_engine_pidfile=pidfile)
        for pidfile in ("/var/run/docker.pid", "/run/a.pid", "/run/b.pid")
    }
    assert len(names) == 3
    assert "docker_engine" in names


def test_the_root_folder_of_a_socket_is_never_recorded() -> None:
    paths = evaluate("docker_engine", "debian12", "__docker_engine_paths", docker_engine_socket="/run/docker.sock")
    assert "/run" not in paths
    assert "/run/docker.sock" in paths


@pytest.mark.parametrize(
    ("packages", "units"),
    [
        (["docker-ce", "docker-ce-cli"], ["docker.socket", "docker.service"]),
        (["docker-ce", "docker-ce-cli", "containerd.io"], ["docker.socket", "docker.service", "containerd.service"]),
        (["docker.io", "containerd", "runc"], ["docker.socket", "docker.service", "containerd.service"]),
        ([], ["docker.socket", "docker.service"]),
    ],
)
def test_a_containerd_that_was_there_before_the_role_is_not_stopped(packages: list[str], units: list[str]) -> None:
    record = {"packages": packages, "installing": []}
    assert evaluate("docker_engine", "alma9", "__docker_engine_units", __docker_engine_record=record) == units


@pytest.mark.parametrize("allowed", ["never", "when_live_restore", "always"])
@pytest.mark.parametrize("live_restore", [True, False])
@pytest.mark.parametrize("needed", [[], ["a key was changed"]])
def test_a_restart_takes_a_need_and_a_permission(allowed: str, live_restore: bool, needed: list[str]) -> None:
    now = evaluate(
        "docker_engine",
        "debian12",
        "__docker_engine_restart_now",
        docker_engine_restart=allowed,
        docker_engine_restart_needed=needed,
        ansible_check_mode=False,
        __docker_engine_info={"live_restore": live_restore},
    )
    assert now == (bool(needed) and (allowed == "always" or (allowed == "when_live_restore" and live_restore)))


@pytest.mark.parametrize(("host", "package"), [(host, "fuse" if host in EL else "fuse3") for host in HOSTS])
def test_a_squashfs_without_the_kernels_help_takes_squashfuse(host: str, package: str) -> None:
    given: dict[str, t.Any] = {
        "cvmfs_repositories": [{"repository": "a.example.org", "source": "squashfs", "path": "/srv/a"}],
        "__cvmfs_loop": {"stat": {"exists": False}},
        "__cvmfs_kinds": {"content": ""},
    }
    assert evaluate("cvmfs", host, "__cvmfs_missing_packages", **given) == ["squashfuse", package]
    given["cvmfs_squashfs_driver"] = "kernel"
    assert evaluate("cvmfs", host, "__cvmfs_missing_packages", **given) == []


@pytest.mark.parametrize("host", HOSTS)
def test_the_clients_parameters(host: str) -> None:
    settings = evaluate(
        "cvmfs",
        host,
        "__cvmfs_settings",
        cvmfs_repositories=[
            {"repository": "alice.cern.ch"},
            {"repository": "b.example.org", "source": "directory", "path": "/srv/b"},
            {"repository": "cms.cern.ch", "source": "client"},
        ],
        cvmfs_http_proxies=["http://squid1:3128|http://squid2:3128", "DIRECT"],
        cvmfs_client_settings={"CVMFS_USE_GEOAPI": "no"},
    )
    assert settings == {
        "CVMFS_HTTP_PROXY": "http://squid1:3128|http://squid2:3128;DIRECT",
        "CVMFS_QUOTA_LIMIT": 4000,
        "CVMFS_CACHE_BASE": "/var/lib/cvmfs",
        "CVMFS_NFILES": 131072,
        "CVMFS_REPOSITORIES": "alice.cern.ch,cms.cern.ch",
        "CVMFS_USE_GEOAPI": "no",
    }


@pytest.mark.parametrize("host", HOSTS)
def test_chrony_is_called_what_the_family_calls_it(host: str) -> None:
    service, config = ("chronyd.service", "/etc/chrony.conf") if host in EL else ("chrony.service", "")
    assert evaluate("host_hardening", host, "__host_hardening_chrony_service") == service
    assert evaluate("host_hardening", host, "__host_hardening_chrony_config") == config


def test_a_line_in_chronys_own_file_is_taken_out_again() -> None:
    """The EL family has chrony from the start, so its file stays when the role goes."""

    def lines(tasks: t.Any) -> list[tuple[str, str]]:
        flat = [inner for task in tasks for inner in task.get("block", [task])]
        found = [task["ansible.builtin.lineinfile"] for task in flat if "ansible.builtin.lineinfile" in task]
        return [(one["path"], one["line"]) for one in found]

    written, removed = (
        yaml.safe_load((ROLES / "host_hardening/tasks" / f"{name}.yml").read_text()) for name in ("configure", "remove")
    )
    assert lines(removed) == lines(written) != []


@pytest.mark.parametrize(("switch", "on"), [(True, True), (False, False), ("the site has ntpd", False)])
def test_a_control_is_off_when_its_switch_is_false_or_a_reason(switch: t.Any, on: bool) -> None:
    value = evaluate(
        "host_hardening", "debian12", "__host_hardening_time", host_hardening_controls={"time_sync": switch}
    )
    assert value is on


SERVICES = [{"name": "web", "port": 80}, {"name": "monitoring", "port": 8884, "protocol": "udp"}]
VOBOX = {"name": "alice", "fqdn": "vobox1.example.org", "ipv4": "192.0.2.31", "ipv6": "2001:DB8::31"}


def of_a_vobox(name: str, **given: t.Any) -> t.Any:
    about: dict[str, t.Any] = {"vobox_item": VOBOX, "vobox_list": [VOBOX], "vobox_services": SERVICES}
    return evaluate("vobox", "debian12", name, __vobox_services=SERVICES, **about, **given)


def test_only_ports_of_tcp_are_given_to_the_images_health_check() -> None:
    assert of_a_vobox("__vobox_health")["test"] == ["/usr/local/bin/vobox-health", "80"]
    assert of_a_vobox("__vobox_exposed") == ["80", "8884/udp"]


def answers(*addresses: str) -> dict[str, t.Any]:
    """What service_probe says, with addresses in their canonical form."""
    return {
        "services": [{"name": "alice web", "address": one, "port": 80, "up": True, "seen": ""} for one in addresses]
    }


def of_the_host(up: bool) -> dict[str, t.Any]:
    """What vobox_info says."""
    return {"services": [{"name": "web", "port": 80, "protocol": "tcp", "up": up},
                         {"name": "monitoring", "port": 8884, "protocol": "udp", "up": up}]}  # fmt: skip


@pytest.mark.parametrize(
    ("probed", "found", "states"),
    [
        (answers("192.0.2.31", "2001:db8::31"), of_the_host(True), [(80, True), (80, True), (8884, True)]),
        (answers("192.0.2.31", "2001:db8::31"), of_the_host(False), [(80, True), (80, True), (8884, False)]),
        ({"skipped": True}, of_the_host(True), [(80, True), (8884, True)]),
        ({"skipped": True}, {}, [(80, False), (8884, False)]),
        # Brought up before the inventory got its services.
        (answers("192.0.2.31"), {"services": []}, [(80, True), (8884, False)]),
    ],
)
def test_the_status_counts_every_declared_service(
    probed: dict[str, t.Any], found: dict[str, t.Any], states: list[tuple[int, bool]]
) -> None:
    rows = of_a_vobox("__vobox_service_states", __vobox_probed=probed, __vobox_found=found)
    assert [(row["port"], row["up"]) for row in rows] == states


#: Directives for which systemd gives a unit a mount namespace of its own (systemd.exec(5)).
NAMESPACES = (
    "BindPaths BindReadOnlyPaths DynamicUser ExecPaths InaccessiblePaths MountFlags NoExecPaths PrivateDevices"
    " PrivateIPC PrivateMounts PrivateTmp PrivateUsers ProcSubset ProtectControlGroups ProtectHome ProtectKernelLogs"
    " ProtectKernelModules ProtectKernelTunables ProtectProc ProtectSystem ReadOnlyPaths ReadWritePaths RootDirectory"
    " RootImage TemporaryFileSystem"
).split()


def test_a_factory_is_started_again_however_it_has_ended() -> None:
    """HUP and TERM are clean ends to systemd, whoever has sent them. One that is refused is tried with a pause."""
    unit = (ROLES / "vacuum_factory/templates/gridbox-factory.service.j2").read_text().splitlines()
    assert {"Restart=always", "RestartSec=15", "StartLimitIntervalSec=0"} <= set(unit)


def test_the_factorys_mounts_are_seen_by_the_engine() -> None:
    unit = (ROLES / "vacuum_factory/templates/gridbox-factory.service.j2").read_text()
    directives = {line.partition("=")[0] for line in unit.splitlines() if "=" in line and not line.startswith("#")}
    assert "NoNewPrivileges" in directives
    assert not directives & set(NAMESPACES)


def test_the_factory_may_have_wide_buffers() -> None:
    """SO_RCVBUFFORCE (socket(7)): without the capability a poll of a large space takes the host's small limit."""
    unit = (ROLES / "vacuum_factory/templates/gridbox-factory.service.j2").read_text()
    dropped = " ".join(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=~"))
    assert "CAP_NET_RAW" in dropped
    assert "CAP_NET_ADMIN" not in dropped


def pythons(*inodes: int) -> dict[str, t.Any]:
    """What the role sees of the interpreter that is to run the factory, and of the distribution's."""
    seen = [{"stat": {"exists": bool(inode), **({"inode": inode} if inode else {})}} for inode in inodes]
    return {"__vacuum_factory_pythons": {"results": seen}}


@pytest.mark.parametrize(
    ("python", "inodes", "wanted"),
    [
        ("/usr/bin/python3", (7, 7, 0), True),
        ("/usr/bin/python3.9", (7, 7, 7), True),
        ("/usr/libexec/platform-python", (7, 9, 7), True),
        ("/usr/bin/python3.12", (8, 7, 7), False),
        ("/usr/bin/python3.13", (0, 7, 0), False),
        ("/opt/env/bin/python", (7, 7, 0), False),
    ],
)
def test_the_library_is_installed_for_the_distributions_python(
    python: str, inodes: tuple[int, ...], wanted: bool
) -> None:
    given = {"vacuum_factory_python": python, **pythons(*inodes)}
    found = evaluate("vacuum_factory", "alma9", "__vacuum_factory_packages", **given)
    assert ("python3-docker" in found) == wanted


@pytest.mark.parametrize(
    ("configuration", "packages"),
    [
        ({}, ["python3-docker", "openssl", "e2fsprogs", "BUSYBOX"]),
        ({"file_system": "xfs"}, ["python3-docker", "openssl", "xfsprogs", "BUSYBOX"]),
        ({"work_space": "lvm"}, ["python3-docker", "openssl", "e2fsprogs", "lvm2", "BUSYBOX"]),
        ({"work_space": "folder"}, ["python3-docker", "openssl", "BUSYBOX"]),
    ],
)
@pytest.mark.parametrize("host", HOSTS)
def test_what_a_factory_takes(host: str, configuration: dict[str, str], packages: list[str]) -> None:
    given: dict[str, t.Any] = {"vacuum_factory_configuration": configuration, **pythons(7, 7)}
    busybox = "busybox" if host in EL else "busybox-static"
    found = evaluate("vacuum_factory", host, "__vacuum_factory_packages", **given)
    assert found == [busybox if one == "BUSYBOX" else one for one in packages]
    given["vacuum_factory_bootstrap_image"] = False
    assert evaluate("vacuum_factory", host, "__vacuum_factory_packages", **given) == packages[:-1]


@pytest.mark.parametrize(
    ("configuration", "pool"),
    [
        ({"work_space": "lvm", "volume_group": "grid", "thin_pool": "pool"}, "pool"),
        ({"work_space": "lvm", "volume_group": "grid"}, ""),
        ({"thin_pool": "pool"}, ""),
    ],
)
def test_the_unit_has_the_module_of_a_thin_pool_loaded_where_there_is_one(
    configuration: dict[str, str], pool: str
) -> None:
    given: dict[str, t.Any] = {"vacuum_factory_configuration": configuration}
    assert evaluate("vacuum_factory", "debian12", "__vacuum_factory_thin_pool", **given) == pool


DOCKER, PODMAN = "/var/run/docker.sock", "/run/podman/podman.sock"


@pytest.mark.parametrize(
    ("configuration", "sockets", "unit"),
    [
        ({}, [DOCKER, PODMAN], "docker.service"),
        ({"engine": "auto"}, [DOCKER, PODMAN], "docker.service"),
        ({"engine": "docker"}, [DOCKER], "docker.service"),
        ({"engine": "podman"}, [PODMAN], "podman.socket"),
        ({"engine": "podman", "engine_url": "unix:///srv/podman.sock"}, ["/srv/podman.sock"], ""),
        ({"engine_url": f"unix://{PODMAN}"}, [PODMAN], "podman.socket"),
        ({"engine": "docker", "engine_url": f"unix://{DOCKER}"}, [DOCKER], "docker.service"),
        ({"engine": "apptainer"}, ["/usr/bin/apptainer"], ""),
    ],
)
def test_a_factorys_engine_is_the_one_of_its_configuration(
    configuration: dict[str, str], sockets: list[str], unit: str
) -> None:
    """On a host that has both, Docker is not Podman's stand-in: not for the image, not after it, not for the unit."""

    def found(name: str) -> t.Any:
        return evaluate("vacuum_factory", "debian12", name, vacuum_factory_configuration=configuration)

    assert found("__vacuum_factory_sockets_looked_for") == sockets
    assert found("__vacuum_factory_engine_unit") == unit
    assert found("__vacuum_factory_engine") == configuration.get("engine", "auto")


@pytest.mark.parametrize("host", ["debian12", "alma9"])
@pytest.mark.parametrize(("install", "account"), [(True, True), (True, False), (False, True), (False, False)])
def test_what_the_role_brings_is_awaited_and_nothing_else(host: str, install: bool, account: bool) -> None:
    """Before it touches anything; and afterwards in check mode, in which the steps before have only announced it."""
    brings = {"programs_awaited": install, "apptainer_awaited": install and host == "alma9", "account_awaited": account}
    given = {"vacuum_factory_install": install, "vacuum_factory_make_account": account}
    announced = {
        "__vacuum_factory_packages_installed": {"changed": install},
        "__vacuum_factory_account_made": {"changed": account},
    }

    def awaited(part: str, **known: t.Any) -> dict[str, t.Any]:
        tasks = yaml.safe_load((ROLES / f"vacuum_factory/tasks/{part}.yml").read_text())
        arguments = next(iter(tasks))["hep.gridbox.vacuum_factory"]
        return {
            name: evaluate("vacuum_factory", host, name, **{name: trusted(arguments[name])}, **given, **known)
            for name in brings
        }

    nothing = dict.fromkeys(brings, False)
    assert awaited("install") == brings
    assert awaited("configure", ansible_check_mode=True, **announced) == brings
    assert awaited("configure", ansible_check_mode=False, **announced) == nothing
    assert awaited("configure", ansible_check_mode=True) == nothing, "by its tag alone"


def test_a_factorys_image_is_in_its_engine() -> None:
    tasks = [
        task["hep.gridbox.vacuum_bootstrap_image"]
        for path in sorted((ROLES / "vacuum_factory/tasks").glob("*.yml"))
        for task in yaml.safe_load(path.read_text())
        if "hep.gridbox.vacuum_bootstrap_image" in task
    ]
    assert [task.get("state", "present") for task in tasks] == ["present", "absent"]
    for task in tasks:
        assert task.get("engine") == "{{ __vacuum_factory_engine }}"


def test_a_factorys_configuration_is_put_together() -> None:
    made = evaluate(
        "vacuum_factory", "debian12", "__vacuum_factory_configuration",
        vacuum_factory_configuration={"space": "s", "machinetypes": {"a": {"target_share": 1}}},
        vacuum_factory_machinetypes={"b": {"target_share": 2}, "a": {"user_data": "run"}},
        vacuum_factory_user_data_options={"token": "x"},
    )  # fmt: skip
    assert made == {
        "space": "s",
        "machinetypes": {"a": {"target_share": 1, "user_data": "run"}, "b": {"target_share": 2}},
        "user_data_options": {"token": "x"},
    }
    assert evaluate("vacuum_factory", "debian12", "__vacuum_factory_configuration") == {}


def test_what_has_a_variable_of_its_own_is_put_into_the_configuration() -> None:
    def whole(**given: t.Any) -> t.Any:
        return evaluate("vacuum_factory", HOSTS[0], "__vacuum_factory_configuration", **given)

    given = {"vacuum_factory_configuration": {"space": "vac01.example.org", "machinetypes": {"a": {"target_share": 1}}}}
    assert whole(**given) == given["vacuum_factory_configuration"]
    given["vacuum_factory_machinetypes"] = {"a": {"user_data": "run"}, "b": {}}
    assert whole(**given, vacuum_factory_metrics_file="/n/g.prom", vacuum_factory_pipes={"p": {}}) == {
        "space": "vac01.example.org",
        "machinetypes": {"a": {"target_share": 1, "user_data": "run"}, "b": {}},
        "vacuum_pipes": {"p": {}},
        "metrics_file": "/n/g.prom",
    }

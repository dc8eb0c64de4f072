# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the roles choose on each distribution, from the facts they use, in the form in which Ansible gives them.

The roles' own expressions are evaluated by Ansible's own templating, over the facts of ``facts/*.json``.
"""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

FACTS = Path(__file__).parent / "facts"
ROLES = Path(__file__).resolve().parents[3] / "roles"
HOSTS = sorted(path.stem for path in FACTS.glob("*.json"))


def facts(host: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads((FACTS / f"{host}.json").read_text()))


def trusted(value: t.Any) -> t.Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return value


def vars_file(role: str, host: str) -> Path:
    """The file that the role's first_found chooses: the distribution with its major version, else the family."""
    about = facts(host)
    names = (f"{about['distribution']}-{about['distribution_major_version']}.yml", f"{about['os_family']}.yml")
    return next(path for path in (ROLES / role / "vars" / name for name in names) if path.exists())


def evaluate(role: str, host: str, name: str, **given: t.Any) -> t.Any:
    """A variable of a role as it comes out on a host."""
    variables: dict[str, t.Any] = {"ansible_facts": facts(host)}
    for path in (ROLES / role / "defaults/main.yml", ROLES / role / "vars/main.yml", vars_file(role, host)):
        variables.update(trusted(yaml.safe_load(path.read_text())))
    variables.update(given)
    return Templar(DataLoader(), variables=variables).template(variables[name])


def bare(missing: list[str]) -> dict[str, t.Any]:
    """What the role's own looks at a bare host give."""
    return {
        "__docker_engine_program": {"results": [{"stat": {"exists": False}}]},
        "__docker_engine_python": {"stdout": json.dumps({"own": False, "missing": missing})},
        "__docker_engine_systemd": {"stat": {"exists": True}},
    }


@pytest.mark.parametrize(
    ("host", "engine"),
    [
        ("debian12", ["docker.io", "iptables"]),
        ("debian13", ["docker.io", "docker-cli", "iptables"]),
        ("ubuntu2204", ["docker.io", "iptables"]),
        ("ubuntu2404", ["docker.io", "iptables"]),
        ("alma9", ["docker-ce", "docker-ce-cli", "containerd.io"]),
        ("rocky10", ["docker-ce", "docker-ce-cli", "containerd.io"]),
    ],
)
def test_the_engine_comes_from_the_familys_packages(host: str, engine: list[str]) -> None:
    given = bare(["docker", "pyroute2"])
    assert evaluate("docker_engine", host, "__docker_engine_missing_packages", **given) == [
        *engine,
        "python3-docker",
        "python3-pyroute2",
    ]


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_there_is_not_installed_again(host: str) -> None:
    given = bare([])
    given["__docker_engine_program"] = {"results": [{"stat": {"exists": False}}, {"stat": {"exists": True}}]}
    assert evaluate("docker_engine", host, "__docker_engine_missing_packages", **given) == []


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
        __docker_engine_info={"live_restore": live_restore},
    )
    assert now == (bool(needed) and (allowed == "always" or (allowed == "when_live_restore" and live_restore)))


@pytest.mark.parametrize(("host", "package"), [("debian12", "fuse3"), ("ubuntu2404", "fuse3"), ("alma9", "fuse")])
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


@pytest.mark.parametrize(
    ("host", "service", "config"),
    [
        ("debian12", "chrony.service", ""),
        ("ubuntu2204", "chrony.service", ""),
        ("alma9", "chronyd.service", "/etc/chrony.conf"),
        ("rocky10", "chronyd.service", "/etc/chrony.conf"),
    ],
)
def test_chrony_is_called_what_the_family_calls_it(host: str, service: str, config: str) -> None:
    assert evaluate("host_hardening", host, "__host_hardening_chrony_service") == service
    assert evaluate("host_hardening", host, "__host_hardening_chrony_config") == config


@pytest.mark.parametrize(("switch", "on"), [(True, True), (False, False), ("the site has ntpd", False)])
def test_a_control_is_off_when_its_switch_is_false_or_a_reason(switch: t.Any, on: bool) -> None:
    value = evaluate(
        "host_hardening", "debian12", "__host_hardening_time", host_hardening_controls={"time_sync": switch}
    )
    assert value is on

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example inventories: the roles take their variables, and a shell can read the init script of each VO-box."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import shim_mac
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.mac import mac_of
from tests.gate.tools import NAME, NAMESPACE, ROOT, demand, environment
from tests.lab import first_site
from tests.lab.playbook import kept_in

ROLES = ("docker_engine", "cvmfs", "host_hardening", "vobox")
#: When ``hep.gridbox.site`` has a role; without an entry: always.
SWITCHES = {"cvmfs": "gridbox_cvmfs | default(false)", "host_hardening": "gridbox_hardening | default(false)"}

#: Roles check their arguments in a task that runs whatever the tags; nothing else of them does.
PLAY = {
    "hosts": "voboxes",
    "gather_facts": False,
    "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
    "roles": [f"{NAMESPACE}.{NAME}.{role}" for role in ROLES],
    "post_tasks": [
        *(
            {
                "name": f"Check what {role} checks before it begins",
                "tags": "always",
                "when": SWITCHES.get(role, "true"),
                "ansible.builtin.include_role":
                    {"name": f"{NAMESPACE}.{NAME}.{role}", "tasks_from": "validate", "apply": {"tags": "always"}},
            }
            for role in ROLES
        ),
        {
            "name": "Write what is on the LAN",
            "tags": "always",
            "ansible.builtin.copy": {
                "dest": "{{ folder }}/../{{ inventory_hostname }}.json",
                "content": "{{ {'network': vobox_network, 'voboxes': vobox_list} | to_json }}",
                "mode": "0644",
            },
        },
        {
            "name": "Write the init script of each VO-box",
            "tags": "always",
            "ansible.builtin.copy": {
                "dest": "{{ folder }}/{{ vobox_item.fqdn }}",
                "content": "{{ lookup('ansible.builtin.template', template) }}",
                "mode": "0644",
            },
            "vars": {"template": "{{ vobox_item.init_template | default(vobox_init_template) }}"},
            "loop": "{{ vobox_list }}",
            "loop_control": {"loop_var": "vobox_item", "label": "{{ vobox_item.fqdn }}"},
        }
    ],
}  # fmt: skip


#: A host without an engine, and a VO-box that is right.
BARE = "unix:///nowhere/docker.sock"
RIGHT: dict[str, t.Any] = {
    "vobox_engine_url": BARE,
    "vobox_network": {
        "name": "site", "parent": "eno1", "ipv4": {"subnet": "192.0.2.0/24", "gateway": "192.0.2.1"},
        "ipv6": {"subnet": "2001:db8::/64", "gateway": "2001:db8::1"},
    },
    "vobox_list": [{"name": "alice", "fqdn": "vobox1.example.org", "ipv4": "192.0.2.31", "ipv6": "2001:db8::31"}],
    "vobox_init": {
        "squid_clients": ["192.0.2.0/24", "10.1.2.3", "2001:db8::/64", "::1", "1:2:3:4:5:6:7:8/128"],
        "commands": ["if true; then\n\techo multi\nfi"],
    },
}  # fmt: skip


def box(**changes: t.Any) -> dict[str, t.Any]:
    return {"vobox_list": [{**RIGHT["vobox_list"][0], **changes}]}


def network(**changes: t.Any) -> dict[str, t.Any]:
    return {"vobox_network": {**RIGHT["vobox_network"], **changes}}


#: Variables that cannot be right, and what names them: of each check one or two; the modules have tests of their own.
WRONG: dict[str, tuple[dict[str, t.Any], str]] = {
    "no-address": (box(ipv4="banana"), "network.ipv4: got 'banana', expected an IPv4 address"),
    "outside": (box(ipv4="10.1.1.1"), "VO-box alice: got '10.1.1.1', expected an address of ipv4.subnet 192.0.2.0/24"),
    "gateway": (
        network(ipv4={"subnet": "192.0.2.0/24", "gateway": "10.1.1.1"}), "ipv4.gateway: got '10.1.1.1', expected"
    ),
    "no-family": ({"vobox_network": {"name": "site", "parent": "eno1"}}, "one of them for each family"),
    "no-dictionary": (network(ipv4="192.0.2.0/24"), "expected ipv4 and ipv6 to be dictionaries"),
    "shims-address": (
        network(host_access="shim", shim={"ipv4": "192.0.2.31"}),
        "vobox_network.shim: got 192.0.2.31, 2001:db8::31, 192.0.2.31"
    ),
    "package": ({"vobox_image_packages": ["squid=5"]}, "packages: got 'squid=5'"),
    "image": ({"vobox_image_pull": "a b"}, "name: got 'a b', expected the name of an image"),
    "no-port": ({"vobox_services": [{"name": "x"}]}, "missing required arguments: port found in vobox_services"),
    "own-no-port": (box(services=[{"name": "x"}]), "missing required arguments: port found in vobox_list -> services"),
    "clients-text": (
        {"vobox_init": {"squid_clients": "10.0.0.0/8"}},
        'vobox_init.squid_clients of alice: got "10.0.0.0/8", expected a list of addresses',
    ),
    "clients-injected": ({"vobox_init": {"squid_clients": ["10.0.0.0/8\nhttp_port 1"]}}, "vobox_init.squid_clients"),
    "clients-line": ({"vobox_init": {"squid_clients": ["10.0.0.0/8\n"]}}, "vobox_init.squid_clients"),
    "clients-name": ({"vobox_init": {"squid_clients": ["all"]}}, "vobox_init.squid_clients"),
    "clients-v4": ({"vobox_init": {"squid_clients": ["10.0.0.256"]}}, "vobox_init.squid_clients"),
    "clients-v6": ({"vobox_init": {"squid_clients": ["2001:db8:1/64"]}}, "vobox_init.squid_clients"),
    "clients-own": (box(init={"squid_clients": [{"net": "10.0.0.0/8"}]}), "vobox_init.squid_clients of alice: got"),
    "commands-text": ({"vobox_init": {"commands": "true"}}, 'vobox_init.commands of alice: got "true", expected'),
    "commands-escape": ({"vobox_init": {"commands": ["echo \u001b"]}}, "vobox_init.commands of alice"),
    "keys-text": ({"vobox_init": {"authorized_keys": "ssh-ed25519 AAAA"}}, "vobox_init.authorized_keys of alice"),
    "keys-lines": ({"vobox_init": {"authorized_keys": ["ssh-ed25519 AAAA\nx"]}}, "vobox_init.authorized_keys of alice"),
}  # fmt: skip

#: What is said of each host goes into a file of its name. Not in check mode, where the rest of the role follows.
ASK = {
    "hosts": "all",
    "gather_facts": False,
    "vars": {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "entry_point": "{{ 'main' if ansible_check_mode else 'validate' }}",
    },
    "tasks": [
        {
            "name": "Ask the role",
            "block": [
                {
                    "name": "Check what it checks before it begins",
                    "ansible.builtin.include_role":
                        {"name": f"{NAMESPACE}.{NAME}.vobox", "tasks_from": "{{ entry_point }}"},
                },
                {"name": "Nothing was said", "ansible.builtin.set_fact": {"said": ""}},
            ],
            "rescue": [
                {"name": "Keep it", "ansible.builtin.set_fact": {"said": "{{ ansible_failed_result | to_json }}"}},
            ],
        },
        {
            "name": "Write it",
            "ansible.builtin.copy":
                {"dest": "{{ folder }}/{{ inventory_hostname }}", "content": "{{ said }}", "mode": "0644"},
            "check_mode": False,
        },
    ],
}  # fmt: skip


def sentences(said: str) -> str:
    """The messages of a failed task, of all its items."""
    result = json.loads(said) if said else {}
    return " ".join(
        str(one.get("msg", "")) for one in [*result.get("results", []), result] if one.get("failed") and "msg" in one
    )


def ask(folder: Path, hosts: t.Iterable[str], *options: str) -> tuple[dict[str, str], str]:
    """What the role vobox says on hosts without an engine, by host, and all that Ansible printed."""
    variables = {name: {**RIGHT, **WRONG[name][0]} if name in WRONG else RIGHT for name in hosts}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": variables}}))
    (folder / "play.yml").write_text(yaml.safe_dump([ASK]))
    (folder / "answers").mkdir()
    output = demand(
        "ansible-playbook", "-i", str(folder / "hosts.yml"), "-e", json.dumps({"folder": str(folder / "answers")}),
        *options, str(folder / "play.yml"),
        env=environment(**kept_in(folder / "ansible")),
    )  # fmt: skip
    return {name: sentences((folder / "answers" / name).read_text()) for name in variables}, output


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said before anything is touched."""
    return ask(tmp_path_factory.mktemp("said"), [*WRONG, "right"])[0]


@pytest.mark.parametrize("host", list(WRONG))
def test_bad_input_is_refused_on_a_bare_host(host: str, said: dict[str, str]) -> None:
    assert WRONG[host][1] in said[host]


def test_what_is_right_is_taken_on_a_bare_host(said: dict[str, str]) -> None:
    assert said["right"] == ""


def test_check_mode_on_a_bare_host_refuses_the_same_and_predicts_what_is_right(tmp_path: Path) -> None:
    wrong = ("no-address", "outside", "gateway", "no-port", "clients-text")
    answers, output = ask(tmp_path, [*wrong, "right"], "--check")
    assert [host for host in wrong if WRONG[host][1] not in answers[host]] == []
    assert answers["right"] == ""
    assert output.count("alice (vobox1.example.org) would be created") == 1


# Three hosts are brought up with that of the guide by tests/fleet/test_first_site.py.
@pytest.mark.parametrize(
    ("inventory", "voboxes"),
    [("demo", 2), ("three-sites", 8), pytest.param("first-site", 3, marks=pytest.mark.fleet)],
)
def test_an_example_inventory_fits_the_roles(inventory: str, voboxes: int, tmp_path: Path) -> None:
    folder = (
        first_site.write(tmp_path, first_site.guide())
        if inventory == "first-site"
        else ROOT / f"inventories/{inventory}"
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "templates").symlink_to(ROOT / "roles/vobox/templates")
    (tmp_path / "play.yml").write_text(yaml.safe_dump([PLAY]))
    demand(
        "ansible-playbook", "-i", str(folder), "--tags", "no such tag", "-e",
        json.dumps({"folder": str(tmp_path / "scripts")}), str(tmp_path / "play.yml"),
        env=environment(**kept_in(tmp_path / "ansible")),
    )  # fmt: skip
    scripts = sorted((tmp_path / "scripts").iterdir())
    assert len(scripts) == voboxes
    for script in scripts:
        done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script.name}: {done.stderr}"
    taken: dict[str, list[str]] = {}
    for path in sorted(tmp_path.glob("*.json")):
        lan, found = on_the_lan(json.loads(path.read_text()))
        taken.setdefault(lan, []).extend(found)
    assert sum(map(len, taken.values())) >= 3 * voboxes
    for lan, all_of_it in taken.items():
        twice = sorted({one for one in all_of_it if all_of_it.count(one) > 1})
        assert not twice, f"given more than once on {lan}: {', '.join(twice)}"


def test_the_example_of_factories_fits_their_roles(tmp_path: Path) -> None:
    roles = [f"{NAMESPACE}.{NAME}.{role}" for role in ("docker_engine", "cvmfs", "vacuum_factory")]
    play = {
        "hosts": "factories",
        "gather_facts": False,
        "vars": PLAY["vars"],
        "tasks": [
            {"name": role, "ansible.builtin.include_role": {"name": role, "tasks_from": "validate"}} for role in roles
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    output = demand(
        "ansible-playbook", "-i", "inventories/three-sites", "--limit", "wn001.bergen.example",
        str(tmp_path / "play.yml"),
        env=environment(**kept_in(tmp_path / "ansible")),
    )  # fmt: skip
    assert "failed=0" in output


def on_the_lan(host: dict[str, t.Any]) -> tuple[str, list[str]]:
    """The LAN of a host, and the addresses and MACs that it brings there."""
    network = host["network"]
    shim = addresses(network.get("shim", {}))
    found = [str(one) for one in shim if one] + ([shim_mac(*shim)] if any(shim) else [])
    for vobox in host["voboxes"]:
        found += [str(one) for one in addresses(vobox) if one] + [vobox.get("mac") or mac_of(vobox["fqdn"])]
    return network["ipv4"]["subnet"], found


def addresses(given: dict[str, str]) -> list[t.Any]:
    return [ipaddress.ip_address(given[key]) if given.get(key) else None for key in ("ipv4", "ipv6")]

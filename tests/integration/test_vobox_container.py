# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vobox_container on a real engine: what it makes, changes in place, swaps, refuses and takes back."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.lab.modules import ModuleFailed

WEB = "#!/bin/sh\nhttpd -p 80 -h /www\n"
NETWORK = "voboxes"


@pytest.fixture(scope="module")
def network(lab: Lab) -> t.Iterator[str]:
    lab.docker(
        "network", "create", "--driver", "macvlan", "--opt", "parent=site0", "--ipv6", "--subnet", "10.213.0.0/16",
        "--gateway", "10.213.0.1", "--subnet", "fd13:213::/64", "--gateway", "fd13:213::1", NETWORK,
    )  # fmt: skip
    yield NETWORK
    lab.docker("network", "rm", NETWORK)


class Box:
    """One VO-box of a test: its arguments, with what a test changes."""

    def __init__(self, lab: Lab, name: str, number: int, files: Path) -> None:
        self.lab = lab
        self.name = name
        self.files = files
        self.address4, self.address6 = f"10.213.1.{number}", f"fd13:213::1:{number}"
        self.arguments: dict[str, t.Any] = {
            "name": name,
            "image": "busybox:test",
            "hostname": f"{name}.example.org",
            "network": {"name": NETWORK, "ipv4": self.address4, "ipv6": self.address6},
            "init_script": WEB,
            "services": [{"name": "web", "port": 80}],
            "limits": {"nofile": "4096:8192"},
            "stop_timeout": 5,
            "swap": {"health_timeout": 10},
            "files": str(files),
        }

    def run(self, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        return self.lab.module("vobox_container", check=check, **{**self.arguments, **changes})

    def bare(self, check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        """With nothing given but the name."""
        return self.lab.module("vobox_container", check=check, name=self.name, files=str(self.files), **arguments)

    def fails(self, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
        with pytest.raises(ModuleFailed) as failed:
            self.run(check, **changes)
        return failed.value.result

    def inspect(self, template: str = "{{json .}}") -> t.Any:
        return json.loads(self.lab.docker("inspect", "--type", "container", "--format", template, self.name))

    @property
    def id(self) -> str:
        return str(self.inspect("{{json .Id}}"))

    def page(self) -> str:
        """What a machine on the LAN gets, over IPv4 and IPv6."""
        got = [
            self.lab.from_peer("curl", "--silent", "--show-error", "--max-time", "5", f"http://{address}/").stdout
            for address in (self.address4, f"[{self.address6}]")
        ]
        assert got[0] == got[1]
        return got[0]

    def containers(self) -> list[str]:
        return sorted(
            name
            for name in self.lab.docker("ps", "--all", "--format", "{{.Names}}").split()
            if name.startswith(self.name)
        )

    def everything(self) -> dict[str, t.Any]:
        """All that a change could touch, looked at with other tools than the module's."""
        there = self.containers()
        return {
            "containers": there,
            "inspect": self.inspect() if self.name in there else None,
            "files": {
                str(path.relative_to(self.files)): path.read_bytes() if path.is_file() else path.is_symlink()
                for path in sorted(self.files.rglob("*"))
            },
            "volumes": sorted(self.lab.docker("volume", "ls", "--quiet").split()),
        }


@pytest.fixture()
def box(lab: Lab, network: str, tmp_path: Path, request: pytest.FixtureRequest) -> t.Iterator[Box]:
    number = sum(request.node.name.encode()) % 200 + 20
    made = Box(lab, f"vb{number}", number, tmp_path / "voboxes")
    yield made
    left = made.containers()
    if left:
        lab.docker("rm", "--force", "--volumes", *left)


def test_brings_up_a_vobox_and_a_second_run_changes_nothing(box: Box) -> None:
    made = box.run()
    assert [step["action"] for step in made["actions"]] == [
        "write_init_script", "create_container", "start_container", "remember_services",
    ]  # fmt: skip
    assert box.page() == "here I am\n"
    before = box.id
    again = box.run()
    assert (again["changed"], again["actions"]) == (False, [])
    assert box.id == before == again["container"]["id"]
    assert again["init_script"]["active_sha256"] == made["init_script"]["sha256"]

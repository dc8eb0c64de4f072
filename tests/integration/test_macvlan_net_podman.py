# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""macvlan_net on Podman, through its Docker-compatible socket and, where that says too little, its own requests."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.lab.engine import PodmanService
from tests.lab.lan import in_netns
from tests.lab.modules import ModuleFailed, run_module

NAME = "gbpod"
SITE: dict[str, t.Any] = {
    "name": NAME,
    "parent": "site0",
    "ipv4": {"subnet": "10.213.0.0/16", "gateway": "10.213.0.254", "ip_range": "10.213.1.0/24"},
    "ipv6": {"subnet": "fd13:213::/64", "gateway": "fd13:213::fe"},
}


@pytest.fixture()
def peer(podman: PodmanService, podman_peer: str) -> t.Iterator[str]:
    """The other machine on the LAN; what a test leaves in the engine is removed."""
    yield podman_peer
    podman.podman("rm", "--all", "--force", "--time", "0")
    podman.podman("network", "rm", "--force", NAME, check=False)


def test_podman_makes_compares_moves_and_removes(podman: PodmanService, peer: str) -> None:
    def module(check: bool = False, **arguments: t.Any) -> dict[str, t.Any]:
        return run_module("macvlan_net", {"engine_url": podman.url, **arguments}, netns=podman.netns, check=check)

    preview = module(check=True, **SITE)
    assert podman.podman("network", "exists", NAME, check=False).returncode == 1
    done = module(**SITE)
    assert done["actions"] == preview["actions"]
    assert {**done["network"], "id": None} == preview["network"]
    for check in (True, False):  # parent and range are seen, so nothing drifts
        again = module(check=check, **SITE)
        assert not again["changed"], again["actions"]
        assert again["network"] == done["network"]
    with pytest.raises(ModuleFailed, match="parent: lan9: there is no such link"):
        module(**{**SITE, "parent": "lan9"})
    with pytest.raises(ModuleFailed, match=r"ipv4.ip_range is '10.213.1.0/24' instead of None"):
        module(**{**SITE, "ipv4": {**SITE["ipv4"], "ip_range": None}})
    with pytest.raises(ModuleFailed, match=r"ipv4.reserved: printer: podman [0-9.]+ cannot reserve addresses"):
        module(**{**SITE, "ipv4": {**SITE["ipv4"], "reserved": {"printer": "10.213.0.7"}}})

    address = ("--ip", "10.213.0.50", "--ip6", "fd13:213::50", "--mac-address", "02:00:00:00:00:50")
    podman.podman("run", "--detach", "--name", "vb1", "--network", NAME, *address, "busybox:test", "sleep", "500")
    before = json.loads(podman.podman("inspect", "--format", "{{json .NetworkSettings.Networks}}", "vb1").stdout)
    with pytest.raises(ModuleFailed, match=f"attached to the network {NAME}: vb1"):
        module(name=NAME, state="absent")
    labelled = {**SITE, "labels": {"a": "b"}, "recreate": "move_endpoints"}
    preview = module(check=True, **labelled)
    assert module(**labelled)["actions"] == preview["actions"]
    after = json.loads(podman.podman("inspect", "--format", "{{json .NetworkSettings.Networks}}", "vb1").stdout)
    assert after == before
    in_netns(peer, "ping", "-c1", "-W2", "10.213.0.50")
    # Podman lets the kernel look for a duplicate first (one to two seconds); until then the address is silent.
    in_netns(peer, "ping", "-c8", "-i0.5", "-W2", "fd13:213::50")

    module(**SITE, host_access="shim", shim={"ipv4": "10.213.0.3", "ipv6": "fd13:213::3"})
    in_netns(podman.netns, "ping", "-c1", "-W2", "10.213.0.50")
    in_netns(podman.netns, "ping", "-c1", "-W2", "fd13:213::50")
    podman.podman("rm", "--force", "--time", "0", "vb1")
    assert module(name=NAME, state="absent")["network"] is None
    assert podman.podman("network", "exists", NAME, check=False).returncode == 1

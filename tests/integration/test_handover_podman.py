# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The handover on Podman: sequential, and the old container comes back all the same."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab.engine import PodmanService
from tests.lab.lan import in_netns
from tests.lab.reconciler import Reconciler
from tests.lab.swap import VOBOX, Job, swap, vobox_body

NAME = "vobox"


@pytest.fixture()
def vobox(podman: PodmanService, podman_site: str) -> t.Iterator[str]:
    try:
        made = podman.podman(
            "run", "--detach", "--name", NAME, "--network", f"site:ip={VOBOX.ipv4},ip={VOBOX.ipv6},mac={VOBOX.mac}",
            "--restart", "unless-stopped", "busybox:test", "httpd", "-f", "-p", "80", "-h", "/www",
        )  # fmt: skip
        eventually_answers(podman_site)
        yield made.stdout.strip()
    finally:
        podman.podman("rm", "--all", "--force", "--time", "0")


def eventually_answers(peer: str) -> None:
    """Podman lets the kernel look for duplicates of an IPv6 address first, which takes up to two seconds."""
    deadline = time.monotonic() + 15
    while not answers(peer):
        assert time.monotonic() < deadline, "no answer after 15 s"
        time.sleep(0.1)


def answers(peer: str) -> bool:
    pages = [
        in_netns(peer, "curl", "--silent", "--max-time", "2", f"http://{host}/", check=False).stdout
        for host in (VOBOX.ipv4, f"[{VOBOX.ipv6}]")
    ]
    return pages == ["here I am\n"] * 2


def body() -> dict[str, t.Any]:
    """Podman 4.3 heeds a MAC in the endpoint, not the container's own, at any API version."""
    made = vobox_body()
    made["Image"] = "localhost/busybox:test"
    made["NetworkingConfig"]["EndpointsConfig"]["site"]["MacAddress"] = VOBOX.mac
    del made["HostConfig"]["Init"]  # needs a program that is not everywhere
    return made


def inspect(podman: PodmanService) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(podman.podman("container", "inspect", NAME).stdout)[0])


def names(podman: PodmanService) -> list[str]:
    return podman.podman("ps", "--all", "--format", "{{.Names}}").stdout.split()


def test_a_swap_is_sequential_and_keeps_addresses_and_mac(podman: PodmanService, podman_site: str, vobox: str) -> None:
    report = swap(Job(podman.url, create=body()), podman.netns)
    assert (report["old_id"], report["strategy"], report["announced"]) == (vobox, "sequential", False)
    seen = inspect(podman)
    assert seen["Id"] == report["new_id"]
    network = seen["NetworkSettings"]["Networks"]["site"]
    assert (network["MacAddress"], network["IPAddress"]) == (VOBOX.mac, VOBOX.ipv4)
    assert seen["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert names(podman) == [NAME]
    eventually_answers(podman_site)


def test_the_old_container_comes_back_when_the_new_one_is_not_well(
    podman: PodmanService, podman_site: str, vobox: str
) -> None:
    outcome = swap(Job(podman.url, create=body(), unwell="queue stuck"), podman.netns)
    assert "queue stuck" in outcome["error"]
    assert outcome["rollback"]["failed"] == []
    assert (inspect(podman)["Id"], names(podman)) == (vobox, [NAME])
    eventually_answers(podman_site)


def test_a_killed_swap_ends_with_the_old_container(podman: PodmanService, podman_site: str, vobox: str) -> None:
    assert swap(Job(podman.url, create=body(), die_at=4), podman.netns) == {}
    deadline = time.monotonic() + 15
    while names(podman) != [NAME] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (names(podman), inspect(podman)["Id"]) == ([NAME], vobox)
    eventually_answers(podman_site)


def test_the_reconciler_takes_back_what_neither_the_module_nor_its_guard_could_end(
    podman: PodmanService, podman_site: str, vobox: str, tmp_path: Path
) -> None:
    swap(Job(podman.url, create=body(), die_at=3, power_cut=True), podman.netns)  # the old one is stopped
    assert sorted(names(podman)) == [NAME, f"{NAME}.next"]
    reconciler = Reconciler(podman, tmp_path)
    status, said = reconciler.run()
    assert (status, said.split(";")[0]) == (0, f"{NAME}: recovered: An interrupted swap of {NAME} was taken back")
    assert names(podman) == [NAME]
    assert inspect(podman)["Id"] == vobox
    eventually_answers(podman_site)
    assert reconciler.run() == (0, "")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Move the endpoint of a network from one running container to another one, and tell the LAN.

Peers find a VO-box by what their neighbour tables say about its addresses. So the addresses move at the moment of an
announcement, not while the engine works, which takes a quarter of a second.
"""

from __future__ import annotations

import threading
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import Announcer
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import (
    LINK,
    InterimLink,
    Parent,
    interim_macs,
    netns_of,
    wait_until_it_carries,
)


def take_over(
    engine: DockerApi,
    network: Json,
    parent: t.Optional[Parent],
    identity: Identity,
    endpoint: t.Mapping[str, t.Any],
    giver: t.Optional[str],
    taker: str,
    link_seconds: float,
) -> None:
    """Move the endpoint of a network from one running container to another one, announced where that can be done.

    :param parent: of the network; None: there can be no interim link, so the service is unreachable in between.
    :param endpoint: the Engine API's ``EndpointConfig`` for the taker.
    :param giver: id of the container that has the endpoint; None, or one that has none, is fine.
    """
    netns = netns_of(pid_of(engine, taker))
    interim = None
    if parent:
        interim = InterimLink(netns, identity, interim_macs(identity.mac, macs_on(network)))
        interim.put_up(parent, link_seconds)
        with Announcements(netns, LINK, interim.mac, identity) as announcements:
            # Peers have heard it before the old link goes, and hear it until the engine is done: the old container may
            # ask around in the meantime, which tells them the old MAC.
            announcements.wait_for(3)
            give(engine, identity.network, giver)
            engine.connect(identity.network, taker, endpoint)
            mac = _mac_of(engine, taker, identity)
            link = wait_until_it_carries(netns, mac, link_seconds)
            interim.leave_to_main()
    else:
        give(engine, identity.network, giver)
        engine.connect(identity.network, taker, endpoint)
        mac = _mac_of(engine, taker, identity)
        link = wait_until_it_carries(netns, mac, link_seconds)
    with Announcements(netns, link, mac, identity) as announcements:
        announcements.wait_for(5)
    if interim:
        interim.take_down()


def announce_engines_link(engine: DockerApi, container: str, identity: Identity, seconds: float) -> None:
    """Tell the LAN the addresses and MAC of the link that the engine has made."""
    netns = netns_of(pid_of(engine, container))
    mac = _mac_of(engine, container, identity)
    link = wait_until_it_carries(netns, mac, seconds)
    with Announcements(netns, link, mac, identity) as announcements:
        announcements.wait_for(5)


class Announcements:
    """Within the block the addresses are announced every few milliseconds.

    More than once, for a frame may be lost, and for others may claim the addresses in between.
    """

    INTERVAL = 0.015

    def __init__(self, netns: str, link: str, mac: str, identity: Identity) -> None:
        self._announcer = Announcer(netns, link, mac, identity.ipv4, identity.ipv6)
        self._link = link
        self._sent = 0
        self._error: t.Optional[GridboxError] = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="announcements", daemon=True)

    def __enter__(self) -> Announcements:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        self._thread.join()
        self._announcer.close()

    def wait_for(self, times: int) -> None:
        """Wait until it has been said this many times in the block."""
        deadline = time.monotonic() + 5
        while self._sent < times:
            if self._error:
                raise self._error
            if time.monotonic() > deadline:
                raise WaitError(f"{times} announcements over {self._link}", 5, f"{self._sent} sent")
            time.sleep(self.INTERVAL / 3)

    def _repeat(self) -> None:
        while True:
            try:
                self._announcer.send()
            except GridboxError as exc:
                self._error = exc
                return
            self._sent += 1
            if self._end.wait(self.INTERVAL):
                return


def give(engine: DockerApi, network: str, giver: t.Optional[str]) -> None:
    """Take the endpoint from a container, if it has one."""
    held = engine.container(giver) if giver else None
    if held and is_on(held, network):
        engine.disconnect(network, held["Id"])


def is_on(container: Json, network: str) -> bool:
    """Whether a container has an endpoint on a network; if it does not run: whether it will get one at its start."""
    endpoint = container["NetworkSettings"]["Networks"].get(network)
    # After a connect that it refused, the engine (20.10) goes on listing the network, without endpoint.
    return endpoint is not None and (bool(endpoint.get("EndpointID")) or not container["State"]["Running"])


def macs_on(network: Json) -> set[str]:
    """The MACs of a network's endpoints."""
    return {str(end.get("MacAddress", "")).lower() for end in (network.get("Containers") or {}).values()}


def pid_of(engine: DockerApi, container: str) -> int:
    state = (engine.container(container) or {}).get("State") or {}
    if not state.get("Pid") or state.get("Restarting"):
        raise GridboxError(f"Container {container[:12]} has ended.")
    return int(state["Pid"])


def _mac_of(engine: DockerApi, container: str, identity: Identity) -> str:
    """The MAC that the container has on the network now.

    :raises GridboxError: if it is not the identity's.
    """
    found = Identity.of(engine.container(container) or {}, identity.network)
    if found is None:
        raise GridboxError(f"The engine has connected {container[:12]} to {identity.network} without an address.")
    if identity.mac and found.mac != identity.mac.lower():
        raise GridboxError(f"The engine gave {container[:12]} the MAC {found.mac} instead of {identity.mac}.")
    return found.mac

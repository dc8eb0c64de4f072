# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Serve from a stand-in while the engine replaces a container.

For engines that cannot move an endpoint with its MAC (Docker 25 and later): a first instance of the new container has
the addresses on an interim link, from before the old one is stopped until the second one, started as ever, is well.
"""

from __future__ import annotations

import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import (
    LINK,
    InterimLink,
    Parent,
    interim_macs,
    lend_addresses,
    netns_of,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import (
    NO_RESTART,
    record_in,
    silence,
    stand_in_name,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.take_over import Announcements, macs_on, pid_of


class StandIn:
    """The stand-in of VO-box ``name``.

    :param parent: of the network.
    :param identity: what it is known by while it stands in.
    """

    def __init__(self, engine: DockerApi, name: str, network: Json, parent: Parent, identity: Identity) -> None:
        self._engine = engine
        self._name = stand_in_name(name)
        self._network = network
        self._parent = parent
        self._identity = identity
        self._announcements: t.Optional[Announcements] = None

    def make(self, body: Json) -> str:
        """Start it without network, with the addresses lent; returns its id. One that was left over is replaced."""
        if record_in(self._engine.container(self._name)):
            self._engine.remove_container(self._name, force=True, volumes=True)
        host_config = {**(body.get("HostConfig") or {}), "RestartPolicy": NO_RESTART}
        made = self._engine.create_container(self._name, {**body, "HostConfig": host_config})
        self._engine.disconnect(self._identity.network, made)
        self._engine.start_container(made)
        lend_addresses(netns_of(pid_of(self._engine, made)), self._identity)
        return made

    def serve(self, link_seconds: float) -> None:
        """Take the addresses, and go on announcing that until :meth:`fall_silent`."""
        netns = netns_of(pid_of(self._engine, self._name))
        interim = InterimLink(netns, self._identity, interim_macs(self._identity.mac, macs_on(self._network)))
        interim.put_up(self._parent, link_seconds)
        self._announcements = Announcements(netns, LINK, interim.mac, self._identity)
        self._announcements.__enter__()
        self._announcements.wait_for(3)

    def fall_silent(self) -> None:
        """Announce no more; it still serves whoever comes."""
        if self._announcements:
            self._announcements.__exit__()
            self._announcements = None

    def remove(self) -> None:
        """Remove its interim link, and then itself."""
        made = self._engine.container(self._name)
        if made:
            silence(made, self._identity)
        self._engine.remove_container(self._name, force=True, volumes=True)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Replace a VO-box's container: the new one takes over MAC and addresses, and what goes wrong is put back.

The announced handover (strategy ``overlap``), its longest time without service being a few milliseconds:

1. The new container, ``<name>.next``, starts without a network while the old one serves, and gets ready.
2. An interim link in its namespace gets the addresses, and is announced to the LAN: peers now talk to the new one.
3. The engine takes the endpoint from the old one and gives it to the new one, which takes it a quarter of a second.
4. The engine's link, with the VO-box's own MAC, is announced; the interim link goes. Nothing is left but a container
   as the engine makes it, so restart policy, reboot and restart of the daemon work as ever.
5. If it is well in service it gets the name; the old one becomes ``<name>.previous`` and is stopped.

With ``sequential`` the old one is stopped before the new one starts, for services that may never run twice.

What ends in any case: connections that are open to the old container.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.network.wire import Announcer
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import (
    LINK,
    InterimLink,
    Parent,
    interim_mac,
    lend_addresses,
    netns_of,
    return_addresses,
    wait_until_it_carries,
)

#: Asks whether the container with this id is well: None, or the reason why not yet. Raises GridboxError if it never
#: will be.
Probe = t.Callable[[str], t.Optional[str]]

#: The label of a container that was made to replace another one: all that is needed to put that one back, as JSON. It
#: is in the engine's store at the same moment as the container, so it outlives a power cut at any step.
REPLACES_LABEL = "hep.gridbox.replaces"

#: Names of the journal's entries that are for :func:`undo`.
PUT_BACK = "put_back_replaced_container"
LET_STOP = "let_stop"
RETIRE = "retire_replaced_container"

#: How long to go on trying to put a container back.
PUT_BACK_SECONDS = 30

_NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait, each at most.

    :ivar ready: for the new container to get ready before it has the network.
    :ivar serving: for it to be well in service.
    :ivar stop: between SIGTERM and SIGKILL when a container is stopped.
    :ivar link: for a link to carry traffic.
    """

    ready: float = 120
    serving: float = 60
    stop: int = 10
    link: float = 5


@dataclass
class SwapReport:
    """What a swap did.

    :ivar strategy: ``overlap`` or ``sequential``.
    :ivar announced: whether the addresses were handed over by an interim link.
    :ivar kept: name of the replaced container if it was kept, else None.
    :ivar seconds: of the whole swap.
    :ivar phases: seconds of each part, in order.
    """

    old_id: str
    new_id: str
    strategy: str
    announced: bool = False
    kept: t.Optional[str] = None
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


def next_name(name: str) -> str:
    """Name of the new container until it is found well."""
    return f"{name}.next"


def previous_name(name: str) -> str:
    """Name of the replaced container."""
    return f"{name}.previous"


def swap(
    engine: DockerApi,
    journal: Journal,
    old: Json,
    create: Json,
    name: str,
    identity: Identity,
    strategy: str = "overlap",
    ready: t.Optional[Probe] = None,
    serving: t.Optional[Probe] = None,
    timeouts: t.Optional[Timeouts] = None,
    keep_previous: bool = False,
) -> SwapReport:
    """Replace container ``name``.

    Runs in the network namespace of the engine. Settles the journal when the new container has proved well, so it is
    the last thing a plan does.

    :param old: ``docker inspect`` of the container that is replaced.
    :param create: the Engine API's create body of the new one, as if it were made alone, with its network, addresses,
        MAC and restart policy.
    :param identity: what the new one is known by.
    :param ready: whether the new one may get the network; it has its addresses, but no LAN yet. Not asked with
        ``sequential``.
    :param serving: whether it is well with the network.
    :param keep_previous: keep the replaced container, stopped, as ``<name>.previous``.
    :raises GridboxError: after which the journal's entries put the old container back.
    """
    timeouts = timeouts or Timeouts()
    network = engine.network(identity.network)
    if network is None:
        raise GridboxError(f"There is no network {identity.network} to swap {name} on.")
    _refuse_leftovers(engine, name)
    running = bool(old["State"]["Running"])
    # Podman 4.3 tells neither the parent of a network nor whether a container is connected, and cannot change a restart
    # policy (its own comes into force with the container, and lets a stopped one rest).
    docker = engine.platform.name == "docker"
    parent = Parent.of(network) if docker else None
    if not running or not docker:
        strategy = "sequential"
    record = {
        "name": name,
        "old_id": old["Id"],
        "network": identity.network,
        "endpoint": _endpoint_of(engine, old, identity.network) if docker else None,
        "identity": _identity_data(Identity.of(old, identity.network)),
        "policy": old["HostConfig"].get("RestartPolicy") if docker else None,
        "running": running,
        "keep": keep_previous,
        "stop": timeouts.stop,
    }
    report = SwapReport(old["Id"], "", strategy, announced=parent is not None)
    clock = _Clock(report)
    body = _labelled(create, record)
    policy = body["HostConfig"].get("RestartPolicy") or _NO_RESTART
    if docker:
        body["HostConfig"]["RestartPolicy"] = _NO_RESTART
    endpoint = ((create.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).get(identity.network) or {}

    journal.will_do(f"put {name} back into service as it was", PUT_BACK, record=record)
    report.new_id = engine.create_container(next_name(name), body)
    if docker:
        engine.disconnect(identity.network, report.new_id)
    clock.lap("create")
    if strategy == "sequential" and running:
        journal.will_do(f"let {name} come to its stop", LET_STOP, record=record)
        engine.stop_container(old["Id"], timeouts.stop)
        clock.lap("stop")
    engine.start_container(report.new_id)
    clock.lap("start")
    with _told_if_ended(engine, report.new_id):
        if docker:
            lend_addresses(netns_of(_pid(engine, report.new_id)), identity)
            if strategy == "overlap":
                wait_for_health(engine, report.new_id, ready, timeouts.ready, "to get ready")
                clock.lap("ready")
            take_over(engine, network, parent, identity, endpoint, old["Id"], report.new_id, timeouts.link)
            return_addresses(netns_of(_pid(engine, report.new_id)), identity)
        else:
            announce_engines_link(engine, report.new_id, identity, timeouts.link)
    clock.lap("take_over")
    # In this order, and at once: a reboot from here on starts the one that has the network.
    if docker:
        engine.update_container(report.new_id, {"RestartPolicy": policy})
        engine.update_container(old["Id"], {"RestartPolicy": _NO_RESTART})
    with _told_if_ended(engine, report.new_id):
        wait_for_health(engine, report.new_id, serving, timeouts.serving, "to be well in service")
    clock.lap("serving")
    engine.remove_container(previous_name(name))
    engine.rename_container(old["Id"], previous_name(name))
    engine.rename_container(report.new_id, name)
    journal.settle()
    journal.will_do(f"stop the replaced container of {name}", RETIRE, record=record)
    _retire(engine, record)
    journal.settle()
    report.kept = previous_name(name) if keep_previous else None
    clock.lap("retire")
    return report


def undo(engine: DockerApi, name: str, data: t.Mapping[str, t.Any]) -> None:
    """Carry out a journal entry of :func:`swap`.

    Before the new container has proved well the old one is put back; afterwards the old one is retired.
    """
    if name == PUT_BACK:
        put_back(engine, data["record"])
    elif name == LET_STOP:
        # A stop that a killed module has asked for goes on in the engine; a start before its end would be in vain.
        engine.stop_container(data["record"]["old_id"], data["record"]["stop"])
    elif name == RETIRE:
        _retire(engine, data["record"])
    else:
        raise GridboxError(f"The handover knows no journal entry {name}.")


def recover(engine: DockerApi, name: str) -> list[str]:
    """Finish or take back a swap that neither the module nor its guard could end, for instance after a power cut.

    :returns: sentences about what was done; empty if there was nothing to do.
    """
    upcoming, current = engine.container(next_name(name)), engine.container(name)
    record = _record_in(upcoming)
    if upcoming and record is None:
        raise RefusedError(
            f"name: {name}",
            f"there is a container {next_name(name)} that no swap has made",
            "Rename or remove it; a swap needs the name.",
        )
    if record:
        put_back(engine, record)
        return [f"An interrupted swap of {name} was taken back; the container before it is in service again."]
    record = _record_in(current)
    previous = engine.container(previous_name(name))
    if record and previous and previous["Id"] == record["old_id"] and not _is_retired(previous, record):
        _retire(engine, record)
        return [f"An interrupted swap of {name} was finished: the replaced container is stopped."]
    return []


# ---- the handover ------------------------------------------------------------------------------------------------


def take_over(
    engine: DockerApi,
    network: Json,
    parent: t.Optional[Parent],
    identity: Identity,
    endpoint: t.Mapping[str, t.Any],
    giver: t.Optional[str],
    taker: str,
    link_seconds: float,
    back: bool = False,
) -> None:
    """Move the endpoint of a network from one running container to another one, announced where that can be done.

    :param parent: of the network; None: there can be no interim link, so the service is unreachable in between.
    :param endpoint: the Engine API's ``EndpointConfig`` for the taker.
    :param giver: id of the container that has the endpoint; None, or one that has none, is fine.
    :param back: this is the way back of a handover that has failed.
    """
    netns = netns_of(_pid(engine, taker))
    interim = None
    if parent:
        interim = InterimLink(netns, identity, interim_mac(identity.mac, _macs_on(network), back))
        interim.put_up(parent, link_seconds)
        with Announcements(netns, LINK, interim.mac, identity) as announcements:
            # Peers have heard it before the old link goes, and hear it until the engine is done: the old container may
            # ask around in the meantime, which tells them the old MAC.
            announcements.wait_for(3)
            _give(engine, identity.network, giver)
            engine.connect(identity.network, taker, endpoint)
            mac = _mac_of(engine, taker, identity)
            link = wait_until_it_carries(netns, mac, link_seconds)
            interim.leave_to_main()
    else:
        _give(engine, identity.network, giver)
        engine.connect(identity.network, taker, endpoint)
        mac = _mac_of(engine, taker, identity)
        link = wait_until_it_carries(netns, mac, link_seconds)
    with Announcements(netns, link, mac, identity) as announcements:
        announcements.wait_for(5)
    if interim:
        interim.take_down()


def announce_engines_link(engine: DockerApi, container: str, identity: Identity, seconds: float) -> None:
    """Tell the LAN the addresses and MAC of the link that the engine has made."""
    netns = netns_of(_pid(engine, container))
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


def _give(engine: DockerApi, network: str, giver: t.Optional[str]) -> None:
    """Take the endpoint from a container, if it has one."""
    held = engine.container(giver) if giver else None
    if held and _is_on(held, network):
        engine.disconnect(network, held["Id"])


def _is_on(container: Json, network: str) -> bool:
    """Whether a container has an endpoint on a network; if it does not run: whether it will get one at its start."""
    endpoint = container["NetworkSettings"]["Networks"].get(network)
    # After a connect that it refused, the engine (20.10) goes on listing the network, without endpoint.
    return endpoint is not None and (bool(endpoint.get("EndpointID")) or not container["State"]["Running"])


# ---- the way back ------------------------------------------------------------------------------------------------


def put_back(engine: DockerApi, record: t.Mapping[str, t.Any]) -> None:
    """Put the old container back into service and remove the new one, whatever state both are in.

    Looks, mends, and looks again until nothing is to be mended twice in a row: a request of a module that was killed
    may still be at work in the engine.
    """
    if engine.container(record["old_id"]) is None:
        raise GridboxError(f"The container that {record['name']} was before, {record['old_id'][:12]}, is gone.")
    deadline = time.monotonic() + PUT_BACK_SECONDS
    quiet = 0
    while quiet < 2:
        refused: t.Optional[GridboxError] = None
        try:
            mended = _mend(engine, record)
        except GridboxError as exc:
            # For one that passes, such as an address that is taken for a moment.
            mended, refused = True, exc
        if time.monotonic() > deadline:
            raise refused or WaitError(f"{record['name']} to stay as it was", PUT_BACK_SECONDS)
        quiet = 0 if mended else quiet + 1
        if refused or not mended:
            time.sleep(0.3)


def _mend(engine: DockerApi, record: t.Mapping[str, t.Any]) -> bool:
    """One round of :func:`put_back`. Returns whether there was something to do."""
    name, network_name = record["name"], record["network"]
    old = engine.container(record["old_id"])
    if old is None:
        raise GridboxError(f"The container that {name} was before, {record['old_id'][:12]}, is gone.")
    new = next(
        (
            made
            for made in (engine.container(next_name(name)), engine.container(name))
            if made and (_record_in(made) or {}).get("old_id") == record["old_id"]
        ),
        None,
    )
    mended = announced = False
    identity = Identity(**record["identity"]) if record["identity"] else None
    if record["endpoint"] is not None and not _is_on(old, network_name):
        mended = True
        if old["State"]["Running"] and identity:
            network = engine.network(network_name)
            if network is None:
                raise GridboxError(f"The network {network_name} is gone.")
            giver = new["Id"] if new else None
            take_over(
                engine, network, Parent.of(network), identity, record["endpoint"], giver, old["Id"], Timeouts().link,
                back=True,
            )  # fmt: skip
            announced = True
        else:
            _give(engine, network_name, new["Id"] if new else None)
            engine.connect(network_name, old["Id"], record["endpoint"])
    if record["running"] and not old["State"]["Running"]:
        mended = True
        if new:
            engine.stop_container(new["Id"], 0)
        engine.start_container(old["Id"])
    if new and record["running"] and identity and not announced:
        # The LAN may have been told of the new one; unless it is told otherwise, it goes on asking there for a while.
        announce_engines_link(engine, old["Id"], identity, Timeouts().link)
    if record["policy"] and old["HostConfig"]["RestartPolicy"] != record["policy"]:
        mended = True
        engine.update_container(old["Id"], {"RestartPolicy": record["policy"]})
    if new and new["Name"].lstrip("/") == name:
        mended = True
        engine.rename_container(new["Id"], next_name(name))
    if old["Name"].lstrip("/") != name:
        mended = True
        engine.rename_container(old["Id"], name)
    if new:
        # Last, for its label is what a later look has to go by.
        mended = True
        engine.remove_container(new["Id"], force=True, volumes=True)
    return mended


def _retire(engine: DockerApi, record: t.Mapping[str, t.Any]) -> None:
    """Stop the replaced container, and remove it unless it is kept."""
    old = engine.container(record["old_id"])
    if old is None:
        return
    if record["policy"] and old["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no"):
        engine.update_container(old["Id"], {"RestartPolicy": _NO_RESTART})
    engine.stop_container(old["Id"], record["stop"])
    if not record["keep"]:
        engine.remove_container(old["Id"], force=True)


def _is_retired(previous: Json, record: t.Mapping[str, t.Any]) -> bool:
    return bool(record["keep"]) and not previous["State"]["Running"]


# ---- health ------------------------------------------------------------------------------------------------------


def wait_for_health(engine: DockerApi, container: str, probe: t.Optional[Probe], seconds: float, awaited: str) -> None:
    """Ask until the container is well.

    :raises GridboxError: at once if it has ended.
    :raises WaitError: if it is not well in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        _pid(engine, container)
        reason = probe(container) if probe else None
        if reason is None:
            return
        if time.monotonic() > deadline:
            raise WaitError(f"the new container {awaited}", seconds, reason)
        time.sleep(0.1)


@contextlib.contextmanager
def _told_if_ended(engine: DockerApi, container: str) -> t.Iterator[None]:
    """Whatever fails in the block: that the container has ended is the better explanation."""
    try:
        yield
    except GridboxError as exc:
        deadline = time.monotonic() + 2
        while True:
            state = (engine.container(container) or {}).get("State") or {}
            if not state.get("Running") or state.get("Restarting"):
                break
            # The engine may not have noticed yet.
            if os.path.exists(netns_of(state["Pid"])) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        words = engine.last_words(container)
        raise GridboxError(
            f"The new container has ended with exit code {state.get('ExitCode')}."
            + (f" Its last words: {words}" if words else "")
        ) from exc


# ---- small readings ----------------------------------------------------------------------------------------------


class _Clock:
    """Notes in a report how long each part took."""

    def __init__(self, report: SwapReport) -> None:
        self._report = report
        self._start = self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self._report.phases[phase] = round(now - self._last, 4)
        self._report.seconds = round(now - self._start, 4)
        self._last = now


def _refuse_leftovers(engine: DockerApi, name: str) -> None:
    if engine.container(next_name(name)):
        raise RefusedError(
            f"name: {name}", f"{next_name(name)} is left over from an interrupted swap", "Recover it first."
        )
    previous = engine.container(previous_name(name))
    if previous and previous["State"]["Running"]:
        raise RefusedError(f"name: {name}", f"{previous_name(name)} is running", "Stop it or rename it first.")


def _labelled(create: Json, record: t.Mapping[str, t.Any]) -> Json:
    """A copy of the create body, with the label."""
    labels = {**(create.get("Labels") or {}), REPLACES_LABEL: json.dumps(record, sort_keys=True)}
    return {**create, "HostConfig": dict(create.get("HostConfig") or {}), "Labels": labels}


def _record_in(container: t.Optional[Json]) -> t.Optional[Json]:
    text = ((container or {}).get("Config") or {}).get("Labels", {}).get(REPLACES_LABEL)
    return t.cast(Json, json.loads(text)) if text else None


def _identity_data(identity: t.Optional[Identity]) -> t.Optional[dict[str, t.Any]]:
    return identity.as_data() if identity else None


def _endpoint_of(engine: DockerApi, container: Json, network: str) -> t.Optional[Json]:
    """The ``EndpointConfig`` with which a container gets back what it has on a network; None if it is not on it."""
    now = container["NetworkSettings"]["Networks"].get(network)
    if now is None:
        return None
    asked = now.get("IPAMConfig") or {}
    wanted = {
        "IPv4Address": now.get("IPAddress") or asked.get("IPv4Address"),
        "IPv6Address": now.get("GlobalIPv6Address") or asked.get("IPv6Address"),
    }
    endpoint: Json = {"IPAMConfig": {key: value for key, value in wanted.items() if value}}
    # The engine adds the short id by itself.
    aliases = [alias for alias in now.get("Aliases") or [] if alias != container["Id"][:12]]
    if aliases:
        endpoint["Aliases"] = aliases
    if now.get("DriverOpts"):
        endpoint["DriverOpts"] = now["DriverOpts"]
    # Before API 1.44 (Docker 25) the MAC is the container's, and goes with the network that its NetworkMode names.
    if engine.platform.api >= (1, 44) and now.get("MacAddress"):
        endpoint["MacAddress"] = now["MacAddress"]
    return endpoint


def _macs_on(network: Json) -> set[str]:
    return {str(end.get("MacAddress", "")).lower() for end in (network.get("Containers") or {}).values()}


def _pid(engine: DockerApi, container: str) -> int:
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

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

Where the engine cannot do step 3 (:func:`.put_back.endpoints_move`), a stand-in serves meanwhile (:mod:`.stand_in`).
With ``sequential`` the old one is stopped before the new one starts, for services that may never run twice.

What ends in any case: connections that are open to the old container.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import (
    LINK_SECONDS,
    Parent,
    lend_addresses,
    netns_of,
    return_addresses,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.put_back import (
    NO_RESTART,
    REPLACES_LABEL,
    endpoints_move,
    is_retired,
    make_record,
    next_name,
    policies_change,
    previous_name,
    put_back,
    record_in,
    retire,
    stand_in_name,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.stand_in import StandIn
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.take_over import (
    announce_engines_link,
    pid_of,
    take_over,
)

#: Asks whether the container with this id is well: None, or the reason why not yet. Raises GridboxError if it never
#: will be.
Probe = t.Callable[[str], t.Optional[str]]

#: Names of the journal's entries that are for :func:`undo`.
PUT_BACK = "put_back_replaced_container"
LET_STOP = "let_stop"
RETIRE = "retire_replaced_container"


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
    link: float = LINK_SECONDS


@dataclass
class SwapReport:
    """What a swap did.

    :ivar strategy: ``overlap`` or ``sequential``.
    :ivar remark: what the engine cannot do, so that the swap takes another way; empty if there is nothing.
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
    remark: str = ""
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)


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
    attachments: t.Optional[t.Mapping[str, Json]] = None,
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
    :param attachments: ``EndpointConfig`` by name of other networks that the new one is to be on beside the old one,
        which keeps its own. So nothing is to be put back: they go with the new one.
    :raises GridboxError: after which the journal's entries put the old container back.
    """
    timeouts = timeouts or Timeouts()
    network = engine.network(identity.network)
    if network is None:
        raise GridboxError(f"There is no network {identity.network} to swap {name} on.")
    _refuse_leftovers(engine, name)
    running = bool(old["State"]["Running"])
    movable, remark = endpoints_move(engine.platform)
    parent = Parent.of(network) if engine.platform.name == "docker" else None
    stand_in = None
    if strategy == "overlap" and running and parent and not movable:
        stand_in = StandIn(engine, name, network, parent, identity)
    elif not running or not movable:
        strategy = "sequential"
    if old["HostConfig"].get("AutoRemove") and (strategy == "sequential" or stand_in or keep_previous):
        raise RefusedError(
            f"name: {name}",
            "the engine removes the container as soon as it stops (docker run --rm), so it could neither be kept nor"
            " be started again",
            "Take swap.strategy: overlap and swap.keep_previous: false.",
        )
    record = make_record(engine, old, name, identity.network, keep_previous, timeouts.stop)
    announced = parent is not None and (movable or stand_in is not None)
    report = SwapReport(old["Id"], "", strategy, announced=announced, remark=remark)
    clock = _Clock(report)
    body = _labelled(create, record)
    policy = body["HostConfig"].get("RestartPolicy") or NO_RESTART
    if policies_change(engine.platform):
        body["HostConfig"]["RestartPolicy"] = NO_RESTART
    endpoint = ((create.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).get(identity.network) or {}

    journal.will_do(f"put {name} back into service as it was", PUT_BACK, record=record)
    try:
        if stand_in:
            made = stand_in.make(body)
            with _told_if_ended(engine, made):
                wait_for_health(engine, made, ready, timeouts.ready, "to get ready")
                stand_in.serve(timeouts.link)
            clock.lap("stand_in")
        report.new_id = engine.create_container(next_name(name), body)
        if movable:
            engine.disconnect(identity.network, report.new_id)
        clock.lap("create")
        if running and (strategy == "sequential" or stand_in):
            journal.will_do(f"let {name} come to its stop", LET_STOP, record=record)
            engine.stop_container(old["Id"], timeouts.stop)
            clock.lap("stop")
        engine.start_container(report.new_id)
        clock.lap("start")
        with _told_if_ended(engine, report.new_id):
            if movable:
                lend_addresses(netns_of(pid_of(engine, report.new_id)), identity)
            if strategy == "overlap":
                wait_for_health(engine, report.new_id, ready, timeouts.ready, "to get ready")
                clock.lap("ready")
            if stand_in:
                stand_in.fall_silent()
            if movable:
                take_over(engine, network, parent, identity, endpoint, old["Id"], report.new_id, timeouts.link)
                return_addresses(netns_of(pid_of(engine, report.new_id)), identity)
            else:
                announce_engines_link(engine, report.new_id, identity, timeouts.link)
    finally:
        if stand_in:
            stand_in.fall_silent()
    if stand_in:
        stand_in.remove()
        with _told_if_ended(engine, report.new_id):
            # Until it was gone the stand-in may have told somebody of its own MAC.
            announce_engines_link(engine, report.new_id, identity, timeouts.link)
    clock.lap("take_over")
    # In this order, and at once: a reboot from here on starts the one that has the network.
    if policies_change(engine.platform):
        engine.update_container(report.new_id, {"RestartPolicy": policy})
    if record["policy"]:
        engine.update_container(old["Id"], {"RestartPolicy": NO_RESTART})
    with _told_if_ended(engine, report.new_id):
        for other, attachment in (attachments or {}).items():
            engine.connect(other, report.new_id, attachment)
        wait_for_health(engine, report.new_id, serving, timeouts.serving, "to be well in service")
    clock.lap("serving")
    engine.remove_container(previous_name(name))
    engine.rename_container(old["Id"], previous_name(name))
    engine.rename_container(report.new_id, name)
    journal.settle()
    journal.will_do(f"stop the replaced container of {name}", RETIRE, record=record)
    retire(engine, record)
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
        retire(engine, data["record"])
    else:
        raise GridboxError(f"The handover knows no journal entry {name}.")


def recover(engine: DockerApi, name: str) -> list[str]:
    """Finish or take back a swap that neither the module nor its guard could end, for instance after a power cut.

    :returns: sentences about what was done; empty if there was nothing to do.
    """
    for made in (next_name(name), stand_in_name(name)):
        upcoming = engine.container(made)
        record = record_in(upcoming)
        if upcoming and record is None:
            raise RefusedError(
                f"name: {name}",
                f"there is a container {made} that no swap has made",
                "Rename or remove it; a swap needs the name.",
            )
        if record:
            put_back(engine, record)
            return [f"An interrupted swap of {name} was taken back; the container before it is in service again."]
    record = record_in(engine.container(name))
    previous = engine.container(previous_name(name))
    if record and previous and previous["Id"] == record["old_id"] and not is_retired(previous, record):
        retire(engine, record)
        return [f"An interrupted swap of {name} was finished: the replaced container is stopped."]
    return []


# ---- health ------------------------------------------------------------------------------------------------------


def wait_for_health(engine: DockerApi, container: str, probe: t.Optional[Probe], seconds: float, awaited: str) -> None:
    """Ask until the container is well.

    :raises GridboxError: at once if it has ended.
    :raises WaitError: if it is not well in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        pid_of(engine, container)
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


# ---- small things ------------------------------------------------------------------------------------------------


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

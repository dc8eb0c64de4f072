# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The work of macvlan_net: observe, plan, preflight, do and undo, for the front room."""

from __future__ import annotations

import os
import socket
import time
import typing as t

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.engine.find import engine_from
from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    EngineError,
    GridboxError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot, decide, links, picture, wire
from ansible_collections.hep.gridbox.plugins.module_utils.network.observe import Host
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import SHIM_RESERVATION, Wish, wish_from
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

#: Seconds for which an undo waits for an engine that does not answer, as when it is being started again.
ENGINE_PATIENCE = 60.0
#: Seconds for which an undo tries again what the engine refuses: a request of the process that died may be running.
REFUSAL_PATIENCE, LEAST_TRIES = 5.0, 3
#: An undo ends when it has found everything in place so many times, so many seconds apart, for the same reason.
CALM_LOOKS, CALM_SECONDS = 3, 0.15

#: What the right to talk to the engine is not enough for.
_ROOTS_OWN = ("create_shim", "change_shim", "remove_shim", "write_file", "remove_file")

Data = t.Mapping[str, t.Any]


class MacvlanWork:
    """See :class:`~..front_room.Work`."""

    def __init__(self, wish: Wish, engine: DockerApi) -> None:
        self._wish = wish
        self.subject = f"network {wish.name} of {engine.url}"
        self._engine = engine
        self._restore_noted = False

    @classmethod
    def from_params(cls, params: Data) -> MacvlanWork:
        """Check the parameters and build the work.

        :raises InputError: for a value that cannot be right.
        """
        return cls(wish_from(params), engine_from(params))

    def observe(self) -> decide.Observed:
        """Read the engine and its host."""
        return Host.read(self._engine).seen_for(self._wish.name)

    def plan(self, observed: decide.Observed) -> Plan:
        """Decide."""
        return decide.make_plan(self._wish, observed)

    def preflight(self, plan: Plan, observed: decide.Observed) -> None:
        """Ask whether this login may do it all, and the LAN whether what the shim is about to use is in use."""
        for step in plan.steps:
            if step.action in _ROOTS_OWN and os.geteuid() != 0:
                raise RefusedError(
                    f"{step.action} {step.target}",
                    "the module runs as another user, and this needs root",
                    "Run the task with become: true.",
                )
            shim = step.details.get("shim")
            if shim is not None:
                self._refuse_without_ipv6(shim)
                self._refuse_taken(shim, observed)

    @staticmethod
    def _refuse_without_ipv6(shim: links.Shim) -> None:
        ipv6 = next((address for address in shim.addresses if address.version == 6), None)
        for scope in ("all", "default"):
            path = f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"
            if ipv6 is None or not os.path.exists(path):
                continue
            with open(path, encoding="ascii") as setting:
                if setting.read().strip() == "1":
                    raise RefusedError(
                        f"shim.ipv6: {ipv6}",
                        f"IPv6 is switched off on this host (net.ipv6.conf.{scope}.disable_ipv6 is 1)",
                        "Switch it on, or leave shim.ipv6 out.",
                    )

    def _refuse_taken(self, shim: links.Shim, seen: decide.Observed) -> None:
        here = [one for one in seen.shims if one.parent == shim.parent]
        have = {address for one in here for address in one.addresses}
        own_macs = {one.mac for one in here}
        asked = [str(address) for address in shim.addresses if address not in have]
        if shim.mac not in own_macs:
            asked.append(shim.mac)
        if not asked or not self._wish.probe_seconds:
            return
        for answer in wire.probe(shim.parent, asked, self._wish.probe_seconds, ignore=own_macs):
            if answer.asked == shim.mac:
                raise RefusedError(
                    f"shim.mac: {shim.mac}",
                    f"a machine on the LAN of {shim.parent} has that MAC, which follows from the shim's addresses",
                    "Is the same shim in use on another host? Give this one addresses of its own.",
                )
            version = 6 if ":" in answer.asked else 4
            raise RefusedError(
                f"shim.ipv{version}: {answer.asked}",
                f"the machine with the MAC {answer.mac} on the LAN of {shim.parent} has that address",
                "Take a free one, or take it away from that machine first.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        """Carry out one step."""
        t.cast("t.Callable[[Step, Journal], None]", getattr(self, f"_{step.action}"))(step, journal)

    def undo(self, name: str, data: Data) -> None:
        """Take back one journal entry."""
        t.cast("t.Callable[[Data], None]", getattr(self, f"_undo_{name}"))(data)

    def before_guard_undo(self) -> None:
        """The connection was shared with the process that died."""
        self._engine.reset()

    def result(self, observed: decide.Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        """The documented return values."""
        state = decide.predict(self._wish, observed) if plan.steps and not applied else observed
        result = {
            "network": decide.network_result(state),
            "host_access": decide.host_access(state),
            "boot": decide.boot_result(state),
        }
        warnings = self._warnings(state)
        return {**result, "warnings": warnings} if warnings else result

    def _warnings(self, state: decide.Observed) -> list[str]:
        """What works, and yet deserves a word."""
        said: list[str] = []
        if state.network is None:
            return said
        for family, wanted in ((state.network.ipv4, self._wish.ipv4), (state.network.ipv6, self._wish.ipv6)):
            missing = dict(wanted.reserved).get(SHIM_RESERVATION) if wanted else None
            if family is None or missing is None or missing in dict(family.reserved).values():
                continue
            if family.ip_range is None or missing in family.ip_range:
                said.append(
                    f"The network {self._wish.name} was made without reserving the shim's address {missing}; the engine"
                    " may give it to a container that asks for none. Give every container its address."
                )
        return said

    # ---- steps: the network ---------------------------------------------------------------------------------------

    def _detach_endpoint(self, step: Step, journal: Journal) -> None:
        self._require_parent(step.details["parent"])
        self._note_restore(step, journal)
        self._engine.disconnect(self._wish.name, step.details["container"])

    def _remove_network(self, step: Step, journal: Journal) -> None:
        if "parent" in step.details:
            self._require_parent(step.details["parent"])
        self._note_restore(step, journal)
        self._engine.remove_network(step.details["old"]["id"])

    def _create_network(self, step: Step, journal: Journal) -> None:
        self._require_parent(self._wish.parent)
        if "old" not in step.details:
            journal.will_do(f"the new network {step.target} removed", "remove_network", network=step.target)
        self._engine.create_network(step.details["request"])

    def _attach_endpoint(self, step: Step, _journal: Journal) -> None:
        wanted = step.details["endpoint"]
        self._engine.connect(self._wish.name, wanted["id"], wanted["settings"])
        network = self._network(self._wish.name)
        differs = "it is not attached" if network is None else self._differs(network, wanted)
        if differs:
            raise GridboxError(f"The engine attached {wanted['container']}, but {differs}.")

    def _note_restore(self, step: Step, journal: Journal) -> None:
        """Once per plan: the whole network as it was, with all that is attached."""
        if self._restore_noted:
            return
        old = step.details["old"]
        names = ", ".join(endpoint["container"] for endpoint in old["endpoints"])
        title = f"the network {self._wish.name} as it was" + (f", with {names}" if names else "")
        journal.will_do(title, "restore_network", old=old)
        self._restore_noted = True

    @staticmethod
    def _require_parent(parent: str) -> None:
        """The engine makes a missing VLAN link by side effect, so look again right before it could."""
        try:
            socket.if_nametoindex(parent)
        except OSError:
            raise GridboxError(f"The parent {parent} was there a moment ago and is gone.") from None

    # ---- steps: the host's way ------------------------------------------------------------------------------------

    def _set_shim(self, step: Step, journal: Journal) -> None:
        before: t.Optional[links.Shim] = step.details["before"]
        title = f"the shim {step.target} as it was" if before else f"the shim {step.target} removed"
        journal.will_do(title, "set_shim", link=step.target, shim=before.as_data() if before else None)
        links.set_shim(step.target, step.details["shim"])

    _create_shim = _change_shim = _remove_shim = _set_shim

    def _create_bridge(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"the new network {step.target} removed", "remove_network", network=step.target)
        self._engine.create_network(step.details["request"])

    def _attach_to_bridge(self, step: Step, journal: Journal) -> None:
        bridge, container = step.details["bridge"], step.details["container"]
        journal.will_do(f"{step.target} detached from {bridge}", "detach", network=bridge, container=container)
        self._engine.connect(bridge, container, {})

    def _detach_from_bridge(self, step: Step, journal: Journal) -> None:
        bridge, endpoint = step.details["bridge"], step.details["endpoint"]
        journal.will_do(f"{step.target} attached to {bridge} again", "attach", network=bridge, endpoint=endpoint)
        self._engine.disconnect(bridge, endpoint["id"])

    def _remove_bridge(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"the network {step.target} as it was", "restore_network", old=step.details["old"])
        self._engine.remove_network(step.details["old"]["id"])

    # ---- steps: the boot ------------------------------------------------------------------------------------------

    def _set_file(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"{step.target} as it was", "set_file", path=step.target, text=step.details["before"])
        boot.set_files({step.target: step.details["text"]})

    _write_file = _remove_file = _set_file

    # ---- undo -----------------------------------------------------------------------------------------------------

    def _undo_set_shim(self, data: Data) -> None:
        links.set_shim(data["link"], links.Shim.from_data(data["shim"]) if data["shim"] else None)

    def _undo_set_file(self, data: Data) -> None:
        boot.set_files({data["path"]: data["text"]})

    def _undo_restore_network(self, data: Data) -> None:
        old = data["old"]
        self._until_calm(
            f"the network {old['create']['Name']} to be as it was",
            lambda: self._not_as_it_was(old),
            lambda: self._put_back(old),
        )

    def _undo_remove_network(self, data: Data) -> None:
        name = data["network"]

        def there() -> str:
            return f"{name} is still there" if self._engine.network(name) else ""

        self._until_calm(f"the network {name} to be gone", there, lambda: self._remove_with_endpoints(name))

    def _undo_detach(self, data: Data) -> None:
        def attached() -> str:
            network = self._network(data["network"])
            ids = [endpoint.id for endpoint in picture.read_endpoints(self._engine, network)]
            return f"it is attached to {data['network']}" if data["container"] in ids else ""

        self._until_calm(
            f"the container to be detached from {data['network']}",
            attached,
            lambda: self._engine.disconnect(data["network"], data["container"], force=True),
        )

    def _undo_attach(self, data: Data) -> None:
        name, endpoint = data["network"], data["endpoint"]

        def missing() -> str:
            network = self._network(name)
            return self._differs(network, endpoint) if network else f"there is no network {name}"

        self._until_calm(
            f"{endpoint['container']} to be attached to {name} again",
            missing,
            lambda: self._attach_anew(name, endpoint),
        )

    @staticmethod
    def _until_calm(awaited: str, wrong: t.Callable[[], str], mend: t.Callable[[], None]) -> None:
        """Mend until nothing is wrong, and stays so.

        A request of a process that was killed may still be at work in the engine, and the engine itself may be on its
        way up; so look again, try again, and do not believe the first look.

        :param wrong: says what is not as it should be; empty if all is.
        :raises WaitError: if it does not get there; with what is still wrong, or the engine's last words.
        """
        began = time.monotonic()
        answers: list[float] = []
        calm = 0
        while calm < CALM_LOOKS:
            try:
                last = wrong()
                if not last:
                    calm += 1
                    time.sleep(CALM_SECONDS)
                    continue
                calm = 0
                mend()
                answers.append(time.monotonic())
            except EngineError as exc:
                last, calm = str(exc), 0
                if exc.status is not None:
                    answers.append(time.monotonic())
            waited = time.monotonic() - began
            tired = len(answers) > LEAST_TRIES and answers[-1] - answers[0] > REFUSAL_PATIENCE
            if tired or waited > ENGINE_PATIENCE:
                raise WaitError(awaited, round(waited, 1), last)
            time.sleep(0.1)

    def _not_as_it_was(self, old: Data) -> str:
        network = self._network(old["create"]["Name"])
        if network is None:
            return "the network is missing"
        if network.id != old["id"] and dict(network.create) != old["create"]:
            return "the network is the new one"
        return next(filter(None, (self._differs(network, endpoint) for endpoint in old["endpoints"])), "")

    def _put_back(self, old: Data) -> None:
        name = old["create"]["Name"]
        network = self._network(name)
        if network is not None and network.id != old["id"] and dict(network.create) != old["create"]:
            self._remove_with_endpoints(name)
            network = None
        if network is None:
            self._engine.create_network(old["create"])
            network = self._network(name)
        for endpoint in old["endpoints"]:
            if network is not None and self._differs(network, endpoint):
                self._attach_anew(name, endpoint)

    def _remove_with_endpoints(self, name: str) -> None:
        network = self._network(name)
        if network is None:
            return
        for endpoint in picture.read_endpoints(self._engine, network):
            self._engine.disconnect(name, endpoint.id, force=True)
        self._engine.remove_network(network.id)

    def _attach_anew(self, network: str, endpoint: Data) -> None:
        try:
            self._engine.disconnect(network, endpoint["id"], force=True)
        except EngineError as exc:
            # Refused: it is not attached, whatever the engine lists, or only half. Connecting it will tell.
            if exc.status is None:
                raise
        self._engine.connect(network, endpoint["id"], endpoint["settings"])

    def _network(self, name: str) -> t.Optional[picture.Network]:
        return next((one for one in picture.read_networks(self._engine) if one.name == name), None)

    def _differs(self, network: picture.Network, wanted: Data) -> str:
        """What an attachment lacks, in words; empty if it is as wanted, or if its container is gone."""
        container = self._engine.container(wanted["id"])
        if container is None:
            return ""
        settings = picture.attachment(container["NetworkSettings"].get("Networks") or {}, network)
        if settings is None:
            return f"{wanted['container']} is not attached to {network.name}"
        found = picture.endpoint_of(container, settings, self._engine.platform)
        if found.running and settings.get("NetworkID") not in (None, network.id, network.name):
            return f"{wanted['container']} is attached to another {network.name}"
        # A container that has stopped since has no addresses but those it asks for.
        for key in ("ipv4", "ipv6", "mac"):
            if wanted[key] and getattr(found, key) != wanted[key] and (found.running or getattr(found, key)):
                return f"{wanted['container']} has {key} {getattr(found, key) or 'none'} instead of {wanted[key]}"
        missing = sorted(set(wanted["aliases"]) - set(found.aliases))
        if missing:
            return f"{wanted['container']} lacks the aliases {', '.join(missing)}"
        if found.pid and os.path.exists(f"/proc/{found.pid}/ns/net"):
            lacking = links.lacking_inside(found.pid, found.mac, found.addresses)
            return f"inside {wanted['container']} there is {lacking}" if lacking else ""
        return ""

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carry out the steps of a VO-box's plan, and take them back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi, Json
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.host.processes import kill
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Step
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.container_json import (
    CREATION_LABEL,
    create_body,
    update_body,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Service, Values, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.gate import Gate
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.host_files import Folder, read_launch
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.observe import Observed, folder_of, launch_folder
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.restart import forget, restart

#: Seconds between two requests to restart, in case the runner was just about to fall asleep when the first one came.
_SIGNAL_AGAIN = 3.0

#: Seconds for an old init script to be launched again by an undo.
_UNDO_SECONDS = 30.0


class Actor:
    """Does and undoes. An undo may run in another process than the doing, with nothing but names and plain data.

    :ivar swap: how the swap went, for the result; None without one.
    :ivar found: sentences about what an earlier run, or a power cut, had left and what became of it.
    """

    def __init__(self, engine: DockerApi, wish: Wish, seen: Observed) -> None:
        self.engine = engine
        self.wish = wish
        self.seen = seen
        self.folder = Folder(folder_of(wish.files, wish.name))
        self.swap: t.Optional[Json] = None
        self.found: list[str] = []

    def do(self, step: Step, journal: Journal) -> None:
        """Carry out one step."""
        getattr(self, f"_do_{step.action}")(step, journal)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        """Take one journal entry back; idempotent."""
        own = getattr(self, f"_undo_{name}", None)
        if own is not None:
            own(data)
            return
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox import handover

        handover.undo(self.engine, name, data)

    # ---- the container --------------------------------------------------------------------------------------------

    def _do_create_container(self, step: Step, journal: Journal) -> None:
        self._create(step.target, step.details["values"], step.details["image"], journal)

    def _do_start_container(self, step: Step, journal: Journal) -> None:
        self._renew_launch_folder()
        journal.will_do(f"stop {step.target}", "start", container=step.target, grace=self._grace())
        self.engine.start_container(step.target)
        self._gate().wait(step.target)
        self._announce(step.target)

    def _announce(self, container: str) -> None:
        """Tell the LAN where the VO-box is: its neighbours may remember another machine that had its addresses."""
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox.interim_link import LINK_SECONDS
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox.take_over import announce_engines_link

        network = self.wish.values.get("network.name") or self.seen.values.get("network.name")
        identity = Identity.of(self.engine.container(container) or {}, network) if network else None
        if identity:
            announce_engines_link(self.engine, container, identity, LINK_SECONDS)

    def _undo_start(self, data: t.Mapping[str, t.Any]) -> None:
        self.engine.stop_container(data["container"], data["grace"])

    def _do_stop_container(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"start {step.target}", "stop", container=step.target, grace=self._grace())
        self.engine.stop_container(step.target, self._grace())
        self._end_cut_short_restart("stays stopped")

    def _undo_stop(self, data: t.Mapping[str, t.Any]) -> None:
        self._let_stop(data)
        self._start_again(data["container"])

    def _let_stop(self, data: t.Mapping[str, t.Any]) -> None:
        """A stop goes on in the engine when whoever asked for it has ended; a start before its end would be in vain."""
        self.engine.stop_container(data["container"], data["grace"])

    def _start_again(self, name: str) -> None:
        self.engine.start_container(name)
        container = self.engine.container(name)
        if container:
            forget(container["Id"])

    def _do_restart_container(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"start {step.target}", "restart", container=step.target)
        self._renew_launch_folder()
        restart(self.engine, step.target, self._grace())
        self._gate().wait(step.target)
        if self.seen.cut_short:
            self._announce(step.target)
            self._end_cut_short_restart("is in service again")

    def _undo_restart(self, data: t.Mapping[str, t.Any]) -> None:
        # The engine goes on with a restart to its start: to stop the container here would be one outage more.
        self._start_again(data["container"])

    def _end_cut_short_restart(self, now: str) -> None:
        """Where a restart that an earlier run began was cut short: forget that, and say what became of it. Where it has
        only failed: forget that, or a later stop would look like a restart that was cut short.

        :param now: the rest of a sentence that begins with the VO-box.
        """
        if self.seen.container:
            forget(self.seen.container["Id"])
        if self.seen.cut_short:
            self.found.append(f"A restart of {self.wish.name} was cut short; it {now}.")

    def _do_update_container(self, step: Step, journal: Journal) -> None:
        journal.will_do(
            f"put back limits and restart policy of {step.target}", "update", container=step.target,
            settings=update_body(step.details["from"]),
        )  # fmt: skip
        self.engine.update_container(step.target, update_body(step.details["to"]))

    def _undo_update(self, data: t.Mapping[str, t.Any]) -> None:
        self.engine.update_container(data["container"], data["settings"])
        # 0 means "as it was" to this request.
        now = (self.engine.container(data["container"]) or {}).get("HostConfig") or {}
        left = [key for key in ("Memory", "NanoCpus") if data["settings"].get(key) == 0 and now.get(key)]
        if left:
            raise GridboxError(
                f"the engine does not take a limit away from a container that is there: {', '.join(left)}"
            )

    def _do_remove_container(self, step: Step, journal: Journal) -> None:
        container = self.engine.container(step.target)
        running = bool(container and container["State"].get("Running"))
        if step.target == self.wish.name:
            journal.will_do(
                f"take the removal of {step.target} back, or finish it",
                "remove",
                container=step.target,
                running=running,
                grace=self._grace(),
            )
        if running:
            self.engine.stop_container(step.target, self._grace())
        # Its anonymous volumes stay too: what is removed by mistake must not take data along.
        self.engine.remove_container(step.target, force=True)
        if container:
            forget(container["Id"])

    def _undo_remove(self, data: t.Mapping[str, t.Any]) -> None:
        if data["running"]:
            self._let_stop(data)
        if self.engine.container(data["container"]) is None:
            # There is no way back any more, so the way is forward.
            self.folder.remove()
            self._prune_files()
        elif data["running"]:
            self.engine.start_container(data["container"])

    def _do_remove_files(self, step: Step, journal: Journal) -> None:
        self.folder.remove()
        self._prune_files()

    def _create(self, name: str, values: Values, image: str, journal: Journal) -> None:
        body = self._body(values, image, journal)
        journal.will_do(
            f"remove the new container {name}", "create", container=name, creation=body["Labels"][CREATION_LABEL]
        )
        self.engine.create_container(name, body)

    def _undo_create(self, data: t.Mapping[str, t.Any]) -> None:
        # The request may have failed because somebody else has just taken the name: only ours is removed.
        container = self.engine.container(data["container"])
        if container and (container["Config"].get("Labels") or {}).get(CREATION_LABEL) == data["creation"]:
            self.engine.remove_container(container["Id"], force=True, volumes=True)

    def _body(self, values: Values, image: str, journal: Journal) -> Json:
        """The create request, and the folder it needs on the host."""
        creation = os.urandom(6).hex()
        if values.get("init_script"):
            journal.will_do(
                "remove its launch folder", "launch_folder", creation=creation, bare=not self.folder.path.exists()
            )
            self.folder.add_launch_folder(creation)
        return create_body(
            self.wish.name, self._reference(image), values, str(self.folder.path), creation, self.seen.platform.api,
            self.seen.platform.name,
        )  # fmt: skip

    def _undo_launch_folder(self, data: t.Mapping[str, t.Any]) -> None:
        self.folder.drop_launch_folder(data["creation"])
        if data["bare"]:
            self.folder.remove()
            self._prune_files()

    def _reference(self, image: str) -> str:
        """The image by the name the operator knows it by, as long as that means the same."""
        if self.wish.image is not None:
            return self.wish.image
        return (
            str((self.seen.container or {"Config": {}})["Config"].get("Image") or image)
            if self._unmoved(image)
            else image
        )

    def _unmoved(self, image: str) -> bool:
        reference = (self.seen.container or {"Config": {}})["Config"].get("Image")
        named = self.engine.image(reference) if reference else None
        return named is not None and named["Id"] == image

    # ---- the swap -------------------------------------------------------------------------------------------------

    def _do_swap_container(self, step: Step, journal: Journal) -> None:
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox import handover
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox.identity import Identity

        name, values = step.target, step.details["values"]
        old = self.engine.container(name)
        if old is None:
            raise GridboxError(f"The container {name} has gone since it was looked at.")
        if not step.details["running"]:
            self._replace_stopped(old, step, journal)
            return
        body = self._body(values, step.details["image"], journal)
        network = self.engine.network(values["network.name"])
        if network is None:
            raise GridboxError(f"The network {values['network.name']} has gone since it was looked at.")
        gate = self._gate()
        report = handover.swap(
            self.engine, journal, old, body, name, identity_on(network, values, Identity), self.wish.swap.strategy,
            ready=gate.complaint, serving=gate.complaint,
            timeouts=handover.Timeouts(
                ready=self.wish.swap.health_timeout, serving=self.wish.swap.health_timeout, stop=self._grace()
            ),
            keep_previous=self.wish.swap.keep_previous, attachments=values["network.others"],
        )  # fmt: skip
        self._drop_old_launch_folders()
        self.swap = {
            "old_id": report.old_id,
            "new_id": report.new_id,
            "strategy": report.strategy,
            "announced": report.announced,
            "kept": report.kept,
            "remark": report.remark,
            "seconds": report.seconds,
            "phases": dict(report.phases),
        }

    def _replace_stopped(self, old: Json, step: Step, journal: Journal) -> None:
        """A container that does not run has nothing to hand over: the new one takes its name."""
        began = time.monotonic()
        name = step.target
        upcoming, previous = f"{name}.next", f"{name}.previous"
        self._create(upcoming, step.details["values"], step.details["image"], journal)
        for network, endpoint in step.details["values"]["network.others"].items():
            self.engine.connect(network, upcoming, endpoint)
        if self.engine.container(previous):
            self.engine.remove_container(previous)
        journal.will_do(f"give {name} its name back", "rename", id=old["Id"], container=name)
        self.engine.rename_container(old["Id"], previous)
        new = self.engine.container(upcoming)
        if new is None:
            raise GridboxError(f"The container {upcoming} has gone while it was being made.")
        journal.will_do(f"give {upcoming} its name back", "rename", id=new["Id"], container=upcoming)
        self.engine.rename_container(new["Id"], name)
        if step.details["start"]:
            journal.will_do(f"stop {name}", "start", container=new["Id"], grace=0)
            self.engine.start_container(new["Id"])
            self._gate().wait(new["Id"])
            self._announce(new["Id"])
        journal.settle()
        if not self.wish.swap.keep_previous:
            journal.will_do(f"remove the container that {name} was before", "retire", id=old["Id"])
            self.engine.remove_container(old["Id"], force=True)
            journal.settle()
        self._end_cut_short_restart("was replaced")
        self._drop_old_launch_folders()
        self.swap = {
            "old_id": old["Id"], "new_id": new["Id"], "strategy": "sequential", "announced": False,
            "kept": previous if self.wish.swap.keep_previous else None,
            "remark": "",
            "seconds": round(time.monotonic() - began, 3), "phases": {},
        }  # fmt: skip

    def _undo_retire(self, data: t.Mapping[str, t.Any]) -> None:
        self.engine.remove_container(data["id"], force=True)

    def _undo_rename(self, data: t.Mapping[str, t.Any]) -> None:
        container = self.engine.container(data["id"])
        if container and container["Name"].lstrip("/") != data["container"]:
            self.engine.rename_container(data["id"], data["container"])

    def _do_clear_leftovers(self, step: Step, journal: Journal) -> None:
        from ansible_collections.hep.gridbox.plugins.module_utils.vobox import handover

        self.found += handover.recover(self.engine, step.target)
        self._drop_old_launch_folders()

    def _drop_old_launch_folders(self) -> None:
        name = self.wish.name
        used = [launch_folder(self.engine.container(other)) for other in (name, f"{name}.previous")]
        self.folder.drop_launch_folders(but=[os.path.basename(path) for path in used if path])

    # ---- the init script ------------------------------------------------------------------------------------------

    def _do_write_init_script(self, step: Step, journal: Journal) -> None:
        before = self.folder.snapshot()
        text = step.details["text"]
        if text is None:
            text = self.folder.script(step.details["version"])
        if text is None:
            raise GridboxError(
                f"The kept version {step.details['version']} of the init script was edited by hand,"
                " it is not what its name says."
            )
        journal.will_do(
            f"put the init script of {step.target} back", "write_init_script", before=before, container=step.target,
            restart=step.details["restart"],
        )  # fmt: skip
        self.folder.write_script(text)

    def _undo_write_init_script(self, data: t.Mapping[str, t.Any]) -> None:
        self.folder.put_back(data["before"])
        if not data["before"]["exists"]:
            self._prune_files()
        version = data["before"]["current"]
        container = self.engine.container(data["container"])
        if not data["restart"] or container is None or not version:
            return
        folder = launch_folder(container)
        launch = read_launch(folder)
        if launch.version == version and launch.went_well and container["State"]["Running"]:
            return  # the new one was never launched
        self._launch(data["container"], version, _UNDO_SECONDS, start=True)

    def _do_restart_services(self, step: Step, journal: Journal) -> None:
        self._launch(step.target, step.details["version"], self.wish.swap.health_timeout)
        self._gate().wait(step.target)

    def _launch(self, name: str, version: str, seconds: float, start: bool = False) -> None:
        """Let the runner launch the current version, and wait until it has.

        :param start: whether a container that has ended is started, once: what ended was the version before. With the
            restart policy the engine may be faster than we.
        """
        container = self.engine.container(name)
        folder = launch_folder(container)
        deadline = time.monotonic() + seconds
        signal_at = 0.0
        while True:
            launch = read_launch(folder)
            if launch.version == version and launch.state != "stopping":
                return
            now = time.monotonic()
            if now > deadline:
                raise WaitError(
                    f"the init script {version[:12]} to be launched", seconds, f"{launch.version} {launch.state}"
                )
            container = self.engine.container(name)
            if container is not None and start and not container["State"].get("Running"):
                start = False
                self.engine.start_container(name)
            elif container is None or not container["State"].get("Running"):
                words = self.engine.last_words(name)
                raise GridboxError(f"The container has ended.{' Its last words: ' + words if words else ''}")
            elif launch.state != "stopping" and now > signal_at:
                self._hang_up(container)
                signal_at = now + _SIGNAL_AGAIN
            time.sleep(0.05)

    def _hang_up(self, container: Json) -> None:
        """Send SIGHUP to a container's first process, on the host.

        Not by the engine: after a request for any signal Docker takes a container for one that somebody has stopped,
        and with the policy ``unless-stopped`` it neither restarts it when it fails nor starts it at a boot
        (moby/moby#41302; seen with 20.10, the same in the source of 29).
        """
        pid = container["State"].get("Pid")
        if pid:  # else the engine is just restarting it; if it has ended, the next look will say so
            kill(pid, lambda one: self._first_process(container["Id"]) == one, signal.SIGHUP)

    def _first_process(self, container_id: str) -> t.Optional[int]:
        """The number of a container's first process on the host."""
        state = (self.engine.container(container_id) or {}).get("State") or {}
        return state.get("Pid")

    def _renew_launch_folder(self) -> None:
        """Before a start: forget what the last launch said, so that it is not taken for this one's word."""
        folder = launch_folder(self.engine.container(self.wish.name))
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "state").unlink(missing_ok=True)

    # ---- the services ---------------------------------------------------------------------------------------------

    def _do_remember_services(self, step: Step, journal: Journal) -> None:
        before = self.folder.read().services
        journal.will_do(
            f"put back what is remembered of {step.target}", "services",
            before=None if before is None else [asdict(service) for service in before],
        )  # fmt: skip
        self.folder.write_services(self.wish.services)

    def _undo_services(self, data: t.Mapping[str, t.Any]) -> None:
        before = data["before"]
        self.folder.write_services(None if before is None else [Service(**service) for service in before])
        self._prune_files()

    # ---- small things ---------------------------------------------------------------------------------------------

    def _gate(self) -> Gate:
        services = self.wish.services if self.wish.services is not None else self.seen.files.services
        managed = self.wish.script_sha256 or self.seen.values.get("init_script")
        version = self.folder.read().current if managed else None
        return Gate(self.engine, services or (), version, self.wish.swap.health_timeout)

    def _grace(self) -> int:
        asked = self.wish.values.get("stop_timeout")
        if asked is None:
            asked = self.seen.values.get("stop_timeout")
        return int(10 if asked is None else asked)

    def _prune_files(self) -> None:
        """Remove the folder of all VO-boxes' files with the last of them."""
        files = Path(self.wish.files)
        for path in (files, files.parent):
            if path == files or path.name == "hep.gridbox":
                with contextlib.suppress(OSError):  # not empty, or not there
                    path.rmdir()


def identity_on(network: Json, values: Values, make: t.Callable[..., t.Any]) -> t.Any:
    """The :class:`Identity` that these values mean on a network.

    :param make: the class; it is imported only for a swap.
    """
    import ipaddress

    known: dict[str, t.Any] = {
        "network": values["network.name"], "mac": values["network.mac"],
        "ipv4": values.get("network.ipv4"), "ipv6": values.get("network.ipv6"),
    }  # fmt: skip
    for pool in (network.get("IPAM") or {}).get("Config") or ():
        subnet = ipaddress.ip_network(str(pool["Subnet"]), strict=False)
        mine = known[f"ipv{subnet.version}"]
        if mine and ipaddress.ip_address(mine) in subnet:
            known[f"prefix{subnet.version}"] = subnet.prefixlen
            gateway = pool.get("Gateway")
            known[f"gateway{subnet.version}"] = str(gateway).split("/", maxsplit=1)[0] if gateway else None
    return make(**known)

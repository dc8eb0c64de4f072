# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount the repositories: as systemd units, or directly where systemd is not PID 1.

Nothing that is mounted is ever unmounted to be replaced: containers look through it. What is there and is not what was
asked for is refused, with what to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs import client, units
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.repository import Repository, Wish
from ansible_collections.hep.gridbox.plugins.module_utils.cvmfs.units import UNIT_FOLDER
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import automounts, mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, names_in, run
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.host.text_file import read_text
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step

AUTOFS = "autofs.service"
NO_SYSTEMD = (
    "systemd is not PID 1 here, so the repositories are mounted directly. They are gone after a reboot; run the role"
    " again then, before the VO-boxes start."
)


#: Programs that ``mount`` runs for a kind of file system, and the package that has each.
HELPERS = {
    "fuse.squashfuse": {"mount.fuse": "fuse3", "squashfuse": "squashfuse"},
    "cvmfs": {"mount.cvmfs": "cvmfs"},
}


@dataclass(frozen=True)
class Unit:
    """A unit as systemd knows it. ``text`` is None if there is no file of ours or anybody's in the unit folder."""

    text: t.Optional[str] = None
    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""


@dataclass(frozen=True)
class Observed:
    """The host.

    :ivar same: repositories whose mount shows the very folder of their ``directory``.
    :ivar units: by name; those that are wanted, those of ours below the root, and that of autofs.
    :ivar clients: what the clients of mounted repositories run with; one that does not answer is missing.
    :ivar written: what the role has written into the client's file; None if it is not the role's.
    """

    mounts: tuple[Mount, ...]
    same: frozenset[str] = frozenset()
    units: t.Mapping[str, Unit] = field(default_factory=dict)
    clients: t.Mapping[str, t.Mapping[str, client.Parameter]] = field(default_factory=dict)
    written: t.Optional[t.Mapping[str, str]] = None


def as_wanted(repository: Repository, mount: Mount, same: bool) -> bool:
    """Whether a mount is that of the repository. Pure."""
    if repository.source == "directory":
        return same
    if repository.source == "client":
        return mount.kind.startswith("fuse") and mount.source.startswith("cvmfs2")
    return mount.kind == repository.mounted_kind


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to write and to mount. Pure."""
    return _plan_removal(wish, observed) if wish.remove else _plan_presence(wish, observed)


def _plan_presence(wish: Wish, observed: Observed) -> Plan:
    steps: list[Step] = []
    if _replaces_autofs(wish, observed):
        then = _without_autofs(wish, observed)
        cost = Disruption.service if automounts.served(observed.mounts, wish.root) else Disruption.none
        steps.append(Step("mask", AUTOFS, "it would mount on demand, which containers do not see", cost))
        observed = then
    root = mount_table.at(observed.mounts, wish.root)
    automounted = root is not None and root.kind == "autofs"
    wanted = units.units(wish) if wish.supervisor == "systemd" else {}
    new = [name for name, text in wanted.items() if observed.units.get(name, Unit()).text != text]
    for name in new:
        there = observed.units.get(name, Unit()).text is not None
        steps.append(
            Step("write_unit", name, "its text differs" if there else "it is not there", details={"text": wanted[name]})
        )
    dropped = _dropped(wish, observed, wanted)
    steps += dropped
    removed = {step.target for step in dropped if step.action == "remove_unit"}
    if new or removed:
        steps.append(Step("reload_systemd", "systemd", "unit files were changed"))
    bootable = [name for name, text in wanted.items() if units.comes_up_at_boot(text)]
    disabled = [name for name in bootable if observed.units.get(name, Unit()).enabled != "enabled"]
    steps.extend(Step("enable", name, "it is to come up at boot") for name in disabled)
    if root is None or automounted or not root.shared:
        reason = "it is no mount point of its own" if root is None or automounted else "it is not shared"
        verb = "start" if wish.supervisor == "systemd" and root is None else "share"
        target = units.unit_name(wish.root) if verb == "start" else wish.root
        steps.append(Step(verb, target, f"{wish.root}: {reason}, so containers would not see what is mounted in it"))
    for repository in wish.repositories:
        if mount_table.at(observed.mounts, wish.point(repository.name)) is None:
            point = wish.point(repository.name)
            target = units.unit_name(point) if wish.supervisor == "systemd" else point
            verb = "start" if wish.supervisor == "systemd" else "mount"
            steps.append(Step(verb, target, "the repository is not mounted", details={"repository": repository.name}))
    timer = units.heal_timer(wish.root)
    if timer in wanted and observed.units.get(timer, Unit()).active != "active":
        steps.append(Step("start", timer, "it has missing repositories mounted, and is not active"))
    steps += _reload(wish, observed)
    mounted = [r.name for r in wish.repositories if mount_table.at(observed.mounts, wish.point(r.name)) is not None]
    before = {
        "root_shared": bool(root and root.shared),
        "repositories": mounted,
        "units": dict(_texts(observed, [*wanted, *(step.target for step in dropped)])),
    }
    kept = {step.target for step in dropped} - removed
    after = {
        "root_shared": True,
        "repositories": [r.name for r in wish.repositories],
        "units": {**wanted, **dict(_texts(observed, kept))},
    }
    return Plan(tuple(steps), before, after)


def _replaces_autofs(wish: Wish, observed: Observed) -> bool:
    """Whether autofs is to be stopped and masked."""
    return wish.supervisor == "systemd" and observed.units.get(AUTOFS, Unit()).load not in ("not-found", "masked")


def _without_autofs(wish: Wish, observed: Observed) -> Observed:
    """The host as it is once autofs has ended: what it has mounted at the root or below goes with it."""
    gone: list[str] = []
    kept: list[Mount] = []
    for mount in observed.mounts:
        if automounts.is_automount(mount) and mount.is_below(wish.root):
            gone.append(mount.point)
        elif not any(mount.is_below(point) for point in gone):
            kept.append(mount)
    names = {each.name for each in wish.repositories if mount_table.at(kept, wish.point(each.name)) is not None}
    clients = {name: running for name, running in observed.clients.items() if name in names}
    return replace(observed, mounts=tuple(kept), same=observed.same & names, clients=clients)


def _dropped(wish: Wish, observed: Observed, wanted: t.Container[str]) -> list[Step]:
    """What to do about units of ours that nobody wants any more: each boot would wait for what they mount.

    A mount is left alone, for VO-boxes may look through it, and its unit with it, by which it is known as ours.
    """
    steps: list[Step] = []
    reason = "its repository is not wanted any more"
    for name, unit in observed.units.items():
        if name in wanted or not units.ours(unit.text):
            continue
        if name == units.heal_timer(wish.root) and unit.active == "active":
            steps.append(Step("stop", name, reason))
        if unit.enabled == "enabled":
            steps.append(Step("disable", name, reason))
        if not _mounted_by(unit, observed):
            steps.append(Step("remove_unit", name, reason))
    return steps


def left_mounted(wish: Wish, observed: Observed) -> list[str]:
    """Where repositories are still mounted that are not wanted any more. Pure."""
    wanted = units.units(wish)
    points = [
        units.point_of(unit.text or "")
        for name, unit in observed.units.items()
        if name not in wanted and _mounted_by(unit, observed)
    ]
    return [point for point in points if point and point.startswith(f"{wish.root}/")]


def _mounted_by(unit: Unit, observed: Observed) -> bool:
    point = units.point_of(unit.text or "")
    return point is not None and mount_table.at(observed.mounts, point) is not None


def _reload(wish: Wish, observed: Observed) -> list[Step]:
    """The reload of the clients, if one of them runs with something else than its file says."""
    wanted = observed.written if wish.client_settings is None else wish.client_settings
    if wanted is None:
        return []
    stale = {name: client.differing(wanted, running, name) for name, running in observed.clients.items()}
    stale = {name: differences for name, differences in stale.items() if differences}
    if not stale:
        return []
    reason = "; ".join(f"{name}: {', '.join(differences)}" for name, differences in stale.items())
    return [Step("reload_clients", ", ".join(stale), reason, Disruption.reload, {"repositories": list(stale)})]


def _plan_removal(wish: Wish, observed: Observed) -> Plan:
    ours = [name for name, unit in observed.units.items() if units.ours(unit.text)]
    inner = [mount.point for mount in observed.mounts if mount.point.startswith(f"{wish.root}/")]
    # The root is a peer of what is below it, so a mount in it shows twice there and goes at one stroke.
    points = [*dict.fromkeys(reversed(inner)), *([wish.root] if mount_table.at(observed.mounts, wish.root) else [])]
    wanted = {wish.root, *(wish.point(repository.name) for repository in wish.repositories)}
    wanted |= {point for point in points if units.unit_name(point) in ours}
    gone = [point for point in points if point in wanted]
    # Folders are bound there first, out of containers' sight.
    staged = [mount.point for mount in observed.mounts if units.unit_name(mount.point) in ours]
    gone += [point for point in dict.fromkeys(staged) if point not in points]
    timer = units.heal_timer(wish.root)
    steps = [Step("stop", timer, "it would mount again what is unmounted")] if timer in ours else []
    steps += [Step("unmount", point, "the role goes", Disruption.service) for point in gone]
    for name in ours:
        if units.comes_up_at_boot(observed.units[name].text or ""):
            steps.append(Step("disable", name, "the role goes"))
        steps.append(Step("remove_unit", name, "the role goes"))
    if ours:
        steps.append(Step("reload_systemd", "systemd", "unit files were removed"))
    before = {"repositories": [os.path.basename(point) for point in gone if point in inner]}
    return Plan(tuple(steps), before, {"repositories": []})


def _texts(observed: Observed, wanted: t.Iterable[str]) -> t.Iterator[tuple[str, str]]:
    for name in wanted:
        text = observed.units.get(name, Unit()).text
        if text is not None:
            yield name, text


# ---- the host ---------------------------------------------------------------------------------------------------


def kernel_mounts_squashfs() -> bool:
    """Whether the kernel knows squashfs and has loop devices to put a file behind."""
    with open("/proc/filesystems", encoding="ascii") as file:
        return "squashfs" in file.read().split() and os.path.exists("/dev/loop-control")


def systemd_is_up() -> bool:
    """Whether systemd is PID 1 (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def wish_here(params: t.Mapping[str, t.Any]) -> Wish:
    """What is wished, ``auto`` being what it is on this host.

    :raises InputError: for a value that cannot be right.
    """
    return Wish.from_params(params, kernel_mounts_squashfs(), systemd_is_up(), mount_table.read())


def look_into(wish: Wish, repository: Repository, path: str) -> None:
    """Check that a repository can be read and is not empty.

    :raises RefusedError: if it is empty, or its sentinel is missing.
    :raises WaitError: if it does not answer in time.
    """
    if not names_in(path, wish.wait_timeout):
        raise RefusedError(f"repository {repository.name}", f"{path} is empty", "Check its source.")
    if repository.sentinel:
        sentinel = f"{path}/{repository.sentinel}"
        if not run(f"Looking for {sentinel}", ["ls", "-d", "--", sentinel], wish.wait_timeout, ok=(0, 2)):
            raise RefusedError(
                f"repository {repository.name}",
                f"its sentinel {sentinel} is missing",
                "Check its source, or the sentinel.",
            )


def _refuse_to_cover(wish: Wish, observed: Observed) -> None:
    """A root that is no mount point yet becomes one, and what is mounted below it could not be seen any more.

    To bind it along is no way out: the undo would unmount it, for both are peers.

    :raises RefusedError: if something is mounted there.
    """
    below = [mount.point for mount in observed.mounts if mount.point.startswith(f"{wish.root}/")]
    if below and mount_table.at(observed.mounts, wish.root) is None:
        raise RefusedError(
            f"mounting repositories in {wish.root}",
            f"it is no mount point of its own, and to make it one would cover what is mounted below it:"
            f" {', '.join(dict.fromkeys(below))}",
            "Stop the VO-boxes that use that, take it out of /etc/fstab or of what else mounts it, unmount it and run"
            " again.",
        )


class MountsWork:
    """The work of the module ``cvmfs_mounts``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"the mounts below {wish.root}"

    def observe(self) -> Observed:
        wish = self.wish
        mounts = tuple(mount_table.read())
        same = {
            repository.name
            for repository in wish.repositories
            if repository.source == "directory" and _same_folder(repository.path, wish.point(repository.name))
        }
        known: dict[str, Unit] = {}
        if wish.supervisor == "systemd":
            names = [AUTOFS, *units.units(wish)]
            there = sorted(os.listdir(UNIT_FOLDER))
            names += [name for name in there if units.of_root(wish.root, name) and name not in names]
            known = {name: _unit(name) for name in names}
        return Observed(mounts, frozenset(same), known, _clients(wish, mounts), client.written(read_text(client.LOCAL)))

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        wish = self.wish
        if wish.remove:
            return
        if _replaces_autofs(wish, observed):
            observed = _without_autofs(wish, observed)
        _refuse_to_cover(wish, observed)
        for repository in wish.repositories:
            point = wish.point(repository.name)
            mount = mount_table.at(observed.mounts, point)
            if mount is not None and not as_wanted(repository, mount, repository.name in observed.same):
                raise RefusedError(
                    f"repository {repository.name} from {repository.source} {repository.path}".rstrip(),
                    f"something else is mounted at {point} ({mount.kind} from {mount.source})",
                    "Stop the VO-boxes that use it, unmount it and run again.",
                )
            if mount is None:
                _check_source(wish, repository)
                lacking = None if wish.helpers_awaited else missing_program(repository.kind)
                if lacking:
                    raise RefusedError(
                        f"repository {repository.name} from {repository.source}",
                        f"there is no program {lacking[0]} on this host, which mounts it",
                        f"Install the package {lacking[1]}, or leave that to the role hep.gridbox.cvmfs"
                        " (cvmfs_install: true).",
                    )
        for name in units.units(wish) if wish.supervisor == "systemd" else ():
            unit = observed.units[name]
            if unit.text is not None and not units.ours(unit.text):
                raise RefusedError(
                    f"unit {name}",
                    f"{UNIT_FOLDER}/{name} was written by somebody else",
                    "Move it away if this role shall mount the repository.",
                )

    def do(self, step: Step, journal: Journal) -> None:
        action = getattr(self, f"_do_{step.action}")
        action(step, journal)

    def _do_mask(self, step: Step, journal: Journal) -> None:
        if _unit(step.target).active == "active":
            journal.will_do(f"{step.target} as it was", "start", unit=step.target)
        journal.will_do(f"{step.target} unmasked", "unmask", unit=step.target)
        # Its own unit gives it three minutes to end: with a dead FUSE mount below it, it needs them.
        _systemctl("mask", "--now", step.target, seconds=240)
        root = self.wish.root
        left = next(
            (one.point for one in mount_table.read() if automounts.is_automount(one) and one.is_below(root)),
            "",
        )
        if left:
            raise GridboxError(
                f"autofs ended, but left its mount at {left}: something below it is in use, or dead. Stop the VO-boxes"
                f" and what else looks into {root} (fuser --mount {root}/*), unmount what is dead below it (umount"
                " --lazy), and run again."
            )

    def _do_write_unit(self, step: Step, journal: Journal) -> None:
        path = f"{UNIT_FOLDER}/{step.target}"
        journal.will_do(f"{path} as it was", "unit_file", path=path, text=read_text(path, "surrogateescape"))
        write_atomically(path, step.details["text"].encode(), 0o644)

    def _do_reload_systemd(self, step: Step, journal: Journal) -> None:
        journal.will_do("systemd's view of the units", "reload")
        _systemctl("daemon-reload")

    def _do_enable(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"{step.target} disabled", "disable", unit=step.target)
        _systemctl("enable", step.target)

    def _do_start(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"{step.target} stopped", "stop", unit=step.target)
        try:
            _systemctl("start", step.target, seconds=self.wish.wait_timeout + 10)
        except GridboxError as exc:
            words = _last_words(step.target)
            kind = self._named(step.details["repository"]).kind if "repository" in step.details else ""
            raise GridboxError(f"{exc} Its journal: {words}{missing_helper(kind)}") from exc
        self._look(step)

    def _do_share(self, step: Step, journal: Journal) -> None:
        if not os.path.isdir(step.target):
            journal.will_do(f"{step.target} removed", "rmdir", path=step.target)
            os.makedirs(step.target, 0o755)
        if mount_table.at(mount_table.read(), step.target) is None:
            journal.will_do(f"{step.target} unmounted", "unmount", path=step.target)
            run(f"Binding {step.target} to itself", ["mount", "--bind", "--", step.target, step.target])
        run(f"Sharing {step.target}", ["mount", "--make-rshared", step.target])

    def _do_mount(self, step: Step, journal: Journal) -> None:
        repository = self._named(step.details["repository"])
        if repository.source == "directory":
            staging = units.staging_point(self.wish, repository)
            self._mount_at(repository, repository.what, staging, repository.options, journal)
            self._mount_at(repository, staging, step.target, "bind", journal)
            _unmount_staging(staging, self.wish.wait_timeout)
        else:
            self._mount_at(repository, repository.what, step.target, repository.options, journal)
        self._look(step)

    def _mount_at(self, repository: Repository, what: str, point: str, options: str, journal: Journal) -> None:
        if not os.path.isdir(point):
            journal.will_do(f"{point} removed", "rmdir", path=point)
            os.makedirs(point, 0o755)
        journal.will_do(f"{point} unmounted", "unmount", path=point)
        known = ",".join(option for option in options.split(",") if option not in ("nofail", "_netdev"))
        # -n: no notes in /run/mount, which would outlive the mount.
        argv = ["mount", "-n", "-t", repository.kind, "-o", known, "--", what, point]
        try:
            run(f"Mounting {repository.name}", argv, self.wish.wait_timeout, stays=True)
        except GridboxError as exc:
            raise GridboxError(f"{exc}{missing_helper(repository.kind)}") from exc

    def _do_unmount(self, step: Step, journal: Journal) -> None:
        unit = units.unit_name(step.target)
        if units.ours(read_text(f"{UNIT_FOLDER}/{unit}")):
            journal.will_do(f"{step.target} mounted again", "start", unit=unit)
        if step.target.startswith(f"{units.STAGING}/"):
            _unmount_staging(step.target, self.wish.wait_timeout)
        else:
            run(f"Unmounting {step.target}", ["umount", "--", step.target], self.wish.wait_timeout)

    def _do_stop(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"{step.target} started again", "start", unit=step.target)
        # Its service too: it may be at it just now.
        _systemctl("stop", step.target, units.heal_service(self.wish.root))

    def _do_disable(self, step: Step, journal: Journal) -> None:
        journal.will_do(f"{step.target} enabled again", "enable", unit=step.target)
        _systemctl("disable", step.target)

    def _do_reload_clients(self, step: Step, journal: Journal) -> None:
        """No undo: its file says what a client has then, whatever becomes of the rest."""
        client.reload()
        for name in step.details["repositories"]:
            client.parameters(name)  # one that did not come back does not answer

    def _do_remove_unit(self, step: Step, journal: Journal) -> None:
        if _unit(step.target).active in ("activating", "failed") and not self.wish.remove:
            # It would try on without a file, and be told as failed for ever.
            _systemctl("stop", step.target, seconds=self.wish.wait_timeout + 10)
            _systemctl("reset-failed", step.target)
        path = f"{UNIT_FOLDER}/{step.target}"
        journal.will_do(f"{path} as it was", "unit_file", path=path, text=read_text(path, "surrogateescape"))
        os.unlink(path)

    def _look(self, step: Step) -> None:
        if "repository" in step.details:
            repository = self._named(step.details["repository"])
            look_into(self.wish, repository, self.wish.point(repository.name))

    def _named(self, name: str) -> Repository:
        return next(repository for repository in self.wish.repositories if repository.name == name)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "unit_file":
            if data["text"] is not None:
                write_atomically(data["path"], data["text"].encode(errors="surrogateescape"), 0o644)
            elif os.path.exists(data["path"]):
                os.unlink(data["path"])
            _systemctl("daemon-reload")
        elif name == "reload":
            _systemctl("daemon-reload")
        elif name == "rmdir":
            if os.path.isdir(data["path"]):
                os.rmdir(data["path"])
        elif name == "unmount":
            if mount_table.at(mount_table.read(), data["path"]) is not None:
                run(f"Unmounting {data['path']}", ["umount", "--", data["path"]])
        else:
            _systemctl(name, data["unit"])

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        return {
            "root": self.wish.root,
            "repositories": plan.after["repositories"],
            "notes": [] if self.wish.remove else _notes(self.wish, observed),
        }


def _notes(wish: Wish, observed: Observed) -> list[str]:
    notes = [NO_SYSTEMD] if wish.supervisor == "none" else []
    notes += [
        f"{point} is not wanted any more and is still mounted, for VO-boxes may look through it. It does not come up at"
        f" the next boot, and the run after that removes its unit; umount {point} unmounts it now."
        for point in left_mounted(wish, observed)
    ]
    return notes


def _clients(wish: Wish, mounts: t.Sequence[Mount]) -> dict[str, dict[str, client.Parameter]]:
    """What the clients of the mounted repositories run with; one that does not answer is left out."""
    found: dict[str, dict[str, client.Parameter]] = {}
    if wish.remove or not client.can_be_asked():
        return found
    for repository in wish.repositories:
        mount = mount_table.at(mounts, wish.point(repository.name))
        if repository.source == "client" and mount is not None and as_wanted(repository, mount, False):
            # A dead one is told by who looks into the repository; one whose cache was moved does not answer either.
            with contextlib.suppress(GridboxError):
                found[repository.name] = client.parameters(repository.name)
    return found


def info(wish: Wish) -> dict[str, t.Any]:
    """What the module ``cvmfs_info`` returns: the repositories as a container would see them."""
    mounts = mount_table.read()
    root = mount_table.at(mounts, wish.root)
    clients, wanted = _clients(wish, mounts), client.written(read_text(client.LOCAL))
    found = []
    for repository in wish.repositories:
        point = wish.point(repository.name)
        mount = mount_table.at(mounts, point)
        problem = "" if mount is not None else f"nothing is mounted at {point}{_why_not(wish, point)}."
        if mount is not None:
            try:
                look_into(wish, repository, point)
                problem = _stale(repository.name, wanted, clients.get(repository.name))
            except GridboxError as exc:
                problem = str(exc)
        found.append(
            {
                "repository": repository.name,
                "mounted": mount is not None,
                "kind": mount.kind if mount else "",
                "source": mount.source if mount else "",
                "problem": problem,
            }
        )
    return {
        "root": wish.root,
        "root_mounted": root is not None,
        "root_shared": bool(root and root.shared),
        "automounted": any(mount.kind == "autofs" and mount.point == wish.root for mount in mounts),
        "repositories": found,
    }


def _stale(
    repository: str, wanted: t.Optional[t.Mapping[str, str]], running: t.Optional[t.Mapping[str, client.Parameter]]
) -> str:
    """What a client runs with that its file says otherwise; empty if there is nothing, or nobody knows. Pure."""
    differences = client.differing(wanted, running, repository) if wanted is not None and running is not None else []
    if not differences:
        return ""
    return (
        f"the client of {repository} has not read {client.LOCAL} since it was changed: {', '.join(differences)}. The"
        " role hep.gridbox.cvmfs has it read again; cvmfs_config reload does so by hand."
    )


def _why_not(wish: Wish, point: str) -> str:
    """What systemd knows about a mount that is not there, and who tries again; empty without systemd or a unit."""
    name, timer = units.unit_name(point), units.heal_timer(wish.root)
    if wish.supervisor != "systemd" or not units.ours(read_text(f"{UNIT_FOLDER}/{name}")):
        return ""
    shown = dict(line.split("=", 1) for line in _systemctl("show", "--property=ActiveState,Result", name).splitlines())
    words = f"; its unit {name} is {shown['ActiveState']} ({shown['Result']})"
    said = _last_words(name)
    if said:
        words += f" and its journal says: {said}"
    if _unit(timer).active == "active":
        return f"{words.rstrip('.')}; {timer} has it tried again every {units.RETRY_SECONDS} s"
    return f"{words.rstrip('.')}; nobody tries again, for {timer} is not active"


def _last_words(unit: str) -> str:
    argv = ["journalctl", "--no-pager", "--quiet", "--lines=5", "--output=cat", f"--unit={unit}"]
    return " ".join(run("Reading the journal", argv).split())


def _unmount_staging(point: str, seconds: float) -> None:
    """Unmount what was bound out of containers' sight, and remove the folders made for it."""
    run(f"Unmounting {point}", ["umount", "--", point], seconds)
    os.removedirs(point)


def _check_source(wish: Wish, repository: Repository) -> None:
    """What of a source can be checked without mounting it."""
    if repository.source == "directory":
        if not os.path.isdir(repository.path):
            raise RefusedError(
                f"repository {repository.name}", f"there is no folder {repository.path}", "Correct its path."
            )
        look_into(wish, repository, repository.path)
    elif repository.source == "squashfs":
        try:
            with open(repository.path, "rb") as file:
                magic = file.read(4)
        except OSError as exc:
            raise RefusedError(
                f"repository {repository.name}",
                f"{repository.path} cannot be read ({exc.strerror})",
                "Correct its path.",
            ) from exc
        if magic != b"hsqs":
            raise RefusedError(
                f"repository {repository.name}",
                f"{repository.path} is not a squashfs file",
                "Make one with mksquashfs.",
            )
        if repository.driver == "fuse" and not _is_device("/dev/fuse"):
            raise RefusedError(
                f"repository {repository.name}", "this host has no /dev/fuse", "Load the kernel module fuse."
            )


def missing_program(kind: str, path: str = SYSTEM_PATH) -> t.Optional[tuple[str, str]]:
    """A program that ``mount`` would need and the package that has it; None if all are there."""
    for program, package in HELPERS.get(kind, {}).items():
        if shutil.which(program, path=path) is None:
            return program, package
    return None


def missing_helper(kind: str, path: str = SYSTEM_PATH) -> str:
    """The same as a sentence, for a mount that failed and does not name the program itself; empty if all are there."""
    lacking = missing_program(kind, path)
    return f" There is no program {lacking[0]} on this host: install the package {lacking[1]}." if lacking else ""


def _is_device(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)


def _same_folder(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _unit(name: str) -> Unit:
    properties = dict(
        line.split("=", 1)
        for line in _systemctl("show", "--property=LoadState,ActiveState,UnitFileState", name).splitlines()
    )
    path = f"{UNIT_FOLDER}/{name}"
    text = read_text(path) if not os.path.islink(path) else None
    return Unit(text, properties["LoadState"], properties["ActiveState"], properties["UnitFileState"])


def _systemctl(*arguments: str, seconds: float = 60) -> str:
    return run(f"systemctl {' '.join(arguments)}", ["systemctl", "--quiet", *arguments], seconds)

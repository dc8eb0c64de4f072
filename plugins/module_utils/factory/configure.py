# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator wants of a host's factory, as files: its configuration, the space's key, what is for machinetypes.

The daemon reads its configuration again by itself. What it cannot take over while it runs is told, and left to who may
restart it. Everything here may hold secrets, so files are root's alone, and what is shown of them has the secrets out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import stat
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import account as accounts
from ansible_collections.hep.gridbox.plugins.module_utils.factory import health, running
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_engine import ApptainerEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import (
    WHERE_MACHINES_ARE,
    Configuration,
    load,
    parse,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from ansible_collections.hep.gridbox.plugins.module_utils.host import command, mount_table, record
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Disruption, Plan, Step
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import check_secrets, load_key

#: What the module waits for before it ends.
WAITS = ("none", "followed", "well")

#: What stands in a diff for what is not shown: as it was, and as it is to be.
HIDDEN, OTHER = "(not shown)", "(another one, not shown)"

#: A path in ``files``: the folder of a machinetype or of a pipe's prefix, and a file in it or in its ``files``.
_FILE = re.compile(r"([a-z0-9][a-z0-9-]*)/(?:files/)?[A-Za-z0-9_][A-Za-z0-9._-]*")

_MODE = 0o600


@dataclass(frozen=True)
class Wish:
    """A factory's files as they are wanted.

    :ivar path: of the configuration.
    :ivar data: the configuration's content.
    :ivar files: by path below ``machinetypes`` in the state folder.
    :ivar key: content of the space's key file; empty: it is not ours to write.
    :ivar record: the role whose record tells what was there before; empty: whatever is there is ours.
    :ivar program: that the daemon is started from.
    :ivar programs_awaited: what work spaces and the network of Apptainer machines take will be installed.
    :ivar apptainer_awaited: Apptainer will be installed.
    :ivar account_awaited: the account of its machines will be made if there is none.
    :ivar unit: of systemd, whose last words are told when a wait is in vain; empty: none.
    """

    path: str
    data: t.Mapping[str, t.Any] = field(repr=False)
    configuration: Configuration = field(repr=False)
    files: t.Mapping[str, str] = field(default_factory=dict, repr=False)
    key: str = field(default="", repr=False)
    record: str = ""
    program: str = running.PROGRAM
    wait: str = "none"
    wait_timeout: int = 60
    programs_awaited: bool = False
    apptainer_awaited: bool = False
    account_awaited: bool = False
    unit: str = ""

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        for option in ("path", "program"):
            if not params[option].startswith("/") or os.path.normpath(params[option]) != params[option]:
                raise InputError(option, params[option], "an absolute path without .. or a trailing slash")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        try:
            data = json.loads(params["configuration"])
        except ValueError as exc:
            raise InputError("configuration", "a value that is not JSON", "a factory in JSON", str(exc)) from exc
        configuration = parse(data)
        if params["wait"] == "well":
            _check_has_something_to_start(configuration)
        key = params["key"] or ""
        if key and not configuration.key_file:
            raise InputError("key", "a value that is not shown", "the option key_file in the configuration beside it")
        if key:
            check_secrets(key.encode(), "key")
        return cls(
            params["path"], data, configuration, _checked_files(params["files"] or {}, configuration), key,
            params["record"] or "", params["program"], params["wait"], params["wait_timeout"],
            params["programs_awaited"], params["apptainer_awaited"], params["account_awaited"], params["unit"] or "",
        )  # fmt: skip

    @property
    def targets(self) -> dict[str, bytes]:
        """The files by path, in the order in which they are written: the configuration when all it names is there."""
        folder = os.path.join(self.configuration.state_folder, "machinetypes")
        made = {os.path.join(folder, name): text.encode() for name, text in sorted(self.files.items())}
        if self.key:
            made[self.configuration.key_file] = self.key.encode()
        made[self.path] = (json.dumps(self.data, indent=2, sort_keys=True) + "\n").encode()
        return made


def _check_has_something_to_start(configuration: Configuration) -> None:
    """One that has not is never well, unless it is to be empty: to wait for that would be in vain.

    :raises InputError: if it has not.
    """
    settings = configuration.settings
    is_to_be_empty = settings.draining or settings.shutdown_time is not None
    if not (configuration.machinetypes or configuration.pipes or is_to_be_empty):
        expected = "one at least, there or in a pipe of vacuum_pipes: a factory that has nothing to start is not well"
        raise InputError("machinetypes", {}, expected, "Set draining: true for one that is to be empty.")


def _checked_files(files: t.Mapping[str, t.Any], configuration: Configuration) -> dict[str, str]:
    owners = {one.name for one in configuration.machinetypes} | {one.section.prefix for one in configuration.pipes}
    made = {}
    for name, text in files.items():
        found = _FILE.fullmatch(name)
        if not found:
            raise InputError("files", name, "a path such as MACHINETYPE/files/NAME or PREFIX/x509key.pem")
        if found[1] not in owners:
            there = ", ".join(sorted(owners)) or "none"
            raise InputError(
                "files", name, f"the name of a machinetype or of a pipe before the slash (there is {there})"
            )
        if not isinstance(text, str):
            raise InputError(f"files[{name}]", "a value that is not shown", "the file's text")
        made[name] = text
    return made


@dataclass(frozen=True)
class File:
    """A file as it is. ``mode`` and ``owner`` are numbers.

    :ivar link: its path is a symbolic link that leads to it.
    """

    content: bytes = field(repr=False)
    mode: int = _MODE
    owner: int = 0
    link: bool = False


@dataclass(frozen=True)
class Observed:
    """What there is.

    :ivar files: by path; None: there is none.
    :ivar before: the configuration on the disk; None: there is none, or it is not one.
    :ivar machines: that have not ended, by what the factory of that configuration has written down.
    :ivar program_stamp: see :func:`report.stamp`.
    :ivar key_stamp: likewise; empty: there is no key.
    :ivar brought: the configuration on the disk is ours.
    """

    files: t.Mapping[str, t.Optional[File]]
    before: t.Optional[Configuration] = None
    daemon: t.Optional[running.Running] = None
    machines: tuple[Machine, ...] = ()
    program_stamp: str = ""
    key_stamp: str = ""
    brought: bool = True


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what is to be written. Pure."""
    steps = []
    targets = wish.targets
    there = observed.files.get(wish.path)
    if there is not None and not observed.brought and there.content != targets[wish.path]:
        steps.append(Step("keep_original", wish.path, "it was there before, and comes back when the factory goes"))
    for path, content in targets.items():
        found = observed.files.get(path)
        reason = _why(found, content)
        if found is not None and reason and not _is_written_anew(found, content):
            steps.append(Step("set_mode", path, reason, details={"mode": found.mode}))
        elif reason:
            live = Disruption.reload if observed.daemon is not None else Disruption.none
            action = "write_configuration" if path == wish.path else "write_file"
            steps.append(
                Step(action, path, reason, live if path == wish.path else Disruption.none, {"content": content})
            )
    old = _data_of(there)
    before: dict[str, t.Any] = {"configuration": shown(old, old)}
    after: dict[str, t.Any] = {"configuration": shown(dict(wish.data), old)}
    for path, content in targets.items():
        if path != wish.path:
            found = observed.files.get(path)
            before[path] = None if found is None else HIDDEN
            after[path] = HIDDEN if found is None or found.content == content else OTHER
    return Plan(tuple(steps), before, after if steps else before)


def restart_needed(wish: Wish, observed: Observed) -> list[str]:
    """Why the running daemon has to be restarted. Pure."""
    found = observed.files.get(wish.configuration.key_file)
    key_changes = bool(wish.key) and _is_written_anew(found, wish.key.encode())
    return running.restart_reasons(
        wish.configuration, observed.daemon, observed.program_stamp, None if key_changes else observed.key_stamp
    )


def _why(found: t.Optional[File], content: bytes) -> str:
    if found is None:
        return "there is none"
    if found.content != content:
        return "it is to be another one"
    if (found.mode, found.owner) != (_MODE, 0):
        return f"it is user {found.owner}'s with mode {found.mode:04o}, and is to be root's with 0600"
    return ""


def _is_written_anew(found: t.Optional[File], content: bytes) -> bool:
    """Whether a file is to be another one, which a daemon that has read it reads again. One of which the mode alone
    differs stays, unless somebody else may have it open for writing, or it is a link's. Pure."""
    if found is None or found.content != content:
        return True
    return bool(_why(found, content)) and (found.link or found.owner != 0 or found.mode & 0o022 != 0)


def shown(value: t.Any, other: t.Any) -> t.Any:
    """A configuration as people may see it. Pure.

    :param other: the one it is compared with: what is not shown is told to be another one if it is.
    """
    if isinstance(value, dict):
        pairs = other if isinstance(other, dict) else {}
        return {key: _shown_of(str(key), one, pairs.get(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [shown(one, None) for one in value]
    return value


def _shown_of(key: str, value: t.Any, other: t.Any) -> t.Any:
    if key == "user_data_options" and isinstance(value, dict):
        pairs = other if isinstance(other, dict) else {}
        return {name: _shown_of("user_data_option_", one, pairs.get(name)) for name, one in value.items()}
    if key.startswith("user_data_option"):
        return HIDDEN if other is None or value == other else OTHER
    return shown(value, other)


def _data_of(file: t.Optional[File]) -> t.Any:
    if file is None:
        return None
    try:
        return json.loads(file.content)
    except ValueError:
        return "(not JSON)"


# ---- the host ------------------------------------------------------------------------------------------------------


def original_of(role: str) -> str:
    """Where a configuration that was there before the role came is kept."""
    return f"{record.FOLDER}/{role}-original.json"


def is_brought(role: str, path: str) -> bool:
    """Whether a configuration is ours: the role has brought it, or has kept the one that was there before."""
    return not role or path in record.read(role).paths or os.path.exists(original_of(role))


def read_file(path: str) -> t.Optional[File]:
    """A file; None if there is none.

    :raises GridboxError: if it cannot be read, or is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise GridboxError(f"{path} cannot be read ({exc.strerror}).") from exc
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise RefusedError(f"Writing {path}", "it is no regular file", "Move away what is there.")
        return File(file.read(), stat.S_IMODE(about.st_mode), about.st_uid, os.path.islink(path))


def set_mode(path: str, mode: int) -> None:
    """Set a file's mode, and leave it the file that it is.

    :raises OSError: if it is a link by now, or gone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def put_back(path: str, content: t.Optional[str], mode: int = _MODE, owner: int = 0) -> None:
    """A file as it was before.

    :param content: in base64; None: there was none.
    """
    if content is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    record.write_atomically(path, base64.b64decode(content), mode)
    os.chown(path, owner, -1)


class ConfigureWork:
    """The work of the module ``vacuum_factory`` with ``state: present``; see ``front_room.Work``.

    :param held: gets the lock of whoever makes machines, while it changes where they are.
    """

    def __init__(self, wish: Wish, held: t.Optional[contextlib.ExitStack] = None) -> None:
        self.wish, self._held = wish, held or contextlib.ExitStack()
        self.subject = f"the factory of {wish.path}"

    def observe(self) -> Observed:
        wish = self.wish
        files = {path: read_file(path) for path in wish.targets}
        before = None
        if files[wish.path] is not None:
            # One that cannot be right is replaced, so whatever is wrong in it does not matter.
            with contextlib.suppress(InputError):
                before = load(wish.path)
        folders = {one.state_folder: one for one in (wish.configuration, before) if one is not None}
        machines = Store(before.state_folder).load()[0] if before is not None else []
        key_file = wish.configuration.key_file
        return Observed(
            files, before, running.find(wish.program, wish.path, folders),
            tuple(machine for machine in machines if not machine.cleaned), reports.stamp(wish.program),
            reports.stamp(key_file) if key_file else "", is_brought(wish.record, wish.path),
        )  # fmt: skip

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        wanted = self.wish.configuration
        check_machines_stay(wanted, observed)
        if observed.before is not None and observed.daemon is None and _moved(wanted, observed.before):
            # A run of vacuum_slot may be about to make some, where nobody would find them.
            self._held.enter_context(at_work(observed.before.state_folder, self.wish.wait_timeout))
            check_machines_stay(wanted, self.observe())
        if wanted.key_file and not self.wish.key:
            load_key(wanted.key_file)
        for step in plan.steps:
            _check_writable(step.target)
        spaces = WorkSpaces(wanted)
        if not (self.wish.programs_awaited and spaces.missing_programs()):
            spaces.check()
        if wanted.engine == "apptainer":
            self._check_apptainer(wanted, observed)

    def _check_apptainer(self, wanted: Configuration, observed: Observed) -> None:
        engine = ApptainerEngine(wanted.state_folder, wanted.apptainer_account, wanted.cvmfs_root, lambda *_: None)
        engine.check_host(self.wish.apptainer_awaited)
        # One that is there stays as it is: whoever makes it if there is none does not make it fit.
        if not (self.wish.account_awaited and accounts.entry(wanted.apptainer_account) is None):
            account = engine.account()
            before = observed.before
            if before is None or (before.engine, before.apptainer_account) != (wanted.engine, wanted.apptainer_account):
                engine.check_idle(account)
        engine.check_network(wanted.network, self.wish.programs_awaited)

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "keep_original":
            target = original_of(self.wish.record)
            _make_folders(os.path.dirname(target), journal)
            journal.will_do(f"no {target}", "put_back", path=target, content=None)
            found = read_file(step.target)
            if found is not None:
                record.write_atomically(target, found.content, _MODE)
            return
        if step.action == "set_mode":
            old = step.details["mode"]
            journal.will_do(f"{step.target} with mode {old:04o}", "set_mode", path=step.target, mode=old)
            try:
                set_mode(step.target, _MODE)
            except OSError as exc:
                raise GridboxError(f"The mode of {step.target} cannot be set ({exc.strerror}).") from exc
            return
        found = read_file(step.target)
        _make_folders(os.path.dirname(step.target), journal)
        if found is None:
            journal.will_do(f"no {step.target}", "put_back", path=step.target, content=None)
        else:
            journal.will_do(
                f"{step.target} as it was", "put_back", path=step.target,
                content=base64.b64encode(found.content).decode(), mode=found.mode, owner=found.owner,
            )  # fmt: skip
        try:
            record.write_atomically(step.target, step.details["content"], _MODE)
        except OSError as exc:
            raise GridboxError(f"{step.target} cannot be written ({exc.strerror}).") from exc

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if name == "remove_folder":
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(data["path"])
        elif name == "set_mode":
            set_mode(**data)
        else:
            put_back(**data)

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        self._held.close()  # a daemon that is waited for takes it
        reasons = restart_needed(self.wish, observed)
        if applied or not plan.steps:
            observed = self._wait(observed, reasons)
            reasons = restart_needed(self.wish, observed)
        daemon = observed.daemon
        report = daemon.report if daemon is not None else None
        return {
            "running": daemon is not None,
            "running_unit": daemon.unit if daemon is not None else "",
            "restart_needed": reasons,
            "check": health.health(report, time.time()).output if report is not None else "",
            "warnings": [*missing_user_data(self.wish), *unseen_mounts(self.wish.configuration, mount_table.read())],
        }

    # ---- waiting -------------------------------------------------------------------------------------------------

    def _wait(self, observed: Observed, reasons: t.Sequence[str]) -> Observed:
        """Until the daemon is as the option ``wait`` has it.

        :raises WaitError: saying what was waited for, and what was last seen.
        """
        wish = self.wish
        if wish.wait == "none" or (wish.wait == "followed" and (observed.daemon is None or reasons)):
            return observed
        deadline = time.monotonic() + wish.wait_timeout
        while True:
            lacking = lacks(wish, observed, time.time())
            if not lacking:
                return observed
            if time.monotonic() > deadline:
                what = "be well" if wish.wait == "well" else f"read {wish.path}"
                raise WaitError(f"the factory to {what}", wish.wait_timeout, f"{lacking}{self._last_words()}")
            time.sleep(0.5)
            observed = self.observe()

    def _last_words(self) -> str:
        if not self.wish.unit or not os.path.isdir("/run/systemd/system"):
            return ""
        argv = ["journalctl", "--unit", self.wish.unit, "--lines", "3", "--output", "cat", "--no-pager"]
        said = " ".join(command.run(f"Reading the journal of {self.wish.unit}", argv, timeout=20).split())
        return f"; the journal of {self.wish.unit} ends: {said}" if said else ""


def lacks(wish: Wish, observed: Observed, now: float) -> str:
    """What keeps the wait from being over, in words; empty: nothing. Pure but for the file's stamp."""
    daemon = observed.daemon
    if daemon is None:
        return "no daemon runs"
    if daemon.report is None:
        return "it has not written a report"
    if daemon.report.configuration_problem:
        return daemon.report.configuration_problem
    if not running.follows(daemon, wish.path):
        return "it has not read the file yet"
    if wish.wait == "well":
        found = health.health(daemon.report, now)
        if found.status in (health.CRITICAL, health.UNKNOWN):
            return found.output
    return ""


def check_machines_stay(wanted: Configuration, observed: Observed) -> None:
    """Refuse what would leave machines behind that nobody looks after. Pure.

    :raises RefusedError: naming the options and the machines.
    """
    before = observed.before
    if before is None or not observed.machines:
        return
    for option in _moved(wanted, before):
        old, new = before.fixed[option], wanted.fixed[option]
        slots = ", ".join(f"{one.slot} ({one.machinetype})" for one in observed.machines)
        raise RefusedError(
            f"{option}: {new or 'not given'}",
            f"it is {old or 'not given'} now, and the factory would not know its machines any more: {slots}",
            'Nothing was touched. Drain the factory first ("draining": true), and run again when they have ended.',
        )


def _moved(wanted: Configuration, before: Configuration) -> list[str]:
    """The options that are others, and by which machines are found. Pure."""
    return [option for option in WHERE_MACHINES_ARE if before.fixed[option] != wanted.fixed[option]]


def missing_user_data(wish: Wish) -> list[str]:
    """A sentence for each file that the operator names for a machinetype, and that is not there."""
    named = [
        (one.name, one.name, file)
        for one in wish.configuration.machinetypes
        for file in (one.user_data, *one.user_data_files.values())
    ]
    named += [
        (one.name, one.prefix, file)
        for one in wish.configuration.overrides
        for key, file in one.values.items()
        if key == "user_data" or key.startswith("user_data_file_")
    ]
    told = []
    for machinetype, owner, file in named:
        if file and "://" not in file and f"{owner}/files/{file}" not in wish.files:
            path = os.path.join(wish.configuration.state_folder, "machinetypes", owner, "files", file)
            if not os.path.exists(path):
                told.append(f"machinetypes.{machinetype}: there is no file {path}, without which no machine starts.")
    return told


def unseen_mounts(configuration: Configuration, mounts: t.Sequence[mount_table.Mount]) -> list[str]:
    """A sentence if the engine would not see work spaces come, or others would not see them go. Pure but for links."""
    folder = f"{os.path.realpath(configuration.state_folder)}/"
    above = [one for one in mounts if folder.startswith(f"{one.point.rstrip('/')}/")]
    on = max(above, key=lambda one: len(one.point), default=None)
    if configuration.work_space == "folder" or on is None or on.shared:
        return []
    found = (
        f"is on the mount {on.point}, which is not shared, so the engine may not see work spaces that are mounted in it"
    )
    return [f"state_folder: {configuration.state_folder} {found}. Run: mount --make-shared {on.point}"]


def _check_writable(path: str) -> None:
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise RefusedError(f"Writing {path}", f"{folder} is no folder", "Move away what is there.")
    if not os.access(folder, os.W_OK):
        raise RefusedError(f"Writing {path}", f"nothing can be written in {folder}", "Nothing was touched.")


def _make_folders(folder: str, journal: Journal) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        journal.will_do(f"no {one}", "remove_folder", path=one)
        os.mkdir(one, 0o755)

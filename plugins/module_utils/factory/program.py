# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``gridbox``: the factory's daemon, and what people and programs ask of a factory and of its space."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
import typing as t
from dataclasses import replace
from datetime import datetime

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    accounting,
    health,
    metrics,
    orders,
    report,
    role_variables,
    space,
    vac_conf,
    views,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PATH, STATE_FOLDER, load
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import ANSWERED, INCOMPLETE

#: Where Vac has its configuration, in the order in which it reads it.
_VAC = ("/etc/vac.d", "/etc/vac.conf", "/var/run/vac.conf")

#: Exit statuses, beside those of ``check``, which are Nagios's, and argparse's 2 for wrong arguments.
WELL, FAILED, SILENT = 0, 1, 3

_QUERIES = {"machines": "machines_query", "machinetypes": "machinetypes_query", "factories": "factory_query"}


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Run the command.

    :returns: its exit status.
    """
    asked = _parser().parse_args(arguments)
    status = FAILED
    try:
        status = int(asked.run(asked))
        sys.stdout.flush()
    except GridboxError as exc:
        sys.stderr.write(f"{exc}\n")
    except BrokenPipeError:
        if asked.run in (_factory, _machine):  # it need not be of what they print
            raise
        # Whoever reads has seen enough. At the end Python would write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _factory(asked: argparse.Namespace) -> int:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory import log_file
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import Daemon

    if asked.log:
        log_file.keep(asked.log)
    asyncio.run(Daemon(asked.configuration).run())
    return WELL


def _machine(asked: argparse.Namespace) -> int:
    from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_keeper import look_after

    look_after(asked.folder)
    return WELL


def _space(asked: argparse.Namespace) -> int:
    query = _QUERIES[asked.command]
    if asked.space:
        known = space.given(asked.space, asked.factory)
        wanted: t.Sequence[Peer] = known.factories
    else:
        known = _known(asked)
        wanted = space.named(known, asked.factory)
    outcomes = space.ask(known, [query], wanted, asked.timeout)[query]
    if asked.json:
        sys.stdout.write(json.dumps(views.as_data(outcomes), indent=1) + "\n")
    elif asked.command == "machines":
        sys.stdout.write(views.machines(outcomes, time.time()) + "\n")
    elif asked.command == "machinetypes":
        sys.stdout.write(views.machinetypes(outcomes, asked.name or "") + "\n")
    else:
        sys.stdout.write(views.factories(outcomes) + "\n")
    return WELL if all(outcome.state in (ANSWERED, INCOMPLETE) for outcome in outcomes) else SILENT


def _known(asked: argparse.Namespace) -> space.Known:
    """The factories of this host's space: by its configuration, or for those who may not read that by its report."""
    if not asked.state_folder:
        try:
            return space.of(load(asked.configuration))
        except GridboxError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                hint = "On a host that is no factory, give --space SPACE and the factories to ask."
                raise GridboxError(f"{exc} {hint}") from exc
            _state_folder_without(asked, exc)
    found = _report(asked)
    if not found.factories:
        raise GridboxError("The factory's report names no factories: its daemon is of an earlier version. Restart it.")
    return space.Known(found.space, found.factories)


def _state_folder_without(asked: argparse.Namespace, exc: GridboxError) -> str:
    """Where the report is of a factory whose configuration who asks may not read, or which is refused: the daemon works
    on then, and tells what is wrong.

    :param exc: what came of reading it.
    :raises GridboxError: if there is no report, or it is not clear where.
    """
    is_unseen = isinstance(exc.__cause__, PermissionError)
    folder = STATE_FOLDER if asked.configuration == PATH else ""
    if isinstance(exc, InputError):
        with contextlib.suppress(OSError, ValueError, RecursionError), open(asked.configuration, "rb") as file:
            data = json.load(file)
            named = data.get("state_folder", STATE_FOLDER) if isinstance(data, dict) else folder
            folder = named if isinstance(named, str) else folder
    elif not is_unseen:
        raise exc
    if folder and os.path.exists(os.path.join(folder, report.NAME)):
        return folder
    if is_unseen:
        raise GridboxError(f"{exc} Give --state-folder, where the factory has what everybody may read.") from exc
    raise exc


def _state_folder(asked: argparse.Namespace) -> str:
    """Where the factory's report is. The report is for everybody, and the configuration may be root's alone."""
    if asked.state_folder:
        return str(asked.state_folder)
    try:
        return load(asked.configuration).state_folder
    except GridboxError as exc:
        return _state_folder_without(asked, exc)


def _report(asked: argparse.Namespace) -> report.Report:
    state_folder = _state_folder(asked)
    found = report.load(state_folder)
    if found is None:
        raise GridboxError(f"No factory's daemon has ever worked in {state_folder}.")
    return found


def _explain(asked: argparse.Namespace) -> int:
    found = _report(asked)
    sys.stdout.write(json.dumps(found.decision, indent=1) + "\n" if asked.json else views.explain(found) + "\n")
    return WELL


def _check(asked: argparse.Namespace) -> int:
    try:
        folder = _state_folder(asked)
        found = health.health(report.load(folder), time.time(), asked.seconds, report.room(folder))
    except GridboxError as exc:
        found = health.unreadable(str(exc))
    sys.stdout.write(found.output + "\n")
    return found.status


def _metrics(asked: argparse.Namespace) -> int:
    sys.stdout.write(metrics.exposition(_report(asked)))
    return WELL


def _apel_sync(asked: argparse.Namespace) -> int:
    state_folder, now = load(asked.configuration).state_folder, time.time()
    text = accounting.sync(state_folder, asked.month or accounting.month_of(now))
    sys.stdout.write(accounting.write_sync(state_folder, text, now) + "\n")
    return WELL


def _drain(asked: argparse.Namespace) -> int:
    return _order(asked, orders.DRAINED)


def _stop(asked: argparse.Namespace) -> int:
    return _order(asked, orders.STOPPED)


def _order(asked: argparse.Namespace, what: str) -> int:
    order = orders.NONE if asked.undo else orders.SlotOrder(what, since=int(time.time()))
    wanted: dict[str, orders.SlotOrder] = {}
    if asked.slot:
        configuration = load(asked.configuration)
        former = orders.former_slots(configuration)
        slots = orders.slots_of(configuration.settings, asked.slot, "SLOT", former)
        wanted = {slot: order.of_former if slot in former else order for slot in slots}

    def change(given: orders.Orders) -> orders.Orders:
        return given.changed(wanted) if wanted else replace(given, draining=not asked.undo)

    return _give(_state_folder(asked), change)


def _shutdown_time(asked: argparse.Namespace) -> int:
    when = _time(asked.time)
    return _give(_state_folder(asked), lambda given: replace(given, shutdown_time=when))


def _time(text: str) -> t.Optional[int]:
    """A time that is still to come, in Unix seconds; None for the word ``none``."""
    if text == "none":
        return None
    expected = "none, Unix seconds, or a time of this host such as 2026-12-01T08:00, that is still to come"
    try:
        seconds = int(text) if text.isdigit() else int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise InputError("TIME", text, expected) from None
    if not time.time() < seconds < 1 << 40:
        raise InputError("TIME", text, expected)
    return seconds


def _give(state_folder: str, change: t.Callable[[orders.Orders], orders.Orders]) -> int:
    """Change what is ordered, and print all of it."""
    now = orders.change(state_folder, change)
    sentences = now.sentences(lambda seconds: time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds)))
    sys.stdout.write("".join(f"By order, {sentence}.\n" for sentence in sentences) or "Nothing is ordered.\n")
    return WELL


def _migrate(asked: argparse.Namespace) -> int:
    files, notes = [], []
    for path in _vac_files(asked.file):
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as exc:
            raise GridboxError(f"{path} cannot be read ({exc}).") from exc
        try:
            files.append((path, content.decode()))
        except ValueError:  # Vac takes bytes as they are
            files.append((path, content.decode("latin-1")))
            notes.append(f"{path} is not in UTF-8, and was read as Latin-1: look at what is not ASCII.")
    made = vac_conf.convert(files, asked.host)
    made = replace(made, notes=(*made.notes, *notes))
    if asked.json:
        sys.stdout.write(json.dumps(made.configuration, indent=1) + "\n")
        copies = (f"Copy {there} to machinetypes/{here} in the state folder." for here, there in made.files.items())
        sys.stderr.write("".join(f"{note}\n" for note in (*made.notes, *copies)))
        return WELL
    found = role_variables.documents(made)
    if not asked.into:
        sys.stdout.write(found.variables + found.vault)
        return WELL
    texts = {role_variables.VARIABLES: (found.variables, 0o644), role_variables.VAULT: (found.vault, 0o600)}
    for name, (text, mode) in texts.items():
        if text:
            sys.stdout.write(f"{_write_new(os.path.join(asked.into, name), text, mode)}\n")
    return WELL


def _vac_files(paths: t.Sequence[str]) -> list[str]:
    """The files of Vac's configuration in Vac's order: those of folders, by name, then files (spec 2.1).

    :param paths: empty: those of this host.
    """
    wanted = list(paths) or [path for path in _VAC if os.path.exists(path)]
    if not wanted:
        raise GridboxError(f"There is no file of Vac's on this host, neither {', nor '.join(_VAC)}. Name its files.")
    folders = [path for path in wanted if os.path.isdir(path)]
    found = [path for path in wanted if path not in folders]
    inside: list[str] = []
    for folder in folders:
        try:
            inside += [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".conf")]
        except OSError as exc:
            raise GridboxError(f"{folder} cannot be read ({exc.strerror}).") from exc
    if not inside and not found:
        raise GridboxError(f"There is no file *.conf in {', '.join(folders)}.")
    return [*inside, *found]


def _write_new(path: str, text: str, mode: int) -> str:
    """Write a file that is not there yet."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise GridboxError(f"{path} cannot be written ({exc.strerror}).") from exc
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gridbox",
        description="A vacuum factory, and what it and the other factories of its space say.",
        epilog=f"Exit status: {WELL} all is well; {FAILED} it failed, see what is said; 2 wrong arguments; {SILENT} a"
        " factory that was asked did not answer. check has Nagios's: 0 well, 1 warning, 2 critical, 3 unknown.",
    )
    parser.add_argument("--configuration", metavar="FILE", default=PATH, help="of the factory (%(default)s)")
    parser.add_argument(
        "--state-folder",
        metavar="FOLDER",
        help="of the factory, for who may not read its configuration (where that is the usual one, it is found)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: t.Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    add("factory", _factory, "Run the factory, in the foreground.").add_argument(
        "--log", metavar="FILE", help="write the journal there, 20 MiB at most with FILE.1; default: standard output"
    )
    for name in _QUERIES:
        made = add(name, _space, f"Show the {name} of the whole space.")
        if name == "machinetypes":
            made.add_argument("--name", help="only this machinetype")
        made.add_argument("factory", nargs="*", help="only these factories; with --space FQDN or FQDN:PORT of each")
        made.add_argument("--space", help="the factories named are of this space, and this host is no factory of it")
        made.add_argument("--json", action="store_true", help="as JSON")
        made.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="in all (%(default)s)")
    add("explain", _explain, "Say why the next machine would be this one, or why none.").add_argument(
        "--json", action="store_true", help="as JSON"
    )
    add("check", _check, "Say whether the factory is well, as Nagios wants it.").add_argument(
        "seconds", nargs="?", type=float, default=600, help="largest age of its report (%(default)s)"
    )
    add("metrics", _metrics, "Print metrics as Prometheus reads them.")
    for name, run, many, text in (
        ("drain", _drain, "*", "Start nothing in these slots, or in none, until the next boot; what runs goes on."),
        ("stop", _stop, "+", "The same, and end the machines of these slots: TERM, grace, KILL."),
    ):
        made = add(name, run, text)
        made.add_argument("slot", nargs=many, help="a slot's name or number; all")
        made.add_argument("--undo", action="store_true", help="let them work again")
    when = "Have all machines gone by a time, until the next boot: they get TERM grace_seconds before it."
    add("shutdown-time", _shutdown_time, when).add_argument(
        "time", help="Unix seconds, a time of this host such as 2026-12-01T08:00, or none"
    )
    add("apel-sync", _apel_sync, "Write the accounting's sync record.").add_argument(
        "month", nargs="?", help="YYYYMM; without it, of 24 hours ago"
    )
    add("machine", _machine, "Look after an Apptainer machine: the factory does this.").add_argument("folder")
    migrate = add("migrate", _migrate, "Turn vac.conf and vac.d into variables of the role vacuum_factory, in YAML.")
    migrate.add_argument("file", nargs="*", help=f"files and folders of Vac's; without any, {', '.join(_VAC)}")
    migrate.add_argument("--into", metavar="FOLDER", help="write files there, such as group_vars/factories")
    migrate.add_argument("--json", action="store_true", help="print what stands in factory.json instead")
    migrate.add_argument("--host", default="", help="FQDN of the host, for factories that are named without it")
    return parser

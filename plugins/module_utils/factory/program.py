# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``gridbox``: the factory's daemon, and what people and programs ask of a factory and of its space."""

from __future__ import annotations

import argparse
import asyncio
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
    space,
    vac_conf,
    views,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PATH, STATE_FOLDER, load

#: Exit statuses, beside those of ``check``, which are Nagios's, and argparse's 2 for wrong arguments.
WELL, FAILED, SILENT = 0, 1, 3

_QUERIES = {"machines": "machines_query", "machinetypes": "machinetypes_query", "factories": "factory_query"}


def main(arguments: t.Optional[t.Sequence[str]] = None) -> int:
    """Run the command.

    :returns: its exit status.
    """
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.run(asked))
    except GridboxError as exc:
        sys.stderr.write(f"{exc}\n")
        return FAILED


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
    configuration = load(asked.configuration)
    query = _QUERIES[asked.command]
    outcomes = space.ask(configuration, [query], space.named(configuration, asked.factory), asked.timeout)[query]
    if asked.json:
        sys.stdout.write(json.dumps(views.as_data(outcomes), indent=1) + "\n")
    elif asked.command == "machines":
        sys.stdout.write(views.machines(outcomes, time.time()) + "\n")
    elif asked.command == "machinetypes":
        sys.stdout.write(views.machinetypes(outcomes, asked.name or "") + "\n")
    else:
        sys.stdout.write(views.factories(outcomes) + "\n")
    return WELL if all(outcome.replies for outcome in outcomes) else SILENT


def _state_folder(asked: argparse.Namespace) -> str:
    """Where the factory's report is. The report is for everybody, and the configuration may be root's alone."""
    try:
        return load(asked.configuration).state_folder
    except GridboxError as exc:
        usual = asked.configuration == PATH and os.path.exists(os.path.join(STATE_FOLDER, report.NAME))
        if usual and isinstance(exc.__cause__, PermissionError):
            return STATE_FOLDER
        raise


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
    configuration = load(asked.configuration)
    slots = orders.slots_of(configuration.settings, asked.slot, "SLOT") if asked.slot else ()
    order = orders.NONE if asked.undo else orders.SlotOrder(what, since=int(time.time()))

    def change(given: orders.Orders) -> orders.Orders:
        return given.with_slots(slots, order) if slots else replace(given, draining=not asked.undo)

    return _give(configuration.state_folder, change)


def _shutdown_time(asked: argparse.Namespace) -> int:
    when = _time(asked.time)
    return _give(load(asked.configuration).state_folder, lambda given: replace(given, shutdown_time=when))


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
    files = []
    for path in asked.file:
        try:
            with open(path, encoding="utf-8") as file:
                files.append((path, file.read()))
        except (OSError, ValueError) as exc:
            raise GridboxError(f"{path} cannot be read ({exc}).") from exc
    made = vac_conf.convert(files, asked.host)
    sys.stdout.write(json.dumps(made.configuration, indent=1) + "\n")
    sys.stderr.write("".join(f"{note}\n" for note in made.notes))
    return WELL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gridbox",
        description="A vacuum factory, and what it and the other factories of its space say.",
        epilog=f"Exit status: {WELL} all is well; {FAILED} it failed, see what is said; 2 wrong arguments; {SILENT} a"
        " factory that was asked did not answer. check has Nagios's: 0 well, 1 warning, 2 critical, 3 unknown.",
    )
    parser.add_argument("--configuration", metavar="FILE", default=PATH, help="of the factory (%(default)s)")
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
        made.add_argument("factory", nargs="*", help="only these factories")
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
    add("shutdown-time", _shutdown_time, "Have all machines gone by a time, until the next boot.").add_argument(
        "time", help="Unix seconds, a time of this host such as 2026-12-01T08:00, or none"
    )
    add("apel-sync", _apel_sync, "Write the accounting's sync record.").add_argument(
        "month", nargs="?", help="YYYYMM; without it, of 24 hours ago"
    )
    add("machine", _machine, "Look after an Apptainer machine: the factory does this.").add_argument("folder")
    migrate = add("migrate", _migrate, "Print the configuration that vac.conf and vac.d make, and what they do not.")
    migrate.add_argument("file", nargs="+", help="in the order in which Vac reads them")
    migrate.add_argument("--host", default="", help="FQDN of the host, for factories that are named without it")
    return parser

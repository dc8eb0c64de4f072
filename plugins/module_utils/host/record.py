# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role brought to a host: the record that lets its ``remove`` leave the host as it was.

One JSON file a role below :data:`FOLDER`. A path is written down before it is made, and only if it is not there yet;
so whatever was on the host before a role came is never in its record, and a role that died half-way has one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.trees import remove_tree
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

FOLDER = "/var/lib/hep.gridbox"

#: Characters of a file's name that are in the one of the neighbour by which it is written.
_BEGINNING = 50


@dataclass(frozen=True)
class Record:
    """What one role brought.

    :ivar packages: names of packages, with the dependencies that came along.
    :ivar installing: names of packages whose installation has begun and was not seen to end, with their dependencies.
    :ivar paths: files and folders, in the order in which they were made; a folder goes only if it is empty by then.
    :ivar trees: folders that go with all that is in them.
    :ivar settings: by file, the keys that were changed in it, each with the value it had (None: it was not there).
    :ivar replaced: names of packages that were there before, and had to go for the role's.
    """

    packages: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    settings: t.Mapping[str, t.Mapping[str, t.Any]] = field(default_factory=dict)
    installing: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take away."""
        return not any(asdict(self).values())

    def as_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def record_file(role: str) -> str:
    """Where a role's record lies.

    :raises InputError: if ``role`` is not a role's name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", role):
        raise InputError("record", role, "a role's name: lower-case letters, digits and underscores")
    return f"{FOLDER}/{role}.json"


def read(role: str) -> Record:
    """A role's record; an empty one if there is none.

    :raises GridboxError: if the file is there but is not a record.
    """
    path = record_file(role)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Record(
            tuple(data["packages"]), tuple(data["paths"]), tuple(data["trees"]), dict(data["settings"]),
            tuple(data.get("installing", ())), tuple(data.get("replaced", ())),
        )  # fmt: skip
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise GridboxError(
            f"{path}: not the record of a role ({exc}). Look what it is, and move it away; what the role brought to"
            " this host has to be removed by hand then."
        ) from exc


def write(role: str, record: Record) -> None:
    """Replace a role's record, atomically; an empty one is removed, and the folder with the last of them."""
    path = record_file(role)
    if record.empty:
        if os.path.exists(path):
            os.unlink(path)
        if os.path.isdir(FOLDER) and not os.listdir(FOLDER):
            os.rmdir(FOLDER)
        return
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    write_atomically(path, record.as_json().encode(), 0o644)


def write_atomically(path: str, content: t.Union[bytes, t.Iterable[bytes]], mode: int) -> None:
    """Write a file through a neighbour that takes its place once it is on the disk.

    :param content: as a whole, or in pieces.
    """
    # By process and thread. One that is there already is what a process of this number left when it was killed.
    # Of the name only its beginning: it may be as long as names can be.
    folder, name = os.path.split(path)
    neighbour = os.path.join(folder, f"{name[:_BEGINNING]}.{os.getpid()}.{threading.get_ident()}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(neighbour)
    descriptor = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    except BaseException:
        os.unlink(neighbour)
        raise


def remove_neighbours(path: str) -> None:
    """Remove what :func:`write_atomically` has left beside a file where it was killed. For whoever alone writes it."""
    folder, name = os.path.split(path)
    unfinished = re.compile(re.escape(name[:_BEGINNING]) + r"\.\d+\.\d+\.new")
    for other in filter(unfinished.fullmatch, os.listdir(folder)):
        os.unlink(os.path.join(folder, other))


@dataclass(frozen=True)
class Wish:
    """What is asked of the record.

    :ivar role: whose record.
    :ivar remove: take away what is recorded, instead of recording.
    :ivar unmounted: what is mounted at or below these paths is not in the way, for it will be gone by then.
    """

    role: str
    paths: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    settings: t.Mapping[str, t.Mapping[str, t.Any]] = field(default_factory=dict)
    remove: bool = False
    unmounted: tuple[str, ...] = ()

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a path that no role may take away.
        """
        record_file(params["name"])
        for option, depth in (("paths", 1), ("trees", 2)):
            for path in params[option]:
                if not path.startswith("/") or os.path.normpath(path) != path or path.count("/") < depth or path == "/":
                    below = ", below a folder of the root" if depth > 1 else ""
                    raise InputError(option, path, f"an absolute path without .. or a trailing slash{below}")
        for path, keys in params["settings"].items():
            if not isinstance(keys, dict):
                raise InputError(f"settings.{path}", keys, "a dictionary of keys and their values")
        return cls(
            params["name"],
            tuple(params["paths"]),
            tuple(params["trees"]),
            params["settings"],
            params["state"] == "absent",
            tuple(params["unmounted"]),
        )


@dataclass(frozen=True)
class Observed:
    """The record, and what of the paths concerned is there now."""

    record: Record
    there: frozenset[str]
    busy: frozenset[str]
    #: Recorded folders of ``paths`` that hold something which is not recorded itself.
    kept: frozenset[str]
    #: Recorded paths that lie in a recorded tree, under whatever name: /var/run is a link to /run.
    inside: frozenset[str] = frozenset()


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide what to record, or what to take away. Pure."""
    record = observed.record
    before = {"paths": list(record.paths), "trees": list(record.trees)}
    if not wish.remove:
        known = set(record.paths) | set(record.trees)
        paths = [path for path in wish.paths if path not in known and path not in observed.there]
        trees = [path for path in wish.trees if path not in known and path not in observed.there]
        settings = [
            Step(
                "record_setting", f"{path} {key}", "its first value", details={"path": path, "key": key, "value": value}
            )
            for path, keys in wish.settings.items()
            for key, value in keys.items()
            if key not in record.settings.get(path, {})
        ]
        steps = tuple(
            [Step("record", path, "it is not there yet, so it goes when the role goes") for path in paths]
            + [Step("record_tree", path, "it is not there yet, so it goes when the role goes") for path in trees]
            + settings
        )
        return Plan(steps, before, {"paths": [*record.paths, *paths], "trees": [*record.trees, *trees]})
    trees_away = [path for path in reversed(record.trees) if path in observed.there]
    steps_away = [Step("remove_tree", path, "the role brought it") for path in trees_away] + [
        Step("remove", path, "the role brought it")
        for path in reversed(record.paths)
        if path in observed.there - observed.kept - observed.inside  # what is inside goes with its tree
    ]
    if record.paths or record.trees or record.settings:
        steps_away.append(Step("forget", wish.role, "nothing of it is left"))
    return Plan(tuple(steps_away), before, {"paths": [], "trees": []})


def _is_inside(path: str, tree: str) -> bool:
    """Whether a path is a tree, or lies in it. Where the path itself leads to, if it is a link, does not count."""
    where = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return f"{where}/".startswith(f"{os.path.realpath(tree)}/")


class RecordWork:
    """The work of the module ``host_record``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.subject = f"the record {wish.role}"

    def observe(self) -> Observed:
        record = read(self.wish.role)
        concerned = {*record.paths, *record.trees, *self.wish.paths, *self.wish.trees}
        mounted = [
            mount.point for mount in mount_table.read()
            if not any(_is_inside(mount.point, path) for path in self.wish.unmounted)
        ]  # fmt: skip
        recorded = {*record.paths, *record.trees}
        return Observed(
            record=record,
            there=frozenset(path for path in concerned if os.path.lexists(path)),
            busy=frozenset(
                path for path in recorded for point in mounted if point == path or point.startswith(f"{path}/")
            ),
            kept=frozenset(
                path
                for path in record.paths
                if os.path.isdir(path)
                and not os.path.islink(path)
                and any(f"{path}/{name}" not in recorded for name in os.listdir(path))
            ),
            inside=frozenset(path for path in record.paths if any(_is_inside(path, tree) for tree in record.trees)),
        )

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        if self.wish.remove and observed.busy:
            raise RefusedError(
                f"removing what the role {self.wish.role} brought",
                f"something is still mounted at or below {', '.join(sorted(observed.busy))}",
                "Stop what uses it (containers, mounts) and run again.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        record = read(self.wish.role)
        if step.action == "record":
            write(self.wish.role, replace(record, paths=(*record.paths, step.target)))
        elif step.action == "record_tree":
            write(self.wish.role, replace(record, trees=(*record.trees, step.target)))
        elif step.action == "record_setting":
            keys = {**record.settings.get(step.details["path"], {}), step.details["key"]: step.details["value"]}
            write(self.wish.role, replace(record, settings={**record.settings, step.details["path"]: keys}))
        elif step.action == "forget":
            write(self.wish.role, replace(record, paths=(), trees=(), settings={}))
        elif step.action == "remove_tree":
            remove_tree(step.target, one_file_system=False)  # an engine may have made subvolumes
        elif os.path.isdir(step.target) and not os.path.islink(step.target):
            os.rmdir(step.target)
        else:
            os.unlink(step.target)

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        raise GridboxError(f"{name}: recording and removing have no undo")

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        return {
            "paths": plan.after["paths"],
            "trees": plan.after["trees"],
            "packages": list(observed.record.packages),
            "installing": list(observed.record.installing),
            "settings": {path: dict(keys) for path, keys in observed.record.settings.items()},
            "kept": sorted(observed.kept) if self.wish.remove else [],
        }

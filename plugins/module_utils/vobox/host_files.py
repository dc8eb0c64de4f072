# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of one VO-box on the host: its init script in versions, and its declared services.

Layout and contract: ``docs/init-script.md``. A version is a folder named by the SHA-256 of the script in it, so an edit
by hand shows without any record. What is current is one symbolic link, replaced by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.errors import RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host.plain_file import plain_file
from ansible_collections.hep.gridbox.plugins.module_utils.host.trees import remove_tree
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.desired import Service, sha256
from ansible_collections.hep.gridbox.plugins.module_utils.vobox.runner import RUNNER, START

#: How many versions of the init script are kept.
KEPT_VERSIONS = 5

#: All that is ever made in the folder; what is in a launch folder the container makes.
_OURS = re.compile(
    r"services\.json|run|run/[0-9a-f]{12}"
    r"|init|init/(current|previous|start|runner|versions|versions/[0-9a-f]{64}(/init\.sh)?)"
)
#: A file that is being written, or that a killed run left, for the one that it would have become.
_BEING_WRITTEN = re.compile(r"(^|/)\.([^/]+)\.new\Z")

#: What the runner says: version, state, status. The longest is shorter than this, in bytes.
_WORD = re.compile(r"([0-9a-f]{64}) (running|done|failed|stopping|stopped)(?: ([0-9]{1,3}))?\n")
_LONGEST_WORD = 128
#: How often, and after how many seconds, a runner's word is read again that is just being written.
_EMPTY_TRIES, _EMPTY_PAUSE = 50, 0.01


@dataclass(frozen=True)
class HostFiles:
    """What lies on the host for a VO-box.

    :ivar exists: whether there is a folder for it.
    :ivar current: the version that is linked as current; ``previous`` likewise.
    :ivar content: SHA-256 of the text that lies there; not ``current`` after an edit by hand.
    :ivar text: that text, for the diff.
    :ivar versions: all that are kept, newest first.
    :ivar runner: whether the runner is this release's.
    :ivar services: as remembered; None if nothing is.
    """

    exists: bool = False
    current: t.Optional[str] = None
    previous: t.Optional[str] = None
    content: t.Optional[str] = None
    text: str = ""
    versions: tuple[str, ...] = ()
    runner: bool = False
    services: t.Optional[tuple[Service, ...]] = None

    @property
    def drift(self) -> bool:
        """Whether somebody edited the script by hand."""
        return self.current is not None and self.content != self.current


@dataclass(frozen=True)
class Launch:
    """What the runner in the container says: the version that it launched last, and how that went.

    :ivar said_at: when it said so, in seconds of the host's clock.
    """

    version: t.Optional[str] = None
    state: t.Optional[str] = None
    status: t.Optional[int] = None
    said_at: float = 0.0

    @property
    def went_well(self) -> bool:
        return self.state in ("running", "done")


class Folder:
    """The folder of one VO-box.

    :param path: ``<files>/<name>``.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.init = self.path / "init"

    # ---- looking --------------------------------------------------------------------------------------------------

    def read(self) -> HostFiles:
        """All of it.

        :raises RefusedError: for what cannot be read, or is not what this module has written.
        """
        try:
            return self._read()
        except OSError as exc:
            raise RefusedError(
                f"files: {exc.filename}", f"it cannot be read ({exc.strerror})", "Repair it or move it away."
            ) from exc

    def _read(self) -> HostFiles:
        if not self.path.is_dir():
            if os.path.lexists(self.path):
                raise RefusedError(f"files: {self.path}", "it is not a folder", "Move it away, or give another folder.")
            return HostFiles()
        current = _link(self.init / "current")
        text = _text(self.init / "current" / "init.sh")
        return HostFiles(
            exists=True,
            current=current,
            previous=_link(self.init / "previous"),
            content=sha256(text) if text is not None else None,
            text=text or "",
            versions=self._versions(),
            runner=_text(self.init / "runner") == RUNNER,
            services=self._services(),
        )

    def script(self, version: str) -> t.Optional[str]:
        """The text of a version; None if it is not kept, or is not what its name says."""
        text = _text(self.init / "versions" / version / "init.sh")
        return text if text is not None and sha256(text) == version else None

    def foreign(self) -> list[str]:
        """What lies in the folder and was not made by this module, nor by a container in its launch folder."""
        if self.path.is_symlink():
            return ["a symbolic link"]
        found = []
        for where, folders, files in os.walk(self.path):
            inside = os.path.relpath(where, self.path)
            for name in (*folders, *files):
                path = os.path.normpath(os.path.join(inside, name))
                if not _OURS.fullmatch(_BEING_WRITTEN.sub(r"\1\2", path)):
                    found.append(path)
                    folders[:] = [folder for folder in folders if folder != name]
            if inside == "run":
                folders.clear()
        return sorted(found)

    def _versions(self) -> tuple[str, ...]:
        folder = self.init / "versions"
        if not folder.is_dir():
            return ()
        return tuple(entry.name for entry in sorted(folder.iterdir(), key=lambda e: e.stat().st_mtime_ns, reverse=True))

    def _services(self) -> t.Optional[tuple[Service, ...]]:
        path = self.path / "services.json"
        text = _text(path)
        if text is None:
            return None
        try:
            services = tuple(Service(**service) for service in json.loads(text))
            for service in services:
                if not isinstance(service.port, int):
                    raise TypeError(f"a port is {service.port!r}")
        except (TypeError, ValueError) as exc:
            raise RefusedError(
                f"files: {path}", f"it is not the list of services that this module writes ({exc})",
                "Remove it; a run with the option services writes it anew.",
            ) from exc  # fmt: skip
        return services

    # ---- changing -------------------------------------------------------------------------------------------------

    def write_script(self, text: str) -> None:
        """Make this text the current version. A text that was edited by hand becomes the version before."""
        before = self.read()
        version = sha256(text)
        # Before anything is added, so that an undo has all that the five newest were.
        for old in before.versions[KEPT_VERSIONS:]:
            if old not in (version, before.current, before.previous):
                shutil.rmtree(self.init / "versions" / old)
        previous = before.current if before.current != version else before.previous
        if before.drift and before.content is not None:
            self._add_version(before.text)
            previous = before.content
        if previous == version:
            previous = None
        self._add_version(text)
        self._write_programs()
        if previous:
            self._relink("previous", previous)
        self._relink("current", version)

    def put_back(self, before: t.Mapping[str, t.Any]) -> None:
        """Undo of :meth:`write_script`: ``current`` and ``previous`` as they were, and a text edited by hand too.

        :param before: of :meth:`snapshot`.
        """
        if not before["exists"]:
            self.remove()
            return
        for link in ("current", "previous"):
            if before[link]:
                self._relink(link, before[link])
            else:
                with contextlib.suppress(FileNotFoundError):
                    (self.init / link).unlink()
        if before["edited"] is not None:
            write_file(self.init / "versions" / before["current"] / "init.sh", before["edited"], 0o755)
        for version in self._versions():
            if version not in before["versions"]:
                shutil.rmtree(self.init / "versions" / version)

    def snapshot(self) -> dict[str, t.Any]:
        """What :meth:`put_back` needs; JSON types."""
        before = self.read()
        return {
            "exists": before.exists,
            "current": before.current,
            "previous": before.previous,
            "versions": before.versions,
            "edited": before.text if before.drift else None,
        }

    def write_services(self, services: t.Optional[t.Sequence[Service]]) -> None:
        """Remember the declared services; None forgets them."""
        path = self.path / "services.json"
        if services is None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            with contextlib.suppress(OSError):  # not empty, or not there
                self.path.rmdir()
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps([asdict(service) for service in services], indent=1) + "\n", 0o644)

    def add_launch_folder(self, creation: str) -> None:
        """The folder in which a container's runner tells how it goes."""
        (self.path / "run" / creation).mkdir(parents=True, exist_ok=True)

    def drop_launch_folder(self, creation: str) -> None:
        """Remove one; fine if it is gone."""
        remove_tree(str(self.path / "run" / creation))

    def drop_launch_folders(self, but: t.Collection[str] = ()) -> None:
        """Remove those of containers that are gone."""
        folder = self.path / "run"
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name not in but:
                remove_tree(str(entry))

    def remove(self) -> None:
        """Remove all of it; fine if it is gone. Moved aside first, so that it is there as a whole or not at all."""
        aside = self.path.with_name(f".{self.path.name}.removed")
        remove_tree(str(aside))
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(aside)
            remove_tree(str(aside))

    def _add_version(self, text: str) -> None:
        folder = self.init / "versions" / sha256(text)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "init.sh", text, 0o755)
        os.utime(folder)  # the newest now, whenever it was first written

    def _write_programs(self) -> None:
        start = self.init / "start"
        if _text(start) != START:
            write_file(start, START, 0o755)
        if _text(self.init / "runner") != RUNNER:
            write_file(self.init / "runner", RUNNER, 0o755)

    def _relink(self, name: str, version: str) -> None:
        new = self.init / f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        new.symlink_to(f"versions/{version}")
        new.replace(self.init / name)
        sync_folder(self.init)


def read_launch(folder: t.Optional[str]) -> Launch:
    """What the runner says in a launch folder; nothing if it said nothing yet.

    The container may have put there what it likes: only what can be a runner's word is taken for one.
    """
    path = os.path.join(folder, "state") if folder else ""
    for _try in range(_EMPTY_TRIES):
        with plain_file(path) as file:
            if file is None:
                return Launch()
            said_at, text = os.fstat(file.fileno()).st_mtime, file.read(_LONGEST_WORD)
        if text:
            found = _WORD.fullmatch(text.decode(errors="replace"))
            if not found:
                return Launch()
            return Launch(found[1], found[2], int(found[3]) if found[3] else None, said_at)
        time.sleep(
            _EMPTY_PAUSE
        )  # the runner empties it before it writes: a shell has no other way that every image knows
    return Launch()


def _link(path: Path) -> t.Optional[str]:
    try:
        return os.path.basename(os.readlink(path))
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        raise RefusedError(
            f"files: {path}", "it is not the symbolic link that this module makes",
            "Move it away, and run again with the option init_script.",
        ) from exc  # fmt: skip


def _text(path: Path) -> t.Optional[str]:
    try:
        # Not UTF-8 after an edit by hand: still to be shown, and seen as different.
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def write_file(path: Path, text: str, mode: int) -> None:
    """Write a file so that it is there as a whole or not at all, also after a crash of the machine."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as out:
        os.fchmod(out.fileno(), mode)  # whatever the umask is
        out.write(text.encode(errors="surrogateescape"))
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apptainer as a factory's engine: machines are commands of a dedicated account, each in control groups of its own.

Apptainer has no daemon that knows its containers. So each machine has a keeper (``apptainer_keeper.py``), a process
that is nobody's child, and a folder below ``apptainer`` in the state folder, with ``request.json``, ``running.json``
and ``ended.json``. A keeper that lives holds its machine's lock. What there is, is found from these, whoever was killed
meanwhile. A process of the account that is in the group of no machine whose lock is held is killed on sight.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import select
import shutil
import signal as signals
import subprocess
import sys
import time
import typing as t
import zipfile

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import account as accounts
from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_keeper as keeper
from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_network as networks
from ansible_collections.hep.gridbox.plugins.module_utils.factory import apptainer_request as requests
from ansible_collections.hep.gridbox.plugins.module_utils.factory import cgroups, running
from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import Account
from ansible_collections.hep.gridbox.plugins.module_utils.factory.apptainer_request import Request
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import HOST_NETWORK, Configuration
from ansible_collections.hep.gridbox.plugins.module_utils.factory.container import CVMFS
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container, Event
from ansible_collections.hep.gridbox.plugins.module_utils.factory.written import Outside
from ansible_collections.hep.gridbox.plugins.module_utils.host import background, command
from ansible_collections.hep.gridbox.plugins.module_utils.host.processes import kill
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from ansible_collections.hep.gridbox.plugins.module_utils.host.trees import remove_tree
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype

#: Where locks are, by the names of machines. Of all factories of the host: one must not kill another's machines.
LOCKS = "/run/hep.gridbox.apptainer"

#: Programs that machines take.
PROGRAMS = ("apptainer", "setpriv", "setsid", "unshare", "mount")

#: Seconds: between two looks for processes that are in no machine; for a keeper to say that its machine runs, to end
#: when its machine is killed, and to be gone after that; for a repository to say whether an image is there; for a pull.
SWEEP, _START, _END, _LEAVING, _LOOK, _PULL = 5.0, 60.0, 60.0, 2.0, 30.0, 3600.0

#: An account without any privilege.
_NOBODY = 65534

#: How the name of a folder ends in which an image is made.
_WORK = ".work"

Say = t.Callable[..., None]


class ApptainerEngine:
    """Apptainer. For several threads.

    :param state_folder: the factory's.
    :param account: name of the machines' account.
    :param cvmfs_root: where this host has the repositories of CernVM-FS.
    :param say: tells an event and its facts, for the journal.
    """

    def __init__(self, state_folder: str, account: str, cvmfs_root: str, say: Say) -> None:
        self.root = os.path.join(os.path.realpath(state_folder), "apptainer")
        self._images = os.path.join(self.root, "images")
        self._account, self._cvmfs_root, self._say = account, cvmfs_root, say
        self._pulling: set[str] = set()
        # What the host said of the account when it was judged, and what that came to.
        self._judged: t.Optional[tuple[t.Optional[pwd.struct_passwd], Account]] = None

    def check(self) -> Account:
        """Whether machines can be made; the account that they are made for.

        :raises GridboxError: if not, with what is missing.
        """
        self.check_host()
        return self.account()

    def check_host(self, awaited: bool = False) -> None:
        """Whether machines can be made, whatever the account that they are made for.

        :param awaited: Apptainer itself will be installed.
        :raises GridboxError: if not, with what is missing.
        """
        if os.geteuid() != 0:
            found = "only root can start something as another account"
            raise RefusedError("engine: apptainer", found, "Run the factory as root.")
        needed = [one for one in PROGRAMS if not (awaited and one == "apptainer")]
        missing = [one for one in needed if not shutil.which(one, path=command.SYSTEM_PATH)]
        if missing:
            found = f"this host has no {', no '.join(missing)}"
            raise RefusedError("engine: apptainer", found, "Install apptainer and util-linux.")
        cgroups.read()

    def account(self) -> Account:
        """The account that machines are made for.

        :raises RefusedError: if it cannot be theirs.
        """
        own = accounts.entry(self._account)
        judged = self._judged
        if judged is None or judged[0] != own:
            # Once, for it looks at all accounts of the host. Who has judged a good one knows it by its entry.
            judged = self._judged = (own, accounts.find(self._account))
        return judged[1]

    def check_network(self, network: str, program_awaited: bool) -> None:
        """Whether machines can be on a network.

        :param network: of :data:`configuration.APPTAINER_NETWORKS`.
        :param program_awaited: what it takes will be installed.
        :raises RefusedError: if not.
        """
        if network == HOST_NETWORK:
            return
        remedy = f"let machines be on the host's network by network: {HOST_NETWORK}."
        if not program_awaited and networks.program() is None:
            raise RefusedError(
                f"network: {network}", f"this host has no {networks.PROGRAM}", f"Install passt, or {remedy}"
            )
        # Not as the machines' account: what of it is in no machine is killed.
        problem = networks.trial(accounts.become(_NOBODY, _NOBODY))
        if problem:
            found = problem.rstrip(".")
            raise RefusedError(f"network: {network}", found, f"See the guide to what goes wrong, or {remedy}")

    def check_idle(self, account: Account) -> None:
        """Refuse an account of which somebody else's processes run: they would be killed.

        :raises RefusedError: naming them.
        """
        live = _held()
        found = [one for one in accounts.processes(account.uid) if accounts.is_astray(one, account.uid, live)]
        if found:
            some = ", ".join(f"{one.pid} ({one.name})" for one in found[:5])
            remedy = "They would be killed. End them if they may be, or name an account that is for machines only."
            raise RefusedError(f"apptainer_account: {account.name}", f"processes of it run: {some}", remedy)

    # ---- machines ------------------------------------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """This factory's machines."""
        self.check()
        return self._known()

    def _known(self) -> list[Container]:
        found = (self.container(name) for name in _names_in(self.root))
        return [one for one in found if one is not None and one.uuid]

    def listed(self, _unless: t.Container[str] = ()) -> list[Container]:
        """The same, for each is looked at."""
        return self.containers()

    def container(self, identity: str) -> t.Optional[Container]:
        """One machine; None: there is none."""
        folder = self._folder(identity)
        # First: whoever has the lock may let go of it meanwhile, and then has written down all of it before.
        alive = _is_held(identity)
        ended = _read(folder, keeper.ENDED) or {}
        runs = _read(folder, keeper.RUNS) or {}
        request = _read(folder, keeper.REQUEST)
        if request is None:
            return None
        state = "exited" if ended else "created" if not runs else "running" if alive else "dead"
        return Container(
            identity, identity, str(request["uuid"]), state, runs.get("started"), ended.get("finished"),
            ended.get("exit_code"), int(runs.get("pid") or 0) if state == "running" else 0,
            bool(ended.get("out_of_memory")), ended.get("cpu_seconds"), str(ended.get("problem") or ""),
        )  # fmt: skip

    def create(
        self, machine: Machine, machinetype: Machinetype, configuration: Configuration, folder: str, image: str
    ) -> str:
        """Write down what is to be run, and give the account what it may write to.

        :raises EngineError: if the image is gone: whoever writes a repository has another one in its place by now, or a
            link to something of the host's.
        """
        account = self.check()
        there = _resolved(image)
        if not there or (self._is_in_a_repository(image) and there != self._there(image)):
            by_now = f"leads to {there} by now" if there else "is not there any more"
            raise EngineError(f"Making {machine.container_name}", f"its image {image} {by_now}", 404)
        work = f"{folder}/mnt/{requests.WORK}"
        os.mkdir(work, 0o700)
        given = [work, f"{folder}/mnt/joboutputs"]
        given += [f"{folder}/mnt/tmp/{name}" for name in os.listdir(f"{folder}/mnt/tmp")]
        for path in given:
            os.chown(path, account.uid, account.gid)
        request = requests.of_machine(machine, machinetype, configuration, account, folder, image)
        self._put(request)
        return request.name

    def start(self, container: str) -> None:
        """Start a machine's keeper, and wait until it says that the machine runs."""
        self.sweep()
        folder = self._folder(container)
        doing = f"Starting {container}"
        # The keeper has a mount namespace to itself, and sees what is mounted on the host later.
        argv = ["setsid", "--fork", "unshare", "--mount", "--propagation", "slave", "--", _program(), "machine", folder]
        variables = {"PATH": command.SYSTEM_PATH, "LANG": "C.UTF-8"}
        with _locked(container) as lock, open(os.path.join(folder, "keeper.log"), "wb") as log:
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/", env=variables,
                    pass_fds=[lock],
                )  # fmt: skip
            except OSError as exc:
                raise EngineError(doing, f"{argv[0]} cannot be run ({exc.strerror})", 500) from exc
            try:
                told = child.communicate(timeout=_START)[0].decode(errors="replace").strip()
            except subprocess.TimeoutExpired as exc:
                raise EngineError(doing, f"its keeper has not answered for {_START:g} s") from exc
        if told != keeper.STARTED:
            with open(log.name, encoding="utf-8", errors="replace") as said:
                raise EngineError(doing, told or " ".join(said.read().split())[-500:] or "nothing", 500)

    def signal(self, container: str, signal: str) -> bool:
        """TERM is for its first process, by its keeper; KILL for all that is in its groups."""
        runs = _read(self._folder(container), keeper.RUNS)
        if runs is None or not _is_held(container):
            return False
        if signal == "SIGKILL":
            cgroups.empty(self._groups(container), 0)
            return True
        # By whether the lock is still held: the number may be another's by now.
        return kill(int(runs["keeper"]), lambda _pid: _is_held(container), signals.Signals[signal])

    def folder(self, container: str) -> str:
        """Not told: what is known of a machine is in the state folder, and those of another one are never seen."""
        return ""

    def outside(self, container: str) -> t.Optional[Outside]:
        """Nowhere: all that a machine can write to is its work space, or memory."""
        return Outside() if os.path.isdir(self._folder(container)) else None

    def remove(self, container: str) -> None:
        """Kill what there is of a machine, and remove what is known of it."""
        groups, keepers = self._groups(container), self._groups(cgroups.SUPERVISORS)
        own = (_read(self._folder(container), keeper.RUNS) or {}).get("keeper")
        deadline = time.monotonic() + _END
        # Again and again: its keeper may be just about to start it.
        while _is_held(container) or cgroups.members(groups):
            cgroups.empty(groups, 1)
            if time.monotonic() > deadline:
                raise GridboxError(f"{container} is not removed: something of it is there {_END:g} s after KILL.")
            time.sleep(0.02)
        # A keeper has let go of the work space, which it has in its mount namespace, when the kernel has taken it out
        # of its group. A number that is another keeper's by now, after a reboot, is not waited for long.
        deadline = time.monotonic() + _LEAVING
        while own in cgroups.members(keepers) and time.monotonic() < deadline:
            time.sleep(0.02)
        cgroups.remove(groups)
        shutil.rmtree(self._folder(container), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_lock_of(container))

    def output(self, container: str, path: str, limit: int) -> None:
        """Keep the last of what a machine has printed."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as kept:
            for name in (keeper.OUTPUT_BEFORE, keeper.OUTPUT):
                source = os.path.join(self._folder(container), name)
                with contextlib.suppress(FileNotFoundError), open(source, "rb") as file:
                    shutil.copyfileobj(file, kept)

    # ---- ends, and what is in no machine -------------------------------------------------------------------------

    def events(self, since: float) -> t.Iterator[Event]:
        """The ends of machines. In between, what is in no machine is killed.

        :param since: what ended before is told as well.
        :raises EngineError: if nobody can tell, for something is missing.
        """
        try:
            for uuid in self._ends():
                yield Event(uuid)
        except RefusedError as exc:
            raise EngineError("Waiting for ends", str(exc)) from exc

    def _ends(self) -> t.Iterator[str]:
        self._make_root()
        path = os.path.join(self.root, keeper.ENDS)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # for writing too, so that it has no end
        try:
            told: set[str] = set()
            while True:
                self.sweep()  # which has checked what containers() would check
                # A keeper that was killed has told nobody.
                over = {one.uuid for one in self._known() if one.over}
                yield from over - told
                told = over
                if select.select([pipe], [], [], SWEEP)[0]:
                    words = os.read(pipe, 65536).decode(errors="replace").split()
                    told.update(words)
                    yield from words
        finally:
            os.close(pipe)

    def sweep(self) -> None:
        """Kill each process of the account that is in no machine."""
        for one in accounts.sweep(self.check().uid, _held):
            self._say("stray_process_killed", pid=one.pid, program=one.name, account=self._account)

    # ---- images --------------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The folder of the images that are fetched."""
        return self._images

    def fetches(self, reference: str) -> bool:
        """Whether an image comes from elsewhere, and is no file or folder of this host."""
        return "://" in reference

    def images(self) -> dict[str, tuple[str, ...]]:
        """By path, those that were fetched. They have no names but the references that their paths are made from."""
        return {os.path.join(self._images, name): () for name in _names_in(self._images) if name.endswith(".sif")}

    def foreign_images(self) -> t.Collection[str]:
        """None: the folder is the factory's alone."""
        return ()

    def image(self, reference: str) -> t.Optional[str]:
        """The path of an image that is here; None: it is not.

        :raises RefusedError: if it is a link that leads out of the repositories.
        """
        if self.fetches(reference):
            path = self._image(reference)
            return path if os.path.exists(path) else None
        path = reference
        if reference.startswith(f"{CVMFS}/"):
            path = self._cvmfs_root + reference[len(CVMFS) :]
        found = _resolved(path)
        if not found or not self._is_in_a_repository(path):
            return path if found else None
        root = self._there(self._cvmfs_root)
        if not found.startswith(f"{root}/"):
            # Who writes the repository is not who may show a machine what is on the host.
            remedy = "Name an image that is in a repository."
            raise RefusedError(f"root_image: {reference}", f"it leads out of {self._cvmfs_root}, to {found}", remedy)
        return self._cvmfs_root + found[len(root) :]

    def _is_in_a_repository(self, path: str) -> bool:
        """Whether somebody else than the site says what is there."""
        return path.startswith(f"{self._cvmfs_root}/")

    def _there(self, path: str) -> str:
        """A path in the repositories, by where they really are: the site may have a link to them."""
        return os.path.realpath(self._cvmfs_root) + path[len(self._cvmfs_root) :]

    def pull(self, reference: str) -> None:
        """Make an image of one in a registry or on a server; one that is here is replaced."""
        if not self.fetches(reference):
            if self.image(reference) is None:
                raise EngineError(f"Looking for the image {reference}", "there is no such file or folder", 404)
            return
        account, target = self.check(), self._image(reference)
        # Locks and control groups are the host's, and another factory of it may want the same image.
        name = f"image-{_short(self.root)[:8]}-{os.path.basename(target)}"
        work = self._work(name)
        self._pulling.add(name)
        try:
            self._clear_cut_short()
            self.remove(name)
            self._make_root()
            remove_tree(work)
            os.makedirs(work, mode=0o700)
            os.chown(work, account.uid, account.gid)
            variables = {key: os.environ[key] for key in background.KEPT_VARIABLES if key in os.environ}
            self._put(requests.of_image(reference, name, account, work, variables))
            self.start(name)
            self._wait_for_image(reference, name)
            made = os.path.join(work, "image.sif")
            with open(os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                os.fchown(file.fileno(), 0, 0)  # nobody but root may change it from now on
                os.fchmod(file.fileno(), 0o644)
            os.replace(made, target)
        except OSError as exc:
            raise EngineError(f"Pulling {reference}", str(exc), 500) from exc
        finally:
            self._clear(name)
            self._pulling.discard(name)

    def _work(self, name: str) -> str:
        """Where an image is made."""
        return os.path.join(self._images, f"{name}{_WORK}")

    def _clear_cut_short(self) -> None:
        """Remove what pulls have left whose factory was killed: it is large, and nobody may want that image again."""
        for name in (one[: -len(_WORK)] for one in _names_in(self._images) if one.endswith(_WORK)):
            if name not in self._pulling and not _is_held(name):  # nor does its keeper live
                self._clear(name)

    def _clear(self, name: str) -> None:
        """Remove what a pull has left. What cannot be removed stays for the next pull: it keeps no other from being
        done."""
        try:
            self.remove(name)
            remove_tree(self._work(name))
        except GridboxError as exc:
            self._say("cleaning_failed", container=name, problem=str(exc))

    def remove_image(self, name: str) -> None:
        """Remove an image that was fetched, by its reference or its path; not one that a machine has."""
        path = self._image(name) if self.fetches(name) else name
        requests_by_name = {name: _read(self._folder(name), keeper.REQUEST) for name in _names_in(self.root)}
        users = [name for name, one in requests_by_name.items() if one and one["shown"].get("image") == path]
        if users:
            raise EngineError(f"Removing the image {name}", f"machines were made from it: {', '.join(users)}", 409)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _wait_for_image(self, reference: str, name: str) -> None:
        deadline = time.monotonic() + _PULL
        while True:
            seen = self.container(name)
            if seen is None or not seen.alive:
                break
            if time.monotonic() > deadline:
                raise EngineError(f"Pulling {reference}", f"it has not ended after {_PULL:g} s", 504)
            time.sleep(0.1)
        if seen is None or seen.exit_code != 0:
            words = b""
            path = os.path.join(self._folder(name), keeper.OUTPUT)
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                words = b" ".join(line.partition(b" ")[2].strip() for line in file)
            raise EngineError(f"Pulling {reference}", words.decode(errors="replace")[-500:] or "nothing", 500)

    def _image(self, reference: str) -> str:
        return os.path.join(self._images, f"{_short(reference)}.sif")

    # ---- what is written down ------------------------------------------------------------------------------------

    def _folder(self, container: str) -> str:
        return os.path.join(self.root, container)

    def _make_root(self) -> None:
        """What is below is for root alone: machines are shown what they need of it."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)

    def _groups(self, container: str) -> list[str]:
        return [one.group(container) for one in cgroups.read()]

    def _put(self, request: Request) -> None:
        folder = self._folder(request.name)
        self._make_root()
        os.mkdir(folder, 0o700)
        write_atomically(os.path.join(folder, keeper.REQUEST), request.as_json().encode(), 0o600)


def _program() -> str:
    """What keepers are started from: this program, or, in a module of Ansible's, the one that the role installs."""
    own = os.path.abspath(sys.argv[0])
    return own if zipfile.is_zipfile(own) else running.PROGRAM


def _short(text: str) -> str:
    """Sixteen digits that are another text's by accident only."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolved(path: str) -> str:
    """What a path leads to; empty: nothing. It may be in a repository that does not answer."""
    found = command.run(f"Looking for {path}", ["readlink", "--canonicalize-existing", "--", path], _LOOK, ok=(0, 1))
    return found.rstrip("\n")


def _names_in(folder: str) -> list[str]:
    """What is in a folder of the factory's; nothing if it is not there yet."""
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _read(folder: str, name: str) -> t.Optional[dict[str, t.Any]]:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return t.cast("dict[str, t.Any]", json.load(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as exc:
        raise GridboxError(f"{os.path.join(folder, name)} cannot be read ({exc}).") from exc


# ---- locks -----------------------------------------------------------------------------------------------------------


def _lock_of(name: str) -> str:
    return os.path.join(LOCKS, f"{name}.lock")


@contextlib.contextmanager
def _locked(name: str) -> t.Iterator[int]:
    """The lock of a machine that is about to be started. Whoever inherits it has it too."""
    os.makedirs(LOCKS, mode=0o755, exist_ok=True)
    lock = os.open(_lock_of(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + 5
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:  # somebody looks whether it is held, or it is
                if exc.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                    raise EngineError(f"Starting {name}", "it runs already", 409) from exc
            time.sleep(0.01)
        yield lock
    finally:
        os.close(lock)


def _is_held(name: str) -> bool:
    """Whether somebody has a machine's lock."""
    try:
        lock = os.open(_lock_of(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _held() -> set[str]:
    """The machines of this host whose lock somebody has."""
    try:
        names = [one[: -len(".lock")] for one in os.listdir(LOCKS) if one.endswith(".lock")]
    except FileNotFoundError:
        return set()
    return {name for name in names if _is_held(name)}

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of the distribution, with a memory of which of them a role brought.

``ansible.builtin.package`` is not enough for three reasons: the dependencies that came along have to be known, so that
``remove`` can leave the host as it was; a package must not start or restart its service by itself (an engine's package
would put it into the wrong network namespace, and an upgrade of it would end every container); and check mode has to
be true on a bare host, where Ansible's own modules lack their libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.host import record
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import SYSTEM_PATH, run
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step

#: Debian policy 9.3.3.1: with this script ending in 101, a package's installation starts and restarts no service.
POLICY_SCRIPT = "/usr/sbin/policy-rc.d"
POLICY = b"#!/bin/sh\n# hep.gridbox: services are started by the roles, once they are configured.\nexit 101\n"


@dataclass(frozen=True)
class Wish:
    """Which packages, for whom.

    :ivar role: whose record takes them down.
    :ivar may_replace: installed packages that may go for them.
    :ivar lists_max_age: seconds after which the lists of available packages are fetched anew before an installation.
    :ivar wait_timeout: seconds one run of the package manager may take.
    """

    role: str
    names: tuple[str, ...]
    remove: bool
    lists_max_age: int
    wait_timeout: int
    may_replace: tuple[str, ...] = ()

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> Wish:
        """Check and normalise a module's arguments.

        :raises InputError: for a value that cannot be right.
        """
        record.record_file(params["record"])
        for option in ("names", "may_replace"):
            for name in params[option]:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", name):
                    raise InputError(option, name, "a package's name, without a version")
        if params["wait_timeout"] < 1:
            raise InputError("wait_timeout", params["wait_timeout"], "a number of seconds of 1 or more")
        return cls(
            params["record"],
            tuple(dict.fromkeys(params["names"])),
            params["state"] == "absent",
            params["lists_max_age"],
            params["wait_timeout"],
            tuple(dict.fromkeys(params["may_replace"])),
        )


@dataclass(frozen=True)
class Observed:
    """What the package manager and the role's record say.

    :ivar installed: names of the packages that are installed and configured.
    :ivar record: what the role brought.
    :ivar unfinished: names of packages that are neither installed nor gone: a run of the package manager was cut short.
    :ivar interrupted: whether the package manager refuses to work until that run is finished.
    :ivar policy_left: whether the script is there with which this module keeps services from starting.
    """

    installed: frozenset[str]
    record: record.Record
    unfinished: frozenset[str] = frozenset()
    interrupted: bool = False
    policy_left: bool = False


def plan(wish: Wish, observed: Observed) -> Plan:
    """Decide which packages to install, or which to remove. Pure."""
    known = observed.record
    ours = {*known.packages, *known.installing}
    if wish.remove:
        going = sorted(ours & (observed.installed | observed.unfinished))
        back = sorted({*known.replaced} - observed.installed)
        steps = _finish(observed, bool(going or back))
        if back:
            # First, so that the host has one of the two at every moment.
            steps.append(Step("restore_packages", " ".join(back), "they had to go for the role's"))
        if going:
            steps.append(Step("remove_packages", " ".join(going), "the role brought them"))
        if ours or known.replaced:
            steps.append(Step("forget", wish.role, "none of its packages is left"))
        return Plan(tuple(steps), {"packages": going}, {"packages": []})
    missing = [name for name in wish.names if name not in observed.installed]
    present = sorted(set(wish.names) & observed.installed)
    steps = _finish(observed, bool(missing) or bool(observed.unfinished & ours))
    if missing:
        steps.append(Step("install_packages", " ".join(missing), "not installed"))
    elif known.installing or observed.policy_left:
        steps.append(Step("tidy_up", wish.role, "an installation was cut short"))
    return Plan(tuple(steps), {"packages": present}, {"packages": sorted(wish.names)})


def _finish(observed: Observed, needed: bool) -> list[Step]:
    """Others' unfinished packages are no concern of a role's, unless they are in its way."""
    if not needed or not (observed.unfinished or observed.interrupted):
        return []
    names = " ".join(sorted(observed.unfinished)) or "all"
    return [Step("finish_packages", names, "a run of the package manager was cut short")]


class Apt:
    """dpkg and apt: Debian, Ubuntu."""

    #: Options for whatever changes packages: nobody is asked, and a changed configuration file stays.
    _CHANGING = ("apt-get", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120",
                 "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")  # fmt: skip
    _ENVIRONMENT: t.ClassVar[dict[str, str]] = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}

    def __init__(self, wish: Wish) -> None:
        self._timeout = wish.wait_timeout
        self._lists_max_age = wish.lists_max_age

    def states(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the installed packages, and of those that dpkg has begun with."""
        lines = run("Listing packages", ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"]).splitlines()
        states = [line.split() for line in lines]
        gone = ("installed", "not-installed", "config-files")
        return (
            frozenset(name for state, name in states if state == "installed"),
            frozenset(name for state, name in states if state not in gone),
        )

    def interrupted(self) -> bool:
        """Whether apt-get would say "dpkg was interrupted": it looks for updates that dpkg has not merged (apt 2.6)."""
        folder = "/var/lib/dpkg/updates"
        return os.path.isdir(folder) and any(name.isdigit() for name in os.listdir(folder))

    def finish(self) -> None:
        """Have dpkg and apt finish what was cut short, and start no service."""
        # What misses a dependency stays unconfigured and makes it end with 1; that is for apt, which knows from where.
        argv = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
        run("Finishing what dpkg had begun", argv, self._timeout, (0, 1), self._ENVIRONMENT)
        argv = [*self._CHANGING, "--fix-broken", "install"]
        run("Finishing what dpkg had begun", argv, self._timeout, environment=self._ENVIRONMENT)

    def preview_install(self, names: t.Sequence[str]) -> tuple[list[str], list[str]]:
        """Have apt work the installation out without doing it, with fresh lists if its own are old.

        :return: names of all packages that would come, and of those that would go.
        :raises GridboxError: with apt's words, if it cannot be done.
        """
        with tempfile.TemporaryDirectory() as lists:
            options = ["-o", "Debug::NoLocking=1"]
            if self._lists_are_old():
                # Lists of check mode's own: those of the host stay as they are.
                os.makedirs(f"{lists}/partial")
                options += ["-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root"]
                options += ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
                run("Fetching the lists of packages", ["apt-get", "-q", *options, "update"], self._timeout)
            # After a run that was cut short some packages may miss what they depend on.
            argv = ["apt-get", "-q", "-s", *options, "--no-install-recommends", "--fix-broken", "install", "--", *names]
            output = run(f"Working out the installation of {' '.join(names)}", argv, self._timeout)
        return _named("Inst", output), _named("(?:Purg|Remv)", output)

    def install(self, names: t.Sequence[str]) -> None:
        """Install packages, with what they depend on and nothing more; start no service."""
        if self._lists_are_old():
            run("Fetching the lists of packages", ["apt-get", "-q", "update"], self._timeout)
        argv = [*self._CHANGING, "install", "--", *names]
        run(f"Installing {' '.join(names)}", argv, self._timeout, environment=self._ENVIRONMENT)

    def preview_remove(self, names: t.Sequence[str]) -> list[str]:
        """Other packages that a removal would take along."""
        argv = ["apt-get", "-q", "-s", "-o", "Debug::NoLocking=1", "--fix-broken", "purge", "--", *names]
        output = run("Working out the removal", argv, self._timeout)
        return sorted({*_named("(?:Purg|Remv)", output)} - {*names})

    def remove(self, names: t.Sequence[str]) -> None:
        """Remove packages with their configuration."""
        run(f"Removing {' '.join(names)}", [*self._CHANGING, "purge", "--", *names], self._timeout,
            environment=self._ENVIRONMENT)  # fmt: skip

    def _lists_are_old(self) -> bool:
        folder = "/var/lib/apt/lists"
        names = [name for name in os.listdir(folder) if "Packages" in name] if os.path.isdir(folder) else []
        if not names:
            return True
        return time.time() - os.stat(folder).st_mtime > self._lists_max_age


def _named(word: str, output: str) -> list[str]:
    """The packages that a simulation of apt-get names in lines that begin with a word."""
    return re.findall(rf"^{word} (\S+)", output, re.MULTILINE)


class Dnf:
    """rpm and dnf: the EL family."""

    #: Of what comes with a kernel there is one version for each kernel; rpm refuses a name that several have.
    _REMOVING = ("rpm", "-e", "--allmatches")

    def __init__(self, wish: Wish) -> None:
        self._timeout = wish.wait_timeout

    def states(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the installed packages; rpm knows no package that is half there.

        The keys that rpm trusts are listed as packages, all of one name. They are the site's, and no package.
        """
        names = run("Listing packages", ["rpm", "-qa", "--qf", "%{NAME}\\n"]).split()
        return frozenset(names) - {"gpg-pubkey"}, frozenset()

    def interrupted(self) -> bool:
        """Nothing that was cut short keeps dnf from its work."""
        return False

    def finish(self) -> None:
        raise GridboxError("dnf has nothing to finish.")

    def preview_install(self, names: t.Sequence[str]) -> tuple[list[str], list[str]]:
        """Have dnf work the installation out without doing it.

        :return: the names asked for; what they depend on is known afterwards. And what would go: nothing, for without
            ``--allowerasing`` it fails instead.
        :raises GridboxError: if a package is not to be had.
        """
        # With --assumeno it ends with 1 whether or not it would work; only its words tell, and it says them on standard
        # error: "Operation aborted." (dnf 4), "Operation aborted by the user." (dnf 5).
        output = run(
            f"Working out the installation of {' '.join(names)}",
            ["dnf", "--assumeno", "--setopt=install_weak_deps=False", "install", *names],
            self._timeout,
            ok=(0, 1),
            with_errors=True,
        )
        if "Operation aborted" not in output:
            raise GridboxError(f"Installing {' '.join(names)} would fail. dnf says: {_last_words(output)}")
        return list(names), []

    def install(self, names: t.Sequence[str]) -> None:
        """Install packages, with what they depend on and nothing more."""
        argv = ["dnf", "-q", "-y", "--setopt=install_weak_deps=False", "install", *names]
        run(f"Installing {' '.join(names)}", argv, self._timeout)

    def preview_remove(self, names: t.Sequence[str]) -> list[str]:
        """Other packages that a removal would break.

        :raises GridboxError: with rpm's words, if it cannot be done for another reason.
        """
        # It ends with 1 if one is needed, else with the number of those that it could not remove. Its words tell.
        argv = [*self._REMOVING, "--test", *names]
        output = run("Working out the removal", argv, self._timeout, ok=range(256), with_errors=True)
        others = sorted(set(re.findall(r"is needed by \(installed\) (\S+)", output)))
        if not others and "error:" in output:
            raise GridboxError(f"Removing {' '.join(names)} would fail. rpm says: {_last_words(output)}")
        return others

    def remove(self, names: t.Sequence[str]) -> None:
        """Remove packages."""
        run(f"Removing {' '.join(names)}", [*self._REMOVING, *names], self._timeout)


def _last_words(output: str) -> str:
    return " ".join(output.strip().splitlines()[-3:])


class PackagesWork:
    """The work of the module ``host_packages``; see ``front_room.Work``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self._coming: list[str] = []
        self._going: list[str] = []
        self.subject = "the host's packages"
        if shutil.which("apt-get", path=SYSTEM_PATH):
            self.manager: t.Union[Apt, Dnf] = Apt(wish)
        elif shutil.which("dnf", path=SYSTEM_PATH):
            self.manager = Dnf(wish)
        else:
            raise GridboxError(
                "Neither apt-get nor dnf is on this host. The roles know Debian, Ubuntu and the EL family; install"
                f" {' '.join(wish.names) or 'the packages'} by hand and switch the role's installation off."
            )

    def observe(self) -> Observed:
        installed, unfinished = self.manager.states()
        return Observed(
            installed,
            record.read(self.wish.role),
            unfinished,
            self.manager.interrupted(),
            _content(POLICY_SCRIPT) == POLICY,
        )

    def plan(self, observed: Observed) -> Plan:
        return plan(self.wish, observed)

    def preflight(self, plan: Plan, observed: Observed) -> None:
        for step in plan.steps:
            if step.action == "install_packages":
                self._coming, self._going = self.manager.preview_install(step.target.split())
                self._refuse_to_remove(step.target, {*self._going} - {*self.wish.may_replace})
            elif step.action == "restore_packages":
                _coming, going = self.manager.preview_install(step.target.split())
                self._refuse_to_remove(step.target, {*going} - {*observed.record.packages})
            elif step.action == "remove_packages":
                others = self.manager.preview_remove(step.target.split())
                if others:
                    raise RefusedError(
                        f"removing the packages {step.target}",
                        f"by now others need them: {', '.join(others)}",
                        f"Remove those first, or keep the packages and delete {record.record_file(self.wish.role)}.",
                    )

    @staticmethod
    def _refuse_to_remove(names: str, others: t.Collection[str]) -> None:
        """An installation is none that takes away what somebody else has installed: another engine, say."""
        if others:
            raise RefusedError(
                f"installing the packages {names}",
                f"the package manager would remove others for them: {', '.join(sorted(others))}",
                "Remove those first if nothing needs them, or have the role use what is installed.",
            )

    def do(self, step: Step, journal: Journal) -> None:
        if step.action == "forget":
            known = record.read(self.wish.role)
            record.write(self.wish.role, replace(known, packages=(), installing=(), replaced=()))
            return
        # One that a run left which was cut short is this module's too. What comes back has its services run as before.
        own_policy = (
            isinstance(self.manager, Apt)
            and step.action != "restore_packages"
            and _content(POLICY_SCRIPT) in (None, POLICY)
        )
        if own_policy:
            journal.will_do("let packages start their services again", "remove_policy")
            record.write_atomically(POLICY_SCRIPT, POLICY, 0o755)
        try:
            if step.action == "finish_packages":
                self.manager.finish()
            elif step.action == "remove_packages":
                self.manager.remove(step.target.split())
            elif step.action == "restore_packages":
                self.manager.install(step.target.split())
            elif step.action == "install_packages":
                self._install(step.target.split())
            else:
                self._write_down(self.manager.states()[0])
        finally:
            if own_policy:
                self.undo("remove_policy", {})

    def _install(self, names: t.Sequence[str]) -> None:
        before = self.manager.states()[0]
        known = record.read(self.wish.role)
        # Written down before, for a power cut asks nobody.
        coming = {*known.installing, *({*self._coming, *names} - before)}
        replaced = (*known.replaced, *sorted({*self._going} - {*known.replaced, *known.packages}))
        record.write(self.wish.role, replace(known, installing=tuple(sorted(coming)), replaced=replaced))
        try:
            self.manager.install(names)
        finally:
            # Also after a failure: what it left on the host is the role's too.
            self._write_down(before)

    def _write_down(self, before: t.AbstractSet[str]) -> None:
        """What came after ``before`` is the role's; of what had begun, what is not finished stays noted."""
        installed, unfinished = self.manager.states()
        known = record.read(self.wish.role)
        came = ((installed - before) | (set(known.installing) & installed)) - set(known.packages)
        begun = tuple(name for name in known.installing if name in unfinished)
        record.write(self.wish.role, replace(known, packages=(*known.packages, *sorted(came)), installing=begun))

    def undo(self, name: str, data: t.Mapping[str, t.Any]) -> None:
        if os.path.lexists(POLICY_SCRIPT):
            os.unlink(POLICY_SCRIPT)

    def before_guard_undo(self) -> None:
        """Nothing is shared with the process that died."""

    def result(self, observed: Observed, plan: Plan, applied: bool) -> dict[str, t.Any]:
        told = "was finished" if applied else "would be finished"
        return {
            "packages": plan.after["packages"],
            "recorded": [] if self.wish.remove else list(observed.record.packages),
            # Whoever runs a playbook sees it without being told each action.
            "warnings": [
                f"A run of the package manager was cut short; what it had begun {told} first: {step.target}."
                for step in plan.steps
                if step.action == "finish_packages"
            ],
        }


def _content(path: str) -> t.Optional[bytes]:
    """What is in a file; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the gate runs a tool on the checkout, and what it says when the tool is not content."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import typing as t
from dataclasses import dataclass
from pathlib import Path

from tests.lab.playbook import kept_in

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE, NAME = "hep", "gridbox"

#: Where the tools of the virtual environment are, whether it is activated or not.
BIN = Path(sys.executable).parent

#: What tools keep between runs; git ignores it.
CACHE = ROOT / ".cache"


def environment(**more: str) -> dict[str, str]:
    """The environment of every tool: no colours, the virtual environment's programs first.

    Without pyenv's shims: a shim stands for a Python that may not be selected, and then fails only when it is run.
    """
    folders = [folder for folder in os.environ["PATH"].split(":") if not folder.endswith("/shims")]
    return {
        **os.environ,
        "PATH": ":".join([str(BIN), *folders]),
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


#: Seconds after which a tool is taken for hung: more than the slowest takes on a busy machine.
PATIENCE = 900.0


#: How far the gate's tools stand behind the tests on hosts, which wait most of the time: they take what those leave.
BEHIND = 10


class TimedOut(AssertionError):
    """A tool had to be ended."""


def run_tool(
    *argv: str, seconds: float = PATIENCE, nice: int = 0, cwd: Path = ROOT, env: t.Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool without a terminal, its two outputs as one.

    :param nice: how far it stands behind whatever else runs.
    :raises TimedOut: when it has not ended after ``seconds``, with what it had said until then.
    """
    process = subprocess.Popen(
        ["nice", "-n", str(nice), *argv], cwd=cwd, env=env or environment(), text=True, errors="replace",
        start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _none = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        said = end_with_its_children(process)
        raise TimedOut(f"{' '.join(argv)} had not ended after {seconds:.0f} s; it said:\n{tail(said)}") from None
    except BaseException:  # the person at the keyboard ends the run
        end_with_its_children(process)
        raise
    return subprocess.CompletedProcess(argv, process.returncode, output)


def end_with_its_children(process: subprocess.Popen[str]) -> str:
    """End a process that leads a session, and all of the session; return what it had said."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.communicate(timeout=15)[0] or ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate(timeout=15)[0] or ""


def tail(output: str, lines: int = 60) -> str:
    """The last lines of a tool's output: what a person reads first."""
    return "\n".join(output.rstrip().splitlines()[-lines:])


def demand(*argv: str, cwd: Path = ROOT, env: t.Mapping[str, str] | None = None) -> str:
    """Run a tool that must be content, and return its output.

    :raises AssertionError: with the end of its output when it is not.
    """
    __tracebackhide__ = True
    done = run_tool(*argv, nice=BEHIND, cwd=cwd, env=env)
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}\n{tail(done.stdout)}"
    return done.stdout


def files_of_the_checkout() -> list[Path]:
    """Every file that is, or would be, in git, relative to the checkout. What git ignores is not ours."""
    # The checkout may belong to another user than the one who runs the checks.
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    names = sorted({os.fsdecode(name) for name in listed.stdout.split(b"\0") if name})
    return [Path(name) for name in names if os.path.lexists(ROOT / name)]


def stage(folder: Path, without: t.Collection[str] = ()) -> Path:
    """Copy the collection to ``folder/ansible_collections/hep/gridbox`` and return that path.

    :param without: top-level folders that are left out.

    ``ansible-test`` and ``ansible-galaxy collection build`` want a collection at its own path. The copy must not lie in
    the checkout: there ansible-test asks git for its files, gets none, and passes without having tested anything.
    """
    assert ROOT not in folder.resolve().parents, f"{folder} lies in the checkout {ROOT}; a staged copy must not"
    target = folder / "ansible_collections" / NAMESPACE / NAME
    for name in files_of_the_checkout():
        if name.parts[0] in without:
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy, follow_symlinks=False)
    return target


def build(folder: Path) -> Path:
    """Build the collection's tarball from a staged copy under ``folder`` and return its path."""
    staged = stage(folder / "stage")
    (folder / "built").mkdir()
    demand(
        "ansible-galaxy", "collection", "build", "--output-path", str(folder / "built"), str(staged),
        env=environment(ANSIBLE_HOME=str(folder / "ansible-home")),
    )  # fmt: skip
    (tarball,) = (folder / "built").glob(f"{NAMESPACE}-{NAME}-*.tar.gz")
    return tarball


@dataclass(frozen=True)
class Controller:
    """A machine where the tarball is installed and nothing else of ours is.

    :ivar programs: the folder of ``ansible-playbook`` and its kin.
    :ivar collection: where the tarball was installed.
    :ivar folder: to run in; not the checkout.
    """

    programs: Path
    collection: Path
    folder: Path

    @classmethod
    def with_tarball(cls, tarball: Path, folder: Path, programs: Path = BIN) -> Controller:
        """Install the tarball in a folder, which must be there and empty."""
        installed, elsewhere = folder / "installed", folder / "elsewhere"
        elsewhere.mkdir()
        made = cls(programs, installed / "ansible_collections" / NAMESPACE / NAME, elsewhere)
        made.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(installed), str(tarball))
        return made

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of Ansible that must be content, and return its output."""
        argv = [str(self.programs / program), *arguments]
        return demand(*argv, cwd=self.folder, env=environment(**self.variables()))

    def variables(self) -> dict[str, str]:
        """With these Ansible finds the installed collection, and does not find the checkout."""
        return {
            **kept_in(self.folder / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collection.parents[2]),
            # Otherwise ansible would find the checkout in the virtual environment as well.
            "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        }

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a role brought to a host, and what it takes away again."""

from __future__ import annotations

import os
import stat
import sys
import time
import tracemalloc
import typing as t
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import (
    GridboxError,
    InputError,
    RefusedError,
    WaitError,
)
from ansible_collections.hep.gridbox.plugins.module_utils.host import background, mount_table, packages, record
from ansible_collections.hep.gridbox.plugins.module_utils.host.command import run
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from tests.unit import deep_folders

EMPTY: frozenset[str] = frozenset()


def actions(plan: t.Any) -> list[tuple[str, str]]:
    return [(step.action, step.target) for step in plan.steps]


def test_only_what_is_not_there_is_recorded() -> None:
    wish = record.Wish("r", ("/etc/a", "/etc/b"), ("/srv/t",), {"/etc/c": {"k": 1, "old": 2}})
    known = record.Record((), ("/etc/b",), (), {"/etc/c": {"old": 0}})
    plan = record.plan(wish, record.Observed(known, frozenset({"/srv/t"}), EMPTY, EMPTY))
    assert actions(plan) == [("record", "/etc/a"), ("record_setting", "/etc/c k")]


def test_the_newest_goes_first_and_a_folder_in_use_stays() -> None:
    known = record.Record((), ("/etc/a", "/etc/a/b", "/etc/gone", "/etc/kept"), ("/srv/t",))
    seen = record.Observed(
        known, frozenset({"/etc/a", "/etc/a/b", "/etc/kept", "/srv/t"}), EMPTY, frozenset({"/etc/kept"})
    )
    plan = record.plan(record.Wish("r", remove=True), seen)
    assert actions(plan) == [("remove_tree", "/srv/t"), ("remove", "/etc/a/b"), ("remove", "/etc/a"), ("forget", "r")]


def test_what_lies_in_a_tree_goes_with_it() -> None:
    known = record.Record((), ("/run/d", "/run/d/plugins", "/run/dx"), ("/run/d",))
    inside = frozenset({"/run/d", "/run/d/plugins"})
    seen = record.Observed(known, inside | {"/run/dx"}, EMPTY, EMPTY, inside)
    plan = record.plan(record.Wish("r", remove=True), seen)
    assert actions(plan) == [("remove_tree", "/run/d"), ("remove", "/run/dx"), ("forget", "r")]


def test_what_lies_in_a_tree_is_found_under_another_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /var/run/docker/plugins lies in /run/docker."""
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    (tmp_path / "run").mkdir()
    (tmp_path / "var").symlink_to(tmp_path / "run")
    paths = [str(tmp_path / name) for name in ("var/d", "var/d/plugins", "var/dx")]
    carry_out("r", monkeypatch, paths=paths, trees=[str(tmp_path / "run/d")])
    (tmp_path / "run/d/plugins").mkdir(parents=True)
    (tmp_path / "run/dx").write_text("")
    carry_out("r", monkeypatch, state="absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "var"]
    assert not any((tmp_path / "run").iterdir())


def test_nothing_recorded_is_nothing_to_remove() -> None:
    seen = record.Observed(record.Record(("p",)), EMPTY, EMPTY, EMPTY)
    assert record.plan(record.Wish("r", remove=True), seen).steps == ()


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {"name": "r", "paths": [], "trees": [], "settings": {}, "state": "present", "unmounted": [], **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": ["etc"]}, {"paths": ["/"]}, {"paths": ["/etc/../x"]}, {"paths": ["/etc/"]}, {"trees": ["/etc"]},
        {"name": "../x"}, {"name": ""}, {"settings": {"/etc/a": 1}},
    ],
)  # fmt: skip
def test_a_record_takes_no_path_that_no_role_may_remove(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InputError):
        record.Wish.from_params(params(**changes))


def carry_out(role: str, monkeypatch: pytest.MonkeyPatch, **changes: t.Any) -> None:
    work = record.RecordWork(record.Wish.from_params(params(name=role, **changes)))
    seen = work.observe()
    plan = work.plan(seen)
    work.preflight(plan, seen)
    with Journal(work.undo, work.before_guard_undo) as journal:
        for step in plan.steps:
            work.do(step, journal)


def test_a_role_leaves_the_host_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    (tmp_path / "there").write_text("before")
    paths = [str(tmp_path / name) for name in ("there", "folder", "folder/file", "shared")]
    carry_out("r", monkeypatch, paths=paths, trees=[str(tmp_path / "tree")])
    for folder in ("folder", "shared", "tree/deep"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("folder/file", "shared/by somebody else", "tree/deep/file", "there"):
        (tmp_path / file).write_text("role")
    carry_out("r", monkeypatch, state="absent")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "shared",
        "shared/by somebody else",
        "there",
    ]


def test_a_tree_goes_however_deep_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be an engine's, with what images and containers have made."""
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    carry_out("r", monkeypatch, trees=[str(tmp_path / "tree")])
    deep_folders.make(tmp_path / "tree")
    carry_out("r", monkeypatch, state="absent")
    assert not (tmp_path / "tree").exists()


def test_a_tree_that_is_a_link_by_now_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    carry_out("r", monkeypatch, trees=[str(tmp_path / "tree")])
    (tmp_path / "data").mkdir()
    (tmp_path / "tree").symlink_to("data")
    with pytest.raises(GridboxError, match="is a symbolic link"):
        carry_out("r", monkeypatch, state="absent")
    assert (tmp_path / "tree").is_symlink() and (tmp_path / "data").is_dir()


def test_what_is_mounted_is_in_the_way_unless_it_will_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    tree = str(tmp_path / "tree")
    carry_out("r", monkeypatch, trees=[tree])
    point = f"{tree}/overlay/merged"
    monkeypatch.setattr(mount_table, "read", lambda: [SimpleNamespace(point="/"), SimpleNamespace(point=point)])
    with pytest.raises(RefusedError, match=f"still mounted at or below {tree}"):
        carry_out("r", monkeypatch, state="absent", unmounted=["/elsewhere"])
    carry_out("r", monkeypatch, state="absent", unmounted=[tree])


def test_what_is_forgotten_of_paths_leaves_what_is_known_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLDER", str(tmp_path / "state"))
    known = record.Record(("a",), installing=("b",), replaced=("c",))
    record.write("r", known)
    carry_out("r", monkeypatch, paths=[str(tmp_path / "file")])
    assert record.read("r") == replace(known, paths=(str(tmp_path / "file"),))
    carry_out("r", monkeypatch, state="absent")
    assert record.read("r") == known


def test_a_record_that_is_none_is_not_taken_for_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", str(tmp_path))
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(GridboxError, match="not the record of a role"):
        record.read("r")


def wish(*names: str, remove: bool = False) -> packages.Wish:
    return packages.Wish("r", names, remove, 86400, 60)


def test_packages() -> None:
    seen = packages.Observed(frozenset({"a", "dep"}), record.Record(("a", "dep", "gone")))
    assert actions(packages.plan(wish("a"), seen)) == []
    assert actions(packages.plan(wish("a", "b"), seen)) == [("install_packages", "b")]
    assert actions(packages.plan(wish(remove=True), seen)) == [("remove_packages", "a dep"), ("forget", "r")]
    nothing = packages.Observed(frozenset({"a"}), record.Record())
    assert actions(packages.plan(wish("a", remove=True), nothing)) == []


def test_what_had_to_go_for_a_roles_packages_comes_back_before_they_go() -> None:
    known = record.Record(("static", "dep"), replaced=("dynamic", "other"))
    seen = packages.Observed(frozenset({"static", "dep", "other"}), known)
    assert actions(packages.plan(wish("static"), seen)) == []
    assert actions(packages.plan(wish(remove=True), seen)) == [
        ("restore_packages", "dynamic"), ("remove_packages", "dep static"), ("forget", "r"),
    ]  # fmt: skip
    # The one was brought back, and the other is gone by that: a run that was cut short.
    half = packages.Observed(frozenset({"dynamic", "other", "dep"}), known)
    assert actions(packages.plan(wish(remove=True), half)) == [("remove_packages", "dep"), ("forget", "r")]


class Manager:
    """A package manager that has something to say about an installation."""

    def __init__(self, coming: list[str], going: list[str]) -> None:
        self.answer = coming, going

    def preview_install(self, _names: t.Sequence[str]) -> tuple[list[str], list[str]]:
        return self.answer


@pytest.mark.parametrize(("may_replace", "refused"), [((), True), (("containerd.io",), True), (("docker-ce",), False)])
def test_an_installation_that_removes_what_others_installed_is_refused(
    may_replace: tuple[str, ...], refused: bool
) -> None:
    asked = packages.Wish("r", ("docker.io",), False, 86400, 60, may_replace)
    work = packages.PackagesWork(asked)
    work.manager = t.cast(t.Any, Manager(["docker.io", "runc"], ["docker-ce"]))
    seen = packages.Observed(frozenset({"docker-ce"}), record.Record())
    if not refused:
        work.preflight(work.plan(seen), seen)
        return
    with pytest.raises(RefusedError, match="would remove others for them: docker-ce"):
        work.preflight(work.plan(seen), seen)


def test_packages_after_a_run_that_was_cut_short() -> None:
    begun = record.Record(("a",), installing=("b", "dep"))
    seen = packages.Observed(frozenset({"a"}), begun, frozenset({"b"}), interrupted=True, policy_left=True)
    finish = ("finish_packages", "b")
    assert actions(packages.plan(wish("a", "b"), seen)) == [finish, ("install_packages", "b")]
    # The role looks only for what it misses, and b's files may be there.
    assert actions(packages.plan(wish(), seen)) == [finish, ("tidy_up", "r")]
    assert actions(packages.plan(wish(remove=True), seen)) == [finish, ("remove_packages", "a b"), ("forget", "r")]
    # It had come to its end, and nobody had written that down.
    complete = packages.Observed(frozenset({"a", "b", "dep"}), begun)
    assert actions(packages.plan(wish("a", "b"), complete)) == [("tidy_up", "r")]


def test_what_others_left_unfinished_is_finished_only_when_it_is_in_the_way() -> None:
    seen = packages.Observed(frozenset({"a"}), record.Record(), frozenset({"x"}), interrupted=True)
    assert actions(packages.plan(wish("a"), seen)) == []
    assert actions(packages.plan(wish("b"), seen)) == [("finish_packages", "x"), ("install_packages", "b")]


PARAMS: dict[str, t.Any] = {
    "record": "r", "names": [], "may_replace": [], "state": "present", "lists_max_age": 1, "wait_timeout": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ["-y", "a b", "a;b", "a=1", "", "../a"])
def test_a_packages_name_is_no_option_and_no_command(name: str) -> None:
    with pytest.raises(InputError, match="names: got"):
        packages.Wish.from_params({**PARAMS, "names": [name]})
    with pytest.raises(InputError, match="may_replace: got"):
        packages.Wish.from_params({**PARAMS, "may_replace": [name]})


def test_a_command_that_fails_or_hangs_says_so() -> None:
    with pytest.raises(GridboxError, match=r"Looking failed\. ls ended with 2 and says: ls: cannot access"):
        run("Looking", ["ls", "/no/such"])
    with pytest.raises(WaitError, match=r"Waited 0\.2 s for sleep to end \(Sleeping\)"):
        run("Sleeping", ["sleep", "5"], timeout=0.2)
    with pytest.raises(GridboxError, match="no-such-program cannot be run"):
        run("Running", ["no-such-program"])


#: Prints 64 MiB to its standard error in long lines, 4 MiB to its standard output in between, and fails in the end.
TALKS = """
import sys
for turn in range(64):
    sys.stderr.write("x" * ((1 << 20) - 1) + "\\n")
    sys.stdout.write("y" * (1 << 16))
sys.stderr.write("what went wrong\\n")
sys.exit(1)
"""


def test_of_what_a_command_complains_the_end_is_kept_only() -> None:
    """Whoever owns the files that it looks at can make it complain of each, with a path of any length."""
    for ok in ((0, 1), (0,)):
        tracemalloc.start()
        try:
            words = run("Talking", [sys.executable, "-c", TALKS], ok=ok)
        except GridboxError as exc:
            words = str(exc)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 24 << 20
        if 1 in ok:
            assert words == "y" * (4 << 20)
        else:
            assert words.startswith("Talking failed. ")
            assert words.endswith("xxx what went wrong")
            assert len(words) < 3000
    whole = run("Talking", [sys.executable, "-c", TALKS], ok=(1,), with_errors=True)
    assert len(whole) == (68 << 20) + len("what went wrong\n")


def test_a_command_that_hangs_and_complains_is_not_listened_to() -> None:
    """Nor is what it has started, which goes on."""
    tracemalloc.start()
    before = time.monotonic()
    with pytest.raises(WaitError, match=r"Waited 0\.2 s"):
        run("Complaining", ["sh", "-c", "timeout 4 yes >&2 & exec timeout 4 yes >&2"], timeout=0.2)
    taken, peak = time.monotonic() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 3
    assert peak < 4 << 20


def test_a_daemon_that_writes_to_nowhere_leaves_that_to_everybody(tmp_path: Path) -> None:
    """Of /dev/null a mode for root only would take much of a host along."""
    null, log = tmp_path / "null", tmp_path / "log"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs root: a device")
    null.chmod(0o666)
    for path in (null, log):
        child, _begin = background.start(["/bin/true"], str(path))
        child.wait(10)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (null, log)] == [0o666, 0o640]

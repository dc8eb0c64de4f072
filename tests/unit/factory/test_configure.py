# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import time
import typing as t
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError, WaitError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import account as accounts
from ansible_collections.hep.gridbox.plugins.module_utils.factory import (
    apptainer_engine,
    apptainer_network,
    cgroups,
    configure,
    running,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.account import Process
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configure import (
    HIDDEN,
    OTHER,
    ConfigureWork,
    File,
    Observed,
    Wish,
    lacks,
    plan,
    restart_needed,
    shown,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store, at_work
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount
from ansible_collections.hep.gridbox.plugins.module_utils.journal import Journal
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan
from ansible_collections.hep.gridbox.plugins.modules import vacuum_factory
from tests.unit.factory.reports import REPORT, RUNNING_MACHINE
from tests.unit.factory.test_account import entry

PATH, KEY = "/etc/hep.gridbox/factory.json", "k" * 32
LOCAL = {"root_image": "docker://registry.example.org/pilot:1", "user_data": "run", "target_share": 1}
DATA: dict[str, t.Any] = {
    "name": "f1.example.org", "space": "vac01.example.org", "work_space": "folder", "state_folder": "/srv/f",
    "user_data_options": {"token": "very secret"}, "machinetypes": {"local": LOCAL},
    "vacuum_pipes": {"lhcb": {"vacuum_pipe_url": "https://pipes.example.org/p", "user_data_option_pw": "hush"}},
}  # fmt: skip


def params(**given: t.Any) -> dict[str, t.Any]:
    """The module's parameters; the configuration is :data:`DATA`, changed by ``data``."""
    defaults = {name: about.get("default") for name, about in vacuum_factory.ARGUMENTS.items()}
    return {**defaults, "configuration": json.dumps({**DATA, **given.pop("data", {})}), **given}


def wish(**given: t.Any) -> Wish:
    return Wish.from_params(params(**given))


def observed(wish: Wish, **given: t.Any) -> Observed:
    """A host where all is as wished, but for what is given."""
    files = {path: File(content) for path, content in wish.targets.items()}
    return Observed(**{"files": {**files, **given.pop("files", {})}, "before": wish.configuration, **given})


def actions(made: Plan) -> list[tuple[str, str, str]]:
    return [(step.action, step.target, step.disruption.name) for step in made.steps]


DAEMON = running.Running(
    REPORT.pid, 1, (), replace(REPORT, fixed=parse(DATA).fixed, program_stamp="", configuration_problem="")
)


# ---- the decision --------------------------------------------------------------------------------------------------


def test_what_is_as_wished_is_not_written() -> None:
    wanted = wish(files={"local/files/run": "#!/bin/sh\n"})
    assert plan(wanted, observed(wanted)).steps == ()


def test_on_a_bare_host_the_configuration_comes_last() -> None:
    wanted = wish(
        data={"key_file": "/etc/hep.gridbox/key"}, key=KEY, files={"local/files/run": "x", "lhcb/x509key.pem": "y"}
    )
    assert actions(plan(wanted, Observed(dict.fromkeys(wanted.targets)))) == [
        ("write_file", "/srv/f/machinetypes/lhcb/x509key.pem", "none"),
        ("write_file", "/srv/f/machinetypes/local/files/run", "none"),
        ("write_file", "/etc/hep.gridbox/key", "none"),
        ("write_configuration", PATH, "none"),
    ]


@pytest.mark.parametrize("daemon", [None, DAEMON])
def test_another_configuration_is_written_and_costs_a_reload_if_somebody_reads_it(
    daemon: t.Optional[running.Running],
) -> None:
    wanted = wish()
    made = plan(wanted, observed(wanted, files={PATH: File(b"{}")}, daemon=daemon))
    assert actions(made) == [("write_configuration", PATH, "reload" if daemon else "none")]


@pytest.mark.parametrize(("mode", "owner"), [(0o644, 0), (0o600, 1000), (0o400, 0)])
def test_a_file_that_others_may_read_is_drift(mode: int, owner: int) -> None:
    wanted = wish()
    [step] = plan(wanted, observed(wanted, files={PATH: File(wanted.targets[PATH], mode, owner)})).steps
    assert step.reason == f"it is user {owner}'s with mode {mode:04o}, and is to be root's with 0600"


def test_a_configuration_that_was_there_before_is_kept_once() -> None:
    wanted = wish(record="vacuum_factory")
    made = plan(wanted, observed(wanted, files={PATH: File(b"{}")}, brought=False))
    assert [action for action, _target, _cost in actions(made)] == ["keep_original", "write_configuration"]
    assert plan(wanted, observed(wanted, brought=False)).steps == (), "it is as wished, so it stays whose it is"


def test_the_order_of_keys_is_no_difference() -> None:
    assert wish().targets == Wish.from_params(params(configuration=json.dumps(dict(reversed(DATA.items()))))).targets


def test_a_diff_has_no_secrets() -> None:
    secrets = ("very secret", "hush", "another secret", KEY, "text of a file")
    wanted = wish(
        data={"user_data_options": {"token": "another secret", "new": "another secret"}, "key_file": "/k"},
        key=KEY, files={"local/files/run": "text of a file"},
    )  # fmt: skip
    before = json.dumps(DATA).encode()
    made = plan(wanted, observed(wanted, files={PATH: File(before), "/k": None}))
    told = json.dumps([made.before, made.after, [step.as_result() for step in made.steps], repr(made), repr(wanted)])
    assert not [secret for secret in secrets if secret in told]
    assert made.before["configuration"]["user_data_options"] == {"token": HIDDEN}
    assert made.after["configuration"]["user_data_options"] == {"token": OTHER, "new": HIDDEN}
    assert made.after["configuration"]["vacuum_pipes"] == made.before["configuration"]["vacuum_pipes"]
    assert (made.before["/k"], made.after["/k"]) == (None, HIDDEN)
    assert made.after["configuration"]["space"] == "vac01.example.org"


@pytest.mark.parametrize("value", [None, "(not JSON)", [1, {"user_data_option_a": "x"}], 7, {"user_data_options": "x"}])
def test_whatever_the_file_holds_can_be_shown(value: t.Any) -> None:
    assert "x" not in json.dumps(shown(value, value)).replace("user_data_option", "")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"data": {"port": 0}}, "port: got 0, expected a whole number from 1 to 65535."),
        (
            {"data": {"volume_group": "grid"}},
            "for work_space is folder. Set work_space: lvm, or leave volume_group out.",
        ),
        (
            {"data": {"drainning": True}},
            "drainning: got 'an option', expected draining, which comes closest, or another one of apptainer_account, ",
        ),
        ({"configuration": "{"}, "configuration: got 'a value that is not JSON'"),
        ({"configuration": "[]"}, "factory: got [], expected a JSON object"),
        ({"path": "factory.json"}, "path: got 'factory.json', expected an absolute path"),
        ({"program": "/a/../b"}, "program: got '/a/../b', expected an absolute path"),
        ({"wait_timeout": 0}, "wait_timeout: got 0, expected"),
        ({"key": KEY}, "key: got 'a value that is not shown', expected the option key_file"),
        ({"key": "short", "data": {"key_file": "/k"}}, "key: got 'a value that is not shown', expected one secret"),
        ({"files": {"../run": "x"}}, "files: got '../run', expected a path such as"),
        ({"files": {"local/files/../run": "x"}}, "files: got 'local/files/../run', expected a path such as"),
        ({"files": {"other/files/run": "x"}}, "(there is lhcb, local)"),
        ({"files": {"local/files/run": 7}}, "files[local/files/run]: got 'a value that is not shown'"),
    ],
)
def test_what_cannot_be_right_is_refused(given: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        wish(**given)
    assert sentence in str(refused.value)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "option"),
    [
        ({"name": "f2.example.org"}, "name"), ({"state_folder": "/srv/g"}, "state_folder"),
        ({"engine_url": "unix:///e"}, "engine_url"),
    ],
)  # fmt: skip
def test_machines_are_not_left_behind(data: dict[str, t.Any], option: str) -> None:
    wanted = wish(data=data)
    with pytest.raises(RefusedError, match=rf"^{option}: .*{RUNNING_MACHINE.slot} \(exp-dc-prod\)"):
        configure.check_machines_stay(
            wanted.configuration, Observed({}, parse(DATA), DAEMON, machines=(RUNNING_MACHINE,))
        )
    configure.check_machines_stay(wanted.configuration, Observed({}, parse(DATA), DAEMON))
    configure.check_machines_stay(wanted.configuration, Observed({}, None, DAEMON, machines=(RUNNING_MACHINE,)))
    configure.check_machines_stay(parse(DATA), Observed({}, parse(DATA), DAEMON, machines=(RUNNING_MACHINE,)))


# ---- whether the daemon follows ------------------------------------------------------------------------------------


def test_a_restart_is_asked_for_before_the_key_is_written_and_after() -> None:
    wanted = wish(data={"key_file": "/k"}, key=KEY)
    report = replace(REPORT, fixed=wanted.configuration.fixed, program_stamp="", key_stamp="old")
    daemon = replace(DAEMON, report=report)
    before = observed(wanted, files={"/k": File(b"x")}, daemon=daemon, key_stamp="old")
    after = observed(wanted, daemon=daemon, key_stamp="new")
    assert restart_needed(wanted, before) == restart_needed(wanted, after) == ["the daemon has another key than /k"]
    assert restart_needed(wanted, observed(wanted, daemon=daemon, key_stamp="old")) == []


@pytest.mark.parametrize(
    ("drifted", "action"),
    [
        ({"mode": 0o640}, "set_mode"), ({"mode": 0o400}, "set_mode"),
        # Whoever could write to it may have it open still.
        ({"mode": 0o620}, "write_file"), ({"mode": 0o602}, "write_file"), ({"owner": 1000}, "write_file"),
        # Where a link leads to is not ours.
        ({"mode": 0o644, "link": True}, "write_file"),
    ],
)  # fmt: skip
def test_a_key_with_the_same_text_asks_for_a_restart_only_if_it_is_written_anew(
    drifted: dict[str, t.Any], action: str
) -> None:
    wanted = wish(data={"key_file": "/k"}, key=KEY)
    report = replace(REPORT, fixed=wanted.configuration.fixed, program_stamp="", key_stamp="old")
    seen = observed(
        wanted, files={"/k": File(KEY.encode(), **drifted)}, daemon=replace(DAEMON, report=report), key_stamp="old"
    )
    assert actions(plan(wanted, seen)) == [(action, "/k", "none")]
    assert bool(restart_needed(wanted, seen)) == (action == "write_file")


def test_what_a_wait_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ansible_collections.hep.gridbox.plugins.module_utils.factory.report.stamp", lambda _path: "now"
    )
    wanted, well = wish(wait="followed"), wish(wait="well")
    now = REPORT.written
    report = replace(REPORT, configuration_stamp="now")

    def lacking(asked: Wish, **change: t.Any) -> str:
        daemon = replace(DAEMON, report=replace(report, **change)) if change.pop("wrote", True) else DAEMON
        return lacks(asked, observed(asked, daemon=daemon), now)

    assert lacks(wanted, observed(wanted), now) == "no daemon runs"
    assert lacks(wanted, observed(wanted, daemon=replace(DAEMON, report=None)), now) == "it has not written a report"
    assert lacking(wanted, configuration_stamp="old") == "it has not read the file yet"
    assert lacking(wanted, configuration_problem="port: got 0") == "port: got 0"
    assert lacking(wanted, engine_problem="it is gone") == ""
    assert lacking(well, engine_problem="it is gone").startswith("CRITICAL: The engine does not answer")
    assert lacking(well) == ""


def test_a_factory_that_has_nothing_to_start_is_not_waited_for() -> None:
    """It would never be well, unless it is to be empty."""
    nothing: dict[str, t.Any] = {"machinetypes": {}, "vacuum_pipes": {}}
    with pytest.raises(InputError, match=r"^machinetypes: got \{\}, .* vacuum_pipes: .* Set draining: true"):
        wish(wait="well", data=nothing)
    for given in (
        {"wait": "followed", "data": nothing},
        {"wait": "well", "data": {**nothing, "draining": True}},
        {"wait": "well", "data": {**nothing, "shutdown_time": 1}},
        {"wait": "well", "data": {**nothing, "machinetypes": DATA["machinetypes"]}},
        {"wait": "well", "data": {**nothing, "vacuum_pipes": DATA["vacuum_pipes"]}},
    ):
        assert wish(**given).wait == given["wait"]


# ---- on this host --------------------------------------------------------------------------------------------------


def carry_out(work: ConfigureWork, fail_at: str = "") -> None:
    """As the front room does."""
    seen = work.observe()
    made = work.plan(seen)
    work.preflight(made, seen)
    with Journal(work.undo, work.before_guard_undo) as journal:
        for step in made.steps:
            if step.action == fail_at:
                rollback = journal.roll_back()
                assert not rollback.failed
                return
            work.do(step, journal)


def test_machines_that_another_run_is_making_are_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = str(tmp_path / "state"), tmp_path / "factory.json"

    def work(held: t.Optional[contextlib.ExitStack] = None, **data: t.Any) -> ConfigureWork:
        given = params(data={"state_folder": state, **data}, path=str(path), wait="none", wait_timeout=1)
        return ConfigureWork(Wish.from_params(given), held)

    carry_out(work())
    with contextlib.ExitStack() as other, contextlib.ExitStack() as held:
        other.enter_context(at_work(state))
        carry_out(work(port=9995))
        with pytest.raises(WaitError, match=f"Waited 1 s for .*{state}"):
            carry_out(work(engine_url="unix:///e"))

        def make_one_and_end(_seconds: float) -> None:
            Store(state).create(RUNNING_MACHINE)
            other.close()

        monkeypatch.setattr(time, "sleep", make_one_and_end)
        with pytest.raises(RefusedError, match=rf"^engine_url: .*{RUNNING_MACHINE.slot}"):
            carry_out(work(held, engine_url="unix:///e"))
    monkeypatch.undo()
    shutil.rmtree(state)
    with contextlib.ExitStack() as held:
        moves = work(held, engine_url="unix:///e")
        carry_out(moves)
        with pytest.raises(WaitError), at_work(state):
            pass
        moves.result(moves.observe(), Plan(), applied=True)
        with at_work(state):
            pass


def tree(folder: Path) -> dict[str, tuple[int, t.Optional[str]]]:
    """All that is there, with mode and text."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_text() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def test_files_are_written_for_root_alone_and_taken_back_on_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.hep.gridbox.plugins.module_utils.host.record.FOLDER", str(tmp_path / "r"))
    state, path = tmp_path / "state", tmp_path / "etc/deep/factory.json"

    def work(**data: t.Any) -> ConfigureWork:
        given = params(
            data={"state_folder": str(state), **data}, path=str(path), files={"local/files/run": "x"}, record="a_role"
        )
        return ConfigureWork(Wish.from_params(given))

    carry_out(work(), "write_configuration")
    assert tree(tmp_path) == {}
    carry_out(work())
    assert work().plan(work().observe()).steps == ()
    written = tree(tmp_path)
    assert written["etc/deep/factory.json"][0] == written["state/machinetypes/local/files/run"][0] == 0o600
    assert written["etc/deep"][0] == 0o755
    assert "r" not in written, "there was none before"
    # Whose record does not name it finds one that somebody else has written, and keeps it.
    carry_out(work(port=9995), "write_configuration")
    assert tree(tmp_path) == written
    carry_out(work(port=9995))
    kept = tmp_path / "r/a_role-original.json"
    assert kept.read_text() == written["etc/deep/factory.json"][1]
    assert kept.stat().st_mode & 0o777 == 0o600
    carry_out(work(port=9996))
    assert json.loads(kept.read_text()).get("port") is None, "the first one is the original"


def test_a_file_whose_mode_alone_differs_stays_the_same_one(tmp_path: Path) -> None:
    """Another one is another key to the daemon: it would be restarted for it, which check mode has not foreseen."""
    key, path = tmp_path / "key", tmp_path / "factory.json"
    work = ConfigureWork(wish(path=str(path), data={"key_file": str(key), "state_folder": str(tmp_path)}, key=KEY))
    carry_out(work)
    before = (reports.stamp(str(key)), reports.stamp(str(path)))
    key.chmod(0o644)
    path.chmod(0o644)
    carry_out(work)
    assert (key.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o600, 0o600)
    assert (reports.stamp(str(key)), reports.stamp(str(path))) == before


@pytest.mark.parametrize("drifted", [{"mode": 0o666}, {"owner": 1000}, {"link": True}], ids=str)
def test_a_file_that_somebody_else_may_hold_is_another_one(tmp_path: Path, drifted: dict[str, t.Any]) -> None:
    path, elsewhere = tmp_path / "factory.json", tmp_path / "elsewhere"
    work = ConfigureWork(wish(path=str(path), data={"state_folder": str(tmp_path)}))
    carry_out(work)
    if drifted.get("link"):
        path.rename(elsewhere)
        elsewhere.chmod(0o644)
        path.symlink_to(elsewhere)
    else:
        path.chmod(drifted.get("mode", 0o600))
        os.chown(path, drifted.get("owner", 0), -1)
    before = reports.stamp(str(path))
    carry_out(work)
    assert reports.stamp(str(path)) != before
    assert work.plan(work.observe()).steps == ()
    assert not path.is_symlink()
    assert not elsewhere.exists() or elsewhere.stat().st_mode & 0o777 == 0o644


def test_a_mode_is_put_back_on_a_failure(tmp_path: Path) -> None:
    key, path = tmp_path / "key", tmp_path / "factory.json"
    work = ConfigureWork(wish(path=str(path), data={"key_file": str(key), "state_folder": str(tmp_path)}, key=KEY))
    carry_out(work)
    key.chmod(0o640)
    path.write_text("{}")
    before = reports.stamp(str(key))
    carry_out(work, "write_configuration")
    assert (key.stat().st_mode & 0o777, reports.stamp(str(key)), path.read_text()) == (0o640, before, "{}")


def test_a_missing_user_data_is_a_warning(tmp_path: Path) -> None:
    data: dict[str, t.Any] = {"state_folder": str(tmp_path)}
    [told] = configure.missing_user_data(wish(data=data))
    assert f"{tmp_path}/machinetypes/local/files/run" in told
    assert configure.missing_user_data(wish(data=data, files={"local/files/run": "x"})) == []
    pipes = {"lhcb": {"vacuum_pipe_path": "/x"}}
    data = {**data, "machinetypes": {"lhcb-a": {"user_data": "run", "user_data_file_k": "k"}}, "vacuum_pipes": pipes}
    [told] = configure.missing_user_data(wish(data=data, files={"lhcb/files/k": "x"}))
    assert told.startswith(f"machinetypes.lhcb-a: there is no file {tmp_path}/machinetypes/lhcb/files/run,")


@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        ([("/", False)], "mount --make-shared /"),
        ([("/", True)], ""),
        ([("/", True), ("/srv", False), ("/srv/fx", True)], "mount --make-shared /srv"),
        ([("/", False), ("/srv/f", True)], ""),
    ],
)
def test_a_state_folder_where_mounts_are_not_seen_is_a_warning(mounts: list[tuple[str, bool]], told: str) -> None:
    table = [Mount(point, "ext4", "/dev/vda", shared) for point, shared in mounts]
    on_files = wish(data={"work_space": "file"}).configuration
    assert " ".join(configure.unseen_mounts(on_files, table)).endswith(told)
    assert bool(configure.unseen_mounts(on_files, table)) == bool(told)
    assert configure.unseen_mounts(wish().configuration, table) == []


def test_a_key_that_others_may_read_is_refused_in_check_mode_too(tmp_path: Path) -> None:
    key = tmp_path / "key"
    work = ConfigureWork(wish(path=str(tmp_path / "f"), data={"key_file": str(key), "state_folder": str(tmp_path)}))
    for mode in (None, 0o644):
        if mode is not None:
            key.write_text(KEY)
            key.chmod(mode)
        seen = work.observe()
        with pytest.raises(InputError, match="key"):
            work.preflight(work.plan(seen), seen)
    key.chmod(0o600)
    work.preflight(work.plan(seen), work.observe())


APPTAINER = {"engine": "apptainer", "apptainer_account": "vacsing"}
AWAITED = {"programs_awaited": True, "apptainer_awaited": True, "account_awaited": True}


class Bare:
    """A host as Apptainer machines find it; what it lacks is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *missing: str) -> None:
        self.known = [entry("root", 0), entry("vacsing", 990)]
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda program, **_: None if program in missing else f"/usr/bin/{program}")
        monkeypatch.setattr(pwd, "getpwnam", lambda name: {one.pw_name: one for one in self.known}[name])
        monkeypatch.setattr(pwd, "getpwall", lambda: self.known)
        monkeypatch.setattr(accounts, "processes", lambda _uid: [])
        monkeypatch.setattr(cgroups, "read", list)
        monkeypatch.setattr(apptainer_engine, "LOCKS", str(folder / "locks"))
        monkeypatch.setattr(apptainer_network, "trial", lambda _inside: "")
        self._folder = folder

    def preflight(self, data: t.Mapping[str, t.Any] = MappingProxyType({}), **given: t.Any) -> None:
        """As check mode does it, and the run after it.

        :raises RefusedError: as it does.
        """
        data = {**APPTAINER, "state_folder": str(self._folder / "state"), **data}
        work = ConfigureWork(wish(data=data, path=str(self._folder / "factory.json"), **given))
        seen = work.observe()
        work.preflight(work.plan(seen), seen)


@pytest.mark.parametrize(
    ("missing", "awaited", "told"),
    [
        ("apptainer", "apptainer_awaited", "engine: apptainer: this host has no apptainer."),
        ("pasta", "programs_awaited", "network: bridge: this host has no pasta."),
        ("mkfs.ext4", "programs_awaited", "work_space is file: this host has no mkfs.ext4."),
    ],
)
def test_a_program_is_excused_if_that_one_is_awaited(
    missing: str, awaited: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = Bare(monkeypatch, tmp_path, missing)
    data = {"work_space": "file"} if missing.startswith("mkfs") else {}
    host.preflight(data, **{awaited: True})
    for others in ({}, {**AWAITED, awaited: False}):
        with pytest.raises(RefusedError) as refused:
            host.preflight(data, **others)
        assert str(refused.value).startswith(told)


def test_no_other_program_of_apptainer_is_excused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="this host has no setpriv"):
        Bare(monkeypatch, tmp_path, "apptainer", "setpriv").preflight(**AWAITED)


def test_an_account_is_excused_if_it_is_awaited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Bare(monkeypatch, tmp_path)
    host.preflight()
    del host.known[1]
    host.preflight(account_awaited=True)
    for others in ({}, {**AWAITED, "account_awaited": False}):
        with pytest.raises(RefusedError, match="apptainer_account: vacsing: this host has no such account"):
            host.preflight(**others)


@pytest.mark.parametrize("missing", [(), ("apptainer", "pasta", "mkfs.ext4")], ids=["equipped", "bare"])
def test_what_will_not_be_mended_is_refused_before_anything_is_installed(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run that installs what is awaited would touch the host, and be refused then."""
    host = Bare(monkeypatch, tmp_path, *missing)
    host.preflight(**AWAITED)
    for unfit, told in (
        ([entry("vacsing", 990, "/bin/bash")], "somebody can log in to it"),
        ([entry("vacsing", 990), entry("alice", 990)], "its number 990 is alice's as well"),
    ):
        host.known[1:] = unfit
        with pytest.raises(RefusedError, match=told):
            host.preflight(**AWAITED)
    host.known[1:] = [entry("vacsing", 990)]
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "processes", lambda uid: [Process(7, "httpd", frozenset({uid}), ("/",))])
        with pytest.raises(RefusedError, match=r"processes of it run: 7 \(httpd\)"):
            host.preflight(**AWAITED)
    with monkeypatch.context() as patch:
        patch.setattr(apptainer_network, "trial", lambda _inside: "There are none.")
        with pytest.raises(RefusedError, match="network: bridge: There are none"):
            host.preflight(**AWAITED)

    def without_controllers() -> t.NoReturn:
        raise RefusedError("A control group", "this host has no controller pids", "Switch it on.")

    monkeypatch.setattr(cgroups, "read", without_controllers)
    for known in ([entry("vacsing", 990)], []):
        host.known[1:] = known
        with pytest.raises(RefusedError, match="no controller pids"):
            host.preflight(**AWAITED)

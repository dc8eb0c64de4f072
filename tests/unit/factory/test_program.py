# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command says: to root, to whoever is not root, and on hosts that are no factory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting, configuration, orders, program
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import write
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from tests.unit.factory.reports import CONFIGURATION, ENDED_MACHINE, REPORT
from tests.unit.factory.test_metrics import read
from tests.unit.vacuum.loopback import SPACE, served, snapshot

Out = pytest.CaptureFixture[str]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a factory whose configuration only root can read."""

    def for_root(path: str) -> t.NoReturn:
        raise GridboxError(f"{path} cannot be read (Permission denied).") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(program, "load", for_root)
    monkeypatch.setattr(program, "STATE_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def ports() -> t.Iterator[tuple[int, int]]:
    """Two factories that answer."""
    with contextlib.ExitStack() as stack:
        found = []
        for number in (1, 2):
            responder = Responder(Access())
            responder.snapshot = snapshot(number)
            found.append(stack.enter_context(served(responder)))
        yield found[0], found[1]


NAMES = ("factory1.example.com", "factory2.example.com")


def configured(tmp_path: Path, **options: t.Any) -> list[str]:
    """The options by which the command takes a configuration of a test's own."""
    path = tmp_path / "factory.json"
    data = {"name": NAMES[0], "space": SPACE, "state_folder": str(tmp_path / "state"), **options}
    path.write_text(json.dumps(data))
    return ["--configuration", str(path)]


def others(ports: tuple[int, int], *numbers: int) -> list[dict[str, t.Any]]:
    return [{"factory": NAMES[number - 1], "host": "127.0.0.1", "port": ports[number - 1]} for number in numbers]


def rows(capsys: Out) -> list[list[str]]:
    """The words of each line that was printed."""
    return [line.split() for line in capsys.readouterr().out.splitlines() if line]


# ---- a factory's own ---------------------------------------------------------------------------------------------


def test_whether_a_factory_is_well_is_told_to_everybody(state: Path, capsys: Out) -> None:
    """The configuration is root's alone, for it may hold secrets; the report is not."""
    write(str(state), replace(REPORT, written=time.time(), decided=time.time()))
    assert program.main(["check"]) == 0
    assert capsys.readouterr().out.startswith("OK: Factory ok")
    assert program.main(["metrics"]) == 0
    found = read(capsys.readouterr().out)
    assert found["slots{}"] == 3
    assert found['machines{machinetype="exp-dc-prod",state="running"}'] == 1
    assert program.main(["explain"]) == 0
    assert capsys.readouterr().out.startswith("factory1.example.com in the space vac01.example.com, as of ")


def test_who_may_not_read_which_factory_is_meant_is_told_so(state: Path, capsys: Out) -> None:
    """Its state may be elsewhere."""
    assert program.main(["check"]) == 3
    assert "Permission denied" in capsys.readouterr().out
    write(str(state), replace(REPORT, written=time.time(), decided=time.time()))
    assert program.main(["--configuration", "/etc/other.json", "check"]) == 3
    assert "Give --state-folder" in capsys.readouterr().out
    assert program.main(["--configuration", "/etc/other.json", "--state-folder", str(state), "check"]) == 0
    assert program.main(["--configuration", "/etc/other.json", "factories"]) == 1
    assert "Give --state-folder" in capsys.readouterr().err


PATHS = os.pathsep.join(sys.path)
REFUSED = "processors: neither known nor wanted"


@pytest.mark.parametrize("text", ['{"state_folder": "%s", "processors": 1}', '{"processors": 1}', "{", "[]", ""])
def test_a_configuration_that_is_refused_keeps_nobody_from_seeing_the_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out, ports: tuple[int, int], text: str
) -> None:
    """Its daemon works on by the one before, and is what can tell what is wrong."""
    path, folder = tmp_path / "factory.json", str(tmp_path)
    monkeypatch.setattr(program, "PATH", str(path))
    monkeypatch.setattr(program, "STATE_FOLDER", str(tmp_path / "other") if "%s" in text else folder)
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    path.write_text(text.replace("%s", folder))
    asked = ["--configuration", str(path)]
    assert program.main([*asked, "check"]) == 3, "no daemon has ever worked"
    now = time.time()
    factories = (Peer(NAMES[0], "127.0.0.1", ports[0]),)
    told = replace(REPORT, written=now, decided=now, configuration_problem=REFUSED, factories=factories)
    write(folder, told)
    assert program.main([*asked, "check"]) == 2
    assert REFUSED in capsys.readouterr().out
    assert program.main([*asked, "metrics"]) == 0
    assert read(capsys.readouterr().out)["configuration_accepted{}"] == 0
    for command in ("explain", "drain", "machines"):
        assert program.main([*asked, command]) == 0
    assert orders.load(folder).draining


def test_another_factorys_state_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    """The usual folder is of the factory with the usual configuration."""
    monkeypatch.setattr(program, "STATE_FOLDER", str(tmp_path))
    write(str(tmp_path), replace(REPORT, written=time.time(), decided=time.time()))
    path = tmp_path / "second.json"
    path.write_text("{")
    assert program.main(["--configuration", str(path), "check"]) == 3
    assert "a file that is not JSON" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "status"), [("check", 0), ("metrics", 1), ("explain", 1)])
def test_whoever_stops_reading_gets_no_traceback(tmp_path: Path, command: str, status: int) -> None:
    """The check says by its status how the factory is, whether anybody reads the rest or not."""
    machinetypes = [{"machinetype": f"m{n}", "reason": "x" * 900} for n in range(100)]
    decision = {"start": None, "factory": "", "machinetypes": machinetypes}
    failures = {one["machinetype"] * 100: 1 for one in machinetypes}
    now = time.time()
    write(str(tmp_path), replace(REPORT, written=now, decided=now, decision=decision, failures_in_a_row=failures))
    reads, writes = os.pipe()
    os.close(reads)
    run = f"import sys; from {program.__name__} import main; sys.exit(main())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", run, "--state-folder", str(tmp_path), command], stdout=writes,
            stderr=subprocess.PIPE, text=True, check=False, timeout=60, env={"PYTHONPATH": PATHS},
        )  # fmt: skip
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (status, "")


# ---- the space ---------------------------------------------------------------------------------------------------


def test_what_a_space_says(tmp_path: Path, ports: tuple[int, int], capsys: Out) -> None:
    options = configured(tmp_path, port=ports[0], factories=[NAMES[0], *others(ports, 2)])
    assert program.main([*options, "machinetypes"]) == 0
    lines = rows(capsys)
    assert lines[0][:5] == ["Machinetype", "Factories", "Machines", "Processors", "HS06"]
    assert [line[:5] for line in lines[1:]] == [["type0", "2", "0", "0", "0.0"], ["type1", "2", "0", "0", "2.0"]]
    assert program.main([*options, "machinetypes", "--name", "type1"]) == 0
    lines = rows(capsys)
    assert [line[0] for line in lines] == ["Factory", "factory1", "factory2"]
    assert program.main([*options, "machinetypes", "--json", "factory2"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert (told["factory"], told["state"]) == (NAMES[1], "answered")
    assert [reply["machinetype"] for reply in told["replies"]] == ["type0", "type1"]
    assert program.main([*options, "machines"]) == 0
    assert [line[0] for line in rows(capsys)[1:]] == [
        f"factory{factory}-0{slot}" for factory in (1, 2) for slot in range(3)
    ]
    assert program.main([*options, "factories"]) == 0
    assert [line[:3] for line in rows(capsys)[1:]] == [
        ["factory1", "0/0", "0/3"], ["factory2", "0/0", "0/3"]
    ]  # fmt: skip
    assert program.main([*options, "factories", "factory3"]) == 1
    assert "No factory of the space is called factory3. There are factory1.example.com, " in capsys.readouterr().err


def test_a_factory_without_machinetypes_is_not_silent(tmp_path: Path, capsys: Out) -> None:
    """By the protocol it has nothing to send when it is asked for them."""
    responder = Responder(Access())
    responder.snapshot = replace(snapshot(1), machinetypes=())
    with served(responder) as port:
        options = configured(tmp_path, port=port, factories=[NAMES[0]])
        assert program.main([*options, "machinetypes", "--timeout", "2"]) == 0
    assert "does not answer" not in capsys.readouterr().out
    assert program.main([*options, "machinetypes", "--timeout", "1"]) == 3


@pytest.mark.parametrize("command", ["machines", "machinetypes", "factories"])
def test_a_space_is_shown_to_who_may_not_read_the_configuration(
    state: Path, ports: tuple[int, int], capsys: Out, command: str
) -> None:
    """The report says where the factories are."""
    factories = tuple(Peer(name, "127.0.0.1", port) for name, port in zip(NAMES, ports))
    write(str(state), replace(REPORT, factories=factories))
    for options in ([], ["--configuration", "/etc/other.json", "--state-folder", str(state)]):
        assert program.main([*options, command, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [(one["factory"], one["state"]) for one in told] == [(name, "answered") for name in NAMES]
    write(str(state), replace(REPORT, factories=()))
    assert program.main([command]) == 1
    assert "its daemon is of an earlier version" in capsys.readouterr().err


def test_a_host_that_is_no_factory_asks_the_others_only(tmp_path: Path, ports: tuple[int, int], capsys: Out) -> None:
    """By a configuration that is there for that; the host itself is neither in it nor has it ever worked."""
    options = configured(tmp_path, name="monitor.example.com", factories=others(ports, 1, 2))
    assert program.main([*options, "factories"]) == 0
    shown = capsys.readouterr().out
    assert "factory1" in shown and "factory2" in shown
    assert "monitor" not in shown
    # One that has worked is asked, and told to be gone.
    (tmp_path / "state").mkdir()
    write(str(tmp_path / "state"), REPORT)
    assert program.main([*options, "factories", "--timeout", "1"]) == 3
    assert "monitor.example.com runs no factory" in capsys.readouterr().out


def test_factories_are_named_where_there_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports: tuple[int, int], capsys: Out
) -> None:
    nothing = ["--configuration", str(tmp_path / "none.json")]
    assert program.main([*nothing, "machines", NAMES[0]]) == 1
    assert "none.json cannot be read (No such file or directory). On a host that is no factory, give --space" in (
        capsys.readouterr().err
    )
    here, found = socket.getaddrinfo, []

    def lead_here(name: str, *arguments: t.Any, **more: t.Any) -> t.Any:
        found.append(name)
        return here("127.0.0.1", *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lead_here)
    asked = [f"{name.title()}:{port}" for name, port in zip(NAMES, ports)]
    assert program.main([*nothing, "factories", "--space", SPACE, *asked]) == 0
    assert [line[0] for line in rows(capsys)] == ["Factory", "factory1", "factory2"]
    assert set(found) == set(NAMES)
    for wrong in ([], ["f1"], ["f1.example.org:x"], ["f1.example.org:70000"]):
        assert program.main([*nothing, "machines", "--space", SPACE, *wrong]) == 1
        assert f"FACTORY: got {wrong[0] if wrong else ''!r}, expected the FQDNs" in capsys.readouterr().err


# ---- accounting --------------------------------------------------------------------------------------------------


def test_a_sync_record_by_hand(tmp_path: Path, capsys: Out) -> None:
    options = configured(tmp_path)
    state = tmp_path / "state"
    assert program.main([*options, "apel-sync", "202611"]) == 1
    assert "There are no accounting records of 2026-11" in capsys.readouterr().err
    text = accounting.record(ENDED_MACHINE, CONFIGURATION)
    assert text is not None
    accounting.write(str(state), text, ENDED_MACHINE, outgoing=False)
    assert program.main([*options, "apel-sync", "202611"]) == 0
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert path.parents[1] == state / "apel-outgoing"
    assert path.read_text() == (
        "APEL-sync-message: v0.1\nSite: UKI-EXAMPLE\nSubmitHost: vac01.example.com/vac-factory1.example.com\n"
        "NumberOfJobs: 1\nMonth: 11\nYear: 2026\n%%\n"
    )
    assert program.main([*options, "apel-sync", "2026"]) == 1
    assert "month: got '2026'" in capsys.readouterr().err


# ---- from Vac ----------------------------------------------------------------------------------------------------


@pytest.fixture
def vac(tmp_path: Path) -> Path:
    """A host of Vac's."""
    folder = tmp_path / "etc"
    (folder / "vac.d").mkdir(parents=True)
    (folder / "vac.d/20-pipes.conf").write_text(
        "[vacuum_pipe lhcb]\nvacuum_pipe_url = https://pipes.example.org/lhcb.pipe\ntarget_share = 3\n"
        "user_data_option_token = s3cret\n"
    )
    (folder / "vac.d/10-site.conf").write_text(
        "[settings]\nvac_space = vac01.example.org\nmb_per_processor = 1000\nversion_logger = 0\n"
    )
    (folder / "vac.d/10-site.conf.rpmnew").write_text("[settings]\nmb_per_processor = 1\n")
    (folder / "vac.conf").write_text("[settings]\nmb_per_processor = 3000\n")
    return folder


def test_vacs_files_are_read_in_vacs_order_however_they_are_named(vac: Path, capsys: Out) -> None:
    for paths in ([vac / "vac.conf", vac / "vac.d"], [vac / "vac.d", vac / "vac.conf"]):
        assert program.main(["migrate", "--json", *map(str, paths)]) == 0
        told = capsys.readouterr()
        made = json.loads(told.out)
        assert made["mb_per_processor"] == 3000
        assert "version_logger is not carried over" in told.err
        assert configuration.parse({"name": NAMES[0], **made}).pipes[0].section.prefix == "lhcb"


def test_a_file_in_another_encoding_is_read_as_vac_reads_it(vac: Path, capsys: Out) -> None:
    path = vac / "vac.conf"
    path.write_bytes(b"# Universit\xe4t\n[settings]\nvac_space = vac01.example.org\nmb_per_processor = 3000\n")
    assert program.main(["migrate", "--json", str(path)]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["mb_per_processor"] == 3000
    assert f"{path} is not in UTF-8, and was read as Latin-1: look at what is not ASCII." in told.err


def test_without_names_they_are_those_of_the_host(vac: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr(program, "_VAC", (str(vac / "vac.d"), str(vac / "vac.conf"), str(vac / "none")))
    assert program.main(["migrate"]) == 0
    assert "mb_per_processor: 3000\n" in capsys.readouterr().out
    monkeypatch.setattr(program, "_VAC", (str(vac / "none"),))
    assert program.main(["migrate"]) == 1
    assert capsys.readouterr().err.startswith("There is no file of Vac's on this host, neither ")


def test_variables_are_written_into_a_folder_once(vac: Path, tmp_path: Path, capsys: Out) -> None:
    into = tmp_path / "group_vars" / "factories"
    asked = ["migrate", "--into", str(into), str(vac / "vac.d"), str(vac / "vac.conf")]
    assert program.main(asked) == 0
    variables, vault = into / "vacuum_factory.yml", into / "vacuum_factory_vault.yml"
    assert capsys.readouterr().out == f"{variables}\n{vault}\n"
    assert "s3cret" not in variables.read_text()
    assert "s3cret" in vault.read_text()
    assert vault.stat().st_mode & 0o777 == 0o600
    assert program.main(asked) == 1
    assert "vacuum_factory.yml cannot be written (File exists)" in capsys.readouterr().err


def test_what_cannot_be_read_is_a_sentence(vac: Path, capsys: Out) -> None:
    empty = vac / "empty"
    empty.mkdir()
    for path, told in (
        (empty, f"There is no file *.conf in {empty}."),
        (vac / "none", f"{vac}/none cannot be read ("),
    ):
        assert program.main(["migrate", str(path)]) == 1
        assert capsys.readouterr().err.startswith(told)

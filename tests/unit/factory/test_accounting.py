# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounting: records as a real Vac wrote them, and files that are written once, whenever the daemon is killed."""

from __future__ import annotations

import itertools
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting
from ansible_collections.hep.gridbox.plugins.module_utils.factory.accounting import (
    is_outgoing,
    month_of,
    record,
    record_name,
    sync,
    write,
    write_sync,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import Machine
from ansible_collections.hep.gridbox.plugins.module_utils.host.record import write_atomically
from tests.unit.factory.reports import CONFIGURATION, ENDED_MACHINE, SETTINGS

#: Spec 8.1, but for the id of the job.
REAL = """\
APEL-individual-job-message: v0.3
Site: UKI-EXAMPLE
SubmitHost: vac01.example.com/vac-factory1.example.com
LocalJobId: 19336db5-b6d7-48fe-b7eb-e55b8fe0977f
LocalUserId: factory1.example.com
Queue: exp-dc-prod
GlobalUserName: /DC=com/DC=example/DC=vac01
FQAN: /exp/Role=production
WallDuration: 122
CpuDuration: 2
Processors: 2
NodeCount: 1
InfrastructureDescription: APEL-VAC
InfrastructureType: grid
StartTime: 1795187335
EndTime: 1795187457
MemoryReal: 131072
MemoryVirtual: 131072
ServiceLevelType: HEPSPEC
ServiceLevel: 10.0
%%
"""

#: What APEL's loader takes in a v0.3 message, what it demands, and the benchmarks it knows.
ACCEPTED = set(
    "Site SubmitHost MachineName Queue LocalJobId LocalUserId GlobalUserName FQAN VO VOGroup VORole WallDuration"
    " CpuDuration Processors NodeCount StartTime EndTime InfrastructureDescription InfrastructureType MemoryReal"
    " MemoryVirtual ServiceLevelType ServiceLevel".split()
)
DEMANDED = set("Site LocalJobId WallDuration CpuDuration StartTime EndTime".split())
BENCHMARKS = ("si2k", "hepspec", "hepscore23")

#: A directory queue's folders and elements.
QUEUE = re.compile(r"[0-9a-f]{8}/[0-9a-f]{14}")

DAY = 86400
#: 15 November 2026, noon UTC.
NOON = 1794744000


def fields(text: t.Optional[str]) -> dict[str, str]:
    assert text is not None
    return dict(line.split(": ", 1) for line in text.splitlines()[1:-1])


def ended(at: int = NOON, number: int = 0, **changes: t.Any) -> Machine:
    uuid = f"00000000-0000-4000-8000-{number:012x}"
    return replace(ENDED_MACHINE, uuid=uuid, created=at - 901, started=at - 900, ended=at, **changes)


def account(folder: Path, machine: Machine, outgoing: bool = True, site: str = "UKI-EXAMPLE") -> str:
    text = record(machine, replace(CONFIGURATION, site=site))
    assert text is not None
    return write(str(folder), text, machine, outgoing)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- the record --------------------------------------------------------------------------------------------------


def test_a_record_is_that_of_a_real_vac() -> None:
    assert record(ENDED_MACHINE, CONFIGURATION) == REAL


@pytest.mark.parametrize("benchmark", ["hs06", "hepscore23"])
def test_apel_takes_it(benchmark: str) -> None:
    found = fields(record(ENDED_MACHINE, replace(CONFIGURATION, benchmark=benchmark)))
    assert set(found) <= ACCEPTED
    assert set(found) >= DEMANDED
    assert found["ServiceLevelType"].lower() in BENCHMARKS
    assert all(found.values())


def test_hepscore23_is_told_as_apel_spells_it() -> None:
    found = record(ENDED_MACHINE, replace(CONFIGURATION, benchmark="hepscore23"))
    assert found == REAL.replace("HEPSPEC", "HEPscore23")


def test_without_names_and_figures_it_is_as_vac_has_it() -> None:
    settings = replace(SETTINGS, hs06_per_processor=None)
    found = fields(
        record(replace(ENDED_MACHINE, accounting_fqan=None), replace(CONFIGURATION, site="", settings=settings))
    )
    assert (found["Site"], found["ServiceLevel"], found["ServiceLevelType"]) == ("example.com", "1.0", "HEPSPEC")
    assert "FQAN" not in found


@pytest.mark.parametrize(
    ("site", "hs06", "outgoing"), [("S", 10.0, True), ("", 10.0, False), ("S", None, False), ("", None, False)]
)
def test_only_what_apel_can_use_goes_out(site: str, hs06: t.Optional[float], outgoing: bool) -> None:
    settings = replace(SETTINGS, hs06_per_processor=hs06)
    assert is_outgoing(replace(CONFIGURATION, site=site, settings=settings)) is outgoing


@pytest.mark.parametrize(
    ("changes", "accounted"),
    [
        ({}, True),
        ({"fizzle_seconds": 122}, True),
        ({"fizzle_seconds": 123}, False),
        ({"started": None, "failed_start": True}, False),
        ({"ended": None}, False),
        ({"state": "running"}, False),
        ({"shutdown_message": "700 Heartbeat file not updated", "end_code": "heartbeat_old"}, True),
    ],
)
def test_only_a_machine_that_has_worked_is_accounted_for(changes: dict[str, t.Any], accounted: bool) -> None:
    assert (record(replace(ENDED_MACHINE, **changes), CONFIGURATION) is not None) is accounted


# ---- its files ---------------------------------------------------------------------------------------------------


def test_a_record_is_archived_and_laid_out_for_sending(tmp_path: Path) -> None:
    path = account(tmp_path, ENDED_MACHINE)
    name = record_name(ENDED_MACHINE)
    assert QUEUE.fullmatch(name) and name.startswith("20261120/151057")
    assert files(tmp_path) == [f"apel-archive/{name}", f"apel-outgoing/{name}"]
    assert path == str(tmp_path / "apel-archive" / name)
    for file in files(tmp_path):
        assert (tmp_path / file).read_text() == REAL
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o644


def test_a_record_that_is_not_for_apel_is_archived(tmp_path: Path) -> None:
    account(tmp_path, ENDED_MACHINE, outgoing=False)
    assert files(tmp_path) == [f"apel-archive/{record_name(ENDED_MACHINE)}"]


def test_a_machine_has_one_record_however_often_it_is_written(tmp_path: Path) -> None:
    once = account(tmp_path, ENDED_MACHINE)
    before = files(tmp_path)
    assert account(tmp_path, ENDED_MACHINE) == once
    assert files(tmp_path) == before
    # Sent by now, so it is not laid out again.
    (tmp_path / before[1]).unlink()
    account(tmp_path, ENDED_MACHINE)
    assert files(tmp_path) == before[:1]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_daemon_that_is_killed_between_the_files_writes_both_and_one_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    class Killed(BaseException):
        pass

    counter = itertools.count()

    def killed(path: str, content: bytes, mode: int) -> None:
        if next(counter) == writes:
            raise Killed
        write_atomically(path, content, mode)

    monkeypatch.setattr(accounting, "write_atomically", killed)
    with pytest.raises(Killed):
        account(tmp_path, ENDED_MACHINE)
    assert len(files(tmp_path)) == writes
    account(tmp_path, ENDED_MACHINE)
    name = record_name(ENDED_MACHINE)
    assert files(tmp_path) == [f"apel-archive/{name}", f"apel-outgoing/{name}"]


def test_machines_of_one_second_do_not_hide_each_other(tmp_path: Path) -> None:
    machines = [ended(number=number) for number in (1, 2, 10**8 + 1, 2 * 10**8 + 1)]
    assert len({record_name(machine) for machine in machines}) == 2
    for _turn in range(2):
        assert len({account(tmp_path, machine) for machine in machines}) == len(machines)
    ids = [fields((tmp_path / file).read_text())["LocalJobId"] for file in files(tmp_path)]
    assert sorted(ids) == sorted(2 * [machine.uuid for machine in machines])


def test_an_id_that_is_no_uuid_has_a_name_too() -> None:
    names = {record_name(replace(ENDED_MACHINE, uuid=name)) for name in ("a", "b", "é")}
    assert len(names) == 3
    assert all(QUEUE.fullmatch(name) for name in names)


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "apel-outgoing").write_text("")
    with pytest.raises(GridboxError, match=r"accounting record of the machine 19336db5-.* cannot be written below"):
        account(tmp_path, ENDED_MACHINE)
    with pytest.raises(GridboxError, match=r"sync record .* cannot be written"):
        write_sync(str(tmp_path), "x", NOON)


# ---- the sync record ---------------------------------------------------------------------------------------------


def test_a_month_is_counted_by_when_machines_ended(tmp_path: Path) -> None:
    # 31 October 23:59:59, 1 November 00:00:00, 30 November 23:59:59, 1 December 00:00:00
    ends = [1793491199, 1793491200, NOON, NOON + 7 * DAY, 1796083199, 1796083200]
    for number, at in enumerate(ends):
        account(tmp_path, ended(at, number), outgoing=number % 2 == 0)
    assert sync(str(tmp_path), "202611") == (
        "APEL-sync-message: v0.1\nSite: UKI-EXAMPLE\nSubmitHost: vac01.example.com/vac-factory1.example.com\n"
        "NumberOfJobs: 4\nMonth: 11\nYear: 2026\n%%\n"
    )
    assert fields(sync(str(tmp_path), "202610"))["NumberOfJobs"] == "1"
    assert fields(sync(str(tmp_path), "202612"))["NumberOfJobs"] == "1"


def test_site_and_host_are_those_of_the_newest(tmp_path: Path) -> None:
    account(tmp_path, ended(NOON - DAY, 1), site="")
    account(tmp_path, ended(NOON, 2))
    account(tmp_path, ended(NOON - 60, 3))
    found = fields(sync(str(tmp_path), "202611"))
    assert (found["Site"], found["NumberOfJobs"]) == ("UKI-EXAMPLE", "2")
    account(tmp_path, ended(NOON + 1, 4), site="")
    found = fields(sync(str(tmp_path), "202611"))
    assert (found["Site"], found["NumberOfJobs"]) == ("example.com", "2")


def test_what_is_no_record_is_not_counted_or_is_named(tmp_path: Path) -> None:
    account(tmp_path, ended())
    folder = tmp_path / "apel-archive" / "20261115"
    (folder / "notes.txt").write_text("x")
    (folder / "12000000000000.812.new").write_text("x")
    (tmp_path / "apel-archive" / "202611-old").mkdir()
    assert fields(sync(str(tmp_path), "202611"))["NumberOfJobs"] == "1"
    (folder / "12000100000000").write_bytes(b"\xff")
    with pytest.raises(GridboxError, match=r"20261115/12000100000000 is not an accounting record"):
        sync(str(tmp_path), "202611")


def test_an_archive_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "apel-archive").mkdir()
    (tmp_path / "apel-archive" / "20261115").write_text("")
    with pytest.raises(GridboxError, match=r"^The accounting records in .* cannot be read \(Not a directory\)\.$"):
        sync(str(tmp_path), "202611")


def test_a_month_without_records_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GridboxError, match=r"^There are no accounting records of 2026-11 in .*apel-archive\.$"):
        sync(str(tmp_path), "202611")
    account(tmp_path, ended())
    with pytest.raises(GridboxError, match="There are no accounting records of 2026-10"):
        sync(str(tmp_path), "202610")


@pytest.mark.parametrize("month", ["", "2026", "2026-11", "202613", "202600", "20261101", "٢٠٢٦١١"])
def test_what_is_no_month_is_refused(tmp_path: Path, month: str) -> None:
    with pytest.raises(InputError, match=r"^month: got .*such as 202611\.$"):
        sync(str(tmp_path), month)


@pytest.mark.parametrize(
    ("now", "month"), [(NOON, "202611"), (1793491200 + DAY - 1, "202610"), (1793491200 + DAY, "202611")]
)
def test_the_month_that_is_synced_is_that_of_yesterday(now: int, month: str) -> None:
    assert month_of(now) == month


def test_a_sync_record_is_laid_out_for_sending(tmp_path: Path) -> None:
    path = write_sync(str(tmp_path), "text", NOON + 0.25)
    assert files(tmp_path) == ["apel-outgoing/20261115/12000025000000"]
    assert Path(path).read_text() == "text"

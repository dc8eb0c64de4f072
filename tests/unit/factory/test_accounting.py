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
    SYNCED,
    is_outgoing,
    month_of,
    months_due,
    noon,
    record,
    record_name,
    sync,
    write,
    write_due,
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


def account(
    folder: Path, machine: Machine, outgoing: bool = True, site: str = "UKI-EXAMPLE", hs06: t.Optional[float] = 10.0
) -> str:
    text = record(machine, replace(CONFIGURATION, site=site, settings=replace(SETTINGS, hs06_per_processor=hs06)))
    assert text is not None
    return write(str(folder), text, machine, outgoing)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def outgoing(folder: Path) -> list[str]:
    return [name for name in files(folder) if name.startswith("apel-outgoing/")]


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
            Path(f"{path}.17.140000.new").write_bytes(content[:7])
            raise Killed
        write_atomically(path, content, mode)

    monkeypatch.setattr(accounting, "write_atomically", killed)
    with pytest.raises(Killed):
        account(tmp_path, ENDED_MACHINE)
    assert len(files(tmp_path)) == writes + 1
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


def test_what_was_not_sent_for_nobody_knew_what_a_processor_is_worth_is_not_counted(tmp_path: Path) -> None:
    account(tmp_path, ended(NOON - DAY, 1), hs06=None, outgoing=False)
    account(tmp_path, ended(NOON - 60, 2))
    account(tmp_path, ended(NOON, 3))
    assert fields(sync(str(tmp_path), "202611"))["NumberOfJobs"] == "2"


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


# ---- each day ----------------------------------------------------------------------------------------------------

#: 1 December 2026, noon.
FIRST = NOON + 16 * DAY


@pytest.mark.parametrize(
    ("synced", "now", "months"),
    [
        (None, NOON, ["202611"]),
        (None, NOON - 1, ["202611"]),  # that of yesterday noon
        (NOON, NOON, []),
        (NOON, NOON + DAY - 1, []),
        (NOON + DAY - 1, NOON + DAY, ["202611"]),
        (NOON - 1, NOON + 3600, ["202611"]),
        # The first of a month tells of the month before to its end; the second, of the new one.
        (FIRST - DAY, FIRST, ["202611"]),
        (FIRST, FIRST + DAY, ["202612"]),
        # It did not work on the first, or for two months.
        (FIRST - DAY, FIRST + DAY, ["202611", "202612"]),
        (FIRST - 90 * DAY, FIRST + DAY, ["202609", "202610", "202611", "202612"]),
        # A clock that was ahead, and a file that says what cannot be.
        (FIRST, NOON, ["202611"]),
        (-5, NOON, ["202611"]),
    ],
)
def test_when_sync_records_are_due(synced: t.Optional[float], now: float, months: list[str]) -> None:
    assert months_due(synced, now) == months


def test_the_last_noon() -> None:
    assert [noon(NOON + seconds) for seconds in (-1, 0, 1, DAY - 1, DAY)] == [
        NOON - DAY, NOON, NOON, NOON, NOON + DAY
    ]  # fmt: skip


def synced(tmp_path: Path, now: float) -> list[tuple[str, str, str]]:
    """Month, number of jobs and file of the sync records that are written at a time."""
    found = []
    for path in write_due(str(tmp_path), now):
        told = fields(Path(path).read_text())
        found.append((told["Month"], told["NumberOfJobs"], str(Path(path).relative_to(tmp_path))))
    return found


def test_a_year_of_looks_each_hour_is_one_sync_record_a_day_and_each_month_to_its_end(tmp_path: Path) -> None:
    """As the daemon looks, over the end of two months, with a machine that ends each day at midnight less a second."""
    told: list[tuple[str, str, str]] = []
    for hour in range(24 * 40):
        now = NOON - NOON % DAY + hour * 3600 + 60
        if hour % 24 == 0:
            account(tmp_path, ended(int(now) - 61, hour))
        told += synced(tmp_path, now)
    days = [path.split("/")[1] for _month, _jobs, path in told]
    assert len(days) == len(set(days)) == 41  # the first look is before a noon, and tells of the noon before
    last = {month: int(jobs) for month, jobs, _path in told}
    assert last == {"11": 17, "12": 23}
    assert len({path for _month, _jobs, path in told}) == len(told)


def test_a_daemon_that_comes_after_the_end_of_a_month_tells_of_both(tmp_path: Path) -> None:
    account(tmp_path, ended(NOON, 1))
    assert [one[:2] for one in synced(tmp_path, FIRST - DAY)] == [("11", "1")]
    account(tmp_path, ended(FIRST - DAY // 2 - 1, 2))
    account(tmp_path, ended(FIRST, 3))
    found = synced(tmp_path, FIRST + DAY + 5)
    assert [one[:2] for one in found] == [("11", "2"), ("12", "1")]
    assert len(outgoing(tmp_path)) == 3 + 3
    assert synced(tmp_path, FIRST + DAY + 10) == []


def test_one_that_is_killed_before_it_is_remembered_is_not_told_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(path: str, content: bytes, mode: int) -> None:
        if path.endswith(SYNCED):
            raise Killed
        write_atomically(path, content, mode)

    account(tmp_path, ended(), outgoing=False)
    with monkeypatch.context() as patched:
        patched.setattr(accounting, "write_atomically", killed)
        with pytest.raises(Killed):
            write_due(str(tmp_path), NOON + 7)
    before = outgoing(tmp_path)
    assert len(before) == 1
    assert [one[2] for one in synced(tmp_path, NOON + 99)] == before
    assert outgoing(tmp_path) == before
    assert synced(tmp_path, NOON + 199) == []


def test_a_month_without_records_is_not_told_and_not_an_error(tmp_path: Path) -> None:
    assert write_due(str(tmp_path), NOON) == []
    account(tmp_path, ended(NOON + 60, 1), outgoing=False)
    assert write_due(str(tmp_path), NOON + 120) == [], "the next noon is time enough"
    assert [one[:2] for one in synced(tmp_path, NOON + DAY)] == [("11", "1")]


@pytest.mark.parametrize("text", ["", "x", "9" * 40, "-1", "nan", "\xff"])
def test_a_damaged_memory_means_never(tmp_path: Path, text: str) -> None:
    account(tmp_path, ended(), outgoing=False)
    (tmp_path / SYNCED).write_text(text, encoding="latin-1")
    assert len(write_due(str(tmp_path), NOON)) == 1
    assert write_due(str(tmp_path), NOON) == []


def test_a_sync_record_that_cannot_be_remembered_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / SYNCED).mkdir()
    with pytest.raises(GridboxError, match="apel-synced cannot be written"):
        write_due(str(tmp_path), NOON)


def test_a_sync_record_is_laid_out_for_sending(tmp_path: Path) -> None:
    path = write_sync(str(tmp_path), "text", NOON + 0.25)
    assert files(tmp_path) == ["apel-outgoing/20261115/12000025000000"]
    assert Path(path).read_text() == "text"

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machine/Job Features: the values, and the files that a machine sees change."""

from __future__ import annotations

import os
import re
import stat
import threading
import typing as t
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.features import Features, features, lower, write
from tests.unit.factory.told import NOW, configuration, machine

STEADY = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def listed() -> Features:
    return features(machine(), configuration(), 60, 40 * 10**9, NOW)


# ---- the values --------------------------------------------------------------------------------------------------


def test_they_are_those_of_the_specifications_listing() -> None:
    """Values that were read in a machine of Vac's, and after them those that Vac lacks."""
    made = listed()
    end = str(NOW + 3599)
    assert made.machinefeatures == {
        "total_cpu": "2", "hs06": "20.0", "shutdowntime": end, "jobslots": "1", "phys_cores": "2", "log_cores": "2",
        "grace_secs": "60",
    }  # fmt: skip
    assert made.jobfeatures == {
        "allocated_cpu": "2", "hs06_job": "20.0", "shutdowntime_job": end, "jobstart_secs": str(NOW),
        "job_id": machine().uuid, "wall_limit_secs": "3599", "cpu_limit_secs": "7198", "max_rss_bytes": "134217728",
        "wall_limit_secs_lrms": "3599", "cpu_limit_secs_lrms": "7198", "cpufactor_lrms": "1.0", "mem_limit_MB": "134",
        "allocated_CPU": "2",
        "grace_secs_job": "60", "max_swap_bytes": "0", "scratch_limit_bytes": "40000000000",
    }  # fmt: skip


def test_what_is_not_known_is_not_told() -> None:
    made = features(machine(hs06=None), configuration(benchmark="hepscore23"), 60, 40 * 10**9, NOW)
    told = set(made.machinefeatures) | set(made.jobfeatures)
    assert not [name for name in told if re.search("hs06|hepscore", name)]


def test_another_benchmark_has_other_keys() -> None:
    made = features(machine(hs06=3 * 10.1), configuration(benchmark="hepscore23"), 60, 40 * 10**9, NOW)
    assert (made.machinefeatures["hepscore23"], made.jobfeatures["hepscore23_job"]) == ("30.3", "30.3")
    assert "hs06" not in made.machinefeatures and "hs06_job" not in made.jobfeatures


def test_the_operators_own_count_more_but_for_the_time_limit() -> None:
    own = {"site_name": "UKI-EXAMPLE", "phys_cores": "1", "shutdowntime": "1"}
    made = features(machine(), configuration(machinefeatures_options=own), 60, 40 * 10**9, NOW)
    assert made.machinefeatures["site_name"] == "UKI-EXAMPLE"
    assert made.machinefeatures["phys_cores"] == "1"
    assert made.machinefeatures["shutdowntime"] == str(NOW + 3599)


@STEADY
@given(
    processors=st.integers(1, 4096),
    left=st.integers(-100, 10**7),
    memory=st.integers(1, 1 << 50),
    hs06=st.none() | st.floats(0.001, 4e9),
    grace=st.integers(0, 86400),
)
def test_they_agree_with_each_other(
    processors: int, left: int, memory: int, hs06: t.Optional[float], grace: int
) -> None:
    one = machine(processors=processors, shutdown_time=NOW + left, memory_bytes=memory, hs06=hs06)
    made = features(one, configuration(), grace, 40 * 10**9, NOW)
    host, job = made.machinefeatures, made.jobfeatures
    wall = int(job["wall_limit_secs"])
    assert int(job["cpu_limit_secs"]) == wall * int(job["allocated_cpu"])
    assert wall >= 0 and (left < 0 or int(job["jobstart_secs"]) + wall == int(job["shutdowntime_job"]))
    assert int(job["mem_limit_MB"]) * 10**6 <= int(job["max_rss_bytes"]) == memory
    for name, same in (
        ("total_cpu", "allocated_cpu"), ("shutdowntime", "shutdowntime_job"), ("grace_secs", "grace_secs_job"),
        ("hs06", "hs06_job"),
    ):  # fmt: skip
        assert host.get(name) == job.get(same)
    for text in (*host.values(), *job.values()):
        assert re.fullmatch(r"[!-~]+", text)
        assert "e" not in text or text == one.uuid, "no reader of these expects exponents"


# ---- the files ---------------------------------------------------------------------------------------------------


@pytest.fixture()
def _private_umask() -> t.Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.usefixtures("_private_umask")
def test_every_account_can_read_them(tmp_path: Path) -> None:
    made = listed()
    write(str(tmp_path), made)
    assert contents(tmp_path / "machinefeatures") == made.machinefeatures
    assert contents(tmp_path / "jobfeatures") == made.jobfeatures
    assert sorted(os.listdir(tmp_path)) == ["jobfeatures", "machinefeatures"]
    for folder in tmp_path.iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


@pytest.mark.usefixtures("_private_umask")
def test_a_machine_is_told_of_an_earlier_limit(tmp_path: Path) -> None:
    write(str(tmp_path), listed())
    seen = {name: os.open(tmp_path / name, os.O_RDONLY) for name in ("machinefeatures", "jobfeatures")}
    try:
        lower(str(tmp_path), NOW + 1000, lambda: NOW + 10)
        for name, key in (("machinefeatures", "shutdowntime"), ("jobfeatures", "shutdowntime_job")):
            # By the folder itself, as a machine has it that has mounted it before.
            descriptor = os.open(key, os.O_RDONLY, dir_fd=seen[name])
            with open(descriptor, encoding="utf-8") as file:
                assert file.read() == str(NOW + 1000)
                assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o644
    finally:
        for descriptor in seen.values():
            os.close(descriptor)
    assert contents(tmp_path / "jobfeatures")["wall_limit_secs"] == "3599"  # the note has it static
    assert sorted(os.listdir(tmp_path)) == ["jobfeatures", "machinefeatures"]


@pytest.mark.parametrize(
    ("at", "limit", "told"),
    [
        (10, 1000, 1000),
        (10, 0, 70),  # of the past, but it was promised 60 s
        (10, 30, 70),
        (3590, 3595, 3599),  # the end it knows is sooner than that
        (10, 5000, 3599),  # later than it knows
    ],
)
def test_it_keeps_the_grace_that_it_was_promised(tmp_path: Path, at: int, limit: int, told: int) -> None:
    write(str(tmp_path), listed())
    lower(str(tmp_path), NOW + limit, lambda: NOW + at + 0.5)
    assert contents(tmp_path / "machinefeatures")["shutdowntime"] == str(NOW + told)
    assert contents(tmp_path / "jobfeatures")["shutdowntime_job"] == str(NOW + told)


def test_a_reader_never_sees_anything_unfinished(tmp_path: Path) -> None:
    """Neither half a value nor a file that should not be there, whenever it looks."""
    write(str(tmp_path), listed())
    names = set(listed().jobfeatures)
    values, others, done = set(), set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            values.add((tmp_path / "jobfeatures" / "shutdowntime_job").read_text())
            others.update(set(os.listdir(tmp_path / "jobfeatures")) - names)

    reader = threading.Thread(target=read)
    reader.start()
    told = [NOW + 3599 - step for step in range(3000)]
    for limit in told:
        lower(str(tmp_path), limit, lambda: NOW)
        if len(values) > 20:
            break
    done.set()
    reader.join(timeout=10)
    assert len(values) > 20
    assert values <= {str(limit) for limit in told}
    assert others == set()


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".jobfeatures.shutdowntime_job.new").write_text("17951")
    write(str(tmp_path), listed())
    assert contents(tmp_path / "jobfeatures") == listed().jobfeatures
    assert sorted(os.listdir(tmp_path)) == ["jobfeatures", "machinefeatures"]


def test_errors_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(GridboxError, match=r"shutdowntime_job could not be read \(No such file"):
        lower(str(tmp_path), NOW)
    with pytest.raises(GridboxError, match=r"none/machinefeatures could not be made \(No such file"):
        write(str(tmp_path / "none"), listed())
    assert list(tmp_path.iterdir()) == []
    write(str(tmp_path), listed())
    (tmp_path / "jobfeatures" / "grace_secs_job").write_text("soon")
    with pytest.raises(GridboxError, match="grace_secs_job does not hold a number"):
        lower(str(tmp_path), NOW)
    (tmp_path / "jobfeatures" / "job_id").unlink()
    (tmp_path / "jobfeatures" / "job_id").mkdir()
    with pytest.raises(GridboxError, match=r"job_id could not be written \(Is a directory"):
        write(str(tmp_path), listed())

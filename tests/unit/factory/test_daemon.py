# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import accounting, host_facts, kept_outputs, orders
from ansible_collections.hep.gridbox.plugins.module_utils.factory import daemon as daemons
from ansible_collections.hep.gridbox.plugins.module_utils.factory import report as reports
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue, PipeState
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Override
from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import (
    REPORT,
    Daemon,
    _Listener,
    _pipe_status,
    end_all,
)
from ansible_collections.hep.gridbox.plugins.module_utils.factory.factory import Factory
from ansible_collections.hep.gridbox.plugins.module_utils.factory.image_store import Image
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Event
from ansible_collections.hep.gridbox.plugins.module_utils.factory.report import ImageStatus, PipeStatus
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.host import mount_table
from ansible_collections.hep.gridbox.plugins.module_utils.host.mount_table import Mount
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.access import Access, address_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import Problem
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.peer import Peer
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.poll import Outcome, Result
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.resolver import Found, Resolver
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.responder import Responder
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.signature import Guard, Key
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.usage import Abort, Space, Usage
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.vacmon import Sender
from tests.unit.factory.reports import ENDED_MACHINE
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_factory import until
from tests.unit.factory.test_mend import LIVE
from tests.unit.vacuum.loopback import SPACE, served, snapshot


def test_a_task_that_swallows_a_cancellation_ends() -> None:
    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def test() -> None:
        tasks = [asyncio.ensure_future(swallows()), asyncio.ensure_future(asyncio.sleep(0))]
        await asyncio.sleep(0.01)
        await asyncio.wait_for(end_all(tasks), 10)
        assert all(task.done() for task in tasks)

    asyncio.run(test())


def test_others_are_told_anew_when_there_is_something_new_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The responder's answers are made with each snapshot."""
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"}))
    now = [1000.0 * REPORT]
    monkeypatch.setattr(time, "time", lambda: now[0])

    async def test() -> None:
        daemon = Daemon(str(path))
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder = Responder(Access())
        daemon._host = host_facts.facts("/")

        def told_anew() -> bool:
            before = daemon.responder.snapshot
            daemon._answer()
            return daemon.responder.snapshot is not before

        assert told_anew()
        now[0] += 1
        assert not told_anew()
        daemon.factory.machines[LIVE.uuid] = LIVE
        assert told_anew()
        assert not told_anew()
        daemon.factory.machines[LIVE.uuid] = replace(LIVE, cpu_seconds=5)
        assert told_anew()
        daemon._host = replace(daemon._host, load_average=77.0)
        assert told_anew()
        daemon.configuration = replace(daemon.configuration, space="vac02.example.org")
        assert told_anew()
        now[0] += REPORT
        assert told_anew(), "the heartbeat is the clock's"
        await daemon.factory.close()

    asyncio.run(test())


def daemon_of(tmp_path: Path, **options: object) -> Daemon:
    """A daemon that does not run."""
    path = tmp_path / "factory.json"
    path.write_text(json.dumps({**SMALL, "state_folder": str(tmp_path), "work_space": "folder", **options}))
    return Daemon(str(path))


def test_monitors_are_told_of_an_end_in_a_slot_that_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    async def send(messages: t.Sequence[bytes]) -> None:
        sent.extend(messages)

    async def test() -> None:
        daemon = daemon_of(tmp_path, vacmon_hostport="127.0.0.1:8884")
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.monitors = Sender((), Resolver())
        monkeypatch.setattr(daemon.monitors, "send", send)
        daemon._host = host_facts.facts("/")
        over = replace(LIVE, slot="f1-07.example.org", state="ended", ended=9_950, shutdown_message="200 Success")
        daemon.factory.machines[over.uuid] = over
        daemon._tell_end(over)
        await daemon.factory.close()

    asyncio.run(test())
    [told] = map(json.loads, sent)
    assert (told["machine"], told["shutdown_message"], told["num_machines"]) == ("f1-07.example.org", "200 Success", 2)


def test_what_the_last_other_factory_had_counts_no_more_when_it_has_left_the_space(tmp_path: Path) -> None:
    async def test() -> None:
        daemon = daemon_of(tmp_path)
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.factory._changed = False
        daemon.resolver, daemon.responder = Resolver(), Responder(Access())
        await daemon._poll()
        assert not vars(daemon.factory)["_changed"]
        daemon._result = Result({}, 0.1, {})
        daemon.factory.space = Space({"a": Usage(500.0)}, 1)
        await daemon._poll()
        assert vars(daemon)["_result"] is None
        assert daemon.factory.space == Space()
        assert daemon.factory._changed
        await daemon.factory.close()

    asyncio.run(test())


def test_of_the_others_answers_the_sum_is_kept_and_no_reply(tmp_path: Path) -> None:
    """Those of a large space are more than all else that the daemon has in memory."""

    async def test() -> None:
        peer = {"factory": "factory2.example.com", "host": "127.0.0.1", "port": port}
        daemon = daemon_of(tmp_path, space=SPACE, factories=[peer])
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.resolver, daemon.responder = Resolver(), Responder(Access())
        await daemon._poll()
        assert daemon._result is not None
        assert [(one.state, one.replies) for one in daemon._result.outcomes.values()] == [("answered", ())]
        assert {name: one.hs06 for name, one in daemon.factory.space.usage.items()} == {"type0": 0.0, "type1": 1.0}

        # A success hides an abort that was seen before, so that is remembered; but not of what this factory has not.
        daemon.factory.catalogue = Catalogue((Machinetype("type0"),))
        abort = Abort(int(time.time()) - 9, "300 Nothing to do", "factory2.example.com")
        daemon.factory.space = Space({name: Usage(abort=abort) for name in ("type0", "type1", "made-up")})
        await daemon._poll()
        assert daemon.factory.space.aborts == {"type0": abort}
        await daemon.factory.close()

    responder = Responder(Access())
    responder.snapshot = snapshot(2)
    with served(responder) as port:
        asyncio.run(test())


def test_a_factory_that_has_no_machinetype_to_tell_of_is_up_all_the_same(tmp_path: Path) -> None:
    """By the protocol it has nothing to send: one that drains, or a real Vac of which nothing has run for a day."""

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            where = {"factory2.example.com": port, "dead.example.com": deaf.getsockname()[1]}
            peers = [{"factory": name, "host": "127.0.0.1", "port": there} for name, there in where.items()]
            daemon = daemon_of(tmp_path, space=SPACE, factories=peers)
            daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
            daemon.monitors = Sender((), Resolver())
            daemon.resolver, daemon.responder = Resolver(), Responder(Access())
            told = []
            for _turn in range(3):
                await daemon._poll()
                told.append({name: (one.state, one.since is None) for name, one in daemon.report().peers.items()})
            await daemon.factory.close()
        dead = {"dead.example.com": ("silent", False)}
        assert told[0] == {"factory2.example.com": ("silent", False), **dead}
        assert told[1] == told[2] == {"factory2.example.com": ("answered", True), **dead}

    responder = Responder(Access())
    responder.snapshot = snapshot(2, machinetypes=0)
    with served(responder) as port:
        asyncio.run(test())


def test_signatures_are_demanded_from_the_moment_it_is_configured(tmp_path: Path) -> None:
    """By the same guard: it remembers which requests have come."""

    async def test() -> None:
        daemon = daemon_of(tmp_path, key_file="/etc/key")
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder = Responder(Access(), guard := Guard(Key(b"0" * 32), "f1.example.org", required=False))
        daemon.monitors = Sender((), Resolver())
        for wanted in (True, False):
            daemon._given = replace(daemon._given, signed_only=wanted)
            daemon._use()
            assert daemon.responder.guard is guard
            assert guard.required is wanted
        await daemon.factory.close()

    asyncio.run(test())


def test_a_daemon_that_begins_with_orders_it_cannot_read_drains_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was ordered may have been that nothing is started any more before a reboot."""
    monkeypatch.setattr(orders, "FOLDER", str(tmp_path / "run"))
    daemon = daemon_of(tmp_path)
    given = Path(orders.path_of(str(tmp_path)))
    given.parent.mkdir()
    given.write_text("{")
    daemon._begin_with_orders()
    assert "holds no orders" in daemon._orders_problem
    assert daemon._with_orders().settings.draining
    assert not daemon._take_orders(), "they still cannot be read"
    assert daemon._with_orders().settings.draining
    given.unlink()
    assert daemon._take_orders()
    assert not daemon._with_orders().settings.draining


def test_a_journal_on_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal may be a file on the file system of the state."""
    daemon, times = daemon_of(tmp_path), []

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def fails() -> None:
        times.append(1)
        if len(times) == 3:
            daemon._stop.set()
        raise GridboxError("the report cannot be written")

    async def test() -> None:
        daemon._stop = asyncio.Event()
        await asyncio.wait_for(daemon._every(0, fails), 10)

    monkeypatch.setattr(sys, "stdout", Full())
    asyncio.run(test())
    assert len(times) == 3


def test_what_nobody_has_thought_of_is_told_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the factory would read no orders any more, or start nothing, and be well by its report."""
    daemon, times = daemon_of(tmp_path), []

    class Broken:
        wake = asyncio.Event()

        def tick(self) -> None:
            self.wake.set()
            fails()

    def fails() -> None:
        times.append(1)
        if len(times) == 3:
            daemon._stop.set()
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        fails()

    async def test() -> None:
        daemon._stop = asyncio.Event()
        await asyncio.wait_for(daemon._every(0, work), 10)
        assert len(times) == 3
        times.clear()
        daemon._stop, daemon.factory = asyncio.Event(), Broken()  # type: ignore[assignment]
        await asyncio.wait_for(daemon._ticks(), 10)
        assert len(times) == 3

    asyncio.run(test())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in events] == ["internal_error"] * 6
    assert "can't start new thread" in events[0]["problem"]


# ---- files for others --------------------------------------------------------------------------------------------


def without_machines(daemon: Daemon) -> Daemon:
    """One that can tell how it is."""
    daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
    daemon.responder = Responder(Access())
    daemon.monitors = Sender((), Resolver())
    return daemon


def test_metrics_are_where_node_exporter_reads_them_and_go_when_they_are_not_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "node-exporter" / "gridbox.prom", tmp_path / "other.prom"

    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path, metrics_file=str(first)))
        await daemon._tell_metrics()
        assert "No such file or directory" in daemon.report().metrics_problem
        assert '"metrics_not_written"' in capsys.readouterr().out
        first.parent.mkdir()
        daemon.factory.failures, daemon.factory.catalogue = {"a": 3}, Catalogue((Machinetype("a"),))
        await daemon._tell_metrics()
        assert daemon.report().metrics_problem == ""
        assert first.stat().st_mode & 0o777 == 0o644
        assert 'gridbox_factory_failures_in_a_row{machinetype="a"} 3\n' in first.read_text()
        assert [path.name for path in first.parent.iterdir()] == ["gridbox.prom"], "nothing unfinished is left"

        reports.write(str(tmp_path), daemon.report())
        await daemon.factory.close()
        # The next daemon has another name for it, and knows of the one before.
        daemon = without_machines(daemon_of(tmp_path, metrics_file=str(second)))
        daemon._remember()
        await daemon._tell_metrics()
        assert second.exists()
        assert not first.exists()
        daemon.configuration = replace(daemon.configuration, metrics_file="")
        await daemon._tell_metrics()
        assert not second.exists()
        assert (daemon.report().metrics_file, daemon.report().metrics_problem) == ("", "")
        await daemon._tell_metrics()
        assert daemon.report().metrics_problem == ""
        await daemon.factory.close()

    asyncio.run(test())


def test_no_metrics_are_written_unless_they_are_wanted(tmp_path: Path) -> None:
    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path))
        before = sorted(tmp_path.iterdir())
        await daemon._tell_metrics()
        assert sorted(tmp_path.iterdir()) == before
        await daemon.factory.close()

    asyncio.run(test())


@pytest.mark.parametrize(("hs06", "many"), [(10.0, 1), (None, 0)])
def test_apel_is_told_each_day_how_many_records_it_should_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hs06: t.Optional[float],
    many: int,
) -> None:
    """If it gets records at all."""
    now = [float(ENDED_MACHINE.ended or 0) + 86400]
    monkeypatch.setattr(time, "time", lambda: now[0])

    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path, site="EXAMPLE", hs06_per_processor=hs06))
        text = accounting.record(ENDED_MACHINE, daemon.configuration)
        assert text is not None
        accounting.write(str(tmp_path), text, ENDED_MACHINE, outgoing=False)
        for _look in range(3):
            await daemon._tell_apel()
            now[0] += 300
        assert len(list(tmp_path.glob("apel-outgoing/*/*"))) == many
        now[0] += 86400
        await daemon._tell_apel()
        told = [path.read_text() for path in tmp_path.glob("apel-outgoing/*/*")]
        assert len(told) == 2 * many
        assert all("NumberOfJobs: 1\nMonth: 11\n" in one for one in told)
        await daemon.factory.close()

    asyncio.run(test())
    assert capsys.readouterr().out.count('"apel_sync_written"') == 2 * many


def test_each_look_tells_of_a_folder_that_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(shutil, "rmtree", fails)

    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path, machines_dir_days=3))
        daemon.factory.store.create(replace(ENDED_MACHINE, cleaned=True))
        await daemon._expire()
        await daemon._expire()
        await daemon.factory.close()

    asyncio.run(test())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["slot"], one["machine"]) for one in told] == [
        ("folder_not_removed", ENDED_MACHINE.slot, ENDED_MACHINE.uuid)
    ] * 2
    assert "Input/output error" in told[0]["problem"]


@pytest.mark.parametrize(
    ("step", "size", "free", "gone"),
    [
        ("_expire", 1000, 500, 0),
        ("_expire", 200, 100, 1),  # they have 24 MiB, and 20 are a tenth
        ("_look_at_room", 200, 100, 0),  # it is not short: the look of the hour is soon enough
        ("_look_at_room", 1000, 50, 0),  # above a twentieth nothing goes for others
        ("_look_at_room", 1000, 49, 6),  # even all of them do not make it 100
        ("_expire", 1000, 49, 6),
        ("_look_at_room", 200, 9, 3),
        ("_look_at_room", 1 << 20, 10 << 10, 0),  # of a large one ten gibibytes do, whoever has the rest
        ("_look_at_room", 1 << 20, (10 << 10) - 1, 6),
    ],
)
def test_the_oldest_outputs_go_when_there_is_no_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str,
    size: int, free: int, gone: int,
) -> None:  # fmt: skip
    mib = 1 << 20
    uuids = [f"{number}0000000-0000-4000-8000-000000000000" for number in range(6)]

    def statvfs(path: str) -> os.statvfs_result:
        assert path == str(tmp_path / "machines")
        return os.statvfs_result((mib, mib, size, free + 1, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)

    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path, machines_dir_days=0))
        store = daemon.factory.store
        for number, uuid in enumerate(uuids):
            over = replace(ENDED_MACHINE, uuid=uuid, created=5000 - number, ended=10_000 + number, cleaned=True)
            folder = Path(store.create(over))
            (folder / "output.log").write_bytes(b"x" * mib)
            (folder / "joboutputs").mkdir()
            for name in "ab":
                (folder / "joboutputs" / name).write_bytes(b"x" * (3 * mib // 2))
        # What runs, or is not cleaned away, is nobody's business here.
        for state in (replace(LIVE, uuid="l"), replace(ENDED_MACHINE, uuid="u", cleaned=False)):
            folder = Path(store.create(state)) / "joboutputs"
            folder.mkdir()
            (folder / "a").write_bytes(b"x" * mib)
        await getattr(daemon, step)()
        machines, _problems = store.load()
        assert len(machines) == 8, "records stay"
        left = [one.uuid for one in machines if (Path(store.folder(one)) / "joboutputs").exists()]
        assert sorted(left) == sorted(["l", "u", *uuids[gone:]])
        assert len(list(tmp_path.glob("machines/*/output.log"))) == 6 - gone
        await daemon.factory.close()

    asyncio.run(test())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["machines"]) for one in told] == [("outputs_removed", gone)] * bool(gone)
    assert not told or told[0]["bytes"] >= gone * 4 * mib


def test_outputs_of_the_last_hour_stay_where_the_disk_is_short_of_room_by_others() -> None:
    """Work spaces may have all the rest of it, and whoever looks what went wrong has to find something."""
    now, short = 100_000, kept_outputs.Disk(1000, 0)
    old, new = (
        kept_outputs.Outputs(replace(ENDED_MACHINE, uuid=f"{ended}", ended=ended), 10) for ended in (now - 3600, now)
    )
    ahead = kept_outputs.Outputs(replace(ENDED_MACHINE, uuid="ahead", ended=now + 1), 10)
    assert kept_outputs.to_go([new, old], short, now) == [old]
    assert kept_outputs.to_go([new], short, now) == []
    assert kept_outputs.to_go([ahead], short, now) == [ahead]
    # Their own part of the disk is theirs, and no more.
    assert kept_outputs.to_go([replace(new, size=101)], short, now) == [replace(new, size=101)]


def test_outputs_in_which_something_is_mounted_stay_and_keep_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    machines = [replace(ENDED_MACHINE, uuid=f"{one}", ended=one, cleaned=True) for one in (11, 12)]
    for machine in machines:
        (Path(store.create(machine)) / "joboutputs").mkdir()
        (Path(store.folder(machine)) / "joboutputs" / "a").write_bytes(b"x" * (1 << 20))
    mounted = os.path.join(store.folder(machines[0]), "joboutputs")
    monkeypatch.setattr(mount_table, "read", lambda: [Mount(mounted, "tmpfs", "tmpfs", False)])
    monkeypatch.setattr(kept_outputs, "disk_of", lambda _store: kept_outputs.Disk(100 << 20, 0))
    gone, stay = kept_outputs.make_room(store, machines)
    assert [one.machine for one in gone] == machines[1:]
    assert stay == [(machines[0], f"{mounted} is not removed, for {mounted} is still mounted.")]
    assert os.listdir(mounted) == ["a"]


def test_a_report_says_where_the_factories_are_and_nothing_secret(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret" * 6)
    key.chmod(0o600)
    others = ["f1.example.org", {"factory": "f2.example.org", "host": "192.0.2.2", "port": 9952}]

    async def test() -> None:
        options = {"user_data_options": {"token": "s3cret"}, "key_file": str(key)}
        daemon = without_machines(daemon_of(tmp_path, port=9951, factories=others, **options))
        found = daemon.report()
        assert found.factories == (Peer("f1.example.org", "127.0.0.1", 9951), Peer("f2.example.org", "192.0.2.2", 9952))
        assert reports.from_json(found.to_json(), "x").factories == found.factories
        assert "s3cret" not in found.to_json()
        await daemon.factory.close()

    asyncio.run(test())


def test_a_machinetype_that_is_gone_is_no_trouble_any_more(tmp_path: Path) -> None:
    async def test() -> None:
        daemon = without_machines(daemon_of(tmp_path))
        daemon.factory.failures = {"a": 3, "gone": 3}
        daemon.factory.catalogue = Catalogue((Machinetype("a"),))
        assert daemon.report().failures_in_a_row == {"a": 3}
        await daemon.factory.close()

    asyncio.run(test())


def test_a_poll_of_who_is_no_peer_any_more_hides_no_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is waited for, and the configuration may name others meanwhile; so may its name."""
    hung = {"resolve": asyncio.Event(), "poll": asyncio.Event()}
    addresses = {"old.example.org": "192.0.2.1", "new.example.org": "192.0.2.2"}

    async def resolve(names: t.Iterable[str], _seconds: float) -> dict[str, Found]:
        if "old.example.org" in names:
            await hung["resolve"].wait()
        return {name: Found(((socket.AF_INET, addresses[name]),)) for name in names}

    async def asked(_query: str, _space: str, peers: t.Sequence[Peer], *_more: t.Any, **_options: t.Any) -> Result:
        if any(one.factory == "old.example.org" for one in peers):
            await hung["poll"].wait()
        return Result({one.factory: Outcome(one.factory, "answered") for one in peers}, 0.1, {})

    monkeypatch.setattr(daemons, "poll", asked)

    async def test(hangs: str) -> None:
        for name, event in hung.items():
            event.clear() if name == hangs else event.set()
        daemon = daemon_of(tmp_path)
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder = Responder(Access())
        daemon.resolver = t.cast("Resolver", types.SimpleNamespace(resolve=resolve))
        daemon.configuration = replace(daemon.configuration, factories=(Peer("old.example.org"),))
        polling = asyncio.ensure_future(daemon._poll())
        await asyncio.sleep(0.01)
        daemon.configuration = replace(daemon.configuration, factories=(Peer("new.example.org"),))
        await daemon._poll()
        for event in hung.values():
            event.set()
        await polling
        assert daemon._result is not None and daemon._result.outcomes.keys() == {"new.example.org"}
        assert daemon.responder.access.addresses == {address_of("192.0.2.2")}
        await daemon.factory.close()

    for name in hung:
        asyncio.run(test(name))


def test_the_engine_is_listened_to_again_whatever_has_broken() -> None:
    """Apptainer's looks into folders, and makes a pipe; without it nobody kills what is in no machine."""
    told: list[str] = []

    class Engine:
        turns = 0

        def events(self, _since: float) -> t.Iterator[Event]:
            self.turns += 1
            if self.turns == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield Event("u1")
            time.sleep(3600)

    async def test() -> None:
        nothing = {name: lambda *_arguments: None for name in ("look", "hears", "deaf")}
        factory = types.SimpleNamespace(engine=Engine(), ended=told.append, **nothing)
        listener = _Listener(t.cast("Factory", factory), asyncio.get_running_loop())
        listener.start()
        for _turn in range(100):
            await asyncio.sleep(0.05)
            if told:
                break
        listener.stop()
        assert told == ["u1"]

    asyncio.run(test())


def test_what_keeps_the_engine_from_being_heard_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no engine yet, or a file of one machine is damaged: that may last for days."""
    absent = RefusedError("engine: docker", "no engine listens here", "Start it.")
    damaged, full = GridboxError("running.json cannot be read."), OSError(errno.ENOSPC, "No space left on device")
    problems = [absent, absent, damaged, damaged, full, full, None, damaged]
    calls: list[str] = []

    class Engine:
        def events(self, _since: float) -> t.Iterator[Event]:
            problem = problems.pop(0) if problems else EngineError("Listening", "no answer")
            if problem is not None:
                raise problem
            yield Event("u1")

    async def test() -> None:
        names = ("look", "hears", "deaf", "ended")
        heard = {name: lambda *_arguments, name=name: calls.append(name) for name in names}
        factory = types.SimpleNamespace(engine=Engine(), **heard)
        listener = _Listener(t.cast("Factory", factory), asyncio.get_running_loop())
        monkeypatch.setattr(listener._stopped, "wait", lambda _seconds: time.sleep(0.01))
        listener.start()
        await until(lambda: calls.count("deaf") >= 9)
        listener.stop()

    asyncio.run(test())
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["event"] for one in told} == {"events_failed"}
    assert [one["problem"] for one in told] == [
        str(absent), str(damaged), repr(full), str(damaged),
    ]  # fmt: skip
    assert calls[:4] == ["look", "hears", "deaf", "look"]


def test_what_the_engine_says_is_handed_on_in_its_order_and_when_it_was_not_heard() -> None:
    told: list[tuple[t.Any, ...]] = []

    class Engine:
        turns = 0

        def events(self, _since: float) -> t.Iterator[Event]:
            self.turns += 1
            if self.turns == 1:
                raise EngineError("Listening", "no answer")
            return self.those()

        def those(self) -> t.Iterator[Event]:
            yield from (Event("u1", 9), Event("u1"))
            if self.turns == 2:
                raise EngineError("Listening", "the connection ended")
            time.sleep(3600)

    async def test() -> None:
        calls = {
            name: lambda *arguments, name=name: told.append((name, *arguments))
            for name in ("ended", "signalled", "deaf", "hears")
        }
        factory = types.SimpleNamespace(engine=Engine(), look=lambda: None, **calls)
        listener = _Listener(t.cast("Factory", factory), asyncio.get_running_loop())
        began = time.time()
        listener.start()
        for _turn in range(100):
            await asyncio.sleep(0.05)
            if len(told) >= 8:
                break
        listener.stop()
        heard: list[tuple[t.Any, ...]] = [("signalled", "u1", 9), ("ended", "u1")]
        assert [one for one in told if one[0] in ("signalled", "ended")] == heard * 2
        turns = [one for one in told if one[0] in ("deaf", "hears")]
        assert [one[0] for one in turns] == ["deaf", "hears", "deaf", "hears"]
        times = [one[1] for one in turns]
        assert began <= times[0] < times[1] <= times[2] < times[3] <= time.time()

    asyncio.run(test())


def test_the_report_has_all_that_a_pipe_brings() -> None:
    kind = {"machine_model": "docker", "target_share": 1, "root_image": "docker://a:1", "user_data": "run"}
    content = {
        "colour": 1,
        "machinetypes": [
            {**kind, "suffix": "a"},
            {**kind, "suffix": "vm", "machine_model": "vm-raw"},
            {**kind, "suffix": "bad", "max_processors": 0},
            {**kind, "suffix": "idle", "max_processors": 0, "target_share": 0},
        ],
    }
    pipe = parse(json.dumps(content).encode(), Section("p", 3.0))
    said = Override("p-typo", "p", {}, (Problem("root_image", "", "an image"),))
    other = replace(said, name="q-typo", prefix="q")
    found = _pipe_status("p", PipeState(pipe, 5.0, "down"), (said, other))
    assert found == PipeStatus(
        5.0, "down", ("p-a",),
        ("p-bad is dropped: max_processors: got 0, expected a whole number from 1 to 4096.",), 2.0,
        ("p-idle is dropped: max_processors: got 0, expected a whole number from 1 to 4096.",),
        ("p-vm is not for this factory: vm-raw is a virtual machine.",),
        (said.sentence,),
        ("p: 'colour' in the document is no key of a vacuum pipe, and is ignored.",),
        3600,
    )  # fmt: skip
    assert _pipe_status("p", PipeState(None, None, "down"), ()) == PipeStatus(None, "down")


def test_nobody_misses_the_image_of_what_has_no_share(tmp_path: Path) -> None:
    async def test() -> None:
        daemon = daemon_of(tmp_path)
        daemon.factory = Factory(daemon.configuration, lambda _event, **_facts: None)
        daemon.responder, daemon.monitors = Responder(Access()), Sender((), Resolver())
        kinds = tuple(Machinetype(one, float(one == "a"), root_image=one) for one in ("a", "b", "c"))
        daemon.factory.catalogue = Catalogue(kinds)
        daemon.factory.images.here = {"a": Image(None, "No."), "b": Image(None, "No."), "c": Image("1")}
        assert daemon.report().images == {"a": ImageStatus(False, "No."), "c": ImageStatus(True)}
        await daemon.factory.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [({"port": 9950}, "its machines go on"), ({"name": "f2.example.org"}, "would not be found any more")],
)
def test_what_a_restart_costs_is_told(tmp_path: Path, changed: dict[str, t.Any], sentence: str) -> None:
    daemon = daemon_of(tmp_path)
    daemon_of(tmp_path, **changed)
    daemon._read_again(True)
    assert sentence in daemon._problem


# ---- signals -----------------------------------------------------------------------------------------------------

#: Begins to work, and does not get on until a file is there: a daemon may wait for what one before has begun.
_SLOW = """
import asyncio, os, sys, time
from ansible_collections.hep.gridbox.plugins.module_utils.factory.daemon import Daemon
from ansible_collections.hep.gridbox.plugins.module_utils.factory.factory import Factory

def recover(_factory):
    print("waits", flush=True)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)

Factory.recover = recover
asyncio.run(Daemon(sys.argv[1]).run())
"""


@pytest.mark.parametrize("asked", [True, False])
def test_a_signal_that_comes_while_it_begins_counts(tmp_path: Path, asked: bool) -> None:
    """One that asks to read all again must not end it, and one that ends it does so at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon_of(tmp_path, port=port, engine_url=f"unix://{tmp_path}/none.sock")
    argv = [sys.executable, "-c", _SLOW, str(tmp_path / "factory.json"), str(tmp_path / "go")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waits\n"
            if asked:
                process.send_signal(signal.SIGHUP)
                (tmp_path / "factory.json").write_text("{")
                (tmp_path / "go").touch()
                said = [json.loads(process.stdout.readline())["event"]]
                while said[-1:] != ["configuration_refused"]:
                    said.append(json.loads(process.stdout.readline())["event"])
                assert "factory_started" in said
            process.terminate()
            rest, _nothing = process.communicate(timeout=30)
            assert process.returncode == 0
            assert json.loads(rest.splitlines()[-1])["event"] == "factory_stopped"
        finally:
            process.kill()

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory on a real engine: the whole life of machines, and what becomes of them when things are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.lab.factory import LabFactory

#: Waits as a machine that is told to end should: the shell has the signal when its sleep has ended, so none is long.
WORKS = "#!/bin/sh\ntrap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM\nwhile :; do sleep 0.1; done\n"

KIND = {
    "root_image": "docker://busybox:test", "user_data": "run", "target_share": 1.0, "fizzle_seconds": 1,
    "backoff_seconds": 3600, "max_wallclock_seconds": 3600, "min_wallclock_seconds": 1,
}  # fmt: skip


@pytest.fixture()
def make(own_lab: Lab, tmp_path: Path) -> t.Iterator[t.Callable[..., LabFactory]]:
    """Makes factories on an engine of the test's own, with one machinetype ``a`` that runs a script."""
    made: list[LabFactory] = []

    def factory(script: str = WORKS, name: str = "f1.example.org", **settings: t.Any) -> LabFactory:
        kind = {**KIND, **settings.pop("kind", {})}
        folder = tmp_path / name
        folder.mkdir()
        one = LabFactory(own_lab, folder, name, **{"machinetypes": {"a": kind}, **settings})
        one.file("a", "run", script)
        made.append(one)
        return one

    yield factory
    for one in made:
        one.remove()


def ended(factory: LabFactory, many: int = 1) -> list[dict[str, t.Any]]:
    """Wait for machines to end; their lines of the journal."""
    return t.cast(
        "list[dict[str, t.Any]]",
        factory.wait(
            f"{many} machines to end", lambda: (e := factory.events("machine_ended")) and len(e) >= many and e
        ),
    )


def ends_by_the_time_limit(factory: LabFactory, message: str, killed: bool) -> None:
    """On any engine: its machine has a limit of seconds, and obeys TERM or is killed."""
    factory.start()
    end = ended(factory)[0]
    assert end["message"].startswith(message)
    assert end["code"] == "time_limit"
    assert bool(factory.events("machine_killed")) == killed
    assert factory.records()[0]["exit_code"] == (137 if killed else 0)


#: Scripts, what becomes of their machines' shutdown message, and whether they have to be killed.
TIME_LIMITS = [
    (WORKS, "100 told", False), ("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n", "100 Time limit", True),
]  # fmt: skip


def finds_what_ended_meanwhile(factory: LabFactory, number: int) -> None:
    """On any engine: the daemon ends by a signal, its machine by itself after it, and the next daemon finds that."""
    factory.start()
    factory.wait("a machine", factory.running)
    factory.stop(number)
    factory.wait("its end", lambda: not factory.running())
    factory.start()
    assert ended(factory)[0]["message"] == "200 Success"
    factory.wait("the next one", factory.running)


def test_a_slot_fills_itself_again_and_again(make: t.Callable[..., LabFactory]) -> None:
    script = "#!/bin/sh\necho here I am\nsleep 1.2\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
    factory = make(script, total_processors=1, site="EXAMPLE", hs06_per_processor=10.0)
    factory.start()
    ended(factory, 3)
    assert factory.stop() == 0
    for record in factory.records()[:2]:
        assert record["shutdown_message"] == "200 Success"
        assert record["end_code"] == "by_itself"
        assert record["exit_code"] == 0
        assert record["cleaned"]
        folder = next(factory.state.glob(f"machines/*{record['uuid'][:8]}"))
        assert b"here I am" in (folder / "output.log").read_bytes()
        assert (folder / "joboutputs/shutdown_message").read_text() == "200 Success\n"
        assert not (folder / "user_data").exists(), "it may hold secrets"
    assert len(list(factory.state.glob("apel-outgoing/*/*"))) >= 2
    assert "200 Success" in factory.run("explain").stdout or factory.run("explain").returncode == 0


def test_the_contract_inside(make: t.Callable[..., LabFactory]) -> None:
    script = (
        "#!/bin/sh\nexec >$JOBOUTPUTS/seen\nhostname\necho $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS\n"
        "cat /etc/machinefeatures/total_cpu; echo; cat /etc/jobfeatures/job_id; echo; echo ##user_data_uuid##\n"
        "touch /etc/machinefeatures/x 2>/dev/null || echo read-only\n"
        "touch /scratch/x && echo writable\n"
        "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status\n"
        "cat /proc/1/comm\ntest -e /cvmfs && echo cvmfs\nmv $JOBOUTPUTS/seen $JOBOUTPUTS/all; sleep 60\n"
    )
    factory = make(script, total_processors=1, kind={"tmp_binds": ["/scratch"]}, pids_per_processor=64)
    factory.start()
    seen = factory.wait("the machine's words", lambda: next(factory.state.glob("machines/*/mnt/joboutputs/all"), None))
    lines = seen.read_text().splitlines()
    [container] = factory.running()
    uuid = container["Config"]["Labels"]["hep.gridbox.machine"]
    assert lines[:7] == [
        "f1-00.example.org", "/etc/machinefeatures /etc/jobfeatures /var/spool/joboutputs", "1", uuid, uuid,
        "read-only", "writable",
    ]  # fmt: skip
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID
    assert lines[7:10] == ["CapEff:\t00000000000000fb", "CapBnd:\t00000000000000fb", "NoNewPrivs:\t1"]
    assert "init" in lines[10] or "tini" in lines[10]
    assert lines[11:] == []
    host = container["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 64 << 20, 10**9, 64)
    assert not host["Privileged"]
    folder = seen.parents[2]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


FIZZLED = "300 Ended after [0-9]+ s without a message"


@pytest.mark.parametrize(
    ("script", "message", "code"),
    [
        ("echo 300 Nothing to do >$JOBOUTPUTS/shutdown_message", "300 Nothing to do", "by_itself"),
        ("exit 3", FIZZLED, "by_itself"),
        ("ln -s /etc/hostname $JOBOUTPUTS/shutdown_message", FIZZLED, "by_itself"),
        ("mkfifo $JOBOUTPUTS/shutdown_message", FIZZLED, "by_itself"),
        ("mkdir $JOBOUTPUTS/shutdown_message", FIZZLED, "by_itself"),
        ("sleep 2", None, "by_itself"),
    ],
)
def test_outcomes(make: t.Callable[..., LabFactory], script: str, message: t.Optional[str], code: str) -> None:
    # What lasts longer than fizzle_seconds is no abort; a busy machine may take seconds to start and end a script.
    factory = make(f"#!/bin/sh\n{script}\n", total_processors=1, kind={"fizzle_seconds": 1 if message is None else 60})
    factory.start()
    end = ended(factory)[0]
    assert re.match(message or "", end["message"] or "")
    assert end["code"] == code
    if message is not None:
        # An abort: nothing is started for backoff_seconds, and whoever asks is told why.
        assert "backing off" in factory.wait(
            "a decision", lambda: (e := factory.run("explain").stdout) and "backing" in e and e
        )
        assert len(factory.events("machine_started")) == 1


def test_a_machine_that_cannot_start_is_an_abort_with_the_engines_words(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1, kind={"container_command": ["/no/such/program"]})
    factory.start()
    end = ended(factory)[0]
    # The init of the container says it, so it did start: a fizzle.
    assert end["message"].startswith(("500 ", "300 "))
    factory.wait("its container to go", lambda: not factory.containers())


def test_a_missing_image_is_told_and_nothing_is_started(make: t.Callable[..., LabFactory]) -> None:
    factory = make(kind={"root_image": "docker://127.0.0.1:1/no/such:1"})
    factory.start()
    factory.wait("the word", lambda: factory.events("image_missing"))
    found = factory.wait("a red check", lambda: "mage" in (c := factory.run("check")).stdout and c)
    assert found.returncode in (1, 2)
    assert factory.records() == []


def test_the_time_limit_is_term_then_kill(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1, kind={"max_wallclock_seconds": 3})
    factory.start()
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("100 told", "time_limit")
    assert not factory.events("machine_killed")
    assert factory.stop() == 0

    deaf = make("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n", "f2.example.org",
                total_processors=1, kind={"max_wallclock_seconds": 3}, port=9951)  # fmt: skip
    deaf.start()
    end = ended(deaf)[0]
    assert (end["message"], end["code"]) == ("100 Time limit reached", "time_limit")
    assert deaf.events("machine_killed")
    assert deaf.records()[0]["exit_code"] == 137


def test_a_machine_without_heartbeat_is_ended(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1, kind={"heartbeat_file": "alive", "fizzle_seconds": 2})
    factory.start()
    end = ended(factory)[0]
    assert end["code"] == "heartbeat_missing"
    assert end["message"] in ("100 told", "700 Heartbeat file not created")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_machines_outlive_the_daemon(make: t.Callable[..., LabFactory], number: int) -> None:
    factory = make()
    factory.start()
    before = factory.wait("two machines", lambda: len(r := factory.running()) == 2 and r)
    factory.stop(number)
    factory.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    factory.wait("a report", lambda: factory.run("check").returncode == 0)
    assert {one["Id"] for one in factory.running()} == {one["Id"] for one in before}
    assert [one["State"]["Pid"] for one in factory.running()] == [one["State"]["Pid"] for one in before]
    assert not factory.events("machine_ended", "stray_removed", "unborn_removed")


def test_ends_while_the_daemon_was_away_are_found(make: t.Callable[..., LabFactory]) -> None:
    factory = make("#!/bin/sh\nsleep 2\necho 200 Success >$JOBOUTPUTS/shutdown_message\n", total_processors=1)
    finds_what_ended_meanwhile(factory, signal.SIGKILL)


def test_an_engine_that_is_killed_loses_no_machine_that_runs(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    engine = factory.lab.engine
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        # A stopped engine takes requests and does not answer: nobody can tell, and nothing is done.
        assert not factory.events("machine_ended")
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    engine.kill()
    factory.wait("the silence to be noticed", lambda: factory.events("engine_silent"))
    red = factory.wait("a red check", lambda: (c := factory.run("check")).returncode == 2 and c)
    assert "ngine" in red.stdout
    assert not factory.events("machine_ended")
    engine.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    # Without live restore its containers went with it, and this is what is written down then.
    end = ended(factory)[0]
    assert end["machine"] == before["Config"]["Labels"]["hep.gridbox.machine"]


def test_strays_go_and_what_is_not_ours_stays(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.lab.docker(
        "run", "--detach", "--name", "stray", "--label", "hep.gridbox.factory=f1.example.org",
        "--label", "hep.gridbox.machine=none", "busybox:test", "sleep", "600",
    )  # fmt: skip
    factory.lab.docker("run", "--detach", "--name", "f1-00.example.org", "busybox:test", "sleep", "600")
    factory.start()
    factory.wait("the stray to go", lambda: not factory.lab.docker("ps", "--quiet", "--filter", "name=stray"))
    factory.wait("a machine", factory.running)
    assert factory.lab.docker("ps", "--quiet", "--filter", "name=^f1-00.example.org$")
    factory.lab.docker("rm", "--force", "f1-00.example.org")


def test_a_malicious_pipe_starts_nothing_and_touches_nothing(make: t.Callable[..., LabFactory], tmp_path: Path) -> None:
    """The pipe of spec 9.1, item 1, that ran a command as root on a host of Vac's."""
    bad: list[dict[str, t.Any]] = [
        {"suffix": "cmd", "container_command": f"/user_data; touch {tmp_path}/pwned; echo"},
        {"suffix": "image", "root_image": f"docker://busybox:test; touch {tmp_path}/pwned"},
        {"suffix": "tmp", "tmp_binds": ["/scratch:/etc", f"$(touch {tmp_path}/pwned)"]},
        {"suffix": "etc", "tmp_binds": ["/etc/../.."]},
        {"suffix": "file", "user_data": "../../../../etc/shadow"},
        {"suffix": "a/../b"},
        {"suffix": "cvmfs", "cvmfs_repositories": "../etc"},
    ]
    common = {"machine_model": "docker", "root_image": "docker://busybox:test", "user_data": "run", "target_share": 1}
    pipe = tmp_path / "bad.pipe"
    pipe.write_text(json.dumps({"machinetypes": [{**common, **one} for one in bad]}))
    pipes = {"bad": {"vacuum_pipe_path": str(pipe), "target_share": 100}}
    factory = make(total_processors=1, vacuum_pipes=pipes)
    factory.start()
    [container] = factory.wait("a machine", factory.running)
    assert container["Config"]["Labels"]["hep.gridbox.machinetype"] == "a", "a good machinetype is not hurt"
    report = factory.wait(
        "the report", lambda: (p := factory.state / "report.json").exists() and json.loads(p.read_text())
    )
    assert len(report["pipes"]["bad"]["dropped"]) == len(bad)
    assert report["pipes"]["bad"]["machinetypes"] == []
    assert not (tmp_path / "pwned").exists()


def test_configuration_is_read_again_and_a_wrong_one_is_told_and_not_used(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    factory.write(mb_per_processor="much")
    factory.wait("the refusal", lambda: factory.events("configuration_refused"))
    assert "mb_per_processor: got 'much'" in factory.events("configuration_refused")[0]["problem"]
    assert factory.wait("the check to say so", lambda: "mb_per_processor" in factory.run("check").stdout)
    factory.write(mb_per_processor=64, total_processors=2, slots=2)
    factory.wait("two machines", lambda: len(factory.running()) == 2)
    assert before["Id"] in {one["Id"] for one in factory.running()}
    factory.write(draining=True)
    factory.wait("the word", lambda: "draining" in factory.run("explain").stdout)
    assert len(factory.running()) == 2


def test_two_factories_are_one_space(make: t.Callable[..., LabFactory]) -> None:
    others = [
        {"factory": "f1.example.org", "host": "127.0.0.1", "port": 9951},
        {"factory": "f2.example.org", "host": "127.0.0.1", "port": 9952},
    ]
    first = make(port=9951, factories=others)
    second = make(name="f2.example.org", port=9952, factories=others, total_processors=1)
    first.start()
    second.start()
    first.wait("all machines", lambda: len(first.running()) == 2 and len(second.running()) == 1)
    shown = first.wait(
        "the view",
        lambda: (r := first.run("machines", "--json")).returncode == 0 and r.stdout.count('"Running"') == 3 and r,
    )
    replies = [reply for one in json.loads(shown.stdout) for reply in one["replies"]]
    machines = {reply["machine"]: reply["state"] for reply in replies}
    assert machines == dict.fromkeys(("f1-00.example.org", "f1-01.example.org", "f2-00.example.org"), "Running")
    table = second.run("factories").stdout
    assert "f1" in table
    assert "f2" in table
    second.stop()
    lost = first.run("machines", "--timeout", "1")
    assert lost.returncode == 3
    assert "f2.example.org" in lost.stdout + lost.stderr


def test_a_second_daemon_in_the_same_folder_is_refused(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.start()
    second = factory.run("factory")
    assert second.returncode == 1
    assert "another factory's daemon works in it" in second.stderr

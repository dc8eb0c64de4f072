# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vacuum factory on a real engine: the whole life of machines, and what becomes of them when things are killed."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.version import PRODUCT
from tests.integration.conftest import Lab
from tests.lab.factory import DAY, KIND, LabFactory
from tests.lab.image import busybox_tar, pam_tar
from tests.unit.factory.test_proxy import Authority, openssl

#: Waits as a machine that is told to end should: the shell has the signal when its sleep has ended, so none is long.
WORKS = "#!/bin/sh\ntrap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM\nwhile :; do sleep 0.1; done\n"


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


def is_left_alone_from_another_state_folder(factory: LabFactory) -> None:
    """On any engine: the daemon begins in another state folder, and starts nothing until its machine is gone."""
    factory.start()
    [machine] = factory.wait("a machine", factory.running)
    factory.stop()
    old, factory.state = factory.state, factory.folder / "other"
    factory.write(state_folder=str(factory.state))
    factory.file("a", "run", WORKS)
    factory.start()
    told = factory.wait("the refusal", lambda: "state folder" in (c := factory.run("check").stdout) and c)
    assert f"made in the state folder {old}" in told
    assert [one["Id"] for one in factory.running()] == [machine["Id"]]
    factory.lab.docker("kill", machine["Id"])
    [another] = factory.wait("another one", factory.running)
    assert another["Id"] != machine["Id"]


#: Prints some hundred KiB.
TALKS = (
    "#!/bin/sh\nn=0\nwhile [ $n -lt 4000 ]; do n=$((n + 1)); echo line $n of many, and more than anybody reads; done\n"
    "echo 200 Success >$JOBOUTPUTS/shutdown_message\n"
)


def kept_of_a_long_output(factory: LabFactory) -> list[str]:
    """The lines that are kept, with ``output_bytes`` of 64 KiB."""
    factory.start()
    ended(factory)
    first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    [kept] = factory.state.glob(f"machines/*{first['uuid'][:8]}/output.log")
    lines = kept.read_text().splitlines()
    assert kept.stat().st_size <= 65536
    # After each one's time; Podman has two of one that came in two pieces.
    text = "".join(line.partition(" ")[2] for line in lines)
    assert text.endswith("line 4000 of many, and more than anybody reads")
    return lines


@pytest.mark.parametrize("ahead", [7200, -1800])
def test_a_clock_that_was_set_while_no_daemon_ran_is_told_to_machines(
    make: t.Callable[..., LabFactory], ahead: int
) -> None:
    """Nobody sets this machine's clock for a test: a daemon in a time namespace finds that the host booted at another
    time, which is all that it knows of a clock that was set."""
    factory = make(total_processors=1, slots=1)
    clock = ["unshare", "--time", "--boottime", str(abs(ahead))]
    if subprocess.run([*clock, "true"], check=False, capture_output=True).returncode:
        pytest.skip("the kernel has no time namespaces")
    factory.enter = clock if ahead > 0 else []
    factory.start()
    factory.wait("a machine", factory.running)
    before = factory.wait("its record", lambda: (r := factory.records()) and r[0]["state"] == "running" and r[0])
    factory.stop()
    factory.enter = [] if ahead > 0 else clock
    factory.start()
    [moved] = factory.wait("the machine to be told", lambda: factory.events("machine_times_moved"))
    assert abs(moved["seconds"] - ahead) <= 1
    after = factory.wait("its record", lambda: (r := factory.records()[0])["set_by"] and r)
    assert after["uuid"] == before["uuid"] and after["created"] == before["created"]
    assert after["shutdown_time"] == before["shutdown_time"] + moved["seconds"]
    [machine] = factory.running()
    told = factory.lab.docker("exec", machine["Id"], "cat", "/etc/jobfeatures/shutdowntime_job")
    assert int(told) == after["shutdown_time"]
    factory.stop()
    factory.start()
    factory.wait("a look", lambda: factory.events("engine_answers")[2:])
    assert len(factory.events("machine_times_moved")) == 1
    assert not factory.events("machine_told_to_end", "machine_ended", "internal_error", "step_failed")


def test_of_a_long_output_the_end_is_kept(make: t.Callable[..., LabFactory]) -> None:
    numbers = [int(line.split()[2]) for line in kept_of_a_long_output(make(TALKS, output_bytes=65536))]
    assert numbers == list(range(numbers[0], 4001)) and len(numbers) > 100


def test_what_a_daemon_left_that_was_killed_while_it_wrote_goes(
    make: t.Callable[..., LabFactory], tmp_path: Path
) -> None:
    factory = make(total_processors=1, metrics_file=str(tmp_path / "gridbox.prom"))
    factory.state.mkdir(exist_ok=True)
    names = ("report.json", "pulled-images.json", "engine", "apel-synced")
    left = [factory.state / f"{name}.4711.140000.new" for name in names] + [tmp_path / "gridbox.prom.4711.140000.new"]
    for path in (*left, tmp_path / "other.prom.4711.140000.new"):
        path.touch()
    factory.start()
    assert [path for path in left if path.exists()] == []
    assert (tmp_path / "other.prom.4711.140000.new").exists()
    factory.wait("a machine", factory.running)


def test_old_folders_go_beside_one_that_cannot(make: t.Callable[..., LabFactory]) -> None:
    """Records come oldest first, and in the oldest folder somebody has mounted something."""
    script = "#!/bin/sh\nsleep 1.2\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"
    factory = make(script, total_processors=1, machines_dir_days=3)
    factory.start()
    factory.wait("two machines to be cleaned away", lambda: sum(one["cleaned"] for one in factory.records()) >= 2)
    factory.stop()
    machines = factory.state / "machines"
    old = sorted(path.parent for path in machines.glob("*/machine.json") if json.loads(path.read_text())["cleaned"])
    for folder in old:
        record = json.loads((folder / "machine.json").read_text())
        record["ended"] -= 4 * DAY
        (folder / "machine.json").write_text(json.dumps(record))
    mounted = old[0] / "joboutputs"
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        (mounted / "theirs").touch()
        factory.start()
        [told] = factory.wait("the look", lambda: factory.events("folder_not_removed"))
        assert told["problem"] == f"{old[0]} is not removed, for {mounted} is still mounted."
        factory.wait("the others to go", lambda: [path for path in old if path.exists()] == old[:1])
        assert (mounted / "theirs").exists()
        assert (old[0] / "machine.json").exists()
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_machine_gets_the_proxy_of_its_machinetype(make: t.Callable[..., LabFactory], tmp_path: Path) -> None:
    """In its user_data, and from nowhere else: made for it from the site's certificate, which stays where it is."""
    (tmp_path / "ca").mkdir()
    authority = Authority(tmp_path / "ca")
    script = (
        "#!/bin/sh\ncat >$JOBOUTPUTS/proxy <<'E'\n##user_data_option_x509_proxy##\nE\n"
        "find / -xdev -name '*.pem' 2>/dev/null >$JOBOUTPUTS/found\nmv $JOBOUTPUTS/found $JOBOUTPUTS/all\n"
        "while :; do sleep 0.1; done\n"
    )
    factory = make(script, total_processors=1, kind={"user_data_proxy": True})
    authority.give(factory.state / "machinetypes/a")
    factory.start()
    seen = factory.wait("the machine's words", lambda: next(factory.state.glob("machines/*/mnt/joboutputs/all"), None))
    assert seen.read_text() == ""
    proxy = seen.with_name("proxy")
    end = openssl("x509", "-in", proxy, "-noout", "-checkend", "60", "-issuer")
    assert "A CA of the tests" not in end and "PRIVATE KEY-----" in proxy.read_text()
    assert proxy.read_text().count("BEGIN CERTIFICATE") == 2
    key = (factory.state / "machinetypes/a/x509key.pem").read_text()
    assert key.splitlines()[1] not in proxy.read_text()


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
    # One after the other, and each ended well: so nothing is held back, which the last report says without a daemon.
    told = [one["event"] for one in factory.events("machine_started", "machine_ended")]
    assert told[:6] == ["machine_started", "machine_ended"] * 3
    assert {(one["message"], one["code"]) for one in factory.events("machine_ended")} == {("200 Success", "by_itself")}
    explained = factory.run("explain", "--json")
    assert explained.returncode == 0
    assert {one["machinetype"]: one["refusal"] for one in json.loads(explained.stdout)["machinetypes"]} == {"a": None}
    checked = factory.run("check")
    assert (checked.returncode, checked.stdout.partition(" (")[0]) == (0, "OK: Factory ok")


def test_the_contract_inside(make: t.Callable[..., LabFactory]) -> None:
    script = (
        "#!/bin/sh\nfind $MACHINEFEATURES $JOBFEATURES -type f | while read one; do echo $one $(cat $one; echo .); done"
        " >$JOBOUTPUTS/features\nexec >$JOBOUTPUTS/seen\nhostname\necho $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS\n"
        "cat /etc/machinefeatures/total_cpu; echo; cat /etc/jobfeatures/job_id; echo; echo ##user_data_uuid##\n"
        "touch /etc/machinefeatures/x 2>/dev/null || echo read-only\n"
        "touch /scratch/x && echo writable\n"
        "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status\n"
        "cat /proc/1/comm\ntest -e /cvmfs && echo cvmfs\nmv $JOBOUTPUTS/seen $JOBOUTPUTS/all; sleep 60\n"
    )
    factory = make(
        script, total_processors=1, kind={"tmp_binds": ["/scratch"]}, pids_per_processor=64, hs06_per_processor=10.0,
        disk_gb_per_processor=1, machinefeatures_options={"site_name": "EXAMPLE"},
    )  # fmt: skip
    factory.start()
    seen = factory.wait("the machine's words", lambda: next(factory.state.glob("machines/*/mnt/joboutputs/all"), None))
    lines = seen.read_text().splitlines()
    [container] = factory.running()
    uuid = container["Config"]["Labels"]["hep.gridbox.machine"]
    assert lines[:7] == [
        "f1-00.example.org", "/etc/machinefeatures /etc/jobfeatures /var/spool/joboutputs", "1", uuid, uuid,
        "read-only", "writable",
    ]  # fmt: skip
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID; AUDIT_WRITE
    assert lines[7:10] == ["CapEff:\t00000000200000fb", "CapBnd:\t00000000200000fb", "NoNewPrivs:\t1"]
    assert "init" in lines[10] or "tini" in lines[10]
    assert lines[11:] == []
    host = container["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 64 << 20, 10**9, 64)
    assert not host["Privileged"]
    # The kernel's word, whatever the engine calls it: on the host's network a machine would reach what listens there.
    assert os.stat(f"/proc/{container['State']['Pid']}/ns/net").st_ino != os.stat(f"/run/netns/{factory.netns}").st_ino
    folder = seen.parents[2]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    # Its features: all of spec 5.3, and what the note demands beside (features.py). None ends with a newline.
    told = dict(line.split(" ", 1) for line in seen.with_name("features").read_text().splitlines())
    assert {value[-1] for value in told.values()} == {"."}
    found = {path: value[:-1] for path, value in told.items()}
    [record] = factory.records()
    begun = int(found["/etc/jobfeatures/jobstart_secs"])
    assert record["created"] <= begun <= record["started"]
    end, wall = str(record["shutdown_time"]), str(record["shutdown_time"] - begun)
    assert record["shutdown_time"] == record["created"] + 3600
    memory = 64 << 20
    machinefeatures = {
        "total_cpu": "1", "hs06": "10.0", "shutdowntime": end, "grace_secs": "2", "jobslots": "1", "phys_cores": "1",
        "log_cores": "1", "site_name": "EXAMPLE",
    }  # fmt: skip
    jobfeatures = {
        "allocated_cpu": "1", "hs06_job": "10.0", "shutdowntime_job": end, "grace_secs_job": "2",
        "jobstart_secs": str(begun), "job_id": uuid, "wall_limit_secs": wall, "cpu_limit_secs": wall,
        "max_rss_bytes": str(memory), "max_swap_bytes": "0", "scratch_limit_bytes": str(10**9),
        "wall_limit_secs_lrms": wall, "cpu_limit_secs_lrms": wall, "cpufactor_lrms": "1.0",
        "mem_limit_MB": str(memory // 10**6), "allocated_CPU": "1",
    }  # fmt: skip
    assert found == {
        **{f"/etc/machinefeatures/{name}": value for name, value in machinefeatures.items()},
        **{f"/etc/jobfeatures/{name}": value for name, value in jobfeatures.items()},
    }


def is_root_whatever_its_image_says(factory: LabFactory) -> None:
    """On any engine: a machine whose image names an account can write what belongs to root, as its outputs do."""
    tar = factory.folder / "user.tar"
    tar.write_bytes(busybox_tar())
    factory.lab.docker("import", "--change", "USER 1000:1000", str(tar), "user:test")
    try:
        script = "id -u >$JOBOUTPUTS/id; id -g >>$JOBOUTPUTS/id; echo 200 Success >$JOBOUTPUTS/shutdown_message"
        factory.kinds({"a": {"script": script, "root_image": "docker://user:test", "fizzle_seconds": 0}})
        factory.write(total_processors=1)
        factory.start()
        assert ended(factory)[0]["message"] == "200 Success"
        first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
        [seen] = factory.state.glob(f"machines/*{first['uuid'][:8]}/joboutputs/id")
        assert seen.read_text() == "0\n0\n"
    finally:
        factory.remove()
        factory.lab.docker("image", "rm", "--force", "user:test")


def test_a_machine_is_root_whatever_its_image_says(make: t.Callable[..., LabFactory]) -> None:
    is_root_whatever_its_image_says(make())


def runs_though_it_is_larger_than_the_host(factory: LabFactory) -> None:
    """On any engine: a machine of more processors than there are, where a site counts more."""
    many = os.cpu_count() or 1
    factory.kinds({"a": {"script": WORKS, "min_processors": many + 1, "max_processors": many + 1}})
    factory.write(total_processors=many + 1, processors_per_superslot=many + 1)
    factory.start()
    factory.wait("the machine", factory.running)
    assert factory.records()[0]["processors"] == many + 1


def test_a_machine_runs_though_it_is_larger_than_the_host(make: t.Callable[..., LabFactory]) -> None:
    runs_though_it_is_larger_than_the_host(make())


#: As ``/user_data``: goes down to another account by PAM's su, which then looks for what is not for it.
GOES_DOWN = r"""
exec >$JOBOUTPUTS/seen 2>&1
SECRET='##user_data_file_key##'
test "$SECRET" = 'of the site' && echo root knows it
stat -c '%u %a' /user_data
/usr/bin/su -s /bin/sh pilot -c 'id -u; cat /user_data'
echo 200 Success >$JOBOUTPUTS/shutdown_message
"""


def keeps_accounts_apart(factory: LabFactory) -> None:
    """On any engine: user_data becomes another account by PAM, which has the kernel audit that, and that account finds
    nothing of the site's secrets."""
    tar = factory.folder / "pam.tar"
    tar.write_bytes(pam_tar())
    factory.lab.docker("import", str(tar), "pam:test")
    try:
        kind = {"script": GOES_DOWN, "root_image": "docker://pam:test", "user_data_file_key": "key"}
        factory.file("a", "key", "of the site")
        factory.kinds({"a": kind})
        factory.write(total_processors=1)
        factory.start()
        assert ended(factory)[0]["message"] == "200 Success"
        first = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
        [seen] = factory.state.glob(f"machines/*{first['uuid'][:8]}/joboutputs/seen")
        expected = ["root knows it", "0 700", "40000", "cat: can't open '/user_data': Permission denied"]
        assert seen.read_text().splitlines() == expected
    finally:
        factory.remove()
        factory.lab.docker("image", "rm", "--force", "pam:test")


def test_a_machine_keeps_accounts_apart(make: t.Callable[..., LabFactory]) -> None:
    keeps_accounts_apart(make())


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


def test_three_fizzles_in_a_row_are_red(make: t.Callable[..., LabFactory]) -> None:
    """One is an abort like any other, for which a factory backs off, and its check is yellow."""
    factory = make("#!/bin/sh\nexit 3\n", total_processors=1, kind={"fizzle_seconds": 60, "backoff_seconds": 8})
    factory.start()
    ended(factory)
    told = factory.wait("the back-off", lambda: "backing off" in (c := factory.run("check")).stdout and c)
    assert told.returncode == 1, told.stdout
    ended(factory, 3)
    red = factory.wait("a red check", lambda: (c := factory.run("check")).returncode == 2 and c)
    words = r"The last [3-9] machines of a fizzled or did not start\. Of the last one: " + FIZZLED
    assert re.search(words, red.stdout), red.stdout


def test_a_machine_that_cannot_start_is_an_abort_with_the_engines_words(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1, network="no-such")
    factory.start()
    end = ended(factory)[0]
    assert (end["message"], end["code"]) == ("500 Machine did not start", "start_failed")
    assert "network no-such not found" in end["reason"]
    factory.wait("its container to go", lambda: factory.records()[0]["cleaned"] and not factory.containers())
    [record] = factory.records()
    assert (record["failed_start"], record["exit_code"], record["started"]) == (True, None, None)
    assert "backing off" in factory.wait("a word", lambda: (e := factory.run("explain").stdout) and "back" in e and e)


def test_a_missing_image_is_told_and_nothing_is_started(make: t.Callable[..., LabFactory]) -> None:
    factory = make(kind={"root_image": "docker://127.0.0.1:1/no/such:1"})
    factory.start()
    factory.wait("the word", lambda: factory.events("image_missing"))
    found = factory.wait("a check", lambda: "The image of" in (c := factory.run("check")).stdout and c)
    assert found.returncode == 2
    assert "The image of a is missing for 0 min: " in found.stdout
    assert "127.0.0.1:1" in found.stdout and "refused" in found.stdout
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


def test_all_machines_are_gone_by_shutdown_time(make: t.Callable[..., LabFactory]) -> None:
    """Also one that does not hear TERM; and what it is told of is when that comes."""
    factory = make("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n", total_processors=1)
    factory.start()
    factory.wait("the machine", factory.running)
    at = int(time.time()) + 24  # a busy machine obeys late, and less than its grace nobody is told
    assert factory.run("shutdown-time", str(at)).returncode == 0
    [features] = factory.state.glob("machines/*/machinefeatures")
    factory.wait("the word", lambda: int((features / "shutdowntime").read_text()) == at - 2)
    [end] = ended(factory)
    assert (end["code"], end["message"]) == ("shutdown_time", "100 Factory shutdown_time reached")
    assert factory.events("machine_killed")
    [record] = factory.records()
    assert at - 2 <= record["told"] < record["ended"] < at + 3, "each second is looked"
    assert not factory.running()


def restart(factory: LabFactory, number: int = signal.SIGTERM) -> None:
    """End the daemon, start another one, and wait until that has seen its machines and says so."""
    factory.stop(number)
    factory.start()
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    factory.wait("a report", lambda: factory.run("check").returncode == 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_machines_outlive_the_daemon(make: t.Callable[..., LabFactory], number: int) -> None:
    factory = make()
    factory.start()
    before = factory.wait("two machines", lambda: len(r := factory.running()) == 2 and r)
    restart(factory, number)
    assert {one["Id"] for one in factory.running()} == {one["Id"] for one in before}
    assert [one["State"]["Pid"] for one in factory.running()] == [one["State"]["Pid"] for one in before]
    assert not factory.events("machine_ended", "stray_removed", "unborn_removed")


def test_a_new_program_leaves_machines_alone_and_the_old_daemon_works_until_it_ends(
    make: t.Callable[..., LabFactory],
) -> None:
    """What an upgrade does: the file is replaced while the old daemon runs out of it, then the daemon is restarted."""
    script = (
        "#!/bin/sh\ntrap exit TERM\nwhile ! [ -e $JOBOUTPUTS/enough ]; do sleep 0.1; done\n"
        "echo 200 Success >$JOBOUTPUTS/shutdown_message\n"
    )
    factory = make(script)
    factory.start()
    first, second = factory.wait("two machines", lambda: len(r := factory.running()) == 2 and r)
    # Nothing is where it was in the file, as with other sources.
    content = factory.program.read_bytes()
    line, packed = content.split(b"\n", 1)
    new = factory.program.with_suffix(".new")
    new.write_bytes(line + b"\n" + 12345 * b"#" + packed)
    new.chmod(0o755)
    new.replace(factory.program)
    [outputs] = [one["Source"] for one in first["Mounts"] if one["Destination"].endswith("joboutputs")]
    (Path(outputs) / "enough").touch()
    [end] = ended(factory)
    assert end["message"] == "200 Success"
    factory.wait("another in its place", lambda: len(r := factory.running()) == 2 and r)
    before = {one["Id"] for one in factory.running()}
    assert second["Id"] in before
    assert factory.run("machines").returncode == 0
    restart(factory)
    assert {one["Id"] for one in factory.running()} == before
    assert not factory.events("internal_error", "stray_removed", "unborn_removed")


def test_ends_while_the_daemon_was_away_are_found(make: t.Callable[..., LabFactory]) -> None:
    factory = make("#!/bin/sh\nsleep 2\necho 200 Success >$JOBOUTPUTS/shutdown_message\n", total_processors=1)
    finds_what_ended_meanwhile(factory, signal.SIGKILL)


SENT_TERM, AWAY = "it ended after somebody else had sent it SIGTERM", "it ended while the engine was away"


def test_an_engine_without_live_restore_that_is_killed_takes_its_machines_along(
    make: t.Callable[..., LabFactory],
) -> None:
    """With it they live on: test_factory_engine_away.py."""
    factory = make(total_processors=1)
    engine = factory.lab.engine
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    engine.kill()
    factory.wait("the silence to be noticed", lambda: factory.events("engine_silent"))
    assert not factory.events("machine_ended")
    engine.start()
    end = ended(factory)[0]
    assert (end["machine"], end["code"]) == (before["Config"]["Labels"]["hep.gridbox.machine"], "by_itself")
    factory.wait("the engine's word", lambda: len(factory.events("engine_answers")) == 2)
    # The engine that comes back sends it TERM.
    assert end["reason"] in (SENT_TERM, AWAY)
    record = factory.wait("it to be cleaned away", lambda: (r := factory.records()[0])["cleaned"] and r)
    assert (record["shutdown_message"], record["exit_code"]) == ("100 told", 0)


#: Has no way of its own to end: a signal ends it.
WAITS = "#!/bin/sh\ntouch $JOBOUTPUTS/there\nsleep 3600\n"


def waiting(factory: LabFactory) -> str:
    """The container of its machine, once that is waiting and known to."""
    [machine] = factory.wait("a machine", lambda: [one for one in factory.records() if one["state"] == "running"])
    factory.wait(
        "its script", lambda: list(factory.state.glob(f"machines/*_{machine['uuid'][:8]}/mnt/joboutputs/there"))
    )
    return t.cast(str, machine["container"])


def follows_at_once(factory: LabFactory, *reasons: str) -> None:
    """A machine was killed by somebody else, in its first minute; its machinetype does not back off."""
    [end] = ended(factory)
    assert (end["message"], end["code"]) == ("100 Machine was killed by somebody else", "vanished")
    assert end["reason"] in reasons
    factory.wait("the next one", lambda: len(factory.events("machine_started")) == 2)
    assert "backing off" not in factory.run("explain").stdout
    assert not factory.events("internal_error")


@pytest.mark.parametrize(
    ("command", "signal_name"),
    [(("kill",), "SIGKILL"), (("kill", "--signal", "TERM"), "SIGTERM"), (("stop",), "SIGTERM")],
)
def test_a_machine_that_a_person_kills_is_no_abort(
    make: t.Callable[..., LabFactory], command: tuple[str, ...], signal_name: str
) -> None:
    factory = make(WAITS, total_processors=1, kind={"fizzle_seconds": 600})
    factory.start()
    factory.lab.docker(*command, waiting(factory))
    follows_at_once(factory, f"it ended after somebody else had sent it {signal_name}")


def test_a_message_of_a_machine_that_a_person_stops_counts(make: t.Callable[..., LabFactory]) -> None:
    script = WORKS.replace("100 told", "300 Nothing to do").replace("while", "touch $JOBOUTPUTS/there; while", 1)
    factory = make(script, total_processors=1)
    factory.start()
    factory.lab.docker("stop", waiting(factory))
    [end] = ended(factory)
    assert (end["message"], end["code"]) == ("300 Nothing to do", "by_itself")
    assert end["reason"] == "it ended after somebody else had sent it SIGTERM"


@pytest.mark.parametrize(
    ("number", "too", "reasons"),
    [
        (signal.SIGTERM, False, (SENT_TERM,)),
        # It ends its machine when it is back; what it remembers of that may be heard a moment later than seen.
        (signal.SIGKILL, False, (SENT_TERM, AWAY)),
        (signal.SIGKILL, True, (AWAY,)),
    ],
    ids=["ends", "is-killed", "is-killed-with-its-machine"],
)
def test_a_machine_that_its_engine_takes_along_is_no_abort(
    make: t.Callable[..., LabFactory], number: int, too: bool, reasons: tuple[str, ...]
) -> None:
    factory = make(WAITS, total_processors=1, kind={"fizzle_seconds": 600})
    factory.start()
    waiting(factory)
    [machine] = factory.running()
    factory.lab.engine.kill(number)
    if too:
        os.kill(machine["State"]["Pid"], signal.SIGKILL)
    factory.lab.engine.start()
    follows_at_once(factory, *reasons)


def test_strays_go_and_what_is_not_ours_stays(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.lab.docker(
        "run", "--detach", "--name", "stray_none", "--label", "hep.gridbox.factory=f1.example.org",
        "--label", "hep.gridbox.machine=none", "busybox:test", "sleep", "600",
    )  # fmt: skip
    # What somebody runs from an image that he has committed from a machine has its labels, and is his.
    factory.lab.docker("commit", "stray_none", "site/committed:1")
    factory.lab.docker("run", "--detach", "--name", "look", "site/committed:1", "sleep", "600")
    factory.lab.docker("run", "--detach", "--name", "f1-00.example.org", "busybox:test", "sleep", "600")
    factory.start()
    factory.wait("the stray to go", lambda: not factory.lab.docker("ps", "--quiet", "--filter", "name=stray"))
    factory.wait("a machine", factory.running)
    assert factory.lab.docker("ps", "--quiet", "--filter", "name=^look$")
    factory.lab.docker("rm", "--force", "look")
    factory.lab.docker("rmi", "site/committed:1")
    assert factory.lab.docker("ps", "--quiet", "--filter", "name=^f1-00.example.org$")
    factory.lab.docker("rm", "--force", "f1-00.example.org")


@pytest.mark.parametrize("clean", [True, False], ids=["ended", "killed"])
def test_machines_outlive_a_daemon_that_begins_under_another_name(
    make: t.Callable[..., LabFactory], clean: bool
) -> None:
    """It refuses to: it would take them for removed by somebody else."""
    factory = make(total_processors=1)
    factory.start()
    [machine] = factory.wait("a machine", factory.running)
    factory.stop(signal.SIGTERM if clean else signal.SIGKILL)
    before = factory.records()
    factory.write(name="f2.example.org")
    refused = factory.run("factory")
    assert refused.returncode == 1
    assert refused.stderr.startswith("name: f2.example.org: machines of f1.example.org may run")
    assert '"name": "f1.example.org"' in refused.stderr
    assert factory.records() == before
    factory.write(name="f1.example.org")
    factory.start()
    factory.wait("a look at all", lambda: factory.events("engine_answers"))
    time.sleep(2)
    assert [one["Id"] for one in factory.running()] == [machine["Id"]]


def test_machines_outlive_a_daemon_that_begins_in_another_state_folder(make: t.Callable[..., LabFactory]) -> None:
    is_left_alone_from_another_state_folder(make(total_processors=1))


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


def test_the_site_has_its_way_with_one_machinetype_of_a_pipe(make: t.Callable[..., LabFactory], tmp_path: Path) -> None:
    """Switched off, limited, and switched on again; what is started and what is not is told of all of them."""
    common = {**KIND, "machine_model": "docker"}
    published = [
        {**common, "suffix": "a"},
        {**common, "suffix": "b"},
        {**common, "suffix": "bad", "max_processors": 0},
        {**common, "suffix": "sc", "machine_model": "singularity"},
        {**common, "suffix": "vm", "machine_model": "vm-raw"},
        {**common, "suffix": "far", "root_image": "docker://127.0.0.1:1/far:1"},
    ]
    pipe = tmp_path / "p.pipe"
    pipe.write_text(json.dumps({"machinetypes": published}))
    kinds: dict[str, t.Any] = {"p-a": {"target_share": 0}, "p-b": {"max_wallclock_seconds": 3000}}
    pipes = {"p": {"vacuum_pipe_path": str(pipe), "target_share": 6}}
    factory = make(
        total_processors=1, slots=1, machinetypes={**kinds, "p-typo": {"target_share": 0}}, vacuum_pipes=pipes
    )
    factory.file("p", "run", WORKS)
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    assert before["Config"]["Labels"]["hep.gridbox.machinetype"] == "p-b"
    data = factory.wait("the decision", lambda: json.loads(factory.run("explain", "--json").stdout))
    refusals = {one["machinetype"]: one["refusal"] for one in data["machinetypes"]}
    assert {**refusals, "p-b": None} == {
        "p-a": "no_share", "p-b": None, "p-bad": "dropped", "p-sc": "not_here", "p-vm": "not_here",
        "p-far": "no_image", "p-typo": "not_brought",
    }  # fmt: skip
    text = factory.run("explain").stdout
    assert "  p-sc (share 1): not for this factory: machine_model apptainer, the engine is docker or podman\n" in text
    assert "  p-bad (share 1): dropped: max_processors: got 0, expected a whole number from 1 to 4096\n" in text
    told = json.loads((factory.state / "report.json").read_text())
    assert told["slots"][0]["shutdown_time"] - told["slots"][0]["created"] == 3000
    check = factory.run("check").stdout
    assert "p-bad is dropped" in check and "p-typo is not brought by the vacuum pipe p" in check
    factory.write(machinetypes={"p-b": {"target_share": 0}})
    factory.wait("the change", lambda: "p-b (share 0" in factory.run("explain").stdout)
    factory.lab.docker("kill", "--signal", "TERM", before["Id"])
    [after] = factory.wait("another", lambda: [one for one in factory.running() if one["Id"] != before["Id"]])
    assert after["Config"]["Labels"]["hep.gridbox.machinetype"] == "p-a"
    factory.write(machinetypes={f"p-{one}": {"target_share": 0} for one in ("a", "b", "far")})
    found = factory.wait("red", lambda: "Nothing can be started" in (out := factory.run("check").stdout) and out)
    assert "are 3 without a share, 2 not for this factory, 1 dropped; p-bad is dropped:" in found
    factory.write(draining=True)
    factory.wait("no red", lambda: factory.run("check").returncode == 1)


def test_configuration_is_read_again_and_a_wrong_one_is_told_and_not_used(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.start()
    [before] = factory.wait("a machine", factory.running)
    factory.write(mb_per_processor="much")
    factory.wait("the refusal", lambda: factory.events("configuration_refused"))
    assert "mb_per_processor: got 'much'" in factory.events("configuration_refused")[0]["problem"]
    red = factory.wait("the check to say so", lambda: "mb_per_processor" in (c := factory.run("check")).stdout and c)
    assert red.returncode == 2
    assert red.stdout.startswith("CRITICAL: The configuration is refused"), red.stdout
    assert [one["Id"] for one in factory.running()] == [before["Id"]]
    factory.write(mb_per_processor=64, total_processors=2, slots=2)
    factory.wait("a green check", lambda: factory.run("check").returncode == 0)
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
    rows = [line.split() for line in second.run("machinetypes").stdout.splitlines() if line]
    assert [row[:4] for row in rows] == [["Machinetype", "Factories", "Machines", "Processors"], ["a", "2", "3", "3"]]
    second.stop()
    lost = first.run("machines", "--timeout", "1")
    assert lost.returncode == 3
    assert "f2.example.org" in lost.stdout + lost.stderr


_LISTEN = """
import json, socket, sys
heard = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
heard.bind(("::", 8884))
while True:
    data, source = heard.recvfrom(65536)
    print(json.dumps([source[0], json.loads(data)]), flush=True)
"""


@pytest.fixture()
def monitor(own_lab: Lab, tmp_path: Path) -> t.Iterator[Path]:
    """A monitor on the peer, over both families: the file of what it hears, a line of source and message each."""
    heard = tmp_path / "heard"
    argv = ["nsenter", f"--net=/run/netns/{own_lab.peer}", sys.executable, "-c", _LISTEN]
    with heard.open("wb") as file, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file) as process:
        yield heard
        process.kill()


def test_a_monitor_is_told_of_the_factory_and_of_each_end(make: t.Callable[..., LabFactory], monitor: Path) -> None:
    """Spec 7.5."""
    busy = "#!/bin/sh\nwhile [ ! -e $JOBOUTPUTS/enough ]; do :; done\necho 200 Success >$JOBOUTPUTS/shutdown_message\n"

    def heard(message_type: str, source: str = "") -> list[dict[str, t.Any]]:
        lines = [json.loads(line) for line in monitor.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [one for told_by, one in lines if one["message_type"] == message_type and source in (told_by, "")]

    factory = make(
        busy, total_processors=1, hs06_per_processor=10.0, kind={"accounting_fqan": "/exp/Role=production"},
        vacmon_hostport="10.213.0.9:8884 [fd13:213::9]:8884 nowhere.invalid:8884",
    )  # fmt: skip
    factory.start()
    factory.wait("the machine", factory.running)
    [untold] = factory.wait("what no monitor hears", lambda: factory.events("monitor_not_told"))
    assert untold["monitor"] == "nowhere.invalid:8884" and untold["problem"]
    counts = "gridbox_factory_monitor_datagrams"
    missed = f'{counts}_failed_total{{monitor="nowhere.invalid:8884",reason="unknown_host"}} '
    factory.wait("the metrics", lambda: missed in factory.run("metrics").stdout)
    assert f'{counts}_sent_total{{monitor="[fd13:213::9]:8884"}} ' in factory.run("metrics").stdout
    assert heard("machine_status") == [], "it has not ended"
    # A daemon tells when it begins, and each minute.
    factory.stop()
    factory.start()
    sources = ("::ffff:10.213.0.1", "fd13:213::1")
    factory.wait("a round over both", lambda: all(len(heard("machinetype_status", one)) > 1 for one in sources))
    told = heard("factory_status")[-1]
    running = {key: told[key] for key in ("running_machines", "running_processors", "running_hs06", "max_machines")}
    assert running == {"running_machines": 1, "running_processors": 1, "running_hs06": 10.0, "max_machines": 1}
    told = heard("machinetype_status")[-1]
    assert (told["machinetype"], told["num_machinetypes"], told["running_machines"]) == ("a", 1, 1)
    assert (told["running_hs06"], told["fqan"], told["max_wallclock_seconds"]) == (10.0, "/exp/Role=production", 3600)

    def used() -> list[float]:
        asked = json.loads(factory.run("machines", "--json").stdout)
        return [one["cpu_percentage"] for one in asked[0]["replies"] if one["cpu_percentage"] > 0]

    factory.wait("what it uses to be known", used)
    [outputs] = factory.state.glob("machines/*/mnt/joboutputs")
    (outputs / "enough").touch()
    [end] = ended(factory)
    factory.wait("its end over both", lambda: len(heard("machine_status")) == 2)
    first, second = heard("machine_status")
    assert first == second
    [record] = factory.records()[:1]
    assert {key: first[key] for key in ("machine", "uuid", "machinetype", "state", "shutdown_message")} == {
        "machine": "f1-00.example.org", "uuid": end["machine"], "machinetype": "a", "state": "Shut down",
        "shutdown_message": "200 Success",
    }  # fmt: skip
    times = ("created_time", "started_time", "heartbeat_time", "shutdown_time")
    assert [first[key] for key in times] == [record[key] for key in ("created", "started", "seen", "ended")]
    assert (first["machine_model"], first["num_processors"], first["hs06"]) == ("docker", 1, 10.0)
    assert first["cpu_seconds"] > 0
    assert first["cpu_percentage"] > 0, "what it used last"
    for one in (*heard("factory_status"), *heard("machinetype_status"), first):
        assert (one["cookie"], one["space"], one["factory"]) == ("0", "vac01.example.org", "f1.example.org")
        assert one["daemon_version"] == f"{PRODUCT} factory"
        assert abs(one["time_sent"] - time.time()) < 300


#: Makes socket(AF_INET6, …) fail as on a kernel that was started with ipv6.disable=1, and becomes another command.
_WITHOUT_IPV6 = """
import ctypes, errno, os, platform, struct, sys
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
refuse, allow = 0x00050000 | errno.EAFNOSUPPORT, 0x7FFF0000
rules = [  # load the call's number; is it socket? load its family; is it AF_INET6?
    (0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x15, 0, 1, 10),
    (0x06, 0, 0, refuse), (0x06, 0, 0, allow),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HL", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0):
    raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="system calls have other numbers here")
def test_a_host_whose_kernel_has_no_ipv6_has_a_factory(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.enter = [sys.executable, "-c", _WITHOUT_IPV6]
    factory.start()
    factory.wait("the machine", factory.running)
    assert '"Running"' in factory.run("machines", "--json").stdout
    [told] = factory.events("without_ipv6")
    assert told["problem"] == "Address family not supported by protocol"
    # A port that somebody has is not taken for that.
    second = make(name="f2.example.org", total_processors=1)
    second.enter = factory.enter
    refused = second.run("factory")
    assert refused.returncode == 1
    assert "UDP *:995: Address already in use" in refused.stderr


def test_who_is_not_root_sees_the_space_the_metrics_and_no_secret(make: t.Callable[..., LabFactory]) -> None:
    """Through the report, for the configuration and the key are root's alone."""
    factory = make(
        port=9951, total_processors=1, user_data_options={"token": "s3cret-1"}, metrics_file="/nowhere/gridbox.prom",
        factories=["f1.example.org", {"factory": "f2.example.org", "host": "127.0.0.1", "port": 9952}],
    )  # fmt: skip
    key, metrics = factory.folder / "key", factory.folder / "metrics" / "gridbox.prom"
    key.write_text("s3cret-2" * 8)
    metrics.parent.mkdir()
    for folder in (factory.folder, *factory.folder.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    factory.write(key_file=str(key))
    for path in (key, factory.configuration):
        path.chmod(0o600)
    factory.start()
    factory.wait("a machine", factory.running)
    factory.wait(
        "the check to say so", lambda: "/nowhere/gridbox.prom cannot be written" in factory.run("check").stdout
    )

    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    factory.enter = nobody
    assert "Permission denied" in factory.run("machines").stderr
    state = ["--state-folder", str(factory.state)]
    seen = factory.run(*state, "machines", "--json", "--timeout", "1")
    told = {one["factory"]: one for one in json.loads(seen.stdout)}
    assert (seen.returncode, told["f2.example.org"]["state"]) == (3, "refused")
    [machine] = told["f1.example.org"]["replies"]
    assert (machine["machine"], machine["state"], machine["machinetype"]) == ("f1-00.example.org", "Running", "a")
    for command in (["machinetypes", "f1"], ["factories", "f1"], ["explain"], ["metrics"]):
        shown = factory.run(*state, *command)
        assert shown.returncode == 0, shown.stderr
        assert "s3cret" not in shown.stdout
    assert 'gridbox_factory_machines{machinetype="a",state="running"} 1\n' in shown.stdout
    # By name, as from a host that is no factory.
    named = factory.run("factories", "--space", "vac01.example.org", "f9.example.org:9951", "--timeout", "1")
    assert (named.returncode, named.stderr) == (3, "")
    assert "f9.example.org has no address" in named.stdout
    assert "s3cret" not in (factory.state / "report.json").read_text()

    factory.enter = []
    factory.configuration.write_text(json.dumps({**factory.settings, "metrics_file": str(metrics)}))
    factory.wait("the metrics", metrics.exists)
    assert 'gridbox_factory_machines{machinetype="a",state="running"} 1\n' in metrics.read_text()
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert "s3cret" not in metrics.read_text()


def test_a_second_daemon_in_the_same_folder_is_refused(make: t.Callable[..., LabFactory]) -> None:
    factory = make(total_processors=1)
    factory.start()
    second = factory.run("factory")
    assert second.returncode == 1
    assert "another factory's daemon works in it" in second.stderr

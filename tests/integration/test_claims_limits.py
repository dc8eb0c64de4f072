# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Claim B6 (and A10): services freeze or end with more than two VO-boxes on a host. Which limit is it?

The papers name the open files: 1024 soft, 4096 hard. That limit is each process's own (getrlimit(2)), so the number
of containers cannot reach it. What containers without user namespaces do share is what the kernel counts by user:
inotify instances (fs.inotify.max_user_instances, 128) and processes (RLIMIT_NPROC). Here one to four VO-boxes carry the
same load under the limits of EL7, with the same service account as sites have it; nothing of the machine's own settings
is changed.
"""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.conftest import Lab
from tests.integration.machine_python import ARGUMENTS, PYTHON

Claim = t.Callable[..., None]

#: Accounts that no process of a machine has, so that only these containers count.
ACCOUNT = 61517

#: What EL7 gives a service account: open files, processes of a user (limits.d/20-nproc.conf).
EL7 = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"]
MANAGED = ["--ulimit", "nofile=8192:16384", "--ulimit", "nproc=4096:4096"]

#: Of one VO-box: open files of its largest process, its inotify instances, its threads. Chosen, not measured at a site:
#: open files just within EL7's limit, and so many inotify instances that two VO-boxes fit.
FILES, INOTIFY, THREADS = 900, 45, 200

#: Takes what it is told to, one kind after the other, says what it got, and serves on; a service that is refused ends.
LOAD = """
import ctypes, errno, json, os, sys, threading, time
files, watches, threads = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
got = {"files": 0, "inotify": 0, "threads": 0}
def inotify():
    if libc.inotify_init1(0) < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
def thread():
    threading.Thread(target=time.sleep, args=(9999,), daemon=True).start()
try:
    for kind, number, take in (
        ("inotify", watches, inotify), ("threads", threads, thread),
        ("files", files - watches, lambda: os.open("/dev/null", os.O_RDONLY)),
    ):
        for _ in range(number):
            take()
            got[kind] += 1
except (OSError, RuntimeError) as exc:
    number = getattr(exc, "errno", None) or errno.EAGAIN
    print(json.dumps({"refused": kind, "error": errno.errorcode[number], **got}), flush=True)
    os._exit(1)
print(json.dumps({"refused": None, **got}), flush=True)
while True:
    time.sleep(0.05)
    print("alive", flush=True)
"""


@pytest.fixture()
def load(lab: Lab, tmp_path: Path) -> t.Iterator[t.Callable[..., dict[str, t.Any]]]:
    """Starts one VO-box with a load, and tells what it got."""
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    script.chmod(0o644)
    names: list[str] = []

    def start(
        account: int, limits: list[str], files: int = FILES, inotify: int = INOTIFY, threads: int = THREADS
    ) -> dict[str, t.Any]:
        names.append(f"load{len(names)}")
        lab.docker(
            "run", "--detach", "--name", names[-1], "--network", "none", "--user", str(account), *limits, *ARGUMENTS,
            "--volume", f"{script}:/load.py:ro", "busybox:test", PYTHON, "/load.py",
            str(files), str(inotify), str(threads),
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (said := lab.docker("logs", names[-1]).splitlines()):
            assert time.monotonic() < deadline, lab.engine.docker("logs", names[-1]).stderr
            time.sleep(0.05)
        return {"name": names[-1], **json.loads(said[0])}

    yield start
    lab.docker("rm", "--force", *names)


def _alive(lab: Lab, name: str) -> bool:
    """Whether the service still does something."""
    before = len(lab.docker("logs", name).splitlines())
    deadline = time.monotonic() + 5
    while len(lab.docker("logs", name).splitlines()) <= before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _ended(lab: Lab, name: str) -> str:
    status, code = lab.docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).split()
    return f"{status}:{code}"


def test_b6_more_than_two_voboxes_meet_a_limit_of_the_account_not_of_open_files(
    lab: Lab, load: t.Callable[..., dict[str, t.Any]], claim: Claim
) -> None:
    instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    if instances > 4 * INOTIFY:
        pytest.skip(f"this machine's fs.inotify.max_user_instances is raised to {instances} already")
    expected = instances // INOTIFY + 1  # the first that does not fit

    # One account, as sites have it.
    boxes = [load(ACCOUNT, EL7) for _number in range(4)]
    first = next(number for number, box in enumerate(boxes, 1) if box["refused"])
    assert first == expected
    assert {box["refused"] for box in boxes[: first - 1]} == {None}
    refused = boxes[first - 1]
    assert (refused["refused"], refused["error"]) == ("inotify", "EMFILE")
    assert _ended(lab, refused["name"]) == "exited:1"
    assert all(_alive(lab, box["name"]) for box in boxes[: first - 1])  # those that have theirs do not freeze

    # The control: the same load, each with an account of its own.
    apart = [load(ACCOUNT + 1 + number, EL7) for number in range(4)]
    assert [box["refused"] for box in apart] == [None] * 4

    # Open files do run out, but in one process of one VO-box, at 1024; and not with a limit that is managed.
    single = load(ACCOUNT + 10, EL7, files=3000, inotify=0, threads=0)
    assert (single["refused"], single["error"]) == ("files", "EMFILE")
    assert 1000 < single["files"] < 1024
    assert load(ACCOUNT + 10, MANAGED, files=3000, inotify=0, threads=0)["refused"] is None

    claim(
        "B6",
        first_limit="inotify_instances_of_the_account",
        limit=instances,
        each_vobox_takes=INOTIFY,
        refused_at_k=first,
        error=refused["error"],
        outcome="the new one exits, the others go on",
        own_accounts_at_k4="all run",
        nofile_1024_refuses_at=f"k=1,{single['files']} files in one process",
        more_than_two_fail_from=f"{instances // 3 + 1} instances each",
    )

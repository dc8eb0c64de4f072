# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How machines end on a real engine, by every code that there is (spec 4.7), and what follows from it."""

from __future__ import annotations

import calendar
import re
import time
import typing as t

from tests.lab.factory import LabFactory

Make = t.Callable[..., LabFactory]

#: By machinetype, what pilots write. From 300 on it is an abort.
SAID = {
    "said100": "100 No time left for slot",
    "said200": "200 Success",
    "said300": "300 Nothing to do",
    "said400": "400 Site is banned",
    "said500": "500 Certificate/proxy not acceptable",
    "said600": "600 Cannot match jobs with this pilot version",
    "said700": "700 Failed, probably JobAgent or Application problem",
    "said800": "800 No such code is named",
    "said999": "999 Nor is this one",
}
WORKED = ("said100", "said200")

#: Seconds that a machine lived, where that depends on how busy the host of the tests is.
ANY = "some"

#: Reads until a line ends, which none does; after the engine has begun to watch (see mend.ended).
MEMORY = "sleep 2; tail /dev/zero"


def test_what_a_machine_says_of_its_end_counts_for_its_machinetype(make_factory: Make) -> None:
    kinds: dict[str, dict[str, t.Any]] = {
        name: {"script": f"echo {text} >$JOBOUTPUTS/shutdown_message", "fizzle_seconds": 60}
        for name, text in SAID.items()
    }
    kinds["memory"] = {"script": MEMORY, "fizzle_seconds": 60}
    # The container's init starts, and says that the program is not there: a machine, with an end of its own.
    kinds["command"] = {"script": "", "fizzle_seconds": 60, "container_command": ["/no/such/program"]}
    kinds["soon"] = {**kinds["said300"], "backoff_seconds": 4}
    expected = {**SAID, "memory": "700 Memory limit reached", "soon": SAID["said300"]}
    expected["command"] = f"300 Ended after {ANY} s without a message, fizzle_seconds is 60"
    factory = make_factory(kinds, total_processors=len(kinds), slots=len(kinds))
    factory.start()

    def ends(name: str) -> list[dict[str, t.Any]]:
        return [one for one in factory.events("machine_ended") if one["machinetype"] == name]

    def made(name: str) -> list[int]:
        return [one["created"] for one in factory.records() if one["machinetype"] == name]

    def told(name: str) -> int:
        """When the factory noticed the first end."""
        return calendar.timegm(time.strptime(ends(name)[0]["time"][:19], "%Y-%m-%dT%H:%M:%S"))

    factory.wait("each to end", lambda: all(ends(name) for name in kinds))
    factory.wait("those that worked to be followed", lambda: all(len(ends(name)) >= 3 for name in WORKED))
    later = factory.wait("the one that waits for seconds", lambda: [at for at in made("soon") if at > told("soon")])
    aborted = [name for name in kinds if name not in (*WORKED, "soon")]

    def all_explained() -> str:
        """What is explained is the last report's, which may be older than the last end."""
        text = factory.run("explain").stdout
        found = [re.search(rf"^ *{name} \(share.* backing off ", text, re.MULTILINE) for name in aborted]
        return text if all(found) else ""

    explained = factory.wait("all explained", all_explained)
    factory.stop()

    for name, message in expected.items():
        assert {(re.sub("after [0-9]+ s", f"after {ANY} s", one["message"]), one["code"]) for one in ends(name)} == {
            (message, "by_itself")
        }, name
        if name in aborted:
            assert max(made(name)) <= told(name), f"{name} was started again after an abort"
            assert f'after "{ends(name)[-1]["message"]}" on {factory.name}' in _line(explained, name)
    first = min(one["ended"] for one in factory.records() if one["machinetype"] == "soon" and one["ended"])
    assert min(later) > first + 4
    # One that was started beside the first, in a slot that had been free again, may run yet.
    over = [record for record in factory.records() if record["ended"]]
    reasons = {record["end_reason"] for record in over if record["machinetype"] == "memory"}
    assert reasons == {"it ended itself after it had reached its memory limit"}
    assert {record["exit_code"] for record in over if record["machinetype"] == "command"} == {127}
    output = next(factory.state.glob("machines/*_command_*/output.log")).read_text()
    assert "/no/such/program failed: No such file or directory" in output
    assert not factory.events("machine_killed", "machine_told_to_end", "internal_error")


def test_a_heartbeat_that_is_missing_or_old_ends_a_machine_and_is_an_abort(make_factory: Make) -> None:
    wait = "while :; do sleep 0.1; done"
    alive = {"heartbeat_file": "alive", "fizzle_seconds": 2}
    kinds: dict[str, dict[str, t.Any]] = {
        "missing": {**alive, "script": wait},
        "missing-told": {
            **alive, "script": f"trap 'echo 100 told >$JOBOUTPUTS/shutdown_message; exit' TERM; {wait}",
        },
        "old": {**alive, "script": f"touch $JOBOUTPUTS/alive; {wait}", "heartbeat_seconds": 4},
        "once": {**alive, "script": f"touch $JOBOUTPUTS/alive; {wait}"},  # 0 seconds: it has to be there, no more
        "well": {
            **alive, "script": "while :; do touch $JOBOUTPUTS/alive; sleep 0.1; done", "heartbeat_seconds": 4,
        },
    }  # fmt: skip
    factory = make_factory(kinds, total_processors=len(kinds), slots=len(kinds))
    factory.start()

    def by_kind(event: str) -> dict[str, dict[str, t.Any]]:
        """The first of each machinetype."""
        return {one["machinetype"]: one for one in reversed(factory.events(event))}

    factory.wait("one of each", lambda: len(by_kind("machine_started")) == len(kinds))
    first = {name: one["machine"] for name, one in by_kind("machine_started").items()}
    ends = factory.wait("three to end", lambda: len(e := by_kind("machine_ended")) == 3 and e)
    missing = "heartbeat file alive is not there [0-9]+ s after the start \\(fizzle_seconds 2\\)"
    for name, code, message, reason in (
        ("missing", "heartbeat_missing", "700 Heartbeat file not created", missing),
        # What it says of its end itself is taken for it, and this is no abort.
        ("missing-told", "heartbeat_missing", "100 told", missing),
        ("old", "heartbeat_old", "700 Heartbeat file not updated",
         "heartbeat file alive is [0-9]+ s old \\(heartbeat_seconds 4\\)"),
    ):  # fmt: skip
        assert (ends[name]["code"], ends[name]["message"]) == (code, message)
        assert re.fullmatch(reason, ends[name]["reason"])
        assert ends[name]["seconds"] >= 2
    assert ends["old"]["seconds"] >= 4

    explained = factory.wait(
        "two to back off", lambda: (e := factory.run("explain").stdout).count("backing") == 2 and e
    )
    for name in ("missing", "old"):
        assert f'after "{ends[name]["message"]}" on {factory.name}' in _line(explained, name)
    factory.wait(
        "the other one to be started again",
        lambda: [one["machinetype"] for one in factory.events("machine_started")].count("missing-told") >= 2,
    )
    running = {one["Config"]["Labels"]["hep.gridbox.machine"] for one in factory.running()}
    assert {first["once"], first["well"]} <= running
    assert not factory.events("machine_killed"), "TERM was enough"


def _line(explained: str, name: str) -> str:
    """What is said of a machinetype."""
    [line] = [line for line in explained.splitlines() if line.strip().startswith(f"{name} (share")]
    return line

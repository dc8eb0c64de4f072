# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the reconciler decides: tables of a VO-box, what was tried, and what follows."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.reconcile.decide import (
    Box,
    Cvmfs,
    Finding,
    Network,
    Past,
    Rules,
    decide,
    explain,
    well_again,
)

ERROR = "the requested parent interface site0 was not found on the Docker host"
DROPPED = 'failed to create endpoint vb on network site: network id "b24803ce3199" not found'

#: One that the engine has given up on, with all that it needs.
DOWN = Box("vb", "id", "exited", "always", ERROR, networks=(Network("site", True, "site0", "up"),))
RUNNING = replace(DOWN, status="running", error="")


UNTRIED, COMMON = Past(), Rules()


def found(box: Box, past: Past = UNTRIED, rules: Rules = COMMON, now: float = 1000, patient: bool = True) -> Finding:
    return decide(box, past, rules, now, patient)


@pytest.mark.parametrize(
    ("box", "action", "well"),
    [
        (RUNNING, "none", True),
        (replace(RUNNING, health="healthy"), "none", True),
        (replace(RUNNING, health="starting"), "none", True),
        (DOWN, "start", False),
        (replace(DOWN, policy="unless-stopped"), "start", False),
        (replace(DOWN, policy="on-failure"), "start", False),
        (replace(DOWN, status="created"), "start", False),
        (replace(DOWN, error=DROPPED), "start", False),  # tried, for the engine may have been restarted meanwhile
        (replace(DOWN, error=""), "none", True),  # stopped by somebody, or ended by itself
        (replace(DOWN, policy="no"), "none", True),
        (replace(DOWN, error="", cut_short=True), "start", False),
        (replace(DOWN, error="", cut_short=True, policy="no"), "none", True),
        (replace(DOWN, status="created", error=""), "none", True),
        (replace(DOWN, status="restarting"), "none", True),
        (replace(DOWN, status="removing"), "none", True),
        (replace(DOWN, status="paused"), "leave", True),
    ],
)
def test_what_the_engine_gave_up_on_is_started_and_nothing_else(box: Box, action: str, well: bool) -> None:
    assert (found(box).action, found(box).well) == (action, well)


NEXT = ("vb.next",)
#: As a power cut in the midst of a swap leaves it: the old container was stopped by request, or it has no network.
CUT = replace(DOWN, error="", leftovers=NEXT)


@pytest.mark.parametrize(
    ("box", "action", "well"),
    [
        (CUT, "recover", False),
        (replace(CUT, policy="no"), "recover", False),
        (replace(CUT, status="running"), "recover", False),
        (replace(CUT, status="running", health="unhealthy"), "recover", False),
        (replace(CUT, status="restarting"), "recover", False),
        (replace(CUT, status="gone", networks=()), "recover", False),  # it will say what is wrong
        (replace(CUT, error=ERROR), "recover", False),
        (replace(CUT, leftovers=("vb.stand-in",)), "recover", False),
        (replace(CUT, status="paused"), "leave", True),
        (replace(CUT, status="removing"), "none", True),
        # The new one has proved well: only the replaced one is still to be stopped, or removed.
        (replace(RUNNING, unretired="vb.previous"), "recover", False),
        (replace(RUNNING, unretired="vb.previous", health="unhealthy"), "recover", False),
        # Somebody may have gone back to the replaced one by hand.
        (replace(DOWN, unretired="vb.previous", error=""), "none", True),
        (replace(DOWN, unretired="vb.previous"), "start", False),
    ],
)
def test_a_swap_that_was_interrupted_is_ended(box: Box, action: str, well: bool) -> None:
    assert (found(box).action, found(box).well) == (action, well)


def test_it_names_what_the_swap_has_left() -> None:
    left = "a swap that was interrupted has left"
    assert found(CUT).reason == f"{left} vb.next"
    assert found(replace(CUT, leftovers=("vb.next", "vb.stand-in"))).reason == f"{left} vb.next and vb.stand-in"
    assert found(replace(RUNNING, unretired="vb.previous")).reason == f"{left} vb.previous"


@pytest.mark.parametrize("status", ["exited", "running"])
def test_what_is_taken_back_needs_its_link(status: str) -> None:
    finding = found(replace(CUT, status=status, networks=(Network("site", True, "site0", "missing"),)))
    assert (finding.action, finding.well) == ("wait", False)
    assert finding.reason == (
        "it waits for the link site0, which is not there; a swap that was interrupted has left vb.next"
    )


def test_a_restart_that_was_cut_short_is_told_as_the_reason() -> None:
    cut_short = replace(DOWN, error="", cut_short=True)
    assert found(cut_short).reason == "a restart of it was cut short"
    assert found(cut_short, Past(1, 1000)).reason.startswith("a restart of it was cut short; next try in 60 s")
    assert found(replace(DOWN, cut_short=True)).reason.endswith(ERROR)


def test_what_is_to_be_left_is_left() -> None:
    assert found(DOWN, rules=Rules(frozenset({"vb"}))) == Finding("vb", "none", well=True)
    assert found(CUT, rules=Rules(frozenset({"vb"}))) == Finding("vb", "none", well=True)
    assert found(DOWN, rules=Rules(frozenset({"other"}))).action == "start"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"networks": (Network("site", True, "site0", "missing"),)}, "the link site0, which is not there"),
        ({"networks": (Network("site", True, "site0", "down"),)}, "the link site0, which is down"),
        ({"networks": (Network("site", False),)}, "the network site, which the engine does not have: run .*"),
        ({"lacking": ("/etc/hostcert.pem",)}, "/etc/hostcert.pem, which is not there"),
        ({"cvmfs": Cvmfs("/cvmfs", True, ("/cvmfs",))}, "/cvmfs, which is not mounted"),
        ({"cvmfs": Cvmfs("/cvmfs", False, ("/cvmfs/a.ch",))}, "/cvmfs/a.ch, which is not mounted"),
    ],
)
@pytest.mark.parametrize("patient", [True, False])
def test_what_it_needs_is_waited_for_and_named(changes: dict[str, t.Any], reason: str, patient: bool) -> None:
    finding = found(replace(DOWN, **changes), patient=patient)
    assert finding.action == "wait" and not finding.well
    assert re.fullmatch(f"it waits for {reason}", finding.reason)


def test_a_repository_that_comes_in_later_is_waited_for_as_long_as_there_is_time() -> None:
    box = replace(DOWN, cvmfs=Cvmfs("/cvmfs", True, ("/cvmfs/a.ch",)))
    assert found(box, patient=True).action == "wait"
    finding = found(box, patient=False)
    assert finding.action == "start"
    assert finding.reason.endswith("; without /cvmfs/a.ch, which it gets when mounted")


def test_a_network_on_no_link_needs_none() -> None:
    assert found(replace(DOWN, networks=(Network("bridge"),))).action == "start"


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 60), (2, 120), (3, 240), (5, 960), (6, 1800), (40, 1800)]
)  # fmt: skip
def test_the_pauses_grow_to_half_an_hour(tries: int, seconds: int) -> None:
    past = Past(tries, 1000)
    assert found(DOWN, past, now=1000 + seconds - 1).action == "later"
    assert found(DOWN, past, now=1000 + seconds).action == "start"
    assert found(CUT, past, now=1000 + seconds - 1).action == "later"
    assert found(CUT, past, now=1000 + seconds).action == "recover"
    ill = replace(RUNNING, health="unhealthy")
    assert found(ill, past, Rules(restart_unhealthy=True), 1000 + seconds - 1).action == "later"
    assert found(ill, past, Rules(restart_unhealthy=True), 1000 + seconds).action == "restart"


def test_an_unhealthy_one_is_restarted_only_if_that_is_wished() -> None:
    ill = replace(RUNNING, health="unhealthy")
    assert (found(ill).action, found(ill).well) == ("leave", True)
    assert found(ill, rules=Rules(restart_unhealthy=True)).action == "restart"


@pytest.mark.parametrize(
    ("box", "again"),
    [
        (RUNNING, True), (replace(RUNNING, health="healthy"), True), (replace(RUNNING, health="starting"), False),
        (replace(RUNNING, health="unhealthy"), False), (DOWN, False),
        (replace(RUNNING, leftovers=NEXT), False), (replace(RUNNING, unretired="vb.previous"), False),
    ],
)  # fmt: skip
def test_tries_count_until_it_is_well(box: Box, again: bool) -> None:
    assert well_again(box) is again


def test_a_dropped_network_is_explained() -> None:
    assert explain(f"{ERROR}\n") == ERROR
    assert "The engine dropped the network site" in explain(DROPPED)
    assert "systemctl restart docker" in explain(DROPPED)

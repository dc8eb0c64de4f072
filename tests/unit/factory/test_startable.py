# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that a factory knows can be started, or is named with why not."""

from __future__ import annotations

import json
import random
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue, PipeState
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Override
from ansible_collections.hep.gridbox.plugins.module_utils.factory.cvmfs_alive import Finding
from ansible_collections.hep.gridbox.plugins.module_utils.factory.startable import startable
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.decision import decide
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype_keys import Problem
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import parse
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.situation import Forced, HostLoad, PeerUsage
from tests.unit.factory.told import configuration

KIND = Machinetype("lhcb-a", 2.0, root_image="image:1")
CVMFS = {"here.cern.ch": Finding(True), "away.cern.ch": Finding(False, "It hangs.")}
MODEL = "not for this factory: machine_model apptainer, the engine is"


def found(
    kind: Machinetype, engine: str = "docker", ordered: str = "", missing: t.Optional[str] = None
) -> tuple[str, str]:
    """Code and sentence of why no machines can be made of a machinetype; empty if they can."""
    made = configuration(engine=engine)
    settings = replace(made.settings, forced={"slot": Forced(ordered)} if ordered else {})
    images = {} if missing is None else {kind.root_image: missing}
    can, cannot = startable(Catalogue((kind,)), made, settings, CVMFS, images)
    assert [one.name for one in can] + [one.machinetype for one in cannot] == [kind.name]
    return (cannot[0].refusal.code, cannot[0].text) if cannot else ("", "")


@pytest.mark.parametrize(
    ("changes", "situation", "code", "text"),
    [
        ({}, {}, "", ""),
        ({"cvmfs_repositories": ("here.cern.ch",)}, {}, "", ""),
        ({"target_share": 0.0}, {}, "", ""),
        ({"machine_model": "apptainer"}, {"engine": "apptainer"}, "", ""),
        ({"machine_model": "apptainer"}, {}, "not_here", f"lhcb-a (share 2): {MODEL} docker"),
        ({"machine_model": "apptainer"}, {"engine": "auto"}, "not_here", f"lhcb-a (share 2): {MODEL} docker or podman"),
        ({"machine_model": "apptainer", "target_share": 0.0}, {}, "not_here", f"lhcb-a (share 0): {MODEL} docker"),
        ({}, {"missing": ""}, "no_image", "lhcb-a (share 2): not now: its image is not here yet"),
        ({}, {"missing": "No route."}, "no_image", "lhcb-a (share 2): not now: its image is not here yet: No route"),
        ({"target_share": 0.0}, {"missing": ""}, "no_share", "lhcb-a (share 0): no share: its target_share is 0"),
        (
            {"target_share": 0.0},
            {"missing": "", "ordered": "lhcb-a"},
            "no_image",
            "lhcb-a (share 0): not now: its image is not here yet",
        ),
        (
            {"cvmfs_repositories": ("here.cern.ch", "away.cern.ch")},
            {},
            "no_repository",
            "lhcb-a (share 2): not now: the CVMFS repository away.cern.ch does not answer: It hangs",
        ),
        (
            {"cvmfs_repositories": ("new.cern.ch",)},
            {"missing": ""},
            "no_repository",
            "lhcb-a (share 2): not now: nobody has looked into the CVMFS repository new.cern.ch yet",
        ),
    ],
)
def test_why_no_machines_can_be_made(
    changes: dict[str, t.Any], situation: dict[str, t.Any], code: str, text: str
) -> None:
    assert found(replace(KIND, **changes), **situation) == (code, text)


def test_all_that_stands_in_pipes_and_configuration_is_named_and_the_decision_tells_it() -> None:
    objects = [
        {"suffix": "vm", "target_share": 1},
        {
            "suffix": "bad",
            "target_share": 1,
            "machine_model": "docker",
            "root_image": "docker://a:1",
            "user_data": "../u",
        },
        {"target_share": 2},
        7,
    ]
    pipe = parse(json.dumps({"machinetypes": objects}).encode(), Section("lhcb", 4.0))
    lacks = (Problem("root_image", "", "an image"),)
    overrides = (
        Override("lhcb-typo", "lhcb", {"target_share": 0.0}, lacks),
        Override("lhcb-bad", "lhcb", {}, lacks),
        Override("new-a", "new", {}, lacks),
    )
    made = replace(configuration(), overrides=overrides)
    known = Catalogue((KIND,), {"lhcb": PipeState(pipe, 1.0), "new": PipeState()}, overrides[:1])
    can, cannot = startable(known, made, made.settings, {}, {})
    decision = decide(made.settings, can, [], [], HostLoad(8), 1_000, random.Random(1).random, cannot)
    told = {one["machinetype"]: (one["refusal"], one["target_share"]) for one in decision.as_data()["machinetypes"]}
    assert told == {
        "lhcb-a": (None, 2.0),
        "lhcb-bad": ("dropped", 1.0),
        "lhcb-typo": ("not_brought", 0.0),
        "lhcb-vm": ("not_here", 1.0),
        "lhcb machinetypes[2]": ("dropped", 2.0),
        "lhcb machinetypes[3]": ("dropped", None),
        "new-a": ("pipe_unread", None),
    }
    assert decision.start is not None and decision.start.machinetype == "lhcb-a"
    text = "\n".join(decision.reasons)
    assert (
        "lhcb-vm (share 1): not for this factory: cernvm3, which is what no machine_model means, is a virtual" in text
    )
    assert "lhcb-bad (share 1): dropped: user_data: got '../u', expected " in text
    assert (
        "lhcb-typo (share 0): not brought by the vacuum pipe lhcb, and machinetypes.lhcb-typo is none by itself" in text
    )
    assert "new-a: not now: its vacuum pipe new has never been read" in text


def test_what_cannot_be_made_here_counts_in_its_groups_sums() -> None:
    """Three of one FQAN: another engine's, one whose repository does not answer, and one that can be made."""
    made = configuration()
    kinds = (
        replace(KIND, accounting_fqan="/lhcb"),
        replace(KIND, name="lhcb-b", target_share=3.0, accounting_fqan="/lhcb", machine_model="apptainer"),
        replace(KIND, name="lhcb-c", target_share=5.0, accounting_fqan="/lhcb", cvmfs_repositories=("away.cern.ch",)),
        replace(KIND, name="lhcb-d", target_share=7.0, cvmfs_repositories=("away.cern.ch",)),
    )
    can, cannot = startable(Catalogue(kinds), made, made.settings, CVMFS, {})
    peers = [PeerUsage("other", "lhcb-b", 30.0), PeerUsage("other", "lhcb-c", 20.0), PeerUsage("other", "lhcb-d", 9.0)]
    decision = decide(made.settings, can, [], peers, HostLoad(8), 1_000, random.Random(1).random, cannot)
    [candidate] = decision.candidates
    assert (candidate.standing.group_usage, candidate.standing.group_share) == (50.0, 10.0)
    assert "group /lhcb with share 10, usage 50, score 5" in candidate.text


def test_an_order_says_why_its_machinetype_cannot_be_started() -> None:
    made = configuration()
    slot = made.settings.slots[0]
    settings = replace(made.settings, forced={slot: Forced(KIND.name)})
    can, cannot = startable(Catalogue((KIND,)), made, settings, {}, {KIND.root_image: "No route."})
    decision = decide(settings, can, [], [], HostLoad(8), 1_000, random.Random(1).random, cannot)
    [(waiting, why)] = decision.waiting
    assert (waiting, why.code) == (slot, "not_startable")
    assert why.text == "lhcb-a cannot be started here: not now: its image is not here yet: No route"

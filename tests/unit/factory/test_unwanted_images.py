# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.catalogue import Catalogue, PipeState, read
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PipeSource
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import MachineEngine
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import Pull, PulledImage, PulledImages
from ansible_collections.hep.gridbox.plugins.module_utils.factory.unwanted_images import (
    DAY,
    Seen,
    Wanted,
    name_of,
    next_to_go,
    refreshed,
    remove,
    wanted,
)
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.pipe import Pipe
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from tests.unit.factory.test_mend import LIVE
from tests.unit.factory.told import configuration

NOW, ENGINE, REF = 100 * DAY, "unix:///e", "r/pilot:1"
OLD = PulledImage(ENGINE, REF, "sha256:a", NOW - 7 * DAY)
HERE = Seen(ENGINE, {"sha256:a": [REF]}, {REF: "sha256:a"})
NOBODY = Wanted()
#: The tag has moved to an image that the factory has pulled as well.
MOVED = Seen(ENGINE, {"sha256:a": [], "sha256:b": [REF]}, {REF: "sha256:b"})


def goes(
    *kept: PulledImage, seen: Seen = HERE, wanted: t.Optional[Wanted] = NOBODY, days: int = 7, now: int = NOW
) -> t.Optional[str]:
    """By what the next image is removed, as the daemon finds out."""
    after = refreshed(kept, seen, wanted, now)
    image = next_to_go(after, seen, wanted, now, days)
    return name_of(image, seen) if image is not None else None


def test_what_nobody_has_wanted_for_its_days_goes() -> None:
    assert goes(OLD) == REF
    assert goes(OLD, now=NOW - 1) is None
    assert goes(OLD, days=8) is None
    assert goes(OLD, days=0) is None


@pytest.mark.parametrize(
    "by",
    [
        Wanted(machinetypes=frozenset([REF])),
        Wanted(machines=frozenset([REF])),
        None,  # nobody can tell
    ],
)
def test_what_is_wanted_stays_and_its_days_begin_again(by: t.Optional[Wanted]) -> None:
    assert goes(OLD, wanted=by) is None
    assert refreshed((OLD,), HERE, by, NOW) == (replace(OLD, wanted=NOW),)


def test_an_image_that_a_machinetype_wants_by_another_name_stays() -> None:
    seen = Seen(ENGINE, HERE.tags, {REF: "sha256:a", "r/pilot@sha256:d": "sha256:a"})
    assert goes(OLD, seen=seen, wanted=Wanted(frozenset(["r/pilot@sha256:d"]))) is None


def test_what_lost_its_tag_goes_by_its_id_unless_a_machine_was_made_of_it() -> None:
    new = PulledImage(ENGINE, REF, "sha256:b", NOW)
    by = Wanted(machinetypes=frozenset([REF]))
    assert goes(OLD, new, seen=MOVED, wanted=by) == "sha256:a"
    assert goes(OLD, new, seen=MOVED, wanted=replace(by, machines=frozenset([REF]))) is None


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        # Somebody has tagged it too: the reference goes, and what it names stays by the other tag.
        (Seen(ENGINE, {"sha256:a": [REF, "site/mine:1"]}, {REF: "sha256:a"}), REF),
        # The reference is another image, which the factory did not pull: neither goes, as others have tagged them.
        (Seen(ENGINE, {"sha256:a": ["site/mine:1"], "sha256:x": [REF]}, {REF: "sha256:x"}), None),
        (Seen(ENGINE, {"sha256:x": [REF]}, {REF: "sha256:x"}), None),
        (Seen(ENGINE, {"sha256:a": ["site/mine:1"]}, {REF: None}), None),
        # The same image in another engine.
        (Seen("unix:///p", {"sha256:a": [REF]}, {REF: "sha256:a"}), None),
    ],
)
def test_what_is_others_stays(seen: Seen, expected: t.Optional[str]) -> None:
    assert goes(OLD, seen=seen) == expected


def test_what_others_have_removed_is_forgotten_and_what_another_engine_has_is_not() -> None:
    away = replace(OLD, engine="unix:///p")
    assert refreshed((OLD, away), Seen(ENGINE, {}, {}), Wanted(), NOW) == (away,)


def test_what_the_engine_has_refused_is_tried_again_another_day() -> None:
    refused = replace(OLD, tried=NOW)
    assert goes(refused) is None
    assert goes(refused, now=NOW + DAY - 1) is None
    assert goes(refused, now=NOW + DAY) == REF
    other = PulledImage(ENGINE, "r/b:1", "sha256:b", NOW - 7 * DAY)
    seen = Seen(ENGINE, {"sha256:a": [REF], "sha256:b": ["r/b:1"]}, {REF: "sha256:a", "r/b:1": "sha256:b"})
    assert goes(refused, other, seen=seen) == "r/b:1"


def test_the_longest_unwanted_goes_first() -> None:
    other = PulledImage(ENGINE, "r/b:1", "sha256:b", NOW - 8 * DAY)
    seen = Seen(ENGINE, {"sha256:a": [REF], "sha256:b": ["r/b:1"]}, {REF: "sha256:a", "r/b:1": "sha256:b"})
    assert goes(OLD, other, seen=seen) == "r/b:1"


def test_a_clock_that_is_far_behind_after_a_boot_makes_no_image_older() -> None:
    assert goes(OLD, now=DAY) is None
    assert refreshed((OLD,), HERE, Wanted(), DAY) == (OLD,)


# ---- who wants what --------------------------------------------------------------------------------------------------

KIND = Machinetype("exp-a", root_image=REF)
SOURCE = PipeSource(Section("exp"), "https://pipes.example.org/exp.pipe")
READ = PipeState(t.cast(Pipe, object()), 1.0)


@pytest.mark.parametrize(
    ("pipes", "expected"),
    [
        ({"exp": READ}, True),
        # Its source is down, and the last good copy is used.
        ({"exp": replace(READ, problem="it is down")}, True),
        # It has been down since the daemon was started, and there is no copy.
        ({"exp": PipeState(None, None, "it is down")}, False),
        # It has just come into the configuration.
        ({}, False),
    ],
)
def test_a_pipe_that_was_never_read_makes_nothing_unwanted(
    pipes: t.Mapping[str, PipeState], expected: bool
) -> None:  # fmt: skip
    found = wanted(configuration(pipes=(SOURCE,)), Catalogue((KIND,), pipes), [])
    assert found == (Wanted(frozenset([REF])) if expected else None)
    seen = Seen(ENGINE, {"sha256:a": [REF], "sha256:b": ["r/b:1"]}, {REF: "sha256:a", "r/b:1": "sha256:b"})
    other = PulledImage(ENGINE, "r/b:1", "sha256:b", 1)
    assert goes(OLD, other, seen=seen, wanted=found) == ("r/b:1" if expected else None)


def test_a_pipe_that_cannot_be_read_says_what_it_said_last(tmp_path: Path) -> None:
    path = tmp_path / "exp.pipe"
    made = configuration(pipes=(PipeSource(Section("exp", 1.0), path=str(path)),), state_folder=str(tmp_path))
    first = read(made, {})
    assert first.pipes["exp"].problem and wanted(made, first, []) is None
    kind = {"suffix": "a", "machine_model": "docker", "root_image": f"docker://{REF}", "user_data": "run"}
    path.write_text(json.dumps({"machinetypes": [{**kind, "target_share": 1}]}))
    second = read(made, first.pipes)
    assert wanted(made, second, []) == Wanted(frozenset([REF]))
    path.write_text("<html>")
    third = read(made, second.pipes)
    assert third.pipes["exp"].problem and wanted(made, third, []) == Wanted(frozenset([REF]))


def test_machinetypes_without_a_share_and_machines_that_are_not_cleaned_away_want_theirs() -> None:
    ended = replace(LIVE, state=ENDED, root_image="r/ended:1")
    cleaned = replace(ended, root_image="r/cleaned:1", cleaned=True)
    made = configuration(pipes=(), machinetypes=(Machinetype("own", root_image="r/own:1"),))
    assert wanted(made, Catalogue((KIND,)), [LIVE, ended, cleaned]) == Wanted(
        frozenset([REF, "r/own:1"]), frozenset([LIVE.root_image, "r/ended:1"])
    )


# ---- the engine ------------------------------------------------------------------------------------------------------


class Refusing(MachineEngine):
    """An engine that answers a removal in one way."""

    def __init__(self, problem: t.Optional[EngineError]) -> None:
        super().__init__(ENGINE, "f1.example.org")
        self.problem, self.asked = problem, t.cast("list[str]", [])

    def remove_image(self, name: str) -> None:
        self.asked.append(name)
        if self.problem is not None:
            raise self.problem


@pytest.mark.parametrize(
    ("problem", "kept"),
    [
        (None, ()),
        (EngineError("Removing image", "a container uses it", 409), (replace(OLD, wanted=1, tried=NOW),)),
        (EngineError("Removing image", "no answer"), (replace(OLD, wanted=1),)),
    ],
)
def test_what_becomes_of_it_is_written_down(
    problem: t.Optional[EngineError], kept: tuple[PulledImage, ...], tmp_path: Path
) -> None:
    images, engine = PulledImages(str(tmp_path)), Refusing(problem)
    images.note(Pull(ENGINE, REF, None, ()), "sha256:a", 1)
    if problem is not None and problem.status is None:
        with pytest.raises(EngineError):
            remove(engine, images, OLD, REF, NOW)
    else:
        assert bool(remove(engine, images, OLD, REF, NOW)) == bool(problem)
    assert engine.asked == [REF]
    assert images.load() == kept

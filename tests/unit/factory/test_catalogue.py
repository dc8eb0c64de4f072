# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's pipes, of servers that it trusts."""

from __future__ import annotations

import json
import threading
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import Configuration, PipeSource, parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.user_data_source import folder_of
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.told import configuration
from tests.unit.vacuum.web_server import Web, make_ca, serving


def test_a_pipes_server_is_trusted_by_the_authority_that_the_operator_names(tmp_path: Path) -> None:
    authority, certificate = make_ca(tmp_path)
    with serving(Web(b'{"machinetypes": []}'), certificate) as web:
        made = configuration(state_folder=str(tmp_path), pipes=(PipeSource(Section("lhcb"), web.url),))
        refused = catalogue.read(made, {}).pipes["lhcb"]
        assert refused.pipe is None and "certificate verify failed" in refused.problem
        trusting = configuration(state_folder=str(tmp_path), pipes=made.pipes, ca_path=str(authority))
        read = catalogue.read(trusting, {}).pipes["lhcb"]
        assert read.pipe is not None and not read.problem


def test_sources_that_do_not_answer_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has 30 s. Nothing is looked after before all have been read for the first time."""
    at_once = threading.Barrier(5)

    def down(*_given: object, **_more: object) -> t.NoReturn:
        at_once.wait(10)
        raise GridboxError("it is down")

    monkeypatch.setattr(catalogue, "from_url", down)
    pipes = tuple(PipeSource(Section(f"p{number}"), "https://pipes.example.org/") for number in range(5))
    found = catalogue.read(configuration(state_folder=str(tmp_path), pipes=pipes), {})
    assert [(prefix, one.problem) for prefix, one in found.pipes.items()] == [
        (f"p{number}", "it is down") for number in range(5)
    ]


def test_the_journal_is_told_of_a_pipe_when_something_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    made = configuration(state_folder=str(tmp_path), pipes=(PipeSource(Section("p", 2.0), path=str(path)),))

    def read(before: t.Mapping[str, catalogue.PipeState]) -> tuple[t.Any, list[tuple[str, t.Any]]]:
        found = catalogue.read(made, before).pipes
        return found, [(event, facts.get("ok")) for event, facts in catalogue.news(before, found)]

    found, told = read({})
    assert told == [("pipe", False)]
    assert read(found)[1] == []
    path.write_text('{"machinetypes": [{"suffix": "a", "machine_model": "nonsense", "target_share": 1}]}')
    found, told = read(found)
    assert told == [("pipe", True), ("machinetype_dropped", None)]
    assert read(found)[1] == []


def test_what_another_source_said_is_not_kept_for_a_pipe(tmp_path: Path) -> None:
    """Who gives a prefix another URL does not want the first one's machinetypes any more, nor their share."""
    content = b"""{"machinetypes": [{"suffix": "a", "machine_model": "docker", "target_share": 1, "user_data": "run",
        "root_image": "docker://registry.example.org/a:1"}]}"""
    path = tmp_path / "pipe"
    path.write_bytes(content)
    made = configuration(state_folder=str(tmp_path), pipes=(PipeSource(Section("p", 2.0), path=str(path)),))
    before = catalogue.read(made, {})
    assert [one.target_share for one in before.machinetypes] == [2.0]
    path.unlink()
    kept = catalogue.read(made, before.pipes)
    assert kept.machinetypes == before.machinetypes
    assert "could not be read" in kept.pipes["p"].problem
    other = PipeSource(Section("p", 2.0), path=str(tmp_path / "other"))
    changed = catalogue.read(configuration(state_folder=str(tmp_path), pipes=(other,)), kept.pipes)
    assert changed.machinetypes == ()
    assert changed.pipes["p"].fetched_at is None


@pytest.mark.parametrize("share", [2.0, 5.0])
def test_a_file_that_is_gone_when_the_daemon_starts_costs_no_machinetype(tmp_path: Path, share: float) -> None:
    """The copy counts as with a URL, by what the site says now."""
    made = site(tmp_path, {}, PROD)
    before = catalogue.read(made, {})
    (tmp_path / "pipe").write_text('{"machinetypes": [{"suf')
    made = replace(made, pipes=(replace(made.pipes[0], section=Section("p", share)),))
    at_hand = catalogue.at_hand(made, {}, 7.0)
    again = catalogue.read(made, {})
    wanted = [replace(one, target_share=share) for one in before.machinetypes]
    assert list(at_hand.machinetypes) == list(again.machinetypes) == wanted
    assert again.pipes["p"].problem.startswith("The vacuum pipe p is used as it was at ")
    assert again.pipes["p"].fetched_at == before.pipes["p"].fetched_at


# ---- what the operator says of a machinetype that has a pipe's prefix ----------------------------------------------

PROD = {
    "suffix": "prod", "machine_model": "docker", "target_share": 1, "user_data": "run", "max_processors": 2,
    "root_image": "docker://registry.example.org/a:1",
}  # fmt: skip


def site(tmp_path: Path, machinetypes: dict[str, t.Any], *published: t.Any) -> Configuration:
    """A factory with a pipe that holds these objects."""
    path = tmp_path / "pipe"
    path.write_text(json.dumps({"machinetypes": published}))
    pipes = {"p": {"vacuum_pipe_path": str(path), "target_share": 2}}
    return parse({**SMALL, "state_folder": str(tmp_path), "machinetypes": machinetypes, "vacuum_pipes": pipes})


def test_one_machinetype_of_a_pipe_is_switched_off(tmp_path: Path) -> None:
    made = site(tmp_path, {"p-prod": {"target_share": 0}}, PROD, {**PROD, "suffix": "test"})
    found = catalogue.read(made, {})
    assert [(one.name, one.target_share, one.max_processors) for one in found.machinetypes] == [
        ("p-prod", 0.0, 2), ("p-test", 1.0, 2),
    ]  # fmt: skip
    assert found.not_brought == ()
    assert folder_of(found.machinetypes[0], made) == str(tmp_path / "machinetypes" / "p"), "the files are the pipe's"


def test_a_machinetype_that_is_complete_is_one_if_the_pipe_brings_none(tmp_path: Path) -> None:
    own = {"root_image": "docker://registry.example.org/own:1", "user_data": "run", "target_share": 5}
    alone = catalogue.read(site(tmp_path, {"p-own": own}, PROD), {})
    assert [(one.name, one.root_image, one.max_processors) for one in alone.machinetypes] == [
        ("p-own", "registry.example.org/own:1", 1), ("p-prod", "registry.example.org/a:1", 2),
    ]  # fmt: skip
    brought = catalogue.read(site(tmp_path, {"p-own": own}, {**PROD, "suffix": "own"}), {})
    assert [(one.name, one.root_image, one.max_processors) for one in brought.machinetypes] == [
        ("p-own", "registry.example.org/own:1", 2)
    ]
    assert alone.not_brought == brought.not_brought == ()


def test_a_machinetype_that_no_pipe_brings_is_told(tmp_path: Path) -> None:
    found = catalogue.read(site(tmp_path, {"p-prdo": {"target_share": 0}}, PROD), {})
    assert [one.name for one in found.machinetypes] == ["p-prod"]
    [told] = found.not_brought
    assert told.sentence == (
        "p-prdo is not brought by the vacuum pipe p, and machinetypes.p-prdo is none by itself: root_image: nothing is"
        " given, expected the image that the machine is made from; user_data: nothing is given, expected what is to"
        " run, for container_command is /user_data."
    )


@pytest.mark.parametrize("published", [{**PROD, "machine_model": "vm-raw"}, {**PROD, "min_processors": 4}])
def test_what_a_pipe_brings_and_is_not_started_here_is_brought(tmp_path: Path, published: dict[str, t.Any]) -> None:
    found = catalogue.read(site(tmp_path, {"p-prod": {"target_share": 3}}, published), {})
    assert (found.machinetypes, found.not_brought) == ((), ())


def test_before_a_pipe_has_been_read_nobody_can_tell(tmp_path: Path) -> None:
    made = site(tmp_path, {"p-own": {"root_image": "docker://a:1", "user_data": "run"}, "p-b": {"target_share": 0}})
    (tmp_path / "pipe").unlink()
    found = catalogue.read(made, {})
    assert (found.machinetypes, found.not_brought) == ((), ())


# ---- what is known before the pipes are read -----------------------------------------------------------------------


def test_what_is_at_hand_of_another_configuration_is_what_it_still_wants(tmp_path: Path) -> None:
    """No source is asked: the copy says what a pipe had last, and the new configuration what it makes of it."""
    with serving(Web(json.dumps({"machinetypes": [PROD], "cache_seconds": 3600}).encode())) as web:
        kinds = {"root_image": "docker://a:1", "user_data": "run", "target_share": 1}

        def given(machinetypes: dict[str, t.Any], **pipes: t.Any) -> Configuration:
            options = {"state_folder": str(tmp_path), "machinetypes": machinetypes, "vacuum_pipes": pipes}
            return parse({**SMALL, **options})

        url = {"vacuum_pipe_url": web.url, "target_share": 2}
        before = catalogue.read(given({"own": kinds, "old": kinds}, p=url, q=url), {})
        assert [one.name for one in before.machinetypes] == ["old", "own", "p-prod", "q-prod"]
        asked = len(web.requests)

        def at_hand(*arguments: t.Any, **pipes: t.Any) -> tuple[catalogue.Catalogue, list[tuple[str, float]]]:
            found = catalogue.at_hand(given(*arguments, **pipes), before.pipes, 7.0)
            return found, [(one.name, one.target_share) for one in found.machinetypes]

        same, told = at_hand({"own": kinds, "new": kinds}, p=url)
        assert told == [("new", 1), ("own", 1), ("p-prod", 2)]
        assert same.pipes == {"p": before.pipes["p"]}
        changed, told = at_hand({"p-prod": {"max_processors": 1}}, p={**url, "target_share": 5})
        assert told == [("p-prod", 5)]
        assert [one.max_processors for one in changed.machinetypes] == [1]
        assert changed.pipes["p"].fetched_at == before.pipes["p"].fetched_at
        elsewhere, told = at_hand({"own": kinds}, p={**url, "vacuum_pipe_url": f"{web.url}other"}, r=url)
        assert told == [("own", 1)]
        assert {(one.pipe, one.fetched_at, one.awaited) for one in elsewhere.pipes.values()} == {(None, None, 7.0)}
        assert len(web.requests) == asked


def test_an_order_changes_nothing_that_a_catalogue_is_made_from(tmp_path: Path) -> None:
    before = site(tmp_path, {}, PROD)
    drained = replace(before, settings=replace(before.settings, closed_slots=frozenset(before.settings.slots)))
    assert catalogue.made_from(drained) == catalogue.made_from(before)
    assert catalogue.made_from(site(tmp_path, {"p-prod": {"target_share": 0}}, PROD)) != catalogue.made_from(before)


def test_images_are_named_by_pipes_or_by_the_site(tmp_path: Path) -> None:
    made = site(tmp_path, {"own": {"root_image": "docker://own:1", "user_data": "run"}}, PROD)
    found = catalogue.read(made, {})
    image = "registry.example.org/a:1"
    assert catalogue.images(found, found.machinetypes) == {"own:1": frozenset(), image: frozenset({"p"})}
    also = replace(found.machinetypes[0], root_image=image)
    assert catalogue.images(found, [also, *found.machinetypes])[image] == frozenset()

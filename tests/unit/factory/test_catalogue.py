# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's pipes, of servers that it trusts."""

from __future__ import annotations

import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory import catalogue
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import PipeSource
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.section import Section
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

    def down(*_given: object) -> t.NoReturn:
        at_once.wait(10)
        raise GridboxError("it is down")

    monkeypatch.setattr(catalogue, "from_url", down)
    pipes = tuple(PipeSource(Section(f"p{number}"), "https://pipes.example.org/") for number in range(5))
    found = catalogue.read(configuration(state_folder=str(tmp_path), pipes=pipes), {})
    assert [(prefix, one.problem) for prefix, one in found.pipes.items()] == [
        (f"p{number}", "it is down") for number in range(5)
    ]


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
    for other in (
        PipeSource(Section("p", 2.0), path=str(tmp_path / "other")),
        PipeSource(Section("p"), path=str(path)),
    ):
        changed = catalogue.read(configuration(state_folder=str(tmp_path), pipes=(other,)), kept.pipes)
        assert changed.machinetypes == ()
        assert changed.pipes["p"].fetched_at is None

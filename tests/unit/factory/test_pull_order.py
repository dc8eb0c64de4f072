# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.pull_order import (
    OF_ONE,
    PULLS,
    Wish,
    next_pulls,
    pause,
    registry_of,
)


def wish(reference: str, *pipes: str, tried: float = float("-inf")) -> Wish:
    return Wish(reference, frozenset(pipes), tried)


def told(due: t.Collection[Wish], at_work: t.Iterable[Wish] = ()) -> list[str]:
    return [one.reference for one in next_pulls(due, at_work)]


def test_what_was_never_tried_comes_first_then_what_was_tried_longest_ago() -> None:
    due = [wish(f"{name}.org/x", tried=tried) for name, tried in (("a", 30.0), ("b", 10.0), ("d", 20.0))]
    due += [wish("c.org/x"), wish("e.org/x")]
    assert told(due) == ["c.org/x", "e.org/x", "b.org/x", "d.org/x"]
    assert told(due, [wish("f.org/x")]) == ["c.org/x", "e.org/x", "b.org/x"]
    assert told(due, [wish(f"{name}.org/x") for name in "fghi"]) == []
    assert told([]) == []


def test_a_registry_never_has_all_pulls() -> None:
    many = [wish(f"a.org/{number}") for number in range(9)]
    assert told(many) == ["a.org/0", "a.org/1"]
    assert told([*many, wish("z.org/x", tried=5.0)]) == ["a.org/0", "z.org/x", "a.org/1"]
    assert told(many[2:], many[:2]) == []


def test_a_pipe_never_has_all_pulls_though_it_names_many_registries() -> None:
    many = [wish(f"a{number}.org/x", "p") for number in range(9)]
    assert told(many) == ["a0.org/x", "a1.org/x"]
    assert told([*many[2:], wish("z.org/x", "q", tried=5.0)], many[:2]) == ["z.org/x"]
    site = [wish(f"s{number}.org/x") for number in range(9)]
    assert len(told(site)) == PULLS, "the site's own are no pipe's"


def test_an_image_of_two_pipes_is_pulled_as_long_as_one_of_them_may() -> None:
    """Else a pipe could use up the pulls of another by naming the same images."""
    at_work = [wish(f"a{number}.org/x", "p") for number in range(OF_ONE)]
    assert told([wish("z.org/x", "p")], at_work) == []
    assert told([wish("z.org/x", "p", "q")], at_work) == ["z.org/x"]


@pytest.mark.parametrize("bad", [1, PULLS - 1])
def test_every_image_has_its_turn_whatever_the_others_do(bad: int) -> None:
    """Pipes that name new images all the time, each of which hangs; and one with an image that has failed once."""
    good, numbers = wish("zzz.org/good", "zzz", tried=0.0), itertools.count()
    at_work: list[Wish] = []
    for _turn in range(2 * PULLS):
        due = [wish(f"a{next(numbers)}.org/x", f"bad{number % bad}") for number in range(5 * bad)]
        begun = next_pulls([*due, good], at_work)
        if good in begun:
            return
        at_work = [*at_work, *begun][1:]  # the oldest of them has failed
    raise AssertionError("its turn never came")


def test_the_pause_grows_and_stays_bearable() -> None:
    assert [pause(number) for number in (1, 2, 3, 4, 5, 1000)] == [60, 120, 240, 480, 600, 600]


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("busybox", "docker.io"),
        ("cern/vm:1", "docker.io"),
        ("Registry.example.org/a/b@sha256:00", "registry.example.org"),
        ("registry:5000/a", "registry:5000"),
        ("localhost/a", "localhost"),
        ("docker://busybox:1", "docker.io"),
        ("docker://registry.example.org/a:1", "registry.example.org"),
        ("oras://registry.example.org/a:1", "registry.example.org"),
        ("https://www.example.org/a.sif", "www.example.org"),
        ("library://a/b/c", "library"),
        ("/cvmfs/unpacked.example.org/almalinux:9", "/cvmfs/unpacked.example.org"),
    ],
)
def test_where_an_image_comes_from(reference: str, registry: str) -> None:
    assert registry_of(reference) == registry

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipe of an image: when it is built, from what, and what the builder is told."""

from __future__ import annotations

import io
import json
import tarfile
import typing as t
from dataclasses import replace

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, InputError
from ansible_collections.hep.gridbox.plugins.module_utils.recipe import apt_sources
from ansible_collections.hep.gridbox.plugins.module_utils.recipe.build import (
    RECIPE_LABEL,
    ImageWork,
    Observed,
    Wish,
    build_context,
    plan,
)


def params(**changed: t.Any) -> dict[str, t.Any]:
    return {
        "name": "vobox:x", "base": None, "suite": None, "mirrors": [], "packages": ["squid", "cron"],
        "files": [{"path": "/etc/a", "content": "text\n", "mode": "0644"}], "commands": [["useradd", "sgm"]],
        "command": ["/etc/init.sh"], "ports": ["3128"], "volumes": ["/var/log"], "labels": {"a": "b"},
        "revision": "", "pull_timeout": 10, "bootstrap_timeout": 900, "state": "present", **changed,
    }  # fmt: skip


WISH = Wish.from_params(params())


def image(recipe: str) -> dict[str, t.Any]:
    return {"Id": "sha256:1", "Config": {"Labels": {RECIPE_LABEL: recipe}}}


def actions(wish: Wish, observed: Observed) -> list[str]:
    return [f"{step.action} {step.target}" for step in plan(wish, observed).steps]


def test_from_nothing_it_is_bootstrapped_and_built() -> None:
    assert actions(WISH, Observed(None)) == [f"bootstrap_base {WISH.base_tag}", "build_image vobox:x"]


def test_an_unchanged_recipe_builds_nothing() -> None:
    assert actions(WISH, Observed(image(WISH.recipe.digest()))) == []


def test_what_a_power_cut_left_is_removed_also_when_there_is_nothing_to_build() -> None:
    observed = Observed(image(WISH.recipe.digest()), leftovers=("/var/tmp/gridbox-base-x",))
    assert actions(WISH, observed) == ["remove_leftover /var/tmp/gridbox-base-x"]
    assert actions(WISH, replace(observed, image=None))[0] == "remove_leftover /var/tmp/gridbox-base-x"


def test_a_changed_file_costs_no_new_base() -> None:
    changed = Wish.from_params(params(files=[{"path": "/etc/a", "content": "other\n", "mode": "0644"}]))
    assert changed.base_tag == WISH.base_tag
    assert actions(changed, Observed(image(WISH.recipe.digest()), own_base=True)) == ["build_image vobox:x"]


def test_a_registry_that_answers_saves_the_bootstrap() -> None:
    wish = Wish.from_params(params(base="debian:bookworm-slim"))
    assert actions(wish, Observed(None, registry="")) == ["pull_base debian:bookworm-slim", "build_image vobox:x"]
    assert actions(wish, Observed(None, base_here=True, registry="")) == ["build_image vobox:x"]
    unreachable = plan(wish, Observed(None, registry="no registry answered"))
    assert [step.action for step in unreachable.steps] == ["bootstrap_base", "build_image"]
    assert "no registry answered" in unreachable.steps[0].reason


def test_an_image_of_a_registry_is_pulled_once() -> None:
    for name in ("registry.example.org:5000/site/vobox:1", f"vobox@sha256:{'a' * 64}"):
        wish = Wish.from_params(params(name=name, state="pulled"))
        assert actions(wish, Observed(None, registry="")) == [f"pull_image {name}"]
        assert actions(wish, Observed(image(""))) == []
    assert Wish.from_params(params(name="localhost:5000/vobox", state="pulled")).name == "localhost:5000/vobox:latest"


def test_absent_removes_the_image_and_its_bases() -> None:
    gone = replace(WISH, state="absent")
    assert actions(gone, Observed(image("x"), bases=("vobox:base-1",))) == [
        "remove_image vobox:x",
        "remove_image vobox:base-1",
    ]
    assert actions(gone, Observed(None)) == []


def test_another_revision_takes_in_the_packages_of_another_day() -> None:
    older, newer = (Wish.from_params(params(revision=revision)) for revision in ("2026-11", "2026-12"))
    assert actions(newer, Observed(image(older.recipe.digest()))) == [
        f"bootstrap_base {newer.base_tag}",
        "build_image vobox:x",
    ]
    assert older.base_tag != newer.base_tag
    # On a base of a registry the packages are a layer, which the builder must not have from its cache.
    older_lines, newer_lines = (one.recipe.dockerfile("debian:12").splitlines() for one in (older, newer))
    assert older_lines[0] == newer_lines[0] and older_lines[1] != newer_lines[1]


def test_images_of_before_there_were_revisions_are_not_built_again() -> None:
    assert WISH.recipe.digest() == "530af1b9afe4351734ead202446dc9ba14114f35c552e46714ebc752606cf0be"
    assert WISH.base_tag == "vobox:base-78944ae6b8ef"


def test_every_part_of_the_recipe_counts() -> None:
    changes: list[dict[str, t.Any]] = [
        {"base": "a"}, {"suite": "sid"}, {"packages": ["squid"]}, {"commands": []}, {"command": ["/bin/sh"]},
        {"ports": []}, {"volumes": []}, {"labels": {}}, {"mirrors": ["deb http://mirror.example/debian sid main"]},
        {"files": [{"path": "/etc/a", "content": "text\n", "mode": "0600"}]}, {"revision": "2026-12"},
    ]  # fmt: skip
    digests = {WISH.recipe.digest(), *(Wish.from_params(params(**change)).recipe.digest() for change in changes)}
    assert len(digests) == len(changes) + 1
    assert Wish.from_params(params(packages=["cron", "squid", "cron"])).recipe.digest() == WISH.recipe.digest()


def test_the_builder_is_told_nothing_that_could_be_syntax() -> None:
    nasty = ["echo", 'a" && $(reboot) \\\nFROM scratch']
    text = Wish.from_params(params(commands=[nasty])).recipe.dockerfile("vobox:base-1")
    (line,) = [line for line in text.splitlines() if "reboot" in line]
    assert json.loads(line.removeprefix("RUN ")) == nasty
    assert text.count("\nFROM") == 0


def test_the_context_is_the_same_in_every_run() -> None:
    context = build_context(WISH.recipe, "vobox:base-1")
    assert context == build_context(WISH.recipe, "vobox:base-1")
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        assert tar.getnames() == ["Dockerfile", "files/etc", "files/etc/a"]
        assert {(entry.uid, entry.gid, entry.mtime) for entry in tar} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "Vobox"}, "name: got 'Vobox'"),
        ({"name": "a b", "state": "pulled"}, "name: got 'a b'"),
        ({"packages": ["squid=1"]}, "packages: got 'squid=1'"),
        ({"packages": ["-o"]}, "packages: got '-o'"),
        ({"files": [{"path": "etc/a", "content": "", "mode": "0644"}]}, "files[0].path: got 'etc/a'"),
        ({"files": [{"path": "/etc/../a", "content": "", "mode": "0644"}]}, "files[0].path"),
        ({"files": [{"path": "/a", "content": "", "mode": "rw"}]}, "files[0].mode: got 'rw'"),
        ({"commands": [[]]}, "commands[0]: got []"),
        ({"ports": ["web"]}, "ports: got 'web'"),
        ({"volumes": ["/a b"]}, "volumes: got '/a b'"),
        ({"revision": "a b"}, "revision: got 'a b'"),
        ({"mirrors": ["http://mirror.example"]}, "mirrors: got 'http://mirror.example'"),
        ({"base": "a b"}, "base: got 'a b'"),
        ({"suite": "a;b"}, "suite: got 'a;b'"),
        ({"pull_timeout": 0}, "pull_timeout: got 0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changed: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        Wish.from_params(params(**changed))
    assert sentence in str(refused.value)


LINES = """\
# deb http://no.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://a.example/debian bookworm main contrib # the site's
deb-src http://a.example/debian bookworm main
deb http://a.example/security bookworm-security main
deb http://b.example/other stable main
"""
STANZAS = """\
Types: deb deb-src
URIs: http://a.example/debian
# a comment in between
Suites: bookworm bookworm-updates
Components: main
  contrib
Signed-By: /usr/share/keyrings/a.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://c.example/apt
Suites: nodistro
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
"""


def test_apt_sources_in_both_formats() -> None:
    lines = apt_sources.for_suite(apt_sources.parse_lines(LINES), "bookworm")
    assert [source.as_line() for source in lines] == [
        "deb [signed-by=/usr/share/keyrings/a.gpg] http://a.example/debian bookworm main contrib",
        "deb http://a.example/security bookworm-security main",
    ]
    stanzas = apt_sources.for_suite(apt_sources.parse_deb822(STANZAS), "bookworm")
    assert [(source.uri, source.suite, source.components) for source in stanzas] == [
        ("http://a.example/debian", "bookworm", ("main", "contrib")),
        ("http://a.example/debian", "bookworm-updates", ("main", "contrib")),
    ]


def test_a_host_that_is_no_debian_is_told_before_anything_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options alone: the host may have no engine yet."""
    given = {**params(), "engine": "auto", "engine_url": "unix:///nowhere/docker.sock", "engine_timeout": 1}
    monkeypatch.setattr(apt_sources, "own_suite", lambda: "")
    with pytest.raises(InputError, match=r"suite: got None, expected a release of Debian or Ubuntu.*vobox_image_pull"):
        ImageWork.from_params(given)
    for enough in ({"suite": "bookworm"}, {"base": "debian:12"}, {"state": "absent"}):
        with pytest.raises(GridboxError, match="nowhere"):  # it goes on to the engine
            ImageWork.from_params({**given, **enough})

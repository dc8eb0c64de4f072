# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What needs no engine: versions, and where an engine is looked for."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine import find
from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import Platform, version_tuple
from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError, RefusedError


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("1.41", (1, 41)),
        ("29.0.0-rc.1", (29, 0, 0)),
        ("4.3.1", (4, 3, 1)),
        ("dev", ()),
    ],
)
def test_version_tuple(text: str, numbers: tuple[int, ...]) -> None:
    assert version_tuple(text) == numbers


def test_platform_reads_well() -> None:
    assert str(Platform("docker", (20, 10, 24), (1, 41))) == "docker 20.10.24"


def params(**given: t.Any) -> dict[str, t.Any]:
    return {"engine": "auto", "engine_url": None, "engine_timeout": 60, **given}


@pytest.mark.parametrize("url", ["/var/run/docker.sock", "ftp://host", "unix://", "unix:/x"])
def test_an_url_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"^engine_url: got '.*', expected a URL such as unix:///"):
        find.engine_from(params(engine_url=url))


def test_a_time_out_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"^engine_timeout: got 0, expected a number of seconds of 1 or more"):
        find.engine_from(params(engine_timeout=0))


def test_a_missing_socket_says_what_to_do(tmp_path: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match=r"^engine_url: unix:///nowhere: there is no socket /nowhere\. Start"):
        find.engine_from(params(engine_url="unix:///nowhere"))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(find, "DEFAULT_SOCKETS", {"docker": str(tmp_path / "d"), "podman": str(tmp_path / "p")})
    with pytest.raises(RefusedError, match="no engine listens here"):
        find.engine_from(params())


def test_auto_takes_docker_then_podman(tmp_path: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(find, "DEFAULT_SOCKETS", {"docker": str(tmp_path / "d"), "podman": str(tmp_path / "p")})
    (tmp_path / "p").touch()
    assert find.engine_from(params()).url == f"unix://{tmp_path}/p"
    (tmp_path / "d").touch()
    assert find.engine_from(params()).url == f"unix://{tmp_path}/d"
    assert find.engine_from(params(engine="podman")).url == f"unix://{tmp_path}/p"


def test_the_environment_names_the_engine(tmp_path: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example.org:2376")
    assert find.engine_from(params()).url == "tcp://engine.example.org:2376"

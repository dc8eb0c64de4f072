# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate's long parts are started with its first test, in the worker that runs the gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gate.background import Job
from tests.gate.sanity import WORKSHOP, sanity_command, sanity_environment
from tests.gate.tools import BIN, build, environment, stage


class LongParts:
    """The jobs of one session.

    :param folder: outside the checkout, for copies and output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []

    def _start(self, name: str, argv: list[str], folder: Path, env: dict[str, str]) -> Job:
        job = Job(name, argv, folder, env)
        self.jobs.append(job)
        return job

    def start_sanity(self) -> None:
        self.sanity_stage = stage(self.folder / "sanity", WORKSHOP)
        self.sanity = self._start("sanity", sanity_command(), self.sanity_stage, sanity_environment())

    def start_galaxy_import(self) -> None:
        self.tarball = build(self.folder)
        env = environment(
            HOME=str(self.folder), ANSIBLE_HOME=str(self.folder / "ansible-home"),
            # It gives ansible-lint 180 s, on whatever machine; test_code.py runs that, in a stricter profile.
            GALAXY_IMPORTER_RUN_ANSIBLE_LINT="False",
        )  # fmt: skip
        argv = [str(BIN / "python"), "-m", "galaxy_importer.main", str(self.tarball)]
        self.galaxy_import = self._start("galaxy-import", argv, self.folder, env)


PARTS = pytest.StashKey[LongParts]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start what the chosen tests ask for, before the first of the gate's tests. Called for those only."""
    if PARTS in item.config.stash:
        return
    wanted = {name for one in item.session.items for name in getattr(one, "fixturenames", ())}
    factory: pytest.TempPathFactory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    item.config.stash[PARTS] = parts = LongParts(factory.mktemp("gate"))
    if wanted & {"galaxy_import", "tarball"}:
        parts.start_galaxy_import()
    if "sanity" in wanted:
        parts.start_sanity()


def pytest_unconfigure(config: pytest.Config) -> None:
    parts = config.stash.get(PARTS, None)
    for job in parts.jobs if parts else ():
        job.stop()


@pytest.fixture(scope="session")
def parts(request: pytest.FixtureRequest) -> LongParts:
    return request.config.stash[PARTS]


@pytest.fixture(scope="session")
def sanity(parts: LongParts) -> LongParts:
    """ansible-test sanity, running since the session began."""
    return parts


@pytest.fixture(scope="session")
def galaxy_import(parts: LongParts) -> Job:
    """The import that a Galaxy server does, running since the session began."""
    return parts.galaxy_import


@pytest.fixture(scope="session")
def tarball(parts: LongParts) -> Path:
    """The collection as it would be published."""
    return parts.tarball

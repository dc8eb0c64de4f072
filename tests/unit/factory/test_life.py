# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.engines import engine_of
from ansible_collections.hep.gridbox.plugins.module_utils.factory.life import OUTPUT, Life
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine_engine import Container
from ansible_collections.hep.gridbox.plugins.module_utils.factory.store import Store
from ansible_collections.hep.gridbox.plugins.module_utils.factory.work_space import WorkSpaces
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_mend import LIVE, OVER


def test_what_a_machine_printed_survives_a_second_try_to_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work space may be in use when its machine's container is gone already."""
    configuration = parse({**SMALL, "state_folder": str(tmp_path), "work_space": "folder"})
    store, engine, work_spaces = Store(str(tmp_path)), engine_of(configuration), WorkSpaces(configuration)
    life = Life(configuration, store, engine, work_spaces)
    there: list[Container] = [OVER]

    def output(_container: str, path: str, _limit: int) -> None:
        Path(path).write_text("printed\n" if there else "")  # as engines do: of one that is gone there is nothing

    def in_use(_folder: str, _uuid: str) -> None:
        raise GridboxError("in use")

    monkeypatch.setattr(engine, "container", lambda _name: there[0] if there else None)
    monkeypatch.setattr(engine, "output", output)
    monkeypatch.setattr(engine, "remove", lambda _name: there.clear())
    machine = replace(LIVE, state=ENDED, ended=10_000)
    folder = Path(store.create(machine))
    with monkeypatch.context() as patched:
        patched.setattr(work_spaces, "remove", in_use)
        with pytest.raises(GridboxError):
            life.clean(machine)
    assert life.clean(machine).cleaned
    assert (folder / OUTPUT).read_text() == "printed\n"

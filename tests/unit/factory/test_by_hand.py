# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.configuration import parse
from ansible_collections.hep.gridbox.plugins.module_utils.factory.machine import ENDED
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImages
from tests.unit.factory.test_configuration import SMALL
from tests.unit.factory.test_factory import Images
from tests.unit.factory.test_mend import LIVE
from tests.unit.factory.told import configuration


def test_what_machines_that_run_may_still_write_into_a_folder_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the daemon; here nobody has measured what they have written already."""
    wanted = {**SMALL, "state_folder": str(tmp_path), "work_space": "folder", "disk_gb_per_processor": 1}
    hand = ByHand(parse({**wanted, "factories": []}))
    asked: list[int] = []

    def free(promised: int = 0) -> int:
        asked.append(promised)
        return 0

    monkeypatch.setattr(hand.work_spaces, "free_bytes", free)
    written = Path(hand.store.create(LIVE)) / "mnt/tmp"
    written.mkdir(parents=True)
    (written / "data").write_bytes(bytes(1 << 20))
    machines = [LIVE, replace(LIVE, uuid="u2", state=ENDED)]
    hand.chances(hand.configuration.settings, machines, 10_000)
    assert 10**9 - (2 << 20) < asked[0] <= 10**9 - (1 << 20)


def test_what_is_pulled_is_written_down_for_a_daemon_that_comes_later(tmp_path: Path) -> None:
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    hand.engine = engine = Images(other="sha256:other")
    hand.pull("r/pilot:1")
    assert engine.asked == ["pull r/pilot:1"]
    [image] = PulledImages(str(tmp_path)).load()
    assert (image.engine, image.reference, image.id) == (engine.where, "r/pilot:1", "sha256:r/pilot:1")

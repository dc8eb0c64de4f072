# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

from ansible_collections.hep.gridbox.plugins.module_utils.factory.by_hand import ByHand
from ansible_collections.hep.gridbox.plugins.module_utils.factory.pulled_images import PulledImages
from tests.unit.factory.test_factory import Images
from tests.unit.factory.told import configuration


def test_what_is_pulled_is_written_down_for_a_daemon_that_comes_later(tmp_path: Path) -> None:
    hand = ByHand(configuration(state_folder=str(tmp_path)))
    hand.engine = engine = Images(other="sha256:other")
    hand.pull("r/pilot:1")
    assert engine.asked == ["pull r/pilot:1"]
    [image] = PulledImages(str(tmp_path)).load()
    assert (image.engine, image.reference, image.id) == (engine.where, "r/pilot:1", "sha256:r/pilot:1")

# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files for the boot: written whole or not at all, and by those who may."""

from __future__ import annotations

import errno
import os
import typing as t
from pathlib import Path

import pytest

from ansible_collections.hep.gridbox.plugins.module_utils.engine.docker_api import DockerApi
from ansible_collections.hep.gridbox.plugins.module_utils.errors import GridboxError, RefusedError
from ansible_collections.hep.gridbox.plugins.module_utils.network import boot
from ansible_collections.hep.gridbox.plugins.module_utils.network.decide import Observed
from ansible_collections.hep.gridbox.plugins.module_utils.network.macvlan import MacvlanWork
from ansible_collections.hep.gridbox.plugins.module_utils.network.wish import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.plan import Plan, Step
from tests.unit.network.test_decide import OLD

DROP_IN = f"{boot.UNITS}/docker.service.d/gridbox-net-site.conf"


def full(*_arguments: t.Any) -> t.NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    boot.set_files({DROP_IN: "old"}, root)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GridboxError, match=rf"^Writing {DROP_IN} failed \(No space left on device\)\.$"):
        boot.set_files({DROP_IN: "new"}, root)
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("*") if path.is_file()] == [
        ("gridbox-net-site.conf", "old")
    ]


def test_the_undo_of_what_was_not_written_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    boot.set_files({DROP_IN: "old"}, root)
    monkeypatch.setattr(os, "fsync", full)
    boot.set_files({DROP_IN: "old"}, root)


@pytest.mark.parametrize("action", ["write_file", "remove_file", "create_shim", "change_shim", "remove_shim"])
def test_what_only_root_may_do_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    work = MacvlanWork(Wish("site", True), DockerApi("unix:///nowhere", 1))
    plan = Plan((Step("create_network", "site", "why"), Step(action, "target", "why", details={"shim": None})))
    with pytest.raises(RefusedError, match=rf"^{action} target: .* needs root.* become: true\.$"):
        work.preflight(plan, Observed(OLD))
    work.preflight(Plan(plan.steps[:1]), Observed(OLD))

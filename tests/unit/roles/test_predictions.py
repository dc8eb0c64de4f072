# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of which VO-boxes the role can only tell in check mode what becomes of them: those whose image or network is yet to
be made. Whatever else changes there, the module itself is asked."""

from __future__ import annotations

import typing as t

import pytest

from tests.unit.roles.test_families import HOSTS, evaluate

SKIPPED = {"changed": False, "skipped": True, "skip_reason": "Conditional result was False"}
NOTHING: dict[str, t.Any] = {
    "__vobox_socket_stat": {"stat": {"exists": True}}, "__vobox_network_made": {"changed": False, "actions": []},
    "__vobox_bootstrap": {"changed": False}, "__vobox_built": {"changed": False, "actions": []},
    "__vobox_pulled": SKIPPED, "__vobox_flattened": {"changed": False, "actions": []},
}  # fmt: skip


def only_predicted(check: bool = True, **results: t.Any) -> bool:
    given = {**NOTHING, **results, "ansible_check_mode": check}
    return t.cast("bool", evaluate("vobox", HOSTS[0], "__vobox_only_predicted", **given))


def changed(*actions: str) -> dict[str, t.Any]:
    steps = [{"action": action, "target": "x", "reason": "y", "disruption": "none"} for action in actions]
    return {"changed": True, "actions": steps}


@pytest.mark.parametrize(
    ("task", "actions"),
    [
        ("__vobox_network_made", ["create_network", "create_shim", "write_file"]),
        ("__vobox_network_made", ["detach_endpoint", "remove_network", "create_network", "attach_endpoint"]),
        ("__vobox_built", ["remove_leftover", "bootstrap_base", "build_image"]),
        ("__vobox_built", ["pull_base", "build_image"]),
        ("__vobox_pulled", ["pull_image"]),
        ("__vobox_flattened", ["import_layer", "make_image", "tag_image"]),
        ("__vobox_flattened", ["tag_source", "load_image", "tag_image"]),
        ("__vobox_flattened", ["tag_image"]),
    ],
)
def test_an_image_or_network_that_is_yet_to_be_made(task: str, actions: list[str]) -> None:
    assert only_predicted(**{task: changed(*actions)}) is True
    assert only_predicted(check=False, **{task: changed(*actions)}) is False


@pytest.mark.parametrize(
    ("task", "actions"),
    [
        ("__vobox_network_made", ["write_file"]),
        ("__vobox_network_made", ["create_shim", "remove_file"]),
        ("__vobox_network_made", ["change_shim"]),
        ("__vobox_network_made", ["create_bridge", "attach_to_bridge"]),
        ("__vobox_built", ["remove_leftover"]),
        ("__vobox_flattened", ["remove_leftover"]),
        ("__vobox_flattened", ["tag_source", "remove_source"]),
    ],
)
def test_what_leaves_image_and_network_as_they_are(task: str, actions: list[str]) -> None:
    assert only_predicted(**{task: changed(*actions)}) is False


def test_where_there_is_no_engine_or_no_bootstrap_yet() -> None:
    assert only_predicted() is False
    assert only_predicted(**dict.fromkeys(list(NOTHING)[1:], SKIPPED)) is False
    assert only_predicted(__vobox_socket_stat={"stat": {"exists": False}}) is True
    assert only_predicted(__vobox_bootstrap={"changed": True}, __vobox_built=SKIPPED) is True

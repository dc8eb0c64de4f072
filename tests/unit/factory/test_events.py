# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of the factory's journal."""

from __future__ import annotations

import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.factory.events import HIDDEN, journal_line

AT = 1795187457.25


def test_a_line_is_time_event_and_facts_in_their_order() -> None:
    line = journal_line("machine_ended", at=AT, slot="factory1-00", code=200, seconds=1.5, message=None, ok=True)
    assert line == (
        '{"time": "2026-11-20T15:10:57.250Z", "event": "machine_ended", "slot": "factory1-00", "code": 200,'
        ' "seconds": 1.5, "message": null, "ok": true}'
    )


def test_without_a_time_it_is_now() -> None:
    assert json.loads(journal_line("started"))["time"] > "2026"


def test_facts_do_not_stand_for_time_or_event() -> None:
    assert json.loads(journal_line("a", at=AT, time="x"))["time"].startswith("2026-11-20")


@pytest.mark.parametrize(
    "name",
    [
        "user_data_option_password", "user_data_options", "user_data", "password", "x509_proxy", "secret", "api_token",
        "key", "private_key", "KEY_FILE", "cookie", "hmac", "credentials", "hostcert_pem",
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_not_shown_at_any_depth(name: str) -> None:
    for value in ("s3cret", {"a": "s3cret"}, ["s3cret"], 12345, b"s3cret"):
        line = journal_line("e", at=AT, **{name: value}, outer=[{"inner": {name: value}}])
        assert "s3cret" not in line
        assert "12345" not in line
        assert json.loads(line)[name] == HIDDEN
        assert json.loads(line)["outer"] == [{"inner": {name: HIDDEN}}]


@pytest.mark.parametrize("name", ["machinetype", "monkeys", "keyboard", "message"])
def test_other_names_are_shown(name: str) -> None:
    assert json.loads(journal_line("e", at=AT, **{name: "value"}))[name] == "value"


def test_a_flag_about_a_secret_is_none() -> None:
    assert json.loads(journal_line("e", at=AT, user_data_proxy=True, key=None))["user_data_proxy"] is True


def test_a_login_in_a_url_is_not_shown() -> None:
    line = journal_line("e", at=AT, problem="https://user:s3cret@host/x failed, and http://a@b/")
    assert json.loads(line)["problem"] == "https://host/x failed, and http://b/"


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda name: name not in ("at", "event")),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.integers(), inner),
            max_leaves=6,
        ),
        max_size=3,
    )
)
def test_whatever_the_facts_it_is_one_line_of_json(facts: dict[str, t.Any]) -> None:
    line = journal_line("e", at=AT, **facts)
    assert "\n" not in line
    assert line.isascii()
    assert set(json.loads(line)) == {"time", "event", *facts}

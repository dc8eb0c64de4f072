# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing one key in the text of a JSON object."""

from __future__ import annotations

import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.daemon.json_text import parse, with_value, without

KEY = "live-restore"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # replaced where it stands
        ('{"live-restore": false}', '{"live-restore": true}'),
        ('{"live-restore":false,"a":1}\n', '{"live-restore":true,"a":1}\n'),
        ('{ "a" : [1 , 2],\t"live-restore"  :\n null\t}', '{ "a" : [1 , 2],\t"live-restore"  :\n true\t}'),
        ('{"live-restore": "yes"}', '{"live-restore": true}'),
        ('{"live-restore": {"a": [1]}, "b": 2}', '{"live-restore": true, "b": 2}'),
        ('{"live\\u002drestore": false}', '{"live\\u002drestore": true}'),
        # already there
        ('{"live-restore" :true}', '{"live-restore" :true}'),
        # added, in the file's own style
        ('{\n  "a": 1\n}\n', '{\n  "a": 1,\n  "live-restore": true\n}\n'),
        ('{\n\t"a": 1,\n\t"b": {}\n}', '{\n\t"a": 1,\n\t"b": {},\n\t"live-restore": true\n}'),
        ('{\r\n    "a": 1\r\n}\r\n', '{\r\n    "a": 1,\r\n    "live-restore": true\r\n}\r\n'),
        ('{"a":1}', '{"a":1,"live-restore":true}'),
        ('{"a": 1}', '{"a": 1, "live-restore": true}'),
        ('{"a":1, "b":2}', '{"a":1, "b":2, "live-restore":true}'),
        ('{ "a": 1\n, "b": 2\n}', '{ "a": 1\n, "b": 2\n, "live-restore": true\n}'),
        ('{"a" :\n 1}', '{"a" :\n 1, "live-restore": true}'),
        ('{\n  "a": 1,\n \n\n  "b": 2\n}', '{\n  "a": 1,\n \n\n  "b": 2,\n  "live-restore": true\n}'),
        # an empty object
        ("{}", '{"live-restore": true}'),
        ("{ }\n", '{ "live-restore": true}\n'),
        ("{\n}\n", '{\n  "live-restore": true\n}\n'),
        ("{\r\n}\r\n", '{\r\n  "live-restore": true\r\n}\r\n'),
        # a byte order mark, and text outside ASCII
        ('\ufeff{"a": "Zürich"}', '\ufeff{"a": "Zürich", "live-restore": true}'),
        ('{"a": 1%s}' % ("0" * 5000), '{"a": 1%s, "live-restore": true}' % ("0" * 5000)),
        # the same name elsewhere is another key
        (
            '{"features": {"live-restore": false}, "a": "\\"live-restore\\": false"}',
            '{"features": {"live-restore": false}, "a": "\\"live-restore\\": false", "live-restore": true}',
        ),
    ],
)
def test_the_key_is_set_and_nothing_else_moves(before: str, after: str) -> None:
    assert with_value(before, KEY, True) == after
    assert json.loads(after.lstrip("\ufeff"), parse_int=str)[KEY] is True


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"live-restore": true}', "{}"),
        ('{\n  "live-restore": true\n}\n', "{\n}\n"),
        ('{"live-restore": true, "a": 1}', '{"a": 1}'),
        ('{\n  "live-restore": true,\n  "a": 1\n}\n', '{\n  "a": 1\n}\n'),
        ('{\n  "a": 1,\n  "live-restore": true,\n  "b": 2\n}', '{\n  "a": 1,\n  "b": 2\n}'),
        ('{"a": 1, "live-restore": true}', '{"a": 1}'),
        ('{ "a": 1\n, "live-restore": true\n}', '{ "a": 1\n}'),
        ('{"a": {"live-restore": true}}', '{"a": {"live-restore": true}}'),
        ("{}", "{}"),
    ],
)
def test_the_key_is_taken_out_with_its_comma(before: str, after: str) -> None:
    assert without(before, KEY) == after


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1, column 1: the text is empty"),
        (" \n ", "line 2, column 2: the text is empty"),
        ("[]", "line 1, column 1: the file has to be one object, in braces"),
        ("true", "line 1, column 1: the file has to be one object, in braces"),
        ("live-restore: true\n", "line 1, column 1: the file has to be one object, in braces"),
        ('{"a": 1,}', "line 1, column 9: expecting a key in double quotes"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: expecting ',' or '}'"),
        ('{"a": 1', "line 1, column 8: expecting ',' or '}'"),
        ("{", "line 1, column 2: expecting a key in double quotes"),
        ('{"a"', "line 1, column 5: expecting ':'"),
        ('{"a":', "line 1, column 6: expecting value"),
        ("{'a': 1}", "line 1, column 2: expecting a key in double quotes"),
        ('{"a": NaN}', "line 1, column 7: the value NaN is not JSON"),
        ('{"a": [1, -Infinity]}', "line 1, column 7: the value -Infinity is not JSON"),
        ('{"a\nb": 1}', "line 1, column 4: invalid control character"),
        ('{"a": 1} x', "line 1, column 10: nothing may follow the closing brace"),
        ('{"a": 1}{}', "line 1, column 9: nothing may follow the closing brace"),
        ('{"a": 1} // why', "line 1, column 10: nothing may follow the closing brace"),
        ('{"a": 1, "b": 2, "a": 1}', "line 1, column 18: the key 'a' is there twice"),
        (
            '{"live-restore": true, "live\\u002drestore": false}',
            "line 1, column 24: the key 'live-restore' is there twice",
        ),
        ('{"a": ' + "[" * 200000, "it is nested too deeply"),
    ],
)
def test_what_is_not_one_object_is_refused_with_its_place(text: str, sentence: str) -> None:
    for change in (lambda: parse(text), lambda: with_value(text, KEY, True), lambda: without(text, KEY)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared whole
            change()
        assert str(caught.value) == sentence


# ---- any text that dockerd could have been given --------------------------------------------------------------------

_SPACE = st.text(alphabet=" \t\n\r", max_size=4)
_NAMES = st.one_of(st.sampled_from(["data-root", "log-opts", "live-restored", "", KEY]), st.text(max_size=8))
_VALUES: st.SearchStrategy[t.Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def _texts(draw: st.DrawFn, keys: st.SearchStrategy[str] = _NAMES) -> tuple[str, dict[str, t.Any]]:
    """A JSON object with white space wherever JSON allows it, and what it says."""
    content = draw(st.dictionaries(keys, _VALUES, max_size=5))
    ascii_only = draw(st.booleans())

    def dump(value: t.Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1, "\t"])))

    members = [
        draw(_SPACE) + dump(key) + draw(_SPACE) + ":" + draw(_SPACE) + dump(value) + draw(_SPACE)
        for key, value in content.items()
    ]
    inside = ",".join(members) if members else draw(_SPACE)
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return mark + draw(_SPACE) + "{" + inside + "}" + draw(_SPACE), content


def _loads(text: str) -> dict[str, t.Any]:
    return t.cast("dict[str, t.Any]", json.loads(text.lstrip("\ufeff")))


@given(_texts(), st.booleans())
def test_setting_changes_one_stretch_of_the_text_and_one_key(made: tuple[str, dict[str, t.Any]], value: bool) -> None:
    text, content = made
    after = with_value(text, KEY, value)
    assert list(_loads(after).items()) == list({**content, KEY: value}.items())  # order included
    assert with_value(after, KEY, value) == after
    member = parse(text).member(KEY)
    if member is None:
        place = parse(after).member(KEY)
        assert place is not None
        # What was added is one stretch that holds the new member, a comma and white space; around it all is as it was.
        start = next((i for i, (a, b) in enumerate(zip(text, after, strict=False)) if a != b), len(text))
        length = len(after) - len(text)
        starts = [i for i in range(start + 1) if text[:i] == after[:i] and text[i:] == after[i + length :]]
        assert starts
        added = after[starts[0] : starts[0] + length]
        assert json.dumps(KEY).strip('"') in added
    else:
        assert after == text[: member.value_start] + json.dumps(value) + text[member.value_end :]


@given(_texts())
def test_taking_out_leaves_the_other_members_as_they_are(made: tuple[str, dict[str, t.Any]]) -> None:
    text, content = made
    after = without(text, KEY)
    expected = {key: value for key, value in content.items() if key != KEY}
    assert list(_loads(after).items()) == list(expected.items())
    kept = [text[m.name_start : m.value_end] for m in parse(text).members if m.name != KEY]
    assert [after[m.name_start : m.value_end] for m in parse(after).members] == kept
    opening, closing = text.index("{"), text.rindex("}")
    assert after.startswith(text[: opening + 1]) and after.endswith(text[closing:])


@given(_texts(st.text(max_size=8).filter(lambda key: key != KEY)))
def test_setting_and_taking_out_again_gives_the_very_text(made: tuple[str, dict[str, t.Any]]) -> None:
    text, content = made
    after = without(with_value(text, KEY, True), KEY)
    if content:
        assert after == text
    else:  # of an empty object only the white space between the braces may differ
        assert after.split("{")[0] == text.split("{")[0] and after.split("}")[1] == text.split("}")[1]

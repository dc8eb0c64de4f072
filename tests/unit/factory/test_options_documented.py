# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/factory-options.md has every option of a factory, with the code's defaults and ranges, and no other."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing as t

import pytest
import yaml

from ansible_collections.hep.gridbox.plugins.module_utils.factory import configuration
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.machinetype import Machinetype
from tests.gate.tools import ROOT
from tests.unit.factory.options import Option, options_of_the_code

GUIDE = (ROOT / "docs/factory-options.md").read_text()

#: What depends on the host, or on another option: told in words.
IN_WORDS = {"name", "slots", "total_processors", "min_wallclock_seconds"}
REQUIRED = {"space", "factory", "root_image"}

_ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|")


@dataclasses.dataclass(frozen=True)
class Row:
    """An option as the guide has it."""

    value: str
    default: str
    meaning: str


def rows(*titles: str) -> dict[str, Row]:
    """The rows of all tables below some titles, up to the next title. Each option once."""
    found: dict[str, Row] = {}
    for part in re.split(r"^#+ ", GUIDE, flags=re.MULTILINE):
        title, _end, text = part.partition("\n")
        if title in titles:
            for row in map(_ROW.fullmatch, text.splitlines()):
                if row:
                    assert row[1] not in found, f"{row[1]} is described twice"
                    found[row[1]] = Row(row[2], row[3], row[4])
    assert found, f"there is no table below {titles}"
    return found


#: Tables of other objects than the configuration itself.
INNER = ("A factory in factories", "A pipe", "A machinetype")
TITLES = re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
TOP = rows(*(title for title in TITLES if title not in INNER))


def machinetype_keys_of_the_code() -> dict[str, Option]:
    found = {}
    defaults = {one.name: one for one in dataclasses.fields(Machinetype)}
    for key in (*keys.KEYS, "user_data_option_NAME", "user_data_file_NAME"):
        with pytest.raises(keys.Unfit) as unfit:
            keys.check(key.lower(), object())
        found[key] = Option(defaults[key].default if key in defaults else None, str(unfit.value))
    return found


def told(value: t.Any) -> str:
    """A default as the guide has it."""
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, tuple):
        return f"`{' '.join(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", text)]


def agree(table: t.Mapping[str, Row], code: t.Mapping[str, Option]) -> None:
    """Both have the same options, with the same defaults and the same values."""
    assert set(table) == set(code)
    for name, option in code.items():
        row = table[name]
        if name in REQUIRED:
            assert row.default == "required", name
        elif name in IN_WORDS:
            assert row.default not in ("none", "required", told(option.default)), name
        else:
            assert row.default == told(option.default), name
        ranged = re.match(r"a (whole number|number) from (.*) to (.*)$", option.expected)
        if ranged:
            assert row.value.startswith(f"{ranged[1]}, "), name
            assert numbers(row.value) == numbers(f"{ranged[2]} {ranged[3]}"), name
        elif option.expected == "true or false":
            assert row.value == option.expected, name
        elif option.expected.startswith("one of "):
            choices = option.expected[len("one of ") :].partition(" (")[0].split(", ")
            assert re.findall(r"`([^`]+)`", row.value) == choices, name


def test_each_option_of_the_configuration() -> None:
    agree(TOP, options_of_the_code())


def test_what_needs_a_restart() -> None:
    said = {name for name, row in TOP.items() if "eeds a restart" in row.meaning}
    assert said == set(configuration.FIXED)


def test_each_key_of_a_machinetype() -> None:
    agree(rows("A machinetype"), machinetype_keys_of_the_code())


def test_each_key_of_a_pipe() -> None:
    """Those of a machinetype beside: the function that reads a pipe takes its own out first."""
    own = set(re.findall(r'options\.pop\("(\w+)"', inspect.getsource(configuration._pipe)))
    code = {
        "vacuum_pipe_url": Option("", "a URL"),
        "vacuum_pipe_path": Option("", "a path"),
        "target_share": machinetype_keys_of_the_code()["target_share"],
    }
    assert own == set(code)
    agree(rows("A pipe"), code)


def test_each_key_of_a_factory() -> None:
    parameters = inspect.signature(configuration._peer).parameters.values()
    code = {one.name: Option(one.default, "") for one in parameters}
    code["port"] = options_of_the_code()["port"]
    agree(rows("A factory in factories"), code)


EXAMPLES = re.findall(r"^### (.*)\n(?:(?!^#).*\n)*?```yaml\n((?:.*\n)*?)```", GUIDE, re.MULTILINE)


def test_the_examples_are_there() -> None:
    """For a site with superslots, with APEL, with VacMon and HEPscore23."""
    assert len(EXAMPLES) == GUIDE.count("```yaml") == 3


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _text in EXAMPLES])
def test_an_example_is_a_factory(title: str, text: str) -> None:
    given = yaml.safe_load(text)
    specification = yaml.safe_load((ROOT / "roles/vacuum_factory/meta/argument_specs.yml").read_text())
    assert set(given) <= set(specification["argument_specs"]["main"]["options"])
    whole = {
        **given["vacuum_factory_configuration"],
        "name": "wn001.example.org",
        "factories": ["wn001.example.org", "wn002.example.org"],  # in the example it is a group of the inventory
        "vacuum_pipes": given["vacuum_factory_pipes"],
        "machinetypes": given.get("vacuum_factory_machinetypes", {}),
    }
    if "vacuum_factory_metrics_file" in given:
        whole["metrics_file"] = given["vacuum_factory_metrics_file"]
    made = configuration.parse(whole)
    files = given.get("vacuum_factory_files", {})
    assert {f"{one.name}/files/{one.user_data}" for one in made.machinetypes} == set(files)
    if "superslots" in title:
        assert made.settings.processors_per_superslot == 8
        assert max(one.max_processors for one in made.machinetypes) == 8
    elif "APEL" in title:
        assert made.site and made.settings.hs06_per_processor
    else:
        assert (made.benchmark, len(made.vacmon)) == ("hepscore23", 2)


def test_the_guide_is_found() -> None:
    for page in ("docs/factory.md", "roles/vacuum_factory/README.md", "roles/vacuum_factory/meta/argument_specs.yml"):
        assert "factory-options.md" in (ROOT / page).read_text(), page


def test_its_links_lead_somewhere() -> None:
    for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", GUIDE):
        page = ROOT / "docs" / (file or "factory-options.md")
        assert page.exists(), file
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in titles}, anchor
